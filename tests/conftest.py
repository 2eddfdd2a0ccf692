"""What the tests share: one Spark session, and a small pipeline of their own to break."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_pipeline import COLORS, Small, small_rows


@pytest.fixture(scope="session")
def spark() -> Iterator[Any]:
    """One session for all tests of a process: two cores, few shuffle partitions (tables are small), no web page."""
    from noiselib.spark.session import open_session

    os.environ["PYSPARK_SUBMIT_ARGS"] = (
        "--conf spark.sql.shuffle.partitions=2 --conf spark.driver.memory=1g --conf spark.ui.enabled=false pyspark-shell"
    )
    session = open_session("tests", "local[2]")
    yield session
    session.stop()


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """Three days of 200 rows; one column of each kind of treatment. Key and ledger exist, the source and the spec are written."""
    from noiselib.key import create_key_file
    from noiselib.ledger import Ledger

    spec: dict[str, Any] = {
        "version": 1,
        "pipeline": "small",
        "purpose": "privacy",
        "source": {"path": str(tmp_path / "source"), "format": "parquet", "partition_by": ["day"]},
        "target": {"path": str(tmp_path / "published"), "format": "parquet"},
        "row_key": ["id"],
        "privacy": {"unit": "row", "budget": "small", "limit": {"epsilon": 8.0, "delta": 1e-5}},
        "columns": {
            "day": {"keep": "public"},
            "id": {"keep": "public"},
            "name": {"pseudonymize": True},
            "color": {"mechanism": "randomized_response", "epsilon": 1.0, "categories": COLORS},
            "amount": {"mechanism": "laplace", "epsilon": 1.0, "bounds": [0, 25], "on_null": "keep"},
            "count": {"mechanism": "discrete_laplace", "epsilon": 1.0, "bounds": [0, 50]},
        },
        "key": f"file:{tmp_path / 'noise.key'}",
        "ledger": f"sqlite:///{tmp_path / 'ledger.db'}",
    }
    pipeline = Small(tmp_path, spec, {day: small_rows(day) for day in (1, 2, 3)})
    create_key_file(tmp_path / "noise.key")
    Ledger.create(spec["ledger"]).close()
    pipeline.write_source()
    pipeline.write_spec()
    return pipeline


@pytest.fixture
def change_spec(small: Small) -> Callable[..., None]:
    """Set a part of the small spec: change_spec("columns", "amount", "bounds", value=[0, 1])."""

    def change(*path: str, value: Any) -> None:
        part = small.spec
        for name in path[:-1]:
            part = part[name]
        part[path[-1]] = value
        small.write_spec()

    return change
