"""What becomes of each kind of value: kept to the bit, clipped, noised as the key says, nulled, chosen or refused."""

from __future__ import annotations

import math
import random
import struct
from collections import Counter
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import reference
from small_pipeline import Small, make_small

from noiselib.key import create_key_file, load_key
from noiselib.noise import discrete
from noiselib.release import law_text, memo_text
from noiselib.spark.run import Run, prepare

ROWS = 48
NAN, INF = float("nan"), float("inf")
EXTREMES = [2**63 - 1, -(2**63 - 1), 2**53 + 1, -(2**53) - 1, 0]


def mixed(special: list[Any], usual: Callable[[random.Random], Any], seed: int) -> list[Any]:
    """ROWS values: the special ones first, then usual ones."""
    source = random.Random(seed)
    return special + [usual(source) for _ in range(ROWS - len(special))]


def f32(value: float) -> float:
    return float(np.float32(value))


FLOATS = [None, NAN, INF, -INF, -0.0, f32(1e-40), f32(1e30), f32(-1e30), 20.25, -10.5]
DOUBLES = [None, NAN, INF, -INF, -0.0, 5e-324, 1e300, -1e300, 20.0, -10.0]
CENTS = [None, *map(Decimal, ("0.00", "-99999999.99", "99999999.99", "20.00", "-0.01"))]
WHOLE = [None, *map(Decimal, ("0", "-999999999999999999", "999999999999999999"))]
INTS = [None, 2**31 - 1, -(2**31) + 1, 0, 20, -10]


def cents(source: random.Random) -> Decimal:
    return Decimal(source.randint(-1500, 2500)).scaleb(-2)


