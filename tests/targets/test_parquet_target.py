"""Publishing real files: readers see one version at a time, partitions keep their bytes, killed publishers leave no trace."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from noiselib.errors import NoiselibError, ReleaseHeld
from noiselib.release import Release
from noiselib.targets import MANIFESTS, parquet, staging
from noiselib.targets.parquet import ParquetTarget

pytestmark = pytest.mark.faults
ROWS = 20


@pytest.fixture
def target(tmp_path: Path) -> ParquetTarget:
    return ParquetTarget(str(tmp_path / "out"), 1)


def release(version: int, day: int | str | None = 1) -> Release:
    name = str(day).replace("/", "+")
    return Release(f"{version:04d}-{name}", "trips", (("day", day),), "snapshot", "key", ROWS)


def stage(target: ParquetTarget, one: Release, directory: str | None = None) -> Release:
    """Stage `one` as Spark leaves it: rows that hold its id, under a file name of its own, and the writer's marks."""
    written = target.scratch(one.id)
    if one.partition:
        written /= directory or one.partition_text
    written.mkdir(parents=True)
    pq.write_table(pa.table({"release": [one.id] * ROWS}), written / f"part-0-{one.id}.parquet")
    (written / "_SUCCESS").touch()
    (written / ".part-0.crc").touch()
    target.stage(one, written, {"rows": ROWS})
    target.record_checks(one.id, {"files": target.files(one.id)})
    return one


def publish(target: ParquetTarget, *releases: Release) -> None:
    target.publish(releases, {r.id: {"release_id": r.id, "partition": r.partition_text} for r in releases})
    for one in releases:
        target.discard(one.id)


def stage_and_publish(target: ParquetTarget, *releases: Release) -> None:
    publish(target, *[stage(target, one) for one in releases])


def read(path: Path) -> set[str]:
    """The releases whose rows a plain reader gets, all of them whole."""
    ids = ds.dataset(path, partitioning="hive").to_table()["release"].to_pylist()
    assert all(ids.count(one) == ROWS for one in set(ids))
    return set(ids)


def published(target: ParquetTarget) -> set[str]:
    assert {manifest["release_id"] for manifest in target.manifests()} == read(target.path)
    return read(target.path)


def checksums(root: Path) -> dict[str, str]:
    files = [file for file in sorted(root.rglob("*")) if file.is_file()]
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


# ---- what a reader sees ----------------------------------------------------------------------------------------------


def test_a_release_is_published_with_its_manifest_and_no_marks_of_the_writer(target):
    assert target.current() is None
    assert target.manifests() == []
    stage_and_publish(target, release(1, 1), release(1, 2))
    assert published(target) == {"0001-1", "0001-2"}
    assert target.manifest("0001-1") == {"release_id": "0001-1", "partition": "day=1"}
    assert target.manifest("0001-3") is None
    assert sorted(checksums(target.path)) == [
        f"{MANIFESTS}/0001-1.json",
        f"{MANIFESTS}/0001-2.json",
        "day=1/part-0-0001-1.parquet",
        "day=2/part-0-0001-2.parquet",
    ]


def test_replacing_one_partition_leaves_the_others_as_they_are_to_the_byte(target):
    stage_and_publish(target, *[release(1, day) for day in (1, 2, 3)])
    before = checksums(target.path)
    stage_and_publish(target, release(2, 2))
    after = checksums(target.path)
    assert published(target) == {"0001-1", "0002-2", "0001-3"}
    assert before.keys() - after.keys() == {f"{MANIFESTS}/0001-2.json", "day=2/part-0-0001-2.parquet"}
    assert after.keys() - before.keys() == {f"{MANIFESTS}/0002-2.json", "day=2/part-0-0002-2.parquet"}
    assert all(after[file] == before[file] for file in before.keys() & after.keys())


