"""Bad input, one kind after the other: a message that names it, the exit code, nothing spent and nothing published.

Every pipeline here has published one day already. What is refused must leave that day, and the account, as they were.
"""

from __future__ import annotations

import base64
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from small_pipeline import SMALL_SCHEMA, Answer, Small, make_small, small_rows

from noiselib.ledger import Ledger

# Values in the bad rows that no message may repeat.
pytestmark = pytest.mark.faults
SECRETS = {"id": 987654321, "name": "canary name", "color": "green", "amount": 7.890625, "count": 17}


def second_day(small: Small, **changes: Any) -> None:
    """A second day of 20 rows; the first row has SECRETS for values, but for `changes`."""
    rows = small_rows(2, 20)
    for name, value in (SECRETS | changes).items():
        rows[name][0] = value
    small.rows[2] = rows
    small.write_source()


def columns(small: Small, name: str, **changes: Any) -> None:
    """Change one column of the spec."""
    small.spec["columns"][name] |= changes
    small.write_spec()


def refused(small: Small, code: int, *phrases: str, arguments: tuple[str, ...] = ()) -> Answer:
    """Run; it must fail with `code` and a message that holds `phrases`, and leave account and target as they were."""
    spent, published, results = small.spent(), small.checksums(), small.home / "run_results.json"
    results.unlink(missing_ok=True)
    answer = small.noiselib("run", *arguments)
    assert_refused(small, answer, code, phrases)
    with small.ledger() as ledger:
        assert {release.state for release in ledger.releases()} <= {"published", "abandoned"}
    assert (small.spent(), small.checksums()) == (spent, published)
    assert not list(small.home.glob(".published.noiselib/staging/*/data"))
    return answer


def assert_refused(small: Small, answer: Answer, code: int, phrases: tuple[str, ...]) -> None:
    assert answer.code == code, answer.err
    for phrase in phrases:
        assert phrase in answer.err
    assert "Traceback" not in answer.err
    written = small.results()
    assert written["status"] == "failed"
    assert written["error"]["message"] in answer.err
    assert all(release["charge"]["epsilon"] == 0.0 for release in written["releases"] if release["status"] != "planned")
    text = answer.err + answer.out + (small.home / "run_results.json").read_text()
    assert not [secret for secret in (*SECRETS.values(), "ultraviolet") if len(str(secret)) > 5 and str(secret) in text]


# ---- the table


def test_missing_table(published: Small) -> None:
    shutil.rmtree(published.home / "source")
    refused(published, 1, f"source {published.home / 'source'}: not found")


def test_table_without_a_file(published: Small) -> None:
    (published.home / "source" / "day=1" / "part-0.parquet").unlink()
    refused(published, 1, "holds no data file", "an empty table needs one file to show its columns")


def test_a_partition_that_does_not_exist(published: Small) -> None:
    refused(published, 1, "no partition day=7", arguments=("--partition", "day=7"))


def test_a_partition_column_that_does_not_exist(published: Small) -> None:
    refused(published, 2, "--partition month", "partition columns: day", arguments=("--partition", "month=7"))


def test_an_argument_that_names_no_partition(published: Small) -> None:
    refused(published, 2, "--partition '7'", "expected COLUMN=VALUE", arguments=("--partition", "7"))


def test_directory_that_is_no_partition(published: Small) -> None:
    (published.home / "source" / "month=1").mkdir()
    refused(published, 1, "directory 'month=1'", "expected day=...")


def test_file_cut_short(published: Small) -> None:
    file = published.home / "source" / "day=1" / "part-0.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    refused(published, 1, str(file), "not a whole Parquet file")


@pytest.mark.parametrize("with_file", [True, False])
def test_an_empty_partition_is_an_empty_release(published: Small, with_file: bool) -> None:
    before = published.published()
    if with_file:
        published.write_partition(2, SMALL_SCHEMA.empty_table())
    else:
        (published.home / "source" / "day=2").mkdir()
    answer = published.noiselib("run", "--json")
    assert answer.code == 0, answer.err
    assert [(r["partition"], r["status"], r["rows"]) for r in answer.json["releases"]] == [
        ("day=1", "unchanged", 50),
        ("day=2", "published", 0),
    ]
    assert published.published() == before
    assert len(list((published.home / "published" / "day=2").glob("*.parquet"))) == 1


def test_an_empty_table_is_an_empty_release(tmp_path: Path, spark: object) -> None:
    small = make_small(tmp_path, days=[1], size=0)
    answer = small.noiselib("run", "--json")
    assert answer.code == 0, answer.err
    assert (answer.json["rows_in"], answer.json["rows_out"]) == (0, 0)
    table = small.published()
    assert table is not None
    assert (table.num_rows, table.schema.field("amount").type) == (0, pa.float64())


