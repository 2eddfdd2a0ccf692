"""A table whose own metadata lists its files, as Delta's and Iceberg's do: columns and partition values come from there.

The files are read as they lie, by column name. So each must hold exactly the table's columns, and a file that would be read
otherwise by the format's own rules is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from noiselib.errors import InputError
from noiselib.snapshot.footers import footer_types, read_footer, schema_types
from noiselib.snapshot.table import (
    DataFile,
    Partition,
    PartitionValue,
    TableMetadata,
    demand_partition_by,
    in_order,
    stamp,
)
from noiselib.yaml_text import Positions

PARTITION_KINDS = ("int8", "int16", "int32", "int64", "string", "boolean", "date")
PLAIN = re.compile(
    r"int(8|16|32|64)|float|double|boolean|string|date|binary|timestamp|timestamp_ntz|decimal\(\d+,-?\d+\)"
)


@dataclass(frozen=True)
class Listed:
    """A data file as the table's metadata lists it, with its values of the partition columns."""

    path: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class Contents:
    """One version of a table: what its metadata says. `check` refuses a file whose footer shows that it must be read otherwise."""

    name: str
    version: int
    schema: pa.Schema
    partition_by: tuple[str, ...]
    files: Sequence[Listed]
    check: Callable[[str, pq.FileMetaData], None] = lambda path, footer: None

    @property
    def where(self) -> str:
        return f"source {self.name} at version {self.version}"


def listed_table(contents: Contents, partition_by: Sequence[str], positions: Positions) -> TableMetadata:
    """The table's metadata. Raises SpecError where `partition_by` is not the table's own, InputError for what is not read."""
    name, own = contents.name, contents.partition_by
    demand_partition_by(name, own, partition_by, positions)
    if not contents.files:
        raise InputError(f"{contents.where}: holds no data file")
    types = _types(contents)
    with ThreadPoolExecutor(8) as pool:
        footers = list(pool.map(read_footer, [file.path for file in contents.files]))
    columns = {column: kind for column, kind in types.items() if column not in own}
    files = []
    for file, footer in zip(contents.files, footers, strict=True):
        _check_columns(contents, file.path, columns, footer)
        contents.check(file.path, footer)
        files.append(DataFile(file.path, _partition(contents, file), footer.num_rows, stamp(file.path)))
    schema = (*columns.items(), *((column, types[column]) for column in own))
    partitions = in_order(name, [file.partition for file in files])
    return TableMetadata(name, schema, own, tuple(files), partitions, contents.version)


def local(name: str, uri: str) -> str:
    """The path of a file on a local or mounted file system. Raises InputError for any other."""
    path = re.sub("^file:/+", "/", uri)
    if not path.startswith("/"):
        raise InputError(f"source {name}: {uri}: expected files on a local or mounted file system")
    return path


def _types(contents: Contents) -> dict[str, str]:
    """The columns' types. Raises InputError for those whose files are not read by name alone, or not at all."""
    types = dict(schema_types(contents.schema))
    for column, kind in types.items():
        if not PLAIN.fullmatch(re.sub("^(array<)+|>+$", "", kind)):
            raise InputError(f"{contents.where}: column {column!r} is {kind}, which is not read from this format")
    for column in contents.partition_by:
        if types[column] not in PARTITION_KINDS:
            raise InputError(
                f"{contents.where}: partition column {column!r} is {types[column]}; expected {', '.join(PARTITION_KINDS)}"
            )
    return types


def _check_columns(contents: Contents, path: str, columns: Mapping[str, str], footer: pq.FileMetaData) -> None:
    try:
        held = {column: kind for column, kind in footer_types(footer) if column not in contents.partition_by}
    except (ValueError, pa.ArrowException) as error:
        raise InputError(f"source file {path}: its schema cannot be read ({type(error).__name__})") from None
    if held == columns:
        return
    odd = min(set(held.items()) ^ set(columns.items()))[0]
    raise InputError(
        f"source file {path}: column {odd!r} is {held.get(odd, 'not in it')}, in the table {columns.get(odd, 'there is none')}: "
        f"written before the columns changed; expected files that hold the columns of {contents.where}: rewrite it"
    )


def _partition(contents: Contents, file: Listed) -> Partition:
    values = zip(contents.partition_by, file.values, strict=True)
    return tuple((column, _value(contents, column, value)) for column, value in values)


def _value(contents: Contents, column: str, value: Any) -> PartitionValue:
    """As Spark names partitions: a date or a truth value is its text."""
    if value == "":
        raise InputError(
            f"{contents.where}: partition column {column!r} is an empty string, which Spark writes as null"
        )
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date) else value
