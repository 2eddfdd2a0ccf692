"""The planar Laplace law by a million draws, and planted bugs that the same tests must reject.

Keys are fixed. A p-value below 1e-11 raises an alarm; about 30 are looked at for right samplers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction as F

import numpy as np
import pytest
from scipy import stats

from noiselib.mechanisms.planar import PlanarLaplace as Places
from noiselib.mechanisms.planar import unpack
from noiselib.noise import Stream, derive, encode_bigint, row_tags
from noiselib.noise.planar import PlanarLaplace

ROWS = 1_000_000
ALARM = 1e-11
MASTER = bytes(range(32))
Draw = Callable[[Stream], np.ndarray]


def stream_of(column: str, id_mask: int = -1) -> Stream:
    tags = row_tags(derive(MASTER, "rows"), encode_bigint(np.arange(ROWS) & id_mask))
    return Stream(derive(MASTER, column), tags, np.full(ROWS, 42))


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    assert expected.min() > 50
    return float(stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), len(counts) - 1))


def normal_p(z: float) -> float:
    return float(2 * stats.norm.sf(abs(z)))


def cells(k: np.ndarray, law: PlanarLaplace) -> float:
    """Narrow law: every point of the lattice that is expected 100 times, and the rest."""
    reach = math.ceil(12 * law.scale)
    x, y = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    expected = law.pmf(x, y).ravel() * ROWS
    side = 2 * reach + 1
    inside = (np.abs(k) <= reach).all(1)
    counts = np.bincount((k[inside, 1] + reach) * side + k[inside, 0] + reach, minlength=side * side)
    often = expected > 100
    rest = ROWS - counts[often].sum(), ROWS - expected[often].sum()
    return chi_square(np.append(counts[often], rest[0]), np.append(expected[often], rest[1]))


def polar(k: np.ndarray, law: PlanarLaplace) -> float:
    """Wide law: 40 rings of equal probability (the radius over s is Gamma of shape 2) times 16 sectors."""
    ring = np.searchsorted(
        stats.gamma(2, scale=float(law.scale)).ppf(np.arange(1, 40) / 40), np.hypot(*k.T.astype(float))
    )
    sector = np.floor((np.arctan2(k[:, 1], k[:, 0]) / (2 * np.pi) + 1 / 32) % 1 * 16).astype(int)
    return chi_square(np.bincount(ring * 16 + sector, minlength=640), np.full(640, ROWS / 640))


def quadrants(k: np.ndarray, law: PlanarLaplace) -> float:
    """x > 0 and y >= 0, and its three turns by a right angle: (1 - P(0, 0))/4 each, exactly."""
    x, y = k.T
    turned = [(x > 0) & (y >= 0), (x <= 0) & (y > 0), (x < 0) & (y <= 0), (x >= 0) & (y < 0)]
    zero = float(law.pmf(0, 0))
    expected = ROWS * np.array([(1 - zero) / 4] * 4 + [zero])
    counts = np.array([part.sum() for part in turned] + [ROWS - sum(part.sum() for part in turned)])
    return chi_square(counts, expected) if zero * ROWS > 50 else chi_square(counts[:4], expected[:4])


def distance(k: np.ndarray, law: PlanarLaplace) -> float:
    """E||k|| by the central limit theorem."""
    length = np.hypot(*k.T.astype(float))
    return normal_p((length.mean() - law.mean_distance) / (length.std() / math.sqrt(ROWS)))


def dependence(a: np.ndarray, b: np.ndarray) -> float:
    """Chi-square of independence: 8 cells each by size, times the lowest bit."""

    def split(k: np.ndarray) -> np.ndarray:
        edges = np.unique(np.quantile(k, np.linspace(0, 1, 9)[1:-1]))
        return np.searchsorted(edges, k) * 2 + (k & 1)

    table = np.bincount(split(a) * 16 + split(b), minlength=256).reshape(16, 16)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def alarms(draw: Draw, law: PlanarLaplace, other: str = "b", id_mask: int = -1) -> dict[str, float]:
    a, b = (draw(stream_of(column, id_mask)) for column in ("a", other))
    p = {
        "cells" if law.scale < 10 else "polar": (cells if law.scale < 10 else polar)(a, law),
        "quadrants": quadrants(a, law),
        "distance": distance(a, law),
        "columns": dependence(a[:, 0], b[:, 0]),
        "rows": dependence(a[:-1, 1], a[1:, 1]),
        "crossed": dependence(a[:, 0], b[:, 1]),
    }
    return {name: value for name, value in p.items() if not value >= ALARM}


LAWS = [PlanarLaplace(scale) for scale in (F(1, 2), F(2), F(5000, 3), F(2**20), F(2**28))]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_sampler_raises_no_alarm(law):
    assert alarms(law.sample, law) == {}


def test_a_place_is_moved_by_the_law_of_its_scale():
    """Through the mechanism, packed places and all: a metre's step, 100 m at epsilon 1."""
    mechanism = Places(F(1), 100.0, 1.0)
    law = PlanarLaplace(F(100) * (1 + F(1, 2**40)) + F(1414219, 1000000))
    assert float(law.scale) == pytest.approx(float(mechanism.scale), rel=1e-7)

    def draw(stream: Stream) -> np.ndarray:
        place = (7 << 32) | (2**32 - 3)
        codes = mechanism.perturb(np.full(ROWS, place), stream)
        return np.stack(unpack(codes), 1) - [-3, 7]

    assert alarms(draw, law) == {}


