"""Cell-key perturbation of counts: noise of bounded size that keeps zeros and avoids small counts."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np

from noiselib.mechanisms.additive import exact
from noiselib.mechanisms.categorical import Ints, RowTables, in_chunks, row_tables
from noiselib.noise import discrete
from noiselib.noise.stream import Stream

MAX_NOISE = 50
MIN_VARIANCE = 1e-6
DIGITS = 70
CONVERGED = Decimal(10) ** -80  # Newton's decrement; its square root bounds the error in units of the law's deviation


@dataclass(frozen=True)
class CellKey:
    """The cell-key method for tables of counts: the same cell has the same noise in every release that shows it.

    Law: a count i > 0 becomes i + v, v from -D to D such that i + v >= 0 is none of 1..js, with mean 0, variance V and
    the greatest entropy that these allow: P(v) proportional to exp(l1 v + l2 v^2). A count of 0 stays 0. One law serves
    all counts from D + js + 1 on (from D on, if js = 0), which is symmetric. The variance is a bound, as in the R package
    ptable: near 0, where mean 0 alone allows less than V at the greatest entropy, l2 is 0 and the variance is that. The
    noise is a function of the pipeline, the column, the cell (its row key) and its count, whatever the release: a cell whose
    count stays agrees with itself in all of them. Another pipeline's noise is another.
    Guarantee: none. Releases of one pipeline cannot be set against one another, or averaged, to take the noise off.
    Variance: V; for small counts see `variance_of`.
    Estimator: the published count itself: the noise has mean 0 at each count.
    Source: Fraser, Wooton 2006; Giessing 2016; Enderle, R package ptable; Marley, Leaver 2011.

    max_noise: D, 1 to 50
    variance:  V, at least 1e-6, at most D(D+1)/3 (the uniform law's), at least i(js+1-i) for 1 <= i <= js: these counts must move
    smallest:  js, 0 <= js < D: no count of 1 to js is published
    """

    name: ClassVar[str] = "cell_key"
    max_noise: int
    variance: float
    smallest: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.max_noise <= MAX_NOISE:
            raise ValueError(f"max_noise={self.max_noise}, expected 1 to {MAX_NOISE}")
        if not 0 <= self.smallest < self.max_noise:
            raise ValueError(f"smallest={self.smallest}, expected 0 <= smallest < max_noise={self.max_noise}")
        least = max((i * (self.smallest + 1 - i) for i in range(1, self.smallest + 1)), default=0)
        most = Fraction(self.max_noise * (self.max_noise + 1), 3)
        if not MIN_VARIANCE <= self.variance <= most or self.variance < least:
            raise ValueError(
                f"variance={self.variance}, expected at least {max(least, MIN_VARIANCE)} (counts of 1 to smallest="
                f"{self.smallest} must move), at most {float(most):g} (uniform noise)"
            )

    @property
    def width(self) -> int:
        return 1

    @property
    def tv_bound(self) -> float:
        """2^-49: one draw from one table."""
        return discrete.TABLE_TV

    @property
    def draws(self) -> int:
        return 1

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """Perturbed counts, int64 (n,). `points` are counts >= 0."""
        if len(points) and points.min() < 0:
            raise ValueError(f"a count of {points.min()}, expected counts >= 0")
        tables, top = self._tables, len(self.laws) - 1

        def draw(counts: Ints, part: Stream) -> Ints:
            noise = tables.pick(np.minimum(counts, top), part.words(0)[:, 0])
            noise -= self.max_noise
            noise += counts
            return noise

        return in_chunks(draw, 1, points, stream)

    @cached_property
    def laws(self) -> tuple[tuple[int, ...], ...]:
        """Weights of v = -D..D for the counts 0, 1, ..., of which the last stands for all greater ones too."""
        return _laws(self.max_noise, exact(self.variance), self.smallest)

    @cached_property
    def _tables(self) -> RowTables:
        return row_tables(self.laws)

    def probabilities(self, count: int) -> list[float]:
        """P(v) of the ideal law for v = -D..D."""
        weights = self.laws[min(count, len(self.laws) - 1)]
        return [w / sum(weights) for w in weights]

    def variance_of(self, count: int) -> float:
        """Of the noise of a count: V, or less near 0."""
        return sum(p * (v - self.max_noise) ** 2 for v, p in enumerate(self.probabilities(count)))

    @property
    def unchanged(self) -> tuple[float, ...]:
        """The probability that a count stays as it is, for the counts 0, 1, ... that have laws of their own."""
        return tuple(self.probabilities(count)[self.max_noise] for count in range(len(self.laws)))

    def event(self) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"max_noise": self.max_noise, "variance": self.variance, "smallest": self.smallest}


# ---- maximum entropy -------------------------------------------------------------------------------------------------


@lru_cache(maxsize=16)
def _laws(reach: int, variance: Fraction, smallest: int) -> tuple[tuple[int, ...], ...]:
    counts = range(reach + smallest + (smallest > 0) + 1)
    laws = []
    for count in counts:
        noises = range(-reach, reach + 1)
        support = [v for v in noises if count + v >= 0 and not 1 <= count + v <= smallest] if count else [0]
        weights = dict(zip(support, _max_entropy(support, variance), strict=True))
        laws.append(tuple(weights.get(v, 0) for v in noises))
    return tuple(laws)


def _max_entropy(support: list[int], variance: Fraction) -> list[int]:
    """Of the laws on `support` with mean 0 and at most this variance, the one of greatest entropy, in 1/UNIT."""
    with localcontext() as context:
        context.prec = DIGITS
        below, above = max((v for v in support if v < 0), default=0), min((v for v in support if v > 0), default=0)
        if below == 0 or above == 0:
            law = [Decimal(v == 0) for v in support]
        elif 0 not in support and variance <= -below * above:
            law = [Decimal(above * (v == below) - below * (v == above)) / (above - below) for v in support]
        else:
            law = _newton(support, None)
            bound = Decimal(variance.numerator) / Decimal(variance.denominator)
            if _moment(law, support, 2) > bound:
                law = _newton(support, bound)
        return [int(p * discrete.UNIT) for p in law]


def _newton(support: list[int], variance: Decimal | None) -> list[Decimal]:
    """P(v) ~ exp(l1 v + l2 v^2) with mean 0 and this variance, or with mean 0 and l2 = 0.

    The dual ln Z - l2 V is convex in (l1, l2) and its gradient is what the moments are off: Newton's steps, halved where
    the dual would rise.
    """
    target = variance or Decimal(0)
    l1, l2 = Decimal(0), Decimal(0)  # from above: a start of too little variance would be thrown far off
    for _ in range(500):
        dual, law = _dual(support, l1, l2, target)
        mean, second, third, fourth = (_moment(law, support, power) for power in (1, 2, 3, 4))
        a, b, c = second - mean**2, third - mean * second, fourth - second**2
        g1, g2 = -mean, target - second
        if variance is None:
            step1, step2 = g1 / a, Decimal(0)
        else:
            det = a * c - b * b
            step1, step2 = (c * g1 - b * g2) / det, (a * g2 - b * g1) / det
        decrement = step1 * g1 + step2 * g2
        if decrement < CONVERGED:
            return law
        while decrement > Decimal("1e-20") and _dual(support, l1 + step1, l2 + step2, target)[0] > dual:
            step1, step2 = step1 / 2, step2 / 2
        l1, l2 = l1 + step1, l2 + step2
    raise ArithmeticError(f"no law of variance {variance} on {support} was found")


def _dual(support: list[int], l1: Decimal, l2: Decimal, variance: Decimal) -> tuple[Decimal, list[Decimal]]:
    quadratic = _quadratic(max(-support[0], support[-1]), l1, l2)
    weights = [quadratic[v] for v in support]
    total = sum(weights, Decimal(0))
    return total.ln() - l2 * variance, [w / total for w in weights]


def _quadratic(reach: int, l1: Decimal, l2: Decimal) -> dict[int, Decimal]:
    """exp(l1 v + l2 v^2) for v = -reach..reach, by running products outward from 0."""
    once, square = l2.exp(), (2 * l2).exp()
    values = {0: Decimal(1)}
    for sign in (1, -1):
        ratio = (sign * l1).exp() * once
        for v in range(1, reach + 1):
            values[sign * v] = values[sign * (v - 1)] * ratio
            ratio *= square
    return values


def _moment(law: list[Decimal], support: list[int], power: int) -> Decimal:
    return sum((p * v**power for p, v in zip(law, support, strict=True)), Decimal(0))
