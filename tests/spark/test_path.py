"""The one path, walked whole and step by step."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from small_pipeline import Small

from noiselib.cli import main
from noiselib.ledger import Ledger
from noiselib.targets.parquet import ParquetTarget


def test_run_publishes_every_partition_and_charges_once(small: Small, spark: object) -> None:
    first = small.noiselib("run", "--json")
    assert first.code == 0, first.err
    answer = first.json
    assert (answer["status"], answer["rows_in"], answer["rows_out"]) == ("success", 600, 600)
    assert answer["charge"]["epsilon"] == small.spent() > 0
    published = small.published()
    again = small.noiselib("run", "--json")
    assert again.code == 0
    assert again.json["charge"] == {"epsilon": 0.0, "delta": 0.0}
    assert [r["status"] for r in again.json["releases"]] == ["unchanged"] * 3
    assert small.published() == published
    # a backup of the ledger from before the run: what readers see is entered anew, and not made anew
    (small.home / "ledger.db").unlink()
    Ledger.create(small.spec["ledger"]).close()
    entered = small.noiselib("run", "--json")
    assert [r["status"] for r in entered.json["releases"]] == ["unchanged"] * 3
    assert "the ledger did not know what readers may have seen" in entered.err
    assert (entered.json["charge"]["epsilon"], small.spent()) == (0.0, answer["charge"]["epsilon"])


def content_digests(pipeline: Small) -> dict[str, str]:
    files = Path(pipeline.spec["target"]["path"]).glob("_noiselib/*.json")
    return {
        manifest["partition"]: manifest["content_digest"] for manifest in (json.loads(f.read_text()) for f in files)
    }


def test_step_by_step_is_the_same_as_in_one_go(
    small: Small, spark: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = small.copy(tmp_path_factory.mktemp("other") / "copy")
    for command in ("reserve", "perturb", "check", "publish"):
        answer = small.noiselib(command, "--partition", "day=2")
        assert answer.code == 0, answer.err
    whole = other.noiselib("run", "--partition", "day=2")
    assert whole.code == 0, whole.err
    assert content_digests(small) == content_digests(other)
    assert small.spent() == other.spent()


def test_a_run_resumes_where_a_step_stopped(small: Small, spark: object) -> None:
    assert small.noiselib("perturb", "--partition", "day=1").code == 0
    assert small.published() is None
    unchecked = small.noiselib("publish", "--partition", "day=1")
    assert unchecked.code == 1
    assert "not checked" in unchecked.err
    assert small.published() is None
    staged = sorted(path.stat().st_ino for path in small.home.rglob("staging/*/data/day=1/*.parquet"))
    resumed = small.noiselib("run", "--partition", "day=1", "--json")
    assert resumed.code == 0, resumed.err
    assert resumed.json["charge"] == {"epsilon": 0.0, "delta": 0.0}  # reserved by the step before
    target = Path(small.spec["target"]["path"])
    assert sorted(path.stat().st_ino for path in target.glob("day=1/*.parquet")) == staged  # published, not made again


def test_a_charge_that_a_restated_source_left_behind_is_told_of(small: Small) -> None:
    assert small.noiselib("reserve", "--partition", "day=1").code == 0
    small.rows[1]["amount"][0] += 1.0
    small.write_source()
    again = small.noiselib("reserve", "--partition", "day=1")
    assert (again.code, small.spent()) == (0, pytest.approx(6.0, abs=0.01))
    told = re.search("was charged and not published; to give it up: noiselib (ledger abandon .*)", again.err)
    assert told, again.err
    assert main(told[1].split()) == 0
    assert small.spent() == pytest.approx(3.0, abs=0.01)
    for partition in ("day=1", "day=2"):
        assert "to give it up" not in small.noiselib("reserve", "--partition", partition).err


def test_what_was_staged_and_checked_is_published_without_spark(
    small: Small, spark: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("perturb", "check"):
        assert small.noiselib(command, "--partition", "day=1").code == 0
    monkeypatch.setattr("noiselib.spark.session.open_session", None)
    answer = small.noiselib("run", "--partition", "day=1", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["rows_out"] == 200


def test_changed_checks_are_run_before_publishing(small: Small, spark: object) -> None:
    for command in ("perturb", "check"):
        assert small.noiselib(command, "--partition", "day=1").code == 0
    small.spec["checks"] = [{"expect": "column_values_between", "column": "id", "min": 0, "max": 1}]
    small.write_spec()
    answer = small.noiselib("publish", "--partition", "day=1")
    assert answer.code == 1
    assert "not checked" in answer.err
    assert small.noiselib("run", "--partition", "day=1").code == 3
    assert small.published() is None


def test_a_release_that_another_process_works_on_is_left_alone(small: Small, spark: object) -> None:
    script = (
        "import sys, time; from pathlib import Path; from noiselib.spark.reserve import reserved\n"
        "from noiselib.spark.run import prepare\n"
        "run = prepare(Path(sys.argv[1]), [{'day': '1'}], lambda line: None)\n"
        "with reserved(run):\n    print('holding', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(small.spec_file)], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "holding\n"
        held = small.noiselib("run", "--partition", "day=1")
        assert held.code == 5
        assert f"{other.pid}" in held.err
        other.kill()
        other.wait()
        taken_over = small.noiselib("run", "--partition", "day=1")
        assert taken_over.code == 0, taken_over.err
    finally:
        other.kill()
        other.wait()


def test_what_was_checked_is_what_is_published(small: Small, spark: object) -> None:
    for command in ("perturb", "check"):
        assert small.noiselib(command, "--partition", "day=1").code == 0
    [file] = small.home.rglob("staging/*/data/day=1/*.parquet")
    table = pq.ParquetFile(file).read()
    pq.write_table(table.slice(0, table.num_rows - 1), file)
    answer = small.noiselib("publish", "--partition", "day=1")
    assert answer.code == 1
    assert "not checked" in answer.err
    assert small.published() is None


def test_who_is_overtaken_by_a_rollback_has_not_begun_to_publish(
    small: Small, spark: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes just before the publishing lock is taken. What nobody has seen can be given up."""
    small.spec["privacy"]["limit"]["epsilon"] = 20.0
    for amount, steps in ((1.5, ["run"]), (2.5, ["run"]), (3.5, ["perturb", "check"])):
        small.rows[1]["amount"][0] = amount
        small.write_source()
        small.write_spec()
        for step in steps:
            assert small.noiselib(step, "--partition", "day=1").code == 0
    with small.ledger() as ledger:
        first, _, third = [known.release_id for known in sorted(ledger.releases(), key=lambda known: known.created)]
    spent, publish = small.spent(), ParquetTarget.publish

    def overtaken(*arguments: Any) -> None:
        assert small.noiselib("rollback", "--to", first).code == 0
        publish(*arguments)

    monkeypatch.setattr(ParquetTarget, "publish", overtaken)
    answer = small.noiselib("publish", "--partition", "day=1")
    assert answer.code == 1
    assert f"release {first[:12]} was made current in day=1 since this run began" in answer.err
    assert main(["ledger", "abandon", str(small.spec_file), "--release", third]) == 0
    assert small.spent() < spent


