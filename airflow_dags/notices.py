"""Who is told how a run ended: a POST of JSON to the address that the spec's schedule.notify names."""

import json
import re
from typing import Any

import requests
from airflow.sdk import BaseHook, BaseNotifier
from airflow.sdk.exceptions import AirflowException
from noise_tasks import OverBudget
from pipeline_specs import Pipeline

TIMEOUT_SECONDS = 10
OURS = re.compile(
    r"\b(OverBudget|ChecksFailed|SpecError|InputError|NoiseKeyError|LedgerError|ReleaseHeld|NoiselibError): (.+)"
)
# lines after the first of an error: a place in a spec, a setting, a partition, the number of those left out
MORE = re.compile(r".+\.ya?ml:[0-9]+: .+|Spark setting refused: .+|(\S+ )?\w+=[^\s:]+: .+|and [0-9]+ problems more")


def told(error: str) -> str:
    """What noiselib says of a failure, in either form of its log. Other lines are Spark's, which may quote values of the data."""
    step = re.match(r"\w+: exit code [0-9]+(?: \([a-z, ]+\))?", error)
    kept, goes_on = [step[0] if step else "failed; the task's log says why"], False
    for line in error.splitlines():
        said = of_json(line) or line
        found = OURS.search(said)
        goes_on = bool(found or (goes_on and MORE.fullmatch(line)))
        if goes_on:
            kept.append(said[found.start() :] if found else line)
    return "\n".join(kept)


def of_json(line: str) -> str | None:
    """The text of an error's line in the log's other form (NOISELIB_LOG=json); None for any other line."""
    try:
        entry = json.loads(line[line.index("{") :])
    except (ValueError, RecursionError):
        return None
    return (
        f"{entry['error']}: {entry['event']}"
        if isinstance(entry, dict) and {"error", "event"} <= entry.keys()
        else None
    )


class Notice(BaseNotifier):
    """Called by Airflow when a task has failed for good, or the last one has succeeded.

    A notice that is not delivered is an error in the task's log, and nothing else: it fails no run.
    """

    def __init__(self, pipeline: Pipeline, succeeded: bool) -> None:
        super().__init__()
        self.pipeline, self.notify_about, self.succeeded = pipeline.name, pipeline.schedule.notify, succeeded

    def notify(self, context: Any) -> None:
        error, task = context.get("exception"), context["task_instance"]
        # of a task whose worker is lost, Airflow knows no error
        event = "success" if self.succeeded else "over_budget" if isinstance(error, OverBudget) else "failure"
        if event not in self.notify_about["when"]:
            return
        notice = {
            "pipeline": self.pipeline,
            "event": event,
            "run_id": context["run_id"],
            "task": task.task_id,
            "error": None if error is None else told(str(error)),
        }
        scheme, _, connection = self.notify_about["url"].partition(":")
        url = BaseHook.get_connection(connection).password if scheme == "airflow" else self.notify_about["url"]
        try:
            requests.post(url, json=notice, timeout=TIMEOUT_SECONDS).raise_for_status()
        except requests.RequestException as error:  # whose text quotes the address, which may be a secret
            answer = "" if error.response is None else f", status {error.response.status_code}"
            raise AirflowException(f"notice not sent: {type(error).__name__}{answer}") from None
        self.log.info("notice sent: %s of %s", event, self.pipeline)
