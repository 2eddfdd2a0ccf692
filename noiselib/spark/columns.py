"""Native Spark column expressions around the noise: null, NaN and clip policy, the way to the lattice and back.

The workers see only int64 lattice values, never a null, a NaN or a string. What a policy cannot let through is counted
before any noise is drawn (`violations`), and fails the release.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

from noiselib import spec as s
from noiselib.mechanisms import RandomizedResponse
from noiselib.plan import ColumnPlan

HALF_INT64 = 2**62


def key_encoding(names: Sequence[str], types: dict[str, str], domain: str, hashed: bool = False) -> list[Column]:
    """The canonical encoding of a key: [id] where it is one whole number (unless `hashed`), else the two halves of a 128-bit hash.

    The hash is SHA-256, truncated, of each part's text behind its length in bytes, so that no two keys run into one
    another. Timestamps and dates enter as numbers: no time zone plays a part. Null where any part is null.
    """
    if len(names) == 1 and types[names[0]] in ("int32", "int64") and not hashed:
        return [F.col(quoted(names[0])).cast("bigint")]
    parts: list[Column] = [F.lit(domain)]
    for name in names:
        text = _key_text(F.col(quoted(name)), types[name])
        parts += [F.octet_length(text).cast("string"), F.lit(":"), text]
    return _hash_halves(F.concat(*parts))


def value_hash(column: ColumnPlan) -> list[Column]:
    """The two halves of the 128-bit hash of a value that gets a pseudonym. Not null: a null stays outside."""
    return _hash_halves(F.coalesce(F.col(quoted(column.name)).cast("string"), F.lit("")))


def to_lattice(column: ColumnPlan) -> Column:
    """The value's lattice point (bigint), clipped; 0 for a value without one (null, NaN, unknown category)."""
    value = F.col(quoted(column.name))
    if isinstance(column.mechanism, RandomizedResponse):
        return _category_index(value, column.mechanism.categories)
    lattice = column.lattice
    assert lattice is not None
    if column.type in ("float", "double"):
        step, number = float(lattice.step), value.cast("double")
        # clip in the column's unit, then divide and round half to even, as the plan did with the bounds
        clipped = F.greatest(F.least(number, F.lit(lattice.upper * step)), F.lit(lattice.lower * step))
        safe = F.when(number.isNull() | F.isnan(number), F.lit(0.0)).otherwise(clipped)
        return _within(F.rint(safe / F.lit(step)).cast("bigint"), lattice.lower, lattice.upper)
    per_step = int(lattice.step / lattice.unit)
    stored = stored_integer(value, column.type)
    limit = min(HALF_INT64, max(abs(lattice.lower), abs(lattice.upper)) * per_step + per_step)
    bounded = F.coalesce(_within(stored, -limit, limit), F.lit(0).cast("bigint"))
    if per_step > 1:
        moved, size = bounded + F.lit(per_step // 2).cast("bigint"), F.lit(per_step).cast("bigint")
        bounded = F.call_function("div", moved - F.pmod(moved, size), size)  # div truncates; pmod makes it a floor
    return _within(bounded, lattice.lower, lattice.upper)


def from_lattice(column: ColumnPlan, point: Column) -> Column:
    """The published value, in the column's type, of a noised lattice point; null where the policy leaves none."""
    value = F.col(quoted(column.name))
    if isinstance(column.mechanism, RandomizedResponse):
        categories = F.array(*[F.lit(category) for category in column.mechanism.categories])
        published = F.get(categories, point.cast("int")).cast(_sql_type(column.type))
        return F.when(value.isNotNull() & _is_category(value, column.mechanism.categories), published)
    lattice = column.lattice
    assert lattice is not None
    kept = _within(point, lattice.floor, lattice.ceiling)
    if column.type in ("float", "double"):
        number = (kept.cast("double") * F.lit(float(lattice.step))).cast(column.type)
        declared = column.declared
        assert isinstance(declared, s.Additive)
        published = F.when(value.isNotNull() & ~F.isnan(value), number)
        if declared.on_infinite != "clip":
            published = F.when(~is_infinite(value), published)
        if declared.on_nan == "keep":
            published = F.when(F.isnan(value), value).otherwise(published)
        return published
    stored = kept * F.lit(int(lattice.step / lattice.unit)).cast("bigint")
    if column.type.startswith("decimal"):
        scale = int(column.type[:-1].split(",")[1])
        unit = F.expr(f"cast('1e-{scale}' as decimal({scale + 1},{scale}))")
        number = (stored.cast("decimal(18,0)") * unit).cast(column.type)
    else:
        number = stored.cast(_sql_type(column.type))
    return F.when(value.isNotNull(), number)


def published_point(column: ColumnPlan) -> Column:
    """A published value's lattice point (a category's index): the way back from `from_lattice`. Null where it is null."""
    value, lattice = F.col(quoted(column.name)), column.lattice
    if isinstance(column.mechanism, RandomizedResponse):
        return F.when(value.isNotNull(), _category_index(value, column.mechanism.categories))
    assert lattice is not None
    if column.type in ("float", "double"):
        return F.rint(F.when(~F.isnan(value), value.cast("double")) / F.lit(float(lattice.step)))
    per_step = int(lattice.step / lattice.unit)
    stored = stored_integer(value, column.type)
    return F.call_function("div", stored, F.lit(per_step).cast("bigint")) if per_step > 1 else stored


def nullable(column: ColumnPlan) -> bool:
    """Whether a release may publish this noised column without a value in some row, or with a NaN."""
    declared = column.declared
    assert declared is not None
    others = [getattr(declared, name, "fail") for name in ("on_null", "on_nan", "on_infinite", "on_unknown")]
    return any(policy in ("keep", "null") for policy in others)


def violations(column: ColumnPlan) -> dict[str, Column]:
    """Conditions under which this column's policy fails the release, by what is found."""
    value, declared = F.col(quoted(column.name)), column.declared
    assert declared is not None
    found: dict[str, Column] = {}
    if declared.on_null == "fail":
        found["null (on_null: fail)"] = value.isNull()
    if isinstance(column.mechanism, RandomizedResponse):
        assert isinstance(declared, s.RandomizedResponse)
        if declared.on_unknown == "fail":
            found["a value outside its categories (on_unknown: fail)"] = value.isNotNull() & ~_is_category(
                value, column.mechanism.categories
            )
    elif column.type in ("float", "double"):
        assert isinstance(declared, s.Additive)
        if declared.on_nan == "fail":
            found["NaN (on_nan: fail)"] = F.isnan(value)
        if declared.on_infinite == "fail":
            found["an infinite value (on_infinite: fail)"] = is_infinite(value)
    if isinstance(declared, s.Additive) and declared.bounds is None:  # nobody declared where values may be clipped
        found["beyond " + _reach(column)] = _out_of_reach(column)
    return found


def _reach(column: ColumnPlan) -> str:
    """The range of a column without bounds, in words."""
    assert column.lattice is not None
    step = float(column.lattice.step)
    return f"{column.lattice.upper} steps of {step:g} from zero; expected a coarser granularity, or bounds"


def _out_of_reach(column: ColumnPlan) -> Column:
    value, lattice = F.col(quoted(column.name)), column.lattice
    assert lattice is not None
    if column.type in ("float", "double"):
        number = value.cast("double")
        return (F.abs(number) > lattice.upper * float(lattice.step)) & ~is_infinite(value) & ~F.isnan(value)
    stored, most = stored_integer(value, column.type), lattice.upper * int(lattice.step / lattice.unit)
    return ~stored.between(-most, most)


def adjusted(column: ColumnPlan) -> dict[str, Column]:
    """Conditions under which this column's policy changes a value before the noise, by what is done. Counted for the run."""
    value, found = F.col(quoted(column.name)), {"null": F.col(quoted(column.name)).isNull()}
    if isinstance(column.mechanism, RandomizedResponse):
        return found | {"unknown category": value.isNotNull() & ~_is_category(value, column.mechanism.categories)}
    declared, lattice = column.declared, column.lattice
    assert isinstance(declared, s.Additive)
    assert lattice is not None
    inside = value.between(float(lattice.lower * lattice.step), float(lattice.upper * lattice.step))
    if declared.bounds is not None:
        inside = value.between(*declared.bounds)
    number = value.isNotNull()
    if column.type in ("float", "double"):
        found["NaN"] = F.isnan(value)
        number = number & ~F.isnan(value)
        if declared.on_infinite == "null":
            found["infinite"] = is_infinite(value)
            number = number & ~is_infinite(value)
    found["clipped"] = number & ~inside
    return found


def unpublished(column: ColumnPlan) -> Column:
    """Where the published value is null."""
    value, declared = F.col(quoted(column.name)), column.declared
    missing = value.isNull()
    if isinstance(column.mechanism, RandomizedResponse):
        return missing | ~_is_category(value, column.mechanism.categories)
    if isinstance(declared, s.Additive) and column.type in ("float", "double"):
        if declared.on_nan == "null":
            missing = missing | F.isnan(value)
        if declared.on_infinite == "null":
            missing = missing | is_infinite(value)
    return F.coalesce(missing, F.lit(True))


def is_infinite(value: Column) -> Column:
    return value.isin(float("inf"), float("-inf"))


def stored_integer(value: Column, kind: str) -> Column:
    """The integer that the type stores: the value itself, or a decimal's unscaled one."""
    if kind.startswith("decimal"):
        scale = int(kind[:-1].split(",")[1])
        return (value * F.expr(f"cast({10**scale} as decimal(19,0))")).cast("bigint")
    return value.cast("bigint")


def _within(value: Column, low: int, high: int) -> Column:
    return F.greatest(F.least(value, F.lit(high).cast("bigint")), F.lit(low).cast("bigint"))


def _category_index(value: Column, categories: Sequence[Any]) -> Column:
    listed = F.array(*[F.lit(category) for category in categories])
    position = F.array_position(listed, value)  # 1-based, 0 where unknown, null where null
    return F.coalesce(F.greatest(position - 1, F.lit(0).cast("bigint")), F.lit(0).cast("bigint"))


def _is_category(value: Column, categories: Sequence[Any]) -> Column:
    return value.isin(*categories)


def _key_text(value: Column, kind: str) -> Column:
    if kind == "timestamp":
        return F.unix_micros(value).cast("string")
    if kind == "timestamp_ntz":
        return _local_micros(value).cast("string")
    if kind == "date":
        return F.unix_date(value).cast("string")
    return value.cast("string")


def _local_micros(value: Column) -> Column:
    """Microseconds since 1970-01-01 00:00 on the clock that a timestamp without time zone shows, whatever the session's."""
    minutes = (F.unix_date(value.cast("date")).cast("bigint") * 24 + F.hour(value)) * 60 + F.minute(value)
    return minutes * 60_000_000 + (F.extract(F.lit("SECOND"), value) * 1_000_000).cast("bigint")


def _hash_halves(text: Column) -> list[Column]:
    """The first 128 bits of SHA-256 as two bigints, high half first."""
    digest = F.sha2(text.cast("binary"), 256)
    return [F.conv(F.substring(digest, start, 16), 16, -10).cast("bigint") for start in (1, 17)]


def _sql_type(kind: str) -> str:
    return {"int32": "int", "int64": "bigint"}.get(kind, kind)


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"
