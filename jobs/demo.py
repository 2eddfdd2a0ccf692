"""The demo: both pipelines on New York's flights of 2013, with embedded defaults (local Spark, SQLite ledger, Parquet).

Run by `make demo`, after the feature tables are built. Running it again changes nothing and costs nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from noiselib.cli import main as noiselib

DEMO = Path("demo")
KEY = DEMO / "noise.key"
PIPELINES = ("flights_private", "aircraft_monthly_private")
SHOWN = ["carrier", "flight", "time_hour", "tailnum", "dest", "dep_delay", "arr_delay", "air_time", "distance"]


def main() -> int:
    """Plan, run and show; the exit code of the first command that fails."""
    if not KEY.exists():
        must("keygen", str(KEY))
    for pipeline in PIPELINES:
        must("ledger", "init", pipeline)
        must("plan", pipeline)
        must(
            "run",
            pipeline,
            "--spark-conf",
            "conf/spark/local.conf",
            "--results",
            str(DEMO / f"run_results_{pipeline}.json"),
        )
        print()
    print("before: demo/features/flights")
    show(DEMO / "features" / "flights")
    print("\nafter: demo/published/flights_private (one value is hidden by its noise; a mean over a month is not)")
    show(DEMO / "published" / "flights_private")
    print("\nledger:")
    must("ledger", "show", PIPELINES[0])
    print("\npublished tables: " + ", ".join(str(DEMO / "published" / pipeline) for pipeline in PIPELINES))
    return 0


def must(*command: str) -> None:
    code = noiselib(command)
    if code:
        sys.exit(code)


def show(table: Path) -> None:
    """The first flights of January, and the month's means."""
    rows = ds.dataset(table, partitioning="hive").to_table(filter=ds.field("month") == 1)
    order = [(name, "ascending") for name in ("time_hour", "carrier", "flight")]
    print(as_text(rows.sort_by(order).slice(0, 5).select(SHOWN)))
    means = ", ".join(f"{name} {pc.mean(rows[name]).as_py():.1f}" for name in SHOWN[-4:])
    print(f"means of the month's {rows.num_rows} flights: {means}")


def as_text(table: pa.Table) -> str:
    rows: list[Sequence[str]] = [table.column_names]
    rows += [[cell(value) for value in row.values()] for row in table.to_pylist()]
    widths = [max(len(row[i]) for row in rows) for i in range(table.num_columns)]
    return "\n".join("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)


def cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}"
    return str(value)[:16]


if __name__ == "__main__":
    sys.exit(main())
