"""The tests of the noise law: a right noise passes, a wrong one fails at 100,000 rows. Real samplers, fixed keys.

Each draw below is a fixed function of its key, so a verdict seen once is seen always. The false-alarm rate itself is
computed exactly, not observed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
from scipy import stats
from small_plan import plan_of

from noiselib.law_tests import FALSE_ALARMS, LawTest, law_tests, published_limits, verdicts
from noiselib.mechanisms import Additive, RandomizedResponse
from noiselib.noise import Stream, derive, encode_bigint, row_tags
from noiselib.plan import ColumnPlan, Plan

ROWS = 100_000
Noise = dict[str, np.ndarray]
COLUMNS: dict[str, tuple[str, dict[str, Any]]] = {
    "fare": ("double", {"mechanism": "laplace", "epsilon": 1.0, "bounds": [0, 100]}),
    "miles": ("double", {"mechanism": "gaussian", "epsilon": 1.0, "delta": 1e-6, "bounds": [0, 30]}),
    "seats": ("int32", {"mechanism": "discrete_laplace", "epsilon": 1.0, "bounds": [0, 8]}),
    "stops": ("int64", {"mechanism": "discrete_gaussian", "epsilon": 1.0, "delta": 1e-6, "bounds": [0, 5]}),
    "zone": ("string", {"mechanism": "randomized_response", "epsilon": 2.0, "categories": list("abcdefgh")}),
}
PLAN = plan_of(COLUMNS)


def stream(name: str, seed: int, rows: int = ROWS) -> Stream:
    key = derive(bytes(32), str(seed), name)
    tags = row_tags(derive(key, "rows"), encode_bigint(np.arange(rows)))
    return Stream(key, tags, np.zeros(rows, np.int64))


def drawn(plan: Plan = PLAN, seed: int = 0, rows: int = ROWS) -> Noise:
    """Each column's noise, by its own mechanism and under its own key."""
    return {column.name: column.mechanism.law.sample(stream(column.name, seed, rows)) for column in plan.noised}


def count(test: LawTest, noise: Noise) -> int:
    """In how many rows the test's condition holds."""
    first = noise[test.column]
    if test.what == "within":
        held = np.abs(first) <= test.threshold
    elif test.what == "positive":
        held = first > 0
    elif test.what == "same":
        held = first == 0
    elif test.what == "near":
        held = first % test.threshold < test.threshold // 2
    else:
        held = (first > 0) == (noise[test.other] > 0)
    return int(np.count_nonzero(held))


def failures(noise: Noise, plan: Plan = PLAN, releases: int = 1) -> set[str]:
    """The checks that the noise fails: `check of column`."""
    tests = law_tests(plan, releases)
    counts, rows = [count(test, noise) for test in tests], [len(noise[test.column]) for test in tests]
    found = verdicts(tests, counts, rows)
    assert {verdict["severity"] for verdict in found} == {"error"}
    return {f"{verdict['check']} of {verdict['column']}" for verdict in found if not verdict["success"]}


# ---- the right noise -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(30))
def test_the_planned_noise_is_accepted(seed):
    assert failures(drawn(seed=seed)) == set()


@pytest.mark.parametrize("rows", [0, 1, 2, 10, 1000])
def test_the_planned_noise_is_accepted_at_any_number_of_rows(rows):
    assert all(failures(drawn(seed=seed, rows=rows)) == set() for seed in range(20))


@pytest.mark.parametrize("probability", [1e-9, 0.01, 0.3, 0.5, 0.8, 1 - 1e-9])
@pytest.mark.parametrize("rows", [1, 30, 1000, ROWS])
def test_a_false_alarm_is_as_rare_as_stated(rows, probability):
    alpha = FALSE_ALARMS / 20
    test = LawTest("x", "within", probability)
    expected = round(rows * probability)
    low, high = expected, expected
    while low > 0 and test.accepts(low - 1, rows, alpha):
        low -= 1
    while high < rows and test.accepts(high + 1, rows, alpha):
        high += 1
    law = stats.binom(rows, probability)
    assert test.accepts(expected, rows, alpha)
    assert law.cdf(low - 1) + law.sf(high) <= alpha
    assert not test.accepts(low - 1, rows, alpha)
    assert not test.accepts(high + 1, rows, alpha)


def test_all_tests_of_a_job_share_one_false_alarm_rate():
    tests = law_tests(PLAN, 1)
    assert len(tests) == 4 * 2 + 2 + 3
    edge = LawTest("x", "within", 0.5)
    count = (
        int(stats.binom.isf(FALSE_ALARMS / 2, ROWS, 0.5)) + 1
    )  # too many for one test alone, not for one of a hundred
    assert not verdicts([edge], [count], [ROWS])[0]["success"]
    assert all(verdict["success"] for verdict in verdicts([edge] * 100, [count] * 100, [ROWS] * 100))


