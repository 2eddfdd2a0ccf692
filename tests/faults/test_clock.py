"""A clock a day off, a change to summer time under the run, another time zone: the same release, to the bit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path

import pytest
from processes import watched
from small_pipeline import Small, make_small

from noiselib.targets.parquet import ParquetTarget

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(1800)]
FAKE = str(files("libfaketime") / "vendor/libfaketime/src/libfaketime.so.1")
BEGINS, ENDS = datetime(2026, 3, 8, 7, tzinfo=UTC), datetime(2026, 11, 1, 6, tzinfo=UTC)  # of summer time in New York


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, spark: object) -> Small:
    small = make_small(tmp_path_factory.mktemp("undisturbed"), days=[1], size=50)
    assert small.noiselib("run").code == 0
    return small


def releases(small: Small) -> list[tuple[str, str]]:
    return [(m["release_id"], m["content_digest"]) for m in ParquetTarget(small.spec["target"]["path"], 1).manifests()]


def same_release(undisturbed: Small, other: Small, offset: timedelta, zone: str) -> tuple[datetime, datetime]:
    """Run under a clock `offset` from ours, the command and its Python workers alike: when it began and ended by that clock."""
    # Java waits by clocks that libfaketime shifts too, and would spin: of it, the time zone alone is another.
    fake = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "FAKETIME_SKIP_CMDS": "java"}
    fake |= {"LD_PRELOAD": FAKE, "FAKETIME": f"{offset.total_seconds():+.0f}", "TZ": zone}
    run = watched(other, fake, "--master", "local[2]")
    assert run.code == 0, run.err
    assert releases(other) == releases(undisturbed)
    began = datetime.fromisoformat(other.results()["started"])
    ended = began + timedelta(seconds=other.results()["seconds"])
    again = other.noiselib("run", "--json")  # by our clock
    assert (again.code, again.json["charge"]["epsilon"]) == (0, 0.0)
    return began, ended


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_a_day_off_gives_the_same_release(undisturbed: Small, tmp_path: Path, days: int) -> None:
    began, _ = same_release(undisturbed, undisturbed.anew(tmp_path / "other"), timedelta(days=days), "UTC")
    assert abs(began - datetime.now(UTC) - timedelta(days=days)) < timedelta(hours=1)


@pytest.mark.parametrize("change", [BEGINS, ENDS], ids=["begins", "ends"])
def test_a_change_of_summer_time_under_the_run_gives_the_same_release(
    undisturbed: Small, tmp_path: Path, change: datetime
) -> None:
    offset = change - timedelta(seconds=8) - datetime.now(UTC)
    began, ended = same_release(undisturbed, undisturbed.anew(tmp_path / "other"), offset, "America/New_York")
    assert began < change < ended
