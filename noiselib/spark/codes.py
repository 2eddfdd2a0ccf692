"""From codes to published values and back, in native Spark expressions.

Each kind of code has its reading (`published`) and a condition that every published value fulfils (`well_formed`).
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from noiselib import encoding as e
from noiselib.column_plan import ColumnPlan
from noiselib.spark.points import FLOATS, category_index, has_point, is_category, stored_integer, value_of, within

FACTOR = 2.0**-20


def published(column: ColumnPlan, code: Column, donor: Column | None = None) -> Column:
    """The published value, in the published type, of a code; null where the policy leaves none.

    `donor`: the value of the row that the code names, of a column that takes others' values.
    """
    value = value_of(column)
    found = F.when(has_point(column), _read(column.codes, code, value if donor is None else donor, column))
    if getattr(column.declared, "on_nan", "") == "keep" and column.published_type in FLOATS and column.type in FLOATS:
        return F.when(F.isnan(value), value.cast(column.published_type)).otherwise(found)
    return found


def unpublished(column: ColumnPlan) -> Column:
    """Where the published value is null whatever the noise."""
    kept = F.isnan(value_of(column)) if column.type in FLOATS and column.published_type in FLOATS else F.lit(False)
    keeps_nan = getattr(column.declared, "on_nan", "") == "keep"
    return ~has_point(column) & ~(F.coalesce(kept, F.lit(False)) if keeps_nan else F.lit(False))


def nulls_are_known(column: ColumnPlan) -> bool:
    """Whether where a published value is null does not depend on the noise."""
    return not isinstance(column.codes, e.Donor | e.Replaced)


def nullable(column: ColumnPlan) -> bool:
    """Whether a release may publish this column without a value in some row, or with a NaN."""
    declared = column.declared
    assert declared is not None
    policies = [
        getattr(declared, name, "fail") for name in ("on_null", "on_nan", "on_infinite", "on_unknown", "on_outside")
    ]
    return any(policy in ("keep", "null") for policy in policies) or not nulls_are_known(column)


# ---- readings --------------------------------------------------------------------------------------------------------


@singledispatch
def _read(codes: Any, code: Column, value: Column, column: ColumnPlan) -> Column:
    raise AssertionError(type(codes).__name__)


@_read.register
def _(codes: e.Lattice, code: Column, value: Column, column: ColumnPlan) -> Column:
    kept = within(code, codes.floor, codes.ceiling)
    if column.type in FLOATS:
        return (kept.cast("double") * F.lit(float(codes.step))).cast(column.type)
    return from_stored(kept * F.lit(codes.per_step).cast("bigint"), column.type)


@_read.register
def _(codes: e.Quantized, code: Column, value: Column, column: ColumnPlan) -> Column:
    if codes.unit is None:
        return (code.cast("double") * F.lit(float(codes.quantum))).cast(column.published_type)
    per_unit = int(codes.unit / codes.quantum)
    return from_stored(F.call_function("div", code, F.lit(per_unit).cast("bigint")), column.type)


@_read.register
def _(codes: e.Categories, code: Column, value: Column, column: ColumnPlan) -> Column:
    return F.get(_listed(codes.values), code.cast("int")).cast(e.sql_type(column.type))


@_read.register
def _(codes: e.CategorySet, code: Column, value: Column, column: ColumnPlan) -> Column:
    words = _words(code, len(codes.values))
    chosen = [_where_set(_listed(codes.values[64 * i : 64 * i + 64]), word) for i, word in enumerate(words)]
    return F.concat(*chosen).cast(column.published_type)


@_read.register
def _(codes: e.BitReport, code: Column, value: Column, column: ColumnPlan) -> Column:
    words = _words(code, codes.bits, always=codes.cohorts > 1)
    ends = [min(codes.bits, 64 * i + 64) - 1 for i in range(len(words))]
    positions = [
        _where_set(F.sequence(F.lit(64 * i), F.lit(end)), word)
        for i, (end, word) in enumerate(zip(ends, words, strict=False))
    ]
    cohort = F.element_at(code, -1).cast("int") if codes.cohorts > 1 else F.lit(0)
    return F.struct(cohort.alias("cohort"), F.concat(*positions).cast("array<int>").alias("bits"))


@_read.register
def _(codes: e.HashReport, code: Column, value: Column, column: ColumnPlan) -> Column:
    return F.struct(F.get(code, F.lit(0)).alias("seed"), F.get(code, F.lit(1)).cast("int").alias("report"))


@_read.register
def _(codes: e.Position, code: Column, value: Column, column: ColumnPlan) -> Column:
    return code.cast("int")


@_read.register
def _(codes: e.Bit, code: Column, value: Column, column: ColumnPlan) -> Column:
    return code == 1


@_read.register
def _(codes: e.Readings, code: Column, value: Column, column: ColumnPlan) -> Column:
    reading = F.lit(codes.offset) + F.lit(codes.slope) * code.cast("double")
    if codes.ends is not None:
        reading = (
            F.when(code < 0, F.lit(codes.ends[0])).when(code >= codes.codes, F.lit(codes.ends[1])).otherwise(reading)
        )
    return reading


@_read.register
def _(codes: e.Factor, code: Column, value: Column, column: ColumnPlan) -> Column:
    product = value.cast("double") * (F.lit(1.0) + code.cast("double") * F.lit(FACTOR))
    return product.cast(column.type) if column.type in FLOATS else F.rint(product).cast(e.sql_type(column.type))


@_read.register
def _(codes: e.Replaced, code: Column, value: Column, column: ColumnPlan) -> Column:
    result = value
    for number, other in enumerate(codes.values, 1):
        result = F.when(code == number, F.lit(other).cast(e.sql_type(column.type))).otherwise(result)
    return result


@_read.register
def _(codes: e.Donor, code: Column, value: Column, column: ColumnPlan) -> Column:
    return value


@_read.register
def _(codes: e.Places, code: Column, value: Column, column: ColumnPlan) -> Column:
    degrees = F.lit(codes.origin[0]) + north_steps(code).cast("double") * F.lit(codes.north)
    return F.greatest(F.least(degrees, F.lit(90.0)), F.lit(-90.0)).cast(column.type)


@_read.register
def _(codes: e.East, code: Column, value: Column, column: ColumnPlan) -> Column:
    degrees = F.lit(codes.places.origin[1]) + east_steps(code).cast("double") * F.lit(codes.places.east)
    return F.when(degrees > 180, degrees - 360).when(degrees < -180, degrees + 360).otherwise(degrees).cast(column.type)


@_read.register
def _(codes: e.Vectors, code: Column, value: Column, column: ColumnPlan) -> Column:
    return F.transform(code, lambda k: k.cast("double") * F.lit(float(codes.step))).cast(column.type)


def from_stored(stored: Column, kind: str) -> Column:
    """The value of the integer that the type stores; the way back from `stored_integer`."""
    if kind.startswith("decimal"):
        scale = int(kind[:-1].split(",")[1])
        unit = F.expr(f"cast('1e-{scale}' as decimal({scale + 1},{scale}))")
        return (stored.cast("decimal(18,0)") * unit).cast(kind)
    if kind == "timestamp":
        return F.timestamp_micros(stored)
    if kind == "timestamp_ntz":
        day, rest = F.call_function("div", stored - F.pmod(stored, _lit(DAY)), _lit(DAY)), F.pmod(stored, _lit(DAY))
        midnight = F.date_from_unix_date(day.cast("int")).cast("timestamp_ntz")
        return midnight + F.make_dt_interval(secs=rest.cast("decimal(18,0)") / F.lit(10**6))
    if kind == "date":
        return F.date_from_unix_date(stored.cast("int"))
    return stored.cast(e.sql_type(kind))


DAY = 86400 * 10**6


def north_steps(packed: Column) -> Column:
    return F.shiftright(packed, 32)


def east_steps(packed: Column) -> Column:
    return F.shiftright(F.shiftleft(packed, 32), 32)


def _lit(number: int) -> Column:
    return F.lit(number).cast("bigint")


def _listed(values: tuple[e.Category, ...]) -> Column:
    return F.array(*[F.lit(value) for value in values])


def _words(code: Column, bits: int, always: bool = False) -> list[Column]:
    """The words of a bit mask: the code itself, or the elements of the array that it is."""
    count = -(-bits // 64)
    return [code] if count == 1 and not always else [F.get(code, F.lit(place)) for place in range(count)]


def _where_set(items: Column, word: Column) -> Column:
    """Those of up to 64 items whose bit is set."""
    return F.filter(items, lambda _, place: F.getbit(word, place) == 1)


# ---- back, and what every published value fulfils ----------------------------------------------------------------------


def published_point(column: ColumnPlan) -> Column:
    """A published value's lattice point, or a category's index: the way back from `published`. Null where it is null."""
    value, codes = value_of(column), column.codes
    if isinstance(codes, e.Categories):
        return F.when(value.isNotNull(), category_index(value, codes.values))
    assert isinstance(codes, e.Lattice)
    if column.type in FLOATS:
        return F.rint(F.when(~F.isnan(value), value.cast("double")) / F.lit(float(codes.step)))
    stored = stored_integer(value, column.type)
    return F.call_function("div", stored, _lit(codes.per_step)) if codes.per_step > 1 else stored


def well_formed(column: ColumnPlan) -> Column | None:
    """Whether a published value is one that the mechanism can give; None where anything of its type is."""
    return _well_formed(column.codes, value_of(column), column)


@singledispatch
def _well_formed(codes: Any, value: Column, column: ColumnPlan) -> Column | None:
    return None


@_well_formed.register
def _(codes: e.Lattice, value: Column, column: ColumnPlan) -> Column:
    point = published_point(column)
    if column.type in FLOATS:
        return (point * F.lit(float(codes.step))).cast(column.type) == F.when(~F.isnan(value), value)
    return point * _lit(codes.per_step) == stored_integer(value, column.type)


@_well_formed.register
def _(codes: e.Categories, value: Column, column: ColumnPlan) -> Column:
    return is_category(value, codes.values)


@_well_formed.register
def _(codes: e.CategorySet, value: Column, column: ColumnPlan) -> Column:
    known = F.forall(value, lambda item: item.isin(*codes.values))
    return known & (F.size(F.array_distinct(value)) == F.size(value))


@_well_formed.register
def _(codes: e.BitReport, value: Column, column: ColumnPlan) -> Column:
    bits = F.forall(value["bits"], lambda bit: bit.between(0, codes.bits - 1))
    return bits & value["cohort"].between(0, codes.cohorts - 1)


@_well_formed.register
def _(codes: e.HashReport, value: Column, column: ColumnPlan) -> Column:
    return value["report"].between(0, codes.buckets - 1) & value["seed"].between(2**31, 2**62 - 1)


@_well_formed.register
def _(codes: e.Position, value: Column, column: ColumnPlan) -> Column:
    return value.between(0, codes.count - 1)


@_well_formed.register
def _(codes: e.Readings, value: Column, column: ColumnPlan) -> Column:
    code = F.rint((value - F.lit(codes.offset)) / F.lit(codes.slope))
    inside = code.between(0, codes.codes - 1) & (F.lit(codes.offset) + F.lit(codes.slope) * code == value)
    return inside if codes.ends is None else inside | value.isin(*codes.ends)


@_well_formed.register
def _(codes: e.Places, value: Column, column: ColumnPlan) -> Column:
    return value.between(-90, 90)


@_well_formed.register
def _(codes: e.East, value: Column, column: ColumnPlan) -> Column:
    return value.between(-180, 180)


@_well_formed.register
def _(codes: e.Vectors, value: Column, column: ColumnPlan) -> Column:
    step, element = float(codes.step), column.type[6:-1]
    on_lattice = F.forall(value, lambda x: (F.rint(x.cast("double") / step) * step).cast(element) == x)
    return (F.size(value) == codes.dimension) & on_lattice
