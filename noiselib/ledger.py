"""The ledger: what every budget has been charged, durably, and who works on which release.

SQLAlchemy Core over SQLite (a file) or PostgreSQL (a team); the same statements serve both. Every change is one
transaction that begins by taking the write lock (SQLite) or the budget's row lock (PostgreSQL), so concurrent
processes and hosts never overspend a budget. The total is recomputed from the events of all charges, not added up
from epsilons. Whatever cannot be read or written raises LedgerError: nothing is spent on a guess.

    reserved -> staged -> published | quarantined      quarantined -> reserved | staged
    reserved, staged, quarantined -> abandoned         abandoned -> reserved, as a fresh reservation

All states but abandoned count. No value of the data and no key is ever stored, only key ids.
"""

from __future__ import annotations

import json
import math
import os
import socket
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, Row, make_url
from sqlalchemy.exc import ArgumentError, IntegrityError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from noiselib.accounting import Charge
from noiselib.errors import LedgerError, OverBudget, ReleaseHeld, SpecError

SCHEMA_VERSION = 1
LEASE_SECONDS = 900.0
WAIT_SECONDS = 10.0
_CREATION_LOCK = 0x6E6F697365  # PostgreSQL's advisory locks have a number for a name: "noise"

# What each state may become through `advance`; abandoned becomes reserved only through `reserve`, which pays again.
_NEXT: dict[str, frozenset[str]] = {
    "reserved": frozenset({"staged", "abandoned"}),
    "staged": frozenset({"published", "quarantined", "abandoned"}),
    "quarantined": frozenset({"reserved", "staged", "abandoned"}),
    "published": frozenset(),
    "abandoned": frozenset(),
}
STATES = tuple(_NEXT)

