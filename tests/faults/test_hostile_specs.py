"""Whatever a spec says, it is planned or refused: in time, with file:line, and with no other error than the tool's own."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hostile_specs import specs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_pipeline import make_small

from noiselib.cli import main
from noiselib.errors import NoiselibError, SpecError
from noiselib.ledger import Budget, preview
from noiselib.plan import describe_column, make_plan, relation
from noiselib.release import make_release, request
from noiselib.snapshot import DataFile, TableMetadata
from noiselib.spec import load_spec

pytestmark = pytest.mark.faults
QUICK = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
PLANNED, MUTILATED, BYTES, TEXTS, ANYWHERE = 3000, 2000, 5000, 5000, 300  # cases


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A spec that is as it should be."""
    return make_small(tmp_path_factory.mktemp("good"), days=[], size=0).spec_file.read_text()


def refusal(file: Path, text: str | bytes, schema: list[tuple[str, str]] | None = None) -> str:
    """What is wrong with a spec, or nothing. Every line of it names its place; no error but the tool's own comes out."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    try:
        spec, positions = load_spec(file)
        if schema is not None:
            plan = make_plan(spec, one_file(schema), positions)
            consider(plan)
    except SpecError as error:
        lines = str(error).split("\n")
        assert all(re.match(re.escape(str(file)) + r":\d+: \S|and \d+ problems more$", line) for line in lines), lines
        assert all(len(line) < 2500 for line in lines)
        return str(error)
    except NoiselibError as error:
        return str(error)
    return ""


def one_file(schema: list[tuple[str, str]]) -> TableMetadata:
    return TableMetadata("in", tuple(schema), (), (DataFile("in/file", (), 1000, ()),), ((),))


def consider(plan: Any) -> None:
    """All that `noiselib plan` does with a plan, and what a run reserves."""
    assert json.dumps([describe_column(column, 1000) for column in plan.columns])
    relation(plan)
    privacy = plan.spec.privacy
    if privacy is not None:
        asked = request(plan, make_release(plan, (), "snapshot", "key", 1000))
        preview(Budget(privacy.budget, privacy.limit.epsilon, privacy.limit.delta), [asked])


@settings(max_examples=PLANNED, **QUICK)
@given(case=specs())
def test_any_mechanism_on_any_type_is_planned_or_refused(tmp_path: Path, case: tuple[dict[str, Any], Any]) -> None:
    began = time.process_time()
    refusal(tmp_path / "spec.yaml", json.dumps(case[0]), case[1])
    assert time.process_time() - began < 10


PIECES = st.sampled_from(
    ["", " ", "\n", "\t", ":", "- ", "? ", "{", "}", "[", "]", ",", "#", "&a ", "*a", "!!int ", "!x ", "'", '"', "|", ">", "%",
     "---\n", "<<: ", "=", "~", "null", "yes", ".nan", ".inf", "1e999", "-1", "0x" + "f" * 5000, "1" + ":59" * 300, "2013-01-01",
     "9" * 500, "keep", "drop", "mechanism", "laplace", "bounds", "id", "file:", "env:", "../", "file:../x", "\\0", "\x00",
     "'; DROP TABLE budgets; --", "\ufeff", "\ud800", "\u2028", "é", "x" * 300, "${HOME}", "{{ds}}", "%(x)s"]
)  # fmt: skip
EDITS = st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 12), PIECES), min_size=1, max_size=5)


@settings(max_examples=MUTILATED, **QUICK)
@given(edits=EDITS)
def test_a_mutilated_spec_is_read_or_refused(tmp_path: Path, good: str, edits: list[tuple[int, int, str]]) -> None:
    text = good
    for spot, cut, piece in edits:
        spot %= len(text) + 1
        text = text[:spot] + piece + text[spot + cut :]
    refusal(tmp_path / "spec.yaml", text)


@settings(max_examples=BYTES, **QUICK)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    assert refusal(tmp_path / "spec.yaml", content)


@settings(max_examples=TEXTS, **QUICK)
@given(content=st.text(st.sampled_from("abid01:-? \n{}[],#&*!|>'\"%@`~=.<\t\\"), max_size=60))
def test_any_text_of_yaml_is_read_or_refused(tmp_path: Path, content: str) -> None:
    assert refusal(tmp_path / "spec.yaml", content)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | PIECES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | PIECES, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=ANYWHERE, **QUICK)
@given(spot=st.integers(0, 10_000), value=PLAIN)
def test_a_spec_with_anything_anywhere_is_read_or_refused(tmp_path: Path, good: str, spot: int, value: Any) -> None:
    data = yaml.safe_load(good)
    *path, last = (found := places(data))[spot % len(found)]
    part = data
    for key in path:
        part = part[key]
    part[last] = value
    refusal(tmp_path / "spec.yaml", json.dumps(data))


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in the spec, by the keys that lead to it."""
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, value in items for place in [(*path, key), *places(value, (*path, key))]]


