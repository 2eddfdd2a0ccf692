"""Calibration is tight and never below, for every kind, over the whole range: epsilon 1e-6 to 50, tiny deltas, wide lattices."""

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from noiselib.accounting import (
    Charge,
    Event,
    discrete_gaussian_delta,
    discrete_gaussian_sigma,
    discrete_laplace_delta,
    discrete_laplace_scale,
    gaussian_delta,
    gaussian_sigma,
    smallest_noise,
)


def powers(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log(low), math.log(high)).map(math.exp)


EPSILONS, DELTAS, STEPS = powers(1e-6, 50), powers(1e-19, 0.5), st.integers(0, 40).flatmap(
    lambda bits: st.integers(2**bits, 2 ** (bits + 1) - 1 if bits < 40 else 2**40)
)  # fmt: skip


def true_gaussian_delta(sigma: float, epsilon: float, sensitivity: float) -> mpmath.mpf:
    """At 60 digits."""
    s, e, d = mpmath.mpf(sigma), mpmath.mpf(epsilon), mpmath.mpf(sensitivity)
    x, y = e * s / d - d / (2 * s), e * s / d + d / (2 * s)
    return (mpmath.erfc(x / mpmath.sqrt(2)) - mpmath.exp(e) * mpmath.erfc(y / mpmath.sqrt(2))) / 2


@settings(max_examples=300, deadline=None)
@given(EPSILONS, DELTAS, STEPS)
@example(1e-6, 1e-19, 1)
@example(50.0, 0.5, 2**40)
@example(50.0, 1e-19, 1)
@example(1e-6, 0.5, 2**40)
def test_gaussian(epsilon, delta, sensitivity):
    sigma = gaussian_sigma(epsilon, delta, sensitivity)
    with mpmath.workdps(60):
        assert true_gaussian_delta(sigma, epsilon, sensitivity) <= delta * (1 + mpmath.mpf("1e-9"))
        assert true_gaussian_delta(sigma * (1 - 2e-5), epsilon, sensitivity) > delta


@settings(max_examples=150, deadline=None)
@given(EPSILONS, DELTAS, STEPS)
@example(1e-6, 1e-19, 1)
@example(50.0, 0.5, 2**40)
@example(50.0, 1e-19, 1)
@example(1e-6, 0.5, 2**40)
def test_discrete_gaussian(epsilon, delta, sensitivity):
    """Enough by the law's own delta; on wide lattices no more than 0.1% above the continuous law, which rounding relates."""
    sigma = discrete_gaussian_sigma(epsilon, delta, sensitivity)
    assert discrete_gaussian_delta(sigma, epsilon, sensitivity) <= delta
    assert sigma == float(f"{sigma:.6g}")
    if sigma > 2048:
        continuous = gaussian_sigma(epsilon, delta, sensitivity)
        assert continuous * (1 - 1e-5) <= sigma <= continuous * 1.001
    elif sigma > 1:
        assert discrete_gaussian_delta(sigma * (1 - 2e-5), epsilon, sensitivity) > delta


@settings(max_examples=30, deadline=None)
@given(powers(0.02, 50), powers(1e-15, 0.5), st.integers(1, 6))
def test_discrete_gaussian_against_60_digits(epsilon, delta, sensitivity):
    sigma = discrete_gaussian_sigma(epsilon, delta, sensitivity)
    if sigma > 60:
        return  # thousands of terms; covered by the comparison with the continuous law
    with mpmath.workdps(60):
        s, reach = mpmath.mpf(sigma), int(40 * sigma) + 40
        weights = [mpmath.exp(-(mpmath.mpf(k) ** 2) / (2 * s**2)) for k in range(-reach, reach + sensitivity + 1)]
        grown, width = mpmath.exp(epsilon), 2 * reach + 1
        lost = sum(max(weights[i] - grown * weights[i + sensitivity], 0) for i in range(width))
        assert lost / sum(weights) <= delta * (1 + mpmath.mpf("1e-9"))


