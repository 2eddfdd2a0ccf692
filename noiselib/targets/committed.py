"""A table whose commits name its data files: what Delta and Iceberg have in common.

    TABLE/.../month=1/RELEASE-part-....parquet   the files of releases, as they were staged and checked, under names with the id
    TABLE/_noiselib/RELEASE.json                 its manifest, which counts while the table's current version names its files
    HOME/history.json                            which release was current in each partition, in that order

Files are linked and manifests written first; then one commit names the new files and no longer names those they replace.
A publisher that is killed before has changed nothing that readers see: the next one takes up what it left.
"""

from __future__ import annotations

import json
import random
import re
import time
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from noiselib.errors import NoiselibError
from noiselib.failpoint import failpoint
from noiselib.release import Release
from noiselib.snapshot import Partition, PartitionValue, schema_types
from noiselib.targets.files import link, read_json, sync_directories, write_json
from noiselib.targets.target import MANIFESTS, Columns, Manifest, Target

OURS = re.compile(r"([0-9a-f]{64})-.*\.parquet")  # the name of a data file that noiselib has put into a table
ATTEMPTS = 20
PARTITION_TYPES = {"int32": pa.int32(), "int64": pa.int64(), "string": pa.string()}


class Conflict(Exception):
    """Somebody else has committed since the version was read: nothing was changed, look again."""


@dataclass(frozen=True)
class NewFile:
    """A data file below the table's folder that a commit is to name."""

    path: str
    partition: Partition
    size: int
    rows: int


