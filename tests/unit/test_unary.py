"""Unary encodings and RAPPOR: exact laws, exact privacy, masks, Bloom filters, and what is memoized."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import scripted
from hypothesis import given, settings
from hypothesis import strategies as st

from noiselib.mechanisms import unary
from noiselib.mechanisms.categorical import in_chunks
from noiselib.mechanisms.unary import (
    EXACT_TABLE_TV,
    OptimizedUnary,
    Rappor,
    SymmetricUnary,
    Unary,
    bit_noise,
    put_bit,
    unpack,
)
from noiselib.noise import Stream, derive, encode_bigint, row_tags
from noiselib.noise.discrete import CHUNK

VECTORS = {v["id"]: v for v in json.loads((Path(__file__).parents[1] / "vectors.json").read_text())}
F = Fraction


def stream(values: np.ndarray, name: str = "column") -> Stream:
    key = derive(bytes(32), name)
    return Stream(key, row_tags(derive(bytes(32), "rows"), encode_bigint(np.arange(len(values)))), values)


def bits_law(chances: list[Fraction]) -> scripted.Law:
    """Of a mask of independent bits."""
    return {
        sum(bit << i for i, bit in enumerate(bits)): math.prod(
            (p if bit else 1 - p for p, bit in zip(chances, bits, strict=True)), start=F(1)
        )
        for bits in itertools.product((0, 1), repeat=len(chances))
    }


# ---- masks -----------------------------------------------------------------------------------------------------------


@given(bits=st.integers(1, 200), data=st.data())
def test_bits_are_put_and_read_where_they_belong(bits, data):
    width = -(-bits // 64)
    known = np.array(data.draw(st.lists(st.booleans(), min_size=3 * bits, max_size=3 * bits))).reshape(3, bits)
    masks = np.zeros((3, width), np.int64)
    for i in range(bits):
        put_bit(masks, np.full(3, i), known[:, i].astype(np.int64))
    np.testing.assert_array_equal(unpack(masks, bits), known)
    index = np.array([0, bits // 2, bits - 1])
    put_bit(masks, index, np.array([1, 0, 1]))
    known[np.arange(3), index] = [True, False, True]
    np.testing.assert_array_equal(unpack(masks, bits), known)


@pytest.mark.parametrize("bits", [1, 13, 14, 16, 64, 65, 100, 8192])
def test_groups_cover_each_bit_once_within_the_words(bits):
    noise = bit_noise(bits, F(1, 4))
    covered = [word * 64 + shift + i for word, shift, table in noise.groups for i in range(table.bits)]
    assert covered == list(range(bits))
    assert all(shift + table.bits <= 64 for _, shift, table in noise.groups)
    sizes = {table.bits for _, _, table in noise.groups if bits <= 64}
    assert max(sizes, default=0) - min(sizes, default=0) <= 1
    assert noise.tv_bound <= 2**-40
    assert noise.width == -(-bits // 64)


def test_sixteen_categories_take_one_block():
    assert [table.bits for _, _, table in bit_noise(16, F(1, 4)).groups] == [8, 8]
    assert OptimizedUnary(tuple(range(16)), 1.0).draws == 1


@pytest.mark.parametrize("probability", [F(0), F(1), F(1, 3), F(1, 2**60)])
def test_patterns_of_bits_are_independent_to_the_bound(probability):
    noise = bit_noise(10, probability)
    (_, _, table) = noise.groups[0]
    ideal = bits_law([probability] * 10)
    found = dict(enumerate(table.probabilities()))
    assert scripted.distance(found, ideal) <= EXACT_TABLE_TV


# ---- SUE and OUE -----------------------------------------------------------------------------------------------------


def sue_block(oracle: SymmetricUnary) -> dict:
    (_, _, table) = oracle.noise.groups[0]
    return {("", 0): scripted.both(scripted.of_table(table), scripted.of_coin(oracle.support[0]))}


def oue_block(oracle: OptimizedUnary) -> dict:
    (_, _, table) = oracle.noise.groups[0]
    return {("", 0): scripted.both(scripted.of_bit(scripted.of_table(table), 15))}


def exact_laws(oracle: Unary) -> list[scripted.Law]:
    block = oue_block(oracle) if isinstance(oracle, OptimizedUnary) else sue_block(oracle)
    return [scripted.law(oracle.perturb, x, block) for x in range(len(oracle.categories))]


def ideal_laws(oracle: Unary) -> list[scripted.Law]:
    (p, q), k = oracle.support, len(oracle.categories)
    return [bits_law([p if i == x else q for i in range(k)]) for x in range(k)]


@pytest.mark.parametrize("kind", [SymmetricUnary, OptimizedUnary])
@pytest.mark.parametrize(("k", "epsilon"), [(2, 1.0), (4, 0.1), (5, 4.0)])
def test_unary_encodings_are_their_laws_exactly(kind, k, epsilon):
    oracle = kind(tuple(range(k)), epsilon)
    scripted.check_oracle(oracle, exact_laws(oracle), ideal_laws(oracle))


def test_two_groups_of_noise_are_independent(monkeypatch):
    monkeypatch.setattr(unary, "MAX_BITS", 2)
    oracle = OptimizedUnary(tuple(range(4)), 0.777)  # an epsilon of this test alone, as tables are cached
    (_, _, one), (_, _, two) = oracle.noise.groups
    blocks = {("", 0): scripted.both(scripted.of_bit(scripted.of_table(one), 15), scripted.of_table(two))}
    (p, q) = oracle.support
    for x in range(4):
        found = scripted.law(oracle.perturb, x, blocks)
        assert scripted.distance(found, bits_law([p if i == x else q for i in range(4)])) <= oracle.tv_bound


class Unflipped(OptimizedUnary):
    """The bug: category 0 keeps its bit."""

    def perturb(self, points, stream):
        codes = super().perturb(points, stream)
        return np.where(points == 0, codes | 1, codes)


class Stuck(OptimizedUnary):
    """The bug: bit 1 is never noisy."""

    def perturb(self, points, stream):
        codes = super().perturb(points, stream)
        return np.where(points == 1, codes, codes & ~2)


class OffByOne(OptimizedUnary):
    """The bug: the next category's bit is the true one."""

    def perturb(self, points, stream):
        return super().perturb((points + 1) % len(self.categories), stream)


