"""Checks: what went wrong between the key and the staged table is quarantined, and what went right passes.

Each bug here is planted in the path itself, where a mistake could stand, and the whole path runs with it.
"""

from __future__ import annotations

import base64
import json
import shutil
import struct
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from great_expectations.datasource.fluent.interfaces import Batch
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from small_pipeline import COLORS, Small, make_small

from noiselib.key import create_key_file, load_key
from noiselib.mechanisms import RandomizedResponse
from noiselib.spark import checks, law, perturb, stage

pytestmark = pytest.mark.faults
Patch = pytest.MonkeyPatch
CANARY = ("canary name 5512", 13.37251937)


@pytest.fixture
def small(tmp_path: Path, spark: object) -> Small:
    """One day of 50 rows, not published yet. One value lies beyond its bounds, one is null, one is not to be seen again."""
    small = make_small(tmp_path, days=[1], size=50)
    small.rows[1]["amount"][:3] = [1000.0, None, CANARY[1]]
    small.rows[1]["name"][2] = CANARY[0]
    small.write_source()
    return small


def quarantined(small: Small, *failures: str, command: str = "run") -> None:
    """The command must fail with exit code 3 by these checks and no others; nothing published, the release put away."""
    answer = small.noiselib(command)
    assert answer.code == 3, answer.err
    assert "Traceback" not in answer.err
    [release] = small.results()["releases"]
    found = answer.err[answer.err.index("checks failed") :].splitlines()[1]
    assert found.removeprefix(f"{release['partition']}: ") == ", ".join(failures)
    assert not (small.home / "published").exists()
    assert (small.results()["status"], release["status"]) == ("quarantined", "quarantined")
    with small.ledger() as ledger:
        [kept] = ledger.releases()
        assert (kept.release_id, kept.state) == (release["release_id"], "quarantined")
    assert small.spent() > 0  # noise was drawn, so the charge stays
    assert (small.home / ".published.noiselib" / "quarantine" / release["release_id"]).exists()


def failed_law(small: Small) -> dict[str, set[str]]:
    """Draw the noise, and stage it: which tests of the law fail, by column."""
    answer = small.noiselib("perturb")
    assert answer.code == 0, answer.err
    [staged] = (small.home / ".published.noiselib" / "staging").glob("*/staged.json")
    failed: dict[str, set[str]] = {}
    for verdict in json.loads(staged.read_text())["law"]:
        if not verdict["success"]:
            failed.setdefault(verdict["column"], set()).add(verdict["check"].removeprefix("noise_law_"))
    return failed


# ---- bugs in the noise


def on_noised_rows(patch: Patch, change: Callable[[DataFrame], DataFrame]) -> None:
    """Change the rows after the noise is drawn."""
    real = stage.noised_rows
    patch.setattr(stage, "noised_rows", lambda spark, job: change(real(spark, job)))


def on_published(patch: Patch, name: str, change: Callable[[Column], Column]) -> None:
    """Change one column on its way out."""
    real = law.published_columns

    def published_columns(job: Any) -> list[Column]:
        names = [column for column, _ in job.plan.published]
        found = list(real(job))
        index = names.index(name)
        found[index] = change(found[index]).alias(name)
        return found

    patch.setattr(law, "published_columns", published_columns)


def on_mechanism(patch: Patch, change: Callable[[Any], Any]) -> None:
    """Draw the noise with another mechanism than planned."""
    real = perturb.noise_udf

    def noise_udf(source: Any, noise: Any) -> Any:
        return real(source, replace(noise, mechanisms=tuple(map(change, noise.mechanisms))))

    patch.setattr(perturb, "noise_udf", noise_udf)


def test_a_clip_that_is_missing(small: Small, monkeypatch: Patch) -> None:
    real = perturb.point

    def point(column: Any) -> Column:
        if column.name != "amount":
            return real(column)
        return F.rint(F.coalesce(F.col("amount"), F.lit(0.0)) / F.lit(float(column.lattice.step))).cast("bigint")

    monkeypatch.setattr(perturb, "point", point)
    quarantined(small, "clipped")


@pytest.mark.parametrize("name", ["amount", "count"])
def test_a_column_left_without_noise(small: Small, monkeypatch: Patch, name: str) -> None:
    on_noised_rows(monkeypatch, lambda rows: rows.withColumn(f"__y_{name}", F.col(f"__x_{name}")))
    assert failed_law(small) == {name: {"positive"}}
    quarantined(small, f"noise_law_positive of {name}", f"published_outside_0 of {name}", command="check")


