"""Dither by a million rows: the error's law and moments at each value, its independence of the signal, and planted bugs.

The laws are those of the papers, on the lattice: d is the dither, in quarters of a lattice point, N points to a step.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction as F

import numpy as np
import pytest
from laws import (
    ROWS,
    DroppedBit,
    OneCounter,
    alarms,
    centre,
    chi_square,
    dependence,
    replaced,
    sharing,
    spread,
    stream_of,
)
from scipy import stats

from noiselib.mechanisms.dither import Dither
from noiselib.noise import Stream

N = 16  # lattice points to a step: 64 quarters
STEP = 4 * N
Draw = Callable[[np.ndarray, Stream], np.ndarray]


def dither_law(law: str) -> dict[int, float]:
    """P(d)."""
    uniform = {2 * (2 * u + 1 - N): 1 / N for u in range(N)}
    if law == "rpdf":
        return uniform
    if law == "tpdf":
        found: dict[int, float] = {}
        for d, p in uniform.items():
            for v in range(2 * N):
                total = d + 2 * v + 1 - 2 * N
                found[total] = found.get(total, 0.0) + p / (2 * N)
        return found
    odd = np.arange(-20 * N + 1, 20 * N, 2)
    weights = np.exp(-(odd.astype(float) ** 2) / (2 * (2 * N) ** 2))
    return dict(zip(odd.tolist(), (weights / weights.sum()).tolist(), strict=True))


def error_law(mechanism: Dither, point: int) -> dict[int, float]:
    """P(code - 4 point) in quarters of a lattice point."""
    found: dict[int, float] = {}
    for d, p in dither_law(mechanism.law).items():
        level = (4 * point + d + STEP // 2) // STEP * STEP
        error = level - (d if mechanism.subtractive else 0) - 4 * point
        found[error] = found.get(error, 0.0) + p
    return found


def fit(errors: np.ndarray, law: dict[int, float]) -> float:
    least = min(*law, int(errors.min()))
    size = max(*law, int(errors.max())) - least + 1
    expected = np.zeros(size)
    expected[np.array(list(law)) - least] = list(law.values())
    return chi_square(np.bincount(errors - least, minlength=size), expected * len(errors))


def found(mechanism: Dither, draw: Draw | None = None, law: dict[int, float] | None = None) -> set[str]:
    """At one value by its exact law; over all values of a step the moments, and independence where it is promised."""
    draw = draw or mechanism.perturb
    point = np.full(ROWS, 5)
    errors = draw(point, stream_of("a", point)) - 20
    p = {"fit": fit(errors, error_law(mechanism, 5) if law is None else law)}

    points = np.arange(ROWS) % (3 * N)
    errors = draw(points, stream_of("b", points)) - 4 * points
    laws = [error_law(mechanism, i) for i in range(N)]
    means, squares = (np.array([sum(e**k * q for e, q in one.items()) for one in laws]) for k in (1, 2))
    p["mean"] = centre(errors.astype(float), means[points % N])
    p["square"] = spread(errors.astype(float), 0.0, squares[points % N])
    if promised_mean(mechanism):
        p["error follows the value"] = centre(errors * (points % N - (N - 1) / 2), 0.0)
    if promised_square(mechanism):
        centred = points % N - (N - 1) / 2
        p["square follows the value"] = centre((errors.astype(float) ** 2 - squares[0]) * (centred**2 - 21.25), 0.0)
    if mechanism.subtractive and mechanism.law != "gaussian":
        p["independence"] = dependence(points % N, errors + STEP)
        p["uniform"] = fit(errors, uniform_law(mechanism.law))
    return alarms(p)


def promised_mean(mechanism: Dither) -> bool:
    return mechanism.law != "gaussian"


def promised_square(mechanism: Dither) -> bool:
    return mechanism.law == "tpdf" or (mechanism.subtractive and mechanism.law == "rpdf")


def uniform_law(law: str) -> dict[int, float]:
    """Of a subtractive error: the middles of N, or of 2N, parts of a step."""
    parts, width = (N, 4) if law == "rpdf" else (2 * N, 2)
    return {width // 2 * (2 * j + 1 - parts): 1 / parts for j in range(parts)}


MECHANISMS = [
    Dither(F(1), N, law, subtractive) for law in ("rpdf", "tpdf", "gaussian") for subtractive in (False, True)
]
SUBTRACTIVE = [mechanism for mechanism in MECHANISMS if mechanism.subtractive]


def name(mechanism: object) -> str:
    if isinstance(mechanism, Dither):
        return mechanism.law + (" subtractive" if mechanism.subtractive else "")
    return getattr(mechanism, "__name__", str(mechanism))


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=name)
def test_the_mechanism_raises_no_alarm(mechanism):
    assert found(mechanism) == set()
    assert alarms(sharing(lambda stream: mechanism.perturb(stream.values, stream), 5)) == set()


@pytest.mark.parametrize("law", ["rpdf", "tpdf", "gaussian"])
def test_variances_are_the_published_ones(law):
    """tpdf S^2/4 at every value; subtractive S^2/12 less the lattice's share; a Gaussian of S/2 nearly S^2/3."""
    plain, subtractive = (m for m in MECHANISMS if m.law == law)
    points = np.arange(ROWS) % N
    for mechanism, variance, tolerance in (
        (plain, {"rpdf": 1 / 6, "tpdf": 1 / 4, "gaussian": 1 / 3}[law], 0.01 if law != "tpdf" else 0.004),
        (subtractive, subtractive.variance, 0.004 if law != "gaussian" else 0.01),
    ):
        errors = (mechanism.perturb(points, stream_of("a", points)) - 4 * points) / STEP
        assert (errors**2).mean() == pytest.approx(variance, rel=tolerance)


