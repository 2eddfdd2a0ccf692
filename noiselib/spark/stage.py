"""Stage: the noised rows are written once, to a place no reader looks at; all that follows reads that.

In the same pass the noise law is tested (`DataFrame.observe`). What was counted is compared and forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from noiselib.law_tests import SAMPLE_ROWS, LawTest, law_tests, verdicts
from noiselib.plan import ColumnPlan, Plan, digest
from noiselib.publish import Target
from noiselib.release import Release
from noiselib.snapshot import NULL_PARTITION, verify_unchanged
from noiselib.spark import columns as c
from noiselib.spark.perturb import Inspection, Job, noised_rows, published_columns

COUNT_BITS = 20  # of one count packed into a sum; see SAMPLE_ROWS
COUNTS_PER_SUM = 3


def stage(spark: SparkSession, job: Job, target: Target, inspections: dict[str, Inspection]) -> None:
    """Write the job's releases to staging, each with the verdicts on its noise. Raises InputError if the source changed."""
    scratch = target.scratch(digest([release.id for release in job.releases])[:16])
    try:
        _write_and_stage(spark, job, target, inspections, scratch)
    finally:
        target.clear(scratch)  # noised rows that are not staged are not left behind


def _write_and_stage(
    spark: SparkSession, job: Job, target: Target, inspections: dict[str, Inspection], scratch: Path
) -> None:
    law = LawObservation(job)
    published = law.attach(noised_rows(spark, job)).select(*[c.quoted(name) for name, _ in job.plan.published])
    writer = published.write.mode("errorifexists")
    partition_by = job.table.partition_by
    (writer.partitionBy(*partition_by) if partition_by else writer).parquet(str(scratch / "table"))
    found = law.verdicts()
    verify_unchanged(job.table, [release.partition for release in job.releases])
    written = _written(scratch / "table", len(partition_by))
    for release in job.releases:
        place = written.get(release.partition_text)
        if place is None:
            place = _write_empty(published, scratch / "empty", release)
        target.stage(release, place, {"release_id": release.id, "law": found, **asdict(inspections[release.id])})


class LawObservation:
    """The law tests of one job, counted while its rows pass by, on what is published against the clipped true values.

    Each count costs every row, so large jobs are sampled; that all values were clipped is seen on every row.
    """

    def __init__(self, job: Job) -> None:
        self.tests = law_tests(job.plan, len(job.releases))
        self._observation = Observation()
        self._job = job

    def attach(self, frame: DataFrame) -> DataFrame:
        """The published columns (and lattice points) of noised rows, with the counts of every test taken on the way."""
        plan, rows = self._job.plan, sum(release.rows_expected for release in self._job.releases)
        points = [c.quoted(f"__x_{column.name}") for column in plan.noised]
        points += [c.quoted(f"__y_{column.name}") for column in plan.noised if column.type == "float"]
        sampled = F.lit(True) if rows <= SAMPLE_ROWS else F.rand(0) < SAMPLE_ROWS / rows
        published = frame.select(*published_columns(self._job), *points, sampled.alias("__sampled"))
        names = [c.quoted(name) for name, _ in plan.published]
        # computed in the projection, where Spark compiles it with the rest; the observation only adds up
        counted = published.select(*names, *self._packed_counts(), _unclipped(plan.noised).alias("__unclipped"))
        sums = [F.sum(name).alias(name) for name in counted.columns if name.startswith("__counts")]
        return counted.observe(self._observation, F.max("__unclipped").alias("unclipped"), *sums)

    def _conditions(self) -> dict[object, Column]:
        """What is counted: per test the rows for which it holds, and per set of columns the rows that have values in them."""
        plan = self._job.plan
        conditions: dict[object, Column] = {test: _condition(test, plan) for test in self.tests}
        return conditions | {_nullable(test, plan): _have_values(_nullable(test, plan), plan) for test in self.tests}

    def _packed_counts(self) -> list[Column]:
        """The counts, three to a sum: each sum costs every row, and a sampled count stays far below 2^20."""
        sums, conditions = [], list(self._conditions().values())
        for first in range(0, len(conditions), COUNTS_PER_SUM):
            packed = F.lit(0).cast("bigint")
            for place, condition in enumerate(conditions[first : first + COUNTS_PER_SUM]):
                one = F.lit(1 << (COUNT_BITS * place)).cast("bigint")
                packed = packed + F.when(condition, one).otherwise(F.lit(0).cast("bigint"))
            sampled = F.when(F.col("__sampled"), packed).otherwise(F.lit(0).cast("bigint"))
            sums.append(sampled.alias(f"__counts_{first // COUNTS_PER_SUM}"))
        return sums

    def verdicts(self) -> list[dict[str, Any]]:
        """After the frame's action: the verdicts. The counts are dropped here: with them true sums would follow."""
        counted, found = self._observation.get, {}
        for index, what in enumerate(self._conditions()):
            packed = counted[f"__counts_{index // COUNTS_PER_SUM}"] or 0
            found[what] = (packed >> (COUNT_BITS * (index % COUNTS_PER_SUM))) & (2**COUNT_BITS - 1)
        clipped = {"check": "clipped", "column": None, "severity": "error", "success": not counted["unclipped"]}
        rows = [found[_nullable(test, self._job.plan)] for test in self.tests]
        return [clipped, *verdicts(self.tests, [found[test] for test in self.tests], rows)]


