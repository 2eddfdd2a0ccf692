"""Mechanisms: calibrated never below the claim, values plus the law's own draws, categories with exact odds."""

from __future__ import annotations

import json
import math
from decimal import Decimal, localcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from laws import alarms, centre, spread

from noiselib.accounting import Charge
from noiselib.errors import SpecError
from noiselib.mechanisms import ADDITIVE, RandomizedResponse, Uniform
from noiselib.mechanisms.additive import default_step, exact
from noiselib.noise import Stream, derive, encode_bigint, row_tags
from noiselib.report.calibration import calibrate

VECTORS = {v["id"]: v for v in json.loads((Path(__file__).parents[1] / "vectors.json").read_text())}
PURE, APPROXIMATE = ("laplace", "discrete_laplace"), ("gaussian", "discrete_gaussian")
PRIVATE = (*PURE, *APPROXIMATE)
ROWS = 20_000


def stream(values: np.ndarray, name: str = "column") -> Stream:
    key = derive(bytes(32), name)
    return Stream(key, row_tags(derive(key, "rows"), encode_bigint(np.arange(len(values)))), values)


def delta_for(name: str, delta: float) -> float | None:
    return delta if name in APPROXIMATE else None


# ---- additive noise --------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(PURE),
    sensitivity=st.integers(1, 10**6),
    epsilon=st.floats(1e-3, 20) | st.sampled_from([0.1, 0.49, 1.0, math.pi]),
)
def test_pure_noise_costs_exactly_what_is_claimed(name, sensitivity, epsilon):
    noise = ADDITIVE[name].calibrate(sensitivity, Fraction(1), epsilon)
    assert Fraction(sensitivity) / noise.scale == exact(epsilon)  # to the last digit, on the lattice
    charge = Charge.of(noise.event())
    assert charge.pure_epsilon == pytest.approx(epsilon, rel=4e-16)
    assert 0 < charge.slack <= 2**-40 * (1 + math.exp(epsilon)) * 1.01


@settings(max_examples=20, deadline=None)
@given(
    name=st.sampled_from(APPROXIMATE),
    sensitivity=st.integers(1, 3000),
    epsilon=st.floats(0.02, 4),
    delta=st.floats(-8, -2).map(lambda power: float(f"{10**power:.3g}")),
)
def test_gaussian_noise_costs_no_more_than_is_claimed(name, sensitivity, epsilon, delta):
    noise = ADDITIVE[name].calibrate(sensitivity, Fraction(1), epsilon, delta)
    charge = Charge.of(noise.event())
    assert charge.delta(epsilon) <= delta
    assert charge.epsilon(delta) <= epsilon


@pytest.mark.parametrize("name", APPROXIMATE)
def test_a_delta_that_the_sampler_itself_uses_up_is_refused(name):
    with pytest.raises(ValueError, match="since the sampler itself takes"):
        ADDITIVE[name].calibrate(10, Fraction(1), 1.0, 1e-12)


def test_uniform_noise_has_nothing_to_be_calibrated_to():
    with pytest.raises(ValueError, match="uniform: gives no guarantee"):
        Uniform.calibrate(1, Fraction(1), 1.0)
    assert Uniform(Fraction(1), Fraction(10)).event() is None


@pytest.mark.parametrize("name", PRIVATE)
def test_noise_without_a_claim_has_no_event(name):
    assert ADDITIVE[name](Fraction(1), Fraction(10)).event() is None


@pytest.mark.parametrize("name", ADDITIVE)
def test_a_published_value_is_the_value_plus_a_draw_of_the_law(name):
    values = np.random.default_rng(1).integers(-(2**60), 2**60, ROWS)
    mechanism = ADDITIVE[name](Fraction(1), Fraction(1000))
    published = mechanism.perturb(values, stream(values))
    assert published.dtype == np.int64
    assert np.array_equal(published, values + mechanism.law.sample(stream(values)))
    assert np.array_equal(published, mechanism.perturb(values, stream(values)))  # and again
    assert not np.array_equal(published, mechanism.perturb(values, stream(values, "other column")))


@pytest.mark.parametrize("name", ADDITIVE)
def test_noise_has_the_variance_and_error_that_are_predicted(name):
    mechanism = ADDITIVE[name](Fraction(1, 4), Fraction(1000))
    zeros = np.zeros(ROWS, np.int64)
    noise = mechanism.perturb(zeros, stream(zeros)) * 0.25
    p = {"variance": spread(noise, 0.0, mechanism.variance), "error": centre(np.abs(noise), mechanism.mean_abs)}
    assert alarms(p | {"mean": centre(noise, 0.0)}) == set()