class Biased(OptimizedUnary):
    """The bug: p is 2% too high, and so is epsilon."""

    def perturb(self, points, stream):
        noise = self.noise

        def draw(rows, part):
            masks, _ = noise.draw(part)
            heads = part.words(0)[:, 1] < np.uint64(int(0.51 * 2**64))
            put_bit(masks, rows, heads.astype(np.int64))
            return masks[:, 0]

        return in_chunks(draw, 1, points, stream)


@pytest.mark.parametrize("bug", [Unflipped, Stuck, OffByOne])
def test_planted_bugs_fail_the_exact_check(bug):
    oracle = bug(tuple(range(4)), 1.0)
    with pytest.raises(AssertionError):
        scripted.check_oracle(oracle, exact_laws(oracle), ideal_laws(oracle))


def test_a_true_bit_two_percent_off_fails_the_exact_check():
    oracle = Biased(tuple(range(4)), 1.0)
    (_, _, table) = oracle.noise.groups[0]
    block = {("", 0): scripted.both(scripted.of_table(table), scripted.of_coin(F(int(0.51 * 2**64), 2**64)))}
    laws = [scripted.law(oracle.perturb, x, block) for x in range(4)]
    assert scripted.excess(laws[0], laws[1], 1.0) > 1e-3 > oracle.event().slack
    with pytest.raises(AssertionError):
        scripted.check_oracle(oracle, laws, ideal_laws(oracle))


