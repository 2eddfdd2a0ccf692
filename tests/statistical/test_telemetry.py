"""The worked example of docs/telemetry.md: errors of a million reports against theory, and the page's numbers themselves."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from laws import alarms, least, normal_p
from scipy import stats

ROOT = Path(__file__).parents[2]


def load_example() -> Any:
    spec = importlib.util.spec_from_file_location("telemetry_example", ROOT / "benchmarks" / "telemetry.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for annotations
    spec.loader.exec_module(module)
    return module


EXAMPLE = load_example()
CASES = [(name, epsilon) for epsilon in EXAMPLE.EPSILONS for name in EXAMPLE.ORACLES]


@cache
def measure(name: str, epsilon: float) -> Any:
    return EXAMPLE.measure(name, epsilon)


def found(errors: np.ndarray, variances: np.ndarray) -> set[str]:
    """Each category's error by the central limit theorem; their squares together as a chi-square of independent ones, which
    they nearly are: errors of 50 categories are uncorrelated for OUE and OLH, and by -1/49 for GRR.
    """
    z = errors / np.sqrt(variances)
    below, above = stats.chi2.cdf((z**2).sum(), len(z) - 1), stats.chi2.sf((z**2).sum(), len(z))
    return alarms({"each": least(normal_p(one) for one in z), "together": min(1.0, 2 * min(below, above))})


@pytest.mark.parametrize(("name", "epsilon"), CASES)
def test_errors_are_those_of_theory(name: str, epsilon: float):
    one = measure(name, epsilon)
    assert one.truth.sum() == pytest.approx(1)
    assert found(one.errors, one.variances) == set()
    assert one.held >= stats.binom.ppf(1e-6, 50, 0.95)


@pytest.mark.parametrize(("name", "epsilon"), CASES)
def test_an_estimator_without_its_correction_is_rejected(name: str, epsilon: float):
    one = measure(name, epsilon)
    assert found(one.uncorrected - one.truth, one.variances) == {"each", "together"}
    normalized = one.uncorrected / one.uncorrected.sum()
    assert found(normalized - one.truth, one.variances) == {"each", "together"}


@pytest.mark.parametrize(("name", "epsilon"), CASES)
def test_a_correction_by_another_epsilon_is_rejected(name: str, epsilon: float):
    """A fifth smaller, as a reader would have it who takes another release's manifest."""
    one = measure(name, epsilon)
    p, q = map(float, type(one.mechanism)(one.mechanism.categories, 0.8 * epsilon).support)
    assert "each" in found((one.uncorrected - q) / (p - q) - one.truth, one.variances)


@pytest.mark.parametrize(("name", "epsilon"), CASES)
def test_errors_three_times_as_large_or_small_are_rejected(name: str, epsilon: float):
    """What 50 errors can tell at this rate of false alarms; the intervals' coverage is held by a thousand releases elsewhere."""
    one = measure(name, epsilon)
    assert "together" in found(3 * one.errors, one.variances)
    assert "together" in found(one.errors / 3, one.variances)


def test_the_page_shows_these_numbers():
    """If not: python benchmarks/telemetry.py."""
    page = (ROOT / "docs" / "telemetry.md").read_text("utf-8")
    assert EXAMPLE.HEADER + "\n" in page
    for name, epsilon in CASES:
        assert EXAMPLE.line(measure(name, epsilon)) + "\n" in page
