"""Randomized response as a frequency oracle, and transition matrices: their exact laws, marginals and estimators."""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scripted
from hypothesis import given, settings
from hypothesis import strategies as st

from noiselib.mechanisms.categorical import (
    RandomizedResponse,
    Transition,
    invariant,
    resampling_matrix,
    row_tables,
    uniform_flip,
)
from noiselib.noise import Stream, derive, encode_bigint, row_tags
from noiselib.noise.alias import alias_table
from noiselib.noise.discrete import CHUNK, UNIT

VECTORS = {v["id"]: v for v in json.loads((Path(__file__).parents[1] / "vectors.json").read_text())}
F = Fraction


def stream(values: np.ndarray, name: str = "column") -> Stream:
    key = derive(bytes(32), name)
    return Stream(key, row_tags(derive(key, "rows"), encode_bigint(np.arange(len(values)))), values)


# ---- randomized response ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "epsilon"), [(2, 1.0), (3, 0.1), (5, 4.0)])
def test_randomized_response_is_its_law_exactly(k, epsilon):
    oracle = RandomizedResponse(tuple(range(k)), epsilon)
    blocks = {("", 0): scripted.both(scripted.of_table(oracle.law._table))}
    p, q = oracle.support
    laws = [scripted.law(oracle.perturb, x, blocks) for x in range(k)]
    scripted.check_oracle(oracle, laws, [{o: p if o == x else q for o in range(k)} for x in range(k)])
    assert (oracle.width, oracle.draws) == (1, 1)


def test_the_published_variance_of_randomized_response():
    vector = VECTORS["grr-10"]
    oracle = RandomizedResponse(tuple(range(vector["inputs"]["k"])), float(vector["inputs"]["epsilon"]))
    expected = vector["expected"]["n_variance"]
    assert oracle.frequency_variance(0.0) == pytest.approx(expected, rel=vector["relative_tolerance"])


def test_randomized_response_tells_what_an_estimator_needs():
    told = json.loads(json.dumps(RandomizedResponse(("a", "b", "c"), 1.0).describe()))
    assert told == {"categories": ["a", "b", "c"], "epsilon": 1.0, "p": told["p"], "q": told["q"]}
    assert told["p"] == pytest.approx(math.e / (math.e + 2))
    assert told["q"] == pytest.approx(1 / (math.e + 2))


@pytest.mark.parametrize(
    ("categories", "epsilon", "message"),
    [
        (("a",), 1.0, "categories has 1 entries, expected 2 to 8192"),
        (("a", "b", "a"), 1.0, "categories has 'a' twice"),
        (("a", "b"), 0.0, "epsilon=0.0, expected 0 < epsilon"),
        (("a", "b"), math.nan, "epsilon=nan"),
        (("a", "b"), 1e300, "epsilon=1e"),
    ],
)
def test_wrong_parameters_are_named(categories, epsilon, message):
    with pytest.raises(ValueError, match=message):
        RandomizedResponse(categories, epsilon)


# ---- transition matrices ---------------------------------------------------------------------------------------------

MATRIX = (
    (F(1, 2), F(1, 3), F(0), F(1, 6), F(0)),
    (F(0), F(1), F(0), F(0), F(0)),
    (F(1, 7), F(1, 7), F(3, 7), F(1, 7), F(1, 7)),
    (F(0), F(0), F(0), F(0), F(1)),
    (F(1, 10**12), F(0), F(0), F(0), 1 - F(1, 10**12)),
)


def test_a_transition_is_its_matrix_row_by_row():
    transition = Transition("pram", tuple("abcde"), MATRIX)
    for x, row in enumerate(MATRIX):
        table = alias_table([math.floor(p * UNIT) for p in row])
        found = scripted.law(transition.perturb, x, {("", 0): scripted.both(scripted.of_table(table))})
        assert scripted.distance(found, dict(enumerate(row))) <= transition.tv_bound
        assert all(found.get(o, 0) == 0 for o, p in enumerate(row) if p == 0)


def test_rows_of_tables_pick_as_their_tables_do():
    laws = [[5, 1, 7], [0, 0, 1], [1, 1, 1]]
    tables = row_tables(laws)
    words = np.random.default_rng(1).integers(0, 2**64, 3000, np.uint64)
    rows = np.arange(3000) % 3
    picked = tables.pick(rows, words)
    for i, weights in enumerate(laws):
        np.testing.assert_array_equal(picked[rows == i], alias_table(weights).pick(words[rows == i]))


def test_rows_do_not_depend_on_the_others():
    transition = Transition("pram", tuple("abcde"), MATRIX)
    points = np.arange(CHUNK + 1000) % 5
    published = transition.perturb(points, stream(points))
    chosen = np.array([0, 7, CHUNK - 1, CHUNK, CHUNK + 999])
    np.testing.assert_array_equal(published[chosen], transition.perturb(points[chosen], stream(points)[chosen]))
    assert published.dtype == np.int64