def test_categories_left_as_they_are(small: Small, monkeypatch: Patch) -> None:
    on_noised_rows(monkeypatch, lambda rows: rows.withColumn("__y_color", F.col("__x_color")))
    quarantined(small, "noise_law_same of color", "noise_law_near of color")


def test_one_columns_noise_used_for_another(small: Small, monkeypatch: Patch) -> None:
    ratio = 2.0**18 / 50  # of the two scales, roughly
    noise = F.rint((F.col("__y_amount") - F.col("__x_amount")) / F.lit(ratio)).cast("bigint")
    on_noised_rows(monkeypatch, lambda rows: rows.withColumn("__y_count", F.col("__x_count") + noise))
    quarantined(small, "noise_law_agree of amount, count")


# ---- bugs behind the noise


def test_a_row_dropped(small: Small, monkeypatch: Patch) -> None:
    on_noised_rows(monkeypatch, lambda rows: rows.filter("id <> 1007"))
    quarantined(small, "row_count")


def test_a_row_doubled(small: Small, monkeypatch: Patch) -> None:
    on_noised_rows(monkeypatch, lambda rows: rows.union(rows.filter("id = 1007")))
    quarantined(small, "row_count", "row_key_unique of id")


def test_a_row_in_the_place_of_another(small: Small, monkeypatch: Patch) -> None:
    on_noised_rows(monkeypatch, lambda rows: rows.withColumn("id", F.expr("if(id = 1007, 1008, id)")))
    quarantined(small, "row_key_unique of id")


def test_nulls_filled(small: Small, monkeypatch: Patch) -> None:
    on_published(monkeypatch, "amount", lambda value: F.coalesce(value, F.lit(0.0)))
    quarantined(small, "null_pattern of amount")


def test_values_lost(small: Small, monkeypatch: Patch) -> None:
    on_published(monkeypatch, "count", lambda value: F.when(F.col("id") != 1007, value))
    quarantined(small, "null_pattern of count")


def test_a_value_off_the_lattice(small: Small, monkeypatch: Patch) -> None:
    on_published(monkeypatch, "amount", lambda value: F.when(F.col("id") == 1007, value + 2.0**-30).otherwise(value))
    quarantined(small, "on_lattice of amount")


def test_a_category_that_nobody_declared(small: Small, monkeypatch: Patch) -> None:
    on_published(monkeypatch, "color", lambda value: F.when(F.col("id") == 1007, F.lit("ultraviolet")).otherwise(value))
    quarantined(small, "known_categories of color")


def test_a_column_of_another_type(small: Small, monkeypatch: Patch) -> None:
    on_published(monkeypatch, "count", lambda value: value.cast("bigint"))
    quarantined(small, "types")


# ---- checks that did not run


def test_great_expectations_raising_is_a_failure(small: Small, monkeypatch: Patch) -> None:
    def validate(self: Batch, *_: Any, **__: Any) -> Any:
        raise ValueError(f"the value {CANARY[1]} is none of yours")

    monkeypatch.setattr(Batch, "validate", validate)
    quarantined(small, "checks_ran (ValueError)")


def test_a_suite_that_ran_fewer_checks_is_a_failure(small: Small, monkeypatch: Patch) -> None:
    real = Batch.validate

    def validate(self: Batch, *arguments: Any, **options: Any) -> Any:
        result = real(self, *arguments, **options)
        result.results.pop()
        return result

    monkeypatch.setattr(Batch, "validate", validate)
    quarantined(small, "checks_ran (RuntimeError)")


def test_an_expectation_that_cannot_be_evaluated_is_a_failure(small: Small) -> None:
    small.spec["checks"] = [{"expect": "column_mean_between", "column": "color", "max": 5}]
    small.write_spec()
    quarantined(small, "column_mean_between of color")


def test_no_verdict_at_all_is_a_failure(small: Small, monkeypatch: Patch) -> None:
    monkeypatch.setattr(checks, "validate", lambda *_: [])
    quarantined(small, "no check ran")


def test_staged_data_that_is_gone_is_a_failure(small: Small) -> None:
    assert small.noiselib("perturb").code == 0
    [data] = (small.home / ".published.noiselib" / "staging").glob("*/data")
    shutil.rmtree(data)
    quarantined(small, "checks_ran (FileNotFoundError)", command="check")


def test_a_release_that_is_not_staged_is_not_published(small: Small) -> None:
    assert small.noiselib("reserve").code == 0
    for command in ("check", "publish"):
        answer = small.noiselib(command)
        assert answer.code == 1
        assert "not staged for this snapshot; expected perturb first" in answer.err
    assert not (small.home / "published").exists()


