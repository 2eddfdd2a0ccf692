"""A ledger restored from a backup has forgotten charges: what readers have seen is entered again, and never given back."""

from __future__ import annotations

import contextlib
import io
import shutil

import pytest
from small_pipeline import Answer, Small

from noiselib.cli import main

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("spark")]


def run(small: Small, day: int = 1, restated_by: float = 0.0) -> str:
    """Run a day, after its source was restated; the release's id."""
    small.rows[day]["amount"] = [value + restated_by for value in small.rows[day]["amount"]]
    small.write_source()
    answer = small.noiselib("run", "--partition", f"day={day}")
    assert answer.code == 0, answer.err
    return str(small.results()["releases"][0]["release_id"])


def ledger(small: Small, action: str, *arguments: str) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["ledger", action, str(small.spec_file), *arguments])
    return Answer(code, out.getvalue(), err.getvalue())


def back_up(small: Small) -> None:
    shutil.copy(small.home / "ledger.db", small.home / "backup.db")


def restore(small: Small) -> None:
    shutil.copy(small.home / "backup.db", small.home / "ledger.db")


@pytest.fixture
def small(small: Small) -> Small:
    small.spec["privacy"]["limit"]["epsilon"] = 10.0
    small.write_spec()
    return small


def test_what_was_published_and_replaced_since_the_backup_is_entered_again(small: Small) -> None:
    run(small)
    back_up(small)
    since = [run(small, restated_by=1.0), run(small, restated_by=1.0)]
    spent = small.spent()
    restore(small)
    assert small.spent() < spent
    answer = ledger(small, "recover", "--json")
    assert (answer.code, {one["release_id"] for one in answer.json}) == (0, set(since))
    assert small.spent() == spent
    assert ledger(small, "verify").code == 0
    assert ledger(small, "recover").out == "0 releases entered, 3 were there\n"
    assert run(small) == since[1]
    assert small.spent() == spent
    for release in since:
        assert "its charge is never given back" in ledger(small, "abandon", "--release", release[:12]).err
    assert small.spent() == spent


def test_what_was_seen_counts_beyond_the_limit(small: Small) -> None:
    small.spec["privacy"]["limit"]["epsilon"] = 7.0
    small.write_spec()
    run(small)
    back_up(small)
    run(small, restated_by=1.0)
    restore(small)
    run(small, restated_by=1.0)  # 6 of 7, as far as this ledger knows
    assert ledger(small, "recover").out.endswith("1 releases entered, 2 were there\n")
    assert small.spent() == pytest.approx(9.0, abs=0.01)
    small.rows[1]["amount"][0] += 1.0
    small.write_source()
    assert small.noiselib("run", "--partition", "day=1").code == 4


def test_a_release_that_was_only_reserved_in_the_backup_is_not_given_up(small: Small) -> None:
    assert small.noiselib("reserve", "--partition", "day=1").code == 0
    back_up(small)
    seen = run(small)
    small.rows[1]["amount"][0] += 1.0
    small.write_source()
    latest = run(small)
    restore(small)
    answer = small.noiselib("run", "--partition", "day=1")
    assert (answer.code, small.results()["releases"][0]["release_id"]) == (0, latest)
    assert "to give it up" not in answer.err
    refused = ledger(small, "abandon", "--release", seen[:12])
    assert (refused.code, f"release {seen[:12]} is published, or was" in refused.err) == (1, True)
    assert ledger(small, "recover").out.splitlines() == [
        f"release {seen[:12]} (day=1): entered with its charge",
        "1 releases entered, 1 were there",
    ]


def test_recovering_takes_a_pipeline(small: Small) -> None:
    assert main(["ledger", "recover", small.spec["ledger"]]) == 2
