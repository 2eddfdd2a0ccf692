"""Additive noise that is correlated among columns, as statistical disclosure control asks for. No privacy claim.

A group of columns shares d standard normal variables per row; column j adds its own combination of the first j + 1, by
its row of the Cholesky factor of the noise's covariance. `group` makes the columns' mechanisms. Every number that
determines a sample is an integer or a float64 of single IEEE operations, so all machines agree to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from noiselib.noise.discrete import RoundedGaussian
from noiselib.noise.stream import Stream

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Matrix = tuple[tuple[float, ...], ...]

FACTOR_BITS = 20
FACTOR_LAW = RoundedGaussian(Fraction(2**FACTOR_BITS))  # a standard normal variable in steps of 2^-20
NEGLIGIBLE = 1e-10  # of a variance: what a pivot may fall short of 0 by, and below which it counts as 0


@dataclass(frozen=True)
class CorrelatedGaussian:
    """One column of a group with correlated Gaussian noise; see `group` for the whole.

    Law: e = sum_l factors[l] z_l, the z_l independent N(0, 1) (on a lattice of 2^-20) shared by the group, factors a row
        of the lower Cholesky factor of the noise's covariance, in steps. Covariance inflated: y = x + e rounded, and
        Cov(y) = Cov(x) + Cov(e), which is (1 + alpha) Cov(x) where Cov(e) = alpha Cov(x). Covariance kept:
        y = m + (x - m + e) / sqrt(1 + alpha) rounded, m the column's mean and Cov(e) = alpha Cov(x); then E Cov(y) =
        Cov(x), sample covariances included, and the mean is unbiased. Rounding adds 1/12 steps^2 to variances.
    Guarantee: none.
    Variance: of y given x: sum_l factors[l]^2 * shrink^2 steps^2, and rounding.
    Estimator: the mean as it is. The covariance as it is where it was kept; where it was inflated, Cov(y) less the
        noise's covariance, or Cov(y) / (1 + alpha).
    Source: Kim 1986, "A method for limiting disclosure in microdata based on random noise and transformation";
        Tendick and Matloff 1994; Brand 2002, "Microdata protection through noise addition".

    factors: the Cholesky row in steps, as many finite numbers as the column's place in its group
    shrink:  1 / sqrt(1 + alpha) where the covariance is kept, else 1
    centre:  the column's mean in steps where the covariance is kept, else without effect
    """

    name: ClassVar[str] = "correlated_gaussian"
    width: ClassVar[int] = 1
    factors: tuple[float, ...]
    shrink: float = 1.0
    centre: float = 0.0

    def __post_init__(self) -> None:
        if not self.factors or not all(math.isfinite(factor) for factor in self.factors):
            raise ValueError(f"factors={self.factors!r}, expected a tuple of finite numbers, at least one")
        if not 0 < self.shrink <= 1:
            raise ValueError(f"shrink={self.shrink!r}, expected 0 < shrink <= 1")
        if not math.isfinite(self.centre):
            raise ValueError(f"centre={self.centre!r}, expected a finite number of steps")

    @property
    def tv_bound(self) -> float:
        return len(self.factors) * FACTOR_LAW.tv_bound

    @property
    def draws(self) -> int:
        return len(self.factors) * FACTOR_LAW.draws

    @property
    def variance_steps(self) -> float:
        """Of a published value given its true one, in steps squared."""
        return math.fsum(factor * factor for factor in self.factors) * self.shrink**2 + 1 / 12

    def perturb(self, points: Ints, stream: Stream) -> Ints:
        """int64 (n,) of `points` and the group's common noise: `stream` has the group's key, and zeros for values."""
        noise = self._noise(stream)
        if self.shrink == 1:
            return points + np.rint(noise).astype(np.int64)
        noise += points.astype(np.float64) - self.centre
        noise *= self.shrink
        noise += self.centre
        return np.rint(noise).astype(np.int64)

    def _noise(self, stream: Stream) -> Floats:
        """sum_l factors[l] z_l, in the order of l."""
        total = np.zeros(len(stream))
        for i, factor in enumerate(self.factors):
            if factor:
                z = FACTOR_LAW.sample(stream.use(f"factor {i}")).astype(np.float64)
                z *= factor * 2.0**-FACTOR_BITS
                total += z
        return total

    def event(self) -> None:
        return None

    def describe(self) -> dict[str, Any]:
        """All in steps. Rows of `factors` of a group make the lower triangular L with Cov(e) = L L^T."""
        return {
            "factors": list(self.factors),
            "shrink": self.shrink,
            "centre": self.centre,
            "variance_steps": self.variance_steps,
        }


def group(
    covariance: Sequence[Sequence[float]], alpha: float | None = None, means: Sequence[float] | None = None
) -> tuple[CorrelatedGaussian, ...]:
    """The mechanisms of a group of columns, in order.

    covariance: d x d in steps of column i times steps of column j: the noise's own if `alpha` is None, else the data's,
                of which the noise has alpha times
    alpha:      > 0
    means:      the columns' means in steps, to keep the covariance; None inflates it. They ask for an alpha

    Raises ValueError for a matrix that is not symmetric and positive semidefinite, or an argument out of its range.
    """
    if alpha is not None and not 0 < alpha < math.inf:
        raise ValueError(f"alpha={alpha!r}, expected a finite alpha > 0")
    if means is not None and (alpha is None or len(means) != len(covariance)):
        raise ValueError(
            f"means={means!r}, expected alpha (here {alpha!r}) and a mean for each of {len(covariance)} columns"
        )
    rows = cholesky([[float(c) * (1.0 if alpha is None else alpha) for c in row] for row in covariance])
    shrink = 1 / math.sqrt(1 + alpha) if alpha is not None and means is not None else 1.0
    centres = [0.0] * len(rows) if means is None else [float(mean) for mean in means]
    return tuple(
        CorrelatedGaussian(row[: i + 1], shrink, centre)
        for i, (row, centre) in enumerate(zip(rows, centres, strict=True))
    )


def covariance_from_sums(rows: int, sums: Sequence[int], products: Sequence[Sequence[int]]) -> Matrix:
    """The sample covariance, denominator rows - 1, from exact sums of lattice points and of their products.

    Integers only, until each entry is rounded to a float once: the order in which rows were added up leaves no trace.
    """
    if rows < 2:
        raise ValueError(f"rows={rows!r}, expected at least 2 rows to estimate a covariance from")
    if len(products) != len(sums) or any(len(line) != len(sums) for line in products):
        raise ValueError(
            f"products has {[len(line) for line in products]} entries, expected {len(sums)} times {len(sums)}"
        )
    return tuple(
        tuple(float(Fraction(rows * p - a * b, rows * (rows - 1))) for p, b in zip(line, sums, strict=True))
        for line, a in zip(products, sums, strict=True)
    )


def means_from_sums(rows: int, sums: Sequence[int]) -> tuple[float, ...]:
    """The means, each rounded once."""
    if rows < 1:
        raise ValueError(f"rows={rows!r}, expected at least 1 row")
    return tuple(float(Fraction(total, rows)) for total in sums)


def cholesky(matrix: Sequence[Sequence[float]]) -> Matrix:
    """The lower triangular L with L L^T = matrix, by rows, in plain float64 operations of one fixed order.

    Pivots within 10^-10 of their variance from 0 count as 0 (a column that follows from those before it, or is
    constant), so positive semidefinite matrices have a factor too.
    """
    size = len(matrix)
    _check_symmetric(matrix)
    lower = [[0.0] * size for _ in range(size)]
    for i in range(size):
        for j in range(i + 1):
            rest = float(matrix[i][j])
            for k in range(j):
                rest -= lower[i][k] * lower[j][k]
            if i == j:
                if rest < -NEGLIGIBLE * matrix[i][i] or matrix[i][i] < 0:
                    raise _not_semidefinite(matrix)
                lower[i][i] = math.sqrt(rest) if rest > NEGLIGIBLE * matrix[i][i] else 0.0
            elif lower[j][j]:
                lower[i][j] = rest / lower[j][j]
            elif abs(rest) > math.sqrt(NEGLIGIBLE * matrix[i][i] * matrix[j][j]):  # a pivot of 0 asks for a column of 0
                raise _not_semidefinite(matrix)
    return tuple(tuple(row) for row in lower)


def _check_symmetric(matrix: Sequence[Sequence[float]]) -> None:
    size = len(matrix)
    if size == 0 or any(len(row) != size for row in matrix):
        raise ValueError(f"covariance has rows of {[len(row) for row in matrix]} entries, expected a square matrix")
    for i, row in enumerate(matrix):
        for j, entry in enumerate(row):
            if not math.isfinite(entry) or entry != matrix[j][i]:
                raise ValueError(
                    f"covariance[{i}][{j}]={entry!r} and [{j}][{i}]={matrix[j][i]!r}, expected a finite symmetric matrix"
                )


def _not_semidefinite(matrix: Sequence[Sequence[float]]) -> ValueError:
    values, vectors = np.linalg.eigh(np.array(matrix, np.float64))  # for the message alone
    direction = ", ".join(f"{weight:.3g}" for weight in vectors[:, 0])
    return ValueError(
        f"covariance has the least eigenvalue {values[0]:.6g} (in the direction {direction}), expected one that is positive "
        "semidefinite: no noise has a negative variance in any direction"
    )
