"""The log: a line of text or a JSON object each, on stderr, the same of our own lines and of libraries'."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import warnings
from datetime import datetime
from typing import Any

import pytest
from small_pipeline import Small

from noiselib.cli.log import about, log, progress, set_up, spark_line
from noiselib.log_entry import LogEntry


def shown(form: str, *calls: Any) -> str:
    err = io.StringIO()
    with contextlib.redirect_stderr(err), warnings.catch_warnings():
        set_up(form)
        for call in calls:
            call()
    return err.getvalue()


def test_the_console_shows_seconds_step_and_text(small: Small):
    answer = small.noiselib("reserve")
    assert answer.code == 0
    first, second = answer.err.splitlines()
    assert re.fullmatch(r" +[0-9.]+s  plan      small: 3 releases, 3 noised columns", first)
    assert re.fullmatch(r" +[0-9.]+s  reserve   3 epsilon added to budget small: 3 of 8 at delta 1e-05", second)
    assert answer.out.splitlines()[0] == "small: success, 0 rows in 3 releases"


def test_json_has_the_same_lines_with_fields(small: Small):
    answer = small.noiselib("reserve", "--log", "json", "--json")
    assert answer.json["status"] == "success"  # stdout stays the answer
    plan, reserve = map(json.loads, answer.err.splitlines())
    for line in (plan, reserve):
        assert datetime.fromisoformat(line["time"]).tzinfo is not None
        assert (line["level"], line["pipeline"]) == ("info", "small")
        assert line["seconds"] > 0
    assert (plan["step"], plan["event"], plan["releases"]) == ("plan", "small: 3 releases, 3 noised columns", 3)
    assert (reserve["step"], reserve["budget"], reserve["epsilon_limit"]) == ("reserve", "small", 8.0)
    assert reserve["epsilon_spent"] == pytest.approx(3, abs=1e-3)


def test_the_last_line_of_a_failure_has_error_step_and_exit_code(small: Small):
    small.spec["privacy"]["limit"]["epsilon"] = 0.5
    small.write_spec()
    answer = small.noiselib("reserve", "--log", "json")
    last = json.loads(answer.err.splitlines()[-1])
    assert (answer.code, last["exit_code"], last["level"]) == (4, 4, "error")
    assert (last["error"], last["pipeline"], last["step"]) == ("OverBudget", "small", "reserve")
    assert small.results()["error"]["message"] == last["event"]
    console = small.noiselib("reserve")
    assert (
        console.err.splitlines()[-1] == f"OverBudget: {last['event']}"
    )  # and nothing of the command before sticks to it


def test_the_environment_sets_the_form_and_another_is_refused(small: Small, monkeypatch):
    monkeypatch.setenv("NOISELIB_LOG", "json")
    assert json.loads(small.noiselib("reserve").err.splitlines()[0])["step"] == "plan"
    assert small.noiselib("reserve", "--log", "console").err.lstrip()[0].isdigit()
    monkeypatch.setenv("NOISELIB_LOG", "xml")
    answer = small.noiselib("plan")
    assert (answer.code, answer.err) == (2, "SpecError: NOISELIB_LOG=xml: expected one of console, json\n")


def test_a_line_about_a_release_names_it_and_debug_is_for_machines():
    fields = {"pipeline": "p", "release": "ab12", "partition": "day=1"}
    say = progress(0.0)
    one = LogEntry("check", "warn: day=1 failed", "warning", fields | {"check": "row_count"})
    told = json.loads(shown("json", lambda: say(one)))
    assert list(told)[:7] == ["time", "level", "pipeline", "step", "release", "partition", "event"]
    assert (told["level"], told["release"], told["partition"], told["check"]) == (
        "warning",
        "ab12",
        "day=1",
        "row_count",
    )
    quiet = LogEntry("check", "passed", "debug", fields)
    assert shown("console", lambda: say(quiet)) == ""
    assert json.loads(shown("json", lambda: say(quiet)))["release"] == "ab12"


def test_what_libraries_log_is_shown_in_the_same_form():
    library = logging.getLogger("some.package")
    calls = (
        lambda: library.warning("slow: %s", "disk"),
        lambda: library.info("chatter"),
        lambda: spark_line("spark ERROR X: y"),
    )
    assert shown("console", *calls) == "slow: disk\nspark ERROR X: y\n"
    first, second = map(json.loads, shown("json", lambda: about(pipeline="p"), *calls).splitlines())
    assert (first["level"], first["logger"], first["event"], first["pipeline"]) == (
        "warning",
        "some.package",
        "slow: disk",
        "p",
    )
    assert (second["level"], second["logger"], second["event"]) == ("error", "spark", "spark ERROR X: y")


def in_a_thread(line: str) -> None:
    """As what Java prints is shown."""
    reader = threading.Thread(target=spark_line, args=[line])
    reader.start()
    reader.join()


def test_a_line_of_java_is_about_the_present_pipeline():
    def say() -> None:
        for pipeline, step in (("p", "perturb"), ("q", "plan")):
            about(pipeline=pipeline, step=step)
            in_a_thread("spark ERROR X: y")

    told = [json.loads(line) for line in shown("json", say).splitlines()]
    assert [(line["pipeline"], line["step"]) for line in told] == [("p", "perturb"), ("q", "plan")]
    assert "pipeline" not in json.loads(shown("json", lambda: in_a_thread("spark ERROR X: y")))  # of another command


def test_a_line_of_java_is_about_the_present_step(small: Small, monkeypatch):
    from noiselib.spark import path

    def reserved(*arguments: Any, known: Any = path.reserved) -> Any:
        in_a_thread("spark ERROR X: y")
        return known(*arguments)

    monkeypatch.setattr(path, "reserved", reserved)
    lines = map(json.loads, small.noiselib("reserve", "--log", "json").err.splitlines())
    [told] = [line for line in lines if line.get("logger") == "spark"]
    assert (told["pipeline"], told["step"]) == ("small", "reserve")


def test_a_traceback_is_one_json_line():
    def fail() -> None:
        try:
            raise ValueError("planted")
        except ValueError:
            logging.getLogger("x").exception("it failed")

    told = json.loads(shown("json", fail))
    assert "ValueError: planted" in told["exception"]
    assert told["exception"].startswith("Traceback")
    assert "Traceback" in shown("console", fail)


def test_several_lines_of_text_are_one_json_line():
    assert json.loads(shown("json", lambda: log("one\ntwo", "error", error="X", exit_code=1)))["event"] == "one\ntwo"


@pytest.mark.parametrize("asked", [False, True])
def test_warnings_of_libraries_are_shown_where_python_is_asked_for_them(asked: bool):
    script = (
        "import warnings; from noiselib.cli.log import set_up; set_up('json'); "
        "warnings.warn_explicit('old', FutureWarning, 'library.py', 7)"
    )
    environment = os.environ | ({"PYTHONWARNINGS": "default"} if asked else {})
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    if not asked:
        assert done.stderr == ""
        return
    told = json.loads(done.stderr)
    assert (told["level"], told["logger"]) == ("warning", "py.warnings")
    assert "library.py:7: FutureWarning: old" in told["event"]
