"""Accounting against brute force: every number is compared with a sum over the noise's own probabilities."""

import itertools
import json
import math
from collections import defaultdict
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats

from noiselib.accounting import (
    Charge,
    Event,
    deltas,
    discrete_gaussian_delta,
    discrete_gaussian_sigma,
    discrete_laplace_delta,
    discrete_laplace_scale,
    distributions,
    gaussian_delta,
    gaussian_sigma,
    slack,
    zcdp_epsilon,
)
from noiselib.accounting import charge as charges
from noiselib.accounting.search import inverse
from noiselib.errors import SpecError

EPSILONS = (0.0, 0.1, 0.5, 1.0, 2.0, 3.9)
EVENTS = (
    Event.laplace(2.0),
    Event.gaussian(1.5),
    Event.discrete_laplace(4.0, 3),
    Event.discrete_gaussian(3.0, 2),
    Event.randomized_response(0.7, 5),
)


def pair(event: Event) -> tuple[np.ndarray, np.ndarray]:
    """The noise's probabilities around a value and around the one that replaces it, `sensitivity` away."""
    if event.kind == "randomized_response":
        epsilon, categories = event.parameters
        likely, other = math.exp(epsilon), np.ones(int(categories) - 2)
        total = likely + categories - 1
        return np.array([likely, 1, *other]) / total, np.array([1, likely, *other]) / total
    if event.kind in ("discrete_laplace", "discrete_gaussian"):
        scale, sensitivity = event.parameters
        k = np.arange(-int(60 * scale) - sensitivity, int(60 * scale) + sensitivity + 1)
        power = 1 if event.kind == "discrete_laplace" else 2
        p, q = (np.exp(-(np.abs((k - shift) / scale) ** power) / power) for shift in (0, sensitivity))
        return p / p.sum(), p.sum() and q / q.sum()
    noise = (
        stats.laplace(scale=event.parameters[0]) if event.kind == "laplace" else stats.norm(scale=event.parameters[0])
    )
    edges = np.linspace(-12 * event.parameters[0], 12 * event.parameters[0] + 1, 40_001)
    p, q = (np.diff(noise.cdf(edges - shift)) for shift in (0, 1))
    return p, q


def hockey_stick(p: np.ndarray, q: np.ndarray, epsilon: float) -> float:
    return float(np.maximum(p - math.exp(epsilon) * q, 0).sum())


def losses(event: Event) -> dict[float, float]:
    p, q = pair(event)
    found: defaultdict[float, float] = defaultdict(float)
    for a, b in zip(p, q, strict=True):
        if a > 1e-40 and b > 0:
            found[round(math.log(a / b), 9)] += a
    return found


def composed_delta(events: list[Event], epsilon: float) -> float:
    """Every combination of the events' outcomes, with its loss and its probability."""
    total = {0.0: 1.0}
    for event in events:
        following: defaultdict[float, float] = defaultdict(float)
        for (a, p), (b, q) in itertools.product(total.items(), losses(event).items()):
            following[round(a + b, 9)] += p * q
        total = following
    return sum(p * -math.expm1(epsilon - loss) for loss, p in total.items() if loss > epsilon)


# -- events and charges are values


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_json_round_trip(event):
    charge = Charge.of(event.with_slack(2**-50), event, event).times(3)
    assert Charge.from_json(json.loads(json.dumps(charge.to_json()))) == charge
    assert Event.from_json(json.loads(json.dumps(event.to_json()))) == event


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"kind": "cauchy", "slack": 0.0},
        {"kind": "laplace", "slack": 0.0},
        {"kind": "laplace", "noise_multiplier": 1.0},
        {"kind": "laplace", "noise_multiplier": 1.0, "slack": 0.0, "sigma": 1.0},
        {"kind": "laplace", "noise_multiplier": -1.0, "slack": 0.0},
        {"kind": "laplace", "noise_multiplier": math.inf, "slack": 0.0},
        {"kind": "laplace", "noise_multiplier": "1", "slack": 0.0},
        {"kind": "laplace", "noise_multiplier": 1.0, "slack": 2.0},
        {"kind": "discrete_gaussian", "sigma": 1.0, "sensitivity": 1.5, "slack": 0.0},
        {"kind": "randomized_response", "epsilon": 1.0, "categories": 1, "slack": 0.0},
        {"kind": ["laplace"], "slack": 0.0},
    ],
)
def test_json_that_is_no_event(data):
    with pytest.raises(SpecError, match="Expected"):
        Event.from_json(data)


