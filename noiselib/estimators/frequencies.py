"""How often each category occurs, from reports that perturbed it. Reports of different rows are independent.

Every estimate here is raw: unbiased, and therefore at times below 0 or above 1. `project_simplex` and `clip_negative` make
proper frequencies of them, which are biased, most where frequencies are small; nothing here calls them for the values.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from noiselib.estimators.estimate import CONFIDENCE, Estimate, Floats, Linear, NoEstimate, check_rows, counts_of, normal


def frequencies(
    counts: Sequence[int], rows: int, p: float, q: float, confidence: float = CONFIDENCE
) -> tuple[Estimate, ...]:
    """Of pure protocols: randomized response, sue, oue, local hashing, subset selection, one-hot RAPPOR.

    f = (c/n - q) / (p - q), c of n reports supporting the category; a report supports its true category with probability
    p and another one with q. For fixed data Var f = q(1-q) / (n (p-q)^2) + f (1-p-q) / (n (p-q)), into which the
    estimate goes for f, clipped to [0, 1].
    Source: Wang, Blocki, Li, Jha 2017, "Locally differentially private protocols for frequency estimation".
    """
    check_rows(rows)
    if not 0 <= q < p <= 1:
        raise ValueError(f"p={p!r} and q={q!r}, expected 0 <= q < p <= 1")
    values = (counts_of("counts", counts) / rows - q) / (p - q)
    variances = q * (1 - q) / (p - q) ** 2 + np.clip(values, 0, 1) * (1 - p - q) / (p - q)
    return tuple(normal(f, v / rows, confidence) for f, v in zip(values.tolist(), variances.tolist(), strict=True))


def hadamard(
    counts: Sequence[int], block_counts: Sequence[int], rows: int, weight: float, confidence: float = CONFIDENCE
) -> tuple[Estimate, ...]:
    """Of Hadamard response, whose reports in another block say nothing about a category.

    counts:       per category, reports that support it (in C_x: its block, and of even parity with its row)
    block_counts: per category, reports in its block
    weight:       W = (e^epsilon + 2B - 1) / (e^epsilon - 1), B blocks

    f = W (2 c - m) / n, c and m the two counts: a report contributes W, -W or 0, in the mean 1 if the category is its
    own and 0 if not. For fixed data n Var f = W^2 m/n - f.
    Source: Acharya, Sun, Zhang 2019, "Hadamard response".
    """
    check_rows(rows)
    if not weight >= 1:
        raise ValueError(f"weight={weight!r}, expected at least 1")
    inside = counts_of("block_counts", block_counts) / rows
    values = weight * (2 * counts_of("counts", counts) / rows - inside)
    variances = weight**2 * inside - np.clip(values, 0, 1)
    return tuple(normal(f, v / rows, confidence) for f, v in zip(values.tolist(), variances.tolist(), strict=True))


def invert(counts: ArrayLike, matrix: ArrayLike) -> Linear:
    """Frequencies of k categories from the counts of m >= k outcomes; matrix (k, m): P(outcome j | category i).

    f = A c/n with A R^T = I, R the matrix: its inverse transposed if m = k, else least squares with every outcome
    weighted by 1 over its probability under uniform categories (a weight that the data do not enter, so that the
    estimate is linear and unbiased). For fixed data Cov c/n = (diag(R^T f) - R^T diag(f) R) / n; the covariance is this
    one at the estimate projected to the simplex.
    Source: Kooiman, Willenborg, Gouweleeuw 1997 (PRAM); van den Hout and van der Heijden 2002.
    Raises NoEstimate if the frequencies do not follow from the counts (R without full rank).
    """
    observed, r = counts_of("counts", counts), np.asarray(matrix, np.float64)
    rows = float(observed.sum())
    check_rows(int(rows))
    if r.ndim != 2 or observed.shape != (r.shape[1],):
        raise ValueError(f"counts of shape {observed.shape}, expected one per column of matrix, {r.shape}")
    if (r < -1e-12).any() or np.abs(r.sum(1) - 1).max() > 1e-9:
        raise ValueError("matrix has a row that is no law, expected entries >= 0 of sum 1")
    reached = r.mean(0)
    root = np.sqrt(np.divide(1.0, reached, out=np.zeros_like(reached), where=reached > 0))
    if np.linalg.matrix_rank(r * root) < len(r):
        raise NoEstimate("matrix without full rank, expected one by which frequencies follow from counts")
    solve = np.linalg.pinv((r * root).T) * root
    values = solve @ (observed / rows)
    plausible = project_simplex(values)
    noise = np.diag(plausible @ r) - r.T @ (plausible[:, None] * r)
    return Linear(values, solve @ noise @ solve.T / rows)


def transition(
    counts: Sequence[int], matrix: Sequence[Sequence[float]], confidence: float = CONFIDENCE
) -> tuple[Estimate, ...]:
    """Of categories changed by a transition matrix (label flip, PRAM, resampling): `invert`, category by category."""
    return invert(counts, matrix).each(confidence)


def rappor(
    bit_counts: ArrayLike,
    cohort_rows: ArrayLike,
    design: ArrayLike,
    p: float,
    q: float,
    confidence: float = CONFIDENCE,
) -> tuple[Estimate, ...]:
    """Of RAPPOR's Bloom filters, by linear least squares over all cohorts' bits.

    bit_counts:  (cohorts, bits) reports of the cohort with the bit set
    cohort_rows: (cohorts,) reports of the cohort
    design:      (cohorts, bits, k): p where the category's filter of that cohort has the bit, q elsewhere
    p, q:        the probability that a report has a bit that is in the filter (q* of the paper), and one that is not (p*)

    With t = (c/N - q)/(p - q), cohort by cohort, f solves t = X f by least squares, a cohort weighing N; X the filters.
    For fixed data, rows being dealt to cohorts at random and reporting once, f_u has the variance

        sum_j 1/N_j (sum_b G_ujb^2 v_jb / (p-q)^2 + S(M_uj)) - S(sum_j M_uj)/n,    M_uj(x) = sum_b G_ujb X_jb(x),

    G the solving matrix, v_jb = t p(1-p) + (1-t) q(1-q) the variance of bit b's noise, S the variance over the values x
    of the rows: which values a cohort got is chance too, up to the sum over cohorts, which is certain.
    Source: Erlingsson, Pihur, Korolova 2014, of whose decoding this is the first step; its lasso is left out, as it
    makes estimates biased.
    """
    seen, sizes = counts_of("bit_counts", bit_counts), counts_of("cohort_rows", cohort_rows)
    if not 0 <= q < p <= 1:
        raise ValueError(f"p={p!r} and q={q!r}, expected 0 <= q < p <= 1")
    used = sizes > 0
    seen, sizes = seen[used], sizes[used]
    check_rows(int(sizes.sum()))
    filters = np.rint((np.asarray(design, np.float64)[used] - q) / (p - q))
    cohorts, bits, k = filters.shape
    root = np.sqrt(np.repeat(sizes, bits))
    flat = filters.reshape(-1, k)
    if np.linalg.matrix_rank(flat) < k:
        raise NoEstimate(
            f"design without full rank, expected one that tells {k} categories apart: more bits or cohorts"
        )
    solve = np.linalg.pinv(flat * root[:, None]) * root
    values = solve @ ((seen / sizes[:, None] - q) / (p - q)).ravel()
    plausible = project_simplex(values)
    share = filters @ plausible
    noise = (share * p * (1 - p) + (1 - share) * q * (1 - q)) / (p - q) ** 2 / sizes[:, None]
    estimates = []
    for u, row in enumerate(solve.reshape(k, cohorts, bits)):
        members = np.matmul(row[:, None, :], filters)[:, 0, :]  # (cohorts, k): M_uj(x)
        dealt = (members**2 @ plausible - (members @ plausible) ** 2) @ (1 / sizes)
        certain = plausible[u] * (1 - plausible[u]) / sizes.sum()
        estimates.append(normal(values[u], float((row**2 * noise).sum() + dealt - certain), confidence))
    return tuple(estimates)


# Named options: proper frequencies, biased


def project_simplex(values: ArrayLike) -> Floats:
    """The nearest frequencies >= 0 of sum 1 in Euclidean distance: max(f - t, 0) with the one t that fits.

    Biased: rare categories gain, as their negative errors are cut. Source: Wang and Carreira-Perpinan 2013, algorithm 1.
    """
    f = np.asarray(values, np.float64)
    falling = np.sort(f)[::-1]
    excess = (np.cumsum(falling) - 1) / np.arange(1, len(f) + 1)
    last = np.flatnonzero(falling > excess)[-1]
    return np.asarray(np.maximum(f - excess[last], 0.0), np.float64)


def clip_negative(values: ArrayLike) -> Floats:
    """Negative frequencies become 0 and the rest is divided by its sum. Biased likewise; 'Norm-Mul' of Wang et al. 2020."""
    positive = np.maximum(np.asarray(values, np.float64), 0.0)
    if positive.sum() == 0:
        raise NoEstimate("values has no positive frequency, expected one at least")
    return np.asarray(positive / positive.sum(), np.float64)
