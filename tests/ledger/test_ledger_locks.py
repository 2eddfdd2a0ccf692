"""Sessions of a PostgreSQL ledger wait for each other in one order, for a bounded time, and read what was committed before."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from ledgers import BUDGET, ME, PostgreSQL, execute, in_processes, request
from ledgers_v1 import make_version_1

from noiselib.errors import LedgerError
from noiselib.ledger import Budget, Holder, Ledger, database, schema

WIDE = Budget("wide", 1000.0, 1e-3)  # all of the tests' releases fit


@pytest.fixture
def place(postgresql: PostgreSQL) -> str:
    """The URL of a ledger with one release."""
    url = postgresql.new_url()
    with Ledger.create(url) as ledger:
        ledger.reserve(WIDE, [request(0)], ME)
    return url


@contextmanager
def beside(work: Callable[[], Any]) -> Iterator[list[Any]]:
    """Run `work` in a thread while the block does; what it returned, or the error it ended with, is in the list then."""
    outcome: list[Any] = []

    def body() -> None:
        try:
            outcome.append(work())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    try:
        yield outcome
    finally:
        thread.join(60)


def until_waiting(postgresql: PostgreSQL) -> None:
    """Until a session waits for a lock."""
    postgresql.until("SELECT count(*) > 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'", True)


# -- in one order


def test_making_a_ledger_that_is_there_waits_for_nobody(place):
    with Ledger.open(place) as ledger, ledger._writing():
        assert not Ledger.create(place, wait_seconds=0.3).created


def test_who_makes_works_and_verifies_at_once_never_waits_crosswise(place):
    def writer(number: int) -> Callable[[], str]:
        def work() -> str:
            me = Holder.current()
            with Ledger.open(place, wait_seconds=60) as ledger:
                for turn in range(3):
                    name = f"{number}-{turn}"
                    ledger.reserve(WIDE, [request(name)], me)
                    ledger.advance(f"r{name}", "staged", holder=me)
            return "done"

        return work

    def reader() -> str:
        with Ledger.open(place, wait_seconds=60) as ledger:
            for _ in range(8):
                assert ledger.verify().problems == ()
                ledger.show()
        return "done"

    def maker() -> str:
        for _ in range(20):
            assert not Ledger.create(place, wait_seconds=60).created
        return "done"

    works = [*(telling(writer(number)) for number in range(8)), telling(reader), telling(maker), telling(maker)]
    assert in_processes(works) == ["done"] * 11
    with Ledger.open(place) as ledger:
        assert len(ledger.releases()) == 25


def telling(work: Callable[[], str]) -> Callable[[], str]:
    """The error's message in place of the error, which the test would show by its name alone."""

    def told() -> str:
        try:
            return work()
        except LedgerError as error:
            return str(error)

    return told


def test_a_migration_waits_for_a_reader_and_holds_nothing_that_it_reads(place, postgresql: PostgreSQL):
    begun = threading.Event()

    def migrate() -> tuple[str, str]:
        assert begun.wait(30)
        return Ledger.migrate(place)

    with Ledger.open(place) as ledger, beside(migrate) as migrated, ledger._reading() as connection:
        begun.set()
        until_waiting(postgresql)
        connection.execute(sa.text("SET LOCAL lock_timeout = 2000"))
        for table in (schema.releases, schema.history, schema.budgets, schema.memos):
            connection.execute(sa.select(table)).all()
    assert migrated == [("2", "2")]


def test_a_reader_that_waited_for_a_migration_reads_nothing_of_before(place, postgresql: PostgreSQL):
    with Ledger.open(place) as ledger, sa.create_engine(place).connect() as migrating:
        migrating.execute(sa.text("LOCK TABLE noiselib_version IN ACCESS EXCLUSIVE MODE"))
        with beside(ledger.releases) as read:
            until_waiting(postgresql)
            migrating.execute(sa.text("UPDATE noiselib_version SET version_num = '3'"))
            migrating.commit()
    assert "is of schema version 3, expected 2" in str(read[0])


