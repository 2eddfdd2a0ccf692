"""Prometheus metrics of one command: what it came to, never what the data are.

No count of clipped, missing or repaired values: those are the operator's alone. No partition among the labels either: a year of
daily partitions would be a year of series.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from noiselib.ledger import BudgetStatus

SUCCESS = "noiselib_last_success_timestamp_seconds"


@dataclass(frozen=True)
class Ended:
    """What a command came to. `results`: as run_results.json holds it; `verdicts`: of every check that it made."""

    pipeline: str
    command: str
    exit_code: int
    results: Mapping[str, Any]
    seconds: Mapping[str, float]
    verdicts: Iterable[Mapping[str, Any]]
    budget: BudgetStatus | None


def registry(ended: Ended, last_success: float | None = None) -> CollectorRegistry:
    """The metrics of a command. `last_success`: when an earlier one succeeded, for a place that keeps nothing by itself."""
    found, gauges = CollectorRegistry(), dict[str, Gauge]()
    results, now = ended.results, time.time()

    def gauge(name: str, text: str, value: float, **labels: str) -> None:
        every = {"pipeline": ended.pipeline, "command": ended.command, **labels}
        if name not in gauges:
            gauges[name] = Gauge(f"noiselib_{name}", text, list(every), registry=found)
        gauges[name].labels(**every).set(value)

    gauge("exit_status", "The command's exit code: 0 is success.", ended.exit_code)
    gauge("last_run_timestamp_seconds", "When the command last ended.", now)
    success = now if ended.exit_code == 0 else last_success
    if success is not None:
        gauge("last_success_timestamp_seconds", "When the command last ended with success.", success)
    gauge("run_seconds", "How long the command took.", results["seconds"])
    for step, seconds in ended.seconds.items():
        gauge("step_seconds", "How long each step took.", seconds, step=step)
    gauge("rows_in", "Rows of the source in the releases of the command.", results["rows_in"])
    gauge("rows_out", "Rows staged or published of them.", results["rows_out"])
    for status, number in Counter(entry["status"] for entry in results["releases"]).items():
        gauge("releases", "Releases by what has become of them.", number, status=status)
    for (check, severity, result), number in _checked(ended.verdicts).items():
        gauge("checks", "Checks by verdict.", number, check=check, severity=severity, result=result)
    gauge("charge_epsilon", "Epsilon that the command added to the budget's account.", results["charge"]["epsilon"])
    if ended.budget is not None:
        budget, name = ended.budget, ended.budget.budget.name
        gauge("budget_epsilon_limit", "What the account may ever spend.", budget.budget.epsilon, budget=name)
        gauge("budget_epsilon_spent", "What the account has spent or reserved.", budget.spent, budget=name)
        gauge("budget_epsilon_left", "What is left of it.", budget.remaining, budget=name)
        gauge("budget_delta", "The delta of these epsilons.", budget.budget.delta, budget=name)
    return found


def _checked(verdicts: Iterable[Mapping[str, Any]]) -> Counter[tuple[str, str, str]]:
    """By check, severity and result. Thresholds are cut off the names (published_above_1290): they would be a series each."""
    return Counter(
        (re.sub(r"_-?[0-9]+$", "", one["check"]), one["severity"], "passed" if one["success"] else "failed")
        for one in verdicts
    )


def last_success(file: Path, pipeline: str, command: str) -> float | None:
    """When the command last succeeded, by the file that an earlier one wrote. Raises ValueError for another kind of file."""
    mine = {"pipeline": pipeline, "command": command}
    if not file.is_file():
        return None
    for family in text_string_to_metric_families(file.read_text("utf-8")):
        for sample in family.samples if family.name == SUCCESS else ():
            if sample.labels == mine:
                return float(sample.value)
    return None
