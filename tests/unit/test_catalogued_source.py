"""A table of Spark's catalog: what the catalog says of it must be what its directory holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from lakehouse import SPEC

from noiselib.errors import InputError, SpecError
from noiselib.snapshot import Catalogued, TableMetadata, fingerprint, read_metadata
from noiselib.snapshot.catalogued import catalogued_table

NULL = "__HIVE_DEFAULT_PARTITION__"


def table(home: Path, *days: str, kind: str = "int32", **said: Any) -> TableMetadata:
    """A table of one file a day, by a catalog that says `kind` of the days and `said` of the rest."""
    for day in days:
        (home / f"day={day}").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"id": [1]}), home / f"day={day}" / "part-0.parquet")
    partitions = frozenset(f"day={day}" for day in days)
    found = {"columns": (("id", "int64"), ("day", kind)), "partition_by": ("day",), "partitions": partitions} | said
    return catalogued_table(Catalogued("db.small", str(home), **found), ["day"], SPEC)


def test_it_is_the_table_at_its_path(tmp_path: Path) -> None:
    for partitions in (frozenset({"day=1", "day=2", f"day={NULL}"}), None):
        found = table(tmp_path, "1", "2", NULL, partitions=partitions)
        assert found == read_metadata(str(tmp_path), ["day"])


@pytest.mark.parametrize(
    ("days", "kind", "values"),
    [
        (["1", "2"], "int8", [1, 2]),
        (["1", "2"], "int64", [1, 2]),
        (["1", "2", NULL], "string", ["1", "2", None]),
        ([str(2**31)], "int64", [2**31]),
        (["01"], "string", ["01"]),
        (["2024-02-29", NULL], "date", ["2024-02-29", None]),
        (["true"], "boolean", ["true"]),
        ([NULL], "date", [None]),
    ],
)
def test_partition_columns_have_the_catalogs_types(
    tmp_path: Path, days: list[str], kind: str, values: list[Any]
) -> None:
    found = table(tmp_path, *days, kind=kind)
    assert dict(found.schema)["day"] == kind
    assert [value for ((_, value),) in found.partitions] == values
    assert {file.partition for file in found.files} == set(found.partitions)
    assert len({fingerprint(found, partition) for partition in found.partitions}) == 1


@pytest.mark.parametrize(
    ("day", "kind"), [("1", "date"), ("x", "int32"), ("01", "int32"), (str(2**31), "int32"), ("1", "float")]
)
def test_partitions_of_other_values_are_refused(tmp_path: Path, day: str, kind: str) -> None:
    with pytest.raises(InputError, match=f"source db.small: column 'day' is .* in its files and {kind} in the catalog"):
        table(tmp_path, day, kind=kind)


def test_other_columns_than_the_catalogs_are_refused(tmp_path: Path) -> None:
    day = ("day", "int32")
    for columns, what in (
        ((("id", "int32"), day), "'id' is int64 in its files and int32"),
        ((("id", "int64"), ("x", "double"), day), "'x' is not in its files and double"),
        ((day,), "'id' is int64 in its files and not"),
    ):
        with pytest.raises(InputError, match=f"column {what} in the catalog; expected both alike"):
            table(tmp_path, "1", columns=columns)


@pytest.mark.parametrize(
    ("known", "what"), [(["1"], "day=2 is in its directory, not"), (["1", "2", "3"], "day=3 is in the catalog, not")]
)
def test_partitions_that_only_one_of_them_has_are_refused(tmp_path: Path, known: list[str], what: str) -> None:
    with pytest.raises(InputError, match=f"source db.small: partition {what}"):
        table(tmp_path, "1", "2", partitions=frozenset(f"day={day}" for day in known))


def test_partition_by_is_the_tables_own(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"^small.yaml:7: partition_by \['day'\]: expected \[\], by which db.small"):
        table(tmp_path, "1", partition_by=())
