"""The plan: which mechanism fits which type, bounds and sensitivity on the lattice, what is refused, what a release is."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from small_plan import PUBLIC, plan_of, planned, spec_of, table_of

from noiselib.accounting import Charge
from noiselib.column_spec import contradictions, parse_column
from noiselib.errors import SpecError
from noiselib.mechanisms import Additive
from noiselib.mechanisms.additive import exact
from noiselib.plan import ColumnPlan, canonical, describe_column, digest, expected_errors, make_plan, relation
from noiselib.yaml_text import Positions

LAPLACE = {"mechanism": "laplace", "epsilon": 1.0, "bounds": [0, 100]}
GAUSSIAN = {"mechanism": "gaussian", "epsilon": 1.0, "delta": 1e-6, "bounds": [0, 100]}
DISCRETE_LAPLACE = {"mechanism": "discrete_laplace", "epsilon": 1.0, "bounds": [0, 100]}
DISCRETE_GAUSSIAN = {"mechanism": "discrete_gaussian", "epsilon": 1.0, "delta": 1e-6, "bounds": [0, 100]}
RESPONSE = {"mechanism": "randomized_response", "epsilon": 1.0}
FLIP = {"mechanism": "label_flip", "categories": ["a", "b", "c"]}
TREATMENTS: dict[str, dict[str, Any]] = {
    "laplace": LAPLACE,
    "gaussian": GAUSSIAN,
    "discrete_laplace": DISCRETE_LAPLACE | {"granularity": 1},
    "discrete_gaussian": DISCRETE_GAUSSIAN | {"granularity": 1},
    "randomized_response": RESPONSE,
    "pseudonymize": {"pseudonymize": True},
    "keep": PUBLIC,
    "drop": {"drop": True},
}
CATEGORIES: dict[str, list[Any]] = {"string": ["a", "b"], "int32": [1, 2], "int64": [1, 2]}

INTEGERS = {"discrete_laplace", "discrete_gaussian", "randomized_response", "pseudonymize"}
FRACTIONS = {"laplace", "gaussian", "discrete_laplace", "discrete_gaussian"}
FITS = {
    "int32": INTEGERS,
    "int64": INTEGERS,
    "float": FRACTIONS,
    "double": FRACTIONS,
    "decimal(9,2)": FRACTIONS,
    "decimal(18,18)": set(),  # 100 does not fit
    "decimal(19,2)": set(),
    "boolean": {"randomized_response"},
    "string": {"randomized_response", "pseudonymize"},
    "date": set(),
    "timestamp": set(),
    "timestamp_ntz": set(),
    "int8": set(),
    "binary": set(),
    "list<element: int32>": set(),
}


@pytest.mark.parametrize("treatment", TREATMENTS)
@pytest.mark.parametrize("kind", FITS)
def test_a_mechanism_fits_a_type_or_is_refused_by_name(kind, treatment):
    declared = TREATMENTS[treatment]
    if treatment == "randomized_response" and kind != "boolean":
        declared = declared | {"categories": CATEGORIES.get(kind, ["a", "b"])}
    fits = FITS[kind] | ({"drop"} if kind.startswith("list") else {"keep", "drop"})
    if treatment in fits:
        column = planned(kind, **declared)
        assert column.type == kind
        assert column.treatment == (treatment if treatment in ("keep", "drop", "pseudonymize") else "mechanism")
        assert column.mechanism is None or column.mechanism.name == treatment
    else:
        with pytest.raises(SpecError, match=r"^spec.yaml:1: column 'x': ") as raised:
            planned(kind, **declared)
        assert kind in str(raised.value)
        assert treatment in str(raised.value) or kind == "decimal(18,18)"


def test_uniform_noise_is_planned_where_no_privacy_is_claimed():
    column = planned("double", "augmentation", mechanism="uniform", scale=0.5)
    assert column.guarantee == ""
    assert column.mechanism.event() is None
    assert expected_errors(column, 100)[0] == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "declared", "what"),
    [
        ("double", DISCRETE_LAPLACE, "discrete_laplace on a float column: expected granularity"),
        ("int64", LAPLACE, "laplace draws fractions but the type is int64: use discrete_laplace"),
        ("int32", DISCRETE_LAPLACE | {"bounds": [0, 2.5]}, "expected multiples of 1 that int32 can hold"),
        ("int32", DISCRETE_LAPLACE | {"bounds": [0, 2**31]}, "that int32 can hold"),
        ("int32", DISCRETE_LAPLACE | {"bounds": [0, 2**31 - 1]}, "does not fit type int32"),
        ("int64", DISCRETE_LAPLACE | {"bounds": [0, 2**60], "epsilon": 0.1}, "expected a Fraction"),
        ("int64", DISCRETE_LAPLACE | {"granularity": 2.5}, "granularity 2.5: expected a whole multiple of 1"),
        ("decimal(9,2)", LAPLACE | {"granularity": 0.005}, "expected a whole multiple of 1/100"),
        ("decimal(9,2)", LAPLACE | {"bounds": [0, 0.005]}, "expected multiples of 1/100"),
        ("double", LAPLACE | {"granularity": 1000}, "granularity 1000: coarser than the bounds"),
        ("double", LAPLACE | {"bounds": [1e12, 1e12 + 1], "granularity": 1e-6}, "more than 2^52 steps"),
        ("double", LAPLACE | {"bounds": [0, 5e-324]}, "too large or too small"),
        ("double", LAPLACE | {"bounds": [-1e99, 1e99], "granularity": 1e-100}, "more than 2^52 steps"),
        ("double", GAUSSIAN | {"delta": 1e-12}, "delta 1e-12: expected at least"),
        ("int64", {"mechanism": "discrete_laplace", "epsilon": 1.0, "protect_distance": 0.5}, "expected at least 1"),
        ("string", RESPONSE, "expected categories"),
        ("string", RESPONSE | {"categories": ["a", "a"]}, "2 given, 1 distinct; expected 2 to 8192"),
        ("string", RESPONSE | {"categories": ["a"]}, "1 given, 1 distinct; expected 2 to 8192"),
        ("string", RESPONSE | {"categories": ["a", 1]}, "category 1: expected a value of type string"),
        ("boolean", RESPONSE | {"categories": [0, 1]}, "category 0: expected a value of type boolean"),
        ("int32", RESPONSE | {"categories": [True, False]}, "category True: expected a value of type int32"),
        ("int32", RESPONSE | {"categories": [1, 2**31]}, "category 2147483648: expected a value of type int32"),
        ("string", RESPONSE | {"categories": "file:/nowhere/list"}, "categories file /nowhere/list: cannot be read"),
        ("array<double>", LAPLACE | {"dimension": 3}, "bounds on type array<double>: expected clip_norm"),
        (
            "array<double>",
            {"mechanism": "laplace", "epsilon": 1.0, "protect_distance": 1, "dimension": 3},
            "expected clip_norm",
        ),
        (
            "double",
            {"mechanism": "laplace", "epsilon": 1.0, "clip_norm": 1, "dimension": 3},
            "clip_norm on type double",
        ),
        (
            "decimal(9,2)",
            GAUSSIAN | {"dimension": 3},
            "dimension on type decimal(9,2): expected a column of type array",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_reason(kind, declared, what):
    with pytest.raises(SpecError) as raised:
        planned(kind, **declared)
    assert str(raised.value).startswith("spec.yaml:1: column 'x': ")
    assert what in str(raised.value)


def test_every_column_is_accounted_for_and_all_problems_are_told():
    columns = {"a": ("double", LAPLACE), "b": ("date", LAPLACE), "c": ("binary", PUBLIC), "d": ("string", PUBLIC)}
    spec = spec_of(columns, row_key=["id", "c"])
    table = table_of({"a": ("double", {}), "b": ("date", {}), "c": ("binary", {}), "e": ("int8", {})})
    with pytest.raises(SpecError) as raised:
        make_plan(spec, table, Positions("spec.yaml", {("columns",): 7, ("columns", "b"): 9, ("row_key",): 3}))
    found = str(raised.value).split("\n")
    assert [problem.split(": column ")[0].split(": row key ")[0] for problem in found] == [
        "spec.yaml:7",
        "spec.yaml:7",
        "spec.yaml:3",
        "spec.yaml:9",
    ]
    assert "column 'e' (int8) of in is not named" in found[0]
    assert "column 'd' is not in in" in found[1]
    assert "row key 'c' is binary" in found[2]
    assert "laplace on type date" in found[3]


def test_categories_come_from_a_file(tmp_path):
    (tmp_path / "list").write_text("# airports\nEWR\n\n JFK \nLGA\n")
    assert planned("string", **RESPONSE, categories=f"file:{tmp_path}/list").mechanism.categories == (
        "EWR",
        "JFK",
        "LGA",
    )
    (tmp_path / "list").write_text("1\n2\n")
    assert planned("int64", **RESPONSE, categories=f"file:{tmp_path}/list").mechanism.categories == (1, 2)
    (tmp_path / "list").write_text("1\ntwo\n")
    with pytest.raises(SpecError, match="expected one whole number a line"):
        planned("int64", **RESPONSE, categories=f"file:{tmp_path}/list")


# ---- the lattice, against brute force --------------------------------------------------------------------------------


def float_points(column: ColumnPlan, values: np.ndarray) -> np.ndarray:
    """What the rows get: clip in the column's unit, divide, round half to even, stay within the bounds' points."""
    lattice = column.lattice
    step = float(lattice.step)
    clipped = np.clip(values, lattice.lower * step, lattice.upper * step)
    return np.clip(np.rint(clipped / step).astype(np.int64), lattice.lower, lattice.upper)


def integer_point(column: ColumnPlan, stored: int) -> int:
    """The same for a stored integer, or a decimal's unscaled one: the nearest multiple, halves up."""
    lattice = column.lattice
    size = int(lattice.step / lattice.unit)
    return min(max((stored + size // 2) // size, lattice.lower), lattice.upper)


def around(values: np.ndarray) -> np.ndarray:
    """The values and the floats next to them."""
    return np.concatenate([values, np.nextafter(values, -np.inf), np.nextafter(values, np.inf)])


NUMBERS = st.floats(-1e6, 1e6) | st.integers(-1000, 1000)
STEPS = st.none() | st.sampled_from([1.0, 0.1, 0.3, 2.0**-10, 7.0]) | st.floats(1e-3, 10)


@settings(max_examples=150, deadline=None)
@given(low=NUMBERS, high=NUMBERS, step=STEPS, kind=st.sampled_from(["float", "double"]))
def test_no_two_floats_within_bounds_lie_further_apart_than_the_sensitivity(low, high, step, kind):
    assume(high - low > (2 * step if step else 1e-3))
    column = planned(kind, mechanism="laplace", epsilon=1.0, bounds=[low, high], granularity=step)
    lattice, size = column.lattice, float(column.lattice.step)
    halves = (np.linspace(lattice.lower, lattice.upper, 50).round() + 0.5) * size
    inside = np.concatenate([around(halves), np.linspace(low, high, 50), [low, high]])
    outside = np.array([-1e308, 1e308, np.inf, -np.inf, low - 1, high + 1, 0.0, -0.0, 5e-324])
    points = float_points(column, np.concatenate([inside, outside]))
    assert points.max() - points.min() == column.mechanism.sensitivity == lattice.upper - lattice.lower
    ends = float_points(column, np.array([low, high]))
    assert ends.tolist() == [
        lattice.lower,
        lattice.upper,
    ]  # a bound is its own nearest point: nothing is lost in between


def furthest(x: float, distance: Fraction) -> float:
    """The largest float that is at most `distance` above x, exactly."""
    y = x + float(distance)
    while Fraction(y) - Fraction(x) > distance:
        y = math.nextafter(y, -math.inf)
    while Fraction(math.nextafter(y, math.inf)) - Fraction(x) <= distance:
        y = math.nextafter(y, math.inf)
    return y


@settings(max_examples=150, deadline=None)
@given(
    distance=st.floats(1e-3, 1e3) | st.integers(1, 100),
    step=st.none() | st.sampled_from([0.1, 0.3, 0.7, 1.0, 0.25, 1e-3, 3.0]),
    magnitude=st.integers(0, 52),
    where=st.lists(st.floats(0, 1), min_size=5, max_size=5),
)
def test_floats_within_the_protected_distance_lie_no_further_apart_than_the_sensitivity(
    distance, step, magnitude, where
):
    column = planned("double", mechanism="laplace", epsilon=1.0, protect_distance=distance, granularity=step)
    size = float(column.lattice.step)
    spots = np.array([math.floor(2.0**magnitude * (1 + fraction)) + 0.5 for fraction in where]) * size
    lower = around(np.concatenate([spots, -spots, [0.0, size / 2, -size / 2]]))
    upper = np.array([furthest(x, exact(distance)) for x in lower])
    apart = float_points(column, upper) - float_points(column, lower)
    assert apart.max() <= column.mechanism.sensitivity


@pytest.mark.parametrize("step", [0.1, 0.3, 0.7])
def test_the_protected_distance_holds_where_floats_are_as_coarse_as_the_lattice(step):
    """Beyond 2^50 steps a quotient by 0.1 is rounded itself; two floats less than one step apart can be two points apart."""
    column = planned("double", mechanism="laplace", epsilon=1.0, protect_distance=0.96 * step, granularity=step)
    lower = 2.0**51 * 1.5 * step * (1 + 0.3 * np.random.default_rng(1).random(200_000))
    upper = lower + np.floor(0.96 * step / np.spacing(lower)) * np.spacing(lower)
    apart = (float_points(column, upper) - float_points(column, lower)).max()
    assert apart == column.mechanism.sensitivity == 2


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(["int32", "int64", "decimal(9,2)", "decimal(12,0)"]),
    low=st.integers(-200, 200),
    width=st.integers(1, 300),
    size=st.integers(1, 40),
)
def test_no_two_stored_integers_within_bounds_lie_further_apart_than_the_sensitivity(kind, low, width, size):
    unit = Fraction(1, 100) if kind == "decimal(9,2)" else Fraction(1)
    bounds, step = [float(low * unit), float((low + width) * unit)], float(size * unit)
    assume(width >= size)
    column = planned(kind, mechanism="discrete_laplace", epsilon=1.0, bounds=bounds, granularity=step)
    points = [integer_point(column, stored) for stored in (-(10**9), *range(low, low + width + 1), 10**9)]
    assert max(points) - min(points) == column.mechanism.sensitivity
    assert points[1] == column.lattice.lower
    assert points[-2] == column.lattice.upper


@settings(max_examples=100, deadline=None)
@given(kind=st.sampled_from(["int32", "int64", "decimal(9,2)"]), distance=st.integers(1, 90), size=st.integers(1, 40))
def test_stored_integers_within_the_protected_distance_lie_no_further_apart(kind, distance, size):
    unit = Fraction(1, 100) if kind == "decimal(9,2)" else Fraction(1)
    declared = {"protect_distance": float(distance * unit), "granularity": float(size * unit)}
    column = planned(kind, mechanism="discrete_laplace", epsilon=1.0, **declared)
    points = [integer_point(column, stored) for stored in range(-3 * size, 3 * size + distance)]
    apart = max(second - first for first, second in zip(points, points[distance:], strict=False))
    assert apart == column.mechanism.sensitivity


def test_large_integers_keep_every_unit():
    column = planned("int64", mechanism="discrete_laplace", epsilon=1.0, protect_distance=1)
    assert integer_point(column, 2**53 + 1) - integer_point(column, 2**53) == 1
    assert column.lattice.ceiling == 2**62


@pytest.mark.parametrize("bounds", [[0, 1], [-60, 300], [0, 0.001], [1e6, 1e9], [-1e-6, 1e-6]])
@pytest.mark.parametrize("declared", [LAPLACE, GAUSSIAN], ids=["laplace", "gaussian"])
def test_default_granularity_is_a_power_of_two_that_depends_on_no_row(bounds, declared):
    columns = {"x": ("double", declared | {"bounds": bounds})}
    few, many = (plan_of(columns, rows=rows).column("x") for rows in (1, 10**9))
    step = few.lattice.step
    assert step == many.lattice.step
    assert min(step.numerator, step.denominator) == 1
    assert step.numerator.bit_count() == step.denominator.bit_count() == 1
    assert (
        2**18 - 1 < few.mechanism.scale <= 2**19 + 1
    )  # the scale is counted on whole steps, so it moves by one at most


# ---- guarantees and errors -------------------------------------------------------------------------------------------

PRIVATE = [
    ("double", LAPLACE),
    ("float", LAPLACE | {"epsilon": 0.01}),
    ("double", LAPLACE | {"epsilon": 20.0}),
    ("double", GAUSSIAN),
    ("double", GAUSSIAN | {"epsilon": 0.05, "delta": 1e-9}),
    ("double", GAUSSIAN | {"epsilon": 10.0, "delta": 1e-3}),
    ("decimal(9,2)", GAUSSIAN),
    ("int64", DISCRETE_LAPLACE),
    ("int64", DISCRETE_LAPLACE | {"epsilon": 0.49, "granularity": 10}),
    ("int64", DISCRETE_GAUSSIAN),
    ("int64", DISCRETE_GAUSSIAN | {"epsilon": 3.0, "delta": 1e-9}),
    ("double", DISCRETE_GAUSSIAN | {"granularity": 0.25}),
    ("double", {"mechanism": "gaussian", "epsilon": 1.0, "delta": 1e-6, "protect_distance": 5}),
    ("string", RESPONSE | {"categories": ["a", "b", "c"]}),
    ("boolean", RESPONSE | {"epsilon": 0.01}),
]


@pytest.mark.parametrize(("kind", "declared"), PRIVATE)
def test_a_column_costs_no_more_than_it_declares(kind, declared):
    charge = Charge.of(planned(kind, **declared).mechanism.event())
    if "delta" in declared:
        assert charge.delta(declared["epsilon"]) <= declared["delta"]
        assert charge.delta(declared["epsilon"]) > 0.99 * declared["delta"]  # and no more noise than that takes
    else:
        assert charge.pure_epsilon == pytest.approx(declared["epsilon"], rel=1e-15)
        assert 0 < charge.slack < 2**-38 * (1 + math.exp(declared["epsilon"]))


def laplace_scale(column: ColumnPlan) -> float:
    return float(column.mechanism.scale * column.mechanism.step)


@pytest.mark.parametrize(
    ("kind", "declared", "what"),
    [
        ("int32", {"mechanism": "uniform", "scale": 0.3}, "scale 0.3: expected a multiple of 1"),
        ("double", {"mechanism": "uniform", "scale": 1, "granularity": 0.4}, "scale 1: expected a multiple of 0.4"),
        ("string", FLIP | {"matrix": [[0.3333, 0.3333, 0.3333]] * 3}, r"matrix\[0\] has sum 9999/10000, expected 1"),
        (
            "double",
            {"mechanism": "correlated_gaussian", "covariance": [[1]], "keep_covariance": True},
            "expected share",
        ),
        ("string", FLIP | {"mechanism": "pram", "rate": 0.1, "marginal": [1, 2, 3]}, "expected invariant: true"),
        ("double", {"mechanism": "multiplicative_gaussian", "scale": 0.1, "bounds": [0, 1]}, "bounds"),
        ("double", {"mechanism": "impulse", "rate": 0.1, "bounds": [0, 1], "granularity": 1}, "granularity"),
    ],
)
def test_noise_without_a_claim_is_refused_with_its_reason(kind, declared, what):
    assert re.search(what, refusal(kind, declared))


def refusal(kind, declared) -> str:
    """Of a declaration for microdata: by its shape, by what it says too much, or by its column's type."""
    try:
        column = parse_column(declared)
        planned(kind, "microdata", **declared)
    except (ValidationError, SpecError) as error:
        return str(error)
    return "; ".join(contradictions("microdata", column))


def test_thirds_may_be_written_as_fractions():
    matrix = planned("string", "microdata", **FLIP, matrix=[["1/3"] * 3] * 3).mechanism.matrix
    assert {sum(row) for row in matrix} == {1}


def test_a_limit_that_the_samplers_use_up_is_refused():
    with pytest.raises(
        SpecError, match=r"^spec.yaml:1: limit: delta 1e-05: expected more than 0.0382, which the samplers"
    ):
        planned("double", **(LAPLACE | {"epsilon": 30.0}))


@pytest.mark.parametrize("epsilon", [1e-6, 1e-5, 1e-3])
def test_a_tiny_epsilon_leaves_the_bounds_as_they_are(epsilon):
    column = planned("double", **(LAPLACE | {"epsilon": epsilon}))
    lattice = column.lattice
    assert [lattice.lower * lattice.step, lattice.upper * lattice.step] == LAPLACE["bounds"]
    assert column.mechanism.sensitivity >= 1000


def test_a_cells_noise_is_its_own_in_every_release():
    column = planned("int32", "microdata", mechanism="cell_key", max_noise=3, variance=1.0)
    assert column.memoized


def test_expected_errors_are_those_of_the_closed_forms():
    laplace = planned("double", **LAPLACE)
    assert expected_errors(laplace, 50) == pytest.approx((100, math.sqrt(2 * 2 * 100**2 / (math.pi * 50))), rel=1e-5)
    gaussian = planned("double", **GAUSSIAN)
    sigma = laplace_scale(gaussian)
    expected = (sigma * math.sqrt(2 / math.pi), sigma * math.sqrt(2 / (math.pi * 50)))
    assert expected_errors(gaussian, 50) == pytest.approx(expected, rel=1e-5)
    q = math.exp(-1 / 10)
    discrete = planned("int64", **(DISCRETE_LAPLACE | {"bounds": [0, 10]}))
    assert expected_errors(discrete, 1)[0] == pytest.approx(2 * q / (1 - q * q), rel=1e-9)
    assert discrete.mechanism.variance == pytest.approx(2 * q / (1 - q) ** 2, rel=1e-9)
    response = planned("string", **RESPONSE, categories=["a", "b", "c"])
    of_value, of_share = expected_errors(response, 50)
    assert of_value == pytest.approx(2 / (math.e + 2), rel=1e-12)
    assert of_share == pytest.approx(math.sqrt(2 * (math.e + 1) / (math.pi * 50)) / (math.e - 1), rel=1e-9)
    assert expected_errors(laplace, 0)[1] is None
    assert expected_errors(planned("string", keep="public"), 5) == (None, None)


def test_expected_errors_are_in_the_columns_unit():
    fine, coarse = (
        planned("int64", mechanism="discrete_laplace", epsilon=1.0, bounds=[0, 10**6], granularity=size)
        for size in (1, 1000)
    )
    assert expected_errors(coarse, 1)[0] == pytest.approx(expected_errors(fine, 1)[0], rel=1e-3)
    described = describe_column(coarse, 100)
    assert described["sensitivity"] == described["scale"] == 10**6
    assert described["granularity"] == 1000


def test_guarantees_are_told_in_the_columns_unit():
    assert planned("double", **LAPLACE).guarantee == "1-DP within [0, 100]"
    assert planned("double", **GAUSSIAN).guarantee == "(1, 1e-06)-DP within [0, 100]"
    metric = planned("int64", mechanism="discrete_laplace", epsilon=0.5, protect_distance=7)
    assert metric.guarantee == "0.5-DP for values at most 7 apart"
    assert planned("boolean", **RESPONSE).guarantee == "1-DP among 2 categories"
    assert planned("string", keep="public").guarantee == "public: released as it is"


def test_the_relation_names_every_column():
    columns = {
        "a": ("double", LAPLACE),
        "b": ("int64", {"mechanism": "discrete_laplace", "epsilon": 1.0, "protect_distance": 3}),
        "c": ("string", PUBLIC),
    }
    assert relation(plan_of(columns)) == (
        "Neighbours differ in one row: any change in a; a bounded change in b (at most 3); none in id, c."
    )


ENTITY = {"entity": ["rider"], "max_rows": 3}
RIDES = {
    "rider": ("string", {"pseudonymize": True}),
    "day": ("int32", PUBLIC),
    "fare": ("double", LAPLACE),
    "seats": ("int32", DISCRETE_LAPLACE),
}


def rides(unit: Any = ENTITY, partition_by: tuple[str, ...] = ("day",), **privacy: Any) -> Any:
    section = {"unit": unit, "budget": "small", "limit": {"epsilon": 8.0, "delta": 1e-5}, **privacy}
    return plan_of(RIDES, privacy=section, source={"path": "in", "partition_by": list(partition_by)})


def test_a_unit_pays_for_each_of_its_rows_and_a_memo_apart():
    plan = rides(memoize=["seats"])
    assert plan.charge.pure_epsilon == pytest.approx(3)
    assert [(name, charge.pure_epsilon) for name, charge in plan.memos] == [("seats", pytest.approx(3))]
    assert rides(unit="row").charge.pure_epsilon == pytest.approx(2)
    assert not rides(unit="row").memos


def test_partitions_compose_in_parallel_only_where_a_unit_lies_in_one():
    assert rides(unit="row").parallel
    assert not rides().parallel
    assert rides(partitions="disjoint").parallel
    assert rides(unit={"entity": ["rider", "day"], "max_rows": 3}).parallel
    assert not rides(unit={"entity": ["rider", "day"], "max_rows": 3}, partition_by=()).parallel


# ---- what a release is made of ---------------------------------------------------------------------------------------

BASE: dict[str, tuple[str, dict[str, Any]]] = {
    "a": ("double", LAPLACE),
    "b": ("int64", DISCRETE_LAPLACE),
    "c": ("string", RESPONSE | {"categories": ["a", "b"]}),
    "d": ("string", PUBLIC),
    "e": ("string", {"pseudonymize": True}),
}


def identity(columns: dict[str, tuple[str, dict[str, Any]]] | None = None, **changes: Any) -> str:
    return digest(canonical(plan_of(columns or BASE, **changes)))


def with_column(name: str, kind: str, **treatment: Any) -> dict[str, tuple[str, dict[str, Any]]]:
    return {**BASE, name: (kind, treatment)}


PRIVACY = {"unit": "row", "budget": "small", "limit": {"epsilon": 8.0, "delta": 1e-5}}


@pytest.mark.parametrize(
    "changed",
    [
        {"columns": with_column("a", "double", **LAPLACE | {"epsilon": 1.01})},
        {"columns": with_column("a", "double", **LAPLACE | {"bounds": [0, 100.5]})},
        {"columns": with_column("a", "double", **LAPLACE | {"bounds": [-1, 99]})},
        {"columns": with_column("a", "double", **LAPLACE | {"granularity": 0.5})},
        {"columns": with_column("a", "double", **LAPLACE | {"on_null": "keep"})},
        {"columns": with_column("a", "double", **LAPLACE | {"on_nan": "keep"})},
        {"columns": with_column("a", "double", **LAPLACE | {"on_infinite": "clip"})},
        {"columns": with_column("a", "double", **GAUSSIAN)},
        {"columns": with_column("a", "double", mechanism="laplace", epsilon=1.0, protect_distance=100)},
        {"columns": with_column("b", "int64", **DISCRETE_GAUSSIAN)},
        {"columns": with_column("b", "int64", **DISCRETE_LAPLACE | {"granularity": 2})},
        {"columns": with_column("c", "string", **RESPONSE | {"categories": ["b", "a"]})},
        {"columns": with_column("c", "string", **RESPONSE | {"categories": ["a", "b", "c"]})},
        {"columns": with_column("c", "string", **RESPONSE | {"categories": ["a", "b"], "epsilon": 1.5})},
        {"columns": with_column("c", "string", **RESPONSE | {"categories": ["a", "b"], "on_unknown": "null"})},
        {"columns": with_column("d", "string", drop=True)},
        {"columns": with_column("e", "string", keep="public")},
        {"columns": with_column("f", "string", keep="public")},
        {"pipeline": "other"},
        {"row_key": ["id", "d"]},
        {"source": {"path": "in", "partition_by": ["d"]}},
        {"privacy": PRIVACY | {"unit": {"entity": ["d"], "max_rows": 1}}},
        {"privacy": PRIVACY | {"unit": {"entity": ["d"], "max_rows": 2}}},
        {"privacy": PRIVACY | {"memoize": ["b"]}},
    ],
)
def test_whatever_determines_a_value_makes_another_release(changed):
    assert identity(**changed) != identity()


def test_the_units_size_and_null_policy_make_another_release():
    units = [
        {"entity": ["d"], "max_rows": 1},
        {"entity": ["d"], "max_rows": 2},
        {"entity": ["d", "id"], "max_rows": 1},
        {"entity": ["d"], "max_rows": 1, "on_null_entity": "drop"},
    ]
    assert len({identity(privacy=PRIVACY | {"unit": unit}) for unit in units}) == len(units)


@pytest.mark.parametrize(
    "changed",
    [
        {"source": {"path": "elsewhere"}},
        {"target": {"path": "elsewhere"}},
        {"key": "file:elsewhere.key"},
        {"ledger": "sqlite:///elsewhere.db"},
        {"privacy": PRIVACY | {"budget": "other"}},
        {"privacy": PRIVACY | {"limit": {"epsilon": 1.0, "delta": 1e-9}}},
        {"privacy": PRIVACY | {"partitions": "disjoint"}},
        {"checks": [{"expect": "column_mean_between", "column": "a", "min": 0}]},
        {"rows": 10**6},
        {"columns": with_column("a", "double", **LAPLACE | {"bounds": [0.0, 100.0], "on_null": "fail"})},
    ],
)
def test_what_determines_no_value_makes_no_other_release(changed):
    assert identity(**changed) == identity()


def test_a_default_written_out_is_the_same_release():
    step = float(planned("double", **LAPLACE).lattice.step)
    assert identity(with_column("a", "double", **LAPLACE, granularity=step)) == identity()


def test_the_order_of_columns_in_the_spec_makes_no_other_release():
    spec = spec_of(dict(reversed(BASE.items())))
    plan = make_plan(spec, table_of(BASE), Positions("spec.yaml", {(): 1}))
    assert digest(canonical(plan)) == identity()


def test_plain_data_is_written_one_way_only():
    assert digest({"b": 1, "a": [None, "é"]}) == digest({"a": [None, "é"], "b": 1})
    assert digest({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_mechanisms_without_privacy_have_no_event():
    plan = plan_of({"x": ("double", {"mechanism": "gaussian", "scale": 2.0})}, "augmentation")
    column = plan.column("x")
    assert isinstance(column.mechanism, Additive)
    assert laplace_scale(column) == 2.0
    assert not plan.charge
