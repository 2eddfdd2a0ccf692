"""Laws on the integers, sampled from keyed words. The unit is one lattice step throughout.

Every law has the same few members:

    sample(stream)      int64 (n,), a draw per row of the stream; the same stream gives the same draws on every machine
    tv_bound            total-variation distance per draw between what is sampled and the ideal law, at most 2^-40
    draws               128-bit blocks of the stream that a value takes (one attempt, where there is rejection)
    variance, mean_abs  E k^2 - (E k)^2 and E|k| of the ideal law
    pmf(k), cdf(k)      of the ideal law, for an array or number k, in floats; they do not take part in sampling

Whatever determines a sample is integer arithmetic, correctly rounded decimal arithmetic, or single float64 additions,
multiplications and conversions, which IEEE 754 fixes to the bit. No exp, log or other library function of the platform.
A parameter out of its range raises ValueError.
"""

from __future__ import annotations

import decimal
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from noiselib.noise.alias import MAX_BITS, AliasTable, alias_table
from noiselib.noise.integers import uniform_below
from noiselib.noise.stream import Stream

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]
Floats = NDArray[np.float64]

MIN_SCALE, MAX_SCALE = Fraction(1, 2**30), 2**40
TABLE_TV = 2.0**-49  # of one alias table: AliasTable.tv_bound
CHUNK = 1 << 15  # rows drawn at a time: their words and temporaries stay in a core's cache
DECIMAL = decimal.Context(prec=70, rounding=decimal.ROUND_HALF_EVEN, Emin=decimal.MIN_EMIN, Emax=decimal.MAX_EMAX)
UNIT = 10**50  # fixed point for table weights, far finer than a table's 2^-61


@dataclass(frozen=True)
class DiscreteLaplace:
    """P(k) proportional to exp(-|k|/scale), 2^-30 <= scale <= 2^40: the discrete Laplace or two-sided geometric law.

    Source: Ghosh, Roughgarden, Sundararajan 2012, section 2; sampled by digits. With q = exp(-1/scale), k >= 0 has
    probability 1/(1+q), and given the sign the magnitude g = k or -k-1 is geometric, P(g) proportional to q^g. The
    binary digits of g are independent, so g is drawn in groups of up to 13 bits from one alias table each; the sign is
    the lowest bit of the first table.

    tv_bound: g is conditioned on g < 2^B, B the least with 2^B >= 32 scale, which costs P(g >= 2^B) = q^(2^B) <= e^-32;
    each table adds 2^-49, as the distance of a product is at most the sum of the distances.
    """

    scale: Fraction

    def __post_init__(self) -> None:
        _check_scale("scale", self.scale)

    def sample(self, stream: Stream) -> Ints:
        tables = _digit_tables(1 / Fraction(self.scale), True)
        return _in_chunks(lambda part: _unfold(_draw_digits(tables, part, part.words(0))), stream)

    @property
    def draws(self) -> int:
        return (len(_digit_tables(1 / Fraction(self.scale), True)) + 1) // 2

    @property
    def tv_bound(self) -> float:
        return _digits_tv(1 / Fraction(self.scale), True)

    @property
    def variance(self) -> float:
        return 0.5 * _inverse_sinh(1 / (2 * self.scale)) ** 2

    @property
    def mean_abs(self) -> float:
        return _inverse_sinh(1 / self.scale)

    def pmf(self, k: ArrayLike) -> Floats:
        return math.tanh(1 / (2 * self.scale)) * np.exp(-np.abs(_floats(k)) / float(self.scale))

    def cdf(self, k: ArrayLike) -> Floats:
        x = np.floor(_floats(k))
        q = math.exp(-1 / self.scale)
        tail = np.exp(-np.abs(x) / float(self.scale)) / (1 + q)
        return np.where(x >= 0, 1 - tail * q, tail)


