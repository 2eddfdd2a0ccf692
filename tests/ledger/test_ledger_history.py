"""The history's chain: whatever is altered, removed, added or moved, in any table, is found and named."""

import hashlib
import json
import re
from collections.abc import Iterator

import pytest
from ledgers import BACKENDS, BUDGET, CHARGE, ELSEWHERE, ME, execute, request

from noiselib.ledger import Budget, Ledger, Memo, schema
from noiselib.ledger.history import GENESIS

MEMO = Memo("m1", "income", CHARGE)
TABLES = ("budgets", "releases", "memos", "history")


@pytest.fixture(scope="module", params=BACKENDS)
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where a ledger lies in which everything has happened that can happen."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('busy')}/ledger.db"
    else:
        url = request.getfixturevalue("postgresql").new_url()
    with Ledger.create(url) as ledger:
        make_busy(ledger)
    for table in TABLES:
        execute(url, f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")
    return url


def make_busy(ledger: Ledger) -> None:
    ledger.reserve(BUDGET, [request(i) for i in range(5)], ME)
    ledger.reserve(Budget("second", 3.0, 1e-9, "entity (person)"), [request("s", memos=(MEMO,))], ELSEWHERE)
    for release_id in ("r1", "r2", "r3"):
        ledger.advance(release_id, "staged", {"rows": 200}, ME)
    ledger.advance("r1", "quarantined", {"failed": ["nulls"]}, ME)
    for release_id in ("r2", "r3"):
        ledger.begin_publish(release_id, ME)
    ledger.advance("r3", "published", holder=ME)
    ledger.abandon("r4", {"why": "spec changed"}, ME)
    ledger.reserve(BUDGET, [request(4, key_id="key-2")], ME)
    ledger.free(["r0"], ME)
    ledger.reserve(BUDGET, [request(0)], ELSEWHERE)
    ledger.renew(["r1"], ME)


@pytest.fixture
def busy(place: str) -> Iterator[Ledger]:
    """That ledger; what a test does to it behind its back is undone."""
    with Ledger.open(place) as ledger:
        yield ledger
    for table in reversed(TABLES):
        execute(place, f"DELETE FROM {table}")
    for table in TABLES:
        execute(place, f"INSERT INTO {table} SELECT * FROM kept_{table}")


def test_an_untouched_ledger_has_no_problems(busy):
    found = busy.verify()
    assert found.problems == ()
    assert found.entries == len(busy.history()) > 15
    assert found.head == busy.history()[-1].hash
    assert {entry.event for entry in busy.history()} == {
        "budget", "memo", "reserved", "held", "freed", "staged", "quarantined", "publishing", "published", "abandoned",
    }  # fmt: skip


def test_an_empty_ledger(ledger):
    assert (ledger.verify().entries, ledger.verify().head, ledger.verify().problems) == (0, GENESIS, ())


def test_the_chain_by_hand(busy):
    """The construction of docs/ledger.md, without noiselib."""
    previous = "0" * 64
    for seq, entry in enumerate(busy.history(), start=1):
        detail = json.dumps(entry.detail, sort_keys=True, separators=(",", ":"))
        fields = [previous, seq, entry.time, entry.budget, entry.release_id, entry.event, detail]
        previous = hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode()).hexdigest()
        assert entry.hash == previous
    assert busy.verify().head == previous


# Every column of every table (leases' ends aside), by a statement that changes it in one row, and who is named.
ALTERED = {
    "budgets": ("features", {"epsilon": "2.0", "delta": "1e-5", "unit": "'entity (x)'", "created": "'2020'"}),
    "releases": (
        "r3",
        {
            "budget": "'second'", "pipeline": "'other'", "partition": "'month=3'", "parallel": "true",
            "key_id": "'key-9'", "state": "'abandoned'", "charge": "'[]'", "memos": "'[{}]'", "holder_host": "'x'",
            "holder_pid": "1", "holder_started": "'x'", "held_since": "'2020'", "publish_began": "NULL",
            "created": "'2020'", "updated": "'2020'",
        },
    ),
    "memos": ("m1", {"pipeline": "'x'", "column": "'x'", "charge": "'[]'", "first_release": "'x'"}),
}  # fmt: skip


def test_every_column_is_altered_here():
    for table, (_, columns) in ALTERED.items():
        keys = {column.name for column in schema.metadata.tables[table].primary_key}
        assert {*columns} | keys | {"lease_until"} == {*schema.metadata.tables[table].columns.keys()} | {"lease_until"}


@pytest.mark.parametrize(
    ("table", "column", "value"), [(t, c, v) for t, (_, columns) in ALTERED.items() for c, v in columns.items()]
)
def test_an_altered_row_is_named(busy, place, table, column, value):
    key = schema.metadata.tables[table].primary_key.columns.keys()[-1]
    name = ALTERED[table][0]
    execute(place, f"UPDATE {table} SET \"{column}\" = {value} WHERE {key} = '{name}'")
    [problem] = busy.verify().problems
    assert re.match(rf"{table[:-1]} .*{name}: {column} is .*, expected ", problem)


@pytest.mark.parametrize(("table", "key"), [("releases", "r1"), ("memos", "second m1")])
def test_a_removed_row_is_named(busy, place, table, key):
    column = "release_id" if table == "releases" else "memo_id"
    execute(place, f"DELETE FROM {table} WHERE {column} = '{key.split()[-1]}'")
    assert busy.verify().problems == (f"{table[:-1]} {key}: was removed",)


def test_a_removed_budget_is_named(busy, place):
    for statement in (
        "DELETE FROM releases WHERE budget = 'second'",
        "DELETE FROM memos",
        "DELETE FROM budgets WHERE name = 'second'",
    ):
        execute(place, statement)
    problems = busy.verify().problems
    assert problems == ("budget second: was removed", "memo second m1: was removed", "release rs: was removed")


