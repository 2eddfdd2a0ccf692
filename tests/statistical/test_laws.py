"""The laws by a million draws each, and planted bugs that the same tests must reject.

Keys are fixed, so a test that passes keeps passing. A p-value below 1e-11 raises an alarm. Fewer than 100 are looked at
for right samplers, so under fresh keys this whole file would raise a false one with probability below 1e-9.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction as F

import numpy as np
import pytest
from scipy import stats

from noiselib.noise import (
    Categorical,
    DiscreteGaussian,
    DiscreteLaplace,
    RoundedGaussian,
    RoundedLaplace,
    Stream,
    Uniform,
    derive,
    discrete,
    encode_bigint,
    row_tags,
)

ROWS = 1_000_000
ALARM = 1e-11
MASTER = bytes(range(32))


def stream_of(column: str, id_mask: int = -1) -> Stream:
    """All rows have one value: only their tags tell them apart."""
    tags = row_tags(derive(MASTER, "rows"), encode_bigint(np.arange(ROWS) & id_mask))
    return Stream(derive(MASTER, column), tags, np.full(ROWS, 42))


@dataclass(frozen=True)
class Sampler:
    """What is put to the test: a law's sampler, or a bug planted around it."""

    draw: Callable[[Stream], np.ndarray]
    column: str = "a"
    other_column: str = "b"
    id_mask: int = -1

    def columns(self) -> tuple[np.ndarray, np.ndarray]:
        return tuple(self.draw(stream_of(column, self.id_mask)) for column in (self.column, self.other_column))


# The tests: each gives a p-value


def fit(k: np.ndarray, law) -> float:
    """Chi-square against the law, in about 200 cells of at least 100 expected draws."""
    deviation = math.sqrt(law.variance)
    edges = np.unique(np.floor(np.linspace(-8, 8, 201) * deviation + law.cdf(0)))
    expected = np.diff(law.cdf(edges), prepend=0, append=1) * len(k)
    starts, held = [0], 0.0
    for i, cell in enumerate(expected):
        if held >= 100 and expected[i:].sum() >= 100:
            starts.append(i)
            held = 0.0
        held += cell
    counts = np.bincount(np.searchsorted(edges, k), minlength=len(expected))
    counts, expected = np.add.reduceat(counts, starts), np.add.reduceat(expected, starts)
    return float(stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), max(1, len(starts) - 1)))


def spread(k: np.ndarray, law) -> float:
    """E k^2 by the central limit theorem."""
    squares = k.astype(float) ** 2
    mean = float(law.pmf(np.arange(3)) @ np.arange(3)) if isinstance(law, Categorical) else 0.0
    return normal_p((squares.mean() - law.variance - mean**2) / (squares.std() / math.sqrt(len(k))))


def symmetry(k: np.ndarray) -> float:
    """As many draws above 0 as below."""
    above, below = int((k > 0).sum()), int((k < 0).sum())
    return normal_p((above - below) / math.sqrt(above + below))


def dependence(a: np.ndarray, b: np.ndarray) -> float:
    """Chi-square of independence of a and b: 8 cells each by size, times their lowest bit."""

    def cells(k: np.ndarray) -> np.ndarray:
        edges = np.unique(np.quantile(k, np.linspace(0, 1, 9)[1:-1]))
        return np.searchsorted(edges, k) * 2 + (k & 1)

    table = np.bincount(cells(a) * 16 + cells(b), minlength=256).reshape(16, 16)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def bit_dependence(k: np.ndarray, bits: int) -> float:
    """The largest correlation among the lowest `bits` bits of k, all of them fair, each pair counted (Bonferroni)."""
    planes = np.stack([(k >> i & 1) * 2.0 - 1 for i in range(bits)])
    z = planes @ planes.T / math.sqrt(len(k))
    pairs = z[np.triu_indices(bits, 1)]
    return min(1.0, normal_p(float(np.abs(pairs).max())) * len(pairs))


def normal_p(z: float) -> float:
    return float(2 * stats.norm.sf(abs(z)))