@given(scale=st.fractions(Fraction(1, 10**9), 10**9))
def test_the_default_step_is_a_power_of_two_that_is_fine_against_the_scale(scale):
    step = default_step(scale)
    assert step.numerator.bit_count() == step.denominator.bit_count() == 1
    assert 2**18 < scale / step <= 2**19


def test_numbers_are_taken_as_they_are_written():
    assert exact(0.1) == Fraction(1, 10)
    assert exact(1e-7) == Fraction(1, 10**7)
    assert exact(3) == 3


# ---- randomized response ---------------------------------------------------------------------------------------------

EPSILONS = st.floats(1e-6, 50) | st.sampled_from([0.1, 1.0, math.log(3), 20.0])
SIZES = st.integers(2, 200) | st.sampled_from([8192])


def power_of_e(epsilon: float) -> Fraction:
    """e^epsilon, rounded down, to 80 digits."""
    with localcontext() as context:
        context.prec = 100
        power = (Decimal(exact(epsilon).numerator) / Decimal(exact(epsilon).denominator)).exp()
        return Fraction(power) * (1 - Fraction(1, 10**80))


@settings(max_examples=100, deadline=None)
@given(epsilon=EPSILONS, size=SIZES)
def test_the_odds_of_two_categories_never_exceed_e_to_the_epsilon(epsilon, size):
    odds = RandomizedResponse.calibrate(tuple(range(size)), epsilon).law.probabilities
    assert all(isinstance(p, Fraction) for p in odds)
    assert sum(odds) == 1
    keep, *others = odds
    assert len(set(others)) == 1
    assert others[0] <= keep <= others[0] * power_of_e(epsilon)


@settings(max_examples=100, deadline=None)
@given(epsilon=EPSILONS, size=SIZES)
def test_the_odds_are_as_good_as_the_claim_allows(epsilon, size):
    mechanism = RandomizedResponse.calibrate(tuple(range(size)), epsilon)
    assert float(mechanism.law.probabilities[0]) == pytest.approx(mechanism.keep_probability, rel=1e-12)
    charge = Charge.of(mechanism.event())
    assert charge.pure_epsilon == epsilon
    assert charge.slack <= 2**-40 * (1 + math.exp(epsilon)) * 1.01


