"""`noiselib run` of several pipelines: one after another, each after those that make its source, in one Spark session.

A pipeline is prepared when its turn comes, since what is upstream changes the snapshot that it reads.
"""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING, Any

from noiselib.cli import path
from noiselib.cli.chosen import chosen, one
from noiselib.cli.failures import common, told
from noiselib.cli.log import about, log
from noiselib.cli.names import partitions
from noiselib.cli.observe import Observers
from noiselib.errors import SpecError

if TYPE_CHECKING:
    from noiselib.selection import Graph, Pipeline


def run(arguments: argparse.Namespace) -> int:
    """One pipeline that is named, as ever; else all that are chosen, with one answer about all of them."""
    if (pipeline := one(arguments)) is not None:
        return path.walk(argparse.Namespace(**vars(arguments) | {"pipeline": pipeline}))
    began, started = time.monotonic(), path.now()
    results: list[dict[str, Any]] = []
    outcome: dict[str, Any] = {"status": "failed", "pipelines": results}
    try:
        partitions(arguments.partition)  # what is wrong with them is wrong for every pipeline
        pipelines, project = chosen(arguments)
        Observers.asked(arguments).demand_files_for(len(pipelines))
        code = _run_each(arguments, pipelines, project.graph, results)
        outcome["status"] = "failed" if code else "success"
    except BaseException as error:
        outcome |= {"status": path.status_of(error), "error": path.described(error)}
        raise
    finally:
        outcome |= {"started": started, "seconds": round(time.monotonic() - began, 3)}
        path.answer(arguments, outcome)
    if not arguments.json:
        print(summary(results))
    return code


def _run_each(
    arguments: argparse.Namespace, pipelines: list[Pipeline], graph: Graph, results: list[dict[str, Any]]
) -> int:
    """Adds one result for each of `pipelines`, also where a signal ends this; the exit code of all."""
    codes: dict[str, int] = {}
    try:
        for pipeline in pipelines:
            about(pipeline=pipeline.name, step="plan")
            reason = _why_not(pipeline, graph, [name for name, code in codes.items() if code], arguments.fail_fast)
            if reason:
                log(f"{pipeline.name}: skipped, {reason}")
                results.append({**path.nothing_of(pipeline.name, "skipped"), "reason": reason})
                continue
            log(f"{pipeline.name}: {len(results) + 1} of {len(pipelines)}")
            codes[pipeline.name] = _run_one(arguments, pipeline, results)
        about(pipeline=None, step=None)  # what follows is about all of them
    except KeyboardInterrupt:
        left = pipelines[len(results) :]
        results += [{**path.nothing_of(one.name, "skipped"), "reason": "interrupted before it began"} for one in left]
        raise
    return common(codes.values())


def _why_not(pipeline: Pipeline, graph: Graph, failed: list[str], fail_fast: bool) -> str | None:
    from noiselib.selection import upstream

    above = upstream(graph, [pipeline.name])
    if unmade := [name for name in failed if name in above]:
        return f"it depends on {', '.join(unmade)}, which failed"
    return f"{failed[0]} failed, and --fail-fast" if failed and fail_fast else None


def _run_one(arguments: argparse.Namespace, pipeline: Pipeline, results: list[dict[str, Any]]) -> int:
    """The exit code that the pipeline would have alone."""
    try:
        if pipeline.problem:
            error = SpecError(pipeline.problem)
            results.append({**path.nothing_of(pipeline.name, "failed"), "error": path.described(error)})
            raise error
        path.take(arguments, str(pipeline.file), results.append, pipeline.name)
    except Exception as error:
        return told(error, arguments.directory)
    return 0


def summary(results: list[dict[str, Any]]) -> str:
    """A line for each pipeline, and one for all."""
    from noiselib.report.ledger_text import table

    if not results:
        return "no pipeline is selected: nothing to do"
    lines = [_line(result) for result in results]
    counts = ", ".join(
        f"{sum(one['status'] == status for one in results)} {status}"
        for status in dict.fromkeys(one["status"] for one in results)
    )
    return f"{table(lines)}\n{len(results)} pipelines: {counts}"


def _line(result: dict[str, Any]) -> dict[str, Any]:
    statuses = [release["status"] for release in result["releases"]]
    return {
        "pipeline": result["pipeline"],
        "status": result["status"],
        "published": statuses.count("published"),
        "unchanged": statuses.count("unchanged"),
        "rows": result["rows_out"],
        "epsilon added": f"{result['charge']['epsilon']:.4g}",
        "seconds": f"{result.get('seconds', 0):.1f}",
    }
