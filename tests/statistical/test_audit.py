"""The audit comes close to what tight mechanisms claim, exceeds no right claim, and refutes planted bugs.

Keys are fixed. A right claim would be refuted with probability at most ALARM a finding, were they fresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction as F
from typing import Any

import numpy as np
import pytest
from false_alarms import ALARM, alarms

from noiselib import mechanisms as m
from noiselib.accounting import Charge, Event
from noiselib.audit import Claim, Finding, Observed, Table, attack_table, audit_mechanism, claims
from noiselib.noise.stream import Stream, derive, encode_bigint, row_tags

KEY = bytes(range(32))
CONFIDENCE = 1 - ALARM
CATEGORIES = tuple(range(8))
STEP = F(1, 8)
LAPLACE = m.Laplace.calibrate(1000, STEP, 1.0)
DISCRETE = m.DiscreteLaplace.calibrate(3, F(1), 1.0)
RESPONSE = m.RandomizedResponse(CATEGORIES, 1.0)
# at epsilon 1, each with a pair of neighbours and a set of outputs whose probabilities are e^epsilon apart, but RAPPOR, whose
# epsilons follow from its parameters
TIGHT = [
    LAPLACE,
    DISCRETE,
    m.DiscreteLaplace.calibrate(1, F(1), 1.0),
    m.Staircase.calibrate(2**18, STEP, 1.0),
    *(kind(STEP, -400, 400, 1.0) for kind in m.BOUNDED.values()),
    *(kind(CATEGORIES, 1.0) for kind in m.ORACLES.values()),
    m.VectorLaplace.calibrate(3, None, 1.0, 1.0),
]
LOOSE = [  # a ratio of e^epsilon only in the tail, or over two rounds
    m.Gaussian.calibrate(2**18, STEP, 1.0, 1e-6),
    m.DiscreteGaussian.calibrate(5, F(1), 1.0, 1e-6),
    m.VectorGaussian.calibrate(3, None, 1.0, 1.0, 1e-6),
    m.PlanarLaplace(F(1, 2), 500.0, 1.0),
    m.Rappor(CATEGORIES, 0.25, 0.35, 0.65),
    m.Rappor(CATEGORIES, 0.25, 0.35, 0.65, hashes=2, bits=16, cohorts=4),
]


def named(mechanism: Any) -> str:
    return type(mechanism).__name__


def audited(mechanism: Any, draws: int, claimed: Any = None) -> list[Finding]:
    """Held against the claim of `claimed`, a mechanism; its own, by default."""
    own = [claim for _, claim in claims(claimed)] if claimed is not None else None
    return audit_mechanism(mechanism, KEY, draws, CONFIDENCE, own)


def refuted(findings: Sequence[Finding]) -> set[str]:
    """Counted among the suite's looks: a finding that exceeds a right claim has probability ALARM at most."""
    return alarms({found.subject: 0.0 if found.exceeds else 1.0 for found in findings})


# ---- right mechanisms ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", TIGHT, ids=named)
def test_the_bound_comes_close_to_a_tight_claim_and_not_above(mechanism: Any):
    (found,) = findings = audited(mechanism, 1_000_000)
    assert not refuted(findings)
    assert found.epsilon_lower >= 0.9 * mechanism.epsilon


@pytest.mark.parametrize("mechanism", LOOSE, ids=named)
def test_no_claim_is_exceeded(mechanism: Any):
    findings = audited(mechanism, 200_000)
    assert not refuted(findings)
    assert all(found.epsilon_lower > 0.25 * found.claim.epsilon for found in findings)


def test_the_mechanisms_above_are_all_that_claim_anything():
    kinds = {type(mechanism) for mechanism in [*TIGHT, *LOOSE]}
    additive = {kind for kind in m.ADDITIVE.values() if kind is not m.Uniform}
    assert kinds == {
        *additive, *m.BOUNDED.values(), *m.ORACLES.values(), *m.VECTOR.values(), m.PlanarLaplace, m.Rappor
    }  # fmt: skip


