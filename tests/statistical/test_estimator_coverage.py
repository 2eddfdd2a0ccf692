"""Every estimator on a thousand releases of the same data, perturbed by the real samplers: no bias, errors as stated.

The data are fixed, the keys are fixed. Per quantity estimated there are three tests: the estimates' mean is the truth; the
95% intervals hold it in 95% of releases; the estimates scatter as their standard errors say. An estimator that documents
its error as conservative may do better than stated, never worse. Each case comes with a naive estimator, what a reader
would do without the correction, which the same tests must reject.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction as F
from functools import cache

import numpy as np
import pytest
from laws import alarm, least, stream_of
from laws import alarms as raised
from scipy import stats

from noiselib import estimators as es
from noiselib.estimators import Estimate
from noiselib.mechanisms.additive import DiscreteLaplace, Gaussian, Laplace, Staircase, Uniform
from noiselib.mechanisms.bounded import Duchi, Hybrid, OneBitMean, Piecewise, SquareWave
from noiselib.mechanisms.categorical import RandomizedResponse, Transition, resampling_matrix, uniform_flip
from noiselib.mechanisms.cell_key import CellKey
from noiselib.mechanisms.correlated import covariance_from_sums, group, means_from_sums
from noiselib.mechanisms.dither import Dither
from noiselib.mechanisms.hashing import HadamardResponse, LocalHashing, SubsetSelection
from noiselib.mechanisms.planar import PlanarLaplace, pack
from noiselib.mechanisms.planar import unpack as unpack_places
from noiselib.mechanisms.unary import OptimizedUnary, Rappor, SymmetricUnary, unpack
from noiselib.mechanisms.utility import GaussianDropout, Impulse, Masking, MultiplicativeGaussian, Swap
from noiselib.mechanisms.vector import VectorGaussian

RELEASES, ROWS = 1000, 1000
Estimates = tuple[Estimate, ...]


def released(mechanism, points: np.ndarray, column: str = "a") -> np.ndarray:
    """The codes of RELEASES releases of one column: (RELEASES, rows, ...). Every release has rows, hence noise, of its own."""
    tiled = np.tile(points, RELEASES)
    codes = mechanism.perturb(tiled, stream_of(column, tiled))
    return codes.reshape(RELEASES, len(points), *codes.shape[1:])


@dataclass(frozen=True)
class Case:
    truth: np.ndarray
    estimates: list[Estimates]
    naive: list[Estimates]
    conservative: bool = False


def alarms(estimates: list[Estimates], truth: np.ndarray, conservative: bool = False) -> set[str]:
    """The tests that fail for any of the quantities, Bonferroni."""
    values, errors, low, high = (
        np.array([[getattr(e, name) for e in one] for one in estimates])
        for name in ("value", "standard_error", "low", "high")
    )
    count = len(values)
    spread = values.std(0, ddof=1)
    bias = 2 * stats.t.sf(np.abs(values.mean(0) - truth) / (spread / math.sqrt(count)), count - 1)
    held = ((low <= truth) & (truth <= high)).sum(0)
    below = stats.binom.cdf(held, count, 0.95)
    ratio = (count - 1) * spread**2 / (errors**2).mean(0)
    above = stats.chi2.sf(ratio, count - 1)
    if not conservative:
        below = np.minimum(1, 2 * np.minimum(below, stats.binom.sf(held - 1, count, 0.95)))
        above = np.minimum(1, 2 * np.minimum(above, stats.chi2.cdf(ratio, count - 1)))
    found = {"bias": bias, "coverage": below, "spread": above}
    return raised({name: least(p) for name, p in found.items()})


def without_error(values: np.ndarray) -> list[Estimates]:
    """Naive numbers, (RELEASES, quantities), given an error large enough: it is the bias that has to be seen."""
    spread = values.var(0, ddof=1)
    return [tuple(es.normal(v, s) for v, s in zip(one, spread, strict=True)) for one in values]


# Categories

SHARES = [0.5, 0.3, 0.15, 0.045, 0.005]
CATEGORIES = tuple("abcde")
LABELS = np.repeat(np.arange(5), [round(share * ROWS) for share in SHARES])
TRUTH = np.array(SHARES)


def pure(mechanism) -> Case:
    codes = released(mechanism, LABELS)
    supported = mechanism.supports(codes.reshape(-1, *codes.shape[2:])).reshape(RELEASES, ROWS, -1).sum(1)
    p, q = map(float, mechanism.support)
    found = [es.frequencies(counts, ROWS, p, q) for counts in supported]
    return Case(TRUTH, found, without_error(supported / supported.sum(1, keepdims=True)))


def hadamard() -> Case:
    """Four blocks; the naive reader takes the share of supporting reports for a pure protocol's of q = 1/2."""
    mechanism = HadamardResponse(tuple(range(10)), 1.8)
    points = np.repeat(np.arange(10), [400, 200, 100, 100, 50, 50, 40, 30, 20, 10])
    codes, own = released(mechanism, points), mechanism.place(np.arange(10))[0]
    supported = mechanism.supports(codes.ravel()).reshape(RELEASES, ROWS, 10).sum(1)
    blocks = np.stack([(codes // mechanism.size == block).sum(1) for block in own], 1)
    weight = mechanism.describe()["weight"]
    assert mechanism.blocks == 4
    found = [es.hadamard(c, b, ROWS, weight) for c, b in zip(supported, blocks, strict=True)]
    return Case(np.bincount(points) / ROWS, found, without_error(weight * (2 * supported / ROWS - 0.5)))


def rappor() -> Case:
    """Bloom filters in 8 cohorts; the naive reader forgets the bits that chance sets."""
    mechanism = Rappor(CATEGORIES, 0.3, 0.2, 0.8, hashes=2, bits=16, cohorts=8)
    tiled = np.tile(LABELS, RELEASES)
    codes = mechanism.perturb(tiled, stream_of("a", tiled), stream_of("permanent", tiled))
    masks, cohorts = unpack(codes[:, :-1], 16).reshape(RELEASES, ROWS, 16), codes[:, -1].reshape(RELEASES, ROWS)
    (p, q), design = map(float, mechanism.support), mechanism.design()
    found, naive = [], []
    for bits, cohort in zip(masks, cohorts, strict=True):
        counts = np.stack([bits[cohort == j].sum(0) for j in range(8)])
        sizes = np.bincount(cohort, minlength=8)
        found.append(es.rappor(counts, sizes, design, p, q))
        shares = (counts / sizes[:, None]).ravel()
        naive.append(np.linalg.lstsq((design.reshape(-1, 5) > (p + q) / 2) * (p - q), shares, rcond=None)[0])
    return Case(TRUTH, found, without_error(np.array(naive)))


def transition(name: str, matrix) -> Case:
    mechanism = Transition(name, CATEGORIES, matrix)
    counts = np.stack([np.bincount(one, minlength=5) for one in released(mechanism, LABELS)])
    found = [es.transition(one, mechanism.describe()["matrix"]) for one in counts]
    return Case(TRUTH, found, without_error(counts / ROWS))


# Numbers

NUMBERS = np.rint(200 * np.random.default_rng(5).beta(2, 5, ROWS)).astype(np.int64)  # 0 to 200, skewed
MEAN, VARIANCE = NUMBERS.mean(), NUMBERS.var(ddof=1)


def additive_moments(mechanism) -> Case:
    codes = released(mechanism, NUMBERS)
    noise, fourth = mechanism.law.variance, es.fourth_moment(mechanism.law.cdf, mechanism.law.variance)
    means, variances = codes.mean(1), codes.var(1, ddof=1)
    found = [
        (
            es.additive_mean(mean, ROWS, noise),
            es.additive_sum(mean * ROWS, ROWS, noise),
            es.additive_variance(variance, ROWS, noise, fourth),
        )
        for mean, variance in zip(means, variances, strict=True)
    ]
    naive = without_error(np.stack([means, means * ROWS, variances], 1))
    return Case(np.array([MEAN, MEAN * ROWS, VARIANCE]), found, naive)


def readings(kind) -> Case:
    """The naive reader scales the codes to the bounds."""
    mechanism = kind(F(1), 0, 200, 1.0)
    codes, reading = released(mechanism, NUMBERS), mechanism.reading
    read = reading.offset + reading.slope * codes
    if reading.ends is not None:
        read = np.where(codes < 0, reading.ends[0], np.where(codes == reading.codes, reading.ends[1], read))
    found = [(es.reading_mean(one.mean(), one.var(ddof=1), ROWS),) for one in read]
    naive = without_error(200 * (codes.mean(1, keepdims=True) / (reading.codes - 1)))
    return Case(np.array([MEAN]), found, naive, True)


def one_bit() -> Case:
    mechanism = OneBitMean(F(1), 0, 200, 1.0)
    shares = released(mechanism, NUMBERS).mean(1)
    zero, one = mechanism.describe()["values"]
    found = [(es.one_bit_mean(share, ROWS, zero, one),) for share in shares]
    return Case(np.array([MEAN]), found, without_error(200 * shares[:, None]), True)


BINS = [0, 25, 50, 75, 100, 201]
EVEN = np.repeat(np.arange(201), 5)[:ROWS]  # even within bins, so that the matrix's assumption holds
HISTOGRAM = np.histogram(EVEN, BINS)[0] / ROWS


def additive_histogram(points: np.ndarray, bins: list[int], cells: list[int], scale: int, conservative: bool) -> Case:
    """Of wide bins the error is conservative: it counts the place within a bin as chance, which here is fixed."""
    mechanism = DiscreteLaplace(F(1), F(scale))
    matrix = es.additive_matrix(bins, cells, mechanism.law.cdf)
    codes = released(mechanism, points)
    counts = np.stack([np.bincount(np.searchsorted(cells, one, "right"), minlength=len(cells) + 1) for one in codes])
    raw = [es.invert(one, matrix).each() for one in counts]
    inside = np.stack([np.histogram(one, [-np.inf, *bins[1:-1], np.inf])[0] for one in codes]) / ROWS
    return Case(np.histogram(points, bins)[0] / ROWS, raw, without_error(inside), conservative)


def square_wave_histogram() -> Case:
    """Four buckets of 201 points, by 16 of the codes."""
    mechanism = SquareWave(F(1), 0, 200, 2.0)
    matrix = mechanism.transition(4, 16).T
    codes, total = released(mechanism, EVEN), mechanism.reading.codes
    counts = np.stack([np.bincount(one * 16 // total, minlength=16) for one in codes])
    truth = np.bincount(EVEN * 4 // 201, minlength=4) / ROWS
    naive = without_error(np.stack([np.bincount(one * 4 // total, minlength=4) for one in codes]) / ROWS)
    return Case(truth, [es.invert(one, matrix).each() for one in counts], naive)


def vectors() -> Case:
    """Means of components; the naive reader takes the first component's for all."""
    mechanism = VectorGaussian(2, F(1), F(50))
    points = np.stack([NUMBERS, 3 * NUMBERS[::-1] - 100], 1)
    tiled = np.tile(points, (RELEASES, 1))
    codes = mechanism.perturb(tiled, stream_of("a", np.zeros(len(tiled), np.int64))).reshape(RELEASES, ROWS, 2)
    noise, fourth = mechanism.law.variance, es.fourth_moment(mechanism.law.cdf, mechanism.law.variance)
    spreads = codes.var(1, ddof=1)
    found = [
        (*es.vector_mean(one.mean(0), ROWS, noise), *(es.additive_variance(v, ROWS, noise, fourth) for v in spread))
        for one, spread in zip(codes, spreads, strict=True)
    ]
    truth = np.concatenate([points.mean(0), points.var(0, ddof=1)])
    return Case(truth, found, without_error(np.concatenate([codes.mean(1)[:, [0, 0]], spreads], 1)))


def places() -> Case:
    """Mean and variance of a coordinate in steps, of a law on the plane; the naive reader leaves the noise in."""
    mechanism = PlanarLaplace(F(1), 30.0, 1.0)
    east = unpack_places(released(mechanism, pack(NUMBERS, NUMBERS[::-1])))[0]
    noise, spreads = mechanism.variance, east.var(1, ddof=1)
    found = [
        (es.additive_mean(one.mean(), ROWS, noise), es.additive_variance(spread, ROWS, noise, 5 * noise**2))
        for one, spread in zip(east, spreads, strict=True)
    ]
    return Case(np.array([MEAN, VARIANCE]), found, without_error(np.stack([east.mean(1), spreads], 1)))


def correlated(kind: str) -> Case:
    """The lower triangle of the covariance; the naive reader takes kept for inflated, and inflated for the truth."""
    points = np.stack([5 * NUMBERS, 3 * NUMBERS + 7 * (np.arange(ROWS) % 31)], 1)
    sums = [int(s) for s in points.sum(0)], [[int(p) for p in line] for line in points.T @ points]
    covariance, means, alpha = covariance_from_sums(ROWS, *sums), means_from_sums(ROWS, sums[0]), 0.5
    noise = np.array([[90_000.0, 9000.0], [9000.0, 20_000.0]])
    given = {"kept": (covariance, alpha, means), "inflated": (covariance, alpha), "given": (noise.tolist(),)}[kind]
    stream = stream_of("a", np.zeros(ROWS * RELEASES, np.int64))
    columns = [m.perturb(np.tile(points[:, j], RELEASES), stream) for j, m in enumerate(group(*given))]
    published = [np.cov(one) for one in np.stack(columns).reshape(2, RELEASES, ROWS).transpose(1, 0, 2)]
    if kind == "given":
        squares = [es.corrected_covariance(one, ROWS, noise) for one in published]
    else:
        squares = [es.scaled_covariance(one, ROWS, alpha, kind == "kept") for one in published]
    lower = ((0, 0), (1, 0), (1, 1))
    naive = np.array([[one[i, j] for i, j in lower] for one in published]) / (1.5 if kind == "kept" else 1)
    found = [tuple(one[i][j] for i, j in lower) for one in squares]
    return Case(np.array([covariance[i][j] for i, j in lower]), found, without_error(naive))


def multiplicative(mechanism) -> Case:
    factors = 1 + released(mechanism, NUMBERS) / 2**20
    y, sigma = NUMBERS * factors, mechanism.describe()["sigma"]
    found = [
        (
            es.multiplicative_mean(one.mean(), (one**2).mean(), ROWS, sigma),
            es.multiplicative_second_moment((one**2).mean(), (one**4).mean(), ROWS, sigma),
            es.multiplicative_variance(tuple((one**k).mean() for k in (1, 2, 3, 4)), ROWS, sigma),
        )
        for one in y
    ]
    truth = np.array([MEAN, (NUMBERS.astype(float) ** 2).mean(), VARIANCE])
    return Case(truth, found, without_error(np.stack([y.mean(1), (y**2).mean(1), y.var(1, ddof=1)], 1)))


def masking() -> Case:
    """The naive reader counts a masked value as 0."""
    kept = released(Masking(0.4), NUMBERS) == 0
    found = [(es.masked_mean(NUMBERS[one].mean(), NUMBERS[one].var(ddof=1), int(one.sum()), ROWS),) for one in kept]
    return Case(np.array([MEAN]), found, without_error((kept * NUMBERS).mean(1, keepdims=True)))


def masking_by_constant() -> Case:
    """The naive reader takes the constant for a value."""
    y = np.where(released(Masking(0.4), NUMBERS) == 0, NUMBERS, 300).astype(float)
    found = [(es.masked_by_constant_mean(one.mean(), ((one - 300) ** 2).mean(), ROWS, 0.4, 300.0),) for one in y]
    return Case(np.array([MEAN]), found, without_error(y.mean(1, keepdims=True)))


def impulse() -> Case:
    codes = released(Impulse(0.3), NUMBERS)
    y = np.where(codes == 0, NUMBERS, np.where(codes == 1, 0, 200)).astype(float)
    found = [(es.impulse_mean(one.mean(), (one**2).mean(), ROWS, 0.3, 0, 200),) for one in y]
    return Case(np.array([MEAN]), found, without_error(y.mean(1, keepdims=True)))


def swapped(column: str, x: np.ndarray) -> np.ndarray:
    codes = released(Swap(0.3), np.full(ROWS, ROWS), column)
    return np.where(codes < 0, x, x[np.maximum(codes, 0)])


def swap_means() -> Case:
    """The naive reader corrects as for an impulse of mean 100, though swapping leaves the mean alone."""
    y = swapped("a", NUMBERS)
    found = [(es.swap_mean(one.mean(), one.var(ddof=1), ROWS, 0.3),) for one in y]
    return Case(np.array([MEAN]), found, without_error((y.mean(1, keepdims=True) - 30) / 0.7))


def swap_correlations() -> Case:
    other = NUMBERS + 40 * (np.arange(ROWS) % 7)
    pairs = zip(swapped("a", NUMBERS), swapped("b", other), strict=True)
    r = np.array([np.corrcoef(a, b)[0, 1] for a, b in pairs])
    found = [(es.swap_correlation(one, ROWS, 0.3, 0.3),) for one in r]
    return Case(np.array([np.corrcoef(NUMBERS, other)[0, 1]]), found, without_error(r[:, None]), True)


def cell_keys() -> Case:
    """The total of a table with many small cells; the naive reader drops the cells published as 0 before averaging."""
    mechanism, cells = CellKey(5, 2.0, 1), np.arange(ROWS) % 40
    totals = released(mechanism, cells)
    found = [(es.additive_sum(one.sum(), ROWS, mechanism.variance),) for one in totals]
    return Case(
        np.array([cells.sum()]), found, without_error(np.array([[one[one > 0].mean() * ROWS] for one in totals])), True
    )


def dither(law: str, subtractive: bool) -> Case:
    """Data that lie anywhere between two levels. The variance too, where the error's mean square is the same everywhere."""
    mechanism, points = Dither(F(1), 16, law, subtractive), NUMBERS * 3 + np.arange(ROWS) % 16
    y, x = released(mechanism, points) / 64, points / 16
    means = [es.dither_mean(one.mean(), ROWS, law, subtractive, 1.0) for one in y]
    truth, naive = (
        np.array([x.mean()]),
        np.floor(y).mean(1, keepdims=True) if subtractive else y.mean(1, keepdims=True) + 0.5,
    )
    if law != "tpdf" and not subtractive:
        return Case(truth, [(one,) for one in means], without_error(naive), True)
    spreads, error = y.var(1, ddof=1), mechanism.variance
    found = [(m, es.dither_variance(v, ROWS, error, subtractive, 1.0)) for m, v in zip(means, spreads, strict=True)]
    truth = np.array([x.mean(), x.var(ddof=1)])
    return Case(truth, found, without_error(np.concatenate([naive, spreads[:, None]], 1)))


def dither_to_levels() -> Case:
    """rpdf on seven levels, of which the outermost are the data's bounds, where most values lie: nothing is clamped."""
    mechanism, points = Dither(F(1), 16, "rpdf", False, 0, 6), np.clip(NUMBERS * 3 - 100, 0, 96)
    y = released(mechanism, points) / 64
    assert (y.min(), y.max()) == (0, 6)
    found = [(es.dither_mean(one.mean(), ROWS, "rpdf", False, 1.0),) for one in y]
    return Case(np.array([(points / 16).mean()]), found, without_error(y.mean(1, keepdims=True) + 0.5), True)


@cache
def case(name: str) -> Case:
    return CASES[name]()


CASES: dict[str, Callable[[], Case]] = {
    "randomized_response": lambda: pure(RandomizedResponse(CATEGORIES, 1.0)),
    "sue": lambda: pure(SymmetricUnary(CATEGORIES, 1.0)),
    "oue": lambda: pure(OptimizedUnary(CATEGORIES, 1.0)),
    "local_hashing": lambda: pure(LocalHashing(CATEGORIES, 1.0)),
    "subset_selection": lambda: pure(SubsetSelection(CATEGORIES, 1.0)),
    "one_hot_rappor": lambda: pure_rappor(),
    "hadamard": hadamard,
    "rappor": rappor,
    "label_flip": lambda: transition("label_flip", uniform_flip(5, F(1, 4))),
    "resampling": lambda: transition("resampling", resampling_matrix([1, 1, 2, 3, 3], F(1, 2))),
    "laplace": lambda: additive_moments(Laplace(F(1), F(30))),
    "gaussian": lambda: additive_moments(Gaussian(F(1), F(50))),
    "staircase": lambda: additive_moments(Staircase.calibrate(30, F(1), 1.0)),
    "uniform": lambda: additive_moments(Uniform(F(1), F(60))),
    "duchi": lambda: readings(Duchi),
    "piecewise": lambda: readings(Piecewise),
    "hybrid": lambda: readings(Hybrid),
    "one_bit_mean": one_bit,
    "additive_histogram": lambda: additive_histogram(EVEN, BINS, list(range(-25, 251, 25)), 10, True),
    "lattice_histogram": lambda: additive_histogram(LABELS, list(range(6)), list(range(-3, 9)), 1, False),
    "square_wave_histogram": square_wave_histogram,
    "vectors": vectors,
    "places": places,
    "correlated_kept": lambda: correlated("kept"),
    "correlated_inflated": lambda: correlated("inflated"),
    "correlated_given": lambda: correlated("given"),
    "multiplicative": lambda: multiplicative(MultiplicativeGaussian(0.4)),
    "gaussian_dropout": lambda: multiplicative(GaussianDropout(0.2)),
    "masking": masking,
    "masking_by_constant": masking_by_constant,
    "impulse": impulse,
    "swap_means": swap_means,
    "swap_correlations": swap_correlations,
    "cell_keys": cell_keys,
    "tpdf": lambda: dither("tpdf", False),
    "rpdf": lambda: dither("rpdf", False),
    "gaussian_dither": lambda: dither("gaussian", False),
    "rpdf_subtractive": lambda: dither("rpdf", True),
    "tpdf_subtractive": lambda: dither("tpdf", True),
    "levels": dither_to_levels,
}


def pure_rappor() -> Case:
    """One-hot reports of units that report once."""
    mechanism = Rappor(CATEGORIES, 0.3, 0.2, 0.8)
    tiled = np.tile(LABELS, RELEASES)
    codes = mechanism.perturb(tiled, stream_of("a", tiled), stream_of("permanent", tiled))
    supported = mechanism.supports(codes).reshape(RELEASES, ROWS, -1).sum(1)
    found = [es.frequencies(counts, ROWS, *map(float, mechanism.support)) for counts in supported]
    return Case(TRUTH, found, without_error(supported / ROWS))


@pytest.mark.parametrize("name", CASES)
def test_estimates_are_unbiased_and_cover(name: str):
    found = case(name)
    assert alarms(found.estimates, found.truth, found.conservative) == set()


@pytest.mark.parametrize("name", CASES)
def test_an_estimator_without_its_correction_is_rejected(name: str):
    found = case(name)
    assert "bias" in alarms(found.naive, found.truth)


@pytest.mark.parametrize("name", CASES)
def test_standard_errors_a_third_too_small_are_rejected(name: str):
    """Where they are conservative, by more than their margin."""
    found = case(name)
    share = 1 / 3 if found.conservative else 2 / 3
    small = [tuple(es.normal(e.value, (share * e.standard_error) ** 2) for e in one) for one in found.estimates]
    assert {"coverage", "spread"} <= alarms(small, found.truth, found.conservative)


def test_projections_and_em_are_biased_as_they_say():
    """Proper frequencies, which is why they are options by name: a rare category gains."""
    raw = [[e.value for e in one] for one in case("randomized_response").estimates]
    for project in (es.project_simplex, es.clip_negative):
        values = np.array([project(one) for one in raw])
        assert "bias" in alarms(without_error(values), TRUTH)
        assert values.mean(0)[-1] > TRUTH[-1]


def test_quantiles_of_a_raw_histogram_are_held_by_their_intervals():
    """Conservative by construction; quartiles of data that are even within bins."""
    mechanism, cells = DiscreteLaplace(F(1), F(10)), list(range(-25, 251, 25))
    matrix = es.additive_matrix(BINS, cells, mechanism.law.cdf)
    ends = np.cumsum([0.0, *HISTOGRAM])
    truth = np.array([np.interp(share, ends, BINS) for share in (0.25, 0.5, 0.75)])
    held = np.zeros(3)
    for one in released(mechanism, EVEN):
        raw = es.invert(np.bincount(np.searchsorted(cells, one, "right"), minlength=len(cells) + 1), matrix)
        found = [es.quantile(raw, BINS, share) for share in (0.25, 0.5, 0.75)]
        held += [e.low <= t <= e.high for e, t in zip(found, truth, strict=True)]
    assert not alarm(least(stats.binom.cdf(held, RELEASES, 0.95)))
    assert (held < RELEASES).all()
