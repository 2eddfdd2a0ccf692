"""Mechanisms on categories. A value is its index in the declared list, 0 to k - 1."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from operator import index, mul
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from noiselib.accounting import Event
from noiselib.mechanisms.additive import exact
from noiselib.noise import discrete
from noiselib.noise.alias import LOW, alias_table
from noiselib.noise.integers import low_probability
from noiselib.noise.stream import Stream

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Words = NDArray[np.uint64]
Category = str | bool | int
Matrix = tuple[tuple[Fraction, ...], ...]

MAX_CATEGORIES = 8192
MAX_MATRIX = 1024  # categories of a transition matrix: its tables take 8 bytes an entry, 8 MB at most
MAX_EPSILON = 1000


# ---- frequency oracles -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FrequencyOracle(ABC):
    """What locally private reports of a category have in common: the pure protocols of Wang, Blocki, Li, Jha 2017.

    A report supports some categories: its true one with probability p, each other one with probability q < p. So

        contribution of a report to category x = ([it supports x] - q) / (p - q)

    averages to the frequency of x, without bias. n reports of fixed values have n Var = (f p(1-p) + (1-f) q(1-q)) / (p-q)^2.

    categories: 2 to 8192, distinct
    epsilon:    above 0, at most 1000
    """

    name: ClassVar[str]
    categories: tuple[Category, ...]
    epsilon: float

    def __post_init__(self) -> None:
        check_categories(self.categories, MAX_CATEGORIES)
        check_epsilon(self.epsilon)

    @property
    def width(self) -> int:
        return 1

    @property
    @abstractmethod
    def tv_bound(self) -> float:
        """Of one report, from the ideal law: a total-variation distance."""

    @property
    @abstractmethod
    def support(self) -> tuple[Fraction, Fraction]:
        """(p, q): the probability that a report supports its true category, and that it supports another one."""

    @abstractmethod
    def supports(self, codes: Ints) -> NDArray[np.bool_]:
        """Which categories each report supports: bool (n, k)."""

    def weights(self, codes: Ints) -> Floats:
        """Each report's contribution to each category's frequency: float (n, k), its mean over reports is unbiased."""
        p, q = self.support
        return (self.supports(codes).astype(np.float64) - float(q)) / float(p - q)

    def frequency_variance(self, frequency: float = 0.0) -> float:
        """n Var of the estimate of a category's frequency, the n values being fixed."""
        p, q = self.support
        return float(q * (1 - q) / (p - q) ** 2) + frequency * float((1 - p - q) / (p - q))

    def event(self) -> Event:
        return Event.pure_dp(self.epsilon).with_slack(self.tv_bound)

    def describe(self) -> dict[str, Any]:
        p, q = self.support
        return {"categories": list(self.categories), "epsilon": self.epsilon, "p": float(p), "q": float(q)}


