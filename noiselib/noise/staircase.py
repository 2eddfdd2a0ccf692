"""The staircase law on the lattice: for pure epsilon the law of least expected error, sampled by digits and a uniform offset."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noiselib.noise import discrete
from noiselib.noise.alias import AliasTable
from noiselib.noise.integers import COIN, coin, low_probability, uniform_below
from noiselib.noise.stream import Stream

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MAX_SENSITIVITY = 2**30  # a stair is uniform on 2D half-steps, by `uniform_below`


@dataclass(frozen=True)
class RoundedStaircase:
    """The continuous staircase law of Geng and Viswanath 2014, rounded to the nearest integer: post-processing.

    D = sensitivity, in steps. The density is symmetric; at |z| = G D + r, 0 <= r < D, it is proportional to e^(-G epsilon)
    for r < gamma D and to e^(-(G+1) epsilon) beyond. Moving z by at most D changes it by a factor of at most e^epsilon,
    for every gamma of [0, 1]. gamma = 1/(1 + e^(epsilon/2)), of least E|z|, is rounded to R/2D with a whole R >= 1, so that the
    density is constant on half-steps. Then h = floor(2|z|) = 2D G + offset, where G is geometric with ratio e^-epsilon and
    the offset, independent of G, has weight 1 below R and e^-epsilon from R to 2D - 1; and the rounded |k| = (h + 1) >> 1.
    The sign is a fair bit that the digits of G leave unused.

    tv_bound: P(G >= 2^B) <= e^-32 and 2^-49 per table as for `discrete.RoundedLaplace`; the offset's low weight is rounded
    up by at most 2^-60 of itself, and the coin and the uniform offset are each within 2^-64.

    Source: Geng and Viswanath 2014, "The optimal mechanism in differential privacy", definition of f_gamma and theorem 1.

    sensitivity: 1 to 2^30 steps
    epsilon:     above 0, at most 1000, and sensitivity/epsilon at most 2^40
    """

    sensitivity: int
    epsilon: Fraction

    def __post_init__(self) -> None:
        if not (isinstance(self.sensitivity, int) and 1 <= self.sensitivity <= MAX_SENSITIVITY):
            raise ValueError(f"sensitivity={self.sensitivity!r}, expected an integer, 1 <= sensitivity <= 2^30 steps")
        e = self.epsilon
        if not (isinstance(e, (int, Fraction)) and 0 < e <= 1000 and self.sensitivity <= e * discrete.MAX_SCALE):
            raise ValueError(f"epsilon={e!r}, expected a Fraction, sensitivity/2^40 <= epsilon <= 1000")

    # ---- the law's shape

    @cached_property
    def high_cells(self) -> int:
        """R: how many of a period's 2D half-steps have the high weight."""
        with localcontext() as context:
            context.prec = 60
            half = Fraction(self.epsilon) / 2
            cells = 2 * self.sensitivity / (1 + (Decimal(half.numerator) / Decimal(half.denominator)).exp())
            return max(1, int(cells.to_integral_value(ROUND_HALF_EVEN)))

    @cached_property
    def high_probability(self) -> Fraction:
        """That the offset has the high weight."""
        low_cells = 2 * self.sensitivity - self.high_cells
        low = low_probability(Fraction(self.epsilon), self.high_cells, low_cells)
        return 1 - low_cells * low

    # ---- sampling

    def sample(self, stream: Stream) -> Ints:
        tables = discrete._digit_tables(Fraction(self.epsilon), False)
        return discrete._in_chunks(lambda part: self._draw(tables, part), stream)

    def _draw(self, tables: tuple[AliasTable, ...], part: Stream) -> Ints:
        """Digits of G from the first words, then a word for the coin, then a block for the offset."""
        first = part.words(0)
        block, word = divmod(len(tables), 2)
        halves = discrete._draw_digits(tables, part, first)
        halves *= 2 * self.sensitivity
        coins = (first if block == 0 else part.words(block))[:, word]
        high, cells = coin(coins, self.high_probability), self.high_cells
        offset = uniform_below(part.words(block + 1), np.where(high, cells, 2 * self.sensitivity - cells))
        offset += np.where(high, 0, cells)
        halves += offset
        halves += 1
        halves >>= 1
        minus = -(first[:, 0] >> np.uint64(15) & np.uint64(1)).view(np.int64)
        halves ^= minus  # two's complement: (x ^ -1) - (-1) = -x
        halves -= minus
        return halves

    @property
    def draws(self) -> int:
        return len(discrete._digit_tables(Fraction(self.epsilon), False)) // 2 + 2

    @property
    def tv_bound(self) -> float:
        return discrete._digits_tv(Fraction(self.epsilon), False) + 2 * COIN + 2.0**-60

    # ---- the ideal law in floats: |k| = D G + j, j = (offset + 1) >> 1 independent of G

    @property
    def variance(self) -> float:
        ratio, d = math.exp(-self.epsilon), self.sensitivity
        mean, square = ratio / self._gap, ratio * (1 + ratio) / self._gap**2
        return d**2 * square + 2 * d * mean * self._within(_halves_sum) + self._within(_halves_squares)

    @property
    def mean_abs(self) -> float:
        return self.sensitivity * math.exp(-self.epsilon) / self._gap + self._within(_halves_sum)

    def pmf(self, k: ArrayLike) -> Floats:
        x = np.abs(np.asarray(k, np.float64))
        beyond = (self._cell(2 * x - 1) + self._cell(2 * x)) / 2
        return np.where(x == 0, self._cell(x), beyond)

    def cdf(self, k: ArrayLike) -> Floats:
        x = np.floor(np.asarray(k, np.float64))
        tail = self._tail(2 * np.where(x >= 0, x + 1, -x) - 1) / 2
        return np.where(x >= 0, 1 - tail, tail)

    @property
    def _gap(self) -> float:
        """1 - e^-epsilon."""
        return -math.expm1(-self.epsilon)

    @property
    def _weights(self) -> tuple[float, float]:
        """The offset's probability per cell, high and low."""
        ratio, high, all_cells = math.exp(-self.epsilon), self.high_cells, 2 * self.sensitivity
        whole = high + (all_cells - high) * ratio
        return 1 / whole, ratio / whole

    def _within(self, sum_below: Callable[[int], int]) -> float:
        """The mean of a function of the offset, of which `sum_below(n)` is the sum over offsets below n."""
        high, low = self._weights
        first, whole = sum_below(self.high_cells), sum_below(2 * self.sensitivity)
        return high * first + low * (whole - first)

    def _cell(self, h: Floats) -> Floats:
        """P(h) for h >= 0."""
        period, offset = np.divmod(np.maximum(h, 0), 2 * self.sensitivity)
        high, low = self._weights
        return np.exp(-float(self.epsilon) * period) * self._gap * np.where(offset < self.high_cells, high, low)

    def _tail(self, h: Floats) -> Floats:
        """P(half-steps >= h)."""
        period, offset = np.divmod(h, 2 * self.sensitivity)
        high, low = self._weights
        below = np.minimum(offset, self.high_cells) * high + np.maximum(offset - self.high_cells, 0) * low
        tail: Floats = np.exp(-float(self.epsilon) * period) * (1 - self._gap * below)
        return tail


def _halves_sum(n: int) -> int:
    """The sum of (o + 1) >> 1 over 0 <= o < n."""
    return n * n // 4


def _halves_squares(n: int) -> int:
    """The sum of ((o + 1) >> 1)^2 over 0 <= o < n: every square up to (n/2)^2 twice, but the last only once if n is even."""
    m = n // 2
    return m * (m + 1) * (2 * m + 1) // 3 - (0 if n % 2 else m * m)
