"""Unary encodings: a category is published as noisy bits, one per category or per bit of a Bloom filter.

Bit i of a report is bit i % 64 of its word i // 64, an int64; a report of at most 64 bits is one number.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from abc import abstractmethod
from dataclasses import dataclass
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from noiselib.accounting import Event
from noiselib.mechanisms.additive import exact
from noiselib.mechanisms.categorical import (
    MAX_CATEGORIES,
    Category,
    Floats,
    FrequencyOracle,
    Ints,
    Words,
    check_categories,
    in_chunks,
)
from noiselib.noise.alias import MAX_BITS, AliasTable, alias_table
from noiselib.noise.integers import COIN, coin, low_probability, uniform_below
from noiselib.noise.stream import Stream

WORD = 64
EXACT_TABLE_TV = 2.0**-50  # of a table of exact weights; AliasTable.tv_bound has room for inexact ones


# ---- masks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class BitNoise:
    """Independent bits, each 1 with one probability, drawn in groups: a table over the 2^g patterns of g <= 13 bits.

    groups: (word of the mask, shift within it, table), two of them to a 128-bit block
    """

    groups: tuple[tuple[int, int, AliasTable], ...]

    @property
    def draws(self) -> int:
        return (len(self.groups) + 1) // 2

    @property
    def tv_bound(self) -> float:
        """2^-50 a table: its weights are exact, and the groups are independent, so their distances add up."""
        return len(self.groups) * EXACT_TABLE_TV

    @property
    def width(self) -> int:
        return self.groups[-1][0] + 1

    def draw(self, part: Stream) -> tuple[Ints, Words]:
        """Masks int64 (n, width), and block 0, of which bits 13 to 15 of either word are free."""
        first = words = part.words(0)
        masks = np.zeros((len(part), self.width), np.int64)
        for i, (word, shift, table) in enumerate(self.groups):
            if i and i % 2 == 0:
                words = part.words(i // 2)
            pattern = table.pick(words[:, i % 2])
            pattern <<= shift
            masks[:, word] |= pattern
        return masks, first


@lru_cache(maxsize=16)
def bit_noise(bits: int, probability: Fraction) -> BitNoise:
    """`bits` bits, in groups as even as can be that do not straddle two words of the mask."""
    groups = []
    for start in range(0, bits, WORD):
        size = min(WORD, bits - start)
        count = -(-size // MAX_BITS)
        cuts = [size * i // count for i in range(count + 1)]
        groups += [(start // WORD, a, _pattern_table(b - a, probability)) for a, b in itertools.pairwise(cuts)]
    return BitNoise(tuple(groups))


@lru_cache(maxsize=64)
def _pattern_table(bits: int, probability: Fraction) -> AliasTable:
    """Of the patterns of `bits` independent bits, with exact weights."""
    one, zero = probability.numerator, probability.denominator - probability.numerator
    by_count = [one**ones * zero ** (bits - ones) for ones in range(bits + 1)]
    return alias_table([by_count[pattern.bit_count()] for pattern in range(2**bits)])


def put_bit(masks: Ints, index: Ints, bit: Ints) -> None:
    """Set bit `index` of each row's mask, int64 (n, width), to `bit`, 0 or 1."""
    width = masks.shape[1]
    flat = masks.reshape(-1)
    place = slice(None) if width == 1 else np.arange(len(masks)) * width + (index >> 6)
    shift = index & (WORD - 1)
    word = flat[place]
    change = word >> shift
    change ^= bit
    change &= 1
    change <<= shift
    flat[place] = word ^ change


def unpack(codes: Ints, bits: int) -> NDArray[np.bool_]:
    """The bits of masks int64 (n,) or (n, width): bool (n, bits)."""
    masks = np.ascontiguousarray(codes.reshape(len(codes), -1), "<i8")
    return np.unpackbits(masks.view(np.uint8), axis=1, count=bits, bitorder="little").view(np.bool_)


# ---- one bit per category --------------------------------------------------------------------------------------------