@dataclass(frozen=True)
class RoundedLaplace:
    """The continuous Laplace law of scale b, 2^-30 <= b <= 2^40, rounded to the nearest integer: post-processing.

    P(0) = 1 - exp(-1/(2b)) and P(k) = exp(-|k|/b) sinh(1/(2b)) elsewhere. The magnitude E of the continuous law is
    exponential, so h = floor(2E) is geometric with ratio exp(-1/(2b)), and |k| = floor(E + 1/2) = floor((h + 1)/2); the
    sign is a fair bit. h is drawn by digits as in `DiscreteLaplace`, the sign is a bit that the tables leave unused.

    tv_bound: as for `DiscreteLaplace`, P(h >= 2^B) <= e^-32 and 2^-49 for each table.
    """

    scale: Fraction

    def __post_init__(self) -> None:
        _check_scale("scale", self.scale)

    def sample(self, stream: Stream) -> Ints:
        return _in_chunks(self._draw, stream)

    def _draw(self, part: Stream) -> Ints:
        words = part.words(0)
        halves = _draw_digits(_digit_tables(1 / (2 * Fraction(self.scale)), False), part, words)
        halves += 1
        halves >>= 1
        minus = -(words[:, 0] >> np.uint64(15) & np.uint64(1)).view(np.int64)
        halves ^= minus  # two's complement: (x ^ -1) - (-1) = -x
        halves -= minus
        return halves

    @property
    def draws(self) -> int:
        return (len(_digit_tables(1 / (2 * Fraction(self.scale)), False)) + 1) // 2

    @property
    def tv_bound(self) -> float:
        return _digits_tv(1 / (2 * Fraction(self.scale)), False)

    @property
    def variance(self) -> float:
        half = 1 / (2 * self.scale)
        return 0.5 * _inverse_sinh(half) / math.tanh(half)

    @property
    def mean_abs(self) -> float:
        return 0.5 * _inverse_sinh(1 / (2 * self.scale))

    def pmf(self, k: ArrayLike) -> Floats:
        x, b = np.abs(_floats(k)), float(self.scale)
        beyond = np.exp(-(np.maximum(x, 1) - 0.5) / b) * (-math.expm1(-1 / b) / 2)
        return np.where(x == 0, -math.expm1(-0.5 / b), beyond)

    def cdf(self, k: ArrayLike) -> Floats:
        x = np.floor(_floats(k)) + 0.5
        tail = np.exp(-np.abs(x) / float(self.scale)) / 2
        return np.where(x > 0, 1 - tail, tail)


@dataclass(frozen=True)
class DiscreteGaussian:
    """P(k) proportional to exp(-k^2/(2 sigma^2)), 2^-30 <= sigma <= 2^40.

    Source: the law of Canonne, Kamath, Steinke 2020, section 2; sampled by buckets (see `_Buckets`): up to sigma = 481
    one alias table over the whole support, above it rejection from a histogram, of which 99.8% is accepted at once.

    tv_bound: see `_Buckets.tv_bound`.
    """

    sigma: Fraction

    def __post_init__(self) -> None:
        _check_scale("sigma", self.sigma)

    def sample(self, stream: Stream) -> Ints:
        return _sample_buckets(_buckets(Fraction(self.sigma), False), stream)

    @property
    def draws(self) -> int:
        return 1

    @property
    def tv_bound(self) -> float:
        return _buckets(Fraction(self.sigma), False).tv_bound

    @property
    def variance(self) -> float:
        if self.sigma > SUMMED:
            return float(self.sigma) ** 2  # Poisson summation: the rest is exp(-2 pi^2 sigma^2)
        k, p = _gaussian_sum(float(self.sigma))
        return float(p @ k**2)

    @property
    def mean_abs(self) -> float:
        s = float(self.sigma)
        if s > SUMMED:
            return math.sqrt(2 / math.pi) * (s - 1 / (12 * s))  # Euler-Maclaurin
        k, p = _gaussian_sum(s)
        return float(p @ np.abs(k))

    def pmf(self, k: ArrayLike) -> Floats:
        s = float(self.sigma)
        return np.exp(-0.5 * (_floats(k) / s) ** 2) * _gaussian_peak(s)

    def cdf(self, k: ArrayLike) -> Floats:
        x, s = np.floor(_floats(k)), float(self.sigma)
        if s > SUMMED:
            z = (x + 0.5) / s
            return _normal_cdf(z) + z * np.exp(-0.5 * z * z) / (24 * math.sqrt(2 * math.pi) * s * s)  # midpoint rule
        support, p = _gaussian_sum(s)
        below = np.concatenate([[0.0], np.cumsum(p)])  # below[i] = P(k < support[0] + i)
        last = len(support)
        index: Floats = np.clip(np.minimum(x, -x - 1) - support[0] + 1, 0, last)
        left = below[index.astype(np.intp)]
        return np.where(x >= 0, 1 - left, left)


