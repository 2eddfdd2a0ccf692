"""`noiselib ls`: each pipeline with where its releases stand and what is left of its budget. Reads no row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from noiselib.errors import NoiselibError
from noiselib.pipelines import reading, standing
from noiselib.report.ledger_text import account_of, table
from noiselib.selection import Graph, Pipeline
from noiselib.snapshot import Locate
from noiselib.spec import load_spec
from noiselib.targets import open_target


def listing(
    pipelines: Sequence[Pipeline], graph: Graph, key: str | None = None, locate: Locate | None = None
) -> list[dict[str, Any]]:
    """One entry for each, in the order given. What cannot be told is None, and `problem` says why."""
    return [_entry(pipeline, graph[pipeline.name], key, locate) for pipeline in pipelines]


def _entry(pipeline: Pipeline, depends_on: Sequence[str], key: str | None, locate: Locate | None) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "pipeline": pipeline.name,
        "file": str(pipeline.file),
        "broken": pipeline.problem is not None,
        "tags": list(pipeline.tags),
        "purpose": pipeline.purpose or None,
        "source": None,
        "target": None,
        "depends_on": list(depends_on),
        "partitions": None,
        "last_published": None,
        "budget": None,
        "problem": pipeline.problem,
    }
    if pipeline.problem is not None:
        return entry
    spec, _ = load_spec(pipeline.file)
    entry |= {"source": spec.source.path, "target": spec.target.path}
    try:
        with reading(spec):
            manifests = open_target(spec).manifests()
            entry["last_published"] = max((manifest["published"] for manifest in manifests), default=None)
            entry["budget"] = account_of(spec)
            entry["partitions"] = dict(sorted(Counter(standing(pipeline.file, key, locate).values()).items()))
    except NoiselibError as error:
        entry["problem"] = str(error)
    return entry


def listing_text(entries: Sequence[dict[str, Any]]) -> str:
    """The entries as a table."""
    return table([_line(entry) for entry in entries]) if entries else "(no pipeline)"


def _line(entry: dict[str, Any]) -> dict[str, Any]:
    partitions, budget = entry["partitions"], entry["budget"]
    counts = None if partitions is None else ", ".join(f"{n} {state}" for state, n in partitions.items()) or "none"
    return {
        "pipeline": entry["pipeline"],
        "tags": " ".join(entry["tags"]),
        "purpose": entry["purpose"],
        "partitions": "broken" if entry["broken"] else counts or "not known",
        "last published": entry["last_published"],
        "budget": budget and budget["name"],
        "epsilon left": budget and f"{budget['remaining']:.4g} of {budget['limit']['epsilon']:g}",
        "depends on": " ".join(entry["depends_on"]),
        "source": entry["source"],
        "target": entry["target"],
    }