@pytest.mark.parametrize(
    ("day", "directory"),
    [
        ("a b", "day=a%20b"),
        ("a b", "day=a b"),
        ("100%", "day=100%25"),
        (None, "day=__HIVE_DEFAULT_PARTITION__"),
        ("a/b", "day=a%2Fb"),
    ],
)
def test_a_partition_is_replaced_however_its_directory_is_escaped(target, day, directory):
    for version in (1, 2):
        publish(target, stage(target, release(version, day), directory), stage(target, release(version, "other")))
    assert published(target) == {release(2, day).id, "0002-other"}


def test_a_table_without_partitions_is_replaced_whole(tmp_path):
    target = ParquetTarget(str(tmp_path / "flat"), 0)
    for name in ("first", "second"):
        stage_and_publish(target, Release(name, "trips", (), "snapshot", "key", ROWS))
        assert published(target) == {name}


def test_partitions_of_two_levels_are_replaced_one_by_one(tmp_path):
    target = ParquetTarget(str(tmp_path / "deep"), 2)

    def of(version: int, month: int) -> Release:
        return Release(f"{version}-{month}", "trips", (("year", 2013), ("month", month)), "snapshot", "key", ROWS)

    stage_and_publish(target, of(1, 1), of(1, 11))
    stage_and_publish(target, of(2, 1))
    assert published(target) == {"2-1", "1-11"}


def test_readers_pass_over_manifests_and_staging(target):
    stage_and_publish(target, release(1))
    stage(target, release(2))
    (target.path / MANIFESTS / "looks-like-data.parquet").write_text("no Parquet")
    files = ds.dataset(target.path, partitioning="hive").files
    assert [Path(file).name for file in files] == ["part-0-0001-1.parquet"]
    assert [Path(file).name for file in ds.dataset(target.path.parent).files] == [
        "part-0-0001-1.parquet"
    ]  # nor from above
    assert pq.read_table(target.path)["day"].unique().to_pylist() == [1]


VERSIONS = [{f"{version:04d}-{day}" for day in (1, 2, 3)} for version in range(26)]


def seen_while_publishing(target: ParquetTarget, look: Callable[[Path], set[str]]) -> tuple[list[set[str]], int]:
    """What a reader sees that looks again and again while version after version of three partitions is published.

    And how many of its looks ended with "file not found". The publisher waits for two looks to end after each version: the
    first may have begun before the swap, the second has not, and no swap disturbs it.
    """
    looked = threading.Event()

    def work() -> None:
        for version in range(1, len(VERSIONS)):
            stage_and_publish(target, *[release(version, day) for day in (1, 2, 3)])
            for _ in range(2):
                looked.clear()
                looked.wait(60)

    stage_and_publish(target, *[release(0, day) for day in (1, 2, 3)])
    publisher = threading.Thread(target=work, daemon=True)  # if the reader fails, nobody waits for it
    publisher.start()
    seen, vanished = [], 0
    while publisher.is_alive():
        try:
            seen.append(look(target.path))
        except FileNotFoundError:  # listed before a swap and opened after it
            vanished += 1
        finally:
            looked.set()
    return [*seen, look(target.path)], vanished


def in_order(seen: list[set[str]]) -> None:
    """Whole versions only: each from the second on, and none after a later one."""
    order = [VERSIONS.index(one) for one in seen]
    assert order == sorted(order)
    assert set(order) >= set(range(1, len(VERSIONS)))


def test_a_reader_who_resolves_the_link_sees_the_whole_old_or_the_whole_new_table(target):
    seen, vanished = seen_while_publishing(target, lambda path: read(Path(os.path.realpath(path))))
    in_order(seen)
    assert vanished == 0


def test_a_reader_of_the_plain_path_never_sees_two_versions_or_staging(target):
    """A file listed before the swap is gone after it: Arrow says so, or passes over it; it never gets other rows instead.

    That is a known weakness (docs/limits.md), and befalls a look that a swap falls into: at most one look for each swap.
    """
    seen, vanished = seen_while_publishing(target, read)
    in_order([one for one in seen if one in VERSIONS])
    partial = [one for one in seen if one not in VERSIONS]
    assert all(any(one < version for version in VERSIONS) for one in partial)
    assert len(partial) + vanished <= len(VERSIONS) - 1
    print(f"{len(seen)} looks, {len(partial)} without rows of a partition, {vanished} ended by a file not found")


