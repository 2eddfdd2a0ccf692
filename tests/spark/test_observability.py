"""A run with lineage, metrics and a JSON log, in processes of its own: what each is told, and nothing of Spark's chatter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lineage_schemas import validate
from listening import listening
from processes import watched
from prometheus_client.parser import text_string_to_metric_families
from small_pipeline import make_small

from noiselib.cli.parser import SPARK_LOG
from noiselib.spark.session import LOG_LEVELS


def test_a_run_tells_lineage_metrics_and_a_json_log(tmp_path: Path) -> None:
    """A column that fails a check of severity warn, so that there is a line about one release."""
    small = make_small(tmp_path, days=[1], size=50)
    small.spec["checks"] = [{"expect": "column_mean_between", "column": "amount", "min": 1e6, "severity": "warn"}]
    small.write_spec()
    with listening() as place:
        told = ("--lineage", place.url, "--metrics", place.url, "--log", "json")
        run = watched(small, {}, "--master", "local[1]", *told)
    assert run.code == 0, run.err
    lines = [json.loads(line) for line in run.err.splitlines()]  # each: Java's and Spark's chatter would not parse
    assert {line.get("logger") for line in lines} == {None}
    assert all(line["pipeline"] == "small" and line["time"] and line["level"] for line in lines)
    assert [line["step"] for line in lines if line["level"] == "info"] == [
        "plan",
        "reserve",
        "perturb",
        "stage",
        "check",
        "publish",
    ]
    [warned] = [line for line in lines if line["level"] == "warning"]
    assert (warned["partition"], warned["check"], warned["severity"]) == ("day=1", "column_mean_between", "warn")
    [release] = small.results()["releases"]
    assert warned["release"] == release["release_id"]
    events = [json.loads(body) for path, body in place.heard if path == "/api/v1/lineage"]
    assert [event["eventType"] for event in events] == ["START", "COMPLETE"]
    assert all("noiselib_privacy" in validate(event) for event in events)
    assert events[1]["outputs"][0]["facets"]["version"]["datasetVersion"] == release["release_id"]
    assert events[1]["outputs"][0]["outputFacets"]["outputStatistics"]["rowCount"] == 50
    [pushed] = [body.decode() for path, body in place.heard if path.startswith("/metrics/job/noiselib")]
    found = {
        (sample.name, *(sample.labels.get(name) for name in ("step", "status", "check", "result"))): sample.value
        for family in text_string_to_metric_families(pushed)
        for sample in family.samples
    }
    assert found["noiselib_rows_out", None, None, None, None] == 50
    assert found["noiselib_releases", None, "published", None, None] == 1
    assert found["noiselib_checks", None, None, "column_mean_between", "failed"] == 1
    steps = [
        found["noiselib_step_seconds", step, None, None, None]
        for step in ["plan", "reserve", "perturb", "check", "publish"]
    ]
    assert all(seconds > 0 for seconds in steps)
    assert sum(steps) < found["noiselib_run_seconds", None, None, None, None]


START = """
import sys
from noiselib.spark.session import open_session
lines = []
session = open_session("chatter", "local[1]", log_level=sys.argv[1], show=lines.append)
print(len(lines))
session.sparkContext._jvm.org.apache.logging.log4j.LogManager.getLogger("x").error("planted")
session.range(9).count()
while "spark ERROR x: planted" not in lines: pass
print(len(lines))
"""


@pytest.mark.parametrize("level", ["ERROR", "INFO"])
def test_an_error_of_sparks_log_is_shown_and_the_rest_where_it_is_asked_for(level: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYSPARK")}
    done = subprocess.run(
        [sys.executable, "-c", START, level], env=environment, capture_output=True, text=True, check=True, timeout=500
    )
    started, ended = map(int, done.stdout.split())
    assert done.stderr == ""
    assert (started, ended) == (0, 1) if level == "ERROR" else started > 3


def test_where_java_does_not_start_its_own_words_are_shown(tmp_path: Path) -> None:
    small = make_small(tmp_path, days=[1], size=50)
    (tmp_path / "spark.conf").write_text("spark.driver.memory 1k\n")
    run = watched(small, {}, "--spark-conf", str(tmp_path / "spark.conf"))
    assert run.code == 1
    assert "Too small maximum heap" in run.err
    assert "heap" not in run.out  # which is the command's answer
    assert run.err.splitlines()[-1].startswith("NoiselibError: Spark does not start")


def test_the_command_line_offers_the_levels_there_are() -> None:
    """Written twice, since the parser does not import Spark."""
    assert SPARK_LOG == LOG_LEVELS
