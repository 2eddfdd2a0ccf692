"""A reader in a process of its own, who looks at published tables all the while.

watch PATH     look at this table from now on, again and again
report         say what was seen since then, in order: [[what, how often], ...] as JSON
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType

from crashing import look

PAUSE = 0.05


class Watch:
    """Looks, and counts what it sees; a change begins a new entry."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.seen: list[list[str | int]] = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        while not self.over.is_set():
            try:
                what = look(self.path)
            except Exception as error:  # whatever a reader would have met
                what = f"error: {error!r}"
            if not self.seen or self.seen[-1][0] != what:
                self.seen.append([what, 0])
            self.seen[-1][1] = int(self.seen[-1][1]) + 1
            time.sleep(PAUSE)

    def end(self) -> list[list[str | int]]:
        self.over.set()
        self.thread.join()
        return self.seen


def main() -> None:
    watch: Watch | None = None
    for line in sys.stdin:
        command, _, path = line.strip().partition(" ")
        seen = watch.end() if watch else []
        watch = Watch(path) if command == "watch" else None
        print(json.dumps(seen), flush=True)


class Reader:
    """The process, as a test uses it."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def watch(self, path: str) -> None:
        self._ask(f"watch {path}")

    def report(self) -> tuple[list[str], int]:
        """What was seen, in order, and how many looks that took."""
        seen = self._ask("report")
        return [what for what, _ in seen], sum(times for _, times in seen)

    def _ask(self, command: str) -> list[tuple[str, int]]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        return [(str(what), int(times)) for what, times in json.loads(self.process.stdout.readline())]

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()


if __name__ == "__main__":
    main()
