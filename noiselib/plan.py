"""The plan: what a release of this pipeline does to each column, what it guarantees and what it costs.

A pure value made from the spec and the table's metadata. Nothing here has seen a row: bounds, granularity, scale and
sensitivity follow from what was declared.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

from noiselib import spec as s
from noiselib.accounting import Charge
from noiselib.errors import SpecError
from noiselib.mechanisms import ADDITIVE, Additive, RandomizedResponse
from noiselib.mechanisms.additive import default_step, exact
from noiselib.snapshot import TableMetadata
from noiselib.yaml_text import Positions

ROW_KEY_TYPES = {"int32", "int64", "string", "boolean", "date", "timestamp", "timestamp_ntz"}
# These, and decimals, Spark writes back as it read them.
KEPT_TYPES = ROW_KEY_TYPES | {"int8", "int16", "float", "double", "binary"}
PSEUDONYM_TYPES = {"string", "int32", "int64"}
CATEGORY_TYPES = {"string": str, "boolean": bool, "int32": int, "int64": int}
FLOAT_STEPS = 2**52  # a double holds every whole number of steps up to here, with room for the noise
INT64_LIMIT = 2**62  # value plus noise stays within int64
SCALES_OF_ROOM = 45  # no noise is larger than this many scales, but with probability e^-45


@dataclass(frozen=True)
class Lattice:
    """Where a numeric column's values lie: whole multiples of `step`, in the column's unit.

    unit:            what one stored integer is worth: 1, or 10^-s for a decimal; for floats the step itself
    lower, upper:    the clipping bounds, in steps
    floor, ceiling:  the least and largest that is published, in steps: the type's range
    """

    step: Fraction
    unit: Fraction
    lower: int
    upper: int
    floor: int
    ceiling: int


@dataclass(frozen=True)
class ColumnPlan:
    """One column's treatment. `lattice` belongs to additive mechanisms."""

    name: str
    type: str
    treatment: str  # keep | drop | pseudonymize | mechanism
    mechanism: Additive | RandomizedResponse | None = None
    lattice: Lattice | None = None
    declared: s.Noised | None = None
    memoized: bool = False

    @property
    def published_type(self) -> str:
        return "string" if self.treatment == "pseudonymize" else self.type

    @property
    def guarantee(self) -> str:
        """For people, of one value. Empty where nothing is claimed."""
        if self.mechanism is None or self.mechanism.event() is None:
            return {
                "keep": "public: released as it is",
                "pseudonymize": "keyed pseudonym: not counted as protection",
            }.get(self.treatment, "")
        delta = getattr(self.mechanism, "delta", None)
        amount = f"({self.mechanism.epsilon:g}, {delta:g})-DP" if delta else f"{self.mechanism.epsilon:g}-DP"
        if isinstance(self.declared, s.Additive) and self.declared.protect_distance is not None:
            return f"{amount} for values at most {self.declared.protect_distance:g} apart"
        if isinstance(self.declared, s.Additive) and self.declared.bounds is not None:
            return f"{amount} within [{self.declared.bounds[0]:g}, {self.declared.bounds[1]:g}]"
        return f"{amount} among {len(self.mechanism.categories)} categories"  # type: ignore[union-attr]


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
        return tuple(column for column in self.columns if column.treatment == "mechanism")

    @property
    def published(self) -> tuple[tuple[str, str], ...]:
        """The published columns and their types, in order."""
        return tuple((column.name, column.published_type) for column in self.columns if column.treatment != "drop")

    @property
    def partition_types(self) -> list[tuple[str, str]]:
        """The partition columns and their types, in order."""
        return [(name, self.column(name).type) for name in self.spec.source.partition_by]

    @property
    def row_key_published(self) -> bool:
        """Whether published rows can be told apart: the whole row key is kept, or has pseudonyms."""
        return all(self.column(name).treatment in ("keep", "pseudonymize") for name in self.spec.row_key)

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
    columns: list[ColumnPlan] = []
    for name, kind in table.schema:
        if name in spec.columns:
            try:
                columns.append(_plan_column(spec, name, kind, spec.columns[name]))
            except (ValueError, SpecError) as error:
                problems.append(f"{positions.where('columns', name)}: column {name!r}: {error}")
            except ArithmeticError:
                problems.append(f"{positions.where('columns', name)}: column {name!r}: numbers too large or too small")
    if problems:
        raise SpecError("\n".join(problems))
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
            yield f"{positions.where('columns', name)}: column {name!r} is not in {source}: its columns are {', '.join(types)}"
    for name in spec.row_key:
        if name in types and types[name] not in ROW_KEY_TYPES and not types[name].startswith("decimal"):
            expected = f"expected one of {', '.join(sorted(ROW_KEY_TYPES))}"
            yield f"{positions.where('row_key')}: row key {name!r} is {types[name]}: {expected}"


