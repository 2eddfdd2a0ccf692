"""docs/mechanisms.md: every mechanism, from the code. Its law, guarantee, variance, estimator and source stand in its docstring,
its parameters in its spec model; types, draws and distances are those of an example, planned as a pipeline's column is.
"""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from noiselib.column_plan import ColumnPlan, Context, plan_column
from noiselib.column_spec import MECHANISM_SPECS, MECHANISMS, Additive, ColumnSpec, Noised, mechanism_name
from noiselib.mechanisms import EstimatedCorrelated, EstimatedPram

Declaration = dict[str, Any]

FIELDS = ("Law", "Guarantee", "Variance", "Estimator", "Source")
TYPES = (
    "int32", "int64", "float", "double", "decimal(10,2)", "boolean", "string", "date", "timestamp", "timestamp_ntz",
    "binary", "array<float>", "array<double>",
)  # fmt: skip
COLOURS = ["red", "green", "blue", "grey"]
LOCAL: Declaration = {"epsilon": 1.0, "bounds": [0, 100]}
AMOUNT: Declaration = {"scale": 1.0}
PRIVATE = "privacy"
FREE = "microdata, augmentation, robustness, dither"

_additive: list[Declaration] = [
    {**LOCAL}, {**LOCAL, "granularity": 1}, {"epsilon": 1.0, "protect_distance": 1, "unit": "day"},
    {"epsilon": 1.0, "clip_norm": 1.0, "dimension": 3},
]  # fmt: skip
_category: list[Declaration] = [{"categories": COLOURS}, {"categories": [1, 2, 3, 4]}, {}]


def _each(more: Declaration, declarations: list[Declaration]) -> list[Declaration]:
    return [{**declaration, **more} for declaration in declarations]


# Declarations to plan, per mechanism: each on every type that takes it. The first one that fits gives draws and distance.
EXAMPLES: dict[str, list[Declaration]] = {
    "laplace": _additive,
    "discrete_laplace": _additive[1:],
    "gaussian": _each({"delta": 1e-6}, _additive),
    "discrete_gaussian": _each({"delta": 1e-6}, _additive[1:]),
    "staircase": _additive,
    **{name: [LOCAL] for name in ("duchi", "piecewise", "hybrid", "one_bit_mean", "square_wave")},
    "planar_laplace": [
        {
            "longitude": "other",
            "epsilon": 1.0,
            "protect_distance": 500,
            "bounds": [40, 41],
            "longitude_bounds": [-74, -73],
        }
    ],
    **{
        name: _each({"epsilon": 1.0}, _category)
        for name in ("randomized_response", "sue", "oue", "local_hashing", "hadamard_response", "subset_selection")
    },
    "rappor": _each({"f": 0.5, "p": 0.5, "q": 0.75}, _category),
    "uniform": [AMOUNT, {"scale": 1.0, "unit": "day"}],
    "multiplicative_gaussian": [{"scale": 0.1}],
    **{name: [{"rate": 0.1}] for name in ("gaussian_dropout", "masking", "swap")},
    "impulse": [{"rate": 0.1, "bounds": [0, 100]}],
    "label_flip": _each({"rate": 0.1}, _category),
    "resampling": _each({"rate": 0.1}, _category),
    "pram": _each({"rate": 0.1}, _category),
    "correlated_gaussian": [{"covariance": [[4.0]]}, {"covariance": [[4.0]], "granularity": 1}],
    "cell_key": [{"max_noise": 5, "variance": 3.0, "smallest": 1}],
    "dither": [{"step": 1.0}],
}


@dataclass(frozen=True)
class Entry:
    """One mechanism of the catalogue. `types` are source types; `example` the plan of the first declaration that fits."""

    name: str
    model: type[Noised]
    types: tuple[str, ...]
    private: bool
    example: ColumnPlan

    @property
    def fields(self) -> dict[str, str]:
        """The paragraphs of the mechanism's docstring."""
        return docstring_fields(type(self.example.mechanism))


