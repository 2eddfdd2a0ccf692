"""The history: an append-only chain of entries, which says of every row what it must be.

An entry's hash is SHA-256 over the hash before it and the entry itself, so none can be altered, removed, put in between
or moved without breaking the chain after it. Every change of a row is written by `Writer.record`, from the entry that
tells of it; `verify` derives the rows again from all entries and compares. What that cannot find is in docs/ledger.md.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from noiselib.ledger import schema
from noiselib.ledger.account import Memo
from noiselib.ledger.rows import FREE, dump, holder_columns, request_columns

GENESIS = "0" * 64  # the hash before the first entry

_UNTOLD = {"lease_until"}  # leases are renewed every few minutes, which no entry tells


@dataclass(frozen=True)
class Writer:
    """A transaction that holds the ledger's write lock. `now` is one time for all that it writes."""

    connection: Connection
    now: datetime

    def record(self, event: str, budget: str, release_id: str | None = None, detail: Any = None) -> None:
        """Append an entry, and set the row that it tells of."""
        last = sa.select(schema.history.c.seq, schema.history.c.hash).order_by(schema.history.c.seq.desc()).limit(1)
        seq, previous = self.connection.execute(last).one_or_none() or (0, GENESIS)
        entry = (seq + 1, time_text(self.now), budget, release_id, event, dump(detail))
        names = ("seq", "time", "budget", "release_id", "event", "detail")
        row = dict(zip(names, entry, strict=True)) | {"previous": previous, "hash": chained(previous, entry)}
        self.connection.execute(schema.history.insert().values(row))
        _write(self.connection, told(event, entry[1], budget, release_id, detail))

    def lease(self, release_id: str, seconds: float) -> None:
        """Let the holder's lease end `seconds` from now."""
        until = time_text(self.now + timedelta(seconds=seconds))
        query = schema.releases.update().where(schema.releases.c.release_id == release_id)
        self.connection.execute(query.values(lease_until=until))


def time_text(time: datetime) -> str:
    """Always UTC with microseconds, so that these texts sort as the times do."""
    return time.astimezone(UTC).isoformat(timespec="microseconds")


def chained(previous: str, entry: Sequence[Any]) -> str:
    """The hash of an entry (seq, time, budget, release_id, event, detail as stored) that follows the one with `previous`."""
    return hashlib.sha256(dump([previous, *entry]).encode()).hexdigest()


# -- what an entry tells


@dataclass(frozen=True)
class Told:
    """The row that an entry is about, and the columns that it sets there; `first` are set as well where the row is new."""

    table: sa.Table
    key: dict[str, Any]
    columns: dict[str, Any]
    first: dict[str, Any]


def told(event: str, time: str, budget: str, release_id: str | None, detail: Any) -> Told:
    """Raises KeyError or TypeError for an entry that nobody wrote here."""
    if event == "migrated":
        table, row = schema.metadata.tables[detail["table"]], detail["row"]
        keys = [column.name for column in table.primary_key]
        return Told(table, {name: row[name] for name in keys}, row, {})
    if event in ("budget", "unit"):
        return Told(schema.budgets, {"name": budget}, detail, {"created": time})
    if event == "memo":
        memo = {name: detail[name] for name in ("pipeline", "column")} | {"charge": dump(detail["charge"])}
        key = {"budget": budget, "memo_id": detail["memo_id"]}
        return Told(schema.memos, key, memo | {"first_release": release_id}, {})
    changes = _release_changes(event, time, detail)
    return Told(
        schema.releases, {"release_id": release_id}, {"budget": budget, "updated": time} | changes, {"created": time}
    )


def _release_changes(event: str, time: str, detail: Any) -> dict[str, Any]:
    match event:
        case "reserved":
            holder = holder_columns(detail["holder"])
            return {"state": event, "held_since": time, "publish_began": None, **request_columns(detail), **holder}
        case "held":
            return {"held_since": time, **holder_columns(detail)}
        case "freed":
            return dict(FREE)
        case "staged" | "quarantined":
            return {"state": event}
        case "publishing":
            return {"publish_began": time}
        case "published" | "abandoned":
            return {"state": event, **FREE}
    raise KeyError(event)