COLUMNS: dict[str, tuple[pa.DataType, list[Any], dict[str, Any]]] = {
    # kept
    "k_int32": (pa.int32(), mixed([None, -(2**31), 2**31 - 1], lambda s: s.randint(-9, 9), 1), {}),
    "k_int64": (pa.int64(), mixed([None, *EXTREMES, -(2**63)], lambda s: s.randint(-9, 9), 2), {}),
    "k_float": (pa.float32(), mixed(FLOATS, lambda s: f32(s.gauss(0, 9)), 3), {}),
    "k_double": (pa.float64(), mixed(DOUBLES, lambda s: s.gauss(0, 9), 4), {}),
    "k_cents": (pa.decimal128(10, 2), mixed(CENTS, cents, 5), {}),
    "k_whole": (pa.decimal128(18, 0), mixed(WHOLE, lambda s: Decimal(s.randint(-9, 9)), 6), {}),
    "k_boolean": (pa.bool_(), mixed([None], lambda s: s.random() < 0.5, 7), {}),
    "k_string": (pa.string(), mixed([None, "", " ", "naïve ☂ 𝄞", "a\nb", "x" * 5000], lambda s: str(s.random()), 8), {}),
    "k_date": (pa.date32(), mixed([None, date(1, 1, 1), date(9999, 12, 31)], lambda s: date(2020, 2, 29), 9), {}),
    "k_timestamp": (
        pa.timestamp("us", "UTC"),
        mixed([None, datetime(1900, 1, 1, tzinfo=UTC)], lambda s: datetime(2024, 3, 31, 1, 30, 0, 7, tzinfo=UTC), 10),
        {},
    ),
    "k_local": (pa.timestamp("us"), mixed([None], lambda s: datetime(2024, 3, 31, 2, 30, 0, 7), 11), {}),
    # noise without end in floats, and in decimals' own unit
    "laplace_float": (
        pa.float32(),
        mixed(FLOATS, lambda s: f32(s.uniform(-15, 25)), 12),
        {"mechanism": "laplace", "epsilon": 0.7, "bounds": [-10.5, 20.25], "on_nan": "keep", "on_infinite": "clip"},
    ),
    "laplace_double": (
        pa.float64(),
        mixed(DOUBLES, lambda s: s.uniform(-15, 25), 13),
        {"mechanism": "laplace", "epsilon": 0.7, "bounds": [-10, 20], "on_nan": "null", "on_infinite": "null"},
    ),
    "laplace_cents": (
        pa.decimal128(10, 2),
        mixed(CENTS, cents, 14),
        {"mechanism": "laplace", "epsilon": 0.7, "bounds": [-10, 20]},
    ),
    "gaussian_float": (
        pa.float32(),
        mixed([None, -0.0, 20.25], lambda s: f32(s.uniform(-15, 25)), 15),
        {"mechanism": "gaussian", "epsilon": 0.7, "delta": 1e-6, "bounds": [-10.5, 20.25]},
    ),
    "gaussian_double": (
        pa.float64(),
        mixed(DOUBLES, lambda s: s.uniform(-15, 25), 16),
        {
            "mechanism": "gaussian", "epsilon": 0.7, "delta": 1e-6, "bounds": [-10, 20],
            "on_nan": "keep", "on_infinite": "null",
        },
    ),
    "gaussian_cents": (
        pa.decimal128(10, 2),
        mixed(CENTS, cents, 17),
        {"mechanism": "gaussian", "epsilon": 0.7, "delta": 1e-6, "bounds": [-10, 20]},
    ),
    # noise in whole steps
    "dlaplace_int32": (
        pa.int32(),
        mixed(INTS, lambda s: s.randint(-15, 25), 18),
        {"mechanism": "discrete_laplace", "epsilon": 0.7, "bounds": [-10, 20]},
    ),
    "dlaplace_int64": (
        pa.int64(),
        mixed([None, *EXTREMES], lambda s: s.randint(-15, 25), 19),
        {"mechanism": "discrete_laplace", "epsilon": 0.7, "bounds": [-10, 20]},
    ),
    "dlaplace_far": (
        pa.int64(),
        mixed([None, 2**53 + 1, -(2**53) - 1, 2**61, 2**61 + 1], lambda s: 2**53 + s.randint(0, 9), 20),
        {"mechanism": "discrete_laplace", "epsilon": 0.7, "protect_distance": 3},
    ),
    "dlaplace_tens": (
        pa.int64(),
        mixed([None, *EXTREMES, 5, -5, 4, -4, 15, -15], lambda s: s.randint(-150, 250), 21),
        {"mechanism": "discrete_laplace", "epsilon": 0.7, "bounds": [-100, 200], "granularity": 10},
    ),
    "dlaplace_double": (
        pa.float64(),
        mixed([None, 0.25, -0.0], lambda s: s.uniform(-15, 25), 22),
        {"mechanism": "discrete_laplace", "epsilon": 0.7, "bounds": [-10, 20], "granularity": 0.1},
    ),
    "dlaplace_whole": (
        pa.decimal128(18, 0),
        mixed(WHOLE, lambda s: Decimal(s.randint(-15, 25)), 23),
        {"mechanism": "discrete_laplace", "epsilon": 0.7, "bounds": [-10, 20]},
    ),
    "dgauss_int32": (
        pa.int32(),
        mixed(INTS, lambda s: s.randint(-15, 25), 24),
        {"mechanism": "discrete_gaussian", "epsilon": 0.7, "delta": 1e-6, "bounds": [-10, 20]},
    ),
    "dgauss_int64": (
        pa.int64(),
        mixed([None, *EXTREMES], lambda s: s.randint(-15, 25), 25),
        {"mechanism": "discrete_gaussian", "epsilon": 0.7, "delta": 1e-6, "bounds": [-10, 20]},
    ),
    "dgauss_float": (
        pa.float32(),
        mixed([None, -0.0, 0.25, 0.75], lambda s: f32(s.uniform(-15, 25)), 26),
        {"mechanism": "discrete_gaussian", "epsilon": 0.7, "delta": 1e-6, "bounds": [-10, 20], "granularity": 0.5},
    ),
    "dgauss_cents": (
        pa.decimal128(10, 2),
        mixed(CENTS, cents, 27),
        {"mechanism": "discrete_gaussian", "epsilon": 0.7, "delta": 1e-6, "bounds": [-10, 20], "granularity": 0.05},
    ),
    # categories
    "rr_string": (
        pa.string(),
        mixed([None, "ultraviolet", ""], lambda s: s.choice(["", "red", "ü"]), 28),
        {"mechanism": "randomized_response", "epsilon": 0.7, "categories": ["", "red", "ü"], "on_unknown": "null"},
    ),
    "rr_boolean": (
        pa.bool_(),
        mixed([None], lambda s: s.random() < 0.5, 29),
        {"mechanism": "randomized_response", "epsilon": 0.7},
    ),
    "rr_int32": (
        pa.int32(),
        mixed([None], lambda s: s.choice([3, 1, -2]), 30),
        {"mechanism": "randomized_response", "epsilon": 0.7, "categories": [3, 1, -2]},
    ),
    "rr_int64": (
        pa.int64(),
        mixed([None, 2**53 + 1], lambda s: s.choice([1, 2**53, 2**53 + 1]), 31),
        {"mechanism": "randomized_response", "epsilon": 0.7, "categories": [1, 2**53, 2**53 + 1]},
    ),
    # pseudonyms
    "p_string": (pa.string(), mixed([None, "", "a", "a", "naïve ☂"], lambda s: str(s.random()), 32), {}),
    "p_int64": (pa.int64(), mixed([None, *EXTREMES, 0], lambda s: s.randint(-9, 9), 33), {}),
}  # fmt: skip


