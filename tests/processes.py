"""`noiselib run` as a command of its own, and what /proc says of it, its Java and its workers while it runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from small_pipeline import Small


@dataclass
class Watched:
    """A finished command. `peak`: the most memory, in bytes, that all its processes held at one moment; `held`: by which."""

    code: int = -1
    out: str = ""
    err: str = ""
    peak: int = 0
    held: dict[str, int] = field(default_factory=dict)
    commands: set[bytes] = field(default_factory=set)
    environments: set[bytes] = field(default_factory=set)


def watched(small: Small, environment: dict[str, str], *arguments: str, seconds: float = 600) -> Watched:
    """Run the small pipeline in a session of processes of its own, looked at four times a second until all of them end.

    Java ends after the command, and closes its event log and removes its scratch files meanwhile.
    """
    command = [sys.executable, "-m", "noiselib.cli", "run", str(small.spec_file), *arguments]
    command += ["--results", str(small.home / "run_results.json")]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PYSPARK")}
    seen, ends = Watched(), time.monotonic() + seconds
    with open(small.home / "stdout", "wb") as out, open(small.home / "stderr", "wb") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=clean | environment, start_new_session=True)
        while process.poll() is None:
            _look(process.pid, seen)
            if time.monotonic() > ends:
                os.killpg(process.pid, 9)
            time.sleep(0.25)
    while any(of_session(process.pid)) and time.monotonic() < ends:
        time.sleep(0.1)
    seen.code, seen.out, seen.err = process.returncode, _text(small.home / "stdout"), _text(small.home / "stderr")
    return seen


def _look(leader: int, seen: Watched) -> None:
    held: dict[str, int] = {}
    for place in of_session(leader):
        command = read(place / "cmdline")
        seen.commands.add(command)
        seen.environments.add(read(place / "environ"))
        kind = " ".join(command.decode(errors="replace").split("\0")[:3])[-40:]
        held[kind] = held.get(kind, 0) + _proportional(place)
    if sum(held.values()) > seen.peak:
        seen.peak, seen.held = sum(held.values()), held


def _proportional(place: Path) -> int:
    """Bytes of a process in memory; of those it shares with others, its part, so that forked workers add up rightly."""
    found = re.search(rb"^Pss: +([0-9]+) kB", read(place / "smaps_rollup"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def of_session(leader: int) -> Iterator[Path]:
    """The places in /proc of the processes of a session that have not ended."""
    for place in Path("/proc").glob("[0-9]*"):
        fields = read(place / "stat").rpartition(b")")[2].split()
        if len(fields) > 3 and int(fields[3]) == leader and fields[0] != b"Z":
            yield place


def read(file: Path) -> bytes:
    """Of a process that may have ended meanwhile: then nothing."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return b""


def _text(file: Path) -> str:
    return file.read_text(errors="surrogateescape")
