"""Publishing to Delta and Iceberg by one commit of files already staged, read back by the formats' own libraries."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake
from lakehouse import Delta, commit, listed
from pyiceberg.expressions import EqualTo, LessThan
from pyiceberg.manifest import DataFileContent, FileFormat, ManifestContent
from tables import (
    FORMATS,
    ROWS,
    catalog_of,
    commits,
    of_partition,
    open_table,
    properties,
    publish,
    read,
    read_arrow,
    release,
    seen,
    stage,
    stage_and_publish,
)

from noiselib.errors import NoiselibError
from noiselib.targets import MANIFESTS, Target, committed, demand_own

pytestmark = pytest.mark.faults


@pytest.fixture(params=FORMATS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "warehouse").mkdir()
    return tmp_path


@pytest.fixture
def target(kind: str, home: Path) -> Target:
    return open_table(kind, home)


def data_files(target: Target) -> dict[str, str]:
    """The digests of the data files that readers get."""
    paths = [Path(file) for files in target.readable().values() for file in files]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def ids(*releases: tuple[int, int]) -> set[str]:
    return {release(version, day).id for version, day in releases}


# ---- what a reader sees ----------------------------------------------------------------------------------------------


def test_releases_are_published_in_one_commit_that_names_them(kind, home, target):
    assert target.manifests() == []
    assert target.readable() == {}
    one, two = stage(target, release(1, 1), files=3), stage(target, release(1, 2))
    staged = {hashlib.sha256(file.read_bytes()).hexdigest() for r in (one, two) for file in target.staged_files(r)}
    publish(target, one, two)
    assert seen(kind, home) == {one.id, two.id}
    assert set(data_files(target).values()) == staged  # the very bytes that were checked
    assert [manifest["release_id"] for manifest in target.manifests()] == [one.id, two.id]
    assert target.manifest(one.id)["partition"] == "day=1"
    assert target.manifest(release(2, 1).id) is None
    assert {name: len(files) for name, files in target.readable().items()} == {"day=1": 3, "day=2": 1}
    said = properties(kind, home)
    assert said["noiselib.releases"] == f"{one.id},{two.id}"
    assert said["noiselib.spec"] == "digest of the spec"
    assert json.loads(said["noiselib.charge"])[one.id] == {"epsilon": 1.0, "delta": 1e-5, "budget": "trips"}
    assert commits(kind, home) == 1


def test_delta_has_an_app_transaction_for_each_release(home):
    target = open_table("delta", home)
    stage_and_publish(target, release(1, 1), release(1, 2))
    stage_and_publish(target, release(2, 1))
    table = DeltaTable(str(home / "out"))
    assert [table.transaction_version(one.id) for one in (release(1, 1), release(2, 1))] == [0, 1]


def test_replacing_one_partition_leaves_the_others_as_they_are(kind, home, target):
    stage_and_publish(target, *[release(1, day) for day in (1, 2, 3)])
    before = data_files(target)
    stage_and_publish(target, release(2, 2))
    after = data_files(target)
    assert seen(kind, home) == ids((1, 1), (2, 2), (1, 3))
    assert {name.partition("-")[0] for name in before.keys() - after.keys()} == ids((1, 2))
    assert {name.partition("-")[0] for name in after.keys() - before.keys()} == ids((2, 2))
    assert commits(kind, home) == 2


DIRECTORIES = {
    "a b": "day=a b",
    "100%": "day=100%25",
    "a/b": "day=a%2Fb",
    "ü#?": "day=ü%23%3F",
    "x=y": "day=x%3Dy",
    "日本": "day=日本",
    "it's": "day=it%27s",
    None: "day=__HIVE_DEFAULT_PARTITION__",
}


def test_special_partition_values_are_read_back_and_replaced(kind, home, target):
    for version in (1, 2):
        publish(target, *[stage(target, release(version, day), directory=name) for day, name in DIRECTORIES.items()])
        rows = read(kind, home)
        found = {
            None if pd.isna(day) else day: set(group) for day, group in rows.groupby("day", dropna=False)["release"]
        }
        assert found == {day: {release(version, day).id} for day in DIRECTORIES}
        assert len(rows) == ROWS * len(DIRECTORIES)
        assert set(target.readable()) == {release(version, day).partition_text for day in DIRECTORIES}


def test_partitions_are_typed_and_have_several_levels(kind, home, target):
    some = [of_partition(1, (("number", number), ("hour", hour))) for number in (1, None) for hour in ("a", "b")]
    stage_and_publish(target, *some)
    again = of_partition(2, (("number", None), ("hour", "b")))
    stage_and_publish(target, again)
    rows = read(kind, home)
    assert len(rows) == 4 * ROWS
    assert set(rows["release"]) == {one.id for one in some[:3]} | {again.id}
    assert [(field.name, str(field.type).removeprefix("large_")) for field in read_arrow(kind, home).schema] == [
        ("number", "int32"), ("hour", "string"), ("release", "string")
    ]  # fmt: skip


def test_a_table_without_partitions_is_replaced_whole(kind, home):
    target = open_table(kind, home, depth=0)
    for version in (1, 2):
        stage_and_publish(target, of_partition(version, ()))
        assert seen(kind, home) == {of_partition(version, ()).id}
        assert list(target.readable()) == [""]


def test_a_release_without_rows_leaves_the_table_readable(kind, home, target):
    empty = of_partition(1, (("day", 1),), rows=0)
    stage_and_publish(target, empty)
    assert list(read(kind, home).columns) == ["day", "release"]
    assert len(read(kind, home)) == 0
    stage_and_publish(target, release(1, 2))
    assert seen(kind, home) == ids((1, 2))
    assert target.manifest(empty.id)["rows"] == 0


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, None] * 10, pa.int8()),
        pa.array([1, None] * 10, pa.int16()),
        pa.array([1.5, float("nan")] * 10, pa.float32()),
        pa.array([True, None] * 10, pa.bool_()),
        pa.array([10**15 + 1, None] * 10, pa.int64()).cast(pa.timestamp("us", "UTC")),
        pa.array([10**15 + 1, None] * 10, pa.int64()).cast(pa.timestamp("us")),
        pa.array([19000, None] * 10, pa.int32()).cast(pa.date32()),
        pa.array([b"\x00\xff", None] * 10, pa.binary()),
        pa.array([None, "1.25"] * 10).cast(pa.decimal128(12, 2)),
        pa.array([[1.5, 2.5], None] * 10, pa.list_(pa.float64())),
        pa.array([["a"], []] * 10, pa.list_(pa.string())),
    ],
    ids=lambda values: str(values.type),
)  # fmt: skip
def test_every_type_is_read_back(kind, home, target, values):
    publish(target, stage(target, release(1), value=values))
    publish(target, stage(target, release(2), value=values))
    found = read_arrow(kind, home)["value"]
    assert str(found.to_pylist()) == str(values.to_pylist())  # as text, in which NaN is NaN
    if kind == "delta":
        assert str(found.type).replace("element", "item") == str(values.type)


# ---- publishers ------------------------------------------------------------------------------------------------------


def test_publishing_again_commits_nothing(kind, home, target):
    stage_and_publish(target, release(1, 1), release(1, 2))
    stage_and_publish(open_table(kind, home), release(1, 1), release(1, 2))
    assert commits(kind, home) == 1
    stage_and_publish(open_table(kind, home), release(1, 1), release(2, 2))
    assert commits(kind, home) == 2
    assert properties(kind, home)["noiselib.releases"] == release(2, 2).id
    assert seen(kind, home) == ids((1, 1), (2, 2))


@pytest.mark.parametrize("made", [True, False])
def test_publishers_on_several_hosts_lose_nothing_of_each_other(kind, home, made):
    """Each has a workspace of its own, so that no lock of theirs keeps them apart: only the table's commits do."""
    if made:
        stage_and_publish(open_table(kind, home), *[release(0, day) for day in range(4)])
    failed = []

    def publisher(day: int) -> None:
        try:
            own = open_table(kind, home)
            own.home = home / f"host {day}"
            for version in (1, 2, 3):
                stage_and_publish(own, release(version, day))
        except Exception as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=publisher, args=(day,)) for day in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert seen(kind, home) == ids(*[(3, day) for day in range(4)])
    assert commits(kind, home) == 12 + made


