"""Dither: moments of the quantizer's error for every value, by exact enumeration of the dither."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections import defaultdict
from fractions import Fraction as F
from pathlib import Path

import numpy as np
import pytest
import scripted

from noiselib.column_plan import Context, plan_column
from noiselib.column_spec import parse_column
from noiselib.mechanisms.dither import LAWS, Dither
from noiselib.noise import Stream, derive, discrete, encode_bigint, row_tags
from noiselib.noise.discrete import CHUNK
from noiselib.noise.integers import uniform_below

VECTORS = {v["id"]: v for v in json.loads((Path(__file__).parents[1] / "vectors.json").read_text())}
RESOLUTIONS = (1, 2, 3, 4, 5, 8)


def stream(values: np.ndarray, name: str = "column") -> Stream:
    key = derive(bytes(32), name)
    return Stream(key, row_tags(derive(key, "rows"), encode_bigint(np.arange(len(values)))), values)


def uniform_blocks(n: int, law: str) -> dict[tuple[str, int], scripted.Blocks]:
    """The uniform numbers, each with its probability under an ideal word."""

    def even(bound: int) -> scripted.Blocks:
        return [(words, F(1, bound)) for words, _ in scripted.below(bound)]

    return {("", 0): even(n)} | ({("", 1): even(2 * n)} if law == "tpdf" else {})


def errors(dither: Dither, x: int) -> scripted.Law:
    """Of the published value against x, in the quantizer's steps."""
    n = dither.resolution
    codes = scripted.law(dither.perturb, x, uniform_blocks(n, dither.law))
    found: scripted.Law = defaultdict(F)
    for code, p in codes.items():
        found[F(code - 4 * x, 4 * n)] += p
    return found


def moment(law: scripted.Law, power: int) -> F:
    return sum((p * e**power for e, p in law.items()), F(0))


# ---- exact moments ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", RESOLUTIONS)
def test_tpdf_errors_have_mean_zero_and_one_mean_square(n):
    """For every value, with tolerance 0; a quarter where a step has an even number of lattice points."""
    for x in range(-2 * n, 2 * n + 1):
        law = errors(Dither(F(1), n, "tpdf", False), x)
        assert moment(law, 1) == 0
        assert moment(law, 2) == (F(1, 4) if n % 2 == 0 else F(1, 4) * (1 - F(1, n * n)))
        assert all(((x + e * n) / n).denominator == 1 for e in law)
    assert Dither(F(3), n, "tpdf", False).variance == pytest.approx(9 * float(moment(law, 2)), rel=1e-15)


def test_the_published_variance_of_tpdf():
    expected = VECTORS["dither-tpdf"]["expected"]
    law = errors(Dither(F(1), 16, "tpdf", False), 5)
    assert (float(moment(law, 1)), float(moment(law, 2))) == (expected["mean"], expected["variance"])
    assert Dither(F(1), 16, "tpdf", False).variance == expected["variance"]


@pytest.mark.parametrize("n", RESOLUTIONS)
def test_rpdf_errors_have_mean_zero_and_a_mean_square_that_follows_the_value(n):
    worst = F(0)
    for x in range(-2 * n, 2 * n + 1):
        law = errors(Dither(F(1), n, "rpdf", False), x)
        f = F(x, n) - math.floor(F(x, n))
        assert (moment(law, 1), moment(law, 2)) == (0, f * (1 - f))
        worst = max(worst, f * (1 - f))
    assert Dither(F(1), n, "rpdf", False).variance == pytest.approx(float(worst), rel=1e-15)


@pytest.mark.parametrize("law", ["rpdf", "tpdf"])
@pytest.mark.parametrize("n", RESOLUTIONS)
def test_subtractive_errors_are_uniform_whatever_the_value(n, law):
    size = n if law == "rpdf" else 2 * n
    uniform = {F(2 * j + 1 - size, 2 * size): F(1, size) for j in range(size)}
    dither = Dither(F(1), n, law, True)
    for x in range(-2 * n, 2 * n + 1):
        assert errors(dither, x) == uniform
    assert dither.variance == pytest.approx(float(moment(uniform, 2)), rel=1e-15)


@pytest.mark.parametrize("n", RESOLUTIONS)
def test_no_value_lies_between_two_levels(n):
    for law in ("rpdf", "tpdf"):
        for x, (u, v) in itertools.product(range(n), itertools.product(range(n), range(2 * n))):
            d = 2 * (2 * u + 1 - n) + (2 * v + 1 - 2 * n if law == "tpdf" else 0)
            assert (4 * x + d + 2 * n) % (4 * n) != 0


