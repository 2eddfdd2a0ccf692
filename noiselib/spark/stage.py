"""Stage: the noised rows are written once, to a place no reader looks at; all that follows reads that.

In the same pass the noise law is tested (`DataFrame.observe`). What was counted is compared and forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote, unquote

from pyspark.sql import DataFrame, SparkSession

from noiselib.failpoint import failpoint
from noiselib.plan import digest
from noiselib.release import Release
from noiselib.snapshot import NULL_PARTITION, verify_unchanged
from noiselib.spark.keys import quoted
from noiselib.spark.law import LawObservation
from noiselib.spark.perturb import Inspection, Job, noised_rows
from noiselib.spark.tables import rows_in_batch
from noiselib.targets import Target

# Parquet's writer looks at the size of its pages every hundred rows at least: with values of 1 MB, that many times the memory.
PAGES = {"parquet.page.size.row.check.min": "4", "parquet.block.size.row.check.min": "4"}
# Its readers hold the bytes of a whole group of rows, 128 MB if nothing is said: fewer for such values.
GROUPS = {"parquet.block.size": str(32 << 20)}
LONG = 64  # of rows that long, fewer make a batch


def stage(
    spark: SparkSession, job: Job, target: Target, inspections: dict[str, Inspection], still_held: Callable[[], None]
) -> None:
    """Write the job's releases to staging, each with the verdicts on its noise.

    still_held: raises if the releases are no longer this run's; asked before any is staged

    Raises InputError if the source changed.
    """
    scratch = target.scratch(digest([release.id for release in job.releases])[:16])
    try:
        _write_and_stage(spark, job, target, inspections, still_held, scratch)
    finally:
        target.clear(scratch)  # noised rows that are not staged are not left behind


def _write_and_stage(
    spark: SparkSession,
    job: Job,
    target: Target,
    inspections: dict[str, Inspection],
    still_held: Callable[[], None],
    scratch: Path,
) -> None:
    law = LawObservation(job)
    published = law.attach(noised_rows(spark, job)).select(*[quoted(name) for name, _ in job.plan.published])
    files = [file.path for file in job.table.files if file.rows]
    long_rows = bool(files) and rows_in_batch(files) < LONG
    writer = published.write.mode("errorifexists").options(**PAGES, **(GROUPS if long_rows else {}))
    partition_by = job.table.partition_by
    (writer.partitionBy(*partition_by) if partition_by else writer).parquet(str(scratch / "table"))
    failpoint("after_write")
    found = law.verdicts()
    verify_unchanged(job.table, [release.partition for release in job.releases])
    still_held()
    written = _written(scratch / "table", len(partition_by))
    for release in job.releases:
        place = written.get(release.partition_text)
        if place is None:
            place = _write_empty(published, scratch / "empty", release)
        record = {
            "release_id": release.id,
            "source_version": job.table.version,
            "columns": job.plan.published,
            "law": found,
        }
        target.stage(release, place, {**record, **asdict(inspections[release.id])})
        failpoint("while_staging")


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
