"""A release is a pure function: the same bits wherever, however and in whatever order it is computed."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from contents import contents
from pyspark.sql import SparkSession
from small_pipeline import COLORS, Small, make_small

from noiselib.key import load_key
from noiselib.spark import path
from noiselib.spark.run import prepare

pytestmark = pytest.mark.faults
DAYS, ROWS = (1, 2), 60
CANARY = "canary name 5512"


def day_table(day: int) -> pa.Table:
    """Rows whose keys are instants, and clock times that a change to summer time skips or repeats; three a person."""
    instants = [datetime(2024, 3, 31, tzinfo=UTC) + timedelta(minutes=7 * i + day) for i in range(ROWS)]
    return pa.table(
        {
            "at": pa.array(instants, pa.timestamp("us", "UTC")),
            "clock": pa.array([instant.replace(tzinfo=None) for instant in instants], pa.timestamp("us")),
            "name": [CANARY if i < 3 else f"name {i // 3}" for i in range(ROWS)],
            "color": [COLORS[i % 3] for i in range(ROWS)],
            "amount": [None if i % 9 == 0 else (i * day % 37) / 3 for i in range(ROWS)],
            "count": pa.array([i % 50 for i in range(ROWS)], pa.int32()),
        }
    )


@pytest.fixture(scope="module")
def pure(tmp_path_factory: pytest.TempPathFactory, spark: object) -> Small:
    """Published: two days; at most two rows of each person, chosen; one column's noise memoized."""
    small = make_small(tmp_path_factory.mktemp("pure"), days=[], size=0)
    small.spec["columns"] |= {"at": {"keep": "public"}, "clock": {"keep": "public"}}
    del small.spec["columns"]["id"]
    small.spec["row_key"] = ["at", "clock"]
    small.spec["privacy"] |= {
        "unit": {"entity": ["name"], "max_rows": 2},
        "memoize": ["amount"],
        "limit": {"epsilon": 100.0, "delta": 1e-5},
    }
    small.write_spec()
    for day in DAYS:
        small.write_partition(day, day_table(day))
    answer = small.noiselib("run")
    assert answer.code == 0, answer.err
    return small


def digests(small: Small) -> dict[str, tuple[str, str]]:
    """Release id and content digest of each published partition."""
    manifests = [json.loads(file.read_text()) for file in (small.home / "published" / "_noiselib").glob("*.json")]
    return {m["partition"]: (m["release_id"], m["content_digest"]) for m in manifests}


def values(small: Small, *days: int) -> str:
    """Every published value, to the bit, in the order of the row keys."""
    rows: list[dict[str, Any]] = []
    for day in days or DAYS:
        [place] = (small.home / "published").glob(f"day={day}")
        found = pq.ParquetDataset(place, partitioning=None).read().to_pylist()
        rows += [{"day": day} | row for row in sorted(found, key=lambda row: row["at"])]
    return repr(rows)


