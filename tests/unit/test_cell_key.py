"""Cell keys: the perturbation laws, their moments and entropy, and that equal cells agree."""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction

import numpy as np
import pytest
import scripted
from hypothesis import given, settings
from hypothesis import strategies as st

from noiselib.mechanisms.cell_key import CellKey, _laws
from noiselib.noise import Stream, derive, encode_bigint, row_tags
from noiselib.noise.alias import alias_table

F = Fraction
TABLES = [
    CellKey(2, 1.0),
    CellKey(5, 3.0, 2),
    CellKey(3, 2.0, 2),
    CellKey(5, 10.0),
    CellKey(8, 0.25),
    CellKey(4, 1e-6),
    CellKey(5, 2.0, 2),
    CellKey(10, 5.0, 3),
]


def stream(values: np.ndarray, cells: np.ndarray | None = None) -> Stream:
    cells = np.arange(len(values)) if cells is None else cells
    return Stream(derive(bytes(32), "column"), row_tags(derive(bytes(32), "rows"), encode_bigint(cells)), values)


def exact_noise(table: CellKey, count: int) -> scripted.Law:
    """P(v) as the sampler draws it."""
    weights = table.laws[min(count, len(table.laws) - 1)]
    block = {("", 0): scripted.both(scripted.of_table(alias_table(weights)))}
    return {code - count: p for code, p in scripted.law(table.perturb, count, block).items() if p}


def moments(law: scripted.Law) -> tuple[float, float]:
    mean = sum(v * p for v, p in law.items())
    return float(mean), float(sum(v * v * p for v, p in law.items()) - mean**2)


def check(table: CellKey) -> None:
    """What the method promises, of the sampler's own probabilities."""
    d, js = table.max_noise, table.smallest
    for count in range(2 * d + js + 3):
        law = exact_noise(table, count)
        assert all(-d <= v <= d and count + v >= 0 and not 1 <= count + v <= js for v in law)
        mean, variance = moments(law)
        assert mean == pytest.approx(0, abs=1e-13)
        assert variance <= table.variance + 1e-12
        assert variance == pytest.approx(table.variance_of(count), abs=1e-12)
        ideal = {v - d: F(w, sum(ws)) for ws in [table.laws[min(count, len(table.laws) - 1)]] for v, w in enumerate(ws)}
        assert scripted.distance(law, ideal) <= table.tv_bound
    assert exact_noise(table, 0) == {0: 1}


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_the_noise_keeps_what_the_method_promises(table):
    check(table)


@settings(max_examples=25, deadline=None)
@given(d=st.integers(1, 8), data=st.data())
def test_any_table_that_is_accepted_keeps_it_too(d, data):
    js = data.draw(st.integers(0, d - 1))
    least = max((i * (js + 1 - i) for i in range(1, js + 1)), default=0)
    share = data.draw(st.floats(0, 1))
    variance = round(max(0.01, least) + share * (d * (d + 1) / 3 - max(0.01, least)) - 1e-4, 3)
    if least <= variance <= d * (d + 1) / 3:
        check(CellKey(d, variance, js))


@pytest.mark.parametrize("table", TABLES, ids=str)
def test_the_laws_have_the_greatest_entropy_for_their_moments(table):
    """log P is a quadratic in v, and no bound is slack: that is what makes the entropy greatest."""
    for count in range(1, len(table.laws)):
        law = {v - table.max_noise: p for v, p in enumerate(table.probabilities(count)) if p}
        if len(law) == 2:
            continue
        v = np.array(list(law), float)
        design = np.stack([np.ones_like(v), v, v**2], axis=1)
        log = np.log(list(law.values()))
        (_, _, l2), *_ = np.linalg.lstsq(design, log, rcond=None)
        np.testing.assert_allclose(design @ np.linalg.lstsq(design, log, rcond=None)[0], log, rtol=1e-6, atol=1e-6)
        assert l2 <= 1e-9  # at most the variance: the multiplier of that bound has one sign,
        assert abs(table.variance_of(count) - table.variance) < 1e-9 or abs(l2) < 1e-9  # and is 0 where it is slack


