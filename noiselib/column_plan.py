"""One column's plan: from its declaration and type to a mechanism, the points it takes and the codes it gives.

A column's lattice, scale and sensitivity follow from what was declared, never from data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import singledispatch
from pathlib import Path
from typing import Any

from noiselib import column_spec as c
from noiselib import encoding as e
from noiselib import mechanisms as m
from noiselib.encoding import Lattice
from noiselib.mechanisms.additive import default_step, exact
from noiselib.mechanisms.dither import MAX_RESOLUTION

ROW_KEY_TYPES = {"int32", "int64", "string", "boolean", "date", "timestamp", "timestamp_ntz"}
# These, and decimals, Spark writes back as it read them.
KEPT_TYPES = ROW_KEY_TYPES | {"int8", "int16", "float", "double", "binary"}
PSEUDONYM_TYPES = {"string", "int32", "int64"}
CATEGORY_TYPES = {"string": str, "boolean": bool, "int32": int, "int64": int}
NUMERIC_TYPES = ("int32", "int64", "float", "double")
TIME_UNITS = {"second": 10**6, "minute": 60 * 10**6, "hour": 3600 * 10**6, "day": 86400 * 10**6}  # in microseconds
FLOAT_STEPS = 2**52  # a double holds every whole number of steps up to here, with room for the noise
INT64_LIMIT = 2**62  # value plus noise stays within int64
SCALES_OF_ROOM = 45  # no noise is larger than this many scales, but with probability e^-45
FIRST_DAY, LAST_DAY = -719162, 2932896  # 0001-01-01 and 9999-12-31, counted from 1970
DITHER_RESOLUTION = 2**20  # lattice points per quantizer step, of a float

# What severity 1 to 5 means: Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions"
# (their code's constants for Gaussian, speckle and impulse noise, on a scale of 1).
SEVERITY_ADDITIVE = (0.08, 0.12, 0.18, 0.26, 0.38)
SEVERITY_MULTIPLICATIVE = (0.15, 0.2, 0.35, 0.45, 0.6)
SEVERITY_RATE = (0.03, 0.06, 0.09, 0.17, 0.27)


AnyMechanism = m.Mechanism | m.Rappor | m.Fitted


@dataclass(frozen=True)
class ColumnPlan:
    """One column's treatment. `mechanism` draws its noise; a column that is `noised_with` another reads that one's codes."""

    name: str
    type: str
    treatment: str  # keep | drop | pseudonymize | mechanism | noised_with
    mechanism: AnyMechanism | None = None
    points: e.Points | None = None
    codes: e.Codes | None = None
    published_type: str = ""
    declared: c.Noised | None = None
    memoized: bool = False
    lead: str = ""  # the column whose mechanism this one is noised with

    @property
    def lattice(self) -> Lattice | None:
        """Where both the values and the noised values lie, of a numeric column under additive noise."""
        return self.points if isinstance(self.points, Lattice) and self.points == self.codes else None

    @property
    def guarantee(self) -> str:
        """For people, of one value. Empty where nothing is claimed."""
        if self.treatment != "mechanism":
            return {
                "keep": "public: released as it is",
                "pseudonymize": "keyed pseudonym: not counted as protection",
                "noised_with": f"with {self.lead}",
            }.get(self.treatment, "")
        if self.mechanism is None or self.mechanism.event() is None:
            return ""
        if isinstance(self.mechanism, m.Rappor):
            return (
                f"{self.mechanism.epsilon_permanent:.4g}-DP for all reports of one value, "
                f"{self.mechanism.epsilon_report:.4g}-DP for one"
            )
        delta = getattr(self.mechanism, "delta", None)
        epsilon = self.mechanism.epsilon  # type: ignore[union-attr]
        return f"({epsilon:g}, {delta:g})-DP{self._range}" if delta else f"{epsilon:g}-DP{self._range}"

    @property
    def _range(self) -> str:
        declared, points = self.declared, self.points
        if isinstance(points, e.Places):
            return f" for places at most {declared.protect_distance:g} m apart"  # type: ignore[union-attr]
        if isinstance(points, e.Vectors):
            return f" within L{points.order} norm {points.clip_norm:g}"
        if isinstance(points, e.Categories):
            return f" among {len(points.values)} categories"
        if getattr(declared, "protect_distance", None) is not None:
            unit = f" {declared.unit}s" if declared.unit else ""  # type: ignore[union-attr]
            return f" for values at most {declared.protect_distance:g}{unit} apart"  # type: ignore[union-attr]
        low, high = declared.bounds  # type: ignore[union-attr]
        return f" within [{low:g}, {high:g}]"


@dataclass(frozen=True)
class Treated:
    """What a declaration comes to on a column: `type` is the published one."""

    mechanism: AnyMechanism
    points: e.Points
    codes: e.Codes
    type: str


@dataclass(frozen=True)
class Context:
    """Where a declaration stands: its column, all columns' types, and whether noise is for privacy."""

    name: str
    types: dict[str, str]
    private: bool

    @property
    def kind(self) -> str:
        return self.types[self.name]


