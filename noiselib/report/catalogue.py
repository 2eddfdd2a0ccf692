"""docs/mechanisms.md: every mechanism, from the code: `python -m noiselib.report.catalogue RATES PAGE`.

A mechanism's law, guarantee, variance, estimator and source stand in its docstring, its parameters in its spec model; types,
draws and distances are those of an example, planned as a pipeline's column is.
"""

from __future__ import annotations

import inspect
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from noiselib.column_plan import ColumnPlan, Context, plan_column
from noiselib.column_spec import (
    GUARANTEED,
    MECHANISM_SPECS,
    MECHANISMS,
    Additive,
    Noised,
    Uniform,
    mechanism_name,
    parse_column,
)

Declaration = dict[str, Any]

FIELDS = ("Law", "Guarantee", "Variance", "Estimator", "Source")
TYPES = (
    "int32", "int64", "float", "double", "decimal(10,2)", "boolean", "string", "date", "timestamp", "timestamp_ntz",
    "binary", "array<float>", "array<double>",
)  # fmt: skip
SHORT = {"int32": "int", "int64": "int", "double": "float", "decimal(10,2)": "decimal", "timestamp_ntz": "timestamp"}

# ---- examples --------------------------------------------------------------------------------------------------------

LOCAL: Declaration = {"epsilon": 1.0, "bounds": [0, 100]}
_vector: Declaration = {"epsilon": 1.0, "clip_norm": 1.0, "dimension": 3}
_additive: list[Declaration] = [
    LOCAL, {**LOCAL, "granularity": 1}, {"epsilon": 1.0, "protect_distance": 1, "unit": "day"},
]  # fmt: skip
_category: list[Declaration] = [
    {"categories": [f"category {i}" for i in range(16)]}, {"categories": list(range(16))}, {},
]  # fmt: skip


def _each(more: Declaration, declarations: list[Declaration]) -> list[Declaration]:
    return [{**declaration, **more} for declaration in declarations]


# Declarations to plan, per mechanism: each on every type that takes it.
EXAMPLES: dict[str, list[Declaration]] = {
    "laplace": [*_additive, _vector],
    "discrete_laplace": _additive[1:],
    "gaussian": _each({"delta": 1e-6}, [*_additive, _vector]),
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
    "uniform": [{"scale": 1.0}, {"scale": 1.0, "unit": "day"}],
    "multiplicative_gaussian": [{"scale": 0.1}],
    **{name: [{"rate": 0.1}] for name in ("gaussian_dropout", "masking", "swap")},
    "impulse": [{"rate": 0.1, "bounds": [0, 100]}],
    **{name: _each({"rate": 0.1}, _category) for name in ("label_flip", "resampling", "pram")},
    "correlated_gaussian": [{"covariance": [[4.0]]}, {"covariance": [[4.0]], "granularity": 1}],
    "cell_key": [{"max_noise": 5, "variance": 3.0, "smallest": 1}],
    "dither": [{"step": 1.0}],
}
assert set(EXAMPLES) == set(MECHANISMS)


@dataclass(frozen=True)
class Entry:
    """One mechanism of the catalogue, on `plans`' source types. A name has two entries if arrays have a mechanism of their own."""

    name: str
    model: type[Noised]
    private: bool
    plans: tuple[ColumnPlan, ...]

    @property
    def example(self) -> ColumnPlan:
        """On doubles, if they take it."""
        return next((plan for plan in self.plans if plan.type.endswith(("double", "double>"))), self.plans[0])

    @property
    def mechanism(self) -> Any:
        """The example's."""
        return self.example.mechanism

    @property
    def title(self) -> str:
        return f"{self.name} on arrays" if self.on_arrays else self.name

    @property
    def on_arrays(self) -> bool:
        return self.example.type.startswith("array")

    @property
    def fields(self) -> dict[str, str]:
        """The paragraphs of the mechanism's docstring."""
        return docstring_fields(type(self.mechanism))


def catalogue() -> list[Entry]:
    """Every mechanism that a spec may ask for, in the order of the spec's models."""
    return [entry for model in MECHANISM_SPECS for entry in _entries(mechanism_name(model), model)]


