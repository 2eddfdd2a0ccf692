"""Noise on vectors: the sensitivity bounds what can happen, and the guarantee follows from it."""

from __future__ import annotations

import math
from fractions import Fraction as F

import numpy as np
import pytest

from noiselib import accounting
from noiselib.mechanisms.vector import VectorGaussian, VectorLaplace, sensitivity
from noiselib.noise import RoundedGaussian, Stream, derive, encode_bigint, row_tags

MASTER = bytes(range(32))


def stream_of(rows: int) -> Stream:
    return Stream(MASTER, row_tags(derive(MASTER, "rows"), encode_bigint(np.arange(rows))), np.zeros(rows, np.int64))


def clipped(vectors: np.ndarray, clip_norm: float, order: int, step: F) -> np.ndarray:
    """What is done to a vector before the mechanism: clipped in float64, then rounded to the lattice."""
    norms = np.abs(vectors).sum(1) if order == 1 else np.sqrt((vectors**2).sum(1))
    factor = clip_norm / np.maximum(norms, clip_norm)
    return np.rint(vectors * factor[:, None] / float(step)).astype(np.int64)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dimension", [1, 2, 7, 64])
@pytest.mark.parametrize("step", [F(2), F(1, 3), F(1, 2**20)], ids=str)
def test_no_two_clipped_vectors_are_further_apart_than_the_sensitivity(order: int, dimension: int, step: F):
    """Opposite vectors on the sphere, axes, diagonals and random ones; coordinates that rounding takes outwards too."""
    generator = np.random.default_rng(5)
    directions = np.concatenate([np.eye(dimension), np.ones((1, dimension)), generator.normal(size=(400, dimension))])
    points = clipped(directions * 10.0 ** generator.uniform(-1, 9, (len(directions), 1)), 9.5, order, step)
    apart = points - clipped(-directions * 1e6, 9.5, order, step)
    bound = sensitivity(dimension, step, 9.5, order)
    squares = max(sum(int(x) ** 2 for x in row) for row in apart)
    if order == 2:
        assert squares <= bound**2
    else:
        assert max(sum(abs(int(x)) for x in row) for row in apart) <= bound


@pytest.mark.parametrize("order", [1, 2])
def test_a_missing_clip_breaks_the_bound(order: int):
    """The negative control: vectors a quarter longer than the norm are further apart."""
    vectors = np.array([[12.0, 0.0, 0.0], [-12.0, 0.0, 0.0]])
    points = clipped(vectors, 1e9, order, F(1, 64))
    assert np.linalg.norm(points[0] - points[1], order) > sensitivity(3, F(1, 64), 9.5, order)


def test_the_rounding_is_reached():
    """2 vectors of 4 components at half steps: sqrt(4) steps in L2, 4 in L1, more than the unrounded distance."""
    low, high = np.full((1, 4), -0.4999999), np.full((1, 4), 0.5000001)
    for order, unrounded, bound in ((2, 2.0, 2.0), (1, 4.0, 4.0)):
        apart = np.rint(high) - np.rint(low)
        assert np.linalg.norm(apart.ravel(), order) == bound  # the halves just below and above: 1 step each
        assert sensitivity(4, F(1), unrounded / 2, order) >= unrounded + bound


def test_sensitivity_in_closed_form():
    assert sensitivity(3, F(1, 2), 5.0, 1) == 20 * (1 + F(11, 2**52)) + 3
    root = sensitivity(2, F(1, 2), 5.0, 2) - 20 * (1 + F(10, 2**52))
    assert 2 < root**2 < 2 + F(1, 2**60)


@pytest.mark.parametrize("dimension", [1, 16, 300])
def test_calibration_is_the_scalar_mechanisms(dimension: int):
    gaussian = VectorGaussian.calibrate(dimension, None, 2.0, 0.7, 1e-6)
    assert 2**18 <= gaussian.scale <= 2**19 * F(11, 10)
    assert gaussian.sensitivity == sensitivity(dimension, gaussian.step, 2.0, 2)
    assert float(gaussian.scale / gaussian.sensitivity) == accounting.gaussian_sigma(0.7, 1e-6 * 0.999)
    event = gaussian.event()
    assert event.kind == "gaussian"
    assert 0 < event.slack <= 1e-9
    assert event.delta(0.7) + event.slack <= 1e-6
    laplace = VectorLaplace.calibrate(dimension, F(1, 2**10), 2.0, 0.7)
    assert laplace.scale == sensitivity(dimension, F(1, 2**10), 2.0, 1) / F(7, 10)
    event = laplace.event()
    assert (event.kind, event.parameters) == ("pure_dp", (0.7,))
    assert event.slack >= laplace.tv_bound == dimension * laplace.law.tv_bound


