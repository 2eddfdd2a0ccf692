"""The workspace beside a published table, the same for every format: where releases are staged, checked and put away.

HOME/staging/RELEASE     a release being made: data/, staged.json (it is whole), checks.json (what was checked)
HOME/quarantine/RELEASE  a release that failed its checks
HOME/withdrawn.json      releases that were rolled back from: a run does not publish them again
HOME/charged/RELEASE.json  what a release cost that readers may have seen: for a ledger that is restored from a backup
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from noiselib.release import Release
from noiselib.targets.files import read_json, sync, sync_directories, write_json
from noiselib.targets.locks import locked

SHARE_SECONDS = 60.0  # a run waits for a `gc` that long
PUBLISH_SECONDS = 900.0  # others may have 100,000 files to link; who stands still for longer is to be looked at


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

    # -- charged

    def note_charge(self, release_id: str, charged: Mapping[str, Any]) -> None:
        """What the release costs, before any reader sees it."""
        self.charge_file(release_id).parent.mkdir(parents=True, exist_ok=True)
        write_json(self.charge_file(release_id), charged)

    def was_charged(self, release_id: str) -> bool:
        """Whether readers may have seen the release, whatever a ledger says."""
        return self.charge_file(release_id).exists()

    def charge_file(self, release_id: str) -> Path:
        """What was noted of its charge."""
        return self.home / "charged" / f"{release_id}.json"

    def charged(self) -> set[str]:
        """The ids of all releases that readers may have seen."""
        return {file.stem for file in (self.home / "charged").glob("[0-9a-f]*.json")}

    # -- one at a time

    def held(self, shared: bool = False) -> AbstractContextManager[None]:
        """One run at a time, where no ledger keeps leases; no `gc` beside runs that share it. Raises ReleaseHeld."""
        what = f"target {self}: the work on it"
        return locked(self.home / "run.lock", what, shared, SHARE_SECONDS if shared else 0.0)

    def alone(self) -> AbstractContextManager[None]:
        """One publisher at a time: two releases of different partitions must not lose one another. Raises ReleaseHeld."""
        return locked(self.home / "publish.lock", f"target {self}: publishing", seconds=PUBLISH_SECONDS)


def _partition_directory(written: Path, release: Release) -> Path:
    """The partition's directory below the table, named as Spark named it; empty for a table without partitions."""
    depth = len(release.partition)
    return Path(*written.parts[len(written.parts) - depth :]) if depth else Path()