def catalogue() -> list[Entry]:
    """Every mechanism that a spec may ask for, in the order of the spec's models."""
    return [_entry(mechanism_name(model), model) for model in MECHANISM_SPECS]


def _entry(name: str, model: type[Noised]) -> Entry:
    adapter, plans = TypeAdapter(ColumnSpec), dict[str, ColumnPlan]()
    private = any("epsilon" in d for d in EXAMPLES[name]) or name == "rappor"
    for kind in TYPES:
        for declaration in EXAMPLES[name]:
            declared = adapter.validate_python({"mechanism": name, **declaration})
            try:
                plan = plan_column(
                    Context("value", {"value": kind, "other": kind}, private), declared, name == "rappor"
                )
            except ValueError:
                continue
            plans.setdefault(kind, plan)
    first = next(iter(plans.values()))
    return Entry(name, model, tuple(plans), private, plans.get("double", first))


def docstring_fields(kind: type) -> dict[str, str]:
    """Paragraphs `Law: ...` and so on of a class's docstring, each as one line; and its first line, as `Summary`."""
    text = inspect.cleandoc(kind.__doc__ or "")
    parts = re.split(rf"^({'|'.join(FIELDS)}): ", text, flags=re.MULTILINE)
    found = {"Summary": parts[0].strip().splitlines()[0]}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        found[name] = " ".join(body.split("\n\n")[0].split())
    return found


def markdown(rates: dict[str, float]) -> str:
    """The page. `rates`: million rows a second of each mechanism, measured."""
    entries = catalogue()
    lines = [
        "# Mechanisms",
        "",
        "Made by `make docs` from the code. Types are those of the source column; draws are blocks of 128 keyed bits per value;",
        "the TV bound is the total-variation distance of one application from the law as stated, which the charge pays for;",
        "rates are million values a second on one core, keyed, as `make bench` measured them (docs/benchmarks.md).",
        "",
        "| mechanism | guarantee | types | draws | TV bound | rate |",
        "|---|---|---|---|---|---|",
        *[_row(entry, rates) for entry in entries],
        "",
    ]
    for entry in entries:
        lines += _section(entry)
    return "\n".join(lines)


def _row(entry: Entry, rates: dict[str, float]) -> str:
    mechanism: Any = entry.example.mechanism
    estimated = isinstance(mechanism, EstimatedCorrelated | EstimatedPram)
    bound = "" if estimated else f"{mechanism.tv_bound:.1g}"
    draws = "" if estimated else str(mechanism.draws)
    guarantee = entry.example.guarantee or "none"
    rate = f"{rates[entry.name]:.3g}" if entry.name in rates else ""
    link = f"[{entry.name}](#{entry.name})"
    return f"| {link} | {guarantee} | {', '.join(entry.types)} | {draws} | {bound} | {rate} |"


def _section(entry: Entry) -> list[str]:
    fields, schema = entry.fields, entry.model.model_json_schema()["properties"]
    parameters = ", ".join(f"`{name}`" for name in schema if name != "mechanism")
    purposes = PRIVATE if entry.private and not issubclass(entry.model, Additive) else FREE
    if issubclass(entry.model, Additive) and entry.private:
        purposes = f"{PRIVATE}; with a scale, {FREE}"
    return [
        f"## {entry.name}",
        "",
        fields["Summary"],
        "",
        f"- Purposes: {purposes}",
        f"- Parameters: {parameters}",
        *[f"- {name}: {fields[name]}" for name in FIELDS],
        f"- Published as: {entry.example.published_type} from {entry.example.type}",
        "",
    ]


def read_rates(file: Path) -> dict[str, float]:
    """Million rows a second by mechanism, as the benchmark wrote them."""
    return {str(name): float(rate) for name, rate in json.loads(file.read_text("utf-8")).items()}


assert set(EXAMPLES) == set(MECHANISMS)
