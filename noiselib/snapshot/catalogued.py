"""A table of Spark's catalog: a Parquet directory whose columns and partitions the catalog tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from noiselib.errors import InputError
from noiselib.snapshot.listed import PARTITION_KINDS
from noiselib.snapshot.parquet import read_metadata
from noiselib.snapshot.table import Partition, TableMetadata, demand_partition_by, partition_text
from noiselib.yaml_text import Positions


@dataclass(frozen=True)
class Catalogued:
    """What Spark's catalog says of a table: its place, its columns' types, its partition columns, and the partitions it knows.

    `partitions`: None where the catalog leaves them to the directory
    """

    name: str
    location: str
    columns: tuple[tuple[str, str], ...]
    partition_by: tuple[str, ...]
    partitions: frozenset[str] | None


def catalogued_table(found: Catalogued, partition_by: Sequence[str], positions: Positions) -> TableMetadata:
    """The table's metadata. SpecError where `partition_by` is not the table's own, InputError where Spark would read otherwise."""
    own = found.partition_by
    demand_partition_by(found.name, own, partition_by, positions)
    table = read_metadata(found.location, own)
    kinds = dict(found.columns)
    types = dict(table.schema)
    for name in sorted(types.keys() | kinds.keys()):
        if types.get(name) != kinds.get(name) and not (name in own and _fits(table, name, kinds[name])):
            raise InputError(
                f"source {found.name}: column {name!r} is {types.get(name, 'not')} in its files and "
                f"{kinds.get(name, 'not')} in the catalog; expected both alike"
            )
    _check_partitions(found, table)
    return _retyped(table, kinds)


# What the catalog may say of a partition column whose type was inferred from its directories' names.
FITTING = {
    "int32": ("int8", "int16", "int32", "int64", "string"),
    "int64": ("int64", "string"),
    "string": ("string", "date", "boolean"),
}


def _fits(table: TableMetadata, name: str, kind: str) -> bool:
    values = {dict(partition)[name] for partition in table.partitions} - {None}
    return kind in FITTING[dict(table.schema)[name]] or (not values and kind in PARTITION_KINDS)


def _check_partitions(found: Catalogued, table: TableMetadata) -> None:
    odd = sorted(
        ({partition_text(one) for one in table.partitions} ^ found.partitions) if found.partitions is not None else ()
    )
    if odd:
        where = (
            "the catalog, not in its directory"
            if odd[0] in (found.partitions or ())
            else "its directory, not in the catalog"
        )
        raise InputError(
            f"source {found.name}: partition {odd[0]} is in {where}; expected both alike (MSCK REPAIR TABLE ... SYNC)"
        )


def _retyped(table: TableMetadata, kinds: dict[str, str]) -> TableMetadata:
    """The table with its partition values of the catalog's types."""

    def typed(partition: Partition) -> Partition:
        return tuple((name, str(v) if kinds[name] == "string" and v is not None else v) for name, v in partition)

    files = tuple(replace(file, partition=typed(file.partition)) for file in table.files)
    schema = tuple((name, kinds[name]) for name, _ in table.schema)
    return replace(table, schema=schema, files=files, partitions=tuple(map(typed, table.partitions)))