def _unclipped(columns: Sequence[ColumnPlan]) -> Column:
    """Whether any lattice point lies beyond its column's bounds when the noise is drawn."""
    found = F.lit(False)
    for column in columns:
        if column.lattice is not None:
            found = found | ~F.col(c.quoted(f"__x_{column.name}")).between(column.lattice.lower, column.lattice.upper)
    return found


def _nullable(test: LawTest, plan: Plan) -> tuple[str, ...]:
    """Those of the test's columns that may be published without a value: such rows take no part."""
    return tuple(name for name in test.columns if c.nullable(plan.column(name)))


def _have_values(names: Sequence[str], plan: Plan) -> Column:
    found = F.lit(True)
    for name in names:
        found = found & c.published_point(plan.column(name)).isNotNull()
    return found


def _condition(test: LawTest, plan: Plan) -> Column:
    noise = _noise(plan.column(test.column))
    if test.what == "within":
        return noise.between(-test.threshold, test.threshold)
    if test.what == "positive":
        return noise > 0
    if test.what == "same":
        return noise == 0
    if test.what == "near":
        return F.pmod(noise, F.lit(test.threshold)) < test.threshold // 2
    assert test.what == "agree"
    assert test.other is not None
    return (noise > 0) == (_noise(plan.column(test.other)) > 0)


def _noise(column: ColumnPlan) -> Column:
    """What was added, in steps: the published value's lattice point less the true one's.

    Of a float, which may be coarser than its lattice and round small noise to none, the point before that rounding.
    """
    point = c.published_point(column)
    if column.type == "float":
        point = F.when(point.isNotNull(), F.col(c.quoted(f"__y_{column.name}")))
    return point - F.col(c.quoted(f"__x_{column.name}"))


def _written(scratch: Path, depth: int) -> dict[str, Path]:
    """Spark's partition directories by partition; the scratch directory itself for a table without partitions."""
    if depth == 0:
        return {"": scratch}
    places = scratch.glob("/".join(["*=*"] * depth))
    return {unquote(str(place.relative_to(scratch))): place for place in places}


def _write_empty(published: DataFrame, scratch: Path, release: Release) -> Path:
    """A release without rows is one file without rows: readers still see its columns."""
    names = [name for name, _ in release.partition]
    values = [(name, NULL_PARTITION if value is None else str(value)) for name, value in release.partition]
    place = scratch.joinpath(*[f"{name}={quote(value, safe='')}" for name, value in values])
    empty = published.sparkSession.createDataFrame([], published.drop(*names).schema)
    empty.coalesce(1).write.mode("overwrite").parquet(str(place))
    return place
