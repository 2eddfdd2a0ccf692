"""Local hashing, Hadamard response, subset selection: exact laws, exact privacy, exact estimators."""

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
from laws import alarm, shares

from noiselib.mechanisms import hashing
from noiselib.mechanisms.hashing import PRIME, HadamardResponse, LocalHashing, SubsetSelection
from noiselib.noise import Stream, derive, encode_bigint, row_tags
from noiselib.noise.discrete import CHUNK

VECTORS = {v["id"]: v for v in json.loads((Path(__file__).parents[1] / "vectors.json").read_text())}
ORACLES = (LocalHashing, HadamardResponse, SubsetSelection)
F = Fraction


def stream(values: np.ndarray, name: str = "column") -> Stream:
    key = derive(bytes(32), name)
    return Stream(key, row_tags(derive(bytes(32), "rows"), encode_bigint(np.arange(len(values)))), values)


# ---- local hashing ---------------------------------------------------------------------------------------------------


def hashing_laws(oracle: LocalHashing, k: int) -> list[scripted.Law]:
    """With a small prime, all hash functions can be gone through."""
    blocks = {
        ("", 0): scripted.both(scripted.of_table(oracle._law._table)),
        ("hash", 0): scripted.below(hashing.PRIME - 1),
        ("hash", 1): scripted.below(hashing.PRIME),
    }
    return [scripted.law(oracle.perturb, x, blocks) for x in range(k)]


def ideal_hashing(oracle: LocalHashing, k: int) -> list[scripted.Law]:
    p, other = oracle._law.probabilities[:2]
    prime, g = hashing.PRIME, oracle.g
    seeds = list(itertools.product(range(1, prime), range(prime)))
    return [
        {
            ((a << 31) + b, y): (p if (a * x + b) % prime % g == y else other) / len(seeds)
            for a, b in seeds
            for y in range(g)
        }
        for x in range(k)
    ]


@pytest.fixture
def small_prime(monkeypatch):
    monkeypatch.setattr(hashing, "PRIME", 7)


@pytest.mark.usefixtures("small_prime")
@pytest.mark.parametrize(("k", "epsilon", "buckets"), [(3, 1.0, None), (4, 0.5, 3), (3, 2.0, 2)])
def test_local_hashing_is_its_law_exactly(k, epsilon, buckets):
    """Its `support` counts the hash's collisions: with seven numbers in four buckets 1/g would be far off."""
    oracle = LocalHashing(tuple(range(k)), epsilon, buckets)
    scripted.check_oracle(oracle, hashing_laws(oracle, k), ideal_hashing(oracle, k))


class WrongModulus(LocalHashing):
    """The bug: reports use one bucket less than the readers' hash."""

    def _draw(self, points, part, public):
        narrow = LocalHashing(self.categories, self.epsilon, self.g - 1)
        codes = super()._draw(points, part, public)
        shift = narrow.hash(codes[:, 0], points) - self.hash(codes[:, 0], points)
        codes[:, 1] = (codes[:, 1] + shift) % self.g
        return codes


class SeedOfTheValue(LocalHashing):
    """The bug: the seed tells whether the category is 0."""

    def _draw(self, points, part, public):
        codes = super()._draw(points, part, public)
        codes[:, 0] += (points == 0) & (codes[:, 0] & 1 == 0)
        return codes


@pytest.mark.usefixtures("small_prime")
@pytest.mark.parametrize("bug", [WrongModulus, SeedOfTheValue])
def test_planted_bugs_of_hashing_fail_the_exact_check(bug):
    oracle = bug(tuple(range(3)), 1.0, 3)
    with pytest.raises(AssertionError):
        scripted.check_oracle(oracle, hashing_laws(oracle, 3), ideal_hashing(oracle, 3))


def test_two_categories_meet_less_than_once_in_g_and_hardly_less():
    for g in (2, 3, 4, 149, 8192):
        oracle = LocalHashing(("a", "b"), 1.0, g)
        p, q = oracle.support
        other = oracle._law.probabilities[1]
        meet = (q - other) / (p - other)
        assert 0 <= F(1, g) - meet <= F(1, PRIME - 1)
        assert abs(q - F(1, g)) < F(1, 2**30)


