"""The snapshot: the exact input read. Its files, its schema, and a fingerprint of what they hold.

Its parts:

    table.py       what is known of a table: columns, files, partitions
    source.py      the table that a spec names, in whatever format
    parquet.py     a directory of Parquet files
    delta.py       a Delta table at one version
    iceberg.py     an Iceberg table at one snapshot
    listed.py      what the last two have in common: the table's own metadata lists its files
    catalogued.py  a table of Spark's catalog
    footers.py     what Parquet files say of themselves
    identity.py    the fingerprint, and whether the files are still what they were
"""

from noiselib.snapshot.catalogued import Catalogued
from noiselib.snapshot.footers import schema_types
from noiselib.snapshot.identity import fingerprint, verify_unchanged
from noiselib.snapshot.parquet import read_metadata
from noiselib.snapshot.source import Locate, read_source
from noiselib.snapshot.table import (
    NULL_PARTITION,
    DataFile,
    Partition,
    PartitionValue,
    TableMetadata,
    choose_partitions,
    is_wanted,
    partition_argument,
    partition_text,
)

__all__ = [
    "NULL_PARTITION",
    "Catalogued",
    "DataFile",
    "Locate",
    "Partition",
    "PartitionValue",
    "TableMetadata",
    "choose_partitions",
    "fingerprint",
    "is_wanted",
    "partition_argument",
    "partition_text",
    "read_metadata",
    "read_source",
    "schema_types",
    "verify_unchanged",
]
