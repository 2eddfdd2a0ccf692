"""The categorical mechanisms by a million rows each, and planted bugs that the same tests must reject.

Keys are fixed, so a test that passes keeps passing. A p-value below 1e-11 raises an alarm. Fewer than 60 are looked at for
right mechanisms, so under fresh keys this whole file would raise a false one with probability below 1e-9.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction as F
from typing import Any

import numpy as np
import pytest
from scipy import stats

from noiselib.mechanisms.categorical import (
    RandomizedResponse,
    Transition,
    in_chunks,
    invariant,
    offset_law,
    uniform_flip,
)
from noiselib.mechanisms.cell_key import CellKey, _laws
from noiselib.mechanisms.hashing import PRIME, HadamardResponse, LocalHashing, SubsetSelection
from noiselib.mechanisms.unary import OptimizedUnary, Rappor, SymmetricUnary, put_bit
from noiselib.noise import Stream, derive, encode_bigint, row_tags

ROWS = 1_000_000
ALARM = 1e-11
MASTER = bytes(range(32))
TAGS = row_tags(derive(MASTER, "rows"), encode_bigint(np.arange(ROWS)))
Law = dict[int, float]


def stream_of(column: str, points: np.ndarray) -> Stream:
    return Stream(derive(MASTER, column), TAGS, points)


# ---- the tests: each gives a p-value


def fit(points: np.ndarray, codes: np.ndarray, laws: list[Law]) -> float:
    """Chi-square of the codes of each point against its law; cells of fewer than 20 expected rows are one cell."""
    statistic, freedom = 0.0, 0
    for x, law in enumerate(laws):
        own = codes[points == x]
        size = 1 + max(max(law), int(own.max()))
        expected = np.zeros(size)
        expected[list(law)] = np.array(list(law.values())) * len(own)
        counts = np.bincount(own, minlength=size)
        if counts[expected == 0].any():
            return 0.0
        rare = expected < 20
        counts = np.append(counts[~rare], counts[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
        kept = expected > 0
        statistic += ((counts[kept] - expected[kept]) ** 2 / expected[kept]).sum()
        freedom += int(kept.sum()) - 1
    return float(stats.chi2.sf(statistic, freedom)) if freedom else 1.0


def shares(found: np.ndarray, rows: np.ndarray, expected: np.ndarray) -> float:
    """Counts of found among rows against their expected shares: the worst of them, each counted (Bonferroni)."""
    z = (found - rows * expected) / np.sqrt(rows * expected * (1 - expected))
    return min(1.0, float(2 * stats.norm.sf(np.abs(z).max())) * z.size)


def dependence(a: np.ndarray, b: np.ndarray) -> float:
    """Chi-square of independence of two columns' codes, 16 classes each."""
    table = np.bincount((a % 16) * 16 + b % 16, minlength=256).reshape(16, 16)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    return float(stats.chi2_contingency(table, correction=False).pvalue)


# ---- what is put to the test: codes, and their ideal laws


@dataclass(frozen=True)
class Case:
    """A mechanism on `k` points, and the law of its codes given each point."""

    k: int
    perturb: Callable[[np.ndarray, Stream], np.ndarray]
    laws: list[Law]

    def alarms(self, other_column: str = "b") -> dict[str, float]:
        points = np.arange(ROWS) % self.k
        same = np.full(ROWS, self.k - 1)
        a, b = (self.perturb(same, stream_of(column, same)) for column in ("a", other_column))
        p = {
            "fit": fit(points, self.perturb(points, stream_of("a", points)), self.laws),
            "columns": dependence(a, b),
            "rows": dependence(a[:-1], a[1:]),
        }
        return {name: value for name, value in p.items() if not value >= ALARM}


def names(k: int) -> tuple[int, ...]:
    return tuple(range(k))


def bits_law(chances: list[float]) -> Law:
    return {
        sum(bit << i for i, bit in enumerate(bits)): math.prod(
            p if bit else 1 - p for p, bit in zip(chances, bits, strict=True)
        )
        for bits in itertools.product((0, 1), repeat=len(chances))
    }


def response(mechanism: Any) -> Case:
    k, e = len(mechanism.categories), math.exp(mechanism.epsilon)
    return Case(k, mechanism.perturb, [{o: (e if o == x else 1) / (e + k - 1) for o in range(k)} for x in range(k)])


def transition(mechanism: Any) -> Case:
    rows = [{o: float(p) for o, p in enumerate(row) if p} for row in mechanism.matrix]
    return Case(len(rows), mechanism.perturb, rows)


