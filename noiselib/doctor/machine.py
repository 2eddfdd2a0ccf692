"""What every run needs of this machine: Java, the workers' Python, packages, clock, memory, room for Spark's scratch files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from noiselib.doctor import probe
from noiselib.doctor.finding import GIB, Finding, failure, gib, ok, warning
from noiselib.errors import SpecError

JAVA = 17
INSTALL_JAVA = "apt-get install openjdk-17-jre-headless; or export JAVA_HOME=a JDK of 17 or newer"
SCRATCH_BYTES = GIB  # less is no room for the shuffle that finds duplicate keys, nor for a log
UNITS = {"": 1 << 20, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def check_machine(conf: Mapping[str, str], workers: bool = True) -> Iterator[Finding]:
    """The machine's findings. `conf`: Spark settings, as given by --spark-conf; `workers`: whether the Python workers run here."""
    yield check_java()
    if workers:
        yield from check_worker_python()
    yield from check_packages()
    yield check_clock()
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # else spark-submit has started that JVM already
        yield check_memory(conf)
    for directory in scratch_directories(conf):
        yield check_scratch(directory)


def check_java() -> Finding:
    """The Java that Spark would start: JAVA_HOME's if that is set, else the PATH's."""
    home = os.environ.get("JAVA_HOME")
    path = f"{home}/bin/java" if home else shutil.which("java")
    if path is None:
        return failure("java", "not found on the PATH, and JAVA_HOME is not set", INSTALL_JAVA)
    return judge_java("java", probe.java_facts(path))


def judge_java(what: str, facts: Mapping[str, Any]) -> Finding:
    where = f"at {facts['path']}"
    if facts["error"] is not None:
        return failure(what, f"does not start {where}: {facts['error']}", INSTALL_JAVA)
    if int(re.split("[._-]", facts["java"])[0]) < JAVA:
        return failure(what, f"{facts['java']} {where}; expected {JAVA} or newer", INSTALL_JAVA)
    if not facts["vector"]:
        return failure(what, f"{facts['java']} {where} lacks the module {probe.VECTOR}", INSTALL_JAVA)
    return ok(what, f"{facts['java']} {where}, with {probe.VECTOR}")


def check_worker_python() -> Iterator[Finding]:
    """The Python that Spark starts for its workers on this machine: PYSPARK_PYTHON's, else this one."""
    path = os.environ.get("PYSPARK_PYTHON") or sys.executable
    if path.startswith("./"):  # below an executor's working directory, where Spark unpacks spark.archives
        yield ok("worker python", f"{path}: of a shipped environment, which --cluster looks at")
        return
    try:
        asked = subprocess.run([path], input=Path(probe.__file__).read_bytes(), capture_output=True)
        facts = json.loads(asked.stdout)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else asked.stderr.decode(errors="replace").strip()[-200:]
        yield failure("worker python", f"{path} does not run: {why}", f"export PYSPARK_PYTHON={sys.executable}")
        return
    yield from judge_python("worker python", facts, probe.python_facts(), f"export PYSPARK_PYTHON={sys.executable}")


def judge_python(
    what: str, facts: Mapping[str, Any], driver: Mapping[str, Any], use_drivers: str = ""
) -> Iterator[Finding]:
    """A worker's Python against the driver's: the same minor version, and the same packages, to the version."""
    where = f"{facts['python']} at {facts['executable']}"
    install = f"{facts['executable']} -m pip install"
    remedy = use_drivers or f"install Python {minor(driver['python'])} there, or set PYSPARK_PYTHON"
    if minor(facts["python"]) != minor(driver["python"]):
        yield failure(what, f"{where}; expected {minor(driver['python'])}, as the driver's", remedy)
        return
    lacking = {name: found["error"] for name, found in facts["packages"].items() if found["error"]}
    if lacking:
        yield failure(what, f"{where} cannot import {'; '.join(f'{n} ({e})' for n, e in lacking.items())}",
                      use_drivers or f"{install} {' '.join(lacking)}, or ship an environment (docs/deploy.md)")  # fmt: skip
        return
    others = {name: found["version"] for name, found in driver["packages"].items()}
    other = {n: f["version"] for n, f in facts["packages"].items() if f["version"] != others[n]}
    if other:
        differences = "; ".join(f"{name} {version}, the driver {others[name]}" for name, version in other.items())
        yield failure(what, f"{where} has {differences}", use_drivers or "install the driver's versions there")
        return
    yield ok(what, f"{where}, {', '.join(f'{name} {version}' for name, version in others.items())}")