@dataclass(frozen=True)
class RoundedGaussian:
    """The continuous law N(0, sigma^2), 2^-30 <= sigma <= 2^40, rounded to the nearest integer: post-processing.

    The continuous law is cut into cells [i, i+1) of a lattice 2^m times finer, m >= 1, on which its deviation is
    s = sigma * 2^m >= 2^24, and i is drawn from P(i) proportional to exp(-(i + 1/2)^2/(2 s^2)), the density at the
    cell's middle, as in `DiscreteGaussian`. The nearest integer is floor((i + 2^(m-1)) / 2^m). A cell begins at a
    lattice point and not halfway, so it lies wholly on one side of every tie: nothing is rounded twice, no tie occurs.

    tv_bound: to `_Buckets.tv_bound` comes the distance between the cells' masses and their densities. By Taylor's
    formula mass less density is the integral of (1/2 - |t|)^2/2 * f''(i + 1/2 + t) over |t| < 1/2. The kernel is at
    most 1/8, so the sum over all cells is at most 1/8 of the integral of |f''|, which is 4 exp(-1/2)/(sqrt(2 pi) s^2)
    or less than s^-2. Half of that, and as much again for the normalization, off by 2 exp(-2 pi^2 s^2), is
    1/(8 s^2) <= 2^-51.
    """

    sigma: Fraction

    def __post_init__(self) -> None:
        _check_scale("sigma", self.sigma)

    def sample(self, stream: Stream) -> Ints:
        cells = _sample_buckets(_buckets(self._fine_sigma, True), stream)
        cells += 1 << (self._fine_bits - 1)
        cells >>= self._fine_bits
        return cells

    @property
    def _fine_bits(self) -> int:
        return max(1, (math.ceil(2**24 / Fraction(self.sigma)) - 1).bit_length())

    @property
    def _fine_sigma(self) -> Fraction:
        return Fraction(self.sigma) * (1 << self._fine_bits)

    @property
    def draws(self) -> int:
        return 1

    @property
    def tv_bound(self) -> float:
        return _buckets(self._fine_sigma, True).tv_bound + float(1 / (8 * self._fine_sigma**2))

    @property
    def variance(self) -> float:
        if self.sigma > SUMMED:
            return float(self.sigma) ** 2 + 1 / 12  # Sheppard; the rest is exp(-2 pi^2 sigma^2)
        k, tail = _normal_tails(float(self.sigma))
        return float((2 * k - 1) @ tail)

    @property
    def mean_abs(self) -> float:
        s = float(self.sigma)
        if s > SUMMED:
            return math.sqrt(2 / math.pi) * (s - 1 / (24 * s))  # midpoint rule
        return float(_normal_tails(s)[1].sum())

    def pmf(self, k: ArrayLike) -> Floats:
        x, s = -np.abs(_floats(k)), float(self.sigma)
        if s > SUMMED:  # the difference below would cancel: the midpoint rule's first two terms
            z = x / s
            return np.exp(-0.5 * z * z) / (math.sqrt(2 * math.pi) * s) * (1 + (z * z - 1) / (24 * s * s))
        return _normal_cdf((x + 0.5) / s) - _normal_cdf((x - 0.5) / s)

    def cdf(self, k: ArrayLike) -> Floats:
        return _normal_cdf((np.floor(_floats(k)) + 0.5) / float(self.sigma))


