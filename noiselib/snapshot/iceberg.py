"""An Iceberg table at one snapshot, by a catalog."""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.manifest import DataFile, FileFormat
from pyiceberg.schema import Schema
from pyiceberg.table import FileScanTask
from pyiceberg.table import Table as IcebergTable
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import DateType
from sqlalchemy import make_url
from sqlalchemy.exc import SQLAlchemyError

from noiselib import spec as s
from noiselib.errors import InputError
from noiselib.snapshot.listed import Contents, Listed, local

FORMAT_VERSION = 2  # of the tables that are read: the next one has other deletes, types and default values
EPOCH = date(1970, 1, 1)


def open_catalog(catalog: s.Catalog | str) -> Catalog:
    """The catalog that a spec names, or describes. Nothing is made in it. Raises InputError."""
    try:
        if isinstance(catalog, str):
            return load_catalog(catalog)
        database = make_url(catalog.uri)
        if database.get_backend_name() == "sqlite" and not Path(database.database or "").is_file():
            raise InputError(f"catalog {catalog.uri}: no such file")
        warehouse = catalog.warehouse if "://" in catalog.warehouse else Path(catalog.warehouse).absolute().as_uri()
        return load_catalog(catalog.name, type="sql", uri=catalog.uri, warehouse=warehouse, init_catalog_tables="false")
    except (SQLAlchemyError, ValueError) as error:
        named = catalog if isinstance(catalog, str) else catalog.name  # a URL may hold a password
        raise InputError(
            f"catalog {named}: cannot be opened ({type(error).__name__}); expected one of pyiceberg's configuration"
        ) from None


def read_iceberg(name: str, catalog: s.Catalog | str, version: int | None) -> Contents:
    """The Iceberg table `name` at snapshot `version` or the current one. Raises InputError for what its files alone do not say."""
    table = _load(name, open_catalog(catalog))
    snapshot = table.current_snapshot() if version is None else table.snapshot_by_id(version)
    if snapshot is None:
        raise InputError(f"source {name}: has no snapshot{'' if version is None else f' {version}'}")
    where = f"source {name} at version {snapshot.snapshot_id}"
    if table.format_version > FORMAT_VERSION:
        raise InputError(f"{where}: table format {table.format_version}: expected at most {FORMAT_VERSION}")
    schema = table.schema() if version is None else table.scan(snapshot_id=version).projection()
    tasks = _tasks(table, snapshot.snapshot_id, where)
    by = _partition_by(table, schema, {task.file.spec_id for task in tasks}, where)
    files = [_listed(name, schema, by, task.file) for task in tasks]
    for file in files:
        if not Path(file.path).is_file():
            raise InputError(
                f"source file {file.path}: is not there, but version {snapshot.snapshot_id} of {name} needs it"
            )

    def check(path: str, footer: pq.FileMetaData) -> None:
        _check_ids(table, schema, path, footer)

    arrow = schema_to_pyarrow(schema, include_field_ids=False)
    return Contents(name, snapshot.snapshot_id, arrow, by, sorted(files, key=lambda file: file.path), check)


def _load(name: str, catalog: Catalog) -> IcebergTable:
    try:
        return catalog.load_table(name)
    except (NoSuchTableError, NoSuchNamespaceError):
        raise InputError(f"source {name}: not in the catalog; expected NAMESPACE.TABLE") from None
    except (SQLAlchemyError, OSError, ValueError) as error:
        raise InputError(f"source {name}: cannot be read as an Iceberg table ({type(error).__name__})") from error


def _tasks(table: IcebergTable, snapshot: int, where: str) -> list[FileScanTask]:
    """The data files. Raises InputError where rows of them are deleted by other files, or one is no Parquet file."""
    try:
        tasks = list(table.scan(snapshot_id=snapshot).plan_files())
    except (OSError, ValueError) as error:  # equality deletes as well: pyiceberg reads none
        raise InputError(f"{where}: its files cannot be listed ({type(error).__name__}: {error})") from None
    for task in tasks:
        path = task.file.file_path
        if task.delete_files:
            raise InputError(
                f"{where}: delete files: {path} holds rows that were deleted; expected them compacted away"
            )
        if task.file.file_format != FileFormat.PARQUET:
            raise InputError(f"{where}: {path} is a file of {task.file.file_format.value}; expected Parquet")
    return tasks


def _partition_by(table: IcebergTable, schema: Schema, spec_ids: set[int], where: str) -> tuple[str, ...]:
    """The partition columns, by the one partition spec that all files were written with."""
    if len(spec_ids) > 1:
        raise InputError(
            f"{where}: its files were partitioned in {len(spec_ids)} ways; expected one: rewrite the older ones"
        )
    fields = (table.specs()[spec_ids.pop()] if spec_ids else table.spec()).fields
    for field in fields:
        if not isinstance(field.transform, IdentityTransform):
            raise InputError(
                f"{where}: partition field {field.name!r} is {field.transform} of a column; expected identity"
            )
    return tuple(schema.find_field(field.source_id).name for field in fields)


def _listed(name: str, schema: Schema, by: tuple[str, ...], file: DataFile) -> Listed:
    kinds = [schema.find_field(column).field_type for column in by]
    values = [_value(kind, file.partition[index]) for index, kind in enumerate(kinds)]
    return Listed(local(name, file.file_path), tuple(values))


def _value(kind: Any, value: Any) -> Any:
    """Dates stand in manifests as days."""
    return EPOCH + timedelta(days=value) if isinstance(kind, DateType) and isinstance(value, int) else value


def _check_ids(table: IcebergTable, schema: Schema, path: str, footer: pq.FileMetaData) -> None:
    """Refuse a file in which a column's name stands for another field than in the table: it was dropped and added, or renamed."""
    mapping = table.name_mapping()  # of files without field numbers
    by_name = {name: one.field_id for one in (mapping.root if mapping else []) for name in one.names}
    for field in footer.schema.to_arrow_schema():
        number = (field.metadata or {}).get(b"PARQUET:field_id", by_name.get(field.name))
        expected = schema.find_field(field.name).field_id
        if number is None or int(number) != expected:
            raise InputError(
                f"source file {path}: column {field.name!r} is field {'unknown' if number is None else int(number)}, in the table "
                f"field {expected}: written before the columns changed; expected files of the columns as they are: rewrite it"
            )
