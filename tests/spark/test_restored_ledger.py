"""A ledger restored from a backup has forgotten charges: what readers have seen is entered again, and never given back."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from dataclasses import replace
from typing import NoReturn

import pytest
from small_pipeline import Answer, Small

from noiselib.cli import main
from noiselib.errors import InputError
from noiselib.key import create_key_file
from noiselib.ledger import Holder, Ledger
from noiselib.release import budget_of
from noiselib.spark import steps
from noiselib.spec import load_spec

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


def back_up_before(small: Small) -> None:
    """From when the budget was known, and no release."""
    with small.ledger() as open_ledger:
        open_ledger.reserve(budget_of(load_spec(small.spec_file)[0]), [], Holder.current())
    back_up(small)


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
    assert (answer.code, {one["release_id"] for one in answer.json["entered"]}) == (0, set(since))
    assert (answer.json["known"], answer.json["problems"]) == (1, [])
    assert small.spent() == spent
    assert ledger(small, "verify").code == 0
    again = f"0 releases entered, 3 were there: of those noted beside {small.spec['target']['path']}\n"
    assert ledger(small, "recover").out == again
    assert run(small) == since[1]
    assert small.spent() == spent
    for release in since:
        assert "its charge is never given back" in ledger(small, "abandon", "--release", release[:12]).err
    assert small.spent() == spent


def test_a_run_enters_what_the_ledger_has_forgotten_before_it_asks_for_more(small: Small) -> None:
    small.spec["privacy"]["limit"]["epsilon"] = 7.0
    small.write_spec()
    run(small)
    back_up(small)
    seen = run(small, restated_by=1.0)
    restore(small)
    small.rows[1]["amount"][0] += 1.0
    small.write_source()
    answer = small.noiselib("run", "--partition", "day=1")
    assert (answer.code, f"did not know what readers may have seen: {seen[:12]} (day=1), entered" in answer.err) == (
        4,
        True,
    )
    assert small.spent() == pytest.approx(6.0, abs=0.01)
    assert ledger(small, "recover").out.startswith("0 releases entered, 2 were there")


def test_what_was_seen_counts_beyond_the_limit(small: Small) -> None:
    small.spec["privacy"]["limit"]["epsilon"] = 7.0
    small.write_spec()
    run(small)
    back_up(small)
    run(small, restated_by=1.0)
    restore(small)
    with small.ledger() as open_ledger:  # 6 of 7, as far as this ledger knows: paid for another target's release
        [paid] = open_ledger.releases()
        other = replace(paid.request, release_id="other")
        open_ledger.reserve(open_ledger.show()[0].budget, [other], Holder.current())
    assert ledger(small, "recover").out.splitlines()[-1].startswith("1 releases entered, 1 were there")
    assert small.spent() == pytest.approx(9.0, abs=0.01)
    small.rows[1]["amount"][0] += 1.0
    small.write_source()
    assert small.noiselib("run", "--partition", "day=1").code == 4


def test_a_run_that_fails_gives_nothing_back_that_readers_have_seen(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    back_up_before(small)
    seen = run(small)
    spent = small.spent()
    restore(small)
    (small.home / "published").unlink()  # readers have seen what stood here

    def fail(*_: object) -> NoReturn:
        raise InputError("the source is not as it was")

    with monkeypatch.context() as context:
        context.setattr(steps, "inspect", fail)
        assert small.noiselib("run", "--partition", "day=1").code == 1
    assert small.spent() == spent
    assert run(small) == seen
    assert small.spent() == spent


def test_what_was_paid_from_another_budget_is_entered_there(small: Small) -> None:
    back_up_before(small)
    run(small)
    small.spec["privacy"]["budget"] = "renamed"
    small.write_spec()
    restore(small)
    run(small)
    with small.ledger() as open_ledger:
        spent = {status.budget.name: status.spent for status in open_ledger.show()}
        assert {(one.budget, one.state) for one in open_ledger.releases()} == {("small", "published")}
    assert spent == {"small": pytest.approx(3.0, abs=0.01), "renamed": 0.0}


def test_what_another_ledger_has_charged_is_entered_on_demand_alone(small: Small) -> None:
    first = run(small)
    small.spec["ledger"] = f"sqlite:///{small.home / 'another.db'}"
    small.write_spec()
    Ledger.create(small.spec["ledger"]).close()
    second = run(small, restated_by=1.0)
    with small.ledger() as open_ledger:
        assert [one.release_id for one in open_ledger.releases()] == [second]
    assert f"release {first[:12]} (day=1): entered with its charge" in ledger(small, "recover").out


def test_what_a_second_ledger_has_charged_is_known_as_its_own(small: Small) -> None:
    first = run(small)
    small.spec["ledger"] = f"sqlite:///{small.home / 'another.db'}"
    small.write_spec()
    Ledger.create(small.spec["ledger"]).close()
    with small.ledger() as open_ledger:
        open_ledger.reserve(budget_of(load_spec(small.spec_file)[0]), [], Holder.current())
    shutil.copy(small.home / "another.db", small.home / "backup.db")
    assert run(small) == first  # readers see it, so this ledger is told
    second = run(small, restated_by=1.0)
    shutil.copy(small.home / "backup.db", small.home / "another.db")
    assert run(small) == second
    with small.ledger() as open_ledger:
        assert {one.release_id for one in open_ledger.releases()} == {first, second}


def test_an_empty_ledger_that_others_have_charged_before_says_what_to_do(small: Small) -> None:
    back_up(small)
    first, second = run(small), run(small, restated_by=1.0)
    restore(small)
    answer = small.noiselib("run", "--partition", "day=1")
    assert answer.code == 0
    told = f"2 releases noted beside {small.spec['target']['path']} were charged to another ledger than this empty one"
    assert told in answer.err
    assert f"if it was restored from a backup, enter them: noiselib ledger recover {small.spec_file}" in answer.err
    assert "than this empty one" not in small.noiselib("run", "--partition", "day=1").err
    assert ledger(small, "recover").code == 0
    with small.ledger() as open_ledger:
        assert {one.release_id for one in open_ledger.releases()} == {first, second}


def test_a_note_that_cannot_be_used_keeps_no_other_out(small: Small) -> None:
    back_up_before(small)
    seen = sorted(run(small, restated_by=1.0) for _ in range(3))  # 9 of 10
    restore(small)
    notes = [small.home / ".published.noiselib" / "charged" / f"{one}.json" for one in seen]
    good = json.loads(notes[0].read_text())
    for damaged in (b"[]", b"\xff\xfe{}", b'"x'):
        notes[0].write_bytes(damaged)
        assert f"\n{notes[0]}: " in ledger(small, "recover").out
        restore(small)
    notes[0].write_text(json.dumps(good | {"version": 2}))
    notes[1].write_text(json.dumps(good | {"request": {"pipeline": "small"}}))
    answer = ledger(small, "recover", "--json")
    assert (answer.code, [one["release_id"] for one in answer.json["entered"]]) == (1, [seen[2]])
    assert [problem.partition(": ")[0] for problem in answer.json["problems"]] == [str(note) for note in notes[:2]]
    assert "2 not to be entered" in ledger(small, "recover").out
    spent = small.spent()
    refused = small.noiselib("run", "--partition", "day=2")
    assert (refused.code, f"{notes[0]}: has version 2; expected 1" in refused.err) == (1, True)
    assert small.spent() == spent
    (small.home / "ledger.db").unlink()
    with Ledger.create(small.spec["ledger"]) as open_ledger:  # its budget has another limit
        budget = budget_of(load_spec(small.spec_file)[0])
        assert budget is not None
        open_ledger.reserve(replace(budget, epsilon=1.0), [], Holder.current())
    assert (
        f"{notes[2]}: cannot be entered into the ledger: Budget 'small': expected the limit"
        in ledger(small, "recover").out
    )


def test_a_key_that_is_lost_in_the_middle_of_publishing_stops_nothing(small: Small) -> None:
    """The charge stays, as readers may have seen it; the partition is made anew, under another key."""
    assert small.noiselib("perturb", "--partition", "day=1").code == 0
    with small.ledger() as open_ledger:
        [begun] = open_ledger.releases()
        open_ledger.begin_publish(begun.release_id)
    (small.home / "noise.key").unlink()
    create_key_file(small.home / "noise.key")
    assert "may have seen it" in ledger(small, "abandon", "--release", begun.release_id[:12]).err
    assert run(small) != begun.release_id
    assert small.spent() == pytest.approx(6.0, abs=0.01)


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
    assert (refused.code, f"release {seen[:12]}: is published, or was" in refused.err) == (1, True)
    assert ledger(small, "recover").out.startswith("0 releases entered, 2 were there")  # by the run


def test_recovering_takes_a_pipeline(small: Small) -> None:
    assert main(["ledger", "recover", small.spec["ledger"]]) == 2
