"""The spec: one YAML file, one pipeline. Parsed into frozen models, every problem at once, each with file:line.

YAML is read as plain data: no tags, no anchors, no duplicate keys. What can be judged without looking at the source
table is judged here; what needs its schema (unnamed columns, types) is judged by the plan.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator

from noiselib.column_spec import (
    CellKey,
    ColumnSpec,
    CorrelatedGaussian,
    Delta,
    Drop,
    Keep,
    Model,
    Names,
    Noised,
    NoisedWith,
    Number,
    PlanarLaplace,
    Positive,
    Rappor,
    contradictions,
    no_way_up,
    parse_column,
)
from noiselib.errors import SpecError, choice, told
from noiselib.patterns import check_pattern
from noiselib.schedule import Schedule
from noiselib.yaml_text import Positions, read_yaml

NAME = r"^[a-z][a-z0-9_]{0,62}$"
TAG = r"^[a-z0-9][a-z0-9_-]{0,62}$"
REPLICA = "replica"  # the column that tells copies of one row apart


Place = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(no_way_up)]


CatalogName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,63}$")]


def _database(url: str) -> str:
    """A database's URL that can be read. The error does not show it: it may hold a password."""
    if url.startswith("postgresql"):
        from sqlalchemy import make_url  # takes its time to import, and is needed by who connects to a server only
        from sqlalchemy.exc import ArgumentError

        try:
            make_url(url)
        except (ArgumentError, ValueError):
            raise ValueError(
                "no URL of a database: expected one like postgresql+psycopg://user@host:5432/database, its port a number"
            ) from None
    return url


DatabaseUrl = Annotated[
    str,
    Field(pattern=r"^(sqlite:///|postgresql\+psycopg://).+"),
    AfterValidator(no_way_up),
    AfterValidator(_database),
]


class Catalog(Model):
    """A catalog of Iceberg tables in a database. A password does not belong here: name one of pyiceberg's configuration instead.

    name: under which the database knows the catalog: it may hold several
    """

    uri: DatabaseUrl
    warehouse: Place
    name: CatalogName = "default"


class Table(Model):
    """Where a table lies: a directory, relative to the working directory, or the name of a table in a catalog.

    `version` pins a Delta version or an Iceberg snapshot; without it, a run reads the one that is current when it begins.
    """

    path: Place
    format: Literal["parquet", "delta", "iceberg", "table"] = "parquet"
    partition_by: list[str] = Field(default_factory=list)
    catalog: Catalog | CatalogName | None = None
    version: Annotated[int, Field(ge=0)] | None = None


class Target(Model):
    """Where releases are published. `keep` versions (of a Parquet table) or releases of a partition can be rolled back to.

    Of format iceberg, `path` is NAMESPACE.TABLE in the catalog, which is given here or by its name in pyiceberg's own
    configuration; `workspace` is where releases are staged, below the warehouse if it is not named. A Parquet table is
    registered in Spark's catalog as `table`, [CATALOG.]DATABASE.TABLE, where that is named.
    """

    path: Place
    format: Literal["parquet", "delta", "iceberg"] = "parquet"
    keep: Annotated[int, Field(ge=2, le=1000)] = 2
    catalog: Catalog | CatalogName | None = None
    workspace: Place | None = None
    table: Annotated[str, Field(pattern=r"^\w+(\.\w+){1,2}$")] | None = None

    @model_validator(mode="after")
    def _names_its_catalog(self) -> Target:
        if self.table is not None and self.format != "parquet":
            raise ValueError(
                f"format {self.format}: table {self.table}: expected format parquet, which Spark's catalog can show"
            )
        if self.format != "iceberg":
            if self.catalog is not None or self.workspace is not None:
                raise ValueError(f"format {self.format} has no catalog and no workspace of its own: expected iceberg")
        elif self.catalog is None:
            raise ValueError(
                "format iceberg: expected catalog: {uri: sqlite:///FILE, warehouse: PATH}, or a catalog's name"
            )
        elif not re.fullmatch(r"\w+(\.\w+)+", self.path):
            raise ValueError(f"format iceberg: path {self.path!r}: expected NAMESPACE.TABLE")
        return self


class Entity(Model):
    """A privacy unit of several rows: at most `max_rows` of them enter one release."""

    entity: Names
    max_rows: Annotated[int, Field(ge=1, le=1_000_000)]
    on_null_entity: Literal["drop", "fail", "own_unit"] = "fail"


class Limit(Model):
    epsilon: Positive
    delta: Delta


class Privacy(Model):
    unit: Literal["row"] | Entity = "row"
    budget: Annotated[str, Field(pattern=NAME)]
    limit: Limit
    partitions: Literal["sequential", "disjoint"] = "sequential"
    memoize: list[str] = Field(default_factory=list)


