"""A small private pipeline to break: three days of 200 rows, one column of each kind of treatment."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import yaml


@dataclass
class Answer:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Small:
    """A small private pipeline in a folder of its own: source by day, key, ledger, spec. Change it, then call `noiselib`."""

    home: Path
    spec: dict[str, Any]
    rows: dict[int, dict[str, list[Any]]] = field(default_factory=dict)

    @property
    def spec_file(self) -> Path:
        return self.home / "small.yaml"

    def write_source(self) -> None:
        for day, columns in self.rows.items():
            self.write_partition(day, pa.table(columns, schema=SMALL_SCHEMA))

    def write_partition(self, day: int, table: pa.Table) -> None:
        place = self.home / "source" / f"day={day}"
        place.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, place / "part-0.parquet")

    def write_spec(self) -> None:
        self.spec_file.write_text(yaml.safe_dump(self.spec, sort_keys=False))

    def noiselib(self, command: str, *arguments: str) -> Answer:
        """The command as a user gives it, in this process (so that Spark is started once)."""
        from noiselib.cli import main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            results = ["--results", str(self.home / "run_results.json")] if command in STEPS else []
            code = main([command, str(self.spec_file), *results, *arguments])
        return Answer(code, out.getvalue(), err.getvalue())

    def results(self) -> Any:
        return json.loads((self.home / "run_results.json").read_text())

    def ledger(self) -> Any:
        from noiselib.ledger import Ledger

        return Ledger.open(self.spec["ledger"])

    def spent(self) -> float:
        """Epsilon spent of the pipeline's budget."""
        with self.ledger() as ledger:
            return sum(status.spent for status in ledger.show())

    def published(self) -> pa.Table | None:
        target = Path(self.spec["target"]["path"])
        if not target.exists():
            return None
        return ds.dataset(target, partitioning="hive").to_table().sort_by([("day", "ascending"), ("id", "ascending")])


STEPS = ("run", "reserve", "perturb", "check", "publish", "verify")
SMALL_SCHEMA = pa.schema(
    [("id", pa.int64()), ("name", pa.string()), ("color", pa.string()), ("amount", pa.float64()), ("count", pa.int32())]
)
COLORS = ["red", "green", "blue"]


def small_rows(day: int, size: int = 200) -> dict[str, list[Any]]:
    ids = [day * 1000 + i for i in range(size)]
    return {
        "id": ids,
        "name": [f"name {i}" for i in ids],
        "color": [COLORS[i % 3] for i in ids],
        "amount": [float(i % 100) / 4 for i in ids],
        "count": [i % 50 for i in ids],
    }
