"""The categorical mechanisms by a million rows each, and planted bugs that the same tests must reject."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction as F
from typing import Any

import numpy as np
import pytest
from laws import (
    ROWS,
    DroppedBit,
    OneCounter,
    alarm,
    alarms,
    by_low_bits,
    chi_squares,
    dependence,
    replaced,
    shares,
    sharing,
    stream_of,
)

from noiselib.mechanisms.categorical import (
    RandomizedResponse,
    Transition,
    in_chunks,
    invariant,
    offset_law,
    resampling_matrix,
    uniform_flip,
)
from noiselib.mechanisms.cell_key import CellKey, _laws
from noiselib.mechanisms.hashing import PRIME, HadamardResponse, LocalHashing, SubsetSelection
from noiselib.mechanisms.unary import OptimizedUnary, Rappor, SymmetricUnary, put_bit
from noiselib.noise import Stream

Law = dict[int, float]


def fit(points: np.ndarray, codes: np.ndarray, laws: list[Law]) -> float:
    """Chi-square of the codes of each point against its law, all points together."""
    samples = []
    for x, law in enumerate(laws):
        own = codes[points == x]
        expected = np.zeros(1 + max(max(law), int(own.max())))
        expected[list(law)] = np.array(list(law.values())) * len(own)
        samples.append((np.bincount(own, minlength=len(expected)), expected))
    return chi_squares(samples)


# ---- what is put to the test: codes, and their ideal laws


@dataclass(frozen=True)
class Case:
    """A mechanism on `k` points, and the law of its codes given each point."""

    k: int
    perturb: Callable[[np.ndarray, Stream], np.ndarray]
    laws: list[Law]

    def alarms(self) -> set[str]:
        points = np.arange(ROWS) % self.k
        return alarms({"fit": fit(points, self.perturb(points, stream_of("a", points)), self.laws)})

    def shared(self, **planted: Any) -> set[str]:
        """Dependences among rows of the last point."""
        draw = lambda stream: self.perturb(stream.values, stream)  # noqa: E731
        return alarms(sharing(draw, self.k - 1, classes=by_low_bits, **planted))


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
RESAMPLING = Transition("resampling", names(4), resampling_matrix([1, 1, 2, 3], F(1, 2)))
RIGHT = [
    response(RandomizedResponse(names(5), 1.0)),
    transition(Transition("label_flip", names(5), uniform_flip(5, F(1, 10)))),
    transition(PRAM),
    transition(RESAMPLING),
    sue(SymmetricUnary(names(6), 1.0)),
    oue(OptimizedUnary(names(6), 1.0)),
    oue(OptimizedUnary(names(14), 1.0)),
    rappor(Rappor(names(6), 0.5, 0.1, 0.9)),
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
    "resampling",
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
    assert case.alarms() == case.shared() == set()


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
    assert not alarm(wide(mechanism))


class OneBitStuck(OptimizedUnary):
    """Category 70 has no noise: its bit is 0 unless it is true."""

    def perturb(self, points, stream):
        codes = super().perturb(points, stream)
        codes[points != 70, 1] &= ~np.int64(1 << 6)
        return codes


def test_a_stuck_bit_among_many_raises_the_alarm():
    assert alarm(wide(OneBitStuck(names(100), 1.0)))


def across_blocks(plant: type[Stream] = Stream) -> float:
    """Bits of one mask that are drawn from two blocks, 20 bits apart."""
    points = np.zeros(ROWS, np.int64)
    codes = OptimizedUnary(names(40), 1.0).perturb(points, replaced(stream_of("a", points), plant))
    return dependence(codes >> 2, codes >> 22, classes=by_low_bits)


def test_bits_of_different_blocks_are_independent():
    assert not alarm(across_blocks())


@pytest.mark.parametrize("plant", [OneCounter, DroppedBit])
def test_blocks_of_one_counter_raise_the_alarm(plant):
    assert alarm(across_blocks(plant))


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
    assert alarms({"bits": p, "cohorts": dependence(cohorts, points, classes=by_low_bits)}) == set()
    moved = (points + 1) % 3
    np.testing.assert_array_equal(cohorts, bloom(moved, stream_of("permanent", moved))[1])


def test_a_cohort_that_depends_on_the_value_is_seen():
    points = np.arange(ROWS) % 3
    moved = (points + 1) % 3
    one, other = (bloom(x, replaced(stream_of("permanent", x), PlainUse))[1] for x in (points, moved))
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
def test_noise_that_is_shared_is_rejected(i):
    assert RIGHT[i].shared(other_column="a") == {"columns"}
    assert RIGHT[i].shared(other_release="1") == {"releases"}
    assert RIGHT[i].shared(id_mask=~1) >= {"rows"}


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


def two_percent_off(factor: F) -> dict[str, Case]:
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
    bits = SymmetricUnary(names(6), 1.0)
    bits.__dict__["support"] = tuple(1 - (1 - p) * factor if p > F(1, 2) else p * factor for p in bits.support)
    stay = Transition("pram", names(4), invariant(uniform_flip(4, F(3, 10) * factor), [50, 30, 15, 5]))
    fresh = Transition("resampling", names(4), resampling_matrix([1, 1, 2, 3], F(1, 2) * factor))
    table = CellKey(5, 3.0, 2)
    table.__dict__["laws"] = _laws(5, 3 * factor, 2)
    reports = rappor(Rappor(names(6), 0.5 * float(factor), 0.1, 0.9))
    return {
        "grr": response(grr),
        "flip": Case(k, flip.perturb, RIGHT[IDS.index("flip")].laws),
        "pram": Case(4, stay.perturb, transition(PRAM).laws),
        "resampling": Case(4, fresh.perturb, transition(RESAMPLING).laws),
        "sue": sue(bits),
        "oue": oue(coin),
        "rappor": Case(6, reports.perturb, RIGHT[IDS.index("rappor")].laws),
        "olh": hashing(olh),
        "hadamard": hadamard(half),
        "subsets": subsets(chosen),
        "cell-key": cell_key(table),
    }


OFF = [(name, factor) for factor in (F(49, 50), F(51, 50)) for name in two_percent_off(factor)]


@pytest.mark.parametrize(("name", "factor"), OFF, ids=str)
def test_a_probability_two_percent_off_raises_the_alarm(name, factor):
    """Of the truth, of a change, or of a bit; of the cell keys the variance."""
    assert "fit" in two_percent_off(factor)[name].alarms()


SEVERAL = [i for i, name in enumerate(IDS) if name in ("olh", "subsets")]


@pytest.mark.parametrize("plant", [OneCounter, DroppedBit])
@pytest.mark.parametrize("i", SEVERAL, ids=lambda i: IDS[i])
def test_draws_that_share_their_words_raise_the_alarm(i, plant):
    """Where a value takes more than one block."""
    case = RIGHT[i]
    assert "fit" in Case(case.k, lambda x, s: case.perturb(x, replaced(s, plant)), case.laws).alarms()


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
