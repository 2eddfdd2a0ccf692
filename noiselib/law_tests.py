"""Tests of the noise law: is the noise that was drawn the noise that was planned?

Each test counts the rows for which a condition holds that has a known probability under the planned law, so that the
count is binomial and the false-alarm rate exact, at any number of rows. Counts are compared and forgotten: sums of noise,
put beside sums of published values, would give true sums back, so only the verdicts are recorded.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats

from noiselib import mechanisms as m
from noiselib.column_plan import ColumnPlan
from noiselib.mechanisms import Additive
from noiselib.mechanisms.additive import Law
from noiselib.plan import Plan

FALSE_ALARMS = 5e-7  # of all these tests together; the checks of what is published have as much again: 1e-6 a release


SAMPLE_ROWS = 500_000  # rows of a larger job are sampled down to about this many: enough to see 2% of scale


@dataclass(frozen=True)
class LawTest:
    """`what` of `column` (and `other`) is a condition on a row's noise; it holds with `probability`.

    what, of numbers:      within (|noise| <= threshold; of arrays, every number's) · positive (noise > 0; of arrays, the
                           first's) · agree (noise > 0 in both columns or in neither) · northeast (of places: moved north
                           or not at all, and east) · code_within, code_positive (of the code itself)
    of categories:         same (category kept) · near (category kept or moved to the next half of the circle; threshold:
                           the number of categories) · supports, supports_next (the report supports the true category,
                           the one after it)
    of bounded numbers:    window (the code lies in the true value's window)
    of any:                changed (the code is not 0, or names a donor) · code_is (the code is the threshold)
    Where the probability depends on the point, rows take part by a lot of their own, so that it no longer does:
    kept, moved (category or count; `lots` by point, the last for all beyond; -p where a coin of p stands in for what
    never happens) · upper, lower (a coin's two sides).
    shared: how many rows may carry the same draw (memoized columns); 1 where every row has its own.
    """

    column: str
    what: str
    probability: float
    threshold: int = 0
    other: str | None = None
    shared: int = 1
    lots: tuple[float, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,) if self.other is None else (self.column, self.other)

    def accepts(self, count: int, rows: int, alpha: float) -> bool:
        """Whether `count` of `rows` is compatible with the law, but for a false alarm of probability alpha."""
        if self.shared > 1:  # Hoeffding for sums of clusters of at most `shared` equal draws
            slack = math.sqrt(rows * self.shared * math.log(2 / alpha) / 2)
            return abs(count - rows * self.probability) <= slack
        low = stats.binom.ppf(alpha / 2, rows, self.probability)
        high = stats.binom.isf(alpha / 2, rows, self.probability)
        return bool(low <= count <= high)


def law_tests(plan: Plan, releases: int) -> tuple[LawTest, ...]:
    """The tests of one job over `releases` releases of `plan`."""
    tests: list[LawTest] = []
    for column in plan.noised:
        shared = plan.rows_per_unit * releases if column.memoized else 1
        tests += _column_tests(column, shared)
    numeric = [column for column in plan.noised if isinstance(column.mechanism, Additive)]
    laws = [type(column.mechanism) for column in numeric]
    # columns of one law one after the other: these would repeat their noise, were they under one key
    numeric.sort(key=lambda column: laws.index(type(column.mechanism)))
    for first, second in pairwise(numeric):
        shared = plan.rows_per_unit * releases if first.memoized or second.memoized else 1
        one, two = _positive(first.mechanism.law), _positive(second.mechanism.law)  # type: ignore[union-attr]
        both, neither = one * two, (1 - one) * (1 - two)
        tests.append(LawTest(first.name, "agree", both + neither, other=second.name, shared=shared))
    return tuple(tests)


def verdicts(tests: Sequence[LawTest], counts: Sequence[int], rows: Sequence[int]) -> list[dict[str, Any]]:
    """Per test whether its count is accepted. `rows` are those whose noise took part. FALSE_ALARMS bounds them all together."""
    alpha = FALSE_ALARMS / max(1, len(tests))
    return [
        {
            "check": f"noise_law_{test.what}",
            "column": ", ".join(test.columns),
            "severity": "error",
            "success": test.accepts(count, size, alpha),
        }
        for test, count, size in zip(tests, counts, rows, strict=True)
    ]


def published_limits(column: ColumnPlan, rows: int, alpha: float) -> list[tuple[str, int, int, int]]:
    """What the published values alone must show: (condition, threshold in steps, least count, greatest count).

    Whatever the true values between the bounds are: `above` and `below` a bound by more than the threshold fall at most as
    many values as the noise alone sends there, and `outside` the bounds at least as many as from their middle.
    """
    mechanism, lattice = column.mechanism, column.lattice
    if not isinstance(mechanism, Additive) or lattice is None or getattr(column.declared, "bounds", None) is None:
        return []
    limits = []
    for margin in sorted({_upper_quantile(mechanism.law, share) for share in (1e-2, 1e-4)}):
        tail = 1.0 - float(mechanism.law.cdf(np.array([margin]))[0])
        most = int(stats.binom.isf(alpha, rows, min(1.0, tail * (1 + 1e-9)))) if rows else 0
        limits += [("above", lattice.upper + margin, 0, most), ("below", lattice.lower - margin, 0, most)]
    half = (lattice.upper - lattice.lower + 1) // 2
    escape = 2 * (1.0 - float(mechanism.law.cdf(np.array([half]))[0]))
    least = max(0, int(stats.binom.ppf(alpha, rows, escape * (1 - 1e-9)))) if rows else 0
    return [*limits, ("outside", 0, least, rows)]


def _column_tests(column: ColumnPlan, shared: int) -> list[LawTest]:
    return [replace(test, column=column.name, shared=shared) for test in _tests_of(column.mechanism, column)]


@singledispatch
def _tests_of(mechanism: Any, column: ColumnPlan) -> Iterator[LawTest]:
    """The tests of one column; none where a law depends on what was estimated from the data."""
    yield from ()


@_tests_of.register
def _(mechanism: Additive, column: ColumnPlan) -> Iterator[LawTest]:
    threshold = _upper_quantile(mechanism.law, 0.1)  # a fifth lies beyond: there a wrong scale shows most
    yield LawTest("", "within", _within(mechanism.law, threshold), threshold)
    yield LawTest("", "positive", _positive(mechanism.law))


@_tests_of.register(m.VectorGaussian)
@_tests_of.register(m.VectorLaplace)
def _(mechanism: Any, column: ColumnPlan) -> Iterator[LawTest]:
    threshold = _upper_quantile(mechanism.law, 0.1 / mechanism.dimension)
    yield LawTest("", "within", _within(mechanism.law, threshold) ** mechanism.dimension, threshold)
    yield LawTest("", "positive", _positive(mechanism.law))


@_tests_of.register
def _(mechanism: m.PlanarLaplace, column: ColumnPlan) -> Iterator[LawTest]:
    yield LawTest("", "northeast", (1 - float(mechanism.law.pmf(0, 0))) / 4)


@_tests_of.register
def _(mechanism: m.RandomizedResponse, column: ColumnPlan) -> Iterator[LawTest]:
    size = len(mechanism.categories)
    half = size // 2  # of the circle of categories, the true one first
    kept, near = (float(p) for p in mechanism.law.cdf(np.array([0, half - 1])))
    yield LawTest("", "same", kept, size)
    yield LawTest("", "near", near, size)


@_tests_of.register
def _(mechanism: m.FrequencyOracle, column: ColumnPlan) -> Iterator[LawTest]:
    true, other = map(float, mechanism.support)
    yield LawTest("", "supports", true)
    if not isinstance(mechanism, m.HadamardResponse):  # whose other categories lie in blocks
        yield LawTest("", "supports_next", other)


@_tests_of.register
def _(mechanism: m.Rappor, column: ColumnPlan) -> Iterator[LawTest]:
    if mechanism.bits is None and mechanism.cohorts == 1:
        true, other = map(float, mechanism.support)
        yield LawTest("", "supports", true)
        yield LawTest("", "supports_next", other)


@_tests_of.register
def _(mechanism: m.Transition, column: ColumnPlan) -> Iterator[LawTest]:
    kept = [float(row[i]) for i, row in enumerate(mechanism.matrix)]
    yield from _by_lot(kept)


@_tests_of.register
def _(mechanism: m.CellKey, column: ColumnPlan) -> Iterator[LawTest]:
    yield from _by_lot(mechanism.unchanged)


def _by_lot(kept: Sequence[float]) -> Iterator[LawTest]:
    """Tests of how often a point is kept, and moved, where that depends on the point."""
    for what, chances in (("kept", list(kept)), ("moved", [1 - p for p in kept])):
        least = min((p for p in chances if p > 1e-3), default=0.0)
        if least:
            yield LawTest("", what, least, lots=tuple(least / p if p > 1e-3 else -least for p in chances))


@_tests_of.register(m.Duchi)
@_tests_of.register(m.OneBitMean)
def _(mechanism: Any, column: ColumnPlan) -> Iterator[LawTest]:
    yield LawTest("", "upper", float(mechanism.lie))
    yield LawTest("", "lower", float(mechanism.lie))


@_tests_of.register(m.Piecewise)
@_tests_of.register(m.Hybrid)
@_tests_of.register(m.SquareWave)
def _(mechanism: Any, column: ColumnPlan) -> Iterator[LawTest]:
    if mechanism.in_window > 0:
        yield LawTest("", "window", float(mechanism.in_window))


@_tests_of.register(m.MultiplicativeGaussian)
@_tests_of.register(m.GaussianDropout)
def _(mechanism: Any, column: ColumnPlan) -> Iterator[LawTest]:
    threshold = _upper_quantile(mechanism.law, 0.1)
    yield LawTest("", "code_within", _within(mechanism.law, threshold), threshold)
    yield LawTest("", "code_positive", _positive(mechanism.law))


@_tests_of.register(m.Masking)
@_tests_of.register(m.Impulse)
@_tests_of.register(m.Swap)
def _(mechanism: Any, column: ColumnPlan) -> Iterator[LawTest]:
    yield LawTest("", "changed", float(mechanism.rate))
    if isinstance(mechanism, m.Impulse):
        yield LawTest("", "code_is", float(mechanism.rate) / 2, 1)


def _within(law: Law, threshold: int) -> float:
    low, high = law.cdf(np.array([-threshold - 1, threshold]))
    return float(high - low)


def _positive(law: Law) -> float:
    return 1.0 - float(law.cdf(np.array([0]))[0])


def _upper_quantile(law: Law, share: float) -> int:
    """The least k with P(noise > k) <= share, by bisection on the law's distribution function."""
    low, high = 0, max(1, math.ceil(60 * math.sqrt(law.variance)))
    while low < high:
        middle = (low + high) // 2
        if 1.0 - float(law.cdf(np.array([middle]))[0]) <= share:
            high = middle
        else:
            low = middle + 1
    return low
