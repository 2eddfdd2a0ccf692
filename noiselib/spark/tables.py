"""Reading tables into Spark: exactly the files named, the partition columns with the types we gave them.

Spark is given absolute paths only: a relative one it would look up where its JVM was started, not where we are.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import types as T

BATCH_ROWS, BATCH_BYTES = 4096, 16 << 20  # that Spark decodes at once, at most
PARTITION_TYPES = {"int32": T.IntegerType(), "int64": T.LongType(), "string": T.StringType()}


def table_schema(spark: SparkSession, file: str, partition_types: Sequence[tuple[str, str]]) -> T.StructType:
    """The columns of a Parquet file of the table, then the partition columns. Reads one footer."""
    fields = spark.read.parquet(_absolute(file)).schema.fields
    return T.StructType([*fields, *(T.StructField(name, PARTITION_TYPES[kind]) for name, kind in partition_types)])


def read_files(spark: SparkSession, schema: T.StructType, root: str, files: Sequence[str]) -> DataFrame:
    """The rows of `files`, which lie below `root`. A file is read as it is listed, no directory is looked into."""
    if not files:
        return spark.createDataFrame([], schema)
    _bound_batches(spark, files)
    reader = spark.read.schema(schema)
    if files != [root]:
        reader = reader.option("basePath", _absolute(root))
    return reader.parquet(*map(_absolute, files))


def read_directory(spark: SparkSession, root: Path, partition_types: Sequence[tuple[str, str]]) -> DataFrame:
    """The table that lies at `root`: staged or published data of ours. Raises FileNotFoundError if it has no file."""
    files = data_files(root, root)
    if not files:
        raise FileNotFoundError(str(root))
    return read_files(spark, table_schema(spark, files[0], partition_types), str(root), files)


def _bound_batches(spark: SparkSession, files: Sequence[str]) -> None:
    """Spark decodes so many rows at once, however long they are: with values of 1 MB its default is gigabytes."""
    footer = pq.read_metadata(max(map(_absolute, files), key=os.path.getsize))
    size = sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups))
    rows = BATCH_BYTES * footer.num_rows // max(size, 1)
    spark.conf.set("spark.sql.parquet.columnarReaderBatchSize", max(1, min(rows, BATCH_ROWS)))


def _absolute(path: str) -> str:
    return os.path.abspath(path.removeprefix("file://"))


def data_files(place: Path, root: Path) -> list[str]:
    """The files at or below `place` that readers of the table at `root` take for data: no part of their path is hidden."""
    files = (file for file in place.rglob("*") if file.is_file())
    return sorted(str(f) for f in files if not any(part.startswith(("_", ".")) for part in f.relative_to(root).parts))
