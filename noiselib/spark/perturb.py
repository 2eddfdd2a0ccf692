"""From the snapshot to noised rows: read, key, clip, noise, and what is learned on the way.

Everything here is lazy but `inspect`. The frame of `noised_rows` is a pure function of the releases: evaluating it twice,
elsewhere, or in other batches gives the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql import types as T

from noiselib.column_plan import ColumnPlan
from noiselib.column_spec import CorrelatedGaussian
from noiselib.encoding import Donor, RowCount
from noiselib.errors import InputError
from noiselib.key import absolute
from noiselib.mechanisms import Mechanism, Rappor
from noiselib.plan import Plan
from noiselib.release import Release, law_text, memo_text
from noiselib.snapshot import TableMetadata
from noiselib.spark import codes
from noiselib.spark.fit import fitted
from noiselib.spark.kernel import KeySource, Noise, memoized_udf, noise_udf, priority_udf, pseudonym_udf, two_rounds_udf
from noiselib.spark.keys import key_encoding, quoted, value_hash
from noiselib.spark.points import adjusted, point, violations
from noiselib.spark.swap import with_donors, with_row_counts
from noiselib.spark.tables import ORDINAL, PARTITION_TYPES, read_files, read_listed, table_schema, texts_of
from noiselib.spec import REPLICA

KEYS = ("__key_high", "__key_low")
UNIT = ("__unit_high", "__unit_low")
Fits = dict[str, tuple[Mechanism, ...]]


@dataclass(frozen=True)
class Job:
    """What one Spark job makes: some releases of one plan over one table."""

    plan: Plan
    table: TableMetadata
    releases: tuple[Release, ...]
    key_reference: str

    @property
    def key_source(self) -> KeySource:
        return KeySource(
            absolute(self.key_reference),
            self.releases[0].key_id,
            self.plan.spec.pipeline,
            tuple(r.id for r in self.releases),
        )

    @property
    def types(self) -> dict[str, str]:
        return dict(self.table.schema)


@dataclass(frozen=True)
class Inspection:
    """What a look at one release's rows found before any noise was drawn. For the operator: not to be published."""

    rows: int  # that will be published
    rows_in: int
    nulls: dict[str, int]  # nulls per noised column that will be published
    adjusted: dict[str, int]


def noised_rows(spark: SparkSession, job: Job) -> DataFrame:
    """The rows with everything computed: source columns, `__x_NAME` (point) and `__y_NAME` (code) per noised column.

    Pass it to `published_columns` for what may leave. Row: one source row that is kept.
    """
    frame = replicated(bounded_rows(spark, job), job)
    if any(isinstance(column.points, RowCount) for column in job.plan.noised):
        frame = with_row_counts(frame, ORDINAL)
    frame = frame.withColumns({f"__x_{column.name}": point(column) for column in job.plan.noised})
    mechanisms = fitted(frame, job.plan, len(job.releases), ORDINAL)
    noised = {f"__y_{column.name}": _noise(frame, job, column, mechanisms) for column in job.plan.noised}
    for column in job.plan.columns:
        if column.treatment == "pseudonymize":
            noised[f"__y_{column.name}"] = pseudonym_udf(job.key_source, column.name)(*value_hash(column.name))
    frame = frame.withColumns(noised)  # one pass through the workers: Spark joins the UDFs of one projection
    return with_donors(
        frame, [col for col in job.plan.noised if isinstance(col.codes, Donor)], ORDINAL, _present(frame, KEYS)
    )


def _noise(frame: DataFrame, job: Job, column: ColumnPlan, mechanisms: Fits) -> Column:
    """The codes of one column. Columns of a correlated group share a key, and with it the factors of their noise."""
    source, keyed_by = job.key_source, job.plan.column(column.lead or column.name)
    keys = [F.col(name) for name in _present(frame, KEYS)]
    units = [F.col(name) for name in _present(frame, UNIT)] or keys
    codes_of = F.col(quoted(f"__x_{column.name}"))
    if not column.memoized:
        shared = isinstance(column.declared, CorrelatedGaussian)
        noise = Noise(keyed_by.name, law_text(keyed_by), mechanisms[column.name], shared)
        return noise_udf(source, noise)(F.col(ORDINAL), *keys, codes_of)
    noise = Noise(keyed_by.name, memo_text(job.plan, keyed_by), mechanisms[column.name])
    if isinstance(column.mechanism, Rappor):
        return two_rounds_udf(source, noise, len(units))(F.col(ORDINAL), *units, *keys, codes_of)
    return memoized_udf(source, noise)(*units, codes_of)


