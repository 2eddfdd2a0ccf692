"""The account: which privacy unit pays what, and how far that goes within a budget. Pure, and knows of no database.

The total is recomputed from the events of all charges, not added up from epsilons.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from noiselib.accounting import Charge
from noiselib.errors import SpecError


@dataclass(frozen=True)
class Budget:
    """A limit: the account named `name` stays (epsilon, delta)-DP for one privacy unit, "row" or "entity (COLUMNS)".

    Raises SpecError out of range.
    """

    name: str
    epsilon: float
    delta: float
    unit: str = "row"

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

    def to_json(self) -> dict[str, Any]:
        return {"memo_id": self.memo_id, "column": self.column, "charge": self.charge.to_json()}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Memo:
        """The inverse of `to_json`."""
        return Memo(data["memo_id"], data["column"], Charge.from_json(data["charge"]))


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


def spent(releases: Iterable[ReleaseRequest], delta: float) -> float:
    """Epsilon at `delta` of the worst-placed privacy unit; inf if its samplers' slack takes up all of delta."""
    return max(charge.epsilon(delta) for charge in worst_charges(releases))


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
