"""A Parquet table: a symbolic link to one of its versions. Readers see one version at a time.

    TARGET                       a symbolic link to the current version: what readers open
    .TARGET.noiselib/versions/N  whole versions of the table: month=1/part-....parquet ... and _noiselib/RELEASE.json

Publishing builds the next version beside the current one (unchanged files are hard links, so it costs no copy) and then
renames one symbolic link over another: a single atomic step, with nothing to finish or roll back if it never comes.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from noiselib.errors import NoiselibError
from noiselib.failpoint import failpoint
from noiselib.release import Release
from noiselib.targets.files import link, read_json, sync, sync_directories, write_json
from noiselib.targets.target import MANIFESTS, TABLES, Columns, Manifest, Target, local_path

NEXT = "next"  # the link that is about to become the target


class ParquetTarget(Target):
    """The table at `path`, whose partitions are directories `depth` levels deep; the last `keep` versions of it are kept.

    depth: None if it is not known, of a table that is only read: every directory is then a partition's
    """

    def __init__(self, path: str, depth: int | None, keep: int = 2) -> None:
        place = local_path(path, "parquet")
        super().__init__(place, place.parent / f".{place.name}.noiselib", keep)
        self.depth = depth

    # -- what readers see now

    def current(self) -> Path | None:
        """The version readers see; None before the first. Raises NoiselibError if the target is not ours."""
        if not os.path.lexists(self.path):
            return None
        if not self.path.is_symlink() or not self.path.resolve().is_relative_to((self.home / "versions").resolve()):
            raise NoiselibError(
                f"target {self.path}: exists and was not published by noiselib; expected a path of its own"
            )
        if not self.path.exists():  # taken for no table, the next run would publish its own partitions alone
            raise NoiselibError(
                f"target {self.path}: its version {self.path.resolve()} is not there; expected it back in its place, or no link "
                f"{self.path}, to begin with an empty table"
            )
        return self.path.resolve()

    def manifest(self, release_id: str) -> Manifest | None:
        current = self.current()
        return read_json(current / MANIFESTS / f"{release_id}.json") if current else None

    def seen(self, release_ids: Collection[str]) -> set[str]:
        current = self.current()
        return {one for one in release_ids if current and (current / MANIFESTS / f"{one}.json").exists()}

    def manifests(self) -> list[Manifest]:
        current = self.current()
        found = _manifests(current) if current else []
        return sorted(found, key=lambda manifest: str(manifest["partition"]))

    def readable(self) -> dict[str, list[str]]:
        current = self.current()
        found: dict[str, list[str]] = {}
        for file in _files(current) if current else ():
            if not any(part.startswith(("_", ".")) for part in file.parts):
                found.setdefault(self._partition(file), []).append(str(self.path / file))
        return found

    def _partition(self, file: Path) -> str:
        """The partition's text, of a file's path in the table; directories are escaped as Spark does it."""
        return unquote("/".join(file.parts[:-1] if self.depth is None else file.parts[: self.depth]))

    # -- what changes it

    def _publish(self, releases: Sequence[Release], manifests: Mapping[str, Mapping[str, Any]]) -> None:
        def add(building: Path) -> None:
            for release in releases:
                self._add(release, building)
                write_json(building / MANIFESTS / f"{release.id}.json", manifests[release.id])

        self._next_version({release.partition_text for release in releases}, add)

    def _restore(self, manifest: Mapping[str, Any]) -> None:
        """From the latest version that has the release: its files and its manifest."""
        partition, name = manifest["partition"], f"{manifest['release_id']}.json"
        version = next((place for place in self._seen() if (place / MANIFESTS / name).exists()), None)
        if version is None:
            raise self.not_kept(manifest["release_id"])

        def add(building: Path) -> None:
            for file in _files(version):
                if file.parts[0] != MANIFESTS and self._partition(file) == partition:
                    link(version / file, building / file)
            link(version / MANIFESTS / name, building / MANIFESTS / name)

        self._next_version({partition}, add)

    def _next_version(self, replaced: Collection[str], add: Callable[[Path], None]) -> None:
        """Make the version current that is the current one with what `add` puts in the place of the partitions `replaced`."""
        current = self.current()
        self._sweep()
        versions = self.home / "versions"
        number = 1 + max((int(p.name) for p in versions.iterdir()), default=0)
        building = versions / f"building-{number}"
        (building / MANIFESTS).mkdir(parents=True)
        if current is not None:
            self._carry_over(current, building, replaced)
        failpoint("while_building")
        add(building)
        sync_directories(building)
        os.rename(building, versions / str(number))
        sync(versions)
        sync(self.home)
        failpoint("before_swap")
        self._point_to(Path(self.home.name) / "versions" / str(number))
        failpoint("after_swap")
        self._sweep()

    def _carry_over(self, current: Path, building: Path, replaced: Collection[str]) -> None:
        for file in _files(current):
            if file.parts[0] == MANIFESTS:
                manifest = read_json(current / file)
                keep = manifest is not None and manifest["partition"] not in replaced
            else:
                keep = self._partition(file) not in replaced
            if keep:
                link(current / file, building / file)

    def _add(self, release: Release, building: Path) -> None:
        data = self.data(release.id)
        for file in self.staged_files(release):
            link(file, building / file.relative_to(data))

    def _point_to(self, version: Path) -> None:
        next_link = self.home / NEXT
        next_link.unlink(missing_ok=True)
        # the link is made in the home directory but read from the target's own: relative to that
        os.symlink(version, next_link)
        os.replace(next_link, self.path)
        sync(self.path.parent)

    # -- what is kept

    def _seen(self) -> list[Path]:
        """The versions that are current or were, the latest first, as many as are to be kept.

        A version above the current one was built and never seen; one below it was current once.
        """
        current = self.current()
        now = int(current.name) if current is not None else 0
        numbers = [int(place.name) for place in (self.home / "versions").glob("*") if place.name.isdecimal()]
        return [
            self.home / "versions" / str(n) for n in sorted((n for n in numbers if n <= now), reverse=True)[: self.keep]
        ]

    def kept(self) -> list[Manifest]:
        found: dict[str, Manifest] = {}
        for version in self._seen():
            for manifest in _manifests(version):
                found.setdefault(manifest["release_id"], manifest)
        return sorted(found.values(), key=lambda manifest: str(manifest["partition"]))

    def _sweep(self) -> list[Path]:
        """Keep the versions that are to be kept: at least the one before the current one, which a reader may still be reading."""
        versions = self.home / "versions"
        versions.mkdir(parents=True, exist_ok=True)
        kept = self._seen()
        removed = [place for place in sorted(versions.iterdir()) if place not in kept]
        for place in removed:
            shutil.rmtree(place)
        return removed

    def collect(self) -> list[str]:
        with self.alone():
            self.current()  # raises, if so, before anything is removed
            removed = self.collect_staging()
            for leftover in [self.home / NEXT, *self.home.glob("probe-*")]:
                leftover.unlink(missing_ok=True)
            return [str(place) for place in [*removed, *self._sweep()]]

    def prove(self, columns: Columns = (), partition_by: Sequence[str] = ()) -> None:
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


def _files(version: Path) -> list[Path]:
    """All files of a version, by their path in it."""
    return sorted(file.relative_to(version) for file in version.rglob("*") if file.is_file())


def _manifests(version: Path) -> list[Manifest]:
    files = sorted((version / MANIFESTS).glob("*.json"))
    return [manifest for file in files if (manifest := read_json(file)) is not None]
