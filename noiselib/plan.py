"""The plan: what a release of this pipeline does to each column, what it guarantees and what it costs.

A pure value made from the spec and the table's metadata. Nothing here has seen a row: bounds, granularity, scale and
sensitivity follow from what was declared.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from fractions import Fraction
from typing import Any

from noiselib import spec as s
from noiselib.accounting import Charge
from noiselib.column_plan import ROW_KEY_TYPES, ColumnPlan, Context, plan_column, plan_member
from noiselib.column_spec import NoisedWith
from noiselib.errors import SpecError, choice, told
from noiselib.mechanisms import Additive, FrequencyOracle
from noiselib.snapshot import TableMetadata
from noiselib.yaml_text import Positions


@dataclass(frozen=True)
class Plan:
    """What one release does and costs. `charge` is per privacy unit; `memos` are charged once, whenever first released."""

    spec: s.PipelineSpec
    columns: tuple[ColumnPlan, ...]
    charge: Charge
    memos: tuple[tuple[str, Charge], ...]
    parallel: bool

    @property
    def noised(self) -> tuple[ColumnPlan, ...]:
        """The columns that draw noise of their own."""
        return tuple(column for column in self.columns if column.treatment == "mechanism")

    @property
    def perturbed(self) -> tuple[ColumnPlan, ...]:
        """The columns whose published values hold noise, their own or another's."""
        return tuple(column for column in self.columns if column.codes is not None)

    @property
    def published(self) -> tuple[tuple[str, str], ...]:
        """The published columns and their types, in order."""
        published = [(column.name, column.published_type) for column in self.columns if column.treatment != "drop"]
        return (*published, *([(s.REPLICA, "int32")] if self.spec.replicas > 1 else []))

    @property
    def partition_types(self) -> list[tuple[str, str]]:
        """The partition columns and their types, in order."""
        return [(name, self.column(name).type) for name in self.spec.source.partition_by]

    @property
    def row_key_published(self) -> bool:
        """Whether published rows can be told apart: the whole row key is kept, or has pseudonyms."""
        return all(self.column(name).treatment in ("keep", "pseudonymize") for name in self.spec.row_key)

    @property
    def published_key(self) -> tuple[str, ...]:
        """What tells published rows apart."""
        return (*self.spec.row_key, *([s.REPLICA] if self.spec.replicas > 1 else []))

    @property
    def rows_per_unit(self) -> int:
        return self.spec.entity.max_rows if self.spec.entity else 1

    @property
    def bounded_by_row_key(self) -> bool:
        """An entity has one row in a release by construction: the row key is the entity, up to the partition."""
        entity = self.spec.entity
        return entity is not None and set(self.spec.row_key) <= {*entity.entity, *self.spec.source.partition_by}

    def column(self, name: str) -> ColumnPlan:
        return next(column for column in self.columns if column.name == name)


def make_plan(spec: s.PipelineSpec, table: TableMetadata, positions: Positions) -> Plan:
    """The plan for `spec` over `table`. Raises SpecError naming every column that does not fit, each with file:line."""
    types = dict(table.schema)
    problems = list(_unaccounted(spec, types, positions))
    planned: dict[str, ColumnPlan] = {}
    # a column that is noised with another follows it
    for name in sorted(types, key=lambda name: isinstance(spec.columns.get(name), NoisedWith)):
        if name not in spec.columns:
            continue
        try:
            planned[name] = _plan_one(spec, Context(name, types, spec.purpose == "privacy"), planned)
            describe_column(planned[name], 1)  # a law that no sampler draws is found here, not in the middle of a run
        except (ValueError, SpecError) as error:
            problems.append(f"{positions.where('columns', name)}: column {name!r}: {error}")
        except ArithmeticError:
            problems.append(f"{positions.where('columns', name)}: column {name!r}: numbers too large or too small")
        except KeyError:
            continue  # the column that it is noised with has a problem of its own
    if problems:
        raise SpecError(told(problems))
    plan = _composed(spec, [planned[name] for name in types])
    slack = sum((memo for _, memo in plan.memos), plan.charge).slack
    if spec.privacy is not None and slack >= spec.privacy.limit.delta:
        raise SpecError(
            f"{positions.where('privacy', 'limit')}: limit: delta {spec.privacy.limit.delta:g}: expected more than {slack:.3g}, "
            "which the samplers of one release owe for their distance from the ideal laws"
        )
    return plan


