"""The demo's feature tables: built to the same bytes twice, all or nothing, and only if the row keys hold."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.types as pt
import pytest

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs" / "build_features.py"


def build(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(JOB), "--out", str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)


def digests(out: Path) -> list[tuple[str, str]]:
    """Every file's table, month and SHA-256; the names of the files themselves are Spark's to choose."""
    files = out.glob("*/month=*/*.parquet")
    return sorted((str(file.parent.relative_to(out)), hashlib.sha256(file.read_bytes()).hexdigest()) for file in files)


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo") / "features"
    result = build(out, "--master", "local[1]")
    assert result.returncode == 0, result.stderr
    assert "flights: 336776 rows, 336776 distinct non-null (time_hour, carrier, flight)" in result.stdout
    assert "aircraft_monthly: 37976 rows, 37976 distinct non-null (tailnum, month)" in result.stdout
    return out


def test_flights(features: Path) -> None:
    table = ds.dataset(features / "flights", partitioning="hive").to_table()
    nulls = {name: table[name].null_count for name in table.column_names if table[name].null_count}
    assert table.num_rows == 336_776
    assert len(table.column_names) == 19
    assert nulls == {
        "dep_time": 8255,
        "dep_delay": 8255,
        "arr_time": 8713,
        "arr_delay": 9430,
        "air_time": 9430,
        "tailnum": 2512,
    }
    types = table.schema
    assert pt.is_float64(types.field("dep_delay").type)
    assert pt.is_float64(types.field("arr_delay").type)
    assert pt.is_int32(types.field("air_time").type)
    assert pt.is_int32(types.field("distance").type)
    assert types.field("time_hour").type.tz == "UTC"


def test_aircraft_monthly(features: Path) -> None:
    table = ds.dataset(features / "aircraft_monthly", partitioning="hive").to_table()
    assert table.num_rows == 37_976
    assert set(table.column_names) == {"tailnum", "month", "n_flights", "mean_delay", "miles", "seats"}
    assert table["tailnum"].null_count == 0
    assert table["mean_delay"].null_count == 124  # no flight of that month arrived
    assert table["seats"].null_count == 6347  # not in the register
    assert sum(table["n_flights"].to_pylist()) == 336_776 - 2512
    assert pt.is_int32(table.schema.field("n_flights").type)
    assert pt.is_int64(table.schema.field("miles").type)


def test_one_file_per_month(features: Path) -> None:
    months = {f"month={month}" for month in range(1, 13)}
    for name in ("flights", "aircraft_monthly"):
        files = list((features / name).glob("*/*.parquet"))
        assert {file.parent.name for file in files} == months
        assert len(files) == 12


def test_built_on_one_core_and_on_all_the_same_bytes(features: Path) -> None:
    demo = ROOT / "demo" / "features"  # by `make features`, which comes before the tests
    assert digests(demo) == digests(features), f"{demo}: made by other code? then remove it"


def test_complete_is_left_alone_and_incomplete_is_not(tmp_path: Path) -> None:
    out = tmp_path / "features"
    out.mkdir()
    (out / "_COMPLETE").touch()
    assert build(out, "--source", str(tmp_path)).returncode == 0  # there is no source: it did not even look

    (out / "_COMPLETE").unlink()
    assert build(out, "--source", str(tmp_path)).returncode != 0


def test_repeated_key_builds_nothing(tmp_path: Path) -> None:
    columns = (
        "year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,"
        "origin,dest,air_time,distance,hour,minute,time_hour"
    )
    row = "2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z"
    with zipfile.ZipFile(tmp_path / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", "\n".join([columns, row, row, ""]))
    (tmp_path / "planes.csv").write_text("tailnum,year,type,manufacturer,model,engines,seats,speed,engine\n")

    result = build(tmp_path / "out" / "features", "--source", str(tmp_path))

    assert result.returncode == 1
    expected = "flights: (time_hour, carrier, flight) does not identify a row: 2 rows, 1 distinct non-null keys"
    assert expected in result.stderr
    assert list((tmp_path / "out").iterdir()) == []
