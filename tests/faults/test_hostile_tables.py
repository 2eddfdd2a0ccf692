"""Rows that nobody expected: what is published of each is what the column's declared policy says, computed by plain Python."""

from __future__ import annotations

import contextlib
import math
import struct
from collections import Counter
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_pipeline import Small, make_small

from noiselib.errors import InputError
from noiselib.key import load_key
from noiselib.noise.stream import Stream, encode_bigint, row_tags
from noiselib.release import ReleaseKeys, law_text
from noiselib.snapshot import read_metadata
from noiselib.spark.run import prepare

pytestmark = pytest.mark.faults
ROWS, FOOTERS = 4000, 2000  # cases
QUICK = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
COLORS = ["", "red", "ü", "'; DROP TABLE x"]
ODD_NAMES = ("a.b", "tick`tock", "x'; DROP TABLE y; --", "ünï 🂡", "select", "(*)")

doubles = st.one_of(
    st.sampled_from([None, math.nan, math.inf, -math.inf, -0.0, 0.0, 5e-324, -5e-324, 1.7e308, -1.7e308, 25.0, -10.0]),
    st.floats(),
    st.floats(-12, 27),
)
int64s = st.one_of(
    st.sampled_from([None, -(2**63), 2**63 - 1, 2**53 + 1, 0, -1]),
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-15, 25),
)
cents = st.one_of(
    st.sampled_from([None, Decimal("0.00"), Decimal("-99999999.99"), Decimal("99999999.99")]),
    st.decimals(Decimal("-99999999.99"), Decimal("99999999.99"), places=2),
    st.decimals(Decimal("-15.00"), Decimal("25.00"), places=2),
)
text = st.one_of(st.none(), st.text(st.characters(exclude_categories=["Cs"]), max_size=12))
instants = st.one_of(st.none(), st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59)))
COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any], dict[str, Any]]] = {
    "nan_kept": (
        pa.float64(), doubles,
        {"mechanism": "laplace", "epsilon": 1.0, "bounds": [-10, 20], "on_nan": "keep", "on_infinite": "clip"},
    ),
    "nan_null": (
        pa.float64(), doubles,
        {"mechanism": "discrete_laplace", "epsilon": 1.0, "bounds": [-10, 20], "granularity": 0.25, "on_nan": "null",
         "on_infinite": "null"},
    ),
    "whole": (pa.int64(), int64s, {"mechanism": "discrete_laplace", "epsilon": 1.0, "bounds": [-10, 20]}),
    "cents": (pa.decimal128(10, 2), cents, {"mechanism": "laplace", "epsilon": 1.0, "bounds": [-10, 20]}),
    "color": (
        pa.string(), st.one_of(st.sampled_from([None, *COLORS]), st.text(max_size=3)),
        {"mechanism": "randomized_response", "epsilon": 1.0, "categories": COLORS, "on_unknown": "null"},
    ),
    "person": (pa.string(), text, {"pseudonymize": True}),
    "k_double": (pa.float64(), doubles, {"keep": "public"}),
    "k_int64": (pa.int64(), int64s, {"keep": "public"}),
    "k_text": (pa.string(), text, {"keep": "public"}),
    "k_day": (pa.date32(), st.one_of(st.none(), st.dates(date(1, 1, 1), date(9999, 12, 31))), {"keep": "public"}),
    "k_clock": (pa.timestamp("us"), instants, {"keep": "public"}),
    "k_instant": (pa.timestamp("us", "UTC"), instants.map(lambda d: d and d.replace(tzinfo=UTC)), {"keep": "public"}),
    **{name: (pa.int32(), st.just(-(2**31) + number), {"keep": "public"}) for number, name in enumerate(ODD_NAMES)},
}  # fmt: skip


def cases() -> list[tuple[Any, ...]]:
    """ROWS rows, the same every time."""
    found: list[tuple[Any, ...]] = []

    @settings(max_examples=ROWS, derandomize=True, database=None, deadline=None)
    @given(st.tuples(*[strategy for _, strategy, _ in COLUMNS.values()]))
    def collect(row: tuple[Any, ...]) -> None:
        found.append(row)

    collect()
    return found


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory, spark: object) -> tuple[Small, pa.Table]:
    """A table of all the cases, published in one run; (the pipeline, its source)."""
    small, rows = make_small(tmp_path_factory.mktemp("hostile"), days=[], size=0), cases()
    rows += [(*rows[0][:8], letter * 1_000_000, *rows[0][9:]) for letter in "äb\n"]
    ids = [-(2**63), 2**63 - 1, *range(len(rows) - 2)]
    columns = {
        name: pa.array(column, COLUMNS[name][0]) for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True)
    }
    table = pa.table({"id": pa.array(ids, pa.int64()), **columns})
    del small.spec["source"]["partition_by"]
    policies = {name: {**t, **({"on_null": "keep"} if "mechanism" in t else {})} for name, (_, _, t) in COLUMNS.items()}
    small.spec["columns"] = {"id": {"keep": "public"}} | policies
    small.spec["privacy"]["limit"]["epsilon"] = 100.0
    small.write_spec()
    (small.home / "source").mkdir()
    pq.write_table(table, small.home / "source" / "part-0.parquet", row_group_size=1000)
    answer = small.noiselib("run")
    assert answer.code == 0, answer.err
    return small, table


@pytest.fixture(scope="module")
def published(hostile: tuple[Small, pa.Table]) -> pa.Table:
    """In the order of the source."""
    small, table = hostile
    order = {key: position for position, key in enumerate(table["id"].to_pylist())}
    found = ds.dataset(small.home / "published").to_table()
    rank = pa.array([order[key] for key in found["id"].to_pylist()])
    return found.append_column("__rank", rank).sort_by("__rank").drop_columns("__rank")


