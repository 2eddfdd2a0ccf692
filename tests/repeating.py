"""Something that happens again and again while a test works."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeating(work: Callable[[], None], pause: Callable[[], float]) -> Iterator[None]:
    """`work`, in a thread of its own, after every pause (in seconds), until the block ends."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(pause()):
            work()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
