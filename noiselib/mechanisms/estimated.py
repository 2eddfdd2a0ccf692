"""Mechanisms that take parameters from the data of each release. They make no privacy claim, by their nature.

`fit` turns the exact counts or sums of a release's points into the mechanism that is applied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, ClassVar

from noiselib.mechanisms.additive import exact
from noiselib.mechanisms.categorical import Transition, invariant
from noiselib.mechanisms.correlated import CorrelatedGaussian, covariance_from_sums, group, means_from_sums

Category = str | bool | int


@dataclass(frozen=True)
class EstimatedPram:
    """Post-randomization that keeps the release's own marginal in expectation: `transition`, made invariant to it."""

    name: ClassVar[str] = "pram"
    width: ClassVar[int] = 1
    transition: Transition

    @property
    def categories(self) -> tuple[Category, ...]:
        return self.transition.categories

    def fit(self, counts: Sequence[int]) -> Transition:
        """`counts` per category; of a release without rows nothing is invariant, and nothing is drawn."""
        if sum(counts) == 0:
            return self.transition
        return replace(self.transition, matrix=invariant(self.transition.matrix, counts))

    def event(self) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"categories": list(self.categories), "invariant": True}


@dataclass(frozen=True)
class EstimatedCorrelated:
    """The `index`-th of `size` columns under noise of `share` times the release's own covariance.

    keep: whether the sum is drawn together to the mean, so that the covariance is what it was.
    """

    name: ClassVar[str] = "correlated_gaussian"
    width: ClassVar[int] = 1
    size: int
    index: int
    share: Fraction
    keep: bool

    def fit(self, rows: int, sums: Sequence[int], products: Sequence[Sequence[int]]) -> CorrelatedGaussian:
        """From sums over the rows that have a point in every column of the group, and of products of two columns' points."""
        if rows < 2:  # no covariance, and nothing that it could protect
            return CorrelatedGaussian((0.0,) * (self.index + 1))
        covariance = covariance_from_sums(rows, sums, products)
        means = means_from_sums(rows, sums) if self.keep else None
        return group(covariance, float(self.share), means)[self.index]

    def event(self) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"share": float(self.share), "keep_covariance": self.keep, "index": self.index, "size": self.size}


def correlated_from_covariance(covariance: Sequence[Sequence[float]], index: int, step: Fraction) -> CorrelatedGaussian:
    """The `index`-th column of a group whose noise has that covariance, in the columns' units; its lattice has `step`."""
    chosen = group(covariance)[index]
    return replace(chosen, factors=tuple(float(exact(factor) / step) for factor in chosen.factors))