@dataclass(frozen=True)
class RandomizedResponse(FrequencyOracle):
    """k-ary randomized response: the truth, or one of the other categories.

    Law: the true category with probability p = e^epsilon / (e^epsilon + k - 1), each other one with q = p / e^epsilon:
    the index is moved round the circle of k by an offset that is 0 with probability p.
    Guarantee: epsilon-local differential privacy; p/q <= e^epsilon exactly, as q is rounded up.
    Variance: n Var of a frequency f is q(1-q)/(p-q)^2 + f(1-p-q)/(p-q); (k - 2 + e^epsilon)/(e^epsilon - 1)^2 at f = 0.
    Estimator: f = (share of reports that are the category - q) / (p - q).
    Source: Warner 1965; Kairouz, Bonawitz, Ramage 2016.

    categories: 2 to 8192, distinct
    epsilon:    above 0, at most 1000
    """

    name: ClassVar[str] = "randomized_response"

    @classmethod
    def calibrate(cls, categories: tuple[Category, ...], epsilon: float) -> RandomizedResponse:
        """For 2 to 8192 distinct categories."""
        return cls(categories, epsilon)

    @cached_property
    def law(self) -> discrete.Categorical:
        return offset_law(len(self.categories), self.epsilon)

    @property
    def tv_bound(self) -> float:
        return self.law.tv_bound

    @property
    def draws(self) -> int:
        return 1

    def perturb(self, values: Ints, stream: Stream) -> Ints:
        """The published indexes, int64 (n,)."""
        return in_chunks(self._draw, 1, values, stream)

    def _draw(self, values: Ints, part: Stream) -> Ints:
        k = len(self.categories)
        codes = values + self.law.sample(part)
        codes -= k * (codes >= k)  # the remainder, in a third of the time
        return codes

    def event(self) -> Event:
        return Event.randomized_response(self.epsilon, len(self.categories)).with_slack(self.tv_bound)

    @property
    def support(self) -> tuple[Fraction, Fraction]:
        return self.law.probabilities[0], self.law.probabilities[1]

    def supports(self, codes: Ints) -> NDArray[np.bool_]:
        same: NDArray[np.bool_] = codes[:, None] == np.arange(len(self.categories))
        return same

    @property
    def keep_probability(self) -> float:
        """The probability that a published category is the true one."""
        return 1.0 / (1.0 + (len(self.categories) - 1) * math.exp(-self.epsilon))

    @property
    def mean_abs(self) -> float:
        """Expected error of one value: the probability that it is published as another category."""
        return 1 - self.keep_probability


def offset_law(k: int, epsilon: float) -> discrete.Categorical:
    """Of the step round a circle of k: 0 is e^epsilon times as likely as each other one, just not more."""
    q = low_probability(exact(epsilon), 1, k - 1)
    return discrete.Categorical((1 - (k - 1) * q, *([q] * (k - 1))))


# ---- transition matrices ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transition:
    """A category becomes another one by a matrix of probabilities: post-randomization (PRAM), label flips, resampling.

    Law: category i is published as j with probability matrix[i][j], independently of the other rows. By a rate, label_flip
    and pram have 1 - rate on the diagonal and rate/(k-1) elsewhere; resampling has (1 - rate) I + rate 1 w^T, w the law of
    the fresh draw. Invariant pram has R = P Q, P the matrix as given and Q its reversal by Bayes under the marginal pi, the
    release's own or a declared one: Q[j][l] = pi[l] P[l][j] / (pi P)[j], so that pi R = pi.
    Guarantee: none.
    Variance: n Cov of the estimate for fixed values of frequencies pi is R^-T (diag(lambda) - R^T diag(pi) R) R^-1, where
    R is the matrix and lambda = R^T pi; see `covariance`.
    Estimator: pi_hat = (R^T)^-1 lambda_hat, lambda_hat the published frequencies; unbiased where R is invertible. If R
    keeps the marginal (see `invariant`), lambda_hat is unbiased itself.
    Source: Gouweleeuw, Kooiman, Willenborg, de Wolf 1998; Kooiman, Willenborg, Gouweleeuw 1997 (invariant matrices). Label
    noise by a class matrix: Patrini, Rozza, Menon, Nock, Qu 2017.

    name:       what it is used as: label_flip, pram, resampling
    categories: 2 to 1024, distinct; more are refused, as the tables of k^2 entries no longer fit a cache
    matrix:     k rows of k Fractions >= 0, each row with sum 1 exactly
    """

    name: str
    categories: tuple[Category, ...]
    matrix: Matrix = field(repr=False)

    def __post_init__(self) -> None:
        check_categories(self.categories, MAX_MATRIX)
        check_matrix(self.matrix, len(self.categories))

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

    @cached_property
    def tables(self) -> RowTables:
        return row_tables([[math.floor(p * discrete.UNIT) for p in row] for row in self.matrix])

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """The published indexes, int64 (n,)."""
        tables = self.tables
        return in_chunks(lambda rows, part: tables.pick(rows, part.words(0)[:, 0]), 1, points, stream)

    def event(self) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        matrix = self._floats
        return {"categories": list(self.categories), "matrix": matrix.tolist(), "kept": float(matrix.diagonal().min())}

    @property
    def _floats(self) -> Floats:
        return np.array([[float(p) for p in row] for row in self.matrix])

    def weights(self, codes: Ints) -> Floats:
        """Each row's contribution to pi_hat: float (n, k), the row of R^-1 of its code. ValueError if R has no inverse."""
        contributions: Floats = self._inverse[codes]
        return contributions

    def covariance(self, frequencies: Sequence[float]) -> Floats:
        """n Cov of pi_hat, float (k, k), the values being fixed and of these true frequencies."""
        matrix, pi = self._floats, np.asarray(frequencies, np.float64)
        noise: Floats = np.diag(pi @ matrix) - matrix.T @ (pi[:, None] * matrix)
        return self._inverse.T @ noise @ self._inverse

    @cached_property
    def _inverse(self) -> Floats:
        matrix = self._floats
        if np.linalg.matrix_rank(matrix) < len(matrix):
            raise ValueError("matrix without an inverse: the true frequencies do not follow from the published ones")
        return np.asarray(np.linalg.inv(matrix), np.float64)


