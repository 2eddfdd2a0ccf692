"""A privacy event: one application of a mechanism to one privacy unit, as far as its cost goes.

References: Kairouz, Oh and Viswanath 2015, "The composition theorem for differential privacy" (any pure mechanism is
dominated by randomized response).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, cast

import numpy as np

from noiselib.accounting import sampling
from noiselib.accounting.deltas import CURVES, Curve, discrete_gaussian_delta, gaussian_delta
from noiselib.accounting.search import least, smallest_decimal
from noiselib.errors import SpecError

Relation = Literal["replace_one", "add_or_remove_one"]
REPLACE_ONE: Relation = "replace_one"
ADD_OR_REMOVE_ONE: Relation = "add_or_remove_one"
RELATIONS: tuple[Relation, ...] = (REPLACE_ONE, ADD_OR_REMOVE_ONE)

PARAMETERS: dict[str, tuple[str, ...]] = {
    "laplace": ("noise_multiplier",),
    "gaussian": ("noise_multiplier",),
    "discrete_laplace": ("scale", "sensitivity"),
    "discrete_gaussian": ("sigma", "sensitivity"),
    "randomized_response": ("epsilon", "categories"),
    "pure_dp": ("epsilon",),
}
_SMALLEST_INTEGER = {"sensitivity": 1, "categories": 2}
# Where a Gaussian's curve is taken to end when a sampler's slack is placed on it.
_SMALLEST_DELTA = 1e-20


@dataclass(frozen=True)
class Event:
    """One application of a mechanism to one privacy unit. Build it by its kind's method.

    slack:    delta added because the sampler is only within some total variation of its ideal law (see `slack`)
    rate:     in (0, 1], the probability with which a record took part, independently of others (see `sampled`)
    relation: what neighbours are: a record is replaced, or one is added or removed. Parameters are for that relation:
              a sensitivity is the largest change under it (see `under`).

    Raises SpecError for an unknown kind or relation, or a parameter out of its range.
    """

    kind: str
    parameters: tuple[float, ...]
    slack: float = 0.0
    rate: float = 1.0
    relation: Relation = REPLACE_ONE

    def __post_init__(self) -> None:
        names = PARAMETERS.get(self.kind)
        if names is None:
            raise SpecError(f"Expected an event kind of {sorted(PARAMETERS)}, got kind={self.kind!r}")
        if len(self.parameters) != len(names):
            raise SpecError(f"Expected parameters {names} for a {self.kind} event, got {self.parameters!r}")
        checked = (_parameter(self.kind, name, value) for name, value in zip(names, self.parameters, strict=True))
        object.__setattr__(self, "parameters", tuple(checked))
        if not 0 <= self.slack <= 1:
            raise SpecError(f"Expected slack in [0, 1] for a {self.kind} event, got slack={self.slack!r}")
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float) or not 0 < self.rate <= 1:
            raise SpecError(f"Expected a sampling rate in (0, 1] for a {self.kind} event, got rate={self.rate!r}")
        if self.relation not in RELATIONS:
            raise SpecError(f"Expected a relation of {RELATIONS} for a {self.kind} event, got {self.relation!r}")

    @staticmethod
    def laplace(noise_multiplier: float, slack: float = 0.0) -> Event:
        """Laplace noise of scale noise_multiplier * sensitivity; noise_multiplier > 0."""
        return Event("laplace", (noise_multiplier,), slack)

    @staticmethod
    def gaussian(noise_multiplier: float, slack: float = 0.0) -> Event:
        """Gaussian noise of standard deviation noise_multiplier * sensitivity; noise_multiplier > 0."""
        return Event("gaussian", (noise_multiplier,), slack)

    @staticmethod
    def discrete_laplace(scale: float | Fraction, sensitivity: int, slack: float = 0.0) -> Event:
        """P[k] proportional to exp(-|k| / scale), k integer; scale > 0 and sensitivity >= 1 in lattice steps."""
        return Event("discrete_laplace", (float(scale), sensitivity), slack)

    @staticmethod
    def discrete_gaussian(sigma: float, sensitivity: int, slack: float = 0.0) -> Event:
        """P[k] proportional to exp(-k^2 / 2 sigma^2), k integer; sigma > 0 and sensitivity >= 1 in lattice steps."""
        return Event("discrete_gaussian", (sigma, sensitivity), slack)

    @staticmethod
    def randomized_response(epsilon: float, categories: int, slack: float = 0.0) -> Event:
        """k-ary randomized response: the truth e^epsilon times as likely as each other category; categories >= 2."""
        return Event("randomized_response", (epsilon, categories), slack)

    @staticmethod
    def pure_dp(epsilon: float, slack: float = 0.0) -> Event:
        """Any mechanism of that epsilon at delta 0: binary randomized response dominates it (Kairouz, Oh, Viswanath 2015)."""
        return Event("pure_dp", (epsilon,), slack)

    def under(self, relation: Relation) -> Event:
        """The same event, read under that neighbouring relation: its parameters must hold for it.

        For a sum of values clipped to [-C, C], the sensitivity is 2C where a record is replaced, C where one is added or
        removed. No charge mixes the two.
        """
        return replace(self, relation=relation)

    def sampled(self, rate: float) -> Event:
        """The event applied to a Poisson sample: each record takes part with probability `rate` in (0, 1], secretly.

        The mechanism must see the sample only, and must not show who took part: so this is for aggregates (DP-SGD), not for
        reports of single records. Under `add_or_remove_one` (the relation of the published figures for DP-SGD) the curves
        are exact; under `replace_one` they are an upper bound, and parameters must also bound what leaving the record out
        changes. Sampling a sampled event multiplies the rates. A slack stays as it is, which is on the safe side.
        """
        if isinstance(rate, bool) or not 0 < rate <= 1:
            raise SpecError(f"Expected a sampling rate in (0, 1] for a {self.kind} event, got rate={rate!r}")
        return replace(self, rate=self.rate * rate)

    @property
    def pure(self) -> bool:
        """Whether the ideal law has a finite epsilon at delta 0."""
        return self.kind not in ("gaussian", "discrete_gaussian")

    @property
    def pure_epsilon(self) -> float:
        """Epsilon of the ideal law at delta 0, sampling counted; inf for Gaussians."""
        return sampling.amplified(self.unsampled_epsilon, self.rate)

    @property
    def unsampled_epsilon(self) -> float:
        """Epsilon of the ideal law at delta 0, of a record that takes part for certain; inf for Gaussians."""
        first, *rest = self.parameters
        if self.kind == "laplace":
            return 1 / first
        if self.kind == "discrete_laplace":
            return rest[0] / first
        return first if self.pure else math.inf

    @property
    def curve(self) -> Curve:
        """Delta at many epsilons >= 0, float (n,), of a record that takes part for certain."""
        law = CURVES[self.kind]
        return lambda epsilons: law(epsilons, *self.parameters)

    def delta(self, epsilon: float) -> float:
        """The smallest delta at `epsilon` >= 0 for the ideal law, slack left out; in [0, 1]. See `sampled` for what is exact."""
        if self.pure and epsilon >= self.pure_epsilon:
            return 0.0
        before = float(sampling.amplifies(np.array(epsilon), self.rate))
        if self.kind == "gaussian":
            return self.rate * gaussian_delta(self.parameters[0], before)
        if self.kind == "discrete_gaussian":
            return self.rate * discrete_gaussian_delta(self.parameters[0], before, int(self.parameters[1]))
        return self.rate * float(self.curve(np.array(before)))

    def with_slack(self, tau: float, draws: int = 1) -> Event:
        """The same event, sampled within total variation `tau` per draw; see `slack`."""
        return replace(self, slack=slack(self, tau, draws))

    def to_json(self) -> dict[str, Any]:
        """A flat JSON object: kind, the kind's parameters by name, slack; rate and relation if not 1 and replace_one."""
        data = {
            "kind": self.kind,
            **dict(zip(PARAMETERS[self.kind], self.parameters, strict=True)),
            "slack": self.slack,
        }
        if self.rate != 1:
            data["rate"] = self.rate
        if self.relation != REPLACE_ONE:
            data["relation"] = self.relation
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Event:
        """The inverse of `to_json`. Raises SpecError for an unknown kind, a missing or an unknown key."""
        kind = data.get("kind")
        names = PARAMETERS.get(kind, ()) if isinstance(kind, str) else ()
        expected = {"kind", "slack", *names}
        if not names or set(data) - {"rate", "relation"} != expected:
            raise SpecError(f"Expected an event of kind {sorted(PARAMETERS)} with its own keys, got {dict(data)!r}")
        relation = cast(Relation, data.get("relation", REPLACE_ONE))
        parameters = tuple(data[name] for name in names)
        return Event(str(kind), parameters, data["slack"], data.get("rate", 1.0), relation)


