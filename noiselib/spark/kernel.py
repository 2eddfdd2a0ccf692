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
from noiselib.mechanisms import Mechanism
from noiselib.noise.stream import Stream, encode_bigint, row_tags
from noiselib.release import PipelineKeys, ReleaseKeys

Ints = NDArray[np.int64]
Blocks = NDArray[np.uint64]
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


@dataclass(frozen=True)
class Noise:
    """One column's noise: `name` and `law` choose its key, `mechanisms` are one for all releases, or one for each.

    shared: whether columns share their words, which then cannot be bound to the values of one
    """

    name: str
    law: str
    mechanisms: tuple[Mechanism, ...]
    shared: bool = False

    @property
    def returns(self) -> str:
        return "array<bigint>" if self.mechanisms[0].width > 1 else "bigint"

    def mechanism(self, ordinal: int) -> Mechanism:
        return self.mechanisms[ordinal if len(self.mechanisms) > 1 else 0]


def noise_udf(source: KeySource, noise: Noise) -> Udf:
    """A pandas UDF (ordinal, key columns..., point) -> code, for noise that belongs to one release."""

    def draw(ordinal: int, encoded: Blocks, points: Ints) -> Ints:
        keys = ReleaseKeys(source.master(), source.release_ids[ordinal])
        tags = row_tags(keys.row(), encoded)
        bound = np.zeros_like(points) if noise.shared else points
        return noise.mechanism(ordinal).perturb(points, _stream(keys.column(noise.name, noise.law), tags, bound))

    @_udf(noise.returns)
    def perturb(ordinal: pd.Series, *columns: pd.Series) -> pd.Series:
        return _by_release(ordinal, columns[:-1], _points(columns[-1]), draw)

    return perturb


def memoized_udf(source: KeySource, noise: Noise) -> Udf:
    """A pandas UDF (unit's key columns..., point) -> code, for noise that outlasts a release."""

    @_udf(noise.returns)
    def perturb(*columns: pd.Series) -> pd.Series:
        points = _points(columns[-1])
        return _series(noise.mechanism(0).perturb(points, _permanent(source, noise, columns[:-1], points)))

    return perturb


def two_rounds_udf(source: KeySource, noise: Noise, unit_columns: int) -> Udf:
    """A pandas UDF (ordinal, unit's key columns..., row's key columns..., point) -> code: a permanent and a fresh response."""

    @_udf(noise.returns)
    def perturb(ordinal: pd.Series, *columns: pd.Series) -> pd.Series:
        unit, row = columns[:unit_columns], columns[unit_columns:-1]
        tags = row_tags(PipelineKeys(source.master(), source.pipeline).unit(noise.name), _encode(unit))

        def draw(ordinal: int, encoded: Blocks, points: Ints) -> Ints:
            keys, permanent_tags = ReleaseKeys(source.master(), source.release_ids[ordinal]), encoded[:, -2:]
            permanent = _stream(_permanent_key(source, noise), permanent_tags, points)
            fresh = _stream(keys.column(noise.name, noise.law), row_tags(keys.row(), encoded[:, :-2]), points)
            return noise.mechanism(0).perturb(points, fresh, permanent)  # type: ignore[call-arg]

        return _by_release(ordinal, row, _points(columns[-1]), draw, tags)

    return perturb


def _permanent(source: KeySource, noise: Noise, unit: tuple[pd.Series, ...], points: Ints) -> Stream:
    tags = row_tags(PipelineKeys(source.master(), source.pipeline).unit(noise.name), _encode(unit))
    return _stream(_permanent_key(source, noise), tags, points)


def _permanent_key(source: KeySource, noise: Noise) -> bytes:
    return PipelineKeys(source.master(), source.pipeline).memo(noise.name, noise.law)


def _stream(key: bytes, tags: Blocks, points: Ints) -> Stream:
    """Of arrays, each component binds its own value further down."""
    return Stream(key, tags, points if points.ndim == 1 else np.zeros(len(points), np.int64))


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

    def draw(ordinal: int, encoded: Blocks, points: Ints) -> Ints:
        key = ReleaseKeys(source.master(), source.release_ids[ordinal]).selection()
        return row_tags(key, encoded)[:, 0].view(np.int64)

    @_udf("bigint")
    def priority(ordinal: pd.Series, *columns: pd.Series) -> pd.Series:
        return _by_release(ordinal, columns, _ints(ordinal), draw)

    return priority


def _by_release(
    ordinal: pd.Series,
    columns: tuple[pd.Series, ...],
    points: Ints,
    draw: Callable[[int, Blocks, Ints], Ints],
    unit_tags: Blocks | None = None,
) -> pd.Series:
    """Apply `draw` to the rows of each release in the batch: their encoded keys (and units' tags beside them) and points."""
    encoded = _encode(columns)
    if unit_tags is not None:
        encoded = np.column_stack([encoded, unit_tags])
    groups = list(_groups(_ints(ordinal)))
    if len(groups) == 1:  # nearly always: a file holds one partition
        return _series(draw(groups[0][0], encoded, points))
    out: Ints | None = None
    for release, rows in groups:
        codes = draw(release, encoded[rows], points[rows])
        if out is None:
            out = np.empty((len(points), *codes.shape[1:]), np.int64)
        out[rows] = codes
    return _series(np.empty(0, np.int64) if out is None else out)


def _groups(ordinals: Ints) -> Iterator[tuple[int, NDArray[np.intp] | slice]]:
    if len(ordinals) and ordinals.min() == ordinals.max():
        yield int(ordinals[0]), slice(None)
    else:
        for release in np.unique(ordinals):
            yield int(release), np.flatnonzero(ordinals == release)


def _encode(columns: tuple[pd.Series, ...]) -> NDArray[np.uint64]:
    """The 128-bit encoding of the row key, (n, 2): one bigint as it is, or the two halves of a hash."""
    if len(columns) == 1:
        return encode_bigint(_ints(columns[0]))
    return np.column_stack([_ints(column).view(np.uint64) for column in columns])


def _points(column: pd.Series) -> Ints:
    """(n,) from bigints, (n, d) from arrays of them."""
    if column.dtype == object:
        return np.stack(column.to_numpy()).astype(np.int64, copy=False) if len(column) else np.empty((0, 1), np.int64)
    return _ints(column)


def _series(codes: Ints) -> pd.Series:
    return pd.Series(codes) if codes.ndim == 1 else pd.Series(list(codes), dtype=object)


def _ints(column: pd.Series) -> Ints:
    return np.asarray(column, dtype=np.int64)
