"""What identifies a snapshot, and whether it is still what it was.

The fingerprint of a partition is a hash of its data files' contents (SHA-256 of every byte), their number, and the
table's schema. File names, times, places and versions are not in it: a copy of a table is the same snapshot, and so is a
partition that a commit to its table leaves alone; a table in which one byte differs is another one, even if size and
modification time are forged. So a changed table leads to another release id and another release key. What could change
between hashing and reading is compared again after reading.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from noiselib.errors import InputError
from noiselib.snapshot.parquet import files_now
from noiselib.snapshot.table import Partition, TableMetadata, stamp


def fingerprint(table: TableMetadata, partition: Partition) -> str:
    """Hex SHA-256 of what identifies the snapshot of one partition: schema, number of files, every file's content."""
    files = table.files_of(partition)
    with ThreadPoolExecutor(4) as pool:
        digests = sorted(pool.map(_content_digest, [file.path for file in files]))
    identity = {"schema": sorted(table.schema), "files": digests}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def verify_unchanged(table: TableMetadata, partitions: Sequence[Partition]) -> None:
    """Raise InputError naming the first file of `partitions` that was changed, added or removed since `table` was read.

    Of a table with versions, those files are looked at that its version names: what a later commit adds is no change.
    """
    before = {file.path: file.stamp for file in table.files if file.partition in partitions}
    now = {path: stamp(path) for path in before if os.path.exists(path)}
    if table.version is None:
        now |= {path: stamp(path) for path in files_now(table, partitions) if path not in now}
    for path in sorted(before.keys() | now.keys()):
        if before.get(path) != now.get(path):
            what = "added" if path not in before else "removed" if path not in now else "changed"
            raise InputError(f"source file {path}: {what} while the release was made; nothing is published")


def _content_digest(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"source file {path}: cannot be read ({error.strerror})") from None
