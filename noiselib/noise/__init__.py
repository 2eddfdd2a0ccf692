"""Noise on the integers: keyed words (`stream`), alias tables (`alias`) and the laws drawn from them (`discrete`).

>>> import numpy as np
>>> from fractions import Fraction
>>> key = bytes(32)  # in earnest, 32 random bytes
>>> tags = row_tags(derive(key, "rows"), encode_bigint(np.array([17, 18, 19])))
>>> column = Stream(derive(key, "delay"), tags, np.array([250, 0, -75]))
>>> DiscreteLaplace(Fraction(10)).sample(column).tolist()
[-3, 8, -1]
"""

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