def _composed(spec: s.PipelineSpec, columns: list[ColumnPlan]) -> Plan:
    once = Charge()
    memos: list[tuple[str, Charge]] = []
    rows = spec.entity.max_rows if spec.entity else 1
    for column in columns:
        event = column.mechanism.event() if column.mechanism else None
        if event is None:
            continue
        if column.memoized:
            memos.append((column.name, Charge.of(event).times(rows)))
        else:
            once = once + Charge.of(event).times(rows)
    return Plan(spec, tuple(columns), once, tuple(memos), _parallel(spec))


def _plan_one(spec: s.PipelineSpec, context: Context, planned: dict[str, ColumnPlan]) -> ColumnPlan:
    declared = spec.columns[context.name]
    if not isinstance(declared, NoisedWith):
        return plan_column(context, declared, context.name in spec.memoized)
    lead = planned[declared.noised_with]
    return plan_member(context, lead, s.members(lead.declared).index(context.name))


def _parallel(spec: s.PipelineSpec) -> bool:
    """Whether one privacy unit lies in one partition only, so that partitions compose in parallel."""
    if spec.privacy is None or spec.entity is None:
        return True
    by_construction = bool(spec.source.partition_by) and set(spec.source.partition_by) <= set(spec.entity.entity)
    return by_construction or spec.privacy.partitions == "disjoint"


def _unaccounted(spec: s.PipelineSpec, types: dict[str, str], positions: Positions) -> Iterator[str]:
    source = spec.source.path
    for name, kind in types.items():
        if name not in spec.columns:
            yield (
                f"{positions.where('columns')}: column {name!r} ({kind}) of {source} is not named: "
                "expected keep: public, drop: true, pseudonymize: true or a mechanism"
            )
    for name in spec.columns:
        if name not in types:
            yield f"{positions.where('columns', name)}: column {name!r} is not in {source}: its columns are {choice(types)}"
    for name in spec.row_key:
        if name in types and types[name] not in ROW_KEY_TYPES and not types[name].startswith("decimal"):
            expected = f"expected one of {', '.join(sorted(ROW_KEY_TYPES))}"
            yield f"{positions.where('row_key')}: row key {name!r} is {types[name]}: {expected}"


# ---- what the plan says ----------------------------------------------------------------------------------------------


def canonical(plan: Plan) -> dict[str, Any]:
    """The part of the spec that determines values, with every default and every calibrated number written out.

    It is hashed into the release id: what is not in it (target, ledger, budget, checks) may change without a new release.
    """
    spec = plan.spec
    identity = {
        "pipeline": spec.pipeline,
        "row_key": spec.row_key,
        "partition_by": spec.source.partition_by,
        "unit": spec.entity.model_dump() if spec.entity else "row",
        "columns": {column.name: canonical_column(column) for column in plan.columns},
    }
    return identity | ({"replicas": spec.replicas} if spec.replicas > 1 else {})


def canonical_column(column: ColumnPlan) -> dict[str, Any]:
    """What determines one column's values. Its noise key is derived from this, so another law is another noise."""
    if column.declared is None:
        return {"treatment": column.treatment}
    policies = {k: v for k, v in column.declared.model_dump().items() if k.startswith("on_")}
    parts = {"mechanism": column.mechanism, "points": column.points, "codes": column.codes}
    named = {"treatment": column.treatment, "lead": column.lead, "memoized": column.memoized}
    return {**named, **policies, **{name: plain(part) for name, part in parts.items()}}