def test_what_is_published_is_pinned():
    points = np.arange(2000) % 5
    published = Transition("pram", tuple("abcde"), MATRIX).perturb(points, stream(points))
    digest = hashlib.sha256(published.astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "4531469d3eaf4c8e"


def test_transitions_claim_nothing():
    transition = Transition("label_flip", ("a", "b"), uniform_flip(2, F(1, 4)))
    assert transition.event() is None
    assert (transition.name, transition.width, transition.draws) == ("label_flip", 1, 1)
    told = json.loads(json.dumps(transition.describe()))
    assert told == {"categories": ["a", "b"], "matrix": [[0.75, 0.25], [0.25, 0.75]], "kept": 0.75}


def test_uniform_flips():
    assert uniform_flip(3, F(1, 2)) == (
        (F(1, 2), F(1, 4), F(1, 4)),
        (F(1, 4), F(1, 2), F(1, 4)),
        (F(1, 4), F(1, 4), F(1, 2)),
    )
    assert uniform_flip(2, F(0)) == ((1, 0), (0, 1))


def times(marginal, matrix):
    return [sum(marginal[i] * matrix[i][j] for i in range(len(matrix))) for j in range(len(matrix))]


COUNTS = st.lists(st.integers(0, 1000), min_size=2, max_size=6).filter(any)


@settings(max_examples=50, deadline=None)
@given(weights=COUNTS, rate=st.fractions(0, 1, max_denominator=100))
def test_resampling_keeps_its_law(weights, rate):
    matrix = resampling_matrix(weights, rate)
    assert times(weights, matrix) == weights
    assert all(sum(row) == 1 and min(row) >= 0 for row in matrix)
    assert matrix[0][1] == rate * weights[1] / sum(weights)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), marginal=COUNTS)
def test_the_invariant_matrix_keeps_the_marginal_exactly(data, marginal):
    k = len(marginal)
    rows = data.draw(st.lists(st.lists(st.integers(0, 9), min_size=k, max_size=k).filter(any), min_size=k, max_size=k))
    matrix = tuple(tuple(F(p, sum(row)) for p in row) for row in rows)
    kept = invariant(matrix, marginal)
    assert times(marginal, kept) == marginal
    assert all(sum(row) == 1 and min(row) >= 0 for row in kept)
    empty = [i for i, count in enumerate(marginal) if count == 0]
    assert all(kept[i][j] == 0 for i in range(k) for j in empty if marginal[i])
    Transition("pram", tuple(range(k)), kept)


def test_the_invariant_matrix_is_the_matrix_times_its_reversal():
    matrix = uniform_flip(2, F(1, 4))
    pi = [F(2, 3), F(1, 3)]  # lambda = 7/12, 5/12; given 0 it was 0 with 6/7, given 1 with 2/5
    expected = F(3, 4) * F(6, 7) + F(1, 4) * F(2, 5)
    assert invariant(matrix, pi)[0] == (expected, 1 - expected)


def test_a_matrix_that_is_not_reversed_does_not_keep_the_marginal():
    """The control of the tests above: one stage alone fails them."""
    marginal = [5, 1, 3]
    assert times(marginal, uniform_flip(3, F(1, 4))) != marginal


def test_frequencies_are_estimated_back_without_bias():
    matrix = uniform_flip(4, F(3, 10))
    transition = Transition("pram", tuple("abcd"), matrix)
    pi = np.array([0.5, 0.25, 0.125, 0.125])
    published = pi @ np.array(matrix, float)
    np.testing.assert_allclose(published @ transition.weights(np.arange(4)), pi)


def test_the_covariance_is_that_of_the_estimates():
    matrix = resampling_matrix([1, 2, 3], F(1, 2))
    transition = Transition("resampling", tuple("abc"), matrix)
    points = np.repeat(np.arange(3), [100, 60, 40])
    pi = np.bincount(points) / 200
    estimates = np.array(
        [transition.weights(transition.perturb(points, stream(points, f"{i}"))).mean(0) for i in range(3000)]
    )
    np.testing.assert_allclose(estimates.mean(0), pi, atol=0.01)
    expected = transition.covariance(pi.tolist())
    np.testing.assert_allclose(200 * np.cov(estimates.T), expected, atol=0.1 * expected.max())
    np.testing.assert_allclose(expected.sum(0), 0, atol=1e-9)  # frequencies sum to 1


def test_a_matrix_without_an_inverse_is_told():
    transition = Transition("resampling", ("a", "b"), resampling_matrix([1, 1], F(1)))
    with pytest.raises(ValueError, match="matrix without an inverse"):
        transition.weights(np.array([0]))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (((F(1), F(0)),), "matrix has 1 rows, expected 2"),
        (((F(1), F(0)), (F(1),)), r"matrix\[1\] has 1 entries, expected 2"),
        (((F(1), F(0)), (F(3, 2), F(-1, 2))), r"matrix\[1\]\[1\]=Fraction\(-1, 2\), expected a Fraction >= 0"),
        (((F(1), F(0)), (0.5, 0.5)), r"matrix\[1\]\[0\]=0.5, expected a Fraction"),
        (((F(1), F(0)), (F(1, 2), F(1, 3))), r"matrix\[1\] has sum 5/6, expected 1 exactly"),
    ],
)
def test_a_wrong_matrix_is_named_by_row_and_value(matrix, message):
    with pytest.raises(ValueError, match=message):
        Transition("pram", ("a", "b"), matrix)


def test_other_wrong_parameters_are_named():
    with pytest.raises(ValueError, match="categories has 1025 entries, expected 2 to 1024"):
        Transition("pram", tuple(range(1025)), ())
    with pytest.raises(ValueError, match=r"rate=Fraction\(3, 2\), expected a Fraction, 0 <= rate <= 1"):
        uniform_flip(3, F(3, 2))
    with pytest.raises(ValueError, match="k=1, expected at least 2"):
        uniform_flip(1, F(1, 2))
    with pytest.raises(ValueError, match=r"weights\[1\]=-1, expected >= 0"):
        resampling_matrix([1, -1], F(1, 2))
    with pytest.raises(ValueError, match="marginal with sum 0"):
        invariant(uniform_flip(2, F(1, 2)), [0, 0])
