"""The noise law of one job, counted while its rows pass by (`DataFrame.observe`). Counts are compared and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pyspark.sql import Column, DataFrame, Observation
from pyspark.sql import functions as F

from noiselib import encoding as e
from noiselib.column_plan import ColumnPlan
from noiselib.law_tests import SAMPLE_ROWS, LawTest, law_tests, verdicts
from noiselib.plan import Plan, plain
from noiselib.spark import codes
from noiselib.spark.keys import quoted
from noiselib.spark.perturb import Job, published_columns
from noiselib.spark.support import block_and_parity, supports

COUNT_BITS = 20  # of one count packed into a sum; see SAMPLE_ROWS
COUNTS_PER_SUM = 3


class LawObservation:
    """The law tests of one job, counted while its rows pass by, on what is published against the clipped true values.

    Each count costs every row, so large jobs are sampled; that all values were clipped is seen on every row.
    """

    def __init__(self, job: Job) -> None:
        self.tests = law_tests(job.plan, len(job.releases))
        self._observation = Observation()
        self._job = job

    def attach(self, frame: DataFrame) -> DataFrame:
        """The published columns (and lattice points) of noised rows, with the counts of every test taken on the way."""
        plan, rows = self._job.plan, sum(r.rows_expected for r in self._job.releases) * self._job.plan.spec.replicas
        points = [quoted(f"__x_{column.name}") for column in plan.noised]
        points += [
            quoted(f"__y_{column.name}") for column in plan.noised if column.name in _read_by_code(self.tests, plan)
        ]
        sampled = F.lit(True) if rows <= SAMPLE_ROWS else F.rand(0) < SAMPLE_ROWS / rows
        published = frame.select(*published_columns(self._job), *points, sampled.alias("__sampled"))
        names = [quoted(name) for name, _ in plan.published]
        # computed in the projection, where Spark compiles it with the rest; the observation only adds up
        counted = published.select(*names, *self._packed_counts(), _unclipped(plan.noised).alias("__unclipped"))
        sums = [F.sum(name).alias(name) for name in counted.columns if name.startswith("__counts")]
        return counted.observe(self._observation, F.max("__unclipped").alias("unclipped"), *sums)

    def _counted(self) -> list[LawTest | tuple[str, ...]]:
        """What is counted: per test the rows for which it holds, and per set of columns the rows that have values in them."""
        return list(dict.fromkeys([*self.tests, *(_nullable(test, self._job.plan) for test in self.tests)]))

    def _holds(self, what: LawTest | tuple[str, ...]) -> Column:
        return _condition(what, self._job.plan) if isinstance(what, LawTest) else _have_values(what, self._job.plan)

    def _packed_counts(self) -> list[Column]:
        """The counts, three to a sum: each sum costs every row, and a sampled count stays far below 2^20."""
        sums, conditions = [], [self._holds(what) for what in self._counted()]
        for first in range(0, len(conditions), COUNTS_PER_SUM):
            packed = F.lit(0).cast("bigint")
            for place, condition in enumerate(conditions[first : first + COUNTS_PER_SUM]):
                one = F.lit(1 << (COUNT_BITS * place)).cast("bigint")
                packed = packed + F.when(condition, one).otherwise(F.lit(0).cast("bigint"))
            sampled = F.when(F.col("__sampled"), packed).otherwise(F.lit(0).cast("bigint"))
            sums.append(sampled.alias(f"__counts_{first // COUNTS_PER_SUM}"))
        return sums

    def verdicts(self) -> list[dict[str, Any]]:
        """After the frame's action: the verdicts. The counts are dropped here: with them true sums would follow."""
        counted, found = self._observation.get, {}
        for index, what in enumerate(self._counted()):
            packed = counted[f"__counts_{index // COUNTS_PER_SUM}"] or 0
            found[what] = (packed >> (COUNT_BITS * (index % COUNTS_PER_SUM))) & (2**COUNT_BITS - 1)
        clipped = {"check": "clipped", "column": None, "severity": "error", "success": not counted["unclipped"]}
        rows = [found[_nullable(test, self._job.plan)] for test in self.tests]
        return [clipped, *verdicts(self.tests, [found[test] for test in self.tests], rows)]


def _unclipped(columns: Sequence[ColumnPlan]) -> Column:
    """Whether any lattice point lies beyond its column's bounds when the noise is drawn."""
    found = F.lit(False)
    for column in columns:
        if isinstance(column.points, e.Lattice):
            found = found | ~F.col(quoted(f"__x_{column.name}")).between(column.points.lower, column.points.upper)
        elif isinstance(column.points, e.Vectors) and column.points.clip_norm is not None:
            found = found | (_norm(F.col(quoted(f"__x_{column.name}")), column.points) > _most(column.points))
    return found


def _norm(points: Column, vectors: e.Vectors) -> Column:
    """The L1 norm of lattice points, or the square of the L2 norm."""
    size = F.abs if vectors.order == 1 else lambda x: x * x
    return F.aggregate(points.cast("array<double>"), F.lit(0.0), lambda total, x: total + size(x))


def _most(vectors: e.Vectors) -> float:
    """The largest norm of a clipped vector after rounding, in steps; squared for L2."""
    assert vectors.clip_norm is not None
    steps = vectors.clip_norm / float(vectors.step) * (1 + 1e-9)
    return steps + vectors.dimension / 2 if vectors.order == 1 else (steps + vectors.dimension**0.5 / 2) ** 2


def _nullable(test: LawTest, plan: Plan) -> tuple[str, ...]:
    """Those of the test's columns that may be published without a value: such rows take no part."""
    return tuple(name for name in test.columns if codes.nullable(plan.column(name)))