def alarms(sampler: Sampler, law) -> dict[str, float]:
    """Every test that applies to the law, with its p-value if that is below ALARM. A right sampler gives {}."""
    a, b = sampler.columns()
    p = {"fit": fit(a, law), "spread": spread(a, law), "columns": dependence(a, b), "rows": dependence(a[:-1], a[1:])}
    if not isinstance(law, Categorical):
        p["symmetry"] = symmetry(a)
    fair_bits = int(math.log2(law.variance) / 2) - 6 if law.variance > 2**20 else 0
    if fair_bits:
        p["bits"] = bit_dependence(a[: ROWS // 4], fair_bits)
    return {name: value for name, value in p.items() if not value >= ALARM}


# Right samplers


LAWS = [
    *(DiscreteLaplace(scale) for scale in (F(1, 2), F(3), F(2**20), F(2**40))),
    *(RoundedLaplace(scale) for scale in (F(3), F(2**20))),
    *(DiscreteGaussian(sigma) for sigma in (F(1), F(482), F(2**20), F(2**40))),
    *(RoundedGaussian(sigma) for sigma in (F(1), F(2**20))),
    Uniform(10),
    Uniform(2**31 - 1),
    Categorical((F(1, 6), F(1, 2), F(1, 3))),
]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_sampler_raises_no_alarm(law):
    assert alarms(Sampler(law.sample), law) == {}


def test_words_of_different_counters_keys_and_rows_are_independent():
    a, b = stream_of("a"), stream_of("b")
    first = a.words(0).view(np.int64)
    for other in (a.words(1), b.words(0), np.roll(a.words(0), 1, axis=0), a.words(0)[:, ::-1]):
        assert dependence(first[:, 0], other[:, 0].view(np.int64)) >= ALARM


# Planted bugs


def stuck_sign(law) -> Sampler:
    return Sampler(lambda stream: np.abs(law.sample(stream)))


def off_by_one(law) -> Sampler:
    return Sampler(lambda stream: law.sample(stream) + 1)


def negative_magnitude_off_by_one(law) -> Sampler:
    """-g instead of -g - 1: zero comes up under both signs."""
    return Sampler(lambda stream: (k := law.sample(stream)) + (k < 0))


def reused_across_columns(law) -> Sampler:
    return Sampler(law.sample, "a", "a")


def dropped_tag_bit(law) -> Sampler:
    return Sampler(law.sample, id_mask=~1)


def dropped_counter_bit(law) -> Sampler:
    @dataclass(frozen=True, eq=False)
    class Careless(Stream):
        def words(self, counter, rows=None):
            return super().words(counter & ~1, rows)

        def __getitem__(self, rows):
            return Careless(self.key, self.tags[rows], self.values[rows])

    return Sampler(lambda stream: law.sample(Careless(stream.key, stream.tags, stream.values)))


def wrong_digit_table(law) -> Sampler:
    """The low digit right, the others those of a scale 2% off."""

    def draw(stream: Stream) -> np.ndarray:
        tables = discrete._digit_tables
        off = tables(1 / law.scale / F(51, 50), True)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(discrete, "_digit_tables", lambda rate, signed: tables(rate, signed)[:1] + off[1:])
            return law.sample(stream)

    return Sampler(draw)


def rejection_left_out(law) -> Sampler:
    """The histogram instead of the Gaussian, in buckets a quarter of the deviation wide."""
    width = int(law.sigma) // 4

    def draw(stream: Stream) -> np.ndarray:
        k = law.sample(stream)
        return k // width * width + stream.words(10**6)[:, 0].astype(np.int64) % width

    return Sampler(draw)


def scaled(law, factor: F) -> Sampler:
    name = "sigma" if hasattr(law, "sigma") else "scale"
    return Sampler(replace(law, **{name: getattr(law, name) * factor}).sample)


SCALED_LAWS = [
    *(DiscreteLaplace(scale) for scale in (F(3), F(2**20))),
    *(RoundedLaplace(scale) for scale in (F(3), F(2**20))),
    *(DiscreteGaussian(sigma) for sigma in (F(3), F(2**20))),
    *(RoundedGaussian(sigma) for sigma in (F(3), F(2**20))),
]


@pytest.mark.parametrize("factor", [F(98, 100), F(102, 100)], ids=str)
@pytest.mark.parametrize("law", SCALED_LAWS, ids=str)
def test_a_scale_two_percent_off_is_rejected(law, factor: F):
    assert {"fit", "spread"} <= alarms(scaled(law, factor), law).keys()


@pytest.mark.parametrize(
    ("plant", "law", "caught_by"),
    [
        *((stuck_sign, law, "symmetry") for law in SCALED_LAWS),
        *((off_by_one, law, "fit") for law in SCALED_LAWS[::2]),
        *((negative_magnitude_off_by_one, law, "fit") for law in SCALED_LAWS[::2]),
        *((reused_across_columns, law, "columns") for law in [*SCALED_LAWS, Uniform(10), LAWS[-1]]),
        *((dropped_tag_bit, law, "rows") for law in [*SCALED_LAWS, Uniform(10), LAWS[-1]]),
        (dropped_counter_bit, DiscreteLaplace(F(2**40)), "bits"),
        (wrong_digit_table, DiscreteLaplace(F(2**20)), "fit"),
        (rejection_left_out, DiscreteGaussian(F(2**20)), "fit"),
        (lambda law: Sampler(Uniform(9).sample), Uniform(10), "fit"),
        (lambda law: Sampler(Categorical((F(1, 6), F(1, 3), F(1, 2))).sample), LAWS[-1], "fit"),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_a_planted_bug_is_rejected(plant, law, caught_by: str):
    assert caught_by in alarms(plant(law), law)