class Check(Model):
    """A data-quality check of the user's own, beside those derived from the plan."""

    expect: Literal[
        "column_values_between",
        "column_values_in_set",
        "column_values_match_regex",
        "column_mean_between",
        "column_min_between",
        "column_max_between",
        "column_stdev_between",
        "column_sum_between",
        "table_row_count_between",
    ]
    column: str | None = None
    min: Number | None = None
    max: Number | None = None
    values: list[str | int | float | bool] | None = None
    regex: str | None = None
    mostly: Annotated[float, Field(gt=0, le=1)] = 1.0
    severity: Literal["error", "warn"] = "error"

    @model_validator(mode="after")
    def _has_its_arguments(self) -> Check:
        if (self.column is None) != (self.expect == "table_row_count_between"):
            raise ValueError(f"check {self.expect}: a column is named by every check but table_row_count_between")
        needed = {"column_values_in_set": self.values, "column_values_match_regex": self.regex}
        if self.expect in needed:
            if needed[self.expect] is None:
                raise ValueError(f"check {self.expect}: expected {'values' if 'set' in self.expect else 'regex'}")
            if self.regex is not None:
                check_pattern(self.regex)
        elif self.min is None and self.max is None:
            raise ValueError(f"check {self.expect}: expected min, max or both")
        return self


class PipelineSpec(Model):
    """One pipeline: what is read, what becomes of each column, what it may cost, where it goes."""

    version: Literal[1]
    pipeline: Annotated[str, Field(pattern=NAME)]
    purpose: Literal["privacy", "microdata", "augmentation", "robustness", "dither"]
    tags: list[Annotated[str, Field(pattern=TAG)]] = Field(default_factory=list)  # what commands select by
    source: Table
    target: Target
    row_key: Names
    privacy: Privacy | None = None
    columns: Annotated[dict[str, ColumnSpec], Field(min_length=1)]
    checks: list[Check] = Field(default_factory=list)
    replicas: Annotated[int, Field(ge=1, le=1000)] = 1
    key: Annotated[str, Field(pattern="^(file|env|airflow):.+"), AfterValidator(no_way_up)]
    ledger: DatabaseUrl | None = None
    schedule: Schedule | None = None

    @property
    def entity(self) -> Entity | None:
        return self.privacy.unit if self.privacy and isinstance(self.privacy.unit, Entity) else None

    @property
    def memoized(self) -> tuple[str, ...]:
        """Columns whose noise outlasts a release. RAPPOR's permanent response and the noise of a cell always do."""
        named = self.privacy.memoize if self.privacy else []
        permanent = [name for name, column in self.columns.items() if isinstance(column, Rappor | CellKey)]
        return tuple(dict.fromkeys([*named, *permanent]))


def load_spec(path: Path) -> tuple[PipelineSpec, Positions]:
    """Parse the spec at `path`. Raises SpecError naming every problem, each as `file:line: what`."""
    data, positions, problems = read_yaml(path)
    spec: PipelineSpec | None = None
    try:
        spec = PipelineSpec.model_validate(data)
        found = [f"{positions.where(*where)}: {what}" for where, what in _contradictions(spec)]
    except ValidationError as error:
        found = [*_describe(error, data, positions), *_contradictory_columns(data, positions)]
    # what follows from a part that is no plain data is not said a second time
    broken = {problem.partition(": ")[0] for problem in problems}
    problems += [problem for problem in dict.fromkeys(found) if problem.partition(": ")[0] not in broken]
    if problems or spec is None:
        raise SpecError(told(problems))
    return spec, positions


def _contradictory_columns(data: dict[str, Any], positions: Positions) -> Iterator[str]:
    """The contradictions of those columns that are well-formed, in a spec that is not: so that all is said at once."""
    columns = data.get("columns")
    for name, declared in columns.items() if isinstance(columns, dict) else ():
        try:
            column = parse_column(declared)
        except ValidationError:
            continue
        for what in contradictions(str(data.get("purpose")), column):
            yield f"{positions.where('columns', name)}: column {name!r}: {what}"


