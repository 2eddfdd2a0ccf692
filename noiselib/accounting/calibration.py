"""The noise that a guarantee asks for: every scale is an upper bound on the scale needed, by at most 0.1%."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from noiselib.accounting.charge import Accountant, Charge
from noiselib.accounting.deltas import check_delta, check_positive, discrete_gaussian_delta, gaussian_delta
from noiselib.accounting.search import smallest_decimal
from noiselib.errors import SpecError

# No delta below this is calibrated for, so that the tails that as_continuous cuts never matter.
_SMALLEST_DELTA = 1e-20


def smallest_noise(
    charge_of: Callable[[float], Charge], epsilon: float, delta: float, accountant: Accountant = "pld"
) -> float:
    """The smallest noise of 6 significant digits for which what it costs is (epsilon, delta)-DP, by that accountant.

    charge_of: what noise of that size costs; it must not cost more to use more. For instance DP-SGD's noise multiplier:
    `lambda z: Charge.of(Event.gaussian(z).under("add_or_remove_one").sampled(0.01)).times(1000)`.

    Args: epsilon > 0; delta in (0, 1), above the samplers' slack. Raises SpecError out of these ranges, or where no noise
    is enough.
    """
    check_positive(epsilon=epsilon)
    check_delta(delta)
    most = charge_of(1e30)
    if not most.epsilon(delta, accountant) <= epsilon:
        raise SpecError(f"Expected a delta above the slack, {most.slack:g}, got delta={delta!r}: no noise is enough")
    return smallest_decimal(lambda noise: charge_of(noise).epsilon(delta, accountant) <= epsilon)


def gaussian_sigma(epsilon: float, delta: float, sensitivity: float = 1.0) -> float:
    """The smallest sigma of 6 significant digits whose Gaussian noise is (epsilon, delta)-DP (Balle and Wang 2018).

    Never below the true sigma, at most 0.001% above it, and the same number on every machine.

    Args: epsilon > 0; delta in (0, 1); sensitivity > 0. Returns sigma in the unit of the sensitivity.
    """
    check_positive(epsilon=epsilon, sensitivity=sensitivity)
    check_delta(delta)
    return smallest_decimal(lambda sigma: gaussian_delta(sigma, epsilon, sensitivity) <= delta)


def discrete_gaussian_sigma(epsilon: float, delta: float, sensitivity: int = 1) -> float:
    """The smallest sigma of 6 significant digits whose discrete Gaussian noise is (epsilon, delta)-DP.

    Inverts `discrete_gaussian_delta`; never below the true sigma and at most 0.1% above it. (On lattices of a few
    steps delta is not quite monotone in sigma: there the sigma is sufficient, and smallest only locally.)

    Args: epsilon > 0; delta in [1e-20, 1); sensitivity >= 1. Returns sigma in lattice steps.
    """
    check_positive(epsilon=epsilon, sensitivity=sensitivity)
    if not _SMALLEST_DELTA <= delta < 1:
        raise SpecError(f"Expected delta in [{_SMALLEST_DELTA:g}, 1), got delta={delta!r}")
    return smallest_decimal(lambda sigma: discrete_gaussian_delta(sigma, epsilon, sensitivity) <= delta)


def discrete_laplace_scale(epsilon: float | Fraction, sensitivity: int = 1) -> Fraction:
    """The scale in lattice steps at which discrete Laplace noise is epsilon-DP, as a fraction: sensitivity / epsilon.

    A float epsilon is read as the decimal it prints as: 0.1 is one tenth.
    """
    check_positive(epsilon=epsilon, sensitivity=sensitivity)
    exact = epsilon if isinstance(epsilon, Fraction) else Fraction(repr(float(epsilon)))
    return Fraction(int(sensitivity)) / exact