def test_charges_are_multisets():
    a, b = Event.laplace(1.0), Event.gaussian(2.0)
    assert Charge.of(a, b, a) == Charge.of(a, a, b) == Charge.of(a).times(2) + Charge.of(b)
    assert hash(Charge.of(a, b)) == hash(Charge.of(b, a))
    assert Charge.of(a) <= Charge.of(a, b)
    assert not Charge.of(a, a) <= Charge.of(a, b)
    assert Charge.of(a).times(0) == Charge()
    assert not Charge()
    assert (Charge().epsilon(0.0), Charge().delta(0.0), Charge().pure) == (0.0, 0.0, True)


def test_pure_charges():
    charge = Charge.of(Event.laplace(2.0), Event.discrete_laplace(10.0, 3), Event.randomized_response(0.2, 4))
    assert charge.pure
    assert charge.pure_epsilon == pytest.approx(1.0)
    assert charge.epsilon(0.0) == charge.pure_epsilon
    assert charge.delta(1.0 + 1e-9) == 0.0
    owing = charge + Charge.of(Event.laplace(4.0, slack=1e-9))
    assert owing.epsilon(1e-10) == math.inf  # the samplers alone owe more
    assert owing.delta(owing.pure_epsilon) == owing.slack == 1e-9
    mixed = charge + Charge.of(Event.gaussian(3.0, slack=1e-9))
    assert not mixed.pure
    assert mixed.epsilon(1e-9) == math.inf
    assert mixed.epsilon(1e-8) < math.inf


# -- exact deltas


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_delta_of_one_event_is_that_of_replacing_one_value(event):
    p, q = pair(event)
    for epsilon in EPSILONS:
        truth = hockey_stick(p, q, epsilon)
        assert truth == pytest.approx(hockey_stick(q, p, epsilon), abs=1e-9)
        assert event.delta(epsilon) == pytest.approx(truth, rel=1e-4, abs=1e-9)
        assert Charge.of(event).delta(epsilon) == event.delta(epsilon)


@pytest.mark.parametrize(("scale", "sensitivity"), [(0.3, 1), (1.0, 1), (2.0, 4), (2.0, 5), (7.5, 1), (5.0, 60)])
def test_discrete_laplace_delta(scale, sensitivity):
    p, q = pair(Event.discrete_laplace(scale, sensitivity))
    for epsilon in EPSILONS:
        assert discrete_laplace_delta(scale, epsilon, sensitivity) == pytest.approx(
            hockey_stick(p, q, epsilon), abs=1e-13
        )


@pytest.mark.parametrize(("sigma", "sensitivity"), [(0.3, 1), (1.0, 1), (2.0, 4), (7.5, 1), (5.0, 60), (40.0, 7)])
def test_discrete_gaussian_delta(sigma, sensitivity):
    p, q = pair(Event.discrete_gaussian(sigma, sensitivity))
    for epsilon in EPSILONS:
        truth = hockey_stick(p, q, epsilon)
        assert discrete_gaussian_delta(sigma, epsilon, sensitivity) == pytest.approx(truth, rel=1e-9, abs=1e-14)


@pytest.mark.parametrize(("sensitivity", "epsilon"), [(1, 1e-3), (50, 0.05), (2500, 1.0), (2500, 4.0), (20_000, 60.0)])
def test_wide_discrete_gaussian_is_bounded_by_the_continuous_one(monkeypatch, sensitivity, epsilon):
    sigma = 2500.0
    bound = discrete_gaussian_delta(sigma, epsilon, sensitivity)
    monkeypatch.setattr(deltas, "WIDE_SIGMA", math.inf)
    truth = discrete_gaussian_delta(sigma, epsilon, sensitivity)
    assert truth <= bound <= truth * 1.03 + 1e-21


