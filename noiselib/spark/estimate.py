"""Estimating back: from a published release and its manifest alone, what its data were, and how surely.

Spark counts and sums what was published; `noiselib.estimators` turns that into estimates. No spec, no key, no source.
Standard errors are those of the noise for these very data, rows being noised independently.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from noiselib import estimators
from noiselib import mechanisms as m
from noiselib.errors import InputError
from noiselib.estimators import Estimate
from noiselib.spark.keys import quoted
from noiselib.spark.points import stored_integer
from noiselib.spark.support import block_and_parity, supports
from noiselib.spark.tables import data_files, read_directory

TIMES = ("timestamp", "timestamp_ntz", "date")
QUANTILES = (0.25, 0.5, 0.75)
OPTIONS = ("raw", "simplex", "clip", "em", "ems")


@dataclass(frozen=True)
class Asked:
    """What is asked for. `option`: raw estimates are unbiased; the others are proper distributions, and biased."""

    confidence: float = 0.95
    option: str = "raw"
    bins: int = 0  # of histograms of additive noise within bounds; square wave always has one


@dataclass(frozen=True)
class Published:
    """One noised column of a release: its rows, and what the manifest says of it."""

    rows: DataFrame
    entry: dict[str, Any]
    asked: Asked

    @property
    def value(self) -> Column:
        return F.col(quoted(self.entry["column"]))

    @property
    def parameters(self) -> dict[str, Any]:
        found: dict[str, Any] = self.entry["parameters"]
        return found

    @cached_property
    def number(self) -> Column:
        """The value as a number in the column's unit; null where there is none."""
        if self.entry["type"] in TIMES:
            return stored_integer(self.value, self.entry["type"]) * F.lit(float(Fraction(self.entry["codes"]["unit"])))
        number = self.value.cast("double")
        return F.when(~F.isnan(number), number)

    @cached_property
    def moments(self) -> tuple[int, float, float]:
        """Rows with a value, their mean and sample variance."""
        row = self.rows.agg(F.count(self.number), F.avg(self.number), F.var_samp(self.number)).first()
        assert row is not None
        if row[0] < 2:
            raise InputError(f"column {self.entry['column']!r}: {row[0]} rows have a value; expected 2 at least")
        return int(row[0]), float(row[1]), float(row[2])


def estimate(
    spark: SparkSession, root: Path, manifest: dict[str, Any], asked: Asked, only: Sequence[str]
) -> list[dict[str, Any]]:
    """Every estimate of one release: {"column", "estimate", "of", "value", "standard_error", "low", "high", ...}.

    only: names of columns; all noised ones if empty. Raises InputError for a column that is not noised, or has no rows.
    """
    rows = read_directory(spark, _directory(root, manifest["partition"]), [])
    noised = {entry["column"]: entry for entry in manifest["columns"] if "mechanism" in entry}
    for name in only:
        if name not in noised:
            raise InputError(f"column {name!r}: not noised; expected one of {', '.join(noised)}")
    found: list[dict[str, Any]] = []
    for name in only or noised:
        column = Published(rows, noised[name], asked)
        reading = _READINGS[_family(noised[name])]
        found += [{"column": name, "estimate": what, "of": of, **_finite(value)} for what, of, value in reading(column)]
    return found


def _finite(value: Estimate) -> dict[str, float | None]:
    """None for an error that is not stated, as JSON has no NaN."""
    return {name: None if math.isnan(number) else number for name, number in asdict(value).items()}


def _directory(root: Path, partition: str) -> Path:
    """Where a release's rows lie; directories are escaped as Spark does it."""
    if not partition:
        return root
    places = {unquote(str(Path(file).parent.relative_to(root))): Path(file).parent for file in data_files(root, root)}
    if partition not in places:
        raise InputError(f"target {root}: holds no partition {partition}")
    return places[partition]


def _family(entry: dict[str, Any]) -> str:
    return "vector" if entry["codes"]["kind"] == "Vectors" else str(entry["mechanism"])


Readings = Iterator[tuple[str, Any, Estimate]]


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
        raise InputError(f"column {column.entry['column']!r}: no row has a value; expected some")
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
        moved = share if column.asked.option == "raw" else _without_error(value, column.asked)
        yield "frequency", category, moved


def _without_error(value: float, asked: Asked) -> Estimate:
    """A biased estimate states no error."""
    return Estimate(value, float("nan"), float("nan"), float("nan"), asked.confidence)


# ---- numbers ---------------------------------------------------------------------------------------------------------


