"""A small private pipeline to break: three days of 200 rows, one column of each kind of treatment."""

from __future__ import annotations

import base64
import contextlib
import copy
import hashlib
import io
import json
import shutil
from collections.abc import Iterable
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

    def copy(self, home: Path) -> Small:
        """The pipeline with its source, key, ledger and published table, in another folder. Release ids stay the same."""
        shutil.copytree(self.home, home, symlinks=True)
        spec = json.loads(json.dumps(self.spec).replace(str(self.home), str(home)))
        other = Small(home, spec, copy.deepcopy(self.rows))
        other.write_spec()
        return other

    def anew(self, home: Path) -> Small:
        """The same source, spec and key in another folder, where nothing is published or charged."""
        from noiselib.ledger import Ledger

        other = self.copy(home)
        (home / "published").unlink(missing_ok=True)
        shutil.rmtree(home / ".published.noiselib", ignore_errors=True)
        (home / "ledger.db").unlink()
        Ledger.create(other.spec["ledger"]).close()
        return other

    def checksums(self) -> dict[str, str]:
        """SHA-256 of every file that readers of the target see, by its path in the table."""
        target = Path(self.spec["target"]["path"])
        files = sorted(file for file in target.rglob("*") if file.is_file())
        return {str(file.relative_to(target)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

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


STEPS = ("run", "reserve", "perturb", "check", "publish")
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


def write_fixed_key(file: Path) -> None:
    """The same key for every test, so that a check of the noise's law that passed keeps passing."""
    file.touch(0o600)
    file.write_bytes(base64.b64encode(hashlib.sha256(b"the key of all tests").digest()) + b"\n")


def make_small(home: Path, days: Iterable[int] = (1, 2, 3), size: int = 200) -> Small:
    """The small pipeline in the folder `home`, with its source, spec, key and ledger."""
    from noiselib.ledger import Ledger

    spec: dict[str, Any] = {
        "version": 1,
        "pipeline": "small",
        "purpose": "privacy",
        "source": {"path": str(home / "source"), "format": "parquet", "partition_by": ["day"]},
        "target": {"path": str(home / "published"), "format": "parquet"},
        "row_key": ["id"],
        "privacy": {"unit": "row", "budget": "small", "limit": {"epsilon": 8.0, "delta": 1e-5}},
        "columns": {
            "day": {"keep": "public"},
            "id": {"keep": "public"},
            "name": {"pseudonymize": True},
            "color": {"mechanism": "randomized_response", "epsilon": 1.0, "categories": COLORS},
            "amount": {"mechanism": "laplace", "epsilon": 1.0, "bounds": [0, 25], "on_null": "keep"},
            "count": {"mechanism": "discrete_laplace", "epsilon": 1.0, "bounds": [0, 50]},
        },
        "key": f"file:{home / 'noise.key'}",
        "ledger": f"sqlite:///{home / 'ledger.db'}",
    }
    pipeline = Small(home, spec, {day: small_rows(day, size) for day in days})
    write_fixed_key(home / "noise.key")
    Ledger.create(spec["ledger"]).close()
    pipeline.write_source()
    pipeline.write_spec()
    return pipeline
