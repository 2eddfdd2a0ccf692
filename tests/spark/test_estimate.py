"""Estimates where they are hard: no value, no inverse, shared draws, ends of the world; each says why it has no error."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from false_alarms import far
from small_pipeline import Small, make_small

from noiselib import estimators
from noiselib.column_plan import Context, plan_column
from noiselib.column_spec import parse_column
from noiselib.errors import SpecError
from noiselib.plan import describe_column
from noiselib.report.estimates import estimates_text

ROWS = 400


def answers(
    spark: Any, place: Path, columns: dict[str, tuple[Any, dict[str, Any], pa.Array]], **asked: Any
) -> dict[str, list[dict[str, Any]]]:
    """Estimates by column, of a table that was published with these values. columns: name: (type, declaration, values)."""
    from noiselib.spark.estimate import Asked, estimate

    table = pa.table({name: values for name, (_, _, values) in columns.items()})
    pq.write_table(table, place / "part-0.parquet")
    types = {name: kind for name, (kind, _, _) in columns.items()}
    entries = []
    for name, (_, declared, _) in columns.items():
        if declared:
            private, model = "epsilon" in declared or "f" in declared, parse_column(declared)
            entries.append(describe_column(plan_column(Context(name, types, private), model, False), len(table)))
    manifest = {"rows": len(table), "partition": "", "rows_per_unit": 1, "columns": entries}
    found: dict[str, list[dict[str, Any]]] = {}
    for entry in estimate(spark, [str(place / "part-0.parquet")], manifest, Asked(**asked), []):
        found.setdefault(entry["column"], []).append(entry)
    return found


def the(entries: list[dict[str, Any]], what: str) -> dict[str, Any]:
    (found,) = [entry for entry in entries if entry["estimate"] == what]
    return found


# ---- rows that share a draw ------------------------------------------------------------------------------------------


def visits(home: Path, rows_per_unit: int, most: int) -> Small:
    """300 people, each with so many rows of one amount; the amount's noise is memoized."""
    small = make_small(home, days=[], size=0)
    small.spec["privacy"] |= {
        "unit": {"entity": ["name"], "max_rows": most}, "memoize": ["amount"], "limit": {"epsilon": 500.0, "delta": 1e-5},
    }  # fmt: skip
    small.spec["columns"] |= {"name": {"keep": "public"}, "count": {"drop": True}, "color": {"drop": True}}
    size = 300 * rows_per_unit
    small.rows[1] = {
        "id": list(range(size)),
        "name": [f"person {i % 300}" for i in range(size)],
        "color": ["red"] * size,
        "amount": [10.0] * size,
        "count": [1] * size,
    }
    small.write_source()
    small.write_spec()
    return small


def estimated(small: Small) -> list[dict[str, Any]]:
    answer = small.noiselib("run")
    assert answer.code == 0, answer.err
    answer = small.noiselib("estimate", "--json")
    assert answer.code == 0, answer.err
    return json.loads(answer.out)[0]["estimates"]


def test_a_memoized_column_of_units_with_many_rows_states_no_error(tmp_path: Path, spark: object) -> None:
    """The error of independent rows would be three times too small: what it was before is what the noise shows it is not."""
    small = visits(tmp_path, 10, 10)
    found = [entry for entry in estimated(small) if entry["column"] == "amount"]
    assert {entry["estimate"] for entry in found} == {"mean", "sum", "variance"}
    assert all(entry["standard_error"] is None and entry["low"] is None for entry in found)
    assert all("memoized" in entry["why"] for entry in found)
    table = small.published()
    assert table is not None
    noise = dict(zip(table["name"].to_pylist(), table["amount"].to_numpy() - 10.0, strict=True))
    assert len(set(noise.values())) > 290
    assert len({*zip(table["name"].to_pylist(), table["amount"].to_pylist(), strict=True)}) == 300  # one draw a unit
    (manifest,) = Path(small.spec["target"]["path"]).glob("_noiselib/*.json")
    variance = next(e for e in json.loads(manifest.read_text())["columns"] if e["column"] == "amount")["variance"]
    naive = estimators.additive_mean(the(found, "mean")["value"], 3000, variance).standard_error
    assert np.std(list(noise.values()), ddof=1) / np.sqrt(300) > 2.5 * naive
    text = small.noiselib("estimate")
    assert "amount: memoized: rows of one unit and value share one draw" in text.out


