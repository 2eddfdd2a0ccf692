"""Tables of Spark's catalog as sources, with the embedded Derby metastore, which needs a process of its own (tests/hive.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.platform
Answers = dict[str, tuple[int, str, str]]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Answers:
    home, script = tmp_path_factory.mktemp("hive"), Path(__file__).parents[1] / "hive.py"
    done = subprocess.run([sys.executable, script, home], capture_output=True, text=True, cwd=home)
    assert done.returncode == 0, done.stderr
    return {name: tuple(answer) for name, answer in json.loads(done.stdout.splitlines()[-1]).items()}


def answer(told: Answers, name: str) -> Any:
    code, out, err = told[name]
    assert code == 0, err
    return json.loads(out)


def test_a_run_from_the_catalog_is_the_run_from_the_tables_path(told: Answers) -> None:
    assert [(one["partition"], one["rows"]) for one in answer(told, "run")["releases"]] == [
        ("day=1", 50),
        ("day=2", 50),
    ]
    assert answer(told, "verify")["success"]
    [entry] = answer(told, "ls")
    assert (entry["partitions"], entry["problem"]) == ({"published": 2}, None)
    by_path = answer(told, "run by path")
    assert [one["status"] for one in by_path["releases"]] == ["unchanged", "unchanged"]
    assert [one["release_id"] for one in by_path["releases"]] == [
        one["release_id"] for one in answer(told, "run")["releases"]
    ]


def test_a_key_that_airflow_lends_is_the_key_of_the_run(told: Answers) -> None:
    """Without it a table is found and planned, as one at a path is; what needs the key says so."""
    assert answer(told, "plan without its key")["key"]["id"] == "unknown"
    assert answer(told, "plan with a lent key")["key"]["id"] != "unknown"
    [untold], [entry] = answer(told, "ls without its key"), answer(told, "ls with a lent key")
    assert "expected --key file:PATH" in untold["problem"]
    assert (entry["partitions"], entry["problem"]) == ({"published": 2}, None)
    code, _, err = told["run without its key"]
    assert (code, "NoiseKeyError: key airflow:noise: is known to Airflow's tasks only" in err) == (1, True), err
    assert [one["status"] for one in answer(told, "run with a lent key")["releases"]] == ["unchanged", "unchanged"]
    code, _, err = told["plan that shows a lent key"]
    assert (code, "Spark setting refused: spark.noise: holds the noise key" in err) == (2, True), err


def test_partition_columns_have_the_types_of_the_catalog(told: Answers) -> None:
    kinds = {
        name: {column["column"]: column["type"] for column in answer(told, f"plan {name}")["columns"]}["day"]
        for name in ("small", "texts")
    }
    assert kinds == {"small": "int32", "texts": "string"}
    assert [(one["partition"], one["rows"]) for one in answer(told, "run calendar")["releases"]] == [
        ("day=2024-02-29", 50), ("day=__HIVE_DEFAULT_PARTITION__", 50),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "code", "what"),
    [
        ("lines", 1, "source features.lines: is of provider csv"),
        ("seen", 1, "source features.seen: is of provider VIEW"),
        ("nowhere", 1, "source features.nowhere: not in Spark's catalog"),
        ("a.b.c", 1, "source features.a.b.c: "),
        ("without partition_by", 2, "partition_by []: expected ['day'], by which features.small is partitioned"),
        ("with a directory more", 1, "partition day=3 is in its directory, not in the catalog; expected both alike"),
        ("with a column more", 1, "column 'extra' is not in its files and int32 in the catalog"),
    ],
)
def test_what_spark_would_read_otherwise_is_refused_by_name(told: Answers, name: str, code: int, what: str) -> None:
    found = told[f"plan {name}"]
    assert (found[0], what in found[2]) == (code, True), found[2]


def test_a_repaired_table_is_read(told: Answers) -> None:
    assert [one["partition"] for one in answer(told, "plan repaired")["partitions"]] == ["day=1", "day=2", "day=3"]


def test_a_published_table_is_a_table_of_the_catalog(told: Answers) -> None:
    """Its readers see all that is published, of partitions that came later too: no partition is registered."""
    assert answer(told, "publish a table")["status"] == "success"
    assert answer(told, "a table") == [[1, 50]]
    assert answer(told, "publish more")["status"] == "success"
    assert answer(told, "more") == [[1, 50], [2, 50], [3, 50]]
    assert {one["status"] for one in answer(told, "publish again")["releases"]} == {"unchanged"}


def test_a_name_with_other_types_is_refused_before_anything_is_charged(told: Answers) -> None:
    code, out, err = told["publish other types"]
    assert code == 1
    assert "target table features.published: column 'id' is int64 there; expected string, as in the release" in err
    assert json.loads(out)["charge"]["epsilon"] == 0
    assert answer(told, "what was there") == answer(told, "more")
    assert answer(told, "publish anew")["status"] == "success"  # the name was dropped, as the error says
    assert answer(told, "anew") == answer(told, "more")


def test_a_name_that_is_not_ours_is_refused(told: Answers) -> None:
    for name, what in (
        ("publish to another's", "is another's"),
        ("reserve for another's", "is another's"),
        ("publish to no database", "SCHEMA_NOT_FOUND"),
    ):
        code, out, err = told[name]
        assert code == 1
        assert what in err
        assert json.loads(out)["charge"]["epsilon"] == 0
