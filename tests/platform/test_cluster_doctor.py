"""The doctor on a real cluster whose executors deviate: each is named by its host, and by what is wrong with it.

All are told the same PYSPARK_PYTHON, a shell script, which on some hosts does something else first. That takes root.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import pytest
from clusters import Cluster
from small_pipeline import Small

from noiselib.doctor import Finding, probe

pytestmark = [pytest.mark.platform, pytest.mark.timeout(1800)]

GOOD = "127.0.0.2"
EXECUTORS = 5
CONF = """
spark.executor.memory 512m
spark.executor.cores 1
spark.executor.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
spark.ui.enabled false
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as one:
        for _ in range(EXECUTORS):
            one.start_worker()
        yield one


def examined(cluster: Cluster, small: Small, deviations: dict[str, str]) -> dict[str, list[Finding]]:
    """What `noiselib doctor --cluster` finds on each host, where on some of them a line of shell comes before Python."""
    python = small.home / "python"
    cases = "".join(f"{host}) {line} ;;\n" for host, line in deviations.items())
    python.write_text(f'#!/bin/sh\ncase $SPARK_LOCAL_IP in\n{cases}esac\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    (small.home / "spark.conf").write_text(CONF)
    words = ["doctor", small.spec_file, "--cluster", "--executors", EXECUTORS, "--master", cluster.url, "--json"]
    answer = subprocess.run(
        [sys.executable, "-m", "noiselib.cli", *map(str, words), "--spark-conf", str(small.home / "spark.conf")],
        env=os.environ | {"PYSPARK_PYTHON": str(python), "SPARK_LOCAL_IP": "127.0.0.1"},
        capture_output=True,
        text=True,
    )
    assert answer.stdout, answer.stderr
    assert "Traceback" not in answer.stderr
    assert answer.returncode == 1, answer.stdout
    assert not list(small.home.glob(".published.noiselib/probe-*"))
    found: dict[str, list[Finding]] = {}
    for one in json.loads(answer.stdout)["findings"]:
        found.setdefault(one["what"].partition(" on ")[2].partition(":")[0], []).append(Finding(**one))
    assert {one.state for one in found.pop("")} == {"ok"}  # of the driver, and how many executors there are
    return found


def wrong(findings: list[Finding]) -> list[str]:
    """What they are about; each has a remedy."""
    assert all(one.remedy for one in findings if one.state != "ok")
    return [one.what.rpartition(": ")[2] for one in findings if one.state != "ok"]


def test_workers_that_deviate(cluster: Cluster, small: Small, tmp_path: Path) -> None:
    """One lacks packages, one has another noiselib, one a clock an hour ahead, one another file system where the source is."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    shutil.copytree(Path(probe.__file__).parents[1], tmp_path / "other" / "noiselib")
    (tmp_path / "other" / "noiselib" / "more.py").write_text("MORE = 1\n")
    fake = files("libfaketime") / "vendor/libfaketime/src/libfaketime.so.1"
    hide = f"mount -t tmpfs none {small.home}/source && exec {sys.executable} "
    found = examined(
        cluster,
        small,
        {
            "127.0.0.3": f'exec {tmp_path}/bare/bin/python "$@"',
            "127.0.0.4": f"export PYTHONPATH={tmp_path}/other:$PYTHONPATH",
            "127.0.0.5": f"export LD_PRELOAD={fake} FAKETIME=+1h FAKETIME_SKIP_CMDS=java FAKETIME_DONT_FAKE_MONOTONIC=1",
            "127.0.0.6": f"""exec unshare --mount sh -c '{hide}"$@"' sh "$@" """,
        },
    )
    assert {host: wrong(findings) for host, findings in found.items()} == {
        GOOD: [],
        "127.0.0.3": ["python"],
        "127.0.0.4": ["python"],
        "127.0.0.5": ["clock"],
        "127.0.0.6": ["files"],
    }
    assert [one.what.rpartition(": ")[2] for one in found[GOOD]] == ["java", "python", "clock", "scratch"]
    assert "cannot import numpy (ModuleNotFoundError" in found["127.0.0.3"][1].found
    assert "has noiselib" in found["127.0.0.4"][1].found
    assert f"{small.home}/source" in found["127.0.0.6"][-1].found


def test_pythons_that_do_not_serve(cluster: Cluster, small: Small) -> None:
    """One is missing, one is older: a job with such workers would fail as a whole."""
    found = examined(cluster, small, {"127.0.0.3": 'exec /nowhere/python "$@"', "127.0.0.4": "exec echo Python 3.9.1"})
    assert set(found) == {"127.0.0.3", "127.0.0.4"}
    assert "does not run" in found["127.0.0.3"][0].found
    assert f"is 3.9.1; expected 3.{sys.version_info.minor}" in found["127.0.0.4"][0].found
