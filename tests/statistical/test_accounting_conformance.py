"""What every accountant must do, for every kind of event, sampled or not, under both neighbouring relations.

Truth is enumerated: the outcomes of small mechanisms, with their probabilities around a record and around its neighbour,
composed by listing all combinations. Continuous noise is cut into bins, which can only lose information.
"""

import functools
import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import special, stats

from noiselib.accounting import (
    ACCOUNTANTS,
    ADD_OR_REMOVE_ONE,
    REPLACE_ONE,
    Charge,
    Event,
    distributions,
    gaussian_delta,
    renyi,
    sampling,
    smallest_noise,
    zcdp,
    zcdp_delta,
    zcdp_epsilon,
)
from noiselib.accounting.search import inverse
from noiselib.errors import SpecError

BASES = (
    Event.laplace(1.5),
    Event.gaussian(2.0),
    Event.discrete_laplace(3.0, 2),
    Event.discrete_gaussian(4.0, 2),
    Event.randomized_response(0.7, 3),
    Event.pure_dp(0.4),
)
MODES = {
    "plain": lambda event: event,
    "add-or-remove": lambda event: event.under(ADD_OR_REMOVE_ONE).sampled(0.2),
    "replace": lambda event: event.sampled(0.2),
}
EVENTS = [pytest.param(make(base), id=f"{base.kind}-{mode}") for base in BASES for mode, make in MODES.items()]
DELTAS = (1e-2, 1e-4, 1e-7)
ROUNDING = 1 - 1e-9


def law(event: Event, where: float) -> np.ndarray:
    """Probabilities of the outcomes for a value at 0 to 1 of the sensitivity; of randomized response, a category."""
    first, *rest = event.parameters
    if event.kind in ("randomized_response", "pure_dp"):
        categories = int(rest[0]) if rest else 2
        weights = np.ones(categories)
        weights[round(where * 2) % categories if categories > 2 else int(where > 0)] = math.exp(first)
        return weights / weights.sum()
    if event.kind in ("discrete_laplace", "discrete_gaussian"):
        k = np.arange(-100, 103) - round(where * rest[0])
        power = 1 if event.kind == "discrete_laplace" else 2
        weights = np.exp(-(np.abs(k / first) ** power) / power)
        return weights / weights.sum()
    noise = stats.laplace(scale=first) if event.kind == "laplace" else stats.norm(scale=first)
    edges = np.concatenate([[-math.inf], np.linspace(-8 * first, 8 * first + 1, 150), [math.inf]])
    return np.diff(noise.cdf(edges - where))


def pairs(event: Event) -> list[tuple[np.ndarray, np.ndarray]]:
    """The outcomes' laws for neighbours: where one record is replaced, or left out, each way."""
    q, here, there = event.rate, law(event, 0.0), law(event, 1.0)
    if q == 1:
        return [(here, there)]
    if event.relation == ADD_OR_REMOVE_ONE:
        mixed = (1 - q) * there + q * here
        return [(mixed, there), (there, mixed)]
    without = [law(event, where) for where in (0.0, 0.5, 1.0)]
    return [((1 - q) * r + q * here, (1 - q) * r + q * there) for r in without]


def hockey_stick(p: np.ndarray, q: np.ndarray, epsilon: float) -> float:
    return float(np.maximum(p - math.exp(epsilon) * q, 0).sum())


def times(p: np.ndarray, count: int) -> np.ndarray:
    return functools.reduce(lambda a, b: np.outer(a, b).ravel(), [p] * count)


def true_epsilon(event: Event, count: int, delta: float) -> float:
    composed = [(times(p, count), times(q, count)) for p, q in pairs(event)]
    return max(inverse(lambda e, p=p, q=q: hockey_stick(p, q, e), delta) for p, q in composed)


def cheaper(event: Event) -> Event:
    """A planted bug: half the noise is enough."""
    first, *rest = event.parameters
    worse = first / 2 if event.kind in ("randomized_response", "pure_dp") else first * 2
    return replace(event, parameters=(worse, *rest))


# ---- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize("event", EVENTS)
def test_never_below_an_enumerated_loss(event, accountant):
    for count in (1, 2):
        charge = Charge.of(event).times(count)
        for delta in DELTAS:
            assert charge.epsilon(delta, accountant) >= true_epsilon(event, count, delta) * ROUNDING


@pytest.mark.parametrize("event", EVENTS)
def test_the_comparison_notices_half_the_noise(event):
    told = Charge.of(cheaper(event)).times(2)
    assert told.epsilon(1e-3) < 0.7 * true_epsilon(event, 2, 1e-3)


