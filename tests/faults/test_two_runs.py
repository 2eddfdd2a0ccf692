"""Two runs at once: of one release, of different partitions, of one task that a scheduler has given up too early."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import sqlite3
import sys
from pathlib import Path

import pytest
from crashing import Count, Started, Undisturbed, collected, finish, outcome, read, releases, send, start, until
from small_pipeline import Small

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

PROJECT = Path(__file__).resolve().parents[2]
SPARK_SUBMIT = Path(sys.executable).with_name("spark-submit")


def stopped(run: Started) -> bool:
    """Whether a process of the run has stopped itself at a failpoint."""
    return any(read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()[:1] == [b"T"] for pid in run.all_pids())


def go_on(run: Started) -> None:
    for pid in run.all_pids():
        send(pid, signal.SIGCONT)


def held_by(text: str) -> tuple[int, str]:
    """Process and host that a refused run names; it says since when as well."""
    found = re.search(r"held by process (\d+) on (\S+) since \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", text)
    assert found, text
    return int(found[1]), found[2]


def test_of_two_runs_of_one_release_one_works_and_the_other_names_it(undisturbed, checked, tmp_path, count: Count):
    small = checked.copy(tmp_path / "small")
    first = start(small, failpoint="before_swap:SIGSTOP")
    assert until(lambda: stopped(first), 300), first.text()
    second = finish(small, expect=5)
    assert held_by(second.text()) == (first.process.pid, socket.gethostname())
    assert small.noiselib("gc").code == 5  # nor is anything cleared away under it
    assert outcome(small).values == undisturbed.first.values
    go_on(first)
    assert first.wait() == 0, first.text()
    assert outcome(small) == undisturbed.second
    finish(small)
    assert outcome(small) == undisturbed.second
    count(races=1, runs=3)


@pytest.mark.long
def test_two_runs_of_one_release_started_together(undisturbed, tmp_path, count: Count):
    """Whoever comes second is refused, or finds it done."""
    for number in range(3):
        small = undisturbed.restated.copy(tmp_path / str(number))
        runs = [start(small), start(small)]
        codes = sorted(run.wait() for run in runs)
        assert codes in ([0, 5], [0, 0]), [run.text() for run in runs]
        assert outcome(small) == undisturbed.second
        count(races=1, runs=2)


def test_two_publishers_of_disjoint_partitions(undisturbed, tmp_path, count: Count, spark: object):
    """The second waits while the first holds the publishing lock; neither loses the other's partition."""
    small = undisturbed.fresh.copy(tmp_path / "small")
    for command in ("perturb", "check"):
        assert small.noiselib(command).code == 0
    first = start(small, "publish", "--partition", "day=1", failpoint="before_swap:SIGSTOP")
    assert until(lambda: stopped(first), 300), first.text()
    second = start(small, "publish", "--partition", "day=2")
    assert until(lambda: waits_for_a_lock(second.process.pid), 300), second.text()
    assert not until(lambda: second.process.poll() is not None, 2), second.text()
    assert releases(small) == {}
    go_on(first)
    assert [first.wait(), second.wait()] == [0, 0], first.text() + second.text()
    assert outcome(small) == undisturbed.first
    count(races=1, runs=2)


def waits_for_a_lock(pid: int) -> bool:
    """Whether the process, which is not the one that has it, has opened the publishing lock."""
    # realpath, unlike readlink, does not mind a file that the process has closed since it was listed.
    return any(os.path.realpath(file).endswith("/publish.lock") for file in Path(f"/proc/{pid}/fd").iterdir())


@pytest.mark.long
def test_two_runs_of_disjoint_partitions(undisturbed, tmp_path, count: Count):
    small = undisturbed.fresh.copy(tmp_path / "small")
    runs = [start(small, "run", "--partition", f"day={day}") for day in (1, 2)]
    assert [run.wait() for run in runs] == [0, 0], [run.text() for run in runs]
    assert outcome(small) == undisturbed.first
    collected(small)
    count(races=1, runs=2)


@pytest.mark.long
def test_a_task_that_is_retried_while_the_first_try_still_runs(undisturbed, tmp_path, count: Count):
    """What a scheduler does that has lost sight of a task: the steps' own jobs, by spark-submit, twice at once."""
    small = undisturbed.restated.copy(tmp_path / "small")

    def submit(step: str, failpoint: str = "") -> Started:
        job = [SPARK_SUBMIT, "--conf", "spark.master=local[1]", "--conf", "spark.ui.enabled=false"]
        return start(small, launcher=[*job, PROJECT / "jobs" / f"{step}.py"], failpoint=failpoint)

    assert submit("reserve").wait() == 0
    orphan = submit("perturb", "after_write:SIGSTOP")
    assert until(lambda: stopped(orphan), 300), orphan.text()
    retry = submit("perturb")
    assert retry.wait() == 5, retry.text()
    assert held_by(retry.text())[0] in orphan.all_pids()
    go_on(orphan)
    assert orphan.wait() == 0, orphan.text()
    for step in ("perturb", "check", "publish", "publish"):
        again = submit(step)
        assert again.wait() == 0, again.text()
    assert outcome(small) == undisturbed.second
    count(races=1, runs=8)