def replicated(frame: DataFrame, job: Job) -> DataFrame:
    """Each row `replicas` times, numbered; the number is part of the copy's key, so that each has its own noise."""
    spec = job.plan.spec
    if spec.replicas == 1:
        return frame
    copies = F.explode(F.sequence(F.lit(0), F.lit(spec.replicas - 1))).alias(REPLICA)
    frame = frame.drop(*KEYS).select("*", copies)
    encoding = key_encoding(job.plan.published_key, {**job.types, REPLICA: "int32"}, "row")
    return frame.withColumns(dict(zip(KEYS, _not_null(encoding), strict=True)))


def published_columns(job: Job) -> list[Column]:
    """What leaves: each column of the plan but the dropped ones, under its own name, in order."""
    chosen = []
    for column in job.plan.columns:
        value = F.col(quoted(column.name))
        code = F.col(quoted(f"__y_{column.lead if column.treatment == 'noised_with' else column.name}"))
        if column.treatment == "keep":
            chosen.append(value)
        elif column.treatment == "pseudonymize":
            chosen.append(F.when(value.isNotNull(), code).alias(column.name))
        elif column.treatment != "drop":
            donor = F.col(quoted(f"__d_{column.name}")) if isinstance(column.codes, Donor) else None
            chosen.append(codes.published(column, code, donor).alias(column.name))
    return [*chosen, *([F.col(REPLICA)] if job.plan.spec.replicas > 1 else [])]


def source_rows(spark: SparkSession, table: TableMetadata, releases: Sequence[Release]) -> DataFrame:
    """The releases' files, exactly those of the snapshot, with the release's ordinal in `__ordinal`."""
    if table.version is not None:
        return read_listed(spark, table, [table.files_of(release.partition) for release in releases])
    types = dict(table.schema)
    schema = table_schema(spark, table.files[0].path, [(name, types[name]) for name in table.partition_by])
    files = [file.path for release in releases for file in table.files_of(release.partition)]
    frame = read_files(spark, schema, table.path, files)
    if len(releases) == 1:
        return frame.withColumn(ORDINAL, F.lit(0).cast("bigint"))
    rows = [(index, *texts_of(release.partition)) for index, release in enumerate(releases)]
    fields = [T.StructField(f"__p_{name}", T.StringType()) for name in table.partition_by]
    ordinals = spark.createDataFrame(rows, T.StructType([T.StructField(ORDINAL, T.LongType()), *fields]))
    kinds = {f"__p_{name}": PARTITION_TYPES[types[name]] for name in table.partition_by}
    ordinals = ordinals.withColumns({name: F.col(quoted(name)).cast(kind) for name, kind in kinds.items()})
    same = [F.col(quoted(name)).eqNullSafe(F.col(quoted(f"__p_{name}"))) for name in table.partition_by]
    joined = frame.join(F.broadcast(ordinals), same, "inner")
    return joined.drop(*[f"__p_{name}" for name in table.partition_by])


def keyed_rows(spark: SparkSession, job: Job) -> DataFrame:
    """Source rows with their row key's encoding, and the unit's where it is an entity."""
    spec, types = job.plan.spec, job.types
    frame = source_rows(spark, job.table, job.releases)
    frame = frame.withColumns(dict(zip(KEYS, _not_null(key_encoding(spec.row_key, types, "row")), strict=False)))
    if spec.entity is None:
        return frame
    unit = key_encoding(spec.entity.entity, types, "unit", hashed=True)
    if spec.entity.on_null_entity == "own_unit":  # such a row is a unit of its own: its row key names it
        own = key_encoding(spec.row_key, types, "own unit", hashed=True)
        unit = [F.coalesce(half, other) for half, other in zip(unit, own, strict=True)]
    elif spec.entity.on_null_entity == "drop":
        frame = frame.filter(~_any_null(spec.entity.entity))
    return frame.withColumns(dict(zip(UNIT, _not_null(unit), strict=True)))


def bounded_rows(spark: SparkSession, job: Job) -> DataFrame:
    """Keyed rows, at most `max_rows` of each entity in each release, chosen by a keyed draw."""
    frame = keyed_rows(spark, job)
    entity = job.plan.spec.entity
    if entity is None or job.plan.bounded_by_row_key:
        return frame
    keys, unit = _present(frame, KEYS), _present(frame, UNIT)
    ranked = frame.withColumn("__priority", priority_udf(job.key_source)(ORDINAL, *keys))
    order = Window.partitionBy(ORDINAL, *unit).orderBy("__priority", *keys)
    ranked = ranked.withColumn("__rank", F.row_number().over(order))
    kept = F.col("__rank") <= entity.max_rows
    if entity.on_null_entity == "fail":  # rows without an entity are kept, to be counted where the release is refused
        kept = kept | _any_null(entity.entity)
    return ranked.filter(kept).drop("__priority", "__rank")


