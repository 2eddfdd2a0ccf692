"""Estimators by algebra: fed with exact expectations they give the truth, and their variances are those of the law."""

from __future__ import annotations

import math
from fractions import Fraction as F

import numpy as np
import pytest

from noiselib import estimators as es
from noiselib.estimators.frequencies import invert
from noiselib.mechanisms.categorical import invariant, resampling_matrix, uniform_flip
from noiselib.noise import DiscreteLaplace, RoundedGaussian, RoundedLaplace, Uniform

TRUTH = np.array([0.5, 0.3, 0.15, 0.05])


def values(estimates) -> list[float]:
    return [estimate.value for estimate in estimates]


def errors(estimates) -> list[float]:
    return [estimate.standard_error for estimate in estimates]


# Estimates


def test_an_interval_is_the_normal_one():
    estimate = es.normal(2.0, 0.25, 0.99)
    assert (estimate.standard_error, estimate.confidence) == (0.5, 0.99)
    assert estimate.high - 2 == pytest.approx(0.5 * 2.5758293035489004)
    assert es.normal(1.0, -1e-20).low == 1.0
    turned = es.scaled(estimate, -2.0, 1.0)
    assert (turned.value, turned.standard_error) == (-3.0, 1.0)
    assert turned.low == pytest.approx(1 - 2 * estimate.high)


def test_combinations_have_their_covariance():
    linear = es.Linear(np.array([0.2, 0.8]), np.array([[4.0, -1.0], [-1.0, 1.0]]))
    assert errors(linear.each()) == [2.0, 1.0]
    total = linear.combine([1, 1])
    assert (total.value, total.standard_error) == (1.0, math.sqrt(3))


# Frequencies


def test_frequencies_undo_their_expectation():
    p, q, n = 0.7, 0.1, 1000
    found = es.frequencies(n * (TRUTH * p + (1 - TRUTH) * q), n, p, q)
    np.testing.assert_allclose(values(found), TRUTH, atol=1e-12)
    direct = (TRUTH * p * (1 - p) + (1 - TRUTH) * q * (1 - q)) / n / (p - q) ** 2
    np.testing.assert_allclose(errors(found), np.sqrt(direct), rtol=1e-12)


def test_the_transition_estimator_agrees_with_the_pure_one():
    """Randomized response is a transition matrix: the same values, and the same standard errors."""
    p, q, counts = 0.55, 0.15, [480, 310, 160, 50]
    matrix = np.full((4, 4), q) + np.eye(4) * (p - q)
    found, pure = es.transition(counts, matrix), es.frequencies(counts, 1000, p, q)
    np.testing.assert_allclose(values(found), values(pure), atol=1e-12)
    assert min(values(pure)) < 0  # raw
    inside = es.transition([400, 280, 200, 170], matrix), es.frequencies([400, 280, 200, 170], 1050, p, q)
    np.testing.assert_allclose(errors(inside[0]), errors(inside[1]), rtol=1e-9)


@pytest.mark.parametrize(
    "matrix",
    [
        uniform_flip(4, F(1, 5)),
        resampling_matrix([1, 2, 3, 4], F(1, 3)),
        invariant(uniform_flip(4, F(1, 10)), [4, 3, 2, 1]),
    ],
)
def test_matrices_undo_their_expectation(matrix):
    r = np.array(matrix, float)
    found = invert(TRUTH @ r * 500, r)
    np.testing.assert_allclose(found.values, TRUTH, atol=1e-12)
    noise = sum(f * (np.diag(row) - np.outer(row, row)) for f, row in zip(TRUTH, r, strict=True)) / 500
    inverse = np.linalg.inv(r.T)
    np.testing.assert_allclose(found.covariance, inverse @ noise @ inverse.T, atol=1e-15)
    assert found.combine(np.ones(4)).standard_error < 1e-8  # they sum to 1, always


def test_more_outcomes_than_categories_are_weighted_and_still_sum_to_one():
    r = np.array([[0.6, 0.2, 0.1, 0.1, 0.0], [0.1, 0.3, 0.5, 0.1, 0.0], [0.2, 0.2, 0.2, 0.4, 0.0]])
    truth = np.array([0.2, 0.7, 0.1])
    np.testing.assert_allclose(invert(truth @ r * 100, r).values, truth, atol=1e-12)
    any_counts = invert([5, 1, 40, 3, 0], r)
    assert any_counts.values.sum() == pytest.approx(1, abs=1e-12)
    assert any_counts.combine(np.ones(3)).standard_error < 1e-8


