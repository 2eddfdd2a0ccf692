"""Values per second of every law on one core, beside numpy.random: `python benchmarks/samplers.py`.

A keyed draw takes 1,048,576 rows of ready row tags and includes the AES of its words; numpy draws as many floats (or
integers) from Philox, its counter-based generator, and from PCG64, its default. The rounds are interleaved, so that a
busy moment of the machine meets all alike, and the median counts. No draw starts a thread, and the process is pinned to
one core where the system allows it.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable
from fractions import Fraction
from functools import partial

import numpy as np

from noiselib.noise import (
    Categorical,
    DiscreteGaussian,
    DiscreteLaplace,
    RoundedGaussian,
    RoundedLaplace,
    Stream,
    Uniform,
    derive,
    encode_bigint,
    row_tags,
)

ROWS = 1 << 20
ROUNDS = 9
Draws = dict[str, Callable[[], object]]


def keyed_stream() -> Stream:
    key = bytes(range(32))
    tags = row_tags(derive(key, "rows"), encode_bigint(np.arange(ROWS)))
    return Stream(derive(key, "column"), tags, np.arange(ROWS) % 1000)


def contestants() -> list[Draws]:
    """The draws to compare, by kind; the last two of each kind are numpy's."""
    stream = keyed_stream()
    philox, pcg = np.random.Generator(np.random.Philox(1)), np.random.Generator(np.random.PCG64(1))
    scales = {"2": Fraction(2), "2^20": Fraction(2**20), "2^40": Fraction(2**40)}
    kinds: list[Draws] = [{}, {}, {}]
    for name, scale in scales.items():
        kinds[0][f"DiscreteLaplace({name})"] = partial(DiscreteLaplace(scale).sample, stream)
        kinds[0][f"RoundedLaplace({name})"] = partial(RoundedLaplace(scale).sample, stream)
        kinds[1][f"DiscreteGaussian({name})"] = partial(DiscreteGaussian(scale).sample, stream)
        kinds[1][f"RoundedGaussian({name})"] = partial(RoundedGaussian(scale).sample, stream)
    for half_width in (2, 2**20):
        kinds[2][f"Uniform({half_width})"] = partial(Uniform(half_width).sample, stream)
    kinds[2]["Categorical of 100"] = partial(Categorical((Fraction(1, 100),) * 100).sample, stream)
    for name, generator in {"Philox": philox, "PCG64": pcg}.items():
        kinds[0][f"numpy {name}.laplace"] = partial(generator.laplace, 0.0, 2.0**20, ROWS)
        kinds[1][f"numpy {name}.normal"] = partial(generator.normal, 0.0, 2.0**20, ROWS)
        kinds[2][f"numpy {name}.integers"] = partial(generator.integers, -(2**20), 2**20 + 1, ROWS)
    return kinds


def seconds(draw: Callable[[], object]) -> float:
    begin = time.perf_counter()
    draw()
    return time.perf_counter() - begin


def medians(draws: Draws) -> dict[str, float]:
    """Seconds per draw, over interleaved rounds; the first, which builds the tables, is not counted."""
    rounds = [{name: seconds(draw) for name, draw in draws.items()} for _ in range(ROUNDS + 1)]
    return {name: statistics.median(r[name] for r in rounds[1:]) for name in draws}


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    kinds = contestants()
    took = medians({name: draw for kind in kinds for name, draw in kind.items()})
    print(
        f"numpy {np.__version__}, Python {platform.python_version()}, one core, {ROWS:,} values, median of {ROUNDS}\n"
    )
    print(f"{'':26}{'M values/s':>11}{'ns/value':>10}{'x Philox':>10}{'x PCG64':>9}")
    for kind in kinds:
        philox, pcg = (took[name] for name in list(kind)[-2:])
        for name in kind:
            rate, each = ROWS / took[name] / 1e6, took[name] / ROWS * 1e9
            print(f"{name:26}{rate:11.1f}{each:10.1f}{philox / took[name]:10.2f}{pcg / took[name]:9.2f}")
        print()


if __name__ == "__main__":
    main()
