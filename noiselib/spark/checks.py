"""Checks on the staged table, by Great Expectations: a suite derived from the plan, and the spec's own checks.

Every derived check is the sum of an indicator column between two whole numbers (rows off the lattice: 0; nulls: as many
as in the source; values beyond a bound by more than the noise allows: so many), so that one aggregate answers them all. Types and
the uniqueness of the row key are looked at beside it. Results hold verdicts only, no value. A check that raises or did
not run has failed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import pandas as pd
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read at import: no events leave the machine
try:
    import great_expectations as gx
    import great_expectations.expectations as gxe
except (
    SystemExit
) as leaving:  # Spark Connect, tried on the way, ends a process whose main module has no file: with code 0
    raise ImportError(
        "great_expectations cannot be imported here: run noiselib from a file, not from python -c"
    ) from leaving

from noiselib.column_plan import ColumnPlan
from noiselib.encoding import Categories, CategorySet, Lattice, Vectors
from noiselib.law_tests import FALSE_ALARMS, published_limits
from noiselib.patterns import matches
from noiselib.plan import Plan, digest
from noiselib.release import Release
from noiselib.spark import codes
from noiselib.spark.keys import quoted
from noiselib.spark.points import FLOATS
from noiselib.spark.tables import read_directory, types_of
from noiselib.spec import Check
from noiselib.targets import Target

Expectation = Any
_udf: Callable[[str], Callable[[Any], Callable[[Column], Column]]] = F.pandas_udf  # type: ignore[attr-defined]
MATCH = "column_values_match_regex"
SPEC_CHECKS: dict[str, Callable[..., Expectation]] = {
    "column_values_between": gxe.ExpectColumnValuesToBeBetween,
    "column_values_in_set": gxe.ExpectColumnValuesToBeInSet,
    MATCH: gxe.ExpectColumnValuesToBeInSet,  # of whether they match, which RE2 says
    "column_mean_between": gxe.ExpectColumnMeanToBeBetween,
    "column_min_between": gxe.ExpectColumnMinToBeBetween,
    "column_max_between": gxe.ExpectColumnMaxToBeBetween,
    "column_stdev_between": gxe.ExpectColumnStdevToBeBetween,
    "column_sum_between": gxe.ExpectColumnSumToBeBetween,
    "table_row_count_between": gxe.ExpectTableRowCountToBeBetween,
}


def check_release(spark: SparkSession, plan: Plan, release: Release, target: Target) -> dict[str, Any]:
    """Check one staged release: {"success", "content_digest", "checks": [{check, column, severity, success}]}."""
    staged = target.staged(release.id)
    if staged is None:
        return {"success": False, "checks": [_verdict("staged_table_present", None, "error", False)]}
    try:
        rows = read_directory(spark, target.data(release.id), plan.partition_types)
        results = validate(rows, plan, staged)
        content = content_digest(rows, plan)
    except Exception as error:  # whatever stops a check is a failed check; its message may hold values
        logging.getLogger("noiselib").error(
            "check of release %s did not run: %s", release.id[:12], type(error).__name__
        )
        return {"success": False, "checks": [_verdict(f"checks_ran ({type(error).__name__})", None, "error", False)]}
    checks = [*staged["law"], *results]
    success = bool(results) and all(check["success"] for check in checks if check["severity"] == "error")
    return {"success": success, "content_digest": content, "checks": checks}


def validate(rows: DataFrame, plan: Plan, staged: dict[str, Any]) -> list[dict[str, Any]]:
    """The verdicts of the derived suite and the spec's own checks on the staged `rows`."""
    known = {name: _simple(name, position) for position, (name, _) in enumerate(plan.published)}
    renamed = [F.col(quoted(name)).alias(known.get(name, name)) for name in rows.columns]
    derived = _indicators(plan, staged)
    indicators = {f"indicator {number}": test.cast("int") for number, (_, _, test, _, _) in enumerate(derived)}
    patterns = {f"matches {number}": _match_udf(str(check.regex))(F.col(quoted(str(check.column))))
                for number, check in enumerate(plan.spec.checks) if check.expect == MATCH}  # fmt: skip
    view = rows.select(*renamed, *[column.alias(name) for name, column in {**indicators, **patterns}.items()])
    columns = [*known.values(), *indicators, *patterns, *_nested(view)]
    expectations: list[tuple[str, str | None, str, Expectation]] = [
        ("row_count", None, "error", gxe.ExpectTableRowCountToEqual(value=staged["rows"])),
        ("schema", None, "error", gxe.ExpectTableColumnsToMatchSet(column_set=columns, exact_match=True)),
    ]
    for name, (column, what, _, least, most) in zip(indicators, derived, strict=True):
        between = gxe.ExpectColumnSumToBeBetween(column=name, min_value=least, max_value=most)
        if staged["rows"]:  # a sum over no rows is null
            expectations.append((what, column, "error", between))
    for number, check in enumerate(plan.spec.checks):
        if not staged["rows"] and check.column is not None:
            continue  # nor has an empty release a mean, a least or a greatest value
        asked = f"matches {number}" if check.expect == MATCH else known.get(str(check.column))
        expectations.append((check.expect, check.column, check.severity, _spec_check(check, asked)))
    schema = _verdict("types", None, "error", types_of(rows.schema) == dict(plan.published))
    return [schema, *_run(view, expectations), *_key_unique(rows, plan)]