def treatment(name: str) -> dict[str, Any]:
    declared = COLUMNS[name][2]
    if declared:
        return declared | {"on_null": "keep"}
    return {"keep": "public"} if name.startswith("k_") else {"pseudonymize": True}


def prepared(small: Small) -> Run:
    return prepare(small.spec_file, [], lambda _: None)


@pytest.fixture(scope="module")
def every_type(tmp_path_factory: pytest.TempPathFactory, spark: object) -> Small:
    """One table without partitions, with every type and mechanism, published."""
    small = make_small(tmp_path_factory.mktemp("every_type"), days=[], size=0)
    del small.spec["source"]["partition_by"]
    small.spec["columns"] = {"id": {"keep": "public"}} | {name: treatment(name) for name in COLUMNS}
    small.spec["privacy"]["limit"] = {"epsilon": 100.0, "delta": 1e-3}
    small.write_spec()
    arrays = {name: pa.array(values, kind) for name, (kind, values, _) in COLUMNS.items()}
    (small.home / "source").mkdir()
    pq.write_table(
        pa.table({"id": pa.array(range(-5, ROWS - 5), pa.int64())} | arrays), small.home / "source" / "a.parquet"
    )
    answer = small.noiselib("run")
    assert answer.code == 0, answer.err
    return small


@pytest.fixture(scope="module")
def rows(every_type: Small) -> pa.Table:
    return ds.dataset(every_type.home / "published").to_table().sort_by("id")


def bits(values: list[Any]) -> list[Any]:
    """Values such that equality is equality of bits."""
    return [struct.pack("<d", value) if isinstance(value, float) else value for value in values]


@pytest.mark.parametrize("name", [name for name in COLUMNS if name.startswith("k_")])
def test_what_is_kept_is_kept_to_the_bit(rows: pa.Table, name: str) -> None:
    kind, values, _ = COLUMNS[name]
    assert bits(rows[name].to_pylist()) == bits(values)
    assert rows.schema.field(name).type == kind


ADDITIVE = [
    name for name, (_, _, declared) in COLUMNS.items() if declared.get("bounds") or declared.get("protect_distance")
]


