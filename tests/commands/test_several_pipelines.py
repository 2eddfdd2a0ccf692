"""`ls`, `plan` and `run` of several pipelines, as far as no Spark is needed; what pipelines are, and where they stand."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from chain import Chain, make_chain

from noiselib.cli.failures import common
from noiselib.cli.names import partitions
from noiselib.errors import InputError, NoiselibError
from noiselib.key import create_key_file, load_key
from noiselib.ledger import Holder, Ledger
from noiselib.pipelines import has_state, load_plan, read_pipelines, standing
from noiselib.release import Release, budget_of, make_releases, request
from noiselib.snapshot import Catalogued, choose_partitions, read_metadata
from noiselib.spec import load_spec
from noiselib.targets import open_target
from noiselib.targets.parquet import ParquetTarget


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    monkeypatch.chdir(tmp_path)
    return make_chain(tmp_path)


def file_of(name: str) -> Path:
    return Path("conf/pipelines") / f"{name}.yaml"


def releases(name: str) -> tuple[Release, ...]:
    spec, plan, table = load_plan(file_of(name))
    return make_releases(plan, table, table.partitions, load_key(spec.key))


def publish(name: str, release: Release, published: str) -> None:
    """What a run does at its end, with rows of no meaning."""
    target = open_target(load_spec(file_of(name))[0])
    written = Path("written") / release.partition_text
    written.mkdir(parents=True)
    pq.write_table(pa.table({"id": [1], "amount": [1.0]}), written / "part-0.parquet")
    target.stage(release, written, {"release_id": release.id})
    target.record_checks(release.id, {"files": target.files(release.id)})
    manifest = {"pipeline": name, "release_id": release.id, "partition": release.partition_text, "published": published}
    target.publish([release], {release.id: manifest})
    target.discard(release.id)


def reserve(name: str, release: Release, *states: str, held: bool = False) -> None:
    """Reserve the release in the ledger, take it to `states`, and let go of it, unless it is `held`."""
    spec, plan, _ = load_plan(file_of(name))
    budget, holder = budget_of(spec), Holder.current()
    assert spec.ledger is not None
    assert budget is not None
    with Ledger.open(spec.ledger) as ledger:
        ledger.reserve(budget, [request(plan, release)], holder)
        for state in states:
            ledger.advance(release.id, state, holder=holder)
        if not held:
            ledger.free([release.id], holder)


# ---- where pipelines stand -------------------------------------------------------------------------------------------


def states(name: str) -> set[str]:
    [pipeline] = read_pipelines([file_of(name)])
    return {state for state in ("changed", "failed", "new") if has_state(state, pipeline)}


def test_where_releases_stand(chain: Chain):
    one, two = releases("apart")
    assert standing(file_of("apart")) == {"day=1": "new", "day=2": "new"}
    assert states("apart") == {"changed", "new"}
    reserve("apart", one, held=True)
    assert standing(file_of("apart"))["day=1"] == "held"
    assert states("apart") == {"changed", "new"}  # at work, not failed
    reserve("apart", one)
    assert standing(file_of("apart"))["day=1"] == "unfinished"
    assert states("apart") == {"changed", "failed", "new"}
    reserve("apart", one, "staged", "published")
    publish("apart", one, "2026-01-01T00:00:00+00:00")
    reserve("apart", two, "staged", "quarantined")
    assert standing(file_of("apart")) == {"day=1": "published", "day=2": "quarantined"}
    assert states("apart") == {"changed", "failed"}
    reserve("apart", two, "staged", "published")
    publish("apart", two, "2026-01-02T00:00:00+00:00")
    assert standing(file_of("apart")) == {"day=1": "published", "day=2": "published"}
    assert states("apart") == set()


def test_a_new_snapshot_spec_or_key_changes_a_pipeline_and_tags_do_not(chain: Chain):
    for release in releases("apart"):
        publish("apart", release, "2026-01-01T00:00:00+00:00")
    chain.specs["apart"]["tags"] = ["other"]
    chain.write_specs()
    assert states("apart") == set()
    chain.write_day(2, shift=1)
    assert standing(file_of("apart")) == {"day=1": "published", "day=2": "changed"}
    chain.write_day(2)
    assert states("apart") == set()
    chain.write_day(3)
    assert standing(file_of("apart"))["day=3"] == "new"
    (chain.home / "source" / "day=3" / "part-0.parquet").unlink()
    (chain.home / "source" / "day=3").rmdir()
    chain.specs["apart"]["columns"]["amount"]["epsilon"] = 2.0
    chain.write_specs()
    assert set(standing(file_of("apart")).values()) == {"changed"}
    chain.specs["apart"]["columns"]["amount"]["epsilon"] = 1.0
    chain.write_specs()
    (chain.home / "noise.key").write_text("2GJ0nleK8bQH4hvx7Qe2ytIJpmVIBjlQVMeLgNF3jNE=\n")
    assert states("apart") == {"changed"}


def test_a_failure_is_remembered_until_its_partition_is_published(chain: Chain):
    one, _ = releases("apart")
    reserve("apart", one, "staged", "quarantined")
    chain.write_day(1, shift=1)  # mended: another release
    assert standing(file_of("apart"))["day=1"] == "new"
    assert "failed" in states("apart")
    reserve("apart", releases("apart")[0], "staged", "published")
    assert "failed" not in states("apart")


def test_states_are_those_of_the_key_that_a_run_would_have(chain: Chain):
    for release in releases("apart"):
        publish("apart", release, "2026-01-01T00:00:00+00:00")
    assert "apart" not in chain.names("--select", "state:changed")
    create_key_file(chain.home / "other.key")
    assert "apart" in chain.names("--select", "state:changed", "--key", "file:other.key")
    chain.specs["apart"]["key"] = "airflow:noise"
    chain.write_specs()
    assert "apart" in chain.names("--select", "state:changed")  # it cannot be told
    assert "apart" not in chain.names("--select", "state:changed", "--key", "file:noise.key")
    [entry] = chain.noiselib("ls", "apart", "--key", "file:noise.key", "--json").json
    assert (entry["partitions"], entry["problem"]) == ({"published": 2}, None)


def test_a_source_in_sparks_catalog_has_states_where_it_can_be_found(chain: Chain):
    for release in releases("apart"):
        publish("apart", release, "2026-01-01T00:00:00+00:00")
    chain.specs["apart"]["source"] = {"path": "db.source", "format": "table", "partition_by": ["day"]}
    chain.write_specs()
    columns = (("id", "int64"), ("amount", "double"), ("day", "int32"))
    found = Catalogued("db.source", str(chain.home / "source"), columns, ("day",), None)
    assert standing(file_of("apart"), locate=lambda _: found) == {"day=1": "published", "day=2": "published"}
    [pipeline] = read_pipelines([file_of("apart")])
    assert not has_state("changed", pipeline, locate=lambda _: found)


def test_without_a_ledger_what_was_staged_tells(chain: Chain):
    spec = chain.specs["apart"]
    del spec["privacy"], spec["ledger"]
    spec |= {"purpose": "augmentation", "columns": spec["columns"] | {"amount": {"mechanism": "uniform", "scale": 1.0}}}
    chain.write_specs()
    one, _ = releases("apart")
    target = open_target(load_spec(file_of("apart"))[0])
    target.staging(one.id).mkdir(parents=True)
    target.quarantine(one.id)
    assert standing(file_of("apart")) == {"day=1": "quarantined", "day=2": "new"}
    assert states("apart") == {"changed", "failed", "new"}


# ---- ls --------------------------------------------------------------------------------------------------------------


def test_ls_tells_of_every_pipeline_and_hides_none_behind_a_broken_one(chain: Chain):
    one, _ = releases("first")
    reserve("first", one, "staged", "published")
    publish("first", one, "2026-01-01T00:00:00+00:00")
    file_of("worn").write_text("version: 1\npipeline: worn\n")
    file_of("again").write_text(file_of("apart").read_text())
    answer = chain.noiselib("ls", "--json")
    assert answer.code == 2
    entries = {entry["pipeline"]: entry for entry in answer.json}
    first = entries["first"]
    assert (first["tags"], first["purpose"], first["depends_on"]) == (["daily"], "privacy", [])
    assert (first["partitions"], first["last_published"]) == ({"new": 1, "published": 1}, "2026-01-01T00:00:00+00:00")
    assert first["budget"]["name"] == "all"
    assert first["budget"]["remaining"] == pytest.approx(19, abs=1e-3)
    assert [name for name in entries if name in ("first", "second", "third")] == ["first", "second", "third"]
    assert entries["third"]["depends_on"] == ["second"]
    assert entries["third"]["partitions"] is None
    assert entries["third"]["problem"].endswith("second: not found")
    assert entries["worn"]["broken"]
    assert "conf/pipelines/worn.yaml:1: " in entries["worn"]["problem"]
    assert "apart" not in entries
    for file, other in (("again", "apart"), ("apart", "again")):
        entry = entries[f"conf/pipelines/{file}.yaml"]
        assert f"pipeline 'apart' is the name of conf/pipelines/{other}.yaml as well" in entry["problem"]
    table = chain.noiselib("ls")
    assert table.code == 2
    assert len(table.out.splitlines()) == 7
    row = next(line for line in table.out.splitlines() if line.startswith("first "))
    assert "1 new, 1 published" in row
    assert "19 of 20" in row
    assert "conf/pipelines/worn.yaml:1: " in table.err
    assert chain.noiselib("ls", "--exclude", "worn", "path:conf/pipelines/a*").code == 0
    assert chain.names("--select", "+second", "third,tag:daily") == ["first", "second", "third"]


@pytest.mark.parametrize("kind", ["loop", "stale"])
def test_a_target_that_cannot_be_read_is_named_and_hides_no_other(
    chain: Chain, kind: str, monkeypatch: pytest.MonkeyPatch
):
    place = chain.home / "apart"
    if kind == "loop":
        place.symlink_to(place)
    else:

        def manifests(target: ParquetTarget, known: Any = ParquetTarget.manifests) -> Any:
            if target.path == place:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(place))
            return known(target)

        monkeypatch.setattr(ParquetTarget, "manifests", manifests)
    reason = {"loop": f"Symlink loop from '{place}'", "stale": f"{place}: Stale file handle"}[kind]
    what = f"pipeline apart, target {place}: cannot be read ({reason})"
    answer = chain.noiselib("ls", "--json")
    entries = {entry["pipeline"]: entry for entry in answer.json}
    assert (entries["apart"]["partitions"], entries["apart"]["problem"]) == (None, what)
    assert entries["first"]["partitions"] == {"new": 2}
    assert what in answer.err
    [pipeline] = read_pipelines([file_of("apart")])
    with pytest.raises(NoiselibError, match=re.escape(what)):
        has_state("new", pipeline)
    assert chain.names("--select", "state:new,tag:weekly first") == [
        "apart",
        "first",
    ]  # it cannot be told, and its run tells
    answer = chain.noiselib("run", "apart")
    assert (answer.code, answer.err) == (1, f"NoiselibError: {what}\n")


def test_ls_and_plans_need_no_spark(chain: Chain):
    script = (
        "import sys; from noiselib.cli import main; "
        "codes = [main(['ls', '--select', 'state:changed']), main(['plan', '--select', 'first tag:weekly'])]; "
        "sys.exit(any(codes) or 10 * any(name in sys.modules for name in ('pyspark', 'great_expectations', 'pandas')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr


def test_a_tag_is_checked_with_its_line(chain: Chain):
    chain.specs["first"]["tags"] = ["daily", "Not One"]
    chain.write_specs()
    answer = chain.noiselib("ls", "first", "--output", "name")
    assert answer.code == 2
    assert "conf/pipelines/first.yaml:6: tags.1 is 'Not One': string should match pattern" in answer.err


# ---- plan ------------------------------------------------------------------------------------------------------------


def test_plans_of_several_are_summed_by_budget(chain: Chain):
    chain.specs["apart"]["privacy"]["budget"] = "other"
    chain.specs["other"] = chain.specs["first"] | {"pipeline": "other", "target": {"path": f"{chain.home}/other"}}
    chain.specs["apart"]["privacy"]["limit"] = {"epsilon": 0.5, "delta": 1e-5}
    chain.write_specs()
    answer = chain.noiselib("plan", "--select", "first other tag:weekly", "--partition", "day=1..2", "--json")
    assert answer.code == 0, answer.err
    assert [plan["pipeline"] for plan in answer.json["pipelines"]] == ["apart", "first", "other"]
    tight, both = answer.json["budgets"]
    assert (tight["budget"], tight["releases"], tight["fits"]) == ("other", 2, False)
    assert (both["budget"], both["releases"], both["fits"], both["remaining"]) == ("all", 4, True, 20)
    assert both["epsilon"] == pytest.approx(2, abs=1e-3)  # two pipelines in sequence, their days in parallel
    lines = chain.noiselib("plan", "first", "other", "apart").out.splitlines()
    assert (
        "budget other: 2 releases add epsilon 1 at delta 1e-05 if all are new; remaining 0.5 of 0.5 (over budget)"
        in lines
    )
    assert "budget all: 4 releases add epsilon 2 at delta 1e-05 if all are new; remaining 20 of 20" in lines


def test_what_cannot_be_planned_yet_is_told_and_not_summed(chain: Chain):
    answer = chain.noiselib("plan", "--select", "first+", "--json")
    assert answer.code == 1
    assert answer.err.count("not found") == 2
    assert [plan["pipeline"] for plan in answer.json["pipelines"] if "error" in plan] == ["second", "third"]
    assert [one["releases"] for one in answer.json["budgets"]] == [2]


def test_a_range_names_the_partitions_that_lie_in_it(chain: Chain):
    for day in (3, 10):
        chain.write_day(day)
    table = read_metadata(str(chain.home / "source"), ["day"])

    def days(*texts: str) -> list[int]:
        return [int(str(dict(each)["day"])) for each in choose_partitions(table, partitions(texts))]

    assert days("day=2..9") == [2, 3]
    assert days("day=1..1", "day=3..99") == [1, 3, 10]
    assert days("day=-5..2") == [1, 2]
    for wrong in ("day=4..9", "day=3..1", "day=1...3", "day=1.."):
        with pytest.raises(InputError, match=f"no partition {wrong}".replace(".", r"\.")):
            days(wrong)
    (chain.home / "source" / "day=2").rename(chain.home / "source" / "day=2..9")
    table = read_metadata(str(chain.home / "source"), ["day"])  # now a column of text
    assert [dict(each)["day"] for each in choose_partitions(table, partitions(["day=2..9"]))] == ["2..9"]


# ---- run -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "the following arguments are required: PIPELINE, or --select EXPR"),
        (["--select", "tag:hourly"], "selection 'tag:hourly': no pipeline has this tag; known: daily, middle, weekly"),
        (["--select", "*", "--partition", "1"], "--partition '1': expected COLUMN=VALUE"),
        (["first", "nowhere"], "pipeline 'nowhere': expected a spec's path, or a name in conf/pipelines"),
    ],
)
def test_a_mistake_runs_nothing_and_is_in_the_results(chain: Chain, arguments, what):
    answer = chain.noiselib("run", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert what in answer.err
    results = chain.results()
    assert (results["status"], results["pipelines"], results["error"]["type"]) == ("failed", [], "SpecError")


def test_metrics_of_several_need_files_of_their_own(chain: Chain):
    chain.specs["first"]["columns"]["colour"] = chain.specs["apart"]["columns"]["colour"] = {"drop": True}
    chain.write_specs()  # each fails, without Spark
    one = f"file:{chain.home}/all.prom"
    answer = chain.noiselib("run", "first", "apart", "--metrics", one)
    assert answer.code == 2
    assert answer.err.startswith(f"SpecError: metrics to {one}: one file for 2 pipelines")
    assert "expected {pipeline} in its path" in answer.err
    assert chain.results()["pipelines"] == []
    assert not list(chain.home.glob("*.prom"))
    answer = chain.noiselib("run", "first", "apart", "--metrics", f"file:{chain.home}/{{pipeline}}.prom")
    assert [entry["pipeline"] for entry in chain.results()["pipelines"]] == ["apart", "first"]
    for name in ("apart", "first"):
        text = (chain.home / f"{name}.prom").read_text()
        assert f'noiselib_exit_status{{command="run",pipeline="{name}"}} 2.0' in text
    assert chain.noiselib("run", "--select", "first", "--metrics", one).code == 2
    assert (chain.home / "all.prom").exists()  # of one pipeline a plain file will do


def test_a_line_about_all_pipelines_bears_the_name_of_none(chain: Chain):
    for name in ("first", "apart"):
        chain.specs[name]["columns"]["colour"] = {"drop": True}
    chain.write_specs()
    file_of("apart").rename(file_of("aside"))
    (chain.home / "run_results.json").mkdir()  # which cannot be written, as is told at the end
    answer = chain.noiselib("run", "first", str(file_of("aside")), "--log", "json")
    lines = [json.loads(line) for line in answer.err.splitlines()]
    assert "run results run_results.json: not written" in lines[-1]["event"]
    assert not {"pipeline", "step"} & lines[-1].keys()
    assert [line["pipeline"] for line in lines if "error" in line] == ["apart", "first"]


def test_a_loop_runs_nothing(chain: Chain):
    chain.specs["first"]["source"]["path"] = chain.specs["third"]["target"]["path"]
    chain.write_specs()
    answer = chain.noiselib("run", "--select", "tag:daily")
    assert answer.code == 2
    assert "pipelines depend on each other in a loop: " in answer.err
    assert chain.results()["pipelines"] == []


def test_what_fails_before_spark_skips_what_depends_on_it(chain: Chain):
    chain.specs["first"]["columns"]["colour"] = {"drop": True}
    chain.write_specs()
    file_of("again").write_text(file_of("second").read_text())
    answer = chain.noiselib("run", "--select", "first+", "path:conf/pipelines/again.yaml", "--json")
    assert answer.code == 2
    assert answer.json == chain.results()
    found = {one["pipeline"]: (one["status"], one.get("reason"), "error" in one) for one in answer.json["pipelines"]}
    assert found == {
        "conf/pipelines/again.yaml": ("failed", None, True),
        "first": ("failed", None, True),
    }
    file_of("again").unlink()
    table = chain.noiselib("run", "--select", "first+").out.splitlines()
    assert [line.split()[:2] for line in table[1:4]] == [
        ["first", "failed"],
        ["second", "skipped"],
        ["third", "skipped"],
    ]
    assert table[4] == "3 pipelines: 1 failed, 2 skipped"
    assert [one.get("reason") for one in chain.results()["pipelines"]] == [
        None,
        "it depends on first, which failed",
        "it depends on first, which failed",
    ]


def test_after_a_signal_none_begins(chain: Chain):
    command = [sys.executable, "-m", "noiselib.cli", "run", "first", "apart"]
    stopped = os.environ | {"NOISELIB_FAILPOINT": "after_reserve:SIGTERM"}
    done = subprocess.run(command, env=stopped, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 143, done.stderr
    results = chain.results()
    assert results["status"] == "interrupted"
    assert [(one["pipeline"], one["status"]) for one in results["pipelines"]] == [
        ("apart", "interrupted"),
        ("first", "skipped"),
    ]
    assert results["pipelines"][1]["reason"] == "interrupted before it began"
    assert states("apart") == {"changed", "failed", "new"}


def test_one_code_for_several():
    assert [common(codes) for codes in ([], [0, 0], [0, 3], [4, 4, 0], [3, 4], [2, 5, 0])] == [0, 0, 3, 4, 1, 1]


def test_two_specs_of_one_file_are_one_pipeline(chain: Chain):
    [pipeline] = read_pipelines([file_of("first"), file_of("first").absolute()])
    assert (pipeline.name, pipeline.problem) == ("first", None)
