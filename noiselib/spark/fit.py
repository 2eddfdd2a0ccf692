"""Mechanisms that take parameters from the data: a group's covariance, a column's marginal. No guarantee, by their nature.

The statistics are exact integers, so that they do not depend on the order in which rows are added up.
"""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Any

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from noiselib.column_plan import ColumnPlan
from noiselib.mechanisms import EstimatedCorrelated, EstimatedPram, Mechanism
from noiselib.plan import Plan
from noiselib.spark.keys import quoted
from noiselib.spark.points import has_point


def fitted(frame: DataFrame, plan: Plan, releases: int, ordinal: str) -> dict[str, tuple[Mechanism, ...]]:
    """Every noised column's mechanisms: one where it was planned, one per release where it is fitted to the release's rows."""
    totals: dict[str, Column] = {}
    for column in plan.noised:
        totals |= _statistics(column, plan)
    if not totals:
        return {column.name: (_fit(column, None),) for column in plan.noised}
    found = {
        row[ordinal]: row.asDict()
        for row in frame.groupBy(ordinal).agg(*[t.alias(n) for n, t in totals.items()]).collect()
    }
    return {column.name: tuple(_fit(column, found.get(index)) for index in range(releases)) for column in plan.noised}


def group(column: ColumnPlan, plan: Plan) -> list[ColumnPlan]:
    """The columns of a correlated group, its lead first."""
    lead = plan.column(column.lead or column.name)
    return [lead, *(plan.column(name) for name in lead.declared.with_)]  # type: ignore[union-attr]


def _statistics(column: ColumnPlan, plan: Plan) -> dict[str, Column]:
    if isinstance(column.mechanism, EstimatedPram):
        index = F.when(has_point(column), _point(column))
        size = len(column.mechanism.categories)
        return {f"{column.name} {i}": F.count_if(index == i) for i in range(size)}
    if not isinstance(column.mechanism, EstimatedCorrelated) or column.lead:
        return {}
    members = group(column, plan)
    whole = F.lit(True)
    for member in members:
        whole = whole & has_point(member)
    exact = [F.when(whole, _point(member)).cast("decimal(38,0)") for member in members]
    totals = {f"{column.name} rows": F.count_if(whole)}
    totals |= {f"{column.name} {i}": F.sum(x) for i, x in enumerate(exact)}
    pairs = combinations_with_replacement(range(len(members)), 2)
    return totals | {f"{column.name} {i} {j}": F.sum((exact[i] * exact[j]).cast("decimal(38,0)")) for i, j in pairs}


def _fit(column: ColumnPlan, row: dict[str, Any] | None) -> Mechanism:
    mechanism: Any = column.mechanism
    if isinstance(mechanism, EstimatedPram):
        counts = [int(row[f"{column.name} {i}"]) if row else 0 for i in range(len(mechanism.categories))]
        return mechanism.fit(counts)
    if isinstance(mechanism, EstimatedCorrelated):
        name, size = column.lead or column.name, mechanism.size
        rows = int(row[f"{name} rows"]) if row else 0
        sums = [int(row[f"{name} {i}"] or 0) if row else 0 for i in range(size)]
        products = [
            [int(row[f"{name} {min(i, j)} {max(i, j)}"] or 0) if row else 0 for j in range(size)] for i in range(size)
        ]
        return mechanism.fit(rows, sums, products)
    planned: Mechanism = mechanism
    return planned


def _point(column: ColumnPlan) -> Column:
    return F.col(quoted(f"__x_{column.name}"))
