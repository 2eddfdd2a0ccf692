"""A charge: what one privacy unit pays, and what it amounts to under an accountant.

All events of a charge are under one neighbouring relation, so all kinds of event compose. Every number reported is an
upper bound on the loss, up to float rounding (a relative 1e-12).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from noiselib.accounting import distributions, renyi, zcdp
from noiselib.accounting.deltas import shifted
from noiselib.accounting.event import REPLACE_ONE, Event, Relation
from noiselib.accounting.law import Law, Parts
from noiselib.errors import SpecError

Accountant = Literal["pld", "rdp", "zcdp"]
# The tightest is the default. The others are for comparing with a figure that was made by them.
ACCOUNTANTS: dict[str, Callable[[Parts], Law]] = {"pld": distributions.law, "rdp": renyi.law, "zcdp": zcdp.law}


@dataclass(frozen=True)
class Charge:
    """What one privacy unit pays: a multiset of events. `Charge()` is free; `Charge.of(...)` builds, `+` composes.

    Equal multisets are equal, and have equal hashes, whatever the order in which they were put together. Raises SpecError
    for events of two neighbouring relations: what is promised for one says nothing about the other.
    """

    events: tuple[tuple[Event, int], ...] = ()

    def __post_init__(self) -> None:
        counts: Counter[Event] = Counter()
        for event, count in self.events:
            if count < 0:
                raise SpecError(f"Expected a count >= 0, got {count!r} of {event}")
            counts[event] += count
        relations = {event.relation: event for event, count in counts.items() if count}
        if len(relations) > 1:
            examples = ", ".join(f"{relation} ({event.kind})" for relation, event in sorted(relations.items()))
            raise SpecError(f"Expected events of one neighbouring relation in a charge, got {examples}")
        ordered = sorted(counts.items(), key=lambda item: _order(item[0]))
        object.__setattr__(self, "events", tuple((event, count) for event, count in ordered if count))

    @staticmethod
    def of(*events: Event) -> Charge:
        """The composition of these events, each once."""
        return Charge(tuple((event, 1) for event in events))

    def __add__(self, other: Charge) -> Charge:
        return Charge(self.events + other.events)

    def __bool__(self) -> bool:
        return bool(self.events)

    def __le__(self, other: Charge) -> bool:
        """Whether `other` holds every event of this charge at least as often (so it costs at least as much)."""
        counts = dict(other.events)
        return all(count <= counts.get(event, 0) for event, count in self.events)

    def times(self, n: int) -> Charge:
        """This charge paid n >= 0 times."""
        return Charge(tuple((event, n * count) for event, count in self.events))

    @property
    def relation(self) -> Relation:
        """What neighbours are, for all events."""
        return self.events[0][0].relation if self.events else REPLACE_ONE

    @property
    def pure(self) -> bool:
        """Whether every event is pure; the sampler's slack does not count."""
        return all(event.pure for event, _ in self.events)

    @property
    def pure_epsilon(self) -> float:
        """The sum of the pure epsilons, inf unless `pure`. With a slack, it holds at delta = slack."""
        return math.fsum(count * event.pure_epsilon for event, count in self.events)

    @property
    def slack(self) -> float:
        """Delta owed to imperfect samplers, in [0, 1]: the sum over events."""
        return min(1.0, math.fsum(count * event.slack for event, count in self.events))

    def epsilon(self, delta: float, accountant: Accountant = "pld") -> float:
        """An epsilon >= 0 such that this charge is (epsilon, delta)-DP; inf if there is none. `delta` in [0, 1].

        accountant: "pld" (privacy loss distributions, the tightest), "rdp" (Renyi) or "zcdp" (concentrated). Each gives an
        upper bound. Where every event is pure it is never above the pure sum; there is none below a delta of `slack`.
        Raises SpecError for a delta out of range, or another accountant.
        """
        if not 0 <= delta <= 1:
            raise SpecError(f"Expected delta in [0, 1], got delta={delta!r}")
        return _epsilon(self, delta, _check_accountant(accountant))

    def delta(self, epsilon: float, accountant: Accountant = "pld") -> float:
        """A delta in [0, 1] such that this charge is (epsilon, delta)-DP.

        Raises SpecError unless epsilon >= 0, or for an accountant that `epsilon` does not know.
        """
        if not epsilon >= 0:
            raise SpecError(f"Expected epsilon >= 0, got epsilon={epsilon!r}")
        make = ACCOUNTANTS[_check_accountant(accountant)]
        if epsilon >= self.pure_epsilon:
            return self.slack
        law = make(self.events)
        ideal = float(shifted(law.delta, epsilon - law.shift))
        return min(1.0, math.exp(law.growth) * (ideal + law.extra + self.slack))

    def to_json(self) -> list[dict[str, Any]]:
        """A JSON array of events, each with its `count`."""
        return [{**event.to_json(), "count": count} for event, count in self.events]

    @staticmethod
    def from_json(data: list[dict[str, Any]]) -> Charge:
        """The inverse of `to_json`. Raises SpecError for anything else."""
        pairs = []
        for item in data:
            keys = {key: value for key, value in item.items() if key != "count"}
            count = item.get("count")
            if not isinstance(count, int) or count < 1:
                raise SpecError(f"Expected an integer count >= 1 for an event, got {item!r}")
            pairs.append((Event.from_json(keys), count))
        return Charge(tuple(pairs))


def _order(event: Event) -> tuple[Any, ...]:
    return event.kind, event.parameters, event.slack, event.rate, event.relation


def _check_accountant(name: str) -> str:
    if name not in ACCOUNTANTS:
        raise SpecError(f"Expected an accountant of {sorted(ACCOUNTANTS)}, got {name!r}")
    return name


@lru_cache(maxsize=4096)
def _epsilon(charge: Charge, delta: float, accountant: str) -> float:
    if not charge:
        return 0.0
    if charge.slack > delta:
        return math.inf
    law = ACCOUNTANTS[accountant](charge.events)
    room = delta * math.exp(-law.growth) - law.extra - charge.slack
    bound = law.epsilon(room) + law.shift if room > 0 else math.inf
    if law.extra > delta / 100:  # rounding takes up much of so small a delta; Renyi's bound has none
        bound = min(bound, _epsilon(charge, delta, "rdp"))
    return float(min(charge.pure_epsilon, bound))
