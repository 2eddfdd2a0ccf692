"""Settings that would change what is read or published under one release id hold, whatever --spark-conf says of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession
from small_pipeline import Small, make_small

from noiselib.spark.session import DEFAULTS, REQUIRED, open_session
from noiselib.spark_conf import read_conf

pytestmark = pytest.mark.faults
ROWS = 40
OTHER = {  # what a site may have in its configuration, from the days before Spark 4
    "spark.sql.parquet.datetimeRebaseModeInRead": "LEGACY",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "LEGACY",
    "spark.sql.parquet.int96RebaseModeInRead": "LEGACY",
    "spark.sql.parquet.int96TimestampConversion": "true",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "false",
    "spark.sql.parquet.binaryAsString": "true",
    "spark.sql.timestampType": "TIMESTAMP_NTZ",
    "spark.sql.session.timeZone": "America/New_York",
    "spark.sql.ansi.enabled": "false",
    "spark.sql.parquet.outputTimestampType": "INT96",
}


def old_days() -> pa.Table:
    """Days and instants before 1582, as another tool than Spark writes them."""
    clocks = [datetime(1500, 3, 1, 12) + timedelta(days=i, microseconds=i) for i in range(ROWS)]
    return pa.table(
        {
            "id": pa.array(range(ROWS), pa.int64()),
            "born": pa.array([date(1500, 3, 1) + timedelta(days=i) for i in range(ROWS)]),
            "at": pa.array([clock.replace(tzinfo=UTC) for clock in clocks], pa.timestamp("us", "UTC")),
            "clock": pa.array(clocks, pa.timestamp("us")),
            "raw": pa.array([b"%d" % i for i in range(ROWS)], pa.binary()),
            "amount": [float(i % 25) for i in range(ROWS)],
        }
    )


@pytest.fixture
def old(tmp_path: Path) -> Small:
    """One day of them, all kept but one column."""
    small = make_small(tmp_path, days=[], size=0)
    kept = ("day", "id", "born", "at", "clock", "raw")
    small.spec["columns"] = {name: {"keep": "public"} for name in kept} | {"amount": small.spec["columns"]["amount"]}
    small.write_spec()
    small.write_partition(1, old_days())
    return small


@pytest.fixture
def other(spark: SparkSession, tmp_path: Path) -> Iterator[Path]:
    """A file of Spark settings with all the others; the session has its own again afterwards."""
    conf = tmp_path / "other.conf"
    conf.write_text("".join(f"{name} {value}\n" for name, value in OTHER.items()))
    yield conf
    for name in OTHER:
        spark.conf.set(name, REQUIRED[name])


def outcome(small: Small) -> tuple[list[tuple[str, str]], str]:
    manifests = [json.loads(file.read_text()) for file in (small.home / "published" / "_noiselib").glob("*.json")]
    [place] = (small.home / "published").glob("day=1")
    table = pq.ParquetDataset(place, partitioning=None).read().sort_by("id")
    return [(m["release_id"], m["content_digest"]) for m in manifests], f"{table.schema} {table.to_pylist()}"


def test_what_is_required_holds_against_a_configuration(spark: SparkSession, other: Path) -> None:
    assert open_session("tests", "local[2]", other) is spark
    assert {name: spark.conf.get(name) for name in REQUIRED} == REQUIRED
    assert not OTHER.keys() - REQUIRED.keys()


def test_old_days_are_published_as_they_are_whatever_a_configuration_says(
    old: Small, other: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    undisturbed = old.anew(tmp_path_factory.mktemp("undisturbed") / "old")
    assert undisturbed.noiselib("run").code == 0
    answer = old.noiselib("run", "--spark-conf", str(other))
    assert answer.code == 0, answer.err
    assert outcome(old) == outcome(undisturbed)
    [file] = (old.home / "published" / "day=1").glob("*.parquet")
    kept = ["id", "born", "at", "clock", "raw"]
    assert pq.read_table(file, partitioning=None).select(kept).sort_by("id").equals(old_days().select(kept))


@pytest.mark.parametrize("name", ["spark.sql.codegen.hugeMethodLimit", "spark.python.sql.dataFrameDebugging.enabled"])
def test_what_wide_tables_need_is_set_with_and_without_spark_submit(spark: SparkSession, name: str) -> None:
    folder = Path(__file__).parents[2] / "conf" / "spark"
    files = [read_conf(file)[name] for file in sorted(folder.glob("*.conf"))]
    assert [spark.conf.get(name), *files] == [DEFAULTS[name]] * 3


READ = {name: OTHER[name] for name in OTHER if name.startswith("spark.sql.parquet.") and "Write" not in name}
del READ["spark.sql.parquet.outputTimestampType"]


@pytest.mark.parametrize("name", READ)
def test_without_it_the_same_file_would_read_otherwise(
    spark: SparkSession, other: Path, tmp_path: Path, name: str
) -> None:
    """The control: what the setting would do, were it not required."""
    old_int96 = "int96" in name
    pq.write_table(old_days(), tmp_path / "old.parquet", use_deprecated_int96_timestamps=old_int96)

    def read() -> str:
        frame = spark.read.parquet(str(tmp_path / "old.parquet"))
        return f"{frame.schema} {frame.orderBy('id').selectExpr('cast(struct(*) as string)').collect()}"

    open_session("tests", "local[2]")
    before = read()
    zone = "spark.sql.session.timeZone"
    if name.endswith("int96TimestampConversion"):  # which is by the session's time zone
        spark.conf.set(zone, OTHER[zone])
        before = read()
    spark.conf.set(name, READ[name])
    assert read() != before
