"""The staircase law: what is sampled, computed exactly, against the ideal; its privacy; its moments; a slow sampler."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import defaultdict
from fractions import Fraction as F

import mpmath as mp
import numpy as np
import pytest
import scripted

from noiselib.accounting import Event
from noiselib.mechanisms.additive import Staircase
from noiselib.noise import Stream, derive, discrete, encode_bigint, row_tags
from noiselib.noise.integers import coin, uniform_below
from noiselib.noise.staircase import RoundedStaircase

mp.mp.dps = 60
LAWS = [RoundedStaircase(*p) for p in ((1, F(1)), (1, F(4)), (2, F(1)), (3, F(1, 2)), (5, F(3)), (2, F(40)))]
DRAWN = [*LAWS, RoundedStaircase(7, F(1, 1000)), RoundedStaircase(2**18, F(1)), RoundedStaircase(2**30, F(1, 512))]


def stream_of(rows: int) -> Stream:
    key = derive(bytes(32), "column")
    return Stream(key, row_tags(derive(key, "rows"), encode_bigint(np.arange(rows))), np.arange(rows) % 101 - 50)


def below_any(*bounds: int) -> scripted.Blocks:
    """The results of uniform_below, told apart for every one of the bounds."""
    starts = sorted({-(-(t << 96) // bound) for bound in bounds for t in range(bound + 1)})
    return [((u >> 32, (u & 2**32 - 1) << 32), F(after - u, 2**96)) for u, after in itertools.pairwise(starts)]


def sampled(law: RoundedStaircase) -> scripted.Law:
    """The sampler's own probabilities, of one digit table."""
    (table,) = discrete._digit_tables(law.epsilon, False)
    digits = scripted.of_bit(scripted.of_table(table), 15)
    low_cells = 2 * law.sensitivity - law.high_cells
    blocks = {
        ("", 0): scripted.both(digits, scripted.of_coin(law.high_probability)),
        ("", 1): below_any(law.high_cells, low_cells),
    }
    return scripted.law(lambda points, stream: points + law.sample(stream), 0, blocks)


