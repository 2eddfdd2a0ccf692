"""A Parquet directory as a table: partitions are in its paths, columns and rows in its files' footers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from noiselib.errors import InputError
from noiselib.snapshot.footers import footer_types, read_footer
from noiselib.snapshot.table import (
    NULL_PARTITION,
    DataFile,
    Partition,
    PartitionValue,
    TableMetadata,
    in_order,
    partition_text,
    stamp,
)


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
        footers = dict(zip(paths, pool.map(read_footer, paths), strict=True))
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
            str(file), typed[_partition_directory(root, file, len(partition_by))], footers[file].num_rows, stamp(file)
        )
        for file in paths
    )
    partitions = in_order(path, typed.values())
    return TableMetadata(path, schema + types, tuple(partition_by), files, partitions)


def files_now(table: TableMetadata, partitions: Sequence[Partition]) -> list[str]:
    """The data files that lie in `partitions` of the table now."""
    root, depth = Path(table.path.removeprefix("file://")), len(table.partition_by)
    chosen = {partition_text(partition) for partition in partitions}
    files = _walk(root, depth)[1] if root.exists() else []
    return [str(file) for file in files if unquote("/".join(_partition_directory(root, file, depth))) in chosen]


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


def _common_schema(path: str, footers: Mapping[Path, pq.FileMetaData]) -> tuple[tuple[str, str], ...]:
    if not footers:
        raise InputError(f"source {path}: holds no data file; an empty table needs one file to show its columns")
    first: tuple[tuple[str, str], ...] | None = None
    for file, footer in footers.items():
        try:
            schema = footer_types(footer)
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