@settings(max_examples=100, deadline=None)
@given(epsilon=st.floats(1e-6, 50) | st.sampled_from([0.1, 1.0, math.log(3), 20.0]))
def test_the_odds_of_two_one_hot_codes_never_exceed_e_to_the_epsilon_and_come_close(epsilon):
    for kind in (SymmetricUnary, OptimizedUnary):
        p, q = kind(("a", "b"), epsilon).support
        odds = p * (1 - q) / ((1 - p) * q)
        power = scripted.power_of_e(epsilon)
        assert isinstance(odds, Fraction)
        assert 1 <= odds <= power
        assert float(odds / power) == pytest.approx(1, rel=1e-12)


def test_the_published_variance_of_optimized_unary_encoding():
    vector = VECTORS["oue"]
    oracle = OptimizedUnary(("a", "b"), float(vector["inputs"]["epsilon"]))
    expected = vector["expected"]["n_variance"]
    assert oracle.frequency_variance(0.0) == pytest.approx(expected, rel=vector["relative_tolerance"])
    assert oracle.frequency_variance(0.5) == pytest.approx(expected + 0.5, rel=1e-5)
    half = math.exp(0.5)
    assert SymmetricUnary(("a", "b"), 1.0).frequency_variance(0.3) == pytest.approx(half / (half - 1) ** 2)


@pytest.mark.parametrize("kind", [SymmetricUnary, OptimizedUnary])
@pytest.mark.parametrize("k", [64, 65, 130])
def test_wide_masks_have_each_bit_as_often_as_they_should(kind, k):
    oracle = kind(tuple(range(k)), 1.0)
    points = np.arange(60_000) % k
    codes = oracle.perturb(points, stream(points))
    assert codes.dtype == np.int64
    assert codes.shape == ((60_000,) if k == 64 else (60_000, oracle.width))
    bits = oracle.supports(codes)
    true = bits[np.arange(len(points)), points]
    p, q = (float(x) for x in oracle.support)
    assert abs(true.mean() - p) < 6.5 * math.sqrt(p * (1 - p) / len(points))
    shares = (bits.sum(0) - np.bincount(points, true, k)) / (len(points) - np.bincount(points, minlength=k))
    assert np.abs(shares - q).max() < 6.5 * math.sqrt(q * (1 - q) / 58_000)


@pytest.mark.parametrize("kind", [SymmetricUnary, OptimizedUnary])
def test_rows_do_not_depend_on_the_others(kind):
    oracle = kind(tuple(range(70)), 1.0)
    points = np.arange(CHUNK + 100) % 70
    codes = oracle.perturb(points, stream(points))
    chosen = np.array([3, CHUNK - 1, CHUNK, CHUNK + 99])
    np.testing.assert_array_equal(codes[chosen], oracle.perturb(points[chosen], stream(points)[chosen]))


def digest(codes: np.ndarray) -> str:
    return hashlib.sha256(codes.astype("<i8").tobytes()).hexdigest()[:16]


def test_what_is_published_is_pinned():
    points = np.arange(1000) % 70
    assert digest(SymmetricUnary(tuple(range(70)), 1.0).perturb(points, stream(points))) == "7f39e520a661bd8b"
    assert digest(OptimizedUnary(tuple(range(70)), 1.0).perturb(points, stream(points))) == "e8b20ba305887ad6"
    rappor = Rappor(tuple(range(70)), 0.5, 0.25, 0.75, hashes=2, bits=32, cohorts=8)
    assert digest(rappor.perturb(points, stream(points), stream(points, "permanent"))) == "ef0400c6106ce706"


def test_unary_encodings_tell_what_an_estimator_needs():
    told = json.loads(json.dumps(OptimizedUnary(("a", "b"), 1.0).describe()))
    assert told == {"categories": ["a", "b"], "epsilon": 1.0, "p": 0.5, "q": pytest.approx(1 / (math.e + 1))}


# ---- RAPPOR ----------------------------------------------------------------------------------------------------------


def rappor_blocks(rappor: Rappor) -> dict:
    flip, one, zero = (scripted.both(scripted.of_table(noise.groups[0][2])) for noise in rappor._noises)
    blocks = {("", 0): flip, ("one", 0): one, ("zero", 0): zero}
    return blocks if rappor.cohorts == 1 else {**blocks, ("cohort", 0): scripted.below(rappor.cohorts)}


