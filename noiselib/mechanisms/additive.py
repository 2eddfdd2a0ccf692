"""Additive noise on the lattice: value + noise, both in whole lattice steps, so that the sum is exact.

The value was clipped to its bounds (or needs none, under a distance) and rounded to the lattice before; two neighbouring
records differ by at most `sensitivity` steps. The law's scale follows from that, in steps too.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from noiselib import accounting
from noiselib.accounting import Event
from noiselib.noise import discrete
from noiselib.noise.stream import Stream

STEPS_PER_SCALE = 2**19  # the default granularity puts a scale between 2^18 and 2^19 steps: one cipher block per value


class Law(Protocol):
    """What a mechanism asks of a law of `noiselib.noise.discrete`."""

    @property
    def tv_bound(self) -> float: ...
    @property
    def variance(self) -> float: ...
    @property
    def mean_abs(self) -> float: ...
    def sample(self, stream: Stream) -> NDArray[np.int64]: ...
    def cdf(self, k: NDArray[np.int64]) -> NDArray[np.float64]: ...


@dataclass(frozen=True)
class Additive:
    """Additive noise of one law. `scale` and `sensitivity` are in lattice steps; `step` is one step in the column's unit.

    epsilon, delta: what was asked for; None where the noise makes no privacy claim.
    """

    name: ClassVar[str]
    fractional: ClassVar[bool] = False  # the law is continuous: it wants a column with fractions, and a fine lattice
    step: Fraction
    scale: Fraction
    sensitivity: int | None = None
    epsilon: float | None = None
    delta: float | None = None

    @classmethod
    def calibrate(cls, sensitivity: int, step: Fraction, epsilon: float, delta: float | None = None) -> Additive:
        """The least noise that gives (epsilon, delta) where neighbours differ by at most `sensitivity` >= 1 steps.

        Raises ValueError for a delta that the sampler's own distance from the ideal law does not leave room for.
        """
        noise = cls(step, cls.scale_for(Fraction(sensitivity), epsilon, delta), sensitivity, epsilon, delta)
        event = noise.event()
        if delta is not None and event is not None and event.slack > delta * SAMPLER_SHARE:
            least = event.slack / SAMPLER_SHARE
            raise ValueError(
                f"delta {delta:g}: expected at least {least:.1g}, since the sampler itself takes {event.slack:.1g}"
            )
        return noise

    @classmethod
    def scale_for(cls, sensitivity: Fraction, epsilon: float, delta: float | None) -> Fraction:
        """The scale, in the unit of `sensitivity`."""
        raise ValueError(f"{cls.name}: gives no guarantee, so there is nothing to calibrate to")

    @cached_property
    def law(self) -> Law:
        raise AttributeError("law")

    def perturb(self, values: NDArray[np.int64], stream: Stream) -> NDArray[np.int64]:
        """values + noise, int64 (n,), in steps."""
        return values + self.law.sample(stream)

    def event(self) -> Event | None:
        """What the accountant is told of one application; None where no privacy is claimed."""
        return None

    @property
    def variance(self) -> float:
        """Of the published value, in the column's unit squared."""
        return self.law.variance * float(self.step) ** 2

    @property
    def mean_abs(self) -> float:
        """Expected absolute error of one published value, in the column's unit."""
        return self.law.mean_abs * float(self.step)


class Laplace(Additive):
    """The continuous Laplace law with b = sensitivity / epsilon, rounded to the lattice (Dwork et al. 2006).

    Rounding a sum whose first part lies on the lattice is post-processing, so this is exactly the continuous mechanism.
    """

    name = "laplace"
    fractional = True

    @classmethod
    def scale_for(cls, sensitivity: Fraction, epsilon: float, delta: float | None) -> Fraction:
        return sensitivity / exact(epsilon)

    @cached_property
    def law(self) -> Law:
        return discrete.RoundedLaplace(self.scale)

    def event(self) -> Event | None:
        if self.sensitivity is None:
            return None
        return Event.laplace(float(self.scale / self.sensitivity)).with_slack(self.law.tv_bound)


class DiscreteLaplace(Additive):
    """The two-sided geometric law, P(k) ~ exp(-|k| epsilon / sensitivity) (Ghosh, Roughgarden, Sundararajan 2009)."""

    name = "discrete_laplace"

    @classmethod
    def scale_for(cls, sensitivity: Fraction, epsilon: float, delta: float | None) -> Fraction:
        return sensitivity / exact(epsilon)

    @cached_property
    def law(self) -> Law:
        return discrete.DiscreteLaplace(self.scale)

    def event(self) -> Event | None:
        if self.sensitivity is None:
            return None
        return Event.discrete_laplace(self.scale, self.sensitivity).with_slack(self.law.tv_bound)


class Gaussian(Additive):
    """The normal law with the analytic calibration (Balle and Wang 2018), rounded to the lattice, as for Laplace."""

    name = "gaussian"
    fractional = True

    @classmethod
    def scale_for(cls, sensitivity: Fraction, epsilon: float, delta: float | None) -> Fraction:
        assert delta is not None
        return sensitivity * exact(accounting.gaussian_sigma(epsilon, delta * (1 - SAMPLER_SHARE)))

    @cached_property
    def law(self) -> Law:
        return discrete.RoundedGaussian(self.scale)

    def event(self) -> Event | None:
        if self.sensitivity is None:
            return None
        return Event.gaussian(float(self.scale / self.sensitivity)).with_slack(self.law.tv_bound)


class DiscreteGaussian(Additive):
    """The discrete Gaussian, P(k) ~ exp(-k^2 / 2 sigma^2) (Canonne, Kamath, Steinke 2020), by its exact delta."""

    name = "discrete_gaussian"

    @classmethod
    def scale_for(cls, sensitivity: Fraction, epsilon: float, delta: float | None) -> Fraction:
        assert delta is not None
        whole = int(np.ceil(float(sensitivity)))
        return exact(accounting.discrete_gaussian_sigma(epsilon, delta * (1 - SAMPLER_SHARE), whole))

    @cached_property
    def law(self) -> Law:
        return discrete.DiscreteGaussian(self.scale)

    def event(self) -> Event | None:
        if self.sensitivity is None:
            return None
        return Event.discrete_gaussian(float(self.scale), self.sensitivity).with_slack(self.law.tv_bound)


class Uniform(Additive):
    """Uniform on [-scale, scale]. It gives no guarantee: it is for augmentation and robustness."""

    name = "uniform"

    @cached_property
    def law(self) -> Law:
        return discrete.Uniform(max(1, round(self.scale)))


# A Gaussian's delta pays for the sampler's distance from the ideal law too; this share of it is set aside for that.
# A delta so small that the share does not suffice is refused.
SAMPLER_SHARE = 1e-3


def exact(number: int | float) -> Fraction:
    """The number as it is written: 0.1 is one tenth."""
    return Fraction(repr(number)) if isinstance(number, float) else Fraction(number)


def default_step(scale: Fraction) -> Fraction:
    """The power of two that puts `scale` between 2^18 and 2^19 steps. Depends on declared numbers only, never on data."""
    step = Fraction(1)
    while scale / step > STEPS_PER_SCALE:
        step *= 2
    while scale / step <= STEPS_PER_SCALE // 2:
        step /= 2
    return step
