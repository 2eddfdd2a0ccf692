"""What an accountant makes of a list of events."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from noiselib.accounting.event import Event

Parts = tuple[tuple[Event, int], ...]


@dataclass(frozen=True)
class Law:
    """The ideal law of events together: its delta(e) is at most exp(growth) * (delta(e - shift) + extra + slack)."""

    delta: Callable[[float], float]
    epsilon: Callable[[float], float]
    growth: float = 0.0
    shift: float = 0.0
    extra: float = 0.0
