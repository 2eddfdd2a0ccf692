"""Who works on a release: a process, told from every other one, and whether it still lives."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Holder:
    """The process that works on a release. `started` tells it from a later process with its pid."""

    host: str
    pid: int
    started: str

    @staticmethod
    def current() -> Holder:
        """This process."""
        return Holder(socket.gethostname(), os.getpid(), _process_start(os.getpid()))

    def alive(self) -> bool | None:
        """Whether the process runs; None where that cannot be known from here (another host or container)."""
        here = Holder.current()
        # Boot and pid namespace: another container or machine may share the host name, but not these.
        place = here.started.rpartition("/")[0]
        if self.host != here.host or not place or self.started.rpartition("/")[0] != place:
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except OSError:
            pass  # it is another user's
        started = _process_start(self.pid)
        return started == self.started if started else None

    def dead(self) -> bool:
        """Whether the process surely has ended; False where that cannot be known from here."""
        return self.alive() is False


def _process_start(pid: int) -> str:
    """Boot id / pid namespace / start in clock ticks, or "ended" for a zombie; "" where /proc does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        namespace = os.readlink("/proc/self/ns/pid")
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # the name may hold anything
    except OSError:
        return ""
    return f"{boot}/{namespace}/{'ended' if fields[0] in 'ZX' else fields[19]}"
