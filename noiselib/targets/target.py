"""What the path, the command line and the tests know of a published table, whatever its format."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from noiselib.errors import NoiselibError
from noiselib.release import Release
from noiselib.targets.staging import Workspace

MANIFESTS = "_noiselib"  # a leading underscore: no reader takes it for data, no vacuum for rubbish
TABLES = (
    "Formats delta and iceberg need no symbolic links, but a local or mounted path as well: "
    "an object store is not supported yet."
)
Columns = Sequence[tuple[str, str]]  # the published columns and their types, in order
Manifest = dict[str, Any]


class Target(Workspace):
    """The published table in the folder `path`, and the workspace beside it. As text it is what the spec calls it."""

    def __init__(self, path: Path, home: Path, keep: int) -> None:
        super().__init__(home)
        self.path, self.keep = path, keep

    def __str__(self) -> str:
        return str(self.path)

    # -- what readers see now

    @abstractmethod
    def manifest(self, release_id: str) -> Manifest | None:
        """The manifest of a release that is published now."""

    @abstractmethod
    def seen(self, release_ids: Collection[str]) -> set[str]:
        """Those of them that are published now."""

    @abstractmethod
    def manifests(self) -> list[Manifest]:
        """The manifests of all releases that are published now, by partition."""

    def owners(self) -> list[Manifest]:
        """The manifests of the releases that the table is of, also where others have changed a partition so that it holds
        none as it was published: those that readers see any rows of, else the one that was current last.
        """
        return self.manifests()

    @abstractmethod
    def readable(self) -> dict[str, list[str]]:
        """The data files that readers get now, by the partition's text; below `path`, in directories named as Spark names them."""

    # -- what changes it

    @abstractmethod
    def prove(self, columns: Columns = (), partition_by: Sequence[str] = ()) -> None:
        """Raises NoiselibError where a release with these columns could not be published atomically: before anything is spent."""

    def publish(
        self,
        releases: Sequence[Release],
        manifests: Mapping[str, Mapping[str, Any]],
        before: Mapping[str, str] | None = None,
        begin: Callable[[], None] = lambda: None,
    ) -> None:
        """Make the staged and checked `releases` current, all in one step, each in the place of its partition's older release.

        before: see `demand_unmoved`, which is asked while nobody else publishes
        begin: is called when nothing is in the way any more and readers see nothing yet
        """
        with self.alone():
            if before is not None:
                self.demand_unmoved(releases, before)
            self.reinstate([manifest["release_id"] for manifest in self.owners()])
            begin()
            self._publish(releases, manifests)

    def rolled_back(self, among: Collection[str] | None = None) -> dict[str, Any]:
        """The releases (of those `among`) that were rolled back from, without what a killed rollback has noted: the table is of
        those still.
        """
        marks = {one: mark for one, mark in self.withdrawn().items() if among is None or one in among}
        owners = {manifest["release_id"] for manifest in self.owners()} if marks else set()
        return {one: mark for one, mark in marks.items() if one not in owners}

    def current_releases(self) -> dict[str, str]:
        """The release that is published now, of each partition by its text."""
        return by_partition(self.manifests())

    def demand_unmoved(self, releases: Sequence[Release], before: Mapping[str, str]) -> None:
        """Raises NoiselibError if what is current in a partition of `releases` is no longer what it was `before`: another run
        may have published a later state of the source meanwhile, or an operator rolled back.
        """
        now = self.current_releases()
        for release in releases:
            where = release.partition_text
            if now.get(where) not in (before.get(where), release.id):
                what = f"release {now[where][:12]} was made current in" if where in now else "somebody else has changed"
                raise NoiselibError(
                    f"target {self}: {what} {where or 'the table'} since this run began; nothing is published, run again to "
                    "publish what the source holds now"
                )

    def rollback(self, manifest: Mapping[str, Any]) -> None:
        """Make a kept release current again, in one step, at no cost. The one it replaces is remembered as withdrawn."""
        release_id, partition = manifest["release_id"], manifest["partition"]
        with self.alone():
            if self.manifest(release_id) is not None:
                self.reinstate([release_id])
                return
            replaced = {m["release_id"] for m in self.owners() if m["partition"] == partition} - {release_id}
            self.withdraw(replaced, partition, release_id)
            self._restore(manifest)

    @abstractmethod
    def kept(self) -> list[Manifest]:
        """The manifests of all releases that can be current without being made again, the latest of each partition first."""

    def not_kept(self, release_id: str) -> NoiselibError:
        named = [f"{one['release_id'][:12]} ({one['partition'] or 'whole table'})" for one in self.kept()]
        return NoiselibError(
            f"release {release_id[:12]}: not kept by target {self}; expected one of {', '.join(named) or 'none'}"
        )

    @abstractmethod
    def collect(self) -> list[str]:
        """Remove all that is staged, quarantined, no longer kept or left by a killed publisher; says what was removed."""

    @abstractmethod
    def _publish(self, releases: Sequence[Release], manifests: Mapping[str, Mapping[str, Any]]) -> None: ...

    @abstractmethod
    def _restore(self, manifest: Mapping[str, Any]) -> None: ...

    def staged_files(self, release: Release) -> list[Path]:
        """The files that were checked. Raises NoiselibError if they are not what is staged: less would be published, or other."""
        data, there = self.data(release.id), self.files(release.id)
        if self.staged(release.id) is None or there != (self.checks(release.id) or {}).get("files"):
            raise NoiselibError(
                f"release {release.id[:12]}: no longer staged in {data} as it was checked; nothing is published, run again"
            )
        return [data / name for name in there]


def by_partition(manifests: Iterable[Manifest]) -> dict[str, str]:
    """The release of each partition, by its text."""
    return {manifest["partition"]: manifest["release_id"] for manifest in manifests}


def local_path(path: str, kind: str) -> Path:
    """Absolutely: Spark, which writes here too, may work elsewhere. Raises NoiselibError for an object store."""
    if "://" in path and not path.startswith("file://"):
        scheme = path.partition("://")[0]
        raise NoiselibError(
            f"target {path}: publishing format {kind} through {scheme}:// cannot be atomic here (releases are staged, linked and "
            f"locked on a file system); expected a local or mounted path. {TABLES}"
        )
    return Path(path.removeprefix("file://")).absolute()