_metadata = sa.MetaData()
_schema = sa.Table("noiselib_schema", _metadata, sa.Column("version", sa.Integer, primary_key=True))
_budgets = sa.Table(
    "budgets",
    _metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("epsilon", sa.Double, nullable=False),
    sa.Column("delta", sa.Double, nullable=False),
    sa.Column("created", sa.Text, nullable=False),
)
_releases = sa.Table(
    "releases",
    _metadata,
    sa.Column("release_id", sa.Text, primary_key=True),
    sa.Column("budget", sa.Text, sa.ForeignKey("budgets.name"), nullable=False, index=True),
    sa.Column("pipeline", sa.Text, nullable=False),
    sa.Column("partition", sa.Text, nullable=False),
    sa.Column("parallel", sa.Boolean, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("state", sa.Text, sa.CheckConstraint(f"state IN {STATES}"), nullable=False),
    sa.Column("charge", sa.Text, nullable=False),
    sa.Column("memos", sa.Text, nullable=False),
    sa.Column("holder_host", sa.Text),
    sa.Column("holder_pid", sa.Integer),
    sa.Column("holder_started", sa.Text),
    sa.Column("held_since", sa.Text),
    sa.Column("lease_until", sa.Text),
    sa.Column("publish_began", sa.Text),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("updated", sa.Text, nullable=False),
)
_memos = sa.Table(
    "memos",
    _metadata,
    sa.Column("budget", sa.Text, sa.ForeignKey("budgets.name"), primary_key=True),
    sa.Column("memo_id", sa.Text, primary_key=True),
    sa.Column("pipeline", sa.Text, nullable=False),
    sa.Column("column", sa.Text, nullable=False),
    sa.Column("charge", sa.Text, nullable=False),
    sa.Column("first_release", sa.Text, nullable=False),
)
_history = sa.Table(
    "history",
    _metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("time", sa.Text, nullable=False),
    sa.Column("budget", sa.Text, nullable=False),
    sa.Column("release_id", sa.Text),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
)


# ---------------------------------------------------------------------------------------------------------- values


@dataclass(frozen=True)
class Budget:
    """A limit: the account named `name` stays (epsilon, delta)-DP. Raises SpecError out of range."""

    name: str
    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not self.name:
            raise SpecError("Expected a name for the budget, got ''")
        if not 0 < self.epsilon < math.inf:
            raise SpecError(f"Budget {self.name!r}: expected a finite epsilon > 0, got epsilon={self.epsilon!r}")
        if not 0 < self.delta < 1:
            raise SpecError(
                f"Budget {self.name!r}: expected delta in (0, 1), got delta={self.delta!r}; every sampler owes a tiny "
                "delta for its distance from its ideal law, so even a budget for pure mechanisms needs one, say 1e-9"
            )


@dataclass(frozen=True)
class Memo:
    """A longitudinal column's permanent noise: charged once per budget, however many releases use it."""

    memo_id: str
    column: str
    charge: Charge


@dataclass(frozen=True)
class ReleaseRequest:
    """A release and what it costs one privacy unit.

    `partition` is like "month=3" ("" without partitions). With `parallel`, releases of other values of the same
    partition columns are about other privacy units, so only the costliest partition counts.
    """

    release_id: str
    pipeline: str
    partition: str
    parallel: bool
    key_id: str
    charge: Charge
    memos: tuple[Memo, ...] = ()


@dataclass(frozen=True)
class Holder:
    """The process that works on a release. `started` tells it from a later process with its pid."""

    host: str
    pid: int
    started: str

    @staticmethod
    def current() -> Holder:
        """This process."""
        return Holder(socket.gethostname(), os.getpid(), _process_start(os.getpid()))

    def dead(self) -> bool:
        """Whether the process surely has ended; False where that cannot be known from here."""
        here = Holder.current()
        # Boot and pid namespace: another container or machine may share the host name, but not these.
        place = here.started.rpartition("/")[0]
        if self.host != here.host or not place or self.started.rpartition("/")[0] != place:
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # it is another user's
        return _process_start(self.pid) not in ("", self.started)


def _process_start(pid: int) -> str:
    """Boot id / pid namespace / start in clock ticks, or "ended" for a zombie; "" where /proc does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name may hold anything
    except OSError:
        return ""
    return f"{boot}/{namespace}/{'ended' if fields[0] in 'ZX' else fields[19]}"


@dataclass(frozen=True)
class Preview:
    """What a budget's account holds before and after some releases: epsilons at the budget's delta."""

    budget: Budget
    epsilon_before: float
    epsilon_after: float

    @property
    def added(self) -> float:
        """Epsilon that these releases add to the account; 0 if they are all in it."""
        return 0.0 if self.epsilon_after == self.epsilon_before else self.epsilon_after - self.epsilon_before

    @property
    def remaining(self) -> float:
        """Epsilon left before these releases, at least 0."""
        return max(0.0, self.budget.epsilon - self.epsilon_before)

    @property
    def fits(self) -> bool:
        """Whether the account stays within the budget."""
        # The tolerance is for float rounding, so that three charges of 0.1 fit 0.3.
        return self.epsilon_after <= self.budget.epsilon * (1 + 1e-9)


@dataclass(frozen=True)
class ReserveResult(Preview):
    """A reservation made. `states`: each release's state before it, None for one that was not in the ledger."""

    states: Mapping[str, str | None]


@dataclass(frozen=True)
class Release:
    """A release as the ledger knows it. Times are UTC, ISO 8601. `holder` is None when nobody works on it."""

    request: ReleaseRequest
    budget: str
    state: str
    holder: Holder | None
    held_since: str | None
    lease_until: str | None
    publish_began: str | None
    created: str
    updated: str

    @property
    def release_id(self) -> str:
        return self.request.release_id


@dataclass(frozen=True)
class BudgetStatus:
    """A budget's account. `spent` is epsilon at the budget's delta, `slack` the delta that samplers owe of it."""

    budget: Budget
    created: str
    spent: float
    slack: float
    remaining: float
    counts: Mapping[str, int]


@dataclass(frozen=True)
class HistoryEntry:
    """One line of the append-only history."""

    seq: int
    time: str
    budget: str
    release_id: str | None
    event: str
    detail: Any


# ----------------------------------------------------------------------------------------------------- the account


def spent(releases: Iterable[ReleaseRequest], delta: float) -> float:
    """Epsilon at `delta` of the worst-placed privacy unit; inf if its samplers' slack takes up all of delta."""
    return max(_epsilon(charge, delta) for charge in worst_charges(releases))


def preview(budget: Budget, requests: Sequence[ReleaseRequest], account: Sequence[ReleaseRequest] = ()) -> Preview:
    """What `requests` would do to an account (by default a fresh one); those already in it add nothing."""
    known = {release.release_id for release in account}
    new = [request for request in requests if request.release_id not in known]
    before = spent(account, budget.delta)
    return Preview(budget, before, spent([*account, *new], budget.delta) if new else before)


def worst_charges(releases: Iterable[ReleaseRequest]) -> list[Charge]:
    """The charges that some privacy unit may bear, without those that another one contains.

    A memo counts once. Pipelines compose sequentially, and so do releases that are not parallel. Parallel releases
    of one pipeline, over one set of partition columns, are summed by partition; a unit is in one of these partitions.
    Partitions by other columns need not be disjoint from them, and compose sequentially.
    """
    memos: dict[tuple[str, Charge], Charge] = {}
    sequential: list[Charge] = []
    groups: defaultdict[tuple[str, ...], defaultdict[str, list[Charge]]] = defaultdict(lambda: defaultdict(list))
    for release in releases:
        memos.update({(memo.memo_id, memo.charge): memo.charge for memo in release.memos})
        if release.parallel:
            groups[release.pipeline, *_partition_columns(release.partition)][release.partition].append(release.charge)
        else:
            sequential.append(release.charge)
    totals = [_sum([*sequential, *memos.values()])]
    for group in groups.values():
        worst = _undominated(_sum(charges) for charges in group.values())
        totals = _undominated(total + charge for total in totals for charge in worst)
        if len(totals) > 64:  # the combinations would explode: bound them by what contains them all
            totals = [_join(totals)]
    return totals


def _partition_columns(partition: str) -> tuple[str, ...]:
    # A part without a name belongs to the value before it, which holds a slash.
    return tuple(part.partition("=")[0] for part in partition.split("/") if "=" in part)


def _sum(charges: Iterable[Charge]) -> Charge:
    return Charge(tuple(chain.from_iterable(charge.events for charge in charges)))


def _join(charges: Iterable[Charge]) -> Charge:
    most: Counter[Any] = Counter()
    for charge in charges:
        most |= Counter(dict(charge.events))
    return Charge(tuple(most.items()))


def _undominated(charges: Iterable[Charge]) -> list[Charge]:
    distinct = set(charges)
    return [one for one in distinct if not any(one <= other for other in distinct if other != one)]


def _epsilon(charge: Charge, delta: float) -> float:
    return math.inf if charge and charge.slack >= delta else charge.epsilon(delta)


# ------------------------------------------------------------------------------------------------------ the ledger


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
        """Make the ledger, and its parent directories; one that exists is opened unchanged, with `created` False."""
        parsed = _parse(url)
        if parsed.get_backend_name() == "sqlite":
            try:
                Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise LedgerError(f"Ledger {parsed.database}: cannot make its directory: {error.strerror}") from error
        maker = Ledger(_engine(parsed, wait_seconds, mode="rwc"), _name(parsed))
        created = False
        with maker, maker._transaction(write=True) as connection:
            if connection.dialect.name == "postgresql":  # there, no row exists yet that could be locked
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATION_LOCK)))
            tables = set(sa.inspect(connection).get_table_names())
            if _schema.name not in tables:
                if tables & set(_metadata.tables):
                    raise LedgerError(f"Ledger {maker.name}: expected an empty database, got tables {sorted(tables)}")
                _metadata.create_all(connection)
                connection.execute(_schema.insert().values(version=SCHEMA_VERSION))
                created = True
            maker._check_version(connection)
        return Ledger(_engine(parsed, wait_seconds, mode="rw"), maker.name, created)

    @staticmethod
    def open(url: str, wait_seconds: float = WAIT_SECONDS) -> Ledger:
        """Open a ledger that exists. A missing one is an error: an empty one in its place would reset every budget."""
        parsed = _parse(url)
        if parsed.get_backend_name() == "sqlite" and not Path(str(parsed.database)).is_file():
            raise LedgerError(
                f"Ledger {parsed.database}: expected a file, found none; make it by `noiselib ledger init`"
            )
        ledger = Ledger(_engine(parsed, wait_seconds, mode="rw"), _name(parsed))
        with ledger._transaction() as connection:
            if _schema.name not in sa.inspect(connection).get_table_names():
                raise LedgerError(
                    f"Ledger {ledger.name}: expected a noiselib ledger, found a database without its tables"
                )
            ledger._check_version(connection)
        return ledger

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
    ) -> ReserveResult:
        """Charge these releases to the budget and hold them, all or none, in one transaction.

        A release already in the ledger, and not abandoned, adds nothing: it may be reserved again after a lost reply
        or to resume. A published one is not held. The budget's limit is set when it is first used. `take_over` takes
        releases from a holder that still has its lease.

        Raises OverBudget if they do not fit; ReleaseHeld if another process, not known to be dead, holds one under an
        unexpired lease; SpecError if the budget has another limit, or a release or a memo is in the ledger with
        another charge. Nothing is written then.
        """
        _check_distinct(requests)
        self._compose_ahead(budget, requests)
        with self._transaction(write=True) as connection:
            self._lock_budget(connection, budget)
            known = self._find(connection, [request.release_id for request in requests])
            for request in requests:
                if (release := known.get(request.release_id)) is not None:
                    _check_same(release, request, budget)
                    if release.state != "published":
                        _check_lease(release, holder, take_over)
            outcome = preview(budget, requests, self._account(connection, budget.name))
            new = [r for r in requests if r.release_id not in known or known[r.release_id].state == "abandoned"]
            if new and not outcome.fits:
                raise OverBudget(_over_budget(outcome))
            for request in requests:
                self._hold(connection, budget, request, known.get(request.release_id), holder, lease_seconds)
        states = {r.release_id: known[r.release_id].state if r.release_id in known else None for r in requests}
        return ReserveResult(budget, outcome.epsilon_before, outcome.epsilon_after, states)

    def remaining_after(self, budget: Budget, requests: Sequence[ReleaseRequest]) -> Preview:
        """What `reserve` would do to the account; writes nothing. For no ledger yet, see `preview`."""
        with self._transaction() as connection:
            _check_limit(connection, budget)
            account = self._account(connection, budget.name)
        return preview(budget, requests, account)  # takes its time, so not while a read lock keeps writers waiting

    # -- working on a release

    def advance(self, release_id: str, state: str, detail: Any = None, holder: Holder | None = None) -> None:
        """Move a release to `state`; a release already there is left alone, so a lost reply is harmless.

        With `holder`, raises ReleaseHeld if another process has taken the release over. `detail` (JSON, nothing
        personal) goes to the history. Raises LedgerError for a transition that is not allowed.
        """
        with self._transaction(write=True) as connection:
            release = self._get(connection, release_id)
            if holder and release.holder and release.holder != holder:
                raise _held(release)
            if state == release.state:
                return
            if state not in _NEXT[release.state]:
                allowed = sorted(_NEXT[release.state]) or "no other state"
                raise LedgerError(
                    f"Release {release_id} is {release.state}: expected to become {allowed}, got {state!r}"
                )
            if state == "abandoned":
                _check_abandon(release, holder or Holder.current())
            changes = _FREE if state in ("published", "abandoned") else {}
            self._update(connection, release_id, state=state, **changes)
            self._record(connection, release.budget, release_id, state, detail)

    def begin_publish(self, release_id: str, holder: Holder | None = None) -> None:
        """Record that publishing begins. From here on a reader may see the noise, so the charge is never given back."""
        with self._transaction(write=True) as connection:
            release = self._get(connection, release_id)
            if holder and release.holder and release.holder != holder:
                raise _held(release)
            if release.state != "staged":
                raise LedgerError(f"Release {release_id} is {release.state}: expected a staged one to publish")
            if release.publish_began is None:
                self._update(connection, release_id, publish_began=_now())
                self._record(connection, release.budget, release_id, "publishing")

    def abandon(self, release_id: str, detail: Any = None, holder: Holder | None = None) -> None:
        """Give an unpublished release's charge back.

        Raises LedgerError if it is published or its publishing has begun, ReleaseHeld while a live process holds it.
        """
        self.advance(release_id, "abandoned", detail, holder)

    def renew(self, release_ids: Sequence[str], holder: Holder, lease_seconds: float = LEASE_SECONDS) -> None:
        """Extend the leases of this holder. Raises ReleaseHeld if one has been taken over, and renews none."""
        with self._transaction(write=True) as connection:
            for release in self._find(connection, release_ids).values():
                if release.holder != holder:
                    raise _held(release)
                self._update(connection, release.release_id, lease_until=_now(lease_seconds))

    def free(self, release_ids: Sequence[str], holder: Holder | None = None) -> None:
        """End this holder's (by default this process's) leases; those of others are left alone."""
        holder = holder or Holder.current()
        with self._transaction(write=True) as connection:
            for release in self._find(connection, release_ids).values():
                if release.holder == holder:
                    self._update(connection, release.release_id, **_FREE)

    # -- reading

    def release(self, release_id: str) -> Release | None:
        """The release with this id, None if there is none."""
        with self._transaction() as connection:
            return self._find(connection, [release_id]).get(release_id)

    def find(self, prefix: str) -> list[Release]:
        """The releases whose id begins with `prefix`, by id."""
        return self._select(_releases.c.release_id.startswith(prefix, autoescape=True))

    def releases(self, pipeline: str | None = None, budget: str | None = None) -> list[Release]:
        """The releases of a pipeline, of a budget, or all, by id."""
        return self._select(*_equal(_releases, pipeline=pipeline, budget=budget))

    def show(self, budget: str | None = None) -> list[BudgetStatus]:
        """Limit, spending and number of releases by state, of one budget or of all, by name."""
        with self._transaction() as connection:
            rows = connection.execute(sa.select(_budgets).where(*_equal(_budgets, name=budget)).order_by("name")).all()
            found = [(row, self._account(connection, row.name), self._counts(connection, row.name)) for row in rows]
        return [self._status(*each) for each in found]

    def history(self, budget: str | None = None, release_id: str | None = None) -> list[HistoryEntry]:
        """What happened, oldest first."""
        where = _equal(_history, budget=budget, release_id=release_id)
        with self._transaction() as connection:
            rows = connection.execute(sa.select(_history).where(*where).order_by("seq")).all()
            with self._readable("history"):
                return [
                    HistoryEntry(row.seq, row.time, row.budget, row.release_id, row.event, json.loads(row.detail))
                    for row in rows
                ]

    # -- within a transaction

    def _compose_ahead(self, budget: Budget, requests: Sequence[ReleaseRequest]) -> None:
        """Fill the caches of accounting before the write lock is taken, so that it is held for milliseconds."""
        if self.remaining_after(budget, requests).epsilon_before == 0:
            # A lone event is not composed at all; by the time the lock is ours it may not be alone.
            for charge in worst_charges(requests):
                charge.times(2).epsilon(budget.delta)

    @contextmanager
    def _transaction(self, write: bool = False) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                connection = connection.execution_options(ledger_write=write)
                with connection.begin():
                    yield connection
        except SQLAlchemyError as error:
            raise LedgerError(f"Ledger {self.name}: {_explain(error)}") from error

    @contextmanager
    def _readable(self, what: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, SpecError) as error:
            raise LedgerError(f"Ledger {self.name}: {what} is damaged: {error}") from error

    def _check_version(self, connection: Connection) -> None:
        versions = connection.scalars(sa.select(_schema.c.version)).all()
        if list(versions) != [SCHEMA_VERSION]:
            raise LedgerError(f"Ledger {self.name}: expected schema version {SCHEMA_VERSION}, got {list(versions)}")

    def _lock_budget(self, connection: Connection, budget: Budget) -> None:
        """Set the limit on first use, check it, and let no other process spend from it until the transaction ends."""
        if not _check_limit(connection, budget):
            row = {"name": budget.name, "epsilon": budget.epsilon, "delta": budget.delta, "created": _now()}
            try:
                with connection.begin_nested():
                    connection.execute(_budgets.insert().values(row))
                self._record(
                    connection, budget.name, None, "budget", {"epsilon": budget.epsilon, "delta": budget.delta}
                )
            except IntegrityError:
                pass  # another process was first; its limit is checked below
        _check_limit(connection, budget, lock=True)

    def _hold(
        self,
        connection: Connection,
        budget: Budget,
        request: ReleaseRequest,
        known: Release | None,
        holder: Holder,
        lease_seconds: float,
    ) -> None:
        """Insert a new release, renew an abandoned one, or take the lease of one that is being worked on."""
        if known is not None and known.state == "published":
            return
        lease = {**_columns(holder), "held_since": _now(), "lease_until": _now(lease_seconds)}
        if known is not None and known.state != "abandoned":
            if known.holder != holder:
                self._update(connection, request.release_id, **lease)
                self._record(connection, budget.name, request.release_id, "held", _columns(holder))
            else:
                self._update(connection, request.release_id, lease_until=lease["lease_until"])
            return
        self._charge_memos(connection, budget, request)
        row = {**_request_columns(request), **lease, "budget": budget.name, "state": "reserved"}
        if known is None:
            connection.execute(_releases.insert().values(**row, created=_now(), updated=_now()))
        else:
            self._update(connection, request.release_id, **row)
        self._record(connection, budget.name, request.release_id, "reserved", {"charge": request.charge.to_json()})

    def _charge_memos(self, connection: Connection, budget: Budget, request: ReleaseRequest) -> None:
        for memo in request.memos:
            where = _equal(_memos, budget=budget.name, memo_id=memo.memo_id)
            known = connection.scalar(sa.select(_memos.c.charge).where(*where))
            if known is None:
                row = {"pipeline": request.pipeline, "column": memo.column, "first_release": request.release_id}
                key = {"budget": budget.name, "memo_id": memo.memo_id, "charge": _dump(memo.charge.to_json())}
                connection.execute(_memos.insert().values(**key, **row))
            elif known != _dump(memo.charge.to_json()):
                raise SpecError(
                    f"Memo {memo.memo_id} of column {memo.column!r}: expected the charge it was first made with, "
                    f"{known}, got {_dump(memo.charge.to_json())}"
                )

    def _account(self, connection: Connection, budget: str) -> list[ReleaseRequest]:
        """Everything that counts. Raises LedgerError if any of it cannot be read."""
        counts = (_releases.c.budget == budget, _releases.c.state != "abandoned")
        rows = connection.execute(sa.select(_releases).where(*counts)).all()
        return [self._release(row).request for row in rows]

    def _counts(self, connection: Connection, budget: str) -> dict[str, int]:
        by_state = sa.select(_releases.c.state, sa.func.count().label("n")).where(_releases.c.budget == budget)
        found = {row.state: row.n for row in connection.execute(by_state.group_by(_releases.c.state))}
        return {state: found.get(state, 0) for state in STATES}

    def _status(self, row: Row[Any], account: list[ReleaseRequest], counts: dict[str, int]) -> BudgetStatus:
        with self._readable(f"budget {row.name}"):
            budget = Budget(row.name, row.epsilon, row.delta)
        outcome = preview(budget, (), account)
        slack = max(charge.slack for charge in worst_charges(account))
        return BudgetStatus(budget, row.created, outcome.epsilon_before, slack, outcome.remaining, counts)

    def _select(self, *where: Any) -> list[Release]:
        with self._transaction() as connection:
            rows = connection.execute(sa.select(_releases).where(*where).order_by("release_id")).all()
            return [self._release(row) for row in rows]

    def _find(self, connection: Connection, release_ids: Sequence[str]) -> dict[str, Release]:
        """Row-locked on PostgreSQL, in one order so that no two processes wait for each other."""
        query = sa.select(_releases).where(_releases.c.release_id.in_(release_ids)).order_by("release_id")
        if connection.get_execution_options()["ledger_write"]:
            query = query.with_for_update()
        return {row.release_id: self._release(row) for row in connection.execute(query)}

    def _get(self, connection: Connection, release_id: str) -> Release:
        found = self._find(connection, [release_id])
        if not found:
            raise LedgerError(f"Ledger {self.name}: expected a known release, got {release_id!r}")
        return found[release_id]

    def _release(self, row: Row[Any]) -> Release:
        with self._readable(f"release {row.release_id}"):
            base = (row.release_id, row.pipeline, row.partition, row.parallel, row.key_id)
            request = ReleaseRequest(*base, _load_charge(row.charge), _load_memos(row.memos))
            held = row.holder_host is not None
            holder = Holder(row.holder_host, row.holder_pid, row.holder_started) if held else None
            times = (row.held_since, row.lease_until, row.publish_began, row.created, row.updated)
            return Release(request, row.budget, row.state, holder, *times)

    def _update(self, connection: Connection, release_id: str, /, **changes: Any) -> None:
        where = _releases.c.release_id == release_id
        connection.execute(_releases.update().where(where).values(**changes, updated=_now()))

    def _record(
        self, connection: Connection, budget: str, release_id: str | None, event: str, detail: Any = None
    ) -> None:
        row = {"time": _now(), "budget": budget, "release_id": release_id, "event": event, "detail": _dump(detail)}
        connection.execute(_history.insert().values(row))


