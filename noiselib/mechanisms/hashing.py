"""Frequency oracles with short reports: local hashing, Hadamard response, subset selection."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from noiselib.mechanisms.additive import exact
from noiselib.mechanisms.categorical import MAX_CATEGORIES, Floats, FrequencyOracle, Ints, in_chunks, offset_law
from noiselib.mechanisms.unary import WORD, put_bit, unpack
from noiselib.noise import discrete
from noiselib.noise.integers import COIN, coin, low_probability, uniform_below
from noiselib.noise.stream import Rows, Stream

PRIME = 2**31 - 1
MAX_BLOCKS = 4096


def power_of_e(epsilon: float) -> Decimal:
    """e^epsilon to 60 digits, the same everywhere: what is rounded to a whole number decides what is sampled."""
    with localcontext() as context:
        context.prec = 60
        number = exact(epsilon)
        return (Decimal(number.numerator) / Decimal(number.denominator)).exp()


# ---- local hashing ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LocalHashing(FrequencyOracle):
    """Optimized local hashing (OLH): a hash function of one's own, and randomized response on the hashed category.

    Law: h(x) = ((a x + b) mod P) mod g with P = 2^31 - 1, x the category's index, a uniform on 1..P-1 and b on 0..P-1; the
    report is h(x) with probability p = e^epsilon / (e^epsilon + g - 1), each other bucket with (1-p)/(g-1). Codes (n, 2):
    the seed a 2^31 + b, and the report.
    Guarantee: epsilon-local differential privacy. The seed is drawn from words that are not bound to the value, so its law
    is the same for all; given the seed the report is randomized response. (A seed whose words were bound to the value
    would be as private in one release, but only by the cipher, and would show by changing that the value changed.)
    Variance: n Var of a frequency f is q(1-q)/(p-q)^2 + f(1-p-q)/(p-q); with g = e^epsilon + 1, were it whole, that is
    4 e^epsilon / (e^epsilon - 1)^2 + f, as for optimized unary encoding.
    Estimator: f = (share of reports that support the category - q) / (p - q); a report supports x if h(x) is its bucket.
    q = p c + (1-p)/(g-1) (1-c), c the probability that h takes two categories to one bucket. It is not 1/g but, as the
    pair of values mod P is uniform on the pairs of distinct numbers, c = (sum of N(N-1) over buckets) / (P(P-1)), N the
    numbers below P in a bucket: less than 1/g by at most 1/(P-1). `support` has this q exactly, so the estimator is
    unbiased; with c = 1/g it would be off by at most 2^-30.
    Source: Wang, Blocki, Li, Jha 2017; the hash family of Carter and Wegman 1979.

    categories: 2 to 8192, distinct
    epsilon:    above 0, at most 1000
    buckets:    2 to 8192; by default round(e^epsilon) + 1, at most 8192
    """

    name: ClassVar[str] = "local_hashing"
    buckets: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.buckets is not None and not 2 <= self.buckets <= MAX_CATEGORIES:
            raise ValueError(f"buckets={self.buckets}, expected 2 to {MAX_CATEGORIES}")

    @cached_property
    def g(self) -> int:
        """The number of buckets."""
        if self.buckets is not None:
            return self.buckets
        return min(MAX_CATEGORIES, int(power_of_e(self.epsilon).to_integral_value(ROUND_HALF_EVEN)) + 1)

    @property
    def width(self) -> int:
        return 2

    @property
    def draws(self) -> int:
        return 3

    @property
    def tv_bound(self) -> float:
        return self._law.tv_bound + 2 * PRIME * 2.0**-96

    @cached_property
    def _law(self) -> discrete.Categorical:
        return offset_law(self.g, self.epsilon)

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """Seeds and reports, int64 (n, 2)."""
        public = stream.use("hash", np.zeros(len(stream), np.int64))
        return in_chunks(self._draw, 2, points, stream, public)

    def _draw(self, points: Ints, part: Stream, public: Stream) -> Ints:
        a = uniform_below(public.words(0), PRIME - 1) + 1
        b = uniform_below(public.words(1), PRIME)
        seeds = (a << 31) | b
        reports = self.hash(seeds, points) + self._law.sample(part)
        reports -= self.g * (reports >= self.g)
        return np.column_stack([seeds, reports])

    def hash(self, seeds: Ints, x: Ints) -> Ints:
        """h(x) for arrays that broadcast, 0 <= x < 8192: a x + b < 2^44 + 2^31."""
        a, b = seeds >> 31, seeds & PRIME
        buckets: Ints = (a * x + b) % PRIME % self.g
        return buckets

    @cached_property
    def support(self) -> tuple[Fraction, Fraction]:
        p, other = self._law.probabilities[:2]
        small, larger = divmod(PRIME, self.g)  # `larger` buckets hold small + 1 numbers, the rest small
        pairs = larger * (small + 1) * small + (self.g - larger) * small * (small - 1)
        meet = Fraction(pairs, PRIME * (PRIME - 1))
        return p, p * meet + other * (1 - meet)

    def supports(self, codes: Ints) -> NDArray[np.bool_]:
        hashed = self.hash(codes[:, :1], np.arange(len(self.categories)))
        same: NDArray[np.bool_] = hashed == codes[:, 1:]
        return same

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "buckets": self.g, "prime": PRIME}


# ---- Hadamard response -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class HadamardResponse(FrequencyOracle):
    """Hadamard response: log k bits, and at every epsilon the best order of error.

    Law: outputs are B blocks of b, category x has the block x // (b-1) and in it the row x % (b-1) + 1 of the Hadamard
    matrix; C_x are the s = b/2 outputs of its block whose position has even parity with the row, that is
    popcount(row & position) even. The report is uniform on C_x with probability p = e^epsilon / (e^epsilon + 2B - 1) =
    s e^epsilon / (s e^epsilon + K - s), K = Bb, else uniform on the K - s other outputs. A row cuts every block into two
    halves of s outputs, so this is randomized response over 2B halves, and a uniform position within one.
    Guarantee: epsilon-local differential privacy: an output of C_x has e^epsilon times the probability of another one,
    just not more, as the latter is rounded up.
    Variance: n Var of a frequency f, its block having frequency m, is W^2 ((e^epsilon + 1) m + 2(1-m)) / (e^epsilon + 2B - 1)
    - f, where W = (e^epsilon + 2B - 1)/(e^epsilon - 1); m = 1 if B = 1.
    Estimator: f = (share of C_x - half the share of x's block) * 2W: a report contributes W if it is in C_x, -W if in the
    other half of x's block, 0 elsewhere. Unbiased: rows of one block are orthogonal, and other blocks' halves are alike.
    Source: Acharya, Sun, Zhang 2019: B the largest power of two below min(e^epsilon, 2k), b the least one with
    B(b-1) >= k.

    categories: 2 to 8192, distinct
    epsilon:    above 0, at most 1000; B is at most 4096
    """

    name: ClassVar[str] = "hadamard_response"

    @cached_property
    def blocks(self) -> int:
        """B."""
        most = min(power_of_e(self.epsilon), Decimal(2 * len(self.categories)))
        blocks = 1
        while 2 * blocks < most and blocks < MAX_BLOCKS:
            blocks *= 2
        return blocks

    @cached_property
    def size(self) -> int:
        """b, the outputs of a block."""
        size = 2
        while self.blocks * (size - 1) < len(self.categories):
            size *= 2
        return size

    @property
    def draws(self) -> int:
        return 1

    @property
    def tv_bound(self) -> float:
        return self._law.tv_bound

    @cached_property
    def _law(self) -> discrete.Categorical:
        return offset_law(2 * self.blocks, self.epsilon)

    def place(self, points: Ints) -> tuple[Ints, Ints]:
        """The block and the row of each category."""
        return points // (self.size - 1), points % (self.size - 1) + 1

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """Outputs, int64 (n,), 0 to K - 1: block * b + position."""
        table = self._law._table

        def draw(rows: Ints, part: Stream) -> Ints:
            words = part.words(0)
            block, row = self.place(rows)
            half = (2 * block + table.pick(words[:, 0])) & (2 * self.blocks - 1)  # half 2 block is C_x
            position = (words[:, 1] & np.uint64(self.size - 1)).view(np.int64)
            wrong = (_parity(row & position) ^ half) & 1
            position ^= wrong * (row & -row)  # one bit of the row: maps one half onto the other
            return (half >> 1) * self.size + position

        return in_chunks(draw, 1, points, stream)

    @property
    def support(self) -> tuple[Fraction, Fraction]:
        """Of x and of another category of its block, q = 1/2 if there is one block.

        A category of another block is supported with probability 1/(e^epsilon + 2B - 1) only, so that of several blocks this
        q serves no estimator: `weights` does.
        """
        p, other = self._law.probabilities[:2]
        return p, (p + other) / 2

    def supports(self, codes: Ints) -> NDArray[np.bool_]:
        same, even = self._relation(codes)
        return same & even

    def _relation(self, codes: Ints) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Whether a report is in each category's block, and whether its position has even parity with the row."""
        block, row = self.place(np.arange(len(self.categories)))
        position = codes[:, None] & (self.size - 1)
        return codes[:, None] // self.size == block, _parity(row & position) == 0

    def weights(self, codes: Ints) -> Floats:
        same, even = self._relation(codes)
        return np.where(same, np.where(even, 1.0, -1.0), 0.0) * float(self._unit)

    @property
    def _unit(self) -> Fraction:
        """W, of the probabilities as they are drawn: 1 / (P(C_x | x) - P(the rest of the block | x))."""
        p, other = self._law.probabilities[:2]
        return 1 / (p - other)

    def frequency_variance(self, frequency: float = 0.0, block_frequency: float = 1.0) -> float:
        """n Var of the estimate of a category's frequency, its block's being given; 1 is the most that it can be."""
        p, other = self._law.probabilities[:2]
        share = block_frequency if self.blocks > 1 else 1.0
        return float(self._unit**2) * (float(p + other) * share + float(2 * other) * (1 - share)) - frequency

    def describe(self) -> dict[str, Any]:
        unit = {"blocks": self.blocks, "block_size": self.size, "weight": float(self._unit)}
        return {"categories": list(self.categories), "epsilon": self.epsilon, **unit}


def _parity(x: Ints) -> Ints:
    return (np.bitwise_count(x) & 1).astype(np.int64)


# ---- subset selection ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SubsetSelection(FrequencyOracle):
    """Subset selection: a random set of d categories, in which the true one is likelier.

    Law: a set of d = max(1, round(k / (e^epsilon + 1))) categories; the true one is in it with probability
    p = d e^epsilon / (d e^epsilon + k - d), the others are uniform without replacement. Codes are masks, as of unary
    encodings.
    Guarantee: epsilon-local differential privacy: a set with the true category has e^epsilon times the probability of one
    without it, just not more, as the latter is rounded up.
    Variance: n Var of a frequency f is q(1-q)/(p-q)^2 + f(1-p-q)/(p-q), where q = (p(d-1) + (1-p)d) / (k-1).
    Estimator: f = (share of sets with the category - q) / (p - q).
    Source: Ye, Barg 2018; Wang, Huang, Wang, Nie, Xu, Yang, Li, Qiao 2016. The others are drawn by Floyd's algorithm
    (Bentley, Floyd 1987), one block a step.

    categories: 2 to 8192, distinct
    epsilon:    above 0, at most 1000
    """

    name: ClassVar[str] = "subset_selection"

    @cached_property
    def subset(self) -> int:
        """d."""
        share = len(self.categories) / (power_of_e(self.epsilon) + 1)
        return max(1, int(share.to_integral_value(ROUND_HALF_EVEN)))

    @cached_property
    def support(self) -> tuple[Fraction, Fraction]:
        k, d = len(self.categories), self.subset
        p = 1 - (k - d) * low_probability(exact(self.epsilon), d, k - d)
        return p, (p * (d - 1) + (1 - p) * d) / (k - 1)

    @property
    def width(self) -> int:
        return -(-len(self.categories) // WORD)

    @property
    def draws(self) -> int:
        return 1 + self.subset

    @property
    def tv_bound(self) -> float:
        """A coin, and d integers below k - 1 at most."""
        return COIN + self.subset * len(self.categories) * 2.0**-96

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """Masks, int64 (n,), or (n, width) beyond 64 categories."""
        return in_chunks(self._draw, self.width, points, stream)

    def _draw(self, points: Ints, part: Stream) -> Ints:
        """Floyd's steps j = k-1-m..k-2 for m of the k - 1 others; those with the true category skip the first step."""
        masks = np.zeros((len(points), self.width), np.int64)
        true = coin(part.words(0)[:, 0], self.support[0])
        put_bit(masks, points, true.astype(np.int64))
        others = len(self.categories) - 1
        rows: Rows = np.flatnonzero(~true)
        for step in range(1, self.subset + 1):
            self._add_other(masks, points, rows, part.words(step, rows), others - self.subset + step - 1)
            rows = slice(None)
        return masks[:, 0] if self.width == 1 else masks

    def _add_other(self, masks: Ints, points: Ints, rows: Rows, words: NDArray[np.uint64], last: int) -> None:
        """A uniform one of the others 0..last, or `last` itself if that one is in the set already."""
        x = points[rows]
        drawn = uniform_below(words, last + 1)
        drawn += drawn >= x  # the others are numbered without the true category
        chosen = masks[rows]
        word = chosen[:, 0] if self.width == 1 else chosen[np.arange(len(x)), drawn >> 6]
        taken = word >> (drawn & (WORD - 1)) & 1
        put_bit(chosen, np.where(taken, last + (last >= x), drawn), np.ones_like(drawn))
        masks[rows] = chosen

    def supports(self, codes: Ints) -> NDArray[np.bool_]:
        return unpack(codes, len(self.categories))

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "subset": self.subset}
