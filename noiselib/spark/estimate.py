"""Estimating back: from a published release and its manifest alone, what its data were, and how surely.

Spark counts and sums what was published; `noiselib.estimators` turns that into estimates. No spec, no key, no source.
Standard errors are those of the noise for these very data, rows being noised independently; where they are not, or where an
estimate is biased, none is stated and the entry says why. A column without an answer says so and leaves the others theirs.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from noiselib import estimators
from noiselib import mechanisms as m
from noiselib.errors import InputError, SpecError
from noiselib.estimators import Estimate, NoEstimate
from noiselib.spark.keys import quoted
from noiselib.spark.points import stored_integer
from noiselib.spark.support import block_and_parity, supports
from noiselib.spark.tables import read_files, table_schema

TIMES = ("timestamp", "timestamp_ntz", "date")
NO_NUMBERS = ("string", "boolean", "binary", *TIMES)
QUANTILES = (0.25, 0.5, 0.75)
OPTIONS = ("raw", "simplex", "clip", "em", "ems")
MOST_BINS = 1024
SCALES_OF_REACH = 20  # planar Laplace noise goes further with probability 21 e^-20: no mean notices

SHARED = "memoized: rows of one unit and value share one draw, and how many do is not known, so no error is stated"
CUT = "noise is cut off at the {}: the mean is biased by what lies near them, so no error is stated"


@dataclass(frozen=True)
class Asked:
    """What is asked for. `option`: raw estimates are unbiased; the others are proper distributions, and biased."""

    confidence: float = 0.95
    option: str = "raw"
    bins: int = 0  # of histograms of additive noise within bounds; square wave always has one

    def __post_init__(self) -> None:
        if not 0 < self.confidence < 1:
            raise SpecError(f"confidence {self.confidence:g}: expected a number between 0 and 1")
        if not 0 <= self.bins <= MOST_BINS:
            raise SpecError(f"bins {self.bins}: expected 0 to {MOST_BINS}")

    @property
    def biased(self) -> str:
        return f"option {self.option} is biased, so no error is stated"


class Reading(NamedTuple):
    """One estimate of a column: what it is, of which category, bin, component or other column, and why it has no error."""

    what: str
    of: Any
    value: Estimate
    why: str | None = None


Readings = Iterator[Reading]


@dataclass(frozen=True)
class Published:
    """One noised column of a release: its rows, and what the manifest says of it and of the other noised ones."""

    rows: DataFrame
    entry: dict[str, Any]
    asked: Asked
    noised: Mapping[str, dict[str, Any]]

    @property
    def name(self) -> str:
        return str(self.entry["column"])

    @property
    def value(self) -> Column:
        return F.col(quoted(self.name))

    @property
    def parameters(self) -> dict[str, Any]:
        found: dict[str, Any] = self.entry["parameters"]
        return found

    def other(self, name: str) -> Published:
        """Another column of the release."""
        return Published(self.rows, self.noised[name], self.asked, self.noised)

    @cached_property
    def number(self) -> Column:
        """The value as a number in the column's unit; null where there is none."""
        if self.entry["type"] in TIMES:
            return stored_integer(self.value, self.entry["type"]) * F.lit(float(Fraction(self.entry["codes"]["unit"])))
        number = self.value.cast("double")
        return F.when(~F.isnan(number), number)

    @cached_property
    def moments(self) -> tuple[int, float, float]:
        """Rows with a value, their mean and sample variance (NaN of one row)."""
        rows, mean, variance = self.collect(self.number, F.avg(self.number), F.var_samp(self.number))
        return rows, mean, math.nan if variance is None else variance

    def collect(self, value: Column, *aggregates: Column) -> tuple[Any, ...]:
        """How many rows have that value, and aggregates over the rows. Raises NoEstimate if there is none."""
        row = self.rows.agg(F.count(value), *aggregates).first()
        assert row is not None
        if row[0] == 0:
            raise NoEstimate("no row has a value")
        return tuple(row)


