"""Correlated noise: the factor, the shared variables, the kept and the inflated covariance."""

from __future__ import annotations

import hashlib
import math
from fractions import Fraction as F

import numpy as np
import pytest
from false_alarms import far

from noiselib.mechanisms.correlated import (
    CorrelatedGaussian,
    cholesky,
    covariance_from_sums,
    group,
    means_from_sums,
)
from noiselib.noise import RoundedGaussian, Stream, derive, encode_bigint, row_tags

MASTER = bytes(range(32))
COVARIANCE = ((4.0e6, -1.2e6, 0.6e6), (-1.2e6, 1.0e6, 0.1e6), (0.6e6, 0.1e6, 9.0e6))


def stream_of(rows: int) -> Stream:
    return Stream(MASTER, row_tags(derive(MASTER, "rows"), encode_bigint(np.arange(rows))), np.zeros(rows, np.int64))


def sums_of(x: np.ndarray) -> tuple[int, list[int], list[list[int]]]:
    columns = [[int(v) for v in column] for column in x.T]
    products = [[sum(a * b for a, b in zip(p, q, strict=True)) for q in columns] for p in columns]
    return len(x), [sum(column) for column in columns], products


def test_noise_is_the_factors_of_shared_normals():
    first, second = group(((9.0, 3.0), (3.0, 5.0)))
    assert first.factors == (3.0,)
    assert second.factors == (1.0, 2.0)
    stream = stream_of(50)
    z = [RoundedGaussian(F(2**20)).sample(stream.use(f"factor {i}")) / 2**20 for i in range(2)]
    points = np.arange(50) * 10**15 - 7  # beyond 2^53: the sum is exact
    np.testing.assert_array_equal(first.perturb(points, stream), points + np.rint(3 * z[0]).astype(int))
    np.testing.assert_array_equal(second.perturb(points, stream), points + np.rint(z[0] + 2 * z[1]).astype(int))
    assert (first.draws, second.draws) == (1, 2)
    assert second.tv_bound == 2 * first.tv_bound <= 2**-40
    assert first.event() is None


def test_kept_values_move_to_the_mean():
    points, stream = np.array([100, 300, -50, 0]), stream_of(4)
    kept, inflated = group([[400.0]], 3.0, [90.0])[0], group([[400.0]], 3.0)[0]
    noise = stream_noise(inflated, stream)
    np.testing.assert_array_equal(kept.perturb(points, stream), np.rint(90 + (points - 90 + noise) / 2))
    assert kept.shrink == 0.5
    assert inflated.factors == kept.factors == (math.sqrt(1200),)
    assert kept.variance_steps == pytest.approx(300 + 1 / 12)


def stream_noise(mechanism: CorrelatedGaussian, stream: Stream) -> np.ndarray:
    z = RoundedGaussian(F(2**20)).sample(stream.use("factor 0")) / 2**20
    return mechanism.factors[0] * z


def test_sampled_codes_are_pinned():
    """The same on every machine; changing them changes every release."""
    digest, points = hashlib.sha256(), np.arange(2000) * 37 - 1000
    for mechanism in (*group(COVARIANCE), *group(COVARIANCE, 0.5, (10.5, -3.25, 1e6))):
        digest.update(mechanism.perturb(points, stream_of(2000)).astype("<i8").tobytes())
    assert digest.hexdigest() == "59121a30c924d12e322963928c36a17210c9ebbe32612aee66006f5b0a7ba88f"


def test_a_draw_depends_on_its_row_alone():
    mechanism, stream, points = group(COVARIANCE, 0.5, (1.0, 2.0, 3.0))[2], stream_of(3000), np.arange(3000)
    whole = mechanism.perturb(points, stream)
    order = np.random.default_rng(7).permutation(3000)
    np.testing.assert_array_equal(mechanism.perturb(points[order], stream[order]), whole[order])
    assert mechanism.perturb(points[:0], stream[:0]).shape == (0,)


def test_covariances_from_integer_sums_are_exact():
    """Far from 0, where the textbook formula in floats loses everything."""
    x = np.array([[2**45 + 1, 5], [2**45 + 2, 9], [2**45 + 4, 1]])
    n, sums, products = sums_of(x)
    assert covariance_from_sums(n, sums, products) == ((7 / 3, -4.0), (-4.0, 16.0))
    assert means_from_sums(n, sums) == (2**45 + 7 / 3, 5.0)
    floats = x.astype(float)
    assert (floats[:, 0] @ floats[:, 0] - floats[:, 0].sum() ** 2 / 3) / 2 != pytest.approx(7 / 3, rel=0.1)


