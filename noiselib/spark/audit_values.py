"""The two values of a column that an audit sets against each other, and what it reads from what was published of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from functools import singledispatch
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from noiselib import encoding as e
from noiselib.audit import feature
from noiselib.column_plan import FLOAT_STEPS, INT64_LIMIT, ColumnPlan
from noiselib.mechanisms.additive import exact
from noiselib.mechanisms.planar import pack

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
NO_VALUE = float(np.finfo(np.float64).max)  # what a published null counts as: a value of its own


@dataclass(frozen=True, eq=False)
class Ends:
    """Two values that a column's claim calls neighbours, and the points that they are to its mechanism."""

    values: pa.Array
    pair: tuple[Any, Any]


def worst_ends(column: ColumnPlan, kind: pa.DataType) -> Ends:
    """Of a noised column of Arrow type `kind`; of a longitude, the same place twice: its latitude moves."""
    return _ends(column.points, column, kind)


@singledispatch
def _ends(points: Any, column: ColumnPlan, kind: pa.DataType) -> Ends:
    raise AssertionError(type(points).__name__)


@_ends.register
def _(points: e.Lattice, column: ColumnPlan, kind: pa.DataType) -> Ends:
    metric = getattr(column.declared, "protect_distance", None) is not None
    if column.type in ("float", "double"):
        numbers = _metric_floats(points, column) if metric else _bounded_floats(points)
        pair = tuple(min(max(round(x / float(points.step)), points.lower), points.upper) for x in numbers)
        return Ends(pa.array(numbers, kind), pair)  # type: ignore[arg-type]
    stored = _metric_stored(points, column) if metric else _bounded_stored(points, column.type)
    half = points.per_step // 2
    pair = tuple(min(max((x + half) // points.per_step, points.lower), points.upper) for x in stored)
    return Ends(_of_stored(stored, kind), pair)  # type: ignore[arg-type]


def _bounded_floats(points: e.Lattice) -> list[float]:
    """A width beyond either bound: what is not clipped is three times as far apart."""
    low, high = points.lower * float(points.step), points.upper * float(points.step)
    most = FLOAT_STEPS * float(points.step)
    return [max(2 * low - high, -most), min(2 * high - low, most)]


def _metric_floats(points: e.Lattice, column: ColumnPlan) -> list[float]:
    """The first just rounds down, so that they may lie one step further apart on the lattice."""
    base = 0.499 * float(points.step)
    return [base, base + column.declared.protect_distance]  # type: ignore[union-attr]


def _bounded_stored(points: e.Lattice, kind: str) -> list[int]:
    low, high = points.lower * points.per_step, points.upper * points.per_step
    most = {"int32": 2**31 - 1, "int64": INT64_LIMIT}.get(kind) or 10 ** int(kind[8:].split(",")[0]) - 1
    return [max(2 * low - high, -most), min(2 * high - low, most)]


def _metric_stored(points: e.Lattice, column: ColumnPlan) -> list[int]:
    """The first is the largest that rounds to 0."""
    base = points.per_step - points.per_step // 2 - 1
    distance = exact(column.declared.protect_distance) / points.unit  # type: ignore[union-attr]
    return [base, base + math.floor(distance)]


def _of_stored(stored: list[int], kind: pa.DataType) -> pa.Array:
    """Values of the integers that the type stores: itself, a decimal's unscaled one, microseconds or days since 1970."""
    if pa.types.is_decimal(kind):
        return pa.array([Decimal(number).scaleb(-kind.scale) for number in stored], kind)
    if pa.types.is_timestamp(kind):
        return pa.array(stored, pa.int64()).cast(pa.timestamp("us", kind.tz)).cast(kind)
    if pa.types.is_date(kind):
        return pa.array(stored, pa.int32()).cast(pa.date32()).cast(kind)
    return pa.array(stored, kind)


@_ends.register
def _(points: e.Categories, column: ColumnPlan, kind: pa.DataType) -> Ends:
    last = len(points.values) - 1
    return Ends(pa.array([points.values[0], points.values[last]]).cast(kind), (0, last))


@_ends.register
def _(points: e.Vectors, column: ColumnPlan, kind: pa.DataType) -> Ends:
    """Twice too long, in opposite directions."""
    norm, rest = points.clip_norm, [0.0] * (points.dimension - 1)
    assert norm is not None
    steps = round(norm / float(points.step))
    others = (0,) * len(rest)
    return Ends(pa.array([[2 * norm, *rest], [-2 * norm, *rest]], kind), ((steps, *others), (-steps, *others)))


@_ends.register
def _(points: e.Places, column: ColumnPlan, kind: pa.DataType) -> Ends:
    """`protect_distance` apart along a meridian, or as far as the box goes."""
    (south, north), (west, east) = points.latitude_bounds, points.longitude_bounds
    if column.treatment == "noised_with":
        return Ends(pa.array([(west + east) / 2] * 2, kind), (0, 0))
    metres = column.mechanism.step / exact(points.north)  # type: ignore[union-attr]  # in a degree
    apart = min(north - south, float(exact(column.declared.protect_distance) / metres) * 0.999999)  # type: ignore[union-attr]
    middle = (south + north) / 2
    latitudes = [middle - apart / 2, middle + apart / 2]
    x = round(((west + east) / 2 - points.origin[1]) / points.east)
    pair = tuple(
        int(pack(np.array([x]), np.array([round((latitude - points.origin[0]) / points.north)]))[0])
        for latitude in latitudes
    )
    return Ends(pa.array(latitudes, kind), pair)  # type: ignore[arg-type]


# ---- from what was published to what an attacker looks at --------------------------------------------------------------


def outputs(column: ColumnPlan, published: pa.Table, pair: tuple[Any, Any]) -> Floats:
    """A number for each published value of the column, floats (n,), as `noiselib.audit.feature` has it."""
    values = published[column.name].combine_chunks()
    if isinstance(column.codes, e.Places):
        east = published[column.codes.longitude].combine_chunks()
        return feature(column.mechanism, _places(column.codes, values, east), pair)
    codes = _codes(column.codes, values, column)
    if codes.dtype == np.float64:
        return codes
    return feature(column.mechanism, codes, pair)


@singledispatch
def _codes(codes: Any, values: pa.Array, column: ColumnPlan) -> NDArray[Any]:
    """The mechanism's codes, int64; or floats, where a published number serves as well as its code."""
    if pa.types.is_date(values.type):
        values = values.cast(pa.int32())
    elif pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    elif pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    numbers = pc.fill_null(values.cast(pa.float64()), NO_VALUE).to_numpy(zero_copy_only=False)
    return np.where(np.isnan(numbers), NO_VALUE, numbers)


@_codes.register
def _(codes: e.Categories, values: pa.Array, column: ColumnPlan) -> NDArray[Any]:
    return _indexes(codes.values, values).astype(np.float64)


@_codes.register
def _(codes: e.CategorySet, values: pa.Array, column: ColumnPlan) -> NDArray[Any]:
    return _masks(values, _indexes(codes.values, values.flatten()), len(codes.values))


@_codes.register
def _(codes: e.BitReport, values: pa.Array, column: ColumnPlan) -> NDArray[Any]:
    bits = values.field("bits")
    masks = _masks(bits, _ints(bits.flatten()), codes.bits)
    if codes.cohorts == 1:
        return masks
    return np.column_stack([masks, _ints(values.field("cohort"))])


@_codes.register
def _(codes: e.HashReport, values: pa.Array, column: ColumnPlan) -> NDArray[Any]:
    return np.column_stack([_ints(values.field(name)) for name in ("seed", "report")])


@_codes.register
def _(codes: e.Position, values: pa.Array, column: ColumnPlan) -> NDArray[Any]:
    return _ints(values)


@_codes.register
def _(codes: e.Vectors, values: pa.Array, column: ColumnPlan) -> NDArray[Any]:
    numbers = values.flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    vectors: Ints = np.rint(numbers.reshape(-1, codes.dimension) / float(codes.step)).astype(np.int64)
    return vectors


def _ints(values: pa.Array) -> Ints:
    numbers: Ints = values.to_numpy(zero_copy_only=False).astype(np.int64)
    return numbers


def _indexes(categories: tuple[e.Category, ...], values: pa.Array) -> Ints:
    """The index of each value in the declared list; their number for what is not in it."""
    found = pc.index_in(values, value_set=pa.array(categories).cast(values.type))
    return _ints(pc.fill_null(found, len(categories)))


def _masks(lists: pa.Array, positions: Ints, bits: int) -> Ints:
    """Masks, int64 (n, words), whose bits at the positions in each list are 1."""
    rows = np.repeat(np.arange(len(lists)), _ints(pc.list_value_length(lists)))
    masks = np.zeros((len(lists), -(-bits // 64)), np.int64)
    np.bitwise_or.at(masks, (rows, positions >> 6), np.int64(1) << (positions & 63))
    return masks


def _places(codes: e.Places, north: pa.Array, east: pa.Array) -> Ints:
    """Packed lattice points of published degrees; what was moved across a pole or the antimeridian is elsewhere."""
    latitudes, longitudes = (x.to_numpy(zero_copy_only=False).astype(np.float64) for x in (north, east))
    x = np.rint((longitudes - codes.origin[1]) / codes.east).astype(np.int64)
    return pack(x, np.rint((latitudes - codes.origin[0]) / codes.north).astype(np.int64))
