"""Local mechanisms for a number between bounds, which publish a bit or a cell of a lattice: duchi, one-bit mean, piecewise,
hybrid, square wave.

A point is a lattice point, `lower` to `upper` in steps; i = point - lower, of L = upper - lower. A code is read in the
column's unit by `reading`. Probabilities are Fractions, the same on every machine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from noiselib.accounting import Event
from noiselib.mechanisms.additive import exact
from noiselib.mechanisms.categorical import in_chunks
from noiselib.noise.integers import COIN, coin, low_probability, uniform_below
from noiselib.noise.stream import Stream

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Words = NDArray[np.uint64]

MAX_LENGTH = 2**31 - 1  # of the bounds, in steps: output lattices then have fewer than 2^32 cells
FINE = 2**30  # cells over which a window moves: the rounding of its length matters to 2^-30
MIN_EPSILON, MAX_EPSILON = 1e-6, 1000
LOW_ROUNDING = 2.0**-60  # `low_probability` against 1/(high e^epsilon + low), relatively


@dataclass(frozen=True)
class Reading:
    """A code c of 0..codes-1 reads offset + slope c, in the column's unit; -1 and `codes` read as the `ends`."""

    offset: float
    slope: float
    codes: int
    ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Bounded(ABC):
    """What these mechanisms have in common.

    step:         of the lattice, above 0, in the column's unit
    lower, upper: the clipping bounds in steps, 1 to 2^31 - 1 apart
    epsilon:      1e-6 to 1000
    """

    name: ClassVar[str]
    step: Fraction
    lower: int
    upper: int
    epsilon: float

    def __post_init__(self) -> None:
        if not self.step > 0:
            raise ValueError(f"step={self.step}, expected a Fraction above 0")
        if not 1 <= self.upper - self.lower <= MAX_LENGTH:
            raise ValueError(f"lower={self.lower}, upper={self.upper}, expected 1 to 2^31 - 1 steps between them")
        if not MIN_EPSILON <= self.epsilon <= MAX_EPSILON:
            raise ValueError(f"epsilon={self.epsilon}, expected {MIN_EPSILON:g} <= epsilon <= {MAX_EPSILON}")

    @property
    def length(self) -> int:
        """L, the bounds' distance in steps."""
        return self.upper - self.lower

    @property
    def width(self) -> int:
        return 1

    @property
    def draws(self) -> int:
        return 2

    @property
    @abstractmethod
    def tv_bound(self) -> float:
        """Of one report, from the ideal law: a total-variation distance."""

    @property
    @abstractmethod
    def reading(self) -> Reading:
        """How a code is read as a number of the column's unit."""

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """The codes, int64 (n,), of points from lower to upper."""
        return in_chunks(self._draw, 1, points, stream)

    @abstractmethod
    def _draw(self, points: Ints, part: Stream) -> Ints:
        """The codes, int64 (n,), of one chunk of points."""

    def event(self) -> Event:
        return Event.pure_dp(self.epsilon).with_slack(self.tv_bound)

    @property
    @abstractmethod
    def variance(self) -> float:
        """The largest over points of `variance_at`, in the column's unit squared."""

    def describe(self) -> dict[str, Any]:
        """In the column's unit, and the lattice exactly; the reading is by offset, slope and ends."""
        reading = self.reading
        return {
            "step": str(self.step),
            "lower_steps": self.lower,
            "upper_steps": self.upper,
            "lower": float(self.lower * self.step),
            "upper": float(self.upper * self.step),
            "granularity": float(self.step),
            "epsilon": self.epsilon,
            "offset": reading.offset,
            "slope": reading.slope,
            "codes": reading.codes,
            "ends": None if reading.ends is None else list(reading.ends),
            "variance": self.variance,
        }


