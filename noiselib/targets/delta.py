"""A Delta table: one version of its log replaces the partitions of the releases published, with an app transaction for each.

The commit is written by delta-rs, without a JVM, and allowed no retries of its own: it then lands on the very version that was
read, or not at all, and what to replace is looked up again.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction, RemoveAction, create_table_with_add_actions

from noiselib.errors import NoiselibError
from noiselib.release import Release
from noiselib.snapshot import partition_text, schema_types
from noiselib.snapshot.delta import thinned_files
from noiselib.targets.committed import Commit, CommittedTarget, Conflict, NewFile, Version
from noiselib.targets.target import local_path


class DeltaTarget(CommittedTarget):
    """The Delta table in the folder `path`."""

    def __init__(self, path: str, keep: int = 2) -> None:
        place = local_path(path, "delta")
        super().__init__(place, place.parent / f".{place.name}.noiselib", keep)
        self._known: tuple[DeltaTable, Version] | None = None

    def _version(self) -> Version | None:
        if self._known is not None:
            table, version = self._known
            before = table.version()
            table.update_incremental()
            if table.version() == before:
                return version
        elif not (self.path / "_delta_log").is_dir() or not DeltaTable.is_deltatable(str(self.path)):
            return None
        else:
            try:
                table = DeltaTable(str(self.path))
            except DeltaError as error:
                raise NoiselibError(f"target {self}: cannot be read as a Delta table ({error})") from None
        version = _version_of(table)
        self._known = (table, version)
        return version

    def demand_unmoved(self, releases: Sequence[Release], before: Mapping[str, str]) -> None:
        """As of every target; and before anything is told to the ledger, that the commit will be possible."""
        super().demand_unmoved(releases, before)
        version = self._current()
        if version is not None:
            self._demand_replaceable(version, version.of({release.partition_text for release in releases}))

    def _demand_replaceable(self, version: Version, removed: Collection[str]) -> None:
        """deltalake removes no file that has a deletion vector: what is left of it would stand beside the new files."""
        for path in sorted(version.thinned.intersection(removed)):
            raise NoiselibError(
                f"target {self}: others have deleted rows of {path} by a deletion vector, which cannot be replaced; expected it "
                f"purged (REORG ... APPLY (PURGE)), or {version.files[path] or 'all rows'} deleted; nothing is published, "
                "run again then"
            )

    def _commit(self, version: Version | None, commit: Commit) -> None:
        if version is not None:
            self._demand_replaceable(version, commit.removed)
        number = 0 if version is None else self._known[0].version() + 1  # type: ignore[index]
        once = CommitProperties(
            custom_metadata=dict(commit.properties),
            max_commit_retries=0,
            app_transactions=[Transaction(one, number) for one in commit.release_ids],
        )
        added = [_add(file) for file in commit.added]
        if version is None:
            assert commit.schema is not None
            schema, by = Schema.from_arrow(commit.schema), list(commit.partition_by)
            name = commit.properties["noiselib.pipeline"]
            try:
                create_table_with_add_actions(
                    str(self.path), schema, added, "error", by, name=name, commit_properties=once
                )
            except DeltaError as error:
                if not DeltaTable.is_deltatable(str(self.path)):
                    raise
                raise Conflict from error
            return
        table = self._known[0]  # type: ignore[index]
        before = table.version()
        removed = [_remove(path, version.view[path]) for path in sorted(commit.removed)]
        try:
            table.create_write_transaction(
                [*added, *removed], "append", table.schema(), list(commit.partition_by), commit_properties=once
            )
        except CommitFailedError as error:
            table.update_incremental()
            if table.version() == before:  # nobody else's commit: the table refuses ours
                raise NoiselibError(f"target {self}: refuses the commit ({error}); nothing is published") from None
            raise Conflict from error

    def _let_go(self, needed: Collection[str]) -> None:
        """Older versions stay in the log until it is cleaned up; as after a vacuum, they cannot be read where files are gone."""


def _version_of(table: DeltaTable) -> Version:
    names = table.metadata().partition_columns
    view = {unquote(row["path"]): row for row in pa.table(table.get_add_actions()).to_pylist()}
    files = {
        path: partition_text(tuple((name, row["partition"][name]) for name in names)) for path, row in view.items()
    }
    thinned = {Path(unquote(uri)).name for uri in thinned_files(table)}  # no two files of a table have one name
    columns = schema_types(pa.schema(table.schema().to_arrow()))
    return Version(files, columns, view, frozenset(path for path in files if Path(path).name in thinned))


def _add(file: NewFile) -> AddAction:
    """Delta keeps partition values as text; the number of rows is all the statistics that are told of a file."""
    values = {name: None if value is None else str(value) for name, value in file.partition}
    return AddAction(file.path, file.size, values, int(time.time() * 1000), True, json.dumps({"numRecords": file.rows}))


def _remove(path: str, row: dict[str, Any]) -> RemoveAction:
    values = {name: None if value is None else str(value) for name, value in row.get("partition", {}).items()}
    return RemoveAction(path, True, int(time.time() * 1000), row["size_bytes"], values)
