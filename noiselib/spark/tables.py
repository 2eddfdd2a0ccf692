"""Reading tables into Spark: exactly the files named, the partition columns with the types we gave them.

Spark is given absolute paths only: a relative one it would look up where its JVM was started, not where we are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql import types as T

from noiselib.snapshot import DataFile, Partition, TableMetadata
from noiselib.spark.keys import quoted

BATCH_ROWS, BATCH_BYTES = 4096, 16 << 20  # that Spark decodes at once, at most
PARTITION_TYPES = {
    "int8": T.ByteType(), "int16": T.ShortType(), "int32": T.IntegerType(), "int64": T.LongType(),
    "string": T.StringType(), "boolean": T.BooleanType(), "date": T.DateType(),
}  # fmt: skip
KINDS = {"tinyint": "int8", "smallint": "int16", "int": "int32", "bigint": "int64"}
ORDINAL = "__ordinal"  # of a row's release, among those of one job
PLACE = "__place"


def table_schema(spark: SparkSession, file: str, partition_types: Sequence[tuple[str, str]]) -> T.StructType:
    """The columns of a Parquet file of the table, then the partition columns. Reads one footer."""
    fields = spark.read.parquet(_absolute(file)).schema.fields
    return T.StructType([*fields, *(T.StructField(name, PARTITION_TYPES[kind]) for name, kind in partition_types)])


def kind_of(spark_type: str) -> str:
    """A column's type with the name that plans give it."""
    return KINDS.get(spark_type, spark_type)


def types_of(schema: T.StructType) -> dict[str, str]:
    """The columns and their types, as plans name them."""
    return {field.name: kind_of(field.dataType.simpleString()) for field in schema}


def read_files(spark: SparkSession, schema: T.StructType, root: str, files: Sequence[str]) -> DataFrame:
    """The rows of `files`, which lie below `root`. A file is read as it is listed, no directory is looked into."""
    if not files:
        return spark.createDataFrame([], schema)
    _bound_batches(spark, files)
    reader = spark.read.schema(schema)
    if files != [root]:
        reader = reader.option("basePath", _absolute(root))
    return reader.parquet(*map(_absolute, files))


def read_listed(spark: SparkSession, table: TableMetadata, releases: Sequence[Sequence[DataFile]]) -> DataFrame:
    """The rows of the releases' files with partition values from the table's own metadata, and the release's ordinal.

    Neither a file's place nor its columns are asked for partition values. Row: one of the files.
    """
    types = dict(table.schema)
    held = [field for field in table_schema(spark, table.files[0].path, []) if field.name not in table.partition_by]
    paths = [file.path for files in releases for file in files]
    _bound_batches(spark, paths)
    frame = spark.read.schema(T.StructType(held)).parquet(*map(_absolute, paths))
    place = F.regexp_replace(frame.metadataColumn("_metadata")["file_path"], "^file:/+", "/")
    places = {unquote(uri): uri for uri in (re.sub("^file:/+", "/", uri) for uri in frame.inputFiles())}
    rows = [
        (places[file.path], ordinal, *texts_of(file.partition))
        for ordinal, files in enumerate(releases)
        for file in files
    ]
    texts = [T.StructField(name, T.StringType()) for name in table.partition_by]
    columns = [T.StructField(PLACE, T.StringType()), T.StructField(ORDINAL, T.LongType()), *texts]
    known = spark.createDataFrame(rows, T.StructType(columns))
    known = known.withColumns(
        {name: F.col(quoted(name)).cast(PARTITION_TYPES[types[name]]) for name in table.partition_by}
    )
    joined = frame.withColumn(PLACE, place).join(F.broadcast(known), PLACE, "left")
    lost = F.raise_error(F.lit("a row of no listed file")).cast("bigint")  # never left out, unseen
    return joined.withColumn(ORDINAL, F.coalesce(ORDINAL, lost)).drop(PLACE)


def texts_of(partition: Partition) -> Iterator[str | None]:
    """The values as texts, which Spark casts to each column's type."""
    return (None if value is None else str(value) for _, value in partition)


def read_directory(spark: SparkSession, root: Path, partition_types: Sequence[tuple[str, str]]) -> DataFrame:
    """The table that lies at `root`: staged or published data of ours. Raises FileNotFoundError if it has no file."""
    files = data_files(root, root)
    if not files:
        raise FileNotFoundError(str(root))
    return read_files(spark, table_schema(spark, files[0], partition_types), str(root), files)


def _bound_batches(spark: SparkSession, files: Sequence[str]) -> None:
    """Spark decodes so many rows at once, however long they are: with values of 1 MB its default is gigabytes."""
    spark.conf.set("spark.sql.parquet.columnarReaderBatchSize", max(1, min(rows_in_batch(files), BATCH_ROWS)))


def rows_in_batch(files: Sequence[str]) -> int:
    """How many rows of the files come to BATCH_BYTES, going by the largest file."""
    footer = pq.read_metadata(max(map(_absolute, files), key=os.path.getsize))
    size = sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups))
    return int(BATCH_BYTES * footer.num_rows // max(size, 1))


def _absolute(path: str) -> str:
    return os.path.abspath(path.removeprefix("file://"))


def data_files(place: Path, root: Path) -> list[str]:
    """The files at or below `place` that readers of the table at `root` take for data: no part of their path is hidden."""
    files = (file for file in place.rglob("*") if file.is_file())
    return sorted(str(f) for f in files if not any(part.startswith(("_", ".")) for part in f.relative_to(root).parts))
