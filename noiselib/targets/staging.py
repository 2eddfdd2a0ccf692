"""The workspace beside a published table, the same for every format: where releases are staged, checked and put away.

HOME/staging/RELEASE     a release being made: data/, staged.json (it is whole), checks.json (what was checked)
HOME/quarantine/RELEASE  a release that failed its checks
HOME/withdrawn.json      releases that were rolled back from: a run does not publish them again
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from noiselib.errors import ReleaseHeld
from noiselib.release import Release
from noiselib.targets.files import read_json, sync, sync_directories, write_json


class Workspace:
    """A folder of noiselib's own, on the file system of the table, where no reader looks."""

    def __init__(self, home: Path) -> None:
        self.home = home

    # -- staging

    def staging(self, release_id: str) -> Path:
        return self.home / "staging" / release_id

    def scratch(self, job_id: str) -> Path:
        """A new place where one Spark job writes before its releases are told apart; what a killed run of it left is removed.

        No two runs share one: tasks of a killed driver may write on for a while.
        """
        staging = self.home / "staging"
        for leftover in staging.glob(f"job-{job_id}-*"):
            self.clear(leftover)
        staging.mkdir(parents=True, exist_ok=True)
        return staging / f"job-{job_id}-{uuid.uuid4().hex[:8]}"

    def clear(self, scratch: Path) -> None:
        """Remove what a Spark job left there."""
        shutil.rmtree(scratch, ignore_errors=True)

    def stage(self, release: Release, written: Path, record: Mapping[str, Any]) -> None:
        """Move what Spark wrote for `release` to its own place. It counts as staged once `staged.json` is there."""
        self.discard(release.id)
        place = self.staging(release.id)
        data = place / "data" / _partition_directory(written, release)
        data.parent.mkdir(parents=True, exist_ok=True)
        os.rename(written, data)
        for file in data.iterdir():
            if file.name.startswith(("_", ".")):
                file.unlink()
            else:
                sync(file)
        sync_directories(place)
        write_json(place / "staged.json", record)

    def staged(self, release_id: str) -> dict[str, Any] | None:
        return read_json(self.staging(release_id) / "staged.json")

    def record_checks(self, release_id: str, record: Mapping[str, Any]) -> None:
        write_json(self.staging(release_id) / "checks.json", record)

    def checks(self, release_id: str) -> dict[str, Any] | None:
        return read_json(self.staging(release_id) / "checks.json")

    def data(self, release_id: str) -> Path:
        """The staged data of a release: a directory that reads as a table."""
        return self.staging(release_id) / "data"

    def files(self, release_id: str) -> dict[str, list[int]]:
        """The staged files of a release, each with size and modification time: what was checked must be what is published."""
        data = self.data(release_id)
        files = sorted(path for path in data.rglob("*") if path.is_file())
        return {str(file.relative_to(data)): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}

    def discard(self, release_id: str) -> None:
        """Remove a staged release. Its mark goes first: half removed, it must not count as staged."""
        (self.staging(release_id) / "staged.json").unlink(missing_ok=True)
        shutil.rmtree(self.staging(release_id), ignore_errors=True)

    def forget(self, release_id: str) -> None:
        """Remove the noised rows of a release that is given up, staged or quarantined: its charge can then be given back."""
        for place in (self.staging(release_id), self.home / "quarantine" / release_id):
            if place.exists():
                (place / "staged.json").unlink(missing_ok=True)
                shutil.rmtree(place)

    def quarantine(self, release_id: str) -> Path:
        """Put a staged release where nothing publishes it; says where."""
        place = self.home / "quarantine" / release_id
        shutil.rmtree(place, ignore_errors=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.rename(self.staging(release_id), place)
        return place

    def quarantined(self, release_id: str) -> bool:
        """Whether the release lies there."""
        return (self.home / "quarantine" / release_id).exists()

    def collect_staging(self) -> list[Path]:
        """Remove everything staged or quarantined; says what was removed."""
        removed = [*self.home.glob("staging/*"), *self.home.glob("quarantine/*")]
        for place in removed:
            (place / "staged.json").unlink(missing_ok=True)
            shutil.rmtree(place)
        return removed

    # -- withdrawn

    def withdrawn(self) -> dict[str, Any]:
        """The releases that were rolled back from, each with its partition, since when and in favour of which."""
        return read_json(self.home / "withdrawn.json") or {}

    def withdraw(self, release_ids: Collection[str], partition: str, favour: str) -> None:
        """`release_ids` are rolled back from, in favour of one that is no longer withdrawn itself."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        marks = {one: {"partition": partition, "since": now, "in_favour_of": favour} for one in release_ids}
        kept = {one: mark for one, mark in self.withdrawn().items() if one != favour}
        write_json(self.home / "withdrawn.json", kept | marks)

    def reinstate(self, release_ids: Collection[str]) -> None:
        """They are not withdrawn, whatever a killed rollback has noted."""
        marks = self.withdrawn()
        if marks.keys() & set(release_ids):
            write_json(self.home / "withdrawn.json", {k: v for k, v in marks.items() if k not in release_ids})

    # -- one at a time

    @contextmanager
    def held(self) -> Iterator[None]:
        """One run at a time, where no ledger keeps leases. Raises ReleaseHeld. Ends with the process, however that ends."""
        self.home.mkdir(parents=True, exist_ok=True)
        with open(self.home / "run.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ReleaseHeld(f"target {self}: another run on this machine is at work on it") from None
            yield

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One publisher at a time: two releases of different partitions must not lose one another."""
        self.home.mkdir(parents=True, exist_ok=True)
        with open(self.home / "publish.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _partition_directory(written: Path, release: Release) -> Path:
    """The partition's directory below the table, named as Spark named it; empty for a table without partitions."""
    depth = len(release.partition)
    return Path(*written.parts[len(written.parts) - depth :]) if depth else Path()
