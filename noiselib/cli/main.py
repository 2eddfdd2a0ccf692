"""Run one command. stdout is the answer, stderr the log; exit codes are those of the errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from noiselib.cli.failures import told
from noiselib.cli.log import FORMS, asked_form, log, set_up
from noiselib.cli.parser import make_parser
from noiselib.cli.signals import interruptible
from noiselib.errors import SpecError, exit_code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failure, 2 usage or spec, 3 checks, 4 over budget, 5 held.

    After a signal it is 128 + its number, as the shell counts: 130 for Ctrl-C, 143 for SIGTERM.
    """
    arguments = make_parser().parse_args(argv)
    set_up(arguments.log or FORMS[0])
    try:
        with interruptible():
            set_up(asked_form(arguments.log))
            _enter(arguments.directory)
            return int(arguments.command(arguments))
    except KeyboardInterrupt as error:
        code, signal = exit_code(error), str(error) or "SIGINT"
        log(f"interrupted ({signal}): what was reserved stays reserved; run again to resume", "error", exit_code=code)
        return code
    except BrokenPipeError:  # the reader of stdout has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        return told(error, arguments.directory)


def _enter(directory: Path) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        raise SpecError(f"--directory {directory}: {error.strerror}; expected a directory") from None
