"""Noise on vectors: each component on the lattice, the guarantee in the norm that the vector was clipped to."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from noiselib import accounting
from noiselib.accounting import Event
from noiselib.mechanisms.additive import SAMPLER_SHARE, default_step, exact
from noiselib.noise.discrete import RoundedGaussian, RoundedLaplace
from noiselib.noise.stream import Stream

Ints = NDArray[np.int64]

MAX_POINT = 2**52  # steps: a clipped component is a whole number that float64 holds with a bit to spare


def sensitivity(dimension: int, step: Fraction, clip_norm: float, order: int) -> Fraction:
    """An upper bound, in steps, on the distance between the lattice points of any two clipped vectors; order 1 or 2.

    Two vectors of norm at most C are at most 2C apart. Three things are added:

    - rounding to the lattice moves a component by at most half a step, hence a vector by at most d/2 steps in L1 and
      sqrt(d)/2 in L2: for two vectors d and sqrt(d) steps;
    - the clipped vector v * min(1, C/|v|) is computed in float64. In a sum of d terms, in whatever order, each is
      rounded at most d - 1 times, so that the norm, the quotient, the product and the division by the step together
      are off by a factor of at most (1 + 2^-53)^(d + 8); twice that many units 2^-53 is more than enough;
    - square roots are rounded up, in their 64th bit.

    Raises ValueError for a dimension below 1, a norm or a step out of range, or an order that is neither 1 nor 2.
    """
    if isinstance(dimension, bool) or not isinstance(dimension, int) or not 1 <= dimension <= 2**20:
        raise ValueError(f"dimension={dimension!r}, expected an integer, 1 <= dimension <= 2^20")
    if order not in (1, 2):
        raise ValueError(f"order={order!r}, expected 1 or 2")
    if not 1e-100 <= clip_norm <= 1e100:  # far from where squares overflow or lose bits
        raise ValueError(f"clip_norm={clip_norm!r}, expected 1e-100 <= clip_norm <= 1e100")
    radius = exact(clip_norm) / step if step > 0 else Fraction(0)
    if not 0 < radius <= MAX_POINT:
        raise ValueError(f"step={step}, expected a step > 0 of which clip_norm={clip_norm!r} is at most 2^52")
    rounding = Fraction(dimension) if order == 1 else _sqrt_above(dimension)
    return 2 * radius * (1 + Fraction(dimension + 8, 2**52)) + rounding


def _sqrt_above(number: int) -> Fraction:
    return Fraction(math.isqrt(number << 128) + 1, 2**64)


@dataclass(frozen=True)
class _Vector(ABC):
    """What both have in common; the points of `perturb` are int64 (n, dimension)."""

    name: ClassVar[str]
    order: ClassVar[int]
    dimension: int
    step: Fraction
    scale: Fraction
    sensitivity: Fraction | None = None
    epsilon: float | None = None
    delta: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.dimension, bool) or not isinstance(self.dimension, int) or self.dimension < 1:
            raise ValueError(f"dimension={self.dimension!r}, expected an integer >= 1")
        if self.step <= 0:
            raise ValueError(f"step={self.step!r}, expected a Fraction > 0")

    @classmethod
    def calibrate(
        cls, dimension: int, step: Fraction | None, clip_norm: float, epsilon: float, delta: float | None = None
    ) -> Self:
        """The least noise that gives (epsilon, delta) where a vector of norm at most `clip_norm` is replaced.

        step: None puts the scale between 2^18 and 2^19 steps, rounding left out of account.
        Raises ValueError for a delta that the sampler's own distance from the ideal law does not leave room for.
        """
        multiplier = cls._multiplier(epsilon, delta)
        chosen = default_step(2 * exact(clip_norm) * multiplier) if step is None else step
        apart = sensitivity(dimension, chosen, clip_norm, cls.order)
        noise = cls(dimension, chosen, apart * multiplier, apart, epsilon, delta)
        event = noise.event()
        if delta is not None and event is not None and event.slack > delta * SAMPLER_SHARE:
            least = event.slack / SAMPLER_SHARE
            raise ValueError(
                f"delta={delta!r}, expected at least {least:.1g}: the sampler itself takes {event.slack:.1g}"
            )
        return noise

    @classmethod
    @abstractmethod
    def _multiplier(cls, epsilon: float, delta: float | None) -> Fraction:
        """Scale over sensitivity."""

    @property
    @abstractmethod
    def law(self) -> RoundedGaussian | RoundedLaplace:
        """Of one coordinate's noise."""

    @property
    def width(self) -> int:
        return self.dimension

    @property
    def tv_bound(self) -> float:
        """Of the whole vector: the components are independent, so their distances add up at most."""
        return self.dimension * self.law.tv_bound

    @property
    def draws(self) -> int:
        return self.dimension * self.law.draws

    @property
    def variance(self) -> float:
        """Of one published component, in the column's unit squared."""
        return self.law.variance * float(self.step) ** 2

    @property
    def mean_abs(self) -> float:
        """Expected absolute error of one published component, in the column's unit."""
        return self.law.mean_abs * float(self.step)

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """points + noise, int64 (n, dimension). Component i draws from a stream of its own that its own value enters."""
        if points.ndim != 2 or points.shape[1] != self.dimension:
            raise ValueError(f"points has shape {list(points.shape)}, expected (n, {self.dimension})")
        codes = np.empty_like(points)
        for i in range(self.dimension):
            component = np.ascontiguousarray(points[:, i])
            codes[:, i] = component + self.law.sample(stream.use(f"component {i}", component))
        return codes

    @abstractmethod
    def event(self) -> Event | None:
        """What one release of the vector is charged; None where nothing is claimed."""

    def describe(self) -> dict[str, Any]:
        """step, scale and variance (of a component) in the column's unit; sensitivity too, rounding included."""
        return {
            "dimension": self.dimension,
            "norm": f"l{self.order}",
            "step": float(self.step),
            "scale": float(self.scale * self.step),
            "sensitivity": None if self.sensitivity is None else float(self.sensitivity * self.step),
            "epsilon": self.epsilon,
            "delta": self.delta,
            "variance": self.variance,
        }


