"""`noiselib run` killed (SIGKILL) at every failpoint and at random instants, then run again.

After each kill the state is one of the model's (crashing.MODEL); after the rerun the published values, the ledger's
charges and their total equal those of a run that nothing disturbed; `noiselib gc` leaves the current version and the one
before it; and a reader in another process has seen the old table, then the new one, and nothing else.
"""

from __future__ import annotations

import itertools
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from crashing import (
    MODEL,
    Count,
    State,
    Undisturbed,
    allowed,
    collected,
    crash,
    finish,
    observe,
    outcome,
    releases,
    start,
    versions,
)
from small_pipeline import Small

from noiselib.failpoint import FAILPOINTS

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

BEFORE_SPARK = ["after_reserve"]
WITH_SPARK = ["after_inspect", "after_write", "while_staging", "after_stage", "after_check"]
PUBLISHING = ["before_publish", "while_building", "before_swap", "after_swap", "after_publish", "after_commit"]
CHECKS_FAIL = ["after_quarantine"]
SEED = 20130101


def check_state(small: Small, ids: list[str]) -> list[State]:
    """Every release is in a state that the model allows, and nobody alive holds it."""
    states = [observe(small, release) for release in ids]
    assert all(allowed(state) for state in states), states
    with small.ledger() as ledger:
        holders = [known.holder for one in ids if (known := ledger.release(one))]
    assert all(holder is None or holder.dead() for holder in holders)
    return states


def finished(small: Small, undisturbed: Undisturbed) -> None:
    """Run again: all is as if nothing had happened, and nothing is left behind."""
    finish(small)
    assert outcome(small) == undisturbed.second
    collected(small)
    assert outcome(small) == undisturbed.second
    assert len(versions(small)) == 2  # the old version is there for whoever still reads it


def new_release(undisturbed: Undisturbed) -> str:
    return undisturbed.second.releases["day=1"]


def test_a_chain_of_runs_each_killed_a_step_further(undisturbed, tmp_path, watched, count):
    """Replacing a partition; each run resumes where the one before it was killed."""
    small, release = undisturbed.restated.copy(tmp_path / "chain"), new_release(undisturbed)
    end = watched(small, [undisturbed.first.values, undisturbed.second.values])
    chain = {
        "after_reserve": State("reserved", False, "none", False),
        "after_write": State("reserved", False, "none", False),
        "after_stage": State("reserved", False, "staged", False),
        "after_check": State("staged", False, "checked", False),
        "before_publish": State("staged", True, "checked", False),
        "while_building": State("staged", True, "checked", False),
        "before_swap": State("staged", True, "checked", False),
        "after_swap": State("staged", True, "checked", True),
    }
    for number, (failpoint, expected) in enumerate(chain.items()):
        crash(small, failpoint, what=["driver", "all"][number % 2])
        assert check_state(small, [release]) == [expected], failpoint
        assert (release in releases(small).values()) == expected.visible
    finished(small, undisturbed)
    count(kills=len(chain), runs=len(chain) + 1)
    end()


@pytest.mark.parametrize("failpoint", ["after_publish", "after_commit"])
def test_a_run_killed_after_readers_saw_its_release(undisturbed, tmp_path, checked, watched, count, failpoint):
    small = checked.copy(tmp_path / failpoint)
    end = watched(small, [undisturbed.first.values, undisturbed.second.values])
    crash(small, failpoint)
    [state] = check_state(small, [new_release(undisturbed)])
    assert (state.ledger, state.visible) == ("staged" if failpoint == "after_publish" else "published", True)
    finished(small, undisturbed)
    count(kills=1, runs=2)
    end()


@pytest.mark.long
@pytest.mark.parametrize(
    ("failpoint", "what"), zip(BEFORE_SPARK + WITH_SPARK + PUBLISHING, itertools.cycle(["driver", "all"]), strict=False)
)
def test_a_run_killed_at_a_failpoint_is_finished_by_the_next(undisturbed, tmp_path, watched, count, failpoint, what):
    small = undisturbed.restated.copy(tmp_path / "small")
    end = watched(small, [undisturbed.first.values, undisturbed.second.values])
    crash(small, failpoint, what=what)
    check_state(small, [new_release(undisturbed)])
    finished(small, undisturbed)
    count(kills=1, runs=2)
    end()


