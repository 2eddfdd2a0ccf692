"""`noiselib audit`: the mechanism that is asked about, and what the attacks found, as data and as text."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from noiselib import mechanisms as m
from noiselib.audit import Finding, audit_mechanism
from noiselib.column_spec import MECHANISMS
from noiselib.errors import SpecError
from noiselib.mechanisms.additive import exact
from noiselib.report.calibration import KNOWN, make_mechanism, said

OTHERS = ("planar_laplace", "rappor")
NAMES = tuple(MECHANISMS)


@dataclass(frozen=True)
class Asked:
    """A mechanism by its name and the parameters that a column of a spec would have; None where one is not given."""

    mechanism: str
    epsilon: float | None = None
    delta: float | None = None
    sensitivity: float | None = None
    granularity: float | None = None
    categories: int | None = None
    dimension: int | None = None
    f: float | None = None
    p: float | None = None
    q: float | None = None
    hashes: int = 1
    bits: int | None = None
    cohorts: int = 1

    def make(self) -> Any:
        """The mechanism. Raises SpecError naming the argument that is missing or out of range."""
        if self.mechanism not in (*KNOWN, *OTHERS):
            known = ", ".join((*KNOWN, *OTHERS))
            raise SpecError(f"mechanism {self.mechanism}: states no guarantee to audit; expected one of {known}")
        if self.mechanism == "rappor":
            return self._rappor()
        if self.epsilon is None:
            raise SpecError(f"--epsilon: expected what {self.mechanism} claims")
        if self.mechanism == "planar_laplace":
            return self._places(self.epsilon)
        if self.dimension is not None:
            return self._vectors(self.epsilon)
        return make_mechanism(
            self.mechanism, self.epsilon, self.delta, self.sensitivity, self.granularity, self.categories
        )

    def _rappor(self) -> m.Rappor:
        if None in (self.f, self.p, self.q, self.categories) or self.epsilon is not None:
            raise SpecError("rappor: expected --f, --p, --q and --categories, from which its epsilons follow")
        with said("rappor"):
            categories = tuple(range(self.categories or 0))
            return m.Rappor(categories, self.f, self.p, self.q, self.hashes, self.bits, self.cohorts)  # type: ignore[arg-type]

    def _places(self, epsilon: float) -> m.PlanarLaplace:
        if self.sensitivity is None:
            raise SpecError("--sensitivity: expected the distance within which places are protected, in metres")
        with said("planar_laplace"):
            step = m.metre_step(self.sensitivity) if self.granularity is None else exact(self.granularity)
            return m.PlanarLaplace(step, self.sensitivity, epsilon)

    def _vectors(self, epsilon: float) -> Any:
        if self.mechanism not in m.VECTOR:
            raise SpecError(
                f"--dimension {self.dimension}: expected none for {self.mechanism}, only for {' and '.join(m.VECTOR)}"
            )
        if self.sensitivity is None:
            raise SpecError(
                "--sensitivity: expected how far apart two vectors can be: twice the norm they are clipped to"
            )
        with said(f"{self.mechanism} of vectors"):
            step = None if self.granularity is None else exact(self.granularity)
            kind: Any = m.VECTOR[self.mechanism]
            return kind.calibrate(self.dimension, step, self.sensitivity / 2, epsilon, self.delta)


PARAMETERS = tuple(field.name for field in fields(Asked) if field.name != "mechanism")


def audit(asked: Asked, draws: int, confidence: float) -> list[Finding]:
    """Attack the mechanism under a fresh key; `draws` of either neighbour. Raises SpecError."""
    check_confidence(confidence)
    return audit_mechanism(asked.make(), os.urandom(32), draws, confidence)


def check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise SpecError(f"--confidence {confidence}: expected a number between 0 and 1, such as 0.999999999")


# ---- what was found --------------------------------------------------------------------------------------------------


def audit_data(of: str, findings: Sequence[Finding]) -> dict[str, Any]:
    return {
        "audit": of,
        "success": not any(found.exceeds for found in findings),
        "findings": list(map(_data, findings)),
    }


def _data(found: Finding) -> dict[str, Any]:
    return {
        "subject": found.subject,
        "epsilon": found.claim.epsilon,
        "delta": found.claim.delta,
        "epsilon_lower": found.epsilon_lower,
        "confidence": found.confidence,
        "epsilon_lower_95": found.epsilon_tight,
        "excess_over_curve": found.excess,
        "exceeds": found.exceeds,
        "draws": list(found.draws),
        "in_attack_set": [found.hits, found.alarms],
        "attack": found.attack,
    }


def audit_text(of: str, findings: Sequence[Finding]) -> str:
    """Per subject what it claims, what the attack showed and how; then the verdict."""
    refuted = [found.subject for found in findings if found.exceeds]
    verdict = f"{of}: {'REFUTED: ' + ', '.join(refuted) if refuted else 'no attack exceeds its claim'}"
    return "\n".join([*map(_text, findings), verdict])


def _text(found: Finding) -> str:
    claim, (one, other) = found.claim, found.draws
    lines = [
        f"{found.subject}",
        f"  claimed      epsilon {claim.epsilon:.6g} at delta {claim.delta:g}",
        f"  lower bound  epsilon {found.epsilon_lower:.4f} with confidence 1 - {1 - found.confidence:.2g}; "
        f"{found.epsilon_tight:.4f} with 0.95",
        f"  attack       {found.attack}: {found.hits} of {one} of one neighbour's, {found.alarms} of {other} of the other's",
    ]
    if found.epsilon_lower > claim.epsilon:
        lines.append("  THE BOUND EXCEEDS THE CLAIM: it does not hold")
    elif found.excess > 0:
        lines.append(f"  THE ATTACK LIES ABOVE THE CHARGE'S CURVE, by {found.excess:.4g}: the charge does not hold")
    return "\n".join(lines)