def test_one_law_serves_all_great_counts():
    table = CellKey(5, 3.0, 2)
    assert len(table.laws) == 9  # counts 0 to 8 = D + js + 1
    assert table.laws[8] == table.laws[8][::-1]
    assert table.laws[7] != table.laws[7][::-1]
    assert exact_noise(table, 8) == exact_noise(table, 10**9)
    assert len(CellKey(5, 3.0).laws) == 6


def test_a_law_worked_out_by_hand():
    """D = 1: P(-1) = P(1) = V/2. The uniform law has the greatest variance. Counts of 1 under js = 1 move by one."""
    assert CellKey(1, 0.5).probabilities(7) == pytest.approx([0.25, 0.5, 0.25])
    assert CellKey(2, 2.0).probabilities(9) == pytest.approx([0.2] * 5)
    assert CellKey(2, 1.0, 1).probabilities(1) == pytest.approx([0, 0.5, 0, 0.5, 0])


def test_the_chance_of_no_noise():
    table = CellKey(5, 3.0, 2)
    assert table.unchanged[:3] == (1.0, 0.0, 0.0)  # 1 and 2 must move
    assert table.unchanged[8] == float(table.probabilities(100)[5])


def test_without_its_variance_bound_a_table_fails():
    """The control: mean 0 and the bounds alone."""
    free = CellKey(5, 3.0, 2)
    free.__dict__["laws"] = _laws(5, F(10), 2)
    with pytest.raises(AssertionError):
        check(free)


def test_small_counts_keep_less_variance_as_the_package_does():
    table = CellKey(5, 10.0)
    assert [round(table.variance_of(i), 3) for i in range(6)] == [0, 1.721, 3.904, 6.059, 8.097, 10]


def test_the_same_cell_has_the_same_noise_wherever_it_is_shown():
    table = CellKey(5, 3.0, 2)
    counts = np.array([12, 3, 12, 12, 40, 3])
    cells = np.array([1, 2, 3, 1, 4, 2])
    published = table.perturb(counts, stream(counts, cells))
    assert published[0] == published[3]
    assert published[1] == published[5]
    many = np.full(1000, 12)
    assert len(np.unique(table.perturb(many, stream(many)))) == 11


def test_what_is_published_is_pinned():
    counts = np.arange(3000) % 30
    published = CellKey(5, 3.0, 2).perturb(counts, stream(counts))
    assert published.dtype == np.int64
    assert hashlib.sha256(published.astype("<i8").tobytes()).hexdigest()[:16] == "e2701528ddf7a81d"


def test_cell_keys_claim_nothing():
    table = CellKey(5, 3.0, 2)
    assert table.event() is None
    assert (table.width, table.draws, table.name) == (1, 1, "cell_key")
    assert json.loads(json.dumps(table.describe())) == {"max_noise": 5, "variance": 3.0, "smallest": 2}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((0, 1.0), "max_noise=0, expected 1 to 50"),
        ((51, 1.0), "max_noise=51, expected 1 to 50"),
        ((3, 1.0, 3), "smallest=3, expected 0 <= smallest < max_noise=3"),
        ((3, 1.0, -1), "smallest=-1"),
        ((3, 0.0), "variance=0.0, expected at least 1e-06"),
        ((3, math.nan), "variance=nan"),
        ((3, 4.1), r"variance=4.1, .* at most 4 \(uniform noise\)"),
        ((5, 1.9, 2), r"variance=1.9, expected at least 2 \(counts of 1 to smallest=2 must move\)"),
    ],
)
def test_wrong_parameters_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        CellKey(*given)


def test_negative_counts_are_refused():
    counts = np.array([3, -1])
    with pytest.raises(ValueError, match="a count of -1, expected counts >= 0"):
        CellKey(2, 1.0).perturb(counts, stream(counts))
    empty = np.empty(0, np.int64)
    assert len(CellKey(2, 1.0).perturb(empty, stream(empty))) == 0