def oue(mechanism: Any) -> Case:
    k, q = len(mechanism.categories), 1 / (math.exp(mechanism.epsilon) + 1)
    return Case(k, mechanism.perturb, [bits_law([0.5 if i == x else q for i in range(k)]) for x in range(k)])


def sue(mechanism: Any) -> Case:
    k, q = len(mechanism.categories), 1 / (math.exp(mechanism.epsilon / 2) + 1)
    return Case(k, mechanism.perturb, [bits_law([1 - q if i == x else q for i in range(k)]) for x in range(k)])


def rappor(mechanism: Any) -> Case:
    k, f, p, q = len(mechanism.categories), mechanism.f, mechanism.p, mechanism.q
    low, high = f * (p + q) / 2 + (1 - f) * p, f * (p + q) / 2 + (1 - f) * q
    laws = [bits_law([high if i == x else low for i in range(k)]) for x in range(k)]
    return Case(k, lambda points, s: mechanism.perturb(points, s.use("report"), s.use("permanent")), laws)


def hashing(mechanism: Any) -> Case:
    """Codes: whether the report supports the truth (2) and the next category (1). Two categories meet in 1 of g buckets."""
    k, g, e = len(mechanism.categories), mechanism.g, math.exp(mechanism.epsilon)
    p, other = e / (e + g - 1), 1 / (e + g - 1)

    def perturb(points: np.ndarray, stream: Stream) -> np.ndarray:
        codes = mechanism.perturb(points, stream)
        of = LocalHashing(mechanism.categories, mechanism.epsilon, g)
        true, following = (of.hash(codes[:, 0], x) == codes[:, 1] for x in (points, (points + 1) % k))
        return 2 * true + following

    law = {3: p / g, 2: p * (1 - 1 / g), 1: other * (1 - 1 / g), 0: 1 - p - other * (1 - 1 / g)}
    return Case(k, perturb, [law] * k)


def hadamard(mechanism: Any) -> Case:
    k, b, blocks, e = len(mechanism.categories), mechanism.size, mechanism.blocks, math.exp(mechanism.epsilon)
    laws = []
    for x in range(k):
        block, row = divmod(x, b - 1)
        own = {block * b + j for j in range(b) if ((row + 1) & j).bit_count() % 2 == 0}
        laws.append({o: (e if o in own else 1) / (b / 2 * (e + 2 * blocks - 1)) for o in range(blocks * b)})
    return Case(k, mechanism.perturb, laws)


def subsets(mechanism: Any) -> Case:
    k, d, e = len(mechanism.categories), mechanism.subset, math.exp(mechanism.epsilon)
    p = d * e / (d * e + k - d)
    one, none = p / math.comb(k - 1, d - 1), (1 - p) / math.comb(k - 1, d)
    sets = {sum(1 << i for i in chosen): chosen for chosen in itertools.combinations(range(k), d)}
    return Case(
        k, mechanism.perturb, [{m: one if x in chosen else none for m, chosen in sets.items()} for x in range(k)]
    )


def cell_key(mechanism: Any) -> Case:
    ideal = CellKey(mechanism.max_noise, mechanism.variance, mechanism.smallest)
    laws = [
        {count + v - ideal.max_noise: p for v, p in enumerate(ideal.probabilities(count)) if p} for count in range(12)
    ]
    return Case(12, mechanism.perturb, laws)


PRAM = Transition("pram", names(4), invariant(uniform_flip(4, F(3, 10)), [50, 30, 15, 5]))
RIGHT = [
    response(RandomizedResponse(names(5), 1.0)),
    transition(Transition("label_flip", names(5), uniform_flip(5, F(1, 10)))),
    transition(PRAM),
    sue(SymmetricUnary(names(6), 1.0)),
    oue(OptimizedUnary(names(6), 1.0)),
    oue(OptimizedUnary(names(14), 1.0)),
    rappor(Rappor(names(6), 0.5, 0.25, 0.75)),
    hashing(LocalHashing(names(5), 1.0)),
    hadamard(HadamardResponse(names(7), 0.5)),
    hadamard(HadamardResponse(names(9), 1.0)),
    subsets(SubsetSelection(names(7), 0.5)),
    cell_key(CellKey(5, 3.0, 2)),
]
IDS = [
    "grr",
    "flip",
    "pram",
    "sue",
    "oue-6",
    "oue-14",
    "rappor",
    "olh",
    "hadamard-1",
    "hadamard-2",
    "subsets",
    "cell-key",
]