def _key_unique(rows: DataFrame, plan: Plan) -> list[dict[str, Any]]:
    """Whether no two rows have one key. Great Expectations would sort windows of rows for it: more memory, the more rows."""
    if not plan.row_key_published:
        return []
    times = F.count(F.lit(1)).alias("rows of one key")
    several = rows.groupBy(*map(quoted, plan.published_key)).agg(times).filter(F.col("rows of one key") > 1)
    return [_verdict("row_key_unique", ", ".join(plan.published_key), "error", several.isEmpty())]


def _simple(name: str, position: int) -> str:
    """The name if Great Expectations reads it as one (no dot, no quote), else another for the view it is given."""
    return name if name.isidentifier() and name.isascii() else f"column {position}"


def _nested(rows: DataFrame) -> list[str]:
    """Fields of structs, which Great Expectations counts among the columns. Their names are part of the `types` verdict."""
    structs = {field.name: field.dataType for field in rows.schema if isinstance(field.dataType, StructType)}
    return [f"{name}.{field.name}" for name, struct in structs.items() for field in struct.fields]


def _run(view: DataFrame, expectations: Sequence[tuple[str, str | None, str, Expectation]]) -> list[dict[str, Any]]:
    batch = _batch_definition()
    for number, (*_, expectation) in enumerate(expectations):
        expectation.meta = {"number": number}  # results need not come in order, and have no id
    suite = gx.ExpectationSuite(name="release", expectations=[expectation for *_, expectation in expectations])
    # BOOLEAN_ONLY: by default a result keeps up to 20 raw values
    result = batch.get_batch(batch_parameters={"dataframe": view}).validate(suite, result_format="BOOLEAN_ONLY")
    success = {outcome.expectation_config.meta["number"]: bool(outcome.success) for outcome in result.results}
    if len(result.results) != len(expectations) or len(success) != len(expectations):
        raise RuntimeError(f"{len(success)} of {len(expectations)} checks ran")
    if bool(result.success) != all(success.values()):
        raise RuntimeError("the suite's verdict is not that of its checks")
    return [
        _verdict(what, column, severity, success[number])
        for number, (what, column, severity, _) in enumerate(expectations)
    ]


@lru_cache(maxsize=1)
def _batch_definition() -> Any:
    """Great Expectations' way to a dataframe, in memory only. Made once: each context leaves a temporary directory."""
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_spark("staged", persist=False)  # by default a frame stays cached
    return source.add_dataframe_asset("table").add_batch_definition_whole_dataframe("release")