@pytest.mark.parametrize(
    "read",
    [Ledger.show, Ledger.verify, Ledger.history, Ledger.releases, lambda ledger: ledger.at_work("flights")],
    ids=["show", "verify", "history", "releases", "at_work"],
)
def test_a_ledger_migrated_since_it_was_opened_is_not_read(ledger, url, read):
    execute(url, "UPDATE noiselib_version SET version_num = '3'")
    with pytest.raises(LedgerError, match="is of schema version 3, expected 2"):
        read(ledger)


def test_a_ledger_is_migrated_beside_those_who_open_it(postgresql: PostgreSQL):
    url = postgresql.new_url()
    make_version_1(url, more=200)

    def opener() -> str:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                with Ledger.open(url, wait_seconds=30) as ledger:
                    return f"{len(ledger.verify().problems)} problems"
            except LedgerError as error:
                if "version 1, expected 2" not in str(error) and "run again" not in str(error):
                    return str(error)
        return "never migrated"

    works = [*[opener] * 6, telling(lambda: " to ".join(Ledger.migrate(url, wait_seconds=30)))]
    assert in_processes(works) == ["0 problems"] * 6 + ["1 to 2"]


# -- what was committed before


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_writer_sees_what_was_committed_while_it_waited(place, postgresql: PostgreSQL, level):
    """A server or a role may have an isolation level by default whose snapshot would be older than the lock."""
    role = level.replace(" ", "_")
    postgresql.execute(f"CREATE ROLE {role} LOGIN SUPERUSER")
    postgresql.execute(f"ALTER ROLE {role} SET default_transaction_isolation = '{level}'")
    strict = place.replace("noiselib@", f"{role}@")
    assert execute(strict, "SHOW transaction_isolation") == [(level,)]
    locked = threading.Event()

    def second() -> Any:
        locked.wait(10)
        with Ledger.open(strict) as ledger:
            return ledger.reserve(BUDGET, [request(2)], ME).states

    with Ledger.open(place) as ledger:
        with beside(second) as reserved, ledger._writing() as writer:
            locked.set()
            until_waiting(postgresql)
            limit = {"epsilon": BUDGET.epsilon, "delta": BUDGET.delta, "unit": BUDGET.unit}
            writer.record("budget", BUDGET.name, detail=limit)
        assert reserved == [{"r2": None}]
        assert ledger.verify().problems == ()


# -- for a bounded time


def test_no_statement_lasts_for_ever(place, monkeypatch):
    monkeypatch.setattr(database, "STATEMENT_SECONDS", 0.0)
    with Ledger.open(place, wait_seconds=0.3) as ledger:
        begun = time.monotonic()
        with pytest.raises(LedgerError, match="it took too long"), ledger._writing() as writer:
            writer.connection.execute(sa.text("SELECT pg_sleep(20)"))
        assert time.monotonic() - begun < 10


def test_what_reads_or_changes_the_whole_may_take_its_time(postgresql: PostgreSQL, monkeypatch):
    url, upgrade = postgresql.new_url(), schema.upgrade
    make_version_1(url)

    def slowly(connection: sa.Connection) -> None:
        connection.execute(sa.text("SELECT pg_sleep(1)"))
        upgrade(connection)

    monkeypatch.setattr(schema, "upgrade", slowly)
    monkeypatch.setattr(database, "STATEMENT_SECONDS", 0.0)
    assert Ledger.migrate(url, wait_seconds=0.3) == ("1", "2")
    # As slow as one of very many entries.
    execute(url, "ALTER TABLE history RENAME TO kept")
    execute(url, "CREATE VIEW history AS SELECT kept.* FROM kept, (SELECT pg_sleep(1)) AS slow")
    with Ledger.open(url, wait_seconds=0.3) as ledger:
        assert ledger.verify().problems == ()
        assert len(ledger.history()) == ledger.verify().entries