@contextmanager
def settings(spark: SparkSession, changes: dict[str, str]) -> Iterator[None]:
    before = {name: spark.conf.get(name) for name in changes}
    for name, value in changes.items():
        spark.conf.set(name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            spark.conf.set(name, str(value))


def compute(small: Small, spark: SparkSession, *wanted: dict[str, str], snapshot: str | None = None) -> None:
    """The whole path with the session as it is, and with the identity of the snapshot held if one is given."""
    path.walk(prepare(small.spec_file, wanted, lambda _: None, snapshot), lambda: spark)


SETTINGS = {
    "batches of 7 rows, no adaptive execution": {
        "spark.sql.execution.arrow.maxRecordsPerBatch": "7",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.shuffle.partitions": "7",
    },
    "one batch, one shuffle partition, small splits": {
        "spark.sql.execution.arrow.maxRecordsPerBatch": "10000",
        "spark.sql.adaptive.enabled": "true",
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.files.maxPartitionBytes": "1000",
    },
    "another time zone": {"spark.sql.session.timeZone": "America/New_York"},
}


@pytest.mark.parametrize("changes", SETTINGS.values(), ids=SETTINGS.keys())
def test_no_setting_changes_a_bit(pure: Small, tmp_path: Path, spark: SparkSession, changes: dict[str, str]) -> None:
    other = pure.anew(tmp_path / "other")
    with settings(spark, changes):
        compute(other, spark)
    assert digests(other) == digests(pure)
    assert values(other) == values(pure)


@pytest.mark.parametrize("files", [1, 5])
def test_a_source_in_other_files_and_another_order_changes_no_bit(
    pure: Small, tmp_path: Path, spark: SparkSession, files: int
) -> None:
    """The files' bytes are in the snapshot's fingerprint, so its identity is held to what it was."""
    [run_release] = prepare(pure.spec_file, [{"day": "1"}], lambda _: None).releases
    other = pure.anew(tmp_path / "other")
    place = other.home / "source" / "day=1"
    (place / "part-0.parquet").unlink()
    order = list(range(ROWS))
    random.Random(files).shuffle(order)
    for file in range(files):
        pq.write_table(day_table(1).take(order[file::files]), place / f"other-{file}.parquet", row_group_size=7)
    compute(other, spark, {"day": "1"}, snapshot=run_release.snapshot)
    assert digests(other)["day=1"] == digests(pure)["day=1"]
    assert values(other, 1) == values(pure, 1)


def test_one_day_after_the_other_changes_no_bit(pure: Small, tmp_path: Path) -> None:
    other = pure.anew(tmp_path / "other")
    for day in reversed(DAYS):
        answer = other.noiselib("run", "--partition", f"day={day}")
        assert answer.code == 0, answer.err
    assert digests(other) == digests(pure)
    assert values(other) == values(pure)
    assert other.spent() == pure.spent()


def test_a_restated_value_is_a_new_release_of_its_day_alone(pure: Small, tmp_path: Path) -> None:
    other = pure.copy(tmp_path / "other")
    spent, checksums, before = other.spent(), other.checksums(), digests(other)
    table = day_table(1)
    amounts = table["amount"].to_pylist()
    amounts[1] += 0.25
    index = table.schema.get_field_index("amount")
    other.write_partition(1, table.set_column(index, "amount", pa.array(amounts)))
    answer = other.noiselib("run", "--json")
    assert answer.code == 0, answer.err
    assert [(r["partition"], r["status"]) for r in answer.json["releases"]] == [
        ("day=1", "published"),
        ("day=2", "unchanged"),
    ]
    assert other.spent() > spent
    assert answer.json["charge"]["epsilon"] == pytest.approx(other.spent() - spent)
    after = digests(other)
    assert after["day=1"][0] != before["day=1"][0]
    assert after["day=2"] == before["day=2"]

    def of_day_two(sums: dict[str, str]) -> dict[str, str]:
        return {file: checksum for file, checksum in sums.items() if "day=2" in file or before["day=2"][0] in file}

    assert of_day_two(other.checksums()) == of_day_two(checksums) != {}


def test_running_again_changes_no_byte_and_costs_nothing(pure: Small) -> None:
    spent, checksums = pure.spent(), pure.checksums()
    answer = pure.noiselib("run", "--json")
    assert (answer.code, answer.json["charge"]["epsilon"]) == (0, 0.0)
    assert (pure.spent(), pure.checksums()) == (spent, checksums)


def test_another_process_master_and_time_zone_change_no_bit_and_its_logs_hold_no_secret(
    pure: Small, tmp_path: Path
) -> None:
    other = pure.anew(tmp_path / "other")
    events = tmp_path / "events"
    events.mkdir()
    conf = tmp_path / "spark.conf"
    conf.write_text(
        f"spark.eventLog.enabled true\nspark.eventLog.dir {events.as_uri()}\nspark.eventLog.compress false\n"
        "spark.sql.shuffle.partitions 3\n"
    )
    command = [sys.executable, "-m", "noiselib.cli", "run", str(other.spec_file), "--master", "local[1]"]
    command += ["--spark-conf", str(conf), "--results", str(tmp_path / "run_results.json")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYSPARK")}
    environment |= {"TZ": "Asia/Kolkata"}
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    assert digests(other) == digests(pure)
    assert values(other) == values(pure)
    logged = contents(events).values()
    assert any(b"SparkListenerJobEnd" in text for text in logged)
    key = load_key(pure.spec["key"]).secret
    for secret in (key, key.hex().encode(), base64.b64encode(key), CANARY.encode()):
        assert not [text for text in (*logged, done.stdout, done.stderr) if secret in text]
