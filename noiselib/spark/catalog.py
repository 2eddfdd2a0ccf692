"""Spark's catalog: where a table lies that is known by its name."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import unquote

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from noiselib.errors import InputError
from noiselib.snapshot import Catalogued
from noiselib.spark.keys import quoted

KINDS = {"tinyint": "int8", "smallint": "int16", "int": "int32", "bigint": "int64", "timestamp_ltz": "timestamp"}


def find_table(spark: SparkSession, name: str) -> Catalogued:
    """What the catalog says of the table `name` ([CATALOG.]DATABASE.TABLE). Raises InputError for what is no Parquet table."""
    full = ".".join(map(quoted, name.split(".")))
    try:
        if not spark.catalog.tableExists(full):
            raise InputError(
                f"source {name}: not in Spark's catalog; expected CATALOG.DATABASE.TABLE, its settings by --spark-conf"
            )
        told = json.loads(spark.sql(f"DESCRIBE TABLE EXTENDED {full} AS JSON").head()[0])  # type: ignore[index]
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


def _path(name: str, location: str) -> str:
    path = unquote(re.sub("^file:/+", "/", location))
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
    return KINDS.get(kind, kind)


def _partitions(spark: SparkSession, full: str, told: dict[str, Any]) -> frozenset[str] | None:
    """The partitions that the catalog knows, if it keeps them; else Spark looks into the directory, as we do."""
    if told.get("partition_provider") != "Catalog":
        return None
    return frozenset(unquote(row[0]) for row in spark.sql(f"SHOW PARTITIONS {full}").collect())
