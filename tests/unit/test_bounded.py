"""Duchi, one-bit mean, piecewise, hybrid, square wave: exact laws, privacy, readings and variances on small lattices."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from fractions import Fraction as F
from pathlib import Path

import numpy as np
import pytest
import scripted

from noiselib.mechanisms import bounded
from noiselib.mechanisms.bounded import Bounded, Duchi, Hybrid, OneBitMean, Piecewise, SquareWave, Window, Windowed
from noiselib.noise import Stream, derive, encode_bigint, row_tags
from noiselib.noise.discrete import CHUNK

VECTORS = {v["id"]: v for v in json.loads((Path(__file__).parents[1] / "vectors.json").read_text())}
KINDS = (Duchi, OneBitMean, Piecewise, Hybrid, SquareWave)
EPSILONS = (0.1, 0.7, 1.0, 4.0)
LENGTH = 4  # of the small lattice, 3..7


@pytest.fixture
def coarse(monkeypatch):
    """Output lattices of a few cells."""
    monkeypatch.setattr(bounded, "FINE", 12)


def small(kind: type[Bounded], epsilon: float) -> Bounded:
    return kind(F(1, 2), 3, 3 + LENGTH, epsilon)


def fine(kind: type[Bounded], epsilon: float) -> Bounded:
    """On [-1, 1], in 2^19 steps."""
    return kind(F(1, 2**18), -(2**18), 2**18, epsilon)


def stream(values: np.ndarray, name: str = "column") -> Stream:
    key = derive(bytes(32), name)
    return Stream(key, row_tags(derive(key, "rows"), encode_bigint(np.arange(len(values)))), values)


def below_any(*bounds: int) -> scripted.Blocks:
    """The results of uniform_below, told apart for every one of the bounds."""
    starts = sorted({-(-(t << 96) // bound) for bound in bounds for t in range(bound + 1)})
    return [((u >> 32, (u & 2**32 - 1) << 32), F(after - u, 2**96)) for u, after in itertools.pairwise(starts)]


def sampled(mechanism: Bounded) -> list[scripted.Law]:
    """The sampler's own law of every point, from its coins and uniform numbers."""
    bounds = [mechanism.length] if isinstance(mechanism, Duchi | Hybrid) else []
    coins: dict[int, F] = {}
    if isinstance(mechanism, Windowed):
        bounds += [mechanism.law.cells, mechanism.law.moves]
        coins = of_coins(mechanism.law.inside)
    if isinstance(mechanism, Duchi):
        coins = of_coins(mechanism.lie)
    second = [(0, F(1))]
    if isinstance(mechanism, Hybrid):
        coins = of_coins(mechanism.law.inside, mechanism.duchi.lie)
        second = list(of_coins(mechanism.alpha).items())
    blocks = {("", 0): below_any(*bounds), ("", 1): scripted.both(list(coins.items()), second)}
    return [scripted.law(mechanism.perturb, x, blocks) for x in range(mechanism.lower, mechanism.upper + 1)]


def of_coins(*probabilities: F) -> dict[int, F]:
    """A word, told apart for every one of several coins thrown with it."""
    cuts = sorted({0, 2**64, *(math.floor(p * 2**64) for p in probabilities)})
    return {low: F(high - low, 2**64) for low, high in itertools.pairwise(cuts)}


def paper_law(mechanism: Bounded, i: int) -> scripted.Law:
    """From the papers, with e^epsilon to 80 digits."""
    power = scripted.power_of_e(mechanism.epsilon)
    if isinstance(mechanism, Duchi):
        one = 1 / (power + 1) + F(i, mechanism.length) * (power - 1) / (power + 1)
        return {0: 1 - one, 1: one}
    a, w, total = mechanism.law.stretch, mechanism.law.cells, mechanism.law.total
    high = power / (power * w + total - w)
    cells = {o: high if i * a <= o < i * a + w else high / power for o in range(total)}
    if not isinstance(mechanism, Hybrid):
        return cells
    alpha = 1 - 1 / scripted.power_of_e(F(repr(mechanism.epsilon)) / 2) if mechanism.epsilon > 0.61 else F(0)
    ends = paper_law(mechanism.duchi, i)
    return {o: alpha * p for o, p in cells.items()} | {-1: (1 - alpha) * ends[0], total: (1 - alpha) * ends[1]}


def own_law(mechanism: Bounded, i: int) -> scripted.Law:
    """From the mechanism's own Fractions."""
    if isinstance(mechanism, Duchi):
        one = mechanism.high_probability(mechanism.lower + i)
        return {0: 1 - one, 1: one}
    a, w, total, low = mechanism.law.stretch, mechanism.law.cells, mechanism.law.total, mechanism.law.low
    cells = {o: mechanism.law.inside / w if i * a <= o < i * a + w else low for o in range(total)}
    if not isinstance(mechanism, Hybrid):
        return cells
    ends, rest = own_law(mechanism.duchi, i), 1 - mechanism.alpha
    return {o: mechanism.alpha * p for o, p in cells.items()} | {-1: rest * ends[0], total: rest * ends[1]}


