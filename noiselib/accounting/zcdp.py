"""Zero-concentrated differential privacy: one number rho per event, which add.

rho of a Gaussian, discrete or not, is s^2 / (2 sigma^2) (Canonne, Kamath and Steinke 2020, theorem 4), of whatever is
epsilon-DP epsilon^2 / 2 (Bun and Steinke 2016, proposition 1.4). Sampling makes a pure event's epsilon smaller, and its rho.
A Gaussian's rho it leaves as it is: a bound, as divergences are convex, but zCDP cannot say that sampling helped.
"""

from __future__ import annotations

import math

from noiselib.accounting.deltas import check_delta
from noiselib.accounting.event import Event
from noiselib.accounting.law import Law, Parts
from noiselib.errors import SpecError


def law(parts: Parts) -> Law:
    """What rho says of these events together."""
    total = math.fsum(count * rho(event) for event, count in parts)
    return Law(lambda epsilon: zcdp_delta(total, epsilon), lambda delta: zcdp_epsilon(total, delta))


def rho(event: Event) -> float:
    """The rho for which the event is rho-zCDP; finite, > 0."""
    if event.pure:
        return event.pure_epsilon**2 / 2
    first, *sensitivity = event.parameters
    return ((sensitivity[0] if sensitivity else 1.0) / first) ** 2 / 2


def zcdp_epsilon(rho: float, delta: float) -> float:
    """The epsilon of rho-zCDP at `delta`, by the tight conversion (CKS 2020, corollary 13), minimized over alpha.

    Args: rho >= 0; delta in (0, 1). Returns epsilon >= 0.
    """
    if delta == 1:
        return 0.0
    check_delta(delta)
    _check_rho(rho)
    if rho == 0:
        return 0.0

    def epsilon(log_excess: float) -> float:
        excess = math.exp(log_excess)  # alpha - 1
        alpha = 1 + excess
        return alpha * rho + math.log(excess / alpha) - (math.log(delta) + math.log(alpha)) / excess

    return max(0.0, epsilon(_minimum(epsilon)))


def zcdp_delta(rho: float, epsilon: float) -> float:
    """The delta of rho-zCDP at `epsilon`, by the same conversion (CKS 2020, corollary 13).

    Args: rho >= 0; epsilon >= 0. Returns delta in [0, 1].
    """
    _check_rho(rho)
    if rho == 0:
        return 0.0

    def log_delta(log_excess: float) -> float:
        excess = math.exp(log_excess)
        alpha = 1 + excess
        return excess * (alpha * rho - epsilon + math.log(excess / alpha)) - math.log(alpha)

    return math.exp(min(0.0, log_delta(_minimum(log_delta))))


def _minimum(function: object) -> float:
    """About where it is least. Any alpha gives a valid bound, so an inexact minimum is only a little worse."""
    from scipy.optimize import minimize_scalar  # here, for it is slow to import

    return float(minimize_scalar(function, bounds=(-30.0, 30.0), method="bounded", options={"xatol": 1e-10}).x)


def _check_rho(rho: float) -> None:
    if not 0 <= rho < math.inf:
        raise SpecError(f"Expected a finite rho >= 0, got rho={rho!r}")