def _contradictions(spec: PipelineSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """What each part allows by itself but the whole does not."""
    named = spec.columns
    references = [(("row_key",), spec.row_key), (("source", "partition_by"), spec.source.partition_by)]
    if spec.entity:
        references.append((("privacy", "unit", "entity"), spec.entity.entity))
    if spec.schedule and not set(spec.schedule.partition) <= set(spec.source.partition_by):
        yield (
            ("schedule", "partition"),
            f"schedule.partition names {choice(list(spec.schedule.partition))}: expected partition columns: "
            f"{choice(spec.source.partition_by) or 'none'}",
        )
    references.append((("privacy", "memoize"), spec.privacy.memoize if spec.privacy else []))
    for where, names in references:
        for name in names:
            if name not in named:
                yield where, f"column {name!r} is not among columns: expected one of {choice(named)}"
        for name in sorted(n for n, times in Counter(names).items() if times > 1):
            yield where, f"column {name!r} is named twice"
    for name in spec.source.partition_by:
        if name in named and not isinstance(named[name], Keep):
            yield ("columns", name), f"partition column {name!r} shows in the published paths: expected keep: public"
    cases = Counter(name.lower() for name in named)
    for name in named:
        if name.startswith("__"):
            yield (
                ("columns", name),
                f"column {name!r}: names that begin with __ are the pipeline's own; rename it upstream",
            )
        if cases[name.lower()] > 1:
            yield ("columns", name), f"column {name!r}: Spark takes names for equal that differ in case only"
    moving = [name for name in spec.source.partition_by if name not in spec.row_key]
    if spec.memoized and spec.entity is None and moving:
        yield (
            ("privacy", "memoize"),
            f"with unit row, a row key that leaves out {moving[0]!r} may name two rows, which would share noise: "
            "expected row_key to hold every partition column, or an entity",
        )
    for name in spec.memoized:
        if name in named and not isinstance(named[name], Noised):
            yield ("privacy", "memoize"), f"column {name!r} has no mechanism: nothing to memoize"
    for name, column in named.items():
        for what in contradictions(spec.purpose, column):
            yield ("columns", name), f"column {name!r}: {what}"
    for index, check in enumerate(spec.checks):
        if check.column is not None and isinstance(named.get(check.column), Drop | None):
            yield ("checks", index), f"check of column {check.column!r}: it is not among the published columns"
    yield from _source_contradictions(spec.source)
    yield from _group_contradictions(spec)
    yield from _purpose_contradictions(spec)


def _source_contradictions(source: Table) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if source.format == "iceberg" and source.catalog is None:
        yield (
            ("source",),
            "format iceberg: expected catalog: {uri: ..., warehouse: ...}, or its name in pyiceberg's configuration",
        )
    if source.format != "iceberg" and source.catalog is not None:
        yield ("source", "catalog"), f"catalog: expected format iceberg, not {source.format}"
    if source.format not in ("delta", "iceberg") and source.version is not None:
        yield ("source", "version"), f"version {source.version}: expected format delta or iceberg, not {source.format}"


def _purpose_contradictions(spec: PipelineSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    if spec.purpose == "privacy":
        if spec.privacy is None:
            yield ("purpose",), "purpose privacy: expected a privacy section with unit, budget and limit"
        if spec.ledger is None:
            yield ("purpose",), "purpose privacy: expected a ledger (sqlite:///PATH or postgresql+psycopg://...)"
        if not any(isinstance(column, Noised) for column in spec.columns.values()):
            yield ("columns",), "no column has a mechanism: the release would have no noise at all"
    elif spec.privacy is not None:
        yield ("privacy",), f"purpose {spec.purpose} makes no privacy claim: remove the privacy section"
    if spec.replicas > 1 and spec.purpose not in ("augmentation", "robustness"):
        yield (
            ("replicas",),
            f"replicas {spec.replicas}: expected purpose augmentation or robustness, not {spec.purpose}",
        )
    if spec.replicas > 1 and REPLICA in spec.columns:
        yield (
            ("columns", REPLICA),
            f"column {REPLICA!r}: replicas are numbered in a column of that name; rename it upstream",
        )


def _group_contradictions(spec: PipelineSpec) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """A mechanism over several columns, and those that say they are noised with it, name each other."""
    for name, column in spec.columns.items():
        others = members(column)
        for other in others:
            member = spec.columns.get(other)
            if not isinstance(member, NoisedWith) or member.noised_with != name or others.count(other) > 1:
                yield (
                    ("columns", name),
                    f"column {name!r} is noised together with {other!r}: expected {other}: {{noised_with: {name}}}",
                )
        if isinstance(column, NoisedWith) and name not in members(spec.columns.get(column.noised_with)):
            yield (
                ("columns", name),
                f"column {name!r}: noised_with {column.noised_with!r}: expected a column whose mechanism names {name!r}",
            )


def members(column: Any) -> list[str]:
    """The other columns that a mechanism over several columns has beside its own."""
    if isinstance(column, PlanarLaplace):
        return [column.longitude]
    return list(column.with_) if isinstance(column, CorrelatedGaussian) else []


def _describe(error: ValidationError, data: Any, positions: Positions) -> Iterator[str]:
    """pydantic's findings as `file:line: what, value, expected`."""
    for finding in error.errors(include_url=False, include_context=False):
        path = _path_in_file(finding["loc"], data, finding["type"] == "missing")
        name = ".".join(str(part) for part in path) or "spec"
        message = re.sub(r"^Value error, ", "", finding["msg"])
        if finding["type"] == "missing":
            yield f"{positions.where(*path)}: {name}: missing: expected a value"
        elif finding["type"] == "extra_forbidden":
            yield f"{positions.where(*path)}: {name}: unknown key"
        else:
            shown = repr(finding["input"])
            secret = path[-1:] and path[-1] in ("ledger", "uri", "url") and "@" in shown  # it may hold a password
            value = f" is {shown}" if len(shown) <= 60 and not secret else ""
            yield f"{positions.where(*path)}: {name}{value}: {message[0].lower()}{message[1:]}"


def _path_in_file(loc: tuple[str | int, ...], data: Any, missing: bool) -> tuple[str | int, ...]:
    """`loc` without the parts pydantic adds for the branches of a union; a last key that is missing stays."""
    path: list[str | int] = []
    for position, part in enumerate(loc):
        known = data if isinstance(data, dict) else range(len(data)) if isinstance(data, list) else ()
        if part in known:
            path.append(part)
            data = data[part]
        elif missing and position == len(loc) - 1:
            path.append(part)
    return tuple(path)
