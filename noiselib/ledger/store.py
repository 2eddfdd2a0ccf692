"""The ledger over its database. Every change is one transaction that begins by taking the ledger's one write lock, so
concurrent processes and hosts never overspend a budget, and there is no second lock to wait for crosswise.

    reserved -> staged -> published | quarantined      quarantined -> staged
    reserved, staged, quarantined -> abandoned         abandoned -> reserved, as a fresh reservation

All states but abandoned count. Whatever cannot be read or written raises LedgerError: nothing is spent on a guess.
No value of the data and no key is ever stored, only key ids.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine, Row

from noiselib.errors import LedgerError, ReleaseHeld, SpecError
from noiselib.ledger import checks, database, history, schema
from noiselib.ledger.account import Budget, Preview, ReleaseRequest, preview, worst_charges
from noiselib.ledger.history import Verification, Writer, memo_detail
from noiselib.ledger.holder import Holder
from noiselib.ledger.rows import BudgetStatus, HistoryEntry, Release, dump, holder_json, release_of, request_json

LEASE_SECONDS = 900.0
WAIT_SECONDS = 10.0

# What each state may become through `advance`; abandoned becomes reserved only through `reserve`, which pays again.
_NEXT: dict[str, frozenset[str]] = {
    "reserved": frozenset({"staged", "abandoned"}),
    "staged": frozenset({"published", "quarantined", "abandoned"}),
    "quarantined": frozenset({"staged", "abandoned"}),
    "published": frozenset(),
    "abandoned": frozenset(),
}


@dataclass(frozen=True)
class ReserveResult(Preview):
    """A reservation made. `states`: each release's state before it, None for one that was not in the ledger."""

    states: Mapping[str, str | None]


