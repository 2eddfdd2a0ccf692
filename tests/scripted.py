"""Streams whose words are chosen, so that a sampler's law is enumerated exactly, word by word, in Fractions.

A block of a stream (its use, its counter) is given as choices ((word 0, word 1), probability), one for each way the
sampler can see it. `law` runs the sampler once over all combinations.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from decimal import Decimal, localcontext
from fractions import Fraction
from typing import Any

import numpy as np

from noiselib.noise.alias import AliasTable

Words = list[tuple[int, Fraction]]
Blocks = list[tuple[tuple[int, int], Fraction]]
Law = dict[Any, Fraction]


class Scripted:
    """Reads like a Stream; a block that was not announced raises KeyError."""

    def __init__(self, blocks: Mapping[tuple[str, int], np.ndarray], values: np.ndarray, name: str = "") -> None:
        self.blocks, self.values, self.name = blocks, values, name

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> Scripted:
        return Scripted({key: words[rows] for key, words in self.blocks.items()}, self.values[rows], self.name)

    def use(self, name: str, values: np.ndarray | None = None) -> Scripted:
        return Scripted(self.blocks, self.values if values is None else values, name)

    def words(self, counter: int, rows: Any = None) -> np.ndarray:
        words = self.blocks[self.name, counter]
        return words.copy() if rows is None else words[rows]


def law(
    perturb: Callable[[np.ndarray, Scripted], np.ndarray], point: int, blocks: Mapping[tuple[str, int], Blocks]
) -> Law:
    """P(code) for one point, over all combinations of the blocks' choices."""
    combinations = list(itertools.product(*blocks.values()))
    script = {
        key: np.array([choice[i][0] for choice in combinations], np.uint64).reshape(-1, 2)
        for i, key in enumerate(blocks)
    }
    points = np.full(len(combinations), point)
    codes = perturb(points, Scripted(script, points))
    found: Law = defaultdict(Fraction)
    for code, choice in zip(codes.tolist(), combinations, strict=True):
        found[tuple(code) if isinstance(code, list) else code] += math.prod((p for _, p in choice), start=Fraction(1))
    assert sum(found.values()) == 1
    return found


# ---- ways to see a word or a block


def of_table(table: AliasTable) -> Words:
    """Below and from each cell's threshold."""
    words = []
    for cell, entry in enumerate(table.packed.tolist()):
        threshold, unit = entry >> 16, Fraction(1, 2**48 * len(table.packed))
        if threshold:
            words.append(((threshold - 1) << 16 | cell, threshold * unit))
        words.append((threshold << 16 | cell, (2**48 - threshold) * unit))
    return words


def of_coin(probability: Fraction) -> Words:
    heads = Fraction(math.floor(probability * 2**64), 2**64)
    return [(0, heads), (2**64 - 1, 1 - heads)]


def of_bit(words: Words, bit: int) -> Words:
    """The same words with a fair bit that was 0."""
    return [(word | value << bit, p / 2) for word, p in words for value in (0, 1)]


def of_bits(count: int) -> Words:
    return [(word, Fraction(1, 2**count)) for word in range(2**count)]


def below(bound: int) -> Blocks:
    """The results of uniform_below: 96 bits, the first word's above half of the second's."""
    starts = [-(-(t << 96) // bound) for t in range(bound + 1)]
    return [((u >> 32, (u & 2**32 - 1) << 32), Fraction(after - u, 2**96)) for u, after in itertools.pairwise(starts)]


def both(first: Words, second: Words | None = None) -> Blocks:
    return [((a, b), p * q) for a, p in first for b, q in second or [(0, Fraction(1))]]


# ---- what is asked of laws


def distance(found: Law, ideal: Law) -> Fraction:
    """Total variation."""
    return sum((abs(found.get(o, Fraction(0)) - ideal.get(o, Fraction(0))) for o in {*found, *ideal}), Fraction(0)) / 2


def excess(one: Law, other: Law, epsilon: float | Fraction) -> Fraction:
    """The delta at epsilon that one law has against another; e^epsilon is rounded down."""
    power = power_of_e(epsilon)
    return sum((max(Fraction(0), p - power * other.get(o, Fraction(0))) for o, p in one.items()), Fraction(0))


def power_of_e(epsilon: float | Fraction) -> Fraction:
    """e^epsilon, a float being what it is written as, rounded down, to 80 digits."""
    number = Fraction(repr(epsilon)) if isinstance(epsilon, float) else Fraction(epsilon)
    with localcontext() as context:
        context.prec = 100
        return Fraction((Decimal(number.numerator) / Decimal(number.denominator)).exp()) * (1 - Fraction(1, 10**80))


def check_oracle(oracle: Any, laws: list[Law], ideals: list[Law]) -> None:
    """Of a frequency oracle: its distance from its ideal laws, its privacy, its estimator's mean and variance."""
    for one, ideal in zip(laws, ideals, strict=True):
        assert sum(ideal.values()) == 1
        assert distance(one, ideal) <= oracle.tv_bound
    slack = oracle.event().slack
    for a, b in itertools.permutations(range(len(laws)), 2):
        assert excess(ideals[a], ideals[b], oracle.epsilon) == 0
        assert all(p <= power_of_e(oracle.epsilon) * ideals[b][o] for o, p in ideals[a].items())
        assert excess(laws[a], laws[b], oracle.epsilon) <= slack
    for x, one in enumerate(laws):
        weights = oracle.weights(np.array(list(one)))
        chances = np.array([float(p) for p in one.values()])
        np.testing.assert_allclose(chances @ weights, np.arange(len(laws)) == x, atol=1e-9)
        squares = chances @ weights**2
        np.testing.assert_allclose(squares[x] - 1, oracle.frequency_variance(1.0), rtol=1e-9, atol=1e-12)
        if getattr(oracle, "blocks", 1) == 1:
            np.testing.assert_allclose(np.delete(squares, x), oracle.frequency_variance(0.0), rtol=1e-9)
