"""A ledger that is locked, read-only, damaged or away: a bounded wait, then an error that names it, and nothing spent."""

import os
import re
import shutil
import socket
import sqlite3
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest
from ledgers import BUDGET, ELSEWHERE, ME, PostgreSQL, execute, in_process, request
from sqlalchemy.engine import make_url

from noiselib.errors import LedgerError, SpecError
from noiselib.ledger import Ledger, database


@contextmanager
def write_locked(url: str) -> Iterator[None]:
    """Another process's open transaction, as a writer has it."""
    parsed = make_url(url)
    if parsed.get_backend_name() == "sqlite":
        with closing(sqlite3.connect(str(parsed.database), isolation_level=None)) as blocker:
            blocker.execute("BEGIN IMMEDIATE")
            yield
    else:
        plain = parsed.set(drivername="postgresql").render_as_string(hide_password=False)
        with psycopg.connect(plain) as blocker:
            blocker.execute("SELECT version_num FROM noiselib_version FOR UPDATE")
            yield


def test_a_lock_is_waited_for(ledger, url):
    locked, freed = threading.Event(), threading.Event()

    def block() -> None:
        with write_locked(url):
            locked.set()
            freed.wait(30)

    thread = threading.Thread(target=block)
    thread.start()
    assert locked.wait(10)
    threading.Timer(0.5, freed.set).start()
    assert ledger.reserve(BUDGET, [request(1)], ME).states == {"r1": None}
    assert freed.is_set()
    thread.join()


def test_a_wait_ends(ledger, url):
    ledger.reserve(BUDGET, [request(1)], ME)
    with write_locked(url), Ledger.open(url, wait_seconds=0.3) as patient:
        begun = time.monotonic()
        for write in (
            lambda: patient.reserve(BUDGET, [request(2)], ME),
            lambda: patient.advance("r1", "staged"),
            lambda: patient.free(["r1"], ME),
            lambda: Ledger.migrate(url, wait_seconds=0.3),
        ):
            with pytest.raises(LedgerError, match="locked by another process"):
                write()
        assert 1.0 < time.monotonic() - begun < 15
        assert [release.state for release in patient.releases()] == ["reserved"]  # reading goes on
    assert len(ledger.releases()) == 1