@settings(max_examples=300, deadline=None)
@given(EPSILONS, STEPS)
@example(1e-6, 2**40)
@example(50.0, 1)
def test_discrete_laplace(epsilon, sensitivity):
    """Exact: the greatest log-ratio of its probabilities is sensitivity / scale, which is epsilon as it is written."""
    scale = discrete_laplace_scale(epsilon, sensitivity)
    assert sensitivity / scale == Fraction(repr(epsilon))
    assert discrete_laplace_delta(float(scale), epsilon * (1 + 1e-9), sensitivity) == 0
    if epsilon > 1e-5:
        assert discrete_laplace_delta(float(scale), epsilon * (1 - 1e-2), sensitivity) > 0


@settings(max_examples=200, deadline=None)
@given(EPSILONS, st.integers(2, 1000))
def test_pure_events_cost_what_they_claim(epsilon, categories):
    """At delta 0 exactly epsilon, and just below it more than nothing."""
    for event in (Event.laplace(1 / epsilon), Event.randomized_response(epsilon, categories), Event.pure_dp(epsilon)):
        assert Charge.of(event).epsilon(0.0) == pytest.approx(epsilon, rel=1e-12)
        assert event.delta(epsilon * (1 + 1e-12)) == 0
        assert 0 < event.delta(epsilon * 0.9) <= math.expm1(epsilon * 0.1)


@settings(max_examples=12, deadline=None)
@given(powers(1e-3, 20), powers(1e-9, 1e-2), st.integers(1, 40))
def test_noise_for_a_composition(epsilon, delta, count):
    """Gaussian noise used often is what one Gaussian mechanism of the root of that is; among Laplace noise it is dearer."""
    together = smallest_noise(lambda noise: Charge.of(Event.gaussian(noise)).times(count), epsilon, delta)
    assert together == pytest.approx(gaussian_sigma(epsilon, delta) * math.sqrt(count), rel=2e-5)
    assert gaussian_delta(together / math.sqrt(count), epsilon) <= delta * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(powers(1e-6, 5), powers(1e-12, 1e-2), st.integers(2, 100))
@example(1e-6, 1e-12, 2)
@example(5.0, 1e-12, 100)
def test_compositions_are_bounds_at_every_size(epsilon, delta, count):
    """Binary randomized response, composed: its loss is binomial, so the truth is a sum. Tight within 1% where the float
    rounding of convolutions, which is added to delta, does not show."""
    likely = 1 / (1 + math.exp(-epsilon))
    with mpmath.workdps(40):
        p = mpmath.mpf(likely)
        probability = [mpmath.binomial(count, k) * p**k * (1 - p) ** (count - k) for k in range(count + 1)]

        def truth(at: float) -> mpmath.mpf:
            return sum(w * max(0, 1 - mpmath.exp(at - epsilon * (2 * k - count))) for k, w in enumerate(probability))

        told = Charge.of(Event.randomized_response(epsilon, 2)).times(count).epsilon(delta)
        assert truth(told) <= delta * (1 + 1e-6)
        assert told <= count * epsilon * (1 + 1e-12)
        if told > 0 and delta > 1e-9:
            assert truth(told * 0.99 - 1e-9) > delta * 0.98 or told == pytest.approx(count * epsilon)


def test_sigma_falls_as_epsilon_and_delta_grow():
    for sigmas in (
        [gaussian_sigma(epsilon, 1e-6) for epsilon in np.geomspace(1e-6, 50, 60)],
        [gaussian_sigma(1.0, delta) for delta in np.geomspace(1e-300, 0.9, 60)],
        [discrete_gaussian_sigma(epsilon, 1e-6, 1000) for epsilon in np.geomspace(1e-6, 50, 60)],
    ):
        assert sigmas == sorted(sigmas, reverse=True)
