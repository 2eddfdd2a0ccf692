"""What the ledger's tests share: a PostgreSQL server of their own, charges that fit a budget ten times, processes.

The server is Debian's, started in a directory of its own on a free port of 127.0.0.1, and ended with the tests.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

from noiselib.accounting import Charge, Event
from noiselib.ledger import Budget, Holder, Ledger, ReleaseRequest

# Ten of these fit the budget, and eleven do not.
CHARGE = Charge.of(Event.laplace(10.0, slack=1e-12))
BUDGET = Budget("features", epsilon=1.0, delta=1e-6)
ME = Holder.current()
ELSEWHERE = Holder("elsewhere", 4321, "boot/namespace/1")
BACKENDS = ("sqlite", "postgresql")
fork = multiprocessing.get_context("fork")


def request(name: object, partition: str = "", parallel: bool = False, **changes: Any) -> ReleaseRequest:
    return replace(ReleaseRequest(f"r{name}", "flights", partition, parallel, "key-1", CHARGE), **changes)


# ---- databases -------------------------------------------------------------------------------------------------------


class PostgreSQL:
    """A server for tests. It does not sync to disk: what is tested are killed processes, not power cuts."""

    def __init__(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="noiselib-postgresql-"))
        self.port = _free_port()
        self._names = itertools.count(1)
        # By a program of its own, and not by Popen's arguments, with which Python forks: that hangs a thread that
        # happens to be in OpenBLAS, as a test's accounting may be. The server ends when who started it does, however.
        self._prefix = ["setpriv", "--pdeathsig", "QUIT"]
        if os.geteuid() == 0:  # it refuses to run as root
            names = [one.pw_name for one in pwd.getpwall()]
            user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            self._prefix += [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            os.chown(self.home, user.pw_uid, user.pw_gid)
        self._run("initdb", "--auth=trust", "--username=noiselib", "--encoding=UTF8", "--locale=C", "--no-sync")
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._prefix, _program(program), "-D", str(self.home / "data"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", check=False)
        if done.returncode != 0:
            pytest.fail(f"PostgreSQL for the ledger's tests: {program} failed:\n{done.stdout}{done.stderr}")

    def start(self) -> None:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.home,
            "fsync": "off",
            "shared_buffers": "16MB",
            "logging_collector": "off",
            "log_timezone": "UTC",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        command = [*self._prefix, _program("postgres"), "-D", str(self.home / "data"), *options]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd="/")
        deadline = time.monotonic() + 120
        while True:
            try:
                self.execute("SELECT 1")
                return
            except sa.exc.OperationalError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"PostgreSQL for the ledger's tests did not start:\n{(self.home / 'log').read_text()}")
                time.sleep(0.05)

    def stop(self, how: int = signal.SIGINT) -> None:
        """SIGINT: sessions are ended, "fast". SIGQUIT: all at once, "immediate", as in a crash."""
        self._process.send_signal(how)
        self._process.wait(60)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.home)

    def execute(self, statement: str) -> list[Any]:
        """One statement in a session of its own, as the superuser."""
        return execute(self.url(), statement)

    def until(self, query: str, value: Any, seconds: float = 10.0) -> None:
        """Wait until the query's one value is `value`: sessions end a moment after their connections are closed."""
        deadline = time.monotonic() + seconds
        while (found := self.execute(query)[0][0]) != value:
            assert time.monotonic() < deadline, f"{query}: {found}, expected {value}"
            time.sleep(0.01)

    def url(self, options: str = "", user: str = "noiselib", port: int | None = None) -> str:
        url = f"postgresql+psycopg://{user}@127.0.0.1:{port or self.port}/postgres"
        return url + (f"?options={options.replace(' ', '%20').replace('=', '%3D')}" if options else "")

    def new_url(self) -> str:
        """An empty schema, which is a database of its own to a ledger."""
        name = f"ledger_{next(self._names)}"
        self.execute(f"CREATE SCHEMA {name}")
        return self.url(f"-csearch_path={name}")


def _program(name: str) -> str:
    """Debian puts these into a directory for each version, off the PATH."""
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[4]))
    found = str(places[-1]) if places else shutil.which(name)
    if found is None:
        pytest.fail(f"no {name}: the ledger's tests need PostgreSQL's server (apt-get install postgresql)")
    return found


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def execute(url: str, statement: str) -> list[Any]:
    """Behind the ledger's back: one statement, committed; its rows."""
    with _engine(url).begin() as connection:
        result = connection.exec_driver_sql(statement)
        return [tuple(row) for row in result] if result.returns_rows else []


@lru_cache(maxsize=64)
def _engine(url: str) -> sa.Engine:
    return sa.create_engine(make_url(url), poolclass=NullPool)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    server = PostgreSQL()
    yield server
    server.remove()


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a ledger may be made: a file, and a schema of the server."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/state/ledger.db"
    server: PostgreSQL = request.getfixturevalue("postgresql")
    return server.new_url()


@pytest.fixture
def ledger(url: str) -> Iterator[Ledger]:
    with Ledger.create(url) as ledger:
        yield ledger


# ---- processes -------------------------------------------------------------------------------------------------------


def in_process(work: Callable[[], Any]) -> Any:
    """Run in a process of its own that ends thereafter; the outcome, an error's name, or None if it was killed."""
    return in_processes([work])[0]


def in_processes(works: list[Callable[[], Any]]) -> list[Any]:
    """Run all at once, each in a process of its own, from one starting gun."""
    start = fork.Barrier(len(works))
    pipes = [fork.Pipe(duplex=False) for _ in works]

    def body(work: Callable[[], Any], send: Any) -> None:
        start.wait()
        try:
            send.send(work())
        except Exception as error:
            send.send(type(error).__name__)

    processes = [fork.Process(target=body, args=(work, pipe[1])) for work, pipe in zip(works, pipes, strict=True)]
    for process, pipe in zip(processes, pipes, strict=True):
        process.start()
        pipe[1].close()
    outcomes = []
    for process, pipe in zip(processes, pipes, strict=True):
        try:
            outcomes.append(pipe[0].recv())
        except EOFError:
            outcomes.append(None)
        process.join(30)
    return outcomes


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