def test_the_probabilities_are_those_of_the_law():
    for test in law_tests(PLAN, 1):
        law = PLAN.column(test.column).mechanism.law
        if test.what == "within":
            shown = float(law.pmf(np.arange(-test.threshold, test.threshold + 1)).sum())
            assert 0.1 < 1 - test.probability < 0.25
        elif test.what == "positive":
            shown = (1 - float(law.pmf(np.array([0]))[0])) / 2
        elif test.what == "same":
            shown = PLAN.column(test.column).mechanism.keep_probability
        elif test.what == "near":
            kept, size = PLAN.column(test.column).mechanism.keep_probability, test.threshold
            shown = kept + (size // 2 - 1) * (1 - kept) / (size - 1)
        else:
            continue
        assert test.probability == pytest.approx(shown, rel=1e-9)


# ---- the wrong noise -------------------------------------------------------------------------------------------------


def rescaled(name: str, factor: Fraction) -> np.ndarray:
    mechanism = PLAN.column(name).mechanism
    assert isinstance(mechanism, Additive)
    return replace(mechanism, scale=mechanism.scale * factor).law.sample(stream(name, 1))


NUMERIC = [name for name, (_, treatment) in COLUMNS.items() if treatment["mechanism"] != "randomized_response"]


@pytest.mark.parametrize("factor", [Fraction(95, 100), Fraction(105, 100)], ids=["5% less", "5% more"])
@pytest.mark.parametrize("name", NUMERIC)
def test_a_scale_wrong_by_five_percent_is_rejected(name, factor):
    assert f"noise_law_within of {name}" in failures(drawn() | {name: rescaled(name, factor)})


@pytest.mark.parametrize("name", COLUMNS)
def test_missing_noise_is_rejected(name):
    found = failures(drawn() | {name: np.zeros(ROWS, np.int64)})
    assert found >= (
        {f"noise_law_within of {name}", f"noise_law_positive of {name}"}
        if name in NUMERIC
        else {f"noise_law_same of {name}"}
    )


@pytest.mark.parametrize("name", COLUMNS)
def test_noise_on_nine_rows_of_ten_is_rejected(name):
    noise = drawn()[name].copy()
    noise[::10] = 0
    assert failures(drawn() | {name: noise})


@pytest.mark.parametrize("steps", [-1, 1])
@pytest.mark.parametrize("name", ["seats", "stops"])
def test_a_shift_by_one_step_is_rejected(name, steps):
    assert f"noise_law_positive of {name}" in failures(drawn() | {name: drawn()[name] + steps})


@pytest.mark.parametrize("change", [np.abs, np.negative, lambda noise: -np.abs(noise)], ids=["abs", "negative", "-abs"])
def test_a_sign_that_does_not_vary_is_rejected_and_a_sign_turned_round_is_not(change):
    found = failures(drawn() | {"fare": change(drawn()["fare"])})
    assert ("noise_law_positive of fare" in found) == (change is not np.negative)


@pytest.mark.parametrize("turn", [1, -1])
def test_the_noise_of_another_column_used_again_is_rejected(turn):
    """Two columns of one law under one key share their noise: whoever knows one true value has the other."""
    plan = plan_of({**COLUMNS, "tip": ("double", COLUMNS["fare"][1] | {"epsilon": 2.0})})
    assert failures(drawn(plan), plan) == set()
    reused = plan.column("tip").mechanism.law.sample(stream("fare", 0))
    found = failures(drawn(plan) | {"tip": reused * turn}, plan)  # whatever stands between the two
    assert found == {"noise_law_agree of fare, tip"}


@pytest.mark.parametrize("wrong", [0.0, 0.5, 0.95, 1.05, 2.0, np.inf])
def test_a_response_that_keeps_too_many_or_too_few_is_rejected(wrong):
    """`wrong` times as many others as planned: none at all, 5% less, 5% more, all."""
    others = 1 - PLAN.column("zone").mechanism.keep_probability
    random = np.random.default_rng(1)
    changed = random.random(ROWS) < min(1.0, others * wrong if wrong else 0.0)
    noise = np.where(changed, random.integers(1, 8, ROWS), 0)
    assert "noise_law_same of zone" in failures(drawn() | {"zone": noise})


@pytest.mark.parametrize("neighbour", [1, 7])
def test_a_response_that_always_turns_to_one_neighbour_is_rejected(neighbour):
    """It keeps as often as it should: only where the others go is wrong."""
    noise = drawn()["zone"]
    assert failures(drawn() | {"zone": np.where(noise == 0, 0, neighbour)}) == {"noise_law_near of zone"}


def test_the_noise_of_another_epsilon_is_rejected():
    other = RandomizedResponse(tuple("abcdefgh"), 2.1)
    assert "noise_law_same of zone" in failures(drawn() | {"zone": other.law.sample(stream("zone", 1))})


# ---- noise that rows share -------------------------------------------------------------------------------------------

MEMO = plan_of(
    COLUMNS,
    privacy={
        "unit": "row",
        "budget": "small",
        "limit": {"epsilon": 8.0, "delta": 1e-5},
        "memoize": ["seats", "stops", "zone"],
    },
)


@pytest.mark.parametrize("seed", range(10))
def test_memoized_noise_may_be_shared_by_the_rows_of_one_unit(seed):
    releases = 12
    noise = drawn(seed=seed)
    for name in ("seats", "stops", "zone"):
        noise[name] = np.tile(noise[name][: ROWS // releases + 1], releases)[:ROWS]
    assert failures(noise, MEMO, releases) == set()
    assert {test.shared for test in law_tests(MEMO, releases) if test.column in ("seats", "zone")} == {12}


def test_a_memoized_column_beside_a_fresh_one_raises_no_false_alarm():
    """Where zero is likely, the signs of the two agree more often in rows whose memoized noise is positive, or less often."""
    law = {"mechanism": "discrete_laplace", "epsilon": 2.0, "bounds": [0, 1]}
    privacy = {"unit": "row", "budget": "small", "limit": {"epsilon": 8.0, "delta": 1e-5}, "memoize": ["a"]}
    plan = plan_of({"a": ("int32", law), "b": ("int32", law)}, privacy=privacy)
    for seed in range(200):
        noise = drawn(plan, seed, 12 * 500)
        noise["a"] = np.repeat(noise["a"][:500], 12)
        assert failures(noise, plan, 12) == set()


def test_memoized_noise_that_is_missing_is_rejected():
    for name in ("seats", "zone"):
        assert any(name in found for found in failures(drawn() | {name: np.zeros(ROWS, np.int64)}, MEMO, 12))


# ---- what the published values alone must show -----------------------------------------------------------------------

ALPHA = FALSE_ALARMS / 20


def published(column: ColumnPlan, points: np.ndarray, seed: int = 0) -> set[str]:
    """The limits that published lattice points break."""
    found = set()
    for what, threshold, least, most in published_limits(column, len(points), ALPHA):
        beyond: Mapping[str, Callable[[], np.ndarray]] = {
            "above": partial(np.greater, points, threshold),
            "below": partial(np.less, points, threshold),
            "outside": lambda: (points < column.lattice.lower) | (points > column.lattice.upper),
        }
        if not least <= np.count_nonzero(beyond[what]()) <= most:
            found.add(what)
    return found


def true_points(column: ColumnPlan) -> dict[str, np.ndarray]:
    """True values within the bounds, as lattice points, in the ways that are furthest from one another."""
    lower, upper = column.lattice.lower, column.lattice.upper
    ends = np.where(np.arange(ROWS) % 2, lower, upper)
    return {
        "lowest": np.full(ROWS, lower),
        "highest": np.full(ROWS, upper),
        "middle": np.full(ROWS, (lower + upper) // 2),
        "both ends": ends,
        "spread": np.linspace(lower, upper, ROWS).round().astype(np.int64),
    }


@pytest.mark.parametrize("name", NUMERIC)
def test_right_noise_on_whatever_values_keeps_the_limits(name):
    column = PLAN.column(name)
    for seed in range(5):
        noise = drawn(seed=seed)[name]
        for points in true_points(column).values():
            assert published(column, points + noise) == set()


@pytest.mark.parametrize("name", NUMERIC)
def test_missing_noise_shows_in_the_published_values(name):
    column = PLAN.column(name)
    for points in true_points(column).values():
        assert published(column, points) == {"outside"}


@pytest.mark.parametrize("name", NUMERIC)
def test_a_missing_clip_shows_in_the_published_values(name):
    column, noise = PLAN.column(name), drawn()[name]
    far = 30 * (column.lattice.upper - column.lattice.lower)
    points = true_points(column)["spread"].copy()
    points[::50] = far  # two rows of a hundred lie beyond the bounds
    assert published(column, points + noise) == {"above"}
    points[::50] = -far
    assert published(column, points + noise) == {"below"}


@pytest.mark.parametrize("name", NUMERIC)
def test_far_too_much_noise_shows_in_the_published_values(name):
    column = PLAN.column(name)
    assert published(column, true_points(column)["middle"] + rescaled(name, Fraction(2))) >= {"above", "below"}


def test_limits_of_no_rows_and_of_columns_without_bounds():
    assert published(PLAN.column("fare"), np.array([], np.int64)) == set()
    metric = plan_of({"x": ("int64", {"mechanism": "discrete_laplace", "epsilon": 1.0, "protect_distance": 3})})
    assert published_limits(metric.column("x"), ROWS, ALPHA) == []
    assert published_limits(PLAN.column("zone"), ROWS, ALPHA) == []
