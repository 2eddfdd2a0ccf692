"""The snapshot: what identifies the input, which changes are noticed, and how partitions are read from their paths."""

from __future__ import annotations

import os
import shutil
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noiselib.errors import InputError, SpecError
from noiselib.snapshot import (
    choose_partitions,
    fingerprint,
    partition_text,
    read_metadata,
    schema_types,
    verify_unchanged,
)

ONE, TWO = (("day", 1),), (("day", 2),)


def write(path: Path, rows: dict[str, Any] | pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.table(rows), path)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two days, of two files and of one."""
    root = tmp_path / "table"
    write(root / "day=1" / "a.parquet", {"id": [1, 2], "x": [0.5, 1.5]})
    write(root / "day=1" / "b.parquet", {"id": [3], "x": [2.5]})
    write(root / "day=2" / "a.parquet", {"id": [4], "x": [3.5]})
    return root


def prints(root: Path, *partition_by: str) -> list[str]:
    """The fingerprints of all partitions, in order."""
    metadata = read_metadata(str(root), partition_by or ("day",))
    return [fingerprint(metadata, partition) for partition in metadata.partitions]


def overwrite(path: Path, content: bytes) -> None:
    """Other bytes under the same name, size and modification time."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_metadata_comes_from_names_and_footers(table):
    metadata = read_metadata(str(table), ["day"])
    assert metadata.schema == (("id", "int64"), ("x", "double"), ("day", "int32"))
    assert metadata.partitions == (ONE, TWO)
    assert [metadata.rows(partition) for partition in metadata.partitions] == [3, 1]
    assert [Path(file.path).name for file in metadata.files_of(ONE)] == ["a.parquet", "b.parquet"]
    assert read_metadata(f"file://{table}", ["day"]).partitions == metadata.partitions


# ---- the fingerprint -------------------------------------------------------------------------------------------------


