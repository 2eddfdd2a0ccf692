"""The whole path to Delta and Iceberg: published, restated, verified, estimated and rolled back, read by other readers."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from pyiceberg.catalog import load_catalog
from small_pipeline import Small, make_small, small_rows

from noiselib.spec import load_spec
from noiselib.targets import Target, open_target

ROWS = 50

pytestmark = pytest.mark.platform


@pytest.fixture(params=["delta", "iceberg"])
def lake(request: pytest.FixtureRequest, tmp_path: Path, spark: object) -> Small:
    """The small pipeline with two days and another format of its target."""
    small = make_small(tmp_path, days=[1, 2], size=ROWS)
    small.spec["target"] = {"path": str(small.home / "published"), "format": request.param}
    if request.param == "iceberg":
        catalog = {"uri": f"sqlite:///{small.home}/catalog.db", "warehouse": str(small.home / "warehouse")}
        small.spec["target"] |= {"path": "features.small", "catalog": catalog}
    small.spec["privacy"]["limit"]["epsilon"] = 100.0
    small.write_spec()
    return small


def target_of(small: Small) -> Target:
    return open_target(load_spec(small.spec_file)[0])


def rows_of(small: Small) -> pa.Table:
    """As the format's own library reads it."""
    target = small.spec["target"]
    if target["format"] == "delta":
        table = pa.table(DeltaTable(target["path"]).to_pyarrow_table())
    else:
        catalog = load_catalog("default", type="sql", **target["catalog"])
        table = catalog.load_table(target["path"]).scan().to_arrow()
    return table.sort_by([("day", "ascending"), ("id", "ascending")])


def columns_of(table: pa.Table) -> list[tuple[str, str]]:
    return [(field.name, str(field.type).removeprefix("large_")) for field in table.schema]


def test_the_whole_path(lake: Small) -> None:
    first = lake.noiselib("run", "--json")
    assert first.code == 0, first.err
    assert (first.json["rows_out"], first.json["charge"]["epsilon"]) == (2 * ROWS, lake.spent())
    published = rows_of(lake)
    assert published.num_rows == 2 * ROWS
    assert columns_of(published) == [
        ("id", "int64"), ("name", "string"), ("color", "string"), ("amount", "double"), ("count", "int32"), ("day", "int32")
    ]  # fmt: skip
    assert sorted({*published["day"].to_pylist()}) == [1, 2]
    again = lake.noiselib("run", "--json")
    assert [release["status"] for release in again.json["releases"]] == ["unchanged"] * 2
    assert rows_of(lake) == published

    lake.rows[1] = small_rows(1, ROWS) | {"count": [i % 7 for i in range(ROWS)]}
    lake.write_source()
    assert lake.noiselib("run", "--partition", "day=1").code == 0
    restated = rows_of(lake)
    assert restated.slice(ROWS) == published.slice(ROWS)
    assert restated.slice(0, ROWS)["count"] != published.slice(0, ROWS)["count"]
    assert lake.noiselib("verify").code == 0
    estimated = lake.noiselib("estimate", "--column", "count", "--json")
    assert estimated.code == 0, estimated.err
    assert [(one["partition"], one["rows"]) for one in estimated.json] == [("day=1", ROWS), ("day=2", ROWS)]
    check_rollback(lake, published, restated)


def check_rollback(lake: Small, published: pa.Table, restated: pa.Table) -> None:
    spent = lake.spent()
    listed = lake.noiselib("rollback", "--json")
    entries = {(one["partition"], one["current"]): one["release_id"] for one in listed.json}
    assert len(listed.json) == 3
    back = lake.noiselib("rollback", "--to", entries["day=1", False][:10])
    assert (back.code, back.out) == (
        0,
        f"release {entries['day=1', False][:12]} (day=1): current in {target_of(lake)}\n",
    )
    assert rows_of(lake) == published
    assert lake.spent() == spent
    run = lake.noiselib("run", "--json")
    assert run.code == 0, run.err
    assert [one["status"] for one in run.json["releases"]] == ["withdrawn", "unchanged"]
    assert run.json["charge"]["epsilon"] == 0
    assert f"to undo that: noiselib rollback {lake.spec_file} --to {entries['day=1', True][:12]}" in run.err
    assert rows_of(lake) == published
    assert lake.noiselib("gc").code == 0
    assert lake.noiselib("rollback", "--to", entries["day=1", True]).code == 0
    assert rows_of(lake) == restated
    assert lake.noiselib("run", "--json").json["releases"][0]["status"] == "unchanged"
    refused = lake.noiselib("rollback", "--to", "0123456789")
    assert refused.code == 1
    assert f"release 0123456789: not kept by target {target_of(lake)}; expected one of " in refused.err
    assert lake.noiselib("rollback", "--to", "0123").code == 2
    assert lake.spent() == spent


def test_an_empty_partition_and_a_step_by_step_run(lake: Small, tmp_path_factory: pytest.TempPathFactory) -> None:
    lake.rows[1] = {name: [] for name in lake.rows[1]}
    lake.write_source()
    for command in ("reserve", "perturb", "check", "publish"):
        answer = lake.noiselib(command)
        assert answer.code == 0, answer.err
    plain = make_small(tmp_path_factory.mktemp("plain"), days=[1, 2], size=ROWS)  # the same values in every format
    plain.rows = lake.rows
    plain.write_source()
    assert plain.noiselib("run").code == 0
    digests = [[one["content_digest"] for one in target_of(each).manifests()] for each in (plain, lake)]
    assert digests[0] == digests[1]
    assert set(rows_of(lake)["day"].to_pylist()) == {2}
    assert [one["rows"] for one in target_of(lake).manifests()] == [0, ROWS]
    results = json.loads((lake.home / "run_results.json").read_text())
    assert results["target"] == str(target_of(lake))
    assert Path(results["manifest"]).is_dir()


def test_a_changed_column_is_refused_before_anything_is_spent(lake: Small) -> None:
    assert lake.noiselib("run", "--partition", "day=1").code == 0
    spent = lake.spent()
    lake.spec["columns"]["color"] = {"drop": True}
    lake.write_spec()
    answer = lake.noiselib("run", "--partition", "day=2")
    assert answer.code == 1
    assert "its columns differ from those of the release in color" in answer.err
    assert lake.spent() == spent
