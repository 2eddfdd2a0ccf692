"""Renyi differential privacy (Mironov 2017): a divergence per order alpha, which add over events.

Laplace and discrete Laplace, randomized response: exact. Pure mechanisms: as binary randomized response. Discrete Gaussian:
alpha s^2 / 2 sigma^2 (Canonne, Kamath and Steinke 2020), as the continuous one. What comes from sampling is in
`sampled_divergences`. To (epsilon, delta) by CKS 2020, proposition 12, as dp_accounting has it.

What is known about the moment E[(P/Q)^alpha] is kept as its logarithm, (alpha - 1) D; it is computed from the moment less
1, of terms of one sign, so that tiny losses do not drown in rounding.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from scipy import special

from noiselib.accounting.deltas import Floats
from noiselib.accounting.event import REPLACE_ONE, Event
from noiselib.accounting.law import Law, Parts

# dp_accounting's own orders, on which published figures rest, up to 63; beyond, for tiny losses, steps of 10%.
PUBLISHED_ORDERS = np.array([1 + x / 10 for x in range(1, 100)] + list(range(11, 64)) + [128, 256, 512, 1024])
ORDERS = np.union1d(PUBLISHED_ORDERS, 64 * 1.1 ** np.arange(180))


def law(parts: Parts) -> Law:
    """What the best order says of these events together."""
    from dp_accounting.rdp.rdp_privacy_accountant import compute_delta, compute_epsilon

    total = np.zeros(len(ORDERS))
    for event, count in parts:
        total += count * divergences(event.kind, event.parameters, event.rate, event.relation)
    return Law(
        lambda epsilon: float(compute_delta(ORDERS, total, epsilon)[0]),
        lambda delta: float(compute_epsilon(ORDERS, total, delta)[0]),
    )


@lru_cache(maxsize=512)
def divergences(kind: str, parameters: tuple[float, ...], rate: float, relation: str) -> Floats:
    """The Renyi divergences of an event at all `ORDERS`, float (n,), the larger of both directions; inf where unknown."""
    event = Event(kind, parameters)
    if rate == 1:
        return np.asarray(log_moments(event, ORDERS) / (ORDERS - 1), np.float64)
    found = np.full(len(ORDERS), math.inf)
    published = np.isin(ORDERS, PUBLISHED_ORDERS)
    moments = sampled_log_moments(event, rate, ORDERS[published])
    if relation == REPLACE_ONE:
        moments = _log_one_plus(math.log(2) + _log_less_one(moments))
    found[published] = moments / (ORDERS[published] - 1)
    return found


# ---- a record that takes part for certain ----------------------------------------------------------------------------


def log_moments(event: Event, orders: Floats) -> Floats:
    """ln E_Q[(P/Q)^alpha] at orders > 1, float (n,), of the event's pair unsampled."""
    first, *rest = event.parameters
    if event.kind in ("gaussian", "discrete_gaussian"):
        precision = (rest[0] if rest else 1.0) / first
        return np.asarray(orders * (orders - 1) * precision**2 / 2, np.float64)
    if event.kind in ("laplace", "discrete_laplace"):
        return _laplace_log_moments(event.unsampled_epsilon, 1 / first if rest else 0.0, orders)
    return _response_log_moments(first, rest[0] if rest else 2, orders)


def _response_log_moments(epsilon: float, categories: float, orders: Floats) -> Floats:
    """The moment less 1 is (e^(alpha eps) - 1) (1 - e^(-(alpha-1) eps)) / (e^eps + k - 1)."""
    up = orders * epsilon
    factors = up + np.log(-np.expm1(-up)) + np.log(-np.expm1((1 - orders) * epsilon))
    return _log_one_plus(factors - np.logaddexp(epsilon, math.log(categories - 1)))


