"""Swap noise: a row takes another's value. Which row is a keyed draw; here it is looked up.

Rows are numbered within their release in the order of their keys, so that the number does not depend on files or batches.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from noiselib.column_plan import ColumnPlan
from noiselib.spark.keys import quoted
from noiselib.spark.points import ROWS

NUMBER = "__number"


def with_row_counts(frame: DataFrame, ordinal: str) -> DataFrame:
    """Row: as before, with the number of rows of its release in `__rows`."""
    counts = frame.groupBy(ordinal).agg(F.count(F.lit(1)).alias(ROWS))
    return frame.join(F.broadcast(counts), ordinal)


def with_donors(frame: DataFrame, columns: Sequence[ColumnPlan], ordinal: str, keys: Sequence[str]) -> DataFrame:
    """Row: as before, with the value that it is to have in `__d_NAME` of each swapped column."""
    if not columns:
        return frame
    order = Window.partitionBy(ordinal).orderBy(*keys)
    numbered = frame.select(ordinal, (F.row_number().over(order) - 1).alias(NUMBER), *[quoted(c.name) for c in columns])
    for column in columns:
        code, value = F.col(quoted(f"__y_{column.name}")), F.col(quoted(f"__v_{column.name}"))
        donors = numbered.select(
            F.col(ordinal).alias("__of"),
            F.col(NUMBER).cast("bigint").alias("__at"),
            F.col(quoted(column.name)).alias(f"__v_{column.name}"),
        )
        frame = frame.join(donors, (F.col(ordinal) == F.col("__of")) & (code == F.col("__at")), "left").drop(
            "__of", "__at"
        )
        own = F.col(quoted(column.name))
        frame = frame.withColumn(f"__d_{column.name}", F.when(code < 0, own).otherwise(value)).drop(
            f"__v_{column.name}"
        )
    return frame