def test_hadamard_undoes_its_expectation():
    """Two blocks of two categories each, epsilon 1: P(C_x) and P(block) by their definition."""
    half, other = math.e / (math.e + 3), 1 / (math.e + 3)
    blocks, n = np.array([0.8, 0.8, 0.2, 0.2]), 700
    in_block = blocks * (half + other) + (1 - blocks) * 2 * other
    in_half = TRUTH * half + (blocks - TRUTH) * (half + other) / 2 + (1 - blocks) * other
    weight = 1 / (half - other)
    found = es.hadamard(in_half * n, in_block * n, n, weight)
    np.testing.assert_allclose(values(found), TRUTH, atol=1e-12)
    direct = weight**2 * (TRUTH * (half + other) + (blocks - TRUTH) * (half + other) + (1 - blocks) * 2 * other) - TRUTH
    np.testing.assert_allclose(errors(found), np.sqrt(direct / n), rtol=1e-12)


def rappor_case() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    filters = np.random.default_rng(2).random((3, 5, 4)) < 0.4
    return filters, 0.2 + 0.5 * filters, np.array([300.0, 500.0, 200.0])


def test_rappor_undoes_its_expectation():
    _, design, sizes = rappor_case()
    found = es.rappor(sizes[:, None] * (design @ TRUTH), sizes, design, 0.7, 0.2)
    np.testing.assert_allclose(values(found), TRUTH, atol=1e-12)
    padded = np.append(sizes, 0), np.concatenate([design, design[:1]])  # an empty cohort tells nothing
    again = es.rappor(np.append(sizes[:, None] * (design @ TRUTH), np.zeros((1, 5)), 0), *padded, 0.7, 0.2)
    np.testing.assert_allclose(errors(again), errors(found), rtol=1e-12)


def test_one_hot_rappor_is_a_pure_protocol():
    design = (0.2 + 0.5 * np.eye(4))[None]
    counts = np.array([[450, 350, 275, 225]])
    found, pure = es.rappor(counts, [1000], design, 0.7, 0.2), es.frequencies(counts[0], 1000, 0.7, 0.2)
    np.testing.assert_allclose(values(found), values(pure), atol=1e-12)
    np.testing.assert_allclose(errors(found), errors(pure), rtol=1e-9)


def test_projections():
    raw = np.array([0.6, 0.5, -0.2, 0.1])
    np.testing.assert_allclose(es.project_simplex(raw), [0.533333, 0.433333, 0, 0.033333], atol=1e-6)
    np.testing.assert_allclose(es.project_simplex([0.2, 0.8]), [0.2, 0.8])
    np.testing.assert_allclose(es.clip_negative(raw), np.array([6, 5, 0, 1]) / 12)
    grid = np.random.default_rng(1).dirichlet(np.ones(4), 20_000)
    assert np.linalg.norm(es.project_simplex(raw) - raw) <= np.linalg.norm(grid - raw, axis=1).min()


# Means


@pytest.mark.parametrize("law", [DiscreteLaplace(F(3)), RoundedGaussian(F(2)), Uniform(7)], ids=str)
def test_fourth_moments_of_narrow_laws_are_exact(law):
    k = np.arange(-400, 401)
    assert es.fourth_moment(law.cdf, law.variance) == pytest.approx(float(law.pmf(k) @ k**4.0), rel=1e-10)


@pytest.mark.parametrize(
    ("law", "kurtosis"),
    [(RoundedLaplace(F(2**19)), 6), (RoundedGaussian(F(2**19)), 3), (Uniform(2**30), 9 / 5)],
    ids=str,
)
def test_fourth_moments_of_wide_laws(law, kurtosis: float):
    assert es.fourth_moment(law.cdf, law.variance) / law.variance**2 == pytest.approx(kurtosis, rel=1e-6)


def test_the_variance_of_a_variance_by_enumeration():
    """Three values, noise -1, 0, 1 with probabilities 1/4, 1/2, 1/4: all 27 outcomes."""
    x, law = np.array([0.0, 2.0, 7.0]), {-1: 0.25, 0: 0.5, 1: 0.25}
    outcomes = [
        (np.var(x + e, ddof=1), math.prod(law[k] for k in e)) for e in np.ndindex(3, 3, 3) for e in [np.array(e) - 1]
    ]
    s, p = (np.array(column) for column in zip(*outcomes, strict=True))
    mean = s @ p
    assert mean == pytest.approx(np.var(x, ddof=1) + 0.5)
    found = es.additive_variance(mean, 3, 0.5, 0.5)
    assert found.value == pytest.approx(np.var(x, ddof=1))
    assert found.standard_error**2 == pytest.approx(s**2 @ p - mean**2)