def run(rappor: Rappor):
    return lambda points, script: rappor.perturb(points, script, script)


def ideal_reports(rappor: Rappor) -> list[scripted.Law]:
    """From the definition: Bloom bits, then q* where they are 1 and p* where they are 0."""
    q, p = rappor.support
    laws = []
    for x in range(len(rappor.categories)):
        law = {}
        for cohort in range(rappor.cohorts):
            ones = set(rappor.positions[cohort, x].tolist())
            for mask, chance in bits_law([q if i in ones else p for i in range(rappor.size)]).items():
                law[mask if rappor.cohorts == 1 else (mask, cohort)] = chance / rappor.cohorts
        laws.append(law)
    return laws


REPORTS = [
    Rappor(("a", "b", "c"), 0.5, 0.5, 0.75),
    Rappor(("a", "b"), 0.25, 0.0, 1.0),
    Rappor(("a", "b", "c"), 0.5, 0.25, 0.75, hashes=2, bits=3, cohorts=2),
]


@pytest.mark.parametrize("rappor", REPORTS, ids=["one-hot", "permanent", "Bloom"])
def test_a_report_is_its_law_exactly(rappor):
    laws = [scripted.law(run(rappor), x, rappor_blocks(rappor)) for x in range(len(rappor.categories))]
    for found, ideal in zip(laws, ideal_reports(rappor), strict=True):
        assert scripted.distance(found, ideal) <= rappor.tv_bound
    for a, b in itertools.permutations(ideal_reports(rappor), 2):
        assert scripted.excess(a, b, rappor.epsilon_report) == 0
    for a, b in itertools.permutations(laws, 2):
        assert scripted.excess(a, b, rappor.epsilon_report) <= 4 * rappor.tv_bound


def test_the_permanent_response_has_its_epsilon_and_no_less():
    """With p = 0 and q = 1 a report is the permanent response."""
    rappor = Rappor(("a", "b"), 0.5, 0.0, 1.0)
    one, other = ideal_reports(rappor)
    assert max(one[o] / other[o] for o in one) == F(9)
    assert rappor.epsilon_permanent == pytest.approx(math.log(9))
    assert rappor.epsilon_report == rappor.epsilon_permanent
    assert math.exp(rappor.epsilon_permanent) >= 9 * (1 - 1e-15)


def test_the_published_epsilons():
    """Natural logarithms: base 10 would give 0.4666 for one report, base 2 1.5499."""
    vector = VECTORS["rappor"]
    inputs, expected = vector["inputs"], vector["expected"]
    rappor = Rappor(("a", "b"), inputs["f"], inputs["p"], inputs["q"], hashes=inputs["h"], bits=16)
    for name in ("epsilon_permanent", "epsilon_report"):
        assert getattr(rappor, name) == pytest.approx(expected[name], rel=vector["relative_tolerance"])
    assert Rappor(("a", "b"), 0.5, 0.5, 0.75).epsilon_permanent == pytest.approx(2 * math.log(3))  # h = 1


def test_what_is_charged_is_the_permanent_response():
    rappor = Rappor(("a", "b"), 0.5, 0.5, 0.75)
    event = rappor.event()
    assert (event.kind, event.pure_epsilon) == ("pure_dp", rappor.epsilon_permanent)
    assert 0 < event.slack < 2**-40


def test_one_hot_reports_estimate_without_bias_and_with_their_variance():
    rappor = REPORTS[0]
    for x, law in enumerate(ideal_reports(rappor)):
        weights = rappor.weights(np.array(list(law)))
        chances = np.array([float(p) for p in law.values()])
        np.testing.assert_allclose(chances @ weights, np.arange(3) == x, atol=1e-12)
        squares = chances @ weights**2
        assert squares[x] - 1 == pytest.approx(rappor.frequency_variance(1.0))
        assert squares[x - 1] == pytest.approx(rappor.frequency_variance(0.0))