# ---------------------------------------------------------------------------------------------------------- checks


def _check_limit(connection: Connection, budget: Budget, lock: bool = False) -> bool:
    """Whether the budget is in use. Raises SpecError if it is, with another limit."""
    query = sa.select(_budgets).where(_budgets.c.name == budget.name)
    row = connection.execute(query.with_for_update() if lock else query).one_or_none()
    if row is not None and (row.epsilon, row.delta) != (budget.epsilon, budget.delta):
        raise SpecError(
            f"Budget {budget.name!r}: expected the limit it is in use with, epsilon={row.epsilon} at "
            f"delta={row.delta}, got epsilon={budget.epsilon} at delta={budget.delta}"
        )
    return row is not None


def _check_same(release: Release, request: ReleaseRequest, budget: Budget) -> None:
    """A release id names one charge. An abandoned release may come back with another, a published one only paid its."""
    if release.state == "abandoned":
        return
    if release.budget != budget.name:
        raise SpecError(
            f"Release {request.release_id}: expected budget {release.budget!r}, which it is charged to, "
            f"got {budget.name!r}"
        )
    if release.state != "published" and release.request != request:
        raise SpecError(
            f"Release {request.release_id}: expected the charge it is {release.state} with, got another one; "
            "abandon the release to reserve it anew"
        )


