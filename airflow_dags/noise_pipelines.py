"""One DAG per pipeline, named like it: the steps of the path as tasks, scheduled as its spec says.

Every step finds its releases anew from spec, snapshot and key, so a task may be retried, cleared or run twice: what is
done is not done again, what is paid is not paid again. Neither Spark nor noiselib is imported here.

Where Spark runs is said by the connection spark_default; NOISELIB_SPARK_CONF may name a file of settings for it.
"""

from typing import Any

from airflow.sdk import DAG, Asset, CronDataIntervalTimetable, Param, chain, get_parsing_context
from noise_tasks import SPARK_CONF, Command, SparkStep
from notices import Notice
from pipeline_specs import PIPELINES, PROJECT, Pipeline, read_pipelines

STEPS = ("reserve", "perturb", "check", "publish")
PARTITION = {
    "type": ["null", "string"],
    "pattern": "^[^=/]+=[^=/]+(/[^=/]+=[^=/]+)*$",
    "description": "Only this partition, as in month=3. Empty: that of the run's date if the spec's schedule names one, or all.",
}


def make_dag(pipeline: Pipeline) -> None:
    """Airflow finds the DAG by itself: it was entered by `with`."""
    schedule = pipeline.schedule
    with DAG(
        pipeline.name,
        schedule=when(pipeline),
        start_date=schedule.start,
        catchup=schedule.catchup,
        max_active_runs=1,  # a release is held by one run at a time: another could only fail
        params={"partition": Param(None, **PARTITION)},
        tags=["noiselib"],
    ):
        common = common_arguments(pipeline)
        success = Notice(pipeline, succeeded=True) if schedule.notify else None
        outlets = [Asset(uri=uri) for uri in (pipeline.target, pipeline.table) if uri]
        tasks = [
            Command(task_id="plan", **common),
            *(spark_step(pipeline, step, common) for step in STEPS),
            Command(
                task_id="report",
                outlets=outlets,
                on_success_callback=success,
                **common,
            ),
        ]
        for task in tasks:
            task.pipeline = pipeline
        chain(*tasks)


def spark_step(pipeline: Pipeline, step: str, common: dict[str, Any]) -> SparkStep:
    return SparkStep(
        task_id=step,
        name=f"{pipeline.name}.{step}",
        application=str(PROJECT / "jobs" / f"{step}.py"),
        properties_file=SPARK_CONF,
        **common,
    )


def when(pipeline: Pipeline) -> Any:
    """A run at the end of each interval, about the partition of its start; or when the source has changed; or by hand."""
    every = pipeline.schedule.every
    if every == "source":
        return [Asset(uri=pipeline.source)]
    return CronDataIntervalTimetable(every, timezone="UTC") if every else None


def common_arguments(pipeline: Pipeline) -> dict[str, Any]:
    """Of every task; what the spec does not say is left to Airflow's settings. (The DAG's default_args would be copied deeply
    for each task, which takes longer than all the rest.)
    """
    schedule = pipeline.schedule
    notice = Notice(pipeline, succeeded=False) if schedule.notify else None
    named = {"pool": pipeline.pool, "retries": schedule.retries, "retry_delay": schedule.retry_delay}
    return {name: value for name, value in (named | {"on_failure_callback": notice}).items() if value is not None}


wanted = get_parsing_context().dag_id  # a task needs its own DAG only
pipelines, _ = read_pipelines(PIPELINES)  # what is broken is reported by broken_pipelines.py
for name, each in pipelines.items():
    if wanted in (None, name):
        make_dag(each)