@dataclass(frozen=True)
class Uniform:
    """Uniform on the 2h + 1 integers from -h to h; h = half_width, 0 <= h < 2^31.

    A word of U = 96 bits gives floor(U (2h+1) / 2^96) - h, the multiply-and-shift of Lemire 2019 without its rejection.

    tv_bound: every integer has floor or ceil of 2^96/(2h+1) words, so the distance is at most (2h+1)/2^96 < 2^-63.
    """

    half_width: int

    def __post_init__(self) -> None:
        if not (isinstance(self.half_width, int) and 0 <= self.half_width < 2**31):
            raise ValueError(f"half_width={self.half_width!r}, expected an integer, 0 <= half_width < 2^31")

    def sample(self, stream: Stream) -> Ints:
        return _in_chunks(self._draw, stream)

    def _draw(self, part: Stream) -> Ints:
        return uniform_below(part.words(0), 2 * self.half_width + 1) - self.half_width

    @property
    def draws(self) -> int:
        return 1

    @property
    def tv_bound(self) -> float:
        return (2 * self.half_width + 1) / 2.0**96

    @property
    def variance(self) -> float:
        return self.half_width * (self.half_width + 1) / 3

    @property
    def mean_abs(self) -> float:
        return self.half_width * (self.half_width + 1) / (2 * self.half_width + 1)

    def pmf(self, k: ArrayLike) -> Floats:
        return np.where(np.abs(_floats(k)) <= self.half_width, 1 / (2 * self.half_width + 1), 0.0)

    def cdf(self, k: ArrayLike) -> Floats:
        below: Floats = (np.floor(_floats(k)) + self.half_width + 1) / (2 * self.half_width + 1)
        return np.clip(below, 0.0, 1.0)


@dataclass(frozen=True)
class Categorical:
    """An index 0..n-1 with the given probabilities, 1 to 8192 Fractions >= 0 that sum to 1 exactly, by one alias table.

    tv_bound: 2^-49, the table's.
    """

    probabilities: tuple[Fraction, ...] = field(repr=False)

    def __post_init__(self) -> None:
        p = self.probabilities
        if not (isinstance(p, tuple) and 1 <= len(p) <= 2**MAX_BITS and all(isinstance(x, (int, Fraction)) for x in p)):
            raise ValueError(f"probabilities={p!r:.80}, expected a tuple of 1 to {2**MAX_BITS} Fractions")
        if min(p) < 0 or sum(p) != 1:
            raise ValueError(
                f"probabilities with minimum {min(p)} and sum {sum(p)}, expected each >= 0, and sum 1 exactly"
            )

    def sample(self, stream: Stream) -> Ints:
        return _in_chunks(lambda part: self._table.pick(part.words(0)[:, 0]), stream)

    @cached_property
    def _table(self) -> AliasTable:
        return alias_table([math.floor(p * UNIT) for p in self.probabilities])

    @property
    def draws(self) -> int:
        return 1

    @property
    def tv_bound(self) -> float:
        return TABLE_TV

    @property
    def variance(self) -> float:
        p = self._weights
        k = np.arange(len(p)) - self.mean_abs
        return float(p @ k**2)

    @property
    def mean_abs(self) -> float:
        p = self._weights
        return float(p @ np.arange(len(p)))

    def pmf(self, k: ArrayLike) -> Floats:
        x, last = _floats(k), len(self.probabilities) - 1
        inside = (x >= 0) & (x <= last) & (x == np.floor(x))
        return np.where(inside, self._weights[np.clip(x, 0, last).astype(np.intp)], 0.0)

    def cdf(self, k: ArrayLike) -> Floats:
        below: Floats = np.concatenate([[0.0], np.cumsum(self._weights)])
        index: Floats = np.clip(np.floor(_floats(k)) + 1, 0, len(self.probabilities))
        return np.minimum(below[index.astype(np.intp)], 1.0)

    @property
    def _weights(self) -> Floats:
        return np.array([float(p) for p in self.probabilities])


