"""Who is told how a run ended: a POST of JSON to the address that the spec's schedule.notify names."""

import re
from typing import Any

import requests
from airflow.sdk import BaseHook, BaseNotifier
from airflow.sdk.exceptions import AirflowException
from noise_tasks import OverBudget
from pipeline_specs import Pipeline

TIMEOUT_SECONDS = 10
OURS = "OverBudget|ChecksFailed|SpecError|InputError|NoiseKeyError|LedgerError|ReleaseHeld|NoiselibError"


def told(error: str) -> str:
    """What noiselib says of a failure. Other lines are Spark's, which may quote values of the data."""
    step = re.match(r"\w+: exit code [0-9]+(?: \([a-z, ]+\))?", error)
    lines = re.findall(rf"(?:{OURS}): [^\n]*", error)
    return "\n".join([step[0] if step else "failed; the task's log says why", *lines])


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