def read(mechanism: Bounded, code: int) -> float:
    reading = mechanism.reading
    if reading.ends is not None and not 0 <= code < reading.codes:
        return reading.ends[code > 0]
    return reading.offset + reading.slope * code


# ---- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_law_is_within_its_bound(kind, epsilon, coarse):
    mechanism = small(kind, epsilon)
    for i, found in enumerate(sampled(mechanism)):
        paper, own = paper_law(mechanism, i), own_law(mechanism, i)
        assert sum(own.values()) == 1
        assert abs(sum(paper.values()) - 1) < F(1, 10**70)
        assert scripted.distance(found, paper) <= mechanism.tv_bound <= 2**-58
        assert scripted.distance(found, own) <= mechanism.tv_bound


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_ratio_of_probabilities_is_at_most_the_power(kind, epsilon, coarse):
    mechanism, power = small(kind, epsilon), scripted.power_of_e(epsilon)
    own, found = [own_law(mechanism, i) for i in range(LENGTH + 1)], sampled(mechanism)
    ratios = [a[o] / b[o] for a, b in itertools.permutations(own, 2) for o in a if b[o]]
    assert power * (1 - F(1, 2**50)) < max(ratios) <= power
    slack = mechanism.event().slack
    assert all(scripted.excess(a, b, epsilon) <= slack for a, b in itertools.permutations(found, 2))
    assert (mechanism.event().kind, mechanism.event().parameters) == ("pure_dp", (epsilon,))


@pytest.mark.parametrize("plant", ["window too likely", "window a cell short", "lie rounded down"])
def test_planted_bugs_break_privacy_or_law(plant, coarse, monkeypatch):
    mechanism = small(Duchi if plant.startswith("lie") else Piecewise, 1.0)
    if plant == "window too likely":
        monkeypatch.setattr(Window, "inside", 1 - mechanism.law.moves * mechanism.law.low * F(98, 100))
    if plant == "window a cell short":
        right = Window.draw
        monkeypatch.setattr(Window, "draw", lambda self, i, w, c: np.minimum(right(self, i, w, c), self.total - 2))
    if plant == "lie rounded down":
        monkeypatch.setattr(Duchi, "lie", F(1, 2**60) * math.floor(mechanism.lie * 2**60 * F(98, 100)))
        mechanism = small(Duchi, 1.0)
    found = sampled(mechanism)
    far = max(scripted.distance(law, paper_law(mechanism, i)) for i, law in enumerate(found))
    assert far > 1000 * mechanism.tv_bound
    if plant != "window a cell short":
        excess = max(scripted.excess(a, b, 1.0) for a, b in itertools.permutations(found, 2))
        assert excess > 1000 * mechanism.event().slack


# ---- readings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", EPSILONS)
@pytest.mark.parametrize("kind", [Duchi, Piecewise, Hybrid])
def test_readings_are_unbiased_with_the_stated_variance(kind, epsilon, coarse):
    mechanism = small(kind, epsilon)
    variances = []
    for i in range(LENGTH + 1):
        law = {read(mechanism, o): float(p) for o, p in own_law(mechanism, i).items()}
        mean = sum(v * p for v, p in law.items())
        variances.append(sum((v - mean) ** 2 * p for v, p in law.items()))
        assert mean == pytest.approx((3 + i) / 2, rel=1e-11)
        assert mechanism.variance_at(3 + i) == pytest.approx(variances[-1], rel=1e-11)
        if kind is Duchi:
            error = sum(abs(v - mean) * p for v, p in law.items())
            assert error <= mechanism.mean_abs * (1 + 1e-12)
            assert i != LENGTH // 2 or error == pytest.approx(mechanism.mean_abs, rel=1e-12)
    assert mechanism.variance == pytest.approx(max(variances), rel=1e-11)


def test_the_mean_of_a_window_is_exactly_affine():
    window = Window(6, 5, 7, F(1))
    means = [window.moments(i)[0] for i in range(7)]
    assert {b - a for a, b in itertools.pairwise(means)} == {window.gain}
    for i in range(7):
        chances = [window.inside / 7 if 5 * i <= o < 5 * i + 7 else window.low for o in range(window.total)]
        assert window.moments(i) == (
            sum(o * p for o, p in enumerate(chances)),
            sum(o * o * p for o, p in enumerate(chances)),
        )


