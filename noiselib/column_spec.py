"""What a spec may say of one column: kept, dropped, a pseudonym, or a mechanism with its parameters.

One model a mechanism, under its name in the spec. What a mechanism needs beside what its model asks for (an epsilon under
purpose privacy, a scale elsewhere) depends on the purpose: `contradictions`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, model_validator


def no_way_up(place: str) -> str:
    """A path without `..`: Spark resolves that by its text, the system by links, and the two may come to different places."""
    if ".." in re.split(r"[/:]", place):
        raise ValueError(
            "a path with '..' in it: expected one that leads down from the working directory, or an absolute one"
        )
    return place


# Far beyond any use, and near enough that no square or product of two of them leaves the range of a float.
SMALLEST, LARGEST = 1e-100, 1e100
Number = (
    Annotated[int, Field(ge=-int(LARGEST), le=int(LARGEST))]
    | Annotated[float, Field(ge=-LARGEST, le=LARGEST, allow_inf_nan=False)]
)
Positive = Annotated[float, Field(ge=SMALLEST, le=LARGEST, allow_inf_nan=False)]
Epsilon = Annotated[float, Field(ge=1e-9, le=50, allow_inf_nan=False)]
Delta = Annotated[float, Field(ge=SMALLEST, lt=1, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=1e-9, le=1, allow_inf_nan=False)]
Names = Annotated[list[str], Field(min_length=1)]
Bounds = Annotated[tuple[int | float, int | float], Field(strict=False)]  # YAML has lists only
Severity = Annotated[int, Field(ge=1, le=5)]
Category = str | bool | int
Share = Number | Annotated[str, Field(pattern=r"^[0-9]{1,9}/[1-9][0-9]{0,8}$")]  # 1/3 has no decimals that add up to 1
Matrix = Annotated[list[Annotated[list[Number], Field(min_length=1)]], Field(min_length=1)]
Probabilities = Annotated[list[Annotated[list[Share], Field(min_length=1)]], Field(min_length=1)]


class Model(BaseModel):
    # strict: `epsilon: yes` is no number, and a number in quotes is a text
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


# ---- without noise ---------------------------------------------------------------------------------------------------


class Keep(Model):
    """Released as it is."""

    keep: Literal["public"]


class Drop(Model):
    """Not released."""

    drop: Literal[True]


class Pseudonymize(Model):
    """A keyed pseudonym, stable within the pipeline. Not counted as protection."""

    pseudonymize: Literal[True]


class NoisedWith(Model):
    """Noise comes from another column's mechanism: the longitude of a place, a member of a correlated group."""

    noised_with: str


# ---- families of mechanisms ------------------------------------------------------------------------------------------


class Noised(Model):
    """What every mechanism's column may declare about values that are missing."""

    on_null: Literal["keep", "fail"] = "fail"


class Finite(Noised):
    """A column of numbers, and what becomes of those that are not finite."""

    on_nan: Literal["fail", "keep", "null"] = "fail"
    on_infinite: Literal["fail", "clip", "null"] = "fail"


class Within(Finite):
    """A column of numbers between `bounds`."""

    bounds: Bounds | None = None

    @model_validator(mode="after")
    def _bounds_are_ordered(self) -> Within:
        _check_order("bounds", self.bounds)
        return self


class Numeric(Within):
    """A column of numbers on a lattice of `granularity`, clipped to `bounds`."""

    granularity: Positive | None = None


class Additive(Numeric):
    """`unit` is what a timestamp's or a date's distances, scale and granularity are given in."""

    protect_distance: Positive | None = None
    unit: Literal["second", "minute", "hour", "day"] | None = None
    epsilon: Epsilon | None = None
    scale: Positive | None = None
    relative_to: Positive | None = None
    severity: Severity | None = None


class Bounded(Numeric):
    """A number between bounds, under local privacy."""

    bounds: Bounds
    epsilon: Epsilon


class Categorical(Noised):
    """A column of declared categories; `file:PATH` holds one a line."""

    categories: Annotated[str, Field(pattern="^file:.+"), AfterValidator(no_way_up)] | list[Category] | None = None
    on_unknown: Literal["fail", "null"] = "fail"


class FrequencyOracle(Categorical):
    """A category under local privacy."""

    epsilon: Epsilon


# ---- privacy ---------------------------------------------------------------------------------------------------------


class Laplace(Additive):
    """`clip_norm` and `dimension` are for arrays, whose L1 norm is clipped."""

    mechanism: Literal["laplace"]
    clip_norm: Positive | None = None
    dimension: Annotated[int, Field(ge=1, le=4096)] | None = None