def bits(value: Any) -> Any:
    return struct.pack("<d", value) if isinstance(value, float) and not math.isnan(value) else repr(value)


@pytest.mark.parametrize("name", ["id", *[n for n, (_, _, t) in COLUMNS.items() if "keep" in t]])
def test_what_is_kept_is_kept_to_the_bit(hostile: tuple[Small, pa.Table], published: pa.Table, name: str) -> None:
    before, after = hostile[1][name], published[name]
    assert after.type == before.type
    assert [*map(bits, after.to_pylist())] == [*map(bits, before.to_pylist())]


def clipped(value: float | int | Decimal, step: Fraction) -> int:
    """The value's point: clipped to [-10, 20], in steps, halves to even."""
    inside = (
        max(Fraction(-10), min(Fraction(20), Fraction(value)))
        if math.isfinite(value)
        else Fraction(20 if value > 0 else -10)
    )
    return int(
        (Decimal((inside / step).numerator) / Decimal((inside / step).denominator)).to_integral_value(ROUND_HALF_EVEN)
    )


def point(name: str, value: Any, step: Fraction) -> int | None:
    """What takes part in the noise by the declared policy; None for what does not."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if name == "nan_null" and math.isinf(value):
        return None
    if name == "color":
        return COLORS.index(value) if value in COLORS else None
    return clipped(value, step)


def expected(hostile: tuple[Small, pa.Table], name: str) -> list[Any]:
    """The published values of a noised column, from the policy in plain Python and the noise that the key says."""
    small, table = hostile
    run = prepare(small.spec_file, [], lambda _: None)
    plan, keys = run.plan.column(name), ReleaseKeys(load_key(small.spec["key"]), run.releases[0].id)
    step = plan.lattice.step if plan.lattice else Fraction(1)
    points = [point(name, value, step) for value in table[name].to_pylist()]
    bound = np.array([0 if p is None else p for p in points], np.int64)
    tags = row_tags(keys.row(), encode_bigint(np.array(table["id"].to_pylist(), np.int64)))
    assert plan.mechanism is not None
    codes = plan.mechanism.perturb(bound, Stream(keys.column(name, law_text(plan)), tags, bound)).tolist()
    return [None if p is None else read(plan, code) for p, code in zip(points, codes, strict=True)]


def read(plan: Any, code: int) -> Any:
    if plan.name == "color":
        return COLORS[code]
    kept = max(plan.lattice.floor, min(plan.lattice.ceiling, code))
    if plan.type == "double":
        return float(kept) * float(plan.lattice.step)
    return (
        Decimal(kept * plan.lattice.per_step).scaleb(-2)
        if plan.type.startswith("decimal")
        else kept * plan.lattice.per_step
    )


@pytest.mark.parametrize("name", [n for n, (_, _, t) in COLUMNS.items() if "mechanism" in t])
def test_a_noised_value_is_what_policy_and_key_say(
    hostile: tuple[Small, pa.Table], published: pa.Table, name: str
) -> None:
    source, wanted, found = hostile[1][name].to_pylist(), expected(hostile, name), published[name].to_pylist()
    if name == "nan_kept":
        kept = [i for i, value in enumerate(source) if value is not None and math.isnan(value)]
        assert kept
        assert all(math.isnan(found[i]) for i in kept)
        wanted = [found[i] if i in set(kept) else value for i, value in enumerate(wanted)]
    assert [*map(bits, found)] == [*map(bits, wanted)]


def test_pseudonyms_are_equal_where_the_values_are(hostile: tuple[Small, pa.Table], published: pa.Table) -> None:
    pairs = set(zip(hostile[1]["person"].to_pylist(), published["person"].to_pylist(), strict=True))
    values, names = zip(*pairs, strict=True)
    assert len(set(values)) == len(set(names)) == len(pairs)
    assert all((value is None) == (name is None) for value, name in pairs)


def test_what_a_policy_changed_is_counted(hostile: tuple[Small, pa.Table]) -> None:
    small, table = hostile
    [release] = small.results()["releases"]
    counted: Counter[str] = Counter()
    for name in ("nan_kept", "nan_null", "whole", "cents"):
        for value in table[name].to_pylist():
            if value is None or math.isnan(value):
                counted[f"{name}: {'null' if value is None else 'NaN'}"] += 1
            elif name == "nan_null" and math.isinf(value):
                counted[f"{name}: infinite"] += 1
            elif not -10 <= value <= 20:
                counted[f"{name}: clipped"] += 1
    for value in table["color"].to_pylist():
        if value not in COLORS:
            counted["color: null" if value is None else "color: unknown category"] += 1
    assert release["adjusted"] == dict(counted)


# ---- files that are none


@settings(max_examples=FOOTERS, **QUICK)
@given(
    cuts=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 9), st.binary(max_size=6)), min_size=1, max_size=4),
    ending=st.booleans(),
)
def test_a_mutilated_file_is_read_or_refused(tmp_path: Path, cuts: list[tuple[int, int, bytes]], ending: bool) -> None:
    content = whole_file()
    for spot, length, piece in cuts:
        spot %= len(content) + 1
        content = content[:spot] + piece + content[spot + length :]
    (tmp_path / "part-0.parquet").write_bytes(content + (whole_file()[-4:] if ending else b""))
    with contextlib.suppress(InputError):
        read_metadata(str(tmp_path), [])


def whole_file() -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"id": [1, 2], "x": [0.5, None], "y": ["a", "b"]}), sink)
    return sink.getvalue().to_pybytes()
