"""Whether a published report supports a category, in native Spark expressions: what frequency oracles are read by."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pyspark.sql import Column
from pyspark.sql import functions as F

PRIME = 2**31 - 1  # of the hash family of local hashing


def supports(codes: dict[str, Any], report: Column, category: Column | int) -> Column:
    """Whether `report`, published under `codes` (as a manifest describes them), supports the category of that index."""
    reading = _SUPPORTS[codes["kind"]]
    return reading(codes, report, category if isinstance(category, Column) else F.lit(category))


def _same_category(codes: dict[str, Any], report: Column, category: Column) -> Column:
    return report == _value(codes, category)


def _in_set(codes: dict[str, Any], report: Column, category: Column) -> Column:
    return F.array_contains(report, _value(codes, category))


def _same_bucket(codes: dict[str, Any], report: Column, category: Column) -> Column:
    seed, prime = report["seed"], F.lit(PRIME).cast("bigint")
    hashed: Column = (
        (F.shiftright(seed, 31) * category.cast("bigint") + seed.bitwiseAND(prime)) % prime % codes["buckets"]
    )
    same: Column = hashed == report["report"]
    return same


def _bit_set(codes: dict[str, Any], report: Column, category: Column) -> Column:
    return F.array_contains(report["bits"], category.cast("int"))


def block_and_parity(report: Column, category: Column, size: int) -> tuple[Column, Column]:
    """Of a Hadamard response: whether it lies in the category's block of `size` outputs, and whether with even parity."""
    block, row = F.floor(category / (size - 1)), category % (size - 1) + 1
    position = report.bitwiseAND(F.lit(size - 1)).cast("bigint")
    return F.floor(report / size) == block, F.bit_count(row.cast("bigint").bitwiseAND(position)) % 2 == 0


def _value(codes: dict[str, Any], category: Column) -> Column:
    return F.get(F.array(*[F.lit(value) for value in codes["values"]]), category.cast("int"))


_SUPPORTS: dict[str, Callable[[dict[str, Any], Column, Column], Column]] = {
    "Categories": _same_category,
    "CategorySet": _in_set,
    "HashReport": _same_bucket,
    "BitReport": _bit_set,
}