def ideal(law: RoundedStaircase, periods: int = 100) -> scripted.Law:
    """P(k) of the continuous law from its definition, in half-steps: each weight is rounded to a multiple of 10^-60."""
    cells, high, unit = 2 * law.sensitivity, law.high_cells, 10**60
    steps = [
        int(mp.nint(unit * mp.exp(-g * mp.mpf(law.epsilon.numerator) / law.epsilon.denominator)))
        for g in range(periods + 1)
    ]
    weights = [steps[g + (o >= high)] for g in range(periods) for o in range(cells)]
    found: dict[int, int] = defaultdict(int)
    for h, weight in enumerate(weights):
        for sign in (1, -1):
            found[sign * ((h + 1) // 2)] += weight
    return {k: F(weight, 2 * sum(weights)) for k, weight in found.items()}


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_it_is_within_its_bound(law):
    assert scripted.distance(sampled(law), ideal(law)) <= law.tv_bound <= 2**-45


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_it_is_private_exactly(law):
    """Of the rounded ideal law, moved by up to the sensitivity, and of the sampler's own, up to its slack."""
    found, exact = sampled(law), ideal(law)
    power = F(math.ceil(scripted.power_of_e(law.epsilon) * 10**30), 10**30)
    reach = int(30 / law.epsilon * law.sensitivity) + law.sensitivity
    ratios = [exact[k] / exact[k - moved] for moved in range(1, law.sensitivity + 1) for k in range(-reach, reach + 1)]
    assert power * F(999999, 1000000) < max(ratios) <= power
    slack = Event.pure_dp(float(law.epsilon)).with_slack(law.tv_bound).slack
    for moved in range(1, law.sensitivity + 1):
        assert scripted.excess(found, {k + moved: p for k, p in found.items()}, law.epsilon) <= slack


def test_moved_further_it_is_not_private():
    law = RoundedStaircase(3, F(1))
    exact, power = ideal(law), scripted.power_of_e(law.epsilon)
    assert max(exact[k] / exact[k - 4] for k in range(-20, 21)) > power * F(101, 100)


@pytest.mark.parametrize("law", [*LAWS, RoundedStaircase(7, F(1, 10)), RoundedStaircase(40, F(2))], ids=str)
def test_moments_and_cdf_are_those_of_the_pmf(law):
    reach = math.ceil(law.sensitivity * (1 + 60 / law.epsilon))
    k = np.arange(-reach, reach + 1)
    p = law.pmf(k)
    assert p.sum() == pytest.approx(1, rel=1e-12)
    assert p @ np.abs(k) == pytest.approx(law.mean_abs, rel=1e-11)
    assert p @ k**2 == pytest.approx(law.variance, rel=1e-11)
    np.testing.assert_allclose(np.cumsum(p), law.cdf(k), rtol=1e-11, atol=1e-14)
    np.testing.assert_array_equal(law.cdf(k + 0.5), law.cdf(k))
    if law.sensitivity < 7:
        exact = ideal(law)
        np.testing.assert_allclose([float(exact[i]) for i in range(-20, 21)], law.pmf(np.arange(-20, 21)), 1e-12, 1e-55)


@pytest.mark.parametrize("epsilon", [F(1, 2), F(1), F(3), F(8)])
def test_on_a_fine_lattice_it_has_the_published_error(epsilon):
    """E|z| = D e^(epsilon/2) / (e^epsilon - 1), Geng and Viswanath 2014, and less than Laplace's D / epsilon."""
    d = 2**24
    published = math.exp(epsilon / 2) / math.expm1(epsilon)
    assert RoundedStaircase(d, epsilon).mean_abs / d == pytest.approx(published, rel=1e-6)
    assert published < 1 / epsilon


def test_the_continuous_variance():
    """By integration over the density's steps, with gamma as in the paper."""
    e, gamma = mp.e, 1 / (1 + mp.sqrt(mp.e))
    height = (1 - 1 / e) / (2 * (gamma + (1 - gamma) / e))
    total = mp.fsum(
        2 * height * e**-g * (((g + gamma) ** 3 - g**3) / 3 + ((g + 1) ** 3 - (g + gamma) ** 3) / 3 / e)
        for g in range(200)
    )
    assert RoundedStaircase(2**24, F(1)).variance / 2.0**48 == pytest.approx(float(total), rel=1e-6)


# A slow sampler of the same words


def slow(law: RoundedStaircase, stream: Stream, row: int) -> int:
    one = stream[row : row + 1]
    tables = discrete._digit_tables(law.epsilon, False)
    number, place = 0, 0
    for i, table in enumerate(tables):
        number += int(table.pick(one.words(i // 2)[:, i % 2])[0]) << place
        place += table.bits
    after = len(tables)
    high = bool(coin(one.words(after // 2)[:, after % 2], law.high_probability)[0])
    block = one.words(after // 2 + 1)
    if high:
        offset = int(uniform_below(block, law.high_cells)[0])
    else:
        offset = law.high_cells + int(uniform_below(block, 2 * law.sensitivity - law.high_cells)[0])
    magnitude = (2 * law.sensitivity * number + offset + 1) // 2
    return -magnitude if int(one.words(0)[0, 0]) >> 15 & 1 else magnitude


@pytest.mark.parametrize("law", DRAWN, ids=str)
def test_samples_are_those_of_the_slow_sampler(law):
    stream = stream_of(1000)
    found = law.sample(stream)
    assert found.dtype == np.int64
    assert found[:200].tolist() == [slow(law, stream, row) for row in range(200)]
    assert law.draws == len(discrete._digit_tables(law.epsilon, False)) // 2 + 2


@pytest.mark.parametrize("law", DRAWN[::3], ids=str)
def test_a_draw_depends_on_its_row_alone(law, monkeypatch):
    stream = stream_of(3000)
    whole = law.sample(stream)
    order = np.random.default_rng(7).permutation(3000)
    np.testing.assert_array_equal(law.sample(stream[order]), whole[order])
    monkeypatch.setattr(discrete, "CHUNK", 700)
    np.testing.assert_array_equal(law.sample(stream), whole)
    assert law.sample(stream[:0]).shape == (0,)


def test_samples_are_pinned():
    stream, digest = stream_of(2000), hashlib.sha256()
    for law in DRAWN:
        digest.update(law.sample(stream).astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "4e22edbb7df75b1e"


# The mechanism


def test_the_mechanism_is_calibrated():
    noise = Staircase.calibrate(2**18, F(1, 2**18), 0.7)
    assert noise.law == RoundedStaircase(2**18, F(7, 10))
    event = noise.event()
    assert (event.kind, event.parameters) == ("pure_dp", (0.7,))
    assert event.slack >= noise.tv_bound
    assert noise.mean_abs == pytest.approx(math.exp(0.35) / math.expm1(0.7), rel=1e-5)
    points = np.array([5, -3, 2**40])
    stream = Stream(bytes(32), np.arange(6, dtype=np.uint64).reshape(3, 2), points)
    np.testing.assert_array_equal(noise.perturb(points, stream), points + noise.law.sample(stream))


def test_without_an_epsilon_it_has_the_shape_of_epsilon_one():
    noise = Staircase(F(1, 4), F(40))
    assert noise.law == RoundedStaircase(40, F(1))
    assert noise.event() is None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RoundedStaircase(0, F(1)), "sensitivity=0, expected an integer, 1 <= sensitivity <= 2\\^30"),
        (lambda: RoundedStaircase(2**30 + 1, F(1)), "sensitivity=1073741825"),
        (lambda: RoundedStaircase(1, F(0)), "epsilon=Fraction\\(0, 1\\), expected a Fraction"),
        (lambda: RoundedStaircase(1, 0.5), "epsilon=0.5, expected a Fraction"),  # type: ignore[arg-type]
        (lambda: RoundedStaircase(2**30, F(1, 2**11)), "sensitivity/2\\^40 <= epsilon"),
        (lambda: Staircase.calibrate(2**31, F(1), 1.0), "sensitivity=2147483648"),
    ],
)
def test_errors_name_parameter_value_and_expectation(call, message):
    with pytest.raises(ValueError, match=message):
        call()
