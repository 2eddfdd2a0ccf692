"""The ledger by the command line: what it answers, whom it refuses, and with which exit code."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from ledgers import BUDGET, ELSEWHERE, ME, execute, fork, request
from ledgers_v1 import make_version_1
from small_pipeline import Answer, Small

from noiselib.cli import main
from noiselib.ledger import Holder, Ledger, database
from noiselib.pipelines import has_state, read_pipelines, standing
from noiselib.release import budget_of
from noiselib.release import request as asked
from noiselib.spark.run import prepare
from noiselib.targets.parquet import ParquetTarget


def noiselib(*arguments: str) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    assert "Traceback" not in err.getvalue()
    return Answer(code, out.getvalue(), err.getvalue())


# -- making, migrating, verifying


def test_made_shown_and_verified(url):
    assert noiselib("ledger", "init", url).out == f"ledger {url}: created\n"
    assert noiselib("ledger", "init", url).out == f"ledger {url}: is there already, unchanged\n"
    with Ledger.open(url) as ledger:
        ledger.reserve(BUDGET, [request(1)], ME)
    [shown] = noiselib("ledger", "show", url, "--json").json
    assert (shown["budget"], shown["unit"], shown["reserved"]) == ("features", "row", 1)
    assert [entry["event"] for entry in noiselib("ledger", "history", url, "--json").json] == ["budget", "reserved"]
    answer = noiselib("ledger", "verify", url, "--json")
    assert (answer.code, answer.json["entries"], answer.json["problems"]) == (0, 2, [])
    head = answer.json["head"]
    assert (
        noiselib("ledger", "verify", url).out == f"2 entries, chained, and every row is what they tell; head {head}\n"
    )
    with Ledger.open(url) as ledger:
        ledger.abandon("r1", holder=ME)
    assert noiselib("ledger", "verify", url, "--head", head).code == 0


def test_what_was_altered_is_named_and_exits_1(ledger, url):
    ledger.reserve(BUDGET, [request(1)], ME)
    head = ledger.verify().head
    execute(url, "UPDATE releases SET state = 'abandoned'")
    answer = noiselib("ledger", "verify", url)
    assert (answer.code, answer.out) == (1, "release r1: state is 'abandoned', expected 'reserved'\n")
    execute(url, "UPDATE releases SET state = 'reserved'")
    answer = noiselib("ledger", "verify", url, "--head", "f" * 64, "--json")
    assert (answer.code, answer.json["success"], answer.json["head"]) == (1, False, head)
    assert "f" * 64 in answer.json["problems"][0]


def test_an_older_ledger_is_migrated_when_it_is_told_to_be(url):
    make_version_1(url)
    for command in ("show", "history", "verify", "init"):
        answer = noiselib("ledger", command, url)
        assert answer.code == 1
        assert "is of schema version 1, expected 2; bring it there by `noiselib ledger migrate`" in answer.err
    assert noiselib("ledger", "migrate", url).out == f"ledger {url}: migrated from version 1 to version 2\n"
    assert noiselib("ledger", "migrate", url).out == f"ledger {url}: is of version 2\n"
    assert noiselib("ledger", "verify", url).code == 0
    execute(url, "UPDATE noiselib_version SET version_num = '3'")
    for command in ("show", "init", "migrate"):
        answer = noiselib("ledger", command, url)
        assert (answer.code, "version 3, which this noiselib" in answer.err) == (1, True)


@pytest.mark.parametrize("fault", ["older", "unknown", "damaged", "locked", "read-only", "gone"])
def test_nothing_begins_on_a_ledger_that_cannot_be_used(small: Small, monkeypatch, fault):
    """`reserve` is the step that every run begins with: exit 1, the ledger's name, no charge, nothing staged."""
    file = small.home / "ledger.db"
    with contextlib.ExitStack() as stack:
        expected = stack.enter_context(broken(fault, file, monkeypatch))
        before = file.read_bytes() if file.exists() else None
        answer = small.noiselib("reserve")
        assert (file.read_bytes() if file.exists() else None) == before
    assert answer.code == 1, answer.err
    assert str(file) in answer.err
    assert expected in answer.err
    assert "Traceback" not in answer.err
    assert not list((small.home / ".published.noiselib").glob("staging/*"))


