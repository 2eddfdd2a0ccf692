"""The pipelines that benchmarks run: over a table of theirs, with a key and a ledger of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from noiselib.key import create_key_file
from noiselib.ledger import Ledger


def write_pipeline(home: Path, name: str, table: Path, columns: dict[str, Any], epsilon: float) -> Path:
    """The spec, in `home` with all that it needs. Rows are known by `id`; `epsilon` is all that may be spent."""
    spec = {
        "version": 1,
        "pipeline": name,
        "purpose": "privacy",
        "source": {"path": str(table)},
        "target": {"path": str(home / "published")},
        "row_key": ["id"],
        "privacy": {"budget": name, "limit": {"epsilon": epsilon, "delta": 1e-5}},
        "columns": columns,
        "key": f"file:{home / 'noise.key'}",
        "ledger": f"sqlite:///{home / 'ledger.db'}",
    }
    create_key_file(home / "noise.key")
    Ledger.create(str(spec["ledger"])).close()
    file = home / f"{name}.yaml"
    file.write_text(yaml.safe_dump(spec))
    return file