# -- composition


@pytest.mark.parametrize(
    "events",
    [
        [Event.discrete_laplace(4.0, 3)] * 3,
        [Event.randomized_response(0.7, 5)] * 4,
        [Event.discrete_gaussian(3.0, 2)] * 2,
        [Event.discrete_laplace(2.0, 1), Event.discrete_gaussian(2.5, 1), Event.randomized_response(0.35, 2)],
    ],
    ids=["laplace", "response", "gaussian", "mixed"],
)
def test_composition_is_a_tight_upper_bound(events):
    charge = Charge.of(*events)
    for epsilon in EPSILONS:
        truth = composed_delta(events, epsilon)
        assert truth * (1 - 1e-9) - 1e-12 <= charge.delta(epsilon) <= truth * 1.001 + 1e-7
    for delta in (1e-3, 1e-6, 1e-9):
        assert composed_delta(events, charge.epsilon(delta)) <= delta * (1 + 1e-7)


def test_the_comparison_with_brute_force_notices_half_a_sensitivity():
    events = [Event.discrete_laplace(4.0, 2)] * 3
    told = Charge.of(*[Event.discrete_laplace(4.0, 1)] * 3)
    assert told.delta(0.5) < 0.7 * composed_delta(events, 0.5)


def test_far_tails_survive_the_float_rounding_of_convolutions():
    n, epsilon0 = 200, 0.25
    likely = math.exp(epsilon0) / (1 + math.exp(epsilon0))
    heads = np.arange(n + 1)
    loss, probability = epsilon0 * (2 * heads - n), stats.binom.pmf(heads, n, likely)
    charge = Charge.of(Event.randomized_response(epsilon0, 2)).times(n)
    for delta in (1e-6, 1e-9, 1e-11):
        epsilon = charge.epsilon(delta)
        truth = float(np.sum(probability * np.maximum(-np.expm1(epsilon - loss), 0)))
        assert 0.5 * delta <= truth <= delta


def test_gaussians_compose_to_one_gaussian():
    many = Charge.of(Event.gaussian(4.0)).times(9) + Charge.of(Event.gaussian(2.0)).times(4)
    multiplier = 1 / math.sqrt(9 / 16 + 4 / 4)
    for epsilon in EPSILONS:
        assert many.delta(epsilon) == pytest.approx(gaussian_delta(multiplier, epsilon), rel=1e-12)
        by_pld = distributions.composition(((Event.gaussian(4.0), 9), (Event.gaussian(2.0), 4)))[0]
        assert by_pld.get_delta_for_epsilon(epsilon) == pytest.approx(many.delta(epsilon), rel=1e-4)


def test_wide_discrete_gaussians_compose(monkeypatch):
    charge = Charge.of(Event.discrete_gaussian(3000.0, 1500)).times(4)
    bound = charge.epsilon(1e-8)
    monkeypatch.setattr(deltas, "WIDE_SIGMA", math.inf)
    charges._epsilon.cache_clear()
    enumerated = charge.epsilon(1e-8)
    charges._epsilon.cache_clear()
    assert bound == pytest.approx(enumerated, rel=1e-3)
    assert bound >= inverse(lambda epsilon: gaussian_delta(1.0, epsilon), 1e-8)


