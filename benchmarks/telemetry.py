"""A million devices report one of 50 settings under local privacy; how well are its frequencies known?

`python benchmarks/telemetry.py` prints the table of docs/telemetry.md. Data and key are fixed, so it prints the same numbers
everywhere. Frequencies fall off as 1/rank. Errors are over the 50 categories of one release; predicted is the theory's
n Var = (f p(1-p) + (1-f) q(1-q)) / (p-q)^2, uncorrected is the share of reports that support the category.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from noiselib.estimators import Estimate, frequencies
from noiselib.mechanisms import FrequencyOracle, LocalHashing, OptimizedUnary, RandomizedResponse
from noiselib.noise import Stream, derive, encode_bigint, row_tags

ROWS = 1_000_000
CATEGORIES = tuple(range(50))
EPSILONS = (1.0, 2.0)
ORACLES = {"GRR": RandomizedResponse, "OUE": OptimizedUnary, "OLH": LocalHashing}
MASTER = bytes(range(32))
CHUNK = 50_000

Floats = NDArray[np.float64]


def category_counts() -> NDArray[np.int64]:
    """Of a million rows proportionally to 1, 1/2, ..., 1/50, rounded down; the first category has the rest."""
    weights = 1 / np.arange(1, len(CATEGORIES) + 1)
    counts = np.floor(ROWS * weights / weights.sum()).astype(np.int64)
    counts[0] += ROWS - counts.sum()
    return counts


@dataclass(frozen=True)
class Measured:
    """One mechanism's release: what it estimates, what theory expects of it, and the truth."""

    name: str
    mechanism: FrequencyOracle
    estimates: tuple[Estimate, ...]
    uncorrected: Floats
    truth: Floats

    @property
    def errors(self) -> Floats:
        return np.array([estimate.value for estimate in self.estimates]) - self.truth

    @property
    def variances(self) -> Floats:
        """Of each category's estimate, by theory."""
        return np.array([self.mechanism.frequency_variance(f) / ROWS for f in self.truth.tolist()])

    @property
    def held(self) -> int:
        """How many of the 95% intervals hold the truth."""
        return sum(e.low <= f <= e.high for e, f in zip(self.estimates, self.truth.tolist(), strict=True))


def measure(name: str, epsilon: float) -> Measured:
    """Perturb all rows, count the reports that support each category, estimate."""
    mechanism = ORACLES[name](CATEGORIES, epsilon)
    counts = category_counts()
    points = np.repeat(np.arange(len(CATEGORIES)), counts)
    stream = Stream(
        derive(MASTER, name, str(epsilon)), row_tags(derive(MASTER, "rows"), encode_bigint(np.arange(ROWS))), points
    )
    supported = np.zeros(len(CATEGORIES), np.int64)
    for start in range(0, ROWS, CHUNK):
        rows = slice(start, start + CHUNK)
        supported += mechanism.supports(mechanism.perturb(points[rows], stream[rows])).sum(0)
    p, q = map(float, mechanism.support)
    return Measured(name, mechanism, frequencies(supported, ROWS, p, q), supported / ROWS, counts / ROWS)


def measured() -> Iterator[Measured]:
    for epsilon in EPSILONS:
        for name in ORACLES:
            yield measure(name, epsilon)


def root_mean_square(errors: Floats) -> float:
    return math.sqrt(float((errors**2).mean()))


def line(one: Measured) -> str:
    found, expected = root_mean_square(one.errors), math.sqrt(float(one.variances.mean()))
    uncorrected = root_mean_square(one.uncorrected - one.truth)
    return (
        f"| {one.name} | `{one.mechanism.name}` | {one.mechanism.epsilon:g} | {found:.6f} | {expected:.6f} "
        f"| {found / expected:.2f} | {one.held} of 50 | {uncorrected:.4f} |"
    )


HEADER = """\
| protocol | mechanism | epsilon | RMSE measured | RMSE predicted | ratio | 95% intervals that hold | RMSE uncorrected |
|---|---|---|---|---|---|---|---|"""

if __name__ == "__main__":
    print(HEADER)
    for one in measured():
        print(line(one), flush=True)