def _have_values(names: Sequence[str], plan: Plan) -> Column:
    """Whether the row has published values that noise was drawn for; a NaN that is kept is none."""
    found = F.lit(True)
    for column in map(plan.column, names):
        if column.lattice is not None:
            found = found & codes.published_point(column).isNotNull()
        elif codes.nulls_are_known(column):
            found = found & F.col(quoted(column.name)).isNotNull()
        else:
            found = found & F.col(quoted(f"__x_{column.name}")).isNotNull()
    return found


def _read_by_code(tests: Sequence[LawTest], plan: Plan) -> set[str]:
    """Columns whose codes the tests look at: a published float may be coarser than its lattice, others say less."""
    named = {name for test in tests for name in test.columns}
    return {name for name in named if plan.column(name).lattice is None or plan.column(name).type == "float"}


# ---- conditions ------------------------------------------------------------------------------------------------------


def _condition(test: LawTest, plan: Plan) -> Column:
    column = plan.column(test.column)
    met = _CONDITIONS[test.what](test, column, plan)
    if not test.lots and test.what not in ("upper", "lower"):
        return met
    lot, drawn = _lot(test, column), F.rand(1)
    return F.when(lot < 0, drawn < -lot).otherwise(met & (drawn < lot))


def _point(column: ColumnPlan) -> Column:
    return F.col(quoted(f"__x_{column.name}"))


def _code(column: ColumnPlan) -> Column:
    return F.col(quoted(f"__y_{column.name}"))


def _noise(column: ColumnPlan) -> Column:
    """What was added, in steps: the published value's lattice point less the true one's.

    Of a float, which may be coarser than its lattice and round small noise to none, the point before that rounding.
    """
    if column.lattice is None and not isinstance(column.codes, e.Categories):
        return _code(column) - _point(column)
    point = codes.published_point(column)
    if column.type == "float":
        point = F.when(point.isNotNull(), _code(column))
    return point - _point(column)


def _within(test: LawTest, column: ColumnPlan, plan: Plan) -> Column:
    if isinstance(column.points, e.Vectors):
        apart = F.zip_with(_code(column), _point(column), lambda y, x: y - x)
        return F.forall(apart, lambda noise: noise.between(-test.threshold, test.threshold))
    return _noise(column).between(-test.threshold, test.threshold)


def _positive(test: LawTest, column: ColumnPlan, plan: Plan) -> Column:
    if isinstance(column.points, e.Vectors):
        return F.get(_code(column), F.lit(0)) > F.get(_point(column), F.lit(0))
    return _noise(column) > 0


def _agree(test: LawTest, column: ColumnPlan, plan: Plan) -> Column:
    assert test.other is not None
    return (_noise(column) > 0) == (_noise(plan.column(test.other)) > 0)


def _northeast(test: LawTest, column: ColumnPlan, plan: Plan) -> Column:
    north = codes.north_steps(_code(column)) - codes.north_steps(_point(column))
    return (north >= 0) & (codes.east_steps(_code(column)) > codes.east_steps(_point(column)))


def _supports(test: LawTest, column: ColumnPlan, plan: Plan) -> Column:
    size = len(column.mechanism.categories)  # type: ignore[union-attr]
    category = _point(column) if test.what == "supports" else (_point(column) + 1) % size
    report = F.col(quoted(column.name))
    if isinstance(column.codes, e.Position):
        same, even = block_and_parity(report, category, column.mechanism.size)  # type: ignore[union-attr]
        return same & even
    return supports(plain(column.codes), report, category)


def _in_window(test: LawTest, column: ColumnPlan, plan: Plan) -> Column:
    mechanism: Any = column.mechanism
    first = (_point(column) - mechanism.lower) * F.lit(mechanism.stretch).cast("bigint")
    return _code(column).between(first, first + mechanism.window - 1)


def _lot(test: LawTest, column: ColumnPlan) -> Column:
    """The share of a point's rows that take part, so that the condition's probability is one for all."""
    if test.lots:
        place = F.least(_point(column), F.lit(len(test.lots) - 1).cast("bigint")).cast("int")
        return F.get(F.array(*[F.lit(lot) for lot in test.lots]), place)
    mechanism: Any = column.mechanism
    high = (_point(column) - mechanism.lower) / F.lit(float(mechanism.upper - mechanism.lower))
    side = high if test.what == "upper" else 1 - high
    lot: Column = F.lit(test.probability) / (F.lit(test.probability) + side * (1 - 2 * test.probability))
    return lot


Condition = Callable[[LawTest, ColumnPlan, Plan], Column]
_CONDITIONS: dict[str, Condition] = {
    "within": _within,
    "positive": _positive,
    "agree": _agree,
    "northeast": _northeast,
    "code_within": lambda test, column, plan: _code(column).between(-test.threshold, test.threshold),
    "code_positive": lambda test, column, plan: _code(column) > 0,
    "code_is": lambda test, column, plan: _code(column) == test.threshold,
    "changed": lambda test, column, plan: (
        _code(column) >= 0 if isinstance(column.codes, e.Donor) else _code(column) != 0
    ),
    "same": lambda test, column, plan: _noise(column) == 0,
    "near": lambda test, column, plan: F.pmod(_noise(column), F.lit(test.threshold)) < test.threshold // 2,
    "kept": lambda test, column, plan: _noise(column) == 0,
    "moved": lambda test, column, plan: _noise(column) != 0,
    "supports": _supports,
    "supports_next": _supports,
    "window": _in_window,
    "upper": lambda test, column, plan: _code(column) == 1,
    "lower": lambda test, column, plan: _code(column) == 0,
}
