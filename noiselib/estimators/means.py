"""Means, sums, variances and covariances of columns whose values were perturbed, from a few moments of what is published.

All in one unit of the reader's choice, variances in its square. "The data" are the values that the noise was added to:
clipped to their bounds and rounded to their lattice. Rows have independent noise. Sample variances and covariances have
the denominator rows - 1, on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noiselib.estimators.estimate import CONFIDENCE, Estimate, Floats, NoEstimate, check_rows, normal, scaled

# Additive noise (also: dither, vectors, places, correlated columns)


def additive_mean(mean: float, rows: int, noise_variance: float, confidence: float = CONFIDENCE) -> Estimate:
    """The mean as published: the noise has mean 0, and its variance over rows is known exactly, whatever the data."""
    check_rows(rows)
    return normal(mean, noise_variance / rows, confidence)


def additive_sum(total: float, rows: int, noise_variance: float, confidence: float = CONFIDENCE) -> Estimate:
    """The sum as published. Also of cell keys: `rows` distinct cells whose counts have noise of variance V, or less."""
    check_rows(rows)
    return normal(total, noise_variance * rows, confidence)


def vector_mean(
    means: Sequence[float], rows: int, noise_variance: float, confidence: float = CONFIDENCE
) -> tuple[Estimate, ...]:
    """Of each component; the intervals hold one by one."""
    return tuple(additive_mean(mean, rows, noise_variance, confidence) for mean in means)


def additive_variance(
    variance: float, rows: int, noise_variance: float, noise_fourth: float, confidence: float = CONFIDENCE
) -> Estimate:
    """s_y^2 - V: the published values' variance less the noise's; unbiased, so it may come out negative.

    For fixed data s_y^2 = s_x^2 + 2 s_xe + s_e^2, the last two uncorrelated as the noise is symmetric, and

        Var = 4 s_x^2 V / (n-1) + (m4 - V^2 (n-3)/(n-1)) / n,

    m4 = `noise_fourth` the noise's fourth moment (see `fourth_moment`); the estimate goes in for s_x^2, or 0.
    """
    check_rows(rows, 2)
    value = variance - noise_variance
    crossed = 4 * max(0.0, value) * noise_variance / (rows - 1)
    own = (noise_fourth - noise_variance**2 * (rows - 3) / (rows - 1)) / rows
    return normal(value, crossed + own, confidence)


def fourth_moment(cdf: Callable[[NDArray[np.int64]], Floats], variance: float) -> float:
    """E k^4 of a symmetric law on the integers from its distribution function and variance, in steps.

    By cells on k < 0 out to 60 deviations, of one integer each where the law is narrow (then it is exact), else of
    0.0003 deviations (then it is right to 6 digits).
    """
    edges = np.unique(np.floor(np.linspace(-60, 0, 200_001) * max(1.0, math.sqrt(variance))).astype(np.int64))
    below = cdf(edges - 1)  # P(k < edge)
    middles = (edges[:-1] + edges[1:] - 1) / 2
    return float(2 * (np.diff(below) * middles**4).sum())


# Bounded mechanisms


def reading_mean(mean: float, variance: float, rows: int, confidence: float = CONFIDENCE) -> Estimate:
    """Of duchi, piecewise and hybrid: the mean of the readings, each unbiased for its value.

    The standard error is s/sqrt(n), s^2 the readings' sample variance. It is conservative: E s^2 is the mean variance of
    a reading plus the variance of the data. Source: Wang et al. 2019, "Collecting and analyzing multidimensional data".
    """
    check_rows(rows, 2)
    return normal(mean, variance / rows, confidence)


def one_bit_mean(share: float, rows: int, zero: float, one: float, confidence: float = CONFIDENCE) -> Estimate:
    """zero + (one - zero) b, b the share of ones, zero and one what the two bits contribute to the mean.

    Bounds l and u have one = l + (u - l) e^epsilon / (e^epsilon - 1) and zero = l - (u - l) / (e^epsilon - 1). The standard
    error takes b(1-b) for the mean variance of a bit, which is at most that.
    Source: Ding, Kulkarni, Yekhanin 2017, "Collecting telemetry data privately".
    """
    check_rows(rows)
    if not zero < one:
        raise ValueError(f"zero={zero!r} and one={one!r}, expected zero < one")
    return scaled(normal(share, share * (1 - share) / rows, confidence), one - zero, zero)


# Correlated noise


def corrected_covariance(
    covariance: ArrayLike, rows: int, noise_covariance: ArrayLike, confidence: float = CONFIDENCE
) -> tuple[tuple[Estimate, ...], ...]:
    """Cov(y) - Cov(e), entry by entry, e normal with a given covariance N.

    For fixed data of sample covariance S the variance of entry ij is
    (S_ii N_jj + S_jj N_ii + 2 S_ij N_ij + N_ii N_jj + N_ij^2) / (n-1).
    """
    check_rows(rows, 2)
    noise = np.asarray(noise_covariance, np.float64)
    values = np.asarray(covariance, np.float64) - noise
    s, e = np.maximum(np.diag(values), 0.0), np.diag(noise)
    crossed = np.outer(s, e) + np.outer(e, s) + 2 * values * noise
    return _matrix(values, (crossed + np.outer(e, e) + noise**2) / (rows - 1), confidence)


def scaled_covariance(
    covariance: ArrayLike, rows: int, alpha: float, kept: bool, confidence: float = CONFIDENCE
) -> tuple[tuple[Estimate, ...], ...]:
    """The covariance under noise of alpha times the data's: Cov(y) itself if it was kept, Cov(y)/(1 + alpha) if inflated.

    The variance is that of `corrected_covariance` at N = alpha S: (1 - (1 + alpha)^-2) (S_ii S_jj + S_ij^2) / (n-1).
    Source: Kim 1986; Brand 2002.
    """
    check_rows(rows, 2)
    if not alpha > 0:
        raise ValueError(f"alpha={alpha!r}, expected alpha > 0")
    values = np.asarray(covariance, np.float64) / (1.0 if kept else 1 + alpha)
    s = np.diag(values)
    return _matrix(values, (1 - (1 + alpha) ** -2.0) * (np.outer(s, s) + values**2) / (rows - 1), confidence)


def _matrix(values: Floats, variances: Floats, confidence: float) -> tuple[tuple[Estimate, ...], ...]:
    lines = zip(values.tolist(), variances.tolist(), strict=True)
    return tuple(tuple(normal(*entry, confidence) for entry in zip(*line, strict=True)) for line in lines)


# Multiplicative noise, masking, impulses, swapping


def multiplicative_mean(
    mean: float, second_moment: float, rows: int, sigma: float, confidence: float = CONFIDENCE
) -> Estimate:
    """The mean of y = x (1 + sigma z), Gaussian dropout included (sigma^2 = rate/(1 - rate)): as published.

    For fixed data Var = sigma^2 m2 / n with m2 the data's second moment, estimated as that of y over 1 + sigma^2.
    """
    check_rows(rows)
    return normal(mean, sigma**2 * second_moment / (1 + sigma**2) / rows, confidence)


def multiplicative_second_moment(
    second_moment: float, fourth_moment: float, rows: int, sigma: float, confidence: float = CONFIDENCE
) -> Estimate:
    """E y^2 / (1 + sigma^2). As E y^4 = x^4 (1 + 6 sigma^2 + 3 sigma^4), Var y^2 = x^4 (4 sigma^2 + 2 sigma^4)."""
    check_rows(rows)
    square = sigma**2
    data_fourth = fourth_moment / (1 + 6 * square + 3 * square**2)
    variance = data_fourth * (4 * square + 2 * square**2) / (1 + square) ** 2
    return normal(second_moment / (1 + square), variance / rows, confidence)


def multiplicative_variance(
    moments: tuple[float, float, float, float], rows: int, sigma: float, confidence: float = CONFIDENCE
) -> Estimate:
    """n/(n-1) (m2 - mean^2): m2 by `multiplicative_second_moment`, mean^2 the published one's less its noise, sigma^2 m2/n.

    moments: E y, E y^2, E y^3 and E y^4 of what is published. Unbiased. For fixed data the error is, by the first derivative,
    that of the mean over rows of y^2/(1 + sigma^2) - 2 m y, m the data's mean:

        Var = (m4 (4 sigma^2 + 2 sigma^4)/(1 + sigma^2)^2 + 4 m^2 sigma^2 m2 - 8 m sigma^2 m3/(1 + sigma^2)) / n

    as Cov(y^2, y) = 2 sigma^2 x^3; E y^3 = x^3 (1 + 3 sigma^2), E y^4 = x^4 (1 + 6 sigma^2 + 3 sigma^4).
    """
    check_rows(rows, 2)
    mean, second, third, fourth = moments
    square = sigma**2
    m2, m3, m4 = second / (1 + square), third / (1 + 3 * square), fourth / (1 + 6 * square + 3 * square**2)
    value = (m2 - mean**2 + square * m2 / rows) * rows / (rows - 1)
    own = m4 * (4 * square + 2 * square**2) / (1 + square) ** 2
    crossed = 4 * mean**2 * square * m2 - 8 * mean * square * m3 / (1 + square)
    return normal(value, (own + crossed) / rows, confidence)


def masked_mean(mean: float, variance: float, kept: int, rows: int, confidence: float = CONFIDENCE) -> Estimate:
    """The mean of all values from those of the `kept` of `rows` values that were not masked: a simple random sample.

    Var = s^2/m (1 - m/n), s^2 the sample variance of the m kept ones (Cochran 1977, theorem 2.2).
    """
    check_rows(kept, 2)
    if kept > rows:
        raise ValueError(f"kept={kept!r}, expected at most rows={rows!r}")
    return normal(mean, variance / kept * (1 - kept / rows), confidence)


def masked_by_constant_mean(
    mean: float, square: float, rows: int, rate: float, constant: float, confidence: float = CONFIDENCE
) -> Estimate:
    """(E y - rate c) / (1 - rate): with that rate a value was replaced by the constant c.

    square: E (y - c)^2, which is (1 - rate) times that of the data. For fixed data the variance of y is
            rate (1 - rate) (x - c)^2, so that of the estimate is rate E (y - c)^2 / (1 - rate)^2 / n.
    """
    check_rows(rows)
    _check_rate(rate)
    return normal((mean - rate * constant) / (1 - rate), rate * square / (1 - rate) ** 2 / rows, confidence)


def impulse_mean(
    mean: float,
    second_moment: float,
    rows: int,
    rate: float,
    low: float,
    high: float,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """(E y - rate c) / (1 - rate), c = (low + high)/2: with that rate a value was replaced by low or high, as likely.

    For fixed data the mean variance of y is m2_y - mean over rows of ((1-rate) x + rate c)^2, in which
    E x^2 = (m2_y - rate (low^2 + high^2)/2) / (1 - rate).
    """
    check_rows(rows)
    _check_rate(rate)
    centre = (low + high) / 2
    value = (mean - rate * centre) / (1 - rate)
    square = (second_moment - rate * (low**2 + high**2) / 2) / (1 - rate)
    kept = (1 - rate) ** 2 * square + 2 * rate * (1 - rate) * centre * value + (rate * centre) ** 2
    return normal(value, (second_moment - kept) / (1 - rate) ** 2 / rows, confidence)


def swap_mean(mean: float, variance: float, rows: int, rate: float, confidence: float = CONFIDENCE) -> Estimate:
    """As published: with that rate a value is another row's, drawn from all. Var = rate (2 - rate) s^2 / n."""
    check_rows(rows, 2)
    if not 0 <= rate <= 1:
        raise ValueError(f"rate={rate!r}, expected 0 <= rate <= 1")
    return normal(mean, rate * (2 - rate) * variance / rows, confidence)