def test_the_design_is_the_chance_of_each_bit():
    rappor = REPORTS[2]
    design = rappor.design()
    assert design.shape == (2, 3, 3)
    for x, law in enumerate(ideal_reports(rappor)):
        for cohort, bit in itertools.product(range(2), range(3)):
            chance = sum(p for (mask, c), p in law.items() if c == cohort and mask >> bit & 1)
            assert design[cohort, bit, x] == pytest.approx(float(chance * rappor.cohorts))


def test_hash_positions_are_sha_256_of_cohort_hash_and_category():
    rappor = Rappor(("x", "ñ"), 0.5, 0.5, 0.75, hashes=2, bits=100, cohorts=3)
    expected = int(hashlib.sha256("2,1,ñ".encode()).hexdigest(), 16) % 100
    assert rappor.positions.shape == (3, 2, 2)
    assert rappor.positions[2, 1, 1] == expected
    flags = Rappor((True, False), 0.5, 0.5, 0.75, bits=100)
    assert flags.positions[0, 0, 0] == int(hashlib.sha256(b"0,0,true").hexdigest(), 16) % 100


def test_the_permanent_response_is_the_units_own_and_reports_are_fresh():
    rappor = Rappor(tuple(range(10)), 0.5, 0.0, 1.0)  # a report is the permanent response
    points = np.arange(5000) % 10
    permanent = stream(points, "permanent")
    first, second = (rappor.perturb(points, stream(points, name), permanent) for name in ("one", "two"))
    np.testing.assert_array_equal(first, second)
    fresh = Rappor(tuple(range(10)), 0.5, 0.25, 0.75)
    first, second = (fresh.perturb(points, stream(points, name), permanent) for name in ("one", "two"))
    assert (first != second).mean() > 0.9


def cohorts_of(rappor: Rappor, value: int, kind: type[Stream] = Stream) -> np.ndarray:
    points = np.full(2000, value)
    plain = stream(points, "permanent")
    return rappor.perturb(points, stream(points), kind(plain.key, plain.tags, plain.values))[:, -1]


class BoundToValue(Stream):
    """The bug: the cohort's words depend on the value."""

    def use(self, name, values=None):
        return super().use(name)


def test_the_cohort_is_uniform_and_does_not_depend_on_the_value():
    rappor = Rappor(("a", "b"), 0.5, 0.5, 0.75, hashes=2, bits=16, cohorts=4)
    members = cohorts_of(rappor, 0)
    np.testing.assert_array_equal(members, cohorts_of(rappor, 1))
    assert np.abs(np.bincount(members, minlength=4) - 500).max() < 6.5 * math.sqrt(375)
    assert (cohorts_of(rappor, 0, BoundToValue) != cohorts_of(rappor, 1, BoundToValue)).any()  # the control


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"f": 0.0}, "f=0.0, expected 0 < f < 1"),
        ({"p": 0.75, "q": 0.5}, "p=0.75 and q=0.5, expected 0 <= p < q <= 1"),
        ({"hashes": 2}, "hashes=2 and cohorts=1, expected 1 and 1 where bits is None"),
        ({"bits": 1}, "bits=1, expected 2 to 8192"),
        ({"bits": 8, "hashes": 0}, "hashes=0, expected 1 to 64"),
        ({"bits": 8, "cohorts": 5000}, "cohorts=5000, expected 1 to 4096"),
    ],
)
def test_wrong_parameters_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        Rappor(("a", "b"), **{"f": 0.5, "p": 0.25, "q": 0.75, **given})


def test_a_bloom_filter_has_no_bit_per_category():
    rappor = REPORTS[2]
    with pytest.raises(ValueError, match="bits=3: a Bloom filter's bits are no categories"):
        rappor.supports(np.zeros((1, 2), np.int64))
    told = json.loads(json.dumps(rappor.describe()))
    assert (told["hashes"], told["bits"], told["cohorts"]) == (2, 3, 2)
    assert told["epsilon_permanent"] == rappor.epsilon_permanent