# ---- one bit ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Duchi(Bounded):
    """Duchi, Jordan and Wainwright's mechanism in one dimension: a bit, read as one of two numbers beyond the bounds.

    Law: code 1 with probability q + (1 - 2q) h, else 0, where h = (x - lower)/(upper - lower) and q = 1/(e^epsilon + 1): x is
    rounded at random to an end, to the upper one with probability h, and the bit of the end is flipped with probability q.
    Guarantee: epsilon-local differential privacy: both codes have probability q to 1 - q, and (1 - q)/q <= e^epsilon, as q
    is rounded up.
    Variance: of a reading w^2 P (1 - P)/(1 - 2q)^2, w = upper - lower and P the probability of code 1: at the middle it is
    largest, (w/2)^2 ((e^epsilon + 1)/(e^epsilon - 1))^2.
    Estimator: the mean of the readings lower + w (code - q)/(1 - 2q), that is the middle -+ w/2 (e^epsilon + 1)/(e^epsilon - 1),
    is unbiased for the mean.
    Source: Duchi, Jordan, Wainwright 2018, "Minimax optimal procedures for locally private estimation"; Wang et al. 2019,
    algorithm 1.

    step:         of the lattice, above 0, in the column's unit
    lower, upper: the clipping bounds in steps, 1 to 2^31 - 1 apart
    epsilon:      1e-6 to 1000
    """

    name: ClassVar[str] = "duchi"

    @cached_property
    def lie(self) -> Fraction:
        """q: how likely code 1 is at the lower bound, and code 0 at the upper."""
        return low_probability(exact(self.epsilon), 1, 1)

    @property
    def tv_bound(self) -> float:
        return COIN + self.length / 2.0**96 + LOW_ROUNDING

    def _draw(self, points: Ints, part: Stream) -> Ints:
        return self._bit(points, part.words(0), part.words(1)[:, 0])

    def _bit(self, points: Ints, words: Words, coins: Words) -> Ints:
        upper = uniform_below(words, self.length) < points - self.lower
        upper ^= coin(coins, self.lie)
        return upper.astype(np.int64)

    @property
    def values(self) -> tuple[float, float]:
        """What codes 0 and 1 stand for, so that their mean is unbiased."""
        w, q = self.length * self.step, self.lie
        low = self.lower * self.step - w * q / (1 - 2 * q)
        return float(low), float(low + w / (1 - 2 * q))

    @property
    def reading(self) -> Reading:
        zero, one = self.values
        return Reading(zero, one - zero, 2)

    def high_probability(self, point: int) -> Fraction:
        """Of code 1."""
        return self.lie + (1 - 2 * self.lie) * Fraction(point - self.lower, self.length)

    def variance_at(self, point: int) -> float:
        """Of the reading of one point, in the column's unit squared."""
        p, slope = self.high_probability(point), self.length * self.step / (1 - 2 * self.lie)
        return float(slope**2 * p * (1 - p))

    @property
    def variance(self) -> float:
        return self.variance_at((self.lower + self.upper) // 2)

    @property
    def mean_abs(self) -> float:
        """The largest expected absolute error of a reading: at x it is 2 P (1 - P) w/(1 - 2q)."""
        return 2 * self.variance / float(self.length * self.step / (1 - 2 * self.lie))


@dataclass(frozen=True)
class OneBitMean(Duchi):
    """Microsoft's telemetry of means: Duchi's coin, published as the bit itself.

    Law: 1 with probability 1/(e^epsilon + 1) + h (e^epsilon - 1)/(e^epsilon + 1), h = (x - lower)/(upper - lower), else 0.
    Guarantee: epsilon-local differential privacy: either bit has probability 1/(e^epsilon + 1) to e^epsilon/(e^epsilon + 1).
    Variance: of one row's contribution to the mean w^2 P (1 - P) ((e^epsilon + 1)/(e^epsilon - 1))^2, P the probability of
    1, w = upper - lower; at most (w/2)^2 ((e^epsilon + 1)/(e^epsilon - 1))^2.
    Estimator: lower + (w/n) sum of (b (e^epsilon + 1) - 1)/(e^epsilon - 1) over the n bits b, unbiased for the mean.
    Source: Ding, Kulkarni, Yekhanin 2017, "Collecting telemetry data privately", section 3.

    step:         of the lattice, above 0, in the column's unit
    lower, upper: the clipping bounds in steps, 1 to 2^31 - 1 apart
    epsilon:      1e-6 to 1000
    """

    name: ClassVar[str] = "one_bit_mean"

    @property
    def reading(self) -> Reading:
        return Reading(0.0, 1.0, 2)

    def describe(self) -> dict[str, Any]:
        """As for duchi, with the contributions to the mean that bits 0 and 1 make."""
        return {**super().describe(), "values": list(self.values)}


# ---- a window on an output lattice -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """A law on the cells 0..T-1, T = L a + W: of the W from i a on each has the probability p, each other one q.

    p/q <= e^epsilon, just: q is rounded up. The mean of the cell is affine in i, as p and q are the same for all.

    length:  L, i being 0..L
    stretch: a, the cells by which the window moves from one i to the next
    cells:   W, in the window
    """

    length: int
    stretch: int
    cells: int
    epsilon: Fraction

    @property
    def moves(self) -> int:
        """L a: the cells outside the window."""
        return self.length * self.stretch

    @property
    def total(self) -> int:
        return self.moves + self.cells

    @cached_property
    def low(self) -> Fraction:
        """q."""
        return low_probability(self.epsilon, self.cells, self.moves)

    @cached_property
    def inside(self) -> Fraction:
        """W p: that the cell is in the window."""
        return 1 - self.moves * self.low

    @property
    def tv_bound(self) -> float:
        """The coin's, the uniform cell's and that of rounding q."""
        return COIN + self.total / 2.0**96 + LOW_ROUNDING

    def draw(self, i: Ints, words: Words, coins: Words) -> Ints:
        """A coin whether the cell is in the window, and a uniform one there or among the others."""
        inside = coin(coins, self.inside)
        cell = uniform_below(words, np.where(inside, self.cells, self.moves))
        start = i * self.stretch
        beyond = np.where(cell >= start, self.cells, 0)
        cell += np.where(inside, start, beyond)
        return cell

    def moments(self, i: int) -> tuple[Fraction, Fraction]:
        """The mean of the cell and of its square."""
        start = i * self.stretch
        sums = [(_sum(n, 1), _sum(n, 2)) for n in (self.total, start + self.cells, start)]
        extra = self.inside / self.cells - self.low
        one, two = (self.low * s + extra * (end - begin) for s, end, begin in zip(*sums, strict=True))
        return one, two

    @property
    def gain(self) -> Fraction:
        """By how much the mean of the cell grows with i."""
        return (self.inside / self.cells - self.low) * self.cells * self.stretch

    def variance(self, i: int) -> Fraction:
        one, two = self.moments(i)
        return two - one**2

    def overlaps(self, starts: Ints, outputs: Ints) -> Floats:
        """Cells of the windows of all i between starts[j] and starts[j+1] that lie between outputs[k] and outputs[k+1].

        float (len(outputs) - 1, len(starts) - 1), from whole numbers: cells below x in the windows of all i' < i.
        """
        below = self._below(outputs[:, None], starts[None, :])
        return np.diff(np.diff(below, axis=0), axis=1).astype(np.float64)

    def _below(self, x: Ints, i: Ints) -> Ints:
        """The sum over i' < i of the cells of window i' below x: of x - i'a, but at least 0 and at most W."""

        def ramp(x: Ints) -> Ints:
            reached = np.clip(-(-x // self.stretch), 0, i)
            return reached * x - self.stretch * (reached * (reached - 1) // 2)

        return ramp(x) - ramp(x - self.cells)


def _sum(n: int, power: int) -> int:
    """0 + 1 + ... + (n-1), or of the squares."""
    return n * (n - 1) // 2 if power == 1 else n * (n - 1) * (2 * n - 1) // 6


@dataclass(frozen=True)
class Windowed(Bounded):
    """A code from a `Window`."""

    @cached_property
    def law(self) -> Window:
        stretch = max(1, FINE // self.length)
        with localcontext() as context:
            context.prec = 80
            cells = (self.length * stretch * self._share()).to_integral_value(ROUND_HALF_EVEN)
        return Window(self.length, stretch, max(1, int(cells)), exact(self.epsilon))

    @abstractmethod
    def _share(self) -> Decimal:
        """W / L a, as the source has it."""

    @property
    def stretch(self) -> int:
        """The window of a point begins at the code (point - lower) * stretch,"""
        return self.law.stretch

    @property
    def window(self) -> int:
        """and has so many codes."""
        return self.law.cells

    @property
    def in_window(self) -> Fraction:
        """How likely a code in the window is."""
        return self.law.inside

    @property
    def tv_bound(self) -> float:
        return self.law.tv_bound

    def _draw(self, points: Ints, part: Stream) -> Ints:
        return self.law.draw(points - self.lower, part.words(0), part.words(1)[:, 0])

    @property
    @abstractmethod
    def _unit(self) -> Fraction:
        """What one cell is worth, in the column's unit."""

    def variance_at(self, point: int) -> float:
        """Of the reading of one point, in the column's unit squared."""
        return float(self.law.variance(point - self.lower) * self._unit**2)

    @property
    def variance(self) -> float:
        """At the ends, which are alike: a variance of the cell is convex in i."""
        return self.variance_at(self.upper)


@dataclass(frozen=True)
class Piecewise(Windowed):
    """The piecewise mechanism: a number from a wider interval, most likely from a window that moves with the value.

    Law: on a lattice of T = L a + W cells, L the bounds' distance in steps, a = 2^30 / L or 1 if that is less, rounded down,
    and W = L a e^(-epsilon/2), rounded, at least 1: each of the W cells from i a on, i = x - lower in steps, has probability
    p, each other one q = p / e^epsilon. On [-1, 1] the cells fill [-C, C], C = (e^(epsilon/2) + 1)/(e^(epsilon/2) - 1),
    and the window is [(C+1)/2 x - (C-1)/2, that + C - 1], as the source has it.
    Guarantee: epsilon-local differential privacy; p/q <= e^epsilon exactly, as q is rounded up, whatever W is.
    Variance: of a reading, on [-1, 1], x^2/(e^(epsilon/2) - 1) + (e^(epsilon/2) + 3)/(3 (e^(epsilon/2) - 1)^2), up to the
    lattice; largest at the ends, 4 e^(epsilon/2) / (3 (e^(epsilon/2) - 1)^2). `variance_at` is exact.
    Estimator: the mean of the readings is unbiased for the mean. The mean of the code o is exactly affine in i, q T(T-1)/2 +
    (p - q) W (i a + (W-1)/2), and the reading is its inverse.
    Source: Wang et al. 2019, "Collecting and analyzing multidimensional data with local differential privacy", algorithm 2.

    step:         of the lattice, above 0, in the column's unit
    lower, upper: the clipping bounds in steps, 1 to 2^31 - 1 apart
    epsilon:      1e-6 to 1000
    """

    name: ClassVar[str] = "piecewise"

    def _share(self) -> Decimal:
        return 1 / _root_power(self.epsilon)

    @property
    def _unit(self) -> Fraction:
        return self.step / self.law.gain

    @property
    def reading(self) -> Reading:
        first, _ = self.law.moments(0)
        return Reading(float(self.lower * self.step - first * self._unit), float(self._unit), self.law.total)


@dataclass(frozen=True)
class Hybrid(Piecewise):
    """The hybrid mechanism: piecewise or Duchi's, by a coin.

    Law: piecewise with probability alpha = 1 - e^(-epsilon/2), else Duchi's, whose codes 0 and 1 become -1 and T; alpha = 0
    if epsilon <= epsilon* = ln((-5 + 2 (6353 - 405 sqrt(241))^(1/3) + 2 (6353 + 405 sqrt(241))^(1/3))/27) = 0.609352...
    Guarantee: epsilon-local differential privacy: the coin does not depend on the value, and both mechanisms have it.
    Variance: alpha Var(piecewise) + (1 - alpha) Var(Duchi) of a reading, as both are unbiased: the same for every value, if
    epsilon > epsilon*, on [-1, 1] (e^(epsilon/2) + 3)/(3 e^(epsilon/2) (e^(epsilon/2) - 1)) +
    (e^epsilon + 1)^2/(e^(epsilon/2) (e^epsilon - 1)^2), up to the lattice; else Duchi's.
    Estimator: the mean of the readings, each read as its own mechanism has it, is unbiased for the mean.
    Source: Wang et al. 2019, "Collecting and analyzing multidimensional data with local differential privacy", section III-C.

    step:         of the lattice, above 0, in the column's unit
    lower, upper: the clipping bounds in steps, 1 to 2^31 - 1 apart
    epsilon:      1e-6 to 1000
    """

    name: ClassVar[str] = "hybrid"

    @cached_property
    def alpha(self) -> Fraction:
        """How likely the piecewise mechanism is. epsilon* is where both choices are as good: 3s^3 - s^2 + s = 7 at its s."""
        with localcontext() as context:
            context.prec = 60
            s = _root_power(self.epsilon)
            return Fraction(1 - 1 / s) if 3 * s**3 - s**2 + s > 7 else Fraction(0)

    @cached_property
    def duchi(self) -> Duchi:
        return Duchi(self.step, self.lower, self.upper, self.epsilon)

    @property
    def in_window(self) -> Fraction:
        return self.alpha * self.law.inside

    @property
    def tv_bound(self) -> float:
        return COIN + max(self.law.tv_bound, self.duchi.tv_bound)

    def _draw(self, points: Ints, part: Stream) -> Ints:
        """One of the two is published, so both may use the same words; the coin between them has its own."""
        uniform, coins = part.words(0), part.words(1)
        ends = self.duchi._bit(points, uniform, coins[:, 0])
        ends *= self.law.total + 1
        ends -= 1
        if self.alpha == 0:
            return ends
        cells = self.law.draw(points - self.lower, uniform, coins[:, 0])
        return np.where(coin(coins[:, 1], self.alpha), cells, ends)

    @property
    def reading(self) -> Reading:
        cells = super().reading
        return Reading(cells.offset, cells.slope, cells.codes, self.duchi.values)

    def variance_at(self, point: int) -> float:
        alpha = float(self.alpha)
        return alpha * super().variance_at(point) + (1 - alpha) * self.duchi.variance_at(point)

    @property
    def variance(self) -> float:
        """A parabola in the point, symmetric about the middle: largest there or at the ends."""
        return max(self.variance_at((self.lower + self.upper) // 2), self.variance_at(self.upper))


@dataclass(frozen=True)
class SquareWave(Windowed):
    """The square wave mechanism: a number from slightly wider bounds, most likely one near the value; for distributions.

    Law: on a lattice of T = L a + W cells, a to a step as for piecewise, W = 2b L a, rounded, at least 1: each of the W cells
    from i a on, i = x - lower in steps, has probability p, each other one q = p / e^epsilon. That is, with the bounds as
    [0, 1]: density p on [x - b, x + b] and q elsewhere on [-b, 1 + b], b = (epsilon e^epsilon - e^epsilon + 1) /
    (2 e^epsilon (e^epsilon - 1 - epsilon)), which has the largest mutual information for a uniform value.
    Guarantee: epsilon-local differential privacy; p/q <= e^epsilon exactly, as q is rounded up, whatever W is.
    Variance: of the position, on [0, 1], with P = (p - q) 2b, m = q (1 + 2b)/2 and v = q ((1+b)^3 + b^3)/3:
    v + P (x^2 + b^2/3) - (m + P x)^2; largest at the ends. `variance_at` is exact.
    Estimator: of the histogram, from the counts of codes in buckets, whose means are `transition` times the true shares: by
    expectation maximization (with smoothing), or by its inverse, which is unbiased. The position itself is biased
    towards the middle.
    Source: Li et al. 2020, "Estimating numerical distributions under local differential privacy", section 4.

    step:         of the lattice, above 0, in the column's unit
    lower, upper: the clipping bounds in steps, 1 to 2^31 - 1 apart
    epsilon:      1e-6 to 1000
    """

    name: ClassVar[str] = "square_wave"

    def _share(self) -> Decimal:
        """2b."""
        epsilon, power = _decimal(self.epsilon), _decimal(self.epsilon).exp()
        return (epsilon * power - power + 1) / (power * (power - 1 - epsilon))

    @property
    def _unit(self) -> Fraction:
        return self.step / self.stretch

    @property
    def reading(self) -> Reading:
        """The position: the middle of a point's window reads as the point."""
        offset = self.lower * self.step - Fraction(self.window - 1, 2) * self._unit
        return Reading(float(offset), float(self._unit), self.law.total)

    def transition(self, inputs: int, outputs: int) -> Floats:
        """P(a code's bucket | a value's bucket), values even within their bucket: float (outputs, inputs), columns sum to 1.

        The L + 1 points fall in `inputs` buckets, i in floor(i inputs / (L + 1)); the T codes, o in floor(o outputs / T).
        """
        points, codes = self.length + 1, self.law.total
        if not (1 <= inputs <= points and 1 <= outputs <= codes):
            raise ValueError(f"inputs={inputs}, outputs={outputs}, expected 1 to {points} and 1 to {codes}")
        starts, ends = _cuts(points, inputs), _cuts(codes, outputs)
        high = float(self.law.inside / self.law.cells - self.law.low)
        shares = self.law.overlaps(starts, ends) / np.diff(starts) * high
        return shares + (np.diff(ends) * float(self.law.low))[:, None]


def _cuts(count: int, parts: int) -> Ints:
    """Where the parts of 0..count-1 begin, x belonging to part floor(x parts / count); the last is count."""
    return np.array([-(-count * part // parts) for part in range(parts + 1)])


def _decimal(number: float) -> Decimal:
    fraction = exact(number)
    return Decimal(fraction.numerator) / Decimal(fraction.denominator)


def _root_power(epsilon: float) -> Decimal:
    """e^(epsilon/2)."""
    return (_decimal(epsilon) / 2).exp()