def memo_detail(pipeline: str, memo: Memo) -> dict[str, Any]:
    """What an entry `memo` says of a memo that is charged for the first time."""
    return {"pipeline": pipeline, **memo.to_json()}


def _write(connection: Connection, change: Told) -> None:
    where = [change.table.c[name] == value for name, value in change.key.items()]
    if connection.execute(change.table.update().where(*where).values(change.columns)).rowcount == 0:
        connection.execute(change.table.insert().values(change.first | change.columns | change.key))


# -- verification


@dataclass(frozen=True)
class Verification:
    """`entries` is how many there are, `head` the hash of the last. No problems: chain and tables are what was written."""

    entries: int
    head: str
    problems: tuple[str, ...]


def verify(tables: Mapping[str, Sequence[Row[Any]]], head: str | None = None) -> Verification:
    """Follow the chain and compare every row with what it tells. `tables` are all rows, the history's by seq.

    `head`, a hash noted earlier, must still be in the chain: else entries were cut off its end, or it was written anew.
    """
    entries = tables["history"]
    problems = [*_broken(entries)]
    if head is not None and head not in (GENESIS, *(entry.hash for entry in entries)):
        problems.append(f"history: has no entry with the hash {head} that was noted; entries were removed or rewritten")
    told_rows, unreadable = _replay(entries)
    problems += unreadable
    for table in (schema.budgets, schema.memos, schema.releases):
        problems += _differences(table, told_rows[table.name], tables[table.name])
    return Verification(len(entries), entries[-1].hash if entries else GENESIS, tuple(problems))


def _broken(entries: Sequence[Row[Any]]) -> Iterator[str]:
    seq, previous = 0, GENESIS
    for entry in entries:
        about = (entry.seq, entry.time, entry.budget, entry.release_id, entry.event, entry.detail)
        if entry.hash != chained(entry.previous, about):
            yield f"history entry {entry.seq} ({entry.event}): was altered, its hash is of something else"
        if (entry.seq, entry.previous) != (seq + 1, previous):
            yield f"history entry {entry.seq} ({entry.event}): does not follow entry {seq}, which was altered, moved or removed"
        seq, previous = entry.seq, entry.hash


_Rows = dict[str, dict[tuple[Any, ...], dict[str, Any]]]


def _replay(entries: Sequence[Row[Any]]) -> tuple[_Rows, list[str]]:
    """All rows by table and key, as the entries tell them, and the entries that cannot be read.

    What version 1 wrote does not tell everything; the entries `migrated` after it do.
    """
    rows: _Rows = {table.name: {} for table in (schema.budgets, schema.memos, schema.releases)}
    problems = []
    began = next((place for place, entry in enumerate(entries) if entry.event == "migrated"), 0)
    for entry in entries[began:]:
        try:
            detail = json.loads(entry.detail)
            change = told(entry.event, entry.time, entry.budget, entry.release_id, detail)
            row = rows[change.table.name].setdefault(tuple(change.key.values()), dict(change.first))
            row |= {**change.columns, **change.key}
        except (ValueError, TypeError, KeyError) as error:
            problems.append(f"history entry {entry.seq} ({entry.event}): cannot be read: {error!r}")
    return rows, problems


def _differences(
    table: sa.Table, expected: Mapping[tuple[Any, ...], Mapping[str, Any]], found: Sequence[Row[Any]]
) -> Iterator[str]:
    names = [column.name for column in table.columns if column.name not in _UNTOLD]
    keys = [column.name for column in table.primary_key]
    rows = {tuple(row._mapping[name] for name in keys): row._mapping for row in found}
    for key in sorted({*expected, *rows}, key=str):
        what = f"{table.name.removesuffix('s')} {' '.join(map(str, key))}"
        if key not in rows:
            yield f"{what}: was removed"
        elif key not in expected:
            yield f"{what}: was never written by noiselib"
        else:
            for name in names:
                if rows[key][name] != expected[key].get(name):
                    yield f"{what}: {name} is {rows[key][name]!r}, expected {expected[key].get(name)!r}"