@pytest.mark.parametrize("case", RIGHT, ids=IDS)
def test_the_mechanism_raises_no_alarm(case):
    assert case.alarms() == {}


# ---- many categories: each one's share


def wide(mechanism: Any) -> float:
    """The true category's bit and each other one's, over a thousand rows of each category at a time."""
    k = len(mechanism.categories)
    points = np.arange(ROWS) % k
    found, true = np.zeros(k), np.zeros(k)
    for start in range(0, ROWS, 100_000):
        rows = slice(start, start + 100_000)
        bits = mechanism.supports(mechanism.perturb(points[rows], stream_of("a", points)[rows]))
        own = bits[np.arange(len(bits)), points[rows]]
        true += np.bincount(points[rows], own, k)
        found += bits.sum(0)
    p, q = (float(x) for x in mechanism.support)
    rows_of = np.bincount(points, minlength=k).astype(float)
    counts = np.concatenate([true, found - true])
    rows = np.concatenate([rows_of, ROWS - rows_of])
    return shares(counts, rows, np.repeat([p, q], k))


WIDE = [kind(names(100), 1.0) for kind in (SymmetricUnary, OptimizedUnary, SubsetSelection, LocalHashing)]


@pytest.mark.parametrize("mechanism", WIDE, ids=lambda mechanism: mechanism.name)
def test_each_of_many_categories_has_its_share(mechanism):
    assert wide(mechanism) >= ALARM


class OneBitStuck(OptimizedUnary):
    """Category 70 has no noise: its bit is 0 unless it is true."""

    def perturb(self, points, stream):
        codes = super().perturb(points, stream)
        codes[points != 70, 1] &= ~np.int64(1 << 6)
        return codes


def test_a_stuck_bit_among_many_raises_the_alarm():
    assert wide(OneBitStuck(names(100), 1.0)) < ALARM


# ---- Bloom filters


BLOOM = Rappor(names(3), 0.5, 0.25, 0.75, hashes=2, bits=16, cohorts=4)


class PlainUse(Stream):
    """Its cohorts' words depend on the value: `use` drops the values given to it."""

    def use(self, name, values=None):
        stream = super().use(name)
        return PlainUse(stream.key, stream.tags, stream.values)

    def __getitem__(self, rows):
        return PlainUse(self.key, self.tags[rows], self.values[rows])


def bloom(points: np.ndarray, permanent: Stream) -> tuple[float, np.ndarray]:
    """The share of each (cohort, bit, category) against the design; and the cohorts."""
    codes = BLOOM.perturb(points, stream_of("report", points), permanent)
    design = BLOOM.design()
    cells = codes[:, 1] * 3 + points
    rows = np.bincount(cells, minlength=12).reshape(4, 3).astype(float)
    found = np.stack([np.bincount(cells, codes[:, 0] >> i & 1, 12).reshape(4, 3) for i in range(16)], axis=1)
    return shares(found, np.broadcast_to(rows[:, None, :], found.shape), design), codes[:, 1]


def test_the_bits_of_bloom_filters_follow_the_design_and_cohorts_do_not_follow_the_value():
    points = np.arange(ROWS) % 3
    p, cohorts = bloom(points, stream_of("permanent", points))
    assert p >= ALARM
    counts = np.bincount(cohorts * 3 + points).reshape(4, 3)
    assert stats.chi2_contingency(counts, correction=False).pvalue >= ALARM
    moved = (points + 1) % 3
    np.testing.assert_array_equal(cohorts, bloom(moved, stream_of("permanent", moved))[1])


def test_a_cohort_that_depends_on_the_value_is_seen():
    points = np.arange(ROWS) % 3
    moved = (points + 1) % 3
    one, other = (bloom(x, PlainUse(derive(MASTER, "permanent"), TAGS, x))[1] for x in (points, moved))
    assert (one != other).mean() > 0.7


# ---- planted bugs


def unflipped(case: Case) -> Case:
    """The last category is always published as its likeliest code."""
    last = case.k - 1
    likeliest = max(case.laws[last], key=case.laws[last].__getitem__)
    return Case(case.k, lambda x, s: np.where(x == last, likeliest, case.perturb(x, s)), case.laws)


def off_by_one(case: Case) -> Case:
    """Each category is taken for the next."""
    return Case(case.k, lambda x, s: case.perturb((x + 1) % case.k, s), case.laws)


