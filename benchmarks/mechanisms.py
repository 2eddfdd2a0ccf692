"""Million rows a second of every mechanism on one core, beside numpy.random and opendp: `python benchmarks/mechanisms.py`.

The mechanisms are the examples of the catalogue, on 1,048,576 rows whose tags are ready: the time is that of the stream's words
(AES-256), the noise, and its sum with the value. The tags are measured by themselves. numpy does to float values what comes
nearest, by its default generator, with no key, no lattice and no claim about bits; opendp, where `.venv-bench` has it, runs in a
process of its own. The rounds of all are interleaved, and medians count. Writes rates.json, which docs/mechanisms.md shows.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noiselib.encoding import Categories, Lattice, Places, RowCount, Vectors
from noiselib.mechanisms import CorrelatedGaussian, Rappor
from noiselib.noise import Stream, derive, encode_bigint, row_tags
from noiselib.report.catalogue import catalogue

HERE = Path(__file__).parent
PEER = HERE.parent / ".venv-bench" / "bin" / "python"
ROWS = 1 << 20
ROUNDS = 15
OPENDP_ROUNDS = 5  # of them: it is slow, and steady
MASTER = bytes(range(32))
TAGS = "row tags"
Ints = NDArray[np.int64]
Draws = dict[str, Callable[[], object]]


# ---- noiselib --------------------------------------------------------------------------------------------------------


def tags() -> NDArray[np.uint64]:
    return row_tags(derive(MASTER, "rows"), encode_bigint(np.arange(ROWS)))


def ours() -> Draws:
    ready = tags()
    draws: Draws = {
        entry.title: partial(perturb, entry.mechanism, points_of(entry.example.points), ready) for entry in catalogue()
    }
    return draws | {TAGS: tags}


def perturb(mechanism: Any, points: Ints, ready: NDArray[np.uint64]) -> Ints:
    """As noiselib.spark.kernel does it for a column of one release."""
    bound = points.ndim == 1 and not isinstance(mechanism, CorrelatedGaussian)
    values = points if bound else np.zeros(ROWS, np.int64)
    streams = [Stream(derive(MASTER, "column"), ready, values)]
    if isinstance(mechanism, Rappor):
        streams.append(Stream(derive(MASTER, "permanent"), ready, values))
    codes: Ints = mechanism.perturb(points, *streams)
    return codes


def points_of(kind: object) -> Ints:
    """Values all over the example's range."""
    random = np.random.default_rng(1)
    match kind:
        case Categories(values):
            return random.integers(0, len(values), ROWS)
        case Lattice(lower=lower, upper=upper):
            return random.integers(max(lower, -(2**31)), min(upper, 2**31), ROWS)
        case Vectors(dimension=dimension):
            return random.integers(-1000, 1000, (ROWS, dimension))
        case Places():
            return random.integers(-(2**20), 2**20, ROWS) * 2**32 + random.integers(0, 2**20, ROWS)
        case RowCount():
            return np.full(ROWS, ROWS)
    return np.zeros(ROWS, np.int64)


# ---- numpy -----------------------------------------------------------------------------------------------------------