@pytest.mark.parametrize(("scale", "sensitivity"), [(2.0e5, 3 * 10**5 + 1), (7.0, 5), (40.0, 12)])
def test_discretized_curves_are_tight_bounds(scale, sensitivity):
    pld = distributions.discretized(Event.discrete_laplace(scale, sensitivity), 1e-4)
    for epsilon in (0.0, 0.05, 0.3, 0.6):
        truth = discrete_laplace_delta(scale, epsilon, sensitivity)
        assert truth - 1e-12 <= pld.get_delta_for_epsilon(epsilon) <= truth + 1e-6


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_epsilon_and_delta_are_inverse(event):
    charge = (Charge.of(event) + Charge.of(Event.laplace(7.0))).times(3)
    for delta in (1e-2, 1e-5, 1e-8):
        assert charge.delta(charge.epsilon(delta)) <= delta * (1 + 1e-6)
        assert charge.delta(charge.epsilon(delta)) >= delta * 0.99 or charge.epsilon(delta) == charge.pure_epsilon


@pytest.mark.parametrize("count", [1, 30, 1000])
def test_coarser_grids_for_great_losses_stay_bounds(count):
    charge = Charge.of(Event.randomized_response(0.5, 2)).times(count)
    loss = 0.5 * (2 * np.arange(count + 1) - count)
    probability = stats.binom.pmf(np.arange(count + 1), count, 1 / (1 + math.exp(-0.5)))
    truth = inverse(lambda e: float(np.sum(probability * -np.expm1(np.minimum(e - loss, 0)))), 1e-6)
    assert truth * (1 - 1e-9) <= charge.epsilon(1e-6) <= truth * 1.001


def test_no_protection_is_not_an_error():
    assert 5000 < Charge.of(Event.discrete_gaussian(1.0, 100), Event.laplace(1.0)).epsilon(1e-6) < 6000
    assert 1e12 < Charge.of(Event.discrete_laplace(1.0, 2**40), Event.gaussian(1e-6)).epsilon(1e-6) < 1e13
    for weak in (Event.gaussian(0.01), Event.laplace(1e-3), Event.randomized_response(900.0, 3)):
        assert 500 < Charge.of(weak).epsilon(1e-6) < 6000
        assert 500 < Charge.of(weak, Event.laplace(1.0)).times(2).epsilon(1e-6) < 22_000
    for delta in (-0.1, 1.1, math.nan):
        with pytest.raises(SpecError, match="delta"):
            Charge().epsilon(delta)


# -- slack


def worst_within(p: np.ndarray, q: np.ndarray, epsilon: float, tau: float) -> tuple[np.ndarray, np.ndarray]:
    """Move mass tau, in P towards the outcomes that tell most, in Q away from them."""
    best = np.argmax(p - math.exp(epsilon) * q)
    worse = np.argmin(p - math.exp(epsilon) * q)
    p, q = p.copy(), q.copy()
    up, down = min(tau, p[worse]), min(tau, q[best])
    p[best], p[worse], q[best], q[worse] = p[best] + up, p[worse] - up, q[best] - down, q[worse] + down
    return p, q


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_slack_covers_a_sampler_within_its_distance(event):
    tau = 1e-5
    p, q = pair(event)
    for attack, epsilon in itertools.product((-1.0, 0.0, 0.5, 2.0, 6.0), (-1.0, 0.0, 0.3, 1.0, 3.0, 8.0)):
        near = hockey_stick(*worst_within(p, q, attack, tau), epsilon)
        assert near <= hockey_stick(p, q, epsilon) + slack(event, tau) + 1e-9
    assert slack(event, tau / 10, 10) == pytest.approx(slack(event, tau))
    assert slack(event, 0.0) == 0.0
    assert slack(event, 1.0) <= 1.0


def test_slack_composes_by_addition():
    tau, event = 1e-4, Event.discrete_laplace(2.0, 1)
    p, q = pair(event)
    for epsilon in (0.5, 1.0, 1.5, 2.0):
        near = worst_within(p, q, 0.5, tau)
        pairs = [np.outer(a, a).ravel() for a in near]
        bound = Charge.of(event.with_slack(tau), event.with_slack(tau)).delta(epsilon)
        assert hockey_stick(*pairs, epsilon) <= bound + 1e-9
    owed = Charge.of(event.with_slack(tau)).times(2)
    assert owed.slack == pytest.approx(2 * (1 + math.exp(0.5)) * tau, rel=2e-5)


