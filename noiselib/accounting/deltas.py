"""The exact privacy curves: the smallest delta at every epsilon, of each law by itself.

A curve maps an array of epsilons >= 0, float (n,), to deltas in [0, 1]. It is the hockey-stick divergence of the law
around a value and around its neighbour. All pairs here are symmetric: exchanging the two gives the same curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from scipy import special

from noiselib.errors import SpecError

Floats = NDArray[np.float64]
Curve = Callable[[Floats], Floats]

# Beyond this many lattice steps a discrete Gaussian is bounded by the continuous one (see as_continuous);
# below it, sums over the lattice are cheap and exact.
WIDE_SIGMA = 2048
# Where the discrete Gaussian's tails are cut in that comparison; what lies beyond goes to delta: 4e-22.
TAIL_SIGMAS = 10.0


def gaussian_delta(sigma: float, epsilon: float, sensitivity: float = 1.0) -> float:
    """The smallest delta of Gaussian noise: (epsilon, delta)-DP holds for it and for nothing less.

    Balle and Wang 2018, theorem 8: Phi(-x) - e^epsilon Phi(-y), with x, y = epsilon sigma / s -+ s / (2 sigma).

    Args: sigma > 0 and sensitivity s > 0 in one unit; epsilon >= 0. Returns delta in [0, 1].
    """
    check_positive(sigma=sigma, sensitivity=sensitivity)
    centre, half = epsilon * sigma / sensitivity, sensitivity / (2 * sigma)
    x, y = centre - half, centre + half
    if x > 0:
        # As y^2/2 = x^2/2 + epsilon, the common factor comes out and the tails do not cancel.
        scaled = special.erfcx(x / math.sqrt(2)) - special.erfcx(y / math.sqrt(2))
        return float(max(0.0, 0.5 * math.exp(-x * x / 2) * scaled))
    return float(max(0.0, special.ndtr(-x) - math.exp(epsilon + special.log_ndtr(-y))))


def gaussian_curve(epsilons: Floats, noise_multiplier: float) -> Floats:
    """`gaussian_delta` at many epsilons."""
    centre, half = epsilons * noise_multiplier, 1 / (2 * noise_multiplier)
    x, y = centre - half, centre + half
    near, far = np.minimum(x, 0), np.maximum(x, 0)
    scaled = special.erfcx(far / math.sqrt(2)) - special.erfcx((far + 2 * half) / math.sqrt(2))
    beyond = 0.5 * np.exp(-far * far / 2) * scaled
    # the exponent is at most 0 where x <= 0; elsewhere it is not used
    within = special.ndtr(-near) - np.exp(np.minimum(0, epsilons + special.log_ndtr(-y)))
    return np.asarray(np.maximum(0.0, np.where(x > 0, beyond, within)), np.float64)


def discrete_gaussian_delta(sigma: float, epsilon: float, sensitivity: int = 1) -> float:
    """The smallest delta of discrete Gaussian noise; beyond sigma = 2048 a bound a few per cent above.

    CKS 2020, theorem 7: the sum over k of (P[k] - e^epsilon P[k + s])_+, taken here term by term.

    Args: sigma > 0 and sensitivity s >= 1 in lattice steps; epsilon >= 0. Returns delta in [0, 1].
    """
    check_positive(sigma=sigma, sensitivity=sensitivity)
    if sigma > WIDE_SIGMA:
        up, down, tail = as_continuous(sigma, sensitivity)
        continuous = shifted(lambda e: gaussian_delta(sigma, e, sensitivity), epsilon - up - down)
        return min(1.0, math.exp(up) * continuous + tail)
    edge = epsilon * sigma**2 / sensitivity - sensitivity / 2
    first = max(math.floor(edge), -math.ceil(40 * sigma))
    # Terms fall by exp(-(12 sigma)^2 / 2 sigma^2) = 5e-32 over the range, and those left out even faster.
    k = np.arange(first, max(first, 0) + math.ceil(12 * sigma) + 2, dtype=np.float64)
    loss = sensitivity * (k + sensitivity / 2) / sigma**2
    terms = np.exp(-0.5 * (k / sigma) ** 2) * -np.expm1(np.minimum(epsilon - loss, 0.0))
    return float(min(1.0, np.sum(terms) / _discrete_gaussian_mass(sigma)))


def discrete_gaussian_curve(epsilons: Floats, sigma: float, sensitivity: int) -> Floats:
    """`discrete_gaussian_delta` at many epsilons, for sigma <= 2048 and s <= 20 sigma: P[K >= k] - e^epsilon P[K >= k + s].

    k is the first point at which the loss is above epsilon. Differences of sums: right to some 1e-16, absolutely.
    """
    reach = math.ceil(40 * sigma)
    k = np.arange(-reach, reach + 1, dtype=np.float64)
    weights = np.exp(-0.5 * (k / sigma) ** 2) / _discrete_gaussian_mass(sigma)
    above = np.append(np.cumsum(weights[::-1])[::-1], 0.0)
    first = np.floor(epsilons * sigma**2 / sensitivity - sensitivity / 2) + 1 + reach
    upper, lower = (above[np.clip(first + shift, 0, len(k)).astype(np.int64)] for shift in (0, sensitivity))
    with np.errstate(divide="ignore"):
        delta = upper - np.exp(np.minimum(epsilons + np.log(lower), 0.0))
    return np.asarray(np.clip(delta, 0.0, 1.0), np.float64)


def _discrete_gaussian_mass(sigma: float) -> float:
    k = np.arange(1, math.ceil(12 * sigma) + 2, dtype=np.float64)
    return float(1 + 2 * np.sum(np.exp(-0.5 * (k / sigma) ** 2)))


def as_continuous(sigma: float, sensitivity: float) -> tuple[float, float, float]:
    """(up, down, tail) with delta(e) <= exp(up) * continuous_delta(e - up - down) + tail, for a discrete Gaussian.

    Rounding the continuous Gaussian to integers is post-processing, and gives k the probability Q[k] =
    P[k] * I(k) * Z / (sigma sqrt(2 pi)), where I(k) is the integral of exp(-t^2 / 2 sigma^2) cosh(k t / sigma^2)
    over |t| <= 1/2, and Z / (sigma sqrt(2 pi)) is 1 up to exp(-2 pi^2 sigma^2) (Poisson summation; CKS, fact 19).
    By Jensen I(k) >= exp(-1 / 24 sigma^2); as sinh(x) / x <= exp(x^2 / 6), I(k) <= exp(k^2 / 24 sigma^4).
    So P <= exp(up) Q and, for |k| <= K sigma, P shifted by s is at least exp(-down) times Q shifted; beyond K sigma
    lies at most 2 exp(-K^2 / 2) of the mass. Unlike a bound in total variation this does not grow with e^epsilon.
    The inequalities hold point by point, so they hold for mixtures too, as sampling makes them.
    """
    up = 1 / (24 * sigma**2)
    down = (TAIL_SIGMAS + sensitivity / sigma) ** 2 * up
    return up, down, 2 * math.exp(-(TAIL_SIGMAS**2) / 2)


def discrete_laplace_delta(scale: float, epsilon: float, sensitivity: int = 1) -> float:
    """The smallest delta of discrete Laplace noise, P[k] proportional to exp(-|k| / scale).

    P[X >= m] - e^epsilon P[X >= m + s], where m is the first k at which the loss is above epsilon.

    Args: scale > 0 and sensitivity s >= 1 in lattice steps; epsilon >= 0. Returns delta in [0, 1].
    """
    check_positive(scale=scale, sensitivity=sensitivity)
    return float(discrete_laplace_curve(np.array(epsilon), scale, sensitivity))


def discrete_laplace_curve(epsilons: Floats, scale: float, sensitivity: int) -> Floats:
    """`discrete_laplace_delta` at many epsilons."""
    within = np.minimum(epsilons, sensitivity / scale)  # there and beyond it is 0
    first = np.floor((within * scale - sensitivity) / 2) + 1  # loss(k) = (2k + s) / scale for -s < k < 0
    one = 1 + math.exp(-1 / scale)  # P[X >= k] = exp(-k / scale) / one for k >= 0, and for k < 0 by symmetry
    upper = 1 - np.exp(np.minimum(first - 1, 0) / scale) / one
    delta = np.maximum(0.0, upper - np.exp(within - (first + sensitivity) / scale) / one)
    return np.where(epsilons >= sensitivity / scale, 0.0, delta)


def laplace_curve(epsilons: Floats, noise_multiplier: float) -> Floats:
    """1 - exp((epsilon - 1/b) / 2), where that is above 0."""
    return -np.expm1(np.minimum(0.0, (epsilons - 1 / noise_multiplier) / 2))


def randomized_response_curve(epsilons: Floats, parameter: float, categories: int) -> Floats:
    """(e^parameter - e^epsilon)_+ / (e^parameter + k - 1), k categories."""
    above = -np.expm1(np.minimum(epsilons - parameter, 0.0))
    return above / (1 + (categories - 1) * math.exp(-parameter))


def shifted(delta_of: Callable[[float], float], epsilon: float) -> float:
    """A bound on delta at an epsilon that may be negative: there the hockey-stick is at most 1 - e^epsilon higher."""
    return delta_of(max(epsilon, 0.0)) + max(0.0, -math.expm1(epsilon))


CURVES: dict[str, Callable[..., Floats]] = {
    "laplace": laplace_curve,
    "gaussian": gaussian_curve,
    "discrete_laplace": discrete_laplace_curve,
    "discrete_gaussian": discrete_gaussian_curve,
    "randomized_response": randomized_response_curve,
    "pure_dp": lambda epsilons, parameter: randomized_response_curve(epsilons, parameter, 2),
}


def check_positive(**positive: float | Fraction) -> None:
    """Raises SpecError naming the argument that is not finite and above 0."""
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise SpecError(f"Expected a finite {name} > 0, got {name}={value!r}")


def check_delta(delta: float) -> None:
    """Raises SpecError unless 0 < delta < 1."""
    if not 0 < delta < 1:
        raise SpecError(f"Expected delta in (0, 1), got delta={delta!r}")
