"""The DAGs as Airflow sees them, in its own environment: loaded into a DagBag, and run on a real local Spark."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
import pytest
import yaml

from noiselib.cli import main
from noiselib.key import create_key_file
from noiselib.ledger import Ledger
from noiselib.targets.parquet import ParquetTarget

PROJECT = Path(__file__).resolve().parents[2]
BIN = PROJECT / ".venv-airflow" / "bin"
STEPS = {"reserve": ["perturb"], "perturb": ["check"], "check": ["publish"], "publish": []}
SPARK = {"conn_type": "spark", "host": "local[2]", "extra": {"spark-binary": "spark-submit"}}


@dataclass
class Airflow:
    """An Airflow of one's own, with its home, and the folder of its pipelines."""

    home: Path
    pipelines: Path

    def load_dags(self) -> Any:
        script = PROJECT / "tests" / "dags" / "load_dags.py"
        done = self._run(BIN / "python", script, PROJECT / "airflow_dags")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def run_dag(self, dag_id: str, **params: str) -> tuple[int, str]:
        """The exit code, and everything printed."""
        if not (self.home / "airflow.db").exists():
            migrated = self._run(BIN / "airflow", "db", "migrate")
            assert migrated.returncode == 0, migrated.stderr
        done = self._run(BIN / "airflow", "dags", "test", dag_id, "--conf", json.dumps(params))
        return done.returncode, done.stdout + done.stderr

    def _run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("HOME", "JAVA_HOME", "LANG") if name in os.environ}
        environment = kept | {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # spark-submit is the jobs'
            "PYSPARK_PYTHON": sys.executable,
            "AIRFLOW_HOME": str(self.home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "airflow_dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW_CONN_SPARK_DEFAULT": json.dumps(SPARK),
            "NOISELIB_PIPELINES": str(self.pipelines),
            "NOISELIB_SPARK_CONF": "conf/spark/local.conf",
        }
        return subprocess.run(command, env=environment, cwd=self.home, capture_output=True, text=True)


@pytest.fixture
def airflow(tmp_path: Path) -> Airflow:
    if not (BIN / "airflow").exists():
        pytest.fail(f"{BIN}: no Airflow; expected the environment that `scripts/bootstrap airflow` makes")
    places = Airflow(tmp_path / "airflow", tmp_path / "pipelines")
    places.home.mkdir()
    places.pipelines.mkdir()
    return places


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_key_file(tmp_path / "noise.key")
    return tmp_path / "noise.key"


@dataclass
class Flights:
    """The demo's pipeline in this file, with this key, its ledger and target in a folder. The rest stays the project's."""

    file: Path
    key: Path
    home: Path
    limit: float = 8.0

    def __post_init__(self) -> None:
        spec = yaml.safe_load((PROJECT / "conf" / "pipelines" / "flights_private.yaml").read_text())
        assert (PROJECT / spec["source"]["path"]).is_dir(), "no demo data; expected what `make features` builds"
        spec["target"]["path"] = str(self.home / "published")
        spec["key"] = f"file:{self.key}"
        spec["ledger"] = self.ledger
        spec["privacy"]["limit"]["epsilon"] = self.limit
        self.home.mkdir()
        self.file.write_text(yaml.safe_dump(spec, sort_keys=False))
        Ledger.create(self.ledger).close()

    @property
    def ledger(self) -> str:
        return f"sqlite:///{self.home}/ledger.db"

    def manifests(self) -> list[dict[str, Any]]:
        return ParquetTarget(str(self.home / "published"), 1).manifests()

    def files(self) -> dict[str, str]:
        """What is published: the digest of each file."""
        files = (path for path in (self.home / "published").resolve().rglob("*") if path.is_file())
        return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def account(self) -> tuple[float, list[tuple[str, str]]]:
        """Epsilon spent, and all that happened to it."""
        with Ledger.open(self.ledger) as ledger:
            spent = sum(budget.spent for budget in ledger.show())
            return spent, [(entry.event, entry.release_id or "") for entry in ledger.history()]


def test_every_pipeline_is_a_dag_of_the_steps(airflow: Airflow) -> None:
    airflow.pipelines = PROJECT / "conf" / "pipelines"
    loaded = airflow.load_dags()
    assert loaded["errors"] == {}
    assert loaded["dags"] == {file.stem: STEPS for file in airflow.pipelines.glob("*.yaml")}
    assert not {"noiselib", "pyspark", "great_expectations"} & set(loaded["packages"])
    assert loaded["seconds"] < 5  # a tenth of a second; the machine may be busy


def test_a_broken_spec_is_named_and_takes_no_other_down(airflow: Airflow) -> None:
    texts = {
        "good": "pipeline: good",
        "syntax": "pipeline: [",
        "tag": "pipeline: !!python/name:os.system",
        "list": "- pipeline",
        "unnamed": "version: 1",
        "misnamed": "pipeline: Two words",
        "twin1": "pipeline: twin",
        "twin2": "pipeline: twin",
    }
    for name, text in texts.items():
        (airflow.pipelines / f"{name}.yaml").write_text(text)
    (airflow.pipelines / "latin1.yaml").write_bytes(b"pipeline: \xe9")
    loaded = airflow.load_dags()
    assert loaded["dags"] == {"good": STEPS}
    assert list(loaded["errors"]) == ["broken_pipelines.py"]  # not the file of the DAGs: Airflow would deactivate them
    for name in {*texts, "latin1"} - {"good"}:
        assert str(airflow.pipelines / f"{name}.yaml") in loaded["errors"]["broken_pipelines.py"]


@pytest.mark.slow
def test_a_dag_publishes_one_month_and_charges_it_once(
    airflow: Airflow, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spark: object
) -> None:
    flights = Flights(airflow.pipelines / "flights.yaml", key, tmp_path / "by_steps")
    code, output = airflow.run_dag("flights_private", partition="month=3")
    assert code == 0, output

    (manifest,) = flights.manifests()
    source = ds.dataset(PROJECT / "demo" / "features" / "flights" / "month=3").count_rows()
    published = ds.dataset(tmp_path / "by_steps" / "published", partitioning="hive").to_table()
    assert set(published["month"].to_pylist()) == {3}
    assert published.num_rows == manifest["rows"] == source
    spent, events = flights.account()
    assert spent == manifest["charge"]["epsilon"] > 0
    release = manifest["release_id"]
    assert events.count(("reserved", release)) == events.count(("published", release)) == 1
    assert {of for _, of in events} <= {release, ""}

    # again: nothing to do
    files = flights.files()
    code, more = airflow.run_dag("flights_private", partition="month=3")
    assert code == 0, more
    assert flights.files() == files
    assert flights.account()[0] == spent

    # in one process: the same release
    monkeypatch.chdir(PROJECT)
    whole = Flights(tmp_path / "whole.yaml", key, tmp_path / "whole")
    results = str(tmp_path / "run_results.json")
    assert main(["run", str(whole.file), "--partition", "month=3", "--results", results]) == 0
    (same,) = whole.manifests()
    assert (same["release_id"], same["content_digest"]) == (release, manifest["content_digest"])

    # the key is nowhere in what Airflow printed or keeps
    secret = key.read_text().strip()
    assert secret not in output + more
    for path in airflow.home.rglob("*"):
        assert path.is_dir() or secret.encode() not in path.read_bytes(), path


def test_a_dag_over_budget_stops_before_any_noise(airflow: Airflow, key: Path, tmp_path: Path) -> None:
    flights = Flights(airflow.pipelines / "flights.yaml", key, tmp_path / "poor", limit=0.5)
    code, output = airflow.run_dag("flights_private", partition="month=3")
    assert code != 0
    assert "Error code is: 4" in output
    assert "OverBudget: " in output
    assert flights.files() == {}
    assert flights.account()[0] == 0