def test_means_in_closed_form():
    assert es.additive_mean(3.0, 100, 4.0).standard_error == 0.2
    assert es.additive_sum(300.0, 100, 4.0).standard_error == 20.0
    assert errors(es.vector_mean([1.0, 2.0], 100, 4.0)) == [0.2, 0.2]
    assert es.reading_mean(3.0, 4.0, 100).standard_error == 0.2
    bit = es.one_bit_mean(0.5, 100, -30.0, 50.0)  # bounds -10 and 30, and 3/4 and 1/4 for a one
    assert (bit.value, bit.standard_error) == (10.0, 4.0)
    assert es.one_bit_mean(0.75, 100, -30.0, 50.0).value == 30.0
    masked = es.masked_mean(5.0, 9.0, 25, 100)
    assert (masked.value, masked.standard_error) == (5.0, math.sqrt(9 / 25 * 0.75))
    assert es.masked_mean(5.0, 9.0, 100, 100).standard_error == 0.0
    assert es.swap_mean(5.0, 9.0, 100, 0.5).standard_error == math.sqrt(0.75 * 9 / 100)
    assert es.swap_correlation(0.2, 101, 0.5, 0.2).value == pytest.approx(0.5)


def test_impulses_by_their_law():
    """x with probability 3/4, else -1 or 9: mean, second moment and variance by hand."""
    x, rate = np.array([2.0, 4.0, 5.0]), 0.25
    mean = 0.75 * x.mean() + 0.25 * 4
    second = 0.75 * (x**2).mean() + 0.25 * 41
    noise = (0.75 * x**2 + 0.25 * 41 - (0.75 * x + 0.25 * 4) ** 2).mean()
    found = es.impulse_mean(mean, second, 3, rate, -1.0, 9.0)
    assert found.value == pytest.approx(x.mean())
    assert found.standard_error == pytest.approx(math.sqrt(noise / 3) / 0.75)


def test_multiplicative_noise_by_its_moments():
    x, s2 = np.array([2.0, -4.0, 5.0]), 0.3**2
    second, fourth = (x**2).mean() * (1 + s2), (x**4).mean() * (1 + 6 * s2 + 3 * s2**2)
    assert es.multiplicative_mean(1.0, second, 3, 0.3).standard_error == pytest.approx(
        math.sqrt(s2 * (x**2).mean() / 3)
    )
    found = es.multiplicative_second_moment(second, fourth, 3, 0.3)
    assert found.value == pytest.approx((x**2).mean())
    assert found.standard_error == pytest.approx(math.sqrt((x**4).mean() * (4 * s2 + 2 * s2**2) / 3) / (1 + s2))


def test_scaled_and_corrected_covariances_agree():
    """The noise being alpha times the data's covariance, both are the same statistic up to a factor."""
    s = np.array([[4.0, -1.0], [-1.0, 2.0]])
    kept, inflated = es.scaled_covariance(s, 50, 0.5, True), es.scaled_covariance(s * 1.5, 50, 0.5, False)
    corrected = es.corrected_covariance(s * 1.5, 50, s * 0.5)
    for i in range(2):
        for one in (kept, inflated, corrected):
            assert values(one[i]) == pytest.approx(s[i])
        assert errors(kept[i]) == pytest.approx(errors(inflated[i]))
        assert errors(corrected[i]) == pytest.approx([1.5 * e for e in errors(kept[i])])


def test_dither_errors_are_those_of_sums_of_uniforms():
    """tpdf and the quantizer's error are three uniforms; subtracted, one is left."""
    u = (np.arange(60) + 0.5) / 60 - 0.5
    three = np.add.outer(np.add.outer(u, u), u).ravel()
    for errors_of, subtractive in ((three, False), (u, True)):
        second, fourth = (errors_of**2).mean(), (errors_of**4).mean()
        found = es.dither_variance(9.0, 100, 4 * second, subtractive, 2.0)
        expected = es.additive_variance(9.0, 100, 4 * second, 16 * fourth)
        assert (found.value, found.standard_error) == pytest.approx((expected.value, expected.standard_error), rel=1e-3)
        assert es.dither_mean(1.0, 100, "tpdf", subtractive, 2.0).standard_error == pytest.approx(
            2 * math.sqrt(second / 100), rel=1e-3
        )


def test_a_gaussian_dithers_own_bias_is_part_of_its_error():
    assert es.dither_mean(1.0, 10**12, "gaussian", False, 2.0).standard_error == pytest.approx(0.0048, rel=1e-3)


