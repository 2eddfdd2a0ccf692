"""From values to points, in native Spark expressions: null, NaN and clip policy, and the way to the lattice.

The workers see only int64 points, never a null, a NaN or a string. What a policy cannot let through is counted before any
noise is drawn (`violations`), and fails the release.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import singledispatch
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from noiselib import encoding as e
from noiselib.column_plan import FLOAT_STEPS, ColumnPlan
from noiselib.spark.keys import local_micros, quoted

HALF_INT64 = 2**62
ROWS = "__rows"  # the number of rows in a row's release, where a mechanism asks for it
FLOATS = ("float", "double")
NO_POINT = (e.RowCount,)  # a row takes part whatever its value is


def point(column: ColumnPlan) -> Column:
    """The value's point, bigint or array<bigint>, clipped; 0 for a value without one (null, NaN, unknown category)."""
    return _point(column.points, value_of(column), column.type)


def has_point(column: ColumnPlan) -> Column:
    """Whether the row's value takes part in the noise: never null."""
    return F.coalesce(_has_point(column.points, value_of(column), column), F.lit(False))


def value_of(column: ColumnPlan) -> Column:
    return F.col(quoted(column.name))


# ---- points ----------------------------------------------------------------------------------------------------------


@singledispatch
def _point(points: Any, value: Column, kind: str) -> Column:
    raise AssertionError(type(points).__name__)


@_point.register
def _(points: e.Untouched, value: Column, kind: str) -> Column:
    return F.lit(0).cast("bigint")


@_point.register
def _(points: e.RowCount, value: Column, kind: str) -> Column:
    return F.col(ROWS)


@_point.register
def _(points: e.Categories, value: Column, kind: str) -> Column:
    return category_index(value, points.values)


