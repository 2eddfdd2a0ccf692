"""What a Python, and the Java beside it, say of themselves. Standard library only, and no import of ours: this very text is
also run by a worker's Python and on executors, where noiselib may be missing.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.resources
import json
import os
import platform
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

PACKAGES = ("numpy", "pandas", "pyarrow", "cryptography", "noiselib")  # what a worker imports to draw noise
VECTOR = "jdk.incubator.vector"  # Spark 4 wants it, and many a JRE leaves it out


def python_facts() -> dict[str, Any]:
    """Version and path of this Python, and of each package its version and the error if it cannot be imported."""
    packages = {}
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except Exception as error:  # a broken library raises anything
            packages[name] = {"version": None, "error": f"{type(error).__name__}: {error}"}
            continue
        packages[name] = {"version": package_version(name), "error": None}
    return {"python": platform.python_version(), "executable": sys.executable, "packages": packages}


def package_version(name: str) -> str:
    """The version; of noiselib the version and a digest of its code, which also tells two checkouts apart."""
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:  # found on PYTHONPATH, not installed
        version = "?"
    return version if name != "noiselib" else f"{version} (code {code_digest(importlib.resources.files(name))})"


def code_digest(package: Traversable) -> str:
    """Of all Python files of a package, wherever it is imported from: a folder or a zip."""
    found: list[list[str]] = []
    places = [("", package)]
    while places:
        path, place = places.pop()
        if place.is_dir():
            places += [(f"{path}/{inner.name}", inner) for inner in place.iterdir()]
        elif path.endswith(".py"):
            found.append([path, hashlib.sha256(place.read_bytes()).hexdigest()])
    return hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest()[:12]


def java_facts(java: str) -> dict[str, Any]:
    """Path and version of a Java, and whether it has the module that Spark wants; `error` if it does not start."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True)
        modules = subprocess.run([java, "--list-modules"], capture_output=True, text=True)
    except OSError as error:
        return {"java": None, "path": java, "vector": False, "error": error.strerror}
    found = re.search(r'version "([^"]+)"', said.stderr)
    if found is None:
        return {"java": None, "path": java, "vector": False, "error": said.stderr.strip()[:200] or "no version printed"}
    return {"java": found[1], "path": java, "vector": VECTOR in modules.stdout, "error": None}


def place_facts(directory: str) -> dict[str, Any]:
    """Free bytes of the file system at `directory`, and whether this process may write there."""
    try:
        free = os.statvfs(directory)
    except OSError as error:
        return {"path": directory, "free": 0, "writable": False, "error": error.strerror}
    writable = os.access(directory, os.W_OK | os.X_OK) and not free.f_flag & os.ST_RDONLY
    return {"path": directory, "free": free.f_bavail * free.f_frsize, "writable": writable, "error": None}


def executor_of_this_process() -> dict[str, str]:
    """Of the JVM above this process: the executor's id and host as Spark calls them, and the path of its Java."""
    pid = os.getppid()
    while pid > 1:
        java = os.readlink(f"/proc/{pid}/exe")
        if os.path.basename(java) == "java":
            with open(f"/proc/{pid}/cmdline") as file:
                words = file.read().split("\0")
            # an executor is told both on its command line; a local master's, which is the driver, is not
            words += ["--executor-id", "driver", "--hostname", socket.gethostname()]
            named = {name: words[words.index(f"--{name}") + 1] for name in ("executor-id", "hostname")}
            return {"executor": named["executor-id"], "host": named["hostname"], "java": java}
        with open(f"/proc/{pid}/stat") as file:
            pid = int(file.read().rpartition(")")[2].split()[1])  # the name may hold anything
    raise RuntimeError("no Java above this process; expected a Python worker of Spark")


def worker_facts(seen: Mapping[str, str]) -> dict[str, Any]:
    """Of one Python worker on an executor. `seen` are files that it must see as the driver wrote them: path -> SHA-256."""
    facts = {"time": time.time(), **executor_of_this_process(), **python_facts()}
    facts["java"] = java_facts(facts["java"])
    facts["scratch"] = [place_facts(place) for place in os.environ["SPARK_LOCAL_DIRS"].split(",")]  # Spark sets it
    facts["unseen"] = [path for path, digest in seen.items() if file_digest(path) != digest]
    return facts


def file_digest(path: str) -> str | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


if __name__ == "__main__":
    print(json.dumps(python_facts()))