@pytest.mark.parametrize(
    ("table", "copy", "named"),
    [
        ("releases", "release_id = 'r3'", "release r99"),
        ("budgets", "name = 'second'", "budget r99"),
        ("memos", "memo_id = 'm1'", "memo second r99"),
    ],
)
def test_an_inserted_row_is_named(busy, place, table, copy, named):
    columns = schema.metadata.tables[table].columns.keys()
    key = schema.metadata.tables[table].primary_key.columns.keys()[-1]
    chosen = ", ".join("'r99'" if name == key else f'"{name}"' for name in columns)
    execute(place, f"INSERT INTO {table} SELECT {chosen} FROM {table} WHERE {copy}")
    assert busy.verify().problems == (f"{named}: was never written by noiselib",)


@pytest.mark.parametrize("column", ["time", "budget", "release_id", "event", "detail", "hash", "previous"])
@pytest.mark.parametrize("which", ["first", "middle", "last"])
def test_an_altered_entry_is_named(busy, place, column, which):
    last = len(busy.history())
    seq = {"first": 1, "middle": last // 2, "last": last}[which]
    execute(place, f"UPDATE history SET {column} = 'x' WHERE seq = {seq}")
    assert any(problem.startswith(f"history entry {seq} (") for problem in busy.verify().problems)


def test_a_removed_entry_is_found(busy, place):
    entries = busy.history()
    for seq in range(1, len(entries)):
        rows = execute(place, f"SELECT * FROM history WHERE seq = {seq}")
        execute(place, f"DELETE FROM history WHERE seq = {seq}")
        assert any(
            p.startswith(f"history entry {seq + 1} (") and "does not follow" in p for p in busy.verify().problems
        )
        execute(place, f"INSERT INTO history VALUES {_literal(rows[0])}")
    assert busy.verify().problems == ()


def test_removed_and_renumbered_entries_are_found(busy, place):
    execute(place, "DELETE FROM history WHERE seq = 4")
    for entry in busy.history()[3:]:
        execute(place, f"UPDATE history SET seq = {entry.seq - 1} WHERE seq = {entry.seq}")
    assert any(problem.startswith("history entry 4 (") for problem in busy.verify().problems)


def test_an_inserted_entry_is_found(busy, place):
    for entry in reversed(busy.history()[5:]):
        execute(place, f"UPDATE history SET seq = {entry.seq + 1} WHERE seq = {entry.seq}")
    execute(
        place,
        "INSERT INTO history SELECT 6, time, budget, release_id, event, detail, previous, hash FROM history WHERE seq = 5",
    )
    assert any(problem.startswith("history entry 6 (") for problem in busy.verify().problems)


def test_moved_entries_are_found(busy, place):
    for one, other in ((5, 100), (6, 5), (100, 6)):
        execute(place, f"UPDATE history SET seq = {other} WHERE seq = {one}")
    problems = busy.verify().problems
    assert any(problem.startswith("history entry 5 (") for problem in problems)
    assert any(problem.startswith("history entry 6 (") for problem in problems)


def test_an_end_cut_off_is_found_by_the_rows_or_by_a_head_that_was_kept(ledger, url):
    ledger.reserve(BUDGET, [request(1)], ME)
    ledger.advance("r1", "staged", holder=ME)
    head = ledger.verify().head
    assert ledger.verify(head).problems == ()
    ledger.advance("r1", "quarantined", holder=ME)
    assert ledger.verify(head).problems == ()  # an older head is still in the chain
    head = ledger.verify().head
    execute(url, "DELETE FROM history WHERE seq = 4")
    [state, updated] = ledger.verify().problems
    assert state == "release r1: state is 'quarantined', expected 'staged'"
    assert updated.startswith("release r1: updated is")
    # Who also sets the rows back is found only by someone who kept the head.
    [(time,)] = execute(url, "SELECT time FROM history WHERE seq = 3")
    execute(url, f"UPDATE releases SET state = 'staged', updated = '{time}'")
    assert ledger.verify().problems == ()
    [problem] = ledger.verify(head).problems
    assert head in problem


def test_a_chain_written_anew_is_found_only_by_a_head_that_was_kept(busy, place):
    """The limit that docs/ledger.md states: whoever writes to the database can also compute hashes."""
    head = busy.verify().head
    execute(place, "UPDATE budgets SET epsilon = 30.0 WHERE name = 'features'")
    previous = GENESIS
    for seq, entry in enumerate(busy.history(), start=1):
        changed = {**entry.detail, "epsilon": 30.0} if seq == 1 else entry.detail
        detail = json.dumps(changed, sort_keys=True, separators=(",", ":"))
        fields = [previous, seq, entry.time, entry.budget, entry.release_id, entry.event, detail]
        digest = hashlib.sha256(json.dumps(fields, separators=(",", ":")).encode()).hexdigest()
        execute(
            place,
            f"UPDATE history SET detail = '{detail}', previous = '{previous}', hash = '{digest}' WHERE seq = {seq}",
        )
        previous = digest
    assert busy.verify().problems == ()
    assert len(busy.verify(head).problems) == 1


@pytest.mark.parametrize("detail", ["[]x", "null", "3", '{"charge": 3}'])
def test_an_entry_that_cannot_be_read_is_a_problem_and_no_crash(busy, place, detail):
    execute(place, f"UPDATE history SET detail = '{detail}' WHERE event = 'reserved'")
    problems = busy.verify().problems
    assert any("cannot be read" in problem for problem in problems)
    assert any("was altered" in problem for problem in problems)


def _literal(row):
    values = ("NULL" if value is None else str(value) if isinstance(value, int) else f"'{value}'" for value in row)
    return f"({', '.join(values)})"