def test_cholesky_reproduces_the_matrix():
    lower = np.array(cholesky(COVARIANCE))
    np.testing.assert_allclose(lower @ lower.T, COVARIANCE, rtol=1e-12)
    np.testing.assert_array_equal(lower, np.tril(lower))


def test_semidefinite_matrices_have_a_factor():
    """A constant column, and one that is a sum of the others."""
    x = np.random.default_rng(1).integers(-500, 500, (100, 2))
    x = np.column_stack([x, np.full(100, 7), x.sum(1), x[:, 0] * 3])
    covariance = covariance_from_sums(*sums_of(x))
    lower = np.array(cholesky(covariance))
    np.testing.assert_allclose(lower @ lower.T, covariance, rtol=1e-9, atol=1e-4)
    assert lower[2].tolist() == [0.0] * 5
    assert np.diag(lower).nonzero()[0].tolist() == [0, 1]
    codes = group(covariance)[2].perturb(np.arange(5), stream_of(5))
    assert codes.tolist() == [0, 1, 2, 3, 4]


def moments(x: np.ndarray, mechanisms: tuple[CorrelatedGaussian, ...], replicas: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean over replicas of the sample covariance, and of the means."""
    n, d = x.shape
    stream = stream_of(n * replicas)
    columns = [m.perturb(np.tile(x[:, j], replicas), stream) for j, m in enumerate(mechanisms)]
    y = np.stack(columns, 1).reshape(replicas, n, d)
    return np.mean([np.cov(one.T) for one in y], 0), y.mean((0, 1))


def test_the_covariance_is_kept_or_inflated():
    """400 replicas of 200 rows: entries as near as chance allows; the inflated one is far from the data's."""
    x = np.rint(np.random.default_rng(3).multivariate_normal([1000, -50, 7], COVARIANCE, 200)).astype(np.int64)
    n, sums, products = sums_of(x)
    covariance, means, alpha = covariance_from_sums(n, sums, products), means_from_sums(n, sums), 0.6
    c = np.array(covariance)
    error = np.sqrt((1 - 1.6**-2) * (np.outer(np.diag(c), np.diag(c)) + c**2) / 199 / 400)
    kept, kept_means = moments(x, group(covariance, alpha, means), 400)
    inflated, _ = moments(x, group(covariance, alpha), 400)
    assert not far(np.abs((kept - c) / error).max(), 1)
    assert not far(np.abs((inflated / 1.6 - c) / error).max(), 1)
    assert far(np.abs((inflated - c) / error / 1.6).diagonal().min(), 1)
    assert not far(np.abs((kept_means - means) / np.sqrt(np.diag(c) / 80_000)).max(), 1)


def test_describe():
    assert group([[4.0]])[0].describe() == {
        "factors": [2.0],
        "shrink": 1.0,
        "centre": 0.0,
        "variance_steps": 4 + 1 / 12,
    }


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: cholesky([[1.0, 2.0], [2.0, 1.0]]), r"least eigenvalue -1 \(in the direction .*positive"),
        (lambda: cholesky([[-1.0]]), "least eigenvalue -1"),
        (lambda: cholesky([[0.0, 1.0], [1.0, 5.0]]), "least eigenvalue -0.19"),
        (lambda: cholesky([[1.0, 2.0], [2.5, 9.0]]), r"covariance\[0\]\[1\]=2.0 and \[1\]\[0\]=2.5, expected"),
        (lambda: cholesky([[1.0, 2.0]]), r"rows of \[2\] entries, expected a square matrix"),
        (lambda: cholesky([]), "expected a square matrix"),
        (lambda: cholesky([[math.nan]]), "expected a finite symmetric"),
        (lambda: covariance_from_sums(1, [3], [[9]]), "rows=1, expected at least 2"),
        (lambda: covariance_from_sums(2, [3], [[9, 1]]), r"products has \[2\] entries, expected 1 times 1"),
        (lambda: means_from_sums(0, [0]), "rows=0, expected"),
        (lambda: group([[1.0]], -1.0), "alpha=-1.0, expected"),
        (lambda: group([[1.0]], None, [0.0]), r"means=\[0.0\], expected alpha \(here None\)"),
        (lambda: CorrelatedGaussian(()), r"factors=\(\), expected"),
        (lambda: CorrelatedGaussian((1.0,), 0.0), "shrink=0.0, expected"),
        (lambda: CorrelatedGaussian((1.0,), 0.5, math.inf), "centre=inf, expected"),
    ],
)
def test_errors_name_parameter_value_and_expectation(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
