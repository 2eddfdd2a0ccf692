"""Published tables of each format without Spark: releases of 20 rows that hold their release's id, staged as Spark leaves them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from deltalake import DeltaTable
from pyiceberg.catalog import Catalog, load_catalog

from noiselib import spec as s
from noiselib.failpoint import VARIABLE
from noiselib.release import Release
from noiselib.snapshot import Partition, PartitionValue
from noiselib.targets import Target
from noiselib.targets.delta import DeltaTarget
from noiselib.targets.iceberg import IcebergTarget
from noiselib.targets.parquet import ParquetTarget

ROWS = 20
FORMATS = ("delta", "iceberg")


def open_table(kind: str, home: Path, keep: int = 2, depth: int = 1) -> Target:
    """The table of that format in the folder `home`, opened anew."""
    if kind == "parquet":
        return ParquetTarget(str(home / "out"), depth, keep)
    if kind == "delta":
        return DeltaTarget(str(home / "out"), keep)
    catalog = {"uri": f"sqlite:///{home}/catalog.db", "warehouse": str(home / "warehouse")}
    return IcebergTarget.of(
        s.Target.model_validate({"path": "features.trips", "format": "iceberg", "keep": keep, "catalog": catalog})
    )


def catalog_of(home: Path) -> Catalog:
    return load_catalog("default", type="sql", uri=f"sqlite:///{home}/catalog.db", warehouse=str(home / "warehouse"))


def release(version: int, day: PartitionValue = 1, *more: tuple[str, PartitionValue]) -> Release:
    return of_partition(version, (("day", day), *more))


def of_partition(version: int, partition: Partition, rows: int = ROWS) -> Release:
    name = hashlib.sha256(f"{version} {partition}".encode()).hexdigest()
    return Release(name, "trips", partition, "snapshot", "key", rows)


def stage(target: Target, one: Release, files: int = 1, directory: str | None = None, **columns: pa.Array) -> Release:
    """Stage `one`: its rows in so many files, and the writer's marks. `columns` beside the release's id.

    A partition column is a number if its value is one, or if it is called `number`.
    """
    scratch = written = target.scratch(one.id)
    if one.partition:
        written /= directory or one.partition_text
    written.mkdir(parents=True)
    table = pa.table({"release": pa.array([one.id] * one.rows_expected, pa.string()), **columns})
    size = -(-table.num_rows // files)
    for number in range(files):
        name = f"part-{number:05}-{os.urandom(4).hex()}.snappy.parquet"  # Spark gives no name twice
        pq.write_table(table.slice(number * size, size), written / name)
    (written / "_SUCCESS").touch()
    kinds = [
        (name, "int32" if isinstance(value, int) or name == "number" else "string") for name, value in one.partition
    ]
    record = {"rows": one.rows_expected, "columns": [*kinds, ("release", "string"), *((name, "") for name in columns)]}
    target.stage(one, written, record)
    target.record_checks(one.id, {"files": target.files(one.id)})
    target.clear(scratch)
    return one


def manifest_of(one: Release) -> dict[str, Any]:
    told = {"release_id": one.id, "pipeline": one.pipeline, "partition": one.partition_text, "rows": one.rows_expected}
    told |= {"partition_by": [name for name, _ in one.partition]}
    charge = {"epsilon": 1.0, "delta": 1e-5, "budget": "trips", "events": ["many"]}
    return told | {"spec": "digest of the spec", "charge": charge, "published": "2026-01-01"}


def publish(target: Target, *releases: Release) -> None:
    target.publish(releases, {one.id: manifest_of(one) for one in releases})
    for one in releases:
        target.discard(one.id)


def stage_and_publish(target: Target, *releases: Release) -> None:
    publish(target, *[stage(target, one) for one in releases])


def killed_publisher(kind: str, home: str, versions: Sequence[tuple[int, PartitionValue]], failpoint: str) -> None:
    """For a process of its own: publish what is staged, and be killed at the failpoint."""
    os.environ[VARIABLE] = failpoint
    publish(open_table(kind, Path(home)), *[release(version, day) for version, day in versions])


def killed_rollback(kind: str, home: str, version: int, failpoint: str) -> None:
    os.environ[VARIABLE] = failpoint
    target = open_table(kind, Path(home))
    target.rollback(next(one for one in target.kept() if one["release_id"] == release(version).id))


# ---- readers that are not ours ---------------------------------------------------------------------------------------


def read_arrow(kind: str, home: Path) -> pa.Table:
    """The table as the format's own library reads it, which must be what DuckDB makes of it."""
    if kind == "parquet":
        arrow = ds.dataset(home / "out", partitioning="hive").to_table()
    elif kind == "delta":
        arrow = pa.table(DeltaTable(str(home / "out")).to_pyarrow_table())
    else:
        arrow = catalog_of(home).load_table("features.trips").scan().to_arrow()
    [[count]] = duckdb.from_arrow(arrow).count("*").fetchall()
    assert count == arrow.num_rows
    return arrow


def read(kind: str, home: Path) -> pd.DataFrame:
    return read_arrow(kind, home).to_pandas()


def seen(kind: str, home: Path) -> set[str]:
    """The releases whose rows a reader gets, all of them whole."""
    counts = read(kind, home)["release"].value_counts()
    assert set(counts) <= {ROWS}
    return set(counts.index)


def commits(kind: str, home: Path) -> int:
    """How many commits the table has had."""
    if kind == "delta":
        return DeltaTable(str(home / "out")).version() + 1
    return len(catalog_of(home).load_table("features.trips").metadata.snapshot_log)


def properties(kind: str, home: Path) -> dict[str, Any]:
    """What the latest commit says of itself."""
    if kind == "delta":
        return DeltaTable(str(home / "out")).history(1)[0]
    snapshot = catalog_of(home).load_table("features.trips").current_snapshot()
    assert snapshot is not None
    assert snapshot.summary is not None
    return snapshot.summary.additional_properties