@pytest.mark.parametrize("mechanism", MECHANISMS, ids=name)
def test_noise_that_is_shared_is_rejected(mechanism):
    def shared(**planted):
        return alarms(sharing(lambda stream: mechanism.perturb(stream.values, stream), 5, **planted))

    assert shared(other_column="a") == {"columns"}
    assert shared(other_release="1") == {"releases"}
    assert shared(id_mask=~1) >= {"rows"}


# ---- planted bugs


def no_dither(mechanism: Dither) -> Draw:
    return lambda points, stream: (4 * points + STEP // 2) // STEP * STEP


def with_dither(mechanism: Dither, change: Callable[[np.ndarray], np.ndarray]) -> Draw:
    """The quantizer with another dither."""

    def draw(points: np.ndarray, stream: Stream) -> np.ndarray:
        d = change(mechanism.sample(stream))
        level = (4 * points + d + STEP // 2) // STEP * STEP
        return level - d if mechanism.subtractive else level

    return draw


def stuck_sign(mechanism: Dither) -> Draw:
    return with_dither(mechanism, np.abs)


def off_by_one_point(mechanism: Dither) -> Draw:
    """The value is taken for the next one."""
    return lambda points, stream: mechanism.perturb(points + 1, stream)


def dither_not_taken_off(mechanism: Dither) -> Draw:
    return Dither(F(1), N, mechanism.law, False).perturb


def dither_taken_off_twice(mechanism: Dither) -> Draw:
    return lambda points, stream: mechanism.perturb(points, stream) - mechanism.sample(stream)


def narrower_by_a_point(mechanism: Dither) -> Draw:
    """The dither of a quantizer of N - 1 points to a step."""
    other = Dither(F(1), N - 1, mechanism.law, False)

    def draw(points: np.ndarray, stream: Stream) -> np.ndarray:
        d = other.sample(stream)
        level = (4 * points + d + STEP // 2) // STEP * STEP
        return level - d if mechanism.subtractive else level

    return draw


HARMLESS = ("gaussian subtractive", "narrower_by_a_point")  # what is added is taken off again, and uniform either way
PLANTS = [(m, plant) for m in MECHANISMS for plant in (no_dither, stuck_sign, off_by_one_point, narrower_by_a_point)]


@pytest.mark.parametrize(
    ("mechanism", "plant"), [pair for pair in PLANTS if tuple(map(name, pair)) != HARMLESS], ids=name
)
def test_a_planted_bug_is_rejected(mechanism, plant):
    assert "fit" in found(mechanism, plant(mechanism))


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_a_gaussian_dither_two_percent_off_is_rejected(factor):
    """Only this law has a scale: the others' width is the step itself, see `narrower_by_a_point`."""
    mechanism = MECHANISMS[4]
    sigma = F(N) * F(repr(factor))

    def draw(points: np.ndarray, stream: Stream) -> np.ndarray:
        from noiselib.noise import discrete

        d = 2 * discrete._sample_buckets(discrete._buckets(sigma, True), stream) + 1
        return (4 * points + d + STEP // 2) // STEP * STEP

    assert {"fit", "square"} & found(mechanism, draw)


@pytest.mark.parametrize("plant", [dither_not_taken_off, dither_taken_off_twice], ids=name)
@pytest.mark.parametrize("mechanism", SUBTRACTIVE, ids=name)
def test_a_dither_that_is_wrongly_taken_off_is_rejected(mechanism, plant):
    assert {"fit", "square"} <= found(mechanism, plant(mechanism))


@pytest.mark.parametrize("kind", [OneCounter, DroppedBit])
@pytest.mark.parametrize("mechanism", [m for m in MECHANISMS if m.law == "tpdf"], ids=name)
def test_a_triangle_of_one_draw_is_rejected(mechanism, kind):
    """Both uniform variables from the same words."""
    assert "square" in found(mechanism, lambda points, stream: mechanism.perturb(points, replaced(stream, kind))) or (
        mechanism.subtractive
    )
    assert "fit" in found(mechanism, lambda points, stream: mechanism.perturb(points, replaced(stream, kind)))


def test_rpdf_shows_the_value_in_its_square_and_the_tests_see_it():
    """What the promise to tpdf alone means: were it made to rpdf, the test would fail."""
    mechanism = MECHANISMS[0]
    points = np.arange(ROWS) % N
    errors = (mechanism.perturb(points, stream_of("a", points)) - 4 * points) / STEP
    middle = (points > N // 4) & (points < 3 * N // 4)
    gap = (errors[middle] ** 2).mean() - (errors[~middle] ** 2).mean()
    error = np.sqrt((errors**2).var() * (1 / middle.sum() + 1 / (~middle).sum()))
    assert alarms({"square": float(2 * stats.norm.sf(abs(gap / error)))}) == {"square"}
