"""A law on the plane's lattice: the discrete planar Laplace. The unit is one lattice step, as in `discrete`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import zeta

from noiselib.noise.discrete import CHUNK, DiscreteLaplace
from noiselib.noise.stream import Stream

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

MIN_SCALE, MAX_SCALE = Fraction(1, 2**5), Fraction(2**28)
ROOT_2 = Fraction(math.isqrt(2 << 120) + 1, 2**60)  # just above the square root of 2
SUMMED = 16  # up to this scale moments are summed term by term; above, their expansions are as exact


@dataclass(frozen=True)
class PlanarLaplace:
    """P(k) proportional to exp(-||k|| / s) on Z^2, ||k|| the Euclidean length, 2^-5 <= s <= 2^28.

    Source: the planar Laplace of Andres, Bordenabe, Chatzikokolakis, Palamidessi 2013, on a lattice. As the
    normalizer is the same for all centres, P(k - a) / P(k - b) <= exp(||a - b|| / s) exactly, by the triangle
    inequality: neither a grid drawn over a continuous sample nor float coordinates have to be paid for.

    Sampled by rejection (von Neumann 1951). Both coordinates are proposed from discrete Laplace laws of scale
    t >= sqrt(2) s, and accepted with probability exp(-x), x = ||k||/s - (|k_1| + |k_2|)/t >= 0, since |k_1| + |k_2| is
    at most sqrt(2) ||k||. About pi/4 are accepted (more on coarse lattices, and never below 0.73). Attempt i draws from
    the streams "north i" and "east i", and its coin from counter i.

    tv_bound: let u = 2^-53. The sum of two squares, its root, and each of the two factors 1/s and 1/t, product and
    difference are rounded, which makes x wrong by at most 7 u ||k||/s; its exponential is within 2^-50 of itself, and
    the coin has 53 bits. Among accepted draws E||k||/s is at most 5/2, so the acceptance is off by at most
    18 u + 2^-50 + 2u < 2^-48 of the accepted mass. If proposals are e apart in total variation (both coordinates
    together) and acceptances a in the mean, accepted draws are at most (2e + a)/P(accept) apart.
    """

    scale: Fraction

    def __post_init__(self) -> None:
        if not (isinstance(self.scale, (int, Fraction)) and MIN_SCALE <= self.scale <= MAX_SCALE):
            raise ValueError(f"scale={self.scale!r}, expected a Fraction, 2^-5 <= scale <= 2^28")

    @cached_property
    def proposal(self) -> DiscreteLaplace:
        """Of one coordinate."""
        return DiscreteLaplace(ROOT_2 * self.scale)

    def sample(self, stream: Stream) -> Ints:
        """(east, north) per row of the stream: int64 (n, 2)."""
        out = np.empty((len(stream), 2), np.int64)
        rows, attempt = np.arange(len(stream)), 0
        while len(rows):
            keys = stream.use(f"east {attempt}").key, stream.use(f"north {attempt}").key
            accepted = [
                self._attempt(stream[some], keys, attempt, some, out)
                for some in (rows[start : start + CHUNK] for start in range(0, len(rows), CHUNK))
            ]
            rows, attempt = rows[~np.concatenate(accepted)], attempt + 1
        return out

    def _attempt(
        self, part: Stream, keys: tuple[bytes, bytes], attempt: int, rows: NDArray[np.intp], out: Ints
    ) -> NDArray[np.bool_]:
        """Whether each row of `part` is accepted; its proposal goes to `rows` of `out`, to be written again if not."""
        x, y = (self.proposal.sample(replace(part, key=key)) for key in keys)
        out[rows, 0], out[rows, 1] = x, y
        uniform = (part.words(attempt)[:, 0] >> np.uint64(11)).astype(np.float64)
        accepted: NDArray[np.bool_] = uniform < self._acceptance(x, y) * 2.0**53
        return accepted

    def _acceptance(self, x: Ints, y: Ints) -> Floats:
        """exp(-(||k||/s - (|k_1| + |k_2|)/t)). Coordinates are below 2^40, so they and their sum are exact in float64."""
        a, b = np.abs(x).astype(np.float64), np.abs(y).astype(np.float64)
        exponent = (a + b) * float(1 / self.proposal.scale) - np.sqrt(a * a + b * b) * float(1 / self.scale)
        return exp(np.minimum(exponent, 0.0))

    @property
    def draws(self) -> int:
        return 2 * self.proposal.draws + 1

    @property
    def tv_bound(self) -> float:
        return (4 * self.proposal.tv_bound + 2.0**-48) / 0.73

    @property
    def mean_distance(self) -> float:
        """E||k||, 2s on a fine lattice."""
        return _sums(self.scale)[1] / _sums(self.scale)[0]

    @property
    def variance(self) -> float:
        """Of either coordinate, 3 s^2 on a fine lattice; the two are uncorrelated, not independent."""
        return 0.5 * _sums(self.scale)[2] / _sums(self.scale)[0]

    def pmf(self, x: ArrayLike, y: ArrayLike) -> Floats:
        """In floats; it does not take part in sampling."""
        length: Floats = np.hypot(np.asarray(x, np.float64), np.asarray(y, np.float64))
        return np.exp(-length / float(self.scale)) / _sums(self.scale)[0]


# exp by IEEE arithmetic alone

LN2_HIGH = float(Fraction(0x162E42FEFA39, 2**45))  # 45 bits of ln 2: its product with |m| < 2^7 is exact
LN2_LOW = float(Fraction("0.693147180559945309417232121458176568075500134360255") - Fraction(LN2_HIGH))
LOG2_E = 1.4426950408889634
COEFFICIENTS = tuple(1 / math.factorial(n) for n in range(14, -1, -1))


def exp(x: Floats) -> Floats:
    """e^x for -64 <= x <= 0, float64, within 2^-50 of itself; below -64 that of -64. The same bits on every machine.

    x = m ln 2 + f with m = rint(x / ln 2), |f| < 0.35. ln 2 is the sum of two floats, of which the first times m is
    exact, as is its difference from x; f is then off by less than 2^-54. The series of e^f up to f^14/14! leaves out
    less than 2^-63; in Horner's scheme the last sum and the last product are rounded at full weight, those before at
    |f| of it or less, for less than 2^-51.5 in all. The factor 2^m is exact.
    """
    clipped: Floats = np.maximum(x, -64.0)
    m = np.rint(clipped * LOG2_E)
    f = clipped - m * LN2_HIGH
    f -= m * LN2_LOW
    series = np.full_like(f, COEFFICIENTS[0])
    for coefficient in COEFFICIENTS[1:]:
        series *= f
        series += coefficient
    series *= ((m.astype(np.int64) + 1023) << 52).view(np.float64)
    return series


# The ideal law's sums, in floats


@lru_cache(maxsize=8)
def _sums(scale: Fraction) -> tuple[float, float, float]:
    """The sums over Z^2 of exp(-r/s), r exp(-r/s) and r^2 exp(-r/s), r the length.

    On a fine lattice by Poisson's formula: with b = 1/s, Z(b) = 2 pi/b^2 + c b + O(b^3), c the sum of
    2 pi / (2 pi |w|)^3 over w in Z^2 without 0, that is 4 zeta(3/2) beta(3/2) / (4 pi^2); the others are -Z' and Z''.
    """
    s = float(scale)
    if s > SUMMED:
        beta = 4**-1.5 * float(zeta(1.5, 0.25) - zeta(1.5, 0.75))
        c = float(zeta(1.5)) * beta / math.pi**2
        return 2 * math.pi * s**2 + c / s, 4 * math.pi * s**3 - c, 12 * math.pi * s**4
    side = np.arange(math.ceil(45 * s) + 1, dtype=np.float64)
    length = np.hypot(side[:, None] + 1, side)  # a quarter of the plane: x > 0, y >= 0
    mass = np.exp(-length / s)
    return 1 + 4 * float(mass.sum()), 4 * float((length * mass).sum()), 4 * float((length**2 * mass).sum())
