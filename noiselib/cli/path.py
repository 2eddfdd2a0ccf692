"""The commands that take steps of the path, and write run_results.json whatever happens."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noiselib.cli.log import about, log, progress
from noiselib.cli.names import name_of, partitions, spec_file
from noiselib.cli.observe import Observers
from noiselib.cli.signals import Interrupted
from noiselib.cli.spark import locator, open_spark
from noiselib.errors import ChecksFailed, NoiselibError

if TYPE_CHECKING:
    from noiselib.spark.run import Run


STEPS = {  # command -> the steps of the path that it takes, after reserving
    "run": ("perturb", "check", "publish"),
    "reserve": (),
    "perturb": ("perturb",),
    "check": ("check",),
    "publish": ("publish",),
}


def walk(arguments: argparse.Namespace) -> int:
    """Take the command's steps of one pipeline, and write run_results.json whatever happens."""
    outcome = take(arguments, str(arguments.pipeline), lambda came: answer(arguments, came))
    if not arguments.json:
        _print_outcome(outcome)
    return 0


def take(
    arguments: argparse.Namespace, pipeline: str, tell: Callable[[dict[str, Any]], None], name: str = ""
) -> dict[str, Any]:
    """Take the command's steps of `pipeline`, whose name is `name` if that is known already. What came of it is told by `tell`,
    also where this then raises.
    """
    began, started = time.monotonic(), now()
    run: Run | None = None
    failure: BaseException | None = None
    observers = Observers(arguments.step)
    outcome = nothing_of(name or pipeline, "failed")
    try:
        outcome["pipeline"] = name = name or name_of(pipeline)
        about(pipeline=name, step="plan")
        observers = Observers.asked(arguments)
        from noiselib.spark import path, session  # takes seconds
        from noiselib.spark.manifest import results
        from noiselib.spark.run import prepare

        where, wanted = spec_file(pipeline), partitions(arguments.partition)
        run = prepare(where, wanted, progress(began), key_reference=arguments.key, locate=locator(arguments))
        key = run.spec.key
        session.check_conf(arguments.spark_conf, key)  # here too: before anything is reserved
        run.take_over = arguments.take_over
        run.on_step = lambda step: about(step=step)
        observers.started(run)
        path.walk(run, lambda: open_spark(arguments, name, key), STEPS[arguments.step])
        outcome = results(run, "success")
    except BaseException as error:
        failure, status = error, status_of(error)
        if run is not None:
            outcome = results(run, status)
        outcome |= {"status": status, "error": described(error)}
        raise
    finally:
        outcome |= {"started": started, "seconds": round(time.monotonic() - began, 3)}
        tell(outcome)
        observers.ended(run, outcome, failure)
    return outcome


def nothing_of(pipeline: str, status: str) -> dict[str, Any]:
    """What came of a pipeline of which nothing came yet."""
    outcome: dict[str, Any] = {"status": status, "pipeline": pipeline, "rows_in": 0, "rows_out": 0}
    return outcome | {"charge": {"epsilon": 0.0, "delta": 0.0}, "target": None, "manifest": None, "releases": []}


def described(error: BaseException) -> dict[str, str]:
    text = str(error) if isinstance(error, (NoiselibError, Interrupted)) else type(error).__name__
    return {"type": type(error).__name__, "message": text}


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def status_of(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "quarantined" if isinstance(error, ChecksFailed) else "failed"


def _print_outcome(outcome: dict[str, Any]) -> None:
    charge = outcome["charge"]
    print(
        f"{outcome['pipeline']}: {outcome['status']}, {outcome['rows_out']} rows in {len(outcome['releases'])} releases"
    )
    print(f"charge added: epsilon {charge['epsilon']:.4g} at delta {charge['delta']:g}")
    print(f"target: {outcome['target']}")


def _write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(data, indent=2) + "\n", "utf-8")
    os.replace(temporary, path)


def answer(arguments: argparse.Namespace, outcome: dict[str, Any]) -> None:
    """Write the results, and print them where JSON is asked for. If they cannot be written, what the run came to is still told."""
    try:
        _write(arguments.results, outcome)
    except OSError as error:
        log(f"run results {arguments.results}: not written ({error.strerror})", "warning")
    if arguments.json:
        print(json.dumps(outcome))
