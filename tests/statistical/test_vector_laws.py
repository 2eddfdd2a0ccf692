"""Noise on vectors and on correlated columns by a million rows, and planted bugs that the same tests must reject.

Keys are fixed. A p-value below 1e-11 raises an alarm; about 40 are looked at for right samplers.
"""

from __future__ import annotations

import math
from fractions import Fraction as F

import numpy as np
import pytest
from scipy import stats

from noiselib.mechanisms.correlated import group
from noiselib.mechanisms.vector import VectorGaussian, VectorLaplace
from noiselib.noise import Stream, derive, encode_bigint, row_tags

ROWS = 1_000_000
ALARM = 1e-11
MASTER = bytes(range(32))
POINT = np.array([5, -9, 5])


def stream_of(column: str = "a") -> Stream:
    tags = row_tags(derive(MASTER, "rows"), encode_bigint(np.arange(ROWS)))
    return Stream(derive(MASTER, column), tags, np.zeros(ROWS, np.int64))


def fit(k: np.ndarray, law) -> float:
    """Chi-square against the law, in 100 cells of about equal probability."""
    edges = np.unique(np.floor(np.quantile(k, np.arange(1, 100) / 100)))
    expected = np.diff(law.cdf(edges), prepend=0, append=1) * len(k)
    counts = np.bincount(np.searchsorted(edges, k), minlength=len(expected))
    return float(stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), len(expected) - 1))


def spread(k: np.ndarray, variance: float) -> float:
    squares = k.astype(float) ** 2
    return normal_p((squares.mean() - variance) / (squares.std() / math.sqrt(len(k))))


def dependence(a: np.ndarray, b: np.ndarray) -> float:
    """Chi-square of independence: 8 cells each by size, times the lowest bit."""

    def split(k: np.ndarray) -> np.ndarray:
        edges = np.unique(np.quantile(k, np.linspace(0, 1, 9)[1:-1]))
        return np.searchsorted(edges, k) * 2 + (k & 1)

    table = np.bincount(split(a) * 16 + split(b), minlength=256).reshape(16, 16)
    return float(stats.chi2_contingency(table[table.sum(1) > 0][:, table.sum(0) > 0], correction=False).pvalue)


def normal_p(z: float) -> float:
    return float(2 * stats.norm.sf(abs(z)))


def vector_alarms(noise: np.ndarray, law) -> set[str]:
    p = {
        "fit": min(fit(noise[:, i], law) for i in range(3)),
        "spread": min(spread(noise[:, i], law.variance) for i in range(3)),
        "components": min(dependence(noise[:, i], noise[:, j]) for i, j in ((0, 1), (0, 2), (1, 2))),
        "rows": dependence(noise[:-1, 0], noise[1:, 1]),
    }
    return {name for name, value in p.items() if not value >= ALARM}


MECHANISMS = [VectorGaussian(3, F(1), F(2**19)), VectorGaussian(3, F(1), F(5)), VectorLaplace(3, F(1), F(2**19))]


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=str)
def test_components_have_the_law_and_are_independent(mechanism):
    noise = mechanism.perturb(np.tile(POINT, (ROWS, 1)), stream_of()) - POINT
    assert vector_alarms(noise, mechanism.law) == set()


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=str)
def test_planted_bugs_in_vectors_are_rejected(mechanism):
    """Components 0 and 2 have equal values: drawn without a stream of their own they would share their noise."""
    law = mechanism.law
    noise = mechanism.perturb(np.tile(POINT, (ROWS, 1)), stream_of()) - POINT
    shared = np.stack([law.sample(stream_of().use("component", np.full(ROWS, v))) for v in POINT], 1)
    assert vector_alarms(shared, law) == {"components"}
    wider = type(mechanism)(3, F(1), mechanism.scale * F(51, 50))
    assert {"fit", "spread"} <= vector_alarms(wider.perturb(noise * 0, stream_of()), law)
    assert "fit" in vector_alarms(np.abs(noise), law)
    if law.variance < 100:
        assert "fit" in vector_alarms(noise + np.array([0, 1, 0]), law)


COVARIANCE = np.array([[4.0e6, -1.2e6, 0.6e6], [-1.2e6, 1.0e6, 0.1e6], [0.6e6, 0.1e6, 9.0e6]])


def covariance_alarms(noise: np.ndarray, covariance: np.ndarray) -> set[tuple[int, int]]:
    """Entries that are off by the central limit theorem, the variance of a product of normals being known."""
    found = noise.T.astype(float) @ noise.astype(float) / len(noise) - covariance
    error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / len(noise))
    p = 2 * stats.norm.sf(np.abs(found / error))
    return {(i, j) for i in range(3) for j in range(i + 1) if not p[i, j] >= ALARM}


def drawn(mechanisms) -> np.ndarray:
    return np.stack([m.perturb(np.zeros(ROWS, np.int64), stream_of()) for m in mechanisms], 1)


def test_correlated_noise_has_its_covariance_and_normal_margins():
    noise = drawn(group(COVARIANCE.tolist()))
    assert covariance_alarms(noise, COVARIANCE + np.eye(3) / 12) == set()
    for i in range(3):
        law = VectorGaussian(1, F(1), F(math.sqrt(COVARIANCE[i, i]))).law
        assert fit(noise[:, i], law) >= ALARM
    normals = np.linalg.solve(np.linalg.cholesky(COVARIANCE), noise.T)
    sizes = 2 * np.rint(normals * 100).astype(int)  # even: the lattice shows in the lowest bits
    assert min(dependence(sizes[i], sizes[j]) for i, j in ((0, 1), (0, 2), (1, 2))) >= ALARM


def test_planted_bugs_in_correlated_noise_are_rejected():
    right = group(COVARIANCE.tolist())
    independent = np.stack(
        [m.perturb(np.zeros(ROWS, np.int64), stream_of(str(i))) for i, m in enumerate(right)], 1
    )  # each column under a key of its own, not the group's
    assert covariance_alarms(independent, COVARIANCE) >= {(1, 0), (2, 0)}
    assert covariance_alarms(drawn(group((COVARIANCE * 1.04).tolist())), COVARIANCE) >= {(0, 0), (1, 1), (2, 2), (1, 0)}
    reused = drawn([right[0]] * 3)
    assert covariance_alarms(reused, COVARIANCE) >= {(1, 0), (2, 0), (2, 1)}
