"""A real Spark cluster on this machine: the standalone master and two workers of the pip package, each process to be killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

import pyspark
from crashing import MARK, marked, read, send, until

SPARK_CLASS = Path(pyspark.__file__).parent / "bin" / "spark-class"
EXECUTOR, WORKER = b"CoarseGrainedExecutorBackend", b"deploy.worker.Worker"


class Cluster:
    """Two workers of one core. Executors and their Python workers inherit the mark, so none is left behind."""

    def __init__(self, home: Path, environment: Mapping[str, str] | None = None) -> None:
        self.home = home
        self.environment = dict(environment or {})  # of all its processes
        self.mark = uuid.uuid4().hex
        self.workers: list[subprocess.Popen[bytes]] = []
        log = home / "master.log"
        self.master = self._start(log, "127.0.0.1", "org.apache.spark.deploy.master.Master")
        assert until(lambda: b"Starting Spark master at" in read(log), 120), log.read_text()
        self.url = re.findall(r"Starting Spark master at (spark://\S+)", log.read_text())[0]

    def start_worker(self) -> None:
        number = len(self.workers)
        log = self.home / f"worker-{number}.log"
        options = ["--cores", "1", "--memory", "1g", "--work-dir", str(self.home / f"work-{number}"), self.url]
        host = f"127.0.0.{2 + number % 200}"  # its own: Spark starts no copy of a task on the host of the first
        self.workers.append(self._start(log, host, "org.apache.spark.deploy.worker.Worker", *options))
        assert until(lambda: b"Successfully registered" in read(log), 120), log.read_text()

    def two_workers(self) -> Cluster:
        """Itself, with as many workers alive as a test begins with."""
        while len([worker for worker in self.workers if worker.poll() is None]) < 2:
            self.start_worker()
        return self

    def executors(self) -> list[int]:
        return [pid for pid in marked(self.mark) if EXECUTOR in read(Path(f"/proc/{pid}/cmdline"))]

    def launched(self) -> int:
        """How many executors were ever started."""
        return len(list(self.home.glob("work-*/app-*/*/stderr")))

    def kill_worker_of(self, executor: int) -> None:
        """SIGKILL of a worker, of its executor and of that one's Python workers, as when a machine goes."""
        worker = parent(executor)
        for pid in [worker, executor, *descendants(executor, marked(self.mark))]:
            send(pid, signal.SIGKILL)
        until(lambda: any(one.poll() is not None for one in self.workers if one.pid == worker), 30)

    def _start(self, log: Path, host: str, name: str, *options: str) -> subprocess.Popen[bytes]:
        own = {MARK: self.mark, "SPARK_LOCAL_DIRS": str(self.home / "scratch"), "SPARK_LOCAL_IP": host}
        own |= {"SPARK_DAEMON_MEMORY": "256m", "SPARK_DAEMON_JAVA_OPTS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"}
        own |= self.environment
        command = [str(SPARK_CLASS), name, "--host", host, "--port", "0", "--webui-port", "0", *options]
        with open(log, "wb") as out:
            return subprocess.Popen(command, env=os.environ | own, stdout=out, stderr=subprocess.STDOUT, cwd=self.home)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in marked(self.mark):
            send(pid, signal.SIGCONT)
            send(pid, signal.SIGKILL)
        for process in (self.master, *self.workers):
            process.wait()


def parent(pid: int) -> int:
    return int(read(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()[1])


def descendants(of: int, among: list[int]) -> list[int]:
    parents = {pid: parent(pid) for pid in among}
    found = [pid for pid in among if parents[pid] == of]
    return found + [pid for child in found for pid in descendants(child, among) if pid != child]