def _entries(name: str, model: type[Noised]) -> Iterator[Entry]:
    private = issubclass(model, GUARANTEED) and model is not Uniform
    plans = [plan for kind in TYPES if (plan := _plan(name, kind, private)) is not None]
    for arrays in (False, True):
        chosen = tuple(plan for plan in plans if plan.type.startswith("array") == arrays)
        if chosen:
            yield Entry(name, model, private, chosen)


def _plan(name: str, kind: str, private: bool) -> ColumnPlan | None:
    """Of a column of that type, by the first of the name's examples that it takes."""
    context = Context("value", {"value": kind, "other": kind}, private)
    for declaration in EXAMPLES[name]:
        if ("dimension" in declaration) != kind.startswith("array"):
            continue
        declared = parse_column({"mechanism": name, **declaration})
        try:
            return plan_column(context, declared, name == "rappor")
        except ValueError:
            continue
    return None


def docstring_fields(kind: type) -> dict[str, str]:
    """Paragraphs `Law: ...` and so on of a class's docstring, each as one line; and its first line, as `Summary`."""
    text = inspect.cleandoc(kind.__doc__ or "")
    parts = re.split(rf"^({'|'.join(FIELDS)}): ", text, flags=re.MULTILINE)
    found = {"Summary": parts[0].strip().splitlines()[0]}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        found[name] = " ".join(body.split("\n\n")[0].split())
    return found


# ---- the page --------------------------------------------------------------------------------------------------------

HEAD = """# Mechanisms

Made by `make docs` from the code: what is said of a mechanism is its class's docstring; types and numbers are those of an
example, planned as a pipeline's column is. All of them draw from one keyed stream (AES-256), on a lattice, by arithmetic that is
exact or exactly rounded: equal inputs give equal bits on every machine.

- **guarantee**: that of the example, for one value. Examples have epsilon 1, delta 1e-6 where there is one, bounds [0, 100], 16
  categories, arrays of 3 components; rappor has f = 1/2, p = 1/2, q = 3/4.
- **draws**: blocks of 128 keyed bits for one value.
- **TV**: a bound on the total-variation distance between the law of one published value and the law as it is stated. Where there
  is a guarantee it is charged: a release's delta includes it.
- **rate**: million rows a second on one core, keyed, as `make bench` measured them; how, and beside what, is in
  [benchmarks.md](benchmarks.md).

Formulas are in the lattice's steps where they do not say otherwise. n Var is the variance of the estimate of a frequency times the
number of reports.
"""
PARAMETERS = """## Parameters

In the sections below **bold** parameters are required. Left out there, as they are alike everywhere: what is done with a value that
is missing or does not fit, `on_null`, on numbers `on_nan` and `on_infinite`, on categories `on_unknown`, on places `on_outside`.

Under purpose `privacy` additive noise takes `epsilon` (and `delta`) with either `bounds`, to which values are clipped, or
`protect_distance`, on arrays `clip_norm`; its scale follows. Under other purposes it takes a `scale`, or a `severity` of 1 to 5,
which may be `relative_to` a declared scale of the column. `granularity` is the lattice's step in the column's unit: by default a
power of two far below the scale, or the type's own unit where values are whole numbers of it.

What a `scale` is goes by the law: of `gaussian` and `discrete_gaussian` the standard deviation; of `laplace` and
`discrete_laplace` b in exp(-|k|/b), with a deviation of sqrt(2) b; of `uniform` the half-width, with a deviation of 1/sqrt(3) of
it; of `staircase` the sensitivity D of a staircase of epsilon 1; of `multiplicative_gaussian` sigma. Severities 1 to 5 are scales
of 0.08, 0.12, 0.18, 0.26 and 0.38 times `relative_to`, so one severity is not one deviation: the constants were made for
Gaussian noise. Of multiplicative noise they are sigma = 0.15, 0.2, 0.35, 0.45 and 0.6, and of what happens at a rate 0.03, 0.06,
0.09, 0.17 and 0.27.
"""
GUARANTEED_HEAD = """## With a guarantee

For purpose `privacy`. Additive noise is for the other purposes too, with a `scale`; it then guarantees nothing.
"""
FREE_HEAD = """## Without a guarantee

For purposes `microdata`, `augmentation`, `robustness` and `dither`; refused under `privacy`.
"""


