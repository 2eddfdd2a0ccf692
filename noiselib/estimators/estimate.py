"""An estimate and how far off it may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

Floats = NDArray[np.float64]

CONFIDENCE = 0.95


class NoEstimate(ValueError):
    """Theory has no answer for these data: too few rows, a law that keeps nothing of the values, counts that cannot be."""


@dataclass(frozen=True)
class Estimate:
    """A number about the data that were perturbed, with its standard error and an interval.

    The standard error is that of the noise alone: the data are fixed, and the published table is one of many that might
    have been published of them. Whoever takes the data for a sample of something larger adds that sample's own error.
    low, high: the interval value -+ z standard_error, z the normal quantile of `confidence`, unless said otherwise. It may
               reach beyond where the truth can lie (a frequency below 0): raw estimates are unbiased because they do.
    """

    value: float
    standard_error: float
    low: float
    high: float
    confidence: float = CONFIDENCE


def normal(value: float, variance: float, confidence: float = CONFIDENCE) -> Estimate:
    """From a variance, which is taken for 0 where rounding made it less."""
    error = math.sqrt(max(0.0, variance))
    reach = z_value(confidence) * error
    return Estimate(float(value), error, float(value) - reach, float(value) + reach, confidence)


def scaled(estimate: Estimate, factor: float, offset: float = 0.0) -> Estimate:
    """factor * estimate + offset: in another unit, or of a sum instead of a mean."""
    ends = sorted((factor * estimate.low + offset, factor * estimate.high + offset))
    error = abs(factor) * estimate.standard_error
    return Estimate(factor * estimate.value + offset, error, ends[0], ends[1], estimate.confidence)


def z_value(confidence: float) -> float:
    """1.96 for 0.95."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence!r}, expected 0 < confidence < 1")
    return float(ndtri((1 + confidence) / 2))


@dataclass(frozen=True, eq=False)
class Linear:
    """Several estimates with their covariance, so that sums of them have errors too: float (k,) and (k, k)."""

    values: Floats
    covariance: Floats

    def combine(self, weights: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
        """Of the sum of weights[i] * values[i]: a mean, a share below some value, a difference of two categories."""
        w = np.asarray(weights, np.float64)
        return normal(float(w @ self.values), float(w @ self.covariance @ w), confidence)

    def each(self, confidence: float = CONFIDENCE) -> tuple[Estimate, ...]:
        pairs = zip(self.values.tolist(), np.diag(self.covariance).tolist(), strict=True)
        return tuple(normal(value, variance, confidence) for value, variance in pairs)


def check_rows(rows: int, least: int = 1) -> None:
    if not rows >= least:
        raise NoEstimate(f"rows={rows!r}, expected at least {least}")


def counts_of(name: str, counts: Sequence[float] | ArrayLike) -> Floats:
    """As floats, each finite and >= 0."""
    array = np.asarray(counts, np.float64)
    if not (np.isfinite(array).all() and (array >= 0).all()):
        raise ValueError(f"{name} has a count that is negative or no number, expected each >= 0")
    return array
