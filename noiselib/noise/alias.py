"""Alias tables in exact integer arithmetic: one outcome from one 64-bit word, without a branch.

The alias method (Walker 1977; Vose 1991) splits a law over N cells of equal mass; a cell holds at most two outcomes,
its own index and its alias, and a coin decides between them. Here N is a power of two and the coin has 48 bits, so a
table is a law whose probabilities are multiples of 1/(N * 2^48), and it is sampled exactly: the only error is the
rounding of the ideal weights to those multiples. Tables are built with Python integers alone, so that they are the same
on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

COIN_BITS = 48
MAX_BITS = 13  # 8192 cells of 8 bytes: a table stays in a core's second-level cache
LOW = 64 - COIN_BITS


@dataclass(frozen=True, eq=False)
class AliasTable:
    """A law on 0..n-1, packed for sampling; see `alias_table`.

    bits:   log2 of the number N of cells, 0 to 13
    packed: uint64 (N,), read-only: threshold (48 bits) above alias (16 bits); a coin below the threshold keeps the
            cell's own index, another takes the alias
    """

    bits: int
    packed: NDArray[np.uint64] = field(repr=False)

    @property
    def tv_bound(self) -> float:
        """Total-variation distance from the ideal law, at most 2^-49.

        Largest-remainder rounding raises R of n <= N weights by less than a unit, those of the largest remainders; as
        all remainders sum to R, it moves at most R(1 - R/n) <= N/4 units of 1/(N * 2^48), that is 2^-50. The rest of
        2^-49 is room for weights that are given to 30 digits or more instead of exactly.
        """
        return 2.0**-49

    def pick(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """One outcome per word: int64 (n,) from uniform uint64 (n,).

        The cell is the word's low `bits`, the coin its top 48. Bits 13, 14 and 15 are never looked at: they are free.
        """
        cell = (words & np.uint64(len(self.packed) - 1)).view(np.int64)
        threshold = self.packed.take(cell)
        alias = (threshold & np.uint64(2**LOW - 1)).view(np.int64)
        threshold ^= alias.view(np.uint64)
        return np.where(words < threshold, cell, alias)  # compares coins: the threshold's low 16 bits are now zero

    def probabilities(self) -> list[Fraction]:
        """The law that `pick` draws from, exactly, cell by cell; N entries, of which the last may be 0."""
        mass = [0] * len(self.packed)
        for cell, entry in enumerate(self.packed.tolist()):
            threshold, alias = entry >> LOW, entry & (2**LOW - 1)
            mass[cell] += threshold
            mass[alias] += 2**COIN_BITS - threshold
        return [Fraction(m, len(mass) << COIN_BITS) for m in mass]


def alias_table(weights: Sequence[int]) -> AliasTable:
    """The table of the law proportional to `weights`, 1 to 8192 integers >= 0 of any size, not all 0.

    Raises ValueError for another number of weights, a negative one, or a sum of 0.
    """
    if not 1 <= len(weights) <= 2**MAX_BITS:
        raise ValueError(f"weights has {len(weights)} entries, expected 1 to {2**MAX_BITS}")
    if min(weights) < 0 or sum(weights) == 0:
        raise ValueError(f"weights has minimum {min(weights)} and sum {sum(weights)}, expected each >= 0, one > 0")
    bits = (len(weights) - 1).bit_length()
    padded = list(weights) + [0] * (2**bits - len(weights))
    packed = np.array(_vose(_round(padded, 2 ** (bits + COIN_BITS))), np.uint64)
    packed.flags.writeable = False
    return AliasTable(bits, packed)


def _round(weights: list[int], total: int) -> list[int]:
    """Integers proportional to `weights` that sum to `total`, by largest remainders; ties go to the lower index."""
    whole = sum(weights)
    shares = [w * total // whole for w in weights]
    remainders = [w * total % whole for w in weights]
    order = sorted(range(len(weights)), key=lambda i: -remainders[i])
    for i in order[: total - sum(shares)]:
        shares[i] += 1
    return shares


def _vose(mass: list[int]) -> list[int]:
    """Split masses that sum to N * 2^48 over N cells of 2^48: per cell threshold << 16 | alias. Consumes `mass`."""
    full = 2**COIN_BITS
    packed = list(range(len(mass)))  # a cell of one outcome: threshold 0, its own alias
    small = [i for i, m in enumerate(mass) if m < full]
    large = [i for i, m in enumerate(mass) if m > full]
    while small:
        cell, donor = small.pop(), large[-1]
        packed[cell] = mass[cell] << LOW | donor
        mass[donor] -= full - mass[cell]
        if mass[donor] <= full:
            large.pop()
        if mass[donor] < full:
            small.append(donor)
    return packed