def test_a_step_that_comes_first_reserves_nothing(small: Small, spark: object) -> None:
    for command in ("check", "publish"):
        answer = small.noiselib(command, "--partition", "day=1")
        assert answer.code == 1
        assert "not staged" in answer.err
    assert small.spent() == 0


def test_a_job_leaves_no_noised_rows_in_its_scratch(small: Small, spark: object) -> None:
    assert small.noiselib("run", "--partition", "day=1").code == 0
    assert not list(small.home.rglob("staging/*"))


def test_a_noised_row_key_is_no_key_of_the_published_rows(small: Small, spark: object) -> None:
    small.spec["columns"]["id"] = {"mechanism": "discrete_laplace", "epsilon": 1.0, "protect_distance": 3}
    small.write_spec()
    answer = small.noiselib("run", "--partition", "day=1")
    assert answer.code == 0, answer.err
    assert small.noiselib("verify", "--partition", "day=1").code == 0


def test_an_empty_partition_passes_checks_of_its_values(small: Small, spark: object) -> None:
    small.rows = {1: {name: [] for name in small.rows[1]}}
    small.write_source()
    small.spec["checks"] = [{"expect": "column_mean_between", "column": "amount", "min": 0, "max": 1}]
    small.write_spec()
    answer = small.noiselib("run", "--partition", "day=1", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["releases"][0]["rows"] == 0