# Planted bugs


def scaled(factor: F):
    return lambda law: PlanarLaplace(law.scale * factor).sample


def product_law(law: PlanarLaplace) -> Draw:
    """Two Laplace coordinates, the rejection forgotten."""
    return lambda stream: np.stack([law.proposal.sample(stream.use("x")), law.proposal.sample(stream.use("y"))], 1)


def same_proposal_in_every_attempt(law: PlanarLaplace) -> Draw:
    """The attempt does not enter: a rejected proposal comes back until a coin accepts it, so that all are accepted."""

    class Forgetful(Stream):
        def use(self, name, values=None):
            return super().use(name.split()[0], values)

        def __getitem__(self, rows):
            return Forgetful(self.key, self.tags[rows], self.values[rows])

    return lambda stream: law.sample(Forgetful(stream.key, stream.tags, stream.values))


def same_coordinate_twice(law: PlanarLaplace) -> Draw:
    return lambda stream: law.sample(stream)[:, [0, 0]]


def off_by_one(law: PlanarLaplace) -> Draw:
    return lambda stream: law.sample(stream) + np.array([1, 0])


def stuck_sign(law: PlanarLaplace) -> Draw:
    return lambda stream: np.abs(law.sample(stream))


@pytest.mark.parametrize("factor", [F(98, 100), F(102, 100)], ids=str)
@pytest.mark.parametrize("law", LAWS[1:4], ids=str)
def test_a_scale_two_percent_off_is_rejected(law, factor: F):
    assert "distance" in alarms(scaled(factor)(law), law)


@pytest.mark.parametrize(
    ("plant", "law", "caught_by"),
    [
        *((product_law, law, "cells" if law.scale < 10 else "polar") for law in LAWS[:4]),
        *((same_proposal_in_every_attempt, law, "cells" if law.scale < 10 else "polar") for law in LAWS[1:4]),
        *((same_coordinate_twice, law, "quadrants") for law in LAWS[1:3]),
        *((off_by_one, law, "quadrants") for law in LAWS[:2]),
        *((stuck_sign, law, "quadrants") for law in LAWS[1:3]),
    ],
    ids=lambda x: getattr(x, "__name__", str(x)),
)
def test_a_planted_bug_is_rejected(plant, law, caught_by: str):
    assert caught_by in alarms(plant(law), law)


def test_noise_reused_and_a_dropped_bit_are_rejected():
    law = LAWS[2]
    assert "columns" in alarms(law.sample, law, other="a")
    assert "rows" in alarms(law.sample, law, id_mask=~1)
