"""An Iceberg table as a source: its snapshot is pinned, its partitions are its own, and what its files do not say is refused."""

from __future__ import annotations

from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest
from lakehouse import ONE, TWO, Iceberg, commit, listed, metadata, rows_of
from pyiceberg.manifest import DataFileContent, FileFormat, ManifestContent
from pyiceberg.transforms import DayTransform
from pyiceberg.types import IntegerType, LongType
from pyiceberg.utils.config import Config

from noiselib.errors import InputError, SpecError
from noiselib.snapshot import verify_unchanged

SCHEMA = pa.schema([("day", pa.int32()), ("id", pa.int32()), ("x", pa.float64())])


rows = partial(rows_of, SCHEMA)


@pytest.fixture
def iceberg(tmp_path: Path) -> Iceberg:
    """Two days, each of one file."""
    table = Iceberg(tmp_path / "a lake", SCHEMA)
    table.append(pa.concat_tables([rows(1, 0.5, 1.5), rows(2, 3.5)]))
    return table


def test_metadata_comes_from_the_snapshot(iceberg: Iceberg) -> None:
    table = metadata(iceberg.source)
    assert table.schema == (("id", "int32"), ("x", "double"), ("day", "int32"))
    assert (table.version, table.partitions) == (iceberg.version, (ONE, TWO))
    assert [table.rows(partition) for partition in table.partitions] == [2, 1]


# ---- the catalog -----------------------------------------------------------------------------------------------------


def test_a_catalog_of_pyicebergs_own_configuration_is_found_by_its_name(
    iceberg: Iceberg, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__TYPE", "sql")
    monkeypatch.setenv("PYICEBERG_CATALOG__DEFAULT__URI", f"sqlite:///{iceberg.home}/catalog.db")
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # else read once, at import
    named = metadata(iceberg.source | {"catalog": "default"})
    assert named == metadata(iceberg.source)
    with pytest.raises(InputError, match="catalog elsewhere: cannot be opened"):
        metadata(iceberg.source | {"catalog": "elsewhere"})


def test_a_catalog_or_a_table_that_is_not_there_is_told_and_not_made(iceberg: Iceberg, tmp_path: Path) -> None:
    nowhere = {"uri": f"sqlite:///{tmp_path}/nowhere.db", "warehouse": str(tmp_path)}
    with pytest.raises(InputError, match=r"nowhere\.db: no such file"):
        metadata(iceberg.source | {"catalog": nowhere})
    assert not (tmp_path / "nowhere.db").exists()
    (tmp_path / "nowhere.db").touch()
    with pytest.raises(InputError, match=r"source features\.small: cannot be read as an Iceberg table"):
        metadata(iceberg.source | {"catalog": nowhere})
    for name in ("features.large", "elsewhere.small"):
        with pytest.raises(InputError, match=f"source {name}: not in the catalog; expected NAMESPACE.TABLE"):
            metadata(iceberg.source | {"path": name})


# ---- the version -----------------------------------------------------------------------------------------------------


def test_an_older_snapshot_can_be_named(iceberg: Iceberg) -> None:
    before = metadata(iceberg.source)
    iceberg.replace(1, rows(1, 7.5))
    now, then = metadata(iceberg.source), metadata(iceberg.source | {"version": before.version})
    assert now.version != before.version
    assert (now.rows(ONE), then) == (1, before)
    with pytest.raises(InputError, match=r"source features\.small: has no snapshot 9"):
        metadata(iceberg.source | {"version": 9})


def test_files_that_were_removed_are_named(iceberg: Iceberg) -> None:
    table = metadata(iceberg.source)
    [old] = [file.path for file in table.files_of(ONE)]
    Path(old).unlink()
    with pytest.raises(InputError, match=f"source file {old}: removed while the release was made"):
        verify_unchanged(table, table.partitions)
    verify_unchanged(table, [TWO])
    with pytest.raises(InputError, match=f"source file {old}: is not there, but version {table.version}"):
        metadata(iceberg.source)


# ---- partitions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "values", "name", "held"),
    [
        (pa.int32(), [1, None, 10, 2], "int32", [1, 2, 10, None]),
        (pa.int64(), [1], "int64", [1]),
        (pa.string(), ["1", "01", "a b", "x%20y", "ü+*[]", "a/b"], "string", ["01", "1", "a b", "a/b", "x%20y", "ü+*[]"]),
        (pa.date32(), [date(2024, 2, 29), None], "date", ["2024-02-29", None]),
        (pa.bool_(), [True, False], "boolean", ["false", "true"]),
    ],
)  # fmt: skip
def test_partition_values_and_types_are_the_tables_own(
    tmp_path: Path, kind: pa.DataType, values: list[Any], name: str, held: list[Any]
) -> None:
    schema = pa.schema([("p", kind), ("id", pa.int32())])
    table = Iceberg(tmp_path / "table", schema, ["p"])
    table.append(pa.table({"p": values, "id": range(len(values))}, schema=schema))
    found = metadata(table.source)
    assert found.schema == (("id", "int32"), ("p", name))
    assert [value for ((_, value),) in found.partitions] == held
    assert all(Path(file.path).is_file() for file in found.files)


def test_an_empty_string_is_refused_since_spark_writes_null(tmp_path: Path) -> None:
    schema = pa.schema([("p", pa.string()), ("id", pa.int32())])
    table = Iceberg(tmp_path / "table", schema, ["p"])
    table.append(pa.table({"p": [""], "id": [1]}, schema=schema))
    with pytest.raises(InputError, match="partition column 'p' is an empty string"):
        metadata(table.source)


def test_partition_by_is_the_tables_own(iceberg: Iceberg) -> None:
    with pytest.raises(
        SpecError, match=r"^small.yaml:7: partition_by \[\]: expected \['day'\], by which features.small is"
    ):
        metadata(iceberg.source | {"partition_by": []})