def stuck_bit(case: Case) -> Case:
    return Case(case.k, lambda x, s: case.perturb(x, s) | 1, case.laws)


BITS = [i for i, name in enumerate(IDS) if name in ("sue", "oue-6", "rappor", "subsets")]
ALIKE = ("olh",)  # every category has the same law of support


@pytest.mark.parametrize("i", range(len(RIGHT)), ids=IDS)
def test_a_category_that_is_never_flipped_raises_the_alarm(i):
    assert "fit" in unflipped(RIGHT[i]).alarms()


@pytest.mark.parametrize("i", [i for i, name in enumerate(IDS) if name not in ALIKE], ids=lambda i: IDS[i])
def test_a_category_off_by_one_raises_the_alarm(i):
    assert "fit" in off_by_one(RIGHT[i]).alarms()


@pytest.mark.parametrize("i", BITS, ids=lambda i: IDS[i])
def test_a_stuck_bit_raises_the_alarm(i):
    assert "fit" in stuck_bit(RIGHT[i]).alarms()


@pytest.mark.parametrize("i", range(len(RIGHT)), ids=IDS)
def test_noise_reused_in_two_columns_raises_the_alarm(i):
    assert "columns" in RIGHT[i].alarms(other_column="a")


class OtherCoin(OptimizedUnary):
    """The true bit has probability 0.49 or 0.51."""

    probability: F = F(51, 100)

    def perturb(self, points, stream):
        def draw(rows, part):
            masks, _ = self.noise.draw(part)
            heads = part.words(99)[:, 0] < np.uint64(int(self.probability * 2**64))
            put_bit(masks, rows, heads.astype(np.int64))
            return masks[:, 0]

        return in_chunks(draw, 1, points, stream)


def two_percent_off(factor: F) -> list[Case]:
    """The truth has a probability 2% off, and the other codes what is left."""
    k = 5
    law = offset_law(k, 1.0)
    p = law.probabilities[0] * factor
    grr = RandomizedResponse(names(k), 1.0)
    grr.__dict__["law"] = type(law)((p, *([(1 - p) / (k - 1)] * (k - 1))))
    flip = Transition("label_flip", names(k), uniform_flip(k, 1 - F(9, 10) * factor))
    coin = type("OtherCoin", (OtherCoin,), {"probability": F(1, 2) * factor})(names(6), 1.0)
    olh = LocalHashing(names(k), 1.0)
    bucket = olh._law.probabilities[0] * factor
    olh.__dict__["_law"] = type(law)((bucket, *([(1 - bucket) / (olh.g - 1)] * (olh.g - 1))))
    half = HadamardResponse(names(7), 0.5)
    inside = half._law.probabilities[0] * factor
    half.__dict__["_law"] = type(law)((inside, 1 - inside))
    chosen = SubsetSelection(names(7), 0.5)
    chosen.__dict__["support"] = (chosen.support[0] * factor, chosen.support[1])
    flips = [Case(k, flip.perturb, RIGHT[1].laws)]
    return [response(grr), *flips, oue(coin), hashing(olh), hadamard(half), subsets(chosen)]


@pytest.mark.parametrize("i", range(6), ids=["grr", "flip", "oue", "olh", "hadamard", "subsets"])
@pytest.mark.parametrize("factor", [F(49, 50), F(51, 50)], ids=str)
def test_a_truth_two_percent_too_likely_or_too_rare_raises_the_alarm(i, factor):
    assert "fit" in two_percent_off(factor)[i].alarms()


class WrongModulus(LocalHashing):
    """Reports hash modulo 2^31 instead of 2^31 - 1."""

    def _draw(self, points, part, public):
        codes = super()._draw(points, part, public)
        a, b = codes[:, 0] >> 31, codes[:, 0] & PRIME
        codes[:, 1] = ((a * points + b) % 2**31 % self.g + codes[:, 1] - self.hash(codes[:, 0], points)) % self.g
        return codes


def test_a_wrong_hash_modulus_raises_the_alarm():
    assert "fit" in hashing(WrongModulus(names(5), 1.0)).alarms()


def test_a_perturbation_table_without_its_variance_raises_the_alarm():
    table = CellKey(5, 3.0, 2)
    table.__dict__["laws"] = _laws(5, F(10), 2)
    assert "fit" in cell_key(table).alarms()
    nearly = CellKey(5, 3.0, 2)
    nearly.__dict__["laws"] = _laws(5, F(306, 100), 2)  # 2% too much
    assert "fit" in cell_key(nearly).alarms()
