"""The doctor on this machine: each thing is broken for real, found by name, and its remedy mends it."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from small_pipeline import Answer, Small

from noiselib.doctor import Finding, probe
from noiselib.doctor.machine import check_memory, judge_java, machine_memory, size_of
from noiselib.doctor.pipeline import check_skew
from noiselib.errors import SpecError
from noiselib.ledger import Budget, Holder, Ledger


def found(answer: Answer) -> dict[str, Finding]:
    """The findings by what was looked at."""
    return {one["what"]: Finding(**one) for one in answer.json["findings"]}


def diagnosed(small: Small, what: str, state: str, *phrases: str) -> Finding:
    """What the doctor says of it; all else is well."""
    answer = small.noiselib("doctor", "--json")
    findings = found(answer)
    assert {one.what for one in findings.values() if one.state != "ok"} == {what}, answer.out
    assert findings[what].state == state
    assert answer.code == (1 if state == "failure" else 0)
    assert findings[what].remedy
    for phrase in phrases:
        assert phrase in findings[what].found
    return findings[what]


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """A Python of this version without a single package."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    return tmp_path / "bare" / "bin" / "python"


def test_all_is_well(small: Small) -> None:
    answer = small.noiselib("doctor", "--json")
    assert answer.code == 0
    findings = found(answer)
    assert answer.json["success"] is True
    assert {one.state for one in findings.values()} == {"ok"}
    parts = ["spec", "key", "source", "ledger", "budget", "target", "space"]
    machine = ["java", "worker python", "packages", "clock", "memory", "scratch"]
    assert list(findings) == [*machine, *(f"small {part}" for part in parts)]
    assert "3 files, 3 partitions" in findings["small source"].found
    assert "epsilon 0 spent of 8" in findings["small budget"].found
    assert small.noiselib("doctor").out.splitlines()[-1] == "13 ok, 0 warning, 0 failure"
    assert not (small.home / "published").exists()


def test_nothing_is_left_behind(small: Small) -> None:
    before = {file for file in small.home.rglob("*") if file.is_file()}
    assert small.noiselib("doctor").code == 0
    assert {file for file in small.home.rglob("*") if file.is_file()} == before


def test_the_machine_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from noiselib.cli import main

    assert main(["doctor"]) == 0
    assert "small" not in capsys.readouterr().out


# ---- the machine -----------------------------------------------------------------------------------------------------


