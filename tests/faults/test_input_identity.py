"""The source changes while a release is made of it: another process does it, at the worst moment. Nothing is published.

And should a changed table meet the noise of an old release all the same, the two releases' difference says nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats
from small_pipeline import SMALL_SCHEMA, Small, make_small, small_rows

from noiselib import release
from noiselib.spark import path, perturb, stage, steps
from noiselib.spark.kernel import Noise
from noiselib.spark.run import prepare

pytestmark = pytest.mark.faults
Patch = pytest.MonkeyPatch
FALSE_ALARM = 1e-10


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory, spark: object) -> Small:
    """A first day of 50 rows, published, and a second that is not."""
    small = make_small(tmp_path_factory.mktemp("once"), days=[1], size=50)
    answer = small.noiselib("run")
    assert answer.code == 0, answer.err
    small.rows[2] = small_rows(2, 50)
    small.write_source()
    return small


@pytest.fixture
def second_day(once: Small, tmp_path: Path) -> Small:
    return once.copy(tmp_path / "copy")


def other_process(code: str, *arguments: str) -> None:
    subprocess.run([sys.executable, "-c", "import os, sys, shutil\n" + code, *arguments], check=True, timeout=60)


CHANGES = {
    # what becomes of the file argv[1]; how it is named
    "rewritten with its size and time": (
        "s = os.stat(sys.argv[1]); b = bytearray(open(sys.argv[1], 'rb').read()); b[40] ^= 1\n"
        "open(sys.argv[1], 'wb').write(b); os.utime(sys.argv[1], ns=(s.st_atime_ns, s.st_mtime_ns))",
        "part-0.parquet: changed",
    ),
    "replaced by a copy": (
        "shutil.copy2(sys.argv[1], sys.argv[1] + '.new'); os.replace(sys.argv[1] + '.new', sys.argv[1])",
        "part-0.parquet: changed",
    ),
    "cut short": ("os.truncate(sys.argv[1], 100)", "part-0.parquet: changed"),
    "removed": ("os.remove(sys.argv[1])", "part-0.parquet: removed"),
    "joined by another": (
        "shutil.copy(sys.argv[1], os.path.join(os.path.dirname(sys.argv[1]), 'part-1.parquet'))", "part-1.parquet: added",
    ),
    "gone with its table": ("shutil.rmtree(sys.argv[1].split('/day=')[0])", "part-0.parquet: removed"),
}  # fmt: skip


def before(patch: Patch, place: Any, name: str, act: Callable[[], None]) -> None:
    """Have `act` happen just before `place.name` is called for the first time."""
    real, done = getattr(place, name), []

    def changed(*arguments: Any, **named: Any) -> Any:
        if not done:
            done.append(act())
        return real(*arguments, **named)

    patch.setattr(place, name, changed)


def moments() -> list[Any]:
    """What is called next, of all the moments at which a source may change."""
    return [
        pytest.param((steps, "inspect"), id="between fingerprint and read"),
        pytest.param((steps, "stage"), id="between two reads", marks=pytest.mark.long),
        pytest.param((stage, "verify_unchanged"), id="between read and verify"),
    ]


@pytest.mark.parametrize("moment", moments())
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_source_that_changes_is_named_and_nothing_is_published(
    second_day: Small, monkeypatch: Patch, change: tuple[str, str], moment: tuple[Any, str]
) -> None:
    file = second_day.home / "source" / "day=2" / "part-0.parquet"
    spent, published = second_day.spent(), second_day.checksums()
    before(monkeypatch, *moment, lambda: other_process(change[0], str(file)))
    answer = second_day.noiselib("run", "--partition", "day=2")
    assert (answer.code, answer.err.count("InputError")) == (1, 1), answer.err
    assert f"{change[1]} while the release was made; nothing is published" in answer.err
    assert (second_day.spent(), second_day.checksums()) == (spent, published)
    assert not list(second_day.home.glob(".published.noiselib/staging/*"))
    assert second_day.results()["status"] == "failed"


def test_a_file_that_vanishes_while_it_is_hashed_is_named(second_day: Small, monkeypatch: Patch) -> None:
    file = second_day.home / "source" / "day=2" / "part-0.parquet"
    before(monkeypatch, release, "fingerprint", lambda: other_process("os.remove(sys.argv[1])", str(file)))
    answer = second_day.noiselib("run", "--partition", "day=2")
    assert answer.code == 1
    assert f"InputError: source file {file}: cannot be read (No such file or directory)" in answer.err


def test_a_page_that_was_damaged_before_is_named(second_day: Small) -> None:
    """Its footer is whole, so only the job finds it."""
    file = second_day.home / "source" / "day=2" / "part-0.parquet"
    content = bytearray(file.read_bytes())
    content[4:200] = bytes(196)
    file.write_bytes(content)
    spent = second_day.spent()
    answer = second_day.noiselib("run", "--partition", "day=2")
    assert answer.code == 1
    assert f"InputError: source file {file}: cannot be read as Parquet (FAILED_READ_FILE" in answer.err
    assert second_day.spent() == spent


def drifted(name: str) -> pa.Table:
    table = pa.table(small_rows(2, 50), schema=SMALL_SCHEMA)
    if name == "added":
        return table.append_column("extra", pa.array([1] * 50))
    if name == "dropped":
        return table.drop_columns("amount")
    if name == "renamed":
        return table.rename_columns({"amount": "amounts"})
    if name == "retyped":
        return table.set_column(3, "amount", table["amount"].cast(pa.string()))
    return table.append_column("amount", table["amount"])


@pytest.mark.parametrize("change", ["added", "dropped", "renamed", "retyped", "doubled"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_schema_that_drifts_fails_before_noise_and_spending(
    second_day: Small, monkeypatch: Patch, change: str, everywhere: bool
) -> None:
    """In every file, the spec does not fit the table; in one file, the files make no table."""
    monkeypatch.setattr(steps, "inspect", lambda *_: pytest.fail("rows were read"))
    for day in (1, 2) if everywhere else (2,):
        second_day.write_partition(day, drifted(change))
    spent, published = second_day.spent(), second_day.checksums()
    answer = second_day.noiselib("run")
    assert answer.code in (1, 2), answer.err
    assert "amount" in answer.err or "extra" in answer.err
    assert (second_day.spent(), second_day.checksums()) == (spent, published)


# ---- differencing

ROWS, STEP = 3000, 1


def counts(home: Path, values: np.ndarray) -> Small:
    """A pipeline of one day whose `count` column is `values`."""
    home.mkdir()
    small = make_small(home, days=[], size=0)
    rows = small_rows(1, len(values)) | {"count": [int(value) for value in values]}
    small.spec["columns"]["count"] = {"mechanism": "discrete_laplace", "epsilon": 1.0, "bounds": [0, 60]}
    small.write_spec()
    small.write_partition(1, pa.table(rows, schema=SMALL_SCHEMA))
    return small


def published_counts(small: Small) -> np.ndarray:
    table = small.published()
    assert table is not None
    return np.array(table["count"].to_pylist())


def restated(small: Small, home: Path, values: np.ndarray) -> Small:
    """The same pipeline and key where nothing is published, its source rewritten with other values and the time forged."""
    other = small.anew(home)
    file = other.home / "source" / "day=1" / "part-0.parquet"
    before = file.stat()
    other.write_partition(
        1, pa.table(small_rows(1, len(values)) | {"count": [int(v) for v in values]}, schema=SMALL_SCHEMA)
    )
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    return other


@pytest.fixture(scope="module")
def two_tables() -> tuple[np.ndarray, np.ndarray]:
    """Counts, and the same counts with every row one higher: of one size as files."""
    values = np.arange(ROWS) % 50
    return values, values + STEP


def as_if_fresh(difference: np.ndarray) -> float:
    """P value of the hypothesis that these are `STEP` and two independent draws of the noise (chi-square, 9 cells)."""
    q = np.exp(-1.0 / 60)  # discrete Laplace of epsilon 1 over [0, 60]
    reach = np.arange(-4000, 4001)
    law = (1 - q) / (1 + q) * q ** np.abs(reach)
    both = np.convolve(law, law)
    places = np.arange(-8000, 8001)
    edges = np.array([-150, -80, -40, -10, 10, 40, 80, 150])
    expected = np.bincount(np.digitize(places, edges), weights=both, minlength=9)
    found = np.bincount(np.digitize(difference - STEP, edges), minlength=9)
    return float(stats.chisquare(found, expected / expected.sum() * len(difference)).pvalue)


def test_two_releases_of_a_table_with_its_size_and_time_forged_differ_by_fresh_noise(
    tmp_path: Path, spark: object, two_tables: tuple[np.ndarray, np.ndarray]
) -> None:
    """The snapshot is its contents: the second release has another id, another key, and is charged."""
    small = counts(tmp_path / "one", two_tables[0])
    other = restated(small, tmp_path / "two", two_tables[1])
    ids = []
    for pipeline in (small, other):
        answer = pipeline.noiselib("run", "--json")
        assert answer.code == 0, answer.err
        ids.append(answer.json["releases"][0]["release_id"])
    assert ids[0] != ids[1]
    assert as_if_fresh(published_counts(other) - published_counts(small)) > FALSE_ALARM


@pytest.mark.parametrize("bound", [True, False], ids=["the value is bound into its noise", "planted bug: it is not"])
def test_a_changed_value_under_an_old_release_key_reveals_nothing(
    tmp_path: Path, spark: Any, monkeypatch: Patch, two_tables: tuple[np.ndarray, np.ndarray], bound: bool
) -> None:
    """The worst case, forced: a changed table under the identity of the old snapshot. With the bug, differencing is exact."""
    if not bound:
        monkeypatch.setattr(
            perturb, "Noise", lambda name, law, mechanisms, shared=False: Noise(name, law, mechanisms, True)
        )
    small = counts(tmp_path / "one", two_tables[0])
    other = restated(small, tmp_path / "two", two_tables[1])
    identity = prepare(small.spec_file, [], lambda _: None).releases[0].snapshot
    for pipeline in (small, other):
        path.walk(prepare(pipeline.spec_file, [], lambda _: None, identity), lambda: spark)
    difference = published_counts(other) - published_counts(small)
    if bound:
        assert as_if_fresh(difference) > FALSE_ALARM
        assert np.abs(difference - STEP).mean() > 30
    else:
        assert (difference == STEP).all()
        assert as_if_fresh(difference) < FALSE_ALARM
    assert pq.read_table(small.home / "published", columns=["id"]).num_rows == ROWS