@pytest.mark.parametrize("event", [param for param in EVENTS if "replace" not in param.id])
def test_privacy_loss_distributions_are_tight(event):
    """Within the bins of continuous noise, 2%; 0.1% of lattices and categories."""
    tolerance = 1.02 if event.kind in ("laplace", "gaussian") else 1.001
    for count in (1, 2):
        for delta in DELTAS:
            told = Charge.of(event).times(count).epsilon(delta)
            assert told <= true_epsilon(event, count, delta) * tolerance + 1e-6


@pytest.mark.parametrize("event", EVENTS)
def test_distributions_are_never_above_the_other_accountants(event):
    for count in (1, 60):
        charge = Charge.of(event, Event.gaussian(4.0).under(event.relation)).times(count)
        for delta in DELTAS:
            least = charge.epsilon(delta)
            for accountant in ("rdp", "zcdp"):
                assert least <= charge.epsilon(delta, accountant) * 1.001 + 1e-6


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize("event", EVENTS)
def test_monotone(event, accountant):
    """More releases, a smaller delta, a larger rate cost more; more noise costs less."""

    def cost(event: Event, count: int = 3, delta: float = 1e-5) -> float:
        return Charge.of(event).times(count).epsilon(delta, accountant) / ROUNDING

    assert cost(event, 1) <= cost(event, 2) <= cost(event, 3) <= cost(event, 30)
    assert cost(event, 3, 1e-3) <= cost(event, 3, 1e-5) <= cost(event, 3, 1e-9)
    assert cost(cheaper(event)) <= cost(event)
    assert cost(event.sampled(0.5)) <= cost(event)


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
@pytest.mark.parametrize("event", EVENTS)
def test_epsilon_and_delta_agree(event, accountant):
    charge = Charge.of(event).times(5)
    for delta in DELTAS:
        assert charge.delta(charge.epsilon(delta, accountant), accountant) <= delta * (1 + 1e-6)
    assert charge.delta(0.3, accountant) <= 1
    assert charge.delta(charge.pure_epsilon, accountant) == 0 or not charge.pure


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_slack_is_paid_by_every_accountant(accountant):
    clean, owing = Charge.of(Event.gaussian(3.0)), Charge.of(Event.gaussian(3.0, slack=5e-7))
    assert owing.epsilon(1e-6, accountant) == pytest.approx(clean.epsilon(5e-7, accountant), rel=1e-12)
    assert owing.epsilon(5e-7, accountant) == math.inf
    assert owing.delta(1.0, accountant) == pytest.approx(clean.delta(1.0, accountant) + 5e-7, rel=1e-12)


def test_accountants_by_name():
    with pytest.raises(SpecError, match=r"accountant of \['pld', 'rdp', 'zcdp'\], got 'moments'"):
        Charge.of(BASES[0]).epsilon(1e-6, "moments")
    with pytest.raises(SpecError, match="accountant"):
        Charge.of(BASES[0]).delta(100.0, "moments")


def scales(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log(low), math.log(high)).map(math.exp)


def whole(high: int) -> st.SearchStrategy[int]:
    return scales(2, high).map(int)


ANY_EVENT = st.one_of(
    st.builds(Event.laplace, scales(0.02, 1e6)),
    st.builds(Event.gaussian, scales(0.05, 1e6)),
    st.builds(Event.discrete_laplace, scales(0.05, 1e13), whole(2**40)),
    st.builds(Event.discrete_gaussian, scales(0.05, 1e13), whole(2**40)),
    st.builds(Event.randomized_response, scales(1e-6, 50), whole(1000)),
    st.builds(Event.pure_dp, scales(1e-6, 50)),
)
ANY_RATE = st.one_of(st.just(1.0), scales(1e-6, 1))
ANY_USE = st.tuples(ANY_EVENT, ANY_RATE, whole(1000))