def test_a_memoized_column_of_units_with_one_row_states_its_error(tmp_path: Path, spark: object) -> None:
    found = [entry for entry in estimated(visits(tmp_path, 1, 1)) if entry["column"] == "amount"]
    mean = the(found, "mean")
    assert mean["why"] is None
    assert not far(mean["value"] - 10.0, mean["standard_error"])


# ---- no answer -------------------------------------------------------------------------------------------------------

NONE = pa.nulls(ROWS, pa.float64())
AGREED = {"mechanism": "laplace", "epsilon": 1.0, "bounds": [0, 100]}


def test_a_column_without_an_answer_leaves_the_others_theirs(spark: Any, tmp_path: Path) -> None:
    halves = pa.array(["a", "b"] * (ROWS // 2))
    number = {"rate": 0.2}
    bloom = {"mechanism": "rappor", "f": 0.2, "p": 0.2, "q": 0.8, "categories": ["a", "b", "c"], "hashes": 1, "bits": 2}
    report = pa.array([{"cohort": 0, "bits": [i % 2]} for i in range(ROWS)])
    found = answers(spark, tmp_path, {
        "coin": ("string", {"mechanism": "pram", "rate": 0.5, "categories": ["a", "b"]}, halves),
        "bloom": ("string", {**bloom}, report),
        "additive": ("double", AGREED, NONE),
        "bit": ("double", {**AGREED, "mechanism": "one_bit_mean"}, pa.nulls(ROWS, pa.bool_())),
        "factor": ("double", {"mechanism": "multiplicative_gaussian", "scale": 0.1}, NONE),
        "impulse": ("double", {"mechanism": "impulse", "bounds": [0, 1], **number}, NONE),
        "gone": ("double", {"mechanism": "impulse", "bounds": [0, 1], "rate": 1.0}, pa.array([0.0] * ROWS)),
        "north": ("double", {"mechanism": "planar_laplace", "longitude": "east", "epsilon": 1.0, "protect_distance": 500,
                             "bounds": [40, 41], "longitude_bounds": [-74, -73]}, NONE),
        "east": ("double", {}, NONE),
        "mask": ("string", {"mechanism": "masking", "value": "?", **number}, halves),
        "choice": ("string", {"mechanism": "randomized_response", "epsilon": 1.0, "categories": ["a", "b"]},
                   pa.nulls(ROWS, pa.string())),
        "fine": ("double", AGREED, pa.array([5.0] * ROWS)),
    })  # fmt: skip
    assert {entry["estimate"] for entry in found.pop("fine")} == {"mean", "sum", "variance"}
    whys = {name: [(entry["estimate"], entry["value"], entry["why"]) for entry in one] for name, one in found.items()}
    nothing = [(None, None, "no row has a value")]
    assert {name for name, why in whys.items() if why == nothing} == {
        "additive", "bit", "factor", "impulse", "north", "choice",
    }  # fmt: skip
    assert whys["coin"][0][2].startswith("matrix without full rank")
    assert whys["bloom"][0][2].startswith("design without full rank")
    assert whys["gone"] == [(None, None, "rate=1, expected a rate below 1: nothing is left of the values")]
    assert whys["mask"] == [(None, None, "a mask on type string cannot be told from a value")]
    release = {"release_id": "0" * 64, "partition": "", "rows": ROWS, "estimates": found["mask"]}
    assert estimates_text([release]).endswith("mask: no estimate: a mask on type string cannot be told from a value")


def test_a_release_without_rows_says_so(spark: Any, tmp_path: Path) -> None:
    found = answers(spark, tmp_path, {"x": ("double", AGREED, pa.nulls(0, pa.float64()))})
    assert [(entry["estimate"], entry["why"]) for entry in found["x"]] == [(None, "the release has no rows")]


def test_one_row_has_a_mean_and_no_variance(spark: Any, tmp_path: Path) -> None:
    found = answers(spark, tmp_path, {"x": ("double", AGREED, pa.array([3.0]))})["x"]
    assert [entry["estimate"] for entry in found] == ["mean", "sum", None]
    assert found[-1]["why"] == "rows=1, expected at least 2"


def test_options_that_have_nothing_to_go_on(spark: Any, tmp_path: Path) -> None:
    oracle = {"mechanism": "oue", "epsilon": 1.0, "categories": ["a", "b", "c"]}
    empty = pa.array([[]] * ROWS, pa.list_(pa.string()))
    found = answers(spark, tmp_path, {"set": ("string", oracle, empty)}, option="clip")
    assert [(entry["estimate"], entry["why"]) for entry in found["set"]] == [
        (None, "values has no positive frequency, expected one at least")
    ]
    beyond = {"x": ("double", {"mechanism": "uniform", "scale": 1.0, "bounds": [0, 10]}, pa.array([1e3] * ROWS))}
    found = answers(spark, tmp_path, beyond, option="em", bins=4)
    assert the(found["x"], "mean")["value"] == 1e3
    assert found["x"][-1]["why"].startswith("counts where no bin can have come from")


def test_em_has_quantiles_and_no_errors(spark: Any, tmp_path: Path) -> None:
    values = pa.array(np.linspace(0, 100, ROWS))
    for option in ("em", "ems"):
        found = answers(spark, tmp_path, {"x": ("double", AGREED, values)}, option=option, bins=4)["x"]
        quartiles = [entry for entry in found if entry["estimate"] == "quantile"]
        assert [entry["of"] for entry in quartiles] == [0.25, 0.5, 0.75]
        places = [entry["value"] for entry in quartiles]
        assert places == sorted(places)
        assert all(entry["low"] is None and entry["why"].startswith(f"option {option}") for entry in quartiles)
        assert the(found, "mean")["standard_error"] > 0  # which the option does not change


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"confidence": 2.0}, "confidence 2: expected"), ({"bins": -1}, "bins -1: expected 0 to 1024")],
)
def test_wrong_questions_are_refused(wrong: dict[str, Any], message: str) -> None:
    from noiselib.spark.estimate import Asked

    with pytest.raises(SpecError, match=message):
        Asked(**wrong)