def _parameter(kind: str, name: str, value: Any) -> float:
    least = _SMALLEST_INTEGER.get(name)
    if least is not None:
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
            raise SpecError(f"Expected an integer {name} >= {least} for {kind}, got {name}={value!r}")
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < math.inf:
        raise SpecError(f"Expected a finite {name} > 0 for {kind}, got {name}={value!r}")
    return float(value)


def slack(event: Event, tau: float, draws: int = 1) -> float:
    """Delta to add because each of `draws` draws of the sampler is within total variation `tau` of its ideal law.

    Let H_e be the hockey-stick divergence at e, and M' within total variation t = draws * tau of M on every input.
    For every event S, P'(S) - e^e Q'(S) <= P(S) - e^e Q(S) + (1 + e^e) t, so H_e(P', Q') <= H_e(P, Q) + (1 + e^e) t.
    That grows with e, but H_e(P', Q') does not. So for any e* the bound at e* serves every e > e*, and
    H_e(P', Q') <= H_e(P, Q) + m for every e, where m = H_e*(P, Q) + (1 + exp(e*)) t, that is

        M pure epsilon-DP:   e* = epsilon,  H_e*(P, Q) = 0,         m = (1 + exp(epsilon)) t
        M Gaussian:          e* such that m is least; with H_e*(P, Q) = t it is (2 + exp(e*)) t

    (for e < 0 the same follows from H_e(P, Q) = 1 - e^e + e^e H_-e(Q, P)). Under composition the mechanisms are
    exchanged one after the other, each adding its m: they add, and are not multiplied by exp(total epsilon).

    Args: tau in [0, 1]; draws >= 0. Returns m in [0, 1], rounded up to 6 significant digits so that it is the same
    on every machine. Raises SpecError out of these ranges.
    """
    if not 0 <= tau <= 1 or draws < 0:
        raise SpecError(f"Expected tau in [0, 1] and draws >= 0, got tau={tau!r}, draws={draws!r}")
    distance = draws * tau
    if distance == 0:
        return 0.0

    def owed(turn: float) -> float:
        return event.delta(turn) + distance * (1 + _exp(turn))

    turn = (
        event.pure_epsilon if event.pure else least(owed, smallest_decimal(lambda e: event.delta(e) <= _SMALLEST_DELTA))
    )
    return min(1.0, float(f"{owed(turn) * (1 + 1e-5):.6g}"))


def _exp(x: float) -> float:
    return math.exp(min(x, 700.0))