def estimate(
    spark: SparkSession, files: Sequence[str], manifest: dict[str, Any], asked: Asked, only: Sequence[str]
) -> list[dict[str, Any]]:
    """Every estimate of one release: {"column", "estimate", "of", "value", "standard_error", "low", "high", "why", ...}.

    A column for whose data theory has no answer has one entry whose "estimate" is None, with the reason as its "why".
    files: the release's, all in one directory; only: names of columns, all noised ones if empty
    Raises InputError for a column that is not noised.
    """
    noised = {entry["column"]: entry for entry in manifest["columns"] if "mechanism" in entry}
    for name in only:
        if name not in noised:
            raise InputError(f"column {name!r}: not noised; expected one of {', '.join(noised)}")
    chosen = list(only or noised)
    if manifest["rows"] == 0:
        return [_unanswered(name, "the release has no rows") for name in chosen]
    if not files:
        raise InputError(
            f"partition {manifest['partition']!r}: no data file is published; expected those of its manifest"
        )
    rows = read_files(spark, table_schema(spark, files[0], []), os.path.dirname(files[0]), files)
    alone = manifest.get("rows_per_unit") == 1
    found: list[dict[str, Any]] = []
    for name in chosen:
        found += _answers(Published(rows, noised[name], asked, noised), alone)
    return found


def _answers(column: Published, alone: bool) -> Iterator[dict[str, Any]]:
    """The estimates of one column. alone: whether a privacy unit has one row in the release, and so a draw of its own."""
    shared = column.entry["memoized"] and not alone
    try:
        for what, of, value, why in _READINGS[_family(column.entry)](column):
            stated, said = (_without_error(value.value, column.asked), why or SHARED) if shared else (value, why)
            yield {"column": column.name, "estimate": what, "of": of, **_finite(stated), "why": said}
    except NoEstimate as error:
        yield _unanswered(column.name, str(error))


def _unanswered(name: str, why: str) -> dict[str, Any]:
    numbers = dict.fromkeys(("value", "standard_error", "low", "high", "confidence"))
    return {"column": name, "estimate": None, "of": None, **numbers, "why": why}


def _finite(value: Estimate) -> dict[str, float | None]:
    """None for an error that is not stated, as JSON has no NaN."""
    return {name: None if math.isnan(number) else number for name, number in asdict(value).items()}


def _family(entry: dict[str, Any]) -> str:
    return "vector" if entry["codes"]["kind"] == "Vectors" else str(entry["mechanism"])


# ---- categories ------------------------------------------------------------------------------------------------------


def _oracle(column: Published) -> Readings:
    p, q = column.parameters["p"], column.parameters["q"]
    counts, rows = _support_counts(column)
    yield from _named(column, estimators.frequencies(counts, rows, p, q, column.asked.confidence))


def _hadamard(column: Published) -> Readings:
    size = column.parameters["block_size"]
    same, even = block_and_parity(column.value, F.col("category"), size)
    rows, pairs = _pairs(column)
    found = pairs.groupBy("category").agg(F.count_if(same & even), F.count_if(same)).orderBy("category").collect()
    counts, blocks = [row[1] for row in found], [row[2] for row in found]
    weight = column.parameters["weight"]
    yield from _named(column, estimators.hadamard(counts, blocks, rows, weight, column.asked.confidence))


def _transition(column: Published) -> Readings:
    counts, rows = _support_counts(column)
    if "matrix" in column.parameters:
        yield from _named(column, estimators.transition(counts, column.parameters["matrix"], column.asked.confidence))
    else:  # invariant to the release's own marginal: shares are kept in expectation; their noise is at most that of a draw
        shares = [
            estimators.normal(c / rows, c / rows * (1 - c / rows) / rows, column.asked.confidence) for c in counts
        ]
        yield from _named(column, shares)


def _rappor(column: Published) -> Readings:
    keys = ("f", "p", "q", "hashes", "bits", "cohorts")
    mechanism = m.Rappor(tuple(column.parameters["categories"]), **{key: column.parameters[key] for key in keys})
    cohort, bit = column.value["cohort"], F.explode(column.value["bits"])
    rows = column.rows.filter(column.value.isNotNull())
    sizes, seen = np.zeros(mechanism.cohorts), np.zeros((mechanism.cohorts, mechanism.size))
    for row in rows.groupBy(cohort.alias("cohort")).count().collect():
        sizes[row["cohort"]] = row["count"]
    for row in rows.select(cohort.alias("cohort"), bit.alias("bit")).groupBy("cohort", "bit").count().collect():
        seen[row["cohort"], row["bit"]] = row["count"]
    p, q = map(float, mechanism.support)
    confidence = column.asked.confidence
    if mechanism.bits is None and mechanism.cohorts == 1:
        yield from _named(column, estimators.frequencies(seen[0].astype(int).tolist(), int(sizes[0]), p, q, confidence))
    else:
        yield from _named(column, estimators.rappor(seen, sizes, mechanism.design(), p, q, confidence))