class Ledger:
    """A ledger that exists. Get one by `Ledger.create(url)` or `Ledger.open(url)`; close it, or use it in a `with`.

    No connection outlives a call, so a ledger may be used across forks. Every method raises LedgerError, naming the
    ledger, if it is locked (after `wait_seconds`), read-only (when writing), damaged, or of another schema.
    """

    def __init__(self, engine: Engine, name: str, created: bool = False) -> None:
        self._engine = engine
        self.name = name
        self.created = created

    @staticmethod
    def create(url: str, wait_seconds: float = WAIT_SECONDS) -> Ledger:
        """Make the ledger, and its parent directories; one that exists is opened unchanged, with `created` False.

        Nobody who works with one that exists is kept waiting, or waited for.
        """
        parsed = database.parse(url)
        if parsed.get_backend_name() == "sqlite":
            try:
                Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LedgerError(f"Ledger {parsed.database}: cannot make its directory: {error.strerror}") from error
        name = database.name_of(parsed)
        maker = database.connect(parsed, wait_seconds, mode="rwc")
        with database.transaction(maker, name) as connection:
            missing = schema.version_of(connection) is None
            if not missing:
                schema.check(connection, name)
        created = missing and _made(maker, name)
        return Ledger(database.connect(parsed, wait_seconds), name, created)

    @staticmethod
    def open(url: str, wait_seconds: float = WAIT_SECONDS) -> Ledger:
        """Open a ledger that exists. A missing one is an error: an empty one in its place would reset every budget."""
        ledger = _existing(url, wait_seconds)
        with database.transaction(ledger._engine, ledger.name) as connection:
            schema.check(connection, ledger.name)
        return ledger

    @staticmethod
    def migrate(url: str, wait_seconds: float = WAIT_SECONDS) -> tuple[str, str]:
        """Bring a ledger of an older version to this one, in one transaction; the versions before and after.

        Raises LedgerError for a version that this code does not know.
        """
        ledger = _existing(url, wait_seconds)
        with database.transaction(ledger._engine, ledger.name, write=True) as connection:
            schema.lock_for_change(connection)
            database.take_time(connection)
            before = schema.version_of(connection)
            if before in schema.OLDER:
                schema.upgrade(connection)
            schema.check(connection, ledger.name)
        return str(before), schema.VERSION

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- spending

    def reserve(
        self,
        budget: Budget,
        requests: Sequence[ReleaseRequest],
        holder: Holder,
        *,
        lease_seconds: float = LEASE_SECONDS,
        take_over: bool = False,
        settled: Collection[str] = (),
    ) -> ReserveResult:
        """Charge these releases to the budget and hold them, all or none, in one transaction.

        A release already in the ledger, and not abandoned, adds nothing: it may be reserved again after a lost reply
        or to resume. Neither does a published one, which is held like any other: it is made again, where its source
        went back or its target is a new one. `settled` are the ids of releases that the caller saw nothing is left to do
        for: those of them that the ledger calls published are passed over, whoever holds them and whatever budget has
        paid. The budget's limit and privacy unit are set when it is first used. `take_over` takes releases from a holder
        that still has its lease.

        Raises OverBudget if they do not fit; ReleaseHeld if another process holds one, which lives, or may live and has
        an unexpired lease; SpecError if the budget has another limit or unit, or a release or a memo is in the ledger
        with another charge. Nothing is written then.
        """
        checks.check_distinct(requests)
        self._compose_ahead(budget, requests)
        with self._writing() as writer:
            _settle(writer, budget)
            known = self._find(writer.connection, [request.release_id for request in requests])
            done = {one for one, release in known.items() if release.state == "published" and one in settled}
            todo = [request for request in requests if request.release_id not in done]
            for request in todo:
                if (release := known.get(request.release_id)) is not None:
                    checks.check_same(release, request, budget)
                    if not take_over:
                        checks.check_lease(release, holder, writer.now)
            outcome = preview(budget, todo, self._account(writer.connection, budget.name))
            new = [r for r in todo if r.release_id not in known or known[r.release_id].state == "abandoned"]
            if new and not outcome.fits:  # alone, what was entered may exceed the limit
                raise checks.over_budget(outcome)
            for request in todo:
                _hold(writer, budget, request, known.get(request.release_id), holder, lease_seconds)
        states = {r.release_id: known[r.release_id].state if r.release_id in known else None for r in requests}
        return ReserveResult(budget, outcome.epsilon_before, outcome.epsilon_after, states)

    def remaining_after(self, budget: Budget, requests: Sequence[ReleaseRequest]) -> Preview:
        """What `reserve` would do to the account; writes nothing. For no ledger yet, see `preview`."""
        with self._reading() as connection:
            checks.check_budget(connection, budget)
            account = self._account(connection, budget.name)
        return preview(budget, requests, account)  # takes its time, so not while a read lock keeps writers waiting

    # -- working on a release

    def advance(self, release_id: str, state: str, detail: Any = None, holder: Holder | None = None) -> None:
        """Move a release to `state`; a release already there is left alone, so a lost reply is harmless.

        Becoming published or abandoned ends the lease. For a release that was published before and is made again
        nothing is written, so it stays held until it is freed. With `holder`, raises ReleaseHeld unless it holds the
        release. `detail` (JSON, nothing personal) goes to the history. Raises LedgerError for a transition that is not
        allowed.
        """
        with self._writing() as writer:
            release = self._get(writer.connection, release_id)
            if state == release.state and release.holder in (None, holder):
                return
            checks.check_holds(release, holder)
            if state == release.state:
                return
            if state not in _NEXT[release.state]:
                allowed = sorted(_NEXT[release.state]) or "no other state"
                raise LedgerError(
                    f"Release {release_id} is {release.state}: expected to become {allowed}, got {state!r}"
                )
            if state == "abandoned":
                checks.check_unseen(release)
                checks.check_lease(release, holder or Holder.current(), writer.now)
            writer.record(state, release.budget, release_id, detail)

    def begin_publish(self, release_id: str, holder: Holder | None = None) -> None:
        """Record that publishing begins. From here on a reader may see the noise, so the charge is never given back."""
        with self._writing() as writer:
            release = self._get(writer.connection, release_id)
            checks.check_holds(release, holder)
            if release.state != "staged":
                raise LedgerError(f"Release {release_id} is {release.state}: expected a staged one to publish")
            if release.publish_began is None:
                writer.record("publishing", release.budget, release_id)

    def enter(self, budget: Budget, request: ReleaseRequest, holder: Holder, *, take_over: bool = False) -> bool:
        """Readers may have seen a release: it is charged, whatever is left, and published. False if the ledger knew that.

        So a ledger that was restored from a backup learns what it has forgotten. What it holds of the release is what its
        publishing began with; without that it is from before, and the request takes its place.

        Raises ReleaseHeld while another process works on it, without `take_over`; SpecError for a budget of another limit
        or unit, or a memo of another charge.
        """
        release_id = request.release_id
        with self._writing() as writer:
            known = self._find(writer.connection, [release_id]).get(release_id)
            if known is not None and known.state == "published":
                return False
            if known is not None and not take_over:
                checks.check_lease(known, holder, writer.now)
            if known is not None and known.publish_began is not None:
                writer.record("published", known.budget, release_id)
                return True
            _settle(writer, budget)
            if known is not None and known.state != "abandoned":
                writer.record("abandoned", known.budget, release_id, {"reason": "entered"})
            _hold(writer, budget, request, None, holder, LEASE_SECONDS)
            for event in ("staged", "publishing", "published"):
                writer.record(event, budget.name, release_id)
            return True

    def origin(self) -> str | None:
        """The hash of the history's first line, which this ledger shares with its copies alone; None while it is empty."""
        first = sa.select(schema.history.c.hash).order_by(schema.history.c.seq).limit(1)
        with self._reading() as connection:
            return connection.execute(first).scalar_one_or_none()

    def hold(self, release_id: str, holder: Holder, lease_seconds: float = LEASE_SECONDS) -> None:
        """Hold a release to give it up: its noise can then be removed before its charge is given back.

        Raises LedgerError if a reader may have seen it, ReleaseHeld while another process works on it.
        """
        with self._writing() as writer:
            release = self._get(writer.connection, release_id)
            if release.state == "abandoned":
                return
            checks.check_unseen(release)
            checks.check_lease(release, holder, writer.now)
            if release.holder != holder:
                writer.record("held", release.budget, release_id, holder_json(holder))
            writer.lease(release_id, lease_seconds)

    def abandon(self, release_id: str, detail: Any = None, holder: Holder | None = None) -> None:
        """Give an unpublished release's charge back.

        Raises LedgerError if it is published or its publishing has begun, ReleaseHeld while a live process holds it.
        """
        self.advance(release_id, "abandoned", detail, holder)

    def renew(self, release_ids: Sequence[str], holder: Holder, lease_seconds: float = LEASE_SECONDS) -> None:
        """Extend the leases of this holder, of releases in whatever state.

        Raises ReleaseHeld, and renews none, unless it holds every one of them: also for one that has been taken over,
        published (which ends the lease) or never reserved. So who gets no error was the only one at work until then.
        """
        with self._writing() as writer:
            found = self._find(writer.connection, release_ids)
            for release_id in release_ids:
                if release_id not in found:
                    raise ReleaseHeld(f"Release {release_id} is not in ledger {self.name}: nobody holds it")
                checks.check_holds(found[release_id], holder)
                writer.lease(release_id, lease_seconds)

    def free(self, release_ids: Sequence[str], holder: Holder | None = None) -> None:
        """End this holder's (by default this process's) leases; those of others are left alone."""
        holder = holder or Holder.current()
        with self._writing() as writer:
            for release in self._find(writer.connection, release_ids).values():
                if release.holder == holder:
                    writer.record("freed", release.budget, release.release_id)

    # -- reading

    def release(self, release_id: str) -> Release | None:
        """The release with this id, None if there is none."""
        with self._reading() as connection:
            return self._find(connection, [release_id]).get(release_id)

    def find(self, prefix: str) -> list[Release]:
        """The releases whose id begins with `prefix`, by id."""
        return self._select(schema.releases.c.release_id.startswith(prefix, autoescape=True))

    def releases(self, pipeline: str | None = None, budget: str | None = None) -> list[Release]:
        """The releases of a pipeline, of a budget, or all, by id."""
        return self._select(*_equal(schema.releases, pipeline=pipeline, budget=budget))

    def at_work(self, pipeline: str) -> list[Release]:
        """The pipeline's releases that somebody works on now, by id: by the clock that leases go by, not by the caller's."""
        held = (schema.releases.c.pipeline == pipeline, schema.releases.c.holder_host.is_not(None))
        with self._reading() as connection:
            # Before the rows are read: a lease that is renewed in between must not seem to have ended.
            now = database.clock(connection)
            rows = connection.execute(sa.select(schema.releases).where(*held).order_by("release_id")).all()
        return [release for release in map(self._release, rows) if checks.at_work(release, now)]

    def show(self, budget: str | None = None) -> list[BudgetStatus]:
        """Limit, spending and number of releases by state, of one budget or of all, by name."""
        query = sa.select(schema.budgets).where(*_equal(schema.budgets, name=budget)).order_by("name")
        with self._reading() as connection:
            rows = connection.execute(query).all()
            found = [(row, self._account(connection, row.name), _counts(connection, row.name)) for row in rows]
        return [self._status(*each) for each in found]

    def history(self, budget: str | None = None, release_id: str | None = None) -> list[HistoryEntry]:
        """What happened, oldest first."""
        where = _equal(schema.history, budget=budget, release_id=release_id)
        with self._reading() as connection:
            database.take_time(connection)
            rows = connection.execute(sa.select(schema.history).where(*where).order_by("seq")).all()
        with self._readable("history"):
            return [HistoryEntry(**{**row._mapping, "detail": json.loads(row.detail)}) for row in rows]

    def verify(self, head: str | None = None) -> Verification:
        """Follow the history's chain, and compare every row of the ledger with what the history tells.

        `head` is a hash that an earlier verification gave: it must still be in the chain.
        """
        tables = (schema.history, schema.budgets, schema.memos, schema.releases)
        with self._reading() as connection:
            database.take_time(connection)
            rows = {
                table.name: connection.execute(sa.select(table).order_by(*table.primary_key)).all() for table in tables
            }
        return history.verify(rows, head)

    def prove(self) -> datetime:
        """Take the write lock and write a row as it was; the time by the clock that leases go by.

        The lock alone proves nothing: of a file that it cannot write, SQLite gives a lock to read.
        """
        number = schema.version.c.version_num
        with self._writing() as writer:
            writer.connection.execute(schema.version.update().values(version_num=number))
            return writer.now

    # -- within a transaction

    def _compose_ahead(self, budget: Budget, requests: Sequence[ReleaseRequest]) -> None:
        """Fill the caches of accounting before the write lock is taken, so that it is held for milliseconds."""
        if self.remaining_after(budget, requests).epsilon_before == 0:
            # A lone event is not composed at all; by the time the lock is ours it may not be alone.
            for charge in worst_charges(requests):
                charge.times(2).epsilon(budget.delta)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with database.transaction(self._engine, self.name) as connection:
            schema.lock_for_reading(connection, self.name)
            yield connection

    @contextmanager
    def _writing(self) -> Iterator[Writer]:
        with database.transaction(self._engine, self.name, write=True) as connection:
            schema.lock(connection, self.name)
            yield Writer(connection, database.clock(connection))

    @contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, SpecError) as error:
            raise LedgerError(f"Ledger {self.name}: {what} is damaged: {error}") from error

    def _account(self, connection: Connection, budget: str) -> list[ReleaseRequest]:
        """Everything that counts. Raises LedgerError if any of it cannot be read."""
        counts = (schema.releases.c.budget == budget, schema.releases.c.state != "abandoned")
        rows = connection.execute(sa.select(schema.releases).where(*counts)).all()
        return [self._release(row).request for row in rows]

    def _status(self, row: Row[Any], account: list[ReleaseRequest], counts: dict[str, int]) -> BudgetStatus:
        with self._readable(f"budget {row.name}"):
            budget = Budget(row.name, row.epsilon, row.delta, row.unit or "unknown")
        outcome = preview(budget, (), account)
        slack = max(charge.slack for charge in worst_charges(account))
        return BudgetStatus(budget, row.created, outcome.epsilon_before, slack, outcome.remaining, counts)

    def _select(self, *where: Any) -> list[Release]:
        with self._reading() as connection:
            rows = connection.execute(sa.select(schema.releases).where(*where).order_by("release_id")).all()
        return [self._release(row) for row in rows]

    def _find(self, connection: Connection, release_ids: Sequence[str]) -> dict[str, Release]:
        query = sa.select(schema.releases).where(schema.releases.c.release_id.in_(release_ids))
        return {row.release_id: self._release(row) for row in connection.execute(query)}

    def _get(self, connection: Connection, release_id: str) -> Release:
        found = self._find(connection, [release_id])
        if not found:
            raise LedgerError(f"Ledger {self.name}: expected a known release, got {release_id!r}")
        return found[release_id]

    def _release(self, row: Row[Any]) -> Release:
        with self._readable(f"release {row.release_id}"):
            return release_of(row)


