"""Estimating back: what a published table says about the data it was made of, without bias, and how surely.

Plain numbers in (counts, sums, moments of what was published, and the mechanism's parameters), `Estimate`s out. The
standard errors are those of the noise for these very data; the estimates are raw, and what projects or smooths them
(`project_simplex`, `clip_negative`, `em`) is biased and has to be asked for by name.

>>> share_of_each = frequencies([480, 310, 210], rows=1000, p=0.6, q=0.2)
>>> [f"{e.value:.3f} +- {e.standard_error:.3f}" for e in share_of_each]
['0.700 +- 0.037', '0.275 +- 0.034', '0.025 +- 0.032']
"""

from noiselib.estimators.estimate import Estimate, Linear, NoEstimate, normal, scaled
from noiselib.estimators.frequencies import (
    clip_negative,
    frequencies,
    hadamard,
    invert,
    project_simplex,
    rappor,
    transition,
)
from noiselib.estimators.histograms import additive_matrix, em, histogram_mean, plain_quantile, quantile
from noiselib.estimators.means import (
    additive_mean,
    additive_sum,
    additive_variance,
    corrected_covariance,
    dither_mean,
    dither_variance,
    fourth_moment,
    impulse_mean,
    masked_by_constant_mean,
    masked_mean,
    multiplicative_mean,
    multiplicative_second_moment,
    multiplicative_variance,
    one_bit_mean,
    reading_mean,
    scaled_covariance,
    swap_correlation,
    swap_mean,
    vector_mean,
)

__all__ = [
    "Estimate",
    "Linear",
    "NoEstimate",
    "additive_matrix",
    "additive_mean",
    "additive_sum",
    "additive_variance",
    "clip_negative",
    "corrected_covariance",
    "dither_mean",
    "dither_variance",
    "em",
    "fourth_moment",
    "frequencies",
    "hadamard",
    "histogram_mean",
    "impulse_mean",
    "invert",
    "masked_by_constant_mean",
    "masked_mean",
    "multiplicative_mean",
    "multiplicative_second_moment",
    "multiplicative_variance",
    "normal",
    "one_bit_mean",
    "plain_quantile",
    "project_simplex",
    "quantile",
    "rappor",
    "reading_mean",
    "scaled",
    "scaled_covariance",
    "swap_correlation",
    "swap_mean",
    "transition",
    "vector_mean",
]
