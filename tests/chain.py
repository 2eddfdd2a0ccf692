"""A project of four small pipelines: `first` -> `second` -> `third`, each reading what the one before publishes, and `apart`."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from small_pipeline import Answer, write_fixed_key

SCHEMA = pa.schema([("id", pa.int64()), ("amount", pa.float64())])


@dataclass
class Chain:
    """A folder with conf/pipelines, a source of two days, a key and a ledger. Commands are run with it as working directory."""

    home: Path
    specs: dict[str, dict[str, Any]] = field(default_factory=dict)

    def write_day(self, day: int, shift: float = 0.0) -> None:
        place = self.home / "source" / f"day={day}"
        place.mkdir(parents=True, exist_ok=True)
        rows = {"id": [day * 100 + i for i in range(30)], "amount": [i / 2 + shift for i in range(30)]}
        pq.write_table(pa.table(rows, schema=SCHEMA), place / "part-0.parquet")

    def write_specs(self) -> None:
        place = self.home / "conf" / "pipelines"
        place.mkdir(parents=True, exist_ok=True)
        for name, spec in self.specs.items():
            (place / f"{name}.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))

    def noiselib(self, *arguments: str) -> Answer:
        """The command as a user gives it, in this process."""
        from noiselib.cli import main

        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
        return Answer(code, out.getvalue(), err.getvalue())

    def names(self, *arguments: str) -> list[str]:
        """The pipelines that these arguments select, in order."""
        answer = self.noiselib("ls", "--output", "name", *arguments)
        assert answer.code == 0, answer.err
        return answer.out.split()

    def results(self) -> Any:
        return json.loads((self.home / "run_results.json").read_text())


def make_chain(home: Path) -> Chain:
    from noiselib.ledger import Ledger

    chain = Chain(home)
    write_fixed_key(home / "noise.key")
    Ledger.create(f"sqlite:///{home}/ledger.db").close()
    for day in (1, 2):
        chain.write_day(day)
    for name, source, tags in [
        ("third", "second", ["daily"]),
        ("second", "first", ["daily", "middle"]),
        ("first", "source", ["daily"]),
        ("apart", "source", ["weekly"]),
    ]:
        chain.specs[name] = _spec(home, name, source, tags)
    chain.write_specs()
    return chain


def _spec(home: Path, name: str, source: str, tags: list[str]) -> dict[str, Any]:
    return {
        "version": 1,
        "pipeline": name,
        "purpose": "privacy",
        "tags": tags,
        "source": {"path": f"file://{home}/{source}", "partition_by": ["day"]},
        "target": {"path": f"{home}/{name}"},
        "row_key": ["id"],
        "privacy": {"unit": "row", "budget": "all", "limit": {"epsilon": 20.0, "delta": 1e-5}},
        "columns": {
            "day": {"keep": "public"},
            "id": {"keep": "public"},
            "amount": {"mechanism": "laplace", "epsilon": 1.0, "bounds": [0, 20]},
        },
        "key": f"file:{home}/noise.key",
        "ledger": f"sqlite:///{home}/ledger.db",
    }
