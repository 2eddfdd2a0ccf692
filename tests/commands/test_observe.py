"""Lineage and metrics of real commands, sent to files and to servers that answer, fail, hang or are not there."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from lineage_schemas import validate
from listening import absent, hanging, listening
from prometheus_client.parser import text_string_to_metric_families
from small_pipeline import Answer, Small

from noiselib.cli import main
from noiselib.cli.observe import PATIENCE, asked_place
from noiselib.errors import ChecksFailed, SpecError, exit_code
from noiselib.ledger import Budget, BudgetStatus
from noiselib.report.metrics import Ended, last_success, registry

pytestmark = pytest.mark.faults


def numbers(text: str) -> dict[str, float]:
    """Samples by name and labels other than pipeline and command, as `budget_epsilon_left small`."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = [value for name, value in sorted(sample.labels.items()) if name not in ("pipeline", "command")]
            assert {"pipeline", "command"} <= set(sample.labels)
            found[" ".join([sample.name.removeprefix("noiselib_"), *labels])] = sample.value
    return found


def events(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def reserve(small: Small, *arguments: str) -> Answer:
    """A command of the path that needs no Spark session."""
    return small.noiselib("reserve", *arguments)


def test_lineage_and_metrics_go_to_files(small: Small):
    places = (
        "--lineage",
        f"file:{small.home / 'events.jsonl'}",
        "--metrics",
        f"file:{small.home}/{{pipeline}}-{{command}}.prom",
    )
    answer = reserve(small, *places)
    assert answer.code == 0, answer.err
    told = events(small.home / "events.jsonl")
    assert [event["eventType"] for event in told] == ["START"] * 3 + ["COMPLETE"] * 3
    assert all("noiselib_release" in validate(event) for event in told)
    found = numbers((small.home / "small-reserve.prom").read_text())
    assert found["exit_status"] == 0
    assert found["rows_in"] == 600
    assert found["releases reserved"] == 3
    assert found["charge_epsilon"] == pytest.approx(3, abs=1e-3)
    assert (found["budget_epsilon_limit small"], found["budget_delta small"]) == (8, 1e-5)
    assert found["budget_epsilon_spent small"] + found["budget_epsilon_left small"] == pytest.approx(8)
    assert found["step_seconds plan"] > 0
    assert found["step_seconds reserve"] > 0
    assert abs(found["last_success_timestamp_seconds"] - time.time()) < 60


def test_a_failed_command_is_told_and_the_last_success_stays(small: Small):
    file = small.home / "small.prom"
    places = ("--metrics", f"file:{file}", "--lineage", f"file:{small.home / 'events.jsonl'}")
    assert reserve(small, *places).code == 0
    before = numbers(file.read_text())
    small.spec["columns"]["amount"]["epsilon"] = 7.0  # another release, which does not fit the budget
    small.write_spec()
    assert reserve(small, *places).code == 4
    found = numbers(file.read_text())
    assert found["exit_status"] == 4
    assert found["charge_epsilon"] == 0
    assert found["budget_epsilon_spent small"] == pytest.approx(3, abs=1e-3)
    assert found["last_success_timestamp_seconds"] == before["last_success_timestamp_seconds"]
    assert found["last_run_timestamp_seconds"] > before["last_run_timestamp_seconds"]
    told = events(small.home / "events.jsonl")[6:]
    assert [event["eventType"] for event in told] == ["START"] * 3 + ["FAIL"] * 3
    for event in told:
        validate(event)
    assert told[-1]["run"]["facets"]["errorMessage"]["message"].startswith("Budget 'small': requested epsilon=")
    small.spec["columns"]["amount"]["bounds"] = [3, 2]
    small.write_spec()
    assert reserve(small, *places).code == 2  # not even the releases are known
    assert numbers(file.read_text())["exit_status"] == 2
    assert len(events(small.home / "events.jsonl")) == 12


@pytest.mark.parametrize("broken", ["spec", "source", "key"])
def test_failures_and_successes_of_a_pipeline_are_one_series_whatever_its_file_is_called(small: Small, broken: str):
    file = small.home / "other.yaml"
    small.spec_file.rename(file)
    text = file.read_text()
    arguments = ["reserve", str(file), "--results", str(small.home / "run_results.json"), "--log", "json"]
    arguments += ["--metrics", f"file:{small.home}/{{pipeline}}.prom"]
    broken_text = {
        "spec": text.replace("epsilon: 8.0", "epsilon: -8.0"),
        "source": text.replace(f"path: {small.home}/source", "path: nowhere"),
        "key": text.replace("noise.key", "nowhere.key"),
    }[broken]
    assert broken_text != text
    for content, failed in ((broken_text, True), (text, False)):
        file.write_text(content)
        error = io.StringIO()
        with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
            assert bool(main(arguments)) == failed, error.getvalue()
        assert {json.loads(line)["pipeline"] for line in error.getvalue().splitlines()} == {"small"}
        assert small.results()["pipeline"] == "small"
        assert bool(numbers((small.home / "small.prom").read_text())["exit_status"]) == failed
    assert [found.name for found in small.home.glob("*.prom")] == ["small.prom"]


def test_a_server_hears_lineage_and_metrics(small: Small):
    with listening() as place:
        answer = reserve(small, "--lineage", place.url, "--metrics", f"{place.url}/gateway")
    assert (answer.code, "not sent" in answer.err) == (0, False), answer.err
    paths = [path for path, _ in place.heard]
    assert paths == ["/api/v1/lineage"] * 6 + ["/gateway/metrics/job/noiselib/command/reserve/pipeline/small"]
    for _, body in place.heard[:6]:
        validate(json.loads(body))
    assert numbers(place.heard[6][1].decode())["releases reserved"] == 3


@pytest.mark.parametrize("kind", ["500", "hangs", "absent", "file"])
def test_a_place_that_fails_is_warned_of_and_changes_nothing(small: Small, kind: str):
    assert reserve(small).code == 0  # what takes time without them is done
    began = time.monotonic()
    assert reserve(small).code == 0
    alone, began = time.monotonic() - began, time.monotonic()
    with {"500": lambda: listening(500), "hangs": hanging, "absent": absent, "file": absent}[kind]() as place:
        where = place.url if kind != "file" else f"file:{small.home}/noise.key/below-a-file"
        answer = reserve(small, "--json", "--lineage", where, "--metrics", where)
    assert answer.code == 0, answer.err
    assert answer.json["status"] == "success"
    warned = [line for line in answer.err.splitlines() if "not sent" in line]
    assert [line.split()[0] for line in warned] == ["lineage", "lineage", "metrics"]
    assert all(where in line and "the releases are not affected" in line for line in warned)
    kept = events(small.home / "lineage_unsent.jsonl")
    assert [event["eventType"] for event in kept] == ["START"] * 3 + ["COMPLETE"] * 3
    assert all(validate(event) for event in kept)
    assert time.monotonic() - began < alone + 3 * PATIENCE + 10  # and what importing takes, on a busy machine
    assert small.results()["status"] == "success"


def test_a_failing_place_changes_no_exit_code_of_a_failure(small: Small):
    small.spec["privacy"]["limit"]["epsilon"] = 0.5
    small.write_spec()
    with absent() as place:
        answer = reserve(small, "--lineage", place.url, "--metrics", place.url)
    assert answer.code == 4
    assert answer.err.splitlines()[-1].startswith("OverBudget: ")


def test_the_environment_says_where_and_the_command_line_comes_first(small: Small, monkeypatch):
    for name in ("LINEAGE", "METRICS"):
        monkeypatch.setenv(f"NOISELIB_{name}", f"file:{small.home / name}")
    assert reserve(small, "--lineage", f"file:{small.home / 'mine'}").code == 0
    assert {file.name for file in small.home.iterdir()} >= {"mine", "METRICS"}
    assert not (small.home / "LINEAGE").exists()


def test_openlineages_own_configuration_is_used_where_ours_is_not_given(small: Small):
    """In a process of its own, since the client writes to the environment."""
    command = [
        sys.executable,
        "-m",
        "noiselib.cli",
        "reserve",
        str(small.spec_file),
        "--results",
        str(small.home / "r.json"),
    ]
    with listening() as theirs, listening() as ours:
        environment = {**os.environ, "OPENLINEAGE_URL": theirs.url, "OPENLINEAGE_NAMESPACE": "flights"}
        subprocess.run(command, env=environment, cwd=small.home, check=True, timeout=300)
        assert [path for path, _ in theirs.heard] == ["/api/v1/lineage"] * 6
        assert json.loads(theirs.heard[0][1])["job"]["namespace"] == "flights"
        subprocess.run([*command, "--lineage", ours.url], env=environment, cwd=small.home, check=True, timeout=300)
        assert (len(theirs.heard), len(ours.heard)) == (6, 6)


@pytest.mark.parametrize(
    "text", ["events.jsonl", "file:", "ftp://host", "http://", "http://host:port", "http://me:word@host"]
)
def test_what_is_no_place_is_refused_before_anything_is_reserved(small: Small, text: str, monkeypatch):
    answer = reserve(small, "--metrics", text)
    assert answer.code == 2
    assert answer.err.startswith("SpecError: --metrics: ")
    assert "expected file:PATH or http(s)://HOST[:PORT][/PATH]" in answer.err
    assert "word" not in answer.err
    assert small.spent() == 0
    assert small.results()["status"] == "failed"
    monkeypatch.setenv("NOISELIB_LINEAGE", text)
    with pytest.raises(SpecError, match="NOISELIB_LINEAGE"):
        asked_place(None, "lineage")


def test_checks_are_counted_by_name_and_severity_and_hold_no_threshold():
    verdicts = [
        {"check": "published_above_1290", "column": "amount", "severity": "error", "success": True},
        {"check": "published_above_-7", "column": "count", "severity": "error", "success": True},
        {"check": "column_mean_between", "column": "amount", "severity": "warn", "success": False},
    ]
    budget = BudgetStatus(Budget("b", 8.0, 1e-5), "", 3.0, 0.0, 5.0, {})
    results = {
        "seconds": 1.5,
        "rows_in": 10,
        "rows_out": 0,
        "charge": {"epsilon": 0.0},
        "releases": [{"status": "quarantined"}],
    }
    ended = Ended("p", "run", exit_code(ChecksFailed("")), results, {"check": 0.25}, verdicts, budget)
    from prometheus_client import generate_latest

    text = generate_latest(registry(ended, 17.0)).decode()
    found = numbers(text)
    assert found["checks published_above passed error"] == 2
    assert found["checks column_mean_between failed warn"] == 1
    assert (found["exit_status"], found["releases quarantined"], found["step_seconds check"]) == (3, 1, 0.25)
    assert found["last_success_timestamp_seconds"] == 17.0
    assert "1290" not in text


def test_the_last_success_is_read_from_metrics_only(tmp_path: Path):
    assert last_success(tmp_path / "none.prom", "small", "run") is None
    (tmp_path / "other.prom").write_text("this is { no metric\n")
    with pytest.raises(ValueError, match="could not convert"):
        last_success(tmp_path / "other.prom", "small", "run")
