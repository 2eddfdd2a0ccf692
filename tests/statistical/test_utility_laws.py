"""Noise for augmentation and robustness by a million rows: factors, masks, impulses, swaps; planted bugs are rejected."""

from __future__ import annotations

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
    alarms,
    centre,
    chi_square,
    extremes,
    fit,
    replaced,
    shares,
    sharing,
    spread,
    stream_of,
    symmetry,
)

from noiselib.mechanisms.utility import GaussianDropout, Impulse, Masking, MultiplicativeGaussian, Swap
from noiselib.noise import Stream

DONORS = 1000  # rows of a release from which a swap draws


@dataclass(frozen=True)
class Trial:
    """A mechanism whose law is put to the test, and what draws in its place."""

    mechanism: Any
    draw: Callable[[np.ndarray, Stream], np.ndarray]

    def found(self) -> set[str]:
        codes = self.draw(np.full(ROWS, DONORS), stream_of("a", DONORS))
        return alarms(TESTS[type(self.mechanism)](codes, self.mechanism))

    def shared(self, **planted: Any) -> set[str]:
        return alarms(sharing(lambda stream: self.draw(stream.values, stream), DONORS, **planted))


def factors(codes: np.ndarray, mechanism: Any) -> dict[str, float]:
    """1 + code/2^20 is normal about 1, its deviation worked out here: sigma, or that of dropping at a rate."""
    rate = getattr(mechanism, "rate", 0.0)
    sigma = math.sqrt(rate / (1 - rate)) if rate else mechanism.sigma
    values = 1 + codes / 2**20
    return {
        "fit": fit(codes, mechanism.law),
        "centre": centre(values, 1.0),
        "spread": spread(values, 1.0, sigma**2 + 2**-40 / 12),
        "symmetry": symmetry(codes),
        "extremes": extremes(codes, mechanism.law),
    }


def outcomes(codes: np.ndarray, chances: dict[int, float]) -> dict[str, float]:
    """A few codes and nothing else: each one's count is binomial."""
    kinds = np.array(list(chances))
    counts = np.array([(codes == kind).sum() for kind in kinds])
    return {
        "shares": shares(counts, np.array(len(codes)), np.array(list(chances.values()))),
        "others": float(counts.sum() == len(codes)),
    }


def masks(codes: np.ndarray, mechanism: Masking) -> dict[str, float]:
    return outcomes(codes, {0: 1 - mechanism.rate, 1: mechanism.rate})


def impulses(codes: np.ndarray, mechanism: Impulse) -> dict[str, float]:
    return outcomes(codes, {0: 1 - mechanism.rate, 1: mechanism.rate / 2, 2: mechanism.rate / 2})


