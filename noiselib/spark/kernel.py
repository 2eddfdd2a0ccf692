"""What runs in Spark's Python workers: one batch of lattice values in, the published ones out.

A worker is given names, ids and references, never a key: it resolves the key's reference itself and checks the id.
Rows of several releases may share a batch; each row's `ordinal` picks its release.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyspark.sql import Column
from pyspark.sql import functions as F

from noiselib.errors import NoiseKeyError
from noiselib.key import NoiseKey, load_key
from noiselib.mechanisms import Additive, RandomizedResponse
from noiselib.noise.stream import Stream, encode_bigint, row_tags
from noiselib.release import PipelineKeys, ReleaseKeys

Ints = NDArray[np.int64]
Udf = Callable[..., Column]
_udf: Callable[[str], Callable[[Any], Udf]] = F.pandas_udf  # type: ignore[attr-defined]  # its overloads confuse mypy


@dataclass(frozen=True)
class KeySource:
    """Where a worker finds the key, and for which releases it is to derive from it."""

    reference: str
    key_id: str
    pipeline: str
    release_ids: tuple[str, ...]

    def master(self) -> NoiseKey:
        return _resolve(self.reference, self.key_id)


@lru_cache(maxsize=8)
def _resolve(reference: str, key_id: str) -> NoiseKey:
    key = load_key(reference)
    if key.id != key_id:
        raise NoiseKeyError(f"key {reference}: has id {key.id} on this worker; expected {key_id}")
    return key


def noise_udf(source: KeySource, name: str, law: str, mechanism: Additive | RandomizedResponse) -> Udf:
    """A pandas UDF (ordinal, key columns..., value) -> published value, all bigint, for one column's own noise."""

    def sample(ordinal: int, encoded: NDArray[np.uint64], values: Ints) -> Ints:
        keys = ReleaseKeys(source.master(), source.release_ids[ordinal])
        return mechanism.perturb(values, Stream(keys.column(name, law), row_tags(keys.row(), encoded), values))

    @_udf("bigint")
    def noise(ordinal: pd.Series, *columns: pd.Series) -> pd.Series:
        return _by_release(ordinal, columns, sample)

    return noise


def memoized_udf(source: KeySource, name: str, law: str, mechanism: Additive | RandomizedResponse) -> Udf:
    """The same for a memoized column: the unit's key columns instead of the row's, and no release."""

    @_udf("bigint")
    def noise(*columns: pd.Series) -> pd.Series:
        keys = PipelineKeys(source.master(), source.pipeline)
        values = _ints(columns[-1])
        tags = row_tags(keys.unit(name), _encode(columns[:-1]))
        return pd.Series(mechanism.perturb(values, Stream(keys.memo(name, law), tags, values)))

    return noise


def pseudonym_udf(source: KeySource, name: str) -> Udf:
    """A pandas UDF from a value's 128-bit hash (two bigint columns) to its pseudonym, 32 hex digits."""

    @_udf("string")
    def pseudonym(high: pd.Series, low: pd.Series) -> pd.Series:
        key = PipelineKeys(source.master(), source.pipeline).pseudonym(name)
        text = row_tags(key, _encode((high, low))).tobytes().hex()
        return pd.Series([text[start : start + 32] for start in range(0, len(text), 32)], dtype=object)

    return pseudonym


def priority_udf(source: KeySource) -> Udf:
    """A pandas UDF (ordinal, key columns...) -> bigint by which an entity's rows are chosen: random without the key."""

    def draw(ordinal: int, encoded: NDArray[np.uint64], values: Ints) -> Ints:
        return row_tags(ReleaseKeys(source.master(), source.release_ids[ordinal]).selection(), encoded)[:, 0].view(
            np.int64
        )

    @_udf("bigint")
    def priority(ordinal: pd.Series, *columns: pd.Series) -> pd.Series:
        return _by_release(ordinal, (*columns, ordinal), draw)

    return priority


def _by_release(
    ordinal: pd.Series, columns: tuple[pd.Series, ...], draw: Callable[[int, NDArray[np.uint64], Ints], Ints]
) -> pd.Series:
    """Apply `draw` to the rows of each release in the batch; the last of `columns` is the value."""
    encoded, values = _encode(columns[:-1]), _ints(columns[-1])
    out = np.empty(len(values), np.int64)
    for release, rows in _groups(_ints(ordinal)):
        out[rows] = draw(release, encoded[rows], values[rows])
    return pd.Series(out)


def _groups(ordinals: Ints) -> Iterator[tuple[int, NDArray[np.intp] | slice]]:
    if len(ordinals) and ordinals.min() == ordinals.max():  # nearly always: a file holds one partition
        yield int(ordinals[0]), slice(None)
    else:
        for release in np.unique(ordinals):
            yield int(release), np.flatnonzero(ordinals == release)


def _encode(columns: tuple[pd.Series, ...]) -> NDArray[np.uint64]:
    """The 128-bit encoding of the row key, (n, 2): one bigint as it is, or the two halves of a hash."""
    if len(columns) == 1:
        return encode_bigint(_ints(columns[0]))
    return np.column_stack([_ints(column).view(np.uint64) for column in columns])


def _ints(column: pd.Series) -> Ints:
    return np.asarray(column, dtype=np.int64)
