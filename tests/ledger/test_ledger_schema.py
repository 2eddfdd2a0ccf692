"""Making, opening and migrating a ledger. Version 1 is what noiselib once wrote, its tables as they were."""

import itertools
import json
import os
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from ledgers import BUDGET, ELSEWHERE, ME, execute, in_process, in_processes, killed, request
from ledgers_v1 import make_version_1

from noiselib.errors import LedgerError, ReleaseHeld, SpecError
from noiselib.ledger import Budget, Ledger, schema


@pytest.fixture
def old(url):
    """The URL of a ledger of version 1 with two budgets, a memo, and releases in every state."""
    make_version_1(url)
    return url


# -- making and opening


def test_create_is_harmless_and_open_is_not_create(url):
    with pytest.raises(LedgerError, match=r"noiselib ledger init"):
        Ledger.open(url)
    with Ledger.create(url) as first:
        assert first.created
        first.reserve(BUDGET, [request(1)], ME)
    with Ledger.create(url) as second:
        assert not second.created
        assert len(second.releases()) == 1


def test_one_of_many_creates(url):
    outcomes = in_processes([lambda: Ledger.create(url).created] * 8)
    assert sorted(outcomes, key=str) == [False] * 7 + [True]


def test_not_an_empty_database(url):
    if url.startswith("sqlite"):
        Path(sa.make_url(url).database).parent.mkdir()
    execute(url, "CREATE TABLE budgets (name TEXT)")
    with pytest.raises(LedgerError, match="empty database"):
        Ledger.create(url)
    with pytest.raises(LedgerError, match="without its tables"):
        Ledger.open(url)


@pytest.mark.parametrize(
    "wrong", ["sqlite://", "sqlite:///:memory:", "ledger.db", "", "mysql://host/db", "postgresql://host/db"]
)
def test_a_url_that_is_no_ledger(wrong):
    for use in (Ledger.open, Ledger.create, Ledger.migrate):
        with pytest.raises(SpecError, match="sqlite:///path"):
            use(wrong)


def test_a_ledger_that_goes_is_not_replaced(tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db"
    with Ledger.create(url) as ledger:
        (tmp_path / "ledger.db").unlink()
        for use in (lambda: ledger.reserve(BUDGET, [request(1)], ME), ledger.show):
            with pytest.raises(LedgerError, match=r"ledger\.db"):
                use()
    assert not (tmp_path / "ledger.db").exists()


def test_not_a_ledger(tmp_path):
    path = tmp_path / "ledger.db"
    url = f"sqlite:///{path}"
    path.write_bytes(os.urandom(8192))
    for use in (Ledger.open, Ledger.create, Ledger.migrate):
        with pytest.raises(LedgerError, match=r"ledger\.db: damaged or not a ledger"):
            use(url)
    path.write_bytes(b"")
    for use in (Ledger.open, Ledger.migrate):
        with pytest.raises(LedgerError, match="without its tables"):
            use(url)


def test_without_a_driver(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "psycopg", None)
    with pytest.raises(LedgerError, match="no driver for it is installed"):
        Ledger.open("postgresql+psycopg://nobody@127.0.0.1:1/none")


# -- versions


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("UPDATE noiselib_version SET version_num = '3'", "version 3, which this noiselib, at 2, does not know"),
        ("UPDATE noiselib_version SET version_num = 'x'", "version x, which this noiselib"),
        ("INSERT INTO noiselib_version VALUES ('1')", "version (1.2|2.1), which this noiselib"),
        ("DELETE FROM noiselib_version", "version unknown, which this noiselib"),
    ],
)
def test_an_unknown_version_fails_closed(ledger, url, statement, found):
    execute(url, statement)
    for use in (Ledger.open, Ledger.create, Ledger.migrate):
        with pytest.raises(LedgerError, match=found):
            use(url)
    before = execute(url, "SELECT count(*) FROM history")
    for use in (lambda: ledger.reserve(BUDGET, [request(1)], ME), lambda: ledger.free(["r1"])):  # opened before
        with pytest.raises(LedgerError, match="expected 2"):
            use()
    assert execute(url, "SELECT count(*) FROM history") == before


def test_an_older_version_fails_closed_and_says_what_to_do(old):
    for use in (Ledger.open, Ledger.create):
        with pytest.raises(LedgerError, match=r"version 1, expected 2; bring it there by `noiselib ledger migrate`"):
            use(old)


def test_migrating_keeps_everything_and_begins_the_chain(old):
    history = execute(old, "SELECT time, budget, release_id, event, detail FROM history ORDER BY seq")
    kept = {table: execute(old, f"SELECT * FROM {table} ORDER BY 1, 2") for table in ("releases", "memos")}
    assert Ledger.migrate(old) == ("1", "2")
    assert Ledger.migrate(old) == ("2", "2")
    for table, rows in kept.items():
        assert execute(old, f"SELECT * FROM {table} ORDER BY 1, 2") == rows
    with Ledger.open(old) as ledger:
        entries = ledger.history()
        assert [(e.time, e.budget, e.release_id, e.event, json.dumps(e.detail)) for e in entries[: len(history)]] == [
            (*entry[:4], json.dumps(json.loads(entry[4]))) for entry in history
        ]
        assert [entry.event for entry in entries[len(history) :]] == ["migrated"] * (2 + 1 + 6)
        assert ledger.verify().problems == ()
        assert {r.release_id: r.state for r in ledger.releases()} == {
            "r0": "reserved", "r1": "staged", "r2": "quarantined", "r3": "published", "r4": "abandoned", "r5": "staged",
        }  # fmt: skip
        assert [status.spent for status in ledger.show()] == pytest.approx([0.6, 0.1], rel=1e-3)


