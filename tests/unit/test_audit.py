"""The audit's arithmetic by exact values, what an attacker sees of each code, and the command."""

from __future__ import annotations

import contextlib
import io
import math
from fractions import Fraction as F
from typing import Any

import numpy as np
import pytest
from scipy import stats
from small_pipeline import Answer

from noiselib import mechanisms as m
from noiselib.accounting import Charge, Event
from noiselib.audit import Claim, Learnt, attack, audit_mechanism, clopper_pearson, draw, feature, neighbours
from noiselib.cli import main
from noiselib.errors import SpecError

KEY = bytes(range(32))
CATEGORIES = tuple("abcdef")


@pytest.mark.parametrize(("count", "draws"), [(0, 10), (1, 10), (5, 10), (10, 10), (731, 5000)])
def test_intervals_are_clopper_and_pearson_s(count: int, draws: int):
    low, high = clopper_pearson(np.array([count]), draws, 0.01)
    ideal = stats.binomtest(count, draws).proportion_ci(0.98, method="exact")
    assert (low[0], high[0]) == pytest.approx((ideal.low, ideal.high), rel=1e-9)


def test_an_interval_errs_as_rarely_as_it_says():
    """Exactly, over all counts of 50 draws."""
    counts = np.arange(51)
    low, high = clopper_pearson(counts, 50, 0.01)
    for p in np.linspace(0.01, 0.99, 99):
        chances = stats.binom.pmf(counts, 50, p)
        assert chances[low > p].sum() <= 0.01
        assert chances[high < p].sum() <= 0.01


def test_a_claim_s_bound_and_curve_by_randomized_response():
    """Two outputs, 3/4 and 1/4: epsilon is ln 3, and all of its curve is reached."""
    claim = Claim(math.log(3), 0.0, Charge.of(Event.pure_dp(math.log(3))))
    p, q = np.array([0.75]), np.array([0.25])
    assert claim.bound(p, q)[0] == pytest.approx(math.log(3))
    assert claim.excess(p, q)[0] == pytest.approx(0, abs=1e-9)
    assert claim.excess(p + 0.01, q)[0] == pytest.approx(0.01)
    with_delta = Claim(1.0, 0.25, Charge.of(Event.pure_dp(1.0)))
    assert with_delta.bound(p, q)[0] == pytest.approx(math.log(2))
    assert with_delta.bound(np.array([0.2]), q)[0] == -math.inf


def test_a_curve_shows_what_its_end_does_not():
    """Gaussian noise of half the scale: at the claimed delta a bound needs the tail, on the curve the middle is enough."""
    sigma = 4.0
    charge = Charge.of(Event.gaussian(sigma))
    claim = Claim(charge.epsilon(1e-9), 1e-9, charge)
    p, q = (np.array([stats.norm.sf(0, shift)]) for shift in (1 / sigma, -1 / sigma))
    assert claim.bound(p, q)[0] < claim.epsilon
    assert claim.excess(p, q)[0] > 0.05


def test_a_ratio_is_learnt_for_each_value_where_they_are_few():
    one, other = np.repeat([0.0, 1.0], [3000, 1000]), np.repeat([0.0, 1.0], [1000, 3000])
    learnt = Learnt.of(one, other)
    assert learnt.score(np.array([0.0, 1.0])) == pytest.approx([math.log(3), -math.log(3)], rel=1e-3)
    assert learnt.words(1.0, False).startswith("output < 1 ")
    assert learnt.words(1.0, True).startswith("1 <= output ")


def test_an_output_that_is_frequent_is_a_cell_of_its_own():
    random = np.random.default_rng(1)
    one, other = random.normal(size=20_000), random.normal(size=20_000)
    one[:200] = 0.125
    learnt = Learnt.of(one, other)
    assert learnt.score(np.array([0.125]))[0] > 4
    assert np.abs(learnt.score(np.array([np.nextafter(0.125, 0), np.nextafter(0.125, 1)]))).max() < 1


def test_too_few_outputs_are_refused():
    claim = Claim(1.0, 0.0, Charge.of(Event.pure_dp(1.0)))
    with pytest.raises(ValueError, match="999 outputs of one neighbour, expected 1000 at least"):
        attack("x", claim, np.zeros(999), np.zeros(2000))
    with pytest.raises(SpecError, match="draws 10: expected 1000 at least"):
        audit_mechanism(m.RandomizedResponse(CATEGORIES, 1.0), KEY, 10)


@pytest.mark.parametrize(
    "mechanism",
    [
        m.SymmetricUnary(CATEGORIES, 1.0),
        m.OptimizedUnary(tuple(range(100)), 1.0),
        m.LocalHashing(CATEGORIES, 1.0),
        m.SubsetSelection(CATEGORIES, 1.0),
        m.Rappor(CATEGORIES, 0.25, 0.35, 0.65),
    ],
    ids=lambda mechanism: mechanism.name,
)
def test_the_feature_of_a_report_is_which_of_the_two_it_supports(mechanism: Any):
    last = len(mechanism.categories) - 1
    codes = draw(mechanism, last, 500, KEY)
    supported = mechanism.supports(codes)
    assert feature(mechanism, codes, (1, last)).tolist() == (2 * supported[:, 1] + supported[:, last]).tolist()


