"""Uniform integers and coins from words: what samplers of finite laws are built of. Integer arithmetic throughout."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

COIN = 2**-64  # distance from its ideal law of a coin thrown with one word


def uniform_below(words: Words, bound: int | Ints) -> Ints:
    """Uniform on 0..bound-1: floor(U bound / 2^96), U the 96 bits of `words` uint64 (n, 2) that are used.

    bound: 1 to 2^32 - 1, one number or one a row. The multiply-and-shift of Lemire 2019 without its rejection: every
    integer has floor or ceil of 2^96/bound words, so the total-variation distance is below bound/2^96 < 2^-64.
    """
    size, half = np.asarray(bound).astype(np.uint64), np.uint64(32)
    product = words[:, 1] >> half  # schoolbook, 32 bits at a time: no sum passes 2^64, as size < 2^32
    product *= size
    product >>= half
    product += (words[:, 0] & np.uint64(2**32 - 1)) * size
    product >>= half
    product += (words[:, 0] >> half) * size
    product >>= half
    return product.view(np.int64)


def coin(words: Words, probability: Fraction) -> NDArray[np.bool_]:
    """True with `probability`, 0 to 1, rounded down to a multiple of 2^-64: bool (n,) from uniform uint64 (n,)."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability={probability}, expected 0 <= probability <= 1")
    if probability == 1:
        return np.ones(words.shape, np.bool_)
    heads: NDArray[np.bool_] = words < np.uint64(math.floor(probability * 2**64))
    return heads


def low_probability(epsilon: Fraction, high: int, low: int) -> Fraction:
    """q such that `low` outcomes of probability q and `high` ones of p = (1 - low q) / high give p/q <= e^epsilon, just.

    That is 1 / (high e^epsilon + low), rounded up in its 60th bit, by decimals: the same number everywhere.
    """
    with localcontext() as context:
        context.prec = 80
        inverse = high * (Decimal(epsilon.numerator) / Decimal(epsilon.denominator)).exp() + low
        bits = 60 + int(inverse).bit_length()
        return Fraction(math.ceil(2**bits / inverse), 2**bits)
