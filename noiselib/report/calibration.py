"""`noiselib calibrate`: the noise that a guarantee asks for, without a table."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any

from noiselib.accounting import Accountant, Charge, Event, smallest_noise
from noiselib.errors import SpecError
from noiselib.mechanisms import ADDITIVE, BOUNDED, ORACLES, Additive, Uniform
from noiselib.mechanisms.additive import SAMPLER_SHARE, default_step, exact

KNOWN = [*(name for name, kind in ADDITIVE.items() if kind is not Uniform), *BOUNDED, *ORACLES]
Answer = dict[str, Any]


def calibrate(
    mechanism: str,
    epsilon: float,
    delta: float | None,
    sensitivity: float | None,
    granularity: float | None = None,
    categories: int | None = None,
    accountant: Accountant = "pld",
) -> Answer:
    """What `mechanism` does at that guarantee.

    Additive noise: scale (sigma of Gaussian laws, b of Laplace laws), variance and granularity, in the unit of `sensitivity`.
    Bounded numbers: the largest variance of a reading, `sensitivity` being the bounds' width. Categories: p and q, with which
    a report supports the true category and another one, and n Var of the estimate of a frequency near 0.
    With each, the delta that the sampler owes for its distance from the ideal law: a budget needs a larger one.
    By accountant rdp or zcdp, Gaussian laws need more noise than by their own curve; what is pure costs the same by each.
    Raises SpecError naming the argument that is missing or out of range.
    """
    noise = make_mechanism(mechanism, epsilon, delta, sensitivity, granularity, categories)
    asked: Answer = {"categories": categories} if mechanism in ORACLES else {"sensitivity": sensitivity}
    if accountant != "pld":
        noise, asked = _dearer(noise, accountant), asked | {"accountant": accountant}
    with said(mechanism):
        return {"mechanism": mechanism, "epsilon": epsilon, "delta": delta or 0.0} | asked | _answer(noise)


def _dearer(noise: Any, accountant: Accountant) -> Any:
    """With the scale that this accountant asks for; to RDP and zCDP a discrete Gaussian is as a continuous one."""
    if getattr(noise, "delta", None) is None:
        return noise
    delta = noise.delta * (1 - SAMPLER_SHARE)
    multiplier = smallest_noise(lambda z: Charge.of(Event.gaussian(z)), noise.epsilon, delta, accountant)
    return replace(noise, scale=exact(multiplier) * noise.sensitivity)


def _answer(noise: Any) -> Answer:
    owed = {"sampler_delta": noise.event().slack}
    if noise.name in ORACLES:
        p, q = noise.support
        return {"p": float(p), "q": float(q), "n_variance": noise.frequency_variance()} | owed
    scale = {"scale": float(noise.scale * noise.step)} if isinstance(noise, Additive) else {}
    return scale | {"variance": noise.variance, "granularity": float(noise.step)} | owed


def make_mechanism(
    mechanism: str,
    epsilon: float,
    delta: float | None,
    sensitivity: float | None,
    granularity: float | None = None,
    categories: int | None = None,
) -> Any:
    """The mechanism of that guarantee. Raises SpecError naming the argument that is missing or out of range."""
    if mechanism not in KNOWN:
        raise SpecError(f"mechanism {mechanism!r}: expected one of {', '.join(KNOWN)}")
    for name, value in (("epsilon", epsilon), ("sensitivity", sensitivity), ("granularity", granularity)):
        if value is not None and not 0 < value < math.inf:
            raise SpecError(f"--{name} {value}: expected a number above 0")
    if "gaussian" in mechanism and (delta is None or not 0 < delta < 1):
        raise SpecError(f"--delta {delta}: expected a number between 0 and 1 for {mechanism}")
    if "gaussian" not in mechanism and delta:
        raise SpecError(f"--delta {delta}: {mechanism} is pure; expected none")
    if mechanism in ORACLES and (categories is None or categories < 2):
        raise SpecError(f"--categories {categories}: expected how many there are, 2 or more, for {mechanism}")
    if mechanism not in ORACLES and sensitivity is None:
        raise SpecError(f"--sensitivity: expected the most by which a value can change, for {mechanism}")
    with said(mechanism):
        if mechanism in ORACLES:
            return ORACLES[mechanism](tuple(range(categories or 0)), epsilon)
        distance, step = exact(sensitivity or 0), None if granularity is None else exact(granularity)
        if mechanism in BOUNDED:
            step = step or default_step(distance)
            return BOUNDED[mechanism](step, 0, math.ceil(distance / step), epsilon)
        return _additive(ADDITIVE[mechanism], epsilon, delta, distance, step)


@contextmanager
def said(mechanism: str) -> Iterator[None]:
    """What a mechanism says of its parameters, as a SpecError."""
    try:
        yield
    except (ValueError, ArithmeticError) as error:
        what = str(error) if isinstance(error, ValueError) else "numbers too large or too small"
        raise SpecError(f"{mechanism}: {what}") from None


def _additive(
    kind: type[Additive], epsilon: float, delta: float | None, distance: Fraction, step: Fraction | None
) -> Additive:
    """The noise that covers values `distance` apart, on a lattice of that step, or of one that is fine enough."""
    if step is None:
        step = default_step(kind.scale_for(distance, epsilon, delta)) if kind.fractional else Fraction(1)
    return kind.calibrate(math.ceil(distance / step), step, epsilon, delta)
