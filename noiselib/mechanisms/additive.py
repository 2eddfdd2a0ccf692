"""Additive noise on the lattice: value + noise, both in whole lattice steps, so that the sum is exact.

The value was clipped to its bounds (or needs none, under a distance) and rounded to the lattice before; two neighbouring
records differ by at most `sensitivity` steps. The law's scale follows from that, in steps too.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from noiselib import accounting
from noiselib.accounting import Event
from noiselib.noise import discrete
from noiselib.noise.staircase import RoundedStaircase
from noiselib.noise.stream import Stream

STEPS_PER_SCALE = 2**19  # the default granularity puts a scale between 2^18 and 2^19 steps: one cipher block per value


class Law(Protocol):
    """What a mechanism asks of a law of `noiselib.noise.discrete`."""

    @property
    def tv_bound(self) -> float: ...
    @property
    def draws(self) -> int: ...
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
    def width(self) -> int:
        return 1

    @property
    def tv_bound(self) -> float:
        return self.law.tv_bound

    @property
    def draws(self) -> int:
        return self.law.draws

    def describe(self) -> dict[str, Any]:
        """The law in steps, exactly, and the variance in the column's unit squared."""
        return {
            "scale_steps": str(self.scale),
            "sensitivity_steps": self.sensitivity,
            "variance": self.variance,
            "epsilon": self.epsilon,
            "delta": self.delta,
        }

    @property
    def variance(self) -> float:
        """Of the published value, in the column's unit squared."""
        return self.law.variance * float(self.step) ** 2

    @property
    def mean_abs(self) -> float:
        """Expected absolute error of one published value, in the column's unit."""
        return self.law.mean_abs * float(self.step)


class Laplace(Additive):
    """Laplace noise: the continuous law, rounded to the lattice.

    Law: round(x + Z) on the lattice, Z with density exp(-|z|/b) / 2b, b = sensitivity / epsilon. As x lies on the
        lattice this is x + round(Z): P(0) = 1 - exp(-1/2b) and P(k) = exp(-|k|/b) sinh(1/2b) for other k, b in steps.
    Guarantee: epsilon, for values that differ by at most the sensitivity: rounding is post-processing of the continuous
        mechanism.
    Variance: 2 b^2, and step^2 / 12 of rounding, nearly.
    Estimator: the value itself, and so means and sums, unbiased; the data's variance is the published one less the noise's.
    Source: Dwork, McSherry, Nissim, Smith 2006; on a lattice because of Mironov 2012.
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


class Staircase(Additive):
    """Staircase noise: the continuous law of least expected error for pure epsilon, rounded to the lattice.

    Law: round(x + Z) on the lattice, Z with a density proportional to e^(-G epsilon) for G D <= |z| < (G + gamma) D and to
        e^(-(G+1) epsilon) for (G + gamma) D <= |z| < (G+1) D, G = 0, 1, ...; D = the sensitivity, gamma =
        1/(1 + e^(epsilon/2)), rounded so that gamma D is a whole number of half-steps, at least one.
    Guarantee: epsilon, for values that differ by at most the sensitivity, exactly, whatever gamma is; rounding is
        post-processing. Without an epsilon, the shape is that of epsilon 1 and D the scale, and nothing is claimed.
    Variance: by the exact sum over a period; expected absolute error D e^(epsilon/2) / (e^epsilon - 1), nearly, which is
        the least of all mechanisms that add noise of one law.
    Estimator: the value itself, and so means and sums, unbiased; the data's variance is the published one less the noise's.
    Source: Geng, Viswanath 2014, "The optimal mechanism in differential privacy"; gamma for the L1 error, theorem 1 ff.
    """

    name = "staircase"
    fractional = True

    @classmethod
    def scale_for(cls, sensitivity: Fraction, epsilon: float, delta: float | None) -> Fraction:
        """Laplace's, for reference."""
        return sensitivity / exact(epsilon)

    @cached_property
    def law(self) -> Law:
        epsilon = exact(self.epsilon or 1)
        return RoundedStaircase(max(1, round(self.scale * epsilon)), epsilon)

    def event(self) -> Event | None:
        if self.sensitivity is None or self.epsilon is None:
            return None
        return Event.pure_dp(self.epsilon).with_slack(self.law.tv_bound)


class DiscreteLaplace(Additive):
    """Discrete Laplace noise, the two-sided geometric law.

    Law: x + k, P(k) = tanh(1/2b) exp(-|k|/b) for whole k, b = sensitivity / epsilon in steps.
    Guarantee: epsilon, for values that differ by at most the sensitivity.
    Variance: 2 q / (1 - q)^2 steps^2, q = exp(-1/b).
    Estimator: the value itself, and so means and sums, unbiased; the data's variance is the published one less the noise's.
    Source: Ghosh, Roughgarden, Sundararajan 2009, "Universally utility-maximizing privacy mechanisms".
    """

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
    """Gaussian noise: the continuous law with the analytic calibration, rounded to the lattice.

    Law: round(x + Z) on the lattice, Z normal with deviation sigma.
    Guarantee: (epsilon, delta), for values that differ by at most the sensitivity: sigma is the least for which
        Phi(s/2sigma - epsilon sigma/s) - e^epsilon Phi(-s/2sigma - epsilon sigma/s) <= delta, s the sensitivity.
    Variance: sigma^2, and step^2 / 12 of rounding, nearly.
    Estimator: the value itself, and so means and sums, unbiased; the data's variance is the published one less the noise's.
    Source: Balle and Wang 2018, "Improving the Gaussian mechanism for differential privacy", theorem 8.
    """

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
    """Discrete Gaussian noise.

    Law: x + k, P(k) proportional to exp(-k^2 / 2 sigma^2) for whole k.
    Guarantee: (epsilon, delta), for values that differ by at most the sensitivity: sigma by the law's own delta, summed term
        by term (theorem 7); from 2048 steps on by a bound through the continuous law, within 0.1%.
    Variance: at most sigma^2 steps^2, and nearly that from sigma = 1 on.
    Estimator: the value itself, and so means and sums, unbiased; the data's variance is the published one less the noise's.
    Source: Canonne, Kamath, Steinke 2020, "The discrete Gaussian for differential privacy".
    """

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
    """Uniform noise, for augmentation and robustness.

    Law: x + k, k uniform on the whole steps from -scale to scale.
    Guarantee: none.
    Variance: h (h + 1) / 3 steps^2, h the scale in steps.
    Estimator: the value itself, and so means and sums, unbiased; the data's variance is the published one less the noise's.
    Source: Lemire 2019, "Fast random integer generation in an interval", for the sampler.
    """

    name = "uniform"

    @cached_property
    def law(self) -> Law:
        steps = round(self.scale)
        if abs(steps - self.scale) > self.scale / 100:
            raise ValueError(
                f"scale {float(self.scale * self.step):g}: expected a multiple of {float(self.step):g}, the lattice's step"
            )
        return discrete.Uniform(steps)


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