@pytest.mark.parametrize("law", ["rpdf", "tpdf"])
@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_dither_is_within_its_bound(n, law):
    dither = Dither(F(1), n, law, False)
    blocks = {("", 0): scripted.below(n)} | ({("", 1): scripted.below(2 * n)} if law == "tpdf" else {})
    found = scripted.law(lambda _, part: dither.sample(part), 0, blocks)
    ideal = scripted.law(lambda _, part: dither.sample(part), 0, uniform_blocks(n, law))
    assert scripted.distance(found, ideal) <= F(dither.tv_bound)
    values = {
        2 * (2 * u + 1 - n) + e for u in range(n) for e in (range(1 - 2 * n, 2 * n, 2) if law == "tpdf" else (0,))
    }
    assert set(ideal) == values


@pytest.mark.parametrize("n", [2, 3, 4, 64, 1000])
def test_gaussian_errors_hardly_depend_on_the_value(n):
    odd = np.arange(-24 * n - 1, 24 * n + 2, 2) if n % 2 == 0 else np.arange(-24 * n, 24 * n + 1, 2) + 1
    odd = odd[odd % 2 == 1]
    chances = np.exp(-(odd.astype(float) ** 2) / (8 * n * n))
    chances /= chances.sum()
    assert chances @ odd**2 / (4 * n) ** 2 == pytest.approx(1 / 4, rel=1e-8 if n > 1 else 1)
    for x in range(0, n, max(1, n // 50)):
        error = (4 * x + odd + 2 * n) // (4 * n) - x / n
        assert abs(chances @ error) <= 0.0024
        assert chances @ error**2 == pytest.approx(1 / 3, rel=0.05 if n < 64 else 0.024)
        left = error - odd / (4 * n)
        if n >= 64:
            assert chances @ left**2 == pytest.approx(1 / 12, rel=0.01)


def test_gaussian_dither_is_drawn_from_odd_quarters():
    """Its law's distance from the ideal one is that of the buckets, which are tested where they are made."""
    points = np.zeros(20_000, np.int64)
    dither = Dither(F(1), 3, "gaussian", False)
    drawn = dither.sample(stream(points))
    assert set((drawn % 2).tolist()) == {1}
    np.testing.assert_array_equal(
        drawn, 2 * discrete._sample_buckets(discrete._buckets(F(3), True), stream(points)) + 1
    )
    assert dither.tv_bound == discrete._buckets(F(3), True).tv_bound <= 2**-47
    assert abs(drawn.mean()) < 5 * 6 / math.sqrt(20_000)
    assert drawn.var() == pytest.approx(36, rel=0.05)


# ---- planted bugs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plant", ["off by a half", "scale", "off by one", "no dither", "one number for both"])
def test_planted_bugs_show_in_the_moments(plant, monkeypatch):
    n, right = 4, Dither.sample
    bugs = {
        "off by a half": lambda self, part: right(self, part) - 2,
        "scale": lambda self, part: right(self, part) * 2,
        "off by one": lambda self, part: right(self, part) + 4,
        "no dither": lambda self, part: right(self, part) * 0,
        "one number for both": lambda self, part: (
            4 * uniform_below(part.words(0), n) + 2 * uniform_below(part.words(0), 2 * n) + 3 - 4 * n
        ),
    }
    monkeypatch.setattr(Dither, "sample", bugs[plant])
    laws = [errors(Dither(F(1), n, "tpdf", False), x) for x in range(n)]
    assert any(moment(law, 1) != 0 or moment(law, 2) != F(1, 4) for law in laws)


# ---- levels, rows, descriptions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("subtractive", [False, True])
@pytest.mark.parametrize("levels", [(None, None), (-2, None), (None, 3), (-2, 3)])
def test_levels_are_clamped(levels, subtractive):
    points = np.arange(-200, 200)
    dither = Dither(F(1, 4), 8, "tpdf", subtractive, *levels)
    codes, free = (d.perturb(points, stream(points)) for d in (dither, Dither(F(1, 4), 8, "tpdf", subtractive)))
    removed = dither.sample(stream(points)) if subtractive else 0
    clamped = free + removed if levels == (None, None) else np.clip((free + removed) // 32, *levels) * 32
    np.testing.assert_array_equal(codes + removed, clamped)
    assert set(((codes + removed) % 32).tolist()) == {0}


@pytest.mark.parametrize("subtractive", [False, True])
def test_an_offset_moves_values_and_levels_alike(subtractive):
    """The same draws: what a value is, counted from the offset, decides."""
    points = np.zeros(500, np.int64)
    moved, plain = Dither(F(1), 8, "rpdf", subtractive, -2, 2, 3), Dither(F(1), 8, "rpdf", subtractive, -2, 2)
    words = stream(points)
    np.testing.assert_array_equal(moved.perturb(points + 8 + 3, words), plain.perturb(points + 8, words) + 12)


def planned(kind: str, **more) -> tuple:
    declared = parse_column({"mechanism": "dither", **more})
    column = plan_column(Context("x", {"x": kind}, False), declared, False)
    return column.mechanism, column.points, column.codes


@pytest.mark.parametrize("bounds", [[0, 128], [-1, 1], [18.5, 40.2], [-0.1, 0.7]])
@pytest.mark.parametrize("bits", [1, 6, 12])
def test_the_bounds_are_the_outermost_levels_and_means_are_right_up_to_them(bounds, bits):
    """rpdf, all of whose dithers are looked at: at the bounds, and anywhere between, the mean over them is the value."""
    dither, points, codes = planned("double", law="rpdf", bits=bits, bounds=bounds)
    low, high = (F(str(bound)) for bound in bounds)
    assert dither.step == (high - low) / (2**bits - 1)
    assert [points.lower * points.step, points.upper * points.step] == [low, high]
    n = dither.resolution
    assert dither.upper - dither.lower == 2**bits - 1
    assert [4 * (level * n + dither.offset) * codes.quantum for level in (dither.lower, dither.upper)] == [low, high]
    random = np.random.default_rng(4)
    some = random.integers(points.lower, points.upper, 20).tolist()
    for x in (points.lower, points.lower + 1, *some, points.upper - 1, points.upper):
        level, over = divmod(x - dither.offset, n)  # up for `over` of the n dithers, by the law
        levels = [level + 1] * (over > 0) + [level] * (over < n)
        assert all(dither.lower <= one <= dither.upper for one in levels)
        published = dither.perturb(np.full(50, x), stream(np.arange(50)))
        assert set(published.tolist()) <= {4 * (one * n + dither.offset) for one in levels}


def test_levels_of_whole_numbers_are_whole_numbers():
    dither, points, codes = planned("int32", bits=4, bounds=[-30, 120])
    assert (dither.step, dither.lower, dither.upper, codes.unit) == (10, -3, 12, 1)
    assert (points.lower, points.upper) == (-30, 120)
    dither, _, _ = planned("int64", bits=2, bounds=[1, 16])
    assert (dither.step, dither.resolution, dither.offset, dither.lower, dither.upper) == (5, 5, 1, 0, 3)
    with pytest.raises(ValueError, match=r"dither: 100 in 15 steps on type int64: expected each a whole multiple of 1"):
        planned("int64", bits=4, bounds=[0, 100])
    with pytest.raises(ValueError, match=r"dither: step 2\.5 on type int32: expected each a whole multiple of 1"):
        planned("int32", step=2.5)
    with pytest.raises(ValueError, match="bounds with fewer digits"):
        planned("double", bits=8, bounds=[0.1234567891234, 0.98765432123])


@pytest.mark.parametrize("law", LAWS)
def test_rows_do_not_depend_on_the_others(law):
    dither = Dither(F(1), 2**20, law, True)
    points = np.arange(CHUNK + 1000) * 7919 - 2**51
    published = dither.perturb(points, stream(points))
    chosen = np.array([0, 7, CHUNK - 1, CHUNK, CHUNK + 999])
    np.testing.assert_array_equal(published[chosen], dither.perturb(points[chosen], stream(points)[chosen]))
    assert (published.dtype, published.shape, dither.width) == (np.int64, points.shape, 1)
    assert np.abs(published - 4 * points).max() <= 2 * 2**20
    assert dither.event() is None
    assert dither.draws == (2 if law == "tpdf" else 1)


def test_what_is_published_is_pinned():
    points = np.arange(2000) * 7919 - 2**20
    digest = hashlib.sha256()
    for law, n, subtractive in itertools.product(LAWS, (1, 5, 2**20), (False, True)):
        digest.update(Dither(F(1), n, law, subtractive).perturb(points, stream(points)).astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "2b19486bb7aa39fe"


def test_it_tells_what_an_estimator_needs():
    told = json.loads(json.dumps(Dither(F(1, 4), 8, "tpdf", True, -1, 7).describe()))
    assert told == {"step": 0.25, "resolution": 8, "law": "tpdf", "subtractive": True, "levels": [-1, 7], "offset": 0}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((F(0), 1, "tpdf", False), "step=0, expected a Fraction above 0"),
        ((F(1), 0, "tpdf", False), "resolution=0, expected 1 to"),
        ((F(1), 2**30 + 1, "tpdf", False), "resolution=1073741825"),
        ((F(1), 1, "triangular", False), "law='triangular', expected one of rpdf, tpdf, gaussian"),
        ((F(1), 1, "tpdf", False, 3, 2), "lower=3, upper=2, expected levels in order"),
        ((F(1), 4, "tpdf", False, None, None, 4), "offset=4, expected 0 to resolution - 1, 3"),
    ],
)
def test_wrong_parameters_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        Dither(*arguments)