def test_a_release_that_is_not_checked_is_not_published(small: Small) -> None:
    assert small.noiselib("perturb").code == 0
    answer = small.noiselib("publish")
    assert answer.code == 1
    assert "not checked; expected a passed check first" in answer.err
    assert not (small.home / "published").exists()


def test_a_check_that_is_added_must_pass_before_publishing(small: Small) -> None:
    assert small.noiselib("perturb").code == 0
    assert small.noiselib("check").code == 0
    small.spec["checks"] = [{"expect": "column_mean_between", "column": "amount", "max": -1e9}]
    small.write_spec()
    assert small.noiselib("publish").code == 1
    quarantined(small, "column_mean_between of amount", command="check")


# ---- the spec's own checks


@pytest.mark.parametrize("severity", ["error", "warn"])
def test_a_check_of_ones_own(small: Small, severity: str) -> None:
    small.spec["checks"] = [
        {"expect": "column_mean_between", "column": "amount", "max": -1e9, "severity": severity},
        {"expect": "table_row_count_between", "min": 50, "max": 50},
        {"expect": "column_values_in_set", "column": "color", "values": list(COLORS)},
        {"expect": "column_values_match_regex", "column": "name", "regex": "^[0-9a-f]{32}$"},
        {"expect": "column_values_between", "column": "count", "min": 0, "max": 50, "mostly": 0.1},
    ]
    small.write_spec()
    if severity == "error":
        quarantined(small, "column_mean_between of amount")
        return
    answer = small.noiselib("run")
    assert answer.code == 0, answer.err
    assert "check     warn: day=1 column_mean_between of amount failed" in answer.err
    [manifest] = (small.home / "published" / "_noiselib").glob("*.json")
    failed = [v for v in json.loads(manifest.read_text())["checks"] if not v["success"]]
    assert failed == [{"check": "column_mean_between", "column": "amount", "severity": "warn", "success": False}]


# ---- the right one passes


def another_key(small: Small) -> None:
    (small.home / "noise.key").unlink()
    create_key_file(small.home / "noise.key")


def test_the_right_noise_passes_under_several_keys(small: Small) -> None:
    small.spec["privacy"]["limit"]["epsilon"] = 100.0
    small.write_spec()
    for _ in range(4):
        another_key(small)
        answer = small.noiselib("run")
        assert answer.code == 0, answer.err


def test_a_table_of_many_nans_and_nulls_passes(small: Small) -> None:
    small.rows[1] = {name: values * 40 for name, values in small.rows[1].items()}
    small.rows[1]["id"] = list(range(2000))
    small.rows[1]["amount"] = [(float("nan"), None, float(i % 25), 3.5)[i % 4] for i in range(2000)]
    small.spec["columns"]["amount"] |= {"on_nan": "keep"}
    small.write_source()
    small.write_spec()
    answer = small.noiselib("run")
    assert answer.code == 0, answer.err


BIG = 100_000


@pytest.fixture(scope="module")
def big_source(tmp_path_factory: pytest.TempPathFactory, spark: object) -> Small:
    """100,000 rows; a column for each mechanism, and a float column far from zero, where floats are coarse."""
    small = make_small(tmp_path_factory.mktemp("big"), days=[], size=0)
    random = np.random.default_rng(1)
    table = pa.table(
        {
            "id": np.arange(BIG),
            "laplace": random.uniform(-10, 10, BIG),
            "gaussian": random.normal(0, 5, BIG),
            "far": random.uniform(1e7, 1e7 + 25, BIG).astype(np.float32),
            "discrete_laplace": random.integers(0, 50, BIG, dtype=np.int32),
            "discrete_gaussian": random.integers(0, 50, BIG),
            "color": random.choice(COLORS, BIG),
        }
    )
    small.spec["columns"] = {
        "day": {"keep": "public"},
        "id": {"keep": "public"},
        "laplace": {"mechanism": "laplace", "epsilon": 1.0, "bounds": [-8, 8]},
        "gaussian": {"mechanism": "gaussian", "epsilon": 1.0, "delta": 1e-6, "bounds": [-8, 8]},
        "far": {"mechanism": "laplace", "epsilon": 1.0, "bounds": [1e7, 1e7 + 25]},
        "discrete_laplace": {"mechanism": "discrete_laplace", "epsilon": 1.0, "bounds": [0, 50]},
        "discrete_gaussian": {"mechanism": "discrete_gaussian", "epsilon": 1.0, "delta": 1e-6, "bounds": [0, 50]},
        "color": {"mechanism": "randomized_response", "epsilon": 1.0, "categories": COLORS},
    }
    small.spec["privacy"]["limit"] = {"epsilon": 100.0, "delta": 1e-4}
    small.write_partition(1, table)
    small.write_spec()
    return small