class Unary(FrequencyOracle):
    """One bit per category, each noisy: 1 with probability p at the true category and q at the others."""

    @cached_property
    def noise(self) -> BitNoise:
        return bit_noise(len(self.categories), self.support[1])

    @property
    def width(self) -> int:
        return self.noise.width

    def supports(self, codes: Ints) -> NDArray[np.bool_]:
        return unpack(codes, len(self.categories))

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """Masks, int64 (n,), or (n, width) beyond 64 categories."""
        noise = self.noise

        def draw(rows: Ints, part: Stream) -> Ints:
            masks, first = noise.draw(part)
            put_bit(masks, rows, self._true_bit(part, first))
            return masks[:, 0] if noise.width == 1 else masks

        return in_chunks(draw, noise.width, points, stream)

    @abstractmethod
    def _true_bit(self, part: Stream, first: Words) -> Ints:
        """The bit, 0 or 1, reported for the true category."""


@dataclass(frozen=True)
class SymmetricUnary(Unary):
    """Symmetric unary encoding (basic one-time RAPPOR): every bit of the one-hot code is flipped alike.

    Law: the true category's bit is 1 with probability p = e^(epsilon/2) / (e^(epsilon/2) + 1), each other one with
    q = 1 - p, all independent.
    Guarantee: epsilon-local differential privacy. Two one-hot codes differ in two bits, and p(1-q) / ((1-p)q) =
    ((1-q)/q)^2 <= e^epsilon exactly, as q is 1/(e^(epsilon/2) + 1) rounded up.
    Variance: n Var of a frequency is q(1-q)/(p-q)^2 = e^(epsilon/2) / (e^(epsilon/2) - 1)^2, whatever it is.
    Estimator: f = (share of reports with the category's bit - q) / (p - q).
    Source: Erlingsson, Pihur, Korolova 2014; Wang, Blocki, Li, Jha 2017.

    categories: 2 to 8192, distinct
    epsilon:    above 0, at most 1000
    """

    name: ClassVar[str] = "sue"

    @cached_property
    def support(self) -> tuple[Fraction, Fraction]:
        q = low_probability(exact(self.epsilon) / 2, 1, 1)
        return 1 - q, q

    def _true_bit(self, part: Stream, first: Words) -> Ints:
        """From the first word that no group takes."""
        counter, column = divmod(len(self.noise.groups), 2)
        words = first if counter == 0 else part.words(counter)
        return coin(words[:, column], self.support[0]).view(np.int8).astype(np.int64)

    @property
    def draws(self) -> int:
        return len(self.noise.groups) // 2 + 1

    @property
    def tv_bound(self) -> float:
        return self.noise.tv_bound + COIN


@dataclass(frozen=True)
class OptimizedUnary(Unary):
    """Optimized unary encoding: the true bit is a fair coin, so that the others, which are many, are rarely 1.

    Law: the true category's bit is 1 with probability p = 1/2, each other one with q = 1 / (e^epsilon + 1), all
    independent.
    Guarantee: epsilon-local differential privacy. Two one-hot codes differ in two bits, and p(1-q) / ((1-p)q) =
    (1-q)/q <= e^epsilon exactly, as q is rounded up.
    Variance: n Var of a frequency f is 4 e^epsilon / (e^epsilon - 1)^2 + f; no p and q of an epsilon have less at f = 0.
    Estimator: f = (share of reports with the category's bit - q) / (p - q).
    Source: Wang, Blocki, Li, Jha 2017.

    categories: 2 to 8192, distinct
    epsilon:    above 0, at most 1000
    """

    name: ClassVar[str] = "oue"

    @cached_property
    def support(self) -> tuple[Fraction, Fraction]:
        return Fraction(1, 2), low_probability(exact(self.epsilon), 1, 1)

    def _true_bit(self, part: Stream, first: Words) -> Ints:
        """A bit that no table looks at."""
        return (first[:, 0] >> np.uint64(15)).view(np.int64)  # `put_bit` takes the lowest bit

    @property
    def draws(self) -> int:
        return self.noise.draws

    @property
    def tv_bound(self) -> float:
        return self.noise.tv_bound


