"""Who is told how a run ended: a POST of JSON to the address that the spec's schedule.notify names."""

from typing import Any

import requests
from airflow.sdk import BaseHook, BaseNotifier
from noise_tasks import OverBudget
from pipeline_specs import Pipeline

TIMEOUT_SECONDS = 10


class Notice(BaseNotifier):
    """Called by Airflow when a task has failed for good, or the last one has succeeded.

    A notice that is not delivered is an error in the task's log, and nothing else: it fails no run.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__()
        self.pipeline, self.notify_about = pipeline.name, pipeline.schedule.notify

    def notify(self, context: Any) -> None:
        error, task = context.get("exception"), context["task_instance"]
        event = "success" if error is None else "over_budget" if isinstance(error, OverBudget) else "failure"
        if event not in self.notify_about["when"]:
            return
        notice = {
            "pipeline": self.pipeline,
            "event": event,
            "run_id": context["run_id"],
            "task": task.task_id,
            "error": None if error is None else str(error),
        }
        scheme, _, connection = self.notify_about["url"].partition(":")
        url = BaseHook.get_connection(connection).password if scheme == "airflow" else self.notify_about["url"]
        requests.post(url, json=notice, timeout=TIMEOUT_SECONDS).raise_for_status()
        self.log.info("notice sent: %s of %s", event, self.pipeline)
