"""Partition selection against its recursion in exact arithmetic, and against what its guarantee allows."""

import itertools
import math
from fractions import Fraction

import mpmath
import pytest

from noiselib.mechanisms.selection import PartitionSelection

SETTINGS = [(math.log(2), 0.1), (1.0, 1e-5), (0.1, 1e-10), (5.0, 1e-3), (1e-3, 0.2), (0.01, 1e-15), (40.0, 1e-9)]


def recursion(epsilon: float, delta: float, most: int) -> list[float]:
    """p(0), p(1), ... at 50 digits, until it is 1."""
    with mpmath.workdps(50):
        grow, d, p = mpmath.exp(epsilon), mpmath.mpf(delta), [mpmath.mpf(0)]
        while p[-1] < 1 and len(p) <= most:
            p.append(min(grow * p[-1] + d, 1 - (1 - p[-1] - d) / grow, mpmath.mpf(1)))
        return [float(x) for x in p]


@pytest.mark.parametrize(("epsilon", "delta"), SETTINGS)
def test_closed_form_is_the_recursion(epsilon, delta):
    selection = PartitionSelection(epsilon, delta)
    truth = recursion(epsilon, delta, 20_000)
    told = [selection.keep_probability(n) for n in range(len(truth))]
    assert told == pytest.approx(truth, rel=1e-11)
    assert selection.keep_probability(len(truth) + 10**6) == 1.0


@pytest.mark.parametrize(("epsilon", "delta"), SETTINGS[:-1])  # floats cannot tell 1 - e^-40 from 1
def test_neighbouring_sizes_are_within_the_guarantee_and_as_far_apart_as_it_allows(epsilon, delta):
    selection = PartitionSelection(epsilon, delta)
    kept = [selection.keep_probability(n) for n in range(3000)]
    for before, after in itertools.pairwise(kept):
        room = min(
            math.exp(epsilon) * before + delta - after,  # keeping, one unit more
            math.exp(epsilon) * (1 - after) + delta - (1 - before),  # dropping, one unit less
        )
        assert room >= -1e-12
        assert room <= 1e-12 * math.exp(epsilon) or after == 1.0


def test_shares_compose_to_the_whole():
    selection = PartitionSelection(1.0, 1e-3, groups=7)
    epsilon, delta = selection.share
    assert epsilon == pytest.approx(1 / 7)
    assert 1 - (1 - delta) ** 7 == pytest.approx(1e-3, rel=1e-12)
    assert selection.keep_probability(3) == PartitionSelection(epsilon, delta).keep_probability(3)


def test_exact_values():
    """epsilon = ln 2, delta = 1/10: 0, 1/10, 3/10, 7/10, 9/10, 1."""
    selection = PartitionSelection(math.log(2), 0.1)
    exact = [Fraction(n, 10) for n in (0, 1, 3, 7, 9, 10, 10)]
    assert [selection.keep_probability(n) for n in range(7)] == pytest.approx([float(p) for p in exact], rel=1e-14)


@pytest.mark.parametrize("call", [
    lambda: PartitionSelection(0.0, 0.1),
    lambda: PartitionSelection(1.0, 0.0),
    lambda: PartitionSelection(1.0, 1.0),
    lambda: PartitionSelection(1.0, 0.1, groups=0),
    lambda: PartitionSelection(1.0, 0.1).keep_probability(-1),
])  # fmt: skip
def test_out_of_range(call):
    with pytest.raises(ValueError, match="expected"):
        call()