def plan_column(context: Context, declared: Any, memoized: bool) -> ColumnPlan:
    """The plan of one column whose treatment is its own. Raises ValueError saying what does not fit."""
    name, kind = context.name, context.kind
    if isinstance(declared, c.Keep) and kind not in KEPT_TYPES and not kind.startswith("decimal"):
        raise ValueError(f"keep on type {kind}: expected {', '.join(sorted(KEPT_TYPES))} or decimal; cast it upstream")
    if isinstance(declared, c.Keep | c.Drop):
        return ColumnPlan(name, kind, "keep" if isinstance(declared, c.Keep) else "drop", published_type=kind)
    if isinstance(declared, c.Pseudonymize):
        if kind not in PSEUDONYM_TYPES:
            raise ValueError(f"pseudonymize on type {kind}: expected {', '.join(sorted(PSEUDONYM_TYPES))}")
        return ColumnPlan(name, kind, "pseudonymize", published_type="string")
    done = treat(declared, context)
    return ColumnPlan(name, kind, "mechanism", done.mechanism, done.points, done.codes, done.type, declared, memoized)


def plan_member(context: Context, lead: ColumnPlan, index: int) -> ColumnPlan:
    """The plan of a column that is noised with `lead`, the `index`-th beside it."""
    name, kind = context.name, context.kind
    if isinstance(lead.codes, e.Places):
        if kind != lead.type:
            raise ValueError(
                f"longitude is {kind} but the latitude {lead.name!r} is {lead.type}: expected the same type"
            )
        return ColumnPlan(
            name,
            kind,
            "noised_with",
            None,
            lead.points,
            e.East(lead.codes),
            kind,
            lead.declared,
            lead.memoized,
            lead.name,
        )
    assert isinstance(lead.declared, c.CorrelatedGaussian)
    done = _correlated(lead.declared, context, index + 1)
    return ColumnPlan(
        name, kind, "mechanism", done.mechanism, done.points, done.codes, kind, lead.declared, lead=lead.name
    )


@singledispatch
def treat(declared: Any, context: Context) -> Treated:
    """What a mechanism's declaration comes to, by its model. Raises ValueError saying what does not fit."""
    raise AssertionError(type(declared).__name__)


# ---- additive noise --------------------------------------------------------------------------------------------------


@treat.register
def _(declared: c.Additive, context: Context) -> Treated:
    kind = context.kind
    if kind.startswith("array<"):
        return _vectors(declared, context)
    for key in ("clip_norm", "dimension"):
        if getattr(declared, key, None) is not None:
            raise ValueError(f"{key} on type {kind}: expected a column of type array<float> or array<double>")
    mechanism = m.ADDITIVE[declared.mechanism]  # type: ignore[attr-defined]
    unit = _unit(kind, mechanism.name, declared.unit)
    discrete = f"discrete_{mechanism.name}"
    if kind.startswith("int") and discrete in m.ADDITIVE:
        raise ValueError(f"{mechanism.name} draws fractions but the type is {kind}: use {discrete}")
    if _is_time(kind) and declared.bounds is not None:
        raise ValueError(f"bounds on type {kind}: expected protect_distance, in {declared.unit}s")
    step = _additive_step(unit, mechanism, declared, kind)
    lattice = make_lattice(kind, unit, step, declared.bounds)
    if not context.private:
        return Treated(mechanism(step, _free_scale(declared) / step), lattice, lattice, kind)
    sensitivity = _sensitivity(lattice, unit, declared)
    calibrated = mechanism.calibrate(sensitivity, step, declared.epsilon, getattr(declared, "delta", None))  # type: ignore[arg-type]
    _check_room(kind, calibrated, lattice, declared)
    return Treated(calibrated, lattice, lattice, kind)


