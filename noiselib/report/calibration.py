"""`noiselib calibrate`: the noise that a guarantee asks for, without a table."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from noiselib.errors import SpecError
from noiselib.mechanisms import ADDITIVE, Additive, Uniform
from noiselib.mechanisms.additive import default_step, exact


def calibrate(
    mechanism: str, epsilon: float, delta: float | None, sensitivity: float, granularity: float | None
) -> dict[str, Any]:
    """Scale and variance of `mechanism`, in the unit of `sensitivity`. `scale` is sigma for Gaussian laws, b for Laplace laws.

    Raises SpecError naming the argument that is missing or out of range.
    """
    kind = ADDITIVE.get(mechanism)
    if kind is None or kind is Uniform:
        known = ", ".join(name for name, value in ADDITIVE.items() if value is not Uniform)
        raise SpecError(f"mechanism {mechanism!r}: expected one of {known}")
    for name, value in (("epsilon", epsilon), ("sensitivity", sensitivity), ("granularity", granularity)):
        if value is not None and not 0 < value < math.inf:
            raise SpecError(f"--{name} {value}: expected a number above 0")
    if "gaussian" in mechanism and (delta is None or not 0 < delta < 1):
        raise SpecError(f"--delta {delta}: expected a number between 0 and 1 for {mechanism}")
    if "gaussian" not in mechanism and delta:
        raise SpecError(f"--delta {delta}: {mechanism} is pure; expected none")
    try:
        noise = _noise(kind, epsilon, delta, exact(sensitivity), granularity)
    except (ValueError, ArithmeticError) as error:
        what = str(error) if isinstance(error, ValueError) else "numbers too large or too small"
        raise SpecError(f"{mechanism}: {what}") from None
    asked = {"mechanism": mechanism, "epsilon": epsilon, "delta": delta or 0.0, "sensitivity": sensitivity}
    return asked | noise


def _noise(
    kind: type[Additive], epsilon: float, delta: float | None, distance: Fraction, granularity: float | None
) -> dict[str, float]:
    """The noise that covers values `distance` apart, on a lattice of that granularity, or of one that is fine enough."""
    if granularity is not None:
        step = exact(granularity)
    else:
        step = default_step(kind.scale_for(distance, epsilon, delta)) if kind.fractional else Fraction(1)
    noise = kind.calibrate(math.ceil(distance / step), step, epsilon, delta)
    return {"scale": float(noise.scale * step), "variance": noise.variance, "granularity": float(step)}
