"""Verify: derive every published value again from snapshot and key, and compare bit for bit with what is published."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from noiselib.errors import NoiselibError
from noiselib.plan import Plan
from noiselib.release import Release
from noiselib.spark import columns as c
from noiselib.spark.path import Run
from noiselib.spark.perturb import Job, noised_rows, published_columns
from noiselib.spark.tables import read_files, table_schema

SHOWN = 20


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
    differences: list[Difference] = []
    for release in chosen:
        if run.target.manifest(release.id) is None:
            raise NoiselibError(
                f"release {release.id[:12]} ({release.partition_text or 'whole table'}) of {run.spec.pipeline}: not published for the "
                f"snapshot that {run.table.path} holds now, with key {release.key_id}"
            )
        differences += _differences(run, spark, release)
    return {
        "success": not differences,
        "releases": [{"release_id": r.id, "partition": r.partition_text} for r in chosen],
        "differences": [vars(difference) for difference in differences],
    }


def _differences(run: Run, spark: SparkSession, release: Release) -> Iterator[Difference]:
    job = Job(run.plan, run.table, (release,), run.spec.key)
    derived = noised_rows(spark, job).select(*published_columns(job))
    published = _published(run, spark, release)
    names = [name for name, _ in run.plan.published]
    if set(run.spec.row_key) <= set(names):
        yield from _by_key(derived, published, run.plan, release)
        return
    for what, extra in (("published but not derived", _minus(published, derived, run.plan)),
                        ("derived but not published", _minus(derived, published, run.plan))):  # fmt: skip
        count = extra.count()
        if count:
            yield Difference(release.partition_text, f"{count} rows {what} (the row key is not published)", ())


def _published(run: Run, spark: SparkSession, release: Release) -> DataFrame:
    current = run.target.current()
    assert current is not None
    place = current / release.partition_text
    files = sorted(str(file) for file in place.glob("*.parquet"))
    if not files:
        raise NoiselibError(f"release {release.id[:12]}: published directory {place} holds no Parquet file")
    schema = table_schema(spark, files[0], run.plan.partition_types)
    return read_files(spark, schema, str(current), files)


def _by_key(derived: DataFrame, published: DataFrame, plan: Plan, release: Release) -> Iterator[Difference]:
    names = [name for name, _ in plan.published]
    keys = plan.spec.row_key
    left = derived.select(F.struct(*map(c.quoted, names)).alias("derived"), *map(c.quoted, keys))
    right = published.select(F.struct(*map(c.quoted, names)).alias("published"), *map(c.quoted, keys))
    joined = left.join(right, keys, "full_outer")
    differing = F.array_compact(F.array(*[
        F.when(~_same(F.col(f"derived.{c.quoted(name)}"), F.col(f"published.{c.quoted(name)}"), kind), F.lit(name))
        for name, kind in plan.published
    ]))  # fmt: skip
    found = joined.withColumn("differing", differing).filter(
        F.col("derived").isNull() | F.col("published").isNull() | (F.size("differing") > 0)
    )
    text = F.concat_ws(", ", *[F.concat(F.lit(f"{key}="), F.col(c.quoted(key)).cast("string")) for key in keys])
    rows = found.select(
        text.alias("row"),
        "differing",
        F.col("derived").isNull().alias("extra"),
        F.col("published").isNull().alias("missing"),
    )
    for row in rows.orderBy("row").limit(SHOWN).collect():
        what = " (published, not derived)" if row["extra"] else " (derived, not published)" if row["missing"] else ""
        yield Difference(release.partition_text, row["row"] + what, tuple(row["differing"]) if not what else ())


def _minus(first: DataFrame, second: DataFrame, plan: Plan) -> DataFrame:
    """Rows of `first` beyond those of `second`, as multisets, by their bits."""
    bits = [_bits(F.col(c.quoted(name)), kind).alias(name) for name, kind in plan.published]
    return first.select(*bits).exceptAll(second.select(*bits))


def _same(first: Column, second: Column, kind: str) -> Column:
    return _bits(first, kind).eqNullSafe(_bits(second, kind))


def _bits(value: Column, kind: str) -> Column:
    """A float as text, which tells -0.0 from 0.0 and is exact for every other number; other types as they are."""
    return value.cast("string") if kind in ("float", "double") else value