def _vectors(declared: Any, context: Context) -> Treated:
    kind, name = context.kind, declared.mechanism
    element = kind[6:-1]
    mechanism = m.VECTOR.get(name)
    if mechanism is None or element not in ("float", "double"):
        raise ValueError(f"{name} on type {kind}: expected {' or '.join(m.VECTOR)} on array<float> or array<double>")
    if declared.dimension is None:
        raise ValueError(f"{name} on type {kind}: expected dimension: how many numbers each array holds")
    for key in ("bounds", "protect_distance", "unit"):
        if getattr(declared, key) is not None:
            raise ValueError(f"{key} on type {kind}: expected clip_norm: the most that an array's norm may be")
    delta = getattr(declared, "delta", None)
    if context.private:
        width = exact(2 * declared.clip_norm)
        step = _given(declared) or _fine_step(m.ADDITIVE[name].scale_for(width, declared.epsilon, delta), width)
        noise = mechanism.calibrate(declared.dimension, step, declared.clip_norm, declared.epsilon, delta)
    else:
        scale = _free_scale(declared)
        step = _given(declared) or default_step(scale)
        noise = mechanism(declared.dimension, step, scale / step)
    vectors = e.Vectors(declared.dimension, step, mechanism.order, declared.clip_norm)
    return Treated(noise, vectors, vectors, kind)


def _given(declared: Any) -> Fraction | None:
    return None if declared.granularity is None else exact(declared.granularity)


def _free_scale(declared: c.Additive) -> Fraction:
    """The scale of noise that makes no claim, in the column's unit."""
    relative = exact(declared.relative_to) if declared.relative_to is not None else Fraction(1)
    share = SEVERITY_ADDITIVE[declared.severity - 1] if declared.severity is not None else declared.scale
    assert share is not None
    return exact(share) * relative


def _unit(kind: str, name: str, time_unit: str | None = None) -> Fraction | None:
    """What one stored integer of the type is worth; None for floats. Refuses types that hold no numbers."""
    if _is_time(kind) != (time_unit is not None):
        raise ValueError(
            f"{name} on type {kind}: expected unit: {' | '.join(TIME_UNITS)}, which distances and scales are in"
            if _is_time(kind)
            else f"unit {time_unit}: expected a column of type timestamp or date, not {kind}"
        )
    if time_unit is not None:
        stored = TIME_UNITS["day"] if kind == "date" else 1
        return Fraction(stored, TIME_UNITS[time_unit])
    if kind in ("float", "double"):
        return None
    if kind in ("int32", "int64"):
        return Fraction(1)
    if match := re.fullmatch(r"decimal\((\d+),(\d+)\)", kind):
        precision, scale = map(int, match.groups())
        if precision > 18:
            raise ValueError(f"{name} on {kind}: expected a precision of at most 18; cast it upstream")
        return Fraction(1, 10**scale)
    raise ValueError(f"{name} on type {kind}: expected {', '.join(NUMERIC_TYPES)} or decimal")


def _is_time(kind: str) -> bool:
    return kind in ("timestamp", "timestamp_ntz", "date")


def _whole_step(declared: Any, unit: Fraction | None) -> Fraction | None:
    """The declared granularity, which must be a whole multiple of the unit; without one, the unit."""
    if declared.granularity is None:
        return unit
    step = exact(declared.granularity)
    if unit is not None and (step / unit).denominator != 1:
        raise ValueError(f"granularity {declared.granularity}: expected a whole multiple of {unit}")
    return step


