"""Rolling back, in every format: an earlier release is current again, and the one it replaces stays withdrawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from tables import FORMATS, commits, open_table, properties, publish, release, seen, stage, stage_and_publish

from noiselib.targets import Target


@pytest.fixture(params=("parquet", *FORMATS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def target(kind: str, tmp_path: Path) -> Target:
    """Two days; the first has been restated twice."""
    (tmp_path / "warehouse").mkdir()
    target = open_table(kind, tmp_path, keep=3)
    stage_and_publish(target, release(1, 1), release(1, 2))
    stage_and_publish(target, release(2, 1))
    stage_and_publish(target, release(3, 1))
    return target


def roll_back(target: Target, version: int, day: int = 1) -> None:
    target.rollback(next(one for one in target.kept() if one["release_id"] == release(version, day).id))


def ids(*releases: tuple[int, int]) -> set[str]:
    return {release(version, day).id for version, day in releases}


def test_what_can_be_current_is_listed_latest_first(target):
    assert [one["release_id"] for one in target.kept()] == [
        release(3, 1).id, release(2, 1).id, release(1, 1).id, release(1, 2).id
    ]  # fmt: skip


@pytest.mark.parametrize("version", [1, 2])
def test_an_earlier_release_is_current_again(kind, target, tmp_path, version):
    manifest = next(one for one in target.kept() if one["release_id"] == release(version, 1).id)
    roll_back(target, version)
    assert seen(kind, tmp_path) == ids((version, 1), (1, 2))
    assert target.manifest(release(version, 1).id) == manifest
    assert target.manifest(release(3, 1).id) is None
    [(withdrawn, mark)] = target.withdrawn().items()
    assert withdrawn == release(3, 1).id
    assert (mark["partition"], mark["in_favour_of"]) == ("day=1", release(version, 1).id)
    again = open_table(kind, tmp_path, keep=3)
    assert again.withdrawn() == target.withdrawn()
    assert again.kept()[0]["release_id"] == release(version, 1).id


def test_rolling_forward_again_lifts_the_mark(kind, target, tmp_path):
    roll_back(target, 2)
    roll_back(target, 3)
    assert seen(kind, tmp_path) == ids((3, 1), (1, 2))
    assert set(target.withdrawn()) == {release(2, 1).id}
    roll_back(target, 3)  # a second time changes nothing
    assert set(target.withdrawn()) == {release(2, 1).id}


def test_rolling_back_to_what_is_current_commits_nothing(kind, target, tmp_path):
    if kind == "parquet":
        before = target.path.resolve()
        roll_back(target, 3)
        assert target.path.resolve() == before
    else:
        before_commits = commits(kind, tmp_path)
        roll_back(target, 3)
        assert commits(kind, tmp_path) == before_commits


@pytest.mark.parametrize("kind", FORMATS, indirect=True)
def test_the_commit_says_that_it_is_a_rollback(kind, target, tmp_path):
    roll_back(target, 1)
    said = properties(kind, tmp_path)
    assert said["noiselib.rollback"] == "true"
    assert said["noiselib.releases"] == release(1, 1).id


def test_a_new_release_after_a_rollback_leaves_it_withdrawn(kind, target, tmp_path):
    roll_back(target, 1)
    stage_and_publish(target, release(4, 1))
    assert seen(kind, tmp_path) == ids((4, 1), (1, 2))
    assert set(target.withdrawn()) == {release(3, 1).id}


def test_what_is_no_longer_kept_cannot_be_current(target):
    for version in (4, 5, 6):
        stage_and_publish(target, release(version, 1))
    target.collect()
    assert release(1, 1).id not in [one["release_id"] for one in target.kept()]
    assert release(5, 1).id in [one["release_id"] for one in target.kept()]


def test_a_mark_of_a_rollback_that_was_killed_is_not_believed(kind, target, tmp_path):
    """It is written before the commit: what is current is not withdrawn, and no longer noted so by the next that publishes."""
    target.withdraw([release(3, 1).id], "day=1", release(1, 1).id)
    publish(target, stage(target, release(2, 2)))
    assert target.withdrawn() == {}
    assert seen(kind, tmp_path) == ids((3, 1), (2, 2))
