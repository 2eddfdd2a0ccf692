"""Verify: derive every published value again from snapshot and key, and compare bit for bit with what is published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from noiselib.errors import NoiselibError
from noiselib.plan import Plan
from noiselib.release import Release
from noiselib.snapshot import NULL_PARTITION, verify_unchanged
from noiselib.spark.causes import cause
from noiselib.spark.keys import quoted
from noiselib.spark.perturb import Job, noised_rows, published_columns
from noiselib.spark.run import Run
from noiselib.spark.tables import read_files, table_schema

SHOWN = 20
COPY = "__copy"
PARTITION = "__partition"


@dataclass(frozen=True)
class Difference:
    """`row`: the published row key, or a description where the key is not published whole."""

    partition: str
    row: str
    columns: tuple[str, ...]


def verify(run: Run, spark: SparkSession, release_id: str | None = None) -> dict[str, object]:
    """Compare what is published with what follows from snapshot and key: {"success", "releases", "differences"}.

    Raises NoiselibError for a release that is not published for the snapshot at hand.
    """
    chosen = [r for r in run.releases if release_id is None or r.id.startswith(release_id)]
    if not chosen:
        raise NoiselibError(
            f"release {release_id}: not a release of {run.spec.pipeline} for the snapshot that {run.table.path} holds now"
        )
    differences = _not_in_source(run) if release_id is None and len(chosen) == len(run.table.partitions) else []
    for release in chosen:
        if run.target.manifest(release.id) is None:
            raise NoiselibError(
                f"release {release.id[:12]} ({release.partition_text or 'whole table'}) of {run.spec.pipeline}: "
                f"not published for the snapshot that {run.table.path} holds now, with key {release.key_id}"
            )
    try:
        differences += _differences(run, spark, chosen)
    except Exception as error:
        found = cause(error, run.table, [release.partition for release in chosen], run.target)
        raise found from (error if found is error else None)
    verify_unchanged(run.table, [release.partition for release in chosen])
    return {
        "success": not differences,
        "releases": [{"release_id": r.id, "partition": r.partition_text} for r in chosen],
        "differences": [vars(difference) for difference in differences],
    }


def _not_in_source(run: Run) -> list[Difference]:
    """Published partitions that the source does not have: nothing can confirm them."""
    if not run.spec.source.partition_by:
        return []
    known = {release.partition_text for release in run.releases}
    found = sorted(run.target.readable())
    return [Difference(name, "published, not in the source", ()) for name in found if name not in known]


def _differences(run: Run, spark: SparkSession, releases: list[Release]) -> Iterator[Difference]:
    job = Job(run.plan, run.table, tuple(releases), run.spec.key)
    derived = noised_rows(spark, job).select(*published_columns(job))
    published = _published(run, spark, releases)
    if run.plan.row_key_published:
        yield from _by_key(derived, published, run.plan)
        return
    for what, extra in (("published but not derived", _minus(published, derived, run.plan)),
                        ("derived but not published", _minus(derived, published, run.plan))):  # fmt: skip
        for row in extra.groupBy(_partition_text(run.plan).alias("partition")).count().orderBy("partition").collect():
            yield Difference(row["partition"], f"{row['count']} rows {what} (the row key is not published)", ())


def _published(run: Run, spark: SparkSession, releases: list[Release]) -> DataFrame:
    readable = run.target.readable()
    chosen = sorted({release.partition_text for release in releases})
    files = [file for partition in chosen for file in readable.get(partition, ())]
    if not files:
        raise NoiselibError(f"target {run.target}: holds no Parquet file of {', '.join(chosen)}")
    schema = table_schema(spark, files[0], run.plan.partition_types)
    return read_files(spark, schema, str(run.target.path), files)


def _by_key(derived: DataFrame, published: DataFrame, plan: Plan) -> Iterator[Difference]:
    names = [name for name, _ in plan.published]
    keys = [F.col(quoted(name)) for name in plan.published_key]
    keys.append(_partition_text(plan).alias(PARTITION))
    left = derived.select(F.struct(*map(quoted, names)).alias("derived"), *keys, F.lit(1).alias(COPY))
    right = published.select(F.struct(*map(quoted, names)).alias("published"), *keys)
    # a row that is published twice has no second one to be compared with
    by = [*map(quoted, plan.published_key), PARTITION]
    right = right.withColumn(COPY, F.row_number().over(Window.partitionBy(*by).orderBy(PARTITION)))
    joined = left.join(right, [*plan.published_key, PARTITION, COPY], "full_outer")
    differing = F.array_compact(F.array(*[
        F.when(~_same(F.col(f"derived.{quoted(name)}"), F.col(f"published.{quoted(name)}"), kind), F.lit(name))
        for name, kind in plan.published
    ]))  # fmt: skip
    found = joined.withColumn("differing", differing).filter(
        F.col("derived").isNull() | F.col("published").isNull() | (F.size("differing") > 0)
    )
    text = F.concat_ws(", ", *[_named(name) for name in plan.published_key])
    rows = found.select(
        F.col(PARTITION).alias("partition"),
        text.alias("row"),
        "differing",
        F.col("derived").isNull().alias("extra"),
        F.col("published").isNull().alias("missing"),
    )
    shown = rows.orderBy("partition", "row").limit(SHOWN).collect()
    for row in shown:
        what = " (published, not derived)" if row["extra"] else " (derived, not published)" if row["missing"] else ""
        yield Difference(row["partition"], row["row"] + what, tuple(row["differing"]) if not what else ())
    if len(shown) == SHOWN and (more := found.count() - SHOWN):
        yield Difference("", f"and {more} rows more", ())


def _partition_text(plan: Plan) -> Column:
    """As a release's `partition_text`; empty for a table without partitions."""
    parts = [
        F.concat(F.lit(f"{name}="), F.coalesce(F.col(quoted(name)).cast("string"), F.lit(NULL_PARTITION)))
        for name in plan.spec.source.partition_by
    ]
    return F.concat_ws("/", *parts) if parts else F.lit("")


def _named(name: str) -> Column:
    return F.concat(F.lit(f"{name}="), F.col(quoted(name)).cast("string"))


def _minus(first: DataFrame, second: DataFrame, plan: Plan) -> DataFrame:
    """Rows of `first` beyond those of `second`, as multisets, by their bits."""
    bits = [_bits(F.col(quoted(name)), kind).alias(name) for name, kind in plan.published]
    return first.select(*bits).exceptAll(second.select(*bits))


def _same(first: Column, second: Column, kind: str) -> Column:
    return _bits(first, kind).eqNullSafe(_bits(second, kind))


def _bits(value: Column, kind: str) -> Column:
    """A float as text, which tells -0.0 from 0.0 and is exact for every other number; other types as they are."""
    return value.cast("string") if kind in ("float", "double") else value