def swap_correlation(
    correlation: float, rows: int, rate: float, other_rate: float, confidence: float = CONFIDENCE
) -> Estimate:
    """r / ((1 - rate)(1 - other_rate)): each column was swapped by itself, and a swapped value is independent.

    The error is that of a correlation of normal columns, (1 - r^2)/sqrt(n - 1), divided likewise; it counts in the chance
    of the data, so it is on the large side, and it is approximate.
    """
    check_rows(rows, 3)
    _check_rate(rate)
    _check_rate(other_rate)
    if math.isnan(correlation):
        raise NoEstimate("correlation of a column that is constant as published, expected two columns that vary")
    factor = 1 / ((1 - rate) * (1 - other_rate))
    return scaled(normal(correlation, (1 - correlation**2) ** 2 / (rows - 1), confidence), factor)


def _check_rate(rate: float) -> None:
    if rate == 1:
        raise NoEstimate("rate=1, expected a rate below 1: nothing is left of the values")
    if not 0 <= rate < 1:
        raise ValueError(f"rate={rate!r}, expected 0 <= rate < 1")


# Dither


def dither_mean(
    mean: float, rows: int, law: str, subtractive: bool, step: float, confidence: float = CONFIDENCE
) -> Estimate:
    """The mean as published, of a quantizer whose levels clamp nothing.

    The error's variance for one value is, at most: rpdf and tpdf step^2/4, gaussian 1.05 step^2/3 (rpdf's follows the value,
    from 0 on, so its error is conservative); subtractive step^2/12, gaussian 1.05 times that. A Gaussian dither of half a
    step leaves a mean within 0.0024 steps of the value, the same way in every row, which is added as if it were an error.
    Source: Lipshitz, Wannamaker, Vanderkooy 1992; Wannamaker, Lipshitz, Vanderkooy, Wright 2000.
    """
    check_rows(rows)
    laws = {"rpdf": (1 / 4, 1 / 12, 0.0), "tpdf": (1 / 4, 1 / 12, 0.0), "gaussian": (1.05 / 3, 1.05 / 12, 0.0024)}
    if law not in laws:
        raise ValueError(f"law={law!r}, expected one of {sorted(laws)}")
    plain, subtracted, bias = laws[law]
    return normal(mean, step**2 * ((subtracted if subtractive else plain) / rows + bias**2), confidence)


def dither_variance(
    variance: float, rows: int, error: float, subtractive: bool, step: float, confidence: float = CONFIDENCE
) -> Estimate:
    """`additive_variance` of tpdf dither, or of subtractive rpdf: the only ones whose error has one mean square at all values.

    error: that mean square, as the mechanism has it. The fourth moment is step^4/80 where dither was subtracted, as the error
           is uniform on a step, else 13/80 step^4, the mean over where values lie between two levels.
    """
    fourth = 1 / 80 if subtractive else 13 / 80
    return additive_variance(variance, rows, error, fourth * step**4, confidence)
