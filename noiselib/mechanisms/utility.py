"""Noise for augmentation and robustness that depends on the value: multiplied, dropped, replaced, swapped. No guarantees.

The draw itself takes no value: a code says what is to happen to it, by what factor, or what takes its place.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from noiselib.mechanisms.additive import exact
from noiselib.mechanisms.categorical import in_chunks
from noiselib.noise import discrete
from noiselib.noise.integers import COIN, coin, uniform_below
from noiselib.noise.stream import Stream

Ints = NDArray[np.int64]

FACTOR_BITS = 20  # code m of a factor stands for 1 + m / 2^20
MAX_ROWS = 2**32 - 1


class Free:
    """What these mechanisms have in common: one code a row, and no guarantee."""

    @property
    def width(self) -> int:
        return 1

    def event(self) -> None:
        return None


# ---- multiplied ------------------------------------------------------------------------------------------------------


class Multiplied(Free, ABC):
    """A value times 1 + m/2^20, with m from the `law`."""

    @property
    @abstractmethod
    def deviation(self) -> float:
        """Of the factor: sigma."""

    @cached_property
    def law(self) -> discrete.RoundedGaussian:
        """Of m."""
        return discrete.RoundedGaussian(exact(self.deviation) * 2**FACTOR_BITS)

    @property
    def tv_bound(self) -> float:
        return self.law.tv_bound

    @property
    def draws(self) -> int:
        return self.law.draws

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """m for each row, int64 (n,), whatever the points are."""
        return self.law.sample(stream)

    @staticmethod
    def multiply(values: Ints, codes: Ints) -> Ints:
        """rint(x (1 + m/2^20)) for whole numbers |x| <= 2^52, if that is within int64: one multiplication in float64."""
        factor = 1.0 + codes * 2.0**-FACTOR_BITS
        return np.rint(values.astype(np.float64) * factor).astype(np.int64)

    @property
    def factor_variance(self) -> float:
        return math.ldexp(self.law.variance, -2 * FACTOR_BITS)


@dataclass(frozen=True)
class MultiplicativeGaussian(Multiplied):
    """Multiplicative Gaussian noise: a value times a factor near 1.

    Law: x (1 + m/2^20), one float64 multiplication, integers rounded to the nearest; m is normal with deviation 2^20 sigma,
    rounded to the nearest integer. The code is m: the factor's law is the same for every value.
    Guarantee: none; a value of 0 stays 0.
    Variance: sigma^2 x^2 for a value x, and 2^-40/12 x^2 of rounding m, nearly.
    Estimator: the mean is unbiased as published; the data's second moment is the published one over 1 + sigma^2, and the
    variance follows from both.
    Source: Kim, Winkler 2003, "Multiplicative noise for masking continuous data"; speckle noise, of images.

    sigma: the factor's deviation, 2^-20 to 2^20
    """

    name: ClassVar[str] = "multiplicative_gaussian"
    sigma: float

    def __post_init__(self) -> None:
        if not 2**-FACTOR_BITS <= self.sigma <= 2**20:
            raise ValueError(f"sigma={self.sigma}, expected 2^-20 <= sigma <= 2^20")

    @property
    def deviation(self) -> float:
        return self.sigma

    def describe(self) -> dict[str, Any]:
        return {"sigma": self.sigma, "factor_variance": self.factor_variance}


@dataclass(frozen=True)
class GaussianDropout(Multiplied):
    """Gaussian dropout: multiplicative Gaussian noise with the variance that dropping values at a rate has.

    Law: x (1 + m/2^20), one float64 multiplication, integers rounded to the nearest; m is normal with deviation 2^20 sigma,
    rounded to the nearest integer; sigma^2 = rate/(1 - rate), the variance of a factor that is 0 with probability rate and
    1/(1 - rate) otherwise. The code is m.
    Guarantee: none; a value of 0 stays 0.
    Variance: rate/(1 - rate) x^2 for a value x, and 2^-40/12 x^2 of rounding m, nearly.
    Estimator: the mean is unbiased as published; the data's second moment is the published one times 1 - rate, and the
    variance follows from both.
    Source: Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov 2014, "Dropout", section 10 (sigma^2 = (1-p)/p, p being
    the probability of keeping).

    rate: the probability of dropping that it stands for, 2^-40 to 1 - 2^-40
    """

    name: ClassVar[str] = "gaussian_dropout"
    rate: float

    def __post_init__(self) -> None:
        if not 2.0**-40 <= self.rate <= 1 - 2.0**-40:
            raise ValueError(f"rate={self.rate}, expected 2^-40 <= rate <= 1 - 2^-40")

    @property
    def deviation(self) -> float:
        rate = exact(self.rate)
        return math.sqrt(rate / (1 - rate))  # a correctly rounded quotient and its root: the same everywhere

    def describe(self) -> dict[str, Any]:
        return {"rate": self.rate, "sigma": self.deviation, "factor_variance": self.factor_variance}


# ---- at a rate -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rated(Free, ABC):
    """Something that happens to a row with a probability.

    rate: 0 to 1
    """

    rate: float

    def __post_init__(self) -> None:
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate={self.rate}, expected 0 <= rate <= 1")

    @cached_property
    def probability(self) -> Fraction:
        return exact(self.rate)

    @property
    def tv_bound(self) -> float:
        return COIN

    @property
    def draws(self) -> int:
        return 1

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """The codes, int64 (n,)."""
        return in_chunks(self._draw, 1, points, stream)

    @abstractmethod
    def _draw(self, points: Ints, part: Stream) -> Ints:
        """The codes, int64 (n,), of one chunk of points."""

    def describe(self) -> dict[str, Any]:
        return {"rate": self.rate}


@dataclass(frozen=True)
class Masking(Rated):
    """Masking: a value is removed, or replaced by a fixed one.

    Law: code 1, masked, with probability rate, else 0, whatever the value.
    Guarantee: none.
    Variance: of a value masked by a constant c: rate (1 - rate) (x - c)^2.
    Estimator: of numbers. What is left is missing completely at random: the mean over the rows left is unbiased; with a
    constant c in their place it is (published mean - rate c)/(1 - rate).
    Source: Rubin 1976, "Inference and missing data"; Vincent, Larochelle, Bengio, Manzagol 2008 (denoising autoencoders).

    rate: 0 to 1
    """

    name: ClassVar[str] = "masking"

    def _draw(self, points: Ints, part: Stream) -> Ints:
        return coin(part.words(0)[:, 0], self.probability).astype(np.int64)


@dataclass(frozen=True)
class Impulse(Rated):
    """Impulse noise, salt and pepper: a value becomes the least or the greatest one.

    Law: code 0, the value stays, with probability 1 - rate; 1, the lower bound, and 2, the upper bound, with rate/2 each.
    Guarantee: none.
    Variance: with bounds a and b for a value x, rate ((x-a)^2 + (x-b)^2)/2 - (rate (x - (a+b)/2))^2.
    Estimator: the mean is (published mean - rate (a + b)/2)/(1 - rate).
    Source: Gonzalez, Woods, "Digital image processing", section 5.2; Hendrycks, Dietterich 2019.

    rate: 0 to 1
    """

    name: ClassVar[str] = "impulse"

    def _draw(self, points: Ints, part: Stream) -> Ints:
        words = part.words(0)
        codes = (words[:, 1] >> np.uint64(63)).view(np.int64)
        codes += 1
        codes *= coin(words[:, 0], self.probability)
        return codes


@dataclass(frozen=True)
class Swap(Rated):
    """Swap noise: a value is replaced by that of a row drawn from the same release, itself included.

    Law: with probability rate the code is uniform on 0..n-1, the donor's row, n being the rows in the release, which are the
    points; else -1. So a value becomes a draw from the column's empirical law, independently of the other columns.
    Guarantee: none.
    Variance: for a value x, (1 - rate) x^2 + rate m2 - ((1 - rate) x + rate m)^2, m and m2 the column's mean and mean square.
    Estimator: of numbers. The mean is unbiased as published; the correlation of two swapped columns is the published one over
    (1 - rate)(1 - other rate).
    Source: Dalenius, Reiss 1982, "Data-swapping", with one-way swaps; Yoon et al. 2020 (VIME) for augmentation.

    rate: 0 to 1
    """

    name: ClassVar[str] = "swap"

    @property
    def tv_bound(self) -> float:
        """The coin's and the uniform donor's."""
        return 2 * COIN

    @property
    def draws(self) -> int:
        return 2

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """Donors, or -1, int64 (n,), of points from 1 to 2^32 - 1: the rows in the release."""
        if len(points) and not (points.min() >= 1 and points.max() <= MAX_ROWS):
            raise ValueError(f"points={points.min()}..{points.max()}, expected 1 to 2^32 - 1 rows in a release")
        return super().perturb(points, stream)

    def _draw(self, points: Ints, part: Stream) -> Ints:
        donors = uniform_below(part.words(1), points)
        return np.where(coin(part.words(0)[:, 0], self.probability), donors, -1)
