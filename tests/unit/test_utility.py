"""Noise for augmentation: exact laws of what happens at a rate, factors bit by bit."""

from __future__ import annotations

import hashlib
import json
import math
from fractions import Fraction as F

import numpy as np
import pytest
import scripted
from false_alarms import SIGMAS

from noiselib.mechanisms.utility import GaussianDropout, Impulse, Masking, MultiplicativeGaussian, Swap
from noiselib.noise import RoundedGaussian, Stream, derive, encode_bigint, row_tags
from noiselib.noise.discrete import CHUNK

RATES = (0.0, 0.1, 1 / 3, 0.5, 1.0)
ALL = (MultiplicativeGaussian(0.3), GaussianDropout(0.2), Masking(0.1), Impulse(0.1), Swap(0.3))


def stream(values: np.ndarray, name: str = "column") -> Stream:
    key = derive(bytes(32), name)
    return Stream(key, row_tags(derive(key, "rows"), encode_bigint(np.arange(len(values)))), values)


# ---- at a rate -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", RATES)
def test_masking_is_its_law(rate):
    masking, p = Masking(rate), F(repr(rate))
    found = scripted.law(masking.perturb, 0, {("", 0): scripted.both(scripted.of_coin(p))})
    assert scripted.distance(found, {0: 1 - p, 1: p}) <= masking.tv_bound


@pytest.mark.parametrize("rate", RATES)
def test_impulse_is_its_law(rate):
    impulse, p = Impulse(rate), F(repr(rate))
    top = [(0, F(1, 2)), (2**63, F(1, 2))]
    found = scripted.law(impulse.perturb, 0, {("", 0): scripted.both(scripted.of_coin(p), top)})
    assert scripted.distance(found, {0: 1 - p, 1: p / 2, 2: p / 2}) <= impulse.tv_bound
    assert found.get(1) == found.get(2)


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("rate", RATES)
def test_swap_is_its_law(rate, rows):
    swap, p = Swap(rate), F(repr(rate))
    blocks = {("", 0): scripted.both(scripted.of_coin(p)), ("", 1): scripted.below(rows)}
    found = scripted.law(swap.perturb, rows, blocks)
    assert scripted.distance(found, {-1: 1 - p} | dict.fromkeys(range(rows), p / rows)) <= swap.tv_bound


def test_swaps_keep_marginals_and_break_correlations():
    """At rate p the correlation of a column with its true values is 1 - p, of two columns times (1 - p)^2."""
    rows, rate = 400_000, 0.3
    generator = np.random.default_rng(5)
    first = generator.normal(size=rows)
    second = 0.8 * first + 0.6 * generator.normal(size=rows)
    counts = np.full(rows, rows)

    def swapped(column: np.ndarray, name: str) -> np.ndarray:
        donors = Swap(rate).perturb(counts, stream(counts, name))
        return np.where(donors < 0, column, column[donors])

    one, two = swapped(first, "one"), swapped(second, "two")
    assert np.corrcoef(one, first)[0, 1] == pytest.approx(1 - rate, abs=SIGMAS / math.sqrt(rows))
    assert np.corrcoef(one, two)[0, 1] == pytest.approx(0.8 * (1 - rate) ** 2, abs=SIGMAS / math.sqrt(rows))
    assert one.var() == pytest.approx(first.var(), rel=0.02)
    reused = swapped(second, "one")
    assert np.corrcoef(one, reused)[0, 1] == pytest.approx(0.8, abs=0.01)  # one draw for both columns: a planted bug


# ---- multiplied ------------------------------------------------------------------------------------------------------


