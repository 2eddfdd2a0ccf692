"""A clock a day off, a change to summer time under the run, another time zone: the same release, to the bit."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import pytest
from processes import watched
from small_pipeline import Small, make_small

from noiselib.publish import Target

pytestmark = [pytest.mark.faults, pytest.mark.long]
FAKE = str(files("libfaketime") / "vendor/libfaketime/src/libfaketime.so.1")
CLOCKS = {
    "a day behind": {"FAKETIME": "-1d", "TZ": "UTC"},
    "a day ahead": {"FAKETIME": "+1d", "TZ": "UTC"},
    "summer time begins under the run": {"FAKETIME": "@2026-03-08 01:59:57", "TZ": "America/New_York"},
    "summer time ends under the run": {"FAKETIME": "@2026-11-01 01:59:57", "TZ": "America/New_York"},
}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, spark: object) -> Small:
    small = make_small(tmp_path_factory.mktemp("undisturbed"), days=[1], size=50)
    assert small.noiselib("run").code == 0
    return small


def releases(small: Small) -> list[tuple[str, str]]:
    return [(m["release_id"], m["content_digest"]) for m in Target(small.spec["target"]["path"], 1).manifests()]


@pytest.mark.parametrize("clock", CLOCKS.values(), ids=CLOCKS.keys())
def test_another_clock_gives_the_same_release(undisturbed: Small, tmp_path: Path, clock: dict[str, str]) -> None:
    """The whole command and its Python workers run under libfaketime."""
    other = undisturbed.anew(tmp_path / "other")
    # Java waits by clocks that libfaketime shifts too, and would spin: of it, the time zone alone is another.
    monotonic = {"FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1", "FAKETIME_SKIP_CMDS": "java"}
    run = watched(other, {"LD_PRELOAD": FAKE} | monotonic | clock, "--master", "local[2]")
    assert run.code == 0, run.err
    assert releases(other) == releases(undisturbed)
    started = other.results()["started"]
    assert started[:10] != undisturbed.results()["started"][:10]  # the clock was indeed another
    again = other.noiselib("run", "--json")
    assert (again.code, again.json["charge"]["epsilon"]) == (0, 0.0)
