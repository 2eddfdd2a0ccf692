"""Searches over one number: the inverse of a falling curve, its least sum with a rising one, the smallest decimal."""

from __future__ import annotations

from collections.abc import Callable


def inverse(delta_of: Callable[[float], float], delta: float) -> float:
    """The smallest epsilon >= 0, to the last bits, at which a non-increasing delta_of is at most `delta`."""
    if delta_of(0.0) <= delta:
        return 0.0
    low, high = 0.0, 1.0
    while delta_of(high) > delta:
        low, high = high, 2 * high
    while high - low > 1e-14 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if delta_of(middle) <= delta else (middle, high)
    return high


def least(function: Callable[[float], float], high: float) -> float:
    """About where a function that falls and then rises is least in [0, high]."""
    low = 0.0
    for _ in range(40):
        third = (high - low) / 3
        low, high = (low, high - third) if function(low + third) <= function(high - third) else (low + third, high)
    return high


def smallest_decimal(enough: Callable[[float], bool]) -> float:
    """The smallest positive decimal of 6 significant digits for which a monotone condition holds.

    Searching among decimals, and not among floats, absorbs the last bits in which machines differ.
    """
    exponent = 0
    while not enough(10.0**exponent):
        exponent += 1
    while exponent > -300 and enough(float(f"1e{exponent - 1}")):
        exponent -= 1
    low, high = 99_999, 1_000_000  # times 10^(exponent - 6): not enough, enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(float(f"{middle}e{exponent - 6}")) else (middle, high)
    return float(f"{high}e{exponent - 6}")
