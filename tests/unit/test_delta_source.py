"""A Delta table as a source: its version is pinned, its partitions are its own, and what its files do not say is refused."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake
from lakehouse import ONE, TWO, Delta, metadata, prints, rows_of

from noiselib.errors import InputError, SpecError
from noiselib.snapshot import read_metadata, verify_unchanged

SCHEMA = pa.schema([("day", pa.int32()), ("id", pa.int64()), ("x", pa.float64())])


rows = partial(rows_of, SCHEMA)


@pytest.fixture
def delta(tmp_path: Path) -> Delta:
    """Two days, each of one file."""
    table = Delta(tmp_path / "a table")
    table.append(pa.concat_tables([rows(1, 0.5, 1.5), rows(2, 3.5)]))
    return table


def test_metadata_comes_from_the_log(delta: Delta) -> None:
    table = metadata(delta.source)
    assert table.schema == (("id", "int64"), ("x", "double"), ("day", "int32"))
    assert (table.version, table.partitions) == (0, (ONE, TWO))
    assert [table.rows(partition) for partition in table.partitions] == [2, 1]
    assert metadata({**delta.source, "path": f"file://{delta.path}"}).files == table.files


# ---- the version -----------------------------------------------------------------------------------------------------


def test_an_older_version_can_be_named(delta: Delta) -> None:
    before = metadata(delta.source)
    delta.replace(1, rows(1, 7.5))
    now, then = metadata(delta.source), metadata(delta.source | {"version": 0})
    assert (now.version, then) == (1, before)
    assert now.rows(ONE) == 1
    with pytest.raises(InputError, match=f"source {delta.path} at version 9: cannot be read as a Delta table"):
        metadata(delta.source | {"version": 9})


def test_vacuumed_files_are_named(delta: Delta) -> None:
    table = metadata(delta.source)
    [old] = [file.path for file in table.files_of(ONE)]
    delta.replace(1, rows(1, 7.5))
    delta.vacuum()
    with pytest.raises(InputError, match=f"source file {old}: removed while the release was made"):
        verify_unchanged(table, table.partitions)
    verify_unchanged(table, [TWO])
    with pytest.raises(InputError, match=f"source file {old}: is not there, but version 0 of {delta.path} needs it"):
        metadata(delta.source | {"version": 0})


def test_rewritten_files_are_named(delta: Delta) -> None:
    table = metadata(delta.source)
    file = Path(table.files_of(ONE)[0].path)
    file.write_bytes(file.read_bytes())
    with pytest.raises(InputError, match=f"source file {file}: changed while the release was made"):
        verify_unchanged(table, table.partitions)


# ---- the fingerprint -------------------------------------------------------------------------------------------------


def test_commits_that_leave_the_files_alone_are_no_other_snapshot(delta: Delta) -> None:
    before = prints(metadata(delta.source))
    delta.append(rows(3, 1.0))
    delta.table.create_checkpoint()
    delta.table.alter.set_table_properties({"delta.logRetentionDuration": "interval 1 day"})
    after = prints(metadata(delta.source))
    assert {name: after[name] for name in before} == before


def test_the_same_files_are_the_same_snapshot_whether_a_log_or_their_paths_list_them(delta: Delta) -> None:
    assert prints(read_metadata(str(delta.path), ["day"])) == prints(metadata(delta.source))


# ---- partitions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "values", "name", "held"),
    [
        (pa.int8(), [1, None], "int8", [1, None]),
        (pa.int16(), [-3], "int16", [-3]),
        (pa.int32(), [1, None, 10, 2], "int32", [1, 2, 10, None]),
        (pa.int64(), [1], "int64", [1]),
        (pa.string(), ["1", "01", "a b", "x%20y", "ü+*[]", "a=b"], "string", ["01", "1", "a b", "a=b", "x%20y", "ü+*[]"]),
        (pa.date32(), [date(2024, 2, 29), None], "date", ["2024-02-29", None]),
        (pa.bool_(), [True, False], "boolean", ["false", "true"]),
    ],
)  # fmt: skip
def test_partition_values_and_types_are_the_tables_own(
    tmp_path: Path, kind: pa.DataType, values: list[Any], name: str, held: list[Any]
) -> None:
    table = Delta(tmp_path / "table", ["p"])
    table.append(pa.table({"p": pa.array(values, kind), "id": range(len(values))}))
    found = metadata(table.source)
    assert found.schema == (("id", "int64"), ("p", name))
    assert [value for ((_, value),) in found.partitions] == held
    assert all(Path(file.path).is_file() for file in found.files)


@pytest.mark.parametrize("kind", [pa.float64(), pa.timestamp("us", "UTC"), pa.decimal128(9, 2)])
def test_other_types_of_partitions_are_refused(tmp_path: Path, kind: pa.DataType) -> None:
    table = Delta(tmp_path / "table", ["p"])
    table.append(pa.table({"p": pa.array([Decimal(1) if pa.types.is_decimal(kind) else 1], kind), "id": [1]}))
    with pytest.raises(InputError, match=r"at version 0: partition column 'p' is .*; expected int8, int16"):
        metadata(table.source)


@pytest.mark.parametrize("partition_by", [[], ["id"], ["day", "id"]])
def test_partition_by_is_the_tables_own(delta: Delta, partition_by: list[str]) -> None:
    with pytest.raises(
        SpecError, match=r"^small.yaml:7: partition_by \[.*\]: expected \['day'\], by which .* is partitioned"
    ):
        metadata(delta.source | {"partition_by": partition_by})


def test_the_order_of_partition_columns_is_the_tables_own(tmp_path: Path) -> None:
    table = Delta(tmp_path / "table", ["a", "b"])
    table.append(pa.table({"b": [2], "a": [1], "id": [1]}))
    assert metadata(table.source).partitions == ((("a", 1), ("b", 2)),)
    with pytest.raises(SpecError, match=r"partition_by \['b', 'a'\]: expected \['a', 'b'\]"):
        metadata(table.source | {"partition_by": ["b", "a"]})


# ---- what its files alone do not say ---------------------------------------------------------------------------------


PROTOCOL = {"minReaderVersion": 3, "minWriterVersion": 7}


def test_no_table_is_told(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(
            InputError, match=f"source {path}: not a Delta table; expected a directory with a _delta_log"
        ):
            metadata(Delta(path).source)
    with pytest.raises(InputError, match="s3://bucket/table: expected files on a local or mounted file system"):
        metadata(Delta(tmp_path).source | {"path": "s3://bucket/table"})
    (tmp_path / "_delta_log").mkdir()
    with pytest.raises(InputError, match="cannot be read as a Delta table"):
        metadata(Delta(tmp_path).source)


def test_an_empty_table_is_told(delta: Delta) -> None:
    delta.table.delete()
    with pytest.raises(InputError, match="at version 1: holds no data file"):
        metadata(delta.source)


def test_a_table_with_deletion_vectors_is_refused_and_with_none_of_them_read(delta: Delta) -> None:
    delta.allow_vectors()
    assert metadata(delta.source).rows(ONE) == 2
    delta.delete_first_row(delta.added())
    with pytest.raises(InputError, match="at version 2: deletion vectors: its files hold rows that were deleted"):
        metadata(delta.source)


def test_column_mapping_is_refused(delta: Delta) -> None:
    described = json.loads((delta.path / "_delta_log" / f"{0:020}.json").read_text().splitlines()[2])["metaData"]
    schema = json.loads(described["schemaString"])
    for number, column in enumerate(schema["fields"], 1):
        column["metadata"] = {"delta.columnMapping.id": number, "delta.columnMapping.physicalName": column["name"]}
    described["configuration"] = {"delta.columnMapping.mode": "name"}
    described["schemaString"] = json.dumps(schema)
    delta.log({"protocol": {"minReaderVersion": 2, "minWriterVersion": 5}}, {"metaData": described})
    with pytest.raises(InputError, match="at version 1: column mapping: its files have other column names"):
        metadata(delta.source)


@pytest.mark.parametrize("feature", ["typeWidening", "rowsOfTheFuture"])
def test_reader_features_that_are_not_known_are_refused_by_name(delta: Delta, feature: str) -> None:
    delta.log({"protocol": PROTOCOL | {"readerFeatures": [feature], "writerFeatures": [feature]}})
    with pytest.raises(InputError, match=feature):
        metadata(delta.source)


@pytest.mark.parametrize("feature", ["timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"])
def test_reader_features_that_change_no_file_are_read(delta: Delta, feature: str) -> None:
    delta.log({"protocol": PROTOCOL | {"readerFeatures": [feature], "writerFeatures": [feature]}})
    assert metadata(delta.source).rows(ONE) == 2


def test_files_from_before_a_column_was_added_are_refused_by_name(delta: Delta) -> None:
    [old] = [file.path for file in metadata(delta.source).files_of(TWO)]
    delta.replace(1, rows(1, 7.5))
    wider = rows(1, 8.5).append_column("y", pa.array([1]))
    write_deltalake(delta.path, wider, mode="overwrite", schema_mode="merge", predicate="day = 1")
    with pytest.raises(InputError, match=f"source file {old}: column 'y' is not in it, in the table int64"):
        metadata(delta.source)


def test_a_file_of_other_types_than_the_table_says_is_refused(delta: Delta) -> None:
    [file] = [file.path for file in metadata(delta.source).files_of(ONE)]
    pq.write_table(pa.table({"id": [1, 2], "x": ["0.5", "1.5"]}), file)
    with pytest.raises(InputError, match=f"source file {file}: column 'x' is string, in the table double"):
        metadata(delta.source)


def test_nested_columns_are_refused_by_name(tmp_path: Path) -> None:
    table = Delta(tmp_path / "table", [])
    table.append(pa.table({"id": [1], "tags": pa.array([[1]], pa.list_(pa.int32())), "place": [{"x": 1}]}))
    with pytest.raises(InputError, match="column 'place' is struct<x: int64>, which is not read from this format"):
        metadata(table.source)