def inspect(spark: SparkSession, job: Job) -> dict[str, Inspection]:
    """Look at the rows before any noise: per release id, what will be published. Raises InputError naming all that is wrong.

    Native aggregates only; what is reported are counts, never values.
    """
    frame = bounded_rows(spark, job)
    checks = _input_checks(job)
    changed = {(col.name, what): test for col in job.plan.noised for what, test in adjusted(col).items()}
    totals = {"rows": F.count(F.lit(1))}
    totals |= {f"bad {i}": F.count_if(F.coalesce(test, F.lit(False))) for i, (_, test) in enumerate(checks)}
    totals |= {f"adj {i}": F.count_if(F.coalesce(test, F.lit(False))) for i, test in enumerate(changed.values())}
    totals |= {f"null {col.name}": F.count_if(codes.unpublished(col)) for col in job.plan.perturbed}
    found = {row[ORDINAL]: row.asDict() for row in _aggregate(frame, totals)}
    duplicates = _duplicates(spark, job)
    problems, results = [], {}
    for index, release in enumerate(job.releases):
        row = found.get(index, dict.fromkeys(totals, 0))
        where = f"{job.table.path}{' ' + release.partition_text if release.partition else ''}"
        problems += [
            f"{where}: {what}: {row[f'bad {i}']} rows" for i, (what, _) in enumerate(checks) if row[f"bad {i}"]
        ]
        if index in duplicates:
            key = ", ".join(job.plan.spec.row_key)
            problems.append(
                f"{where}: row key ({key}): {duplicates[index]} rows share theirs with another; expected unique"
            )
        results[release.id] = Inspection(
            rows=row["rows"] * job.plan.spec.replicas,
            rows_in=job.table.rows(release.partition),
            nulls={col.name: row[f"null {col.name}"] * job.plan.spec.replicas for col in job.plan.perturbed},
            adjusted={f"{name}: {what}": row[f"adj {i}"] for i, (name, what) in enumerate(changed) if row[f"adj {i}"]},
        )
    problems += _shared_entities(spark, job)
    if problems:
        raise InputError("\n".join(problems))
    return results


def _input_checks(job: Job) -> list[tuple[str, Column]]:
    """What fails a release, each with the condition of a row that does."""
    spec = job.plan.spec
    checks = [
        (f"row key ({', '.join(spec.row_key)}): null in {name}", F.col(quoted(name)).isNull()) for name in spec.row_key
    ]
    if spec.entity and spec.entity.on_null_entity == "fail":
        checks.append(
            (f"entity ({', '.join(spec.entity.entity)}): null (on_null_entity: fail)", _any_null(spec.entity.entity))
        )
    for column in job.plan.noised:
        checks += [(f"column {column.name}: {what}", test) for what, test in violations(column).items()]
    return checks


def _aggregate(frame: DataFrame, totals: dict[str, Column]) -> list[Any]:
    return frame.groupBy(ORDINAL).agg(*[total.alias(name) for name, total in totals.items()]).collect()


def _duplicates(spark: SparkSession, job: Job) -> dict[int, int]:
    """Rows per ordinal that share their row key with another row of the release."""
    frame = keyed_rows(spark, job).filter(~_any_null(job.plan.spec.row_key))
    counted = frame.groupBy(ORDINAL, *_present(frame, KEYS)).count().filter("count > 1")
    return {row[ORDINAL]: row["rows"] for row in counted.groupBy(ORDINAL).agg(F.sum("count").alias("rows")).collect()}


def _shared_entities(spark: SparkSession, job: Job) -> list[str]:
    """Where partitions were declared disjoint by entity: what the whole table says."""
    spec = job.plan.spec
    if spec.entity is None or spec.privacy is None or spec.privacy.partitions != "disjoint":
        return []
    everything = [Release("", spec.pipeline, partition, "", "", 0) for partition in job.table.partitions]
    rows = (
        source_rows(spark, job.table, everything).select(ORDINAL, *map(quoted, spec.entity.entity)).dropna().distinct()
    )
    shared = rows.groupBy(*map(quoted, spec.entity.entity)).count().filter("count > 1").count()
    names = ", ".join(spec.entity.entity)
    return (
        [f"{job.table.path}: entity ({names}): {shared} of them lie in several partitions; declared disjoint"]
        if shared
        else []
    )


def _present(frame: DataFrame, names: Sequence[str]) -> list[str]:
    return [name for name in names if name in frame.columns]


def _any_null(names: Sequence[str]) -> Column:
    test = F.lit(False)
    for name in names:
        test = test | F.col(quoted(name)).isNull()
    return test


def _not_null(encoding: Sequence[Column]) -> list[Column]:
    """A null key fails the release by its own check; until then it must not reach a worker."""
    return [F.coalesce(part, F.lit(0).cast("bigint")) for part in encoding]