# ---- its columns


def test_missing_column(published: Small) -> None:
    published.write_partition(1, pa.table(published.rows[1], schema=SMALL_SCHEMA).drop_columns("amount"))
    refused(published, 2, "small.yaml:", "column 'amount' is not in", "its columns are id, name, color, count, day")


def test_column_missing_from_one_file(published: Small) -> None:
    published.write_partition(2, pa.table(small_rows(2, 20), schema=SMALL_SCHEMA).drop_columns("amount"))
    refused(published, 1, "day=2/part-0.parquet", "its schema differs from the table's in column 'amount'")


def test_unnamed_column(published: Small) -> None:
    table = pa.table(published.rows[1], schema=SMALL_SCHEMA)
    published.write_partition(1, table.append_column("salary", pa.array(range(50), pa.int32())))
    refused(published, 2, "column 'salary' (int32)", "is not named: expected keep: public, drop: true")


def test_wrong_type(published: Small) -> None:
    table = pa.table(published.rows[1], schema=SMALL_SCHEMA)
    text = pa.array([str(value) for value in published.rows[1]["amount"]])
    published.write_partition(1, table.set_column(3, "amount", text))
    refused(
        published, 2, "small.yaml:", "column 'amount': laplace on type string: expected int32, int64, float, double"
    )


def test_a_type_that_spark_does_not_read(published: Small) -> None:
    table = pa.table(published.rows[1], schema=SMALL_SCHEMA)
    published.write_partition(1, table.append_column("at", pa.array([1] * 50, pa.timestamp("ns"))))
    published.spec["columns"]["at"] = {"keep": "public"}
    published.write_spec()
    refused(published, 1, "column 'at'", "timestamp[ns]", "expected microseconds")


def test_a_kept_type_that_comes_back_as_another(published: Small) -> None:
    table = pa.table(published.rows[1], schema=SMALL_SCHEMA)
    published.write_partition(1, table.append_column("small", pa.array(range(50), pa.uint8())))
    published.spec["columns"]["small"] = {"keep": "public"}
    published.write_spec()
    refused(published, 2, "small.yaml:", "column 'small': keep on type uint8: expected", "int16")


# ---- its rows


def test_duplicate_row_key(published: Small) -> None:
    second_day(published)
    published.rows[2]["id"][1] = SECRETS["id"]
    published.write_source()
    refused(published, 1, "day=2: row key (id): 2 rows share theirs with another; expected unique")


def test_null_row_key(published: Small) -> None:
    second_day(published, id=None)
    refused(published, 1, "day=2: row key (id): null in id: 1 rows")


def test_nan(published: Small) -> None:
    second_day(published, amount=float("nan"))
    refused(published, 1, "day=2: column amount: NaN (on_nan: fail): 1 rows")


@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
def test_infinity(published: Small, value: float) -> None:
    second_day(published, amount=value)
    refused(published, 1, "day=2: column amount: an infinite value (on_infinite: fail): 1 rows")


def test_null_where_none_is_expected(published: Small) -> None:
    second_day(published, count=None)
    refused(published, 1, "day=2: column count: null (on_null: fail): 1 rows")


def test_unknown_category(published: Small) -> None:
    second_day(published, color="ultraviolet")
    refused(published, 1, "day=2: column color: a value outside its categories (on_unknown: fail): 1 rows")


def test_a_number_that_no_lattice_point_is_near(published: Small) -> None:
    columns(published, "amount", mechanism="laplace", epsilon=1.0, protect_distance=1e-6)
    del published.spec["columns"]["amount"]["bounds"]
    published.write_spec()
    second_day(published, amount=7.890625e12)
    refused(
        published, 1, "column amount: beyond 4503599627370496 steps of", "1 rows", arguments=("--partition", "day=2")
    )


def test_everything_that_is_wrong_is_said_at_once(published: Small) -> None:
    second_day(published, amount=float("nan"), count=None, color="ultraviolet")
    refused(published, 1, "column amount: NaN", "column count: null", "column color: a value outside its categories")


def by_name(small: Small, **privacy: Any) -> None:
    """One person, by name, is the privacy unit; another budget pays, since one is for one kind of unit."""
    small.spec["privacy"] |= {"unit": {"entity": ["name"], "max_rows": 1}, "budget": "people"} | privacy
    small.write_spec()


def test_null_entity(published: Small) -> None:
    by_name(published)
    second_day(published, name=None)
    refused(published, 1, "entity (name): null (on_null_entity: fail): 1 rows", arguments=("--partition", "day=2"))


