"""What is known of a table without reading a row: its columns, its files, its partitions."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from noiselib.errors import InputError, SpecError, choice
from noiselib.yaml_text import Positions

NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
SHOWN = 12  # partitions in an error
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
    version: int | None = None  # of a table that has versions: files of others may lie beside these

    def rows(self, partition: Partition) -> int:
        return sum(file.rows for file in self.files if file.partition == partition)

    def files_of(self, partition: Partition) -> list[DataFile]:
        return [file for file in self.files if file.partition == partition]


def partition_text(partition: Partition) -> str:
    """`month=3` or `year=2013/month=3`; empty for a table without partitions."""
    return "/".join(f"{name}={NULL_PARTITION if value is None else value}" for name, value in partition)


def partition_argument(partition: Partition) -> str:
    """As `--partition` takes it: values escaped as in directory names, so that one may hold a slash."""
    return partition_text(
        tuple((name, NULL_PARTITION if value is None else quote(str(value), safe="")) for name, value in partition)
    )


def in_order(name: str, partitions: Iterable[Partition]) -> tuple[Partition, ...]:
    """Distinct partitions, sorted. Raises InputError where two would have one name."""
    ordered = tuple(sorted(set(partitions), key=lambda p: [(v is None, str(type(v)), v) for _, v in p]))
    if len({partition_text(partition) for partition in ordered}) < len(ordered):
        raise InputError(
            f"source {name}: two partitions read the same, since a value holds a slash; expected distinct ones"
        )
    return ordered


def choose_partitions(table: TableMetadata, wanted: Sequence[dict[str, str]]) -> list[Partition]:
    """All partitions, or those that match one of `wanted` (column -> value as text, or FIRST..LAST of whole numbers).

    Raises SpecError for an unknown column, InputError where there is no such partition.
    """
    if not wanted:
        return list(table.partitions)
    chosen: list[Partition] = []
    for asked in wanted:
        for name in asked:
            if name not in table.partition_by:
                raise SpecError(
                    f"--partition {name}: expected one of the partition columns: {', '.join(table.partition_by) or 'none'}"
                )
        matching = [p for p in table.partitions if all(is_wanted(dict(p)[name], text) for name, text in asked.items())]
        if not matching:
            text = ", ".join(f"{name}={value}" for name, value in asked.items())
            known = choice([partition_argument(partition) for partition in table.partitions], SHOWN)
            raise InputError(f"source {table.path}: no partition {text}; expected one of {known or 'none'}")
        chosen += [p for p in matching if p not in chosen]
    return chosen


def is_wanted(value: PartitionValue, wanted: str) -> bool:
    """Whether `wanted` names the value, or a range that it lies in."""
    if isinstance(value, int) and (ends := RANGE.fullmatch(wanted)):
        return int(ends[1]) <= value <= int(ends[2])
    return wanted == (NULL_PARTITION if value is None else str(value))


def demand_partition_by(table: str, own: Sequence[str], named: Sequence[str], positions: Positions) -> None:
    """Raises SpecError where the spec's partition_by, `named`, is not what the table's own metadata says."""
    if list(named) != list(own):
        raise SpecError(
            f"{positions.where('source', 'partition_by')}: partition_by {list(named)}: expected {list(own)}, by which "
            f"{table} is partitioned"
        )


def stamp(path: str | os.PathLike[str]) -> tuple[int, ...]:
    """Size, times and inode of a file. Raises InputError where it cannot be read."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise InputError(f"source file {path}: cannot be read ({error.strerror})") from None
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
