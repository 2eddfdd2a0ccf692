"""The command as a process of its own, to be killed; what a crash may leave behind; what must follow.

A run is marked in its environment, which its JVM and its Python workers inherit: so all of them are found, whatever
process group they made for themselves.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.dataset as ds
from small_pipeline import Small, make_small, small_rows

from noiselib.failpoint import VARIABLE
from noiselib.spark.session import QUIET_LOG
from noiselib.targets.parquet import ParquetTarget

CHANGES = {"os.rename", "os.link", "os.symlink", "os.remove", "os.rmdir", "os.mkdir", "sqlite3.connect"}
Count = Callable[..., None]
MARK = "NOISELIB_TEST_RUN"
NOISELIB = Path(sys.executable).with_name("noiselib")
# One core and no optimizing compiler: such a run lasts no longer than its JVM takes to start and to warm up.
SPARK = {
    "spark.master": "local[1]",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.shuffle.partitions": "1",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.driver.extraJavaOptions": f"-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Dlog4j2.configurationFile={QUIET_LOG}",
}


# ---- a run that is killed --------------------------------------------------------------------------------------------


@dataclass
class Started:
    """A command under way, in a session of its own; what it prints goes to a file."""

    process: subprocess.Popen[bytes]
    mark: str
    log: Path

    def all_pids(self) -> list[int]:
        """Its living processes: the command, its JVM, its Python workers."""
        return marked(self.mark)

    def kill(self, what: str) -> None:
        """SIGKILL `all` of it, as when the machine goes, or the `driver` alone; or its `jvm`."""
        if what == "driver":
            chosen = [self.process.pid]
        else:
            chosen = [pid for pid in self.all_pids() if what == "all" or "java" in name_of(pid)]
        for pid in chosen:
            send(pid, signal.SIGKILL)

    def wait(self, seconds: float = 1500) -> int:
        return self.process.wait(seconds)

    def gone(self, seconds: float) -> bool:
        """Whether all of its processes have ended within that time."""
        return until(lambda: not self.all_pids(), seconds)

    def text(self) -> str:
        return self.log.read_text()


def start(
    small: Small,
    command: str = "run",
    *arguments: str,
    failpoint: str = "",
    conf: dict[str, str] | None = None,
    launcher: Sequence[str | Path] = (),
) -> Started:
    """`noiselib COMMAND` on the small pipeline, armed with a failpoint. `launcher` instead of noiselib and its command."""
    mark = uuid.uuid4().hex
    small.write_spec()
    settings = small.home / "spark.conf"
    settings.write_text("".join(f"{name} {value}\n" for name, value in {**SPARK, **(conf or {})}.items()))
    own = {
        MARK: mark,
        VARIABLE: failpoint,
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_LOCAL_DIRS": str(small.home / "scratch"),
        "PYSPARK_PYTHON": sys.executable,
    }
    spark = [] if launcher else ["--spark-conf", settings]
    words = [*(launcher or [NOISELIB, command]), small.spec_file, "--results", small.home / "run_results.json", *spark]
    log = small.home / f"log-{mark[:8]}"
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [*map(str, words), *arguments],
            env=os.environ | own,
            cwd=small.home,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Started(process, mark, log)


def finish(small: Small, command: str = "run", *arguments: str, expect: int = 0, **settings: Any) -> Started:
    """The command, waited for."""
    started = start(small, command, *arguments, **settings)
    code = started.wait()
    assert code == expect, f"{code}: {started.text()}"
    return started


def crash(small: Small, failpoint: str, command: str = "run", what: str = "driver") -> None:
    """The command, until it kills itself at the failpoint; with `all`, its JVM and workers go with it."""
    started = finish(small, command, failpoint=failpoint, expect=-signal.SIGKILL)
    if what == "all":
        started.kill("all")


def publish_until(spec_file: str, number: int) -> None:
    """For a process of its own: `noiselib publish`, killed before its `number`-th change to a file (SQLite's own excepted)."""
    from noiselib.cli import main

    changes = itertools.count(1)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        changing = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT)
        if changing and next(changes) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    os._exit(main(["publish", spec_file, "--results", str(Path(spec_file).with_name("run_results.json"))]))


