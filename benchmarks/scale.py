"""What the whole path costs from a million rows to fifty, and from 4 noised columns to 200: time, memory, and a line through them.

    copy      spark.read.parquet(table).write.parquet(elsewhere), in the same session, just before
    plan      spec, metadata, the fingerprint of every byte
    reserve   the charge composed, and entered in the ledger
    perturb   the input inspected, noise drawn, law tests, staged
    check     the staged table read and checked
    publish   one more version, digests, manifest

Two sweeps: the rows at the fewest columns, the columns at the fewest rows. Each point is a process of its own, its first round a
warm-up that is not counted, its memory looked at ten times a second: proportional set sizes from /proc, so what forked workers
share counts once. Points that benchmarks/scale.json holds already are not measured again; it is written after each.

Run: python benchmarks/scale.py [--rows 1e6,5e6,2e7,5e7] [--columns 4,20,80,200] [--rounds 3] [--home DIRECTORY]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from pipelines import write_pipeline
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from noiselib.spark.reserve import reserved
from noiselib.spark.run import prepare
from noiselib.spark.session import open_session
from noiselib.spark.steps import check, perturb, publish

RESULTS = Path(__file__).with_name("scale.json")
CONF = Path(__file__).parents[1] / "conf" / "spark" / "local.conf"
STEPS = ("plan", "reserve", "perturb", "check", "publish")

# Of noised column number i, the kind i % 4: values and treatment.
KINDS: list[tuple[Callable[[int], Column], dict[str, Any]]] = [
    (lambda seed: F.rand(seed) * 1000, {"mechanism": "laplace", "bounds": [0, 1000]}),
    (lambda seed: F.randn(seed) * 50, {"mechanism": "gaussian", "delta": 1e-8, "bounds": [-200, 200]}),
    (lambda seed: (F.rand(seed) * 1000).cast("int"), {"mechanism": "discrete_laplace", "bounds": [0, 1000]}),
    (
        lambda seed: (F.rand(seed) * 5000).cast("bigint"),
        {"mechanism": "discrete_gaussian", "delta": 1e-8, "bounds": [0, 5000]},
    ),
]


# ---- one point -------------------------------------------------------------------------------------------------------


def measure(rows: int, columns: int, rounds: int, home: Path) -> dict[str, Any]:
    """A point: the seconds of every round by step, and the most memory that was held, in MiB."""
    spark = open_session("scale", "local[2]", CONF)
    with Memory() as memory:
        table = home / "table"
        write_table(spark, table, rows, columns)
        size = sum(file.stat().st_size for file in table.glob("*.parquet"))
        memory.peak.clear()  # making the table is not the path
        taken = [one_round(spark, table, columns, home / f"round-{turn}") for turn in range(rounds + 1)][1:]
    spark.stop()
    seconds = {name: [round(one[name], 3) for one in taken] for name in ("copy", *STEPS)}
    peak = {name: round(value) for name, value in memory.peak.items()}
    return {"rows": rows, "columns": columns, "bytes": size, "seconds": seconds, "peak_mib": peak}


def write_table(spark: SparkSession, place: Path, rows: int, columns: int) -> None:
    """A bigint key, `columns` seeded columns to be noised, and one of text that is kept."""
    noised = [KINDS[number % 4][0](number).alias(f"c{number}") for number in range(columns)]
    label = F.concat(F.lit("k"), (F.rand(columns) * 1000).cast("int")).alias("label")
    spark.range(rows, numPartitions=max(4, rows // 1_000_000)).select("id", *noised, label).write.parquet(str(place))


def one_round(spark: SparkSession, table: Path, columns: int, home: Path) -> dict[str, float]:
    """The copy, then the path to a target and a ledger of its own. All is removed."""
    file = write_spec(table, columns, home)
    seconds: dict[str, float] = {}
    with timed(seconds, "copy"):
        spark.read.parquet(str(table)).write.parquet(str(home / "copy"))
    with timed(seconds, "plan"):
        run = prepare(file, [], lambda line: None)
    with ExitStack() as held:
        with timed(seconds, "reserve"):
            ledger = held.enter_context(reserved(run))
        with timed(seconds, "perturb"):
            perturb(run, ledger, lambda: spark)
        with timed(seconds, "check"):
            check(run, ledger, lambda: spark)
        with timed(seconds, "publish"):
            publish(run, ledger)
    shutil.rmtree(home)
    return seconds


@contextmanager
def timed(seconds: dict[str, float], name: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - began


def write_spec(table: Path, columns: int, home: Path) -> Path:
    """A pipeline over that table, with a key and a ledger of its own."""
    home.mkdir()
    # a copy for each column: what is shared would be written as an alias, which a spec may not have
    noised = {f"c{number}": {**deepcopy(KINDS[number % 4][1]), "epsilon": 1.0} for number in range(columns)}
    kept = {"id": {"keep": "public"}, "label": {"keep": "public"}}
    return write_pipeline(home, "scale", table, kept | noised, 2.0 * columns)


class Memory:
    """Looks at this process's descendants while the block lasts. `peak`: the most MiB that was held at one moment by Java, by all
    Python workers together, and by one of them.
    """

    def __init__(self) -> None:
        self.peak: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            held: dict[str, list[float]] = {"jvm": [], "workers": []}
            for place in descendants(os.getpid()):
                command = read(place / "cmdline")
                kind = "workers" if b"pyspark" in command and b"java" not in command else "jvm"
                held[kind].append(proportional(place))
            most = {name: max(sizes, default=0.0) for name, sizes in held.items()}
            # there is one JVM: a command that it starts is for a moment a second, with the same memory
            now = {"jvm": most["jvm"], "workers": sum(held["workers"]), "worker": most["workers"]}
            self.peak |= {name: max(value, self.peak.get(name, 0.0)) for name, value in now.items()}


def descendants(of: int) -> list[Path]:
    """The places in /proc of the processes below one."""
    parents: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        fields = read(place / "stat").rpartition(b")")[2].split()
        if fields:
            parents.setdefault(int(fields[1]), []).append(int(place.name))
    found, todo = [], [of]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return [Path("/proc") / str(pid) for pid in found]


def proportional(place: Path) -> float:
    """MiB of a process in memory; of what it shares with others, its part."""
    found = re.search(rb"^Pss: +([0-9]+) kB", read(place / "smaps_rollup"), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def read(file: Path) -> bytes:
    """Of a process that may have ended meanwhile: then nothing."""
    try:
        return file.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


# ---- the sweeps ------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=sizes, default=sizes("1e6,5e6,2e7,5e7"))
    parser.add_argument("--columns", type=sizes, default=sizes("4,20,80,200"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()), help="where the tables are made")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--point", type=int, nargs=2, metavar=("ROWS", "COLUMNS"), help="this one only, as JSON")
    arguments = parser.parse_args()
    if arguments.point:
        rows, columns = arguments.point
        with tempfile.TemporaryDirectory(prefix="noiselib-scale-", dir=arguments.home) as home:
            print(json.dumps(measure(rows, columns, arguments.rounds, Path(home))))
        return
    points = json.loads(arguments.results.read_text()) if arguments.results.exists() else []
    wanted = [(rows, arguments.columns[0]) for rows in arguments.rows]
    wanted += [(arguments.rows[0], columns) for columns in arguments.columns[1:]]
    for rows, columns in wanted:
        if any((one["rows"], one["columns"]) == (rows, columns) for one in points):
            continue
        print(f"{rows} rows, {columns} noised columns", file=sys.stderr, flush=True)
        options = ["--rounds", str(arguments.rounds), "--home", str(arguments.home), "--point", str(rows), str(columns)]
        answer = subprocess.run([sys.executable, __file__, *options], stdout=subprocess.PIPE, check=True)
        points.append(json.loads(answer.stdout.splitlines()[-1]))
        arguments.results.write_text(json.dumps(points, indent=1) + "\n")
    print(report(points))


def sizes(text: str) -> list[int]:
    """1e6,5e6 as whole numbers, ascending."""
    return sorted(int(float(part)) for part in text.split(","))


def report(points: list[dict[str, Any]]) -> str:
    """Both sweeps as tables, each with the line through its totals."""
    fewest = {name: min(one[name] for one in points) for name in ("rows", "columns")}
    by_rows = sorted((one for one in points if one["columns"] == fewest["columns"]), key=lambda one: one["rows"])
    by_columns = sorted((one for one in points if one["rows"] == fewest["rows"]), key=lambda one: one["columns"])
    lines = [*table(by_rows), "", line(by_rows, "rows", 1e6, "million rows"), ""]
    return "\n".join([*lines, *table(by_columns), "", line(by_columns, "columns", 1, "noised column")])


def table(points: list[dict[str, Any]]) -> list[str]:
    head = ["M rows", "noised", "GB", "copy s", *(f"{step} s" for step in STEPS), "path s", "of a copy", "us a row"]
    head += ["JVM MiB", "workers MiB", "largest"]
    rows = []
    for one in points:
        middle = {name: statistics.median(times) for name, times in one["seconds"].items()}
        whole, ratio = (
            totals(one),
            [path / copy for path, copy in zip(totals(one), one["seconds"]["copy"], strict=True)],
        )
        cells = [f"{one['rows'] / 1e6:g}", str(one["columns"]), f"{one['bytes'] / 1e9:.2f}"]
        cells += [f"{middle[name]:.1f}" for name in ("copy", *STEPS)]
        cells += [f"{statistics.median(whole):.1f}", f"{statistics.median(ratio):.1f}"]
        cells += [f"{statistics.median(whole) / one['rows'] * 1e6:.2f}"]
        cells += [str(one["peak_mib"][name]) for name in ("jvm", "workers", "worker")]
        rows.append(cells)
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def line(points: list[dict[str, Any]], of: str, unit: float, name: str) -> str:
    """The least-squares line through the totals of all rounds, and how well they lie on it."""
    if len(points) < 2:
        return f"One size of {of}: no line."
    x = np.array([one[of] / unit for one in points for _ in totals(one)])
    y = np.array([whole for one in points for whole in totals(one)])
    slope, start = np.polyfit(x, y, 1)
    left = y - (start + slope * x)
    fit = 1 - left.var() / y.var()
    return (
        f"Path: {start:.1f} s, and {slope:.3g} s for every {name}; R^2 {fit:.4f}, "
        f"largest distance from the line {np.abs(left).max():.1f} s ({np.abs(left / y).max():.0%})."
    )


def totals(one: dict[str, Any]) -> list[float]:
    """The seconds of the path, without the copy, round by round."""
    return [sum(times) for times in zip(*(one["seconds"][step] for step in STEPS), strict=True)]


if __name__ == "__main__":
    main()
