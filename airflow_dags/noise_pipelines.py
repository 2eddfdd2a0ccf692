"""One DAG per pipeline, named like it: the steps of the path as spark-submit tasks.

Every step finds its releases anew from spec, snapshot and key, so a task may be retried, cleared or run twice: what is
done is not done again, what is paid is not paid again. Neither Spark nor noiselib is imported here, and the noise key
stays out of it: a task is given the spec's path, and the spec refers to the key.

Where Spark runs is said by the connection spark_default; NOISELIB_SPARK_CONF may name a file of settings for it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import DAG, Param, chain
from pipeline_specs import PIPELINES, PROJECT, read_pipelines

STEPS = ("reserve", "perturb", "check", "publish")
SPARK_CONF = os.environ.get("NOISELIB_SPARK_CONF")
PARTITION = {
    "type": ["null", "string"],
    "pattern": "^[^=/]+=[^=/]+(/[^=/]+=[^=/]+)*$",
    "description": "Only this partition, as in month=3. Empty: all of them.",
}


def make_dag(pipeline: str, spec: Path) -> None:
    """Airflow finds the DAG by itself: it was entered by `with`."""
    with DAG(
        pipeline,
        schedule=None,
        max_active_runs=1,  # a release is held by one run at a time: another could only fail
        params={"partition": Param(None, **PARTITION)},
        tags=["noiselib"],
    ):
        tasks = [
            SparkSubmitOperator(
                task_id=step,
                name=f"{pipeline}.{step}",
                application=str(PROJECT / "jobs" / f"{step}.py"),
                application_args=arguments(pipeline, spec, step),
                properties_file=str(PROJECT / SPARK_CONF) if SPARK_CONF else None,
            )
            for step in STEPS
        ]
        chain(*tasks)


def arguments(pipeline: str, spec: Path, step: str) -> Callable[..., list[str]]:
    """The step's arguments, made when it runs: a template could not leave one out."""

    def rendered(context: Any, jinja_env: Any) -> list[str]:
        partition = context["params"]["partition"]
        return [
            str(spec),
            *(["--partition", partition] if partition else []),
            *["--directory", str(PROJECT)],  # a task runs in a folder of Airflow's, but the spec's paths are ours
            *["--results", f"run_results/{pipeline}/{step}.json"],  # other steps may be running at the same time
        ]

    return rendered


pipelines, _ = read_pipelines(PIPELINES)  # what is broken is reported by broken_pipelines.py
for name, file in pipelines.items():
    make_dag(name, file)