def test_the_code_is_a_rounded_gaussian():
    points = np.zeros(1000, np.int64)
    law = RoundedGaussian(F(3, 10) * 2**20)
    np.testing.assert_array_equal(
        MultiplicativeGaussian(0.3).perturb(points, stream(points)), law.sample(stream(points))
    )
    assert MultiplicativeGaussian(0.3).law == law
    assert GaussianDropout(0.2).law == MultiplicativeGaussian(0.5).law  # 0.2/0.8 = 1/4
    assert GaussianDropout(0.5).law == MultiplicativeGaussian(1.0).law
    assert MultiplicativeGaussian(0.3).factor_variance == pytest.approx(0.09, rel=1e-11)
    assert GaussianDropout(0.1).factor_variance == pytest.approx(1 / 9, rel=1e-11)


def test_products_are_correctly_rounded():
    """One float64 product, then to the nearest integer, ties to even."""
    codes = np.array([0, 2**20, -(2**20), 2**19, -(2**19), 1, -1, 12345])
    for x in (0, 1, -1, 3, 1000, 2**40 + 1, -(2**52), 2**52):
        expected = [round(float(F(x) * (1 + F(int(m), 2**20)))) for m in codes]
        assert MultiplicativeGaussian.multiply(np.full(8, x), codes).tolist() == expected


def test_multiplied_values_have_the_moments_stated():
    points = np.full(200_000, 10**6)
    noise = GaussianDropout(0.2)
    values = noise.multiply(points, noise.perturb(points, stream(points))) / 1e6
    assert values.mean() == pytest.approx(1, abs=SIGMAS * 0.5 / math.sqrt(200_000))
    assert (values**2).mean() * (1 - 0.2) == pytest.approx(1, abs=0.02)


# ---- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ALL, ids=lambda m: m.name)
def test_rows_do_not_depend_on_the_others(mechanism):
    points = np.full(CHUNK + 1000, CHUNK + 1000)
    published = mechanism.perturb(points, stream(points))
    chosen = np.array([0, 7, CHUNK - 1, CHUNK, CHUNK + 999])
    np.testing.assert_array_equal(published[chosen], mechanism.perturb(points[chosen], stream(points)[chosen]))
    assert (published.dtype, published.shape, mechanism.width) == (np.int64, points.shape, 1)
    assert mechanism.perturb(points[:0], stream(points)[:0]).shape == (0,)
    assert mechanism.event() is None
    assert mechanism.tv_bound <= 2**-47
    assert mechanism.draws == (2 if mechanism.name == "swap" else 1)


def test_what_is_published_is_pinned():
    points = np.full(2000, 2000)
    digest = hashlib.sha256()
    for mechanism in ALL:
        digest.update(mechanism.perturb(points, stream(points)).astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "dcaab9710c49f336"


def test_they_tell_what_an_estimator_needs():
    told = [json.loads(json.dumps(mechanism.describe())) for mechanism in ALL]
    assert told[2:] == [{"rate": 0.1}, {"rate": 0.1}, {"rate": 0.3}]
    assert told[0] == {"sigma": 0.3, "factor_variance": pytest.approx(0.09)}
    assert told[1] == {"rate": 0.2, "sigma": 0.5, "factor_variance": pytest.approx(0.25)}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MultiplicativeGaussian(0.0), "sigma=0.0, expected"),
        (lambda: MultiplicativeGaussian(math.nan), "sigma=nan, expected"),
        (lambda: MultiplicativeGaussian(2.0**21), "sigma=2097152.0"),
        (lambda: GaussianDropout(0.0), "rate=0.0, expected"),
        (lambda: GaussianDropout(1.0), "rate=1.0, expected"),
        (lambda: Masking(-0.1), "rate=-0.1, expected 0 <= rate <= 1"),
        (lambda: Impulse(1.1), "rate=1.1, expected 0 <= rate <= 1"),
        (lambda: Swap(math.nan), "rate=nan, expected 0 <= rate <= 1"),
        (lambda: Swap(0.1).perturb(np.array([0]), stream(np.array([0]))), r"points=0\.\.0, expected 1 to"),
        (lambda: Swap(0.1).perturb(np.array([2**32]), stream(np.array([0]))), r"points=4294967296\.\.4294967296"),
    ],
)
def test_wrong_parameters_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
