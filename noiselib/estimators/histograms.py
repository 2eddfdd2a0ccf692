"""Histograms and quantiles of numbers, from the counts of what was published in cells.

A perturbed histogram is the true one times a matrix of known probabilities, if values lie evenly within their bins (the
one assumption; with a bin for each lattice point there is none): `additive_matrix` of additive noise, and of the square
wave mechanism its `transition`, transposed. `invert` undoes it without bias: the raw histogram, whose standard errors
tell how little a deconvolution knows where noise is wider than the bins. They count the place within a bin as chance;
for fixed data it is not, so they are conservative where bins are wider than the noise. `em` is the named option that
looks better: bins >= 0 of sum 1, biased towards smoothness, without standard errors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noiselib.estimators.estimate import (
    CONFIDENCE,
    Estimate,
    Floats,
    Linear,
    NoEstimate,
    check_rows,
    counts_of,
    z_value,
)

SPREAD = 32  # places within a bin that stand for all its places


def additive_matrix(bins: Sequence[int], cells: Sequence[int], cdf: Callable[[NDArray[np.float64]], Floats]) -> Floats:
    """P(published in a cell | value in a bin) under additive noise: float (k, m + 1), for k bins and m inner cell edges.

    bins:  k + 1 rising lattice points: bin i holds the points bins[i] .. bins[i+1] - 1, taken as equally likely
    cells: m rising lattice points: cells are k < cells[0], cells[0] <= k < cells[1], ..., cells[-1] <= k
    cdf:   of the noise, in steps
    """
    starts, edges = _rising("bins", bins), _rising("cells", cells)
    lines = []
    for low, high in pairwise(starts):
        wide = high - low > SPREAD
        inside = low + (np.arange(SPREAD) + 0.5) / SPREAD * (high - low) - 0.5 if wide else np.arange(low, high)
        below = cdf(np.ceil(edges - 1 - inside[:, None])).mean(0)
        lines.append(np.diff(below, prepend=0.0, append=1.0))
    return np.array(lines)


# Named option: expectation maximization


def em(
    counts: ArrayLike, matrix: ArrayLike, smooth: bool = False, tolerance: float = 1e-3, steps: int = 10_000
) -> Floats:
    """The histogram by expectation maximization, from uniform bins; with `smooth` EMS, for square wave.

    f_i <- f_i sum_j (c_j/n) R_ij / (R^T f)_j, the maximum likelihood as its limit; EMS then averages neighbours with the
    weights 1/4, 1/2, 1/4 after each step. It ends when the log-likelihood of all reports gains less than `tolerance`
    (the paper takes 10^-3 for EMS, 10^-3 e^epsilon for EM), or after `steps`. Biased: bins are never negative, an early
    end keeps them smooth, and averaging flattens peaks.
    Source: Li et al. 2020, "Estimating numerical distributions under local differential privacy";
    smoothing of Silverman et al. 1990.
    """
    c, r = counts_of("counts", counts), np.asarray(matrix, np.float64)
    if c.shape != (r.shape[1],):
        raise ValueError(f"counts of shape {c.shape}, expected one per column of matrix, {r.shape}")
    check_rows(int(c.sum()))
    c, r = c[c > 0], r[:, c > 0]
    if not (r.max(0) > 0).all():
        raise NoEstimate("counts where no bin can have come from: matrix has a column of 0 there")
    f, before = np.full(len(r), 1 / len(r)), -np.inf
    for _ in range(steps):
        expected = f @ r
        likelihood = float(c @ np.log(expected))
        if likelihood - before < tolerance and np.isfinite(before):
            break
        before = likelihood
        f *= r @ (c / expected)
        f = _neighbours(f) if smooth else f
        f /= f.sum()
    return f


def _neighbours(f: Floats) -> Floats:
    """Weights 1/4, 1/2, 1/4; at the ends 2/3 and 1/3, as there is one neighbour only."""
    if len(f) < 2:
        return f
    out = f / 2
    out[1:] += f[:-1] / 4
    out[:-1] += f[1:] / 4
    out[0], out[-1] = (2 * f[0] + f[1]) / 3, (2 * f[-1] + f[-2]) / 3
    return out


# What follows from a histogram


def histogram_mean(histogram: Linear, edges: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """sum f_i (middle of bin i), edges k + 1 rising ones: right up to how values lie within bins."""
    ends = _rising("edges", edges)
    return histogram.combine((ends[:-1] + ends[1:]) / 2, confidence)


def quantile(histogram: Linear, edges: Sequence[float], share: float, confidence: float = CONFIDENCE) -> Estimate:
    """The value below which a `share` of the data lies, linear within bins.

    The value is where the distribution function (made monotone: the mean of its running maxima from the left and minima
    from the right) meets the share. low and high are the outermost places where the function's interval still holds the
    share: at the true quantile it does so with probability `confidence`, so they enclose it at least as often. The
    standard error is that of a normal interval of their length: (high - low) / (2 z).
    """
    if not 0 < share < 1:
        raise ValueError(f"share={share!r}, expected 0 < share < 1")
    ends = _rising("edges", edges)
    sums = np.tri(len(ends), len(ends) - 1, -1)
    below = sums @ histogram.values
    errors = np.sqrt(np.maximum(0.0, np.einsum("ij,jk,ik->i", sums, histogram.covariance, sums)))
    z = z_value(confidence)
    value = plain_quantile(histogram.values, edges, share)
    low = _meet(np.maximum.accumulate(below + z * errors), ends, share)
    high = _meet(np.minimum.accumulate((below - z * errors)[::-1])[::-1], ends, share)
    return Estimate(value, (high - low) / (2 * z), low, high, confidence)


def plain_quantile(values: ArrayLike, edges: Sequence[float], share: float) -> float:
    """The same value, of any histogram, one by `em` too: without an error, as there is none to be had."""
    ends = _rising("edges", edges)
    return _meet(_monotone(np.concatenate([[0.0], np.cumsum(np.asarray(values, np.float64))])), ends, share)


def _monotone(below: Floats) -> Floats:
    rising = np.maximum.accumulate(below)
    falling = np.minimum.accumulate(below[::-1])[::-1]
    return np.asarray((rising + falling) / 2, np.float64)


def _meet(rising: Floats, ends: Floats, share: float) -> float:
    """Where a rising broken line first reaches the share; the last end if it does not."""
    above = np.flatnonzero(rising >= share)
    if len(above) == 0:
        return float(ends[-1])
    i = int(above[0])
    if i == 0:
        return float(ends[0])
    part = (share - rising[i - 1]) / (rising[i] - rising[i - 1])
    return float(ends[i - 1] + part * (ends[i] - ends[i - 1]))


def _rising(name: str, numbers: Sequence[float]) -> Floats:
    array = np.asarray(numbers, np.float64)
    if array.ndim != 1 or len(array) < 2 or not (np.diff(array) > 0).all():
        raise ValueError(f"{name} with {array.size} numbers, expected two or more that rise")
    return array
