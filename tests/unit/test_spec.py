"""The spec: every problem at once, each `file:line: what`, and never a traceback, whatever the file holds."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from noiselib.errors import SpecError
from noiselib.spec import PipelineSpec, load_spec

SHIPPED = sorted((Path(__file__).parents[2] / "conf" / "pipelines").glob("*.yaml"))

GOOD = """\
version: 1
pipeline: trips
purpose: privacy
source: {path: in, format: parquet, partition_by: [day]}
target: {path: out, format: parquet}
row_key: [id]
privacy:
  unit: {entity: [rider], max_rows: 3, on_null_entity: drop}
  budget: trips
  limit: {epsilon: 8.0, delta: 1.0e-5}
  memoize: [seats]
columns:
  day: {keep: public}
  id: {keep: public}
  rider: {pseudonymize: true}
  note: {drop: true}
  fare: {mechanism: laplace, epsilon: 1.0, bounds: [0, 100], on_null: keep}
  miles: {mechanism: gaussian, epsilon: 0.5, delta: 1e-7, protect_distance: 10}
  seats: {mechanism: discrete_laplace, epsilon: 1.0, bounds: [0, 8]}
  zone: {mechanism: randomized_response, epsilon: 2.0, categories: [a, b, c]}
checks:
  - {expect: column_values_between, column: fare, min: -1000, severity: warn}
key: file:noise.key
ledger: sqlite:///ledger.db
"""

Load = Callable[[str | bytes], PipelineSpec]
Problems = Callable[[str | bytes], list[str]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str | bytes) -> PipelineSpec:
        file = tmp_path / "spec.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_spec(file)[0]

    return load


@pytest.fixture
def problems(load: Load, tmp_path: Path) -> Problems:
    """What is wrong with a spec: `line: what`, one entry per problem, each found behind the file's own path."""

    def problems(text: str | bytes) -> list[str]:
        with pytest.raises(SpecError) as raised:
            load(text)
        lines = str(raised.value).split("\n")
        assert all(re.match(re.escape(f"{tmp_path}/spec.yaml:") + r"\d+: \S", line) for line in lines), lines
        return [line.removeprefix(f"{tmp_path}/spec.yaml:") for line in lines]

    return problems


def but(old: str, new: str) -> str:
    """The good spec with one part replaced."""
    assert GOOD.count(old) == 1, old
    return GOOD.replace(old, new)


def line_of(part: str, text: str = GOOD) -> int:
    return 1 + text[: text.index(part)].count("\n")


def test_the_good_spec_is_read(load):
    spec = load(GOOD)
    assert list(spec.columns) == ["day", "id", "rider", "note", "fare", "miles", "seats", "zone"]
    assert spec.entity is not None
    assert spec.entity.max_rows == 3
    assert spec.memoized == ("seats",)
    assert spec.columns["miles"].delta == 1e-7  # written without a point, which YAML 1.1 takes for a text


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_shipped_specs_are_read(file):
    assert load_spec(file)[0].pipeline == file.stem