def test_the_scalar_laplace_curve_bounds_the_vectors():
    """The hockey-stick divergence of two shifts s1, s2 at once is at most that of s1 + s2, by sums on a fine lattice."""
    scale, k = 40.0, np.arange(-1200, 1201)
    mass = np.exp(-np.abs(k) / scale)
    mass /= mass.sum()
    shifted = {s: np.exp(-np.abs(k - s) / scale) / np.exp(-np.abs(k) / scale).sum() for s in (10, 30, 40)}
    for epsilon in (0.0, 0.2, 0.5, 0.9):
        both = np.outer(mass, mass) - math.exp(epsilon) * np.outer(shifted[10], shifted[30])
        scalar = mass - math.exp(epsilon) * shifted[40]
        assert 0 < np.maximum(both, 0).sum() < np.maximum(scalar, 0).sum()


def test_components_draw_from_streams_of_their_own():
    points = np.array([[5, -7, 5]] * 40)
    mechanism = VectorGaussian(3, F(1), F(1000))
    codes, stream = mechanism.perturb(points, stream_of(40)), stream_of(40)
    for i in range(3):
        expected = points[:, i] + RoundedGaussian(F(1000)).sample(stream.use(f"component {i}", points[:, i]))
        np.testing.assert_array_equal(codes[:, i], expected)
    assert len(np.unique(codes)) > 115
    assert codes.shape == (40, 3) == (40, mechanism.width)
    assert mechanism.draws == 3
    assert mechanism.perturb(points[:0], stream_of(0)).shape == (0, 3)


def test_a_components_value_enters_its_words():
    points = np.array([[5, -7], [5, -7]])
    other = points + np.array([[0, 1], [0, 0]])
    mechanism, stream = VectorLaplace(2, F(1), F(2**30)), stream_of(2)
    noise = mechanism.perturb(points, stream) - points
    changed = mechanism.perturb(other, stream) - other
    assert (noise != changed).tolist() == [[False, True], [False, False]]


def test_without_a_guarantee_there_is_no_event():
    mechanism = VectorGaussian(4, F(1, 8), F(80))
    assert mechanism.event() is None
    assert mechanism.variance == pytest.approx(100 + 1 / 12 / 64)
    assert mechanism.mean_abs == pytest.approx(10 * math.sqrt(2 / math.pi), rel=1e-4)
    description = mechanism.describe()
    assert description["scale"] == 10.0
    assert description["epsilon"] is description["sensitivity"] is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sensitivity(0, F(1), 1.0, 2), "dimension=0, expected an integer"),
        (lambda: sensitivity(True, F(1), 1.0, 2), "dimension=True"),
        (lambda: sensitivity(2, F(1), 1.0, 3), "order=3, expected 1 or 2"),
        (lambda: sensitivity(2, F(0), 1.0, 2), "step=0, expected a step > 0"),
        (lambda: sensitivity(2, F(1, 2**53), 1.0, 2), "expected a step > 0 of which"),
        (lambda: sensitivity(2, F(1), math.inf, 2), "clip_norm=inf, expected"),
        (lambda: VectorGaussian(0, F(1), F(1)), "dimension=0, expected"),
        (lambda: VectorGaussian(2, F(-1), F(1)), r"step=Fraction\(-1, 1\), expected"),
        (lambda: VectorGaussian.calibrate(2, None, 1.0, 1.0), "delta=None, expected"),
        (lambda: VectorGaussian.calibrate(2, None, 1.0, 1.0, 1e-12), "delta=1e-12, expected at least"),
        (lambda: VectorLaplace.calibrate(2, None, 1.0, 1.0, 1e-6), "delta=1e-06, expected None"),
        (lambda: VectorLaplace.calibrate(2, None, 1.0, 0.0), "epsilon=0.0, expected a finite epsilon > 0"),
        (lambda: VectorLaplace(2, F(1), F(1)).perturb(np.zeros((3, 1), np.int64), stream_of(3)), r"shape \[3, 1\]"),
    ],
)
def test_errors_name_parameter_value_and_expectation(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