def expected(every_type: Small, name: str) -> list[Any]:
    """The published values of a noised number column, worked out in plain Python."""
    kind, values, declared = COLUMNS[name]
    run = prepared(every_type)
    column, [release] = run.plan.column(name), run.releases
    master = load_key(every_type.spec["key"]).secret
    bounds, is_float = declared.get("bounds"), pa.types.is_floating(kind)
    width = Fraction(str(bounds[1])) - Fraction(str(bounds[0])) if bounds else Fraction(declared["protect_distance"])
    if "granularity" in declared:
        step = Fraction(str(declared["granularity"]))
    elif pa.types.is_decimal(kind):
        step = Fraction(1, 10**kind.scale)
    elif is_float:
        sigma = float(column.mechanism.scale * column.mechanism.step)  # the accountant's, with tests of its own
        laplace = declared["mechanism"] == "laplace"
        step = Fraction(reference.fine_step(float(width / Fraction("0.7")) if laplace else sigma))
    else:
        step = Fraction(1)
    scale = width / step / Fraction("0.7") if "delta" not in declared else column.mechanism.scale
    law = {
        "laplace": discrete.RoundedLaplace,
        "gaussian": discrete.RoundedGaussian,
        "discrete_laplace": discrete.DiscreteLaplace,
        "discrete_gaussian": discrete.DiscreteGaussian,
    }[declared["mechanism"]](scale)

    def published(row_id: int, value: Any) -> Any:
        if value is None or (is_float and math.isnan(value)):
            return value if declared.get("on_nan") == "keep" else None
        if is_float and math.isinf(value) and declared.get("on_infinite") == "null":
            return None
        point = (
            reference.float_point(value, bounds, float(step))
            if is_float
            else reference.whole_point(value, bounds, step)
        )
        block = (0, row_id)
        point += reference.release_noise(master, release.id, name, law_text(column), block, point, law)
        if is_float:
            return f32(point * float(step)) if kind == pa.float32() else point * float(step)
        exact = point * step
        return Decimal(exact.numerator) / Decimal(exact.denominator) if pa.types.is_decimal(kind) else int(exact)

    return [published(row_id, value) for row_id, value in zip(range(-5, ROWS - 5), values, strict=True)]


@pytest.mark.parametrize("name", ADDITIVE)
def test_a_noised_number_is_the_one_that_the_key_says(every_type: Small, rows: pa.Table, name: str) -> None:
    found = expected(every_type, name)
    assert bits(rows[name].to_pylist()) == bits(found)
    assert rows.schema.field(name).type == COLUMNS[name][0]
    assert sum(a != b for a, b in zip(found, COLUMNS[name][1], strict=True)) > ROWS / 2  # noise there is


@pytest.mark.parametrize("name", [name for name in COLUMNS if name.startswith("rr_")])
def test_a_category_is_the_one_that_the_key_says(every_type: Small, rows: pa.Table, name: str) -> None:
    kind, values, declared = COLUMNS[name]
    run = prepared(every_type)
    column, [release] = run.plan.column(name), run.releases
    master = load_key(every_type.spec["key"]).secret
    categories = declared.get("categories", [False, True])
    law = column.mechanism.law  # type: ignore[union-attr]
    keep = math.exp(0.7) / (math.exp(0.7) + len(categories) - 1)
    assert law.pmf(0) == pytest.approx(keep, abs=1e-12)

    def published(row_id: int, value: Any) -> Any:
        if value not in categories:
            return None
        index = categories.index(value)
        offset = reference.release_noise(master, release.id, name, law_text(column), (0, row_id), index, law)
        return categories[(index + offset) % len(categories)]

    assert rows[name].to_pylist() == [published(i - 5, value) for i, value in enumerate(values)]
    assert rows.schema.field(name).type == kind


@pytest.mark.parametrize("name", ["p_string", "p_int64"])
def test_a_pseudonym_is_the_one_that_the_key_says(every_type: Small, rows: pa.Table, name: str) -> None:
    master = load_key(every_type.spec["key"]).secret
    values = COLUMNS[name][1]
    found = [None if value is None else reference.pseudonym(master, "small", name, value) for value in values]
    assert rows[name].to_pylist() == found
    assert len(set(found)) == len(set(values))