def test_the_variance_under_multiplicative_noise_by_enumeration():
    """Factors of three points with the moments of a normal one up to the fourth: unbiased, all 3^3 outcomes."""
    x, s = np.array([2.0, -4.0, 7.0]), 0.3
    law = {-math.sqrt(3): 1 / 6, 0.0: 2 / 3, math.sqrt(3): 1 / 6}  # Gauss-Hermite: exact to the fifth power
    total = 0.0
    for z in np.ndindex(3, 3, 3):
        points = [list(law)[i] for i in z]
        y = x * (1 + s * np.array(points))
        moments = tuple(float((y**k).mean()) for k in (1, 2, 3, 4))
        total += math.prod(law[p] for p in points) * es.multiplicative_variance(moments, 3, s).value
    assert total == pytest.approx(np.var(x, ddof=1))


def test_a_mask_of_a_constant_by_its_law():
    x, rate, c = np.array([2.0, 4.0, 5.0]), 0.25, -1.0
    mean, square = 0.75 * x.mean() - 0.25, 0.75 * ((x - c) ** 2).mean()
    found = es.masked_by_constant_mean(mean, square, 3, rate, c)
    assert found.value == pytest.approx(x.mean())
    noise = rate * (1 - rate) * ((x - c) ** 2).mean()
    assert found.standard_error == pytest.approx(math.sqrt(noise / 3) / 0.75)


# Histograms


def test_the_additive_matrix_is_exact_on_the_lattice():
    law = DiscreteLaplace(F(2))
    matrix = es.additive_matrix([0, 1, 2, 4], [-1, 0, 1, 3], law.cdf)
    assert matrix.shape == (3, 5)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-15)
    pmf = [law.pmf(np.arange(-200, 201) - x) for x in range(4)]
    cells = [slice(0, 199), slice(199, 200), slice(200, 201), slice(201, 203), slice(203, 401)]
    by_hand = np.array([[line[cell].sum() for cell in cells] for line in pmf])
    np.testing.assert_allclose(matrix, [by_hand[0], by_hand[1], by_hand[2:].mean(0)], atol=1e-12)


def test_wide_bins_stand_for_all_their_places():
    law = RoundedGaussian(F(1000))
    found = es.additive_matrix([0, 1000, 3000], [-500, 0, 800, 2500], law.cdf)
    exact = [
        np.diff(law.cdf(np.array([-501, -1, 799, 2499]) - np.arange(low, high)[:, None]).mean(0), prepend=0, append=1)
        for low, high in ((0, 1000), (1000, 3000))
    ]
    np.testing.assert_allclose(found, exact, atol=2e-4)


def square_wave(bins: int, cells: int) -> np.ndarray:
    """P(cell | bin): density p within b = 0.2 of the value, q elsewhere, on [-b, 1 + b], at epsilon 2."""
    b, ratio = 0.2, math.e**2
    x, edges = (np.arange(bins * 500) + 0.5) / (bins * 500), -b + np.arange(cells + 1) / cells * (1 + 2 * b)
    near = np.clip(np.minimum(edges[1:], x[:, None] + b) - np.maximum(edges[:-1], x[:, None] - b), 0, None)
    mass = ((ratio - 1) * near + np.diff(edges)) / (2 * b * ratio + 1)
    return mass.reshape(bins, 500, cells).mean(1)


@pytest.mark.parametrize("smooth", [False, True])
def test_em_finds_what_was_published(smooth: bool):
    matrix = square_wave(8, 16)
    truth = np.exp(-((np.arange(8) - 3) ** 2) / 8)
    truth /= truth.sum()
    found = es.em(truth @ matrix * 1e5, matrix, smooth)
    assert found.sum() == pytest.approx(1)
    assert (found >= 0).all()
    assert np.abs(found - truth).max() < (0.05 if smooth else 0.002)


def test_em_keeps_to_the_simplex_where_inversion_does_not():
    matrix = square_wave(8, 16)
    counts = np.random.default_rng(1).multinomial(300, np.eye(8)[2] @ matrix)
    assert invert(counts, matrix).values.min() < 0 <= es.em(counts, matrix).min()


def test_quantiles_and_mean_of_a_histogram():
    exact = es.Linear(np.array([0.1, 0.2, 0.4, 0.3]), np.zeros((4, 4)))
    edges = [0.0, 10.0, 20.0, 40.0, 50.0]
    for share, place in ((0.05, 5.0), (0.3, 20.0), (0.5, 30.0), (0.85, 45.0)):
        found = es.quantile(exact, edges, share)
        assert (found.value, found.low, found.high) == pytest.approx((place, place, place))
        assert es.plain_quantile(exact.values, edges, share) == found.value
    assert es.histogram_mean(exact, edges).value == pytest.approx(0.5 + 3 + 12 + 13.5)


