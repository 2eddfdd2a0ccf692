"""One table with a column for every mechanism, and the pipelines that noise it: each mechanism as its users would ask for it."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from small_pipeline import Answer, Small, write_fixed_key

ROWS = 6000
PLANS = ["basic", "plus", "pro", "team"]
WEIGHTS = [0.5, 0.3, 0.15, 0.05]
EPOCH = datetime(2024, 1, 1, tzinfo=UTC)

NUMBER = {"epsilon": 2.0, "bounds": [0, 100]}
CATEGORY = {"epsilon": 2.0, "categories": PLANS}
PRIVATE: dict[str, tuple[str, dict[str, Any]]] = {  # column: (kind of values, its declaration)
    "laplace": ("double", {"mechanism": "laplace", **NUMBER}),
    "gaussian": ("double", {"mechanism": "gaussian", "delta": 1e-6, **NUMBER}),
    "discrete_laplace": ("int", {"mechanism": "discrete_laplace", **NUMBER}),
    "discrete_gaussian": ("int", {"mechanism": "discrete_gaussian", "delta": 1e-6, **NUMBER}),
    "staircase": ("double", {"mechanism": "staircase", **NUMBER}),
    "staircase_int": ("int", {"mechanism": "staircase", **NUMBER, "granularity": 1}),
    "duchi": ("double", {"mechanism": "duchi", **NUMBER}),
    "piecewise": ("double", {"mechanism": "piecewise", **NUMBER}),
    "hybrid": ("int", {"mechanism": "hybrid", **NUMBER}),
    "one_bit_mean": ("int", {"mechanism": "one_bit_mean", **NUMBER}),
    "square_wave": ("double", {"mechanism": "square_wave", **NUMBER}),
    "randomized_response": ("category", {"mechanism": "randomized_response", **CATEGORY}),
    "sue": ("category", {"mechanism": "sue", **CATEGORY}),
    "oue": ("category", {"mechanism": "oue", **CATEGORY}),
    "local_hashing": ("category", {"mechanism": "local_hashing", **CATEGORY}),
    "hadamard_response": ("category", {"mechanism": "hadamard_response", **CATEGORY}),
    "subset_selection": ("category", {"mechanism": "subset_selection", **CATEGORY}),
    "rappor": ("category", {"mechanism": "rappor", "f": 0.25, "p": 0.35, "q": 0.65, "categories": PLANS}),
    "rappor_bloom": (
        "category",
        {"mechanism": "rappor", "f": 0.25, "p": 0.35, "q": 0.65, "categories": PLANS, "hashes": 2, "bits": 16, "cohorts": 4},
    ),
    "vector_l2": ("vector", {"mechanism": "gaussian", "epsilon": 2.0, "delta": 1e-6, "clip_norm": 2.0, "dimension": 3}),
    "vector_l1": ("vector", {"mechanism": "laplace", "epsilon": 2.0, "clip_norm": 3.0, "dimension": 3}),
    "latitude": (
        "latitude",
        {"mechanism": "planar_laplace", "longitude": "longitude", "epsilon": 2.0, "protect_distance": 500,
         "bounds": [40.4, 41.0], "longitude_bounds": [-74.3, -73.6]},
    ),
    "longitude": ("longitude", {"noised_with": "latitude"}),
    "seen": ("timestamp", {"mechanism": "laplace", "epsilon": 2.0, "protect_distance": 6, "unit": "hour"}),
    "joined": ("date", {"mechanism": "discrete_laplace", "epsilon": 2.0, "protect_distance": 7, "unit": "day"}),
}  # fmt: skip
FREE: dict[str, tuple[str, dict[str, Any]]] = {
    "uniform": ("double", {"mechanism": "uniform", "scale": 5.0}),
    "relative": ("double", {"mechanism": "gaussian", "severity": 3, "relative_to": 30.0}),
    "multiplicative": ("double", {"mechanism": "multiplicative_gaussian", "scale": 0.2}),
    "gaussian_dropout": ("int", {"mechanism": "gaussian_dropout", "rate": 0.1}),
    "masking": ("double", {"mechanism": "masking", "rate": 0.2}),
    "masked_text": ("category", {"mechanism": "masking", "severity": 4, "value": "unknown"}),
    "impulse": ("double", {"mechanism": "impulse", "rate": 0.2, "bounds": [0, 100]}),
    "swap": ("double", {"mechanism": "swap", "rate": 0.3}),
    "label_flip": ("category", {"mechanism": "label_flip", "rate": 0.2, "categories": PLANS}),
    "resampling": ("category", {"mechanism": "resampling", "rate": 0.2, "categories": PLANS, "weights": [1, 1, 1, 3]}),
    "vector": ("vector", {"mechanism": "gaussian", "scale": 0.5, "dimension": 3}),
}
MICRODATA: dict[str, tuple[str, dict[str, Any]]] = {
    "additive": ("double", {"mechanism": "gaussian", "scale": 0.3, "relative_to": 30.0}),
    "kept": ("double", {"mechanism": "correlated_gaussian", "with": ["kept_too"], "share": 0.5, "keep_covariance": True,
                        "granularity": 0.001}),
    "kept_too": ("double", {"noised_with": "kept"}),
    "given": ("int", {"mechanism": "correlated_gaussian", "with": ["given_too"], "covariance": [[25, 20], [20, 25]]}),
    "given_too": ("int", {"noised_with": "given"}),
    "pram": ("category", {"mechanism": "pram", "rate": 0.3, "categories": PLANS}),
    "invariant": ("category", {"mechanism": "pram", "rate": 0.3, "categories": PLANS, "invariant": True}),
    "declared": (
        "category", {"mechanism": "pram", "rate": 0.3, "categories": PLANS, "invariant": True, "marginal": WEIGHTS}
    ),
    "cell": ("count", {"mechanism": "cell_key", "max_noise": 5, "variance": 3.0, "smallest": 1}),
}  # fmt: skip
DITHER: dict[str, tuple[str, dict[str, Any]]] = {
    "tpdf": ("double", {"mechanism": "dither", "step": 2.0}),
    "rpdf": ("double", {"mechanism": "dither", "law": "rpdf", "bits": 6, "bounds": [0, 128]}),
    "subtractive": ("double", {"mechanism": "dither", "law": "rpdf", "subtractive": True, "step": 4.0}),
    "whole": ("int", {"mechanism": "dither", "step": 10}),
    "bell": ("double", {"mechanism": "dither", "law": "gaussian", "step": 2.0}),
}
PURPOSES = {"privacy": PRIVATE, "augmentation": FREE, "microdata": MICRODATA, "dither": DITHER}
CLAIMS = ("privacy",)


def values(kind: str, random: np.random.Generator, size: int = ROWS) -> pa.Array:
    """The true values of a column of that kind."""
    match kind:
        case "double":
            return pa.array(np.clip(random.normal(40, 15, size), 0, 100))
        case "int":
            return pa.array(np.clip(random.normal(40, 15, size), 0, 100).astype(np.int64))
        case "count":
            return pa.array(random.poisson(3, size), pa.int32())
        case "category":
            return pa.array(random.choice(PLANS, size, p=WEIGHTS))
        case "vector":
            return pa.array(list(random.normal(0.5, 0.4, (size, 3)).astype(np.float32)), pa.list_(pa.float32()))
        case "latitude":
            return pa.array(random.uniform(40.5, 40.9, size))
        case "longitude":
            return pa.array(random.uniform(-74.2, -73.7, size))
        case "timestamp":
            moments = [EPOCH + timedelta(seconds=int(s)) for s in random.integers(0, 10**7, size)]
            return pa.array(moments, pa.timestamp("us", "UTC"))
        case "date":
            return pa.array([date(2024, 1, 1) + timedelta(days=int(d)) for d in random.integers(0, 365, size)])
    raise AssertionError(kind)


def make_pipeline(home: Path, purpose: str, size: int = ROWS) -> Small:
    """A pipeline of that purpose with a column for each of its mechanisms, over two days of `size` rows in all."""
    from noiselib.ledger import Ledger

    columns = PURPOSES[purpose]
    spec: dict[str, Any] = {
        "version": 1,
        "pipeline": f"every_{purpose}",
        "purpose": purpose,
        "source": {"path": str(home / "source"), "partition_by": ["day"]},
        "target": {"path": str(home / "published")},
        "row_key": ["day", "id"],
        "columns": {"day": {"keep": "public"}, "id": {"keep": "public"}, **{n: d for n, (_, d) in columns.items()}},
        "key": f"file:{home / 'noise.key'}",
    }
    if purpose in CLAIMS:
        spec["privacy"] = {"unit": "row", "budget": "every", "limit": {"epsilon": 200.0, "delta": 1e-3}}
        spec["ledger"] = f"sqlite:///{home / 'ledger.db'}"
        Ledger.create(spec["ledger"]).close()
    write_fixed_key(home / "noise.key")
    pipeline = Small(home, spec)
    random = np.random.default_rng(20130101)
    for day in (1, 2):
        table = {"id": pa.array(range(size // 2)), **{n: values(k, random, size // 2) for n, (k, _) in columns.items()}}
        pipeline.write_partition(day, pa.table(table))
    pipeline.spec_file.write_text(json.dumps(spec))  # JSON is YAML, without anchors for what is shared
    return pipeline


def succeeded(answer: Answer) -> Answer:
    assert answer.code == 0, answer.err
    return answer
