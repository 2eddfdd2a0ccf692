"""What Parquet files say of themselves: their rows, and their columns with the names this tool gives types."""

from __future__ import annotations

import os
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from noiselib.errors import InputError


def schema_types(schema: pa.Schema) -> tuple[tuple[str, str], ...]:
    """The columns of an Arrow schema with the names this tool gives their types."""
    return tuple((field.name, _type_name(field.type)) for field in schema)


def read_footer(path: str | os.PathLike[str]) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"source file {path}: not a whole Parquet file ({type(error).__name__})") from None


def footer_types(footer: pq.FileMetaData) -> tuple[tuple[str, str], ...]:
    """The file's columns and types. Arrow takes Spark's old INT96 timestamps for nanoseconds; Spark reads them as instants.

    Raises ArrowException or ValueError where they cannot be read.
    """
    columns = [footer.schema.column(i) for i in range(footer.num_columns)]
    old = {column.path for column in columns if column.physical_type == "INT96"}
    return tuple((n, "timestamp" if n in old else kind) for n, kind in schema_types(footer.schema.to_arrow_schema()))


def _type_name(kind: pa.DataType) -> str:
    simple: dict[Any, str] = {
        pa.int8(): "int8", pa.int16(): "int16", pa.int32(): "int32", pa.int64(): "int64",
        pa.float32(): "float", pa.float64(): "double", pa.bool_(): "boolean",
        pa.string(): "string", pa.large_string(): "string", pa.date32(): "date", pa.binary(): "binary",
    }  # fmt: skip
    if kind in simple:
        return simple[kind]
    if pa.types.is_dictionary(kind):  # how Arrow writes a pandas categorical: in Parquet, its values
        return _type_name(kind.value_type)
    if pa.types.is_timestamp(kind) and kind.unit != "ns":
        return "timestamp" if kind.tz else "timestamp_ntz"
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"array<{_type_name(kind.value_type)}>"
    return str(kind)