def swaps(codes: np.ndarray, mechanism: Swap) -> dict[str, float]:
    donors = codes[codes >= 0]
    counts = np.bincount(donors, minlength=DONORS)
    uniform = chi_square(counts, np.full(len(counts), len(donors) / DONORS)) if len(counts) == DONORS else 0.0
    halves = shares(np.array((donors >= DONORS // 2).sum()), np.array(len(donors)), np.array(0.5))
    rates = outcomes(np.minimum(codes, 0), {-1: 1 - mechanism.rate, 0: mechanism.rate})
    ends = shares(counts[[0, DONORS - 1]], np.array(len(donors)), np.array(1 / DONORS))
    return rates | {"donors": uniform, "halves": halves, "ends": ends}


TESTS: dict[type, Callable[[np.ndarray, Any], dict[str, float]]] = {
    MultiplicativeGaussian: factors,
    GaussianDropout: factors,
    Masking: masks,
    Impulse: impulses,
    Swap: swaps,
}
FACTORS = [MultiplicativeGaussian(0.2), MultiplicativeGaussian(2.0**-20), GaussianDropout(0.1)]
RATED = [Masking(0.3), Impulse(0.3), Swap(0.3)]


@pytest.mark.parametrize("mechanism", [*FACTORS, *RATED], ids=str)
def test_the_mechanism_raises_no_alarm(mechanism):
    trial = Trial(mechanism, mechanism.perturb)
    assert trial.found() == trial.shared() == set()


@pytest.mark.parametrize("mechanism", [*FACTORS, *RATED], ids=str)
def test_noise_that_is_shared_is_rejected(mechanism):
    trial = Trial(mechanism, mechanism.perturb)
    assert trial.shared(other_column="a") == {"columns"}
    assert trial.shared(other_release="1") == {"releases"}
    assert trial.shared(id_mask=~1) >= {"rows"}


@pytest.mark.parametrize("factor", [0.98, 1.02])
@pytest.mark.parametrize("mechanism", [*FACTORS, *RATED], ids=str)
def test_a_scale_or_rate_two_percent_off_is_rejected(mechanism, factor):
    name = "sigma" if isinstance(mechanism, MultiplicativeGaussian) else "rate"
    off = object.__new__(type(mechanism))  # beyond what it accepts, too
    object.__setattr__(off, name, getattr(mechanism, name) * factor)
    caught = Trial(mechanism, off.perturb).found()
    assert {"fit", "spread"} & caught if mechanism in FACTORS else "shares" in caught


def plain_dropout(x: np.ndarray, stream: Stream) -> np.ndarray:
    """sigma^2 = rate, without dividing by 1 - rate."""
    return MultiplicativeGaussian(math.sqrt(0.1)).perturb(x, stream)


def stuck_sign(x: np.ndarray, stream: Stream) -> np.ndarray:
    return np.abs(FACTORS[0].perturb(x, stream))


def off_by_one_step(x: np.ndarray, stream: Stream) -> np.ndarray:
    return FACTORS[1].perturb(x, stream) + 1


def never_salt(x: np.ndarray, stream: Stream) -> np.ndarray:
    return np.minimum(RATED[1].perturb(x, stream), 1)


def another_code(x: np.ndarray, stream: Stream) -> np.ndarray:
    return RATED[0].perturb(x, stream) * 2


def never_the_last_donor(x: np.ndarray, stream: Stream) -> np.ndarray:
    return RATED[2].perturb(x - 1, stream)


def donor_beyond(x: np.ndarray, stream: Stream) -> np.ndarray:
    return RATED[2].perturb(x + 1, stream)


def donors_of_even_rows(x: np.ndarray, stream: Stream) -> np.ndarray:
    codes = RATED[2].perturb(x, stream)
    return np.where(codes >= 0, codes & ~1, codes)


def coin_from_the_donors_words(kind: type[Stream]) -> Callable[[np.ndarray, Stream], np.ndarray]:
    return lambda x, stream: RATED[2].perturb(x, replaced(stream, kind))


@pytest.mark.parametrize(
    ("mechanism", "draw", "caught_by"),
    [
        (FACTORS[2], plain_dropout, "spread"),
        (FACTORS[0], stuck_sign, "symmetry"),
        (FACTORS[1], off_by_one_step, "fit"),
        (RATED[0], another_code, "others"),
        (RATED[1], never_salt, "shares"),
        (RATED[2], never_the_last_donor, "ends"),
        (RATED[2], donor_beyond, "donors"),
        (RATED[2], donors_of_even_rows, "donors"),
        (RATED[2], coin_from_the_donors_words(OneCounter), "halves"),
        (RATED[2], coin_from_the_donors_words(DroppedBit), "halves"),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_a_planted_bug_is_rejected(mechanism, draw, caught_by):
    assert caught_by in Trial(mechanism, draw).found()


def test_a_multiplied_value_has_its_variance():
    """Through the multiplication: integers, rounded; the error's variance is sigma^2 x^2 and 1/12 for rounding."""
    mechanism, x = FACTORS[0], 1000
    noisy = mechanism.multiply(np.full(ROWS, x), mechanism.perturb(np.full(ROWS, x), stream_of("a", x)))
    variance = float(F(1, 25)) * x**2 + 1 / 12
    assert alarms({"centre": centre(noisy, x), "spread": spread(noisy, x, variance)}) == set()
    assert alarms({"spread": spread(noisy, x, 1.02**2 * variance)}) == {"spread"}
