"""One false-alarm rate for the whole suite: how small a p-value must be to raise an alarm, and how many may be looked at.

Keys are fixed, so a test that passes keeps passing. Were they fresh, some right sampler would be accused with probability
at most MOST_LOOKS * ALARM, whatever depends on what (Boole). That is half of RATE: the other half is room for p-values that
are the limit theorems' and not exact. Looks are counted as they happen, those at planted bugs too, and a session that takes
more of them than MOST_LOOKS fails (see conftest.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import NormalDist
from typing import Any

import pytest

RATE = 1e-9
MOST_LOOKS = 5000
ALARM = RATE / 2 / MOST_LOOKS
SIGMAS = -NormalDist().inv_cdf(ALARM / 2)  # how far a normal variable has to be off, on either side

looked = 0  # by this process so far


def alarms(p_values: Mapping[str, float]) -> set[str]:
    """The names of the p-values that raise an alarm; no number (NaN) raises one, too."""
    global looked
    looked += len(p_values)
    return {name for name, p in p_values.items() if not p >= ALARM}


def alarm(p_value: float) -> bool:
    return bool(alarms({"": p_value}))


def far(distance: float, standard_error: float) -> bool:
    """Whether an estimate lies more than SIGMAS standard errors off."""
    global looked
    looked += 1
    return not abs(distance) <= SIGMAS * standard_error


class Looks:
    """A pytest plugin that adds up the looks of all of a session's processes and fails it if there are too many."""

    def __init__(self) -> None:
        self.of_workers = 0

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """A worker of pytest-xdist has ended."""
        self.of_workers += getattr(node, "workeroutput", {}).get("looks", 0)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if hasattr(session.config, "workeroutput"):
            session.config.workeroutput["looks"] = looked
        elif self.of_workers + looked > MOST_LOOKS and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        total = self.of_workers + looked
        if total > MOST_LOOKS:
            terminalreporter.write_line(f"{total} p-values looked at, expected at most {MOST_LOOKS}", red=True)
        elif total:
            terminalreporter.write_line(
                f"{total} p-values looked at: a false alarm with probability below {total * ALARM:.1g}, had the keys been fresh"
            )