def markdown(rates: dict[str, float]) -> str:
    """The page. `rates`: million rows a second of each mechanism, measured."""
    entries = catalogue()
    table = ["| mechanism | types | guarantee | draws | TV | rate |", "|---|---|---|---|---|---|"]
    lines = [HEAD, *table, *[_row(entry, rates) for entry in entries], "", PARAMETERS]
    for heading, private in ((GUARANTEED_HEAD, True), (FREE_HEAD, False)):
        lines.append(heading)
        lines += [line for entry in entries if entry.private == private for line in _section(entry)]
    return "\n".join(lines)


def _row(entry: Entry, rates: dict[str, float]) -> str:
    types = ", ".join(dict.fromkeys(SHORT.get(plan.type, plan.type) for plan in entry.plans if not entry.on_arrays))
    link = f"[{entry.title}](#{entry.title.replace(' ', '-')})"
    rate = f"{rates[entry.title]:.3g}" if entry.title in rates else ""
    guarantee = entry.example.guarantee or "none"
    return f"| {link} | {types or 'array'} | {guarantee} | {entry.mechanism.draws} | {_bound(entry)} | {rate} |"


def _bound(entry: Entry) -> str:
    """The distance, rounded up to a power of two."""
    return f"2^{math.ceil(math.log2(entry.mechanism.tv_bound))}"


def _section(entry: Entry) -> list[str]:
    fields, kind = entry.fields, type(entry.mechanism)
    about = " ".join((entry.model.__dict__.get("__doc__") or "").split())
    return [
        f"### {entry.title}",
        "",
        _text(fields["Summary"]),
        "",
        *[f"- **{name}**: {_text(fields[name])}" for name in FIELDS],
        f"- **Parameters**: {_parameters(entry)}. {'' if issubclass(entry.model, Additive) else about}".rstrip(),
        f"- **Types**: {_types(entry)}.",
        f"- **Class**: `{kind.__module__}.{kind.__name__}`",
        "",
    ]


def _text(line: str) -> str:
    """Of a docstring, so that Markdown shows its formulas as they are."""
    code = re.split(r"(`[^`]*`)", line)
    return "".join(part if part.startswith("`") else re.sub(r"([*<~])", r"\\\1", part) for part in code)


def _parameters(entry: Entry) -> str:
    hidden = {"mechanism"} | ({"bounds", "protect_distance", "unit"} if entry.on_arrays else {"clip_norm", "dimension"})
    if not entry.private:
        hidden |= {"epsilon", "protect_distance"}
    schema: dict[str, Any] = entry.model.model_json_schema()
    required = schema["required"]
    return ", ".join(
        (f"**`{name}`**" if name in required else f"`{name}`") + _range(about)
        for name, about in schema["properties"].items()
        if name not in hidden and not name.startswith("on_")
    )


def _range(schema: dict[str, Any]) -> str:
    """Of a parameter, where its JSON schema says more than a type."""
    kind = next((one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"), schema)
    if "enum" in kind:
        return f" ({' | '.join(kind['enum'])})"
    signs = {"exclusiveMinimum": ">", "minimum": ">=", "exclusiveMaximum": "<", "maximum": "<="}
    limits = [f"{sign} {kind[key]:g}" for key, sign in signs.items() if key in kind]
    return f" ({', '.join(limits)})" if len(limits) > 1 else ""


def _types(entry: Entry) -> str:
    """Source types, by what they are published as."""
    same = [f"`{plan.type}`" for plan in entry.plans if plan.type == plan.published_type]
    groups: dict[str, list[str]] = {}
    for plan in entry.plans:
        if plan.type != plan.published_type:
            groups.setdefault(plan.published_type, []).append(f"`{plan.type}`")
    parts = [f"{', '.join(same)}, published in the same type"] if same else []
    parts += [f"{', '.join(kinds)}, published as `{published}`" for published, kinds in groups.items()]
    return "; ".join(parts)


def read_rates(file: Path) -> dict[str, float]:
    """Million rows a second by mechanism, as the benchmark wrote them."""
    return {str(name): float(rate) for name, rate in json.loads(file.read_text("utf-8")).items()}


if __name__ == "__main__":
    rates, page = map(Path, sys.argv[1:])
    page.write_text(markdown(read_rates(rates)), "utf-8")
