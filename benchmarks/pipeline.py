"""What the noise costs in Spark: copies of one table, interleaved, medians of several rounds.

    copy          spark.read.parquet(table).write.parquet(elsewhere)
    identity      the same, through one identity pandas UDF per noised column (one pass through the Python workers)
    perturb       noiselib: clip, lattice, keyed noise, law tests observed, written to staging
    inspect       noiselib's look at the input before it: policies, duplicate row keys (a pass of its own)

Run: python benchmarks/pipeline.py [--rows 5000000] [--rounds 5]. Peak memory is that of the driver JVM and of the largest worker.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from pipelines import write_pipeline
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from noiselib.spark.perturb import Job, inspect
from noiselib.spark.run import prepare
from noiselib.spark.session import open_session
from noiselib.spark.stage import stage
from noiselib.targets.parquet import ParquetTarget

NOISED = {"amount": "double", "delay": "double", "visits": "int", "distance": "bigint"}


def write_table(spark: SparkSession, place: Path, rows: int) -> None:
    """8 columns, seeded: a bigint key, two doubles, an int and a bigint to be noised, three that are kept."""
    table = spark.range(rows, numPartitions=4).select(
        "id",
        (F.rand(1) * 1000).alias("amount"),
        (F.randn(2) * 50).alias("delay"),
        (F.rand(3) * 1000).cast("int").alias("visits"),
        (F.rand(4) * 5000).cast("bigint").alias("distance"),
        F.rand(5).alias("weight"),
        (F.rand(6) * 100).cast("int").alias("code"),
        F.concat(F.lit("k"), (F.rand(7) * 1000).cast("int")).alias("label"),
    )
    table.write.parquet(str(place))


def write_spec(home: Path) -> Path:
    """A pipeline over that table with one of each additive mechanism."""
    kept = {name: {"keep": "public"} for name in ("id", "weight", "code", "label")}
    noised: dict[str, Any] = {
        "amount": {"mechanism": "laplace", "epsilon": 1.0, "bounds": [0, 1000]},
        "delay": {"mechanism": "gaussian", "epsilon": 1.0, "delta": 1e-6, "bounds": [-200, 200]},
        "visits": {"mechanism": "discrete_laplace", "epsilon": 1.0, "bounds": [0, 1000]},
        "distance": {"mechanism": "discrete_gaussian", "epsilon": 1.0, "delta": 1e-6, "bounds": [0, 5000]},
    }
    return write_pipeline(home, "benchmark", home / "table", kept | noised, 8.0)


def identity(kind: str) -> Callable[..., Any]:
    @F.pandas_udf(kind)  # type: ignore[call-overload, untyped-decorator]
    def same(values: pd.Series) -> pd.Series:
        return values

    return same  # type: ignore[no-any-return]


def contenders(spark: SparkSession, home: Path) -> dict[str, Callable[[], None]]:
    run = prepare(write_spec(home), [], lambda line: None)
    job = Job(run.plan, run.table, run.releases, run.spec.key)
    target = ParquetTarget(str(home / "staged"), 0)
    found = inspect(spark, job)
    table = spark.read.parquet(str(home / "table"))
    passed = table.select(*[identity(NOISED[c])(c).alias(c) if c in NOISED else c for c in table.columns])
    return {
        "copy": lambda: table.write.mode("overwrite").parquet(str(home / "copy")),
        "identity": lambda: passed.write.mode("overwrite").parquet(str(home / "identity")),
        "perturb": lambda: stage(spark, job, target, found),
        "inspect": lambda: (inspect(spark, job), None)[1],
    }


def peak_memory() -> dict[str, float]:
    """Peak resident MiB of this machine's Java and Spark worker processes (largest of each), from /proc."""
    peaks: dict[str, float] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:
            continue  # it ended while we looked
        kind = (
            "jvm"
            if "org.apache.spark.deploy" in command
            else "worker"
            if "pyspark" in command and "daemon" in command
            else ""
        )
        if kind and "VmHWM" in lines:
            peaks[kind] = max(peaks.get(kind, 0.0), int(lines["VmHWM"].split()[0]) / 1024)
    return peaks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="noiselib-bench-"))
    spark = open_session("benchmark", "local[2]")
    try:
        write_table(spark, home / "table", arguments.rows)
        actions = contenders(spark, home)
        seconds: dict[str, list[float]] = {name: [] for name in actions}
        for turn in range(arguments.rounds + 1):  # the first round warms up
            for name, action in actions.items():
                began = time.perf_counter()
                action()
                if turn:
                    seconds[name].append(time.perf_counter() - began)
        report(seconds, arguments.rows)
    finally:
        spark.stop()
        shutil.rmtree(home)


def report(seconds: dict[str, list[float]], rows: int) -> None:
    print(f"{rows} rows, 8 columns, 4 noised, local[2], median of {len(seconds['copy'])} interleaved rounds")
    print(f"{'':10} {'seconds':>8} {'min':>6} {'max':>6} {'/ copy':>7} {'/ identity':>10}")
    middle = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        ratios = [
            statistics.median(t / o for t, o in zip(times, seconds[other], strict=True))
            for other in ("copy", "identity")
        ]
        print(f"{name:10} {middle[name]:8.2f} {min(times):6.2f} {max(times):6.2f} {ratios[0]:7.2f} {ratios[1]:10.2f}")
    print(
        "peak resident memory, MiB: " + ", ".join(f"{kind} {size:.0f}" for kind, size in sorted(peak_memory().items()))
    )


if __name__ == "__main__":
    main()
