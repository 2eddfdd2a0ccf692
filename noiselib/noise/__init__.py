"""Noise on the integers: keyed words (`stream`), alias tables (`alias`) and the laws drawn from them (`discrete`)."""

from noiselib.noise.alias import AliasTable, alias_table
from noiselib.noise.discrete import (
    Categorical,
    DiscreteGaussian,
    DiscreteLaplace,
    RoundedGaussian,
    RoundedLaplace,
    Uniform,
)
from noiselib.noise.stream import Stream, derive, encode_bigint, row_tags

__all__ = [
    "AliasTable",
    "Categorical",
    "DiscreteGaussian",
    "DiscreteLaplace",
    "RoundedGaussian",
    "RoundedLaplace",
    "Stream",
    "Uniform",
    "alias_table",
    "derive",
    "encode_bigint",
    "row_tags",
]
