"""An Airflow of a test's own: its environment, its commands, and a scheduler, an API server and a dag-processor of its own."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from contents import contents
from crashing import MARK, marked, send, until

PROJECT = Path(__file__).resolve().parents[1]
BIN = PROJECT / ".venv-airflow" / "bin"
SPARK = {"conn_type": "spark", "host": "local[2]", "extra": {"spark-binary": "spark-submit"}}
SERVICES = {
    "api-server": "metadatabase",
    "scheduler": "scheduler",
    "dag-processor": "dag_processor",
}  # and what is healthy then


@dataclass
class Airflow:
    """An Airflow with its home, and the folder of its pipelines. All its processes bear `mark` in their environment."""

    home: Path
    pipelines: Path
    settings: dict[str, str] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        assert (BIN / "airflow").exists(), f"{BIN}: no Airflow; expected what `scripts/bootstrap airflow` makes"
        self.home.mkdir()
        self.pipelines.mkdir(exist_ok=True)

    @cached_property
    def port(self) -> int:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return int(free.getsockname()[1])

    @cached_property
    def environment(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("HOME", "JAVA_HOME", "LANG") if name in os.environ}
        site = f"http://127.0.0.1:{self.port}"
        airflow = {
            # many processes write to one file: each waits for its turn
            "database__sql_alchemy_conn": f"sqlite:///{self.home}/airflow.db?timeout=120",
            "core__dags_folder": str(PROJECT / "airflow_dags"),
            "core__load_examples": "False",
            "core__dags_are_paused_at_creation": "False",
            "core__fernet_key": base64.urlsafe_b64encode(os.urandom(32)).decode(),
            "core__execution_api_server_url": f"{site}/execution/",
            "core__simple_auth_manager_all_admins": "True",
            "core__parallelism": "2",
            "api__host": "127.0.0.1",
            "api__port": str(self.port),
            "api__base_url": site,
            "api__workers": "1",
            "api__secret_key": uuid.uuid4().hex,
            "api_auth__jwt_secret": uuid.uuid4().hex * 2,
            "workers__execution_api_timeout": "60",  # seconds that a task waits for the API server of a busy machine
            "dag_processor__min_file_process_interval": "600",  # the DAGs do not change
        }
        return (
            kept
            | {f"AIRFLOW__{name.upper()}": value for name, value in airflow.items()}
            | {
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # spark-submit is the jobs'
                "PYTHONPATH": str(PROJECT),  # of the jobs: this tree, wherever noiselib was installed from
                "PYSPARK_PYTHON": sys.executable,
                "AIRFLOW_HOME": str(self.home),
                "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps(SPARK),
                "NOISELIB_PIPELINES": str(self.pipelines),
                "NOISELIB_SPARK_CONF": "conf/spark/local.conf",
                MARK: self.mark,
            }
            | self.settings
        )

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=self.environment, cwd=self.home, capture_output=True, text=True)

    def must(self, *command: str | Path) -> str:
        """The output of a command that must succeed; a first word `airflow` or `python` is that of Airflow's environment."""
        done = self.run(BIN / command[0], *command[1:])
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def backfill(self, dag_id: str, first: str, last: str) -> None:
        dates = ["--from-date", first, "--to-date", last, "--max-active-runs", "1"]
        self.must("airflow", "backfill", "create", "--dag-id", dag_id, *dates)

    def keep_key(self, connection: str, key: Path) -> None:
        """The key as a connection in the metadata database, where its password is encrypted."""
        file = key.with_suffix(".json")
        file.write_text(json.dumps({connection: {"conn_type": "generic", "password": key.read_text().strip()}}))
        self.must("airflow", "connections", "import", file)
        file.unlink()

    def migrate(self) -> None:
        """The metadata database with the DAGs, and the pools."""
        self.must("airflow", "db", "migrate")
        self.must("airflow", "dags", "reserialize")
        self.must("python", PROJECT / "scripts" / "airflow_pools.py")

    def load_dags(self, *modules: str) -> Any:
        """What a DagBag is filled with, as tests/dags/load_dags.py says it."""
        script = PROJECT / "tests" / "dags" / "load_dags.py"
        return json.loads(self.must("python", script, PROJECT / "airflow_dags", *modules).splitlines()[-1])

    def run_dag(self, dag_id: str, **params: str) -> tuple[int, str]:
        """The exit code, and everything printed."""
        if not (self.home / "airflow.db").exists():
            self.migrate()
        done = self.run(BIN / "airflow", "dags", "test", dag_id, "--conf", json.dumps(params))
        return done.returncode, done.stdout + done.stderr

    # ---- with its services

    @contextmanager
    def started(self) -> Iterator[None]:
        """The services, as long as the block; all that they have started ends with them. `migrate` comes before."""
        services: list[subprocess.Popen[bytes]] = []
        try:
            for name, part in SERVICES.items():  # the first answers before a task asks it for its work
                services.append(self._start(name))
                assert until(lambda part=part: self._healthy(part), 300), (self.home / f"{name}.log").read_text()
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                for service in services:  # by group: a process that names itself anew loses its mark
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(service.pid, number)
                for pid in marked(self.mark):
                    send(pid, number)
                until(lambda: all(ended(service) for service in services) and not marked(self.mark), 20)

    def _start(self, service: str) -> subprocess.Popen[bytes]:
        with open(self.home / f"{service}.log", "wb") as log:
            return subprocess.Popen(
                [BIN / "airflow", service, *(["--skip-serve-logs"] if service == "scheduler" else [])],
                env=self.environment,
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _healthy(self, part: str) -> bool:
        try:
            return bool(self.get("monitor/health")[part]["status"] == "healthy")
        except OSError:
            return False

    def get(self, path: str) -> Any:
        return self._ask(urllib.request.Request(f"{self._site}/api/v2/{path}", headers=self._headers(path)))

    def post(self, path: str, data: Any) -> Any:
        body = json.dumps(data).encode()
        return self._ask(urllib.request.Request(f"{self._site}/api/v2/{path}", body, self._headers(path)))

    @property
    def _site(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @cached_property
    def _token(self) -> str:
        return str(self._ask(urllib.request.Request(f"{self._site}/auth/token"))["access_token"])

    def _headers(self, path: str) -> dict[str, str]:
        token = {} if path == "monitor/health" else {"Authorization": f"Bearer {self._token}"}
        return {"Content-Type": "application/json"} | token

    def _ask(self, request: urllib.request.Request) -> Any:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)

    def runs(self, dag_id: str) -> dict[str, str]:
        """The state of each of a DAG's runs."""
        found = self.get(f"dags/{dag_id}/dagRuns?limit=100")
        return {run["dag_run_id"]: run["state"] for run in found["dag_runs"]}

    def tasks(self, dag_id: str, run: str) -> dict[str, Any]:
        return {
            task["task_id"]: task for task in self.get(f"dags/{dag_id}/dagRuns/{run}/taskInstances")["task_instances"]
        }

    def all_ended(self, dag_id: str, number: int, seconds: float, watch: Callable[[], None] = lambda: None) -> None:
        """Wait until the DAG has `number` runs, and all have ended. `watch` is called meanwhile."""

        end, asked = time.monotonic() + seconds, 0.0
        states: dict[str, str] = {}
        while not (len(states) == number and set(states.values()) <= {"success", "failed"}):
            assert time.monotonic() < end, (states, (self.home / "scheduler.log").read_text()[-5000:])
            if time.monotonic() - asked > 5:  # seldom: the API server shares the machine with what it tells of
                states, asked = self.runs(dag_id), time.monotonic()
            watch()
            time.sleep(0.3)

    def logs(self, dag_id: str) -> str:
        """The logs of a DAG's tasks."""
        return "\n".join(file.read_text() for file in sorted((self.home / "logs").glob(f"dag_id={dag_id}/**/*.log")))

    def known(self) -> bytes:
        """Everything that Airflow keeps: metadata database, logs, settings."""
        return b"\n".join(contents(self.home).values())


def ended(service: subprocess.Popen[bytes]) -> bool:
    """Whether no process of the service's group is left."""
    service.poll()  # else it stays as a zombie
    try:
        os.killpg(service.pid, 0)
    except ProcessLookupError:
        return True
    return False
