"""Poisson sampling: what a symmetric privacy curve becomes where each record took part with probability q.

Let (P, Q) be the pair around a record and without it, delta its curve (symmetric, so also the curve of (Q, P)), t = e^epsilon.

    removing a record:   H_t((1-q)Q + qP, Q) = q delta(ln((t - 1 + q) / q)); 1 - t where t <= 1 - q
    adding one:          H_t(Q, (1-q)Q + qP) = (1 - t(1-q))_+ delta(ln(qt / (1 - t(1-q)))) for t >= 1, never more than the former
    replacing one:       H_t((1-q)R + qP, (1-q)R + qP') <= q delta(ln((t - 1 + q) / q)) for t >= 1, with one event's curve for
                         P against P' and for P against R, the law without the record

The first two are identities, and dominate every mechanism that (P, Q) dominates (Zhu, Dong and Wang 2022, theorem 11). The
third is advanced joint convexity: with beta = t / t', t' = 1 + (t - 1) / q, the divergence is q H_t'(P, (1-beta)R + beta P')
<= q ((1-beta) H_t'(P, R) + beta H_t'(P, P')) (Balle, Barthe and Gaboardi 2018, theorem 2). For t < 1, H_t(P, Q) = 1 - t +
t H_1/t(Q, P) turns each pair around.
"""

from __future__ import annotations

import math

import numpy as np

from noiselib.accounting.deltas import Curve, Floats

LARGEST_EXPONENT = 700.0


def amplified(epsilon: float, rate: float) -> float:
    """ln(1 + q (e^epsilon - 1)): the loss that a loss of epsilon becomes; epsilon may be negative, or inf."""
    if epsilon > LARGEST_EXPONENT:
        return epsilon + math.log(rate) if rate < 1 else epsilon
    return math.log1p(rate * math.expm1(epsilon)) if rate < 1 else epsilon


def amplifies(epsilons: Floats, rate: float) -> Floats:
    """ln((t - 1 + q) / q), the inverse of `amplified`, for epsilons >= 0."""
    if rate == 1:
        return epsilons
    small = np.log1p(np.expm1(np.minimum(epsilons, 1.0)) / rate)
    large = epsilons - math.log(rate) + np.log1p((rate - 1) * np.exp(-np.maximum(epsilons, 1.0)))
    return np.where(epsilons < 1, small, large)


def replacing(curve: Curve, rate: float) -> Curve:
    """The curve of a replacement, also for epsilons below 0."""

    def both(epsilons: Floats) -> Floats:
        above = rate * curve(amplifies(np.abs(epsilons), rate))
        return _turned(epsilons, above, above)

    return both


def removing(curve: Curve, rate: float) -> Curve:
    """The curve of a removal, also for epsilons below 0."""
    return lambda epsilons: _turned(epsilons, _removed(curve, rate, epsilons), _added(curve, rate, -epsilons))


def adding(curve: Curve, rate: float) -> Curve:
    """The curve of an addition, also for epsilons below 0."""
    return lambda epsilons: _turned(epsilons, _added(curve, rate, epsilons), _removed(curve, rate, -epsilons))


def _turned(epsilons: Floats, above: Floats, below: Floats) -> Floats:
    """`above` where epsilon >= 0, and where it is less, what `below`, the other direction at -epsilon, says."""
    least = np.minimum(epsilons, 0.0)
    return np.clip(np.where(epsilons >= 0, above, -np.expm1(least) + np.exp(least) * below), 0.0, 1.0)


def _removed(curve: Curve, rate: float, epsilons: Floats) -> Floats:
    return rate * curve(amplifies(np.maximum(epsilons, 0.0), rate))


def _added(curve: Curve, rate: float, epsilons: Floats) -> Floats:
    above = np.clip(epsilons, 0.0, LARGEST_EXPONENT)
    left = np.maximum(0.0, rate - np.expm1(above) * (1 - rate))  # 1 - t(1-q)
    with np.errstate(divide="ignore"):
        return np.where(left > 0, left * curve(np.where(left > 0, above + np.log(rate / left), 0.0)), 0.0)