class DiscreteLaplace(Additive):
    mechanism: Literal["discrete_laplace"]


class Gaussian(Additive):
    """`clip_norm` and `dimension` are for arrays, whose L2 norm is clipped."""

    mechanism: Literal["gaussian"]
    delta: Delta | None = None
    clip_norm: Positive | None = None
    dimension: Annotated[int, Field(ge=1, le=4096)] | None = None


class DiscreteGaussian(Additive):
    mechanism: Literal["discrete_gaussian"]
    delta: Delta | None = None


class Staircase(Additive):
    mechanism: Literal["staircase"]


class Duchi(Bounded):
    mechanism: Literal["duchi"]


class Piecewise(Bounded):
    mechanism: Literal["piecewise"]


class Hybrid(Bounded):
    mechanism: Literal["hybrid"]


class OneBitMean(Bounded):
    mechanism: Literal["one_bit_mean"]


class SquareWave(Bounded):
    mechanism: Literal["square_wave"]


class PlanarLaplace(Noised):
    """A place: this column is its latitude, `longitude` names the other (`noised_with` this one). Bounds are in degrees,
    `protect_distance` and `granularity` in metres; a place beyond the bounds, or that is no number, is `on_outside`.
    """

    mechanism: Literal["planar_laplace"]
    longitude: str
    epsilon: Epsilon
    protect_distance: Positive
    bounds: Bounds
    longitude_bounds: Bounds
    granularity: Positive | None = None
    on_outside: Literal["fail", "null"] = "fail"

    @model_validator(mode="after")
    def _bounds_are_on_the_globe(self) -> PlanarLaplace:
        for name, bounds, most in (
            ("bounds", self.bounds, 89),
            ("longitude_bounds", self.longitude_bounds, 180),
        ):
            _check_order(name, bounds)
            if max(map(abs, bounds)) > most:
                raise ValueError(f"{name} {list(bounds)}: expected degrees between -{most} and {most}")
        return self


class RandomizedResponse(FrequencyOracle):
    mechanism: Literal["randomized_response"]


class SymmetricUnary(FrequencyOracle):
    mechanism: Literal["sue"]


class OptimizedUnary(FrequencyOracle):
    mechanism: Literal["oue"]


class LocalHashing(FrequencyOracle):
    mechanism: Literal["local_hashing"]
    buckets: Annotated[int, Field(ge=2, le=8192)] | None = None


class HadamardResponse(FrequencyOracle):
    mechanism: Literal["hadamard_response"]


class SubsetSelection(FrequencyOracle):
    mechanism: Literal["subset_selection"]


class Rappor(Categorical):
    """f: of the permanent response, memoized per unit; p, q: of each report. `bits` asks for Bloom filters."""

    mechanism: Literal["rappor"]
    f: Annotated[float, Field(gt=0, lt=1)]
    p: Annotated[float, Field(ge=0, lt=1)]
    q: Annotated[float, Field(gt=0, le=1)]
    hashes: Annotated[int, Field(ge=1, le=8)] = 1
    bits: Annotated[int, Field(ge=2, le=1024)] | None = None
    cohorts: Annotated[int, Field(ge=1, le=1024)] = 1


# ---- microdata, augmentation, robustness -----------------------------------------------------------------------------


class Uniform(Additive):
    """Uniform noise on [-scale, scale]."""

    mechanism: Literal["uniform"]


class MultiplicativeGaussian(Finite):
    mechanism: Literal["multiplicative_gaussian"]
    scale: Positive | None = None
    severity: Severity | None = None


class Rated(Noised):
    """Something that happens to a value with a probability."""

    rate: Rate | None = None
    severity: Severity | None = None


class GaussianDropout(Finite):
    mechanism: Literal["gaussian_dropout"]
    rate: Annotated[float, Field(gt=0, lt=1)] | None = None
    severity: Severity | None = None


class Masking(Rated):
    """`value` takes the place of what is masked: null, unless it is given."""

    mechanism: Literal["masking"]
    value: Number | str | bool | None = None


class Impulse(Within):
    """Salt and pepper: one of the bounds in the value's place."""

    mechanism: Literal["impulse"]
    bounds: Bounds
    rate: Rate | None = None
    severity: Severity | None = None


class Swap(Rated):
    mechanism: Literal["swap"]