def numpys() -> Draws:
    """What comes nearest to a mechanism, where something does; parameters as those of the examples."""
    g, n, k = np.random.default_rng(1), ROWS, 16
    x, label, p = g.random(n) * 100, g.integers(0, k, n), math.e / (math.e + k - 1)
    vectors, bits = g.random((n, 3)), np.eye(k, dtype=bool)
    law = np.full(k, 1 / k)

    def respond(keep: float) -> Ints:
        return np.where(g.random(n) < keep, label, (label + g.integers(1, k, n)) % k)

    def unary(p: float, q: float) -> NDArray[np.bool_]:
        parts = np.split(label, n >> 15)  # all at once takes as long again for pages of memory
        return np.concatenate([g.random((len(part), k)) < np.where(bits[part], p, q) for part in parts])

    return {
        "laplace": lambda: x + g.laplace(0, 100, n),
        "laplace on arrays": lambda: vectors + g.laplace(0, 2, (n, 3)),
        "discrete_laplace": lambda: x + (g.geometric(0.01, n) - g.geometric(0.01, n)),
        "gaussian": lambda: x + g.normal(0, 422, n),
        "gaussian on arrays": lambda: vectors + g.normal(0, 8.4, (n, 3)),
        "discrete_gaussian": lambda: x + np.rint(g.normal(0, 422, n)),
        "duchi": lambda: g.random(n) < 0.27 + 0.0046 * x,
        "one_bit_mean": lambda: g.random(n) < 0.27 + 0.0046 * x,
        "randomized_response": lambda: respond(p),
        "label_flip": lambda: respond(0.9),
        "sue": lambda: unary(0.62, 0.38),
        "oue": lambda: unary(0.5, 0.27),
        "uniform": lambda: x + g.uniform(-1, 1, n),
        "multiplicative_gaussian": lambda: x * g.normal(1, 0.1, n),
        "gaussian_dropout": lambda: x * g.normal(1, 1 / 3, n),
        "masking": lambda: g.random(n) < 0.1,
        "impulse": lambda: np.where(g.random(n) < 0.1, g.integers(0, 2, n) * 100.0, x),
        "swap": lambda: np.where(g.random(n) < 0.1, g.integers(0, n, n), -1),
        "resampling": lambda: np.where(g.random(n) < 0.1, g.choice(k, n, p=law), label),
        "correlated_gaussian": lambda: x + g.normal(0, 2, n),
        "dither": lambda: np.rint(x + g.random(n) - g.random(n)),
    }


# ---- opendp ----------------------------------------------------------------------------------------------------------


class OpenDP:
    """The process that opendp_peer.py runs in; it knows nothing where there is no such environment."""

    def __init__(self) -> None:
        self.known: list[str] = []
        if PEER.exists():
            command = [str(PEER), str(HERE / "opendp_peer.py")]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.known = self._line().split()

    def nanoseconds(self, name: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def close(self) -> None:
        if self.known:
            self.process.communicate()


# ---- rounds ----------------------------------------------------------------------------------------------------------


def nanoseconds(draw: Callable[[], object]) -> float:
    """A row."""
    begin = time.perf_counter()
    draw()
    return (time.perf_counter() - begin) / ROWS * 1e9


def measure() -> list[dict[str, float]]:
    """Medians of noiselib, numpy and opendp. The first round, which builds the tables, is not counted."""
    local, peer = [ours(), numpys()], OpenDP()
    times: list[dict[str, list[float]]] = [{name: [] for name in kind} for kind in (*local, peer.known)]
    for turn in range(ROUNDS + 1):
        for kind, found in zip(local, times, strict=False):
            for name, draw in kind.items():
                found[name].append(nanoseconds(draw))
        for name in peer.known if turn <= OPENDP_ROUNDS else ():
            times[2][name].append(peer.nanoseconds(name))
    peer.close()
    return [{name: statistics.median(each[1:]) for name, each in found.items()} for found in times]


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    noiselib, numpy, opendp = measure()
    tagging = noiselib.pop(TAGS)
    print(f"numpy {np.__version__}, Python {platform.python_version()}, one core, {ROWS:,} rows, median of {ROUNDS}\n")
    print("| mechanism | M rows/s | ns | numpy.random | times numpy | opendp | times opendp |")
    print("|---|---|---|---|---|---|---|")
    for name, each in noiselib.items():
        cells = [f"{1e3 / each:.3g}", f"{each:.1f}"]
        for peer in (numpy.get(name), opendp.get(name)):
            cells += [f"{1e3 / peer:.3g}", f"{peer / each:.3g}"] if peer else ["", ""]
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\nrow tags: {1e3 / tagging:.3g}, {tagging:.1f} ns")
    if opendp:
        print(f"opendp without noise: {1e3 / opendp['nothing']:.3g}")
    rates = {name: float(f"{1e3 / each:.3g}") for name, each in noiselib.items()}
    (HERE / "rates.json").write_text(json.dumps(rates, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
