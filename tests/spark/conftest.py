"""A small pipeline that has published once, for tests of what happens next."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_pipeline import Small, make_small


@pytest.fixture(scope="session")
def published_once(tmp_path_factory: pytest.TempPathFactory, spark: object) -> Small:
    """One day of 50 rows, published. Shared: copy it (`published`) to change it."""
    small = make_small(tmp_path_factory.mktemp("published_once"), days=[1], size=50)
    answer = small.noiselib("run")
    assert answer.code == 0, answer.err
    return small


@pytest.fixture
def published(published_once: Small, tmp_path: Path) -> Small:
    """A copy of one's own of a pipeline that has published its first day."""
    return published_once.copy(tmp_path / "copy")