def _additive_step(unit: Fraction | None, mechanism: type[m.Additive], declared: c.Additive, kind: str) -> Fraction:
    """The granularity: as declared, else the type's own unit (a second, of a timestamp), else fine against the scale."""
    step = _whole_step(declared, unit)
    if step is not None:
        return step * TIME_UNITS["second"] if kind.startswith("timestamp") and declared.granularity is None else step
    if mechanism.name.startswith("discrete"):
        raise ValueError(f"{mechanism.name} on a float column: expected granularity: the lattice's step")
    if declared.epsilon is None:
        return default_step(_free_scale(declared))
    if declared.bounds is not None:
        width = exact(declared.bounds[1]) - exact(declared.bounds[0])
    else:
        width = exact(declared.protect_distance)  # type: ignore[arg-type]
    return _fine_step(mechanism.scale_for(width, declared.epsilon, getattr(declared, "delta", None)), width)


def _fine_step(scale: Fraction, width: Fraction) -> Fraction:
    """Fine against the noise's scale and, where an epsilon is tiny, against what it covers: a thousandth or less."""
    return min(default_step(scale), 256 * default_step(width))


def make_lattice(kind: str, unit: Fraction | None, step: Fraction, bounds: tuple[float, float] | None) -> Lattice:
    """The lattice of a column of type `kind`. Raises ValueError for bounds that it or the type cannot hold."""
    if unit is None:
        lower, upper = (_nearest(bound, step) for bound in bounds) if bounds else (-FLOAT_STEPS, FLOAT_STEPS)
        if max(abs(lower), abs(upper)) > FLOAT_STEPS:
            raise ValueError(f"bounds {list(bounds or ())}: more than 2^52 steps of {float(step):g} from zero")
        return Lattice(step, step, lower, upper, -2 * FLOAT_STEPS, 2 * FLOAT_STEPS)
    per_step = int(step / unit)
    if _is_time(kind):
        first, last = (day * (1 if kind == "date" else TIME_UNITS["day"]) for day in (FIRST_DAY, LAST_DAY))
        return Lattice(step, unit, -(-first // per_step), last // per_step, -(-first // per_step), last // per_step)
    limit = {"int32": 2**31 - 1, "int64": INT64_LIMIT}.get(kind) or 10 ** int(kind[8:].split(",")[0]) - 1
    low, high = (exact(bound) / unit for bound in bounds) if bounds else (Fraction(-limit), Fraction(limit))
    if low.denominator != 1 or high.denominator != 1 or max(abs(low), abs(high)) > limit:
        raise ValueError(f"bounds {list(bounds or ())}: expected multiples of {unit} that {kind} can hold")
    lower, upper = ((int(bound) + per_step // 2) // per_step for bound in (low, high))
    return Lattice(step, unit, lower, upper, -(limit // per_step), limit // per_step)


def _nearest(value: float, step: Fraction) -> int:
    """The lattice point nearest to a float, with the very arithmetic the rows get: divide, round half to even."""
    return round(float(value) / float(step))


def _sensitivity(lattice: Lattice, unit: Fraction | None, declared: c.Additive) -> int:
    """The most steps by which one value can differ between neighbours, after rounding."""
    if declared.bounds is not None:
        return _width(lattice, declared)
    distance = exact(declared.protect_distance)  # type: ignore[arg-type]
    if unit is None:  # two floats d apart round to lattice points at most d + 1 step apart
        step = Fraction(float(lattice.step))
        power_of_two = step.numerator.bit_count() == step.denominator.bit_count() == 1  # dividing by it is exact
        error = Fraction(0 if power_of_two else 1, 2)  # each of two quotients below 2^52 errs by at most 1/4
        return math.floor(distance / step + error) + 1
    if distance < unit:
        raise ValueError(f"protect_distance {declared.protect_distance}: expected at least {unit}, the column's unit")
    return math.ceil(math.floor(distance / unit) * unit / lattice.step)


def _width(lattice: Lattice, declared: c.Numeric) -> int:
    steps = lattice.upper - lattice.lower
    if steps < 1:
        raise ValueError(f"granularity {float(lattice.step):g}: coarser than the bounds {list(declared.bounds or ())}")
    return steps


def _check_room(kind: str, mechanism: m.Additive, lattice: Lattice, declared: c.Additive) -> None:
    """Noise that the type cannot hold would be cut off at its ends: the estimates would be biased."""
    room = SCALES_OF_ROOM * mechanism.scale
    span = max(lattice.upper, -lattice.lower) if declared.bounds is not None else 0
    if span + room > lattice.ceiling:
        scale = float(mechanism.scale * mechanism.step)
        raise ValueError(
            f"noise of scale {scale:g} does not fit type {kind}: expected a wider type, a larger epsilon or tighter bounds"
        )


# ---- bounded numbers, places -----------------------------------------------------------------------------------------


@treat.register
def _(declared: c.Bounded, context: Context) -> Treated:
    unit = _unit(context.kind, declared.mechanism)  # type: ignore[attr-defined]
    width = exact(declared.bounds[1]) - exact(declared.bounds[0])
    lattice = make_lattice(context.kind, unit, _whole_step(declared, unit) or default_step(width), declared.bounds)
    _width(lattice, declared)
    name = declared.mechanism  # type: ignore[attr-defined]
    mechanism = m.BOUNDED[name](lattice.step, lattice.lower, lattice.upper, declared.epsilon)
    if name == "one_bit_mean":
        return Treated(mechanism, lattice, e.Bit(), "boolean")
    reading = mechanism.reading
    return Treated(mechanism, lattice, e.Readings(reading.offset, reading.slope, reading.codes, reading.ends), "double")


@treat.register
def _(declared: c.PlanarLaplace, context: Context) -> Treated:
    kind, other = context.kind, declared.longitude
    if kind not in ("float", "double"):
        raise ValueError(f"planar_laplace on type {kind}: expected degrees as float or double")
    if other not in context.types:
        raise ValueError(f"longitude {other!r}: not among the columns {', '.join(context.types)}")
    step = _given(declared) or m.metre_step(declared.protect_distance)
    region = m.Region(declared.bounds, declared.longitude_bounds, declared.protect_distance)
    north, east = region.steps_per_degree(step)
    places = e.Places(
        context.name,
        other,
        1 / north,
        1 / east,
        region.middle,
        (float(declared.bounds[0]), float(declared.bounds[1])),
        (float(declared.longitude_bounds[0]), float(declared.longitude_bounds[1])),
    )
    return Treated(m.PlanarLaplace(step, declared.protect_distance, declared.epsilon), places, places, kind)


# ---- categories ------------------------------------------------------------------------------------------------------


@treat.register
def _(declared: c.FrequencyOracle, context: Context) -> Treated:
    values, name = _categories(declared, context.kind), declared.mechanism  # type: ignore[attr-defined]
    options = {"buckets": declared.buckets} if isinstance(declared, c.LocalHashing) else {}
    mechanism = m.ORACLES[name](values, declared.epsilon, **options)
    if name == "randomized_response":
        return Treated(mechanism, e.Categories(values), e.Categories(values), context.kind)
    if name == "local_hashing":
        return Treated(mechanism, e.Categories(values), e.HashReport(mechanism.g), "struct<seed:bigint,report:int>")
    if name == "hadamard_response":
        return Treated(mechanism, e.Categories(values), e.Position(mechanism.blocks * mechanism.size), "int32")
    return Treated(mechanism, e.Categories(values), e.CategorySet(values), f"array<{e.sql_type(context.kind)}>")


@treat.register
def _(declared: c.Rappor, context: Context) -> Treated:
    values = _categories(declared, context.kind)
    mechanism = m.Rappor(values, declared.f, declared.p, declared.q, declared.hashes, declared.bits, declared.cohorts)
    codes = e.BitReport(declared.bits or len(values), declared.cohorts)
    return Treated(mechanism, e.Categories(values), codes, "struct<cohort:int,bits:array<int>>")


@treat.register
def _(declared: c.LabelFlip, context: Context) -> Treated:
    values = _categories(declared, context.kind)
    matrix = _matrix(declared.matrix) if declared.matrix else m.uniform_flip(len(values), _rate(declared))
    return _transition("label_flip", values, matrix, context)


@treat.register
def _(declared: c.Resampling, context: Context) -> Treated:
    values = _categories(declared, context.kind)
    weights = [_share(weight) for weight in declared.weights or [1] * len(values)]
    if len(weights) != len(values) or min(weights) < 0 or sum(weights) == 0:
        raise ValueError(
            f"weights {declared.weights}: expected {len(values)} numbers of at least 0, one for each category"
        )
    matrix = m.resampling_matrix(weights, _rate(declared))
    return _transition("resampling", values, matrix, context)


@treat.register
def _(declared: c.Pram, context: Context) -> Treated:
    values = _categories(declared, context.kind)
    matrix = _matrix(declared.matrix) if declared.matrix else m.uniform_flip(len(values), _rate(declared))
    if not declared.invariant:
        return _transition("pram", values, matrix, context)
    if declared.marginal == "estimated":
        points = e.Categories(values)
        return Treated(m.EstimatedPram(m.Transition("pram", values, matrix)), points, points, context.kind)
    marginal = [_share(share) for share in declared.marginal]
    if len(marginal) != len(values) or min(marginal) < 0 or sum(marginal) == 0:
        raise ValueError(f"marginal: expected {len(values)} numbers of at least 0, one for each category")
    return _transition("pram", values, m.invariant(matrix, marginal), context)


def _transition(name: str, values: tuple[e.Category, ...], matrix: Any, context: Context) -> Treated:
    points = e.Categories(values)
    return Treated(m.Transition(name, values, matrix), points, points, context.kind)


def _matrix(rows: list[list[float | str]]) -> tuple[tuple[Fraction, ...], ...]:
    return tuple(tuple(_share(entry) for entry in row) for row in rows)


def _share(number: float | str) -> Fraction:
    """A number as it is written, or a fraction written as one."""
    return Fraction(number) if isinstance(number, str) else exact(number)


def _rate(declared: Any) -> Fraction:
    severity = getattr(declared, "severity", None)
    return exact(SEVERITY_RATE[severity - 1] if severity is not None else declared.rate)


def _categories(declared: c.Categorical, kind: str) -> tuple[e.Category, ...]:
    name = declared.mechanism  # type: ignore[attr-defined]
    if kind not in CATEGORY_TYPES:
        raise ValueError(f"{name} on type {kind}: expected {', '.join(CATEGORY_TYPES)}")
    given: Sequence[Any] | None
    if declared.categories is None:
        given = [False, True] if kind == "boolean" else None
    elif isinstance(declared.categories, str):
        given = _category_file(Path(declared.categories.removeprefix("file:")), kind)
    else:
        given = declared.categories
    if given is None:
        raise ValueError(f"{name}: expected categories: a list, or file:PATH with one a line; never read from the data")
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


# ---- microdata, augmentation, robustness, dither ---------------------------------------------------------------------


@treat.register
def _(declared: c.MultiplicativeGaussian, context: Context) -> Treated:
    _unit(context.kind, declared.mechanism)
    sigma = SEVERITY_MULTIPLICATIVE[declared.severity - 1] if declared.severity is not None else declared.scale
    assert sigma is not None
    return Treated(m.MultiplicativeGaussian(sigma), e.Untouched(), e.Factor(), context.kind)


@treat.register
def _(declared: c.GaussianDropout, context: Context) -> Treated:
    _unit(context.kind, declared.mechanism)
    return Treated(m.GaussianDropout(float(_rate(declared))), e.Untouched(), e.Factor(), context.kind)


@treat.register
def _(declared: c.Masking, context: Context) -> Treated:
    _check_fits("value", declared.value, context.kind)
    return Treated(m.Masking(float(_rate(declared))), e.Untouched(), e.Replaced((declared.value,)), context.kind)


@treat.register
def _(declared: c.Impulse, context: Context) -> Treated:
    _unit(context.kind, declared.mechanism)
    for bound in declared.bounds:
        _check_fits("bounds", bound, context.kind)
    return Treated(m.Impulse(float(_rate(declared))), e.Untouched(), e.Replaced(declared.bounds), context.kind)


@treat.register
def _(declared: c.Swap, context: Context) -> Treated:
    return Treated(m.Swap(float(_rate(declared))), e.RowCount(), e.Donor(), _kept(context.kind, declared.mechanism))


@treat.register
def _(declared: c.CellKey, context: Context) -> Treated:
    if context.kind not in ("int32", "int64"):
        raise ValueError(f"cell_key on type {context.kind}: expected counts as int32 or int64")
    whole = make_lattice(context.kind, Fraction(1), Fraction(1), None)
    counts = Lattice(whole.step, whole.unit, 0, whole.upper - declared.max_noise, 0, whole.ceiling)
    mechanism = m.CellKey(declared.max_noise, declared.variance, declared.smallest)
    return Treated(mechanism, counts, counts, context.kind)


@treat.register
def _(declared: c.CorrelatedGaussian, context: Context) -> Treated:
    return _correlated(declared, context, 0)


def _correlated(declared: c.CorrelatedGaussian, context: Context, index: int) -> Treated:
    """Of the `index`-th column of the group."""
    kind, size = context.kind, len(declared.with_) + 1
    unit = _unit(kind, declared.mechanism)
    step = _whole_step(declared, unit)
    if declared.covariance is not None:
        given = declared.covariance
        if len(given) != size or any(len(row) != size for row in given):
            raise ValueError(f"covariance: expected a matrix of {size} x {size}, one row for each column of the group")
        step = step or default_step(exact(max(given[index][index], 1e-30) ** 0.5))
        mechanism: Any = m.correlated_from_covariance(given, index, step)
    else:
        if step is None:
            raise ValueError(
                "correlated_gaussian with share on a float column: expected granularity: the lattice's step"
            )
        mechanism = m.EstimatedCorrelated(size, index, exact(declared.share), declared.keep_covariance)  # type: ignore[arg-type]
    lattice = make_lattice(kind, unit, step, declared.bounds if index == 0 else None)
    return Treated(mechanism, lattice, lattice, kind)


@treat.register
def _(declared: c.Dither, context: Context) -> Treated:
    unit = _unit(context.kind, declared.mechanism)
    steps = 1 if declared.bits is None else 2**declared.bits - 1
    low, high = map(exact, declared.bounds) if declared.bits else (Fraction(0), exact(declared.step))  # type: ignore[arg-type]
    step = (high - low) / steps
    if unit is not None and (step / unit).denominator != 1:
        said = f"{float(high - low):g} in {steps} steps" if declared.bits else f"step {float(step):g}"
        raise ValueError(f"dither: {said} on type {context.kind}: expected each a whole multiple of {unit}")
    resolution = _dither_resolution(low / step) if unit is None else int(step / unit)
    points = make_lattice(context.kind, unit, step / resolution, declared.bounds)
    lower, offset = divmod(int(low / step * resolution), resolution)
    ends = {"lower": lower, "upper": lower + steps} if declared.bits else {}
    mechanism = m.Dither(step, resolution, declared.law, declared.subtractive, offset=offset, **ends)
    quantum = step / (4 * resolution)
    if declared.subtractive and unit is not None:
        return Treated(mechanism, points, e.Quantized(quantum, None), "double")
    return Treated(mechanism, points, e.Quantized(quantum, unit), context.kind)


def _dither_resolution(level: Fraction) -> int:
    """Lattice points to a quantizer's step, so many that a level, given in such steps, lies on the lattice."""
    resolution = level.denominator * -(-DITHER_RESOLUTION // level.denominator)
    if resolution > MAX_RESOLUTION:
        raise ValueError("dither with bits: bounds with fewer digits expected, so that the levels lie on a lattice")
    return resolution


def _kept(kind: str, name: str) -> str:
    if kind not in KEPT_TYPES and not kind.startswith("decimal"):
        raise ValueError(
            f"{name} on type {kind}: expected {', '.join(sorted(KEPT_TYPES))} or decimal; cast it upstream"
        )
    return kind


def _check_fits(name: str, value: Any, kind: str) -> None:
    """Whether a column of that type can hold a value that the spec puts in it."""
    _kept(kind, name)
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind in ("float", "double"):
        fits = number
    elif kind.startswith(("int", "decimal")):
        fits = isinstance(value, int) and number and _holds(kind, value)
    else:
        fits = type(value) is CATEGORY_TYPES.get(kind)
    if not fits:
        raise ValueError(f"{name} {value!r}: expected a value of type {kind}")
