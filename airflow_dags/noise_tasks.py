"""The tasks of a pipeline's DAG. Each runs one command of noiselib in the jobs' environment, and reads its exit code.

Neither Spark nor noiselib is imported here. A key that Airflow holds lies in a file of its own while the command runs, so
that it stands in no argument, setting, rendered field, XCom or log.
"""

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any
from urllib.parse import quote

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import Asset, BaseHook, BaseOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from croniter import croniter
from pipeline_specs import PROJECT, Pipeline

FINAL = {2: "bad usage or spec", 3: "checks failed, quarantined", 4: "over budget"}  # exit codes that no retry changes
TIMED = ("scheduled", "backfill")  # types of runs whose date is the schedule's
TOLD_LINES = 101  # of stderr in an error: as many as noiselib tells of one failure
KEY_DIR = "NOISELIB_KEY_DIR"
SPARK_CONF = str(PROJECT / os.environ["NOISELIB_SPARK_CONF"]) if os.environ.get("NOISELIB_SPARK_CONF") else None


class OverBudget(AirflowFailException):
    """The charge does not fit the budget."""


def failed(step: str, code: int, told: str) -> AirflowException:
    """What a step that ended with this exit code raises: an error that Airflow retries, or one that it does not."""
    if code not in FINAL:
        return AirflowException(f"{step}: exit code {code}: {told}")
    kind = OverBudget if code == 4 else AirflowFailException
    return kind(f"{step}: exit code {code} ({FINAL[code]}): not tried again: {told}")


def partition_of(pipeline: Pipeline, context: Any) -> str | None:
    """The partition that a run is about: the parameter's, or the one of its date; None for all of them."""
    given, patterns = context["params"]["partition"], pipeline.schedule.partition
    if given or not patterns:
        return given
    day = date_of(pipeline, context)
    return "/".join(f"{column}={quote(day.strftime(text), safe='')}" for column, text in patterns.items())


def date_of(pipeline: Pipeline, context: Any) -> datetime:
    """The start of the interval that a run's logical date lies in: for a run of the schedule or a backfill that date itself.

    A run by hand may have any date, and any interval. Airflow gives it the one before that date or, from its command line,
    before the present, so that February's first would make January. An interval that lasts is refused: what there is of it
    would be charged like all of it.
    """
    logical_date, every = context.get("logical_date"), pipeline.schedule.every
    if logical_date is None:
        raise AirflowFailException(
            f"{pipeline.file}: schedule.partition is {pipeline.schedule.partition}, and this run has no logical date; "
            "expected one, or the parameter partition"
        )
    if every is None or context["dag_run"].run_type in TIMED:
        return logical_date
    line = croniter(every, logical_date)
    end = line.get_next(datetime)
    start = line.get_prev(datetime)
    if end > datetime.now(UTC):
        raise AirflowFailException(
            f"{pipeline.file}: the run's logical date {logical_date} is in an interval that ends at {end}; "
            f"expected a date before {start}, or the parameter partition. Clear this run after {end}, or delete it: "
            "Airflow schedules no second run of one date"
        )
    return start


def partitions_of(pipeline: Pipeline, step: str, context: Any) -> list[str]:
    """Those that a task works on; empty for a table without any. A run about all partitions is about those that its plan
    found: one that the source has gained since then is the next run's.
    """
    if partition := partition_of(pipeline, context):
        return [partition]
    planned = context["ti"].xcom_pull(task_ids="plan") if step != "plan" else None
    return list(filter(None, (planned or {"arguments": []})["arguments"]))


def arguments(pipeline: Pipeline, step: str, context: Any) -> list[str]:
    return [
        str(pipeline.file),
        *[word for partition in partitions_of(pipeline, step, context) for word in ("--partition", partition)],
        *["--directory", str(PROJECT)],  # a task runs in a folder of Airflow's, but the spec's paths are ours
        *(["--results", f"run_results/{pipeline.name}/{step}.json"] if step not in ("plan", "report") else []),
    ]


@contextmanager
def lent_key(connection: str | None) -> Iterator[list[str]]:
    """The arguments that lead to the key that Airflow's connection holds as its password; none for a key from elsewhere.

    A file that its owner alone can read, in a folder of the same kind, which is gone when the block ends. NOISELIB_KEY_DIR
    says where, if workers on other hosts are to see it.
    """
    if connection is None:
        yield []
        return
    key = BaseHook.get_connection(connection).password
    if not key:
        raise AirflowFailException(f"connection {connection}: has no password; expected the noise key in it")
    place = os.environ.get(KEY_DIR) or None
    if place and not os.path.isdir(place):
        raise AirflowFailException(f"{KEY_DIR} is {place!r}; expected a folder in which jobs find a key")
    with TemporaryDirectory(prefix="noiselib-", dir=place) as folder:
        file = Path(folder) / "noise.key"
        file.touch(mode=0o600)
        file.write_text(key + "\n", "ascii")
        yield ["--key", f"file:{file}"]


