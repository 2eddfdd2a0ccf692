"""The snapshot: the exact input read. Its files, its schema, and a fingerprint of what they hold.

The fingerprint of a partition is a hash of its data files' contents (SHA-256 of every byte), their number, and the
table's schema. File names, times and places are not in it: a copy of a table is the same snapshot, and a table in which
one byte differs is another one, even if size and modification time are forged. So a changed table leads to another
release id and another release key. What could change between hashing and reading is compared again after reading.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from noiselib.errors import InputError, SpecError

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
RANGE = re.compile(r"(-?[0-9]{1,19})\.\.(-?[0-9]{1,19})")
PartitionValue = int | str | None
Partition = tuple[tuple[str, PartitionValue], ...]


@dataclass(frozen=True)
class DataFile:
    path: str
    partition: Partition
    rows: int
    stamp: tuple[int, ...]  # size, times and inode: to notice a change while we work, not to identify content


@dataclass(frozen=True)
class TableMetadata:
    """What is known of a table without reading a row: its columns in order, its files and partitions."""

    path: str
    schema: tuple[tuple[str, str], ...]  # (column, type): int32 int64 float double decimal(p,s) boolean string date ...
    partition_by: tuple[str, ...]
    files: tuple[DataFile, ...]
    partitions: tuple[Partition, ...]

    def rows(self, partition: Partition) -> int:
        return sum(file.rows for file in self.files if file.partition == partition)

    def files_of(self, partition: Partition) -> list[DataFile]:
        return [file for file in self.files if file.partition == partition]


def partition_text(partition: Partition) -> str:
    """`month=3` or `year=2013/month=3`; empty for a table without partitions."""
    return "/".join(f"{name}={NULL_PARTITION if value is None else value}" for name, value in partition)


def read_metadata(path: str, partition_by: Sequence[str]) -> TableMetadata:
    """The metadata of the Parquet table at `path`, from file names and footers. Raises InputError."""
    root = Path(path.removeprefix("file://"))
    if not root.exists():
        raise InputError(f"source {path}: not found")
    directories, paths = _walk(root, len(partition_by))
    raw = {directory: _partition_of(directory, partition_by, path) for directory in directories}
    typed, types = _typed_partitions(raw, partition_by)
    stray = [file for file in paths if _partition_directory(root, file, len(partition_by)) not in typed]
    if stray:
        expected = "/".join(f"{name}=..." for name in partition_by)
        raise InputError(f"source file {stray[0]}: lies in no partition; expected {expected} above it")
    with ThreadPoolExecutor(8) as pool:
        footers = dict(zip(paths, pool.map(_read_footer, paths), strict=True))
    schema = _common_schema(path, footers)
    for name, kind in schema:
        if kind.startswith("timestamp[ns"):
            raise InputError(
                f"source {path}: column {name!r} is {kind}, which Spark cannot read; expected microseconds"
            )
    inside = [name for name in partition_by if name in dict(schema)]
    if inside:
        raise InputError(
            f"source {path}: partition column {inside[0]!r} stands in the data files too; expected in paths only"
        )
    files = tuple(
        DataFile(
            str(file), typed[_partition_directory(root, file, len(partition_by))], footers[file].num_rows, _stamp(file)
        )
        for file in paths
    )
    partitions = tuple(sorted(set(typed.values()), key=lambda p: [(v is None, str(type(v)), v) for _, v in p]))
    if len({partition_text(partition) for partition in partitions}) < len(partitions):
        raise InputError(
            f"source {path}: two partitions read the same, since a value holds a slash; expected distinct ones"
        )
    return TableMetadata(path, schema + types, tuple(partition_by), files, partitions)


def choose_partitions(table: TableMetadata, wanted: Sequence[dict[str, str]]) -> list[Partition]:
    """All partitions, or those that match one of `wanted` (column -> value as text, or FIRST..LAST of whole numbers).

    Raises SpecError for an unknown column, InputError where there is no such partition.
    """
    if not wanted:
        return list(table.partitions)
    chosen: list[Partition] = []
    for choice in wanted:
        for name in choice:
            if name not in table.partition_by:
                raise SpecError(
                    f"--partition {name}: expected one of the partition columns: {', '.join(table.partition_by) or 'none'}"
                )
        matching = [p for p in table.partitions if all(_is(dict(p)[name], text) for name, text in choice.items())]
        if not matching:
            text = ", ".join(f"{name}={value}" for name, value in choice.items())
            raise InputError(f"source {table.path}: no partition {text}")
        chosen += [p for p in matching if p not in chosen]
    return chosen


def _is(value: PartitionValue, wanted: str) -> bool:
    """Whether `wanted` names the value, or a range that it lies in."""
    if isinstance(value, int) and (ends := RANGE.fullmatch(wanted)):
        return int(ends[1]) <= value <= int(ends[2])
    return wanted == (NULL_PARTITION if value is None else str(value))


def fingerprint(table: TableMetadata, partition: Partition) -> str:
    """Hex SHA-256 of what identifies the snapshot of one partition: schema, number of files, every file's content."""
    files = table.files_of(partition)
    with ThreadPoolExecutor(4) as pool:
        digests = sorted(pool.map(_content_digest, [file.path for file in files]))
    identity = {"schema": sorted(table.schema), "files": digests}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def verify_unchanged(table: TableMetadata, partitions: Sequence[Partition]) -> None:
    """Raise InputError naming the first file of `partitions` that was changed, added or removed since `table` was read."""
    root, depth = Path(table.path.removeprefix("file://")), len(table.partition_by)
    chosen = {partition_text(partition) for partition in partitions}
    before = {file.path: file.stamp for file in table.files if file.partition in partitions}
    now = {
        str(file): _stamp(file)
        for file in (_walk(root, depth)[1] if root.exists() else [])
        if unquote("/".join(_partition_directory(root, file, depth))) in chosen
    }
    for path in sorted(before.keys() | now.keys()):
        if before.get(path) != now.get(path):
            what = "added" if path not in before else "removed" if path not in now else "changed"
            raise InputError(f"source file {path}: {what} while the release was made; nothing is published")


