"""The laws by a million draws each, the four of core noise by ten million, and planted bugs that the same tests must reject."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction as F

import numpy as np
import pytest
from laws import (
    ROWS,
    Draw,
    DroppedBit,
    OneCounter,
    alarms,
    bit_dependence,
    centre,
    extremes,
    fit,
    replaced,
    sharing,
    spread,
    stream_of,
    symmetry,
)

from noiselib.noise import (
    Categorical,
    DiscreteGaussian,
    DiscreteLaplace,
    RoundedGaussian,
    RoundedLaplace,
    Stream,
    Uniform,
    discrete,
)
from noiselib.noise.staircase import RoundedStaircase


@dataclass(frozen=True)
class Sampler:
    """What is put to the test: a law's sampler, or a bug planted around it."""

    draw: Draw
    other_column: str = "b"
    other_release: str = "2"
    id_mask: int = -1


def marginal(k: np.ndarray, law, cells: int = 200) -> dict[str, float]:
    """What one column's draws say of the law."""
    mean = float(law.pmf(np.arange(3)) @ np.arange(3)) if isinstance(law, Categorical) else 0.0
    p = {"fit": fit(k, law, cells), "centre": centre(k.astype(float), mean)}
    p["spread"] = spread(k.astype(float), 0.0, law.variance + mean**2)
    if not isinstance(law, Categorical):
        p |= {"symmetry": symmetry(k), "extremes": extremes(k, law)}
    fair_bits = int(math.log2(law.variance) / 2) - 6 if law.variance > 2**20 else 0
    if fair_bits and not isinstance(law, RoundedStaircase):
        p["bits"] = bit_dependence(k[: ROWS // 4, None] >> np.arange(fair_bits) & 1)
    return p


def found(sampler: Sampler, law) -> set[str]:
    """The tests of the draws' law that raise an alarm."""
    return alarms(marginal(sampler.draw(stream_of(id_mask=sampler.id_mask)), law))


def shared(sampler: Sampler) -> set[str]:
    """The tests of independence that raise an alarm."""
    return alarms(
        sharing(
            sampler.draw,
            other_column=sampler.other_column,
            other_release=sampler.other_release,
            id_mask=sampler.id_mask,
        )
    )


# Right samplers


LAWS = [
    *(DiscreteLaplace(scale) for scale in (F(1, 2), F(3), F(2**20), F(2**40))),
    *(RoundedLaplace(scale) for scale in (F(3), F(2**20))),
    *(DiscreteGaussian(sigma) for sigma in (F(1), F(482), F(2**20), F(2**40))),
    *(RoundedGaussian(sigma) for sigma in (F(1), F(2**20))),
    Uniform(10),
    Uniform(2**31 - 1),
    *(RoundedStaircase(*shape) for shape in ((3, F(1)), (2**18, F(1)), (2**12, F(1, 500)))),
    Categorical((F(1, 6), F(1, 2), F(1, 3))),
]
CORE = [DiscreteLaplace(F(2**19)), RoundedLaplace(F(2**19)), DiscreteGaussian(F(2**19)), RoundedGaussian(F(2**19))]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_sampler_raises_no_alarm(law):
    assert found(Sampler(law.sample), law) == shared(Sampler(law.sample)) == set()


@pytest.mark.parametrize("law", CORE, ids=str)
def test_ten_million_draws_raise_no_alarm(law):
    """At the scales that the default lattice gives."""
    draws = np.concatenate([law.sample(stream_of(first=i * ROWS)) for i in range(10)])
    assert alarms(marginal(draws, law, cells=2000)) == set()


# Planted bugs


def stuck_sign(law) -> Draw:
    return lambda stream: np.abs(law.sample(stream))


def off_by_one(law) -> Draw:
    return lambda stream: law.sample(stream) + 1


def negative_magnitude_off_by_one(law) -> Draw:
    """-g instead of -g - 1: zero comes up under both signs."""
    return lambda stream: (k := law.sample(stream)) + (k < 0)


def one_value_never(law) -> Draw:
    return lambda stream: np.where((k := law.sample(stream)) == 2, 0, k)


def one_counter(law) -> Draw:
    return lambda stream: law.sample(replaced(stream, OneCounter))


def dropped_counter_bit(law) -> Draw:
    return lambda stream: law.sample(replaced(stream, DroppedBit))


def with_tables(law, change: Callable) -> Draw:
    """The digit tables (the first, the others) are changed."""

    def draw(stream: Stream) -> np.ndarray:
        tables = discrete._digit_tables
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(discrete, "_digit_tables", lambda rate, signed: change(tables, rate, signed))
            return law.sample(stream)

    return draw


def wrong_digit_table(law) -> Draw:
    """The low digit right, the others those of a scale 2% off."""
    return with_tables(
        law, lambda tables, rate, signed: tables(rate, signed)[:1] + tables(rate / F(51, 50), signed)[1:]
    )


def digit_tables_swapped(law) -> Draw:
    return with_tables(law, lambda tables, rate, signed: tables(rate, signed)[::-1])


def tail_cut_off(law) -> Draw:
    """At ten scales: 45 draws of a million lie beyond."""
    return lambda stream: np.clip(law.sample(stream), -10 * int(law.scale), 10 * int(law.scale))


def rejection_left_out(law) -> Draw:
    """The histogram instead of the Gaussian, in buckets a quarter of the deviation wide."""
    width = int(law.sigma) // 4

    def draw(stream: Stream) -> np.ndarray:
        k = law.sample(stream)
        return k // width * width + stream.words(10**6)[:, 0].astype(np.int64) % width

    return draw


def no_stairs(law) -> Draw:
    """Only their period."""
    flat = replace(law)
    flat.__dict__.update(high_cells=2 * law.sensitivity, high_probability=F(1))
    return flat.sample


def another(law) -> Callable:
    """A sampler of that law in the place of the right one."""
    return lambda _: law.sample


def scaled(law, factor: F) -> list:
    """Every parameter of its own, `factor` times too large."""
    names = [name for name in ("sigma", "scale", "epsilon", "half_width") if hasattr(law, name)]
    off = [replace(law, **{name: getattr(law, name) * factor}) for name in names]
    if isinstance(law, RoundedStaircase) and law.sensitivity > 100:
        off.append(replace(law, sensitivity=int(law.sensitivity * factor)))
    return off


NARROW = [DiscreteLaplace(F(3)), RoundedLaplace(F(3)), DiscreteGaussian(F(3)), RoundedGaussian(F(3))]
WIDE = [DiscreteLaplace(F(2**20)), RoundedLaplace(F(2**20)), DiscreteGaussian(F(2**20)), RoundedGaussian(F(2**20))]
STAIRS = [RoundedStaircase(3, F(1)), RoundedStaircase(2**18, F(1)), RoundedStaircase(2**12, F(1, 500))]
SIGNED = [*NARROW, *WIDE, *STAIRS]


@pytest.mark.parametrize("factor", [F(98, 100), F(102, 100)], ids=str)
@pytest.mark.parametrize("law", SIGNED, ids=str)
def test_a_scale_two_percent_off_is_rejected(law, factor: F):
    """The staircase's epsilon and sensitivity are each other's scale: the shape tells them apart."""
    for off in scaled(law, factor):
        caught = found(Sampler(off.sample), law)
        assert caught >= {"fit", "spread"} or (isinstance(law, RoundedStaircase) and caught)


@pytest.mark.parametrize("law", [*SIGNED, Uniform(10), Uniform(2**31 - 1), LAWS[-1]], ids=str)
def test_noise_that_is_shared_is_rejected(law):
    assert shared(Sampler(law.sample, other_column="a")) == {"columns"}
    assert shared(Sampler(law.sample, other_release="1")) == {"releases"}
    assert shared(Sampler(law.sample, id_mask=~1)) >= {"rows"}


@pytest.mark.parametrize(
    ("plant", "law", "caught_by"),
    [
        *((stuck_sign, law, "symmetry") for law in [*SIGNED, Uniform(10)]),
        *((off_by_one, law, "fit") for law in [*NARROW, STAIRS[0], Uniform(10)]),
        *((negative_magnitude_off_by_one, law, "fit") for law in [*NARROW, STAIRS[0], Uniform(10)]),
        *((one_value_never, law, "fit") for law in [*NARROW, STAIRS[0], Uniform(10), LAWS[-1]]),
        *((one_counter, law, "fit") for law in STAIRS[:2]),
        (dropped_counter_bit, DiscreteLaplace(F(2**40)), "bits"),
        *((wrong_digit_table, law, "fit") for law in WIDE[:2]),
        *((digit_tables_swapped, law, "fit") for law in WIDE[:2]),
        (rejection_left_out, WIDE[2], "fit"),
        *((no_stairs, law, "fit") for law in STAIRS[:2]),
        (another(Uniform(9)), Uniform(10), "fit"),
        (another(Uniform(11)), Uniform(10), "fit"),
        (another(Uniform(int((2**31 - 1) * 0.98))), Uniform(2**31 - 1), "spread"),
        *((tail_cut_off, law, "extremes") for law in [NARROW[0], NARROW[1], *WIDE[:2]]),
        (another(Categorical((F(1, 6), F(1, 3), F(1, 2)))), LAWS[-1], "fit"),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_a_planted_bug_is_rejected(plant, law, caught_by: str):
    assert caught_by in found(Sampler(plant(law)), law)