def plain(value: Any) -> Any:
    """Frozen parameters as plain data, numbers exactly."""
    if is_dataclass(value):
        own = {"kind": getattr(value, "name", type(value).__name__)}
        return own | {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, tuple | list):
        return [plain(part) for part in value]
    return str(value) if isinstance(value, Fraction) else repr(value) if isinstance(value, float) else value


def relation(plan: Plan) -> str:
    """The neighbouring relation of the whole record, in one sentence."""
    local, metric = [], []
    for column in plan.perturbed:
        distance = getattr(column.declared, "protect_distance", None)
        metric.append(f"{column.name} (at most {distance:g})") if distance else local.append(column.name)
    public = [column.name for column in plan.columns if column.treatment in ("keep", "pseudonymize")]
    entity = plan.spec.entity
    unit = f"the rows of one {', '.join(entity.entity)} (at most {entity.max_rows} a release)" if entity else "one row"
    parts = [f"any change in {', '.join(local)}"] if local else []
    parts += [f"a bounded change in {', '.join(metric)}"] if metric else []
    parts += [f"none in {', '.join(public)}"] if public else []
    constant = (
        f" Values of {', '.join(plan.spec.memoized)} are taken to be constant over time." if plan.spec.memoized else ""
    )
    return f"Neighbours differ in {unit}: {'; '.join(parts)}.{constant}"


def expected_errors(column: ColumnPlan, rows: int) -> tuple[float | None, float | None]:
    """Expected absolute error of one published value, and of what `rows` of them are read for: their mean or, of
    categories, the share of a rare one. At the worst value, where it depends on the value.

    In the column's unit (of places in metres, a mean's by coordinate; of one category the chance that it is published as
    another). None where there is no such error, as of one value that is published as a set or a report, or of no rows.
    """
    mechanism: Any = column.mechanism
    of_value = getattr(mechanism, "mean_abs", None)
    oracle = isinstance(mechanism, FrequencyOracle)
    variance = mechanism.frequency_variance() if oracle else getattr(mechanism, "variance", None)
    if variance is None or rows == 0:
        return of_value, None
    return of_value, math.sqrt(2 * variance / (math.pi * rows))


def describe_column(column: ColumnPlan, rows: int) -> dict[str, Any]:
    """One column of the plan as data. Scale and sensitivity are in the column's unit. With it alone, estimates are made."""
    entry: dict[str, Any] = {"column": column.name, "type": column.type, "treatment": column.treatment}
    entry |= {"guarantee": column.guarantee} | ({"noised_with": column.lead} if column.lead else {})
    if column.codes is not None:
        entry |= {"published_type": column.published_type, "codes": plain(column.codes)}
    if column.mechanism is None:
        return entry
    mechanism, errors = column.mechanism, expected_errors(column, rows)
    entry |= {"mechanism": mechanism.name, "memoized": column.memoized, "parameters": mechanism.describe()}
    if getattr(column.declared, "bounds", None) is not None:
        entry["bounds"] = list(column.declared.bounds)  # type: ignore[union-attr]
    entry |= {"expected_error_value": errors[0], "expected_error_mean": errors[1]}
    event = mechanism.event()
    if event is not None:
        entry |= {"epsilon": getattr(mechanism, "epsilon", event.pure_epsilon), "sampler_delta": event.slack}
    if isinstance(mechanism, Additive):
        step = mechanism.step
        sensitivity = None if mechanism.sensitivity is None else float(mechanism.sensitivity * step)
        entry |= {"sensitivity": sensitivity, "scale": float(mechanism.scale * step), "granularity": float(step)}
        entry |= {"epsilon": mechanism.epsilon, "variance": mechanism.variance, "delta": mechanism.delta}
    if hasattr(mechanism, "categories"):
        entry["categories"] = len(mechanism.categories)
    return entry


def digest(data: Any) -> str:
    """Hex SHA-256 of plain data, written one way only."""
    return hashlib.sha256(
        json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    ).hexdigest()