CORPUS = sorted((Path(__file__).parents[1] / "fuzz" / "corpus").iterdir())


def test_what_the_fuzzer_found_is_read_or_refused(tmp_path: Path) -> None:
    """Inputs that take different ways through the loader, kept by `make fuzz`."""
    assert len(CORPUS) > 50
    for file in CORPUS:
        refusal(tmp_path / "spec.yaml", file.read_bytes())


def many(part: str, count: int) -> str:
    return "".join(part.replace("#", str(i)) for i in range(count))


LARGE = {
    "10 MB": lambda good: good + "#" * 10_000_000,
    "a whole number of 5,000 digits in hexadecimal": lambda good: good.replace(
        "version: 1", "version: 0x" + "f" * 5000
    ),
    "a whole number of 900,000 digits": lambda good: good.replace("version: 1", "version: 0b" + "1" * 900_000),
    "a number to the base 60": lambda good: good.replace("version: 1", "version: 1" + ":59" * 100_000),
    "a row key of 400,000 columns": lambda good: good.replace("row_key:\n- id", "row_key: [" + "a," * 400_000 + "]"),
    "20,000 columns": lambda good: good.replace("columns:\n", "columns:\n" + many("  c#: {drap: true}\n", 20_000)),
    "row keys and columns that do not meet": lambda good: good.replace(
        "row_key:\n- id", "row_key: [" + many("a#,", 5_000) + "]"
    ).replace("columns:\n", "columns:\n" + many("  c#: {drop: true}\n", 5_000)),
    "one key 100,000 times": lambda good: good + "k: 1\n" * 100_000,
    "100,000 tags": lambda good: "a: [" + "!!x 1," * 100_000 + "]",
    "a name of 500,000 letters": lambda good: good + "? " + "k" * 500_000 + "\n: 1\n",
    "20,000 lists in one another": lambda good: good + "a: " + "[" * 20_000,
    "aliases that unfold to a billion": lambda good: "a: &a [x]\n" + many("b#: &b# [*a,*a]\n", 30) + good,
}


@pytest.mark.parametrize("make", LARGE.values(), ids=LARGE.keys())
def test_a_large_spec_is_refused_in_seconds_and_few_words(tmp_path: Path, good: str, make: Any) -> None:
    text = make(good)
    assert text != good
    began = time.process_time()
    message = refusal(tmp_path / "spec.yaml", text)
    assert 0 < len(message) < 200_000
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("path: {home}/source", "path: ../source", "a path with '..' in it"),
        ("path: {home}/published", "path: {home}/../published", "a path with '..' in it"),
        ("key: file:{home}/noise.key", "key: file:../noise.key", "a path with '..' in it"),
        ("sqlite:///{home}/ledger.db", "sqlite:///../ledger.db", "a path with '..' in it"),
        ("pipeline: small", "pipeline: ../small", "pipeline is '../small'"),
        ("budget: small", "budget: x'; DROP TABLE budgets; --", "budget is"),
        ("  id:", '  "id\'); DROP TABLE x; --":', "column 'id' is not among columns"),
        ("version: 1", "version: !!python/object/apply:os.system [id]", "not allowed"),
        ("partition_by:\n  - day", "partition_by: [day, day]", "named twice"),
    ],
)
def test_what_leads_out_or_runs_is_refused_by_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, what: str
) -> None:
    small = make_small(tmp_path, days=[1], size=5)
    text, old = small.spec_file.read_text(), old.format(home=tmp_path)
    assert text.count(old) == 1, text
    small.spec_file.write_text(text.replace(old, new.format(home=tmp_path)))
    assert main(["plan", str(small.spec_file)]) == 2
    shown = capsys.readouterr()
    assert what in shown.err
    assert re.search(re.escape(str(small.spec_file)) + r":\d+: ", shown.err)
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("regex", ["(a+)+$x", "(a|a)*b", "(.*a){25}b", "^(([a-z])+.)+[A-Z]([a-z])+$"])
def test_a_pattern_that_would_keep_others_busy_for_ever_takes_no_time(regex: str) -> None:
    import pyarrow as pa

    from noiselib.patterns import check_pattern, matches

    check_pattern(regex)
    began = time.process_time()
    matches(pa.array(["a" * 100_000, None]), regex)
    assert time.process_time() - began < 5


@pytest.mark.parametrize("regex", ["(", "(?<=a)b", r"(a)\1", "a{1001}", "\ud800", "(?R)", "[z-a]"])
def test_a_pattern_that_is_none_is_refused_where_it_stands(tmp_path: Path, good: str, regex: str) -> None:
    check = {"expect": "column_values_match_regex", "column": "name", "regex": regex}
    message = refusal(tmp_path / "spec.yaml", good + "checks: " + json.dumps([check]))
    assert "regex" in message
