"""What the tests share: one Spark session, a small pipeline of their own to break, a small disk to fill."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from false_alarms import Looks
from ledgers import ledger, postgresql, url  # noqa: F401 (fixtures)
from small_pipeline import Small, make_small


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Looks())


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
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MB of its own, in memory. Mounting it takes root."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], check=True)
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def small(tmp_path: Path) -> Small:
    """Three days of 200 rows; one column of each kind of treatment. Key and ledger exist, the source and the spec are written."""
    return make_small(tmp_path)


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
