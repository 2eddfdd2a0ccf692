"""Spark's catalog: where a table lies that is known by its name, and the published table under a name of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.types import StructType

from noiselib.errors import InputError, NoiselibError
from noiselib.snapshot import Catalogued
from noiselib.spark.keys import quoted
from noiselib.spark.tables import kind_of, types_of
from noiselib.targets import Target

KEEPS_PARTITIONS = "spark.sql.hive.manageFilesourcePartitions"


def find_table(spark: SparkSession, name: str) -> Catalogued:
    """What the catalog says of the table `name` ([CATALOG.]DATABASE.TABLE). Raises InputError for what is no Parquet table."""
    full = _full(name)
    try:
        if not spark.catalog.tableExists(full):
            raise InputError(
                f"source {name}: not in Spark's catalog; expected CATALOG.DATABASE.TABLE, its settings by --spark-conf"
            )
        told = _described(spark, full)
    except PySparkException as error:
        raise InputError(f"source {name}: cannot be found in Spark's catalog ({error.getCondition()})") from None
    provider = told.get("provider") or told["type"]
    if provider != "parquet":
        advice = "by its path, with format: delta" if provider == "delta" else "as a table of provider parquet"
        raise InputError(
            f"source {name}: is of provider {provider} ({told.get('location', 'no location')}); expected it {advice}"
        )
    by = tuple(told.get("partition_columns", ()))
    columns = tuple((column["name"], _kind(column["type"])) for column in told["columns"])
    return Catalogued(name, _path(name, told["location"]), columns, by, _partitions(spark, full, told) if by else None)


def prove_name(spark: SparkSession, target: Target, columns: Mapping[str, str], name: str) -> None:
    """Raises NoiselibError where `name` cannot become, or is not, the published table's: before anything is spent.

    `columns`: those that are published, with their types.
    """
    full = _full(name)
    try:
        if not spark.catalog.tableExists(full):
            spark.sql(f"SHOW TABLES IN {full.rpartition('.')[0]}")
            return
        told = _described(spark, full)
    except PySparkException as error:
        raise _unregistered(target, name, error) from None
    place = _place(str(told.get("location")))
    if place != str(target.path) or told.get("partition_provider") == "Catalog":
        raise NoiselibError(
            f"target table {name}: is another's, at {place}; expected a name of its own in Spark's catalog"
        )
    known = {column.name: kind_of(column.dataType) for column in spark.catalog.listColumns(full)}
    for column in sorted(known.keys() | columns.keys()):
        if known.get(column) != columns.get(column):
            raise NoiselibError(
                f"target table {name}: column {column!r} is {known.get(column, 'not')} there; expected "
                f"{columns.get(column, 'none')}, as in the release. "
                "Drop the table (its files stay, and the next run registers it anew), or name another"
            )


def register(spark: SparkSession, target: Target, columns: StructType, partition_by: Sequence[str], name: str) -> None:
    """Let the catalog's `name` be the published table, where it is not yet.

    The catalog is told the link, and no partition: Spark then lists them when it reads, so that what the link shows is all
    that is published, and publishing stays the one step that it is.
    """
    full = _full(name)
    prove_name(spark, target, types_of(columns), name)
    if spark.catalog.tableExists(full):
        spark.catalog.refreshTable(full)
        return
    by = f"PARTITIONED BY ({', '.join(map(quoted, partition_by))})" if partition_by else ""
    ddl = spark.createDataFrame([], columns)._jdf.schema().toDDL()
    known = spark.conf.get(KEEPS_PARTITIONS)
    spark.conf.set(KEEPS_PARTITIONS, "false")
    try:
        spark.sql(f"CREATE TABLE {full} ({ddl}) USING parquet {by} LOCATION '{_escaped(str(target.path))}'")
    except PySparkException as error:
        raise _unregistered(target, name, error) from None
    finally:
        spark.conf.set(KEEPS_PARTITIONS, str(known))


def _unregistered(target: Target, name: str, error: PySparkException) -> NoiselibError:
    return NoiselibError(
        f"target table {name}: cannot be registered in Spark's catalog for {target} ({error.getCondition()}); expected "
        "[CATALOG.]DATABASE.TABLE in a database that is there"
    )


def _full(name: str) -> str:
    return ".".join(map(quoted, name.split(".")))


def _described(spark: SparkSession, full: str) -> dict[str, Any]:
    return dict(json.loads(spark.sql(f"DESCRIBE TABLE EXTENDED {full} AS JSON").head()[0]))  # type: ignore[index]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "\\'")


def _place(location: str) -> str:
    return unquote(re.sub("^file:/+", "/", location))


def _path(name: str, location: str) -> str:
    path = _place(location)
    if not path.startswith("/"):
        raise InputError(f"source {name}: {location}: expected files on a local or mounted file system")
    return path


def _kind(told: dict[str, Any]) -> str:
    """A column's type with the name this tool gives it."""
    kind = str(told["name"])
    if kind == "array":
        return f"array<{_kind(told['element_type'])}>"
    if kind == "decimal":
        return f"decimal({told['precision']},{told['scale']})"
    return "timestamp" if kind == "timestamp_ltz" else kind_of(kind)


def _partitions(spark: SparkSession, full: str, told: dict[str, Any]) -> frozenset[str] | None:
    """The partitions that the catalog knows, if it keeps them; else Spark looks into the directory, as we do."""
    if told.get("partition_provider") != "Catalog":
        return None
    return frozenset(unquote(row[0]) for row in spark.sql(f"SHOW PARTITIONS {full}").collect())
