"""Publishing where it can and where it cannot be atomic; a publisher killed before each change that it makes to a file."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
from itertools import count as counter
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from crashing import (
    NOISELIB,
    Count,
    Undisturbed,
    allowed,
    collected,
    crash,
    finish,
    look,
    observe,
    outcome,
    publish_until,
    target_of,
)
from small_pipeline import Small

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
def test_a_publisher_killed_before_each_change_to_a_file(undisturbed, checked, tmp_path, count: Count, stride):
    """`noiselib publish` makes some fifty changes (links, renames, files written or removed), each of them its last."""
    context = multiprocessing.get_context("forkserver")  # a process to fork that has no threads and no Spark
    context.set_forkserver_preload(["crashing", "noiselib.cli", "noiselib.spark.path"])
    seen, kills = set(), 0
    for number in counter(stride, stride):
        small = checked.copy(tmp_path / str(number))
        process = context.Process(target=publish_until, args=(str(small.spec_file), number))
        process.start()
        process.join()
        if process.exitcode == 0:  # it makes fewer changes than that
            break
        assert process.exitcode == -signal.SIGKILL
        state = observe(small, undisturbed.second.releases["day=1"])
        assert allowed(state), (number, state)
        values = look(small.spec["target"]["path"])
        assert values == (undisturbed.second if state.visible else undisturbed.first).values
        seen.add(state)
        answer = small.noiselib("publish")
        assert answer.code == 0, (number, answer.err)
        collected(small)
        assert outcome(small) == undisturbed.second
        kills += 1
    assert {state.visible for state in seen} == {False, True}
    assert kills >= 40 // stride
    count(kills=kills, runs=2 * kills)


def test_who_reads_the_version_before_goes_on_reading_it(undisturbed, checked, tmp_path):
    """Through a crash after the swap, the next run, and gc. (Files are opened late: the dataset holds names only.)"""
    small = checked.copy(tmp_path / "small")
    before = Path(os.path.realpath(small.spec["target"]["path"]))
    dataset = ds.dataset(before, partitioning="hive")
    rows = dataset.to_table().sort_by("id")
    crash(small, "after_swap")
    collected(small)
    assert dataset.to_table().sort_by("id") == rows
    finish(small)
    collected(small)
    assert dataset.to_table().sort_by("id") == rows
    assert look(str(before)) == undisturbed.first.values


def test_gc_after_a_first_publisher_was_killed_leaves_no_version(undisturbed, tmp_path, spark: object):
    small = undisturbed.fresh.copy(tmp_path / "small")
    for command in ("perturb", "check"):
        assert small.noiselib(command).code == 0
    crash(small, "before_swap")
    collected(small)
    assert list((target_of(small).home / "versions").iterdir()) == []
    assert look(small.spec["target"]["path"]) == "missing"


# ---- where it cannot -------------------------------------------------------------------------------------------------


def check_refused(small: Small, code: int, message: str) -> None:
    """Nothing was reserved."""
    assert code == 1, message
    assert "Formats delta and iceberg need no symbolic links, but a local or mounted path as well" in message
    with small.ledger() as ledger:
        assert ledger.releases() == []


@pytest.mark.parametrize("place", ["s3a://bucket/table", "hdfs://host/table", "gs://bucket/table", "abfss://c@a/table"])
@pytest.mark.parametrize("kind", ["parquet", "delta", "iceberg"])
def test_an_object_store_is_refused_by_name(undisturbed: Undisturbed, tmp_path, place, kind):
    small = undisturbed.fresh.copy(tmp_path / "small")
    small.spec["target"] = {"path": place, "format": kind}
    if kind == "iceberg":
        catalog = {"uri": f"sqlite:///{small.home}/catalog.db", "warehouse": place}
        small.spec["target"] |= {"path": "features.trips", "catalog": catalog}
    small.write_spec()
    answer = small.noiselib("run")
    check_refused(small, answer.code, answer.err)
    assert place in answer.err
    assert "cannot be atomic" in answer.err


@pytest.mark.parametrize(
    ("mount", "why"),
    [
        # cgroup2 has directories and no symbolic links, and every kernel has it: vfat and exfat are often missing.
        ("cgroup2 none", "Operation not permitted"),
        ("tmpfs -o ro none", "Read-only file system"),
    ],
)
def test_a_file_system_that_cannot_is_refused(undisturbed: Undisturbed, tmp_path, mount, why):
    """Mounted for this one process, in a namespace of its own."""
    small = undisturbed.fresh.copy(tmp_path / "small")
    place = small.home / "mounted"
    place.mkdir()
    small.spec["target"]["path"] = str(place / "table")
    small.write_spec()
    tidy = f"find {place} -name .table.noiselib -delete"  # a directory of cgroup2 would outlast the mount
    command = f"{NOISELIB} run {small.spec_file} --results {small.home}/run_results.json"
    inside = f"mount -t {mount} {place}; {command} || code=$?; {tidy}; exit $code"
    unshare = ["unshare", "--map-root-user", "--mount", "--cgroup", "sh", "-ec", inside]
    run = subprocess.run(unshare, cwd=small.home, capture_output=True, text=True, timeout=600)
    check_refused(small, run.returncode, run.stderr)
    assert "Spark" not in run.stderr
    assert f"target {place}/table: cannot be published atomically ({why})" in run.stderr
