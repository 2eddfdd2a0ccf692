"""An Iceberg table in a catalog: one snapshot replaces the partitions of the releases published.

The files carry neither field ids nor the partition's columns: the table's name mapping gives the first, and the second are read
from the metadata, as the format says for identity partitions.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NamespaceAlreadyExistsError,
    NoSuchTableError,
    TableAlreadyExistsError,
    ValidationException,
)
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat, ManifestEntry
from pyiceberg.table import Table, Transaction
from pyiceberg.typedef import Record
from sqlalchemy import make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from noiselib import spec as s
from noiselib.errors import NoiselibError
from noiselib.snapshot import partition_text
from noiselib.targets.committed import Commit, CommittedTarget, Conflict, NewFile, Version
from noiselib.targets.target import local_path

NAME_MAPPING = "schema.name-mapping.default"
WIDER = {"int8": "int32", "int16": "int32", "large_binary": "binary"}  # Iceberg has no narrower integers


class IcebergTarget(CommittedTarget):
    """The table `name` of a catalog. New tables lie in WAREHOUSE/NAMESPACE/TABLE, their workspace is WAREHOUSE/.NAME.noiselib."""

    data_folder = "data"

    def __init__(self, name: str, catalog: Catalog, path: Path, home: Path, keep: int = 2) -> None:
        super().__init__(path, home, keep)
        self.name, self.catalog = name, catalog
        self._known: tuple[str, Version] | None = None

    @classmethod
    def of(cls, target: s.Target) -> IcebergTarget:
        """Raises NoiselibError for a catalog that cannot be opened, or one whose tables do not lie on a file system."""
        given = target.catalog
        assert given is not None
        text = given if isinstance(given, str) else make_url(given.uri).render_as_string(hide_password=True)
        try:
            catalog = _open(given)
        except (SQLAlchemyError, ValueError) as error:
            raise NoiselibError(f"catalog {text}: cannot be opened ({_reason(error)})") from None
        warehouse = catalog.properties.get("warehouse")
        with _told(target.path):
            path = _location(catalog, target.path) or (warehouse and f"{warehouse}/{target.path.replace('.', '/')}")
        home = target.workspace or (warehouse and f"{warehouse}/.{target.path}.noiselib")
        if path is None or home is None:
            raise NoiselibError(
                f"catalog {text}: names no warehouse, where the table {target.path} and its workspace could lie; expected one in "
                "pyiceberg's configuration"
            )
        return cls(target.path, catalog, local_path(path, "iceberg"), local_path(home, "iceberg"), target.keep)

    def __str__(self) -> str:
        return self.name

    def _version(self) -> Version | None:
        with _told(self.name):
            try:
                table = self.catalog.load_table(self.name)
            except NoSuchTableError:
                return None
            if self._known is None or self._known[0] != table.metadata_location:
                self._known = (table.metadata_location, self._version_of(table))
            return self._known[1]

    def _version_of(self, table: Table) -> Version:
        names = [field.name for field in table.spec().fields]
        snapshot = table.current_snapshot()
        manifests = snapshot.manifests(table.io) if snapshot else []
        entries = [entry for one in manifests for entry in one.fetch_manifest_entry(table.io)]
        data = [entry for entry in entries if entry.data_file.content == DataFileContent.DATA]
        deletes = [entry for entry in entries if entry.data_file.content != DataFileContent.DATA]
        view = {self._relative(entry.data_file.file_path): entry.data_file for entry in data}
        files = {
            path: partition_text(tuple(zip(names, [file.partition[i] for i in range(len(names))], strict=True)))
            for path, file in view.items()
        }
        thinned = [entry.data_file.file_path for entry in data if any(_thins(delete, entry) for delete in deletes)]
        columns = self._types(table.schema().as_arrow())
        return Version(files, columns, (table, view), frozenset(map(self._relative, thinned)))

    def _relative(self, path: str) -> str:
        plain = path.removeprefix("file://").removeprefix("file:")
        return os.path.relpath(plain, self.path) if Path(plain).is_relative_to(self.path) else plain

    def _kept_as(self, kind: str) -> str:
        return WIDER.get(kind, kind)

    def _commit(self, version: Version | None, commit: Commit) -> None:
        with _told(self.name):
            try:
                transaction = self._new_table(commit) if version is None else version.view[0].transaction()
                with transaction.update_snapshot(snapshot_properties=dict(commit.properties)).overwrite() as snapshot:
                    for path in commit.removed:
                        snapshot.delete_data_file(version.view[1][path])  # type: ignore[union-attr]
                    for file in commit.added:
                        snapshot.append_data_file(self._data_file(file, transaction.table_metadata.default_spec_id))
                transaction.commit_transaction()
            except (CommitFailedException, ValidationException, TableAlreadyExistsError) as error:
                raise Conflict from error

    def _new_table(self, commit: Commit) -> Transaction:
        """The table appears with its first snapshot, or not at all."""
        assert commit.schema is not None
        with suppress(NamespaceAlreadyExistsError, IntegrityError):  # another publisher has just made it
            self.catalog.create_namespace_if_not_exists(self.name.rpartition(".")[0])
        created = self.catalog.create_table_transaction(self.name, commit.schema, location=str(self.path))
        with created.update_spec() as update:
            for name in commit.partition_by:
                update.add_identity(name)
        mapping = created.table_metadata.schema().name_mapping.model_dump_json()
        # a commit lands on the version that was read or not at all: what it replaces is looked up again by us
        created.set_properties({NAME_MAPPING: mapping, "commit.retry.num-retries": "0"})
        return created

    def _data_file(self, file: NewFile, spec_id: int) -> DataFile:
        """The number of rows is all the statistics that are told of a file."""
        return DataFile.from_args(
            content=DataFileContent.DATA,
            file_path=str(self.path / file.path),
            file_format=FileFormat.PARQUET,
            partition=Record(*[value for _, value in file.partition]),
            record_count=file.rows,
            file_size_in_bytes=file.size,
            spec_id=spec_id,
        )

    def _let_go(self, needed: Collection[str]) -> None:
        """Expire snapshots that name files which are about to be removed."""
        version = self._version()
        if version is None:
            return
        table: Table = version.view[0]
        current = table.current_snapshot()
        gone = [
            snapshot.snapshot_id
            for snapshot in table.snapshots()
            if current is not None
            and snapshot.snapshot_id != current.snapshot_id
            and any(
                self._relative(entry.data_file.file_path) not in needed
                for one in snapshot.manifests(table.io)
                for entry in one.fetch_manifest_entry(table.io)
            )
        ]
        if gone:
            table.maintenance.expire_snapshots().by_ids(gone).commit()


def _thins(delete: ManifestEntry, data: ManifestEntry) -> bool:
    """Whether a delete file, of whatever kind, may be about rows of the data file: of its partition, and no older. One of another
    partition spec may be about any.
    """
    one, other = delete.data_file, data.data_file
    there = one.spec_id != other.spec_id or one.partition == other.partition
    return there and (delete.sequence_number or 0) >= (data.sequence_number or 0)


def _open(given: s.Catalog | str) -> Catalog:
    if isinstance(given, str):
        return load_catalog(given)
    warehouse = str(local_path(given.warehouse, "iceberg"))
    try:
        return load_catalog(given.name, type="sql", uri=given.uri, warehouse=warehouse)
    except SQLAlchemyError:  # another process has just made the catalog's own tables
        return load_catalog(given.name, type="sql", uri=given.uri, warehouse=warehouse)


def _location(catalog: Catalog, name: str) -> str | None:
    try:
        return catalog.load_table(name).location()
    except NoSuchTableError:
        return None


@contextmanager
def _told(name: str) -> Iterator[None]:
    """The catalog's database may be away, locked or read-only."""
    try:
        yield
    except SQLAlchemyError as error:
        raise NoiselibError(
            f"target {name}: its catalog cannot be used ({_reason(error)}); run again to resume"
        ) from None


def _reason(error: Any) -> str:
    return str(getattr(error, "orig", None) or error).splitlines()[0]