@pytest.mark.parametrize("kind", [Duchi, Piecewise])
def test_published_worst_variances(kind):
    vector = VECTORS["duchi" if kind is Duchi else "piecewise-1"]
    expected, tolerance = vector["expected"]["worst_variance"], vector["relative_tolerance"]
    assert fine(kind, float(vector["inputs"]["epsilon"])).variance == pytest.approx(expected, rel=tolerance)


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 2.5, 6.0])
@pytest.mark.parametrize("x", [-1.0, -0.5, 0.0, 0.25, 1.0])
def test_variances_are_those_of_the_papers(x, epsilon):
    """On [-1, 1]: Wang et al. 2019, equations 4, 6 and 11; Li et al. 2020's density, integrated, on [0, 1]."""
    e, s, point = math.exp(epsilon), math.exp(epsilon / 2), round(x * 2**18)
    duchi = ((e + 1) / (e - 1)) ** 2 - x * x
    piecewise = x * x / (s - 1) + (s + 3) / (3 * (s - 1) ** 2)
    alpha = 1 - 1 / s if epsilon > 0.61 else 0
    assert fine(Duchi, epsilon).variance_at(point) == pytest.approx(duchi, rel=1e-9)
    assert fine(OneBitMean, epsilon).variance_at(point) == pytest.approx(duchi, rel=1e-9)
    assert fine(Piecewise, epsilon).variance_at(point) == pytest.approx(piecewise, rel=1e-5)
    mixed = alpha * piecewise + (1 - alpha) * duchi
    assert fine(Hybrid, epsilon).variance_at(point) == pytest.approx(mixed, rel=1e-5)
    b = (epsilon * e - e + 1) / (2 * e * (e - 1 - epsilon))
    q, y = 1 / (2 * b * e + 1), (x + 1) / 2
    share = q * (e - 1) * 2 * b
    mean = q * (1 + 2 * b) / 2 + share * y
    wave = q * ((1 + b) ** 3 + b**3) / 3 + share * (y * y + b * b / 3) - mean**2
    assert fine(SquareWave, epsilon).variance_at(point) / 4 == pytest.approx(wave, rel=1e-5)


def test_the_worst_variances_of_hybrid():
    """Above epsilon* the variance is the same for all values; at epsilon* both choices are as good (Wang et al. 2019)."""
    for epsilon in (0.7, 1.0, 3.0):
        s, e = math.exp(epsilon / 2), math.exp(epsilon)
        published = (s + 3) / (3 * s * (s - 1)) + (e + 1) ** 2 / (s * (e - 1) ** 2)
        mechanism = fine(Hybrid, epsilon)
        assert [mechanism.variance_at(x) for x in (-(2**18), 77, 2**18)] == pytest.approx([published] * 3, rel=1e-5)
        assert mechanism.variance <= min(fine(Duchi, epsilon).variance, fine(Piecewise, epsilon).variance)
    root = math.sqrt(241)
    cubes = 2 * (6353 - 405 * root) ** (1 / 3) + 2 * (6353 + 405 * root) ** (1 / 3)
    threshold = math.log((cubes - 5) / 27)
    assert fine(Hybrid, threshold - 1e-9).alpha == 0 == fine(Hybrid, threshold - 1e-9).in_window
    above = fine(Hybrid, threshold + 1e-9)
    assert float(above.alpha) == pytest.approx(1 - math.exp(-threshold / 2), rel=1e-8)
    assert above.variance == pytest.approx(fine(Duchi, threshold).variance, rel=1e-5)


def test_a_reading_without_its_correction_is_biased(coarse):
    mechanism = small(Piecewise, 1.0)
    raw = [sum(o * float(p) for o, p in own_law(mechanism, i).items()) for i in (0, LENGTH)]
    naive = [3 / 2 + o / mechanism.stretch / 2 for o in raw]  # the window's begin, as if every code lay there
    assert max(abs(n - x) for n, x in zip(naive, (1.5, 3.5), strict=True)) > 0.3


def test_one_bit_means_are_the_papers():
    mechanism = OneBitMean(F(1), 0, 100, 1.0)
    zero, one = mechanism.values
    assert (mechanism.reading.offset, mechanism.reading.slope) == (0.0, 1.0)
    assert zero == pytest.approx(100 * (0 * (math.e + 1) - 1) / (math.e - 1), rel=1e-12)
    assert one == pytest.approx(100 * (1 * (math.e + 1) - 1) / (math.e - 1), rel=1e-12)
    assert OneBitMean(F(1), 20, 120, 1.0).values == pytest.approx((zero + 20, one + 20), rel=1e-12)
    p = float(mechanism.high_probability(30))
    assert zero * (1 - p) + one * p == pytest.approx(30, rel=1e-12)