def test_what_was_changed_on_the_way_is_counted(every_type: Small) -> None:
    counted = Counter[str]()
    for name, (kind, values, declared) in COLUMNS.items():
        is_float = pa.types.is_floating(kind)
        nan = [v for v in values if is_float and v is not None and math.isnan(v)]
        numbers = [v for v in values if v is not None and v not in nan] if "mechanism" in declared else []
        counted[f"{name}: null"] = values.count(None) if declared else 0
        if name in ADDITIVE:
            counted[f"{name}: NaN"] = sum(math.isnan(v) for v in nan)
        if declared.get("on_infinite") == "null":
            counted[f"{name}: infinite"] = sum(math.isinf(v) for v in numbers)
            numbers = [v for v in numbers if not math.isinf(v)]
        if bounds := declared.get("bounds"):
            counted[f"{name}: clipped"] = sum(not bounds[0] <= v <= bounds[1] for v in numbers)
        if name == "rr_string":
            counted[f"{name}: unknown category"] = numbers.count("ultraviolet")
    [release] = every_type.results()["releases"]
    assert release["adjusted"] == {what: count for what, count in counted.items() if count}


def test_the_release_is_verified(every_type: Small) -> None:
    answer = every_type.noiselib("verify")
    assert (answer.code, answer.out) == (0, "small: 1 releases derived again, equal to the bit\n"), answer.err


# ---- row keys

KEYS: dict[str, tuple[pa.DataType, list[Any]]] = {
    "text": (pa.string(), ["", "a", "1:a", "ü", "a", "", *[f"x{i}" for i in range(14)]]),
    "at": (
        pa.timestamp("us", "UTC"),
        [datetime(1969, 7, 20, 20, 17, 40, 1, tzinfo=UTC) + timedelta(i) for i in range(20)],
    ),
    "local": (pa.timestamp("us"), [datetime(2024, 3, 31, 2, 30) + timedelta(hours=i) for i in range(20)]),
    "on": (pa.date32(), [date(1960, 1, 1) + timedelta(i) for i in range(20)]),
    "flag": (pa.bool_(), [i % 2 == 0 for i in range(20)]),
    "cents": (pa.decimal128(10, 2), [Decimal(i).scaleb(-2) for i in range(20)]),
    "number": (pa.int32(), [i - 10 for i in range(20)]),
}


@pytest.mark.parametrize(
    "keys", [["at"], ["text", "on"], ["number", "flag", "cents", "local"], ["number"]], ids=",".join
)
def test_any_row_key_picks_the_rows_noise(tmp_path: Path, spark: object, keys: list[str]) -> None:
    small = make_small(tmp_path, days=[], size=0)
    small.spec["columns"] = {name: {"keep": "public"} for name in ["day", *KEYS]}
    small.spec["columns"]["count"] = {"mechanism": "discrete_laplace", "epsilon": 1.0, "bounds": [0, 50]}
    small.spec["row_key"] = keys
    small.write_spec()
    columns = {name: pa.array(values, kind) for name, (kind, values) in KEYS.items()}
    small.write_partition(1, pa.table(columns | {"count": pa.array(range(20), pa.int32())}))
    assert small.noiselib("run").code == 0
    run = prepared(small)
    column, [release] = run.plan.column("count"), run.releases
    master, law = load_key(small.spec["key"]).secret, discrete.DiscreteLaplace(Fraction(50))
    table = ds.dataset(small.home / "published" / "day=1").to_table().to_pylist()
    found = {row["on"]: row["count"] for row in table}
    for i in range(20):
        parts = [KEYS[name][1][i] for name in keys]
        block = (0, parts[0]) if keys == ["number"] else reference.key_block("row", *parts)
        noise = reference.release_noise(master, release.id, "count", law_text(column), block, i, law)
        assert found[KEYS["on"][1][i]] == i + noise