@pytest.mark.parametrize("size", [2, 3, 7, 50])
def test_every_category_is_reached_from_every_category(size):
    mechanism = RandomizedResponse.calibrate(tuple(range(size)), 0.5)
    for value in range(0, size, max(1, size // 5)):
        values = np.full(ROWS, value)
        published = mechanism.perturb(values, stream(values, f"{size}"))
        counts = np.bincount(published, minlength=size)
        assert len(counts) == size
        assert counts.argmax() == value
        expected = np.full(size, (1 - mechanism.keep_probability) / (size - 1)) * ROWS
        expected[value] = mechanism.keep_probability * ROWS
        assert np.all(np.abs(counts - expected) < 6.5 * np.sqrt(expected))


def test_a_published_category_is_the_true_one_moved_round_by_a_draw_of_the_law():
    mechanism = RandomizedResponse.calibrate(tuple("abcde"), 1.0)
    values = np.arange(ROWS) % 5
    published = mechanism.perturb(values, stream(values))
    assert np.array_equal(published, (values + mechanism.law.sample(stream(values))) % 5)
    assert (published != values).mean() == pytest.approx(mechanism.mean_abs, abs=0.02)


# ---- `noiselib calibrate` --------------------------------------------------------------------------------------------

ANSWER = ["mechanism", "epsilon", "delta", "sensitivity", "scale", "variance", "granularity", "sampler_delta"]


@pytest.mark.parametrize("name", PRIVATE)
@pytest.mark.parametrize("sensitivity", [1.0, 0.1, 3.0, 250.0])
def test_an_answer_names_all_it_was_asked_and_all_it_found(name, sensitivity):
    answer = calibrate(name, 0.5, delta_for(name, 1e-6), sensitivity, None)
    assert list(answer) == ANSWER
    assert json.loads(json.dumps(answer)) == answer
    assert (answer["epsilon"], answer["sensitivity"]) == (0.5, sensitivity)
    assert (
        answer["granularity"] == 1 if name.startswith("discrete") else answer["granularity"] < answer["scale"] / 2**17
    )


@pytest.mark.parametrize("id", ["gaussian-sigma-0", "gaussian-sigma-2", "gaussian-sigma-5"])
def test_gaussian_scales_are_the_published_ones_and_never_below(id):
    vector = VECTORS[id]
    asked = vector["inputs"]
    answer = calibrate("gaussian", asked["epsilon"], asked["delta"], asked["sensitivity"], None)
    assert answer["scale"] == pytest.approx(vector["expected"]["sigma"], rel=vector["relative_tolerance"])
    assert answer["scale"] >= vector["expected"]["sigma"]
    assert answer["variance"] == pytest.approx(answer["scale"] ** 2, rel=1e-9)


def test_discrete_variances_are_the_published_ones():
    vector = VECTORS["dlap-var"]
    answer = calibrate("discrete_laplace", vector["inputs"]["epsilon"], None, vector["inputs"]["sensitivity"], None)
    assert answer["variance"] == pytest.approx(vector["expected"]["variance"], rel=vector["relative_tolerance"])
    vector = VECTORS["dgauss-var-0"]
    noise = ADDITIVE["discrete_gaussian"](Fraction(1), Fraction(1, 2))
    assert noise.variance == pytest.approx(vector["expected"]["variance"], rel=vector["relative_tolerance"])


def test_a_published_delta_is_met_at_its_own_sigma():
    vector = VECTORS["dgauss-delta-0"]
    delta = vector["expected"]["delta"]
    answer = calibrate("discrete_gaussian", vector["inputs"]["epsilon"], delta, 1, None)
    assert answer["scale"] == pytest.approx(1, rel=2e-3)
    assert answer["scale"] >= 1


def test_laplace_scales_are_sensitivity_over_epsilon():
    answer = calibrate("laplace", 0.5, None, 3, None)
    assert answer["scale"] == pytest.approx(6, rel=1e-5)
    assert answer["scale"] >= 6
    assert answer["variance"] == pytest.approx(2 * 36, rel=1e-4)
    assert calibrate("discrete_laplace", 0.5, None, 30, 10)["scale"] == 60
    assert calibrate("discrete_laplace", 0.5, None, 31, 10)["scale"] == 80  # four steps of ten are needed


def test_oracles_and_bounded_mechanisms_have_the_published_variances():
    for vector in (VECTORS["oue"], VECTORS["grr-10"]):
        name = {"grr": "randomized_response"}.get(vector["inputs"]["oracle"], vector["inputs"]["oracle"])
        answer = calibrate(name, vector["inputs"]["epsilon"], None, None, None, vector["inputs"].get("k", 16))
        assert answer["n_variance"] == pytest.approx(vector["expected"]["n_variance"], rel=1e-5)
    for vector in (VECTORS["duchi"], VECTORS["piecewise-1"]):
        answer = calibrate(vector["inputs"]["mechanism"], vector["inputs"]["epsilon"], None, 2)
        assert answer["variance"] == pytest.approx(vector["expected"]["worst_variance"], rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("swap", 1.0, None, 1.0, None), "mechanism 'swap': expected one of laplace, discrete_laplace"),
        (("laplace", 1.0, None, None, None), "--sensitivity: expected the most by which a value can change"),
        (("oue", 1.0, None, None, None), "--categories None: expected how many there are"),
        (("uniform", 1.0, None, 1.0, None), "mechanism 'uniform': expected one of"),
        (("laplace", 0.0, None, 1.0, None), "--epsilon 0.0: expected a number above 0"),
        (("laplace", math.nan, None, 1.0, None), "--epsilon nan"),
        (("laplace", 1.0, None, math.inf, None), "--sensitivity inf"),
        (("laplace", 1.0, None, 1.0, -1.0), "--granularity -1.0"),
        (("laplace", 1.0, 1e-6, 1.0, None), "--delta 1e-06: laplace is pure; expected none"),
        (("gaussian", 1.0, None, 1.0, None), "--delta None: expected a number between 0 and 1 for gaussian"),
        (("gaussian", 1.0, 1.0, 1.0, None), "--delta 1.0: expected a number between 0 and 1"),
        (("gaussian", 1.0, 1e-300, 1.0, None), "the sampler itself takes"),
        (("discrete_laplace", 1e300, None, 1.0, None), "expected a Fraction, 2^-30 <= scale"),
        (("laplace", 1e-320, None, 1.0, 1.0), "too large or too small"),
        (("laplace", 1.0, None, 1.0, 1e300), "too large or too small"),
        (("discrete_gaussian", 50.0, 0.9999999, 1.0, 1e-9), "too large or too small"),
    ],
)
def test_what_cannot_be_calibrated_is_told(arguments: tuple[Any, ...], what: str):
    with pytest.raises(SpecError) as raised:
        calibrate(*arguments)
    assert what in str(raised.value)