@pytest.fixture
def big(big_source: Small, tmp_path: Path) -> Small:
    return big_source.copy(tmp_path / "copy")


def scaled(factor: Fraction) -> Callable[[Any], Any]:
    """The mechanism with its noise scaled (for categories, its epsilon) by `factor`."""

    def change(mechanism: Any) -> Any:
        if isinstance(mechanism, RandomizedResponse):
            return replace(mechanism, epsilon=mechanism.epsilon / float(factor))
        return replace(mechanism, scale=mechanism.scale * factor)

    return change


@pytest.mark.parametrize("percent", [-5, 5])
def test_a_scale_wrong_by_five_percent_is_seen_in_every_column(big: Small, monkeypatch: Patch, percent: int) -> None:
    on_mechanism(monkeypatch, scaled(1 + Fraction(percent, 100)))
    found = failed_law(big)
    assert set(found) == {"laplace", "gaussian", "far", "discrete_laplace", "discrete_gaussian", "color"}
    assert "same" in found.pop("color")
    assert all(failures == {"within"} for failures in found.values())
    answer = big.noiselib("check")
    assert answer.code == 3, answer.err
    assert not (big.home / "published").exists()


def test_the_right_scale_passes_under_several_keys(big: Small, tmp_path: Path) -> None:
    answer = big.noiselib("run")
    assert answer.code == 0, answer.err
    for number in range(3):
        other = big.anew(tmp_path / f"key {number}")
        another_key(other)
        assert failed_law(other) == {}


# ---- secrets


@pytest.fixture
def secrets(small: Small) -> Callable[[], list[str]]:
    """Searches all that runs wrote, but the source and the key itself, for the canary and the key: where they were found."""
    key = load_key(small.spec["key"]).secret
    needles = [
        key, key.hex().encode(), key.hex().upper().encode(), base64.b64encode(key), base64.urlsafe_b64encode(key),
        CANARY[0].encode(), str(CANARY[1]).encode(), struct.pack("<d", CANARY[1]), struct.pack(">d", CANARY[1]),
    ]  # fmt: skip

    def search(*texts: str) -> list[str]:
        own = {small.home / "source", small.home / "noise.key"}
        files = [f for f in small.home.rglob("*") if f.is_file() and not own & {f, *f.parents}]
        assert {file.suffix for file in files} >= {".json", ".db", ".parquet"}
        places = {str(file): file.read_bytes() for file in files} | {
            f"text {i}": t.encode() for i, t in enumerate(texts)
        }
        return [place for place, data in places.items() for needle in needles if needle in data]

    return search


@pytest.fixture
def logs(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What was logged, by us, by Spark's JVM and by its workers."""
    caplog.set_level("DEBUG")
    return lambda: [*capfd.readouterr(), caplog.text]


def test_neither_key_nor_raw_value_is_written_by_a_run(small: Small, secrets: Callable, logs: Callable) -> None:
    answer = small.noiselib("run", "--json")
    assert answer.code == 0
    verified = small.noiselib("verify", "--json")
    assert verified.code == 0
    assert secrets(answer.out, answer.err, verified.out, verified.err, *logs()) == []


def test_neither_key_nor_raw_value_is_written_by_a_quarantine(
    small: Small, secrets: Callable, logs: Callable, monkeypatch: Patch
) -> None:
    def validate(*_: Any) -> Any:
        raise ValueError(f"{CANARY}")

    monkeypatch.setattr(checks, "validate", validate)
    answer = small.noiselib("run", "--json")
    assert answer.code == 3
    assert secrets(answer.out, answer.err, *logs()) == []


def test_neither_key_nor_raw_value_is_written_by_a_refusal(small: Small, secrets: Callable, logs: Callable) -> None:
    assert small.noiselib("run").code == 0
    small.rows[1]["id"][3] = small.rows[1]["id"][2]
    small.rows[1]["color"][2] = CANARY[0]
    small.write_source()
    answer = small.noiselib("run", "--json")
    assert answer.code == 1
    assert "rows share theirs with another" in answer.err
    assert "a value outside its categories" in answer.err
    assert secrets(answer.out, answer.err, *logs()) == []


def test_the_search_finds_what_it_looks_for(small: Small, secrets: Callable) -> None:
    assert small.noiselib("run").code == 0
    (small.home / "leak.json").write_text(f'"{load_key(small.spec["key"]).secret.hex()}"')
    table = pa.table({"x": [CANARY[1]]})
    pq.write_table(table, small.home / "leak.parquet", compression="none", use_dictionary=False)
    assert sorted(Path(place).name for place in set(secrets(CANARY[0]))) == ["leak.json", "leak.parquet", "text 0"]
