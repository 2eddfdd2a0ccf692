"""What the doctor tells of a pipeline by a running session, here of one process: a catalog's tables, and files that go unseen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession
from small_pipeline import Small

from noiselib.doctor import Finding
from noiselib.spark import cluster_doctor
from noiselib.spark.cluster_doctor import check_cluster

AT = "(id BIGINT, name STRING, color STRING, amount DOUBLE, count INT, day INT) USING parquet PARTITIONED BY (day) LOCATION"


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """One executor needs no time to fill a cluster."""
    monkeypatch.setattr(cluster_doctor, "TASK_SECONDS", 0.0)


def failures(spark: SparkSession, small: Small) -> list[Finding]:
    return [one for one in check_cluster(spark, [small.spec_file], 1) if one.state == "failure"]


def test_without_its_key_a_pipelines_files_are_looked_for_all_the_same(
    spark: SparkSession, small: Small, change_spec: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    change_spec("key", value="airflow:noise_key")
    assert failures(spark, small) == []
    asked, [first, *_] = cluster_doctor._ask_workers, sorted((small.home / "source").rglob("*.parquet"))

    def later(session: SparkSession, files: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        """What the driver has seen has gone: as if it were on the driver's disk alone."""
        for file in files:
            Path(file).unlink()
        yield from asked(session, files)

    monkeypatch.setattr(cluster_doctor, "_ask_workers", later)
    unseen = [one.found.partition(":")[0] for one in failures(spark, small)]
    assert unseen[0] == str(first)
    assert [Path(path).parent for path in unseen[1:]] == [small.home / ".published.noiselib"]


def test_a_source_that_is_not_in_the_catalog(
    spark: SparkSession, small: Small, change_spec: Callable[..., None]
) -> None:
    change_spec("source", value={"path": "default.nowhere", "format": "table", "partition_by": ["day"]})
    [finding] = failures(spark, small)
    assert finding.what == "small files"
    assert "source default.nowhere: not in Spark's catalog" in finding.found
    assert str(small.spec_file) in finding.remedy


def test_a_target_that_cannot_be_published_to(spark: SparkSession, small: Small) -> None:
    (small.home / "published").mkdir()
    [finding] = failures(spark, small)
    assert "was not published by noiselib" in finding.found


def test_a_name_of_the_target_that_is_another_tables(
    spark: SparkSession, small: Small, change_spec: Callable[..., None]
) -> None:
    change_spec("target", "table", value="default.ours")
    assert failures(spark, small) == []
    spark.sql(f"CREATE TABLE default.ours {AT} '{small.home}/source'")
    try:
        [finding] = failures(spark, small)
    finally:
        spark.sql("DROP TABLE default.ours")
    assert f"target table default.ours: is another's, at {small.home}/source" in finding.found