@contextlib.contextmanager
def broken(fault: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if fault == "older":
        file.unlink()
        make_version_1(f"sqlite:///{file}")
        yield "is of schema version 1"
    elif fault == "unknown":
        execute(f"sqlite:///{file}", "UPDATE noiselib_version SET version_num = '9'")
        yield "version 9, which this noiselib"
    elif fault == "damaged":
        file.write_bytes(b"no ledger" * 1000)
        yield "damaged or not a ledger"
    elif fault == "gone":
        file.unlink()
        yield "found none"
    elif fault == "locked":
        monkeypatch.setattr(Ledger, "open", staticmethod(partial(Ledger.open, wait_seconds=0.3)))
        with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            yield "locked by another process"
    else:
        # Root may write to any file, so SQLite itself is told.
        prepare = database._prepare_sqlite

        def read_only(connection, record):
            prepare(connection, record)
            connection.execute("PRAGMA query_only = ON")

        monkeypatch.setattr(database, "_prepare_sqlite", read_only)
        yield "read-only"


# -- holders


@contextlib.contextmanager
def working(small: Small) -> Iterator[Holder]:
    """Another process that holds all releases of the small pipeline, as a run does, until the block ends."""
    run = prepare(small.spec_file, [], lambda _: None)
    ours, theirs = fork.Pipe()

    def hold() -> None:
        with small.ledger() as ledger:
            ledger.reserve(budget_of(run.spec), [asked(run.plan, one) for one in run.releases], Holder.current())
        theirs.send(Holder.current())
        signal.pause()

    process = fork.Process(target=hold)
    process.start()
    yield ours.recv()
    process.kill()
    process.join()


def test_a_release_that_another_process_holds(small: Small):
    with working(small) as other:
        answer = small.noiselib("reserve")
        assert answer.code == 5
        assert f"is held by process {other.pid} on {other.host} since 20" in answer.err
        assert small.results()["charge"]["epsilon"] == 0
        with small.ledger() as ledger:
            assert {release.holder for release in ledger.releases()} == {other}
        assert small.noiselib("reserve", "--take-over").code == 0
        with small.ledger() as ledger:
            assert {release.holder for release in ledger.releases()} == {None}  # freed at the end of the command
            with pytest.raises(Exception, match="is held by nobody"):
                ledger.advance(ledger.releases()[0].release_id, "staged", holder=other)
    assert small.spent() == pytest.approx(3, abs=1e-3)


def test_a_dead_holder_is_followed_without_a_flag(small: Small):
    with working(small) as other:
        os.kill(other.pid, signal.SIGKILL)
        while not other.dead():
            pass
        assert small.noiselib("reserve").code == 0
    assert small.spent() == pytest.approx(3, abs=1e-3)


def test_whether_a_run_is_at_work_is_told_by_the_ledgers_clock(small: Small, monkeypatch):
    run = prepare(small.spec_file, [], lambda _: None)
    with small.ledger() as ledger:
        ledger.reserve(budget_of(run.spec), [asked(run.plan, one) for one in run.releases], ELSEWHERE)
    assert set(standing(small.spec_file).values()) == {"held"}
    [pipeline] = read_pipelines([small.spec_file])
    assert not has_state("failed", pipeline)
    right = database.host_clock
    monkeypatch.setattr(database, "host_clock", lambda: right() + timedelta(days=1))
    assert set(standing(small.spec_file).values()) == {"unfinished"}
    assert has_state("failed", pipeline)


# -- abandoning


@pytest.fixture
def reserved(small: Small) -> str:
    """A release of the small pipeline that is staged, with its noise on disk, and held by nobody; its id."""
    assert small.noiselib("reserve", "--partition", "day=1").code == 0
    with small.ledger() as ledger:
        [release] = ledger.releases()
        ledger.advance(release.release_id, "staged")
    (target_of(small).staging(release.release_id) / "data").mkdir(parents=True)
    return release.release_id


def target_of(small: Small) -> ParquetTarget:
    return ParquetTarget(small.spec["target"]["path"], 1)


def abandon(small: Small, release_id: str) -> Answer:
    return noiselib("ledger", "abandon", str(small.spec_file), "--release", release_id[:12])


@pytest.mark.parametrize("state", ["staged", "quarantined"])
def test_noise_that_nobody_saw_goes_and_its_charge_comes_back(small: Small, reserved, state):
    if state == "quarantined":
        target_of(small).quarantine(reserved)
        with small.ledger() as ledger:
            ledger.advance(reserved, "quarantined")
    assert abandon(small, reserved).code == 0
    assert small.spent() == 0
    assert not target_of(small).staging(reserved).exists()
    assert not list((small.home / ".published.noiselib").glob("quarantine/*"))
    assert abandon(small, reserved).code == 0  # again, after a lost answer
    with small.ledger() as ledger:
        assert ledger.release(reserved).holder is None
        assert ledger.verify().problems == ()
    assert noiselib("ledger", "verify", str(small.spec_file)).code == 0


def begun(small: Small, release_id: str) -> None:
    with small.ledger() as ledger:
        ledger.begin_publish(release_id)


def published(small: Small, release_id: str) -> None:
    begun(small, release_id)
    with small.ledger() as ledger:
        ledger.advance(release_id, "published")


@pytest.mark.parametrize(
    ("so_far", "message"),
    [(begun, "its publishing began at"), (published, "is published: its charge is never given back")],
)
def test_what_a_reader_may_have_seen_stays(small: Small, reserved, so_far: Callable[[Small, str], None], message):
    so_far(small, reserved)
    spent = small.spent()
    answer = abandon(small, reserved)
    assert (answer.code, message in answer.err) == (1, True)
    assert small.spent() == spent > 0
    assert target_of(small).staging(reserved).exists()
    with small.ledger() as ledger:
        assert ledger.release(reserved).holder is None


def test_a_release_at_work_is_not_taken_from_under_it(small: Small, reserved):
    with working(small) as other:
        answer = abandon(small, reserved)
        assert answer.code == 5
        assert f"process {other.pid} on {other.host}" in answer.err
        assert target_of(small).staging(reserved).exists()  # what it works on is still there
    assert small.spent() > 0
    assert abandon(small, reserved).code == 0  # it is dead now


def test_a_holder_elsewhere_keeps_its_release_while_its_lease_lasts(small: Small, reserved):
    run = prepare(small.spec_file, [{"day": "1"}], lambda _: None)
    with small.ledger() as ledger:
        ledger.reserve(budget_of(run.spec), [asked(run.plan, run.releases[0])], ELSEWHERE)
    answer = abandon(small, reserved)
    assert (answer.code, "on elsewhere since" in answer.err) == (5, True)
    with small.ledger() as ledger:
        ledger.renew([reserved], ELSEWHERE, lease_seconds=0.0)
    assert abandon(small, reserved).code == 0


def test_a_budget_is_of_one_unit(small: Small, change_spec):
    assert small.noiselib("reserve", "--partition", "day=1").code == 0
    change_spec("privacy", "unit", value={"entity": ["name"], "max_rows": 2})
    answer = small.noiselib("reserve", "--partition", "day=2")
    assert answer.code == 2
    assert "Budget 'small': expected the privacy unit it is in use with, row, got entity (name)" in answer.err
    assert small.noiselib("plan").code == 2


def test_a_release_of_another_pipeline_is_not_given_up(small: Small):
    """A ledger may be shared; whether readers see a release, and where its noise lies, only its own pipeline's spec says."""
    with small.ledger() as ledger:
        ledger.reserve(BUDGET, [request("x", pipeline="other")], ME)
        ledger.advance("rx", "staged", holder=ME)
        ledger.free(["rx"], ME)
        answer = abandon(small, "rx")
        assert answer.code == 2
        assert "release rx: is of pipeline 'other'" in answer.err
        assert "'small'" in answer.err
        assert (ledger.release("rx").state, ledger.release("rx").holder) == ("staged", None)
    assert small.spent() > 0


# -- what is no ledger


@pytest.mark.parametrize("port", ["port", "54x2", "5432:1"])
def test_a_url_whose_port_is_no_number(small: Small, change_spec, port):
    url = f"postgresql+psycopg://user:secret@host:{port}/db"
    answers = [noiselib("ledger", action, url) for action in ("init", "show", "migrate")]
    change_spec("ledger", value=url)
    answers.append(small.noiselib("plan"))
    assert f"{small.spec_file}:{line_of(small, 'ledger:')}: ledger: " in answers[-1].err
    for answer in answers:
        assert answer.code == 2, answer.err
        assert "expected" in answer.err.lower()
        assert "secret" not in answer.err


@pytest.mark.parametrize(
    "url",
    [
        "postgresql psycopg://user:secret@host/db",
        "mysql://user:secret@host/db",
        "mysql://host/db?password=secret",
        "postgresql+psycopg://user:secret@127.0.0.1:1/db",
        "postgresql+psycopg://127.0.0.1:1/db?password=secret",
    ],
)
def test_no_password_is_shown(url):
    answer = noiselib("ledger", "init", url)
    assert answer.code in (1, 2)
    assert "secret" not in answer.err


def test_a_catalog_whose_port_is_no_number(small: Small, change_spec):
    uri = "postgresql+psycopg://user:secret@host:port/db"
    change_spec("target", value={"path": "a.b", "format": "iceberg", "catalog": {"uri": uri, "warehouse": "lake"}})
    answer = small.noiselib("plan")
    assert answer.code == 2, answer.err
    assert f"{small.spec_file}:{line_of(small, 'uri:')}: target.catalog.uri: no URL of a database" in answer.err
    assert "secret" not in answer.err


def line_of(small: Small, key: str) -> int:
    lines = small.spec_file.read_text().splitlines()
    return next(number for number, line in enumerate(lines, start=1) if line.lstrip().startswith(key))
