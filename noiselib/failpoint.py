"""Failpoints: named places where a test ends this very process, as a power cut would. For tests only.

    NOISELIB_FAILPOINT=after_stage            the process kills itself there (SIGKILL)
    NOISELIB_FAILPOINT=after_stage:SIGTERM    it sends itself another signal: to be stopped (SIGSTOP) or interrupted there

Inert unless the variable is set. A failpoint marks a state that a crash can leave behind; tests/faults visits each.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "NOISELIB_FAILPOINT"
FAILPOINTS = (
    "after_reserve",  # the ledger holds the charge, nothing is made
    "after_inspect",  # the input was looked at, no noise is drawn
    "after_write",  # Spark has written the noised rows, none is staged
    "while_staging",  # the first release is staged, others may not be
    "after_stage",  # all are staged, the ledger was not told
    "after_check",  # all are checked
    "after_quarantine",  # a failed release was put away, the ledger was not told
    "before_publish",  # the ledger knows that publishing begins
    "while_building",  # the next version is half made
    "before_swap",  # the next version is whole, readers see the old one
    "after_swap",  # readers see the new version, older ones are not removed
    "after_publish",  # published, the ledger was not told
    "after_commit",  # the ledger was told of the first release, its staged rows are still there
)


def failpoint(name: str) -> None:
    """Send this process the signal, if the failpoint `name` (one of FAILPOINTS) is armed."""
    armed, _, what = os.environ.get(VARIABLE, "").partition(":")
    if armed == name:
        os.kill(os.getpid(), signal.Signals[what or "SIGKILL"])