class SparkStep(SparkSubmitOperator):
    """One step of the path, by spark-submit in client mode."""

    pipeline: Pipeline

    def execute(self, context: Any) -> None:
        with lent_key(self.pipeline.key_connection) as key:
            self.application_args = [*arguments(self.pipeline, self.task_id, context), *key]
            try:
                super().execute(context)
            except AirflowException as error:
                process = self._hook._submit_sp if self._hook else None
                if process is None or not process.returncode:
                    raise
                raise failed(self.task_id, process.returncode, str(error)) from None


class Command(BaseOperator):
    """A command of noiselib that needs no Spark, but for a source in its catalog.

    Its answer is the XCom, and the asset's metadata where it has an outlet.
    """

    pipeline: Pipeline
    process: subprocess.Popen[str] | None = None
    told = ""  # the last lines of its stderr

    def execute(self, context: Any) -> Any:
        python = os.environ.get("PYSPARK_PYTHON")
        if not python:
            raise AirflowFailException("PYSPARK_PYTHON is not set; expected the Python of the jobs' environment")
        with lent_key(self.pipeline.key_connection if self.task_id == "plan" else None) as key:
            words = [*arguments(self.pipeline, self.task_id, context), "--json", *key]
            if self.task_id == "plan" and SPARK_CONF:
                words += ["--spark-conf", SPARK_CONF]  # for a source in Spark's catalog
            code, answer = self._run([python, "-m", "noiselib.cli", self.task_id, *words])
        if code:
            raise failed(self.task_id, code, self.told)
        shown = SHOWN[self.task_id](json.loads(answer), self.log.info)
        for outlet in self.outlets:
            if isinstance(outlet, Asset):
                context["outlet_events"][outlet].extra = shown
        return shown

    def _run(self, command: Sequence[str]) -> tuple[int, str]:
        """The exit code and stdout; stderr goes to the log, line by line, and its last lines into an error."""
        lines: list[str] = []

        def log(stream: Any) -> None:
            for line in stream:
                lines.append(line.rstrip())
                self.log.info("%s", lines[-1])

        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, cwd=PROJECT, **pipes) as self.process:
            reader = Thread(target=log, args=[self.process.stderr])
            reader.start()
            answer = self.process.stdout.read()
            reader.join()
        self.told = "\n".join(lines[-TOLD_LINES:])
        return self.process.returncode, answer

    def on_kill(self) -> None:
        if self.process is not None:
            self.process.terminate()


def plan_shown(plan: dict[str, Any], say: Any) -> dict[str, Any]:
    """What a run would cost. The plan counts every release as new: what is published already costs nothing again."""
    named = [entry["partition"] or "whole table" for entry in plan["partitions"]]
    arguments = [entry["argument"] for entry in plan["partitions"]]
    rows = sum(entry["rows"] for entry in plan["partitions"])
    say("%s: %d releases, %d rows: %s", plan["pipeline"], len(named), rows, ", ".join(named))
    if plan["charge"] is None:
        say("purpose %s: no privacy claim, nothing to pay", plan["purpose"])
        return {"partitions": named, "arguments": arguments, "rows": rows, "charge": None, "budget": None}
    charge, budget = plan["charge"], plan["budget"]
    say("charge of one release: epsilon %.4g at delta %g", charge["epsilon"], charge["delta"])
    outlook = "fits" if budget["fits"] else "OVER BUDGET, unless these releases are paid for already"
    spent = (budget["name"], budget["spent"], budget["limit"]["epsilon"], budget["remaining"])
    say("budget %s: spent %.4g of epsilon %g; remaining %.4g", *spent)
    say("after this run, if all of it is new: %.4g: %s", budget["after_run_if_all_new"], outlook)
    return {
        "partitions": named,
        "arguments": arguments,  # for the tasks that follow
        "rows": rows,
        "charge": {name: charge[name] for name in ("epsilon", "delta")},
        "budget": {name: budget[name] for name in ("name", "spent", "remaining", "after_run_if_all_new", "fits")},
    }


def report_shown(report: dict[str, Any], say: Any) -> dict[str, Any]:
    """What is published: metadata of the target's asset."""
    for one in report["releases"]:
        which = (one["release_id"][:12], one["partition"] or "whole table", one["rows"])
        say("release %s of %s: %d rows, epsilon %.4g at delta %g, %d checks passed",
            *which, one["epsilon"], one["delta"], one["checks_passed"])  # fmt: skip
    if budget := report["budget"]:
        say("budget %s: spent %.4g; remaining %.4g", budget["name"], budget["spent"], budget["remaining"])
    return report


SHOWN = {"plan": plan_shown, "report": report_shown}