def _indicators(plan: Plan, staged: dict[str, Any]) -> list[tuple[str, str, Column, int, int]]:
    """(column, what, condition of a row, least and greatest count) of every derived check."""
    rows = staged["rows"]
    numbers = {col.name: rows - staged["nulls"][col.name] - _kept_nans(col, staged) for col in plan.noised}
    alpha = FALSE_ALARMS / max(1, 5 * len(plan.noised))
    found = []
    for column in plan.perturbed:
        value, name = F.col(quoted(column.name)), column.name
        if codes.nulls_are_known(column):
            nulls = staged["nulls"][name]
            found.append((name, "null_pattern", value.isNull(), nulls, nulls))
        form = codes.well_formed(column)
        if form is not None:
            number = value.isNotNull() & ~F.isnan(value) if column.published_type in FLOATS else value.isNotNull()
            found.append((name, _form(column), number & ~form, 0, 0))
        if column.lattice is None or (column.memoized and plan.rows_per_unit > 1):
            continue  # rows of one unit share draws, so counts are not binomial; the law tests allow for that
        point = codes.published_point(column)
        for what, threshold, least, most in published_limits(column, numbers[name], alpha):
            beyond = _beyond(column, point, what, threshold)
            found.append((name, f"published_{what}_{threshold}", beyond, least, most))
    return [(name, what, F.coalesce(test, F.lit(False)), least, most) for name, what, test, least, most in found]


def _form(column: ColumnPlan) -> str:
    """The name of the check that a value is one which the mechanism can give."""
    names = {
        Lattice: "on_lattice",
        Categories: "known_categories",
        CategorySet: "known_categories",
        Vectors: "on_lattice",
    }
    return names.get(type(column.codes), "well_formed")


def _kept_nans(column: ColumnPlan, staged: dict[str, Any]) -> int:
    """Rows published with a NaN: neither null nor a number that noise was added to."""
    return (
        int(staged["adjusted"].get(f"{column.name}: NaN", 0)) if getattr(column.declared, "on_nan", "") == "keep" else 0
    )


def _beyond(column: ColumnPlan, point: Column, what: str, threshold: int) -> Column:
    assert column.lattice is not None
    if what == "above":
        return point > threshold
    if what == "below":
        return point < threshold
    return (point < column.lattice.lower) | (point > column.lattice.upper)


def _match_udf(regex: str) -> Callable[[Column], Column]:
    """A pandas UDF string -> boolean. Not Spark's own `rlike`, which a hostile pattern keeps busy for ever."""

    @_udf("boolean")
    def found(values: pd.Series) -> pd.Series:
        return matches(pa.array(values, pa.string(), from_pandas=True), regex).to_pandas()

    return found


def _spec_check(check: Check, column: str | None) -> Expectation:
    """`column`: what the view calls the check's column, or the one that says whether its pattern matches."""
    arguments: dict[str, Any] = {} if column is None else {"column": column}
    if check.expect == "column_values_in_set":
        arguments["value_set"] = check.values
    elif check.expect == MATCH:
        arguments["value_set"] = [True]
    else:
        arguments |= {"min_value": check.min, "max_value": check.max}
    if check.expect.startswith("column_values"):
        arguments["mostly"] = check.mostly
    return SPEC_CHECKS[check.expect](**arguments)


def content_digest(rows: DataFrame, plan: Plan) -> str:
    """A digest of the rows as a multiset: the same however they are split into files or ordered.

    Two 64-bit hashes of each row, summed in halves (so that no sum can overflow) beside the count. It tells two computations
    of one release apart; it is no defence against somebody who forges data, for which `verify` derives every value again.
    """
    values = [_bits(F.col(quoted(name)), kind) for name, kind in plan.published]
    hashes = [F.xxhash64(F.lit(salt), *values) for salt in ("a", "b")]
    halves = [F.sum(part) for h in hashes for part in (F.shiftright(h, 32), h.bitwiseAND(F.lit(0xFFFFFFFF)))]
    row = rows.agg(F.count(F.lit(1)), *halves).first()
    assert row is not None
    return digest([int(value or 0) for value in row])


def _bits(value: Column, kind: str) -> Column:
    """The value so that hashing tells -0.0 from 0.0, and null from any value."""
    hashed = F.when(value == 0, value.cast("string")).otherwise(F.hex(F.lit(""))) if kind in FLOATS else None
    return F.struct(value, value.isNull(), hashed) if hashed is not None else F.struct(value, value.isNull())


def _verdict(check: str, column: str | None, severity: str, success: bool) -> dict[str, Any]:
    return {"check": check, "column": column, "severity": severity, "success": success}
