"""Release ids and keys: what they depend on, and nothing else."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any

import pytest
from small_plan import PUBLIC, plan_of

from noiselib.key import NoiseKey
from noiselib.plan import canonical
from noiselib.release import (
    PipelineKeys,
    ReleaseKeys,
    law_text,
    make_release,
    memo_id,
    memo_text,
    request,
    snapshot_identity,
)

FARE = {"mechanism": "laplace", "epsilon": 1.0, "bounds": [0, 100]}
SEATS = {"mechanism": "discrete_laplace", "epsilon": 1.0, "bounds": [0, 8]}
COLUMNS: dict[str, tuple[str, dict[str, Any]]] = {
    "day": ("int32", PUBLIC),
    "rider": ("string", PUBLIC),
    "fare": ("double", FARE),
    "seats": ("int32", SEATS),
    "zone": ("string", {"mechanism": "randomized_response", "epsilon": 2.0, "categories": ["a", "b"]}),
}
DAY = (("day", 3),)
SNAPSHOT = "5" * 64
SOURCE = {"path": "in", "partition_by": ["day"]}


def trips(columns: Any = None, **changes: Any) -> Any:
    return plan_of(columns or COLUMNS, **{"source": SOURCE, **changes})


def release_id(plan: Any = None, partition: Any = DAY, snapshot: str = SNAPSHOT, key_id: str = "k") -> str:
    return make_release(plan or trips(), partition, snapshot, key_id, 10).id


def test_a_release_id_is_known():
    """It names every release ever made: should this test fail, all of them are made and charged anew. Then raise SCHEME."""
    assert release_id() == "4d193857d10782da9e01f440380953462499a8091dbc42e1cd64600e1cc69250"


def test_a_release_id_is_the_hash_of_what_it_says():
    identity = {
        "scheme": 3,
        "spec": canonical(trips()),
        "partition": "day=3",
        "snapshot": SNAPSHOT,
        "key": "k",
    }
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    assert release_id() == hashlib.sha256(text.encode()).hexdigest()


def test_partition_snapshot_key_and_spec_each_make_another_release():
    other_columns = COLUMNS | {"fare": ("double", FARE | {"epsilon": 2.0})}
    ids = [
        release_id(),
        release_id(partition=(("day", 4),)),
        release_id(partition=(("day", None),)),
        release_id(partition=(("day", "3 "),)),
        release_id(partition=()),
        release_id(snapshot="6" * 64),
        release_id(key_id="l"),
        release_id(trips(other_columns)),
        release_id(trips(pipeline="other")),
    ]
    assert len(set(ids)) == len(ids)


def test_where_things_lie_and_what_they_may_cost_make_no_other_release():
    privacy = {"unit": "row", "budget": "other", "limit": {"epsilon": 1.0, "delta": 1e-9}}
    same = trips(privacy=privacy, target={"path": "x"}, key="file:y", source=SOURCE | {"path": "z"}, tags=["daily"])
    assert release_id(same) == release_id()
    assert make_release(trips(), DAY, SNAPSHOT, "k", 10) == make_release(trips(), DAY, SNAPSHOT, "k", 11)


MASTER, OTHER = NoiseKey(bytes(range(32))), NoiseKey(bytes(range(1, 33)))


def test_no_two_uses_share_a_key():
    keys = [
        key
        for master in (MASTER, OTHER)
        for release in ("r", "s", "")
        for made in [ReleaseKeys(master, release)]
        for key in (made.row(), made.selection(), made.column("a", "l"), made.column("b", "l"), made.column("a", "m"),
                    made.column("al", ""), made.column("", "al"), made.column("row", ""), made.column("selection", ""))
    ] + [
        key
        for master in (MASTER, OTHER)
        for pipeline in ("r", "s", "")
        for made in [PipelineKeys(master, pipeline)]
        for key in (made.pseudonym("a"), made.pseudonym("b"), made.unit("a"), made.unit("b"),
                    made.memo("a", "l"), made.memo("a", "m"), made.memo("b", "l"))
    ]  # fmt: skip
    assert len(set(keys)) == len(keys)
    assert MASTER.secret not in keys
    assert all(len(key) == 32 for key in keys)


def hkdf(key: bytes, *info: str) -> bytes:
    framed = b"".join(len(part.encode()).to_bytes(8, "big") + part.encode() for part in info)
    return hmac.digest(hmac.digest(bytes(32), key, "sha256"), framed + b"\x01", "sha256")


def test_keys_descend_from_the_master_key_as_written():
    release = hkdf(MASTER.secret, "release", "r")
    assert ReleaseKeys(MASTER, "r").row() == hkdf(release, "row")
    assert ReleaseKeys(MASTER, "r").selection() == hkdf(release, "selection")
    assert ReleaseKeys(MASTER, "r").column("a", "l") == hkdf(release, "column", "a", "l")
    assert PipelineKeys(MASTER, "p").pseudonym("a") == hkdf(MASTER.secret, "pseudonym", "p", "a")
    assert PipelineKeys(MASTER, "p").unit("a") == hkdf(MASTER.secret, "memo unit", "p", "a")
    assert PipelineKeys(MASTER, "p").memo("a", "l") == hkdf(MASTER.secret, "memo", "p", "a", "l")


def test_another_law_draws_from_another_key():
    laws = [
        FARE,
        FARE | {"epsilon": 1.1},
        FARE | {"bounds": [0, 101]},
        FARE | {"on_null": "keep"},
        {"mechanism": "gaussian", "epsilon": 1.0, "delta": 1e-6, "bounds": [0, 100]},
    ]
    texts = {law_text(trips(COLUMNS | {"fare": ("double", law)}).column("fare")) for law in laws}
    assert len(texts) == len(laws)


MEMO = {"unit": "row", "budget": "small", "limit": {"epsilon": 8.0, "delta": 1e-5}, "memoize": ["seats"]}
RIDER = {"entity": ["rider"], "max_rows": 3}


def memo(key_id: str = "k", seats: Any = SEATS, **changes: Any) -> str:
    plan = trips(COLUMNS | {"seats": ("int32", seats)}, **{"privacy": MEMO, **changes})
    return memo_id(plan, plan.column("seats"), key_id)


@pytest.mark.parametrize(
    "changed",
    [
        {"key_id": "l"},
        {"seats": SEATS | {"epsilon": 2.0}},
        {"seats": SEATS | {"bounds": [0, 9]}},
        {"pipeline": "other"},
        {"row_key": ["id", "rider"]},
        {"privacy": MEMO | {"unit": RIDER}},
    ],
)
def test_a_memo_is_paid_again_for_another_key_law_pipeline_or_unit(changed):
    assert memo(**changed) != memo()


def test_a_memo_is_paid_once_whatever_the_partition_snapshot_and_other_columns():
    plan = trips(privacy=MEMO | {"unit": RIDER})
    first = request(plan, make_release(plan, DAY, SNAPSHOT, "k", 10))
    second = request(plan, make_release(plan, (("day", 4),), "7" * 64, "k", 99))
    assert first.memos == second.memos
    assert first.release_id != second.release_id
    fewer = {name: column for name, column in COLUMNS.items() if name != "fare"}
    assert memo() == memo_id(trips(fewer, privacy=MEMO), trips(fewer, privacy=MEMO).column("seats"), "k")


def test_the_ledger_is_asked_for_what_the_plan_costs():
    plan = trips(privacy=MEMO | {"unit": RIDER})
    asked = request(plan, make_release(plan, DAY, SNAPSHOT, "k", 10))
    assert (asked.pipeline, asked.partition, asked.key_id, asked.parallel) == ("small", "day=3", "k", False)
    assert asked.charge == plan.charge
    assert asked.charge.pure_epsilon == pytest.approx(3 * (1 + 2))
    assert [(m.column, m.charge.pure_epsilon) for m in asked.memos] == [("seats", pytest.approx(3))]


def test_the_snapshot_shows_under_the_key_only():
    """A plain hash of the source would let anyone who knows all rows but one try each value of that one."""
    shown = snapshot_identity(MASTER, "f")
    assert shown == hkdf(MASTER.secret, "snapshot", "f").hex()
    assert shown not in (snapshot_identity(NoiseKey(bytes(range(1, 33))), "f"), snapshot_identity(MASTER, "g"))


def test_memoized_noise_of_two_kinds_of_unit_is_two_noises():
    plan = trips(privacy=MEMO)
    other = trips(privacy=MEMO | {"unit": {"entity": ["rider"], "max_rows": 1}})
    assert memo_text(plan, plan.column("seats")) != memo_text(other, other.column("seats"))
