"""Partition selection: which groups of an aggregate may be named at all, given how many privacy units are in each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class PartitionSelection:
    """Optimal partition selection, the truncated geometric mechanism: a group is kept with a probability by its size.

    Law: a group of n privacy units is kept with probability p(n), independently: p(0) = 0 and
    p(n) = min(e^epsilon p(n-1) + delta, 1 - e^-epsilon (1 - p(n-1) - delta), 1), for the group's share of epsilon and delta.
    Guarantee: (epsilon, delta), if one privacy unit that is in at most `groups` groups is added or removed: each group has
    epsilon / groups and 1 - (1 - delta)^(1/groups), which compose to that (Kairouz, Oh and Viswanath 2015). No mechanism of
    its kind keeps any group more often: p(n) grows as fast as neighbours allow.
    Source: Desfontaines, Voss, Gipson, Mandayam 2022, "Differentially private partition selection", theorem 2.

    epsilon: above 0, at most 1000
    delta:   0 < delta < 1
    groups:  in how many groups a privacy unit is at most, 1 or more

    Raises ValueError out of these ranges.
    """

    epsilon: float
    delta: float
    groups: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.epsilon <= 1000:
            raise ValueError(f"epsilon={self.epsilon}, expected 0 < epsilon <= 1000")
        if not 0 < self.delta < 1:
            raise ValueError(f"delta={self.delta}, expected 0 < delta < 1")
        if self.groups < 1:
            raise ValueError(f"groups={self.groups}, expected 1 or more")

    @cached_property
    def share(self) -> tuple[float, float]:
        """Epsilon and delta of one group."""
        return self.epsilon / self.groups, -math.expm1(math.log1p(-self.delta) / self.groups)

    @cached_property
    def turn(self) -> int:
        """The largest n up to which p(n) = e^epsilon p(n-1) + delta is the least of the three."""
        epsilon, delta = self.share
        # (e^eps + 2 delta - 1) / ((e^eps + 1) delta) over e^eps, so that nothing overflows
        small = math.exp(-epsilon)
        ratio = (-math.expm1(-epsilon) + 2 * delta * small) / ((1 + small) * delta)
        return 1 + math.floor(max(0.0, math.log(ratio)) / epsilon)

    def keep_probability(self, units: int) -> float:
        """p(n) for n privacy units, n >= 0. By the closed form, in a few operations whatever n is."""
        if units < 0:
            raise ValueError(f"units={units}, expected 0 or more")
        rising = self._rising(min(units, self.turn))
        return rising if units <= self.turn else self._falling(rising, units - self.turn)

    def _rising(self, n: int) -> float:
        """delta (e^(n eps) - 1) / (e^eps - 1)."""
        epsilon, delta = self.share
        if n == 0:
            return 0.0
        grown = math.exp((n - 1) * epsilon) * math.expm1(-n * epsilon) / math.expm1(-epsilon)
        return min(1.0, delta * grown)

    def _falling(self, start: float, m: int) -> float:
        """1 - p falls by the factor e^-eps, and by delta e^-eps, m times over; until p is 1."""
        epsilon, delta = self.share
        added = -math.expm1(-m * epsilon) * (1 + delta / math.expm1(min(epsilon, 700.0)))
        return min(1.0, added + math.exp(-m * epsilon) * start)