def test_the_hash_is_exact_in_64_bits():
    oracle = LocalHashing(tuple(range(8192)), 1.0, 5)
    for a, b, x in [(PRIME - 1, PRIME - 1, 8191), (1, 0, 0), (12345678, 987654321, 4242)]:
        seed = np.array([a * 2**31 + b])
        assert oracle.hash(seed, np.array([x])).tolist() == [(a * x + b) % PRIME % 5]


def test_seeds_do_not_depend_on_the_value():
    oracle = LocalHashing(tuple(range(4)), 1.0)
    zeros, ones = np.zeros(1000, np.int64), np.ones(1000, np.int64)
    one, other = oracle.perturb(zeros, stream(zeros)), oracle.perturb(ones, stream(ones))
    np.testing.assert_array_equal(one[:, 0], other[:, 0])
    a, b = one[:, 0] >> 31, one[:, 0] & PRIME
    assert len(np.unique(a)) == len(np.unique(b)) == 1000
    assert 1 <= a.min() <= a.max() < PRIME
    assert 0 <= b.min() <= b.max() < PRIME
    assert abs(np.corrcoef(a, b)[0, 1]) < 6.5 / math.sqrt(1000)


@pytest.mark.parametrize(("epsilon", "buckets"), [(0.1, 2), (1.0, 4), (math.log(3), 4), (4.0, 56), (50.0, 8192)])
def test_there_are_e_to_the_epsilon_buckets_and_one(epsilon, buckets):
    assert LocalHashing(("a", "b"), epsilon).g == buckets


def test_the_published_variance_of_local_hashing():
    """At epsilon 1 the best g, e + 1, is not whole; 4 costs 0.2% more."""
    vector = VECTORS["oue"]
    found = LocalHashing(("a", "b"), float(vector["inputs"]["epsilon"])).frequency_variance(0.0)
    assert vector["expected"]["n_variance"] <= found < 1.003 * vector["expected"]["n_variance"]
    at_whole = LocalHashing(("a", "b"), math.log(3)).frequency_variance(0.0)
    assert at_whole == pytest.approx(4 * 3 / (3 - 1) ** 2, rel=1e-8)


# ---- Hadamard response -----------------------------------------------------------------------------------------------


def hadamard_laws(oracle: HadamardResponse) -> list[scripted.Law]:
    position = scripted.of_bits(oracle.size.bit_length() - 1)
    block = {("", 0): scripted.both(scripted.of_table(oracle._law._table), position)}
    return [scripted.law(oracle.perturb, x, block) for x in range(len(oracle.categories))]


