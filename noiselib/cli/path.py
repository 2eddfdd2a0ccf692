"""The commands that take steps of the path, and write run_results.json whatever happens."""

from __future__ import annotations

import argparse
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from noiselib.cli.log import log, progress
from noiselib.cli.names import partitions, spec_file
from noiselib.cli.signals import Interrupted
from noiselib.cli.spark import open_spark
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
    """Take the command's steps, and write run_results.json whatever happens."""
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    run: Run | None = None
    nothing = {"epsilon": 0.0, "delta": 0.0}
    outcome: dict[str, Any] = {"status": "failed", "pipeline": str(arguments.pipeline), "rows_in": 0, "rows_out": 0}
    outcome |= {"charge": nothing, "target": None, "manifest": None, "releases": []}
    try:
        from noiselib.spark import path, session  # takes seconds
        from noiselib.spark.manifest import results
        from noiselib.spark.run import prepare

        run = prepare(spec_file(arguments.pipeline), partitions(arguments.partition), progress(began))
        key = run.spec.key
        session.check_conf(arguments.spark_conf, key)  # here too: before anything is reserved
        name, run.take_over = run.spec.pipeline, arguments.take_over
        path.walk(run, lambda: open_spark(arguments, name, key), STEPS[arguments.step])
        outcome = results(run, "success")
    except BaseException as error:
        status = _status(error)
        if run is not None:
            outcome = results(run, status)
        text = str(error) if isinstance(error, (NoiselibError, Interrupted)) else type(error).__name__
        outcome |= {"status": status, "error": {"type": type(error).__name__, "message": text}}
        raise
    finally:
        outcome |= {"started": started, "seconds": round(time.monotonic() - began, 3)}
        _write_results(arguments.results, outcome)
        if arguments.json:
            print(json.dumps(outcome))
    if not arguments.json:
        _print_outcome(outcome)
    return 0


def _status(error: BaseException) -> str:
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


def _write_results(path: Path, outcome: dict[str, Any]) -> None:
    """Where they cannot be written, what the run itself came to is still told."""
    try:
        _write(path, outcome)
    except OSError as error:
        log(f"run results {path}: not written ({error.strerror})")
