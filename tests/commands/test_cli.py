"""The commands that need no Spark: their answers, their messages, their exit codes. No traceback, ever."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from small_pipeline import Answer, Small

from noiselib.cli import main
from noiselib.ledger import Budget, Holder, Ledger
from noiselib.plan import make_plan
from noiselib.release import make_release, request
from noiselib.snapshot import read_metadata
from noiselib.spec import load_spec
from noiselib.targets.parquet import ParquetTarget


def noiselib(*arguments: str) -> Answer:
    """The command in this process. A usage error leaves by SystemExit, as argparse has it."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(arguments)
        except SystemExit as exit:
            code = int(exit.code or 0)
    assert "Traceback" not in err.getvalue()
    return Answer(code, out.getvalue(), err.getvalue())


def in_a_shell(script: str, *arguments: str, directory: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own: `noiselib` stands for it in `script`."""
    command = script.replace("noiselib", f"{sys.executable} -m noiselib.cli")
    return subprocess.run(
        ["bash", "-c", command, "bash", *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def files(home: Path) -> dict[str, Any]:
    """Every file below `home`, with what a write would change."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(home.rglob("*"))}


def reserve(small: Small) -> str:
    """Reserve the release of one day of the small pipeline, as a run does that stops right after; its id."""
    spec, positions = load_spec(small.spec_file)
    table = read_metadata(spec.source.path, spec.source.partition_by)
    plan = make_plan(spec, table, positions)
    asked = request(plan, make_release(plan, table.partitions[0], "snapshot", "key", 200))
    with small.ledger() as ledger:
        holder = Holder.current()
        ledger.reserve(Budget("small", 8.0, 1e-5), [asked], holder)
        ledger.free([asked.release_id], holder)
    return asked.release_id


# ---- plan ------------------------------------------------------------------------------------------------------------


def test_plan_says_what_becomes_of_each_column_and_what_it_costs(small: Small):
    answer = small.noiselib("plan")
    assert answer.code == 0
    assert answer.err == ""
    lines = answer.out.splitlines()
    assert lines[0].startswith("pipeline small (privacy): ")
    heads = lines[1]
    for name, treatment, mechanism, noise in [
        ("id", "keep", "", ""),
        ("name", "pseudonymize", "", ""),
        ("color", "noise", "randomized_response", "3 categories, p=0.576 q=0.212 "),
        ("amount", "noise", "laplace", "scale 25, sensitivity 25 "),
        ("count", "noise", "discrete_laplace", "scale 50, sensitivity 50 "),
        ("day", "keep", "", ""),
    ]:
        row = next(line for line in lines if line.split()[0] == name)
        cells = [row[heads.index(head) :] for head in ("treatment", "mechanism", "noise")]
        for cell, expected in zip(cells, (treatment, mechanism, noise), strict=True):
            assert cell.startswith(expected)
    assert "charge of one release: epsilon 3 at delta 1e-05; 3 as pure epsilon" in lines
    assert (
        "budget small: spent 0 of epsilon 8 at delta 1e-05; remaining 8; after this run, if all of it is new: 3"
        in lines
    )
    assert "name: a stable pseudonym, linkable over time" in lines[-1]


def test_plan_as_json_says_the_same(small: Small):
    plan = small.noiselib("plan", "--json").json
    assert [column["column"] for column in plan["columns"]] == ["id", "name", "color", "amount", "count", "day"]
    assert plan["partitions"] == [
        {"partition": f"day={day}", "argument": f"day={day}", "rows": 200} for day in (1, 2, 3)
    ]
    assert plan["charge"]["pure"]["epsilon"] == 3
    assert plan["charge"]["epsilon"] == pytest.approx(3, abs=1e-3)
    assert plan["budget"]["limit"] == {"epsilon": 8.0, "delta": 1e-5}
    assert plan["budget"]["fits"]
    one = small.noiselib("plan", "--json", "--partition", "day=2").json
    assert one["partitions"] == [{"partition": "day=2", "argument": "day=2", "rows": 200}]
    assert one["charge"] == plan["charge"]


def test_plan_writes_nothing_and_reads_no_row(small: Small):
    for part in sorted(small.home.glob("source/*/*.parquet")):
        content = part.read_bytes()
        footer = int.from_bytes(content[-8:-4], "little") + 8
        part.write_bytes(bytes(len(content) - footer) + content[-footer:])  # rows gone, footer left
    before = files(small.home)
    assert small.noiselib("plan").code == 0
    assert files(small.home) == before
    assert small.spent() == 0


def test_plan_works_before_there_is_a_key_or_a_ledger(small: Small):
    (small.home / "noise.key").unlink()
    (small.home / "ledger.db").unlink()
    answer = small.noiselib("plan")
    assert answer.code == 0
    assert "make it by `noiselib ledger init`" in answer.out
    assert not (small.home / "ledger.db").exists()


def test_plan_says_when_it_would_not_fit(small: Small, change_spec):
    change_spec("privacy", "limit", "epsilon", value=2.0)
    assert not small.noiselib("plan", "--json").json["budget"]["fits"]
    answer = small.noiselib("plan")
    assert answer.code == 0
    assert "(over budget)" in answer.out


def test_plan_knows_what_was_spent(small: Small):
    reserve(small)
    plan = small.noiselib("plan", "--json").json
    assert plan["budget"]["spent"] == pytest.approx(3, abs=1e-3)
    assert plan["budget"]["after_run_if_all_new"] == pytest.approx(6, abs=2e-3)


def test_plan_of_no_privacy_claims_none(small: Small):
    small.spec["purpose"] = "augmentation"
    del small.spec["privacy"], small.spec["ledger"]
    small.spec["columns"]["color"] = {"keep": "public"}
    small.spec["columns"]["amount"] = {"mechanism": "uniform", "scale": 0.5}
    small.spec["columns"]["count"] = {"mechanism": "discrete_gaussian", "scale": 2.0}
    small.write_spec()
    assert "purpose augmentation: no privacy claim, nothing to pay" in small.noiselib("plan").out
    plan = small.noiselib("plan", "--json").json
    assert plan["charge"] is None
    assert all(not column["guarantee"] for column in plan["columns"] if column["treatment"] == "mechanism")
    answer = noiselib("ledger", "show", str(small.spec_file))
    assert (answer.code, "has no ledger" in answer.err) == (2, True)


def test_every_problem_of_a_spec_and_its_table_is_told(small: Small):
    small.spec["columns"]["amount"] = {"mechanism": "discrete_laplace", "epsilon": 1.0, "bounds": [0, 1]}
    small.spec["columns"]["name"] = {"mechanism": "laplace", "epsilon": 1.0, "bounds": [0, 1]}
    del small.spec["columns"]["count"]
    small.write_spec()
    answer = small.noiselib("plan")
    assert answer.code == 2
    assert answer.out == ""
    assert len(answer.err.splitlines()) == 3
    assert all(f"{small.spec_file}:" in line for line in answer.err.splitlines())


@pytest.mark.parametrize(
    ("arguments", "code", "what"),
    [
        (
            ["plan", "SPEC", "--partition", "day=9"],
            1,
            "InputError: source SOURCE: no partition day=9; expected one of ",
        ),
        (["plan", "SPEC", "--partition", "hour=1"], 2, "--partition hour: expected one of the partition columns: day"),
        (["plan", "SPEC", "--partition", "9"], 2, "--partition '9': expected COLUMN=VALUE"),
        (["plan", "nowhere"], 2, "pipeline 'nowhere': expected a spec's path, or a name in conf/pipelines"),
        (["plan", "nowhere.yaml"], 2, "nowhere.yaml: cannot be read (No such file or directory)"),
        (["plan", "SPEC", "--directory", "/nowhere"], 2, "--directory /nowhere: No such file or directory"),
        (["plan"], 2, "the following arguments are required: PIPELINE"),
        (["plan", "SPEC", "--colour"], 2, "unrecognized arguments: --colour"),
        (["dance"], 2, "invalid choice: 'dance'"),
        ([], 2, "the following arguments are required: COMMAND"),
        (["calibrate", "laplace", "--epsilon", "one", "--sensitivity", "1"], 2, "invalid float value: 'one'"),
        (
            ["calibrate", "laplace", "--epsilon", "nan", "--sensitivity", "1"],
            2,
            "--epsilon nan: expected a number above 0",
        ),
        (["calibrate", "laplace", "--epsilon", "1"], 2, "--sensitivity: expected the most by which"),
        (
            ["calibrate", "gaussian", "--epsilon", "1", "--sensitivity", "1"],
            2,
            "--delta None: expected a number between",
        ),
        (["calibrate", "laplace", "--epsilon", "1e-320", "--sensitivity", "1"], 2, "too large or too small"),
        (["ledger", "show", "sqlite:////nowhere/ledger.db"], 1, "found none; make it by `noiselib ledger init`"),
        (["ledger", "show", "mysql://host/db"], 2, "Expected a ledger like sqlite:///path/to/ledger.db"),
        (["ledger", "show", "sqlite:///SPEC"], 1, "damaged or not a ledger"),
        (["ledger", "show", "nowhere"], 2, "pipeline 'nowhere': expected a spec's path"),
        (["ledger", "spend", "SPEC"], 2, "invalid choice: 'spend'"),
        (["ledger", "abandon", "SPEC"], 2, "ledger abandon: expected the pipeline and --release ID"),
        (["ledger", "abandon", "SPEC", "--release", "abc"], 1, "release abc: 0 in the ledger begin so; expected one"),
        (["keygen", "KEY"], 1, "exists already; a key is never overwritten"),
        (["keygen", "SPEC/below"], 1, "cannot be written"),
        (["gc", "nowhere"], 2, "pipeline 'nowhere': expected a spec's path"),
    ],
)
def test_a_mistake_is_told_with_its_exit_code(small: Small, arguments, code, what):
    places = {"SPEC": small.spec_file, "SOURCE": small.spec["source"]["path"], "KEY": small.home / "noise.key"}

    def filled(text: str) -> str:
        for name, place in places.items():
            text = text.replace(name, str(place))
        return text

    before = files(small.home)
    answer = noiselib(*map(filled, arguments))
    assert answer.code == code
    assert answer.out == ""
    assert filled(what) in answer.err
    assert files(small.home) == before


def test_help_is_no_mistake():
    for arguments in (["--help"], ["plan", "--help"], ["ledger", "--help"]):
        answer = noiselib(*arguments)
        assert answer.code == 0
        assert "usage: noiselib" in answer.out


# ---- calibrate, schema, keygen ---------------------------------------------------------------------------------------


def test_calibrate_prints_the_noise_that_a_guarantee_asks_for():
    answer = noiselib("calibrate", "discrete_laplace", "--epsilon", "0.5", "--sensitivity", "3", "--json")
    assert answer.code == 0
    assert answer.json == {
        "mechanism": "discrete_laplace",
        "epsilon": 0.5,
        "delta": 0.0,
        "sensitivity": 3.0,
        "scale": 6.0,
        "variance": pytest.approx(71.8335, rel=1e-6),
        "granularity": 1.0,
        "sampler_delta": pytest.approx((1 + math.exp(0.5)) * 2.0**-48, rel=1e-4),
    }
    text = noiselib("calibrate", "gaussian", "--epsilon", "1", "--delta", "1e-5", "--sensitivity", "1").out
    assert dict(line.split() for line in text.splitlines())["scale"].startswith("3.73")


def test_schema_prints_a_json_schema_that_accepts_the_small_spec(small: Small):
    schema = noiselib("schema").json
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(small.spec)
    small.spec["colour"] = "red"
    assert not jsonschema.Draft202012Validator(schema).is_valid(small.spec)


def test_keygen_writes_a_key_and_prints_its_id_alone(tmp_path: Path):
    file = tmp_path / "keys" / "noise.key"
    answer = noiselib("keygen", str(file))
    assert answer.code == 0
    assert answer.err == ""
    assert file.stat().st_mode & 0o777 == 0o600
    assert answer.out.startswith(f"{file}: key ")
    assert len(answer.out.split()[-1]) == 16
    assert file.read_text().strip() not in answer.out


# ---- ledger, gc ------------------------------------------------------------------------------------------------------


def test_a_ledger_is_made_once(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/deep/ledger.db"
    assert noiselib("ledger", "init", url).out == f"ledger {url}: created\n"
    assert noiselib("ledger", "init", url).out == f"ledger {url}: is there already, unchanged\n"
    assert noiselib("ledger", "show", url).out == "(nothing yet)\n"
    assert noiselib("ledger", "show", url, "--json").json == []


def test_the_ledger_shows_what_was_spent_and_how(small: Small):
    release_id = reserve(small)
    [shown] = noiselib("ledger", "show", str(small.spec_file), "--json").json
    assert (shown["budget"], shown["epsilon"], shown["delta"]) == ("small", 8.0, 1e-5)
    assert shown["spent"] == pytest.approx(3, abs=1e-3)
    assert shown["spent"] + shown["remaining"] == pytest.approx(8)
    history = noiselib("ledger", "history", small.spec["ledger"], "--json").json
    assert release_id in {entry["release_id"] for entry in history}
    assert noiselib("ledger", "history", small.spec["ledger"], "--budget", "other", "--json").json == []
    heads, *rows = noiselib("ledger", "show", str(small.spec_file)).out.splitlines()
    assert heads.split()[:3] == ["budget", "epsilon", "delta"]
    assert rows[0].split()[:3] == ["small", "8", "1e-05"]


def test_an_abandoned_reservation_is_given_back(small: Small):
    release_id = reserve(small)
    assert noiselib("ledger", "abandon", str(small.spec_file), "--release", release_id[:10]).code == 0
    assert small.spent() == 0
    with Ledger.open(small.spec["ledger"]) as ledger:
        assert ledger.release(release_id).state == "abandoned"


def test_gc_removes_what_no_reader_sees(small: Small):
    target = ParquetTarget(small.spec["target"]["path"], 1)
    (target.staging("some-release") / "data").mkdir(parents=True)
    answer = noiselib("gc", str(small.spec_file))
    assert answer.code == 0
    assert answer.out == f"{target.staging('some-release')}\n"
    assert not target.staging("some-release").exists()


# ---- processes of their own ------------------------------------------------------------------------------------------


def test_a_pipeline_is_found_by_its_name_from_the_working_directory(small: Small):
    place = small.home / "conf" / "pipelines"
    place.mkdir(parents=True)
    small.spec_file.rename(place / "small.yaml")
    found = in_a_shell("noiselib plan small --json", directory=small.home)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["pipeline"] == "small"
    elsewhere = in_a_shell('noiselib plan small --directory "$1"', str(small.home))
    assert elsewhere.returncode == 0, elsewhere.stderr
    missing = in_a_shell("noiselib plan medium", directory=small.home)
    assert missing.returncode == 2
    assert "pipeline 'medium': expected a spec's path, or a name in conf/pipelines: small" in missing.stderr


def test_commands_that_need_no_spark_do_not_load_it(small: Small):
    script = (
        "import sys; from noiselib.cli import main; spec = sys.argv[1]; "
        "codes = [main(['plan', spec]), main(['ledger', 'show', spec]), main(['schema'])]; "
        "sys.exit(any(codes) or 10 * any(name in sys.modules for name in ('pyspark', 'great_expectations', 'pandas')))"
    )
    command = [sys.executable, "-c", script, str(small.spec_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_a_reader_of_the_answer_may_leave_early():
    left = in_a_shell("noiselib schema | head -c 10; exit ${PIPESTATUS[0]}")
    assert left.stdout.startswith("{")
    assert left.returncode in (0, 1)
    assert left.stderr == ""


def test_no_key_is_in_any_answer(small: Small, monkeypatch):
    secret = (small.home / "noise.key").read_text().strip()
    monkeypatch.setenv("THE_KEY", secret)
    small.spec["key"] = "env:THE_KEY"
    small.write_spec()
    answers = [
        small.noiselib("plan"),
        small.noiselib("plan", "--json"),
        noiselib("ledger", "history", str(small.spec_file)),
    ]
    assert all(secret not in answer.out + answer.err for answer in answers)
    assert os.environ["THE_KEY"] == secret
