"""Noise on vectors and on correlated columns by a million rows, and planted bugs that the same tests must reject."""

from __future__ import annotations

import math
from fractions import Fraction as F
from itertools import combinations

import numpy as np
import pytest
from laws import ROWS, alarms, dependence, fit, least, normal_p, sharing, spread, stream_of

from noiselib.mechanisms.correlated import group
from noiselib.mechanisms.vector import VectorGaussian, VectorLaplace

POINT = np.array([5, -9, 5])
PAIRS = list(combinations(range(3), 2))


def vector_alarms(noise: np.ndarray, law) -> set[str]:
    columns = noise.T
    return alarms(
        {
            "fit": least(fit(k, law) for k in columns),
            "spread": least(spread(k.astype(float), 0.0, law.variance) for k in columns),
            "components": least(dependence(columns[i], columns[j]) for i, j in PAIRS),
        }
    )


def shared(mechanism, **planted) -> set[str]:
    return alarms(sharing(lambda stream: mechanism.perturb(np.tile(POINT, (ROWS, 1)), stream)[:, 1], 0, **planted))


MECHANISMS = [VectorGaussian(3, F(1), F(2**19)), VectorGaussian(3, F(1), F(5)), VectorLaplace(3, F(1), F(2**19))]


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=str)
def test_components_have_the_law_and_are_independent(mechanism):
    noise = mechanism.perturb(np.tile(POINT, (ROWS, 1)), stream_of("a", 0)) - POINT
    assert vector_alarms(noise, mechanism.law) == shared(mechanism) == set()


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=str)
def test_planted_bugs_in_vectors_are_rejected(mechanism):
    """Components 0 and 2 have equal values: drawn without a stream of their own they would share their noise."""
    law = mechanism.law
    noise = mechanism.perturb(np.tile(POINT, (ROWS, 1)), stream_of("a", 0)) - POINT
    by_value = np.stack([law.sample(stream_of("a", 0).use("component", np.full(ROWS, v))) for v in POINT], 1)
    assert vector_alarms(by_value, law) == {"components"}
    for factor in (F(49, 50), F(51, 50)):
        off = type(mechanism)(3, F(1), mechanism.scale * factor)
        assert {"fit", "spread"} <= vector_alarms(off.perturb(noise * 0, stream_of("a", 0)), law)
    assert shared(mechanism, other_column="a") == {"columns"}
    assert shared(mechanism, other_release="1") == {"releases"}
    assert shared(mechanism, id_mask=~1) >= {"rows"}
    assert "fit" in vector_alarms(np.abs(noise), law)
    if law.variance < 100:
        assert "fit" in vector_alarms(noise + np.array([0, 1, 0]), law)


COVARIANCE = np.array([[4.0e6, -1.2e6, 0.6e6], [-1.2e6, 1.0e6, 0.1e6], [0.6e6, 0.1e6, 9.0e6]])


def covariance_alarms(noise: np.ndarray, covariance: np.ndarray) -> set[str]:
    """Entries ij that are off by the central limit theorem, the variance of a product of normals being known."""
    found = noise.T.astype(float) @ noise.astype(float) / len(noise) - covariance
    error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / len(noise))
    return alarms({f"{i}{j}": normal_p(found[i, j] / error[i, j]) for i in range(3) for j in range(i + 1)})


def drawn(mechanisms) -> np.ndarray:
    return np.stack([m.perturb(np.zeros(ROWS, np.int64), stream_of("a", 0)) for m in mechanisms], 1)


def test_correlated_noise_has_its_covariance_and_normal_margins():
    noise = drawn(group(COVARIANCE.tolist()))
    assert covariance_alarms(noise, COVARIANCE + np.eye(3) / 12) == set()
    laws = [VectorGaussian(1, F(1), F(math.sqrt(COVARIANCE[i, i]))).law for i in range(3)]
    assert alarms({f"fit {i}": fit(noise[:, i], law) for i, law in enumerate(laws)}) == set()
    normals = np.linalg.solve(np.linalg.cholesky(COVARIANCE), noise.T)
    sizes = 2 * np.rint(normals * 100).astype(int)  # even: the lattice shows in the lowest bits
    assert alarms({f"{i}{j}": dependence(sizes[i], sizes[j]) for i, j in PAIRS}) == set()


def test_planted_bugs_in_correlated_noise_are_rejected():
    right = group(COVARIANCE.tolist())
    independent = np.stack(
        [m.perturb(np.zeros(ROWS, np.int64), stream_of(str(i), 0)) for i, m in enumerate(right)], 1
    )  # each column under a key of its own, not the group's
    assert covariance_alarms(independent, COVARIANCE) >= {"10", "20"}
    for factor in (0.98**2, 1.02**2):
        off = drawn(group((COVARIANCE * factor).tolist()))
        assert covariance_alarms(off, COVARIANCE) >= {"00", "11", "22", "10"}
    reused = drawn([right[0]] * 3)
    assert covariance_alarms(reused, COVARIANCE) >= {"10", "20", "21"}
