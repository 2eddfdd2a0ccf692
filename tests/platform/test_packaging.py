"""noiselib as others install it: the wheel, in an environment of its own; shipped to a cluster whose workers' Python lacks it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from clusters import Cluster
from ledgers_v1 import make_version_1
from small_pipeline import Small, make_small

from noiselib.targets.parquet import ParquetTarget

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
SECRET = "spark.authenticate.secret"
# What a site runs with, and what this small machine wants. The secret is the cluster's own, not the noise key.
CONF = (
    (ROOT / "conf" / "spark" / "cluster.conf").read_text()
    + f"""
{SECRET} of-this-test
spark.executor.memory 512m
spark.executor.cores 1
spark.executor.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
spark.sql.shuffle.partitions 2
spark.ui.enabled false
"""
)
DAEMONS = f"-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dspark.authenticate=true -D{SECRET}=of-this-test"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what it is made of, as `python -m build` does."""
    home = tmp_path_factory.mktemp("build")
    for name in ("setup.cfg", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, home)
    shutil.copytree(ROOT / "noiselib", home / "noiselib", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--no-isolation", str(home)], check=True)
    return next((home / "dist").glob("*.whl"))


@dataclass
class Environment:
    """An environment with this one's libraries, and with noiselib from the wheel or without it."""

    home: Path

    @property
    def python(self) -> Path:
        return self.home / "bin" / "python"

    def noiselib(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYSPARK"))}
        command = [str(self.home / "bin" / "noiselib"), *map(str, words)]
        own = clean | {"SPARK_LOCAL_IP": "127.0.0.1"} | environment
        return subprocess.run(command, env=own, cwd=self.home, capture_output=True, text=True)


def environment(home: Path, wheel: Path | None) -> Environment:
    """Nothing is downloaded: the libraries are found by a line in a .pth, which does not bring noiselib itself along."""
    one = Environment(home)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    if wheel is not None:
        install = [
            "-m",
            "pip",
            "--python",
            str(one.python),
            "install",
            "--quiet",
            "--no-deps",
            "--no-index",
            str(wheel),
        ]
        subprocess.run([sys.executable, *install], check=True)
    packages = next((home / "lib").glob("python3*/site-packages"))
    (packages / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return one


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return environment(tmp_path_factory.mktemp("installed") / "venv", wheel)


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return environment(tmp_path_factory.mktemp("without") / "venv", None)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), {"PYTHONPATH": "", "SPARK_DAEMON_JAVA_OPTS": DAEMONS}) as one:
        yield one.two_workers()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, installed: Environment) -> tuple[Small, dict[str, str]]:
    """A pipeline that has not run, and the digests of what the installed command publishes of it on local[2]."""
    small = make_small(tmp_path_factory.mktemp("before"), days=[1, 2], size=200)
    after = small.copy(tmp_path_factory.mktemp("after") / "small")
    ran = installed.noiselib("run", after.spec_file, "--master", "local[2]")
    assert ran.returncode == 0, ran.stderr
    return small, digests(after)


def digests(small: Small) -> dict[str, str]:
    return {m["release_id"]: m["content_digest"] for m in ParquetTarget(small.spec["target"]["path"], 1).manifests()}


def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    there = {str(file.relative_to(ROOT)) for file in (ROOT / "noiselib").rglob("*") if file.is_file()}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("noiselib/")}
    assert packed == {name for name in there if "__pycache__" not in name}
    assert {"noiselib/py.typed", "noiselib/spark/log4j2.properties", "noiselib/ledger/versions/chained.py"} <= packed


def test_the_installed_command(installed: Environment, expected: tuple[Small, dict[str, str]], tmp_path: Path) -> None:
    """It runs from the environment and not from this checkout, with its own data: log settings, migrations."""
    where = [str(installed.python), "-Ic", "import noiselib; print(noiselib.__file__)"]
    assert str(installed.home) in subprocess.run(where, capture_output=True, text=True, check=True).stdout
    small, digests = expected
    assert len(digests) == 2
    assert installed.noiselib("doctor", small.spec_file).returncode == 0
    url = f"sqlite:///{tmp_path}/old.db"
    make_version_1(url)
    migrated = installed.noiselib("ledger", "migrate", url)
    assert "migrated from version 1" in migrated.stdout, migrated.stderr


