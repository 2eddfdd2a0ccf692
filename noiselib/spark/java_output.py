"""What Java, Spark's log and the Python workers print: shown line by line on stderr, but for Java's chatter while it starts.

Java and Spark announce modules and log levels there, and no setting stops them. So lines that come before the session is there
are kept back, and shown if it never comes; an error of Spark's log, and all that comes later, is shown at once.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from contextlib import suppress

from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway

ERRORS = ("spark ERROR", "spark FATAL")  # as log4j2.properties has it


class JavaOutput:
    """What the Java that `launch` starts prints, read by a thread until that Java ends.

    To stdout as well, where it says why it cannot start: stdout is the command's answer.
    """

    def __init__(self, show: Callable[[str], None], keep_back: bool) -> None:
        self._show, self._keep_back = show, keep_back
        self._kept: list[str] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def launch(self, settings: dict[str, str]) -> None:
        """Start Java where none runs yet, told `settings`. Raises what PySpark raises if it does not start."""
        if SparkContext._gateway is not None:
            return
        reading, writing = os.pipe()
        self._thread = threading.Thread(target=self._read, args=(reading,), daemon=True)
        self._thread.start()
        atexit.register(self._end)
        try:
            conf = SparkConf(loadDefaults=False).setAll(list(settings.items()))
            gateway = launch_gateway(conf, {"stdout": writing, "stderr": writing})  # type: ignore[no-untyped-call]
            SparkContext._ensure_initialized(gateway=gateway)
        finally:
            os.close(writing)

    def started(self) -> None:
        """The session is there: what was kept back was chatter."""
        with self._lock:
            self._kept, self._keep_back = [], False

    def failed(self) -> None:
        """No session came: what was kept back says why. A Java that has ended is read to its end."""
        if self._thread is not None:
            self._thread.join(1.0)
        with self._lock:
            for line in self._kept:
                self._show(line)
            self._kept, self._keep_back = [], False

    def _end(self) -> None:
        """A thread that writes while the interpreter ends would abort it."""
        with self._lock:
            self._show = lambda _: None

    def _read(self, reading: int) -> None:
        with (
            os.fdopen(reading, encoding="utf-8", errors="replace") as lines,
            suppress(ValueError),
        ):  # sys.stderr is closed
            for line in lines:
                with self._lock:
                    keep = self._keep_back and not line.startswith(ERRORS)
                    (self._kept.append if keep else self._show)(line.rstrip("\n"))
