"""Auditing a mechanism: its worst-case neighbours, draws of its codes by the real keyed stream, what an attacker looks at.

For each mechanism the feature of a code is a sufficient statistic for the pair at hand under the ideal law: what more there
is in a code is the same for both neighbours. A planted or real bug elsewhere in a code is for the law tests to find.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noiselib import mechanisms as m
from noiselib.accounting import Charge, Event
from noiselib.audit.attack import CONFIDENCE, LEAST_DRAWS, TIGHT, Claim, Finding, Floats, attack
from noiselib.errors import SpecError
from noiselib.mechanisms.categorical import Category
from noiselib.mechanisms.planar import pack
from noiselib.mechanisms.planar import unpack as unpack_places
from noiselib.mechanisms.unary import WORD, unpack
from noiselib.noise.stream import Stream, derive, encode_bigint, row_tags

Ints = NDArray[np.int64]
Point = int | tuple[int, ...]  # of vectors, a component each
Pair = tuple[Point, Point]

# What an attacker computes of a code, where that is not the code itself: x and x' are the two neighbours. See `feature`.
_BITS = "2 [x's bit is 1] + [the bit of x' is 1]"
FEATURES = {
    "sue": _BITS,
    "oue": _BITS,
    "subset_selection": _BITS,
    "local_hashing": "2 [report = h(x)] + [report = h(x')]",
    "hadamard_response": "3 (2 in C_x, 1 in the rest of its block, else 0) + the same of x'",
    "planar_laplace": "the distance to x less that to x', in steps",
    "rappor": "(h + 1) (ones among the bits of x alone) + (ones among those of x' alone)",
}
DRAWS = 1_000_000
PAIRS = 64  # at most so many pairs of neighbours are looked at
EXPLORING = 20_000  # draws of either neighbour of each, to find the worst
BATCH = 2**17  # codes at a time
AXES = 8


def audit_mechanism(
    mechanism: Any,
    key: bytes,
    draws: int = DRAWS,
    confidence: float = CONFIDENCE,
    claimed: Sequence[Claim] | None = None,
) -> list[Finding]:
    """Attack a mechanism; a finding for each of its claims (RAPPOR has two).

    mechanism: with a guarantee; its codes are drawn by `perturb`
    key:       32 bytes, from which all words follow
    draws:     of either neighbour, a quarter to learn, a quarter to choose, half to judge; 1000 at least
    claimed:   what to hold it against, instead of its own claims

    Raises SpecError for a mechanism that claims nothing, or too few draws.
    """
    if draws < LEAST_DRAWS:
        raise SpecError(f"draws {draws}: expected {LEAST_DRAWS} at least")
    own = claims(mechanism)
    subjects = {claim: subject for subject, claim in own}
    if claimed is not None:
        subjects = dict(zip(claimed, [subject for subject, _ in own], strict=True))
    return [
        _audit_one(subject, claim, derive(key, "audit", str(i)), draws, confidence, len(subjects))
        for i, (claim, subject) in enumerate(subjects.items())
    ]


def _audit_one(subject: Any, claim: Claim, key: bytes, draws: int, confidence: float, subjects: int) -> Finding:
    """Find the worst pair by a few draws of each, then attack it by fresh ones."""
    pairs = neighbours(subject)
    if len(pairs) > 1:
        some = max(LEAST_DRAWS, min(EXPLORING, draws // 8))
        shown = [
            attack("", claim, *_features(subject, pair, some, derive(key, "explore", str(i))), TIGHT)
            for i, pair in enumerate(pairs)
        ]
        pairs = [pairs[max(range(len(pairs)), key=lambda i: shown[i].epsilon_lower)]]
    pair = pairs[0]
    title = f"{subject.name} of {' and '.join(_shown(subject, point) for point in pair)}"
    found = attack(title, claim, *_features(subject, pair, draws, derive(key, "attack")), confidence, subjects)
    seen = FEATURES.get(subject.name)
    return found if seen is None else replace(found, attack=f"{found.attack}, output being {seen}")


def _shown(mechanism: Any, point: Point) -> str:
    if isinstance(mechanism, m.PlanarLaplace):
        east, north = (int(steps[0]) for steps in unpack_places(np.array([point])))
        return f"place ({east}, {north})"
    if isinstance(point, int):
        return f"category {point}" if hasattr(mechanism, "categories") else f"point {point}"
    return f"vector {point}" if len(point) <= 3 else f"vector ({', '.join(map(str, point[:3]))}, ...)"


def _features(mechanism: Any, pair: Pair, draws: int, key: bytes) -> tuple[Floats, Floats]:
    """The features of `draws` codes of either point of a pair, under keys of their own."""
    size = max(1, BATCH // mechanism.width)
    one, other = (
        np.concatenate(
            [
                feature(
                    mechanism, draw(mechanism, point, min(size, draws - first), derive(key, str(side)), first), pair
                )
                for first in range(0, draws, size)
            ]
        )
        for side, point in enumerate(pair)
    )
    return one, other


def draw(mechanism: Any, point: Point, rows: int, key: bytes, first: int = 0) -> Ints:
    """Codes of `rows` rows of one point, as the pipeline draws them: row tags by number, from `first` on; words by `key`."""
    tags = row_tags(derive(key, "rows"), encode_bigint(np.arange(first, first + rows)))
    points = np.broadcast_to(np.array(point, np.int64), (rows, *np.shape(point))).copy()
    values = points if points.ndim == 1 else np.zeros(rows, np.int64)
    stream = Stream(derive(key, "column"), tags, values)
    if isinstance(mechanism, m.Rappor | RepeatedReports):
        units = row_tags(derive(key, "units"), encode_bigint(np.arange(first, first + rows)))
        return mechanism.perturb(points, stream, Stream(derive(key, "permanent"), units, values))
    codes: Ints = mechanism.perturb(points, stream)
    return codes


# ---- claims ----------------------------------------------------------------------------------------------------------


@singledispatch
def claims(mechanism: Any) -> list[tuple[Any, Claim]]:
    """What a mechanism claims of one value, and of what: mostly of itself. Raises SpecError if it claims nothing."""
    event = mechanism.event()
    if event is None:
        raise SpecError(f"mechanism {mechanism.name}: states no guarantee, so there is nothing to audit")
    return [(mechanism, Claim(mechanism.epsilon, getattr(mechanism, "delta", None) or 0.0, Charge.of(event)))]


@claims.register
def _(mechanism: m.Rappor) -> list[tuple[Any, Claim]]:
    report = Event.pure_dp(mechanism.epsilon_report).with_slack(mechanism.tv_bound)
    one = mechanism, Claim(mechanism.epsilon_report, 0.0, Charge.of(report))
    if mechanism.cohorts > 1 or mechanism.bits is not None:
        return [one]
    permanent = Claim(mechanism.epsilon_permanent, 0.0, Charge.of(mechanism.event()))
    return [one, (RepeatedReports(mechanism), permanent)]


@dataclass(frozen=True)
class RepeatedReports:
    """Many RAPPOR reports of one value, of one-hot codes, averaged: each bit is 1 if it is so in most of them."""

    mechanism: m.Rappor
    reports: int = 40

    @property
    def name(self) -> str:
        return f"{self.reports} reports by rappor"

    @property
    def categories(self) -> tuple[Category, ...]:
        return self.mechanism.categories

    @property
    def width(self) -> int:
        return self.reports * self.mechanism.width

    def perturb(self, points: Ints, stream: Stream, permanent: Stream) -> Ints:
        """The averaged reports, masks int64 (n, words): one permanent response, a fresh report each time."""
        size = self.mechanism.size
        seen = np.zeros((len(points), size))
        for report in range(self.reports):
            seen += unpack(self.mechanism.perturb(points, stream.use(f"report {report}"), permanent), size)
        often = seen / self.reports > (self.mechanism.p + self.mechanism.q) / 2
        masks = np.zeros((len(points), -(-size // WORD) * WORD), np.bool_)
        masks[:, :size] = often
        return np.packbits(masks, axis=1, bitorder="little").view("<i8").astype(np.int64)


# ---- worst-case neighbours -------------------------------------------------------------------------------------------


@singledispatch
def neighbours(mechanism: Any) -> list[Pair]:
    """Pairs of points that its claim calls neighbours, the worst of them included."""
    raise SpecError(f"mechanism {mechanism.name}: states no guarantee, so there is nothing to audit")


@neighbours.register
def _(mechanism: m.Additive) -> list[Pair]:
    assert mechanism.sensitivity is not None
    return list(dict.fromkeys([(0, mechanism.sensitivity), (0, 1)]))


@neighbours.register(m.VectorGaussian)
@neighbours.register(m.VectorLaplace)
def _(mechanism: Any) -> list[Pair]:
    """`sensitivity` apart in one component, or in all alike."""
    size, apart = mechanism.dimension, math.floor(mechanism.sensitivity)
    zero = (0,) * size
    axes = [(zero, tuple(apart if i == axis else 0 for i in range(size))) for axis in range(min(AXES, size))]
    each = math.floor(apart / (size if mechanism.order == 1 else math.sqrt(size)))
    return list(dict.fromkeys([*axes, (zero, (each,) * size)]))


@neighbours.register(m.Duchi)
@neighbours.register(m.Piecewise)
@neighbours.register(m.SquareWave)
def _(mechanism: Any) -> list[Pair]:
    low, high = mechanism.lower, mechanism.upper
    return list(dict.fromkeys([(low, high), (low, (low + high + 1) // 2), (low, low + 1)]))


@neighbours.register
def _(mechanism: m.PlanarLaplace) -> list[Pair]:
    """`sensitivity` apart to the east, to the north."""
    apart, zero = np.array([math.floor(mechanism.sensitivity)]), np.array([0])
    return [(0, int(pack(apart, zero)[0])), (0, int(pack(zero, apart)[0]))]


@neighbours.register(m.FrequencyOracle)
@neighbours.register(m.Rappor)
def _(mechanism: Any) -> list[Pair]:
    """Each category and the next one; of more than 64 so many, evenly spaced. The ideal laws are alike for all pairs."""
    size = len(mechanism.categories)
    starts = range(size) if size <= PAIRS else np.linspace(0, size - 1, PAIRS).astype(int).tolist()
    return [(i, (i + 1) % size) for i in starts][: size if size > 2 else 1]


@neighbours.register
def _(mechanism: RepeatedReports) -> list[Pair]:
    return neighbours(mechanism.mechanism)[:1]


# ---- features --------------------------------------------------------------------------------------------------------


@singledispatch
def feature(mechanism: Any, codes: Ints, pair: Pair) -> Floats:
    """A number for each code, floats (n,), that tells all about which of the pair was its point. Numbers are themselves."""
    return codes.astype(np.float64)


@feature.register(m.VectorGaussian)
@feature.register(m.VectorLaplace)
def _(mechanism: Any, codes: Ints, pair: Pair) -> Floats:
    """Along the line between the two vectors; exact for spherical noise, and along an axis."""
    line = np.subtract(pair[1], pair[0]).astype(np.float64)
    along: Floats = codes.astype(np.float64) @ (line / np.abs(line).max())
    return along


@feature.register
def _(mechanism: m.PlanarLaplace, codes: Ints, pair: Pair) -> Floats:
    """By how much nearer the code is to one than to the other."""
    (east, north), (xs, ys) = unpack_places(codes), unpack_places(np.array(pair))
    one, other = (np.hypot(east - x, north - y) for x, y in zip(xs, ys, strict=True))
    nearer: Floats = one - other
    return nearer


@feature.register(m.SymmetricUnary)
@feature.register(m.OptimizedUnary)
@feature.register(m.SubsetSelection)
def _(mechanism: Any, codes: Ints, pair: Pair) -> Floats:
    """The bits of the two categories."""
    return (_bits(codes, pair[0]) * 2 + _bits(codes, pair[1])).astype(np.float64)


@feature.register
def _(mechanism: m.LocalHashing, codes: Ints, pair: Pair) -> Floats:
    """Whether the report is the bucket of the one, and of the other."""
    one, other = (mechanism.hash(codes[:, 0], np.array(x)) == codes[:, 1] for x in pair)
    both: Floats = one * 2.0 + other
    return both


@feature.register
def _(mechanism: m.HadamardResponse, codes: Ints, pair: Pair) -> Floats:
    """In which half of either's block the code lies, if it lies there."""
    parts = []
    for block, row in zip(*mechanism.place(np.array(pair)), strict=True):
        even = (np.bitwise_count(row & (codes % mechanism.size)) & 1) == 0
        parts.append(np.where(codes // mechanism.size == block, np.where(even, 2, 1), 0))
    halves: Floats = parts[0] * 3.0 + parts[1]
    return halves


@feature.register
def _(mechanism: m.Rappor, codes: Ints, pair: Pair) -> Floats:
    """How many bits are 1 of those that only the one's filter has, and of those that only the other's has."""
    masks = codes.reshape(len(codes), -1)
    cohorts = masks[:, -1] if mechanism.cohorts > 1 else np.zeros(len(codes), np.int64)
    numbers = np.zeros((2, len(codes)))
    for cohort in range(mechanism.cohorts):
        filters = [set(mechanism.positions[cohort, x].tolist()) for x in pair]
        rows = np.flatnonzero(cohorts == cohort)
        for i, mine in enumerate(filters):
            for position in mine - filters[1 - i]:
                numbers[i, rows] += _bits(masks[rows], position)
    numbers[0] *= mechanism.hashes + 1
    joint: Floats = numbers.sum(axis=0)
    return joint


@feature.register
def _(mechanism: RepeatedReports, codes: Ints, pair: Pair) -> Floats:
    return feature(mechanism.mechanism, codes, pair)


def _bits(codes: Ints, position: Point) -> Ints:
    """One bit of masks, int64 (n,) or (n, width): 0 or 1."""
    assert isinstance(position, int)
    word: Ints = codes if codes.ndim == 1 else codes[:, position // WORD]
    return word >> position % WORD & 1