@settings(max_examples=40, deadline=None)
@given(st.lists(ANY_USE, min_size=1, max_size=3), st.sampled_from([REPLACE_ONE, ADD_OR_REMOVE_ONE]), scales(1e-12, 0.1))
@example([(Event.randomized_response(1.37, 319), 0.1123, 166)], REPLACE_ONE, 8e-12)  # rounding takes up delta
@example([(Event.laplace(99.7), 0.006, 1400), (Event.discrete_gaussian(885e6, 15), 0.66, 147)], REPLACE_ONE, 9e-5)
@example([(Event.discrete_laplace(0.29, 3598), 1.5e-5, 4), (Event.gaussian(27.9), 0.25, 3)], ADD_OR_REMOVE_ONE, 1e-6)
@example([(Event.discrete_laplace(1.4, 2**30), 1.0, 2)], ADD_OR_REMOVE_ONE, 1e-10)
def test_any_events_compose(uses, relation, delta):
    """No error, and the default is the least, but where losses are absurd: there all are bounds."""
    charge = sum((Charge.of(e.under(relation).sampled(rate)).times(n) for e, rate, n in uses), Charge())
    told = {accountant: charge.epsilon(delta, accountant) for accountant in ACCOUNTANTS}
    assert all(0 <= epsilon <= charge.pure_epsilon * (1 + 1e-12) for epsilon in told.values())
    if min(told.values()) < 1e4:
        assert told["pld"] <= min(told.values()) * 1.01 + 1e-9


# ---- relations -------------------------------------------------------------------------------------------------------


def test_relations_do_not_mix():
    replaced, removed = Event.laplace(2.0), Event.gaussian(3.0).under(ADD_OR_REMOVE_ONE)
    with pytest.raises(SpecError, match=r"one neighbouring relation.*add_or_remove_one \(gaussian\), replace_one"):
        Charge.of(replaced, removed)
    with pytest.raises(SpecError, match="one neighbouring relation"):
        Charge.of(replaced) + Charge.of(removed)
    assert Charge.of(replaced).relation == REPLACE_ONE
    assert Charge.of(removed).relation == ADD_OR_REMOVE_ONE
    assert (Charge() + Charge.of(removed)).relation == ADD_OR_REMOVE_ONE
    with pytest.raises(SpecError, match="relation"):
        removed.under("substitute")


def test_sampled_events_are_values():
    event = Event.discrete_laplace(4.0, 3).under(ADD_OR_REMOVE_ONE).sampled(0.5)
    assert event.sampled(0.5) == replace(event, rate=0.25)
    charge = Charge.of(event, event)
    assert Charge.from_json(charge.to_json()) == charge
    assert charge.to_json()[0]["rate"] == 0.5
    assert set(Event.laplace(1.0).to_json()) == {"kind", "noise_multiplier", "slack"}
    for rate in (0.0, -0.1, 1.1, math.nan, True):
        with pytest.raises(SpecError, match="rate"):
            event.sampled(rate)
    with pytest.raises(SpecError, match="rate"):
        Event.from_json({**event.to_json(), "rate": 2.0})


@pytest.mark.parametrize("base", BASES, ids=lambda event: event.kind)
def test_a_rate_near_one_is_no_sampling(base):
    for relation in (REPLACE_ONE, ADD_OR_REMOVE_ONE):
        plain, near = (Charge.of(base.under(relation).sampled(rate)).times(3) for rate in (1.0, 1 - 1e-9))
        for accountant in ("pld", "zcdp"):
            assert near.epsilon(1e-5, accountant) == pytest.approx(plain.epsilon(1e-5, accountant), rel=1e-3)


def test_wide_discrete_gaussians_are_sampled_as_continuous_ones():
    for relation in (REPLACE_ONE, ADD_OR_REMOVE_ONE):
        wide, continuous = (
            Charge.of(event.under(relation).sampled(0.01)).times(500)
            for event in (Event.discrete_gaussian(5000.0, 2500), Event.gaussian(2.0))
        )
        assert continuous.epsilon(1e-6) * ROUNDING <= wide.epsilon(1e-6) <= continuous.epsilon(1e-6) * 1.01


# ---- privacy loss distributions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", EVENTS)
def test_curves_hold_for_losses_below_zero(event):
    """As composition needs them: against the pair itself, or above it."""
    base = event.curve
    if event.rate == 1 or event.relation == REPLACE_ONE:
        curves = [sampling.replacing(base, event.rate)] * len(pairs(event))
    else:
        curves = [sampling.removing(base, event.rate), sampling.adding(base, event.rate)]
    epsilons = np.linspace(-3, 3, 61)
    for curve, (p, q) in zip(curves, pairs(event), strict=True):
        truth = np.array([hockey_stick(p, q, epsilon) for epsilon in epsilons])
        assert np.all(curve(epsilons) >= truth - 1e-12)
        if event.rate == 1 or event.relation == ADD_OR_REMOVE_ONE:
            assert np.all(curve(epsilons) <= truth + 2e-3 * (event.kind in ("laplace", "gaussian")) + 1e-12)