def test_all_problems_are_told_at_once(problems):
    text = (
        GOOD.replace("version: 1", "version: 2")
        .replace("purpose: privacy\n", "purpose: privacy\ncolour: red\n")
        .replace("bounds: [0, 100], on_null: keep", "bounds: [100, 0]")
        .replace("delta: 1e-7, ", "")
        .replace("bounds: [0, 8]", "")
        .replace("note: {drop: true}", "note: {drop: true}\n  note: {drop: true}")
        .replace("epsilon: 2.0", "epsilon: !!int 2")
    )
    found = problems(text)
    expected = {
        "version: 2": "version is 2",
        "colour": "unknown key",
        "[100, 0]": "expected two finite numbers, the lower first",
        "miles:": "gaussian without delta",
        "seats: {": "expected either bounds",
        "zone:": "YAML tag '!!int' is not allowed",
    }
    for part, what in expected.items():
        assert any(p.startswith(f"{line_of(part, text)}: ") and what in p for p in found), (what, found)
    assert f"{line_of('note:', text) + 1}: key 'note' stands twice in one mapping" in found
    assert len(found) == len(expected) + 1


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("bounds: [0, 100]", "bounds: [100, 0]", "bounds [100, 0]: expected two finite numbers, the lower first"),
        ("bounds: [0, 100]", "bounds: [5, 5]", "bounds [5, 5]: expected two finite numbers"),
        ("bounds: [0, 100]", "bounds: [0, .nan]", "bounds [0, nan]: expected two finite numbers"),
        ("bounds: [0, 100]", "bounds: [-.inf, .inf]", "bounds [-inf, inf]: expected two finite numbers"),
        ("bounds: [0, 100]", "bounds: [0]", "bounds.1: missing"),
        ("bounds: [0, 100]", "bounds: [0, 1, 2]", "at most 2 items"),
        ("bounds: [0, 100]", "bounds: [no, yes]", "bounds.0 is False"),
        ("bounds: [0, 100], ", "", "expected either bounds: [lower, upper] or protect_distance"),
        ("bounds: [0, 100]", "bounds: [0, 100], protect_distance: 5", "expected either bounds"),
        ("bounds: [0, 100]", "bounds: [0, 100], scale: 5", "under purpose privacy the scale follows"),
        ("delta: 1e-7, ", "", "gaussian without delta"),
        ("epsilon: 1.0, bounds: [0, 100]", "bounds: [0, 100]", "laplace without epsilon"),
        ("epsilon: 1.0, bounds: [0, 100]", "epsilon: yes, bounds: [0, 100]", "epsilon is True"),
        ("epsilon: 1.0, bounds: [0, 100]", "epsilon: .nan, bounds: [0, 100]", "epsilon is nan"),
        ("epsilon: 1.0, bounds: [0, 100]", "epsilon: 0, bounds: [0, 100]", "epsilon is 0"),
        ("epsilon: 1.0, bounds: [0, 100]", "epsilon: '1', bounds: [0, 100]", "epsilon is '1'"),
        ("mechanism: laplace", "mechanism: uniform", "uniform gives no guarantee: refused"),
        ("mechanism: laplace", "mechanism: stairs", "expected exactly one of keep: public"),
        ("note: {drop: true}", "note: {drop: true, keep: public}", "expected exactly one of keep: public"),
        ("note: {drop: true}", "note: {drop: false}", "columns.note.drop is False"),
        ("note: {drop: true}", "note: public", "expected exactly one of keep: public"),
        ("row_key: [id]", "row_key: [uid]", "column 'uid' is not among columns"),
        ("row_key: [id]", "row_key: [id, id]", "column 'id' is named twice"),
        ("row_key: [id]", "row_key: []", "row_key is []"),
        ("entity: [rider]", "entity: [driver]", "column 'driver' is not among columns"),
        ("memoize: [seats]", "memoize: [seat]", "column 'seat' is not among columns"),
        ("memoize: [seats]", "memoize: [note]", "column 'note' has no mechanism"),
        ("partition_by: [day]", "partition_by: [month]", "column 'month' is not among columns"),
        ("partition_by: [day]", "partition_by: [day, rider]", "partition column 'rider' shows in the published paths"),
        ("max_rows: 3", "max_rows: 0", "max_rows is 0"),
        ("max_rows: 3", "max_rows: true", "max_rows is True"),
        ("max_rows: 3, ", "", "max_rows: missing"),
        ("delta: 1.0e-5", "delta: 1.5", "delta is 1.5"),
        ("epsilon: 8.0", "epsilon: .inf", "epsilon is inf"),
        ("budget: trips", "budget: Trips!", "budget is 'Trips!'"),
        ("min: -1000", "min: .nan", "min is nan"),
        ("column: fare", "column: note", "check of column 'note': it is not among the published columns"),
        ("column: fare, min: -1000", "column: fare", "expected min, max or both"),
        ("key: file:noise.key", "key: c2VjcmV0", "key is 'c2VjcmV0'"),
        ("key: file:noise.key", 'key: "file:\\0"', "null character"),
        ("ledger: sqlite:///ledger.db\n", "", "expected a ledger"),
        ("version: 1\n", "", "version: missing"),
        ("format: parquet, partition_by", "format: orc, partition_by", "source.format is 'orc'"),
        ("format: parquet, partition_by", "format: iceberg, partition_by", "format iceberg: expected catalog:"),
        (
            "format: parquet, partition_by",
            "format: delta, catalog: lake, partition_by",
            "expected format iceberg, not delta",
        ),
        ("format: parquet, partition_by", "version: 3, partition_by", "version 3: expected format delta or iceberg"),
        ("format: parquet, partition_by", "format: delta, version: -1, partition_by", "source.version is -1"),
        ("format: parquet, partition_by", "format: iceberg, catalog: 'a b', partition_by", "source.catalog"),
        (
            "format: parquet, partition_by",
            "format: iceberg, catalog: {uri: 'mysql://db', warehouse: lake}, partition_by",
            "source.catalog.uri is 'mysql://db'",
        ),
    ],
)
def test_a_problem_is_told_with_its_line(problems, old, new, what):
    text = but(old, new)
    found = problems(text)
    assert any(what in problem for problem in found), found
    assert len({problem.partition(":")[0] for problem in found}) == 1, found  # one mistake, one place


