"""Every error a user can meet, each with its exit code.

A message names the thing, its value, what was expected and where. It never holds a raw value of the data or key material.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice

SHOWN_PROBLEMS = 100
SHOWN_NAMES = 50


def told(problems: Collection[str]) -> str:
    """Problems as one message, a line each; of very many the first only, so that no input makes a message of its own size."""
    more = len(problems) - SHOWN_PROBLEMS
    return "\n".join([*islice(problems, SHOWN_PROBLEMS), *([f"and {more} problems more"] if more > 0 else [])])


def choice(names: Collection[str], shown: int = SHOWN_NAMES) -> str:
    """What a name could have been, of very many the first only."""
    more = len(names) - shown
    return ", ".join([*islice(names, shown), *([f"and {more} more"] if more > 0 else [])])


def exit_code(error: BaseException | None) -> int:
    """What a command that ended by `error` tells the shell: 0 without one, 128 + its number after a signal."""
    if error is None:
        return 0
    return int(getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1))


class NoiselibError(Exception):
    """A handled failure: shown as one message without a traceback. Exit code 1."""

    exit_code = 1


class SpecError(NoiselibError):
    """The spec or the command line is wrong; every problem found is listed, each as `file:line: what`. Exit code 2."""

    exit_code = 2


class InputError(NoiselibError):
    """The source table is not what the spec says: a missing table or column, a wrong type, duplicate row keys. Exit code 1."""


class NoiseKeyError(NoiselibError):
    """The noise key is missing, malformed, readable by others, or not the one the release was begun with. Exit code 1."""


class LedgerError(NoiselibError):
    """The ledger is missing, locked, damaged or of an unknown schema: nothing is spent. Exit code 1."""


class ChecksFailed(NoiselibError):
    """A check on the staged table failed or did not run: the release is quarantined, nothing is published. Exit code 3."""

    exit_code = 3


class OverBudget(NoiselibError):
    """The charge does not fit the budget: nothing is reserved and no noise is drawn. Exit code 4."""

    exit_code = 4


class ReleaseHeld(NoiselibError):
    """Another run works on this release. Exit code 5."""

    exit_code = 5
