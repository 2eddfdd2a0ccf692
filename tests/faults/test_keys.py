"""A key that is replaced: new releases, new charges, said before; the old ones stay verifiable, and what was begun is not lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_pipeline import Small, make_small

from noiselib.key import create_key_file, load_key

pytestmark = pytest.mark.faults


@pytest.fixture
def two_days(tmp_path: Path, spark: object) -> Small:
    return make_small(tmp_path, days=[1, 2], size=50)


def rotate(small: Small) -> str:
    """A new key for the spec; says where the old one is."""
    old = small.spec["key"]
    create_key_file(small.home / "new.key")
    small.spec["key"] = f"file:{small.home / 'new.key'}"
    small.write_spec()
    return old


def test_a_rotation_day_by_day(two_days: Small) -> None:
    small = two_days
    assert small.noiselib("run", "--partition", "day=1").code == 0
    old_id = load_key(small.spec["key"]).id
    before, spent = small.checksums(), small.spent()
    old = rotate(small)
    plan = small.noiselib("plan", "--json").json
    assert plan["key"] == {"id": load_key(small.spec["key"]).id, "under_another": {"day=1": old_id}}
    assert f"1 of these partitions are published under another key ({old_id})" in small.noiselib("plan").out
    assert (small.checksums(), small.spent()) == (before, spent)
    assert small.noiselib("run", "--partition", "day=2").code == 0
    assert {name for name in before if "day=1" in name} <= small.checksums().keys()
    assert small.noiselib("verify", "--partition", "day=1", "--key", old).code == 0
    assert small.noiselib("verify", "--partition", "day=2").code == 0
    refused = small.noiselib("verify", "--partition", "day=1")
    assert refused.code == 1
    assert f"with key {load_key(small.spec['key']).id}" in refused.err
    spent = small.spent()
    again = small.noiselib("run", "--partition", "day=1", "--json")
    assert again.code == 0, again.err
    assert again.json["charge"]["epsilon"] == pytest.approx(small.spent() - spent)
    assert small.spent() > spent
    assert small.noiselib("verify", "--partition", "day=1", "--key", old).code == 1  # it is not there any more


def test_a_key_replaced_between_run_and_resume(two_days: Small) -> None:
    small, file = two_days, two_days.home / "noise.key"
    assert small.noiselib("perturb", "--partition", "day=1").code == 0
    spent, key_id = small.spent(), load_key(small.spec["key"]).id
    os.rename(file, small.home / "old.key")
    create_key_file(file)
    answer = small.noiselib("run", "--partition", "day=1")
    assert answer.code == 1
    assert f"NoiseKeyError: key file:{file}: has id {load_key(small.spec['key']).id}" in answer.err
    assert f"was begun under {key_id} and is not finished; expected that key, or: noiselib ledger abandon" in answer.err
    assert (small.spent(), small.published()) == (spent, None)
    assert small.noiselib("run", "--partition", "day=2").code == 0  # another partition is another matter
    spent = small.spent()
    os.replace(small.home / "old.key", file)
    answer = small.noiselib("run", "--partition", "day=1", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["charge"]["epsilon"], small.spent()) == (0.0, spent)


def test_what_was_begun_under_a_lost_key_can_be_given_up(two_days: Small) -> None:
    small = two_days
    assert small.noiselib("perturb", "--partition", "day=1").code == 0
    [begun] = (small.home / ".published.noiselib" / "staging").iterdir()
    rotate(small)
    assert small.noiselib("run", "--partition", "day=1").code == 1
    from noiselib.cli import main

    assert main(["ledger", "abandon", str(small.spec_file), "--release", begun.name]) == 0
    answer = small.noiselib("run", "--partition", "day=1", "--json")
    assert answer.code == 0, answer.err
    assert small.spent() == pytest.approx(answer.json["charge"]["epsilon"])
