"""Auditing a pipeline: its own spec over a table of worst-case neighbours, through the whole path, attacked as published.

Every unit of the table is one of two neighbours, at opposite ends of every noised column; values lie beyond the clipping
bounds, so that a clip that is missing shows. Key, ledger and target are temporary, and so is the table. Which end a row had
is known from a kept column, or from its partition; the attacker is given it for half the units and guesses it for the rest.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray

from noiselib.audit import CONFIDENCE, Claim, Finding, Observed, Table, attack_table, claims
from noiselib.column_plan import ColumnPlan
from noiselib.errors import SpecError
from noiselib.key import create_key_file
from noiselib.ledger import Ledger
from noiselib.log_entry import Say
from noiselib.pipelines import load_plan
from noiselib.plan import Plan
from noiselib.snapshot import Locate
from noiselib.spark.audit_values import Ends, outputs, worst_ends
from noiselib.spark.path import walk
from noiselib.spark.run import prepare
from noiselib.spark.steps import OpenSpark
from noiselib.yaml_text import read_yaml

Ints = NDArray[np.int64]
ROWS = 200_000
COUNTABLE = ("int32", "int64", "string", "timestamp", "timestamp_ntz")  # types that can number the rows
AMPLE = {"epsilon": 1e4, "delta": 1e-5}


@dataclass(frozen=True, eq=False)
class Layout:
    """Which unit each row of the table belongs to, and which neighbour that unit is.

    Units are dealt over `labels`: in pattern p, unit w of two neighbours (label 2p + w) has noised column number i at the
    end (bit p of i) XOR w. So each column meets each other one at the same end and at the opposite one, if there are three.
    """

    plan: Plan
    rows: int
    example: str  # a data file of the pipeline's own source

    @cached_property
    def labels(self) -> int:
        return 2 * max(1, (len(self.plan.noised) - 1).bit_length())

    @cached_property
    def numbered(self) -> str | None:
        """The kept column from which a published row's number is read; None: a partition is a label."""
        for column in self.plan.columns:
            if column.treatment == "keep" and column.type in COUNTABLE and column.name not in self._partition_by:
                return column.name
        if not self._partition_by:
            raise SpecError(
                f"audit of {self.plan.spec.pipeline}: expected a kept column of type {', '.join(COUNTABLE)}, or "
                "partitions, to tell the two neighbours' published rows apart"
            )
        return None

    @property
    def _partition_by(self) -> list[str]:
        return self.plan.spec.source.partition_by

    @property
    def entity(self) -> list[str]:
        return self.plan.spec.entity.entity if self.plan.spec.entity else []

    @cached_property
    def per_unit(self) -> int:
        """Rows of a unit: one more than may enter a release, if the row key allows it and the published rows tell units apart."""
        spec = self.plan.spec
        if spec.entity is None or self.plan.bounded_by_row_key or self.numbered is None:
            return 1
        return spec.entity.max_rows + 1

    def ends(self, index: int, labels: Ints) -> NDArray[np.bool_]:
        """Which end noised column number `index` has, by label."""
        ends: NDArray[np.bool_] = ((index >> (labels // 2)) ^ labels) & 1 == 1
        return ends

    def unit(self, numbers: Ints) -> Ints:
        return numbers // self.per_unit

    def label(self, numbers: Ints) -> Ints:
        """Four units after each other have one label, so that each of the attack's four parts has as many of every label."""
        return self.unit(numbers) // 4 % self.labels

    def partitions(self) -> Iterator[tuple[str, Ints]]:
        """Per partition its directory and its rows' numbers."""
        numbers = np.arange(self.rows // self.per_unit * self.per_unit)
        if self.numbered is not None:
            yield "/".join(self._directory(name, 0) for name in self._partition_by), numbers
            return
        for label in range(self.labels):
            others = [self._directory(name, 0) for name in self._partition_by[1:]]
            yield (
                "/".join([self._directory(self._partition_by[0], label), *others]),
                numbers[self.label(numbers) == label],
            )

    def _directory(self, name: str, value: int) -> str:
        text = self.plan.column(name).type == "string"
        return f"{name}={'p' if text else ''}{value + 1}"

    def published_numbers(self, published: pa.Table) -> Ints:
        """The number of each published row; by partition, a number of its label that no other row has."""
        if self.numbered is not None:
            column = published[self.numbered].combine_chunks()
            return np.asarray(column.cast(pa.int64()), np.int64)
        texts = published[self._partition_by[0]].to_pylist()
        labels = np.array([int(str(text).lstrip("p")) - 1 for text in texts], np.int64)
        numbers = np.empty(len(labels), np.int64)
        for label in range(self.labels):
            mine = np.flatnonzero(labels == label)
            block, place = np.divmod(np.arange(len(mine)), 4)
            numbers[mine] = (block * self.labels + label) * 4 + place
        return numbers


def audit_pipeline(
    spec_file: Path,
    spark: OpenSpark,
    rows: int,
    say: Say,
    confidence: float = CONFIDENCE,
    locate: Locate | None = None,
) -> list[Finding]:
    """Attack every noised column, the worst pair of them and the record, of a release of the pipeline's own making.

    rows: of the table that is made for it
    Raises SpecError for a pipeline without a guarantee, or one whose published rows cannot be told apart; ChecksFailed if
    the release's own checks stop it.
    """
    spec, plan, table = load_plan(spec_file, locate)
    if spec.privacy is None:
        raise SpecError(f"pipeline {spec.pipeline}: purpose {spec.purpose} makes no privacy claim, nothing to audit")
    with tempfile.TemporaryDirectory(prefix="noiselib-audit-") as home:
        layout = Layout(plan, rows, table.files[0].path)
        ends = write_source(layout, Path(home))
        run = prepare(write_spec(spec_file, Path(home)), [], say)
        walk(run, spark)
        published = ds.dataset(run.target.path, partitioning="hive").to_table()
        return attack_table(read_table(layout, run.plan, published, ends), confidence)


def write_spec(spec_file: Path, home: Path) -> Path:
    """The spec with everything that is not part of a release's values replaced by something temporary; JSON is YAML."""
    data, _, _ = read_yaml(spec_file)
    data["source"] = {"path": str(home / "source"), "partition_by": data["source"].get("partition_by", [])}
    data["target"] = {"path": str(home / "published")}
    data["key"], data["ledger"] = f"file:{home / 'noise.key'}", f"sqlite:///{home / 'ledger.db'}"
    data["privacy"]["limit"] = AMPLE | {"delta": data["privacy"]["limit"]["delta"]}
    data["checks"] = []  # they expect the pipeline's own data
    create_key_file(home / "noise.key")
    Ledger.create(data["ledger"]).close()
    file = home / "audit.yaml"
    file.write_text(json.dumps(data))
    return file


# ---- the table -------------------------------------------------------------------------------------------------------


def write_source(layout: Layout, home: Path) -> dict[str, Ends]:
    """Write the table to `home`/source; returns the two values of each noised column."""
    plan = layout.plan
    kinds = {field.name: field.type for field in _source_schema(layout)}
    _check_row_key(layout)
    ends = {column.name: worst_ends(column, kinds[column.name]) for column in plan.noised}
    partners = {
        column.name: worst_ends(column, kinds[column.name])
        for column in plan.columns
        if column.treatment == "noised_with"
    }
    for directory, numbers in layout.partitions():
        labels = layout.label(numbers)
        columns = {}
        for name, kind in kinds.items():
            column = plan.column(name)
            if name in ends:
                at = layout.ends([noised.name for noised in plan.noised].index(name), labels)
                columns[name] = ends[name].values.take(pa.array(at.astype(np.int8)))
            elif name in partners:
                columns[name] = partners[name].values.take(pa.array(np.zeros(len(numbers), np.int8)))
            else:
                columns[name] = _filled(layout, column, kind, numbers)
        place = home / "source" / directory
        place.mkdir(parents=True)
        pq.write_table(pa.table(columns), place / "part-0.parquet")
    return ends


def _source_schema(layout: Layout) -> pa.Schema:
    """Of the pipeline's own source, whose rows are not read."""
    by = layout.plan.spec.source.partition_by
    return pa.schema([field for field in pq.read_schema(layout.example) if field.name not in by])


def _check_row_key(layout: Layout) -> None:
    plan = layout.plan
    named = [plan.column(name) for name in plan.spec.row_key if name not in plan.spec.source.partition_by]
    if not any(column.codes is None and column.type in COUNTABLE for column in named):
        raise SpecError(
            f"audit of {plan.spec.pipeline}: row key {plan.spec.row_key}: expected a column without noise of type "
            f"{', '.join(COUNTABLE)} in it, to number the rows"
        )


def _filled(layout: Layout, column: ColumnPlan, kind: pa.DataType, numbers: Ints) -> pa.Array:
    """A column without noise: the unit's number, the row's, or a constant where the type cannot count."""
    if column.type in COUNTABLE:
        counted = layout.unit(numbers) if column.name in layout.entity else numbers
        return pa.array(counted).cast(kind)
    if column.treatment == "drop" and column.name not in layout.plan.spec.row_key:
        return pa.nulls(len(numbers), kind)
    one = (
        pa.array([b"1"])
        if pa.types.is_binary(kind)
        else pa.array([1], pa.int32() if pa.types.is_date32(kind) else None)
    )
    return one.cast(kind).take(pa.array(np.zeros(len(numbers), np.int8)))


# ---- what was published ----------------------------------------------------------------------------------------------


def read_table(layout: Layout, plan: Plan, published: pa.Table, ends: dict[str, Ends]) -> Table:
    """The published table as its attacker sees it, with the claims of `plan`."""
    numbers = layout.published_numbers(published)
    labels = layout.label(numbers)
    columns = tuple(
        Observed(
            column.name,
            claims(column.mechanism)[0][1],
            outputs(column, published, ends[column.name].pair),
            layout.ends(index, labels),
        )
        for index, column in enumerate(plan.noised)
    )
    return Table(columns, record_claim(plan), labels % 2 == 1, layout.unit(numbers))


def record_claim(plan: Plan) -> Claim:
    """What one release charges a unit, memoized columns included, at the budget's delta."""
    assert plan.spec.privacy is not None
    charge, delta = sum((memo for _, memo in plan.memos), plan.charge), plan.spec.privacy.limit.delta
    return Claim(charge.epsilon(delta), delta, charge)
