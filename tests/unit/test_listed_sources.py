"""What holds of Delta and Iceberg tables alike: a version is pinned, and a commit is a new snapshot of what it changes alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest
from lakehouse import Delta, Iceberg, metadata, prints, rows_of

from noiselib.snapshot import verify_unchanged

SCHEMA = pa.schema([("day", pa.int32()), ("id", pa.int32()), ("x", pa.float64())])
rows = partial(rows_of, SCHEMA)


@pytest.fixture(params=["delta", "iceberg"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def new_table(kind: str, home: Path, partition_by: list[str]) -> Delta | Iceberg:
    return Delta(home, partition_by) if kind == "delta" else Iceberg(home, SCHEMA, partition_by)


@pytest.fixture
def lake(kind: str, tmp_path: Path) -> Delta | Iceberg:
    """Two days, each of one file."""
    table = new_table(kind, tmp_path / "a table", ["day"])
    table.append(pa.concat_tables([rows(1, 0.5, 1.5), rows(2, 3.5)]))
    return table


def test_a_table_without_partitions_is_one(kind: str, tmp_path: Path) -> None:
    flat = new_table(kind, tmp_path / "flat", [])
    flat.append(rows(1, 0.5, 1.5))
    table = metadata(flat.source)
    assert (table.partitions, table.rows(())) == (((),), 2)


def test_what_is_committed_later_is_neither_read_nor_a_fault(lake: Delta | Iceberg) -> None:
    table = metadata(lake.source)
    before = prints(table)
    lake.append(rows(1, 9.5))
    lake.replace(2, rows(2, 4.5))
    verify_unchanged(table, table.partitions)
    assert prints(table) == before


def test_a_commit_is_another_snapshot_of_the_partitions_that_it_changes_alone(lake: Delta | Iceberg) -> None:
    before = prints(metadata(lake.source))
    lake.replace(1, rows(1, 0.5, 1.25))
    after = prints(metadata(lake.source))
    assert after["day=1"] != before["day=1"]
    assert after["day=2"] == before["day=2"]
