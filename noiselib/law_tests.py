"""Tests of the noise law: is the noise that was drawn the noise that was planned?

Each test counts the rows for which a condition holds that has a known probability under the planned law, so that the
count is binomial and the false-alarm rate exact, at any number of rows. Counts are compared and forgotten: sums of noise,
put beside sums of published values, would give true sums back, so only the verdicts are recorded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from scipy import stats

from noiselib.mechanisms import Additive, RandomizedResponse
from noiselib.plan import ColumnPlan, Plan

FALSE_ALARMS = 5e-7  # of all these tests together; the checks of what is published have as much again: 1e-6 a release


SAMPLE_ROWS = 500_000  # rows of a larger job are sampled down to about this many: enough to see 2% of scale


@dataclass(frozen=True)
class LawTest:
    """`what` of `column` (and `other`) is a condition on a row's noise; it holds with `probability`.

    what: within (|noise| <= threshold) · positive (noise > 0) · same (category kept) · near (category kept or moved to
    the next half of the circle; threshold: the number of categories) · agree (noise > 0 in both columns or in
    neither).
    shared: how many rows may carry the same draw (memoized columns); 1 where every row has its own.
    """

    column: str
    what: str
    probability: float
    threshold: int = 0
    other: str | None = None
    shared: int = 1

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
        both = _positive(first) * _positive(second)
        neither = (1 - _positive(first)) * (1 - _positive(second))
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
    for margin in sorted({_upper_quantile(mechanism, share) for share in (1e-2, 1e-4)}):
        tail = 1.0 - float(mechanism.law.cdf(np.array([margin]))[0])
        most = int(stats.binom.isf(alpha, rows, min(1.0, tail * (1 + 1e-9)))) if rows else 0
        limits += [("above", lattice.upper + margin, 0, most), ("below", lattice.lower - margin, 0, most)]
    half = (lattice.upper - lattice.lower + 1) // 2
    escape = 2 * (1.0 - float(mechanism.law.cdf(np.array([half]))[0]))
    least = max(0, int(stats.binom.ppf(alpha, rows, escape * (1 - 1e-9)))) if rows else 0
    return [*limits, ("outside", 0, least, rows)]


def _column_tests(column: ColumnPlan, shared: int) -> list[LawTest]:
    mechanism = column.mechanism
    if isinstance(mechanism, RandomizedResponse):
        size = len(mechanism.categories)
        half = size // 2  # of the circle of categories, the true one first
        kept, near = (float(p) for p in mechanism.law.cdf(np.array([0, half - 1])))
        return [
            LawTest(column.name, "same", kept, size, shared=shared),
            LawTest(column.name, "near", near, size, shared=shared),
        ]
    assert mechanism is not None
    threshold = max(0, _upper_quantile(mechanism, 0.1))  # a fifth lies beyond: there a wrong scale shows most
    within = _within(mechanism, threshold)
    return [
        LawTest(column.name, "within", within, threshold, shared=shared),
        LawTest(column.name, "positive", _positive(column), shared=shared),
    ]


def _within(mechanism: Additive, threshold: int) -> float:
    low, high = mechanism.law.cdf(np.array([-threshold - 1, threshold]))
    return float(high - low)


def _positive(column: ColumnPlan) -> float:
    assert isinstance(column.mechanism, Additive)
    return 1.0 - float(column.mechanism.law.cdf(np.array([0]))[0])


def _upper_quantile(mechanism: Additive, share: float) -> int:
    """The least k with P(noise > k) <= share, by bisection on the law's distribution function."""
    low, high = 0, max(1, math.ceil(60 * float(mechanism.scale)))
    while low < high:
        middle = (low + high) // 2
        if 1.0 - float(mechanism.law.cdf(np.array([middle]))[0]) <= share:
            high = middle
        else:
            low = middle + 1
    return low