def test_no_java(small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    finding = diagnosed(small, "java", "failure", str(tmp_path / "jdk" / "bin" / "java"), "No such file")
    assert "openjdk-17-jre-headless" in finding.remedy
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not found on the PATH" in diagnosed(small, "java", "failure").found


@pytest.mark.parametrize(
    ("version", "modules", "phrase"),
    [("11.0.2", probe.VECTOR, "expected 17 or newer"), ("21", "java.base", f"lacks the module {probe.VECTOR}")],
)
def test_another_java(
    small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: str, modules: str, phrase: str
) -> None:
    java = tmp_path / "jdk" / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(
        f"#!/bin/sh\n[ $1 = -version ] && echo 'openjdk version \"{version}\" 2019-01-15' >&2 || echo {modules}@{version}\n"
    )
    java.chmod(0o755)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    diagnosed(small, "java", "failure", version, phrase)


def test_early_access_java() -> None:
    facts = {"path": "java", "java": "26-ea", "vector": True, "error": None}
    assert judge_java("java", facts).state == "ok"


def test_a_worker_python_without_packages(small: Small, monkeypatch: pytest.MonkeyPatch, bare_python: Path) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", str(bare_python))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    finding = diagnosed(small, "worker python", "failure", str(bare_python), "pandas", "cryptography")
    assert finding.remedy == f"export PYSPARK_PYTHON={sys.executable}"
    monkeypatch.setenv(*shlex.split(finding.remedy)[1].split("="))
    assert small.noiselib("doctor").code == 0


def test_a_worker_python_with_another_noiselib(small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same version, one line of code more."""
    shutil.copytree(Path(probe.__file__).parents[1], tmp_path / "noiselib")
    with open(tmp_path / "noiselib" / "errors.py", "a") as file:
        file.write("MORE = 1\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # a worker's Python looks into its working directory first
    diagnosed(small, "worker python", "failure", "noiselib", "the driver")


def test_no_worker_python(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSPARK_PYTHON", "/nowhere/python")
    diagnosed(small, "worker python", "failure", "/nowhere/python does not run", "No such file")


def test_another_python(small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A worker's Python that says it is 3.9: so that the test needs no other Python."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\ncat >/dev/null\necho \'{"python": "3.9.1", "executable": "/old", "packages": {}}\'\n')
    python.chmod(0o755)
    monkeypatch.setenv("PYSPARK_PYTHON", str(python))
    diagnosed(small, "worker python", "failure", "3.9.1", f"expected 3.{sys.version_info.minor}")


def test_a_package_of_another_version(small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Found before the real one on the path: the metadata of scipy 1.0."""
    metadata = tmp_path / "scipy-1.0.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: scipy\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    finding = diagnosed(small, "package scipy", "failure", "1.0; expected >=1.15")
    assert "pip install 'scipy>=1.15'" in finding.remedy


def test_scratch_that_is_full(small: Small, monkeypatch: pytest.MonkeyPatch, disk: Path) -> None:
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(disk))
    diagnosed(small, "scratch", "failure", str(disk), "0.0 GiB free")


def test_scratch_of_the_settings(small: Small, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SPARK_LOCAL_DIRS", raising=False)
    conf = tmp_path / "spark.conf"
    conf.write_text(f"spark.local.dir {tmp_path / 'nowhere'}\nspark.driver.memory 9999g\n")
    findings = found(small.noiselib("doctor", "--json", "--spark-conf", str(conf)))
    assert "nowhere: cannot be written to (No such file" in findings["scratch"].found
    assert findings["memory"].state == "failure"


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = machine_memory()
    states = [check_memory({"spark.driver.memory": f"{int(whole * part)}b"}).state for part in (0.1, 0.9, 1.1)]
    assert states == ["ok", "warning", "failure"]
    assert [size_of(text) for text in ("1", "512m", "2g", "2GB", "7b")] == [1 << 20, 512 << 20, 2 << 30, 2 << 30, 7]
    with pytest.raises(SpecError, match="expected a size such as"):
        size_of("much")


# ---- the pipeline ----------------------------------------------------------------------------------------------------


def test_a_broken_spec(small: Small, change_spec: Callable[..., None]) -> None:
    change_spec("purpose", value="profit")
    diagnosed(small, "small spec", "failure", "small.yaml:", "purpose")


def test_a_key_that_others_may_read(small: Small) -> None:
    (small.home / "noise.key").chmod(0o644)
    finding = diagnosed(small, "small key", "failure", "mode 0644")
    subprocess.run(shlex.split(finding.remedy), check=True)
    assert small.noiselib("doctor").code == 0


def test_no_key(small: Small) -> None:
    from noiselib.cli import main

    (small.home / "noise.key").unlink()
    finding = diagnosed(small, "small key", "failure", "not found")
    assert main(shlex.split(finding.remedy)[1:]) == 0
    assert small.noiselib("doctor").code == 0


def test_no_key_in_the_environment(small: Small, change_spec: Callable[..., None]) -> None:
    change_spec("key", value="env:NOISE_KEY_NOT_SET")
    assert diagnosed(small, "small key", "failure", "is not set").remedy.startswith("export NOISE_KEY_NOT_SET=")


def test_no_ledger(small: Small) -> None:
    from noiselib.cli import main

    (small.home / "ledger.db").unlink()
    finding = diagnosed(small, "small ledger", "failure", "found none")
    assert main(shlex.split(finding.remedy.partition(" (")[0])[1:]) == 0
    assert small.noiselib("doctor").code == 0


def test_a_locked_ledger(small: Small) -> None:
    other = sqlite3.connect(small.home / "ledger.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    diagnosed(small, "small ledger", "failure", "locked by another process")
    other.close()
    assert small.noiselib("doctor").code == 0


def test_a_ledger_of_another_version(small: Small) -> None:
    with sqlite3.connect(small.home / "ledger.db") as other:
        other.execute("UPDATE noiselib_version SET version_num = 'later'")
    diagnosed(small, "small ledger", "failure", "of schema version later")


def test_a_ledger_on_a_file_system_that_is_read_only(
    small: Small, disk: Path, change_spec: Callable[..., None]
) -> None:
    (disk / "ledger.db").write_bytes((small.home / "ledger.db").read_bytes())
    change_spec("ledger", value=f"sqlite:///{disk}/ledger.db")
    assert small.noiselib("doctor").code == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    diagnosed(small, "small ledger", "failure", "read-only")


def test_a_budget_that_is_nearly_spent(small: Small, change_spec: Callable[..., None]) -> None:
    change_spec("privacy", "limit", value={"epsilon": 0.5, "delta": 1e-5})
    diagnosed(small, "small budget", "warning", "would be refused (exit code 4)")


def test_a_budget_with_another_limit(small: Small) -> None:
    with small.ledger() as ledger:
        ledger.reserve(Budget("small", 9.0, 1e-5, "row"), [], Holder.current())
    diagnosed(small, "small budget", "failure", "9")


def test_no_source(small: Small, change_spec: Callable[..., None]) -> None:
    change_spec("source", "path", value=str(small.home / "nowhere"))
    diagnosed(small, "small source", "failure", "nowhere: not found")


def test_a_source_of_another_shape(small: Small, change_spec: Callable[..., None]) -> None:
    change_spec("columns", "amount", "mechanism", value="discrete_laplace")
    diagnosed(small, "small source", "failure", "amount")


def test_a_target_on_a_file_system_that_is_read_only(
    small: Small, disk: Path, change_spec: Callable[..., None]
) -> None:
    change_spec("target", "path", value=str(disk / "published"))
    assert small.noiselib("doctor").code == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    diagnosed(small, "small target", "failure", "cannot be published atomically (Read-only file system)")


def test_a_target_in_an_object_store(small: Small, change_spec: Callable[..., None]) -> None:
    change_spec("target", "path", value="s3://bucket/published")
    diagnosed(small, "small target", "failure", "cannot be atomic")


def test_a_target_that_is_not_ours(small: Small) -> None:
    (small.home / "published").mkdir()
    diagnosed(small, "small target", "failure", "was not published by noiselib")


def test_a_target_without_room(small: Small, disk: Path, change_spec: Callable[..., None]) -> None:
    change_spec("target", "path", value=str(disk / "published"))
    assert small.noiselib("doctor").code == 0
    size = sum(file.stat().st_size for file in (small.home / "source").rglob("*.parquet"))
    fill_but(disk, size * 3 // 2)
    diagnosed(small, "small space", "warning", "no room for a second version")
    fill_but(disk, size // 2)
    diagnosed(small, "small space", "failure", str(disk))


def fill_but(disk: Path, left: int) -> None:
    """Take space until no more than `left` bytes (and a page) are free."""
    (disk / f"filler-{left}").write_bytes(bytes(max(0, probe.place_facts(str(disk))["free"] - left)))


def test_clocks_that_differ() -> None:
    now = datetime.now(UTC)
    seconds = [timedelta(seconds=s) for s in (0, 60, -60, 600)]
    states = [check_skew("clock", now, now + difference, now).state for difference in seconds]
    assert states == ["ok", "warning", "warning", "failure"]
    assert check_skew("clock", now, now + seconds[1], now + seconds[1] * 2).state == "ok"  # asked for that long


def test_a_ledger_on_a_server(small: Small, postgresql: Any, change_spec: Callable[..., None]) -> None:
    url = postgresql.new_url()
    change_spec("ledger", value=url)
    diagnosed(small, "small ledger", "failure", "without its tables")
    Ledger.create(url).close()
    findings = found(small.noiselib("doctor", "--json"))
    assert findings["small ledger's clock"].state == "ok"
    change_spec("ledger", value=f"{url}%20-cdefault_transaction_read_only%3Don")  # as a hot standby answers
    diagnosed(small, "small ledger", "failure", "read-only")


def test_no_server(small: Small, change_spec: Callable[..., None]) -> None:
    change_spec("ledger", value="postgresql+psycopg://nobody@127.0.0.1:1/none")
    diagnosed(small, "small ledger", "failure", "nobody@127.0.0.1")


def test_what_the_probe_prints_is_what_it_finds() -> None:
    said = subprocess.run([sys.executable], input=Path(probe.__file__).read_bytes(), capture_output=True, check=True)
    assert json.loads(said.stdout)["packages"]["numpy"] == probe.python_facts()["packages"]["numpy"]
