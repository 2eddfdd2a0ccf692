"""Signals that ask the process to end unwind it, and end what it started."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a request to end: what unwinds the stack after a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """Signals that ask a process to end unwind it. One that is ignored already, as under nohup, stays so."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        _listen()
        yield
    finally:
        logging.disable(logging.NOTSET)
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen() -> None:
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _frame: object) -> None:
    """Nothing that we started outlives us, so Spark goes first. Another signal now would only stop the tidying up."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    logging.disable()  # Py4J would complain of the connection that is cut now
    if session := sys.modules.get("noiselib.spark.session"):
        session.end_session()
    raise Interrupted(number)
