"""A Delta table at one version, by its log."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from noiselib.errors import InputError
from noiselib.snapshot.listed import Contents, Listed, local

# Reader features under which a Parquet file still means what it says; of others we do not know.
HARMLESS = {"timestampNtz", "v2Checkpoint", "vacuumProtocolCheck"}
CONDITIONAL = {"columnMapping", "deletionVectors"}  # known, and refused where a table makes use of them


def read_delta(path: str, version: int | None) -> Contents:
    """The Delta table at `path`, at `version` or the latest one. Raises InputError for what its files alone do not say."""
    root = os.path.abspath(local(path, path) if ":" in path else path)
    table = _open(path, root, version)
    where = f"source {path} at version {table.version()}"
    _refuse(table, where)
    actions = pa.table(table.get_add_actions()).to_pylist()
    by = tuple(table.metadata().partition_columns)
    files = [
        Listed(_place(path, root, one["path"]), tuple(one["partition"][name] for name in by) if by else ())
        for one in actions
    ]
    for file in files:
        if not Path(file.path).is_file():
            raise InputError(
                f"source file {file.path}: is not there, but version {table.version()} of {path} needs it (vacuumed?)"
            )
    return Contents(path, table.version(), pa.schema(table.schema()), by, sorted(files, key=lambda file: file.path))


def _open(path: str, root: str, version: int | None) -> DeltaTable:
    if not Path(root, "_delta_log").is_dir():
        raise InputError(f"source {path}: not a Delta table; expected a directory with a _delta_log")
    try:
        return DeltaTable(root, version=version)
    except (DeltaError, OSError, ValueError) as error:
        asked = "" if version is None else f" at version {version}"
        raise InputError(
            f"source {path}{asked}: cannot be read as a Delta table ({type(error).__name__}: {error})"
        ) from None


def _refuse(table: DeltaTable, where: str) -> None:
    features = set(table.protocol().reader_features or [])
    unknown = sorted(features - HARMLESS - CONDITIONAL)
    if unknown or table.protocol().min_reader_version > 3:
        what = f"reader feature {unknown[0]}" if unknown else f"reader version {table.protocol().min_reader_version}"
        raise InputError(f"{where}: {what}: expected features {', '.join(sorted(HARMLESS))}, or none")
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        raise InputError(f"{where}: column mapping: its files have other column names; expected a table without it")
    if thinned_files(table):
        raise InputError(
            f"{where}: deletion vectors: its files hold rows that were deleted; expected them purged (REORG ... APPLY (PURGE))"
        )


def thinned_files(table: DeltaTable) -> list[str]:
    """The URIs of the files that hold rows which were deleted, by deletion vectors."""
    if "deletionVectors" not in (table.protocol().reader_features or []):
        return []
    batches: Any = pa.RecordBatchReader.from_stream(table.deletion_vectors())
    return [uri for batch in batches for uri in batch["filepath"].to_pylist()]


def _place(name: str, root: str, path: str) -> str:
    """Where a file lies, by its path in the log: escaped as in a URI, below the table or absolute."""
    plain = unquote(path)
    return local(name, plain) if ":/" in plain or plain.startswith("/") else str(Path(root, plain))
