"""What must hold before the ledger changes: one limit and unit a budget, one charge a release, one holder."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from noiselib.errors import LedgerError, OverBudget, ReleaseHeld, SpecError
from noiselib.ledger import schema
from noiselib.ledger.account import Budget, Preview, ReleaseRequest
from noiselib.ledger.history import time_text
from noiselib.ledger.holder import Holder
from noiselib.ledger.rows import Release


def check_budget(connection: Connection, budget: Budget) -> Row[Any] | None:
    """The budget's row, None before its first use. Raises SpecError if it is in use with another limit or unit."""
    row = connection.execute(sa.select(schema.budgets).where(schema.budgets.c.name == budget.name)).one_or_none()
    if row is not None and (row.epsilon, row.delta) != (budget.epsilon, budget.delta):
        raise SpecError(
            f"Budget {budget.name!r}: expected the limit it is in use with, epsilon={row.epsilon} at "
            f"delta={row.delta}, got epsilon={budget.epsilon} at delta={budget.delta}"
        )
    if row is not None and row.unit not in (None, budget.unit):
        raise SpecError(
            f"Budget {budget.name!r}: expected the privacy unit it is in use with, {row.unit}, got {budget.unit}; "
            "a total over two kinds of unit would be a statement about neither: name another budget"
        )
    return row


def check_same(release: Release, request: ReleaseRequest, budget: Budget) -> None:
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


def check_distinct(requests: Sequence[ReleaseRequest]) -> None:
    counts = Counter(request.release_id for request in requests)
    if repeated := [release_id for release_id, count in counts.items() if count > 1]:
        raise SpecError(f"Expected each release once in a reservation, got {repeated} more than once")


def check_holds(release: Release, holder: Holder | None) -> None:
    """Raises ReleaseHeld for a holder that lost its lease, also if nobody has taken it up since."""
    if holder is not None and release.holder != holder:
        raise _held(release)


def check_lease(release: Release, holder: Holder, now: datetime) -> None:
    """Raises ReleaseHeld unless `holder` may have the release."""
    if release.holder != holder and at_work(release, now):
        raise _held(release)


def at_work(release: Release, now: datetime) -> bool:
    """Whether somebody works on the release.

    Where it can be known whether its holder lives, that decides, and no clock; else the end of its lease does.
    """
    alive = release.holder.alive() if release.holder is not None else False
    return (release.lease_until or "") >= time_text(now) if alive is None else alive


def check_unseen(release: Release) -> None:
    """Raises LedgerError if a reader may have seen the release: its charge is never given back then."""
    if release.state == "published":
        raise LedgerError(f"Release {release.release_id} is published: its charge is never given back")
    if release.publish_began is not None:
        raise LedgerError(
            f"Release {release.release_id}: its publishing began at {release.publish_began}, so a reader may have "
            "seen it and the charge stays; run the pipeline again to finish it"
        )


def _held(release: Release) -> ReleaseHeld:
    holder = release.holder
    by = f"process {holder.pid} on {holder.host} since {release.held_since}" if holder else "nobody"
    return ReleaseHeld(
        f"Release {release.release_id} of pipeline {release.request.pipeline!r} is held by {by}"
        + (f", lease until {release.lease_until}" if holder else ", expected this process to hold it")
    )


def over_budget(outcome: Preview) -> OverBudget:
    budget, after = outcome.budget, outcome.epsilon_after
    if math.isinf(after):
        return OverBudget(
            f"Budget {budget.name!r}: requested releases have no finite epsilon at delta={budget.delta}: the "
            f"slack that their samplers and accounting owe is not below it; remaining epsilon={outcome.remaining:.6g}"
        )
    return OverBudget(
        f"Budget {budget.name!r}: requested epsilon={outcome.added:.6g} at delta={budget.delta}, "
        f"remaining {outcome.remaining:.6g} of {budget.epsilon:.6g}, over by {after - budget.epsilon:.6g}"
    )
