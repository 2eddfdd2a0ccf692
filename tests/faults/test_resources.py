"""Memory stays within a bound whatever the table is like: the real command, its Java and its workers, measured while it runs."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from processes import watched
from small_pipeline import Small, make_small

pytestmark = [pytest.mark.faults, pytest.mark.long, pytest.mark.timeout(1800)]
HEAP, BOUND = "1g", 2.5e9  # of Java; bytes of all processes together


def pipeline(home: Path, columns: dict[str, Any], **changes: Any) -> Small:
    """A pipeline without partitions over `columns` beside `id`."""
    small = make_small(home, days=[], size=0)
    del small.spec["source"]["partition_by"]
    small.spec["columns"] = {"id": {"keep": "public"}} | columns
    small.spec["privacy"] |= {"limit": {"epsilon": 1e6, "delta": 1e-5}} | changes
    small.write_spec()
    (home / "source").mkdir()
    return small


def runs_within_bounds(
    small: Small, rows: int, capsys: pytest.CaptureFixture[str], seconds: float = 900, more: str = ""
) -> None:
    (small.home / "spark.conf").write_text(f"spark.driver.memory {HEAP}\nspark.sql.shuffle.partitions 4\n{more}")
    run = watched(small, {}, "--master", "local[2]", "--spark-conf", str(small.home / "spark.conf"), seconds=seconds)
    assert run.code == 0, run.err
    assert small.results()["rows_in"] == rows
    with capsys.disabled():
        print(
            f"\npeak {run.peak / 1e6:.0f} MB of all processes; bound {BOUND / 1e6:.0f} MB; {small.results()['seconds']} s; "
            + ", ".join(f"{size / 1e6:.0f} MB {kind}" for kind, size in run.held.items())
        )
    assert run.peak < BOUND


LAPLACE = {"mechanism": "discrete_laplace", "epsilon": 0.1, "bounds": [0, 50]}


def test_one_entity_that_holds_nine_rows_in_ten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = 1_000_000
    unit = {"unit": {"entity": ["person"], "max_rows": 3}}
    small = pipeline(tmp_path, {"person": {"keep": "public"}, "count": LAPLACE}, **unit)
    people = np.where(np.arange(rows) % 10 > 0, 7, np.arange(rows))
    table = pa.table({"id": np.arange(rows), "person": people, "count": pa.array(np.arange(rows) % 50, pa.int32())})
    pq.write_table(table, tmp_path / "source" / "part-0.parquet")
    runs_within_bounds(small, rows, capsys)
    published = pq.read_table(tmp_path / "published", columns=["person"])["person"].to_numpy()
    assert (published == 7).sum() == 3


def test_two_thousand_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"c{i}" for i in range(2000)]
    keep = {"keep": "public"}
    columns = {name: deepcopy(keep if i % 40 else LAPLACE) for i, name in enumerate(names)}  # shared, they were aliases
    small = pipeline(tmp_path, columns)
    values = {name: pa.array(np.arange(500) % 50, pa.int32()) for name in names}
    pq.write_table(pa.table({"id": np.arange(500)} | values), tmp_path / "source" / "part-0.parquet")
    runs_within_bounds(small, 500, capsys, 1500)


def test_strings_of_a_megabyte(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = pipeline(tmp_path, {"text": {"keep": "public"}, "name": {"pseudonymize": True}, "count": LAPLACE})
    rows, source = 400, np.random.default_rng(1)
    texts = [source.bytes(500_000).hex() for _ in range(20)]
    table = pa.table({
        "id": np.arange(rows), "text": [texts[i % 20] for i in range(rows)], "name": [texts[-1 - i % 20] for i in range(rows)],
        "count": pa.array(np.arange(rows) % 50, pa.int32()),
    })  # fmt: skip
    pq.write_table(table, tmp_path / "source" / "part-0.parquet", row_group_size=40)
    # G1, Java's default, does not move objects of its regions' size: with so small a heap it finds no room at times.
    runs_within_bounds(small, rows, capsys, more="spark.driver.extraJavaOptions -XX:+UseParallelGC\n")


def test_ten_thousand_small_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = pipeline(tmp_path, {"count": LAPLACE})
    for i in range(10_000):
        table = pa.table({"id": [2 * i, 2 * i + 1], "count": pa.array([i % 50, 3], pa.int32())})
        pq.write_table(table, tmp_path / "source" / f"part-{i}.parquet")
    runs_within_bounds(small, 20_000, capsys, 1500)