def test_a_copy_under_other_names_and_times_is_the_same_snapshot(table, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(table, copy)
    (copy / "day=1" / "a.parquet").rename(copy / "day=1" / "z.parquet")
    os.utime(copy / "day=1" / "z.parquet", (1, 1))
    assert prints(copy) == prints(table)


def test_one_byte_makes_another_snapshot_though_size_and_time_are_forged(table):
    before = prints(table)
    file = table / "day=1" / "b.parquet"
    content = bytearray(file.read_bytes())
    content[4 + 8] ^= 1  # within the data, past the magic bytes
    overwrite(file, bytes(content))
    after = prints(table)
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_a_file_more_or_less_makes_another_snapshot_of_its_partition_alone(table):
    before = prints(table)
    shutil.copy(table / "day=1" / "b.parquet", table / "day=1" / "c.parquet")
    more = prints(table)
    (table / "day=1" / "c.parquet").unlink()
    (table / "day=1" / "b.parquet").unlink()
    less = prints(table)
    assert len({before[0], more[0], less[0]}) == 3
    assert before[1] == more[1] == less[1]


def test_moving_rows_from_file_to_file_is_another_snapshot(tmp_path):
    write(tmp_path / "one" / "day=1" / "a", {"id": [1, 2]})
    write(tmp_path / "two" / "day=1" / "a", {"id": [1]})
    write(tmp_path / "two" / "day=1" / "b", {"id": [2]})
    assert prints(tmp_path / "one") != prints(tmp_path / "two")


def test_the_type_of_a_partition_column_is_part_of_the_snapshot(table):
    before = prints(table)
    shutil.copytree(table / "day=1", table / "day=monday")
    assert not set(before) & set(prints(table))


def test_a_fingerprint_is_known(tmp_path):
    (tmp_path / "table").mkdir()
    file = write(tmp_path / "table" / "a", {"id": [1]})
    metadata = read_metadata(str(tmp_path / "table"), [])
    content = sha256(file.read_bytes()).hexdigest()
    expected = sha256(f'{{"files": ["{content}"], "schema": [["id", "int64"]]}}'.encode()).hexdigest()
    assert fingerprint(metadata, ()) == expected


# ---- changes while a release is made ---------------------------------------------------------------------------------


def add(table: Path) -> Path:
    return write(table / "day=1" / "new.parquet", {"id": [9], "x": [9.5]})


def remove(table: Path) -> Path:
    (table / "day=1" / "b.parquet").unlink()
    return table / "day=1" / "b.parquet"


def rewrite(table: Path) -> Path:
    return write(table / "day=1" / "b.parquet", {"id": [3, 3], "x": [2.5, 2.5]})


def forge(table: Path) -> Path:
    file = table / "day=1" / "b.parquet"
    overwrite(file, file.read_bytes()[::-1])
    return file


def replace(table: Path) -> Path:
    """Another file of the same content in its place."""
    file = table / "day=1" / "b.parquet"
    shutil.copy2(file, table / "copy")
    os.replace(table / "copy", file)
    return file


def test_nothing_changed_is_accepted(table):
    metadata = read_metadata(str(table), ["day"])
    (table / "day=1" / "_SUCCESS").touch()
    (table / "day=1" / ".b.parquet.crc").touch()
    verify_unchanged(metadata, metadata.partitions)


@pytest.mark.parametrize(
    ("change", "what"),
    [(add, "added"), (remove, "removed"), (rewrite, "changed"), (forge, "changed"), (replace, "changed")],
)
def test_a_change_of_the_partition_is_noticed_and_of_another_is_not(table, change, what):
    metadata = read_metadata(str(table), ["day"])
    file = change(table)
    verify_unchanged(metadata, [TWO])
    for partitions in ([ONE], [TWO, ONE]):
        with pytest.raises(InputError, match=f"{file}: {what} while the release was made; nothing is published"):
            verify_unchanged(metadata, partitions)


def test_a_new_partition_is_no_change_of_the_others(table):
    metadata = read_metadata(str(table), ["day"])
    write(table / "day=3" / "a.parquet", {"id": [9], "x": [9.5]})
    verify_unchanged(metadata, metadata.partitions)


def test_a_change_is_noticed_in_partitions_of_any_name_and_in_none(tmp_path):
    for name in ("p=a%20b", "p=100%25", "p=__HIVE_DEFAULT_PARTITION__", "p=x%2Fy"):
        write(tmp_path / "table" / name / "a", {"id": [1]})
    metadata = read_metadata(str(tmp_path / "table"), ["p"])
    verify_unchanged(metadata, metadata.partitions)
    for partition in metadata.partitions:
        file = Path(metadata.files_of(partition)[0].path)
        os.utime(file, (1, 1))
        with pytest.raises(InputError, match="changed while"):
            verify_unchanged(metadata, [partition])
    flat = read_metadata(str(write(tmp_path / "flat" / "a", {"id": [1]}).parent), [])
    write(tmp_path / "flat" / "b", {"id": [2]})
    with pytest.raises(InputError, match="b: added while"):
        verify_unchanged(flat, [()])


# ---- files that are no data, or no table -----------------------------------------------------------------------------


def test_hidden_files_are_no_data(table):
    before = prints(table)
    for name in (
        "_SUCCESS",
        "_metadata",
        ".hidden",
        "_noiselib/manifest.json",
        "day=1/.a.crc",
        "day=2/_x/deep.parquet",
    ):
        (table / name).parent.mkdir(exist_ok=True)
        (table / name).write_text("no Parquet")
    assert prints(table) == before


def test_a_truncated_file_is_named(table):
    file = table / "day=2" / "a.parquet"
    for content in (file.read_bytes()[:-5], b"", b"PAR1"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=f"source file {file}: not a whole Parquet file"):
            read_metadata(str(table), ["day"])


def test_a_table_that_is_not_there_or_empty_is_told(tmp_path):
    with pytest.raises(InputError, match="nowhere: not found"):
        read_metadata(str(tmp_path / "nowhere"), [])
    (tmp_path / "empty" / "day=1").mkdir(parents=True)
    with pytest.raises(InputError, match="holds no data file"):
        read_metadata(str(tmp_path / "empty"), ["day"])


@pytest.mark.parametrize(
    ("rows", "column"),
    [
        ({"id": [1], "x": [1]}, "x"),
        ({"id": [1]}, "x"),
        ({"id": [1], "x": [1.5], "y": [1]}, "y"),
        ({"x": [1.5], "id": [1]}, "order"),
    ],
)
def test_files_of_different_schemas_are_no_table(table, rows, column):
    file = write(table / "day=2" / "z.parquet", rows)
    with pytest.raises(
        InputError, match=f"source file {file}: its schema differs from the table's in column '{column}'"
    ):
        read_metadata(str(table), ["day"])


def test_a_partition_column_stands_in_paths_only(tmp_path):
    write(tmp_path / "day=1" / "a", {"id": [1], "day": [1]})
    with pytest.raises(InputError, match="partition column 'day' stands in the data files too"):
        read_metadata(str(tmp_path), ["day"])


@pytest.mark.parametrize("partition_by", [["month"], ["day", "hour"], []])
def test_directories_are_named_as_the_spec_says(table, partition_by):
    write(table / "a.parquet", {"id": [1], "x": [0.5]})
    told = (
        r"expected (month=\.\.\.|day=\.\.\./hour=\.\.\.)"
        if partition_by
        else "a partition that partition_by does not name"
    )
    with pytest.raises(InputError, match=told):
        read_metadata(str(table), partition_by)


def test_a_directory_of_a_wrong_name_is_told(table):
    write(table / "backup" / "a.parquet", {"id": [1], "x": [0.5]})
    with pytest.raises(InputError, match=r"directory 'backup'; expected day=\.\.\."):
        read_metadata(str(table), ["day"])


def test_a_file_above_the_partitions_is_told(table):
    write(table / "a.parquet", {"id": [1], "x": [0.5]})
    with pytest.raises(InputError, match=r"a.parquet: lies in no partition; expected day=\.\.\. above it"):
        read_metadata(str(table), ["day"])


def test_a_single_file_is_a_table(tmp_path):
    file = write(tmp_path / "a.parquet", {"id": [1, 2]})
    metadata = read_metadata(str(file), [])
    assert metadata.partitions == ((),)
    assert metadata.rows(()) == 2
    verify_unchanged(metadata, [()])


# ---- partitions ------------------------------------------------------------------------------------------------------

NULL = "__HIVE_DEFAULT_PARTITION__"


@pytest.mark.parametrize(
    ("names", "values", "kind"),
    [
        (["1", "10", "2", "-3", "0"], [-3, 0, 1, 2, 10], "int32"),
        (["1", str(2**31)], [1, 2**31], "int64"),
        (["1", str(2**63)], ["1", str(2**63)], "string"),
        (["01", "1"], ["01", "1"], "string"),
        (["-0", "1"], ["-0", "1"], "string"),
        (["--5", "5"], ["--5", "5"], "string"),
        (["３", "5"], ["5", "３"], "string"),
        (["1.5", "2"], ["1.5", "2"], "string"),
        (["2024-01-01"], ["2024-01-01"], "string"),
        (["a b", "a%20c", "100%25", "x%2Fy", "a=b"], ["100%", "a b", "a c", "a=b", "x/y"], "string"),
        ([NULL, "1"], [1, None], "int32"),
        ([NULL, "x"], ["x", None], "string"),
        ([""], [""], "string"),
    ],
)
def test_partition_values_have_one_type(tmp_path, names, values, kind):
    for name in names:
        write(tmp_path / f"p={name}" / "a", {"id": [1]})
    metadata = read_metadata(str(tmp_path), ["p"])
    assert [partition[0][1] for partition in metadata.partitions] == values
    assert metadata.schema == (("id", "int64"), ("p", kind))


def test_two_directories_of_one_value_are_one_partition(tmp_path):
    write(tmp_path / "p=a b" / "a", {"id": [1]})
    write(tmp_path / "p=a%20b" / "a", {"id": [2]})
    metadata = read_metadata(str(tmp_path), ["p"])
    assert metadata.partitions == ((("p", "a b"),),)
    assert metadata.rows((("p", "a b"),)) == 2


def test_partitions_may_have_levels(tmp_path):
    for place in ("year=2013/month=1", "year=2013/month=12", "year=2012/month=x", f"year=2012/month={NULL}"):
        write(tmp_path / place / "part" / "a", {"id": [1]})
    metadata = read_metadata(str(tmp_path), ["year", "month"])
    assert metadata.schema[1:] == (("year", "int32"), ("month", "string"))
    assert [partition_text(partition) for partition in metadata.partitions] == [
        "year=2012/month=x",
        f"year=2012/month={NULL}",
        "year=2013/month=1",
        "year=2013/month=12",
    ]


def test_two_partitions_that_read_the_same_are_refused(tmp_path):
    write(tmp_path / "a=1%2Fb=2" / "b=3" / "f", {"id": [1]})
    write(tmp_path / "a=1" / "b=2%2Fb=3" / "f", {"id": [1]})
    with pytest.raises(InputError, match="two partitions read the same"):
        read_metadata(str(tmp_path), ["a", "b"])


def test_partitions_are_chosen_by_their_values_as_text(tmp_path):
    for place in ("y=1/m=1", "y=1/m=2", "y=2/m=1", f"y=2/m={NULL}"):
        write(tmp_path / place / "a", {"id": [1]})
    table = read_metadata(str(tmp_path), ["y", "m"])

    def chosen(*wanted: dict[str, str]) -> list[str]:
        return [partition_text(partition) for partition in choose_partitions(table, wanted)]

    assert len(chosen()) == 4
    assert chosen({"y": "1"}) == ["y=1/m=1", "y=1/m=2"]
    assert chosen({"m": "1"}, {"y": "1"}) == ["y=1/m=1", "y=2/m=1", "y=1/m=2"]
    assert chosen({"y": "2", "m": NULL}) == [f"y=2/m={NULL}"]
    with pytest.raises(InputError, match="no partition y=3"):
        chosen({"y": "3"})
    with pytest.raises(SpecError, match="--partition d: expected one of the partition columns: y, m"):
        chosen({"d": "3"})


def test_where_a_partition_is_not_there_those_that_are_are_told(tmp_path):
    """A folder with a leading zero is another partition than the number."""
    for month in range(1, 13):
        write(tmp_path / "padded" / f"month={month:02}" / "f", {"id": [1]})
    for day in (*range(1, 20), "a%2Fb"):
        write(tmp_path / "many" / f"day={day}" / "f", {"id": [1]})
    months = ", ".join(f"month={month:02}" for month in range(1, 13))
    with pytest.raises(InputError, match=f"padded: no partition month=3; expected one of {months}$"):
        choose_partitions(read_metadata(str(tmp_path / "padded"), ["month"]), [{"month": "3"}])
    with pytest.raises(InputError, match=r"no partition day=x; expected one of day=1, .*, and 8 more$"):
        choose_partitions(read_metadata(str(tmp_path / "many"), ["day"]), [{"day": "x"}])


def test_a_value_with_a_slash_can_be_chosen(tmp_path):
    write(tmp_path / "p=a%2Fb" / "f", {"id": [1]})
    table = read_metadata(str(tmp_path), ["p"])
    assert choose_partitions(table, [{"p": "a/b"}]) == [(("p", "a/b"),)]


def test_types_have_the_names_of_the_spec():
    schema = pa.schema(
        [("a", pa.int8()), ("b", pa.int16()), ("c", pa.int32()), ("d", pa.int64()), ("e", pa.float32()), ("f", pa.float64()),
         ("g", pa.bool_()), ("h", pa.string()), ("i", pa.large_string()), ("j", pa.date32()), ("k", pa.timestamp("us", "UTC")),
         ("l", pa.timestamp("us")), ("m", pa.decimal128(9, 2)), ("n", pa.binary()), ("o", pa.list_(pa.int32()))]
    )  # fmt: skip
    assert [kind for _, kind in schema_types(schema)] == [
        "int8", "int16", "int32", "int64", "float", "double", "boolean", "string", "string", "date", "timestamp",
        "timestamp_ntz", "decimal(9,2)", "binary", "array<int32>",
    ]  # fmt: skip
