"""Publishers to Delta and Iceberg, killed at every failpoint: the next one finishes, with one commit in all."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tables import (
    FORMATS,
    commits,
    killed_publisher,
    killed_rollback,
    open_table,
    publish,
    release,
    seen,
    stage,
    stage_and_publish,
)

pytestmark = pytest.mark.faults

NEW = [(2, 1), (1, 3)]  # a partition to replace and one to add


def kill(work: Callable[..., None], *arguments: Any) -> None:
    """In a process of its own, forked from one that has no threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tables"])
    process = context.Process(target=work, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def ids(*releases: tuple[int, int]) -> set[str]:
    return {release(version, day).id for version, day in releases}


OLD, DONE = ids((1, 1), (1, 2)), ids((2, 1), (1, 2), (1, 3))


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(
    ("failpoint", "visible"), [("while_building", False), ("before_swap", False), ("after_swap", True)]
)
def test_a_killed_publisher_is_finished_by_the_next_in_one_commit(tmp_path: Path, kind, failpoint, visible):
    (tmp_path / "warehouse").mkdir()
    target = open_table(kind, tmp_path)
    stage_and_publish(target, release(1, 1), release(1, 2))
    for one in NEW:
        stage(target, release(*one))
    kill(killed_publisher, kind, str(tmp_path), NEW, failpoint)
    assert seen(kind, tmp_path) == (DONE if visible else OLD)
    assert {one["release_id"] for one in target.manifests()} == (DONE if visible else OLD)
    assert [one["release_id"] for one in target.kept() if one["release_id"] in DONE - OLD] == (
        [release(*one).id for one in NEW] if visible else []  # what was never current is nothing to roll back to
    )
    publish(open_table(kind, tmp_path), *[release(*one) for one in NEW])
    assert seen(kind, tmp_path) == DONE
    assert commits(kind, tmp_path) == 2
    assert release(1, 1).id in [one["release_id"] for one in target.kept()]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("failpoint", ["while_building", "before_swap"])
@pytest.mark.parametrize("first", [True, False])
def test_gc_removes_what_a_killed_publisher_left(tmp_path: Path, kind, failpoint, first):
    (tmp_path / "warehouse").mkdir()
    target = open_table(kind, tmp_path)
    if not first:
        stage_and_publish(target, release(1, 1), release(1, 2))
    for one in NEW:
        stage(target, release(*one))
    kill(killed_publisher, kind, str(tmp_path), NEW, failpoint)
    left = {file for one in NEW for file in target.path.rglob(f"*{release(*one).id}*")}
    assert left
    removed = {Path(place) for place in target.collect()}
    assert left <= removed
    assert not any(place.exists() for place in removed)
    assert {one["release_id"] for one in target.kept()} == (set() if first else OLD)
    for one in NEW:
        stage(target, release(*one))
    publish(target, *[release(*one) for one in NEW])
    assert seen(kind, tmp_path) == (ids(*NEW) if first else DONE)


@pytest.mark.parametrize("kind", ["parquet", *FORMATS])
@pytest.mark.parametrize(("failpoint", "visible"), [("before_swap", False), ("after_swap", True)])
def test_a_killed_rollback_has_happened_or_not(tmp_path: Path, kind, failpoint, visible):
    (tmp_path / "warehouse").mkdir()
    target = open_table(kind, tmp_path)
    stage_and_publish(target, release(1, 1), release(1, 2))
    stage_and_publish(target, release(2, 1))
    kill(killed_rollback, kind, str(tmp_path), 1, failpoint)
    assert seen(kind, tmp_path) == ids((1, 1) if visible else (2, 1), (1, 2))
    target.rollback(next(one for one in target.kept() if one["release_id"] == release(1, 1).id))
    assert seen(kind, tmp_path) == ids((1, 1), (1, 2))
    assert set(target.withdrawn()) == ids((2, 1))
