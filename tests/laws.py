"""What the tests of laws share: streams under fixed keys, p-values, and streams with a bug planted in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

import numpy as np
from false_alarms import ALARM, SIGMAS, alarm, alarms, far
from scipy import stats

from noiselib.noise import Stream, derive, encode_bigint, row_tags

__all__ = [
    "ALARM",
    "EXPECTED",
    "ROWS",
    "SIGMAS",
    "Draw",
    "DroppedBit",
    "OneCounter",
    "alarm",
    "alarms",
    "bit_dependence",
    "by_low_bits",
    "by_size",
    "centre",
    "chi_square",
    "dependence",
    "extremes",
    "far",
    "fit",
    "least",
    "normal_p",
    "replaced",
    "shares",
    "sharing",
    "spread",
    "stream_of",
    "symmetry",
]  # fmt: skip

ROWS = 1_000_000
MASTER = bytes(range(32))
EXPECTED = 100  # draws that a cell of a chi-square test has to expect at least
Draw = Callable[[Stream], np.ndarray]


# ---- streams ---------------------------------------------------------------------------------------------------------


def stream_of(
    column: str = "a", values: Any = 42, *, rows: int = ROWS, first: int = 0, id_mask: int = -1, release: str = "1"
) -> Stream:
    """The stream of a column. Of one value only the row's tag tells the rows apart; `id_mask` drops bits of the row key."""
    points = np.full(rows, values) if np.ndim(values) == 0 else np.ascontiguousarray(values, np.int64)
    return Stream(derive(MASTER, release, column), _tags(first, len(points), id_mask), points)


@lru_cache(maxsize=4)
def _tags(first: int, rows: int, id_mask: int) -> np.ndarray:
    tags = row_tags(derive(MASTER, "rows"), encode_bigint(np.arange(first, first + rows) & id_mask))
    tags.flags.writeable = False
    return tags


class OneCounter(Stream):
    """A planted bug: every counter gives the words of the first."""

    def words(self, counter: int, rows: Any = None) -> np.ndarray:
        return super().words(0, rows)

    def __getitem__(self, rows: Any) -> Stream:
        return type(self)(self.key, self.tags[rows], self.values[rows])

    def use(self, name: str, values: Any = None) -> Stream:
        return replaced(super().use(name, values), type(self))


class DroppedBit(OneCounter):
    """A planted bug: the counter's lowest bit is lost."""

    def words(self, counter: int, rows: Any = None) -> np.ndarray:
        return Stream.words(self, counter & ~1, rows)


def replaced(stream: Stream, kind: type[Stream]) -> Stream:
    """The same stream with a bug."""
    return kind(stream.key, stream.tags, stream.values)


# ---- p-values --------------------------------------------------------------------------------------------------------


def normal_p(z: float) -> float:
    return float(2 * stats.norm.sf(abs(z)))


def least(p_values: Iterable[float]) -> float:
    """Of several tests together: the least p-value, as often as there are tests (Bonferroni)."""
    found = list(p_values)
    return min(1.0, min(found) * len(found))


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """Of counts of fixed sum. Neighbouring cells are put together until each expects EXPECTED; one of 0 must be empty."""
    return chi_squares([(counts, expected)])


