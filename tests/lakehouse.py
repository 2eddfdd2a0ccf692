"""Delta and Iceberg tables for tests, written by the formats' own libraries, and the sections of a spec that name them."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import DeltaTable, TableFeatures, write_deltalake
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriterV2,
)
from pyiceberg.table import Table as IcebergTable
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _FastAppendFiles
from pyiceberg.typedef import Record
from small_plan import spec_of

from noiselib.snapshot import TableMetadata, fingerprint, partition_text, read_source
from noiselib.yaml_text import Positions

ONE, TWO = (("day", 1),), (("day", 2),)
SPEC = Positions("small.yaml", {(): 1, ("source",): 4, ("source", "partition_by"): 7})


def metadata(source: dict[str, Any]) -> TableMetadata:
    """What is read of the source that a spec's section names."""
    return read_source(spec_of({}, purpose="dither", source=source), SPEC)


def prints(table: TableMetadata) -> dict[str, str]:
    """The fingerprint of each partition."""
    return {partition_text(partition): fingerprint(table, partition) for partition in table.partitions}


def rows_of(schema: pa.Schema, day: int | None, *values: float) -> pa.Table:
    """One day's rows of the columns day, id and x."""
    return pa.table({"day": [day] * len(values), "id": range(len(values)), "x": values}, schema=schema)


@dataclass
class Delta:
    """A Delta table at `path`, partitioned by day unless said otherwise."""

    path: Path
    partition_by: list[str] = field(default_factory=lambda: ["day"])

    @property
    def source(self) -> dict[str, Any]:
        return {"path": str(self.path), "format": "delta", "partition_by": self.partition_by}

    @property
    def table(self) -> DeltaTable:
        return DeltaTable(self.path)

    def append(self, rows: pa.Table) -> None:
        write_deltalake(self.path, rows, mode="append", partition_by=self.partition_by or None)

    def replace(self, day: int, rows: pa.Table) -> None:
        """Another content of one day: one commit."""
        write_deltalake(self.path, rows, mode="overwrite", predicate=f"day = {day}")

    def vacuum(self) -> None:
        """Remove every file that the latest version does not need."""
        self.table.vacuum(0, dry_run=False, enforce_retention_duration=False)

    def log(self, *actions: dict[str, Any]) -> None:
        """One more commit, written by hand: what the library does not write."""
        text = "\n".join(json.dumps(action) for action in actions) + "\n"
        (self.path / "_delta_log" / f"{self.table.version() + 1:020}.json").write_text(text)

    def added(self, number: int = 0) -> dict[str, Any]:
        """An add action of the first commit."""
        lines = (self.path / "_delta_log" / f"{0:020}.json").read_text().splitlines()
        return [action["add"] for action in map(json.loads, lines) if "add" in action][number]

    def allow_vectors(self) -> None:
        self.table.alter.add_feature(TableFeatures.DeletionVectors, allow_protocol_versions_increase=True)

    def delete_first_row(self, added: dict[str, Any]) -> None:
        """Of the file that was added so, by a deletion vector: a portable roaring bitmap of one value, inline, behind the
        format's magic number.
        """
        bitmap = (1681511377).to_bytes(4, "little") + (1).to_bytes(8, "little") + bytes(4)
        bitmap += bytes.fromhex("3a300000 01000000 0000 0000 10000000 0000")
        vector = {"storageType": "i", "pathOrInlineDv": z85(bitmap + bytes(-len(bitmap) % 4)),
                  "sizeInBytes": len(bitmap), "cardinality": 1}  # fmt: skip
        removed = {"path": added["path"], "deletionTimestamp": 1, "dataChange": True}
        self.log({"remove": removed}, {"add": added | {"deletionVector": vector}})


def z85(raw: bytes) -> str:
    """Base 85 with the alphabet of ZeroMQ, which Delta uses."""
    python = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    zeromq = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    return base64.b85encode(raw).translate(bytes.maketrans(python, zeromq)).decode()


@dataclass
class Iceberg:
    """An Iceberg table in a catalog below `home`, partitioned by day unless said otherwise."""

    home: Path
    schema: pa.Schema
    partition_by: list[str] = field(default_factory=lambda: ["day"])
    name: str = "features.small"

    def __post_init__(self) -> None:
        self.home.mkdir(parents=True, exist_ok=True)
        self.catalog.create_namespace_if_not_exists("features")
        if not self.catalog.table_exists(self.name):
            table = self.catalog.create_table(self.name, self.schema)
            with table.update_spec() as spec:
                for column in self.partition_by:
                    spec.add_identity(column)

    @property
    def catalog(self) -> Catalog:
        return load_catalog("default", type="sql", uri=f"sqlite:///{self.home}/catalog.db", warehouse=str(self.home))

    @property
    def source(self) -> dict[str, Any]:
        catalog = {"uri": f"sqlite:///{self.home}/catalog.db", "warehouse": str(self.home)}
        return {"path": self.name, "format": "iceberg", "partition_by": self.partition_by, "catalog": catalog}

    @property
    def table(self) -> IcebergTable:
        return self.catalog.load_table(self.name)

    @property
    def version(self) -> int:
        snapshot = self.table.current_snapshot()
        assert snapshot is not None
        return snapshot.snapshot_id

    def append(self, rows: pa.Table) -> None:
        self.table.append(rows)

    def replace(self, day: int, rows: pa.Table) -> None:
        """Another content of one day."""
        self.table.overwrite(rows, overwrite_filter=f"day = {day}")


def commit(table: IcebergTable, file: DataFile, content: ManifestContent = ManifestContent.DATA) -> None:
    """Add one file to the table, of whatever content and format: what the library has no command for."""

    class Writer(ManifestWriterV2):
        def content(self) -> ManifestContent:
            return content

    class Append(_FastAppendFiles):
        def _existing_manifests(self) -> list[ManifestFile]:
            place = f"{table.location()}/metadata/{uuid.uuid4()}-m0.avro"
            kind = Writer if content == ManifestContent.DELETES else ManifestWriterV2
            with kind(table.spec(), table.schema(), table.io.new_output(place), self._snapshot_id, "null") as writer:
                writer.add_entry(
                    ManifestEntry.from_args(
                        status=ManifestEntryStatus.ADDED, snapshot_id=self._snapshot_id, data_file=file
                    )
                )
            return [*super()._existing_manifests(), writer.to_manifest_file()]

    with table.transaction() as change:
        Append(Operation.APPEND, change, table.io).commit()


def listed(table: IcebergTable, path: Path, kind: FileFormat, content: DataFileContent) -> DataFile:
    return DataFile.from_args(
        content=content, file_path=str(path), file_format=kind, partition=Record(1), record_count=1,
        file_size_in_bytes=path.stat().st_size, spec_id=table.spec().spec_id,
    )  # fmt: skip
