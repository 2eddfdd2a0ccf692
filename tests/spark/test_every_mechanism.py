"""Every mechanism through the whole path: published, checked, derived again to the bit, and estimated back."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from every_mechanism import CLAIMS, PLANS, PURPOSES, ROWS, WEIGHTS, make_pipeline, succeeded
from false_alarms import far
from small_pipeline import Small

from noiselib.column_spec import MECHANISMS


@pytest.fixture(scope="module", params=list(PURPOSES))
def done(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, spark: object) -> Small:
    """A pipeline that has published every mechanism of one purpose."""
    pipeline = make_pipeline(tmp_path_factory.mktemp(request.param), request.param)
    succeeded(pipeline.noiselib("run"))
    return pipeline


def table(path: str) -> pa.Table:
    return ds.dataset(path, partitioning="hive").to_table().sort_by([("day", "ascending"), ("id", "ascending")])


def manifest(pipeline: Small) -> dict[str, Any]:
    files = sorted(Path(pipeline.spec["target"]["path"]).glob("_noiselib/*.json"))
    return json.loads(files[0].read_text())


def test_every_mechanism_of_the_spec_has_a_column_here():
    named = {
        declared["mechanism"]
        for columns in PURPOSES.values()
        for _, declared in columns.values()
        if "mechanism" in declared
    }
    assert named == set(MECHANISMS)


def test_the_law_of_each_column_is_checked(done: Small):
    checked = {
        name
        for check in manifest(done)["checks"]
        if check["check"].startswith("noise_law")
        for name in check["column"].split(", ")
    }
    untested = set(done.spec["columns"]) - checked - {"day", "id"}
    # what is noised with another; what depends on what is estimated; a quantizer's error, which depends on the value
    expected = {
        "privacy": {"longitude", "rappor_bloom"},
        "augmentation": set(),
        "microdata": {"kept", "kept_too", "given", "given_too", "invariant"},
        "dither": set(PURPOSES["dither"]),
    }
    assert untested == expected[done.spec["purpose"]]


def test_every_row_is_published_and_noised(done: Small):
    source, published = table(done.spec["source"]["path"]), table(done.spec["target"]["path"])
    assert published.num_rows == ROWS
    assert set(published.column_names) == set(source.column_names)
    for name in set(done.spec["columns"]) - {"day", "id"}:
        before, after = source[name].to_pylist(), published[name].to_pylist()
        assert sum(x != y for x, y in zip(before, after, strict=True)) > ROWS / 100, name


def test_it_is_derived_again_to_the_bit(done: Small):
    assert json.loads(succeeded(done.noiselib("verify", "--json")).out)["success"]


def test_two_columns_of_one_mechanism_share_no_noise(done: Small):
    published, source = table(done.spec["target"]["path"]), table(done.spec["source"]["path"])
    noise = {}
    for name, (kind, _) in PURPOSES[done.spec["purpose"]].items():
        if kind in ("double", "int") and pa.types.is_floating(published[name].type) | pa.types.is_integer(
            published[name].type
        ):
            noise[name] = np.nan_to_num(published[name].to_numpy().astype(float)) - source[name].to_numpy()
    groups = [{"kept", "kept_too"}, {"given", "given_too"}]
    for first in noise:
        for second in noise:
            if first < second and {first, second} not in groups:
                assert not far(np.corrcoef(noise[first], noise[second])[0, 1], 1 / np.sqrt(ROWS)), (first, second)


def test_a_column_without_a_guarantee_states_none(done: Small):
    for entry in manifest(done)["columns"]:
        if entry["treatment"] == "mechanism":
            assert bool(entry["guarantee"]) == (done.spec["purpose"] in CLAIMS), entry["column"]


# ---- estimates -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def estimated(done: Small) -> list[dict[str, Any]]:
    from noiselib.cli import main

    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["estimate", done.spec["target"]["path"], "--bins", "8", "--json"]) == 0
    return json.loads(out.getvalue())


def test_estimates_from_the_published_table_alone_meet_the_truth(done: Small, estimated: list[dict[str, Any]]):
    source = table(done.spec["source"]["path"])
    for release in estimated:
        day = int(release["partition"].removeprefix("day="))
        rows = source.filter(pa.compute.equal(source["day"], day))
        met = 0
        for entry in release["estimates"]:
            truth = true_value(rows, entry) if entry["estimate"] else None
            if truth is not None:
                met += 1
                assert not far(entry["value"] - truth, entry["standard_error"] + 1e-9), entry
        assert met >= 5


def true_value(rows: pa.Table, entry: dict[str, Any]) -> float | None:
    """What the estimate is of; None where it is approximate (quantiles, within bins)."""
    name = entry["of"] if entry["of"] == "longitude" else entry["column"]
    column = rows[name]
    match entry["estimate"]:
        case "frequency":
            return column.to_pylist().count(entry["of"]) / len(column)
        case "histogram" | "quantile":
            return None
        case "covariance":
            return float(np.cov([column.to_numpy(), rows[entry["of"]].to_numpy()])[0, 1])
        case "variance" if pa.types.is_list(column.type):
            return float(np.stack(column.to_pylist())[:, entry["of"]].var(ddof=1))
        case "mean" if pa.types.is_list(column.type):
            return float(np.stack(column.to_pylist())[:, entry["of"]].mean())
        case "mean" if pa.types.is_timestamp(column.type):
            return float(column.cast(pa.int64()).to_numpy().mean() / 3.6e9)
        case "mean" if pa.types.is_date(column.type):
            return float(column.cast(pa.int32()).to_numpy().mean())
        case "sum" | "variance" if pa.types.is_temporal(column.type):
            return None
        case "mean":
            return float(column.to_numpy().mean())
        case "sum":
            return float(column.to_numpy().sum())
        case "second_moment":
            return float((column.to_numpy().astype(float) ** 2).mean())
        case "variance":
            return float(column.to_numpy().astype(float).var(ddof=1))
    raise AssertionError(entry)


def test_every_noised_column_has_an_estimate(done: Small, estimated: list[dict[str, Any]]):
    expected = set(done.spec["columns"]) - {"day", "id", "masked_text"}  # a mask cannot be told from a value
    entries = [entry for entry in estimated[0]["estimates"] if entry["estimate"]]
    named = [name for entry in entries for name in (entry["column"], entry["of"])]
    assert expected <= {name for name in named if isinstance(name, str)}
    assert all(entry["standard_error"] is not None and entry["why"] is None for entry in entries)


def test_what_is_estimated_of_each_mechanism(done: Small, estimated: list[dict[str, Any]]):
    """Variances and covariances too, where theory gives them."""
    found = {(entry["column"], entry["estimate"]) for entry in estimated[0]["estimates"]}
    spread = {
        "privacy": {"laplace", "discrete_gaussian", "vector_l1", "vector_l2", "latitude", "joined"},
        "augmentation": {"uniform", "multiplicative", "gaussian_dropout", "vector"},
        "microdata": {"additive", "kept", "kept_too", "given", "given_too"},
        "dither": {"tpdf", "subtractive", "whole"},
    }[done.spec["purpose"]]
    assert {(name, "variance") for name in spread} <= found
    pairs = {("kept_too", "covariance"), ("given_too", "covariance")}
    assert (done.spec["purpose"] == "microdata") == (pairs <= found)
    assert not {("rpdf", "variance"), ("bell", "variance")} & found


def test_the_marginal_is_kept_where_it_is_invariant(tmp_path: Path, done: Small):
    if done.spec["purpose"] != "microdata":
        return
    published = table(done.spec["target"]["path"])
    for name in ("invariant", "declared"):
        shares = [published[name].to_pylist().count(plan) / ROWS for plan in PLANS]
        assert shares == pytest.approx(WEIGHTS, abs=0.04)


def test_the_covariance_is_kept_where_that_was_asked_for(done: Small):
    if done.spec["purpose"] != "microdata":
        return
    source, published = table(done.spec["source"]["path"]), table(done.spec["target"]["path"])
    before = np.cov([source["kept"].to_numpy(), source["kept_too"].to_numpy()])
    after = np.cov([published["kept"].to_numpy(), published["kept_too"].to_numpy()])
    assert after == pytest.approx(before, abs=0.1 * before[0, 0])
    noise = [published[name].to_numpy() - source[name].to_numpy() for name in ("given", "given_too")]
    assert np.cov(noise) == pytest.approx(np.array([[25, 20], [20, 25]]), abs=2)