def chi_squares(samples: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Of several independent samples together, each of counts and what is expected of them."""
    parts = [_statistic(np.asarray(counts), np.asarray(expected)) for counts, expected in samples]
    statistic, freedom = (sum(column) for column in zip(*parts, strict=True))
    return float(stats.chi2.sf(statistic, freedom)) if freedom else float(statistic == 0)


def _statistic(counts: np.ndarray, expected: np.ndarray) -> tuple[float, int]:
    if (counts[expected <= 0] > 0).any():
        return math.inf, 1
    starts, held, left = [0], 0.0, float(expected.sum())
    for i, cell in enumerate(expected.tolist()):
        if held >= EXPECTED and left >= EXPECTED:
            starts.append(i)
            held = 0.0
        held += cell
        left -= cell
    c, e = np.add.reduceat(counts, starts), np.add.reduceat(expected, starts)
    return (float(((c - e) ** 2 / e).sum()), len(starts) - 1) if len(starts) > 1 else (0.0, 0)


def fit(k: np.ndarray, law: Any, cells: int = 200) -> float:
    """Chi-square of draws against the law's distribution function, in about so many cells over 16 deviations."""
    edges = np.unique(np.floor(np.linspace(-8, 8, cells + 1) * math.sqrt(law.variance)))
    chances = np.maximum(np.diff(law.cdf(edges), prepend=0, append=1), 0)
    return chi_square(np.bincount(np.searchsorted(edges, k), minlength=len(chances)), chances * len(k))


def shares(found: np.ndarray, rows: np.ndarray, expected: np.ndarray) -> float:
    """Numbers found among so many rows against their expected shares, each exactly binomial."""
    below, above = stats.binom.cdf(found, rows, expected), stats.binom.sf(found - 1, rows, expected)
    return min(1.0, float(2 * np.minimum(below, above).min()) * np.size(found))


def centre(values: np.ndarray, mean: Any) -> float:
    """The mean by the central limit theorem; `mean` may be one a row."""
    error = values - mean
    return normal_p(error.mean() / max(error.std() / math.sqrt(len(error)), 1e-300))


def spread(values: np.ndarray, mean: Any, variance: Any) -> float:
    """The mean square about the mean by the central limit theorem; both may be one a row."""
    return centre((values - mean) ** 2, variance)


def symmetry(k: np.ndarray) -> float:
    """As many draws above 0 as below."""
    above, below = int((k > 0).sum()), int((k < 0).sum())
    return float(stats.binomtest(above, above + below).pvalue)


def extremes(k: np.ndarray, law: Any) -> float:
    """The largest |k| of a symmetric law, exactly: the others are all within it, and it is reached."""
    most = int(np.abs(k).max())
    beyond, reached = (2 * float(law.cdf(np.array([-m]))[0]) for m in (most + 1, most))
    within = math.exp(len(k) * math.log1p(-min(beyond, 1 - 1e-16)))
    return min(1.0, 2 * min(within, -math.expm1(len(k) * math.log1p(-min(reached, 1 - 1e-16)))))


# ---- independence ----------------------------------------------------------------------------------------------------


def by_size(k: np.ndarray) -> np.ndarray:
    """Eight classes by size, about alike by the first draws, times the lowest bit."""
    edges = np.unique(np.quantile(k[:65_536], np.linspace(0, 1, 9)[1:-1]))
    return np.searchsorted(edges, k) * 2 + (k & 1)


def by_low_bits(k: np.ndarray) -> np.ndarray:
    return k & 15


def dependence(a: np.ndarray, b: np.ndarray, classes: Callable[[np.ndarray], np.ndarray] = by_size) -> float:
    """Chi-square of independence among up to 16 classes each; those of less than a row in a hundred are one."""
    return _contingency(_frequent(classes(a)), _frequent(classes(b)))


def _frequent(classes: np.ndarray) -> np.ndarray:
    rare = np.bincount(classes, minlength=16) < len(classes) / 100
    return np.where(rare, np.argmax(rare), np.arange(16))[classes]


def _contingency(first: np.ndarray, second: np.ndarray) -> float:
    table = np.bincount(first * 16 + second, minlength=256).reshape(16, 16)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    return float(stats.chi2_contingency(table, correction=False).pvalue)


def bit_dependence(bits: np.ndarray) -> float:
    """Of (n, b) fair bits every pair of columns, and each column by itself: how often they differ is binomial."""
    rows = len(bits) // 8 * 8
    planes = np.packbits(bits[:rows].astype(np.bool_), axis=0).T
    planes = np.ascontiguousarray(np.vstack([np.zeros_like(planes[:1]), planes]))
    differ = [np.bitwise_count(planes[i + 1 :] ^ planes[i]).sum(1, dtype=np.int64) for i in range(len(planes) - 1)]
    return shares(np.concatenate(differ), np.array(rows), np.array(0.5))


def sharing(
    draw: Draw,
    value: int = 42,
    *,
    other_column: str = "b",
    other_release: str = "2",
    id_mask: int = -1,
    classes: Callable[[np.ndarray], np.ndarray] = by_size,
) -> dict[str, float]:
    """Whether draws of one value depend on each other, between rows, two columns, and one column's two releases."""
    one, other, later = (
        _frequent(classes(draw(stream_of(column, value, id_mask=id_mask, release=release))))
        for column, release in (("a", "1"), (other_column, "1"), ("a", other_release))
    )
    pairs = {"rows": (one[:-1], one[1:]), "columns": (one, other), "releases": (one, later)}
    return {name: _contingency(*pair) for name, pair in pairs.items()}