def test_a_file_locked_for_reading_too(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    with Ledger.create(url), closing(sqlite3.connect(tmp_path / "ledger.db", isolation_level=None)) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        with pytest.raises(LedgerError, match=r"ledger\.db: locked"):
            Ledger.open(url, wait_seconds=0.3)
        assert 0.2 < time.monotonic() - begun < 5


def test_a_file_that_is_read_only():
    directory = Path(tempfile.mkdtemp())
    try:
        directory.chmod(0o755)
        url = f"sqlite:///{directory}/ledger.db"
        with Ledger.create(url) as ledger:
            ledger.reserve(BUDGET, [request(1)], ME)
        (directory / "ledger.db").chmod(0o444)

        def reader() -> tuple[int, str]:
            if os.geteuid() == 0:
                os.setuid(65534)  # root may write anything
            with Ledger.open(url) as mine:
                assert mine.show()[0].counts["reserved"] == 1
                with pytest.raises(LedgerError) as caught:
                    mine.reserve(BUDGET, [request(2)], ME)
                return len(mine.releases()), str(caught.value)

        count, message = in_process(reader)
        assert count == 1
        assert "ledger.db: read-only" in message
    finally:
        shutil.rmtree(directory)


def test_a_database_that_is_read_only(postgresql: PostgreSQL):
    url = postgresql.new_url()
    Ledger.create(url).close()
    standby = f"{url}%20-cdefault_transaction_read_only%3Don"  # as a hot standby answers
    with Ledger.open(standby) as ledger:
        assert ledger.show() == []
        with pytest.raises(LedgerError, match="read-only, expected to write"):
            ledger.reserve(BUDGET, [request(1)], ME)


def test_truncated_and_overwritten(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    ledger = Ledger.create(url)
    ledger.reserve(BUDGET, [request(1)], ME)
    path = Path(ledger.name)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LedgerError, match="damaged"):
        ledger.reserve(BUDGET, [request(2)], ME)
    path.write_bytes(whole[:100] + os.urandom(len(whole) - 100))
    with pytest.raises(LedgerError, match=r"ledger\.db"):
        Ledger.open(url)


@pytest.mark.parametrize(
    ("table", "assignment"),
    [
        ("releases", 'charge = \'[{"kind": "cauchy", "slack": 0, "count": 1}]\''),
        ("releases", "charge = '[]x'"),
        ("releases", "memos = '[1]'"),
        ("budgets", "epsilon = -1.0"),
    ],
)
def test_what_cannot_be_read_is_not_skipped(ledger, url, table, assignment):
    ledger.reserve(BUDGET, [request(1)], ME)
    execute(url, f"UPDATE {table} SET {assignment}")
    with pytest.raises((LedgerError, SpecError), match=r"release r1 is damaged|expected the limit it is in use with"):
        ledger.reserve(BUDGET, [request(2)], ME)
    with pytest.raises(LedgerError, match=r"(release r1|budget features) is damaged"):
        ledger.show()
    assert execute(url, "SELECT count(*) FROM releases") == [(1,)]


# -- PostgreSQL


def test_nobody_answers():
    with closing(socket.socket()) as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    begun = time.monotonic()
    with pytest.raises(LedgerError, match=r"127\.0\.0\.1"):
        Ledger.open(f"postgresql+psycopg://noiselib:secret@127.0.0.1:{port}/none", wait_seconds=1)
    assert time.monotonic() - begun < 10


def test_a_server_that_takes_the_call_and_says_nothing():
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        begun = time.monotonic()
        with pytest.raises(LedgerError, match="timeout") as caught:
            Ledger.open(f"postgresql+psycopg://noiselib:secret@127.0.0.1:{mute.getsockname()[1]}/none", wait_seconds=1)
        assert time.monotonic() - begun < 10
    assert "secret" not in str(caught.value)


def test_a_role_that_may_append_only(postgresql: PostgreSQL):
    """The grants of docs/ledger.md are enough, and do not let a user of the ledger alter its history."""
    url = postgresql.new_url()
    Ledger.create(url).close()
    page = (Path(__file__).parents[2] / "docs" / "ledger.md").read_text()
    grants = re.findall(r"^    (GRANT .*);", page, re.MULTILINE)
    assert len(grants) == 3
    schema = url.rpartition("%3D")[2]
    for statement in ("CREATE ROLE member LOGIN", f"GRANT USAGE ON SCHEMA {schema} TO member", *grants):
        execute(url, statement)
    theirs = url.replace("noiselib@", "member@")
    with Ledger.open(theirs) as ledger:
        ledger.reserve(BUDGET, [request(1), request(2)], ME)
        ledger.reserve(BUDGET, [request(1)], ELSEWHERE, take_over=True)
        ledger.advance("r1", "staged", holder=ELSEWHERE)
        ledger.begin_publish("r1", ELSEWHERE)
        ledger.advance("r1", "published", holder=ELSEWHERE)
        ledger.abandon("r2", holder=ME)
        assert ledger.verify().problems == ()
    for statement in ("UPDATE history SET detail = '{}'", "DELETE FROM history", "DELETE FROM releases"):
        with pytest.raises(Exception, match="permission denied"):
            execute(theirs, statement)


def test_every_commit_is_durable_whatever_the_server_says(postgresql: PostgreSQL):
    url = postgresql.new_url() + "%20-csynchronous_commit%3Doff"
    with Ledger.create(url) as ledger, database.transaction(ledger._engine, ledger.name, write=True) as connection:
        assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_a_file_commits_to_the_disk(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    with Ledger.create(url) as ledger, database.transaction(ledger._engine, ledger.name, write=True) as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 3  # EXTRA
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