def marked(mark: str, of: str = MARK) -> list[int]:
    """The living processes whose environment has the mark. A zombie has none."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal() and f"{of}={mark}".encode() in read(place / "environ"):
            found.append(int(place.name))
    return found


def name_of(pid: int) -> str:
    return read(Path(f"/proc/{pid}/cmdline")).split(b"\0")[0].decode()


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it ended meanwhile
        return b""


def send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait for the condition; whether it came true."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


# ---- what a crash may leave ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class State:
    """One release after a crash. `staging`: none | partial | staged | checked."""

    ledger: str | None
    publishing: bool
    staging: str
    visible: bool
    quarantine: bool = False


@dataclass(frozen=True)
class Allowed:
    """States that a crash may leave, by what the ledger says; every other one is an error."""

    ledger: str | None
    publishing: bool
    staging: frozenset[str]
    visible: bool
    quarantine: bool = False

    def allows(self, state: State) -> bool:
        same = (self.ledger, self.publishing, self.visible) == (state.ledger, state.publishing, state.visible)
        return same and state.staging in self.staging and self.quarantine == state.quarantine


MODEL = (
    Allowed(None, False, frozenset({"none"}), False),  # no noise without a reservation
    Allowed("reserved", False, frozenset({"none", "partial", "staged"}), False),
    Allowed("staged", False, frozenset({"staged", "checked"}), False),
    Allowed("staged", False, frozenset({"none"}), False, quarantine=True),  # put away, the ledger not told
    Allowed("quarantined", False, frozenset({"none"}), False, quarantine=True),
    Allowed("staged", True, frozenset({"checked"}), False),  # the next version is being built
    Allowed("staged", True, frozenset({"checked"}), True),  # readers see it, the ledger was not told
    Allowed("published", True, frozenset({"checked", "partial", "none"}), True),  # staging is being removed
)


def allowed(state: State) -> bool:
    return any(row.allows(state) for row in MODEL)


def observe(small: Small, release_id: str) -> State:
    """Where a release stands: by the ledger, by what is staged, by what readers see."""
    target = target_of(small)
    with small.ledger() as ledger:
        known = ledger.release(release_id)
    place = target.staging(release_id)
    staging = "none"
    if place.exists():
        staging = "partial"
        if (place / "staged.json").exists():
            staging = "checked" if (place / "checks.json").exists() else "staged"
    quarantine = (target.home / "quarantine" / release_id).exists()
    began = known is not None and known.publish_began is not None
    return State(known.state if known else None, began, staging, target.manifest(release_id) is not None, quarantine)


def target_of(small: Small) -> ParquetTarget:
    return ParquetTarget(small.spec["target"]["path"], 1)


def versions(small: Small) -> set[str]:
    return {place.name for place in (target_of(small).home / "versions").glob("*")}


# ---- what must follow ------------------------------------------------------------------------------------------------


def make_pipeline(home: Path, days: Sequence[int] = (1, 2), size: int = 60) -> Small:
    """Two days, two noised columns and a pseudonym: the least that has a partition to replace and one to keep."""
    home.mkdir(parents=True)
    small = make_small(home, days, size)
    small.spec["columns"]["color"] = {"drop": True}
    small.spec["privacy"]["limit"]["epsilon"] = 100.0
    small.write_spec()
    return small


def restate(small: Small) -> None:
    """Other values for day 1: a new release, which is to replace the published one."""
    rows = small_rows(1, len(small.rows[1]["id"]))
    small.rows[1] = rows | {"amount": [value / 2 for value in rows["amount"]]}
    small.write_source()


def releases(small: Small) -> dict[str, str]:
    """The release ids that readers see, by partition."""
    return {manifest["partition"]: manifest["release_id"] for manifest in target_of(small).manifests()}


@dataclass(frozen=True)
class Outcome:
    """What an undisturbed run comes to. Everything must equal it that was killed and run again."""

    releases: dict[str, str]
    digests: dict[str, str]
    values: str
    spent: float
    reservations: dict[str, int]


@dataclass(frozen=True)
class Undisturbed:
    """The pipeline as it was before, one whose first day is restated, and what a run makes of each."""

    fresh: Small
    published: Small
    restated: Small
    first: Outcome
    second: Outcome


def outcome(small: Small) -> Outcome:
    manifests = target_of(small).manifests()
    with small.ledger() as ledger:
        reserved = [entry.release_id for entry in ledger.history() if entry.event == "reserved"]
    return Outcome(
        releases(small),
        {manifest["partition"]: manifest["content_digest"] for manifest in manifests},
        look(small.spec["target"]["path"]),
        small.spent(),
        {str(release): reserved.count(release) for release in set(reserved)},
    )


def look(path: str) -> str:
    """What a reader who resolves the link finds at `path`: releases, and a digest of all values; or what is wrong."""
    root = Path(os.path.realpath(path))
    if not root.is_dir():
        return "missing"
    manifests = {file.stem: json.loads(file.read_text()) for file in root.glob("_noiselib/*.json")}
    strays = [
        str(file.relative_to(root))
        for file in root.rglob("*")
        if file.is_file() and not (file.parent.name == "_noiselib" or file.name.startswith("part-"))
    ]
    if strays:
        return f"mixed: {strays}"
    table = ds.dataset(root, partitioning="hive").to_table().sort_by([("day", "ascending"), ("id", "ascending")])
    mixed = table["id"].to_pylist() != sorted(set(table["id"].to_pylist()))
    counted = {f"day={day}": table["day"].to_pylist().count(day) for day in set(table["day"].to_pylist())}
    if mixed or counted != {manifest["partition"]: manifest["rows"] for manifest in manifests.values()}:
        return f"mixed: {counted} {sorted(manifests)}"
    values = hashlib.sha256(repr(table.to_pydict()).encode()).hexdigest()
    return f"{','.join(sorted(name[:8] for name in manifests))} {values}"


def collected(small: Small) -> None:
    """`noiselib gc` leaves nothing staged, and of the versions the current one and the one before it."""
    answer = small.noiselib("gc")
    assert answer.code == 0, answer.err
    target = target_of(small)
    assert not [*target.home.glob("staging/*"), *target.home.glob("quarantine/*"), *target.home.glob("probe-*")]
    current = target.current()
    kept = versions(small)
    assert (current.name if current else None) in kept | {None}
    assert len(kept) <= 2
    assert all(name.isdecimal() for name in kept)