def test_a_reader_who_resolved_the_link_before_the_swap_is_not_disturbed(target):
    stage_and_publish(target, *[release(0, day) for day in (1, 2)])
    reader = ds.dataset(os.path.realpath(target.path), partitioning="hive")
    stage_and_publish(target, *[release(1, day) for day in (1, 2)])
    assert set(reader.to_table()["release"].to_pylist()) == {"0000-1", "0000-2"}
    assert published(target) == {"0001-1", "0001-2"}


# ---- publishers ------------------------------------------------------------------------------------------------------


def in_threads(tasks: Iterable[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=task) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_publishers_of_different_partitions_lose_nothing_of_each_other(target):
    def publisher(day: int) -> Callable[[], None]:
        own = ParquetTarget(str(target.path), 1)
        return lambda: [stage_and_publish(own, release(version, day)) for version in range(5)] and None

    in_threads([publisher(day) for day in range(6)])
    assert published(target) == {f"0004-{day}" for day in range(6)}


def in_a_killed_process(work: Callable[[], None]) -> None:
    """Run `work`, which ends its process, in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(1)
    assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 9


def die(*_: Any, **__: Any) -> None:
    os._exit(9)


@pytest.mark.parametrize("where", ["_add", "_point_to", "_carry_over"])
def test_a_killed_publisher_changes_nothing_and_the_next_one_cleans_up(target, where):
    stage_and_publish(target, release(1, 1), release(1, 2))
    stage(target, release(2, 1))
    before = checksums(target.path)

    def work() -> None:
        setattr(ParquetTarget, where, die)
        publish(target, release(2, 1))

    in_a_killed_process(work)
    assert checksums(target.path) == before
    kept = os.path.realpath(target.path)
    publish(target, release(2, 1))
    assert published(target) == {"0002-1", "0001-2"}
    versions = target.home / "versions"
    assert {version.name for version in versions.iterdir()} == {
        Path(kept).name,
        Path(os.path.realpath(target.path)).name,
    }
    assert checksums(Path(kept)) == before  # whoever still reads the old version can


def test_a_publisher_killed_right_after_the_swap_has_published(target):
    stage_and_publish(target, release(1))
    stage(target, release(2))

    def work() -> None:
        sync = parquet.sync
        parquet.sync = lambda path: die() if path == target.path.parent else sync(path)
        publish(target, release(2))

    in_a_killed_process(work)
    assert published(target) == {"0002-1"}
    stage_and_publish(target, release(3))
    assert published(target) == {"0003-1"}


def test_two_versions_are_kept(target):
    for version in range(5):
        stage_and_publish(target, release(version))
        assert len(list((target.home / "versions").iterdir())) == min(version + 1, 2)


def test_a_release_that_is_no_longer_staged_is_not_published_as_nothing(target):
    stage_and_publish(target, release(1))
    before = checksums(target.path)
    stage(target, release(2))
    target.discard("0002-1")
    with pytest.raises(NoiselibError, match="no longer staged"):
        publish(target, release(2))
    assert checksums(target.path) == before
    stage_and_publish(target, release(2))
    assert published(target) == {"0002-1"}


@pytest.mark.parametrize("harm", ["lost", "another", "one more"])
def test_files_that_are_not_those_that_were_checked_are_not_published(target, harm):
    stage_and_publish(target, release(1))
    before = checksums(target.path)
    stage(target, release(2))
    [file] = target.data("0002-1").rglob("*.parquet")
    if harm == "lost":
        file.unlink()
    elif harm == "another":
        stage(target, release(3))
        os.replace(next(target.data("0003-1").rglob("*.parquet")), file)
    else:
        pq.write_table(pa.table({"release": ["0002-1"] * ROWS}), file.with_name("part-1.parquet"))
    with pytest.raises(NoiselibError, match=r"no longer staged in .+ as it was checked"):
        publish(target, release(2))
    assert checksums(target.path) == before


def test_what_another_run_has_published_meanwhile_is_not_replaced_by_an_older_state(target):
    stage_and_publish(target, release(1, 1), release(1, 2))
    before = target.current_releases()
    assert before == {"day=1": "0001-1", "day=2": "0001-2"}
    stage(target, release(2, 1))
    stage_and_publish(target, release(3, 1), release(3, 2))
    with pytest.raises(NoiselibError, match="release 0003-1 was made current in day=1 since this run began; nothing"):
        target.publish([release(2, 1)], {"0002-1": {"release_id": "0002-1", "partition": "day=1"}}, before)
    assert published(target) == {"0003-1", "0003-2"}
    # where only another partition has moved, or this release itself is there, nothing is in the way
    target.demand_unmoved([release(2, 1)], {"day=1": "0003-1"})
    target.demand_unmoved([release(3, 1)], before)


def test_a_version_that_has_gone_is_told_and_no_table_begins_in_its_place(target):
    for version in (1, 2):
        stage_and_publish(target, release(version, 1), release(version, 2))
    current = Path(os.path.realpath(target.path))
    hidden = current.rename(target.home / "elsewhere")
    stage(target, release(3, 2))
    for attempt in (target.manifests, target.collect, lambda: publish(target, release(3, 2))):
        with pytest.raises(
            NoiselibError, match=f"its version {current} is not there; expected it back in its place, or no link"
        ):
            attempt()
    assert len(list((target.home / "versions").iterdir())) == 1  # the version before is left alone
    hidden.rename(current)
    publish(target, release(3, 2))
    assert published(target) == {"0002-1", "0003-2"}


def make_directory(path: Path) -> None:
    path.mkdir()


def make_file(path: Path) -> None:
    path.write_text("mine")


def make_link(path: Path) -> None:
    (path.parent / "elsewhere").mkdir()
    path.symlink_to(path.parent / "elsewhere")


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


@pytest.mark.parametrize("make", [make_directory, make_file, make_link, make_dangling_link])
def test_a_target_that_is_not_ours_is_refused_and_left_alone(target, make):
    make(target.path)
    stage(target, release(1))
    for attempt in (target.current, target.manifests, lambda: publish(target, release(1))):
        with pytest.raises(NoiselibError, match="exists and was not published by noiselib"):
            attempt()
    assert not (target.home / "versions").exists() or not list((target.home / "versions").iterdir())


def test_a_target_that_has_no_rename_is_refused():
    with pytest.raises(NoiselibError, match="cannot be atomic"):
        ParquetTarget("s3a://bucket/out", 1)


def test_a_manifest_that_is_no_json_is_told(target):
    stage_and_publish(target, release(1))
    (target.path / MANIFESTS / "0001-1.json").write_text("{")
    with pytest.raises(NoiselibError, match=r"0001-1.json: not valid JSON; expected a file that noiselib wrote"):
        target.manifests()


# ---- staging, quarantine, gc -----------------------------------------------------------------------------------------


def test_staging_is_whole_or_not_at_all(target):
    one = release(1)
    assert target.staged(one.id) is None
    stage(target, one)
    assert target.staged(one.id) == {"rows": ROWS}
    assert read(target.data(one.id)) == {one.id}
    (target.staging(one.id) / "staged.json").unlink()
    assert target.staged(one.id) is None
    stage(target, one)  # staged again in its place
    assert read(target.data(one.id)) == {one.id}


def test_checks_are_remembered_with_what_they_checked(target):
    one = stage(target, release(1))
    assert target.checks(one.id) == {"files": target.files(one.id)}
    target.record_checks(one.id, {"success": True})
    assert target.checks(one.id) == {"success": True}
    stage(target, one)
    assert target.checks(one.id) == {"files": target.files(one.id)}


def test_a_quarantined_release_is_kept_apart(target):
    stage_and_publish(target, release(1))
    for _ in range(2):  # a second time replaces the first
        stage(target, release(2))
        place = target.quarantine("0002-1")
        assert target.staged("0002-1") is None
        assert read(place / "data") == {"0002-1"}
        with pytest.raises(NoiselibError, match="no longer staged"):
            publish(target, release(2))
    assert published(target) == {"0001-1"}


def test_collecting_removes_staging_and_quarantine_only(target):
    stage_and_publish(target, release(1))
    for version in (2, 3, 4):
        stage(target, release(version))
    target.quarantine("0004-1")
    removed = target.collect()
    assert {Path(place).name for place in removed} >= {"0002-1", "0003-1", "0004-1"}
    assert not any(Path(place).exists() for place in removed)
    assert published(target) == {"0001-1"}
    assert target.collect() == []


def test_a_release_that_is_given_up_leaves_no_noised_rows(target):
    stage(target, release(2))
    target.forget("0002-1")
    stage(target, release(3))
    place = target.quarantine("0003-1")
    target.forget("0003-1")
    assert target.staged("0002-1") is None
    assert not place.exists()


def test_no_two_jobs_write_to_one_place_and_what_a_killed_one_left_is_removed(target):
    """Tasks of a killed driver may go on writing for a while: into a place that nobody stages from."""
    (target.scratch("job") / "day=1").mkdir(parents=True)
    [left] = target.home.glob("staging/*")
    other = target.scratch("another")
    other.mkdir()
    again = target.scratch("job")
    assert not left.exists()
    assert again not in (left, target.scratch("job"))
    assert other.exists()


def test_a_release_whose_removal_was_interrupted_does_not_count_as_staged(target, monkeypatch):
    """Its source may come back as it was, and with it the same release: it must then be made again, not taken half."""
    for remove in (target.discard, target.forget):
        stage(target, release(1))
        with monkeypatch.context() as patched:
            patched.setattr(staging.shutil, "rmtree", lambda *_, **__: None)
            remove("0001-1")
        assert target.data("0001-1").exists()
        assert target.staged("0001-1") is None


def test_the_version_before_the_current_one_is_the_last_that_readers_saw(target):
    """Not one that was built and never seen, though its number lies between."""
    stage_and_publish(target, release(1))
    seen = os.path.realpath(target.path)
    stage(target, release(2))

    def killed_before_the_swap() -> None:
        ParquetTarget._point_to = die  # type: ignore[method-assign,assignment]
        publish(target, release(2))

    def killed_after_the_swap() -> None:
        point_to = ParquetTarget._point_to
        ParquetTarget._point_to = lambda self, version: [point_to(self, version), die()]  # type: ignore[method-assign]
        publish(target, release(2))

    in_a_killed_process(killed_before_the_swap)
    in_a_killed_process(killed_after_the_swap)
    target.collect()
    versions = {str(version) for version in (target.home / "versions").iterdir()}
    assert versions == {seen, os.path.realpath(target.path)}
    assert read(Path(seen)) == {"0001-1"}
    assert published(target) == {"0002-1"}


def test_what_a_killed_publisher_left_is_collected(target):
    stage(target, release(1))

    def work() -> None:
        parquet.fcntl.flock = die
        target.prove()

    in_a_killed_process(work)
    assert list(target.home.glob("probe-*"))
    (target.home / "versions" / "building-7").mkdir(parents=True)
    (target.home / "versions" / "7").mkdir()
    (target.home / "next").symlink_to("versions/7")
    target.collect()
    assert {place.name for place in target.home.iterdir()} == {"staging", "versions", "publish.lock"}
    assert list((target.home / "versions").iterdir()) == []


def test_a_place_that_cannot_publish_is_refused(target, monkeypatch):
    target.prove()
    assert not list(target.home.glob("probe-*"))

    def no_links(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(parquet.os, "symlink", no_links)
    with pytest.raises(NoiselibError, match=r"cannot be published atomically \(Operation not permitted\); expected"):
        target.prove()


def test_without_a_ledger_one_run_at_a_time_holds_the_target(tmp_path):
    target = ParquetTarget(str(tmp_path / "table"), 0)
    with (
        target.held(),
        pytest.raises(ReleaseHeld, match=rf"held by process {os.getpid()} on .+ since 2"),
        ParquetTarget(str(tmp_path / "table"), 0).held(),
    ):
        pass
    with target.held():
        pass
