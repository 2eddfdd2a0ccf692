"""Plans without files: a table's columns with their types and treatments, and what the spec says beside them."""

from __future__ import annotations

from typing import Any

from noiselib.plan import ColumnPlan, Plan, make_plan
from noiselib.snapshot import DataFile, TableMetadata
from noiselib.spec import PipelineSpec
from noiselib.yaml_text import Positions

Columns = dict[str, tuple[str, dict[str, Any]]]  # name -> (type, treatment)
PUBLIC: dict[str, Any] = {"keep": "public"}


def spec_of(columns: Columns, purpose: str = "privacy", **changes: Any) -> PipelineSpec:
    """A spec over `columns` and a row key `id`. `changes` replace whole sections."""
    data: dict[str, Any] = {
        "version": 1,
        "pipeline": "small",
        "purpose": purpose,
        "source": {"path": "in"},
        "target": {"path": "out"},
        "row_key": ["id"],
        "columns": {"id": PUBLIC, **{name: treatment for name, (_, treatment) in columns.items()}},
        "key": "env:NOISE_KEY",
    }
    if purpose == "privacy":
        data["privacy"] = {"unit": "row", "budget": "small", "limit": {"epsilon": 8.0, "delta": 1e-5}}
        data["ledger"] = "sqlite:///ledger.db"
    return PipelineSpec.model_validate(data | changes)


def table_of(columns: Columns, *partition_by: str, rows: int = 1000) -> TableMetadata:
    schema = (("id", "int64"), *((name, kind) for name, (kind, _) in columns.items()))
    partition = tuple((name, 1) for name in partition_by)
    return TableMetadata("in", schema, partition_by, (DataFile("in/file", partition, rows, ()),), (partition,))


def plan_of(columns: Columns, purpose: str = "privacy", rows: int = 1000, **changes: Any) -> Plan:
    spec = spec_of(columns, purpose, **changes)
    return make_plan(spec, table_of(columns, *spec.source.partition_by, rows=rows), Positions("spec.yaml", {(): 1}))


def planned(kind: str, purpose: str = "privacy", **treatment: Any) -> ColumnPlan:
    """The plan of one column `x` of type `kind`."""
    return plan_of({"x": (kind, treatment)}, purpose).column("x")