def _additive(column: Published) -> Readings:
    (rows, mean, variance), confidence = column.moments, column.asked.confidence
    step, noise = Fraction(column.entry["codes"]["step"]), column.parameters["variance"]
    law = _law(column)
    yield "mean", None, estimators.additive_mean(mean, rows, noise, confidence)
    yield "sum", None, estimators.additive_sum(mean * rows, rows, noise, confidence)
    fourth = estimators.fourth_moment(law.cdf, law.variance) * float(step) ** 4
    yield "variance", None, estimators.additive_variance(variance, rows, noise, fourth, confidence)
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
        for i, share in enumerate(estimators.em(counts, matrix, smooth=asked.option == "ems").tolist()):
            yield "histogram", [edges[i], edges[i + 1]], _without_error(share, asked)
        return
    raw = estimators.invert(counts, matrix)
    for i, share in enumerate(raw.values.tolist()):
        variance = float(raw.covariance[i, i])
        yield "histogram", [edges[i], edges[i + 1]], estimators.normal(share, variance, asked.confidence)
    if _family(column.entry) == "square_wave":
        yield "mean", None, estimators.histogram_mean(raw, edges, asked.confidence)
    for share in QUANTILES:
        yield "quantile", share, estimators.quantile(raw, edges, share, asked.confidence)


def _reading(column: Published) -> Readings:
    rows, mean, variance = column.moments
    yield "mean", None, estimators.reading_mean(mean, variance, rows, column.asked.confidence)


def _one_bit(column: Published) -> Readings:
    row = column.rows.agg(F.count(column.value), F.count_if(column.value)).first()
    assert row is not None
    zero, one = column.parameters["values"]
    yield "mean", None, estimators.one_bit_mean(row[1] / row[0], row[0], zero, one, column.asked.confidence)


def _vector(column: Published) -> Readings:
    values = column.rows.select(F.posexplode(column.value).alias("component", "number"))
    found = values.groupBy("component").agg(F.count("number"), F.avg("number")).orderBy("component").collect()
    if not found:
        raise InputError(f"column {column.entry['column']!r}: no row has a value; expected some")
    noise, confidence = column.parameters["variance"], column.asked.confidence
    means = estimators.vector_mean([row[2] for row in found], found[0][1], noise, confidence)
    for row, mean in zip(found, means, strict=True):
        yield "mean", row["component"], mean


def _planar(column: Published) -> Readings:
    """Of both coordinates, in degrees."""
    codes, other = column.entry["codes"], column.entry["codes"]["longitude"]
    metres = float(column.parameters["step"])
    for name, degrees in ((column.entry["column"], codes["north"]), (other, codes["east"])):
        row = column.rows.agg(F.count(F.col(quoted(name))), F.avg(F.col(quoted(name)))).first()
        assert row is not None
        noise = column.parameters["variance"] * (float(degrees) / metres) ** 2
        yield "mean", name, estimators.additive_mean(row[1], row[0], noise, column.asked.confidence)


# ---- microdata, augmentation, dither ---------------------------------------------------------------------------------


def _multiplicative(column: Published) -> Readings:
    number, confidence = column.number, column.asked.confidence
    row = column.rows.agg(F.count(number), F.avg(number), F.avg(number**2), F.avg(number**4)).first()
    assert row is not None
    sigma = column.parameters["sigma"]
    yield "mean", None, estimators.multiplicative_mean(row[1], row[2], row[0], sigma, confidence)
    yield "second_moment", None, estimators.multiplicative_second_moment(row[2], row[3], row[0], sigma, confidence)


def _masked(column: Published) -> Readings:
    if column.entry["codes"]["values"] != [None] or column.entry["type"] in ("string", "boolean", "binary", *TIMES):
        return  # what was put in a value's place cannot be told from a value
    (kept, mean, variance), rows = column.moments, column.rows.count()
    yield "mean", None, estimators.masked_mean(mean, variance, kept, rows, column.asked.confidence)


def _impulse(column: Published) -> Readings:
    number = column.number
    row = column.rows.agg(F.count(number), F.avg(number), F.avg(number**2)).first()
    assert row is not None
    low, high = (float(value) for value in column.entry["codes"]["values"])
    rate, confidence = column.parameters["rate"], column.asked.confidence
    yield "mean", None, estimators.impulse_mean(row[1], row[2], row[0], rate, low, high, confidence)


def _swapped(column: Published) -> Readings:
    if column.entry["type"] in ("string", "boolean", "binary", *TIMES):
        return
    rows, mean, variance = column.moments
    yield "mean", None, estimators.swap_mean(mean, variance, rows, column.parameters["rate"], column.asked.confidence)


def _counts(column: Published) -> Readings:
    rows, mean, _ = column.moments
    yield (
        "sum",
        None,
        estimators.additive_sum(mean * rows, rows, column.parameters["variance"], column.asked.confidence),
    )


def _correlated(column: Published) -> Readings:
    """The mean: unbiased. Its error is that of independent noise of the column's variance, where that is known."""
    rows, mean, variance = column.moments
    share = column.parameters.get("share")
    if share is not None:  # kept or inflated, of the published variance this part is noise
        noise = variance * share / (1 + share)
    else:
        noise = column.parameters["variance_steps"] * float(Fraction(column.entry["codes"]["step"])) ** 2
    yield "mean", None, estimators.additive_mean(mean, rows, noise, column.asked.confidence)


def _dithered(column: Published) -> Readings:
    (rows, mean, _), parameters = column.moments, column.parameters
    second, _fourth = estimators.dither_error(parameters["law"], parameters["subtractive"], parameters["step"])
    yield "mean", None, estimators.additive_mean(mean, rows, second, column.asked.confidence)


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
