"""The whole path from Delta and Iceberg tables: the same rows give the same release, and later commits do not disturb it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from lakehouse import Delta, Iceberg
from pyspark.sql import SparkSession
from small_pipeline import SMALL_SCHEMA, Small, make_small, small_rows

from noiselib.spark import path, stage
from noiselib.spark.run import prepare

pytestmark = pytest.mark.platform
DAYS = (1, 2)
SCHEMA = pa.schema([*SMALL_SCHEMA, ("day", pa.int32())])
Lake = Delta | Iceberg


def day_table(day: int) -> pa.Table:
    rows = pa.table(small_rows(day, 50), schema=SMALL_SCHEMA)
    return rows.append_column("day", pa.array([day] * 50, pa.int32()))


def make_lake(kind: str, home: Path) -> Lake:
    lake: Lake = Delta(home / "a lake") if kind == "delta" else Iceberg(home / "a lake", SCHEMA)
    lake.append(pa.concat_tables([day_table(day) for day in DAYS]))
    return lake


def from_lake(small: Small, home: Path, lake: Lake) -> Small:
    """The small pipeline where nothing is published, over `lake`."""
    other = small.anew(home)
    other.spec["source"] = lake.source
    other.write_spec()
    return other


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, spark: object) -> Small:
    """Two days of 50 rows, published from Parquet."""
    small = make_small(tmp_path_factory.mktemp("plain"), days=DAYS, size=50)
    answer = small.noiselib("run")
    assert answer.code == 0, answer.err
    return small


@pytest.fixture(params=["delta", "iceberg"])
def lake(request: pytest.FixtureRequest, tmp_path: Path) -> Lake:
    return make_lake(request.param, tmp_path)


def manifests(small: Small) -> dict[str, dict[str, Any]]:
    files = (small.home / "published" / "_noiselib").glob("*.json")
    return {manifest["partition"]: manifest for manifest in (json.loads(file.read_text()) for file in files)}


def told(small: Small, *names: str) -> dict[str, list[Any]]:
    return {partition: [one[name] for name in names] for partition, one in manifests(small).items()}


def version(lake: Lake) -> int:
    return lake.table.version() if isinstance(lake, Delta) else lake.version


def test_the_same_rows_are_the_same_release_to_the_bit(
    plain: Small, lake: Lake, tmp_path: Path, spark: SparkSession
) -> None:
    """Other files have another fingerprint, so the snapshot's identity is held to that of the Parquet table."""
    other = from_lake(plain, tmp_path / "other", lake)
    for day in DAYS:
        identity = manifests(plain)[f"day={day}"]["snapshot"]
        path.walk(prepare(other.spec_file, [{"day": str(day)}], lambda _: None, identity), lambda: spark)
    assert told(other, "release_id", "content_digest", "rows") == told(plain, "release_id", "content_digest", "rows")
    assert {one["source_version"] for one in manifests(other).values()} == {version(lake)}
    assert {one["source_version"] for one in manifests(plain).values()} == {None}


def test_a_run_names_its_version_and_a_restated_partition_is_the_only_new_release(
    plain: Small, lake: Lake, tmp_path: Path
) -> None:
    other, first = from_lake(plain, tmp_path / "other", lake), version(lake)
    assert other.noiselib("plan", "--json").json["source_version"] == first
    assert f"at version {first} ->" in other.noiselib("plan").out
    answer = other.noiselib("run")
    assert answer.code == 0, answer.err
    assert f"version {first} of " in answer.err
    assert other.noiselib("verify").code == 0
    spent = other.spent()
    lake.replace(1, day_table(1).slice(0, 49))
    again = other.noiselib("run", "--json")
    assert [(one["partition"], one["status"], one["rows"]) for one in again.json["releases"]] == [
        ("day=1", "published", 49), ("day=2", "unchanged", 50),
    ]  # fmt: skip
    assert other.spent() > spent
    assert told(other, "source_version") == {"day=1": [version(lake)], "day=2": [first]}


COMMIT = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from lakehouse import Delta, Iceberg
from test_sources import SCHEMA, day_table
home = Path(sys.argv[3])
lake = Delta(home) if sys.argv[1] == "Delta" else Iceberg(home, SCHEMA)
lake.replace(1, day_table(1).slice(0, 9))
if len(sys.argv) > 4:
    lake.vacuum()
"""


def commit(lake: Lake, *vacuum: str) -> None:
    """Another process restates the first day, and may remove the files that were current before."""
    home = lake.path if isinstance(lake, Delta) else lake.home
    tests = Path(__file__).parents[1]
    script = f"import sys; sys.path.append({str(Path(__file__).parent)!r})\n" + COMMIT
    subprocess.run([sys.executable, "-c", script, type(lake).__name__, str(tests), str(home), *vacuum], check=True)


def before(patch: pytest.MonkeyPatch, place: Any, name: str, act: Callable[[], None]) -> list[None]:
    """Have `act` happen just before `place.name` is called for the first time; says whether it did."""
    real, done = getattr(place, name), list[None]()

    def changed(*arguments: Any) -> Any:
        if not done:
            done.append(act())
        return real(*arguments)

    patch.setattr(place, name, changed)
    return done


def test_a_commit_during_the_run_does_not_disturb_it(
    plain: Small, lake: Lake, tmp_path: Path, spark: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, first = from_lake(plain, tmp_path / "other", lake), version(lake)
    done = before(monkeypatch, path, "perturb", lambda: commit(lake))
    answer = other.noiselib("run", "--json")
    assert answer.code == 0, answer.err
    assert done
    assert version(lake) != first
    assert told(other, "rows", "source_version") == {"day=1": [50, first], "day=2": [50, first]}
    monkeypatch.undo()
    other.spec["source"]["version"] = first
    other.write_spec()
    assert other.noiselib("verify").code == 0
    again = other.noiselib("run", "--json")
    assert [one["status"] for one in again.json["releases"]] == ["unchanged", "unchanged"]


@pytest.mark.parametrize("moment", [(path, "perturb"), (stage, "verify_unchanged")], ids=["read", "verify"])
def test_files_that_are_vacuumed_during_the_run_are_named_and_nothing_is_published(
    plain: Small, tmp_path: Path, spark: object, monkeypatch: pytest.MonkeyPatch, moment: tuple[Any, str]
) -> None:
    lake = make_lake("delta", tmp_path)
    other = from_lake(plain, tmp_path / "other", lake)
    before(monkeypatch, *moment, lambda: commit(lake, "vacuum"))
    answer = other.noiselib("run")
    assert answer.code == 1
    assert f"source file {tmp_path}/a lake/day=1/" in answer.err
    assert "removed while the release was made; nothing is published" in answer.err
    assert (other.published(), other.spent()) == (None, 0)


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_a_partition_by_date_and_one_of_null(plain: Small, tmp_path: Path, kind: str) -> None:
    schema = pa.schema([*SMALL_SCHEMA, ("day", pa.date32())])
    lake: Lake = Delta(tmp_path / "lake") if kind == "delta" else Iceberg(tmp_path / "lake", schema)
    for number, day in enumerate((date(2024, 2, 29), None)):
        rows = pa.table(small_rows(number, 20), schema=SMALL_SCHEMA)
        lake.append(rows.append_column("day", pa.array([day] * 20, pa.date32())))
    other = from_lake(plain, tmp_path / "pipeline", lake)
    answer = other.noiselib("run")
    assert answer.code == 0, answer.err
    places = sorted(place.name for place in (other.home / "published").glob("day=*"))
    assert places == ["day=2024-02-29", "day=__HIVE_DEFAULT_PARTITION__"]
    assert other.noiselib("verify").code == 0
