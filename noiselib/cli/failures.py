"""What a failure is told as, and the exit code it has."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from noiselib.cli.log import log
from noiselib.errors import NoiselibError


def told(error: Exception, directory: Path) -> int:
    """Log what went wrong; the exit code. Raises the error itself where its traceback is asked for."""
    if isinstance(error, NoiselibError):
        log(str(error), "error", error=type(error).__name__, exit_code=error.exit_code)
        return error.exit_code
    if isinstance(error, OSError):  # a full disk, a place that may not be written: the step is run again
        what = f"{error.filename or directory}: {error.strerror or type(error).__name__}"
        log(f"{what}: stopped; run again to resume", "error", exit_code=1)
        return 1
    if os.environ.get("NOISELIB_TRACEBACK"):
        raise error
    what = f"unexpected {type(error).__name__}{_condition(error)}"
    log("NOISELIB_TRACEBACK=1 shows the traceback; keep it private, it may hold values of the data")
    log(f"{what}: stopped; what was reserved stays reserved, run again to resume", "error", exit_code=1)
    return 1


def common(codes: Collection[int]) -> int:
    """One exit code for several: that of the failures, where all have the same; 1 where they differ; 0 without any."""
    failures = {code for code in codes if code}
    return failures.pop() if len(failures) == 1 else int(bool(failures))


def _condition(error: Exception) -> str:
    """Spark's name for what went wrong, without the message: that may quote values."""
    condition = getattr(error, "getCondition", lambda: None)()
    return f" ({condition})" if condition else ""