def _check_distinct(requests: Sequence[ReleaseRequest]) -> None:
    counts = Counter(request.release_id for request in requests)
    if repeated := [release_id for release_id, count in counts.items() if count > 1]:
        raise SpecError(f"Expected each release once in a reservation, got {repeated} more than once")


def _check_lease(release: Release, holder: Holder, take_over: bool = False) -> None:
    if release.holder in (None, holder) or take_over or (release.lease_until or "") < _now():
        return
    if release.holder is not None and not release.holder.dead():
        raise _held(release)


def _check_abandon(release: Release, holder: Holder) -> None:
    if release.publish_began is not None:
        raise LedgerError(
            f"Release {release.release_id}: its publishing began at {release.publish_began}, so a reader may have "
            "seen it and the charge stays; run the pipeline again to finish it"
        )
    _check_lease(release, holder)


def _held(release: Release) -> ReleaseHeld:
    holder = release.holder
    by = f"process {holder.pid} on {holder.host} since {release.held_since}" if holder else "nobody"
    return ReleaseHeld(
        f"Release {release.release_id} of pipeline {release.request.pipeline!r} is held by {by}"
        + (f", lease until {release.lease_until}" if holder else ", expected this process to hold it")
    )


def _over_budget(outcome: Preview) -> str:
    budget, after = outcome.budget, outcome.epsilon_after
    if math.isinf(after):
        return (
            f"Budget {budget.name!r}: requested releases have no finite epsilon at delta={budget.delta}: the "
            f"slack that their samplers and accounting owe is not below it; remaining epsilon={outcome.remaining:.6g}"
        )
    return (
        f"Budget {budget.name!r}: requested epsilon={outcome.added:.6g} at delta={budget.delta}, "
        f"remaining {outcome.remaining:.6g} of {budget.epsilon:.6g}, over by {after - budget.epsilon:.6g}"
    )