def test_a_migrated_ledger_goes_on(old):
    Ledger.migrate(old)
    with Ledger.open(old) as ledger:
        assert [status.budget.unit for status in ledger.show()] == ["unknown", "unknown"]
        ledger.reserve(BUDGET, [request(6)], ME)
        assert ledger.show("features")[0].budget == BUDGET
        with pytest.raises(SpecError, match="in use with, row, got entity"):
            ledger.reserve(Budget("features", 1.0, 1e-6, "entity (person)"), [request(7)], ME)
        with pytest.raises(ReleaseHeld, match="elsewhere"):
            ledger.reserve(BUDGET, [request(0)], ME)
        ledger.reserve(BUDGET, [request(0)], ME, take_over=True)
        ledger.advance("r0", "staged", holder=ME)
        ledger.advance("r1", "published")
        with pytest.raises(LedgerError, match="publishing began"):
            ledger.abandon("r5")
        ledger.reserve(BUDGET, [request(4)], ME)
        assert ledger.verify().problems == ()


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ("UPDATE releases SET state = 'abandoned' WHERE release_id = 'r3'", "release r3: state is 'abandoned'"),
        ("DELETE FROM releases WHERE release_id = 'r1'", "release r1: was removed"),
        ("UPDATE budgets SET epsilon = 50", "budget features: epsilon is 50"),
        ("DELETE FROM memos", "memo features m1: was removed"),
        ("DELETE FROM history WHERE seq = 2", "history entry 3 (budget): does not follow entry 1"),
        ("UPDATE history SET detail = '[]' WHERE seq = 3", "history entry 3 (budget): was altered"),
    ],
)
def test_what_is_altered_after_migrating_is_found(old, statement, problem):
    Ledger.migrate(old)
    execute(old, statement)
    with Ledger.open(old) as ledger:
        assert any(problem in found for found in ledger.verify().problems), ledger.verify().problems


def test_migrated_and_made_are_the_same_tables(old, tmp_path):
    Ledger.migrate(old)
    engine = sa.create_engine(old)
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": "none", "compare_type": True})
        assert compare_metadata(context, schema.metadata) == []
        execute(old, "ALTER TABLE budgets ADD COLUMN surplus TEXT")
        connection.rollback()
        assert len(compare_metadata(context, schema.metadata)) == 1  # the control
    engine.dispose()


def test_one_of_many_migrates(old):
    outcomes = in_processes([lambda: Ledger.migrate(old)] * 6)
    assert sorted(outcomes) == [("1", "2")] + [("2", "2")] * 5
    with Ledger.open(old) as ledger:
        assert ledger.verify().problems == ()


@pytest.mark.parametrize("step", range(1, 8))
def test_killed_while_migrating_it_is_of_the_old_version_or_the_new(old, step):
    """Killed after its nth statement that changes something: one transaction, so all of it or nothing."""
    tables = ("budgets", "releases", "memos", "history")
    before = {table: execute(old, f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables}

    def doomed() -> None:
        changes = itertools.count(1)

        @sa.event.listens_for(sa.Engine, "after_cursor_execute")
        def count(_connection, _cursor, statement, *_rest):
            if statement.lstrip().split()[0] not in ("SELECT", "PRAGMA", "BEGIN", "LOCK") and next(changes) == step:
                killed()

        Ledger.migrate(old)

    assert in_process(doomed) is None
    with pytest.raises(LedgerError, match="version 1, expected 2"):
        Ledger.open(old)
    assert {table: execute(old, f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables} == before
    assert Ledger.migrate(old) == ("1", "2")
    with Ledger.open(old) as ledger:
        assert ledger.verify().problems == ()
        assert len(ledger.releases()) == len(before["releases"])


def test_what_version_1_still_writes_after_migrating_is_refused(old):
    """A run of the older noiselib may have the ledger open: its entries have no hash, so none gets in."""
    Ledger.migrate(old)
    insert = "INSERT INTO history (time, budget, event, detail) VALUES ('t', 'features', 'published', 'null')"
    with pytest.raises((sa.exc.IntegrityError, sqlite3.IntegrityError)):
        execute(old, insert)


def test_nothing_of_a_migration_is_kept_if_it_fails(old, monkeypatch):
    check = schema.check
    monkeypatch.setattr(schema, "check", lambda *_: (_ for _ in ()).throw(LedgerError("no")))
    with pytest.raises(LedgerError, match="no"):
        Ledger.migrate(old)
    monkeypatch.setattr(schema, "check", check)
    with pytest.raises(LedgerError, match="version 1, expected 2"):
        Ledger.open(old)


def test_leases_outlive_the_migration(old):
    Ledger.migrate(old)
    with Ledger.open(old) as ledger:
        assert ledger.release("r0").holder == ELSEWHERE
        assert ledger.release("r0").lease_until == "2999-01-01T00:00:00.000000+00:00"