def test_the_same_key_finds_the_same():
    one, two = (audited(RESPONSE, 20_000) for _ in range(2))
    assert one == two
    assert audit_mechanism(RESPONSE, bytes(32), 20_000, CONFIDENCE) != one


# ---- planted bugs ----------------------------------------------------------------------------------------------------


def scaled(mechanism: Any, factor: F) -> Any:
    """Its scale is wrong by that factor."""
    return replace(mechanism, scale=mechanism.scale * factor)


class NotClipped(m.Laplace):
    """Points thrice as far apart as the bounds allow."""

    def perturb(self, values, stream):
        return super().perturb(3 * values, stream)


class SignStuck(m.Laplace):
    def perturb(self, values, stream):
        return values + np.abs(super().perturb(values, stream) - values)


class OffByOne(m.DiscreteLaplace):
    """Codes are cut off at a bound that is one step further down for a value above 0."""

    def perturb(self, values, stream):
        return np.maximum(super().perturb(values, stream), -10 - (values > 0))


class OneStepTooFar(m.DiscreteLaplace):
    """Neighbours are a step further apart than the noise was calibrated to, as if rounding had been forgotten."""

    def perturb(self, values, stream):
        return super().perturb(values + (values > 0), stream)


class TrueAtTimes(m.Laplace):
    """One value in a thousand is published as it is: a delta that is charged to nobody."""

    def perturb(self, values, stream):
        bare = stream.use("leak").words(0)[:, 0] < np.uint64(2**64 // 1000)
        return np.where(bare, values, super().perturb(values, stream))


class NeverFlipped(m.RandomizedResponse):
    """One category is always published as it is."""

    def perturb(self, values, stream):
        return np.where(values == 5, values, super().perturb(values, stream))


class NeverReached(m.RandomizedResponse):
    """No other category is ever published as number 5."""

    def perturb(self, values, stream):
        codes = super().perturb(values, stream)
        return np.where((codes == 5) & (values != 5), values, codes)


class MaskLeaks(m.OptimizedUnary):
    """The true category's bit is always 1."""

    def perturb(self, points, stream):
        return super().perturb(points, stream) | (np.int64(1) << points)


@dataclass(frozen=True)
class SeedIsChosen(m.LocalHashing):
    """Reports are truthful more often than the noise should have it."""

    def perturb(self, points, stream):
        codes = super().perturb(points, stream)
        lucky = stream.use("luck").words(0)[:, 0] < np.uint64(2**64 // 20)
        codes[:, 1] = np.where(lucky, self.hash(codes[:, 0], points), codes[:, 1])
        return codes


def as_kind(kind: type, mechanism: Any) -> Any:
    """The same parameters under a broken `perturb`."""
    return kind(**{field.name: getattr(mechanism, field.name) for field in fields(mechanism)})


PLANTED = {
    "laplace, scale 30% too small": (scaled(LAPLACE, F(7, 10)), LAPLACE, 100_000),
    "laplace, scale 20% too small": (scaled(LAPLACE, F(8, 10)), LAPLACE, 100_000),
    "laplace, scale 5% too small": (scaled(LAPLACE, F(95, 100)), LAPLACE, 1_000_000),
    "discrete laplace, scale 20% too small": (scaled(DISCRETE, F(8, 10)), DISCRETE, 100_000),
    "gaussian, scale 30% too small": (scaled(LOOSE[0], F(7, 10)), LOOSE[0], 200_000),
    "gaussian, scale 20% too small": (scaled(LOOSE[0], F(8, 10)), LOOSE[0], 1_000_000),
    "discrete gaussian, scale 30% too small": (scaled(LOOSE[1], F(7, 10)), LOOSE[1], 200_000),
    "vector gaussian, scale 30% too small": (scaled(LOOSE[2], F(7, 10)), LOOSE[2], 200_000),
    "clip missing": (as_kind(NotClipped, LAPLACE), LAPLACE, 100_000),
    "sign stuck": (as_kind(SignStuck, LAPLACE), LAPLACE, 100_000),
    "support depends on the value": (as_kind(OffByOne, DISCRETE), DISCRETE, 100_000),
    "sensitivity a step too small": (as_kind(OneStepTooFar, DISCRETE), DISCRETE, 100_000),
    "delta that is not charged": (as_kind(TrueAtTimes, LAPLACE), LAPLACE, 1_000_000),
    "category never flipped": (as_kind(NeverFlipped, RESPONSE), RESPONSE, 100_000),
    "category never reached": (as_kind(NeverReached, RESPONSE), RESPONSE, 100_000),
    "mask with the true bit": (as_kind(MaskLeaks, m.OptimizedUnary(CATEGORIES, 1.0)), m.OptimizedUnary(CATEGORIES, 1.0), 100_000),
    "report too truthful": (as_kind(SeedIsChosen, m.LocalHashing(CATEGORIES, 1.0)), m.LocalHashing(CATEGORIES, 1.0), 200_000),
}  # fmt: skip


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_refuted(bug: str):
    broken, claimed, draws = PLANTED[bug]
    assert refuted(audited(broken, draws, claimed))


def test_a_gaussian_is_not_pure():
    """Its delta was spent, but not charged."""
    gaussian = m.Gaussian.calibrate(2**18, STEP, 1.0, 0.01)
    assert not refuted(audited(gaussian, 1_000_000))
    pure = Claim(1.0, 0.0, Charge.of(Event.pure_dp(1.0)))
    (found,) = audit_mechanism(gaussian, KEY, 1_000_000, CONFIDENCE, [pure])
    assert found.exceeds


# ---- records ---------------------------------------------------------------------------------------------------------

ROWS = 160_000


def table(stream_of: Any, charged: Charge, columns: int = 3, rows_per_unit: int = 1) -> Table:
    """Rows of that many Laplace columns at epsilon 1. In pattern p (0 or 1) of neighbours, unit w is at the end
    (bit p of the column's number) XOR w, as in a pipeline's audit.
    """
    unit = np.arange(ROWS) // rows_per_unit
    world, pattern = unit // 4 & 1, unit // 8 & 1
    observed = []
    for index in range(columns):
        ends = (index >> pattern ^ world) & 1 == 1
        points = ends * LAPLACE.sensitivity
        outputs = LAPLACE.perturb(points, stream_of(index, points)).astype(float)
        observed.append(Observed(f"c{index}", claims(LAPLACE)[0][1], outputs, ends))
    return Table(tuple(observed), Claim(charged.epsilon(1e-9), 1e-9, charged), world == 1, unit)


def own_stream(index: int, points: np.ndarray) -> Stream:
    tags = row_tags(derive(KEY, "rows"), encode_bigint(np.arange(ROWS)))
    return Stream(derive(KEY, "column", str(index)), tags, points)


def shared_stream(index: int, points: np.ndarray) -> Stream:
    """One key for all columns, and words that are not bound to the value: the same noise."""
    return replace(own_stream(0, points), values=np.zeros_like(points))


ONE = Charge.of(LAPLACE.event())


def test_independent_columns_keep_to_the_record_s_charge():
    findings = attack_table(table(own_stream, ONE.times(3)), CONFIDENCE)
    assert [found.subject.split()[0] for found in findings] == ["column"] * 3 + ["columns", "record"]
    assert not refuted(findings)
    assert findings[-1].epsilon_lower > 0.7 * 3


def test_noise_that_columns_share_is_seen_in_what_they_say_together():
    findings = attack_table(table(shared_stream, ONE.times(3)), CONFIDENCE)
    assert not refuted(findings[:3])
    assert refuted(findings[3:])


def test_a_column_that_is_not_charged_is_seen_in_the_record():
    assert refuted(attack_table(table(own_stream, ONE.times(2)), CONFIDENCE)) == {"record"}


def test_two_rows_of_a_unit_need_two_charges():
    assert not refuted(attack_table(table(own_stream, ONE.times(2), columns=1, rows_per_unit=2), CONFIDENCE))
    assert refuted(attack_table(table(own_stream, ONE, columns=1, rows_per_unit=2), CONFIDENCE)) == {"record"}
