"""Stage: the noised rows are written once, to a place no reader looks at; all that follows reads that.

In the same pass the noise law is tested (`DataFrame.observe`). What was counted is compared and forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from pyspark.sql import Column, DataFrame, Observation, SparkSession
from pyspark.sql import functions as F

from noiselib.law_tests import LawTest, law_tests, verdicts
from noiselib.mechanisms import RandomizedResponse
from noiselib.plan import ColumnPlan, digest
from noiselib.publish import Target
from noiselib.release import Release
from noiselib.snapshot import verify_unchanged
from noiselib.spark import columns as c
from noiselib.spark.perturb import Inspection, Job, noised_rows, published_columns


def stage(spark: SparkSession, job: Job, target: Target, inspections: dict[str, Inspection]) -> None:
    """Write the job's releases to staging, each with the verdicts on its noise. Raises InputError if the source changed."""
    scratch = target.scratch(digest([release.id for release in job.releases])[:16])
    frame, observed = observe_law(noised_rows(spark, job), job)
    published = frame.select(*published_columns(job))
    writer = published.write.mode("errorifexists")
    partition_by = job.table.partition_by
    (writer.partitionBy(*partition_by) if partition_by else writer).parquet(str(scratch))
    found = observed.verdicts()
    verify_unchanged(job.table, [release.partition for release in job.releases])
    written = _written(scratch, len(partition_by))
    for release in job.releases:
        place = written.get(release.partition_text)
        if place is None:
            place = _write_empty(published, scratch, release)
        target.stage(release, place, {"release_id": release.id, "law": found, **asdict(inspections[release.id])})


class LawObservation:
    """The law tests of one job, counted while its rows pass by."""

    def __init__(self, job: Job) -> None:
        self.tests = law_tests(job.plan, len(job.releases))
        self._observation = Observation()
        self._job = job

    def attach(self, frame: DataFrame) -> DataFrame:
        """The frame, with the counts of every test taken from its rows."""
        plan = self._job.plan
        counts = [F.lit(0).cast("bigint").alias("none")] if not self.tests else []
        for index, test in enumerate(self.tests):
            column = plan.column(test.column)
            took_part = ~c.unpublished(column)
            if test.other is not None:
                took_part = took_part & ~c.unpublished(plan.column(test.other))
            held = F.coalesce(_condition(test, column), F.lit(False))
            counts.append(F.count_if(took_part & held).alias(f"count {index}"))
            counts.append(F.count_if(took_part).alias(f"rows {index}"))
        return frame.observe(self._observation, *counts) if self.tests else frame

    def verdicts(self) -> list[dict[str, Any]]:
        """After the frame's action: the verdicts. The counts are dropped here: with them true sums would follow."""
        if not self.tests:
            return []
        counted = self._observation.get
        numbers = range(len(self.tests))
        return verdicts(self.tests, [counted[f"count {i}"] for i in numbers], [counted[f"rows {i}"] for i in numbers])


def observe_law(frame: DataFrame, job: Job) -> tuple[DataFrame, LawObservation]:
    observation = LawObservation(job)
    return observation.attach(frame), observation


def _condition(test: LawTest, column: ColumnPlan) -> Column:
    noise = _noise(test.column)
    if test.what == "within":
        return F.abs(noise) <= test.threshold
    if test.what == "positive":
        return noise > 0
    if test.what == "same":
        return noise == 0
    if test.what == "agree":
        assert test.other is not None
        return (noise > 0) == (_noise(test.other) > 0)
    assert (
        test.what == "outside" and not isinstance(column.mechanism, RandomizedResponse) and column.lattice is not None
    )
    point = F.col(c.quoted(f"__x_{test.column}"))
    return ~point.between(column.lattice.lower, column.lattice.upper)


def _noise(name: str) -> Column:
    return F.col(c.quoted(f"__y_{name}")) - F.col(c.quoted(f"__x_{name}"))


def _written(scratch: Path, depth: int) -> dict[str, Path]:
    """Spark's partition directories by partition; the scratch directory itself for a table without partitions."""
    if depth == 0:
        return {"": scratch}
    places = scratch.glob("/".join(["*=*"] * depth))
    return {unquote(str(place.relative_to(scratch))): place for place in places}


def _write_empty(published: DataFrame, scratch: Path, release: Release) -> Path:
    """A release without rows is one file without rows: readers still see its columns."""
    place = scratch.parent / f"{scratch.name}-empty" / release.partition_text
    names = [name for name, _ in release.partition]
    empty = published.sparkSession.createDataFrame([], published.drop(*names).schema)
    empty.coalesce(1).write.mode("overwrite").parquet(str(place))
    return place


def staged_releases(target: Target, releases: Sequence[Release]) -> list[Release]:
    """Those of `releases` that are staged whole."""
    return [release for release in releases if target.staged(release.id) is not None]