# --------------------------------------------------------------------------------------------------------- details


_FREE: dict[str, None] = dict.fromkeys(("holder_host", "holder_pid", "holder_started", "held_since", "lease_until"))


def _now(later: float = 0.0) -> str:
    # Always UTC with microseconds, so that these texts sort as the times do.
    return (datetime.now(UTC) + timedelta(seconds=later)).isoformat(timespec="microseconds")


def _equal(table: sa.Table, **values: str | None) -> list[Any]:
    return [table.c[name] == value for name, value in values.items() if value is not None] or [sa.true()]


def _columns(holder: Holder) -> dict[str, Any]:
    return {"holder_host": holder.host, "holder_pid": holder.pid, "holder_started": holder.started}


def _request_columns(request: ReleaseRequest) -> dict[str, Any]:
    memos = [{"memo_id": m.memo_id, "column": m.column, "charge": m.charge.to_json()} for m in request.memos]
    names = ("release_id", "pipeline", "partition", "parallel", "key_id")
    columns = {name: getattr(request, name) for name in names}
    return {**columns, "charge": _dump(request.charge.to_json()), "memos": _dump(memos)}


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


# The releases of a pipeline mostly share their charge, so each text is parsed once.
@lru_cache(maxsize=1024)
def _load_charge(text: str) -> Charge:
    return Charge.from_json(json.loads(text))