def test_partitions_declared_disjoint_that_are_not(published: Small) -> None:
    by_name(published, partitions="disjoint")
    second_day(published, name=published.rows[1]["name"][3])
    answer = refused(published, 1, "entity (name): 1 of them lie in several partitions; declared disjoint")
    assert published.rows[1]["name"][3] not in answer.err


# ---- the key


def test_missing_key(published: Small) -> None:
    (published.home / "noise.key").unlink()
    refused(published, 1, f"key file {published.home / 'noise.key'}: not found; make one with: noiselib keygen")


def test_short_key(published: Small) -> None:
    key = base64.b64encode(os.urandom(16))
    (published.home / "noise.key").write_bytes(key)
    answer = refused(published, 1, "noise.key: 16 bytes; expected 32")
    assert key.decode() not in answer.err


@pytest.mark.parametrize("mode", [0o644, 0o640])
def test_key_that_others_can_read(published: Small, mode: int) -> None:
    (published.home / "noise.key").chmod(mode)
    refused(published, 1, f"mode {mode:04o} lets others read it; expected 0600")


# ---- the account


def test_missing_ledger(published: Small) -> None:
    second_day(published)
    before = published.checksums()
    (published.home / "ledger.db").unlink()
    answer = published.noiselib("run")
    assert_refused(published, answer, 1, (f"{published.home / 'ledger.db'}: expected a file, found none",))
    assert not (published.home / "ledger.db").exists()
    assert published.checksums() == before


@pytest.fixture
def lock() -> Iterator[Callable[[Path], subprocess.Popen[str]]]:
    """Another process that holds a ledger's write lock."""
    hold = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None); c.execute('BEGIN IMMEDIATE'); "
        "print('held', flush=True); sys.stdin.read()"
    )
    holders = []

    def start(path: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", hold, str(path)]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        holders.append(holder)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        return holder

    yield start
    for holder in holders:
        holder.communicate("")


def test_locked_ledger(published: Small, lock: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    second_day(published)
    spent, before = published.spent(), published.checksums()
    monkeypatch.setattr(Ledger, "open", staticmethod(partial(Ledger.open, wait_seconds=0.2)))
    holder = lock(published.home / "ledger.db")
    answer = published.noiselib("run")
    assert_refused(published, answer, 1, (str(published.home / "ledger.db"), "locked by another process"))
    holder.communicate("")
    assert (published.spent(), published.checksums()) == (spent, before)


def test_read_only_ledger(published: Small) -> None:
    second_day(published)
    home = Path(tempfile.mkdtemp()) / "small"  # pytest's own folder is root's alone, and root may write anything
    try:
        small = published.copy(home)
        (home / "ledger.db").chmod(0o444)
        for path in (home.parent, home, *home.rglob("*")):
            os.chown(path, 65534, -1, follow_symlinks=False) if os.geteuid() == 0 else None
        spent, before = small.spent(), small.checksums()
        code = in_process(lambda: as_nobody(small))
        answer = Answer(code, "", (home / "stderr").read_text())
        assert_refused(small, answer, 1, (f"{home / 'ledger.db'}: read-only",))
        assert (small.spent(), small.checksums()) == (spent, before)
    finally:
        shutil.rmtree(home.parent)


def as_nobody(small: Small) -> int:
    if os.geteuid() == 0:
        os.setuid(65534)
    answer = small.noiselib("run")
    (small.home / "stderr").write_text(answer.err)
    return answer.code


def in_process(function: Callable[[], int]) -> int:
    """The function's value in a child process."""
    context = multiprocessing.get_context("fork")
    answers: Any = context.SimpleQueue()
    child = context.Process(target=lambda: answers.put(function()))
    child.start()
    child.join(60)
    assert child.exitcode == 0
    return int(answers.get())


def test_exhausted_budget(published: Small) -> None:
    columns(published, "amount", epsilon=9.0)
    second_day(published)
    refused(published, 4, "Budget 'small': requested epsilon=", "remaining", "over by")


def test_budget_with_another_limit(published: Small) -> None:
    published.spec["privacy"]["limit"]["epsilon"] = 100.0
    published.write_spec()
    second_day(published)
    refused(published, 2, "small", "8.0", "100.0")


# ---- the target


def test_target_that_is_not_ours(published: Small) -> None:
    theirs = published.home / "theirs"
    theirs.mkdir()
    (theirs / "report.csv").write_text("kept\n")
    published.spec["target"]["path"] = str(theirs)
    published.write_spec()
    refused(published, 1, f"target {theirs}: exists and was not published by noiselib; expected a path of its own")
    assert (theirs / "report.csv").read_text() == "kept\n"


def test_target_that_cannot_be_replaced_in_one_step(published: Small) -> None:
    published.spec["target"]["path"] = "s3://bucket/table"
    published.write_spec()
    refused(published, 1, "target s3://bucket/table", "expected a local or mounted path")