# ---- ends ------------------------------------------------------------------------------------------------------------


def box(
    latitudes: list[float], longitudes: list[float], north: np.ndarray, east: np.ndarray, epsilon: float = 1.0
) -> dict[str, Any]:
    declared = {"mechanism": "planar_laplace", "longitude": "east", "epsilon": epsilon, "protect_distance": 500,
                "bounds": latitudes, "longitude_bounds": longitudes}  # fmt: skip
    return {"north": ("double", declared, pa.array(north)), "east": ("double", {}, pa.array(east))}


def test_longitudes_on_both_sides_of_180_have_their_mean_between(spark: Any, tmp_path: Path) -> None:
    """The plain mean of what is published would be near 0, on the other side of the earth."""
    random = np.random.default_rng(7)
    east, north = random.uniform(178, 183, ROWS), random.uniform(-19, -17, ROWS)
    published = np.where(east > 180, east - 360, east)
    assert abs(published.mean()) < 100
    found = answers(spark, tmp_path, box([-20, -16], [176, 180], north, published))["north"]
    means = {entry["of"]: entry for entry in found if entry["estimate"] == "mean"}
    assert means["east"]["value"] == pytest.approx(east.mean())
    assert means["north"]["value"] == pytest.approx(north.mean())
    assert all(mean["standard_error"] > 0 for mean in means.values())
    assert {entry["of"] for entry in found if entry["estimate"] == "variance"} == {"north", "east"}