@pytest.mark.long
def test_two_runs_at_once_where_no_ledger_keeps_leases(tmp_path, undisturbed, count: Count):
    small: Small = undisturbed.fresh.copy(tmp_path / "small")
    small.spec["purpose"] = "augmentation"
    for name in ("privacy", "ledger"):
        del small.spec[name]
    small.spec["columns"]["amount"] = {"mechanism": "laplace", "scale": 1.0}
    small.spec["columns"]["count"] = {"keep": "public"}
    first = start(small, "perturb", failpoint="after_inspect:SIGSTOP")
    assert until(lambda: stopped(first), 300), first.text()
    second = finish(small, "perturb", expect=5)
    assert held_by(second.text())[0] in first.all_pids()
    assert small.noiselib("gc").code == 5
    first.kill("all")
    first.wait()
    assert small.noiselib("gc").code == 0
    count(races=1, runs=2)


def test_the_harness_sees_a_marked_process(tmp_path, undisturbed: Undisturbed):
    small = undisturbed.published.copy(tmp_path / "small")
    run = start(small, failpoint="after_reserve:SIGSTOP")
    assert until(lambda: stopped(run), 300), run.text()
    assert run.all_pids() == [run.process.pid]
    run.kill("all")
    assert run.wait() == -signal.SIGKILL
    assert run.gone(1)


@pytest.mark.long
def test_two_runs_that_make_a_published_release_again(undisturbed, tmp_path, count: Count):
    """For a target of another name: the ledger calls the releases published, but they are made anew, by one run at a time."""
    small = undisturbed.published.copy(tmp_path / "small")
    small.spec["target"]["path"] = str(tmp_path / "small" / "another")
    first = start(small, failpoint="after_write:SIGSTOP")
    assert until(lambda: stopped(first), 300), first.text()
    assert held_by(finish(small, expect=5).text())[0] == first.process.pid
    assert small.noiselib("gc").code == 5
    go_on(first)
    assert first.wait() == 0, first.text()
    assert outcome(small) == undisturbed.first
    count(races=1, runs=2)


@pytest.mark.long
@pytest.mark.parametrize("what", ["wrote", "found its input bad"])
def test_who_was_taken_over_leaves_what_is_staged_alone(undisturbed, tmp_path, what, count: Count):
    small = undisturbed.fresh.copy(tmp_path / "small")
    first = start(small, failpoint="after_write:SIGSTOP")
    assert until(lambda: stopped(first), 300), first.text()
    finish(small, "perturb", "--take-over")
    staged = mtimes(small)
    assert staged
    source = small.home / "source" / "day=1"
    if what == "found its input bad":
        source.rename(small.home / "aside")
    go_on(first)
    assert first.wait() == (1 if what == "found its input bad" else 5), first.text()
    assert mtimes(small) == staged
    if what == "found its input bad":
        assert "it is another run's now" in first.text()
        (small.home / "aside").rename(source)
    finish(small)
    assert outcome(small) == undisturbed.first
    count(races=1, runs=3)


def mtimes(small: Small) -> dict[Path, int]:
    return {
        file: file.stat().st_mtime_ns
        for file in (small.home / ".published.noiselib" / "staging").glob("[0-9a-f]*/**/*")
        if file.is_file()
    }


@pytest.mark.long
def test_an_older_state_of_the_source_does_not_replace_a_newer_one(undisturbed, tmp_path, count: Count):
    small = undisturbed.fresh.copy(tmp_path / "small")
    late = start(small, failpoint="after_check:SIGSTOP")
    assert until(lambda: stopped(late), 300), late.text()
    restated = undisturbed.restated.home / "source"
    shutil.copytree(restated, small.home / "source", dirs_exist_ok=True)
    finish(small, "run", "--partition", "day=1")  # the other day's release is the same, and held
    newer = releases(small)
    assert newer == {"day=1": undisturbed.second.releases["day=1"]}
    go_on(late)
    assert late.wait() == 1
    assert "was made current in day=1 since this run began" in late.text()
    assert releases(small) == newer
    count(races=1, runs=2)


@pytest.mark.long
def test_leases_that_cannot_be_freed_do_not_change_what_has_come_of_a_run(undisturbed, tmp_path, count: Count):
    small = undisturbed.fresh.copy(tmp_path / "small")
    run = start(small, failpoint="after_check:SIGSTOP")
    assert until(lambda: stopped(run), 300), run.text()
    # what it does next in the ledger is refused, and so is freeing its leases
    locker = sqlite3.connect(small.home / "ledger.db", isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    go_on(run)
    assert run.wait() == 1
    locker.execute("ROLLBACK")
    assert "locked by another process" in run.text()
    assert "not freed, which ends within 15 minutes" in run.text()
    assert small.results()["error"]["type"] == "LedgerError"
    finish(small)
    assert outcome(small) == undisturbed.first
    count(runs=2)