def test_sources_are_named_in_each_format(load):
    old = "source: {path: in, format: parquet, partition_by: [day]}"
    for new in (
        "source: {path: in, format: delta, version: 3, partition_by: [day]}",
        "source: {path: a.b, format: iceberg, catalog: lake, partition_by: [day]}",
        "source: {path: a.b, format: iceberg, catalog: {uri: 'sqlite:///c.db', warehouse: lake}, partition_by: [day]}",
        "source: {path: spark_catalog.a.b, format: table, partition_by: [day]}",
    ):
        assert load(but(old, new)).source.partition_by == ["day"]


def test_the_line_is_the_one_to_be_changed(problems):
    assert problems(but("bounds: [0, 100]", "bounds: [9, 1]"))[0].startswith(f"{line_of('fare:')}: ")
    assert problems(but("max_rows: 3", "max_rows: 0"))[0].startswith(f"{line_of('unit:')}: ")
    assert problems(but("row_key: [id]", "row_key: [x]"))[0].startswith(f"{line_of('row_key')}: ")


def test_privacy_section_belongs_to_purpose_privacy_alone(problems):
    no_privacy = re.sub(r"privacy:\n(  .*\n)+", "", GOOD)
    assert "expected a privacy section" in problems(no_privacy)[0]
    found = problems(but("purpose: privacy", "purpose: augmentation"))
    assert f"{line_of('  unit:') - 1}: purpose augmentation makes no privacy claim: remove the privacy section" in found
    assert any("column 'fare': laplace: under purpose augmentation expected scale" in p for p in found)


def test_augmentation_may_use_uniform_noise(load):
    text = re.sub(r"privacy:\n(  .*\n)+", "", but("purpose: privacy", "purpose: augmentation"))
    noise = "{mechanism: uniform, scale: 0.5}"
    text = re.sub(r"(fare|miles|seats|zone): .*", lambda found: f"{found[1]}: {noise}", text)
    assert load(text).columns["fare"].scale == 0.5


def test_augmentation_claims_no_epsilon_for_categories_either(problems):
    text = re.sub(r"privacy:\n(  .*\n)+", "", but("purpose: privacy", "purpose: augmentation"))
    assert any("zone" in p and "makes no privacy claim" in p for p in problems(text))


@pytest.mark.parametrize(
    ("name", "what"),
    [("__x_fare", "names that begin with __ are the pipeline's own"), ("Fare", "differ in case only")],
)
def test_a_column_name_that_another_could_be_taken_for_is_refused(problems, name, what):
    """`__x_fare` is where the true value of `fare` lies in the job: kept, it would be published."""
    text = but("  id: {keep: public}", f"  id: {{keep: public}}\n  {name}: {{keep: public}}")
    assert any(what in p for p in problems(text))


def test_rows_are_memoized_only_under_a_key_that_names_one_row_over_time(problems, load):
    text = but("  unit: {entity: [rider], max_rows: 3, on_null_entity: drop}", "  unit: row")
    assert any("a row key that leaves out 'day' may name two rows" in p for p in problems(text))
    assert load(text.replace("row_key: [id]", "row_key: [id, day]")).memoized == ("seats",)


def test_a_release_without_any_noise_is_refused(problems):
    text = re.sub(r"(fare|miles|seats|zone): .*", lambda found: f"{found[1]}: {{keep: public}}", GOOD)
    assert any("no column has a mechanism" in p for p in problems(text.replace("  memoize: [seats]\n", "")))


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        (GOOD + "pipeline: other\n", 25, "key 'pipeline' stands twice"),
        (GOOD + "colour: red\n", 25, "colour: unknown key"),
        (GOOD + "? [a, b]\n: 1\n", 25, "expected a name"),
        (GOOD + '"a\\nb": 1\n', 25, "key 'a\\nb': expected a name"),
        (GOOD + "<<: {a: 1}\n", 25, "key '<<': expected a name"),
        (GOOD + "---\na: 1\n", 25, "another document"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "YAML tag '!!python/object/apply:os.system' is not allowed"),
        ("version: !!float ''\n", 1, "YAML tag '!!float' is not allowed"),
        ("version: !!bool x\n", 1, "YAML tag '!!bool' is not allowed"),
        ("version: &a 1\n", 1, "anchors and aliases are not allowed"),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", 1, "anchors and aliases are not allowed"),
        ("version: " + "9" * 5000, 1, "cannot be read as int"),
        ("a: " + "[" * 2000 + "]" * 2000, 1, "nested too deeply"),
        ("a: " + "{b: " * 2000, 1, "nested too deeply"),
        ("- " * 2000 + "x", 1, "nested too deeply"),
        ("\n".join(" " * depth + "a:" for depth in range(500)), 51, "nested too deeply"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
        ("a: 'x", 1, "not valid YAML"),
        ("", 1, "expected a mapping"),
        ("- 1\n", 1, "expected a mapping"),
        ("#" * 1_000_001, 1, "larger than 1000000 bytes"),
        (GOOD.encode("utf-16"), 1, "not UTF-8"),
        (b"a: \xff\n", 1, "not UTF-8 text (byte 3)"),
        (b"\0", 1, "not valid YAML"),
    ],
)
def test_what_is_no_plain_data_is_refused(problems, text, line, what):
    found = problems(text)
    assert any(problem.startswith(f"{line}: ") and what in problem for problem in found), found


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "none.yaml", tmp_path):
        with pytest.raises(SpecError, match=f"{path}: cannot be read"):
            load_spec(path)