class VectorGaussian(_Vector):
    """Gaussian noise on every component of a vector that was clipped to a norm in L2.

    Law: each component plus an independent N(0, scale^2), rounded to the lattice; scale in steps.
    Guarantee: (epsilon, delta) if a vector is replaced by another, scale = sensitivity * sigma(epsilon, delta), sigma
        being the analytic calibration. The noise is spherical and the vectors are at most `sensitivity` apart in L2, so
        along the line between them it is the scalar mechanism, and across it the two laws agree. The unrounded sum is
        that mechanism exactly, as the points lie on the lattice and rounding the sum is post-processing.
    Variance: scale^2 + 1/12 steps^2 for each component.
    Estimator: the mean of the published components is an unbiased estimate of the mean of the clipped ones; their variance
        is the published one less the noise's.
    Source: Dwork and Roth 2014, appendix A; Balle and Wang 2018; clipping in L2 as in Abadi et al. 2016.

    dimension:      number of components d, 1 to 2^20
    step:           one lattice step in the column's unit, > 0
    scale:          standard deviation in steps, 2^-30 to 2^40
    sensitivity:    in steps, from `sensitivity`; None where no guarantee is claimed
    epsilon, delta: what was asked for; None where no guarantee is claimed
    """

    name = "gaussian"
    order = 2

    @classmethod
    def _multiplier(cls, epsilon: float, delta: float | None) -> Fraction:
        if delta is None:
            raise ValueError("delta=None, expected delta in (0, 1)")
        return exact(accounting.gaussian_sigma(epsilon, delta * (1 - SAMPLER_SHARE)))

    @cached_property
    def law(self) -> RoundedGaussian:
        return RoundedGaussian(self.scale)

    def event(self) -> Event | None:
        if self.sensitivity is None:
            return None
        return Event.gaussian(float(self.scale / self.sensitivity)).with_slack(self.tv_bound)


class VectorLaplace(_Vector):
    """Laplace noise on every component of a vector that was clipped to a norm in L1.

    Law: each component plus an independent Laplace variable of that scale, rounded to the lattice; scale in steps.
    Guarantee: epsilon if a vector is replaced by another, scale = sensitivity / epsilon: the ratio of two densities is
        at most exp(sum_i |a_i - b_i| / scale). It is charged by that ratio alone, as any mechanism of that epsilon. Its
        ratio does not reach the bound as often as a scalar Laplace mechanism's, so that it is another curve; the scalar
        curve bounds it (moving one component after the other is a chain of shifts of log-concave noise, and such a
        chain is dominated by one shift of their sum), but the charge does not rely on that argument.
    Variance: 2 scale^2 + 1/12 steps^2 for each component, nearly.
    Estimator: the mean of the published components is an unbiased estimate of the mean of the clipped ones; their variance
        is the published one less the noise's.
    Source: Dwork, McSherry, Nissim, Smith 2006.

    dimension:   number of components d, 1 to 2^20
    step:        one lattice step in the column's unit, > 0
    scale:       of the Laplace law in steps, 2^-30 to 2^40
    sensitivity: in steps, from `sensitivity`; None where no guarantee is claimed
    epsilon:     what was asked for; None where no guarantee is claimed; `delta` is always None
    """

    name = "laplace"
    order = 1

    @classmethod
    def _multiplier(cls, epsilon: float, delta: float | None) -> Fraction:
        if delta is not None:
            raise ValueError(f"delta={delta!r}, expected None: Laplace noise needs no delta")
        if not 0 < epsilon < math.inf:
            raise ValueError(f"epsilon={epsilon!r}, expected a finite epsilon > 0")
        return 1 / exact(epsilon)

    @cached_property
    def law(self) -> RoundedLaplace:
        return RoundedLaplace(self.scale)

    def event(self) -> Event | None:
        if self.sensitivity is None:
            return None
        return Event.pure_dp(float(self.sensitivity / self.scale)).with_slack(self.tv_bound)
