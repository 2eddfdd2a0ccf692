"""One line of the doctor's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

GIB = 1 << 30


@dataclass(frozen=True)
class Finding:
    """`what` was looked at, its `state`, what was `found`, and the `remedy`: a command, wherever one mends it."""

    what: str
    state: Literal["ok", "warning", "failure"]
    found: str
    remedy: str = ""


def ok(what: str, found: str) -> Finding:
    return Finding(what, "ok", found)


def warning(what: str, found: str, remedy: str) -> Finding:
    return Finding(what, "warning", found, remedy)


def failure(what: str, found: str, remedy: str) -> Finding:
    return Finding(what, "failure", found, remedy)


def text(findings: Sequence[Finding]) -> str:
    """A line each, its remedy below it; then how many there are of each state."""
    width = max((len(one.what) for one in findings), default=0)
    lines = []
    for one in findings:
        lines.append(f"{one.state:7}  {one.what:{width}}  {one.found}")
        if one.remedy:
            lines.append(f"{'':7}  {'':{width}}  -> {one.remedy}")
    counts = {state: sum(one.state == state for one in findings) for state in ("ok", "warning", "failure")}
    return "\n".join([*lines, ", ".join(f"{number} {state}" for state, number in counts.items())])


def gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
