"""The log: lines on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def progress(began: float) -> Callable[[str], None]:
    """A line per step, with the seconds since the start."""
    return lambda line: log(f"{time.monotonic() - began:6.1f}s  {line}")
