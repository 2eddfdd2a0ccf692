"""Verify: what is published is what follows from snapshot and key, to the bit; else the row is named."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_pipeline import SMALL_SCHEMA, Answer, Small, make_small, small_rows

from noiselib.cli import main, names
from noiselib.key import create_key_file

ROW = 10  # of day 1: the one with id 1010


def rewrite(small: Small, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the published rows of day 1, in their own file, as somebody with access to it would."""
    file = next((small.home / "published" / "day=1").glob("*.parquet"))
    table = pq.read_table(file, partitioning=None)
    rows = sorted(table.to_pylist(), key=lambda row: row["id"])
    change(rows)
    file.unlink()  # it is a hard link
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)


def flip_lowest_bit(number: float) -> float:
    bits = struct.unpack("<q", struct.pack("<d", number))[0]
    return float(struct.unpack("<d", struct.pack("<q", bits ^ 1))[0])


def differences(small: Small) -> list[tuple[str, str, list[str]]]:
    """What verify finds, as (partition, row, columns); it must find something and say so by its exit code."""
    answer = small.noiselib("verify", "--json")
    assert (answer.code, answer.json["success"]) == (1, False), answer.err
    return [(found["partition"], found["row"], found["columns"]) for found in answer.json["differences"]]


def test_what_was_published_is_confirmed(published: Small) -> None:
    answer = published.noiselib("verify")
    assert (answer.code, answer.out) == (0, "small: 1 releases derived again, equal to the bit\n"), answer.err


def test_every_partition_is_confirmed(tmp_path: Path, spark: object) -> None:
    small = make_small(tmp_path, days=[1, 2], size=20)
    assert small.noiselib("run").code == 0
    assert "2 releases derived again" in small.noiselib("verify").out
    assert "1 releases derived again" in small.noiselib("verify", "--partition", "day=2").out


CHANGES: list[tuple[str, Callable[[Any], Any]]] = [
    ("amount", flip_lowest_bit),
    ("amount", lambda _: None),
    ("amount", lambda _: float("nan")),
    ("count", lambda value: value ^ 1),
    ("color", lambda value: "red" if value == "green" else "green"),
    ("name", lambda value: value[::-1]),
]


@pytest.mark.parametrize(("column", "change"), CHANGES)
def test_one_changed_value_is_named(published: Small, column: str, change: Callable[[Any], Any]) -> None:
    rewrite(published, lambda rows: rows[ROW].update({column: change(rows[ROW][column])}))
    assert differences(published) == [("day=1", "id=1010", [column])]


def test_a_person_reads_where_the_change_is(published: Small) -> None:
    rewrite(published, lambda rows: rows[ROW].update(amount=flip_lowest_bit(rows[ROW]["amount"])))
    answer = published.noiselib("verify")
    assert (answer.code, answer.out) == (1, "day=1: id=1010: differs in amount\n")


def test_a_changed_row_key_is_a_row_too_many_and_one_too_few(published: Small) -> None:
    rewrite(published, lambda rows: rows[ROW].update(id=5))
    found = differences(published)
    assert found == [("day=1", "id=1010 (derived, not published)", []), ("day=1", "id=5 (published, not derived)", [])]


def test_a_removed_row_is_named(published: Small) -> None:
    rewrite(published, lambda rows: rows.pop(ROW))
    assert differences(published) == [("day=1", "id=1010 (derived, not published)", [])]


def test_an_added_row_is_named(published: Small) -> None:
    rewrite(published, lambda rows: rows.append(rows[ROW] | {"id": 5}))
    assert differences(published) == [("day=1", "id=5 (published, not derived)", [])]


def test_a_row_that_stands_twice_is_named(published: Small) -> None:
    rewrite(published, lambda rows: rows.append(dict(rows[ROW])))
    assert differences(published) == [("day=1", "id=1010 (published, not derived)", [])]


def test_a_partition_that_no_source_accounts_for_is_named(published: Small) -> None:
    forged = published.home / "published" / "day=9"
    forged.mkdir()
    pq.write_table(pa.table(small_rows(9, 5), schema=SMALL_SCHEMA), forged / "part-0.parquet")
    assert differences(published) == [("day=9", "published, not in the source", [])]


@pytest.fixture
def keyless(tmp_path: Path, spark: object) -> Small:
    """A published pipeline whose row key is dropped."""
    small = make_small(tmp_path, days=[1], size=50)
    small.spec["columns"]["id"] = {"drop": True}
    small.write_spec()
    assert small.noiselib("run").code == 0
    return small


def test_a_pipeline_without_its_row_key_is_confirmed_and_a_change_is_found(keyless: Small) -> None:
    assert "1 releases derived again" in keyless.noiselib("verify").out
    file = next((keyless.home / "published" / "day=1").glob("*.parquet"))
    table = pq.read_table(file, partitioning=None)
    amounts = table["amount"].to_pylist()
    amounts[ROW] = flip_lowest_bit(amounts[ROW])
    file.unlink()
    pq.write_table(table.set_column(table.schema.get_field_index("amount"), "amount", pa.array(amounts)), file)
    assert differences(keyless) == [
        ("day=1", "1 rows published but not derived (the row key is not published)", []),
        ("day=1", "1 rows derived but not published (the row key is not published)", []),
    ]


def refused(answer: Answer, *phrases: str) -> None:
    assert answer.code == 1
    assert "Traceback" not in answer.err
    for phrase in phrases:
        assert phrase in answer.err


def test_a_changed_source_is_refused(published: Small) -> None:
    published.rows[1]["amount"][ROW] += 0.25
    published.write_source()
    refused(published.noiselib("verify"), "(day=1) of small: not published for the snapshot that", "holds now")


def test_another_key_is_refused(published: Small) -> None:
    (published.home / "noise.key").unlink()
    key = create_key_file(published.home / "noise.key")
    refused(published.noiselib("verify"), f"not published for the snapshot that {published.home / 'source'} holds now")
    refused(published.noiselib("verify"), f"with key {key.id}")


def test_a_release_is_verified_by_its_id(
    published: Small, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(names, "PIPELINES", published.home)
    release_id = next((published.home / "published" / "_noiselib").glob("*.json")).stem
    assert main(["verify", release_id[:12]]) == 0
    assert "1 releases derived again" in capsys.readouterr().out
    published.rows[1]["amount"][ROW] += 0.25
    published.write_source()
    assert main(["verify", release_id[:12]]) == 1
    assert f"release {release_id[:12]}: not a release of small for the snapshot that" in capsys.readouterr().err


def test_partitions_are_found_whatever_their_names(tmp_path: Path, spark: object) -> None:
    small = make_small(tmp_path, days=[], size=0)
    small.spec["source"]["partition_by"] = ["at"]
    small.spec["privacy"]["limit"]["epsilon"] = 100.0
    small.spec["columns"]["at"] = small.spec["columns"].pop("day")
    small.write_spec()
    for day, name in enumerate(["10%3A30", "a%2Fb", "a b", "10", "__HIVE_DEFAULT_PARTITION__"]):
        place = small.home / "source" / f"at={name}"
        place.mkdir(parents=True)
        pq.write_table(pa.table(small_rows(day, 5), schema=SMALL_SCHEMA), place / "part-0.parquet")
    (small.home / "source" / "at=c%2F%3Ad").mkdir()
    assert small.noiselib("run", "--partition", "at=a%2Fb").code == 0
    answer = small.noiselib("run")
    assert answer.code == 0, answer.err
    assert "6 releases derived again" in small.noiselib("verify").out
    assert "1 releases derived again" in small.noiselib("verify", "--partition", "at=10:30").out
