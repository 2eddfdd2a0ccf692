"""Noise for augmentation and robustness: what happens to a value does not depend on it, or only by a factor.

None of these makes a privacy claim. Their codes say what happens; the value itself never goes to a worker.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from noiselib.mechanisms.additive import exact
from noiselib.noise.discrete import RoundedGaussian
from noiselib.noise.integers import COIN, coin, uniform_below
from noiselib.noise.stream import Stream

Ints = NDArray[np.int64]

FACTOR_STEPS = 2**20  # a factor is 1 + code / 2^20


@dataclass(frozen=True)
class MultiplicativeGaussian:
    """Multiplicative noise, also called speckle.

    Law: x (1 + M / 2^20), M the normal law of deviation sigma 2^20, rounded to whole numbers; codes are M.
    Guarantee: none.
    Variance: x^2 sigma^2.
    Estimator: the mean as it is; the second moment is the published one / (1 + sigma^2).
    Source: Hendrycks and Dietterich 2019 (speckle noise); in disclosure control Kim and Winkler 2003.

    sigma: of the factor, above 0, at most 2^10
    """

    name: ClassVar[str] = "multiplicative_gaussian"
    width: ClassVar[int] = 1
    draws: ClassVar[int] = 1
    sigma: float

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 2**10:
            raise ValueError(f"sigma={self.sigma!r}, expected 0 < sigma <= 1024")

    @cached_property
    def law(self) -> RoundedGaussian:
        return RoundedGaussian(exact(self.sigma) * FACTOR_STEPS)

    @property
    def tv_bound(self) -> float:
        return self.law.tv_bound

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """M per row, int64 (n,); `points` only bind the words."""
        return self.law.sample(stream)

    def event(self) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"sigma": self.sigma}


@dataclass(frozen=True)
class GaussianDropout:
    """Gaussian dropout: multiplicative noise with the variance that dropping values with a rate would have.

    Law: x (1 + M / 2^20), as multiplicative Gaussian noise with sigma^2 = rate / (1 - rate), read as a rational
        square root with 64 bits.
    Guarantee: none.
    Variance: x^2 rate / (1 - rate).
    Estimator: the mean as it is; the second moment is the published one times 1 - rate.
    Source: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov 2014, section 10.

    rate: between 0 and 1
    """

    name: ClassVar[str] = "gaussian_dropout"
    width: ClassVar[int] = 1
    draws: ClassVar[int] = 1
    rate: float

    def __post_init__(self) -> None:
        if not 0 < self.rate < 1:
            raise ValueError(f"rate={self.rate!r}, expected 0 < rate < 1")

    @property
    def sigma(self) -> float:
        rate = exact(self.rate)
        return float(_root(rate / (1 - rate)))

    @cached_property
    def law(self) -> RoundedGaussian:
        rate = exact(self.rate)
        return RoundedGaussian(_root(rate / (1 - rate)) * FACTOR_STEPS)

    @property
    def tv_bound(self) -> float:
        return self.law.tv_bound

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """M per row, int64 (n,); `points` only bind the words."""
        return self.law.sample(stream)

    def event(self) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"rate": self.rate, "sigma": self.sigma}


def _root(square: Fraction) -> Fraction:
    """The square root, rounded down to a multiple of 2^-64: the same number everywhere."""
    return Fraction(math.isqrt(square.numerator * 2**128 // square.denominator), 2**64)


@dataclass(frozen=True)
class Masking:
    """Masking: a value is taken away.

    Law: code 1 (masked) with probability `rate`, else 0.
    Guarantee: none.
    Variance: that of leaving out a random share of the rows.
    Estimator: the mean of what is left.
    Source: Vincent, Larochelle, Bengio, Manzagol 2008, "Extracting and composing robust features with denoising autoencoders".

    rate: above 0, at most 1
    """

    name: ClassVar[str] = "masking"
    width: ClassVar[int] = 1
    draws: ClassVar[int] = 1
    tv_bound: ClassVar[float] = COIN
    rate: float

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """0 or 1 per row, int64 (n,); `points` only bind the words."""
        return coin(stream.words(0)[:, 0], exact(self.rate)).astype(np.int64)

    def event(self) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"rate": self.rate}


@dataclass(frozen=True)
class Impulse:
    """Impulse noise, salt and pepper: the least or the greatest value in a value's place.

    Law: code 1 (the lower bound) and 2 (the upper one) with probability rate / 2 each, else 0 (kept).
    Guarantee: none.
    Variance: given x, of the published value: rate (u^2 + l^2) / 2 + (1 - rate) x^2 less the squared mean, l and u the bounds.
    Estimator: (published mean - rate (l + u) / 2) / (1 - rate).
    Source: Hendrycks and Dietterich 2019 (impulse noise).

    rate: above 0, at most 1
    """

    name: ClassVar[str] = "impulse"
    width: ClassVar[int] = 1
    draws: ClassVar[int] = 1
    tv_bound: ClassVar[float] = COIN
    rate: float

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """0, 1 or 2 per row, int64 (n,); `points` only bind the words."""
        words = stream.words(0)
        side = (words[:, 1] & np.uint64(1)).astype(np.int64) + 1
        return np.where(coin(words[:, 0], exact(self.rate)), side, 0)

    def event(self) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"rate": self.rate}


@dataclass(frozen=True)
class Swap:
    """Swap noise: another row's value, so that the column's marginal is that of the data.

    Law: with probability `rate` the code is a row number uniform on 0..n-1 (the row's own among them), else -1. Points are n.
    Guarantee: none.
    Variance: 2 rate times the data's, of a published value about its true one.
    Estimator: means and marginals as they are; the correlation of two columns is the published one over the product of
        their 1 - rate, as the correlation of a value with its true one is 1 - rate.
    Source: Jahrer 2017 (swap noise for tabular denoising autoencoders); Yoon, Zhang, Jordon, van der Schaar 2020, "VIME".

    rate: above 0, at most 1
    """

    name: ClassVar[str] = "swap"
    width: ClassVar[int] = 1
    draws: ClassVar[int] = 2
    tv_bound: ClassVar[float] = 2 * COIN
    rate: float

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """Row numbers or -1, int64 (n,); `points` are the number of rows, 1 to 2^32 - 1."""
        swapped = coin(stream.words(0)[:, 0], exact(self.rate))
        return np.where(swapped, uniform_below(stream.words(1), points), -1)

    def event(self) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        return {"rate": self.rate}


def _check_rate(rate: float) -> None:
    if not 0 < rate <= 1:
        raise ValueError(f"rate={rate!r}, expected 0 < rate <= 1")