def _support_counts(column: Published) -> tuple[list[int], int]:
    rows, pairs = _pairs(column)
    supported = supports(column.entry["codes"], column.value, F.col("category"))
    found = pairs.groupBy("category").agg(F.count_if(supported)).orderBy("category").collect()
    return [row[1] for row in found], rows


def _pairs(column: Published) -> tuple[int, DataFrame]:
    """How many rows have a report; and each of them with each category's index."""
    reports = column.rows.select(column.value).filter(column.value.isNotNull())
    rows = reports.count()
    if rows == 0:
        raise NoEstimate("no row has a value")
    categories = reports.sparkSession.range(len(column.parameters["categories"])).withColumnRenamed("id", "category")
    return rows, reports.crossJoin(F.broadcast(categories))


def _named(column: Published, shares: Sequence[Estimate]) -> Readings:
    """Frequencies by category, projected where that was asked for."""
    values = np.array([share.value for share in shares])
    if column.asked.option == "simplex":
        values = estimators.project_simplex(values)
    elif column.asked.option == "clip":
        values = estimators.clip_negative(values)
    for category, share, value in zip(column.parameters["categories"], shares, values.tolist(), strict=True):
        if column.asked.option in ("simplex", "clip"):
            yield Reading("frequency", category, _without_error(value, column.asked), column.asked.biased)
        else:
            yield Reading("frequency", category, share)


def _without_error(value: float, asked: Asked) -> Estimate:
    """A biased estimate states no error."""
    return Estimate(value, float("nan"), float("nan"), float("nan"), asked.confidence)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _additive(column: Published) -> Readings:
    (rows, mean, variance), confidence = column.moments, column.asked.confidence
    step, noise = Fraction(column.entry["codes"]["step"]), column.parameters["variance"]
    law = _law(column)
    yield Reading("mean", None, estimators.additive_mean(mean, rows, noise, confidence))
    yield Reading("sum", None, estimators.additive_sum(mean * rows, rows, noise, confidence))
    fourth = estimators.fourth_moment(law.cdf, law.variance) * float(step) ** 4
    yield Reading("variance", None, estimators.additive_variance(variance, rows, noise, fourth, confidence))
    if column.asked.bins:
        yield from _additive_histogram(column, law, step)


def _law(column: Published) -> Any:
    """The noise's law again, from the mechanism's published parameters."""
    step = Fraction(column.entry["codes"]["step"])
    kind = m.ADDITIVE[column.entry["mechanism"]]
    given = column.parameters
    return kind(step, Fraction(given["scale_steps"]), given["sensitivity_steps"], given["epsilon"], given["delta"]).law


