"""Run one command. stdout is the answer, stderr the log; exit codes are those of the errors."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from noiselib.cli.failures import told
from noiselib.cli.log import log
from noiselib.cli.parser import make_parser
from noiselib.cli.signals import interruptible
from noiselib.errors import SpecError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failure, 2 usage or spec, 3 checks, 4 over budget, 5 held.

    After a signal it is 128 + its number, as the shell counts: 130 for Ctrl-C, 143 for SIGTERM.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)  # some libraries set their own loggers lower
    logging.basicConfig(handlers=[handler], format="%(message)s")
    arguments = make_parser().parse_args(argv)
    try:
        with interruptible():
            _enter(arguments.directory)
            return int(arguments.command(arguments))
    except KeyboardInterrupt as error:
        log(f"interrupted ({error or 'SIGINT'}): what was reserved stays reserved; run again to resume")
        return int(getattr(error, "exit_code", 130))
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
