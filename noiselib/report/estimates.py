"""`noiselib estimate`: what a release says about its data, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from noiselib.report.ledger_text import table


def estimates_text(releases: Sequence[dict[str, Any]]) -> str:
    """Per release its estimates: value, standard error and the confidence interval's ends."""
    parts = []
    for release in releases:
        named = release["partition"] or "whole table"
        biased = "" if release["option"] == "raw" else f"; option {release['option']}: biased, so without errors"
        head = f"release {release['release_id'][:12]} ({named}), {release['rows']} rows{biased}"
        parts.append(f"{head}\n{table([_line(entry) for entry in release['estimates']])}")
    return "\n\n".join(parts)


def _line(entry: dict[str, Any]) -> dict[str, Any]:
    of = entry["of"]
    shown = " to ".join(f"{end:.6g}" for end in of) if isinstance(of, list) else of
    numbers = {name: entry[name] for name in ("value", "standard_error", "low", "high")}
    return {"column": entry["column"], "estimate": entry["estimate"], "of": shown, **numbers}