@dataclass(frozen=True)
class Version:
    """The table as it is now: the partition's text of each data file, its columns, and the format's own view of it.

    thinned: the files of which others have deleted rows, by a delete file or a deletion vector beside them
    """

    files: Mapping[str, str]
    columns: tuple[tuple[str, str], ...]
    view: Any
    thinned: frozenset[str] = frozenset()

    @cached_property
    def owners(self) -> set[str]:
        """The releases that the table names files of."""
        return _owners(self.files)

    @cached_property
    def by_partition(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for path, partition in self.files.items():
            found.setdefault(partition, set()).add(path)
        return found

    def of(self, partitions: Collection[str]) -> set[str]:
        return {path for one in partitions for path in self.by_partition.get(one, ())}


def _owners(paths: Iterable[str]) -> set[str]:
    return {name[1] for path in paths if (name := OURS.fullmatch(Path(path).name))}


@dataclass(frozen=True)
class Commit:
    """What one commit changes. `schema` and `partition_by` are those of a new table."""

    added: Sequence[NewFile]
    removed: Collection[str]
    release_ids: Sequence[str]
    properties: Mapping[str, str]
    schema: pa.Schema | None
    partition_by: Sequence[str]


class CommittedTarget(Target):
    """A format has to know its current version and to commit. `data` is the folder of its data files, below `path`."""

    data_folder = ""

    @abstractmethod
    def _version(self) -> Version | None:
        """The table as readers see it; None if there is none yet."""

    @abstractmethod
    def _commit(self, version: Version | None, commit: Commit) -> None:
        """Commit to exactly that version, or make the table. Raises Conflict if it is not the current one any more."""

    def _current(self) -> Version | None:
        """As `_version`. Raises NoiselibError for a table that is not ours."""
        version = self._version()
        if version is not None and not (self.path / MANIFESTS).is_dir():
            raise NoiselibError(f"target {self}: exists and was not published by noiselib; expected a table of its own")
        return version

    # -- what readers see now

    def manifest(self, release_id: str) -> Manifest | None:
        return self._seen_whole(self._current(), release_id)

    def seen(self, release_ids: Collection[str]) -> set[str]:
        version = self._current()
        return {one for one in release_ids if self._seen_whole(version, one) is not None}

    def manifests(self) -> list[Manifest]:
        return sorted(self._seen(self._current()).values(), key=lambda manifest: str(manifest["partition"]))

    def owners(self) -> list[Manifest]:
        version = self._current()
        files = version.by_partition if version else {}
        last = {entry["partition"]: entry["release_id"] for entry in self._history()}
        ids = {one for paths in files.values() for one in _owners(paths)}
        ids |= {one for partition, one in last.items() if version and not _owners(files.get(partition, ()))}
        found = [manifest for one in ids if (manifest := self._read(one)) is not None]
        return sorted(found, key=lambda manifest: str(manifest["partition"]))

    def _seen(self, version: Version | None) -> dict[str, Manifest]:
        """The releases that readers see, by id."""
        found = {one: self._seen_whole(version, one) for one in version.owners} if version else {}
        return {one: manifest for one, manifest in found.items() if manifest is not None}

    def _seen_whole(self, version: Version | None, release_id: str) -> Manifest | None:
        """The manifest, if its partition has in the table just the files that it names, and these all their rows: what others
        have rewritten, deleted or added there was never checked.
        """
        manifest = self._read(release_id) if version is not None and release_id in version.owners else None
        if manifest is None or version is None:
            return None
        files = {file["path"] for file in manifest["files"]}
        return manifest if files == version.of([manifest["partition"]]) and not files & version.thinned else None

    def readable(self) -> dict[str, list[str]]:
        version = self._current()
        found: dict[str, list[str]] = {}
        for path, partition in sorted(version.files.items()) if version else ():
            found.setdefault(partition, []).append(str(self.path / path))
        return found

    def _read(self, release_id: str) -> Manifest | None:
        return read_json(self._manifest_file(release_id))

    def _manifest_file(self, release_id: str) -> Path:
        return self.path / MANIFESTS / f"{release_id}.json"

    # -- what changes it

    def prove(self, columns: Columns = (), partition_by: Sequence[str] = ()) -> None:
        """That the workspace and the table can be written to, and that the table has these columns, and can be partitioned so."""
        version = self._current()
        if columns:
            self._check_columns(version, tuple((name, self._kept_as(kind)) for name, kind in columns))
        for name, kind in columns:
            if name in partition_by and kind not in PARTITION_TYPES:
                raise NoiselibError(
                    f"target {self}: partition column {name!r} is {kind}; expected {' or '.join(PARTITION_TYPES)} in this format, "
                    "or a target of format parquet"
                )
        try:
            for place in (self.home, self.path):
                place.mkdir(parents=True, exist_ok=True)
            probe, other = self.home / "probe", self.path / MANIFESTS / ".probe"
            (self.path / MANIFESTS).mkdir(exist_ok=True)
            with self.alone():
                probe.write_text("")
                link(probe, other)
                other.unlink()
                probe.unlink()
            if version is None:  # whoever makes a table here later would be taken for us
                with suppress(OSError):  # a killed publisher has left something
                    (self.path / MANIFESTS).rmdir()
                    self.path.rmdir()
        except OSError as error:
            raise NoiselibError(
                f"target {self}: cannot be published ({error.strerror}); expected a table's folder {self.path} and a workspace "
                f"{self.home} to write to"
            ) from None

    def _publish(self, releases: Sequence[Release], manifests: Mapping[str, Mapping[str, Any]]) -> None:
        before = self._current()
        self._note_current(before)
        todo = [release for release in releases if self._seen_whole(before, release.id) is None]
        placed = [self._place(release, manifests[release.id]) for release in todo]
        sync_directories(self.path)
        failpoint("before_swap")
        if placed:
            self._make_current(placed, before, self._schema(todo[0]), {})
        failpoint("after_swap")
        self._note_current(self._current())

    def _restore(self, manifest: Mapping[str, Any]) -> None:
        if not self._whole(manifest):
            raise self.not_kept(manifest["release_id"])
        before = self._current()
        if before is None:
            raise NoiselibError(
                f"target {self}: there is no table any more to roll back; expected a run, which makes it anew"
            )
        self._note_current(before)
        failpoint("before_swap")
        self._make_current([manifest], before, None, {"noiselib.rollback": "true"})
        failpoint("after_swap")
        self._note_current(self._current())

    def _place(self, release: Release, manifest: Mapping[str, Any]) -> Manifest:
        """Link the staged files into the table's folder and write the manifest, which says what a commit needs of them."""
        files = []
        for file in self.staged_files(release):
            relative = file.relative_to(self.data(release.id))
            place = self.path / self.data_folder / relative.with_name(f"{release.id}-{relative.name}")
            if not place.exists():  # a killed publisher has linked it: Spark gives no name twice
                link(file, place)
            rows = pq.read_metadata(file).num_rows
            files.append({"path": str(place.relative_to(self.path)), "size": file.stat().st_size, "rows": rows})
        failpoint("while_building")
        whole = {**manifest, "files": files, "values": [list(item) for item in release.partition]}
        self._manifest_file(release.id).parent.mkdir(parents=True, exist_ok=True)
        write_json(self._manifest_file(release.id), whole)
        return whole

    def _schema(self, release: Release) -> pa.Schema:
        """The table's columns in their order: from the release's files and, of the partition, from what was staged."""
        staged = self.staged(release.id)
        assert staged is not None
        own = pq.read_schema(self.staged_files(release)[0])
        partition = [name for name, _ in release.partition]
        fields = [
            pa.field(name, PARTITION_TYPES[kind]) if name in partition else own.field(name).with_nullable(True)
            for name, kind in staged["columns"]
        ]
        return pa.schema([field.remove_metadata() for field in fields])

    def _make_current(
        self,
        manifests: Sequence[Mapping[str, Any]],
        before: Version | None,
        schema: pa.Schema | None,
        properties: Mapping[str, str],
    ) -> None:
        """Commit the files of `manifests` in the place of their partitions' others, as those were `before`.

        Commits to other partitions meanwhile are looked at again and kept; one to the same partition is somebody else's: refused.
        """
        partitions = {manifest["partition"] for manifest in manifests}
        seen = before.of(partitions) if before else set()
        for _ in range(ATTEMPTS):
            version = self._current()
            removed = version.of(partitions) if version else set()
            if removed != seen:
                raise NoiselibError(
                    f"target {self}: {', '.join(sorted(partitions)) or 'the table'} was changed by somebody else meanwhile; "
                    "nothing is published, run again to replace that"
                )
            if schema is not None:
                self._check_columns(version, self._types(schema))
            try:
                whole = removed - version.thinned if version else removed
                self._commit(version, _commit_of(manifests, removed, whole, schema, properties))
                return
            except Conflict:
                time.sleep(random.uniform(0, 0.2))  # so that two publishers do not meet again
        raise NoiselibError(
            f"target {self}: others have committed to it {ATTEMPTS} times meanwhile; nothing is published, run again"
        )

    def _check_columns(self, version: Version | None, new: tuple[tuple[str, str], ...]) -> None:
        if version is not None and new != version.columns:
            differing = sorted({name for name, _ in {*new} ^ {*version.columns}}) or ["their order"]
            raise NoiselibError(
                f"target {self}: its columns differ from those of the release in {', '.join(differing)}; a table keeps the columns "
                "and types that it was made with: expected another target"
            )

    def _types(self, schema: pa.Schema) -> tuple[tuple[str, str], ...]:
        return tuple((name, self._kept_as(kind)) for name, kind in schema_types(schema))

    def _kept_as(self, kind: str) -> str:
        """The type that the format keeps a column of this type as."""
        return kind

    # -- what is kept

    def _history(self) -> list[dict[str, str]]:
        return list((read_json(self.home / "history.json") or {}).get("current", []))

    def _note_current(self, version: Version | None) -> None:
        """Remember which releases are current, where that is not the last that was remembered: whatever became of a publisher."""
        history = self._history()
        last = {entry["partition"]: entry["release_id"] for entry in history}
        now_seen = {one: manifest["partition"] for one, manifest in self._seen(version).items()}
        new = [(one, where) for one, where in now_seen.items() if last.get(where) != one]
        if new:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            entries = [{"release_id": one, "partition": where, "noted": now} for one, where in sorted(new)]
            write_json(self.home / "history.json", {"current": history + entries})

    def kept(self) -> list[Manifest]:
        """Of releases that are or were current; a vacuum by others may have taken files of those that were."""
        version = self._current()
        known = [
            *self._seen(version),
            *(entry["release_id"] for entry in reversed(self._history())),
        ]
        found = [manifest for one in dict.fromkeys(known) if (manifest := self._read(one)) and self._whole(manifest)]
        return sorted(found, key=lambda manifest: str(manifest["partition"]))

    def _whole(self, manifest: Mapping[str, Any]) -> bool:
        return all((self.path / file["path"]).exists() for file in manifest["files"])

    def collect(self) -> list[str]:
        with self.alone():
            removed = self.collect_staging()
            version = self._current()
            self._note_current(version)
            kept: dict[str, list[Manifest]] = {}
            for manifest in self.kept():
                kept.setdefault(manifest["partition"], []).append(manifest)
            chosen = [manifest for manifests in kept.values() for manifest in manifests[: self.keep]]
            needed = {file["path"] for manifest in chosen for file in manifest["files"]} | {
                *(version.files if version else ())
            }
            ids = {manifest["release_id"] for manifest in [*chosen, *self.owners()]}
            self._let_go(needed)
            for file in sorted((self.path / self.data_folder).rglob("*.parquet")):
                if OURS.fullmatch(file.name) and str(file.relative_to(self.path)) not in needed:
                    file.unlink()
                    removed.append(file)
            for file in sorted([*self.path.glob(f"{MANIFESTS}/*.json"), *self.path.glob(f"{MANIFESTS}/.*")]):
                if file.stem not in ids:
                    file.unlink()
                    removed.append(file)
            return [str(place) for place in removed]

    @abstractmethod
    def _let_go(self, needed: Collection[str]) -> None:
        """Drop older versions of the table that name data files of ours which are about to be removed."""


def _commit_of(
    manifests: Sequence[Mapping[str, Any]],
    old: set[str],
    whole: set[str],
    schema: pa.Schema | None,
    properties: Mapping[str, str],
) -> Commit:
    """`old`: the files in these partitions now; `whole`: those of them that may stay, where a manifest names them too."""
    added = []
    for manifest in manifests:
        partition: tuple[tuple[str, PartitionValue], ...] = tuple((name, value) for name, value in manifest["values"])
        added += [NewFile(file["path"], partition, file["size"], file["rows"]) for file in manifest["files"]]
    staying = whole.intersection(file.path for file in added)
    added = [file for file in added if file.path not in staying]
    ids = [manifest["release_id"] for manifest in manifests]
    charges = {m["release_id"]: _without_events(m.get("charge")) for m in manifests}
    told = {
        "noiselib.pipeline": str(manifests[0].get("pipeline")),
        "noiselib.releases": ",".join(ids),
        "noiselib.spec": ",".join(sorted({str(manifest.get("spec")) for manifest in manifests})),
        "noiselib.charge": json.dumps(charges, sort_keys=True),
        **properties,
    }
    partition_by = [name for name, _ in manifests[0]["values"]]
    return Commit(added, old - staying, ids, told, schema, partition_by)


def _without_events(charge: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return {name: value for name, value in charge.items() if name != "events"} if charge else None
