"""The known attacks on noise in floats: they tell neighbours apart where a textbook sampler adds doubles, and find nothing here.

Mironov 2012, "On significance of the least significant bits for differential privacy": which doubles an inverse-CDF sampler
can reach depends on the value that it is added to. Haney, Desfontaines, Hartman, Shrestha, Hay 2022, "Precision-based attacks
and interval refining: how to break, then fix, differential privacy on finite computers": a sum has only the precision of its
larger part, Gaussian noise included. Jin, McMurtry, Rubinstein, Ohrimenko 2022, "Are we there yet? Timing and floating-point
attacks on differential privacy systems": the same for Gaussian samplers that libraries use.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from false_alarms import ALARM, alarms, far

from noiselib import mechanisms as m
from noiselib.accounting import Charge, Event, gaussian_sigma
from noiselib.audit import Claim, Finding, attack, draw
from noiselib.mechanisms.additive import exact
from noiselib.noise.stream import derive

DRAWS = 100_000
KEY = bytes(range(32))
EPSILON, DELTA = 1.0, 1e-6
SIGMA = gaussian_sigma(EPSILON, DELTA)
PURE = Claim(EPSILON, 0.0, Charge.of(Event.laplace(1 / EPSILON)))
APPROXIMATE = Claim(EPSILON, DELTA, Charge.of(Event.gaussian(SIGMA)))
UNIT = 2.0**-53  # numpy's uniform doubles are its multiples

Floats = np.ndarray


# ---- noise in floats, planted: values 0 and 1, one apart -----------------------------------------------------------------


def float_laplace(value: float, random: np.random.Generator) -> Floats:
    """The textbook's inverse distribution function, in doubles, added to a double."""
    uniform = 1 - random.random(DRAWS)
    return value + np.where(random.random(DRAWS) < 0.5, -1.0, 1.0) * (-np.log(uniform) / EPSILON)


def float_gaussian(value: float, random: np.random.Generator) -> Floats:
    return value + SIGMA * random.standard_normal(DRAWS)


# ---- noise on the lattice, as published ---------------------------------------------------------------------------------


def published(kind: type[m.Additive], value: float) -> Floats:
    """What a double column within [0, 1] publishes of a value: perturbed on the lattice, and its steps counted in doubles."""
    delta = DELTA if kind is m.Gaussian else None
    step = m.additive.default_step(kind.scale_for(exact(1), EPSILON, delta))
    noise = kind.calibrate(round(1 / step), step, EPSILON, delta)
    codes = draw(noise, round(value / float(step)), DRAWS, derive(KEY, kind.name, repr(value)))
    return codes.astype(np.float64) * float(step)


# ---- what the attackers look at -----------------------------------------------------------------------------------------


def reachable(output: Floats) -> Floats:
    """Mironov: which of 0 and 1 some uniform double takes to this output, by the textbook's sampler: 2 [0] + [1]."""
    return _reached(output, 0.0) * 2.0 + _reached(output, 1.0)


def _reached(output: Floats, value: float) -> Floats:
    noise = output - value
    near = np.rint(np.exp(-np.abs(noise) * EPSILON) / UNIT)
    found = np.zeros(len(output), bool)
    for steps in range(-4, 5):
        uniform = np.clip((near + steps) * UNIT, UNIT, 1.0)
        found |= value + np.copysign(-np.log(uniform) / EPSILON, noise) == output
    return found


def precision(output: Floats) -> Floats:
    """Haney et al.: the exponent of the least bit that is set, of outputs near 0; they are finer if nothing was added."""
    whole, exponent = np.frexp(output)
    digits = np.abs(whole * 2.0**53).astype(np.int64)
    trailing = np.log2(np.maximum(digits & -digits, 1))
    return np.where(np.abs(output) < 0.25, exponent - 53 + trailing, 100.0)


def attacked(feature: Callable[[Floats], Floats], claim: Claim, zero: Floats, one: Floats) -> Finding:
    return attack(feature.__name__, claim, feature(zero), feature(one), 1 - ALARM)


def refuted(found: Finding) -> bool:
    return bool(alarms({found.subject: 0.0 if found.exceeds else 1.0}))


ATTACKS = [(reachable, "laplace"), (precision, "laplace"), (precision, "gaussian")]
FLOATS = {"laplace": (float_laplace, PURE), "gaussian": (float_gaussian, APPROXIMATE)}
LATTICE = {"laplace": m.Laplace, "gaussian": m.Gaussian}


@pytest.mark.parametrize(("feature", "law"), ATTACKS)
def test_noise_in_floats_is_told_apart(feature: Callable[[Floats], Floats], law: str):
    sample, claim = FLOATS[law]
    zero, one = (sample(value, np.random.default_rng([20120, int(value)])) for value in (0.0, 1.0))
    found = attacked(feature, claim, zero, one)
    assert refuted(found)
    assert found.epsilon_lower > 3 * claim.epsilon
    assert found.alarms == 0  # one neighbour never reaches these outputs


@pytest.mark.parametrize(("feature", "law"), ATTACKS)
def test_noise_on_the_lattice_is_not(feature: Callable[[Floats], Floats], law: str):
    kind, claim = LATTICE[law], FLOATS[law][1]
    assert not refuted(attacked(feature, claim, published(kind, 0.0), published(kind, 1.0)))


@pytest.mark.parametrize("law", LATTICE)
def test_both_neighbours_reach_the_same_doubles(law: str):
    """The multiples of the step, each by one code: what is published says what the code is, and nothing else."""
    kind = LATTICE[law]
    step = float(m.additive.default_step(kind.scale_for(exact(1), EPSILON, DELTA if kind is m.Gaussian else None)))
    for value in (0.0, 1.0):
        outputs = published(kind, value)
        codes = np.rint(outputs / step)
        assert np.array_equal(codes * step, outputs)
        assert np.abs(codes).max() < 2**52
        odd = codes.astype(np.int64) & 1
        assert not far(odd.mean() - 0.5, 0.5 / math.sqrt(DRAWS))  # the last bit is used, and is as likely 0 as 1


def test_the_whole_output_gives_no_more_than_the_claim_either():
    for law, kind in LATTICE.items():
        zero, one = published(kind, 0.0), published(kind, 1.0)
        found = attack(law, FLOATS[law][1], zero, one, 1 - ALARM)
        assert not refuted(found)