def check_packages() -> Iterator[Finding]:
    """This Python's packages against what noiselib asks for. Extras are not looked at."""
    asked = [Requirement(text) for text in importlib.metadata.requires("noiselib") or []]
    wanted = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    wrong = False
    for requirement in wanted:
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = ""
        if not version or not requirement.specifier.contains(version, prereleases=True):
            wrong = True
            yield failure(f"package {requirement.name}", f"{version or 'not installed'}; expected {requirement.specifier}",
                          f"{sys.executable} -m pip install '{requirement}'")  # fmt: skip
    if not wrong:
        yield ok("packages", f"all {len(wanted)} that noiselib asks for, in versions that it allows")


def check_clock() -> Finding:
    """A lease lasts minutes by the clock, and a ledger's history is dated by it. A file system on another host has its own."""
    newest = max(file.stat().st_mtime for file in Path(probe.__file__).parents[1].rglob("*.py"))
    with tempfile.NamedTemporaryFile() as file:
        skew = os.stat(file.name).st_mtime - time.time()
    now = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()) + " UTC"
    if time.time() < newest - 86400:
        installed = time.strftime("%Y-%m-%d", time.gmtime(newest))
        return failure("clock", f"{now}, before noiselib was installed ({installed})", "timedatectl set-ntp true")
    if abs(skew) > 5:
        return warning("clock", f"{now}; files at {tempfile.gettempdir()} are dated {skew:+.0f} s",
                       "timedatectl set-ntp true, here and on the file server")  # fmt: skip
    return ok("clock", now)


def check_memory(conf: Mapping[str, str]) -> Finding:
    """The driver's heap, which with a local master is the executor's too, against the machine or the container."""
    heap = size_of(conf.get("spark.driver.memory", "1g"))
    have = machine_memory()
    found = f"heap {gib(heap)} (spark.driver.memory) of {gib(have)}"
    if heap > have:
        return failure("memory", found, f"set spark.driver.memory {have * 6 // 10 >> 20}m in the file of --spark-conf")
    if heap > 0.75 * have:
        return warning("memory", f"{found}: no room beside it for the Python workers",
                       f"set spark.driver.memory {have * 6 // 10 >> 20}m in the file of --spark-conf")  # fmt: skip
    return ok("memory", found)


def check_scratch(directory: str) -> Finding:
    return judge_scratch("scratch", probe.place_facts(directory))


def judge_scratch(what: str, facts: Mapping[str, Any], wanted: int = SCRATCH_BYTES) -> Finding:
    remedy = f"df -h {facts['path']}; or export SPARK_LOCAL_DIRS=a directory with {gib(wanted)} free"
    if facts["error"] is not None or not facts["writable"]:
        return failure(what, f"{facts['path']}: cannot be written to ({facts['error'] or 'read-only'})", remedy)
    if facts["free"] < wanted:
        return failure(what, f"{facts['path']}: {gib(facts['free'])} free; expected {gib(wanted)} or more", remedy)
    return ok(what, f"{facts['path']}: {gib(facts['free'])} free")


def scratch_directories(conf: Mapping[str, str]) -> list[str]:
    """Where Spark spills on this machine, by its own order of precedence."""
    return (os.environ.get("SPARK_LOCAL_DIRS") or conf.get("spark.local.dir") or tempfile.gettempdir()).split(",")


def machine_memory() -> int:
    """Bytes of this machine, or of the container if that has fewer."""
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.exists() else "max"
    return whole if text == "max" else min(whole, int(text))


def size_of(text: str) -> int:
    """Bytes of a size as Spark writes them: 2g, 512m, 1024 (MiB). Raises SpecError."""
    found = re.fullmatch(r"(\d+)\s*([bkmgt]?)b?", text.strip().lower())
    if found is None:
        raise SpecError(f"spark.driver.memory {text!r}: expected a size such as 2g or 512m")
    return int(found[1]) * UNITS[found[2]]


def minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