# ---- entities


def visits(small: Small, day: int, people: list[str | None], amounts: list[float] | None = None) -> None:
    """A partition with one row per visit of a person."""
    size = len(people)
    small.rows[day] = {
        "id": [day * 1000 + i for i in range(size)],
        "name": people,
        "color": ["red"] * size,
        "amount": amounts or [float(i % 25) for i in range(size)],
        "count": [i % 50 for i in range(size)],
    }


@pytest.fixture
def people(tmp_path: Path, spark: object) -> Small:
    """A pipeline with one person, by name, for its privacy unit; at most 3 rows of each."""
    small = make_small(tmp_path, days=[], size=0)
    small.spec["privacy"] |= {"unit": {"entity": ["name"], "max_rows": 3}, "limit": {"epsilon": 500.0, "delta": 1e-5}}
    small.write_spec()
    return small


def chosen(small: Small) -> set[int]:
    """The ids that a fresh target publishes."""
    answer = small.noiselib("run")
    assert answer.code == 0, answer.err
    table = small.published()
    assert table is not None
    return set(table["id"].to_pylist())


def test_no_entity_has_more_rows_than_declared_chosen_by_the_key_alone(people: Small, tmp_path: Path) -> None:
    names = [*["heavy"] * 30, *["light"] * 2, *["other"] * 12]
    visits(people, 1, names)
    visits(people, 2, names)
    people.write_source()
    ids = chosen(people)
    by_person = Counter((id // 1000, names[id % 1000]) for id in ids)
    assert by_person == {
        (day, name): min(3, names.count(name)) for day in (1, 2) for name in ("heavy", "light", "other")
    }
    assert {id % 1000 for id in ids if id < 2000} != {id % 1000 for id in ids if id > 2000}
    again = people.anew(tmp_path / "again")
    assert chosen(again) == ids
    other = people.anew(tmp_path / "other")
    (other.home / "noise.key").unlink()
    create_key_file(other.home / "noise.key")
    assert chosen(other) != ids


@pytest.mark.parametrize(("policy", "kept"), [("drop", 3), ("own_unit", 8), ("fail", None)])
def test_rows_without_an_entity(people: Small, policy: str, kept: int | None) -> None:
    people.spec["privacy"]["unit"]["on_null_entity"] = policy
    people.write_spec()
    visits(people, 1, [*["a"] * 6, *[None] * 5])
    people.write_source()
    if kept is None:
        answer = people.noiselib("run")
        assert answer.code == 1
        assert "entity (name): null (on_null_entity: fail): 5 rows" in answer.err
        assert people.published() is None
        return
    ids = chosen(people)
    assert len(ids) == kept
    assert len([id for id in ids if id >= 1006]) == (5 if policy == "own_unit" else 0)


def test_memoized_noise_is_the_same_wherever_the_entity_has_the_value(people: Small) -> None:
    people.spec["privacy"]["memoize"] = ["amount"]
    people.spec["columns"]["id"] = {"keep": "public"}
    people.write_spec()
    visits(people, 1, ["a", "a", "b", "c"], [5.0, 7.0, 5.0, 9.0])
    visits(people, 2, ["a", "b", "c"], [5.0, 6.0, 9.0])
    people.write_source()
    assert people.noiselib("run").code == 0
    table = people.published()
    assert table is not None
    found = dict(zip(table["id"].to_pylist(), table["amount"].to_pylist(), strict=True))
    true = {1000: 5.0, 1001: 7.0, 1002: 5.0, 1003: 9.0, 2000: 5.0, 2001: 6.0, 2002: 9.0}
    noise = {id: found[id] - value for id, value in true.items()}
    assert noise[1000] == noise[2000]
    assert noise[1003] == noise[2002]
    assert len(set(noise.values())) == 5  # another value, or another entity, has another noise
    plan, master = prepared(people).plan, load_key(people.spec["key"]).secret
    step, text = reference.fine_step(25.0), memo_text(plan, plan.column("amount"))
    law = discrete.RoundedLaplace(Fraction(25) / Fraction(step))
    for id, name in [(1000, "a"), (1001, "a"), (1002, "b"), (2001, "b"), (2002, "c")]:
        point, block = round(true[id] / step), reference.key_block("unit", name)
        drawn = reference.memo_noise(master, "small", "amount", text, block, point, law)
        assert found[id] == (point + drawn) * step


def test_memoized_noise_passes_its_checks_beside_fresh_noise(people: Small) -> None:
    """Rows that share one draw are dependent: a check that took them for independent would refuse them."""
    people.spec["privacy"] |= {"memoize": ["count"], "unit": {"entity": ["name"], "max_rows": 2000}}
    people.spec["privacy"]["limit"]["epsilon"] = 1e6
    people.spec["columns"]["color"] = {"drop": True}
    small_noise = {"mechanism": "discrete_laplace", "epsilon": 2.0, "bounds": [0, 1]}
    people.spec["columns"] |= {
        "count": dict(small_noise),
        "amount": {**small_noise, "granularity": 1, "bounds": [0, 1]},
    }
    people.write_spec()
    visits(people, 1, ["a"] * 2000)
    people.rows[1]["count"] = [1] * 2000
    people.write_source()
    assert len(chosen(people)) == 2000


@pytest.mark.parametrize("epsilon", [0.01, 12.0])
def test_noise_much_larger_or_smaller_than_the_bounds_passes_its_checks(
    tmp_path: Path, spark: object, epsilon: float
) -> None:
    small = make_small(tmp_path, days=[1], size=200)
    small.spec["privacy"]["limit"]["epsilon"] = 1000.0
    for name in ("amount", "count", "color"):
        small.spec["columns"][name]["epsilon"] = epsilon
    small.spec["columns"]["count"]["bounds"] = [0, 1]
    small.write_spec()
    answer = small.noiselib("run")
    assert answer.code == 0, answer.err


# ---- noise without a claim


def test_augmentation_takes_a_scale_and_spends_nothing(tmp_path: Path, spark: object) -> None:
    small = make_small(tmp_path, days=[1], size=50)
    for name in ("privacy", "ledger"):
        del small.spec[name]
    (small.home / "ledger.db").unlink()
    small.spec["purpose"] = "augmentation"
    small.spec["columns"] |= {
        "color": {"keep": "public"},
        "amount": {"mechanism": "gaussian", "scale": 0.3},
        "count": {"mechanism": "uniform", "scale": 7, "bounds": [0, 45]},
    }
    small.write_spec()
    answer = small.noiselib("run", "--json")
    assert answer.code == 0, answer.err
    assert answer.json["charge"] == {"epsilon": 0.0, "delta": 0.0}
    assert not (small.home / "ledger.db").exists()
    table = small.published()
    assert table is not None
    run, master = prepared(small), load_key(small.spec["key"]).secret
    [release], step = run.releases, Fraction(reference.fine_step(0.3))
    normal, even = discrete.RoundedGaussian(Fraction("0.3") / step), discrete.Uniform(7)
    amount, count = law_text(run.plan.column("amount")), law_text(run.plan.column("count"))
    for row, id in enumerate(small.rows[1]["id"]):
        point = round(small.rows[1]["amount"][row] / float(step))
        drawn = reference.release_noise(master, release.id, "amount", amount, (0, id), point, normal)
        assert table["amount"][row].as_py() == (point + drawn) * float(step)
        clipped = min(45, small.rows[1]["count"][row])
        drawn = reference.release_noise(master, release.id, "count", count, (0, id), clipped, even)
        assert table["count"][row].as_py() == clipped + drawn
    again = small.noiselib("run", "--json")
    assert [r["status"] for r in again.json["releases"]] == ["unchanged"]