def foreign_rows(day: int, **columns: Any) -> pa.Table:
    return pa.table({"day": pa.array([day] * 7, pa.int32()), "release": ["foreign"] * 7, **columns})


def foreign_overwrite(kind: str, home: Path, day: int, **columns: Any) -> None:
    """Somebody else replaces a partition, by the format's own library."""
    rows = foreign_rows(day, **columns)
    if kind == "delta":
        write_deltalake(str(home / "out"), rows, mode="overwrite", predicate=f"day = {day}")
    else:
        catalog_of(home).load_table("features.trips").overwrite(rows, EqualTo("day", day))


def meanwhile(monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    """`work` is done while a publisher is between reading the table and committing."""

    def at(name: str) -> None:
        if name == "before_swap":
            work()

    monkeypatch.setattr(committed, "failpoint", at)


@pytest.mark.parametrize("day", [1, 3])  # one that was published, and one that is new
def test_a_foreign_overwrite_of_the_same_partition_meanwhile_is_not_lost(kind, home, target, monkeypatch, day):
    stage_and_publish(target, release(1, 1), release(1, 2))
    stage(target, release(2, day))
    with monkeypatch.context() as patch:
        meanwhile(patch, lambda: foreign_overwrite(kind, home, day))
        with pytest.raises(
            NoiselibError, match=rf"day={day} was changed by somebody else meanwhile; nothing is published"
        ):
            publish(target, release(2, day))
    rows = read(kind, home)
    assert (rows["release"] == "foreign").sum() == 7
    assert set(rows["release"]) == {"foreign"} | ids(*[(1, other) for other in (1, 2) if other != day])
    publish(target, release(2, day))  # told to, it replaces that
    assert seen(kind, home) == ids(*[(1, other) for other in (1, 2) if other != day], (2, day))


def test_a_foreign_commit_to_another_partition_meanwhile_stays(kind, home, target, monkeypatch):
    stage_and_publish(target, release(1, 1), release(1, 2))
    stage(target, release(2, 1))
    meanwhile(monkeypatch, lambda: foreign_overwrite(kind, home, 2))
    publish(target, release(2, 1))
    rows = read(kind, home)
    assert rows["release"].value_counts().to_dict() == {release(2, 1).id: ROWS, "foreign": 7}


def test_who_is_overtaken_again_and_again_gives_up(kind, home, target, monkeypatch):
    stage_and_publish(target, release(1))
    stage(target, release(2))

    def overtaken(*_: object) -> None:
        raise committed.Conflict

    monkeypatch.setattr(target, "_commit", overtaken)
    monkeypatch.setattr(committed.random, "uniform", lambda *_: 0)
    with pytest.raises(NoiselibError, match="others have committed to it 20 times meanwhile; nothing is published"):
        publish(target, release(2))
    assert seen(kind, home) == ids((1, 1))


def test_a_release_that_others_have_rewritten_is_no_longer_published(kind, home, target):
    """Whatever the rows are now, they are not the files that were checked."""
    stage_and_publish(target, release(1, 1), release(1, 2))
    foreign_overwrite(kind, home, 1)
    assert target.manifest(release(1, 1).id) is None
    assert [manifest["partition"] for manifest in target.manifests()] == ["day=2"]
    assert set(target.readable()) == {"day=1", "day=2"}
    stage_and_publish(target, release(1, 1))
    assert seen(kind, home) == ids((1, 1), (1, 2))


def rows_deleted(kind: str, home: Path) -> None:
    """Somebody else deletes rows, copy on write: of three files one goes, one is written anew under another name, one stays."""
    if kind == "delta":
        DeltaTable(str(home / "out")).delete("value < 10")
    else:
        catalog_of(home).load_table("features.trips").delete(LessThan("value", 10))


def rows_added(kind: str, home: Path) -> None:
    rows = foreign_rows(1, value=range(7))
    if kind == "delta":
        write_deltalake(str(home / "out"), rows, mode="append")
    else:
        catalog_of(home).load_table("features.trips").append(rows)


@pytest.mark.parametrize("again", ["run", "rollback"])
@pytest.mark.parametrize("others", [rows_deleted, rows_added])
def test_a_release_of_which_others_have_changed_some_files_counts_no_more(kind, home, target, others, again):
    """What stands beside the files that are left was never checked."""
    for day in (1, 2):
        stage(target, release(1, day), files=3, value=pa.array(range(ROWS * day - ROWS, ROWS * day)))
    publish(target, release(1, 1), release(1, 2))
    others(kind, home)
    assert len(read(kind, home)) == 2 * ROWS + (7 if others is rows_added else -10)
    for reader in (target, open_table(kind, home)):
        assert reader.current_releases() == {"day=2": release(1, 2).id}
        assert reader.manifest(release(1, 1).id) is None
    if again == "run":
        publish(target, stage(target, release(1, 1), files=3, value=pa.array(range(ROWS))))
    else:
        target.rollback(next(one for one in target.kept() if one["release_id"] == release(1, 1).id))
    assert target.current_releases() == {f"day={day}": release(1, day).id for day in (1, 2)}
    assert seen(kind, home) == ids((1, 1), (1, 2))
    assert sorted(read(kind, home)["value"]) == list(range(2 * ROWS))


def all_rewritten(kind: str, home: Path) -> None:
    foreign_overwrite(kind, home, 1, value=range(7))


def all_deleted(kind: str, home: Path) -> None:
    if kind == "delta":
        DeltaTable(str(home / "out")).delete("day = 1")
    else:
        catalog_of(home).load_table("features.trips").delete(EqualTo("day", 1))


OTHERS = [rows_deleted, rows_added, all_rewritten, all_deleted]


@pytest.fixture
def changed_twice(kind: str, home: Path, target: Target) -> Target:
    """Two releases of day 1, the second of which readers see, and one of day 2."""
    for version, *days in ((1, 1, 2), (2, 1)):
        values = {day: pa.array(range(ROWS * day - ROWS, ROWS * day)) for day in days}
        publish(target, *[stage(target, release(version, day), files=3, value=values[day]) for day in days])
    return target


@pytest.mark.parametrize("others", OTHERS)
def test_rolling_back_withdraws_a_release_that_others_have_changed(kind, home, changed_twice, others):
    """Else the next run would publish it again, and undo the rollback."""
    others(kind, home)
    changed_twice.rollback(next(one for one in changed_twice.kept() if one["release_id"] == release(1, 1).id))
    for reader in (changed_twice, open_table(kind, home)):
        assert reader.rolled_back().keys() == {release(2, 1).id}
        assert reader.current_releases() == {f"day={day}": release(1, day).id for day in (1, 2)}


@pytest.mark.parametrize("others", OTHERS)
def test_a_rollback_that_was_killed_before_it_happened_withdraws_nothing_also_where_others_change_the_rows(
    kind, home, changed_twice, others
):
    changed_twice.withdraw([release(2, 1).id], "day=1", release(1, 1).id)
    others(kind, home)
    assert changed_twice.rolled_back() == {}
    publish(changed_twice, stage(changed_twice, release(2, 1), files=3, value=pa.array(range(ROWS))))
    assert changed_twice.withdrawn() == {}
    assert changed_twice.current_releases() == {"day=1": release(2, 1).id, "day=2": release(1, 2).id}


@pytest.mark.parametrize("others", OTHERS)
def test_a_table_that_others_have_changed_stays_its_pipelines(kind, home, others):
    target = open_table(kind, home)
    publish(target, stage(target, release(1, 1), files=3, value=pa.array(range(ROWS))))
    others(kind, home)
    assert (target.manifests(), [one["release_id"] for one in target.owners()]) == ([], [release(1, 1).id])
    for pipeline in ("trips", "other"):
        spec = SimpleNamespace(pipeline=pipeline, source=SimpleNamespace(partition_by=["day"]))
        if pipeline == "trips":
            assert demand_own(target, spec) == {}
        else:
            with pytest.raises(NoiselibError, match="holds a release of pipeline trips"):
                demand_own(target, spec)


def delete_a_row(home: Path, content: DataFileContent = DataFileContent.POSITION_DELETES) -> None:
    """Somebody else deletes a row of day 1 from an Iceberg table, by a delete file: merge on read."""
    table, deletes = catalog_of(home).load_table("features.trips"), home / "deletes.parquet"
    [file] = [task.file.file_path for task in table.scan(EqualTo("day", 1)).plan_files()]
    pq.write_table(pa.table({"file_path": [file], "pos": [0]}), deletes)
    commit(table, listed(table, deletes, FileFormat.PARQUET, content), ManifestContent.DELETES)


@pytest.mark.parametrize("content", [DataFileContent.POSITION_DELETES, DataFileContent.EQUALITY_DELETES])
def test_a_release_of_which_others_have_deleted_rows_is_published_again(home, content):
    target = open_table("iceberg", home)
    stage_and_publish(target, release(1, 1), release(1, 2))
    delete_a_row(home, content)
    for reader in (target, open_table("iceberg", home)):
        assert reader.current_releases() == {"day=2": release(1, 2).id}
        assert reader.manifest(release(1, 1).id) is None
    stage_and_publish(target, release(1, 1))
    assert target.current_releases() == {f"day={day}": release(1, day).id for day in (1, 2)}
    if content == DataFileContent.POSITION_DELETES:  # pyiceberg reads no table that has others
        assert seen("iceberg", home) == ids((1, 1), (1, 2))


def test_rolling_back_to_a_release_of_which_rows_were_deleted_brings_them_back(home):
    target = open_table("iceberg", home)
    stage_and_publish(target, release(1, 1), release(1, 2))
    delete_a_row(home)
    target.rollback(next(one for one in target.kept() if one["release_id"] == release(1, 1).id))
    assert target.current_releases() == {f"day={day}": release(1, day).id for day in (1, 2)}
    assert seen("iceberg", home) == ids((1, 1), (1, 2))


def test_a_release_that_a_deletion_vector_is_for_is_not_published_and_its_partition_not_replaced(home):
    """deltalake would leave the old file, with its vector, beside the new one."""
    target, table = open_table("delta", home), Delta(home / "out")
    stage_and_publish(target, release(1, 1), release(1, 2))
    table.allow_vectors()
    assert target.current_releases() == {f"day={day}": release(1, day).id for day in (1, 2)}
    table.delete_first_row(next(one for one in map(table.added, (0, 1)) if one["partitionValues"] == {"day": "1"}))
    for reader in (target, open_table("delta", home)):
        assert reader.current_releases() == {"day=2": release(1, 2).id}
        assert reader.manifest(release(1, 1).id) is None
    for version in (1, 2):
        stage(target, release(version, 1))
        with pytest.raises(NoiselibError, match="by a deletion vector, which cannot be replaced; expected it purged"):
            publish(target, release(version, 1))
        with pytest.raises(NoiselibError, match="by a deletion vector, which cannot be replaced; expected it purged"):
            target.demand_unmoved([release(version, 1)], {})
    stage_and_publish(target, release(2, 2))  # another partition
    table.table.delete("day = 1")
    publish(target, release(1, 1))
    assert target.current_releases() == {"day=1": release(1, 1).id, "day=2": release(2, 2).id}


# ---- refused ---------------------------------------------------------------------------------------------------------


def test_a_table_of_others_is_refused_and_left_alone(kind, home, target):
    rows = pa.table({"day": pa.array([1], pa.int32()), "release": ["theirs"]})
    if kind == "delta":
        write_deltalake(str(home / "out"), rows)
    else:
        catalog_of(home).create_namespace("features")
        catalog_of(home).create_table("features.trips", rows.schema).append(rows)
        target = open_table(kind, home)
    stage(target, release(1))
    for attempt in (target.manifests, target.prove, target.collect, lambda: publish(target, release(1))):
        with pytest.raises(NoiselibError, match="exists and was not published by noiselib"):
            attempt()
    assert read(kind, home)["release"].to_list() == ["theirs"]


def test_other_columns_or_types_are_refused(kind, home, target):
    columns = [("day", "int32"), ("release", "string")]
    target.prove(columns)
    stage_and_publish(target, release(1, 1))
    target.prove(columns)
    for name, kind_of_day in (("more", "int32"), ("day", "int64")):
        others = {"day": kind_of_day, name: kind_of_day, "release": "string"}
        with pytest.raises(NoiselibError, match=f"its columns differ from those of the release in {name}"):
            target.prove(list(others.items()))
    stage(target, release(2, "x"))
    with pytest.raises(NoiselibError, match="its columns differ from those of the release in day"):
        publish(target, release(2, "x"))
    assert seen(kind, home) == ids((1, 1))


def test_a_partition_column_that_the_format_does_not_take_is_refused(target):
    with pytest.raises(NoiselibError, match="partition column 'on' is date; expected int32 or int64 or string"):
        target.prove([("on", "date"), ("release", "string")], ["on"])


def test_proving_leaves_no_mark_where_there_is_no_table(target):
    target.prove([("day", "int32")], ["day"])
    assert not target.path.exists()


def test_rolling_back_where_the_table_is_gone_is_refused(kind, home, target):
    stage_and_publish(target, release(1))
    stage_and_publish(target, release(2))
    [earlier] = [one for one in target.kept() if one["release_id"] == release(1).id]
    (shutil.rmtree(target.path / "_delta_log") if kind == "delta" else target.catalog.drop_table(target.name))
    other = open_table(kind, home)
    with pytest.raises(NoiselibError, match="there is no table any more"):
        other.rollback(earlier)


def test_a_release_that_is_no_longer_staged_is_not_published_as_nothing(kind, home, target):
    stage_and_publish(target, release(1))
    stage(target, release(2))
    target.discard(release(2).id)
    with pytest.raises(NoiselibError, match="no longer staged"):
        publish(target, release(2))
    assert seen(kind, home) == ids((1, 1))


def test_a_place_that_cannot_be_written_to_is_refused(kind, home, target):
    (home / "file").write_text("")
    target.home = home / "file"
    with pytest.raises(
        NoiselibError, match=r"cannot be published \(.*\); expected a table's folder .* and a workspace"
    ):
        target.prove()


# ---- rollback and gc -------------------------------------------------------------------------------------------------


def test_gc_removes_what_is_neither_current_nor_kept(kind, home):
    target = open_table(kind, home, keep=3)
    for version in range(5):
        stage_and_publish(target, release(version, 1))
    stage_and_publish(target, release(0, 2))
    kept = [manifest["release_id"] for manifest in target.kept()]
    assert kept == [release(version, 1).id for version in (4, 3, 2, 1, 0)] + [release(0, 2).id]
    removed = target.collect()
    names = {Path(place).name for place in removed}
    assert {name.partition("-")[0].removesuffix(".json") for name in names} == ids((0, 1), (1, 1))
    assert [one["release_id"] for one in target.kept()] == [kept[0], kept[1], kept[2], kept[5]]
    assert seen(kind, home) == ids((4, 1), (0, 2))
    assert target.collect() == []
    stage_and_publish(target, release(5, 1))
    assert seen(kind, home) == ids((5, 1), (0, 2))


def test_files_of_others_are_never_removed(kind, home, target):
    stage_and_publish(target, release(1, 1), release(1, 2))
    foreign_overwrite(kind, home, 1)
    foreign_overwrite(kind, home, 1)
    target.collect()
    folder = target.path / getattr(target, "data_folder", "")
    assert len([file for file in folder.rglob("*.parquet") if not committed.OURS.fullmatch(file.name)]) == 2


def test_manifests_survive_a_vacuum_and_what_it_takes_is_not_kept(home):
    target = open_table("delta", home)
    for version in (1, 2):
        stage_and_publish(target, release(version))
    DeltaTable(str(home / "out")).vacuum(0, dry_run=False, enforce_retention_duration=False)
    assert [one["release_id"] for one in target.kept()] == [release(2).id]
    assert (target.path / MANIFESTS / f"{release(2).id}.json").exists()
    assert seen("delta", home) == ids((2, 1))