def _plan_column(spec: s.PipelineSpec, name: str, kind: str, declared: Any) -> ColumnPlan:
    """Raises ValueError saying what does not fit."""
    if isinstance(declared, s.Keep) and kind not in KEPT_TYPES and not kind.startswith("decimal"):
        raise ValueError(f"keep on type {kind}: expected {', '.join(sorted(KEPT_TYPES))} or decimal; cast it upstream")
    if isinstance(declared, s.Keep | s.Drop):
        return ColumnPlan(name, kind, "keep" if isinstance(declared, s.Keep) else "drop")
    if isinstance(declared, s.Pseudonymize):
        if kind not in PSEUDONYM_TYPES:
            raise ValueError(f"pseudonymize on type {kind}: expected {', '.join(sorted(PSEUDONYM_TYPES))}")
        return ColumnPlan(name, kind, "pseudonymize")
    memoized = name in spec.memoized
    if isinstance(declared, s.RandomizedResponse):
        mechanism = RandomizedResponse.calibrate(_categories(declared, kind), declared.epsilon)
        return ColumnPlan(name, kind, "mechanism", mechanism, None, declared, memoized)
    additive, lattice = _plan_additive(spec.purpose == "privacy", kind, declared)
    return ColumnPlan(name, kind, "mechanism", additive, lattice, declared, memoized)


# ---- numeric columns -------------------------------------------------------------------------------------------------


def _plan_additive(private: bool, kind: str, declared: Any) -> tuple[Additive, Lattice]:
    mechanism = ADDITIVE[declared.mechanism]
    unit = _unit(kind, mechanism)
    step = _step(unit, mechanism, declared)
    lattice = _lattice(kind, unit, step, declared.bounds)
    if not private:
        return mechanism(step, exact(declared.scale) / step), lattice
    sensitivity = _sensitivity(lattice, unit, declared)
    calibrated = mechanism.calibrate(sensitivity, step, declared.epsilon, getattr(declared, "delta", None))
    _check_room(kind, calibrated, lattice, declared)
    return calibrated, lattice


def _unit(kind: str, mechanism: type[Additive]) -> Fraction | None:
    """What one stored integer of the type is worth; None for floats. Refuses types that the mechanism does not fit."""
    name = mechanism.name
    if kind in ("float", "double"):
        return None
    if kind in ("int32", "int64"):
        if mechanism.fractional:
            raise ValueError(f"{name} draws fractions but the type is {kind}: use discrete_{name}")
        return Fraction(1)
    if match := re.fullmatch(r"decimal\((\d+),(\d+)\)", kind):
        precision, scale = map(int, match.groups())
        if precision > 18:
            raise ValueError(f"{name} on {kind}: expected a precision of at most 18; cast it upstream")
        return Fraction(1, 10**scale)
    raise ValueError(f"{name} on type {kind}: expected int32, int64, float, double or decimal")


def _step(unit: Fraction | None, mechanism: type[Additive], declared: Any) -> Fraction:
    """The granularity: as declared, else the type's own unit, else fine against the scale."""
    if declared.granularity is not None:
        step = exact(declared.granularity)
        if unit is not None and (step / unit).denominator != 1:
            raise ValueError(f"granularity {declared.granularity}: expected a whole multiple of {unit}")
        return step
    if unit is not None:
        return unit
    if mechanism.name.startswith("discrete"):
        raise ValueError(f"{mechanism.name} on a float column: expected granularity: the lattice's step")
    if declared.scale is not None:
        return default_step(exact(declared.scale))
    width = (
        exact(declared.protect_distance)
        if declared.bounds is None
        else exact(declared.bounds[1]) - exact(declared.bounds[0])
    )
    return default_step(mechanism.scale_for(width, declared.epsilon, getattr(declared, "delta", None)))


