"""Numbers published by others, or recomputed from their formulas: tests/vectors.json, with a source each."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from noiselib.accounting import (
    Charge,
    Event,
    discrete_gaussian_delta,
    discrete_laplace_delta,
    gaussian_delta,
    gaussian_sigma,
    zcdp_epsilon,
)

VECTORS = json.loads((Path(__file__).parents[1] / "vectors.json").read_text())


def vectors(prefix: str) -> list[Any]:
    found = [pytest.param(vector, id=vector["id"]) for vector in VECTORS if vector["id"].startswith(prefix)]
    assert found, f"no vector {prefix}*"
    return found


def check(vector: dict[str, Any], name: str, value: float) -> None:
    assert value == pytest.approx(vector["expected"][name], rel=vector["relative_tolerance"])


@pytest.mark.parametrize("vector", vectors("gaussian-delta"))
def test_gaussian_delta(vector):
    inputs = vector["inputs"]
    check(vector, "delta", gaussian_delta(inputs["sigma"], inputs["epsilon"], inputs["sensitivity"]))


@pytest.mark.parametrize("vector", vectors("gaussian-sigma"))
def test_gaussian_sigma_is_never_below(vector):
    inputs = vector["inputs"]
    sigma = gaussian_sigma(inputs["epsilon"], inputs["delta"], inputs["sensitivity"])
    check(vector, "sigma", sigma)
    assert sigma >= vector["expected"]["sigma"]


@pytest.mark.parametrize("vector", vectors("dgauss-delta"))
def test_discrete_gaussian_delta(vector):
    inputs = vector["inputs"]
    check(
        vector, "delta", discrete_gaussian_delta(math.sqrt(inputs["sigma2"]), inputs["epsilon"], inputs["sensitivity"])
    )


@pytest.mark.parametrize("vector", vectors("dlap-delta"))
def test_discrete_laplace_delta(vector):
    inputs = vector["inputs"]
    check(vector, "delta", discrete_laplace_delta(1 / inputs["a"], inputs["epsilon"], inputs["sensitivity"]))


@pytest.mark.parametrize("vector", vectors("zcdp"))
def test_zcdp_epsilon(vector):
    check(vector, "epsilon", zcdp_epsilon(**vector["inputs"]))


@pytest.mark.parametrize("vector", vectors("pld"))
def test_composition(vector):
    events = [Event(kind, (noise_multiplier,)) for kind, noise_multiplier in vector["inputs"]["events"]]
    check(vector, "delta", Charge.of(*events).delta(vector["inputs"]["epsilon"]))