def test_a_transform_other_than_identity_is_refused(tmp_path: Path) -> None:
    schema = pa.schema([("at", pa.timestamp("us")), ("id", pa.int32())])
    table = Iceberg(tmp_path / "table", schema, [])
    with table.table.update_spec() as spec:
        spec.add_field("at", DayTransform(), "at_day")
    file = tmp_path / "file.parquet"
    pq.write_table(pa.table({"at": [1], "id": [1]}, schema=schema), file)
    commit(table.table, listed(table.table, file, FileFormat.PARQUET, DataFileContent.DATA))
    with pytest.raises(InputError, match="partition field 'at_day' is day of a column; expected identity"):
        metadata(table.source)


def test_files_of_two_partition_specs_are_refused(iceberg: Iceberg) -> None:
    with iceberg.table.update_spec() as spec:
        spec.add_identity("id")
    iceberg.append(rows(3, 1.0))
    with pytest.raises(InputError, match="its files were partitioned in 2 ways; expected one"):
        metadata(iceberg.source)


# ---- columns that changed --------------------------------------------------------------------------------------------


def refused(iceberg: Iceberg, what: str) -> None:
    with pytest.raises(InputError, match=f"source file .*: {what}.*written before the columns changed"):
        metadata(iceberg.source)


def test_files_from_before_a_column_was_added_are_refused_but_an_older_snapshot_is_read(iceberg: Iceberg) -> None:
    before = iceberg.version
    with iceberg.table.update_schema() as schema:
        schema.add_column("y", LongType())
    refused(iceberg, "column 'y' is not in it, in the table int64")
    assert metadata(iceberg.source | {"version": before}).rows(ONE) == 2


def test_files_from_before_a_column_was_renamed_are_refused(iceberg: Iceberg) -> None:
    with iceberg.table.update_schema() as schema:
        schema.rename_column("x", "z")
    refused(iceberg, "column 'x' is double, in the table there is none")


def test_files_from_before_a_column_was_dropped_are_refused(iceberg: Iceberg) -> None:
    with iceberg.table.update_schema() as schema:
        schema.delete_column("x")
    refused(iceberg, "column 'x' is double, in the table there is none")


def test_files_from_before_a_column_was_widened_are_refused(iceberg: Iceberg) -> None:
    with iceberg.table.update_schema() as schema:
        schema.update_column("id", LongType())
    refused(iceberg, "column 'id' is int32, in the table int64")


def test_a_column_that_was_dropped_and_added_again_is_another_one(iceberg: Iceberg) -> None:
    """By its name, the old file's values would come back; by Iceberg's rules they are gone."""
    with iceberg.table.update_schema() as schema:
        schema.delete_column("id")
    with iceberg.table.update_schema() as schema:
        schema.add_column("id", IntegerType())
    refused(iceberg, "column 'id' is field 2, in the table field 4")


def test_two_columns_that_changed_names_are_refused(iceberg: Iceberg, tmp_path: Path) -> None:
    schema = pa.schema([("a", pa.string()), ("b", pa.string())])
    table = Iceberg(tmp_path / "table", schema, [])
    table.append(pa.table({"a": ["1"], "b": ["2"]}, schema=schema))
    for old, new in (("a", "c"), ("b", "a"), ("c", "b")):
        with table.table.update_schema() as update:
            update.rename_column(old, new)
    refused(table, "column 'a' is field 1, in the table field 2")


def test_files_that_were_added_as_they_are_have_their_fields_by_name(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.int32()), ("x", pa.float64())])
    table = Iceberg(tmp_path / "table", schema, [])
    file = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"id": [1], "x": [0.5]}, schema=schema), file)
    table.table.add_files([str(file)])
    found = metadata(table.source)
    assert ([one.path for one in found.files], found.rows(())) == ([str(file)], 1)
    with table.table.transaction() as change:
        change.remove_properties("schema.name-mapping.default")
    refused(table, "column 'id' is field unknown, in the table field 1")


# ---- what its files alone do not say ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "what"),
    [(DataFileContent.POSITION_DELETES, "delete files: .* holds rows that were deleted"),
     (DataFileContent.EQUALITY_DELETES, "its files cannot be listed .*equality deletes")],
)  # fmt: skip
def test_a_table_with_delete_files_is_refused(iceberg: Iceberg, content: DataFileContent, what: str) -> None:
    [data] = [file.path for file in metadata(iceberg.source).files_of(ONE)]
    deletes = iceberg.home / "deletes.parquet"
    pq.write_table(pa.table({"file_path": [data], "pos": [0]}), deletes)
    commit(iceberg.table, listed(iceberg.table, deletes, FileFormat.PARQUET, content), ManifestContent.DELETES)
    with pytest.raises(InputError, match=f"source features.small at version {iceberg.version}: {what}"):
        metadata(iceberg.source)


def test_a_file_that_is_no_parquet_file_is_refused(iceberg: Iceberg) -> None:
    file = iceberg.home / "day.orc"
    orc.write_table(rows(1, 0.5).drop_columns("day"), file)
    commit(iceberg.table, listed(iceberg.table, file, FileFormat.ORC, DataFileContent.DATA))
    with pytest.raises(InputError, match=f"{file} is a file of ORC; expected Parquet"):
        metadata(iceberg.source)


def test_an_empty_table_is_told(tmp_path: Path) -> None:
    table = Iceberg(tmp_path / "table", SCHEMA)
    with pytest.raises(InputError, match=r"source features\.small: has no snapshot"):
        metadata(table.source)
    table.append(rows(1, 0.5))
    table.table.delete()
    with pytest.raises(InputError, match="holds no data file"):
        metadata(table.source)
