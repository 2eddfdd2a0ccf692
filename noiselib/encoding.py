"""What a column's values are to its mechanism, and what its codes are to a reader: plain data, for Spark to act on.

Points: the int64 numbers that stand for values on the way to the workers. Codes: the int64 numbers that come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

Category = str | bool | int

SQL_TYPES = {"int8": "tinyint", "int16": "smallint", "int32": "int", "int64": "bigint"}


def sql_type(kind: str) -> str:
    """Spark's name for a type of ours."""
    return SQL_TYPES.get(kind, kind)


@dataclass(frozen=True)
class Lattice:
    """Where a numeric column's values lie: whole multiples of `step`, in the column's unit. Points and codes count steps.

    unit:            what one stored integer is worth: 1, or 10^-s for a decimal; for floats the step itself
    lower, upper:    the clipping bounds, in steps
    floor, ceiling:  the least and largest that is published, in steps: the type's range
    """

    step: Fraction
    unit: Fraction
    lower: int
    upper: int
    floor: int
    ceiling: int

    @property
    def per_step(self) -> int:
        """Stored integers per step."""
        return int(self.step / self.unit)


@dataclass(frozen=True)
class Categories:
    """A point or code is the index of a category."""

    values: tuple[Category, ...]


@dataclass(frozen=True)
class Vectors:
    """Arrays of `dimension` floats, clipped to `clip_norm` in the norm of that `order` (unless None), on a lattice of `step`."""

    dimension: int
    step: Fraction
    order: int
    clip_norm: float | None


@dataclass(frozen=True)
class Places:
    """Latitude and longitude from an origin, in steps of so many degrees, packed: north in the high 32 bits, east in the low.

    All in degrees. A place beyond the bounds is none: near a pole, moving two neighbours to the bounds would part them.
    """

    latitude: str
    longitude: str
    north: float
    east: float
    origin: tuple[float, float]
    latitude_bounds: tuple[float, float]
    longitude_bounds: tuple[float, float]


@dataclass(frozen=True)
class Untouched:
    """The value takes no part in the noise: every point is 0."""


@dataclass(frozen=True)
class RowCount:
    """Every point is the number of rows in the release."""


# ---- codes only ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CategorySet:
    """A bit mask of categories, in words of 64 bits: published as the array of those whose bit is set."""

    values: tuple[Category, ...]


@dataclass(frozen=True)
class HashReport:
    """(seed, report): published as a struct of these."""

    buckets: int


@dataclass(frozen=True)
class Position:
    """A number 0..count-1, published as it is."""

    count: int


@dataclass(frozen=True)
class BitReport:
    """A bit mask, and with several cohorts a word with the cohort: published as a struct (cohort, bits: array of positions)."""

    bits: int
    cohorts: int


@dataclass(frozen=True)
class Readings:
    """A code c of 0..codes-1 reads offset + slope c, in the column's unit; -1 and `codes` read as the `ends`."""

    offset: float
    slope: float
    codes: int
    ends: tuple[float, float] | None = None


@dataclass(frozen=True)
class Bit:
    """0 or 1, published as a boolean."""


@dataclass(frozen=True)
class Quantized:
    """Whole multiples of `quantum`, in the column's unit; of integers and decimals, one stored integer is worth `unit`."""

    quantum: Fraction
    unit: Fraction | None


@dataclass(frozen=True)
class Factor:
    """The value times (1 + code / 2^20)."""


@dataclass(frozen=True)
class Replaced:
    """Code 0 keeps the value, code i puts the i-th of `values` (None: null) in its place."""

    values: tuple[float | int | str | bool | None, ...]


@dataclass(frozen=True)
class Donor:
    """The value of the row of that number, 0 to rows-1, in the same release; -1 keeps the row's own."""


@dataclass(frozen=True)
class East:
    """The longitude of the places that another column's codes hold."""

    places: Places


Points = Lattice | Categories | Vectors | Places | Untouched | RowCount
Codes = (
    Lattice | Categories | Vectors | Places | East | CategorySet | HashReport | Position | BitReport | Readings | Bit
    | Quantized | Factor | Replaced | Donor
)  # fmt: skip