def ideal_hadamard(oracle: HadamardResponse) -> list[scripted.Law]:
    """From the paper: s e^epsilon / (s e^epsilon + K - s) on C_x, from the matrix (-1)^popcount(i & j)."""
    blocks, b = oracle.blocks, oracle.size
    p, other = oracle._law.probabilities[:2]
    assert float(p) == pytest.approx(math.exp(oracle.epsilon) / (math.exp(oracle.epsilon) + 2 * blocks - 1))
    laws = []
    for x in range(len(oracle.categories)):
        block, row = x // (b - 1), x % (b - 1) + 1
        inside = {block * b + j for j in range(b) if (row & j).bit_count() % 2 == 0}
        assert len(inside) == b // 2
        laws.append({o: (p if o in inside else other) / (b // 2) for o in range(blocks * b)})
    return laws


@pytest.mark.parametrize(
    ("k", "epsilon", "blocks", "size"), [(2, 0.5, 1, 4), (5, 0.3, 1, 8), (2, 1.0, 2, 2), (9, 1.0, 2, 8), (6, 3.0, 8, 2)]
)
def test_hadamard_response_is_its_law_exactly(k, epsilon, blocks, size):
    oracle = HadamardResponse(tuple(range(k)), epsilon)
    assert (oracle.blocks, oracle.size) == (blocks, size)
    scripted.check_oracle(oracle, hadamard_laws(oracle), ideal_hadamard(oracle))


def test_the_variance_of_hadamard_response_follows_from_its_blocks():
    oracle = HadamardResponse(tuple(range(9)), 1.0)  # blocks of 7 and 2 categories
    frequencies = np.array([0.2, 0.1, 0, 0.05, 0.05, 0.1, 0.1, 0.3, 0.1])
    second = np.zeros(9)
    for frequency, law in zip(frequencies, ideal_hadamard(oracle), strict=True):
        chances = np.array([float(p) for p in law.values()])
        second += frequency * (chances @ oracle.weights(np.array(list(law))) ** 2)
    for x, block in [(0, 0.6), (8, 0.4)]:
        assert second[x] - frequencies[x] == pytest.approx(oracle.frequency_variance(frequencies[x], block))
    assert oracle.frequency_variance(0.0) >= oracle.frequency_variance(0.0, 0.5)


def test_of_one_block_the_support_is_the_pure_protocols():
    oracle = HadamardResponse(("a", "b", "c"), 0.5)
    p, q = oracle.support
    assert q == F(1, 2)
    assert float(p) == pytest.approx(math.exp(0.5) / (math.exp(0.5) + 1))
    codes = np.arange(4)
    np.testing.assert_allclose(oracle.weights(codes), (oracle.supports(codes) - 0.5) / float(p - q))


def test_of_several_blocks_the_support_is_that_within_a_block():
    oracle = HadamardResponse(tuple(range(9)), 1.0)  # blocks of 7 and 2 categories
    p, q = (float(x) for x in oracle.support)
    chances = np.array([float(c) for c in ideal_hadamard(oracle)[0].values()])
    supported = chances @ oracle.supports(np.arange(oracle.blocks * oracle.size))
    np.testing.assert_allclose(supported[:7], [p, q, q, q, q, q, q], rtol=1e-12)
    np.testing.assert_allclose(supported[7:], 1 / (math.e + 3), rtol=1e-12)


def test_the_most_blocks():
    oracle = HadamardResponse(tuple(range(8192)), 20.0)
    assert (oracle.blocks, oracle.size) == (4096, 4)
    points = np.arange(0, 8192, 41)
    codes = oracle.perturb(points, stream(points))
    assert oracle.supports(codes)[np.arange(len(points)), points].all()  # the truth, at this epsilon


class WrongRow(HadamardResponse):
    """The bug: rows from 0, whose half is the whole block."""

    def place(self, points):
        return points // (self.size - 1), points % (self.size - 1)


class NextCategory(HadamardResponse):
    def perturb(self, points, stream):
        return super().perturb((points + 1) % len(self.categories), stream)


@pytest.mark.parametrize("bug", [WrongRow, NextCategory])
def test_planted_bugs_of_hadamard_response_fail_the_exact_check(bug):
    oracle = bug(tuple(range(5)), 0.3)
    with pytest.raises(AssertionError):
        scripted.check_oracle(oracle, hadamard_laws(oracle), ideal_hadamard(oracle))


# ---- subset selection ------------------------------------------------------------------------------------------------


def subset_laws(oracle: SubsetSelection) -> list[scripted.Law]:
    k, d = len(oracle.categories), oracle.subset
    blocks = {("", 0): scripted.both(scripted.of_coin(oracle.support[0]))}
    blocks |= {("", step): scripted.below(k - 1 - d + step) for step in range(1, d + 1)}
    return [scripted.law(oracle.perturb, x, blocks) for x in range(k)]


def ideal_subsets(oracle: SubsetSelection) -> list[scripted.Law]:
    k, d = len(oracle.categories), oracle.subset
    p = oracle.support[0]
    assert float(p) == pytest.approx(d * math.exp(oracle.epsilon) / (d * math.exp(oracle.epsilon) + k - d))
    subsets = {sum(1 << i for i in chosen): set(chosen) for chosen in itertools.combinations(range(k), d)}
    return [
        {mask: p / math.comb(k - 1, d - 1) if x in s else (1 - p) / math.comb(k - 1, d) for mask, s in subsets.items()}
        for x in range(k)
    ]


@pytest.mark.parametrize(("k", "epsilon", "d"), [(2, 1.0, 1), (3, 0.1, 1), (6, 0.1, 3), (7, 0.5, 3), (5, 4.0, 1)])
def test_subset_selection_is_its_law_exactly(k, epsilon, d):
    oracle = SubsetSelection(tuple(range(k)), epsilon)
    assert (oracle.subset, oracle.draws) == (d, d + 1)
    scripted.check_oracle(oracle, subset_laws(oracle), ideal_subsets(oracle))


class FirstStepForAll(SubsetSelection):
    """The bug: those with the true category draw d others as well."""

    def _draw(self, points, part):
        masks = np.zeros((len(points), 1), np.int64)
        true = part.words(0)[:, 0] < np.uint64(int(self.support[0] * 2**64))
        hashing.put_bit(masks, points, true.astype(np.int64))
        for step in range(1, self.subset + 1):
            last = len(self.categories) - 2 - self.subset + step
            self._add_other(masks, points, np.arange(len(points)), part.words(step), last)
        return masks[:, 0]


class OneOthersNeverDrawn(SubsetSelection):
    """The bug: the last of the others is left out."""

    def _add_other(self, masks, points, rows, words, last):
        super()._add_other(masks, points, rows, words, last - 1)


@pytest.mark.parametrize("bug", [FirstStepForAll, OneOthersNeverDrawn])
def test_planted_bugs_of_subset_selection_fail_the_exact_check(bug):
    oracle = bug(tuple(range(6)), 0.1)
    with pytest.raises(AssertionError):
        scripted.check_oracle(oracle, subset_laws(oracle), ideal_subsets(oracle))


def test_wide_subsets_have_their_size_and_each_category_as_often_as_it_should():
    oracle = SubsetSelection(tuple(range(150)), 1.0)
    points = np.arange(30_000) % 150
    codes = oracle.perturb(points, stream(points))
    assert codes.shape == (30_000, 3)
    inside = oracle.supports(codes)
    assert (inside.sum(1) == oracle.subset).all()
    p, q = (float(x) for x in oracle.support)
    true = inside[np.arange(len(points)), points]
    assert not alarm(shares(true.sum(), np.array(len(points)), np.array(p)))
    others = inside.sum(0) - np.bincount(points, true, 150)
    assert not alarm(shares(others, np.array(len(points) - 200), np.array(q)))


# ---- all -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ORACLES)
def test_rows_do_not_depend_on_the_others(kind):
    oracle = kind(tuple(range(70)), 1.0)
    points = np.arange(CHUNK + 100) % 70
    codes = oracle.perturb(points, stream(points))
    chosen = np.array([3, CHUNK - 1, CHUNK, CHUNK + 99])
    np.testing.assert_array_equal(codes[chosen], oracle.perturb(points[chosen], stream(points)[chosen]))
    assert codes.dtype == np.int64
    assert oracle.width == (1 if codes.ndim == 1 else codes.shape[1])


@pytest.mark.parametrize(
    ("kind", "pin"),
    [(LocalHashing, "a1571ee24769fd4f"), (HadamardResponse, "88021a2c169018f8"), (SubsetSelection, "bad5ef847b24c407")],
)
def test_what_is_published_is_pinned(kind, pin):
    points = np.arange(1000) % 70
    codes = kind(tuple(range(70)), 1.0).perturb(points, stream(points))
    assert hashlib.sha256(codes.astype("<i8").tobytes()).hexdigest()[:16] == pin


@pytest.mark.parametrize("kind", ORACLES)
def test_the_event_is_pure_with_the_samplers_slack(kind):
    oracle = kind(tuple("abc"), 0.7)
    event = oracle.event()
    assert (event.kind, event.pure_epsilon) == ("pure_dp", 0.7)
    assert 0 < event.slack <= oracle.tv_bound * (1 + math.exp(0.7)) * 1.01 < 2**-40


def test_oracles_tell_what_an_estimator_needs():
    told = [json.loads(json.dumps(kind(("a", "b", "c"), 1.0).describe())) for kind in ORACLES]
    assert [t["categories"] for t in told] == [["a", "b", "c"]] * 3
    assert (told[0]["buckets"], told[0]["prime"]) == (4, 2147483647)
    assert (told[1]["blocks"], told[1]["block_size"]) == (2, 4)
    assert told[1]["weight"] == pytest.approx((math.e + 3) / (math.e - 1))
    assert told[2]["subset"] == 1


def test_wrong_parameters_are_named():
    with pytest.raises(ValueError, match="buckets=1, expected 2 to 8192"):
        LocalHashing(("a", "b"), 1.0, 1)
    with pytest.raises(ValueError, match=r"epsilon=-1\.0"):
        SubsetSelection(("a", "b"), -1.0)
    with pytest.raises(ValueError, match="categories has 8193 entries"):
        HadamardResponse(tuple(range(8193)), 1.0)