@pytest.mark.parametrize("event", [*EVENTS, Event.discrete_gaussian(1e6, 5 * 10**5)], ids=repr)
def test_slack_of_good_samplers_is_tiny(event):
    assert 0 < slack(event, 2.0**-60, 4) < 1e-15


def test_slack_of_a_weak_gaussian_is_not_paid_at_its_far_tail():
    assert slack(Event.gaussian(0.3), 2.0**-57) < 1e-6
    assert slack(Event.gaussian(0.3), 2.0**-57) == float(f"{slack(Event.gaussian(0.3), 2.0**-57):.6g}")


# -- calibration


@pytest.mark.parametrize("epsilon", [1e-3, 0.1, 1.0, 7.0])
@pytest.mark.parametrize("delta", [1e-12, 1e-6, 0.05])
def test_gaussian_sigma_is_the_smallest_decimal(epsilon, delta):
    for sensitivity in (1e-3, 1.0, 365.0):
        sigma = gaussian_sigma(epsilon, delta, sensitivity)
        assert gaussian_delta(sigma, epsilon, sensitivity) <= delta
        assert gaussian_delta(sigma * (1 - 1.1e-5), epsilon, sensitivity) > delta
        assert sigma == float(f"{sigma:.6g}")


@pytest.mark.parametrize("sensitivity", [1, 3, 50, 10**4, 10**9])
@pytest.mark.parametrize("epsilon", [0.01, 1.0, 6.0])
def test_discrete_gaussian_sigma(sensitivity, epsilon):
    sigma = discrete_gaussian_sigma(epsilon, 1e-6, sensitivity)
    assert sigma == float(f"{sigma:.6g}")
    assert discrete_gaussian_delta(sigma, epsilon, sensitivity) <= 1e-6
    if sigma > 100:
        continuous = gaussian_sigma(epsilon, 1e-6, sensitivity)
        assert continuous * (1 - 1e-4) <= sigma <= continuous * 1.001


def test_discrete_gaussian_sigma_just_beyond_exact_sums(monkeypatch):
    """Where the bound by the continuous Gaussian costs most: sensitivity 1, sigma a little above the threshold."""
    epsilon = 1.2e-3
    bounded = discrete_gaussian_sigma(epsilon, 1e-6, 1)
    assert deltas.WIDE_SIGMA < bounded < 1.1 * deltas.WIDE_SIGMA
    monkeypatch.setattr(deltas, "WIDE_SIGMA", math.inf)
    exact = discrete_gaussian_sigma(epsilon, 1e-6, 1)
    assert exact <= bounded <= exact * 1.001


def test_discrete_laplace_scale_is_exact():
    assert discrete_laplace_scale(0.1, 3) == 30
    assert discrete_laplace_scale(Fraction(1, 3), 2) == 6
    assert discrete_laplace_scale(0.7) == Fraction(10, 7)


def test_zcdp_bounds_the_gaussian():
    for sigma, delta in itertools.product((0.5, 2.0, 30.0), (1e-3, 1e-9)):
        truth = inverse(lambda epsilon, s=sigma: gaussian_delta(s, epsilon), delta)
        assert truth <= zcdp_epsilon(1 / (2 * sigma**2), delta) <= 1.3 * truth
    assert zcdp_epsilon(0.0, 1e-6) == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: gaussian_sigma(0.0, 1e-6),
        lambda: gaussian_sigma(1.0, 0.0),
        lambda: gaussian_sigma(1.0, 1e-6, -1.0),
        lambda: discrete_gaussian_sigma(1.0, 1e-30),
        lambda: discrete_laplace_scale(-1.0),
        lambda: zcdp_epsilon(-1.0, 1e-6),
        lambda: slack(EVENTS[0], 2.0),
        lambda: Charge.of(EVENTS[0]).times(-1),
        lambda: replace(EVENTS[0], kind="none"),
        lambda: gaussian_delta(math.nan, 1.0),
    ],
)
def test_out_of_range(call):
    with pytest.raises(SpecError, match="Expected"):
        call()
