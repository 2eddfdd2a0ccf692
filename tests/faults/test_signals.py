"""SIGTERM and Ctrl-C: what was started ends, leases are freed, results are written, the exit code says so.

Nothing is half published, and the next run finishes what was begun. A failpoint sends the signal at a step of the path;
or it comes from outside, to the whole process group, as a terminal sends it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from crashing import Count, Started, Undisturbed, allowed, finish, name_of, observe, outcome, read, send, start, until
from small_pipeline import Small

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

PROJECT = Path(__file__).resolve().parents[2]
SPARK_SUBMIT = Path(sys.executable).with_name("spark-submit")
SECONDS = 15  # for a JVM to end on a busy machine; alone it takes one


@pytest.fixture(autouse=True)
def heard() -> Iterator[None]:
    """Under nohup the tests, and all that they start, would ignore SIGHUP."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


def check_interrupted(small: Small, undisturbed: Undisturbed, run: Started, name: str) -> None:
    assert run.gone(SECONDS), [name_of(pid) for pid in run.all_pids()]
    results = small.results()
    assert results["status"] == "interrupted"
    assert results["error"] == {"type": "Interrupted", "message": name}
    assert "Traceback" not in run.text()
    release = undisturbed.second.releases["day=1"]
    state = observe(small, release)
    assert allowed(state), state
    [entry] = [one for one in results["releases"] if one["release_id"] == release]
    assert (entry["status"] == "published") == state.visible
    with small.ledger() as ledger:
        assert all(known.holder is None for known in ledger.releases())
    assert outcome(small).values == (undisturbed.second if state.visible else undisturbed.first).values
    finish(small)
    assert outcome(small) == undisturbed.second


@pytest.mark.parametrize(
    ("failpoint", "name"),
    [
        ("after_reserve", "SIGINT"),
        ("before_publish", "SIGTERM"),
        ("before_swap", "SIGINT"),
        ("after_swap", "SIGTERM"),
        ("after_publish", "SIGINT"),
        pytest.param("after_reserve", "SIGTERM", marks=pytest.mark.long),
        pytest.param("after_inspect", "SIGTERM", marks=pytest.mark.long),
        pytest.param("after_inspect", "SIGINT", marks=pytest.mark.long),
        pytest.param("after_write", "SIGINT", marks=pytest.mark.long),
        pytest.param("while_staging", "SIGTERM", marks=pytest.mark.long),
        pytest.param("after_check", "SIGHUP", marks=pytest.mark.long),
        pytest.param("while_building", "SIGTERM", marks=pytest.mark.long),
        pytest.param("after_commit", "SIGINT", marks=pytest.mark.long),
    ],
)
def test_a_signal_at_a_step(undisturbed, checked, tmp_path, count: Count, failpoint, name):
    late = failpoint not in ("after_reserve", "after_inspect", "after_write", "while_staging", "after_check")
    small = (checked if late else undisturbed.restated).copy(tmp_path / "small")
    code = 128 + signal.Signals[name]
    run = finish(small, failpoint=f"{failpoint}:{name}", expect=code)
    check_interrupted(small, undisturbed, run, name)
    count(signals=1, runs=2)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_signal_to_the_whole_group_while_spark_works(undisturbed, tmp_path, count: Count, number):
    """As from a terminal; impatiently, twice."""
    small = undisturbed.restated.copy(tmp_path / "small")
    run = start(small)
    assert until(lambda: working(run), 300), run.text()
    for _ in range(2):
        os.killpg(run.process.pid, number)
        time.sleep(0.05)
    assert run.wait(SECONDS) == 128 + number, run.text()
    check_interrupted(small, undisturbed, run, number.name)
    count(signals=2, runs=2)


def working(run: Started) -> bool:
    """Whether a Python worker of Spark's is at work."""
    return any(b"pyspark.daemon" in read(Path(f"/proc/{pid}/cmdline")) for pid in run.all_pids())


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_a_job_that_spark_submit_started(undisturbed, tmp_path, count: Count, number):
    """Both to the JVM, which is the parent then, and to the driver."""
    small = undisturbed.restated.copy(tmp_path / "small")
    settings = [word for name in ("spark.master=local[1]", "spark.ui.enabled=false") for word in ("--conf", name)]
    run = start(small, launcher=[SPARK_SUBMIT, *settings, PROJECT / "jobs" / "perturb.py"])
    assert until(lambda: working(run), 300), run.text()
    os.killpg(run.process.pid, number)
    assert run.wait(60) != 0
    check_interrupted(small, undisturbed, run, number.name)
    count(signals=1, runs=2)


@pytest.mark.long
@pytest.mark.parametrize("launched_by", ["noiselib", "spark-submit"])
def test_the_jvm_is_killed(undisturbed, tmp_path, count: Count, launched_by):
    """As by the kernel, when memory runs out."""
    small = undisturbed.restated.copy(tmp_path / "small")
    job = [SPARK_SUBMIT, "--conf", "spark.master=local[1]", PROJECT / "jobs" / "perturb.py"]
    run = start(small, launcher=job if launched_by == "spark-submit" else ())
    assert until(lambda: working(run), 300), run.text()
    run.kill("jvm")
    assert run.wait(60) != 0
    assert run.gone(SECONDS)
    assert outcome(small).values == undisturbed.first.values
    with small.ledger() as ledger:
        assert all(known.holder is None or known.holder.dead() for known in ledger.releases())
    finish(small)
    assert outcome(small) == undisturbed.second
    count(kills=1, runs=2)


def test_a_signal_that_is_ignored_stays_so(undisturbed, tmp_path):
    """As under nohup."""
    small = undisturbed.published.copy(tmp_path / "small")
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        run = start(small, failpoint="after_reserve:SIGHUP")
    finally:
        signal.signal(signal.SIGHUP, before)
    assert run.wait() == 0, run.text()
    send(run.process.pid, signal.SIGKILL)
