"""Nothing beyond the declared bounds reaches the noise, and a clip that is left out is seen."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
from pyspark.sql import functions as F
from small_plan import planned

from noiselib.column_plan import ColumnPlan
from noiselib.spark import points

NUMBER = {"epsilon": 1.0, "bounds": [-10, 20]}
FLOATS = [-1e308, -1e9, -11.0, -10.0, -0.1, 19.9, 20.0, 21.0, 1e18, 1e308, float("inf"), float("-inf")]
WHOLE = [-(2**31), -11, -10, 0, 20, 21, 2**31 - 1]
COLUMNS: dict[str, tuple[str, str, list[Any], dict[str, Any]]] = {  # (type, Spark's name of it, values, declaration)
    "laplace": ("double", "double", FLOATS, {"mechanism": "laplace", "on_infinite": "clip", **NUMBER}),
    "gaussian": ("float", "float", FLOATS[1:9], {"mechanism": "gaussian", "delta": 1e-6, **NUMBER}),
    "staircase": ("double", "double", FLOATS, {"mechanism": "staircase", "on_infinite": "clip", **NUMBER}),
    "discrete_laplace": ("int32", "int", WHOLE, {"mechanism": "discrete_laplace", **NUMBER}),
    "discrete_gaussian": ("int64", "bigint", [-(2**63), *WHOLE, 2**63 - 1],
                          {"mechanism": "discrete_gaussian", "delta": 1e-6, **NUMBER}),
    "decimal": ("decimal(18,2)", "decimal(18,2)", [Decimal("-9999999999999999.99"), Decimal("20.01"), Decimal("1e9")],
                {"mechanism": "discrete_laplace", **NUMBER}),
    "piecewise": ("double", "double", FLOATS, {"mechanism": "piecewise", "on_infinite": "clip", **NUMBER}),
    "one_bit_mean": ("int64", "bigint", WHOLE, {"mechanism": "one_bit_mean", **NUMBER}),
    "vector_l2": ("array<double>", "array<double>", [[3.0, 4.0, 0.0], [-30.0, 40.0, 1e9], [0.1, 0.2, 0.3]],
                  {"mechanism": "gaussian", "epsilon": 1.0, "delta": 1e-6, "clip_norm": 2.0, "dimension": 3}),
    "vector_l1": ("array<double>", "array<double>", [[3.0, 4.0, 0.0], [-30.0, 40.0, 1e9], [0.1, 0.2, 0.3]],
                  {"mechanism": "laplace", "epsilon": 1.0, "clip_norm": 2.0, "dimension": 3}),
}  # fmt: skip
VECTORS = ("vector_l2", "vector_l1")


def points_of(spark: Any, name: str, most: float = math.inf) -> tuple[ColumnPlan, np.ndarray]:
    kind, sql, values, declared = COLUMNS[name]
    column = planned(kind, **declared)
    if not isinstance(values[0], list):
        values = [value for value in values if abs(value) <= most]
    frame = spark.createDataFrame([(value,) for value in values], f"x {sql}")
    found = [row.point for row in frame.select(points.point(column).alias("point")).collect()]
    return column, np.array(found)


def beyond(spark: Any, name: str, most: float = math.inf) -> int:
    """How many values' points (of those up to `most`) neighbouring values cannot have: out of bounds, or too long."""
    column, found = points_of(spark, name, most)
    if name in VECTORS:
        norm = column.points.clip_norm / float(column.points.step) + found.shape[1]  # each component is rounded
        return int((np.linalg.norm(found.astype(float), column.points.order, axis=1) > norm).sum())
    lower, upper = column.points.lower, column.points.upper
    return int(((found < lower) | (found > upper)).sum())


@pytest.mark.parametrize("name", COLUMNS)
def test_points_lie_within_the_bounds_and_reach_them(spark: Any, name: str) -> None:
    assert beyond(spark, name) == 0
    column, found = points_of(spark, name)
    if name not in VECTORS:
        assert found.min() == column.points.lower or name == "decimal"
        assert found.max() == column.points.upper


@pytest.mark.parametrize("name", COLUMNS)
def test_a_clip_left_out_is_seen(spark: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`least` and `greatest` give the number back, and a norm counts as 0; of values whose points are within bigint."""
    monkeypatch.setattr(points, "within", lambda value, low, high: value)
    monkeypatch.setattr(points, "within_float", lambda value, most: value)
    monkeypatch.setattr(points, "F", Unclipped())
    assert beyond(spark, name, most=1e9) > 0


class Unclipped:
    """pyspark.sql.functions whose least, greatest and norm change nothing."""

    def __getattr__(self, name: str) -> Any:
        if name in ("least", "greatest"):
            return lambda value, _: value
        if name == "aggregate":
            return lambda *_: F.lit(0.0)
        return getattr(F, name)