def uniform_flip(k: int, rate: Fraction) -> Matrix:
    """Stay with probability 1 - rate, else one of the k - 1 other categories, all alike. 0 <= rate <= 1, k >= 2."""
    _check_rate(rate)
    if k < 2:
        raise ValueError(f"k={k}, expected at least 2 categories")
    other = Fraction(rate) / (k - 1)
    return tuple(tuple(1 - Fraction(rate) if i == j else other for j in range(k)) for i in range(k))


def resampling_matrix(weights: Sequence[int | Fraction], rate: Fraction) -> Matrix:
    """(1 - rate) I + rate 1 w^T: with probability `rate` a fresh draw from the law proportional to `weights`.

    It keeps that law: w^T times the matrix is w^T.
    """
    _check_rate(rate)
    law = _normalized("weights", weights)
    drawn = [Fraction(rate) * w for w in law]
    return tuple(tuple(p + (1 - rate) * (i == j) for j, p in enumerate(drawn)) for i in range(len(law)))


def invariant(matrix: Matrix, marginal: Sequence[int | Fraction]) -> Matrix:
    """The two-stage invariant matrix R = P Q, which keeps `marginal` exactly: pi R = pi.

    P is `matrix`, lambda = pi P, and Q its reversal by Bayes, Q[j][l] = pi[l] P[l][j] / lambda[j]: what the category was,
    given what it became. So pi R = lambda Q = pi. Exact. `marginal` may be counts.

    Nothing that occurs is published as a category of marginal 0. Where lambda[j] = 0 nothing that occurs becomes j in the
    first stage, and Q[j] is j itself.

    In whole numbers: with P = A / a and pi in proportion to counts, R[i][l] a = counts[l] (sum over j of A[i][j] A[l][j] / L[j]),
    L = counts A.
    """
    check_matrix(matrix, len(marginal))
    pi = _normalized("marginal", marginal)
    k = range(len(pi))
    whole, common = math.lcm(*(p.denominator for p in pi)), math.lcm(*(p.denominator for row in matrix for p in row))
    counts = [int(p * whole) for p in pi]
    steps = [[int(p * common) for p in row] for row in matrix]
    reached = [sum(count * row[j] for count, row in zip(counts, steps, strict=True)) for j in k]
    scale = math.lcm(*(r for r in reached if r))
    rows = []
    for step in steps:
        back = [p * scale // r if r else 0 for p, r in zip(step, reached, strict=True)]
        moved = [counts[i] * sum(map(mul, back, steps[i])) if counts[i] else 0 for i in k]
        stayed = [0 if reached[j] else step[j] * scale for j in k]
        rows.append(tuple(Fraction(m + s, common * scale) for m, s in zip(moved, stayed, strict=True)))
    return tuple(rows)


def _normalized(name: str, weights: Sequence[int | Fraction]) -> list[Fraction]:
    exactly = [w if isinstance(w, Fraction) else Fraction(index(w)) for w in weights]
    for i, weight in enumerate(exactly):
        if weight < 0:
            raise ValueError(f"{name}[{i}]={weight}, expected >= 0")
    total = sum(exactly)
    if total == 0:
        raise ValueError(f"{name} with sum 0, expected one above 0")
    return [weight / total for weight in exactly]


# ---- sampling a row's law --------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class RowTables:
    """Alias tables of one size end to end, a law each; see `AliasTable`, of which this is the lookup by (row, cell).

    bits:   log2 of the cells of one table
    packed: uint64 (rows * 2^bits,)
    """

    bits: int
    packed: NDArray[np.uint64] = field(repr=False)

    def pick(self, rows: Ints, words: Words) -> Ints:
        """One outcome per word from the table of its row: int64 (n,). Bits 13, 14 and 15 of a word are free."""
        cell = (words & np.uint64(2**self.bits - 1)).view(np.int64)
        place = rows << self.bits
        place |= cell
        threshold = self.packed.take(place)
        alias = (threshold & np.uint64(2**LOW - 1)).view(np.int64)
        threshold ^= alias.view(np.uint64)
        return np.where(words < threshold, cell, alias)


def row_tables(laws: Sequence[Sequence[int]]) -> RowTables:
    """For laws of one length, each given by integer weights."""
    tables = [alias_table(weights) for weights in laws]
    return RowTables(tables[0].bits, np.concatenate([table.packed for table in tables]))


def in_chunks(draw: Callable[..., Ints], width: int, points: Ints, *streams: Stream) -> Ints:
    """draw(points, *streams) by chunks of rows that stay in cache: int64 (n,), or (n, width) if width > 1."""
    out = np.empty(len(points) if width == 1 else (len(points), width), np.int64)
    for start in range(0, len(points), discrete.CHUNK):
        rows = slice(start, start + discrete.CHUNK)
        out[rows] = draw(points[rows], *(stream[rows] for stream in streams))
    return out


# ---- checks ----------------------------------------------------------------------------------------------------------


def check_categories(categories: tuple[Category, ...], most: int) -> None:
    if not 2 <= len(categories) <= most:
        raise ValueError(f"categories has {len(categories)} entries, expected 2 to {most}")
    if len(set(categories)) < len(categories):
        twice = next(c for i, c in enumerate(categories) if c in categories[:i])
        raise ValueError(f"categories has {twice!r} twice, expected distinct ones")


def check_epsilon(epsilon: float) -> None:
    if not 0 < epsilon <= MAX_EPSILON:
        raise ValueError(f"epsilon={epsilon}, expected 0 < epsilon <= {MAX_EPSILON}")


def check_matrix(matrix: Matrix, k: int) -> None:
    if len(matrix) != k:
        raise ValueError(f"matrix has {len(matrix)} rows, expected {k}, one per category")
    for i, row in enumerate(matrix):
        if len(row) != k:
            raise ValueError(f"matrix[{i}] has {len(row)} entries, expected {k}, one per category")
        for j, p in enumerate(row):
            if not (isinstance(p, (int, Fraction)) and p >= 0):
                raise ValueError(f"matrix[{i}][{j}]={p!r}, expected a Fraction >= 0")
        if sum(row) != 1:
            raise ValueError(f"matrix[{i}] has sum {sum(row)}, expected 1 exactly (1/3 may be written so)")


def _check_rate(rate: Fraction) -> None:
    if not (isinstance(rate, (int, Fraction)) and 0 <= rate <= 1):
        raise ValueError(f"rate={rate!r}, expected a Fraction, 0 <= rate <= 1")
