"""Several pipelines in one call: a chain of three on Spark, its order, its failures, and what a restated source selects."""

from __future__ import annotations

from pathlib import Path

import pytest
from chain import Chain, make_chain

pytestmark = pytest.mark.platform


@pytest.fixture
def chain(tmp_path: Path, spark: object, monkeypatch: pytest.MonkeyPatch) -> Chain:
    monkeypatch.chdir(tmp_path)
    return make_chain(tmp_path)


def statuses(results: dict) -> dict[str, str]:
    return {one["pipeline"]: one["status"] for one in results["pipelines"]}


def test_a_chain_runs_in_order_and_a_restated_day_selects_what_it_changed(chain: Chain) -> None:
    first = chain.noiselib("run", "--select", "tag:daily", "--json")
    assert first.code == 0, first.err
    assert first.json == chain.results()
    assert list(statuses(first.json)) == ["first", "second", "third"]
    assert {one["status"] for one in first.json["pipelines"]} == {first.json["status"]} == {"success"}
    assert [one["rows_out"] for one in first.json["pipelines"]] == [60, 60, 60]
    assert all(one["charge"]["epsilon"] > 0 for one in first.json["pipelines"])
    assert chain.names("--select", "state:changed") == chain.names("--select", "state:new") == ["apart"]

    again = chain.noiselib("run", "--select", "tag:daily")
    assert again.code == 0, again.err
    lines = again.out.splitlines()
    assert [line.split() for line in lines[1:4]] == [
        [name, "success", "0", "2", "60", "0", line.split()[-1]]
        for name, line in zip(["first", "second", "third"], lines[1:], strict=False)
    ]
    assert lines[4:] == ["3 pipelines: 3 success"]

    chain.write_day(2, shift=1.0)
    assert chain.names("--select", "state:changed,tag:daily") == ["first"]
    assert chain.names("--select", "state:changed+,tag:daily") == ["first", "second", "third"]
    alone = chain.noiselib("run", "--select", "state:changed,tag:daily", "--json")
    [result] = alone.json["pipelines"]
    assert [(r["partition"], r["status"]) for r in result["releases"]] == [
        ("day=1", "unchanged"),
        ("day=2", "published"),
    ]
    assert chain.names("--select", "state:changed,tag:daily") == ["second"]
    [entry] = chain.noiselib("ls", "second", "--json").json
    assert entry["partitions"] == {"changed": 1, "published": 1}
    below = chain.noiselib("run", "--select", "second+", "--json")
    assert below.code == 0, below.err
    assert [[r["status"] for r in one["releases"]] for one in below.json["pipelines"]] == [
        ["unchanged", "published"]
    ] * 2
    assert chain.names("--select", "state:changed,tag:daily") == []
    nothing = chain.noiselib("run", "--select", "state:changed,tag:daily")
    assert (nothing.code, nothing.out) == (0, "no pipeline is selected: nothing to do\n")


def test_what_depends_on_a_failure_is_skipped_and_the_rest_goes_on(chain: Chain) -> None:
    impossible = {"expect": "column_values_between", "column": "id", "min": 0, "max": 1}
    chain.specs["second"]["checks"] = [impossible]
    chain.write_specs()
    answer = chain.noiselib("run", "--select", "*", "--partition", "day=1..1", "--json")
    assert answer.code == 3, answer.err  # the one failure's own
    assert answer.json == chain.results()
    assert statuses(answer.json) == {
        "apart": "success",
        "first": "success",
        "second": "quarantined",
        "third": "skipped",
    }
    by_name = {one["pipeline"]: one for one in answer.json["pipelines"]}
    assert by_name["third"]["reason"] == "it depends on second, which failed"
    assert [release["partition"] for release in by_name["first"]["releases"]] == ["day=1"]
    assert by_name["second"]["error"]["type"] == "ChecksFailed"
    assert not (chain.home / "third").exists()
    assert chain.names("--select", "state:failed") == ["second"]
    assert chain.noiselib("ls", "second", "--json").json[0]["partitions"] == {"quarantined": 1}

    chain.specs["apart"]["checks"] = [impossible]
    chain.write_specs()
    stopped = chain.noiselib("run", "--select", "tag:weekly first+", "--partition", "day=2", "--fail-fast", "--json")
    assert stopped.code == 3
    assert statuses(stopped.json) == {
        "apart": "quarantined",
        "first": "skipped",
        "second": "skipped",
        "third": "skipped",
    }
    assert stopped.json["pipelines"][1]["reason"] == "apart failed, and --fail-fast"


def test_failures_of_several_kinds_are_one(chain: Chain) -> None:
    chain.specs["second"]["privacy"] = {"unit": "row", "budget": "tight", "limit": {"epsilon": 0.5, "delta": 1e-5}}
    chain.specs["apart"]["columns"]["colour"] = {"drop": True}
    chain.write_specs()
    answer = chain.noiselib("run", "--select", "first+1", "--json")
    assert (answer.code, statuses(answer.json)) == (4, {"first": "success", "second": "failed"})
    (chain.home / "conf" / "pipelines" / "worn.yaml").write_text("version: 1\n")
    answer = chain.noiselib("run", "--select", "second tag:weekly", "--json")
    assert answer.code == 1  # 4, 2 and 2
    assert statuses(answer.json) == {"apart": "failed", "second": "failed", "worn": "failed"}
    assert [one["error"]["type"] for one in answer.json["pipelines"]] == ["SpecError", "SpecError", "OverBudget"]
    answer = chain.noiselib("run", "apart", "first", "--json")  # worn is no matter to those named
    assert (answer.code, statuses(answer.json)) == (2, {"apart": "failed", "first": "success"})
