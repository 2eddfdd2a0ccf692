"""What stopped a Spark job, in this tool's words: a changed source, a key, a full disk. What is none of these stays as it came."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from urllib.parse import unquote

from pyspark.errors import PythonException

from noiselib.errors import InputError, NoiseKeyError, NoiselibError
from noiselib.snapshot import Partition, TableMetadata, verify_unchanged
from noiselib.targets import Target

FULL = "No space left on device"


def cause(error: Exception, table: TableMetadata, partitions: Sequence[Partition], target: Target) -> Exception:
    """The error to raise in the place of `error`. A source that changed under the job is what explains any other failure."""
    if isinstance(error, NoiselibError):
        return error
    try:
        verify_unchanged(table, partitions)
    except InputError as changed:
        return changed
    if FULL in str(error) or getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
        return NoiselibError(
            f"target {target}: no space is left where releases are staged or where Spark keeps what it shuffles; "
            "free some and run again"
        )
    found = re.search(r"NoiseKeyError: (.*)", str(error)) if isinstance(error, PythonException) else None
    if found:  # a worker's own complaint, which names no value
        return NoiseKeyError(found[1])
    return _unreadable(error) or error


def _unreadable(error: Exception) -> InputError | None:
    """Spark names the file that it cannot read; the rest of its message may hold values."""
    found = re.search(
        r"\[(FAILED_READ_FILE[.\w]*)\] Encountered error while reading file (?:file:/*)?(/?\S+?)\.?\s", str(error)
    )
    if found is None:
        return None
    return InputError(f"source file /{unquote(found[2]).lstrip('/')}: cannot be read as Parquet ({found[1]})")
