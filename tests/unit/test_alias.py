"""Alias tables: their exact law, and that `pick` draws from it."""

from __future__ import annotations

import hashlib
import random
from fractions import Fraction

import numpy as np
import pytest

from noiselib.noise import AliasTable, alias_table
from noiselib.noise.alias import COIN_BITS


def examples() -> list[list[int]]:
    rng = random.Random(20201)
    return [
        [1],
        [0, 7],
        [1, 2],
        [1] * 5,
        [10**60, 1],
        [1 << i for i in range(200)],
        [rng.randrange(10**40) for _ in range(1000)],
        [int(10**50 * rng.random() ** 20) for _ in range(8192)],
    ]


def exact_tv(weights: list[int], table: AliasTable) -> Fraction:
    total = sum(weights)
    padded = weights + [0] * (2**table.bits - len(weights))
    pairs = zip(padded, table.probabilities(), strict=True)
    return sum((abs(Fraction(w, total) - p) for w, p in pairs), Fraction(0)) / 2


@pytest.mark.parametrize("weights", examples(), ids=lambda weights: f"{len(weights)} outcomes")
def test_the_table_is_within_its_bound_of_the_weights(weights: list[int]):
    table = alias_table(weights)
    assert sum(table.probabilities()) == 1
    assert exact_tv(weights, table) <= Fraction(1, 2**50) < table.tv_bound
    unit = Fraction(1, 2 ** (table.bits + COIN_BITS))
    assert all(abs(Fraction(w, sum(weights)) - p) < unit for w, p in zip(weights, table.probabilities(), strict=False))


@pytest.mark.parametrize("weights", [[1, 3], [0, 5, 11], [2**49 - 1, 1], [3, 1, 0, 4], [1] * 8192])
def test_multiples_of_the_unit_are_exact(weights: list[int]):
    assert exact_tv(weights, alias_table(weights)) == 0


def test_an_impossible_outcome_stays_impossible():
    weights = [0, 5, 0, 10**12, 3, 0]
    assert [p == 0 for p in alias_table(weights).probabilities()] == [True, False, True, False, False, True, True, True]


def test_remainders_that_tie_go_to_the_lower_index():
    units = [p * 2 ** (2 + COIN_BITS) for p in alias_table([1, 1, 1]).probabilities()]
    share = 2**50 // 3
    assert units == [share + 1, share, share, 0]


@pytest.mark.parametrize("weights", [[1], [1, 2], [3, 1, 5], list(range(1, 1001))], ids=len)
def test_pick_keeps_the_cell_exactly_below_its_threshold(weights: list[int]):
    """The last coin that keeps each cell and the first that does not: with them, `pick` is `probabilities`."""
    table = alias_table(weights)
    cells = np.arange(2**table.bits)
    thresholds, aliases = table.packed >> np.uint64(16), (table.packed & np.uint64(0xFFFF)).astype(np.int64)
    below, at = np.maximum(thresholds, np.uint64(1)) - np.uint64(1), thresholds
    for unused in (0, 0xFFFF & ~(2**table.bits - 1)):
        low = cells.view(np.uint64) | np.uint64(unused)
        kept = table.pick(below << np.uint64(16) | low)
        np.testing.assert_array_equal(kept, np.where(thresholds > 0, cells, aliases))
        np.testing.assert_array_equal(table.pick(at << np.uint64(16) | low), aliases)
        np.testing.assert_array_equal(table.pick(np.uint64(2**48 - 1) << np.uint64(16) | low), aliases)


def test_pick_reads_strided_words():
    table = alias_table([5, 1, 7])
    words = np.random.default_rng(1).integers(0, 2**64, (1000, 2), np.uint64)
    np.testing.assert_array_equal(table.pick(words[:, 1]), table.pick(words[:, 1].copy()))


def test_the_table_is_pinned():
    table = alias_table([i * i * i % 1009 for i in range(3000)])
    assert (
        hashlib.sha256(table.packed.astype("<u8").tobytes()).hexdigest()
        == "129800d0255ff00670b31b06682b74b85b977e08175b51f9ed077a463f1e7615"
    )


def test_a_table_is_read_only():
    with pytest.raises(ValueError, match="read-only"):
        alias_table([1, 2]).packed[0] = 0


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([], "weights has 0 entries, expected 1 to 8192"),
        ([1] * 8193, "weights has 8193 entries"),
        ([3, -1], "weights has minimum -1 and sum 2, expected each >= 0"),
        ([0, 0], "weights has minimum 0 and sum 0"),
    ],
)
def test_errors_name_parameter_value_and_expectation(weights: list[int], message: str):
    with pytest.raises(ValueError, match=message):
        alias_table(weights)