def test_a_message_stays_short(problems):
    assert all(len(p) < 200 for p in problems(but("bounds: [0, 100]", f"bounds: [0, {'9' * 4000}]")))


def schema() -> dict[str, Any]:
    """As `noiselib schema` prints it."""
    return json.loads(json.dumps(PipelineSpec.model_json_schema()))


def test_the_json_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize(
    "text", [GOOD, *(file.read_text() for file in SHIPPED)], ids=["good", *(f.stem for f in SHIPPED)]
)
def test_the_json_schema_accepts_specs(text):
    jsonschema.Draft202012Validator(schema()).validate(yaml.safe_load(text.replace("1e-7", "1.0e-7")))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("version: 1", "version: 2"),
        ("pipeline: trips", "pipline: trips"),
        ("note: {drop: true}", "note: {drop: true, keep: public}"),
        ("bounds: [0, 100]", "bounds: [0, 100, 200]"),
        ("bounds: [0, 100]", "bound: [0, 100]"),
        ("mechanism: laplace", "mechanism: stairs"),
        ("epsilon: 8.0", "epsilon: -8.0"),
        ("max_rows: 3", "max_rows: 0"),
        ("severity: warn", "severity: fatal"),
    ],
)
def test_the_json_schema_refuses_what_the_spec_refuses(problems, old, new):
    text = but(old, new)
    assert problems(text)
    assert not jsonschema.Draft202012Validator(schema()).is_valid(yaml.safe_load(text.replace("1e-7", "1.0e-7")))


CATALOG = '{uri: "sqlite:///c.db", warehouse: w}'


@pytest.mark.parametrize(
    ("target", "what"),
    [
        ("{path: out, format: orc}", "target.format is 'orc'"),
        ("{path: out, format: delta, keep: 1}", "target.keep is 1: input should be greater than or equal to 2"),
        (
            f"{{path: out, format: delta, catalog: {CATALOG}}}",
            "format delta has no catalog and no workspace of its own",
        ),
        ("{path: out, workspace: there}", "format parquet has no catalog and no workspace of its own"),
        ("{path: a.b, format: iceberg}", "format iceberg: expected catalog: {uri: sqlite:///FILE, warehouse: PATH}"),
        (f"{{path: out, format: iceberg, catalog: {CATALOG}}}", "format iceberg: path 'out': expected NAMESPACE.TABLE"),
        (
            '{path: a.b, format: iceberg, catalog: {uri: "mysql://h", warehouse: w}}',
            "target.catalog.uri is 'mysql://h'",
        ),
        ('{path: a.b, format: iceberg, catalog: {uri: "sqlite:///c.db"}}', "target.catalog.warehouse: missing"),
    ],
)
def test_a_target_that_cannot_be_is_told(problems, target, what):
    found = problems(GOOD.replace("{path: out, format: parquet}", target))
    assert any(one.startswith("5: target") and what in one for one in found), found


@pytest.mark.parametrize("catalog", [CATALOG, "prod", CATALOG.replace("}", ", name: lake}")])
def test_a_target_in_a_catalog(load, catalog):
    text = f"{{path: features.trips, format: iceberg, catalog: {catalog}, workspace: w/own, keep: 5}}"
    spec = load(GOOD.replace("{path: out, format: parquet}", text))
    assert (spec.target.format, spec.target.keep) == ("iceberg", 5)
    jsonschema.validate(yaml.safe_load(text), PipelineSpec.model_json_schema()["$defs"]["Target"] | {
        "$defs": PipelineSpec.model_json_schema()["$defs"]
    })  # fmt: skip
