"""The target on disk: where releases are staged, published and quarantined. Readers see one version at a time.

    TARGET                       a symbolic link to the current version: what readers open
    .TARGET.noiselib/versions/N  whole versions of the table: month=1/part-....parquet ... and _noiselib/RELEASE.json
    .TARGET.noiselib/staging/    releases being made: no reader looks here
    .TARGET.noiselib/quarantine/ releases that failed their checks

Publishing builds the next version beside the current one (unchanged files are hard links, so it costs no copy) and then
renames one symbolic link over another: a single atomic step, with nothing to finish or roll back if it never comes.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from noiselib.errors import NoiselibError, ReleaseHeld
from noiselib.failpoint import failpoint
from noiselib.release import Release

TABLES = "An object store needs a table format such as Delta or Iceberg, which is not supported yet."
NEXT = "next"  # the link that is about to become the target
MANIFESTS = "_noiselib"  # a leading underscore: Spark and Arrow do not take it for data


class Target:
    """The published table at `path`, whose partitions are directories `depth` levels deep."""

    def __init__(self, path: str, depth: int) -> None:
        if "://" in path and not path.startswith("file://"):
            scheme = path.partition("://")[0]
            raise NoiselibError(
                f"target {path}: publishing Parquet files through {scheme}:// cannot be atomic (no link can be renamed); "
                f"expected a local or mounted path. {TABLES}"
            )
        self.path = Path(path.removeprefix("file://")).absolute()  # Spark, which writes here too, may work elsewhere
        self.depth = depth
        self.home = self.path.parent / f".{self.path.name}.noiselib"

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
                _sync(file)
        _sync_directories(place)
        _write_json(place / "staged.json", record)

    def staged(self, release_id: str) -> dict[str, Any] | None:
        return _read_json(self.staging(release_id) / "staged.json")

    def record_checks(self, release_id: str, record: Mapping[str, Any]) -> None:
        _write_json(self.staging(release_id) / "checks.json", record)

    def checks(self, release_id: str) -> dict[str, Any] | None:
        return _read_json(self.staging(release_id) / "checks.json")

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

    # -- published

    def current(self) -> Path | None:
        """The version readers see; None before the first. Raises NoiselibError if the target is not ours."""
        if not os.path.lexists(self.path):
            return None
        if not self.path.is_symlink() or not self.path.resolve().is_relative_to((self.home / "versions").resolve()):
            raise NoiselibError(
                f"target {self.path}: exists and was not published by noiselib; expected a path of its own"
            )
        return self.path.resolve() if self.path.exists() else None

    def manifest(self, release_id: str) -> dict[str, Any] | None:
        """The manifest of a release that is published now."""
        current = self.current()
        return _read_json(current / MANIFESTS / f"{release_id}.json") if current else None

    def manifests(self) -> list[dict[str, Any]]:
        """The manifests of all releases that are published now, by partition."""
        current = self.current()
        files = sorted((current / MANIFESTS).glob("*.json")) if current else []
        found = [manifest for file in files if (manifest := _read_json(file)) is not None]
        return sorted(found, key=lambda manifest: str(manifest["partition"]))

    def publish(self, releases: Sequence[Release], manifests: Mapping[str, Mapping[str, Any]]) -> None:
        """Make the staged `releases` current, all in one step, each in the place of its partition's older release."""
        with self._alone():
            current = self.current()
            self._sweep()
            versions = self.home / "versions"
            number = 1 + max((int(p.name) for p in versions.iterdir()), default=0)
            building = versions / f"building-{number}"
            replaced = {release.partition_text for release in releases}
            (building / MANIFESTS).mkdir(parents=True)
            if current is not None:
                self._carry_over(current, building, replaced)
            failpoint("while_building")
            for release in releases:
                self._add(release, building)
                _write_json(building / MANIFESTS / f"{release.id}.json", manifests[release.id])
            _sync_directories(building)
            os.rename(building, versions / str(number))
            _sync(versions)
            _sync(self.home)
            failpoint("before_swap")
            self._point_to(Path(self.home.name) / "versions" / str(number))
            failpoint("after_swap")
            self._sweep()

    def _sweep(self) -> list[Path]:
        """Keep the current version, and the one before it, which a reader may still be reading; says what was removed.

        A version above the current one was built and never seen; one below it was current once.
        """
        versions = self.home / "versions"
        versions.mkdir(parents=True, exist_ok=True)
        current = self.current()
        now = int(current.name) if current is not None else 0
        numbers = sorted(int(place.name) for place in versions.iterdir() if place.name.isdecimal())
        kept = {str(number) for number in [n for n in numbers if n <= now][-2:]}
        removed = [place for place in sorted(versions.iterdir()) if place.name not in kept]
        for place in removed:
            shutil.rmtree(place)
        return removed

    def _carry_over(self, current: Path, building: Path, replaced: set[str]) -> None:
        for file in sorted(p for p in current.rglob("*") if p.is_file()):
            relative = file.relative_to(current)
            if relative.parts[0] == MANIFESTS:
                manifest = _read_json(file)
                keep = manifest is not None and manifest["partition"] not in replaced
            else:
                keep = unquote("/".join(relative.parts[: self.depth])) not in replaced
            if keep:
                _link(file, building / relative)

    def _add(self, release: Release, building: Path) -> None:
        data = self.data(release.id)
        if self.staged(release.id) is None:  # or the partition would be published empty
            raise NoiselibError(f"release {release.id[:12]}: no longer staged in {data}; expected perturb first")
        for file in sorted(p for p in data.rglob("*") if p.is_file()):
            _link(file, building / file.relative_to(data))

    def _point_to(self, version: Path) -> None:
        link = self.home / NEXT
        link.unlink(missing_ok=True)
        # the link is made in the home directory but read from the target's own: relative to that
        os.symlink(version, link)
        os.replace(link, self.path)
        _sync(self.path.parent)

    def collect(self) -> list[str]:
        """Remove everything staged, quarantined or left by a killed publisher; says what was removed."""
        with self._alone():
            removed = [*self.home.glob("staging/*"), *self.home.glob("quarantine/*")]
            for place in removed:
                (place / "staged.json").unlink(missing_ok=True)
                shutil.rmtree(place)
            for link in [self.home / NEXT, *self.home.glob("probe-*")]:
                link.unlink(missing_ok=True)
            return [str(place) for place in [*removed, *self._sweep()]]

    def prove(self) -> None:
        """Do once what publishing will do, beside the target. Raises NoiselibError where the file system cannot."""
        self.current()
        probe = self.home / f"probe-{uuid.uuid4().hex[:8]}"
        try:
            self.home.mkdir(parents=True, exist_ok=True)
            for version in ("1", "2"):
                os.symlink(version, probe.with_suffix(".next"))
                os.replace(probe.with_suffix(".next"), probe)
            probe.unlink()
            with open(probe, "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
            probe.unlink()
        except OSError as error:
            raise NoiselibError(
                f"target {self.path}: cannot be published atomically ({error.strerror}); expected a directory to write to, on a "
                f"file system with symbolic links, locks and rename, such as ext4 or xfs. {TABLES}"
            ) from None

    @contextmanager
    def held(self) -> Iterator[None]:
        """One run at a time, where no ledger keeps leases. Raises ReleaseHeld. Ends with the process, however that ends."""
        self.home.mkdir(parents=True, exist_ok=True)
        with open(self.home / "run.lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ReleaseHeld(f"target {self.path}: another run on this machine is at work on it") from None
            yield

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One publisher at a time: two releases of different partitions must not lose one another."""
        self.home.mkdir(parents=True, exist_ok=True)
        with open(self.home / "publish.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _partition_directory(written: Path, release: Release) -> Path:
    """The partition's directory below the table, named as Spark named it; empty for a table without partitions."""
    depth = len(release.partition)
    return Path(*written.parts[len(written.parts) - depth :]) if depth else Path()


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copy2(source, target)  # a file system without hard links
        _sync(target)


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync(path.parent)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return None
    try:
        data = json.loads(text)
    except ValueError:
        raise NoiselibError(f"{path}: not valid JSON; expected a file that noiselib wrote") from None
    return dict(data)


def _sync_directories(root: Path) -> None:
    for directory in [root, *(p for p in root.rglob("*") if p.is_dir())]:
        _sync(directory)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
