"""One line of the log, before anyone decides how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["debug", "info", "warning", "error"]  # debug: for machines, a line for each release


@dataclass(frozen=True)
class LogEntry:
    """What a step of the path has to say: `text` to people, `fields` (pipeline, release, partition, counts) to machines.

    Neither holds a value of the data, nor a count of what was clipped: the log is read by more people than the operator.
    """

    step: str
    text: str
    level: Level = "info"
    fields: Mapping[str, Any] = field(default_factory=dict)


Say = Callable[[LogEntry], None]