def _lattice(kind: str, unit: Fraction | None, step: Fraction, bounds: tuple[float, float] | None) -> Lattice:
    if unit is None:
        lower, upper = (_nearest(bound, step) for bound in bounds) if bounds else (-FLOAT_STEPS, FLOAT_STEPS)
        if max(abs(lower), abs(upper)) > FLOAT_STEPS:
            raise ValueError(f"bounds {list(bounds or ())}: more than 2^52 steps of {float(step):g} from zero")
        return Lattice(step, step, lower, upper, -2 * FLOAT_STEPS, 2 * FLOAT_STEPS)
    limit = {"int32": 2**31 - 1, "int64": INT64_LIMIT}.get(kind) or 10 ** int(kind[8:].split(",")[0]) - 1
    per_step = int(step / unit)
    low, high = (exact(bound) / unit for bound in bounds) if bounds else (Fraction(-limit), Fraction(limit))
    if low.denominator != 1 or high.denominator != 1 or max(abs(low), abs(high)) > limit:
        raise ValueError(f"bounds {list(bounds or ())}: expected multiples of {unit} that {kind} can hold")
    lower, upper = ((int(bound) + per_step // 2) // per_step for bound in (low, high))
    return Lattice(step, unit, lower, upper, -(limit // per_step), limit // per_step)


def _nearest(value: float, step: Fraction) -> int:
    """The lattice point nearest to a float, with the very arithmetic the rows get: divide, round half to even."""
    return round(float(value) / float(step))


def _sensitivity(lattice: Lattice, unit: Fraction | None, declared: Any) -> int:
    """The most steps by which one value can differ between neighbours, after rounding."""
    if declared.bounds is not None:
        steps = lattice.upper - lattice.lower
        if steps < 1:
            raise ValueError(f"granularity {float(lattice.step):g}: coarser than the bounds {list(declared.bounds)}")
        return steps
    distance = exact(declared.protect_distance)
    if unit is None:  # two floats d apart round to lattice points at most d + 1 step apart
        step = Fraction(float(lattice.step))
        power_of_two = step.numerator.bit_count() == step.denominator.bit_count() == 1  # dividing by it is exact
        error = Fraction(0 if power_of_two else 1, 2)  # each of two quotients below 2^52 errs by at most 1/4
        return math.floor(distance / step + error) + 1
    if distance < unit:
        raise ValueError(f"protect_distance {declared.protect_distance}: expected at least {unit}, the column's unit")
    return math.ceil(math.floor(distance / unit) * unit / lattice.step)


def _check_room(kind: str, mechanism: Additive, lattice: Lattice, declared: Any) -> None:
    """Noise that the type cannot hold would be cut off at its ends: the estimates would be biased."""
    room = SCALES_OF_ROOM * mechanism.scale
    span = max(lattice.upper, -lattice.lower) if declared.bounds is not None else 0
    if span + room > lattice.ceiling:
        scale = float(mechanism.scale * mechanism.step)
        raise ValueError(
            f"noise of scale {scale:g} does not fit type {kind}: expected a wider type, a larger epsilon or tighter bounds"
        )


# ---- categories ------------------------------------------------------------------------------------------------------


def _categories(declared: s.RandomizedResponse, kind: str) -> tuple[str | bool | int, ...]:
    if kind not in CATEGORY_TYPES:
        raise ValueError(f"randomized_response on type {kind}: expected {', '.join(CATEGORY_TYPES)}")
    given: Sequence[Any] | None
    if declared.categories is None:
        given = [False, True] if kind == "boolean" else None
    elif isinstance(declared.categories, str):
        given = _category_file(Path(declared.categories.removeprefix("file:")), kind)
    else:
        given = declared.categories
    if given is None:
        raise ValueError(
            "randomized_response: expected categories: a list, or file:PATH with one a line; never read from the data"
        )
    if len(given) < 2 or len(given) > 8192 or len(set(given)) != len(given):
        raise ValueError(
            f"categories: {len(given)} given, {len(set(given))} distinct; expected 2 to 8192 distinct ones"
        )
    odd = [value for value in given if type(value) is not CATEGORY_TYPES[kind] or not _holds(kind, value)]
    if odd:
        raise ValueError(f"category {odd[0]!r}: expected a value of type {kind}")
    return tuple(given)


def _holds(kind: str, value: Any) -> bool:
    most = {"int32": 2**31 - 1, "int64": 2**63 - 1}.get(kind)
    return most is None or -most <= value <= most


def _category_file(path: Path, kind: str) -> list[Any]:
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"categories file {path}: cannot be read ({type(error).__name__})") from None
    values = [line for line in lines if line and not line.startswith("#")]
    if kind.startswith("int"):
        try:
            return [int(value) for value in values]
        except ValueError:
            raise ValueError(
                f"categories file {path}: expected one whole number a line for a column of type {kind}"
            ) from None
    return values


# ---- what the plan says ----------------------------------------------------------------------------------------------


def canonical(plan: Plan) -> dict[str, Any]:
    """The part of the spec that determines values, with every default and every calibrated number written out.

    It is hashed into the release id: what is not in it (target, ledger, budget, checks) may change without a new release.
    """
    spec = plan.spec
    return {
        "pipeline": spec.pipeline,
        "row_key": spec.row_key,
        "partition_by": spec.source.partition_by,
        "unit": spec.entity.model_dump() if spec.entity else "row",
        "columns": {column.name: canonical_column(column) for column in plan.columns},
    }


def canonical_column(column: ColumnPlan) -> dict[str, Any]:
    """What determines one column's values. Its noise key is derived from this, so another law is another noise."""
    if column.declared is None or column.mechanism is None:
        return {"treatment": column.treatment}
    policies = {k: v for k, v in column.declared.model_dump().items() if k.startswith("on_")}
    result = {"mechanism": column.mechanism.name, "memoized": column.memoized, **policies}
    if isinstance(column.mechanism, RandomizedResponse):
        return {
            **result,
            "categories": list(column.mechanism.categories),
            "epsilon": str(exact(column.mechanism.epsilon)),
        }
    assert column.lattice is not None
    lattice = {key: str(value) for key, value in vars(column.lattice).items()}
    return {**result, "scale": str(column.mechanism.scale), "lattice": lattice}


def relation(plan: Plan) -> str:
    """The neighbouring relation of the whole record, in one sentence."""
    local, metric = [], []
    for column in plan.noised:
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


def expected_errors(column: ColumnPlan, rows: int) -> tuple[float, float] | None:
    """Expected absolute error of one published value and of the mean over `rows` of them, in the column's unit."""
    if column.mechanism is None:
        return None
    of_mean = math.sqrt(2 * column.mechanism.variance / (math.pi * rows)) if rows else math.inf
    return column.mechanism.mean_abs, of_mean


def describe_column(column: ColumnPlan, rows: int) -> dict[str, Any]:
    """One column of the plan as data. Scale and sensitivity are in the column's unit."""
    entry: dict[str, Any] = {"column": column.name, "type": column.type, "treatment": column.treatment}
    if column.mechanism is None:
        return {**entry, "guarantee": column.guarantee}
    mechanism, errors = column.mechanism, expected_errors(column, rows)
    assert errors is not None
    entry |= {"mechanism": mechanism.name, "memoized": column.memoized, "guarantee": column.guarantee}
    entry |= {"epsilon": mechanism.epsilon, "expected_error_value": errors[0], "expected_error_mean": errors[1]}
    event = mechanism.event()
    if event is not None:
        entry["sampler_delta"] = event.slack
    if isinstance(mechanism, Additive):
        step = mechanism.step
        sensitivity = None if mechanism.sensitivity is None else float(mechanism.sensitivity * step)
        entry |= {"sensitivity": sensitivity, "scale": float(mechanism.scale * step), "granularity": float(step)}
        entry |= {"variance": mechanism.variance, "delta": mechanism.delta}
    else:
        entry |= {"categories": len(mechanism.categories), "keep_probability": mechanism.keep_probability}
    return entry


def digest(data: Any) -> str:
    """Hex SHA-256 of plain data, written one way only."""
    return hashlib.sha256(
        json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
    ).hexdigest()