def _additive_histogram(column: Published, law: Any, step: Fraction) -> Readings:
    """Bins between the bounds, from cells of the published values that reach a deviation of the noise beyond."""
    lower, upper = column.entry["codes"]["lower"], column.entry["codes"]["upper"]
    if "bounds" not in column.entry:
        return
    count, reach = min(column.asked.bins, upper - lower), int(2 * law.variance**0.5) + 1
    bins = [lower + (upper + 1 - lower) * i // count for i in range(count + 1)]
    cells = sorted({lower - reach + (upper - lower + 2 * reach) * i // (2 * count + 2) for i in range(2 * count + 3)})
    matrix = estimators.additive_matrix(bins, cells, law.cdf)
    points = F.rint(column.number / F.lit(float(step))).cast("bigint")
    yield from _histogram(column, _cell_counts(column, points, cells), matrix, [float(step * b) for b in bins])


def _square_wave(column: Published) -> Readings:
    parameters, count = column.parameters, column.asked.bins or 32
    mechanism = m.SquareWave(
        Fraction(parameters["step"]), parameters["lower_steps"], parameters["upper_steps"], parameters["epsilon"]
    )
    codes = F.rint((column.value - F.lit(mechanism.reading.offset)) / F.lit(mechanism.reading.slope)).cast("bigint")
    total, outputs = mechanism.reading.codes, 2 * count
    cells = [-(-total * i // outputs) for i in range(1, outputs)]
    matrix = mechanism.transition(count, outputs).T
    low, high = (float(mechanism.step * bound) for bound in (mechanism.lower, mechanism.upper))
    edges = [low + (high - low) * i / count for i in range(count + 1)]
    yield from _histogram(column, _cell_counts(column, codes, cells), matrix, edges)


def _cell_counts(column: Published, points: Column, cells: Sequence[int]) -> list[int]:
    """Rows below the first of `cells`, from each to the next, and from the last on."""
    place = F.lit(0)
    for cell in cells:
        place = place + (points >= cell).cast("int")
    found = column.rows.filter(points.isNotNull()).groupBy(place.alias("cell")).count().collect()
    counts = [0] * (len(cells) + 1)
    for row in found:
        counts[row["cell"]] = row["count"]
    return counts


def _histogram(column: Published, counts: Sequence[int], matrix: Any, edges: Sequence[float]) -> Readings:
    asked = column.asked
    if asked.option in ("em", "ems"):
        shares = estimators.em(counts, matrix, smooth=asked.option == "ems")
        for i, share in enumerate(shares.tolist()):
            yield Reading("histogram", [edges[i], edges[i + 1]], _without_error(share, asked), asked.biased)
        for share in QUANTILES:
            place = estimators.plain_quantile(shares, edges, share)
            yield Reading("quantile", share, _without_error(place, asked), asked.biased)
        return
    raw = estimators.invert(counts, matrix)
    for i, share in enumerate(raw.values.tolist()):
        variance = float(raw.covariance[i, i])
        yield Reading("histogram", [edges[i], edges[i + 1]], estimators.normal(share, variance, asked.confidence))
    if _family(column.entry) == "square_wave":
        yield Reading("mean", None, estimators.histogram_mean(raw, edges, asked.confidence))
    for share in QUANTILES:
        yield Reading("quantile", share, estimators.quantile(raw, edges, share, asked.confidence))


def _reading(column: Published) -> Readings:
    rows, mean, variance = column.moments
    yield Reading("mean", None, estimators.reading_mean(mean, variance, rows, column.asked.confidence))


def _one_bit(column: Published) -> Readings:
    rows, ones = column.collect(column.value, F.count_if(column.value))
    zero, one = column.parameters["values"]
    yield Reading("mean", None, estimators.one_bit_mean(ones / rows, rows, zero, one, column.asked.confidence))


def _vector(column: Published) -> Readings:
    """Mean and variance of each component; the noise of every one has the same law."""
    values = column.rows.select(F.posexplode(column.value).alias("component", "number"))
    moments = (F.count("number"), F.avg("number"), F.var_samp("number"))
    found = values.groupBy("component").agg(*moments).orderBy("component").collect()
    if not found:
        raise NoEstimate("no row has a value")
    noise, confidence, step = column.parameters["variance"], column.asked.confidence, column.parameters["step"]
    scale = Fraction(column.parameters["scale"] / step)
    law = m.VECTOR[column.entry["mechanism"]](column.parameters["dimension"], Fraction(step), scale).law
    fourth, rows = estimators.fourth_moment(law.cdf, law.variance) * step**4, found[0][1]
    means = estimators.vector_mean([row[2] for row in found], rows, noise, confidence)
    for row, mean in zip(found, means, strict=True):
        yield Reading("mean", row["component"], mean)
    for row in found:
        variance = math.nan if row[3] is None else row[3]
        value = estimators.additive_variance(variance, rows, noise, fourth, confidence)
        yield Reading("variance", row["component"], value)


def _planar(column: Published) -> Readings:
    """Mean and variance of both coordinates, in degrees; longitudes counted as in the box, so beyond 180 if it is.

    A coordinate's noise has the variance 3 s^2 and the fourth moment 45 s^4, s its scale. Published places beyond a pole
    were moved to it, and longitudes are known up to a turn: where noise may go that far no error is stated.
    """
    codes, confidence = column.entry["codes"], column.asked.confidence
    north, east = (float(bound) for bound in codes["origin"])
    for name, axis, origin in ((column.name, "north", north), (codes["longitude"], "east", east)):
        away = F.col(quoted(name)).cast("double") - F.lit(origin)
        if axis == "east":
            away = F.when(away > 180, away - 360).when(away < -180, away + 360).otherwise(away)
        rows, mean, variance = column.collect(away, F.avg(away), F.var_samp(away))
        per_metre = float(codes[axis]) / column.parameters["step"]
        noise = column.parameters["variance"] * per_metre**2
        found = estimators.additive_mean(origin + mean, rows, noise, confidence)
        if not _fits(column, axis):
            far = "poles" if axis == "north" else "longitudes opposite to the middle"
            yield Reading("mean", name, _without_error(found.value, column.asked), CUT.format(far))
            continue
        yield Reading("mean", name, found)
        if rows > 1:
            spread = estimators.additive_variance(variance, rows, noise, 5 * noise**2, confidence)
            yield Reading("variance", name, spread)


def _fits(column: Published, axis: str) -> bool:
    """Whether noise on any place of the box stays short of the pole, half a turn, and the ends of the lattice."""
    codes, step = column.entry["codes"], float(column.entry["codes"][axis])
    reach = SCALES_OF_REACH * column.parameters["scale"] / column.parameters["step"] * step
    low, high = (float(bound) for bound in codes["latitude_bounds" if axis == "north" else "longitude_bounds"])
    poles = axis == "east" or max(-low, high) + reach <= 90
    return bool(poles and (high - low) / 2 + reach <= min(180.0, 2.0**31 * step))


# ---- microdata, augmentation, dither ---------------------------------------------------------------------------------


def _multiplicative(column: Published) -> Readings:
    """Rounding to whole numbers, of integers, is left out of account."""
    number, confidence, sigma = column.number, column.asked.confidence, column.parameters["sigma"]
    rows, *moments = column.collect(number, *(F.avg(number**power) for power in (1, 2, 3, 4)))
    first, second, third, fourth = moments
    yield Reading("mean", None, estimators.multiplicative_mean(first, second, rows, sigma, confidence))
    square = estimators.multiplicative_second_moment(second, fourth, rows, sigma, confidence)
    yield Reading("second_moment", None, square)
    spread = estimators.multiplicative_variance((first, second, third, fourth), rows, sigma, confidence)
    yield Reading("variance", None, spread)


def _masked(column: Published) -> Readings:
    if column.entry["type"] in NO_NUMBERS:
        raise NoEstimate(f"a mask on type {column.entry['type']} cannot be told from a value")
    (constant,), confidence = column.entry["codes"]["values"], column.asked.confidence
    if constant is None:
        (kept, mean, variance), rows = column.moments, column.rows.count()
        yield Reading("mean", None, estimators.masked_mean(mean, variance, kept, rows, confidence))
        return
    number, place, rate = column.number, float(constant), column.parameters["rate"]
    rows, mean, square = column.collect(number, F.avg(number), F.avg((number - F.lit(place)) ** 2))
    found = estimators.masked_by_constant_mean(mean, square, rows, rate, place, confidence)
    yield Reading("mean", None, found)


def _impulse(column: Published) -> Readings:
    number = column.number
    rows, mean, square = column.collect(number, F.avg(number), F.avg(number**2))
    low, high = (float(value) for value in column.entry["codes"]["values"])
    rate, confidence = column.parameters["rate"], column.asked.confidence
    yield Reading("mean", None, estimators.impulse_mean(mean, square, rows, rate, low, high, confidence))


def _swapped(column: Published) -> Readings:
    """The mean, and the correlation with every swapped column of numbers before this one."""
    if column.entry["type"] in NO_NUMBERS:
        raise NoEstimate(f"type {column.entry['type']} has no mean")
    (rows, mean, variance), rate = column.moments, column.parameters["rate"]
    yield Reading("mean", None, estimators.swap_mean(mean, variance, rows, rate, column.asked.confidence))
    for name in _before(column, lambda entry: entry["mechanism"] == "swap" and entry["type"] not in NO_NUMBERS):
        other = column.other(name)
        together, r = column.collect(column.number + other.number, F.corr(column.number, other.number))
        r = math.nan if r is None else r
        given = estimators.swap_correlation(r, together, rate, other.parameters["rate"], column.asked.confidence)
        yield Reading("correlation", name, given)


def _before(column: Published, wanted: Callable[[dict[str, Any]], bool]) -> list[str]:
    """Columns of that kind that stand before this one in the release."""
    names = list(column.noised)
    return [name for name in names[: names.index(column.name)] if wanted(column.noised[name])]


def _counts(column: Published) -> Readings:
    (rows, mean, _), noise = column.moments, column.parameters["variance"]
    yield Reading("sum", None, estimators.additive_sum(mean * rows, rows, noise, column.asked.confidence))


def _correlated(column: Published) -> Readings:
    """The mean and the variance, and the covariance with each column of the group that stands before this one."""
    rows, mean, variance = column.moments
    share, noise = column.parameters.get("share"), 0.0
    if share is None:
        noise = _noise_covariance(column, column)
    elif rows > 1:  # kept or inflated, of the published variance this part is noise
        noise = variance * share / (1 + share)
    yield Reading("mean", None, estimators.additive_mean(mean, rows, noise, column.asked.confidence))
    yield Reading("variance", None, _covariance(column, column))
    lead = column.entry.get("noised_with", column.name)
    for name in _before(column, lambda entry: lead in (entry["column"], entry.get("noised_with"))):
        yield Reading("covariance", name, _covariance(column, column.other(name)))


def _covariance(column: Published, other: Published) -> Estimate:
    """Of two columns of a group, over the rows that have both; or the variance of one of them."""
    pair, confidence = (column, other), column.asked.confidence
    wanted = [F.covar_samp(a.number, b.number) for a in pair for b in pair]
    both = column.rows.filter(column.number.isNotNull() & other.number.isNotNull())
    rows, *entries = Published(both, column.entry, column.asked, column.noised).collect(column.number, *wanted)
    published = np.array([math.nan if entry is None else entry for entry in entries]).reshape(2, 2)
    share = column.parameters.get("share")
    if share is None:
        noise = [[_noise_covariance(a, b) for b in pair] for a in pair]
        return estimators.corrected_covariance(published, rows, noise, confidence)[0][1]
    rounding = np.array([[(a is b or column is other) * _step(a) ** 2 / 12 for b in pair] for a in pair])
    kept = column.parameters["keep_covariance"]
    return estimators.scaled_covariance(published - rounding, rows, share, kept, confidence)[0][1]


def _noise_covariance(column: Published, other: Published) -> float:
    """Of declared noise, from the columns' rows of its Cholesky factor; rounding is in the variances."""
    steps = _step(column) * _step(other)
    if column.name == other.name:
        return float(column.parameters["variance_steps"] * steps)
    pairs = zip(column.parameters["factors"], other.parameters["factors"], strict=False)  # one is as long as its place
    return float(math.fsum(a * b for a, b in pairs) * steps)


def _step(column: Published) -> float:
    return float(Fraction(column.entry["codes"]["step"]))


def _dithered(column: Published) -> Readings:
    """The mean, and the variance where the error's mean square is the same at every value."""
    (rows, mean, variance), given, confidence = column.moments, column.parameters, column.asked.confidence
    law, subtractive, step = given["law"], given["subtractive"], given["step"]
    found = estimators.dither_mean(mean, rows, law, subtractive, step, confidence)
    if law != "rpdf" and given["levels"] != [None, None]:
        yield Reading("mean", None, _without_error(found.value, column.asked), CUT.format("outermost levels"))
        return
    yield Reading("mean", None, found)
    if law == "tpdf" or (law == "rpdf" and subtractive):
        error = m.Dither(Fraction(step), given["resolution"], law, subtractive).variance
        spread = estimators.dither_variance(variance, rows, error, subtractive, step, confidence)
        yield Reading("variance", None, spread)


_READINGS: dict[str, Callable[[Published], Readings]] = {
    **dict.fromkeys(m.ADDITIVE, _additive),
    **dict.fromkeys(m.ORACLES, _oracle),
    **dict.fromkeys(("duchi", "piecewise", "hybrid"), _reading),
    **dict.fromkeys(("label_flip", "pram", "resampling"), _transition),
    **dict.fromkeys(("multiplicative_gaussian", "gaussian_dropout"), _multiplicative),
    "hadamard_response": _hadamard,
    "rappor": _rappor,
    "one_bit_mean": _one_bit,
    "square_wave": _square_wave,
    "vector": _vector,
    "planar_laplace": _planar,
    "masking": _masked,
    "impulse": _impulse,
    "swap": _swapped,
    "cell_key": _counts,
    "correlated_gaussian": _correlated,
    "dither": _dithered,
}
