"""`noiselib estimate`: what a release says about its data, as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from noiselib.report.ledger_text import table


def estimates_text(releases: Sequence[dict[str, Any]]) -> str:
    """Per release its estimates: value, standard error and the confidence interval's ends; below, why some have none."""
    return "\n\n".join(_release(release) for release in releases)


def _release(release: dict[str, Any]) -> str:
    entries, named = release["estimates"], release["partition"] or "whole table"
    lines = [f"release {release['release_id'][:12]} ({named}), {release['rows']} rows"]
    answered = [_line(entry) for entry in entries if entry["estimate"] is not None]
    lines += [table(answered)] if answered else []
    notes = [
        f"{entry['column']}: {'' if entry['estimate'] else 'no estimate: '}{entry['why']}"
        for entry in entries
        if entry["why"]
    ]
    return "\n".join([*lines, *dict.fromkeys(notes)])


def _line(entry: dict[str, Any]) -> dict[str, Any]:
    of = entry["of"]
    shown = " to ".join(f"{end:.6g}" for end in of) if isinstance(of, list) else of
    numbers = {name: entry[name] for name in ("value", "standard_error", "low", "high")}
    return {"column": entry["column"], "estimate": entry["estimate"], "of": shown, **numbers}