def _laplace_log_moments(epsilon: float, step: float, orders: Floats) -> Floats:
    """Sum the two tails and the middle, geometric each; `step` is 1/scale, and its limit 0 gives the continuous law.

    The moment is (A (1 + w r) + B (1 - w)) / (1 + e^-step), with A = e^((alpha-1) eps), B = e^(-alpha eps),
    r = e^(-(2 alpha - 1) step), w = (1 - e^-step) / (1 - r). With step 0 it is Mironov's proposition 6.
    """
    odd = 2 * orders - 1
    ratio = np.exp(-odd * step)
    weight = math.expm1(-step) / np.expm1(-odd * step) if step else 1 / odd
    whole, up, down = 1 + math.exp(-step), (orders - 1) * epsilon, -orders * epsilon
    near = np.minimum(up, 1.0)  # where all of it is of the size of epsilon, and cancels to epsilon squared
    small = np.log1p((np.expm1(near) * (1 + weight * ratio) + np.expm1(down) * (1 - weight)) / whole)
    with np.errstate(divide="ignore"):
        large = np.logaddexp(up + np.log1p(weight * ratio), down + np.log(1 - weight)) - math.log(whole)
    # half a unit in the last place of each term, many times over
    return np.where(up < 1, np.maximum(small, 0.0), large) + 2.0**-48 * orders * epsilon


# ---- a record that takes part with probability q ---------------------------------------------------------------------


def sampled_log_moments(event: Event, rate: float, orders: Floats) -> Floats:
    """ln E_Q[((1-q) + q P/Q)^alpha], float (n,): of removing a record that took part with probability q < 1.

    At a whole order it is a binomial sum of the unsampled moments; less 1, a sum of positive terms. Between whole orders the
    logarithm is convex, so a chord bounds it; for Gaussians dp_accounting has the value itself (Mironov, Talwar and Zhang
    2019, section 3.3). Their theorem 5 has adding never cost more: exchanging P and Q is a symmetry of the outcomes here.
    Replacing costs at most both: in E[(P/Q)^alpha] - 1 = alpha (alpha - 1) (integral over t > 1 of t^(alpha-2) H_t(P, Q) +
    t^(-alpha-1) H_t(Q, P)), by the curves in `sampling` the first part is a removal's, the second at most an addition's.
    """
    most = int(orders.max())
    whole = np.arange(2, most + 1, dtype=np.float64)
    terms = _log_less_one(log_moments(event, whole))
    needed = np.union1d(np.floor(orders), np.ceil(orders)).astype(int)
    at = {order: _binomial(order, rate, terms) for order in needed if order > 1} | {1: 0.0}
    found = np.empty(len(orders))
    for i, order in enumerate(orders):
        low, part = int(order), order - int(order)
        found[i] = (1 - part) * at[low] + (part * at[low + 1] if part else 0.0)
    if event.kind == "gaussian":
        fractional = orders != np.floor(orders)
        exact = _fractional_gaussian(event.parameters[0], rate, orders[fractional])
        found[fractional] = np.minimum(found[fractional], exact)
    return found


def _binomial(order: int, rate: float, terms: Floats) -> float:
    """ln of 1 + sum over j >= 2 of C(order, j) (1-q)^(order-j) q^j (moment_j - 1); `terms` are logarithms from j = 2 on."""
    j = np.arange(2, order + 1)
    choose = special.gammaln(order + 1) - special.gammaln(j + 1) - special.gammaln(order - j + 1)
    logs = choose + (order - j) * math.log1p(-rate) + j * math.log(rate) + terms[: order - 1]
    return float(_log_one_plus(special.logsumexp(logs)))


def _fractional_gaussian(noise_multiplier: float, rate: float, orders: Floats) -> Floats:
    """dp_accounting's, with room for its rounding: it adds some hundred terms of the size of 1."""
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant(orders)
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(noise_multiplier)))
    return np.asarray((orders - 1) * accountant.rdp + 1e-13, np.float64)


def _log_less_one(logs: Floats) -> Floats:
    """ln(e^x - 1), x > 0."""
    with np.errstate(divide="ignore"):
        return logs + np.log(-np.expm1(-logs))


def _log_one_plus(logs: Floats) -> Floats:
    """ln(1 + e^x)."""
    return np.asarray(np.logaddexp(0.0, logs), np.float64)