@_point.register
def _(points: e.Lattice, value: Column, kind: str) -> Column:
    if kind in FLOATS:
        step, number = float(points.step), value.cast("double")
        # clip in the column's unit, then divide and round half to even, as the plan did with the bounds
        clipped = F.greatest(F.least(number, F.lit(points.upper * step)), F.lit(points.lower * step))
        safe = F.when(number.isNull() | F.isnan(number), F.lit(0.0)).otherwise(clipped)
        return within(F.rint(safe / F.lit(step)).cast("bigint"), points.lower, points.upper)
    per_step = points.per_step
    limit = min(HALF_INT64, max(abs(points.lower), abs(points.upper)) * per_step + per_step)
    bounded = F.coalesce(within(stored_integer(value, kind), -limit, limit), F.lit(0).cast("bigint"))
    if per_step > 1:
        moved, size = bounded + F.lit(per_step // 2).cast("bigint"), F.lit(per_step).cast("bigint")
        bounded = F.call_function("div", moved - F.pmod(moved, size), size)  # div truncates; pmod makes it a floor
    return within(bounded, points.lower, points.upper)


@_point.register
def _(points: e.Vectors, value: Column, kind: str) -> Column:
    step, zeros = float(points.step), F.array_repeat(F.lit(0).cast("bigint"), points.dimension)
    numbers, factor = value.cast("array<double>"), F.lit(1.0)
    if points.clip_norm is not None:
        size = F.abs if points.order == 1 else lambda x: x * x
        norm = F.aggregate(numbers, F.lit(0.0), lambda total, x: total + size(x))
        norm = norm if points.order == 1 else F.sqrt(norm)
        factor = F.when(norm > points.clip_norm, F.lit(points.clip_norm) / norm).otherwise(1.0)
    most = FLOAT_STEPS if points.clip_norm is None else points.clip_norm / step
    steps = F.transform(numbers, lambda x: F.rint(within_float(x * factor / step, most)).cast("bigint"))
    return F.when(_is_vector(value, points.dimension), steps).otherwise(zeros)


@_point.register
def _(points: e.Places, value: Column, kind: str) -> Column:
    east, placed = F.col(quoted(points.longitude)), _is_place(points)
    north_steps = F.when(placed, _degrees_to_steps(value, points.origin[0], points.north)).otherwise(0)
    east_steps = F.when(placed, _degrees_to_steps(east, points.origin[1], points.east)).otherwise(0)
    low = east_steps.cast("bigint").bitwiseAND(F.lit(0xFFFFFFFF))
    return F.shiftleft(north_steps.cast("bigint"), 32).bitwiseOR(low)


def _degrees_to_steps(value: Column, origin: float, step: float) -> Column:
    return F.rint((value.cast("double") - F.lit(origin)) / F.lit(step)).cast("bigint")


# ---- who takes part --------------------------------------------------------------------------------------------------


@singledispatch
def _has_point(points: Any, value: Column, column: ColumnPlan) -> Column:
    found = value.isNotNull()
    if column.type in FLOATS and hasattr(column.declared, "on_nan"):
        found = found & ~F.isnan(value)
        if column.declared.on_infinite != "clip":  # type: ignore[union-attr]
            found = found & ~is_infinite(value)
    return found


@_has_point.register
def _(points: e.RowCount, value: Column, column: ColumnPlan) -> Column:
    return F.lit(True)


@_has_point.register
def _(points: e.Categories, value: Column, column: ColumnPlan) -> Column:
    return value.isNotNull() & is_category(value, points.values)


@_has_point.register
def _(points: e.Vectors, value: Column, column: ColumnPlan) -> Column:
    return _is_vector(value, points.dimension)


@_has_point.register
def _(points: e.Places, value: Column, column: ColumnPlan) -> Column:
    return _is_place(points)


def _is_vector(value: Column, dimension: int) -> Column:
    """An array of the right length whose elements are finite numbers."""
    return value.isNotNull() & (F.size(value) == dimension) & F.forall(value, _finite)


def _is_place(points: e.Places) -> Column:
    """Two finite coordinates within the bounds."""
    north, east = F.col(quoted(points.latitude)), F.col(quoted(points.longitude))
    inside = north.between(*points.latitude_bounds) & east.between(*points.longitude_bounds)
    return F.coalesce(_finite(north) & _finite(east) & inside, F.lit(False))


def _finite(value: Column) -> Column:
    return F.coalesce(~F.isnan(value) & ~is_infinite(value), F.lit(False))


# ---- what fails a release, and what a policy changes -----------------------------------------------------------------


def violations(column: ColumnPlan) -> dict[str, Column]:
    """Conditions under which this column's policy fails the release, by what is found."""
    value, declared, points = value_of(column), column.declared, column.points
    assert declared is not None
    found: dict[str, Column] = {}
    if declared.on_null == "fail":
        found["null (on_null: fail)"] = _is_null(column)
    if isinstance(points, e.Categories):
        if declared.on_unknown == "fail":  # type: ignore[attr-defined]
            unknown = value.isNotNull() & ~is_category(value, points.values)
            found["a value outside its categories (on_unknown: fail)"] = unknown
    elif isinstance(points, e.Vectors):
        found |= _vector_violations(value, points, declared)
    elif isinstance(points, e.Places):
        if declared.on_outside == "fail":  # type: ignore[attr-defined]
            found["a place outside its bounds (on_outside: fail)"] = ~_is_null(column) & ~_is_place(points)
    elif column.type in FLOATS and hasattr(declared, "on_nan"):
        if declared.on_nan == "fail":
            found["NaN (on_nan: fail)"] = F.isnan(value)
        if declared.on_infinite == "fail":  # type: ignore[attr-defined]
            found["an infinite value (on_infinite: fail)"] = is_infinite(value)
    if isinstance(points, e.Lattice) and getattr(declared, "bounds", None) is None:  # nobody declared where to clip
        found["beyond " + _reach(points)] = _out_of_reach(value, column.type, points)
    return found


def _is_null(column: ColumnPlan) -> Column:
    missing = value_of(column).isNull()
    if isinstance(column.points, e.Places):
        missing = missing | F.col(quoted(column.points.longitude)).isNull()
    return missing


def _vector_violations(value: Column, points: e.Vectors, declared: Any) -> dict[str, Column]:
    whole = (F.size(value) == points.dimension) & F.forall(value, lambda x: x.isNotNull())
    found = {f"an array of other than {points.dimension} numbers": value.isNotNull() & ~whole}
    if declared.on_nan == "fail":
        found["NaN (on_nan: fail)"] = F.exists(value, lambda x: F.isnan(x))
    if declared.on_infinite == "fail":
        found["an infinite value (on_infinite: fail)"] = F.exists(value, is_infinite)
    return found


def _reach(lattice: e.Lattice) -> str:
    """The range of a column without bounds, in words."""
    step = float(lattice.step)
    if lattice.lower >= 0:
        return f"{lattice.lower} to {lattice.upper}"
    return f"{lattice.upper} steps of {step:g} from zero; expected a coarser granularity, or bounds"


def _out_of_reach(value: Column, kind: str, lattice: e.Lattice) -> Column:
    if kind in FLOATS:
        number = value.cast("double")
        return (F.abs(number) > lattice.upper * float(lattice.step)) & ~is_infinite(value) & ~F.isnan(value)
    return ~stored_integer(value, kind).between(lattice.lower * lattice.per_step, lattice.upper * lattice.per_step)


def adjusted(column: ColumnPlan) -> dict[str, Column]:
    """Conditions under which this column's policy changes a value before the noise, by what is done. Counted for the run."""
    value, points, declared = value_of(column), column.points, column.declared
    found = {"null": _is_null(column)}
    if isinstance(points, e.Categories):
        return found | {"unknown category": value.isNotNull() & ~is_category(value, points.values)}
    if isinstance(points, e.Places):
        return found | {"outside": ~_is_null(column) & ~_is_place(points)}
    if isinstance(points, e.Vectors):
        return found | _adjusted_vector(value, points)
    if column.type in FLOATS and hasattr(declared, "on_nan"):
        found["NaN"] = F.isnan(value)
        if declared.on_infinite == "null":  # type: ignore[union-attr]
            found["infinite"] = is_infinite(value)
    if isinstance(points, e.Lattice):
        bounds = getattr(declared, "bounds", None)
        ends = bounds or (float(points.lower * points.step), float(points.upper * points.step))
        number = stored_or_float(value, column.type, points)
        found["clipped"] = has_point(column) & ~number.between(*ends)
    return found


def _adjusted_vector(value: Column, points: e.Vectors) -> dict[str, Column]:
    if points.clip_norm is None:
        return {}
    size = F.abs if points.order == 1 else lambda x: x * x
    norm = F.aggregate(value.cast("array<double>"), F.lit(0.0), lambda total, x: total + size(x))
    most = points.clip_norm if points.order == 1 else points.clip_norm**2
    return {"clipped": _is_vector(value, points.dimension) & (norm > most)}


# ---- shared ----------------------------------------------------------------------------------------------------------


def stored_integer(value: Column, kind: str) -> Column:
    """The integer that the type stores: the value itself, a decimal's unscaled one, microseconds or days since 1970."""
    if kind.startswith("decimal"):
        scale = int(kind[:-1].split(",")[1])
        return (value * F.expr(f"cast({10**scale} as decimal(19,0))")).cast("bigint")
    if kind == "timestamp":
        return F.unix_micros(value)
    if kind == "timestamp_ntz":
        return local_micros(value)
    if kind == "date":
        return F.unix_date(value).cast("bigint")
    return value.cast("bigint")


def stored_or_float(value: Column, kind: str, lattice: e.Lattice) -> Column:
    """The value as a number in the column's unit."""
    if kind in ("timestamp", "timestamp_ntz", "date"):
        return stored_integer(value, kind) * F.lit(float(lattice.unit))
    return value


def is_infinite(value: Column) -> Column:
    return value.isin(float("inf"), float("-inf"))


def within(value: Column, low: int, high: int) -> Column:
    return F.greatest(F.least(value, F.lit(high).cast("bigint")), F.lit(low).cast("bigint"))


def within_float(value: Column, most: float) -> Column:
    return F.greatest(F.least(value, F.lit(float(most))), F.lit(-float(most)))


def category_index(value: Column, categories: Sequence[Any]) -> Column:
    listed = F.array(*[F.lit(category) for category in categories])
    position = F.array_position(listed, value)  # 1-based, 0 where unknown, null where null
    return F.coalesce(F.greatest(position - 1, F.lit(0).cast("bigint")), F.lit(0).cast("bigint"))


def is_category(value: Column, categories: Sequence[Any]) -> Column:
    return value.isin(*categories)