@lru_cache(maxsize=1024)
def _load_memos(text: str) -> tuple[Memo, ...]:
    return tuple(Memo(m["memo_id"], m["column"], Charge.from_json(m["charge"])) for m in json.loads(text))


# ------------------------------------------------------------------------------------------------------- databases


_EXAMPLES = "sqlite:///path/to/ledger.db or postgresql+psycopg://user@host/database"


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise SpecError(f"Expected a ledger like {_EXAMPLES}, got {url!r}") from error
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise SpecError(f"Expected a ledger like {_EXAMPLES}, got {parsed.render_as_string(hide_password=True)!r}")
    if parsed.get_backend_name() == "sqlite" and (not parsed.database or parsed.database == ":memory:"):
        raise SpecError(f"Expected a ledger in a file, like sqlite:///path/to/ledger.db, got {url!r}")
    return parsed


def _name(url: URL) -> str:
    return str(url.database) if url.get_backend_name() == "sqlite" else url.render_as_string(hide_password=True)


def _engine(url: URL, wait_seconds: float, mode: str) -> Engine:
    """NullPool: a connection lives as long as its transaction, and none crosses a fork."""
    try:
        if url.get_backend_name() != "sqlite":
            options = {"options": f"-c lock_timeout={math.ceil(wait_seconds * 1000)}"}
            return sa.create_engine(url, poolclass=NullPool, connect_args=options)
        # As a URI, for mode=rw: SQLite must not make a file in place of one that has gone.
        path = "file:" + quote(str(Path(str(url.database)).absolute()))
        url = url.set(database=path, query={"uri": "true", "mode": mode, "timeout": str(wait_seconds)})
        engine = sa.create_engine(url, poolclass=NullPool)
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise LedgerError(f"Ledger {_name(url)}: no driver for it is installed: {error}") from error
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # this module says BEGIN, not the driver (SQLAlchemy: pysqlite, transactions)
    connection.execute("PRAGMA synchronous = EXTRA")  # a commit survives a power cut
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE takes the write lock before anything is read: no other process can spend between the two.
    write = connection.get_execution_options()["ledger_write"]
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _explain(error: SQLAlchemyError) -> str:
    text = str(getattr(error, "orig", None) or error)
    if "locked" in text or "lock timeout" in text:
        return "locked by another process, also after waiting"
    if "readonly" in text:
        return "read-only, expected to write"
    if "not a database" in text or "malformed" in text:
        return f"damaged or not a ledger ({text})"
    return text
