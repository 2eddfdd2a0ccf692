"""Cell keys: a cell whose count stays has the same noise in every release, so that releases cannot be set against one another."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from every_mechanism import make_pipeline, succeeded
from small_pipeline import Small

CELLS = 3000


@pytest.fixture(scope="module")
def restated(tmp_path_factory: pytest.TempPathFactory, spark: object) -> tuple[pa.Table, pa.Table, np.ndarray]:
    """What was published of the first day before and after every tenth count rose by one; and which did."""
    pipeline = make_pipeline(tmp_path_factory.mktemp("cells"), "microdata", 2 * CELLS)
    pipeline.spec["columns"] = {name: pipeline.spec["columns"][name] for name in ("day", "id", "cell")}
    pipeline.write_spec()
    counts = np.random.default_rng(3).poisson(8, CELLS).astype(np.int32) + 1
    changed = np.arange(CELLS) % 10 == 0
    before = publish(pipeline, counts)
    return before, publish(pipeline, counts + changed), changed


def publish(pipeline: Small, counts: np.ndarray) -> pa.Table:
    for day in (1, 2):
        pipeline.write_partition(day, pa.table({"id": pa.array(range(CELLS)), "cell": pa.array(counts, pa.int32())}))
    succeeded(pipeline.noiselib("run"))
    published = pipeline.published()
    assert published is not None
    return published


def test_a_count_that_stays_has_the_same_noise_in_the_next_release(restated):
    before, after, changed = restated
    both = [np.asarray(table["cell"])[:CELLS] for table in (before, after)]
    assert (both[0] == both[1])[~changed].all()
    assert 0.5 < (both[0] != both[1])[changed].mean() < 1  # noise of its own: of variance 3, mostly another


def test_another_cell_of_the_same_count_has_noise_of_its_own(restated):
    before, _, _ = restated
    first, second = (
        np.asarray(before["cell"])[:CELLS],
        np.asarray(before["cell"])[CELLS:],
    )  # days are part of the cell's name
    assert 0.5 < (first != second).mean() < 1