# ---- RAPPOR ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rappor:
    """RAPPOR: a permanent noisy Bloom filter per unit and value, of which every report is a noisy copy.

    Law: B is the Bloom filter of the category (or its one-hot code). Permanent: B'[i] = 1 with probability f/2, 0 with
    f/2, B[i] with 1 - f; drawn once for a unit and value. Instantaneous: report[i] = 1 with probability q if B'[i] = 1,
    p if it is 0; drawn afresh. So a bit of the report is 1 with q* = f(p + q)/2 + (1-f)q if it is in the filter, and with
    p* = f(p + q)/2 + (1-f)p if not. The cohort, which chooses the hash functions, is uniform and the unit's own.
    Guarantee: epsilon_permanent = 2h ln((1 - f/2) / (f/2)) for all reports of one value together, whatever their number,
    with h = 1 for the one-hot code: two filters differ in at most 2h bits, and reports are post-processing of B'.
    One report alone has epsilon_report = h ln(q*(1-p*) / (p*(1-q*))). Logarithms are natural: the paper writes log, and
    its published analysis code takes the natural one, as does the guarantee that they stand for. A unit whose value
    changes has another permanent response for each of its values, and each costs as much again.
    Variance: of one-hot reports n Var of a frequency g is p*(1-p*)/(q*-p*)^2 + g(1-p*-q*)/(q*-p*), for one report a unit;
    more reports of a unit share its permanent noise, which does not average out.
    Estimator: of one-hot reports g = (share of the bit - p*) / (q* - p*). Of Bloom filters least squares of the bits'
    shares, cohort by cohort, on `design()`.
    Source: Erlingsson, Pihur, Korolova 2014, sections 2 to 4.

    categories: 2 to 8192, distinct
    f:          0 < f < 1, the permanent noise
    p, q:       0 <= p < q <= 1, the probabilities of a 1 in a report
    hashes:     h >= 1 hash functions of the Bloom filter
    bits:       its size, 2 to 8192; None for the one-hot code (hashes and cohorts are then 1)
    cohorts:    1 to 4096 sets of hash functions
    """

    name: ClassVar[str] = "rappor"
    categories: tuple[Category, ...]
    f: float
    p: float
    q: float
    hashes: int = 1
    bits: int | None = None
    cohorts: int = 1

    def __post_init__(self) -> None:
        check_categories(self.categories, MAX_CATEGORIES)
        if not 0 < self.f < 1:
            raise ValueError(f"f={self.f}, expected 0 < f < 1")
        if not 0 <= self.p < self.q <= 1:
            raise ValueError(f"p={self.p} and q={self.q}, expected 0 <= p < q <= 1")
        if self.bits is None and (self.hashes, self.cohorts) != (1, 1):
            raise ValueError(f"hashes={self.hashes} and cohorts={self.cohorts}, expected 1 and 1 where bits is None")
        if self.bits is not None and not 2 <= self.bits <= MAX_CATEGORIES:
            raise ValueError(f"bits={self.bits}, expected 2 to {MAX_CATEGORIES}")
        if not 1 <= self.hashes <= 64:
            raise ValueError(f"hashes={self.hashes}, expected 1 to 64")
        if not 1 <= self.cohorts <= 4096:
            raise ValueError(f"cohorts={self.cohorts}, expected 1 to 4096")

    @property
    def size(self) -> int:
        """Bits of a report."""
        return len(self.categories) if self.bits is None else self.bits

    @property
    def width(self) -> int:
        return -(-self.size // WORD) + (self.cohorts > 1)

    @cached_property
    def _noises(self) -> tuple[BitNoise, BitNoise, BitNoise]:
        """Permanent flips (f/2: the filter's bit or a fair one), and the report's bits where B' is 1, and where it is 0."""
        flip, one, zero = (bit_noise(self.size, x) for x in (exact(self.f) / 2, exact(self.q), exact(self.p)))
        return flip, one, zero

    @property
    def draws(self) -> int:
        """Permanent ones included."""
        return sum(noise.draws for noise in self._noises) + (self.cohorts > 1)

    @property
    def tv_bound(self) -> float:
        return sum(noise.tv_bound for noise in self._noises) + self.cohorts * 2.0**-96

    def perturb(self, points: Ints, stream: Stream, permanent: Stream) -> Ints:
        """Masks, int64 (n,) or (n, width); with cohorts, the last word is the cohort.

        stream:    by row and release
        permanent: by privacy unit, the same in all releases. The cohort must not depend on the value, so its words are
                   those of value 0.
        """
        members = permanent.use("cohort", np.zeros(len(permanent), np.int64))
        streams = permanent, members, stream.use("one"), stream.use("zero")
        return in_chunks(self._draw, self.width, points, *streams)

    def _draw(self, points: Ints, permanent: Stream, members: Stream, ones: Stream, zeros: Stream) -> Ints:
        flip, one, zero = self._noises
        cohort = uniform_below(members.words(0), self.cohorts) if self.cohorts > 1 else np.zeros_like(points)
        lasting = self._filters[cohort * len(self.categories) + points] ^ flip.draw(permanent)[0]
        masks = one.draw(ones)[0]
        masks &= lasting
        masks |= zero.draw(zeros)[0] & ~lasting
        if self.cohorts > 1:
            return np.column_stack([masks, cohort])
        return masks[:, 0] if self.width == 1 else masks

    @cached_property
    def positions(self) -> Ints:
        """The bits of each category's filter, int64 (cohorts, k, h): SHA-256 of (cohort, hash index, category text)."""
        if self.bits is None:
            return np.arange(len(self.categories)).reshape(1, -1, 1)
        texts = [_text(category) for category in self.categories]
        return np.array(
            [
                [[_hash(f"{cohort},{i},{text}", self.bits) for i in range(self.hashes)] for text in texts]
                for cohort in range(self.cohorts)
            ]
        )

    @cached_property
    def _filters(self) -> Ints:
        """Masks, int64 (cohorts * k, words)."""
        positions = self.positions.reshape(-1, self.hashes)
        filters = np.zeros((len(positions), -(-self.size // WORD)), np.int64)
        for column in positions.T:
            put_bit(filters, column, np.ones_like(column))
        return filters

    def design(self) -> Floats:
        """P(bit i of a report of cohort c is 1 | category x), float (cohorts, size, k)."""
        q, p = (float(x) for x in self.support)
        bits = unpack(self._filters, self.size).reshape(self.cohorts, -1, self.size)
        return p + (q - p) * bits.transpose(0, 2, 1).astype(np.float64)

    @cached_property
    def support(self) -> tuple[Fraction, Fraction]:
        """(q*, p*): the probability that a report's bit is 1 if it is in the filter, and if not."""
        f, p, q = exact(self.f), exact(self.p), exact(self.q)
        fair = f * (p + q) / 2
        return fair + (1 - f) * q, fair + (1 - f) * p

    def supports(self, codes: Ints) -> NDArray[np.bool_]:
        """The bits of one-hot reports, bool (n, k)."""
        self._check_one_hot()
        return unpack(codes, self.size)

    def weights(self, codes: Ints) -> Floats:
        """Each one-hot report's contribution to each category's frequency: float (n, k)."""
        q, p = self.support
        return (self.supports(codes).astype(np.float64) - float(p)) / float(q - p)

    def frequency_variance(self, frequency: float = 0.0) -> float:
        """n Var of the estimate of a category's frequency from n one-hot reports of as many units, their values fixed."""
        self._check_one_hot()
        q, p = self.support
        return float(p * (1 - p) / (q - p) ** 2) + frequency * float((1 - p - q) / (q - p))

    def _check_one_hot(self) -> None:
        if self.bits is not None:
            raise ValueError(f"bits={self.bits}: a Bloom filter's bits are no categories; expected the use of design()")

    @property
    def epsilon_permanent(self) -> float:
        """Of all reports of one value together; rounded up."""
        half = exact(self.f) / 2
        return _log_above(((1 - half) / half) ** (2 * self.hashes))

    @property
    def epsilon_report(self) -> float:
        """Of one report alone; rounded up."""
        q, p = self.support
        return _log_above((q * (1 - p) / (p * (1 - q))) ** self.hashes)

    def event(self) -> Event:
        """Charged once for a unit and value. The slack is the permanent draw's: what follows it sees no value."""
        return Event.pure_dp(self.epsilon_permanent).with_slack(self._noises[0].tv_bound)

    def describe(self) -> dict[str, Any]:
        given = {
            "f": self.f,
            "p": self.p,
            "q": self.q,
            "hashes": self.hashes,
            "bits": self.bits,
            "cohorts": self.cohorts,
        }
        epsilons = {"epsilon_permanent": self.epsilon_permanent, "epsilon_report": self.epsilon_report}
        return {"categories": list(self.categories), **given, **epsilons}


def _text(category: Category) -> str:
    return str(category).lower() if isinstance(category, bool) else str(category)


def _hash(text: str, bits: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest(), "big") % bits


def _log_above(ratio: Fraction) -> float:
    """The least float not below ln(ratio), or the next one."""
    with localcontext() as context:
        context.prec = 60
        log = (Decimal(ratio.numerator) / Decimal(ratio.denominator)).ln()
    near = float(log)
    return near if Decimal(near) > log else math.nextafter(near, math.inf)