@pytest.mark.long
@pytest.mark.parametrize("failpoint", [*BEFORE_SPARK, *WITH_SPARK, *PUBLISHING])
def test_a_first_run_killed_at_a_failpoint(undisturbed, tmp_path, watched, count, failpoint):
    """Two releases at once, of a table that does not exist yet: readers see neither or both."""
    small = undisturbed.fresh.copy(tmp_path / "small")
    end = watched(small, ["missing", undisturbed.first.values])
    crash(small, failpoint)
    states = check_state(small, list(undisturbed.first.releases.values()))
    assert len({state.visible for state in states}) == 1
    finish(small)
    assert outcome(small) == undisturbed.first
    collected(small)
    count(kills=1, runs=2)
    end()


@pytest.mark.long
def test_a_run_killed_while_it_quarantines(undisturbed, tmp_path, watched, count):
    small = undisturbed.restated.copy(tmp_path / "small")
    small.spec["checks"] = [{"expect": "column_values_between", "column": "id", "min": 0, "max": 1}]
    end = watched(small, [undisturbed.first.values])
    crash(small, "after_quarantine")
    assert check_state(small, [new_release(undisturbed)]) == [State("staged", False, "none", False, True)]
    finish(small, expect=3)
    assert check_state(small, [new_release(undisturbed)]) == [State("quarantined", False, "none", False, True)]
    end()
    del small.spec["checks"]  # the checks were wrong, not the release
    finished(small, undisturbed)
    count(kills=1, runs=3)


def test_every_failpoint_is_visited():
    assert {*BEFORE_SPARK, *WITH_SPARK, *PUBLISHING, *CHECKS_FAIL} == set(FAILPOINTS)


# ---- random instants -------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_killed_at_fifty_random_instants(undisturbed, tmp_path, watched, count):
    kill_at_random(undisturbed, tmp_path, watched, count, kills=50, seed=SEED)


def test_killed_at_a_random_instant(undisturbed, tmp_path, watched, count):
    kill_at_random(undisturbed, tmp_path, watched, count, kills=1, seed=SEED + 1)


def kill_at_random(undisturbed, tmp_path: Path, watched, count: Count, kills: int, seed: int) -> None:
    """Chains of one to three kills at instants drawn evenly over the time that a run takes; a rerun ends each chain.

    A run that is done before its instant comes has not been killed, and the chain ends with it.
    """
    random_ = random.Random(seed)
    lasts, killed, chain = 30.0, 0, 0
    while killed < kills:
        small = undisturbed.restated.copy(tmp_path / f"{chain}")
        end = watched(small, [undisturbed.first.values, undisturbed.second.values])
        for _ in range(min(random_.randint(1, 3), kills - killed)):
            instant, what = random_.uniform(0, lasts), random_.choice(["driver", "all"])
            run = start(small)
            try:
                time.sleep(instant)
                alive = run.process.poll() is None
            finally:
                run.kill(what)
            code = run.wait()
            assert code == (-signal.SIGKILL if alive else 0), run.text()
            check_state(small, [new_release(undisturbed)])
            killed += alive
            count(kills=int(alive), random_instants=int(alive), runs=1)
        began = time.monotonic()
        fresh = observe(small, new_release(undisturbed)).staging == "none"
        finished(small, undisturbed)
        lasts = time.monotonic() - began if fresh else lasts  # how long a run takes here
        count(runs=1)
        end()
        chain += 1


# ---- the checks of these tests find something -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"ledger": None},  # noise that nobody paid for
        {"ledger": "reserved"},  # seen before the ledger knew that it may be
        {"publishing": False},
        {"staging": "staged"},  # published without its checks
        {"ledger": "abandoned"},  # refunded though seen
        {"quarantine": True},
    ],
)
def test_the_model_refuses(change):
    swapped = State("staged", True, "checked", True)
    assert allowed(swapped)
    assert not allowed(replace(swapped, **change))
    assert len(MODEL) == 8


def test_the_reader_tells_a_mix_a_stray_file_and_a_missing_table(undisturbed, tmp_path):
    from crashing import look

    for number, damage in enumerate((mix, stray, lambda root: root.unlink())):
        small = undisturbed.published.copy(tmp_path / str(number))
        path = Path(small.spec["target"]["path"])
        assert look(str(path)) == undisturbed.first.values
        damage(path)
        assert look(str(path)).split(":")[0] == ["mixed", "mixed", "missing"][number]


def mix(root: Path) -> None:
    [file] = root.glob("day=1/*.parquet")
    (root / "day=1" / "part-of-another-version.parquet").write_bytes(file.read_bytes())


def stray(root: Path) -> None:
    (root / "_staged.json").write_text("{}")