# Sampling: digits of a geometric variable


@lru_cache(maxsize=64)
def _digit_tables(rate: Fraction, signed: bool) -> tuple[AliasTable, ...]:
    """The tables of a geometric variable's digits, lowest digit first, its ratio q = exp(-rate).

    If `signed`, of 2g + s instead of g, s independent of g and P(s) proportional to q^s. A digit has `table.bits` bits;
    the tables are as even in size as can be, so that they are small.
    """
    bits = _magnitude_bits(rate) + signed
    count = max(1, -(-bits // MAX_BITS))
    tables: list[AliasTable] = []
    place = 0
    for i in range(count):
        width = bits * (i + 1) // count - bits * i // count
        if signed and i == 0:
            powers = _powers(_exp(-rate), 2**width)
            weights = [powers[(d >> 1) + (d & 1)] for d in range(2**width)]
        else:
            weights = _powers(_exp(-rate * Fraction(2) ** (place - signed)), 2**width)
        tables.append(alias_table(weights))
        place += width
    return tuple(tables)


def _magnitude_bits(rate: Fraction) -> int:
    """The least B with 2^B >= 32/rate: magnitudes of 2^B or more have probability exp(-rate 2^B) <= e^-32; left out."""
    return (math.ceil(32 / rate) - 1).bit_length()


def _digits_tv(rate: Fraction, signed: bool) -> float:
    return math.exp(-rate * 2 ** _magnitude_bits(rate)) + len(_digit_tables(rate, signed)) * TABLE_TV


def _draw_digits(tables: tuple[AliasTable, ...], part: Stream, words: Words) -> Ints:
    """The number that the digits make; two digits per block, of which `words` is the first (counter 0)."""
    number = tables[0].pick(words[:, 0])
    place = tables[0].bits
    for i, table in enumerate(tables[1:], start=1):
        if i % 2 == 0:
            words = part.words(i // 2)
        digit = table.pick(words[:, i % 2])
        digit <<= place
        number |= digit
        place += table.bits
    return number


def _unfold(folded: Ints) -> Ints:
    """2g -> g and 2g + 1 -> -g - 1, the complement of g."""
    complement = -(folded & 1)
    folded = folded >> 1
    folded ^= complement
    return folded


# Sampling: buckets under a Gaussian


@dataclass(frozen=True, eq=False)
class _Buckets:
    """A discrete Gaussian of deviation sigma on the integers, centred at 0, or at -1/2 if `halfway`.

    k = m or -m-1 by its sign bit s, m = j w + r with 0 <= r < w = 2^bits. Twice the distance from k to the centre is
    2m + t, t = 2s, or 1 if halfway, so with a = 2jw + t, P(k) is proportional to

        exp(-a^2/(8 sigma^2)) * exp(-gamma),   gamma = r (a + r)/(2 sigma^2).

    The bucket 2j + s comes from an alias table of the first factor, r is uniform, and the second factor is the
    probability of acceptance (von Neumann 1951). The support ends at 8.5 sigma or beyond, in at most 4096 buckets on
    either side, so w < sigma/240 and gamma < 0.08; mostly it is near 0.002. If w = 1 there is nothing to reject.

    Squeeze: 1 - exp(-gamma) <= gamma <= slope * bucket + offset in units of 2^-64, with w to spare, for the bits of
    the coin that are not drawn yet. A row whose coin is above that line is accepted in integers; the other 0.3%
    evaluate the exponential.
    """

    sigma: Fraction
    halfway: bool
    bits: int
    table: AliasTable
    slope: int
    offset: int

    @property
    def tv_bound(self) -> float:
        """At most 2^-47.6; 2^-48.6 if there is nothing to reject.

        Tail: P(|k| >= m) <= 2 exp(-m^2/(2 sigma^2)), k being sub-Gaussian (Canonne, Kamath, Steinke 2020); 2^-51 at
        m = 8.5 sigma.
        Proposal: 2^-49, the table's; r is exact. Acceptance: gamma is within 4 and its series within 12 roundings of
        2^-53 relative, so 2^-52 absolute as gamma < 0.08, and the coin has 53 bits: together below 2^-51.
        If proposals are e apart and acceptances a, accepted draws are (2e + a)/P(accept) apart, and P(accept) > 0.99.
        """
        tail = 2.0**-51
        return TABLE_TV + tail if self.bits == 0 else (2 * TABLE_TV + 2.0**-51) / 0.99 + tail


@lru_cache(maxsize=32)
def _buckets(sigma: Fraction, halfway: bool) -> _Buckets:
    reach = sigma * Fraction(17, 2)
    bits = (math.ceil(reach / 2 ** (MAX_BITS - 1)) - 1).bit_length()
    width = 2**bits
    count = math.ceil(reach / width)
    plus, minus = (_bucket_weights(sigma, width, count, twice) for twice in ((1, 1) if halfway else (0, 2)))
    table = alias_table([weight for pair in zip(plus, minus, strict=True) for weight in pair])
    unit = 2**64 / (2 * sigma**2)  # of gamma, with 2jw <= width * bucket and r + t <= width + 2
    slope, offset = math.ceil(unit * width**2), math.ceil(unit * width * (width + 2)) + width
    return _Buckets(sigma, halfway, bits, table, slope, offset)


def _bucket_weights(sigma: Fraction, width: int, count: int, twice: int) -> list[int]:
    """exp(-(2 j width + twice)^2/(8 sigma^2)) for j < count in units of 1/UNIT, by two running products."""
    weight = _exp(-(twice**2) / (8 * sigma**2))
    ratio, ratio_step = _exp(-width * (twice + width) / (2 * sigma**2)), _exp(-(width**2) / sigma**2)
    weights = []
    for _ in range(count):
        weights.append(weight)
        weight = weight * ratio // UNIT
        ratio = ratio * ratio_step // UNIT
    return weights


def _sample_buckets(buckets: _Buckets, stream: Stream) -> Ints:
    """All rows once with the squeeze; then those left open, in full, until each is accepted.

    Attempt i takes its proposals from counter 2i and the low bits of its coins from counter 2i + 1.
    """
    out = np.empty(len(stream), np.int64)
    doubtful = [np.empty(0, np.intp)]
    for start in range(0, len(stream), CHUNK):
        part = stream[start : start + CHUNK]
        bucket, magnitude, coin = _propose(buckets, part, 0)
        out[start : start + CHUNK] = _signed(bucket, magnitude)
        if buckets.bits:
            line = bucket.view(np.uint64) * np.uint64(buckets.slope)
            line += np.uint64(buckets.offset)
            doubtful.append(np.flatnonzero(coin < line) + start)
    rows, attempt = np.concatenate(doubtful), 0
    while len(rows):
        part = stream[rows]
        bucket, magnitude, coin = _propose(buckets, part, attempt)
        accepted = _accept(buckets, bucket, magnitude, coin, part.words(2 * attempt + 1)[:, 0])
        out[rows] = _signed(bucket, magnitude)  # a rejected row is written again by a later attempt
        rows, attempt = rows[~accepted], attempt + 1
    return out


def _propose(buckets: _Buckets, part: Stream, attempt: int) -> tuple[Ints, Ints, Words]:
    """bucket = 2j + s, magnitude = j w + r, and the coin: a word whose low bits are r and whose others are its own."""
    words = part.words(2 * attempt)
    bucket = buckets.table.pick(words[:, 0])
    magnitude = bucket >> 1
    if buckets.bits:
        magnitude <<= buckets.bits
        magnitude |= (words[:, 1] & np.uint64(2**buckets.bits - 1)).view(np.int64)
    return bucket, magnitude, words[:, 1]


def _signed(bucket: Ints, magnitude: Ints) -> Ints:
    return magnitude ^ -(bucket & 1)


def _accept(buckets: _Buckets, bucket: Ints, magnitude: Ints, coin: Words, more: Words) -> NDArray[np.bool_]:
    """By a uniform of 53 bits: the coin's, with fresh low bits from `more`, as its own are r."""
    low = np.uint64(2**buckets.bits - 1)
    uniform = ((coin & ~low) | (more & low)) >> np.uint64(11)
    accepted: NDArray[np.bool_] = uniform.astype(np.float64) >= _rejection(buckets, bucket, magnitude)
    return accepted


def _rejection(buckets: _Buckets, bucket: Ints, magnitude: Ints) -> Floats:
    """1 - exp(-gamma) in units of 2^-53, as gamma (1 - gamma/2 (1 - gamma/3 (...))), ten terms: 0.08^10/11! < 2^-61."""
    r = magnitude & (2**buckets.bits - 1)
    reach = 2 * magnitude - r + (1 if buckets.halfway else 2 * (bucket & 1))
    gamma: Floats = r.astype(np.float64) * reach.astype(np.float64)  # both are below 2^53: the conversion is exact
    gamma *= float(1 / (2 * buckets.sigma**2))
    series: Floats = np.ones_like(gamma)
    for n in range(10, 1, -1):
        series = 1.0 - gamma * (1.0 / n) * series
    return gamma * series * 2.0**53


# Shared


def _in_chunks(draw: Callable[[Stream], Ints], stream: Stream) -> Ints:
    out = np.empty(len(stream), np.int64)
    for start in range(0, len(stream), CHUNK):
        out[start : start + CHUNK] = draw(stream[start : start + CHUNK])
    return out


def _exp(x: Fraction) -> int:
    """exp(x) for x <= 0 in units of 1/UNIT, correctly rounded and then cut: the same integer everywhere."""
    quotient = DECIMAL.divide(decimal.Decimal(x.numerator), decimal.Decimal(x.denominator))
    return int(DECIMAL.multiply(DECIMAL.exp(quotient), decimal.Decimal(UNIT)))


def _powers(ratio: int, count: int) -> list[int]:
    """ratio^0 .. ratio^(count-1), all in units of 1/UNIT."""
    powers = [UNIT]
    while len(powers) < count:
        powers.append(powers[-1] * ratio // UNIT)
    return powers


def _check_scale(name: str, value: Fraction) -> None:
    if not (isinstance(value, (int, Fraction)) and MIN_SCALE <= value <= MAX_SCALE):
        raise ValueError(f"{name}={value!r}, expected a Fraction, 2^-30 <= {name} <= 2^40")


# Ideal laws in floats


SUMMED = 1000  # up to this deviation the Gaussian laws are summed term by term; above, their expansions are as exact


def _floats(k: ArrayLike) -> Floats:
    return np.asarray(k, np.float64)


def _inverse_sinh(x: Fraction) -> float:
    return 1 / math.sinh(x) if x < 700 else 0.0


@lru_cache(maxsize=8)
def _gaussian_sum(sigma: float) -> tuple[Floats, Floats]:
    """The support out to 39 sigma, where float64 ends, and the discrete Gaussian's probabilities on it."""
    reach = math.ceil(39 * sigma) + 1
    k = np.arange(-reach, reach + 1, dtype=np.float64)
    p = np.exp(-0.5 * (k / sigma) ** 2)
    return k, p / p.sum()


def _gaussian_peak(sigma: float) -> float:
    """P(0) of the discrete Gaussian."""
    if sigma > SUMMED:
        return 1 / (math.sqrt(2 * math.pi) * sigma)
    k, p = _gaussian_sum(sigma)
    return float(p[len(k) // 2])


def _normal_tails(sigma: float) -> tuple[Floats, Floats]:
    """k = 1, 2, ... and P(|round(N)| >= k)."""
    k = np.arange(1, math.ceil(39 * sigma) + 2, dtype=np.float64)
    return k, 2 * _normal_cdf(-(k - 0.5) / sigma)


def _normal_cdf(z: Floats) -> Floats:
    probability: Floats = ndtr(z)
    return probability