def test_a_quantiles_interval_is_where_the_band_holds_the_share():
    """Two bins with opposite errors of 0.05: between the edges 0 and 2 the band has half that at 0.5 and at 1.5."""
    linear = es.Linear(np.array([0.5, 0.5]), 0.05**2 * np.array([[1.0, -1.0], [-1.0, 1.0]]))
    found = es.quantile(linear, [0, 1, 2], 0.5)
    reach = 0.05 * 1.959963984540054
    assert found.value == pytest.approx(1.0)
    assert found.low == pytest.approx(0.5 / (0.5 + reach))
    assert found.high == pytest.approx(2 - 0.5 / (0.5 + reach))
    raw = es.Linear(np.array([0.4, -0.1, 0.4, 0.3]), np.zeros((4, 4)))  # not monotone: 0.4, 0.3, 0.7, 1
    assert es.quantile(raw, [0, 1, 2, 3, 4], 0.35).value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: es.frequencies([1], 0, 0.5, 0.1), "rows=0, expected at least 1"),
        (lambda: es.frequencies([1], 9, 0.1, 0.1), "p=0.1 and q=0.1, expected"),
        (lambda: es.frequencies([-1], 9, 0.5, 0.1), "counts has a count that is negative"),
        (lambda: es.hadamard([1], [1], 9, 0.5), "weight=0.5, expected"),
        (lambda: es.transition([1, 2], [[0.5, 0.5], [0.5, 0.5]]), "matrix without full rank"),
        (lambda: es.transition([1, 2], [[0.5, 0.6], [0.5, 0.5]]), "matrix has a row that is no law"),
        (
            lambda: es.transition([1, 2, 3], [[0.5, 0.5], [0.4, 0.6]]),
            r"counts of shape \(3,\), expected one per column",
        ),
        (lambda: es.rappor([[1, 1]], [5], np.full((1, 2, 2), 0.7), 0.7, 0.2), "design without full rank"),
        (lambda: es.clip_negative([-1.0]), "values has no positive"),
        (lambda: es.normal(1.0, 1.0, 1.0), "confidence=1.0, expected"),
        (lambda: es.additive_variance(1.0, 1, 1.0, 3.0), "rows=1, expected at least 2"),
        (lambda: es.one_bit_mean(0.5, 9, 1.0, 1.0), "zero=1.0 and one=1.0, expected"),
        (lambda: es.masked_mean(0.5, 1.0, 9, 5), "kept=9, expected at most rows=5"),
        (lambda: es.impulse_mean(0.5, 1.0, 9, 1.0, 0, 1), "rate=1, expected a rate below 1"),
        (lambda: es.scaled_covariance([[1.0]], 9, 0.0, True), "alpha=0.0, expected"),
        (lambda: es.dither_mean(1.0, 9, "blue", False, 1.0), "law='blue', expected"),
        (lambda: es.masked_by_constant_mean(1.0, 1.0, 9, 1.0, 0.0), "rate=1, expected a rate below 1"),
        (lambda: es.swap_correlation(math.nan, 9, 0.1, 0.1), "correlation of a column that is constant"),
        (lambda: es.em([0, 0], [[1.0, 0.0]]), "rows=0, expected at least 1"),
        (lambda: es.em([1, 2], [[1.0, 0.0]]), "counts where no bin can have come from"),
        (lambda: es.em([1, 2], [[1.0]]), r"counts of shape \(2,\)"),
        (lambda: es.additive_matrix([0, 0], [0, 1], RoundedGaussian(F(1)).cdf), "bins with 2 numbers, expected"),
        (lambda: es.quantile(es.Linear(np.ones(1), np.zeros((1, 1))), [0, 1], 1.0), "share=1.0, expected"),
    ],
)
def test_errors_name_parameter_value_and_expectation(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    "call",
    [
        lambda: es.frequencies([0], 0, 0.5, 0.1),
        lambda: es.transition([1, 2], [[0.5, 0.5], [0.5, 0.5]]),
        lambda: es.rappor([[1, 1]], [5], np.full((1, 2, 2), 0.7), 0.7, 0.2),
        lambda: es.clip_negative([-1.0]),
        lambda: es.em([1, 2], [[1.0, 0.0]]),
        lambda: es.impulse_mean(0.5, 1.0, 9, 1.0, 0, 1),
    ],
)
def test_data_without_an_answer_are_told_from_a_wrong_call(call):
    with pytest.raises(es.NoEstimate):
        call()
    with pytest.raises(ValueError, match="expected") as wrong:
        es.normal(1.0, 1.0, 1.0)
    assert not isinstance(wrong.value, es.NoEstimate)
