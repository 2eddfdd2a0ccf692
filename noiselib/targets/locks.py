"""A lock on a file: it ends with the process that holds it, however that ends, and the file says who took it last."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from noiselib.errors import ReleaseHeld

PAUSE_SECONDS = 0.05


@contextmanager
def locked(file: Path, what: str, shared: bool = False, seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock, or a share of it, while the block runs. Its directory is made.

    what: the thing that is locked, for the message
    seconds: how long to wait for others

    Raises ReleaseHeld, naming who took it last, if others still hold it then.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _take(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, what, seconds)
        with suppress(OSError):  # the disk is full: who holds it is of less moment than the lock, which gc needs then
            os.truncate(handle, 0)
            os.pwrite(handle, _ourselves().encode(), 0)
        yield
    finally:
        os.close(handle)


def _take(handle: int, kind: int, what: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                by = os.pread(handle, 1000, 0).decode("utf-8", "replace") or "a process unknown"
                waited = f", after waiting for {seconds:g} s" if seconds else ""
                raise ReleaseHeld(f"{what} is held by {by}{waited}") from None
        time.sleep(PAUSE_SECONDS)


def _ourselves() -> str:
    return f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC).isoformat(timespec='seconds')}"