@pytest.mark.parametrize(
    ("latitudes", "longitudes", "epsilon", "cut"),
    [
        ([80, 89], [0, 10], 0.05, {"north"}),
        ([80, 89], [0, 10], 1.0, set()),
        ([0, 1], [-179.95, 179.95], 1.0, {"east"}),
        ([0, 1], [-170, 170], 1.0, set()),
    ],
)
def test_noise_that_may_be_cut_off_at_a_pole_or_go_round_has_no_error(
    spark: Any, tmp_path: Path, latitudes: list[float], longitudes: list[float], epsilon: float, cut: set[str]
) -> None:
    middle = [np.full(ROWS, sum(ends) / 2) for ends in (latitudes, longitudes)]
    found = answers(spark, tmp_path, box(latitudes, longitudes, *middle, epsilon))["north"]
    means = {entry["of"]: entry for entry in found if entry["estimate"] == "mean"}
    assert {name for name, entry in means.items() if entry["standard_error"] is None} == cut
    assert all(("cut off" in (entry["why"] or "")) == (name in cut) for name, entry in means.items())


def test_levels_that_clamp_have_no_error(spark: Any, tmp_path: Path) -> None:
    levels, values = {"mechanism": "dither", "bits": 2, "bounds": [0, 3]}, pa.array([float(i % 4) for i in range(ROWS)])
    found = answers(spark, tmp_path, {
        "rpdf": ("double", {**levels, "law": "rpdf"}, values),
        "tpdf": ("double", {**levels, "law": "tpdf"}, values),
        "free": ("double", {"mechanism": "dither", "step": 1.0}, values),
    })  # fmt: skip
    (mean,) = found["rpdf"]
    assert mean["standard_error"] == pytest.approx(np.sqrt(1 / 4 / ROWS))
    (mean,) = found["tpdf"]
    assert (mean["value"], mean["standard_error"]) == (1.5, None)
    assert "cut off at the outermost levels" in mean["why"]
    assert [entry["estimate"] for entry in found["free"]] == ["mean", "variance"]


# ---- two columns, and a constant -------------------------------------------------------------------------------------


def test_swapped_columns_have_their_correlation(spark: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    x = random.normal(0, 1, 4000)
    pair = {"x": x, "y": x + random.normal(0, 1, 4000)}
    swapped = {}
    for name, rate in (("x", 0.2), ("y", 0.4)):
        swapped[name] = np.where(random.random(4000) < rate, random.choice(pair[name], 4000), pair[name])
    declared = {name: {"mechanism": "swap", "rate": rate} for name, rate in (("x", 0.2), ("y", 0.4))}
    columns = {name: ("double", declared[name], pa.array(swapped[name])) for name in pair}
    found = the(answers(spark, tmp_path, columns)["y"], "correlation")
    truth = np.corrcoef(pair["x"], pair["y"])[0, 1]
    assert found["of"] == "x"
    assert not far(found["value"] - truth, found["standard_error"])
    assert far(np.corrcoef(swapped["x"], swapped["y"])[0, 1] - truth, found["standard_error"])  # uncorrected


def test_a_mask_of_a_number_is_taken_out_of_the_mean(spark: Any, tmp_path: Path) -> None:
    random = np.random.default_rng(12)
    x = random.normal(50, 5, 4000)
    y = np.where(random.random(4000) < 0.3, -1.0, x)
    declared = {"mechanism": "masking", "rate": 0.3, "value": -1}
    found = the(answers(spark, tmp_path, {"x": ("double", declared, pa.array(y))})["x"], "mean")
    assert not far(found["value"] - x.mean(), found["standard_error"])
    assert far(y.mean() - x.mean(), found["standard_error"])