def test_the_feature_of_a_hadamard_response_is_its_weight_for_either():
    mechanism = m.HadamardResponse(CATEGORIES, 2.0)
    codes = draw(mechanism, 0, 500, KEY)
    weights = np.sign(mechanism.weights(codes)).astype(int)
    halves = np.array([0, 2, 1])[weights]  # 0: another block; 1: C_x; -1: the rest of its block
    assert feature(mechanism, codes, (0, 5)).tolist() == (3 * halves[:, 0] + halves[:, 5]).tolist()


def test_neighbours_are_as_far_apart_as_the_claim_allows():
    assert (0, 7) in neighbours(m.DiscreteLaplace.calibrate(7, F(1), 1.0))
    assert (-5, 9) in neighbours(m.Duchi(F(1), -5, 9, 1.0))
    assert neighbours(m.RandomizedResponse(("a", "b"), 1.0)) == [(0, 1)]
    assert len(neighbours(m.RandomizedResponse(tuple(range(500)), 1.0))) == 64
    for kind, order in ((m.VectorLaplace, 1), (m.VectorGaussian, 2)):
        noise = kind.calibrate(5, None, 1.0, 1.0, 1e-6 if order == 2 else None)
        for one, other in neighbours(noise):
            assert 0.999 * noise.sensitivity < np.linalg.norm(np.subtract(one, other), order) <= noise.sensitivity


def test_what_claims_nothing_cannot_be_audited():
    with pytest.raises(SpecError, match="mechanism uniform: states no guarantee"):
        audit_mechanism(m.Uniform(F(1), F(5)), KEY)


# ---- the command -----------------------------------------------------------------------------------------------------


def audit(*arguments: str) -> Answer:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(["audit", *arguments])
    return Answer(code, out.getvalue(), err.getvalue())


@pytest.mark.parametrize(
    ("arguments", "subjects"),
    [
        ("laplace --epsilon 1 --sensitivity 10", 1),
        ("gaussian --epsilon 1 --delta 1e-6 --sensitivity 2 --dimension 3", 1),
        ("piecewise --epsilon 1 --sensitivity 10", 1),
        ("oue --epsilon 1 --categories 5", 1),
        ("planar_laplace --epsilon 1 --sensitivity 200", 1),
        ("rappor --f 0.5 --p 0.25 --q 0.75 --categories 3", 2),
        ("rappor --f 0.5 --p 0.25 --q 0.75 --categories 3 --bits 16 --hashes 2 --cohorts 2", 1),
    ],
)
def test_a_mechanism_is_audited_by_the_arguments_that_calibrate_takes(arguments: str, subjects: int):
    answer = audit(*arguments.split(), "--draws", "4000", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["success"]
    assert len(answer.json["findings"]) == subjects
    for found in answer.json["findings"]:
        assert found["epsilon_lower"] <= found["epsilon_lower_95"]
        assert found["draws"] == [2000, 2000]


def test_the_answer_says_what_was_claimed_and_what_was_shown():
    answer = audit("randomized_response", "--epsilon", "1", "--categories", "3", "--draws", "20000")
    assert answer.code == 0
    assert answer.out.startswith("randomized_response of category ")
    assert "claimed      epsilon 1 at delta 0" in answer.out
    assert "with confidence 1 - 1e-09" in answer.out
    assert "of 10000 of one neighbour's" in answer.out
    assert answer.out.endswith("randomized_response: no attack exceeds its claim\n")


def test_a_refuted_claim_is_said_plainly_and_exits_with_1(monkeypatch: pytest.MonkeyPatch):
    right = m.RandomizedResponse.perturb
    monkeypatch.setattr(
        m.RandomizedResponse,
        "perturb",
        lambda self, values, stream: np.where(values == 1, values, right(self, values, stream)),
    )
    answer = audit("randomized_response", "--epsilon", "1", "--categories", "3", "--draws", "20000")
    assert answer.code == 1
    assert "THE BOUND EXCEEDS THE CLAIM" in answer.out
    assert "randomized_response: REFUTED: randomized_response of category" in answer.out


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("laplace --sensitivity 1", "--epsilon: expected what laplace claims"),
        ("laplace --epsilon 1", "--sensitivity: expected the most by which a value can change"),
        ("uniform --epsilon 1", "mechanism uniform: states no guarantee to audit"),
        ("oue --epsilon 1 --dimension 2", "--dimension 2: expected none for oue"),
        ("laplace --epsilon 1 --dimension 2", "--sensitivity: expected how far apart two vectors can be"),
        ("planar_laplace --epsilon 1", "--sensitivity: expected the distance within which places are protected"),
        ("rappor --categories 3", "rappor: expected --f, --p, --q and --categories"),
        ("rappor --categories 3 --f 2 --p 0 --q 1", "rappor: f=2.0, expected 0 < f < 1"),
        ("laplace --epsilon 1 --sensitivity 1 --confidence 1", "--confidence 1.0: expected a number between 0 and 1"),
        ("nowhere", "pipeline 'nowhere': expected a spec's path"),
    ],
)
def test_a_mistake_is_told(arguments: str, what: str):
    answer = audit(*arguments.split())
    assert answer.code == 2
    assert answer.out == ""
    assert what in answer.err