def run_there(
    command: str, small: Small, cluster: Cluster, driver: Environment, python: object, **settings: str
) -> subprocess.CompletedProcess[str]:
    """The driver's command on the cluster, whose workers run that Python."""
    conf = small.home / "spark.conf"
    conf.write_text(CONF + "".join(f"{name.replace('_', '.')} {value}\n" for name, value in settings.items()))
    words = [command, small.spec_file, "--master", cluster.url, "--spark-conf", conf, "--json"]
    words += ["--cluster", "--executors", 2] if command == "doctor" else []
    return driver.noiselib(*words, PYSPARK_PYTHON=str(python))


def test_workers_that_lack_noiselib_are_named(
    expected: tuple[Small, dict[str, str]],
    cluster: Cluster,
    installed: Environment,
    without: Environment,
    tmp_path: Path,
) -> None:
    small = expected[0].copy(tmp_path / "small")
    answer = run_there("doctor", small, cluster, installed, without.python)
    assert answer.returncode == 1, answer.stderr
    wrong = [one for one in json.loads(answer.stdout)["findings"] if one["state"] == "failure"]
    assert {one["what"].rpartition(" on ")[2] for one in wrong} == {"127.0.0.2: python", "127.0.0.3: python"}
    for one in wrong:
        assert "cannot import noiselib (ModuleNotFoundError" in one["found"]


def test_shipped_by_py_files(
    expected: tuple[Small, dict[str, str]],
    cluster: Cluster,
    installed: Environment,
    without: Environment,
    wheel: Path,
    tmp_path: Path,
) -> None:
    """A wheel is a zip, and Spark puts what ends in .zip on the workers' path."""
    small = expected[0].copy(tmp_path / "small")
    package = shutil.copy(wheel, tmp_path / "noiselib.zip")
    ran = run_there("run", small, cluster, installed, without.python, spark_submit_pyFiles=str(package))
    assert ran.returncode == 0, ran.stderr
    assert digests(small) == expected[1]


def test_shipped_as_an_archive(
    expected: tuple[Small, dict[str, str]], cluster: Cluster, installed: Environment, tmp_path: Path
) -> None:
    """The whole environment, unpacked by Spark into every executor's directory: the workers' Python and all it imports."""
    small = expected[0].copy(tmp_path / "small")
    with tarfile.open(tmp_path / "environment.tar.gz", "w:gz") as archive:
        archive.add(installed.home, arcname=".")
    shipped = {"spark_archives": f"{tmp_path}/environment.tar.gz#environment"}
    python = "./environment/bin/python"
    ran = run_there("run", small, cluster, installed, python, **shipped)
    assert ran.returncode == 0, ran.stderr
    assert digests(small) == expected[1]


def test_by_spark_submit(
    expected: tuple[Small, dict[str, str]],
    cluster: Cluster,
    installed: Environment,
    without: Environment,
    wheel: Path,
    tmp_path: Path,
) -> None:
    """The jobs, one step each, from a driver's Python that has noiselib by --py-files alone."""
    small = expected[0].copy(tmp_path / "small")
    package = shutil.copy(wheel, tmp_path / "noiselib.zip")
    (small.home / "spark.conf").write_text(CONF)
    submit = Path(sysconfig.get_path("scripts")) / "spark-submit"
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYSPARK"))}
    own = clean | {"SPARK_LOCAL_IP": "127.0.0.1", "PYSPARK_PYTHON": str(without.python)}
    options = ["--master", cluster.url, "--properties-file", str(small.home / "spark.conf"), "--py-files", str(package)]
    for job in ("perturb", "check", "publish"):
        words = [str(ROOT / "jobs" / f"{job}.py"), str(small.spec_file), "--results", str(tmp_path / "results.json")]
        ran = subprocess.run([str(submit), *options, *words], env=own, cwd=tmp_path, capture_output=True, text=True)
        assert ran.returncode == 0, f"{job}: {ran.stderr}"
    assert digests(small) == expected[1]