def _made(maker: Engine, name: str) -> bool:
    """Make the tables; False if somebody else just did."""
    with database.transaction(maker, name, write=True) as connection:
        created = schema.create(connection, name)
        schema.check(connection, name)
    return created


def _existing(url: str, wait_seconds: float) -> Ledger:
    parsed = database.parse(url)
    if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).is_file():
        raise LedgerError(f"Ledger {parsed.database}: expected a file, found none; make it by `noiselib ledger init`")
    return Ledger(database.connect(parsed, wait_seconds), database.name_of(parsed))


# -- the steps of reserving


def _settle(writer: Writer, budget: Budget) -> None:
    """Set the budget's limit and unit on first use; else they must be those that it is in use with."""
    row = checks.check_budget(writer.connection, budget)
    if row is None:
        limit = {"epsilon": budget.epsilon, "delta": budget.delta, "unit": budget.unit}
        writer.record("budget", budget.name, detail=limit)
    elif row.unit is None:
        writer.record("unit", budget.name, detail={"unit": budget.unit})


def _hold(
    writer: Writer,
    budget: Budget,
    request: ReleaseRequest,
    known: Release | None,
    holder: Holder,
    lease_seconds: float,
) -> None:
    """Insert a new release, renew an abandoned one, or take the lease of one that is known."""
    if known is None or known.state == "abandoned":
        _charge_memos(writer, budget, request)
        detail = {**request_json(request), "holder": holder_json(holder)}
        writer.record("reserved", budget.name, request.release_id, detail)
    elif known.holder != holder:
        writer.record("held", budget.name, request.release_id, holder_json(holder))
    writer.lease(request.release_id, lease_seconds)


def _charge_memos(writer: Writer, budget: Budget, request: ReleaseRequest) -> None:
    for memo in request.memos:
        where = _equal(schema.memos, budget=budget.name, memo_id=memo.memo_id)
        known, asked = writer.connection.scalar(sa.select(schema.memos.c.charge).where(*where)), memo.charge.to_json()
        if known is None:
            writer.record("memo", budget.name, request.release_id, memo_detail(request.pipeline, memo))
        elif known != dump(asked):
            raise SpecError(
                f"Memo {memo.memo_id} of column {memo.column!r}: expected the charge it was first made with, "
                f"{known}, got {dump(asked)}"
            )


# -- queries


def _equal(table: sa.Table, **values: str | None) -> list[Any]:
    return [table.c[name] == value for name, value in values.items() if value is not None] or [sa.true()]


def _counts(connection: Connection, budget: str) -> dict[str, int]:
    by_state = sa.select(schema.releases.c.state, sa.func.count().label("n")).where(schema.releases.c.budget == budget)
    found = {row.state: row.n for row in connection.execute(by_state.group_by(schema.releases.c.state))}
    return {state: found.get(state, 0) for state in schema.STATES}