# ---- square wave -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1e-6, 0.5, 1.0, 3.0])
def test_the_window_of_the_square_wave_has_the_published_width(epsilon):
    mechanism = fine(SquareWave, epsilon)
    e = math.exp(epsilon)
    b = 0.5 if epsilon < 1e-3 else (epsilon * e - e + 1) / (2 * e * (e - 1 - epsilon))
    assert mechanism.window / mechanism.law.moves == pytest.approx(2 * b, rel=1e-6)
    assert read(mechanism, 0) == pytest.approx(-1 - 2 * b, rel=1e-6)
    assert read(mechanism, mechanism.law.total - 1) == pytest.approx(1 + 2 * b, rel=1e-6)
    middle = mechanism.stretch * 2**18 + (mechanism.window - 1) / 2
    assert mechanism.reading.offset + mechanism.reading.slope * middle == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (2, 3), (5, 7), (3, 16), (5, 18)])
def test_transition_matrices_are_those_of_the_law(inputs, outputs, coarse):
    mechanism = small(SquareWave, 1.0)
    expected, points = np.zeros((outputs, inputs)), np.zeros(inputs)
    for i in range(LENGTH + 1):
        column = i * inputs // (LENGTH + 1)
        points[column] += 1
        for o, p in own_law(mechanism, i).items():
            expected[o * outputs // mechanism.law.total, column] += float(p)
    np.testing.assert_allclose(mechanism.transition(inputs, outputs), expected / points, rtol=1e-12)


def test_transition_matrices_of_fine_lattices():
    matrix = fine(SquareWave, 1.0).transition(64, 128)
    np.testing.assert_allclose(matrix.sum(0), 1, rtol=1e-12)
    np.testing.assert_allclose(matrix, matrix[::-1, ::-1], rtol=1e-3)
    assert matrix.max() / matrix.min() == pytest.approx(math.e, rel=1e-6)
    largest = SquareWave(F(1), 0, 2**31 - 1, 1e-6).transition(3, 5)
    np.testing.assert_allclose(largest.sum(0), 1, rtol=1e-12)
    for wrong in ((0, 5), (2**19 + 2, 5), (5, 0)):
        with pytest.raises(ValueError, match=r"inputs=.*, outputs=.*, expected 1 to 524289"):
            fine(SquareWave, 1.0).transition(*wrong)


# ---- what the plan and the kernel ask --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_depend_on_the_others(kind):
    mechanism = fine(kind, 1.0)
    points = (np.arange(CHUNK + 1000) * 7919) % (2**19 + 1) - 2**18
    published = mechanism.perturb(points, stream(points))
    chosen = np.array([0, 7, CHUNK - 1, CHUNK, CHUNK + 999])
    np.testing.assert_array_equal(published[chosen], mechanism.perturb(points[chosen], stream(points)[chosen]))
    assert (published.dtype, published.shape, mechanism.width, mechanism.draws) == (np.int64, points.shape, 1, 2)
    codes = mechanism.reading.codes
    assert published.min() >= (-1 if kind is Hybrid else 0)
    assert published.max() <= (codes if kind is Hybrid else codes - 1)
    assert codes < 2**32


def test_what_is_published_is_pinned():
    points = (np.arange(3000) * 7919) % (2**19 + 1) - 2**18
    digest = hashlib.sha256()
    for kind in KINDS:
        digest.update(fine(kind, 1.0).perturb(points, stream(points)).astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "ef7f4debcd7f896d"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("epsilon", [1e-6, 0.61, 1000.0])
@pytest.mark.parametrize("length", [1, 2, 3, 2**31 - 1])
def test_extremes_are_handled(length, epsilon, kind):
    mechanism = kind(F(3), 5, 5 + length, epsilon)
    points = np.array([5, 5 + length])
    codes = mechanism.perturb(points, stream(points))
    told = json.loads(json.dumps(mechanism.describe()))
    assert all(math.isfinite(read(mechanism, int(code))) for code in codes)
    assert math.isfinite(told["variance"])
    assert (told["lower"], told["upper"], told["epsilon"]) == (15.0, 15.0 + 3 * length, epsilon)
    assert mechanism.tv_bound < 2**-58
    if isinstance(mechanism, Windowed):
        assert mechanism.law.total < 2**32
        assert mechanism.window >= 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((F(0), 0, 10, 1.0), "step=0, expected a Fraction above 0"),
        ((F(1), 10, 10, 1.0), r"lower=10, upper=10, expected 1 to 2\^31 - 1 steps"),
        ((F(1), 0, 2**31, 1.0), "lower=0, upper=2147483648"),
        ((F(1), 0, 10, 0.0), "epsilon=0.0, expected 1e-06 <= epsilon <= 1000"),
        ((F(1), 0, 10, math.nan), "epsilon=nan"),
        ((F(1), 0, 10, 1001.0), "epsilon=1001.0"),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_wrong_parameters_are_named(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(*arguments)
