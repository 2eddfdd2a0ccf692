"""Bounded local mechanisms by a million rows, and planted bugs that the same tests must reject.

The laws are those of the papers, in floats, apart from the code under test.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction as F
from typing import Any

import numpy as np
import pytest
from laws import ROWS, DroppedBit, OneCounter, alarms, centre, chi_square, least, replaced, sharing, stream_of
from laws import spread as mean_square
from scipy import stats

from noiselib.mechanisms import bounded
from noiselib.mechanisms.bounded import Bounded, Duchi, Hybrid, OneBitMean, Piecewise, SquareWave, Windowed
from noiselib.noise import Stream

EPSILON = 2.0
KINDS = (Duchi, OneBitMean, Piecewise, Hybrid, SquareWave)


def coarse(kind: type[Bounded]) -> Bounded:
    """On 5 points, with about 40 codes: every one is counted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bounded, "FINE", 24)
        mechanism = kind(F(1, 2), -2, 2, EPSILON)
        getattr(mechanism, "law", None)  # which keeps its size
    return mechanism


def fine(kind: type[Bounded]) -> Bounded:
    return kind(F(1, 2**18), -(2**18), 2**18, EPSILON)


# ---- the laws --------------------------------------------------------------------------------------------------------


def cells(mechanism: Bounded, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Where cells of codes begin, and their probabilities for the i-th point; the hybrid's two ends are cells, too."""
    power = math.exp(EPSILON)
    one = (1 + i / mechanism.length * (power - 1)) / (power + 1)
    if isinstance(mechanism, Duchi):
        return np.array([0, 1]), np.array([1 - one, one])
    total, start = mechanism.law.total, i * mechanism.stretch
    steps = {total * k // 40 for k in range(40)} | {start, min(total - 1, start + mechanism.window)}
    edges = np.array(sorted(steps if total > 100 else range(total)))
    ends = np.append(edges[1:], total)
    low = 1 / (mechanism.window * power + total - mechanism.window)
    overlap = np.minimum(ends, start + mechanism.window) - np.maximum(edges, start)
    chances = low * (ends - edges) + low * (power - 1) * np.maximum(overlap, 0)
    if not isinstance(mechanism, Hybrid):
        return edges, chances
    alpha = 1 - math.exp(-EPSILON / 2)
    outer = (1 - alpha) * np.array([1 - one, one])
    return np.concatenate([[-1], edges, [total]]), np.concatenate([outer[:1], alpha * chances, outer[1:]])


def fit(codes: np.ndarray, points: np.ndarray, mechanism: Bounded) -> float:
    """Chi-square of every point's codes; the least p-value, as often as there are points."""
    found = []
    for point in np.unique(points):
        edges, chances = cells(mechanism, int(point) - mechanism.lower)
        mine = codes[points == point]
        first, most = edges[0], getattr(mechanism, "law", None)
        if mine.min() < first or (most is None and mine.max() > 1) or (most is not None and mine.max() > most.total):
            return 0.0
        counts = np.bincount(np.searchsorted(edges, mine, "right") - 1, minlength=len(edges))
        found.append(chi_square(counts, chances * len(mine)))
    return least(found)


def truth(codes: np.ndarray, points: np.ndarray, mechanism: Bounded) -> float:
    """How many rows at the bounds tell where they are, by window or by bit: what shows epsilon best. Binomial."""
    power, high = math.exp(EPSILON), points == mechanism.upper
    rows = high | (points == mechanism.lower)
    chance, truthful = power / (power + 1), np.zeros(ROWS, np.bool_)
    if isinstance(mechanism, Duchi):
        truthful = codes == high
    else:
        chance = mechanism.window * power / (mechanism.window * power + mechanism.law.moves)
        start = (points - mechanism.lower) * mechanism.stretch
        truthful = (codes >= start) & (codes < start + mechanism.window)
    if isinstance(mechanism, Hybrid):
        lies = math.exp(-EPSILON / 2)
        chance = (1 - lies) * chance + lies * power / (power + 1)
        truthful |= codes == np.where(high, mechanism.law.total, -1)
    return float(stats.binomtest(int((truthful & rows).sum()), int(rows.sum()), chance).pvalue)


def readings(codes: np.ndarray, mechanism: Bounded) -> np.ndarray:
    reading = mechanism.reading
    if isinstance(mechanism, OneBitMean):
        return np.array(mechanism.values)[np.clip(codes, 0, 1)]
    values = reading.offset + reading.slope * codes
    if reading.ends is not None:
        values = np.where(codes < 0, reading.ends[0], np.where(codes >= reading.codes, reading.ends[1], values))
    return values


# ---- bounded mechanisms ----------------------------------------------------------------------------------------------

Draw = Callable[[np.ndarray, Stream], np.ndarray]


@dataclass(frozen=True)
class Trial:
    """What is put to the test: a mechanism's sampler and reading, or bugs planted around them."""

    mechanism: Bounded
    draw: Draw
    read: Callable[[np.ndarray, Bounded], np.ndarray] = readings


def trial(mechanism: Bounded, **bugs: Any) -> Trial:
    return replace(Trial(mechanism, mechanism.perturb), **bugs)


def found(test: Trial) -> set[str]:
    """Which tests of the law and its reading raise an alarm. Most rows are at the bounds, where epsilon shows most."""
    m = test.mechanism
    points = np.resize([*[m.lower, m.upper] * 12, m.lower + 1], ROWS)
    codes = test.draw(points, stream_of("a", points))
    p = {"fit": fit(codes, points, m), "truth": truth(codes, points, m)}
    if not isinstance(m, SquareWave):
        values, kinds = points * float(m.step), np.unique(points)
        variances = np.array([m.variance_at(int(x)) for x in kinds])[np.searchsorted(kinds, points)]
        read = test.read(codes, m)
        p |= {"bias": centre(read, values), "spread": mean_square(read, values, variances)}
    return alarms(p)


def shared(mechanism: Bounded, **planted: Any) -> set[str]:
    """Dependences among rows of one value, in the middle."""
    middle = mechanism.lower + mechanism.length // 2
    return alarms(sharing(lambda stream: mechanism.perturb(stream.values, stream), middle, **planted))


@pytest.mark.parametrize("size", [coarse, fine])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mechanism_raises_no_alarm(kind, size):
    mechanism = size(kind)
    assert found(trial(mechanism)) == shared(mechanism) == set()


def other_epsilon(mechanism: Bounded, factor: float) -> Draw:
    """The same lattice and window, another epsilon in every coin but the hybrid's own."""
    off = replace(mechanism, epsilon=EPSILON * factor)
    if isinstance(mechanism, Windowed):
        off.__dict__["law"] = replace(mechanism.law, epsilon=F(repr(EPSILON * factor)))
    if isinstance(mechanism, Hybrid):
        off.__dict__["alpha"] = mechanism.alpha
    return off.perturb


@pytest.mark.parametrize("factor", [0.98, 1.02])
@pytest.mark.parametrize("size", [coarse, fine])
@pytest.mark.parametrize("kind", KINDS)
def test_an_epsilon_two_percent_off_is_rejected(kind, size, factor):
    mechanism = size(kind)
    assert "truth" in found(trial(mechanism, draw=other_epsilon(mechanism, factor)))


@pytest.mark.parametrize("factor", [0.98, 1.02])
@pytest.mark.parametrize("size", [coarse, fine])
def test_a_hybrid_that_mixes_two_percent_off_is_rejected(size, factor):
    off = size(Hybrid)
    off.__dict__["alpha"] = off.alpha * F(repr(factor))
    assert "fit" in found(trial(size(Hybrid), draw=off.perturb))


def moved(mechanism: Bounded) -> Draw:
    return lambda points, stream: mechanism.perturb(points, stream) + 1


def point_off_by_one(mechanism: Bounded) -> Draw:
    return lambda points, stream: mechanism.perturb(np.minimum(points + 1, mechanism.upper), stream)


def never_first(mechanism: Bounded) -> Draw:
    return lambda points, stream: np.maximum(1, mechanism.perturb(points, stream))


def never_last(mechanism: Bounded) -> Draw:
    top = mechanism.reading.codes - 1
    return lambda points, stream: np.minimum(top - 1, mechanism.perturb(points, stream))


def one_counter(mechanism: Bounded) -> Draw:
    return lambda points, stream: mechanism.perturb(points, replaced(stream, OneCounter))


def dropped_counter_bit(mechanism: Bounded) -> Draw:
    return lambda points, stream: mechanism.perturb(points, replaced(stream, DroppedBit))


def lower_bound_never_flipped(mechanism: Bounded) -> Draw:
    """The least value is published as its window's first code, or its bit."""
    return lambda points, stream: np.where(points == mechanism.lower, 0, mechanism.perturb(points, stream))


PLANTS = [
    moved,
    point_off_by_one,
    never_first,
    never_last,
    one_counter,
    dropped_counter_bit,
    lower_bound_never_flipped,
]


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_bug_is_rejected(kind, plant):
    mechanism = coarse(kind)
    assert "fit" in found(trial(mechanism, draw=plant(mechanism)))


@pytest.mark.parametrize("size", [coarse, fine])
@pytest.mark.parametrize("kind", KINDS)
def test_shared_noise_is_rejected(kind, size):
    mechanism = size(kind)
    assert shared(mechanism, other_column="a") == {"columns"}
    assert shared(mechanism, other_release="1") == {"releases"}
    assert shared(mechanism, id_mask=~1) >= {"rows"}


def uncorrected(codes: np.ndarray, mechanism: Bounded) -> np.ndarray:
    """The ends as they are, without the factor for the coin's lies; a cell as the point whose window has it in the middle."""
    lower, upper = (float(x * mechanism.step) for x in (mechanism.lower, mechanism.upper))
    if isinstance(mechanism, Duchi):
        return np.where(codes, upper, lower)
    middle = lower + (codes - (mechanism.window - 1) / 2) / mechanism.stretch * float(mechanism.step)
    ends = mechanism.reading.ends
    return middle if ends is None else np.where(codes < 0, lower, np.where(codes >= mechanism.law.total, upper, middle))


@pytest.mark.parametrize("size", [coarse, fine])
@pytest.mark.parametrize("kind", [Duchi, OneBitMean, Piecewise, Hybrid])
def test_a_reading_without_its_correction_is_rejected(kind, size):
    assert "spread" in found(trial(size(kind), read=uncorrected))


@pytest.mark.parametrize("kind", [Duchi, OneBitMean, Piecewise, Hybrid])
def test_a_reading_half_a_step_off_is_rejected(kind):
    half = 0.25
    assert "bias" in found(trial(coarse(kind), read=lambda codes, mechanism: readings(codes, mechanism) + half))
