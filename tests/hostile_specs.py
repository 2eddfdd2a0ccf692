"""Specs that nobody should write: each mechanism on each type, with parameters that are nearly right, extreme or absurd."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from noiselib.column_spec import MECHANISM_SPECS, mechanism_name

TYPES = (
    "int32", "int64", "float", "double", "decimal(10,2)", "decimal(18,0)", "decimal(38,10)", "boolean", "string", "date",
    "timestamp", "timestamp_ntz", "array<double>", "array<float>", "int8", "binary",
)  # fmt: skip
WHOLE = st.sampled_from(
    [0, 1, 2, 3, 8, 10, 24, 50, 64, 256, 1024, 4096, 8192, -1, 2**31, 2**53, 2**63, 10**99, 10**200]
)
REAL = st.sampled_from(
    [0, 5e-324, 1e-300, 1e-100, 1e-30, 1e-9, 1e-5, 1e-3, 0.1, 0.5, 0.9, 1 - 2**-53, 1.0, 1.5, 3, 10, 49.9, 50, 1e3, 1e6, 2**31,
     2**53, 2**62, 2**63, 1e18, 1e30, 1e99, 1e100, 1e300, 10**200, -1, -1e18, -1e300]
)  # fmt: skip
ODD = st.sampled_from([None, True, "x", [], {}, [1], float("nan"), float("inf")])
ENDS = st.sampled_from(
    [[0, 1], [0, 100], [-10.5, 20.25], [-1e18, 1e18], [0, 1e-9], [1e15, 1e15 + 1], [-1e99, 1e99], [0, 5e-324], [-90, 90],
     [-(2**63), 2**63 - 1], [2**53, 2**53 + 1], [5, 5], [1, 0], [0], [0, 1, 2]]
)  # fmt: skip
GRIDS = st.sampled_from(
    [[[1, 0], [0, 1]], [[0.5, 0.5], [0.5, 0.5]], [[0.9, 0.1], [0.2, 0.8]], [[1]], [[]], [[2, -1], [0, 1]], [[1e99, 0], [0, 1e99]],
     [[1e-99, 0], [0, 1e-99]], [[1, 2], [2, 1]], [[0.3, 0.3], [0.3, 0.3]], [[1, 1, 1]]]
)  # fmt: skip
KNOWN: dict[str, st.SearchStrategy[Any]] = {
    "bounds": ENDS,
    "longitude_bounds": ENDS,
    "categories": st.sampled_from(
        [
            ["a", "b"],
            ["a", "b", "c"],
            [1, 2, 3],
            [True, False],
            ["a"],
            ["a", "a"],
            [*range(300)],
            "file:/nope",
            "file:/dev/null",
        ]
    ),
    "matrix": GRIDS,
    "covariance": GRIDS,
    "weights": st.sampled_from([[1, 1], [1, 2, 3], [0, 0], [-1, 2], [1e99, 1e99], [1e-99, 1], []]),
    "marginal": st.sampled_from(["estimated", [1, 1], [0.3, 0.7], [0, 1], [1e-99, 1], [-1, 2]]),
    "unit": st.sampled_from(["second", "minute", "hour", "day"]),
    "law": st.sampled_from(["rpdf", "tpdf", "gaussian"]),
    "longitude": st.just("y"),
    "with": st.sampled_from([["y"], [], ["x"], ["y", "y"]]),
    "severity": st.integers(0, 6),
    "value": st.sampled_from([None, 0, 1, "a", True, 1.5, 10**50]),
    **{name: st.booleans() for name in ("invariant", "subtractive", "keep_covariance")},
    **{name: st.sampled_from(["keep", "fail", "null"]) for name in ("on_null", "on_nan", "on_unknown", "on_outside")},
    "on_infinite": st.sampled_from(["fail", "clip", "null"]),
    **dict.fromkeys(("dimension", "buckets", "bits", "hashes", "cohorts", "max_noise", "smallest"), WHOLE),
}
ALTERNATIVES = (
    ("bounds", "protect_distance", "clip_norm"), ("scale", "severity"), ("rate", "severity", "matrix"), ("rate", "severity"),
    ("covariance", "share"), ("step", "bits"),
)  # fmt: skip


@st.composite
def columns(draw: st.DrawFn) -> dict[str, Any]:
    """One column's declaration: what its mechanism needs, some of what it may have, and rarely something absurd."""
    model = draw(st.sampled_from(MECHANISM_SPECS))
    names = {
        field.alias or name: field.is_required() for name, field in model.model_fields.items() if name != "mechanism"
    }
    chosen = {name for name, required in names.items() if required or draw(st.integers(0, 4)) == 0}
    for alternatives in ALTERNATIVES:  # mostly one of those that exclude each other
        possible = [name for name in alternatives if name in names]
        if len(possible) > 1 and draw(st.integers(0, 9)):
            chosen = chosen - set(possible) | {draw(st.sampled_from(possible))}
    column = {"mechanism": mechanism_name(model)}
    for name in sorted(chosen):
        column[name] = draw(ODD if draw(st.integers(0, 39)) == 0 else KNOWN.get(name, REAL))
    return column


@st.composite
def specs(draw: st.DrawFn) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """(a spec, its table's columns and types): one noised column, sometimes with another that it is noised with."""
    column = draw(columns())
    private = column.get("severity") is None and column.get("scale") is None and bool(draw(st.integers(0, 4)))
    if private and "epsilon" not in column and draw(st.booleans()):
        column["epsilon"] = draw(REAL)
    kind = draw(st.sampled_from(TYPES))
    named: dict[str, Any] = {"id": {"keep": "public"}, "x": column}
    schema = [("id", "int64"), ("x", kind)]
    if "longitude" in column or "with" in column:
        named["y"] = {"noised_with": "x"}
        schema.append(("y", draw(st.sampled_from([kind, "double"]))))
    spec: dict[str, Any] = {
        "version": 1, "pipeline": "p", "purpose": "privacy", "source": {"path": "in"}, "target": {"path": "out"},
        "row_key": ["id"], "columns": named, "key": "env:NOISE_KEY", "ledger": "sqlite:///ledger.db",
    }  # fmt: skip
    if private:
        most = draw(st.sampled_from([1, 2, 10, 1000, 10**6, 10**7]))
        unit = draw(st.sampled_from(["row", {"entity": ["id"], "max_rows": most}]))
        limit = {
            "epsilon": draw(st.sampled_from([1, 8.0, 1e99])),
            "delta": draw(st.sampled_from([1e-5, 0.999, 1e-100])),
        }
        spec["privacy"] = {"unit": unit, "budget": "b", "limit": limit}
        if draw(st.integers(0, 9)) == 0:
            spec["privacy"]["memoize"] = ["x"]
    else:
        spec["purpose"] = draw(st.sampled_from(["microdata", "augmentation", "robustness", "dither"]))
    return spec, schema