class LabelFlip(Categorical):
    """Another class, uniformly with probability `rate`, or by `matrix`, whose rows are probabilities given the true one."""

    mechanism: Literal["label_flip"]
    rate: Rate | None = None
    severity: Severity | None = None
    matrix: Probabilities | None = None


class Resampling(Categorical):
    """A category drawn anew, by `weights` or uniformly, with probability `rate`."""

    mechanism: Literal["resampling"]
    rate: Rate | None = None
    severity: Severity | None = None
    weights: list[Share] | None = None


class Pram(Categorical):
    """Post-randomization by `matrix`, or by keeping a category with probability 1 - `rate`; `invariant` to `marginal`."""

    mechanism: Literal["pram"]
    rate: Rate | None = None
    matrix: Probabilities | None = None
    invariant: bool = False
    marginal: Literal["estimated"] | list[Share] = "estimated"


class CorrelatedGaussian(Numeric):
    """Noise of one covariance over this column and those it is `with`: `covariance`, or `share` times the data's own."""

    mechanism: Literal["correlated_gaussian"]
    with_: Annotated[list[str], Field(alias="with")] = []
    covariance: Matrix | None = None
    share: Positive | None = None
    keep_covariance: bool = False


class CellKey(Noised):
    """Perturbed counts: by at most `max_noise`, of `variance`, none of 1..`smallest` (ptable's D, V and js)."""

    mechanism: Literal["cell_key"]
    max_noise: Annotated[int, Field(ge=1, le=50)]
    variance: Positive
    smallest: Annotated[int, Field(ge=0, le=50)] = 0


# ---- dither ----------------------------------------------------------------------------------------------------------


class Dither(Within):
    """Quantization with dither: to the multiples of `step`, or to 2^`bits` levels, of which the bounds are the outermost.

    With `bits` the quantizer's step is the bounds' width over 2^bits - 1; on integers and decimals that must be a whole
    multiple of the type's unit, as levels are values of the column.
    """

    mechanism: Literal["dither"]
    law: Literal["rpdf", "tpdf", "gaussian"] = "tpdf"
    subtractive: bool = False
    step: Positive | None = None
    bits: Annotated[int, Field(ge=1, le=24)] | None = None


# ---- which model a column's mapping asks for -------------------------------------------------------------------------

MECHANISM_SPECS: tuple[type[Noised], ...] = (
    Laplace, DiscreteLaplace, Gaussian, DiscreteGaussian, Staircase, Duchi, Piecewise, Hybrid, OneBitMean, SquareWave,
    PlanarLaplace, RandomizedResponse, SymmetricUnary, OptimizedUnary, LocalHashing, HadamardResponse, SubsetSelection,
    Rappor, Uniform, MultiplicativeGaussian, GaussianDropout, Masking, Impulse, Swap, LabelFlip, Resampling, Pram,
    CorrelatedGaussian, CellKey, Dither,
)  # fmt: skip


def mechanism_name(model: type[Noised]) -> str:
    """The name under which a spec asks for it."""
    return str(model.model_fields["mechanism"].annotation.__args__[0])  # type: ignore[union-attr]


MECHANISMS = tuple(map(mechanism_name, MECHANISM_SPECS))
TREATMENTS = {"keep": Keep, "drop": Drop, "pseudonymize": Pseudonymize, "noised_with": NoisedWith}


def _treatment(value: Any) -> str | None:
    """The model a column's mapping asks for: exactly one of the treatments' keys."""
    if not isinstance(value, dict):
        return getattr(value, "mechanism", None)
    named = [key for key in (*TREATMENTS, "mechanism") if key in value]
    if len(named) != 1:
        return None
    return str(value["mechanism"]) if named == ["mechanism"] else named[0]


def _by_treatment() -> Any:
    models = {**TREATMENTS, **dict(zip(MECHANISMS, MECHANISM_SPECS, strict=True))}
    union: Any = reduce(or_, (Annotated[model, Tag(tag)] for tag, model in models.items()))
    expected = (
        "expected exactly one of keep: public, drop: true, pseudonymize: true, noised_with: a column, mechanism: "
    )
    chosen = Discriminator(
        _treatment, custom_error_type="treatment", custom_error_message=expected + " | ".join(MECHANISMS)
    )
    return Annotated[union, chosen]


if TYPE_CHECKING:
    ColumnSpec = Keep | Drop | Pseudonymize | NoisedWith | Noised
else:
    ColumnSpec = _by_treatment()

_COLUMN: TypeAdapter[ColumnSpec] = TypeAdapter(ColumnSpec)


