"""A release: one partition of one pipeline at one snapshot. It is a pure function of spec, snapshot and key.

    release_id = H(canonical spec, partition, fingerprint of the partition's snapshot, noise-key id, scheme version)

Every key that noise is drawn with descends from the master key and this id (for memoized columns and pseudonyms: from
the master key and the pipeline), and the column's law goes into its own key: another scale never meets the same words.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from noiselib.column_plan import ColumnPlan
from noiselib.key import NoiseKey
from noiselib.ledger import Budget, Memo, ReleaseRequest
from noiselib.noise.stream import derive
from noiselib.plan import Plan, canonical, canonical_column, digest
from noiselib.snapshot import Partition, TableMetadata, fingerprint, partition_text
from noiselib.spec import PipelineSpec

SCHEME = 3  # of everything that determines values: encodings, key derivation, samplers, lattices


@dataclass(frozen=True)
class Release:
    """`partition` and `snapshot` say of what; `key_id` which key; `id` follows from them and the plan."""

    id: str
    pipeline: str
    partition: Partition
    snapshot: str
    key_id: str
    rows_expected: int = field(compare=False)

    @property
    def partition_text(self) -> str:
        return partition_text(self.partition)


def snapshot_identity(key: NoiseKey, fingerprint: str) -> str:
    """The snapshot's fingerprint under the noise key. Release ids and manifests are public, and a plain hash of the source would
    let anyone try values: whoever knows all rows but one could hash each guess.
    """
    return derive(key.secret, "snapshot", fingerprint).hex()


def make_release(plan: Plan, partition: Partition, snapshot: str, key_id: str, rows: int) -> Release:
    """The release of `partition` whose snapshot has the (keyed) identity `snapshot`, and `rows` rows by its footers."""
    identity = {
        "scheme": SCHEME,
        "spec": canonical(plan),
        "partition": partition_text(partition),
        "snapshot": snapshot,
        "key": key_id,
    }
    return Release(digest(identity), plan.spec.pipeline, partition, snapshot, key_id, rows)


def make_releases(
    plan: Plan, table: TableMetadata, partitions: Sequence[Partition], key: NoiseKey, snapshot: str | None = None
) -> tuple[Release, ...]:
    """The releases of `partitions` as they are now: reads every byte of them, but no rows, and needs no Spark.

    `snapshot` holds the snapshot's identity to one taken elsewhere: for tests of equality only.
    """
    return tuple(
        make_release(plan, each, snapshot or snapshot_identity(key, fingerprint(table, each)), key.id, table.rows(each))
        for each in partitions
    )


def budget_of(spec: PipelineSpec) -> Budget | None:
    """The account that pays for a pipeline's releases; None where nothing is claimed, and nothing paid."""
    if spec.privacy is None:
        return None
    unit = f"entity ({', '.join(spec.entity.entity)})" if spec.entity else "row"
    return Budget(spec.privacy.budget, spec.privacy.limit.epsilon, spec.privacy.limit.delta, unit)


def request(plan: Plan, release: Release) -> ReleaseRequest:
    """What the ledger is asked to reserve for `release`."""
    memos = tuple(Memo(memo_id(plan, plan.column(name), release.key_id), name, charge) for name, charge in plan.memos)
    return ReleaseRequest(
        release.id, release.pipeline, release.partition_text, plan.parallel, release.key_id, plan.charge, memos
    )


def memo_id(plan: Plan, column: ColumnPlan, key_id: str) -> str:
    """A memoized column's noise is one release of its own for all time: same pipeline, unit, law and key."""
    return digest(["memo", SCHEME, plan.spec.pipeline, column.name, _unit(plan), canonical_column(column), key_id])


@dataclass(frozen=True)
class ReleaseKeys:
    """The keys of one release, derived where they are used and nowhere stored."""

    master: NoiseKey
    release_id: str

    @property
    def _release_key(self) -> bytes:
        return derive(self.master.secret, "release", self.release_id)

    def row(self) -> bytes:
        return derive(self._release_key, "row")

    def selection(self) -> bytes:
        return derive(self._release_key, "selection")

    def column(self, name: str, law: str) -> bytes:
        return derive(self._release_key, "column", name, law)


@dataclass(frozen=True)
class PipelineKeys:
    """The keys that outlast a release: pseudonyms, which join over time, and memoized noise."""

    master: NoiseKey
    pipeline: str

    def pseudonym(self, name: str) -> bytes:
        return derive(self.master.secret, "pseudonym", self.pipeline, name)

    def unit(self, name: str) -> bytes:
        return derive(self.master.secret, "memo unit", self.pipeline, name)

    def memo(self, name: str, law: str) -> bytes:
        return derive(self.master.secret, "memo", self.pipeline, name, law)


def law_text(column: ColumnPlan) -> str:
    """The column's law as text, for its key."""
    return json.dumps(canonical_column(column), sort_keys=True)


def memo_text(plan: Plan, column: ColumnPlan) -> str:
    """A memoized column's law and whose it is: one value of two kinds of unit (account 5, device 5) is no repetition."""
    return json.dumps([_unit(plan), canonical_column(column)], sort_keys=True)


def _unit(plan: Plan) -> list[str]:
    return plan.spec.entity.entity if plan.spec.entity else plan.spec.row_key
