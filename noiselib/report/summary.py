"""`noiselib report`: what is published of a pipeline now, release by release, and what its budget has left."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noiselib.errors import NoiselibError
from noiselib.report.ledger_text import account_of, table
from noiselib.snapshot import is_wanted
from noiselib.spec import load_spec
from noiselib.targets import open_target


def summary_data(spec_file: Path, wanted: Sequence[dict[str, str]], release: str | None = None) -> dict[str, Any]:
    """The published releases of the chosen partitions, or the one whose id begins with `release`. Raises NoiselibError if
    there is none.
    """
    spec, _ = load_spec(spec_file)
    manifests = open_target(spec).manifests()
    by = spec.source.partition_by
    chosen = [
        one
        for one in manifests
        if _chosen(one["partition"], by, wanted) and one["release_id"].startswith(release or "")
    ]
    if not chosen:
        named = (
            release or " or ".join("/".join(f"{k}={v}" for k, v in one.items()) for one in wanted) or "any partition"
        )
        raise NoiselibError(
            f"target {spec.target.path}: nothing of {named} is published; expected a run before a report"
        )
    return {
        "pipeline": spec.pipeline,
        "purpose": spec.purpose,
        "target": spec.target.path,
        "releases": [_summary(one) for one in sorted(chosen, key=lambda one: str(one["partition"]))],
        "budget": account_of(spec),
    }


def _chosen(partition: str, partition_by: Sequence[str], wanted: Sequence[dict[str, str]]) -> bool:
    """Whether the partition, by its text, is one of those wanted; a value may hold a slash."""
    found = re.fullmatch("/".join(f"{re.escape(name)}=(.*)" for name in partition_by), partition)
    values = dict(zip(partition_by, found.groups(), strict=True)) if found else {}
    return not wanted or any(all(_is(values.get(name), text) for name, text in one.items()) for one in wanted)


def _is(value: str | None, wanted: str) -> bool:
    number = int(value) if value is not None and re.fullmatch("-?[0-9]{1,19}", value) else None
    return value == wanted or (number is not None and is_wanted(number, wanted))


def _summary(manifest: dict[str, Any]) -> dict[str, Any]:
    """A release's charge is what it costs by itself; the budget composes them, tighter than their sum."""
    charge, checks = manifest["charge"] or {"epsilon": 0.0, "delta": 0.0}, manifest["checks"]
    named = {
        name: manifest[name] for name in ("release_id", "partition", "rows", "content_digest", "key_id", "published")
    }
    failed = [
        check["check"] for check in checks if not check["success"]
    ]  # of severity warn: else it were not published
    return named | {
        "epsilon": charge["epsilon"],
        "delta": charge["delta"],
        "checks_passed": len(checks) - len(failed),
        "checks_warned": failed,
    }


def summary_text(data: dict[str, Any]) -> str:
    shown = [
        {
            "release": one["release_id"][:12],
            "partition": one["partition"] or "whole table",
            "rows": one["rows"],
            "epsilon": one["epsilon"],
            "delta": one["delta"],
            "checks": f"{one['checks_passed']} passed"
            + (f", {len(one['checks_warned'])} warned" if one["checks_warned"] else ""),
            "published": one["published"],
        }
        for one in data["releases"]
    ]
    lines = [f"pipeline {data['pipeline']} ({data['purpose']}): {data['target']}", table(shown)]
    if budget := data["budget"]:
        lines.append(
            f"budget {budget['name']}: spent {budget['spent']:.4g} of epsilon {budget['limit']['epsilon']:g} at delta "
            f"{budget['limit']['delta']:g}; remaining {budget['remaining']:.4g}"
        )
    return "\n".join(lines)