def parse_column(declared: Any) -> ColumnSpec:
    """One column's mapping by itself. Raises pydantic's ValidationError."""
    return _COLUMN.validate_python(declared)


# ---- what the purpose asks for ---------------------------------------------------------------------------------------

GUARANTEED = (Additive, Bounded, FrequencyOracle, Rappor, PlanarLaplace)  # but Uniform
EPSILON_ALWAYS = (Bounded, FrequencyOracle, Rappor, PlanarLaplace)


def contradictions(purpose: str, column: Any) -> Iterator[str]:
    """What a column's declaration lacks, or says too much, under a purpose."""
    if not isinstance(column, Noised):
        return
    name, private = column.mechanism, purpose == "privacy"  # type: ignore[attr-defined]
    if private and (isinstance(column, Uniform) or not isinstance(column, GUARANTEED)):
        yield f"{name} gives no guarantee: refused under purpose privacy"
    elif not private and isinstance(column, EPSILON_ALWAYS):
        yield f"{name} states an epsilon, and purpose {purpose} makes no privacy claim"
    elif private and isinstance(column, Additive):
        yield from _private_additive(name, column)
    elif isinstance(column, Additive):
        yield from _free_additive(purpose, name, column)
    else:
        yield from _strength(column)


def _private_additive(name: str, column: Additive) -> Iterator[str]:
    if column.epsilon is None:
        yield f"{name} without epsilon: expected epsilon: a number above 0"
    for key in ("scale", "relative_to", "severity"):
        if getattr(column, key) is not None:
            yield f"{key} {getattr(column, key)}: under purpose privacy the scale follows from epsilon and the bounds"
    given = [key for key in ("bounds", "protect_distance", "clip_norm") if getattr(column, key, None) is not None]
    if len(given) != 1:
        yield (
            f"{name}: expected either bounds: [lower, upper] or protect_distance: a distance "
            "(for arrays clip_norm and dimension), declared, not read from data"
        )
    yield from _dimension(name, column)
    if isinstance(column, Gaussian | DiscreteGaussian) and column.delta is None:
        yield f"{name} without delta: expected delta: a number between 0 and 1"


def _dimension(name: str, column: Additive) -> Iterator[str]:
    if getattr(column, "clip_norm", None) is not None and getattr(column, "dimension", None) is None:
        yield f"{name} with clip_norm: expected dimension: how many numbers each array holds"


def _free_additive(purpose: str, name: str, column: Additive) -> Iterator[str]:
    if (column.scale is None) == (column.severity is None):
        yield f"{name}: under purpose {purpose} expected scale: a number above 0, in the column's unit, or severity: 1 to 5"
    if column.severity is not None and column.relative_to is None:
        yield f"{name} with severity: expected relative_to: the column's own scale, declared"
    for key in ("epsilon", "protect_distance", "delta"):
        if getattr(column, key, None) is not None:
            yield f"purpose {purpose} makes no privacy claim: remove {key}"
    yield from _dimension(name, column)


def _strength(column: Any) -> Iterator[str]:
    """Mechanisms without a guarantee: how strong they are is said once."""
    name, fields = column.mechanism, type(column).model_fields
    ways = [key for key in ("scale", "rate", "severity", "matrix") if key in fields]
    if ways and sum(getattr(column, key) is not None for key in ways) != 1:
        yield f"{name}: expected exactly one of {', '.join(ways)}"
    if isinstance(column, Dither):
        if (column.step is None) == (column.bits is None):
            yield "dither: expected either step: the quantizer's step, or bits"
        if column.bits is not None and column.bounds is None:
            yield "dither with bits: expected bounds: the least and the greatest level"
    if isinstance(column, CorrelatedGaussian) and (column.covariance is None) == (column.share is None):
        yield "correlated_gaussian: expected either covariance: a matrix, or share: of the data's own covariance"
    if isinstance(column, CorrelatedGaussian) and column.keep_covariance and column.share is None:
        yield "correlated_gaussian: keep_covariance keeps the data's own: expected share, not covariance"
    if isinstance(column, Pram) and column.marginal != "estimated" and not column.invariant:
        yield "pram with marginal: expected invariant: true, which is what keeps it"


def _check_order(name: str, bounds: tuple[float, float] | None) -> None:
    if bounds is not None:
        low, high = bounds
        if not (abs(low) <= LARGEST and abs(high) <= LARGEST and low < high):
            raise ValueError(f"{name} {str(list(bounds))[:60]}: expected two finite numbers, the lower first")