@pytest.mark.parametrize("base", BASES, ids=lambda event: event.kind)
def test_many_epsilons_are_as_one(base):
    epsilons = np.array([0.0, 1e-9, 0.1, 0.3, 0.39, 0.66, 1.0, 3.0, 9.0])
    assert base.curve(epsilons) == pytest.approx([base.delta(e) for e in epsilons], rel=1e-9, abs=1e-15)


def test_small_losses_get_a_finer_grid():
    """Gaussian noise among others of its size, ten thousandfold less than a grid of 1e-4 can tell."""
    charge = Charge.of(Event.gaussian(1e6), Event.laplace(1e6)).times(50)
    alone = Charge.of(Event.gaussian(1e6)).times(50)
    assert alone.epsilon(1e-9) <= charge.epsilon(1e-9) <= 2 * alone.epsilon(1e-9)
    assert charge.epsilon(1e-9) <= charge.epsilon(1e-9, "rdp")


def test_two_ways_to_sum_sampled_gaussians():
    """Against dp_accounting's own distributions, whose curves are computed in another way."""
    from dp_accounting import GaussianDpEvent, LaplaceDpEvent, PoissonSampledDpEvent
    from dp_accounting.pld import PLDAccountant

    theirs = PLDAccountant()
    theirs.compose(PoissonSampledDpEvent(0.01, GaussianDpEvent(1.1)), 300)
    theirs.compose(PoissonSampledDpEvent(0.05, LaplaceDpEvent(2.0)), 30)
    gaussian, laplace = (e.under(ADD_OR_REMOVE_ONE) for e in (Event.gaussian(1.1), Event.laplace(2.0)))
    ours = Charge.of(gaussian.sampled(0.01)).times(300) + Charge.of(laplace.sampled(0.05)).times(30)
    for delta in DELTAS:
        assert ours.epsilon(delta) == pytest.approx(theirs.get_epsilon(delta), rel=1e-4)


def test_infinite_loss_is_counted():
    pld = distributions.discretized(Event.gaussian(0.2), 1e-3)
    assert 0 < pld._pmf_remove._infinity_mass <= 1e-20


# ---- Renyi and concentrated ------------------------------------------------------------------------------------------


def true_log_moment(event: Event, order: float) -> float:
    """By sums and integrals to 60 digits."""
    first, *rest = event.parameters
    with mpmath.workdps(60):
        a = mpmath.mpf(order)
        if event.kind in ("randomized_response", "pure_dp"):
            k, e = int(rest[0]) if rest else 2, mpmath.exp(first)
            p, q = e / (e + k - 1), 1 / (e + k - 1)
            return float(mpmath.log(p**a * q ** (1 - a) + q**a * p ** (1 - a) + (k - 2) * q))
        if event.kind == "laplace":
            x = 1 / mpmath.mpf(first)
            terms = a * mpmath.exp((a - 1) * x) / (2 * a - 1) + (a - 1) * mpmath.exp(-a * x) / (2 * a - 1)
            return float(mpmath.log(terms))
        if event.kind == "gaussian":
            return float(a * (a - 1) / (2 * mpmath.mpf(first) ** 2))
        b, s = mpmath.mpf(first), int(rest[0])
        reach = int(70 * first) + int(order * s) + s
        power = 1 if event.kind == "discrete_laplace" else 2
        density = [mpmath.exp(-((abs(k) / b) ** power) / power) for k in range(-reach, reach + s + 1)]
        total = sum(density)
        return float(
            mpmath.log(sum(density[i] ** a * density[i - s] ** (1 - a) for i in range(s, len(density))) / total)
        )


@pytest.mark.parametrize("order", [1.1, 1.5, 2.0, 7.0, 63.0])
@pytest.mark.parametrize("event", [*BASES, Event.laplace(1e5), Event.randomized_response(1e-6, 9)], ids=repr)
def test_renyi_divergences_are_exact(event, order):
    truth, told = true_log_moment(event, order), float(renyi.log_moments(event, np.array([order]))[0])
    assert truth * (1 - 1e-12) <= told
    if event.kind != "discrete_gaussian":  # there it is a bound
        assert told <= truth * (1 + 1e-7)
    else:
        assert told <= truth * 1.05


def test_small_renyi_divergences_of_discrete_laplace_do_not_drown_in_rounding():
    event = Event.discrete_laplace(3.0e6, 3)
    wide = Event.laplace(1e6)
    for order in (1.1, 2.0, 500.0):
        told = float(renyi.log_moments(event, np.array([order]))[0])
        assert true_log_moment(wide, order) * (1 - 1e-6) <= told <= true_log_moment(wide, order) * (1 + 1e-4)