def schema_types(schema: pa.Schema) -> tuple[tuple[str, str], ...]:
    """The columns of an Arrow schema with the names this tool gives their types."""
    return tuple((field.name, _type_name(field.type)) for field in schema)


def _walk(root: Path, depth: int) -> tuple[list[tuple[str, ...]], list[Path]]:
    """Partition directories (as path parts below root) and data files; names with a leading _ or . are not data."""
    directories: list[tuple[str, ...]] = []
    files: list[Path] = []
    if root.is_file():
        return [()], [root]
    pending: list[tuple[Path, tuple[str, ...]]] = [(root, ())]
    while pending:
        directory, parts = pending.pop()
        if len(parts) == depth:
            directories.append(parts)
        for entry in _entries(directory):
            if entry.name.startswith(("_", ".")):
                continue
            if entry.is_dir():
                if len(parts) >= depth and "=" in entry.name:
                    raise InputError(f"source {root}: directory {entry} is a partition that partition_by does not name")
                pending.append((entry, (*parts, entry.name) if len(parts) < depth else parts))
            elif entry.is_file():
                files.append(entry)
            else:
                raise InputError(f"source {root}: {entry} is neither a file nor a directory")
    return directories, sorted(files)


def _entries(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError as error:
        raise InputError(f"source directory {directory}: cannot be read ({error.strerror})") from None


def _partition_directory(root: Path, file: Path, depth: int) -> tuple[str, ...]:
    return file.parent.relative_to(root).parts[:depth] if file != root else ()


def _partition_of(directory: tuple[str, ...], partition_by: Sequence[str], path: str) -> tuple[str, ...]:
    names = [part.partition("=")[0] for part in directory]
    if names != list(partition_by):
        raise InputError(
            f"source {path}: directory {'/'.join(directory)!r}; expected {'/'.join(f'{n}=...' for n in partition_by)}"
        )
    return tuple(unquote(part.partition("=")[2]) for part in directory)


def _typed_partitions(
    raw: Mapping[tuple[str, ...], tuple[str, ...]], partition_by: Sequence[str]
) -> tuple[dict[tuple[str, ...], Partition], tuple[tuple[str, str], ...]]:
    """Partition values by directory, as int32 or int64 where every value of the column is a plain number, else as strings."""
    types = []
    for position, name in enumerate(partition_by):
        texts = {values[position] for values in raw.values()} - {NULL_PARTITION}
        plain = all(re.fullmatch("0|-?[1-9][0-9]*", text) for text in texts)
        largest = max((abs(int(text)) for text in texts), default=0) if plain else 0
        types.append((name, "string" if not plain or largest >= 2**63 else "int32" if largest < 2**31 else "int64"))

    def value(text: str, kind: str) -> PartitionValue:
        return None if text == NULL_PARTITION else text if kind == "string" else int(text)

    typed = {
        directory: tuple((name, value(text, kind)) for (name, kind), text in zip(types, values, strict=True))
        for directory, values in raw.items()
    }
    return typed, tuple(types)


def _read_footer(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"source file {path}: not a whole Parquet file ({type(error).__name__})") from None


def _common_schema(path: str, footers: Mapping[Path, pq.FileMetaData]) -> tuple[tuple[str, str], ...]:
    if not footers:
        raise InputError(f"source {path}: holds no data file; an empty table needs one file to show its columns")
    first: tuple[tuple[str, str], ...] | None = None
    for file, footer in footers.items():
        try:
            schema = _footer_types(footer)
        except (ValueError, pa.ArrowException) as error:
            raise InputError(f"source file {file}: its schema cannot be read ({type(error).__name__})") from None
        twice = [name for name, times in Counter(name for name, _ in schema).items() if times > 1]
        if twice:
            raise InputError(f"source file {file}: column {twice[0]!r} stands in it twice")
        if first is None:
            first = schema
        elif schema != first:
            odd = sorted(set(schema) ^ set(first))
            raise InputError(
                f"source file {file}: its schema differs from the table's in column {odd[0][0] if odd else 'order'!r}"
            )
    assert first is not None
    return first


def _footer_types(footer: pq.FileMetaData) -> tuple[tuple[str, str], ...]:
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


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"source file {path}: cannot be read ({error.strerror})") from None
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


def _content_digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"source file {path}: cannot be read ({error.strerror})") from None
