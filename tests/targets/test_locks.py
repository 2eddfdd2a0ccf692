"""The locks of a workspace: shared or alone, waited for within bounds, and telling who has them."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from noiselib.errors import ReleaseHeld
from noiselib.targets.locks import locked

pytestmark = pytest.mark.faults


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "home" / "some.lock"


@pytest.mark.parametrize(
    ("first", "second", "together"),
    [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
)
def test_only_shares_go_together(file, first, second, together):
    taken = False
    with locked(file, "table", first), suppress(ReleaseHeld), locked(file, "table", second):
        taken = True
    assert taken == together
    with locked(file, "table"):
        pass


def test_who_holds_it_is_named(file):
    with locked(file, "target out: publishing"):
        named = rf"target out: publishing is held by process {os.getpid()} on {socket.gethostname()} since \d{{4}}-.+ after waiting"
        with pytest.raises(ReleaseHeld, match=named), locked(file, "target out: publishing", seconds=0.2):
            pass


def test_it_is_waited_for_as_long_as_is_said(file):
    held, enough = threading.Event(), threading.Event()

    def other() -> None:
        with locked(file, "table"):
            held.set()
            enough.wait(30)

    thread = threading.Thread(target=other)
    thread.start()
    assert held.wait(30)
    began = time.monotonic()
    with pytest.raises(ReleaseHeld), locked(file, "table", seconds=0.3):
        pass
    assert time.monotonic() - began >= 0.3
    threading.Timer(0.2, enough.set).start()
    with locked(file, "table", seconds=30):
        pass
    thread.join()


def test_it_ends_with_its_process(file):
    child = os.fork()
    if child == 0:
        locked(file, "table").__enter__()
        os._exit(0)
    os.waitpid(child, 0)
    assert str(child) in file.read_text()
    with locked(file, "table"):
        pass