@pytest.mark.parametrize("order", [1.3, 2.0, 2.5, 5.0, 10.9, 40.0])
@pytest.mark.parametrize("event", [param for param in EVENTS if "plain" not in param.id])
def test_sampled_renyi_divergences_bound_the_enumerated_ones(event, order):
    at = int(np.flatnonzero(np.isclose(renyi.ORDERS, order))[0])
    told = renyi.divergences(event.kind, event.parameters, event.rate, event.relation)[at]
    found = []
    for p, q in pairs(event):
        kept = (p > 1e-280) & (q > 1e-280)
        logs = order * np.log(p[kept]) + (1 - order) * np.log(q[kept])
        found.append(float(special.logsumexp(logs)) / (order - 1))
    assert max(found) * (1 - 1e-9) <= told
    if event.relation == ADD_OR_REMOVE_ONE:
        assert found[0] >= found[1] * (1 - 1e-9)  # removing costs most: theorem 5
        if order == int(order) and event.kind not in ("laplace", "gaussian", "discrete_gaussian"):
            assert told <= found[0] * (1 + 1e-6)


def test_orders_beyond_the_published_ones_help_small_losses():
    charge = Charge.of(Event.gaussian(1e5))
    truth = inverse(lambda epsilon: gaussian_delta(1e5, epsilon), 1e-6)
    assert truth <= charge.epsilon(1e-6, "rdp") <= 1.5 * truth  # orders up to 1024 alone give 1e-2
    assert charge.epsilon(1e-6, "rdp") <= charge.epsilon(1e-6, "zcdp") * 1.01


@pytest.mark.parametrize("base", BASES, ids=lambda event: event.kind)
def test_rho_bounds_every_renyi_divergence(base):
    orders = np.concatenate([1 + np.logspace(-6, 0, 20), np.logspace(0.4, 4, 40)])
    assert np.all(renyi.log_moments(base, orders) / (orders - 1) <= zcdp.rho(base) * orders * (1 + 1e-9))


@pytest.mark.parametrize("rho", [1e-10, 1e-4, 1 / 32, 1.0, 50.0])
def test_zcdp_conversions(rho):
    """Against the same formula at 50 digits, minimized by a fine scan."""
    for delta in (1e-3, 1e-9):
        epsilon = zcdp_epsilon(rho, delta)
        with mpmath.workdps(50):
            logs = [mpmath.mpf(x) / 50 for x in range(-300, 1400)]
            r, d = mpmath.mpf(rho), mpmath.log(mpmath.mpf(delta))
            scan = min(
                r * (1 + x) + mpmath.log(x / (1 + x)) - (d + mpmath.log(1 + x)) / x for x in map(mpmath.exp, logs)
            )
        assert epsilon == pytest.approx(float(max(scan, 0)), rel=1e-3)
        assert epsilon <= float(max(scan, 0)) * (1 + 1e-9)
        if epsilon > 0:
            assert zcdp_delta(rho, epsilon) == pytest.approx(delta, rel=1e-5)
    assert zcdp_epsilon(0.0, 1e-6) == zcdp_delta(0.0, 1.0) == 0.0


# ---- calibration by an accountant ------------------------------------------------------------------------------------


@pytest.mark.parametrize("accountant", ACCOUNTANTS)
def test_smallest_noise_is_enough_and_no_more(accountant):
    def charge_of(noise: float) -> Charge:
        return Charge.of(Event.gaussian(noise)).times(12) + Charge.of(Event.gaussian(20.0))

    sigma = smallest_noise(charge_of, 1.0, 1e-6, accountant)
    assert charge_of(sigma).epsilon(1e-6, accountant) <= 1.0 < charge_of(sigma * (1 - 1.1e-5)).epsilon(1e-6, accountant)
    assert sigma == float(f"{sigma:.6g}")


def test_smallest_noise_for_a_sampled_gaussian():
    def charge_of(noise: float) -> Charge:
        return Charge.of(Event.gaussian(noise).under(ADD_OR_REMOVE_ONE).sampled(0.01)).times(100)

    noise = smallest_noise(charge_of, 1.0, 1e-5, "rdp")
    assert charge_of(noise).epsilon(1e-5) <= charge_of(noise).epsilon(1e-5, "rdp") <= 1.0
    assert charge_of(noise * 0.999).epsilon(1e-5, "rdp") > 1.0


def test_no_noise_is_enough_for_a_delta_below_the_slack():
    with pytest.raises(SpecError, match="no noise is enough"):
        smallest_noise(lambda noise: Charge.of(Event.gaussian(noise, slack=1e-5)), 1.0, 1e-6)
