"""The planar Laplace law by a million draws, and planted bugs that the same tests must reject."""

from __future__ import annotations

import math
from fractions import Fraction as F

import numpy as np
import pytest
from laws import ROWS, Draw, alarms, centre, chi_square, dependence, sharing, stream_of
from scipy import stats

from noiselib.mechanisms.planar import PlanarLaplace as Places
from noiselib.mechanisms.planar import unpack
from noiselib.noise import Stream
from noiselib.noise.planar import PlanarLaplace


def cells(k: np.ndarray, law: PlanarLaplace) -> float:
    """Narrow law: every point of the lattice, or neighbouring ones together, and the rest."""
    reach = math.ceil(12 * law.scale)
    x, y = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    expected = law.pmf(x, y).ravel() * ROWS
    side = 2 * reach + 1
    inside = (np.abs(k) <= reach).all(1)
    counts = np.bincount((k[inside, 1] + reach) * side + k[inside, 0] + reach, minlength=side * side)
    return chi_square(np.append(counts, ROWS - counts.sum()), np.append(expected, max(0.0, ROWS - expected.sum())))


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
    return chi_square(counts, expected)


def distance(k: np.ndarray, law: PlanarLaplace) -> float:
    """E||k|| by the central limit theorem."""
    return centre(np.hypot(*k.T.astype(float)), law.mean_distance)


def found(draw: Draw, law: PlanarLaplace) -> set[str]:
    k = draw(stream_of())
    return alarms(
        {
            "cells" if law.scale < 10 else "polar": (cells if law.scale < 10 else polar)(k, law),
            "quadrants": quadrants(k, law),
            "distance": distance(k, law),
        }
    )


def shared(draw: Draw, **planted) -> set[str]:
    drawn: dict[bytes, np.ndarray] = {}

    def once(stream: Stream) -> np.ndarray:
        if stream.key not in drawn:
            drawn[stream.key] = draw(stream)
        return drawn[stream.key]

    east, north = (sharing(lambda stream, i=i: once(stream)[:, i], **planted) for i in (0, 1))
    crossed = dependence(once(stream_of())[:, 0], once(stream_of("b"))[:, 1])
    return alarms(east | {f"{name} north": p for name, p in north.items()} | {"crossed": crossed})


LAWS = [PlanarLaplace(scale) for scale in (F(1, 2), F(2), F(5000, 3), F(2**20), F(2**28))]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_the_sampler_raises_no_alarm(law):
    assert found(law.sample, law) == shared(law.sample) == set()


def test_a_place_is_moved_by_the_law_of_its_scale():
    """Through the mechanism, packed places and all: a metre's step, 100 m at epsilon 1."""
    mechanism = Places(F(1), 100.0, 1.0)
    law = PlanarLaplace(F(100) * (1 + F(1, 2**40)) + F(1414219, 1000000))
    assert float(law.scale) == pytest.approx(float(mechanism.scale), rel=1e-7)

    def draw(stream: Stream) -> np.ndarray:
        place = (7 << 32) | (2**32 - 3)
        codes = mechanism.perturb(np.full(ROWS, place), stream)
        return np.stack(unpack(codes), 1) - [-3, 7]

    assert found(draw, law) == set()


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
    assert "distance" in found(scaled(factor)(law), law)


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
    assert caught_by in found(plant(law), law)


def test_noise_that_is_shared_is_rejected():
    draw = LAWS[2].sample
    assert shared(draw, other_column="a") == {"columns", "columns north"}
    assert shared(draw, other_release="1") == {"releases", "releases north"}
    assert shared(draw, id_mask=~1) >= {"rows", "rows north"}
