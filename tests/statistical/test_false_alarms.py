"""The count of p-values: what raises an alarm, and a session that looks too often fails."""

from __future__ import annotations

import math

import false_alarms
import numpy as np
import pytest
from false_alarms import ALARM, MOST_LOOKS, RATE, SIGMAS, alarm, alarms, far
from laws import chi_square, dependence, extremes, least, shares
from scipy import stats

from noiselib.noise import RoundedLaplace

pytest_plugins = ["pytester"]


def test_the_rate_of_all_looks_together_is_half_of_what_is_stated():
    assert pytest.approx(RATE / 2) == MOST_LOOKS * ALARM
    assert 2 * stats.norm.sf(SIGMAS) == pytest.approx(ALARM, rel=1e-6)


def test_alarms_are_named_and_looks_counted():
    before = false_alarms.looked
    assert alarms({"fit": 0.5, "rows": ALARM / 2, "none": math.nan}) == {"rows", "none"}
    assert alarm(ALARM / 2)
    assert far(SIGMAS * 1.001, 1.0)
    assert not far(-SIGMAS * 0.999, 1.0)
    assert false_alarms.looked == before + 6


LOOKS_AT = """
import false_alarms
import pytest

@pytest.mark.parametrize("i", range(4))
def test_one(i):
    assert not false_alarms.alarms(dict.fromkeys(range({looks}), 0.5))
"""


@pytest.mark.parametrize(
    ("processes", "looks", "code"), [(["-p", "no:xdist"], MOST_LOOKS // 4, 0), (["-n", "2"], MOST_LOOKS // 4 + 1, 1)]
)
def test_a_session_that_looks_too_often_fails(pytester: pytest.Pytester, processes: list[str], looks: int, code: int):
    """Though all its tests passed; the looks of all its processes count."""
    here = false_alarms.__file__.rpartition("/")[0]
    pytester.makeconftest(
        f"import sys\nsys.path.insert(0, {here!r})\nfrom false_alarms import Looks\n"
        "def pytest_configure(config):\n    config.pluginmanager.register(Looks())\n"
    )
    pytester.makepyfile(LOOKS_AT.format(looks=looks))
    done = pytester.runpytest_subprocess(*processes, "-p", "no:cacheprovider")
    assert done.ret == code
    done.assert_outcomes(passed=4)
    done.stdout.fnmatch_lines([f"*{4 * looks} p-values looked at*"])


# ---- the p-values are what they say, where that can be worked out


def test_counts_of_cells_that_expect_little_are_put_together():
    counts, expected = np.array([300, 1, 2, 97, 200]), np.array([300.0, 50.0, 25.0, 25.0, 200.0])
    assert chi_square(counts, expected) == 1.0
    assert chi_square(counts, expected * 0 + 120) == pytest.approx(float(stats.chi2.sf(547.783, 4)), rel=1e-3)
    assert chi_square(np.array([1, 0]), np.array([0.0, 1.0])) == 0.0


def test_shares_are_exactly_binomial():
    assert shares(np.array([0]), np.array([40]), np.array([0.5])) == pytest.approx(2 * 0.5**40)
    assert shares(np.array([20, 0]), np.array([40, 40]), np.array([0.5, 0.5])) == pytest.approx(4 * 0.5**40)
    assert least([0.5, 0.01, 0.9]) == pytest.approx(0.03)


def test_the_largest_draw_is_neither_too_small_nor_too_large():
    law = RoundedLaplace(1000)
    assert extremes(np.repeat([9000, -9001], 500), law) > 0.01
    assert extremes(np.repeat([2000, -2001], 500), law) < ALARM
    assert extremes(np.append(np.zeros(999, np.int64), 40_000), law) < ALARM


def test_dependence_sees_a_shared_lowest_bit():
    random = np.random.default_rng(1)
    a, b = random.integers(-(10**6), 10**6, (2, 100_000))
    assert dependence(a, b) > 1e-6
    assert dependence(a, b & ~1 | a & 1) < ALARM
