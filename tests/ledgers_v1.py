"""A ledger of schema version 1 with data in it, made by the statements that noiselib issued then."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import make_url
from sqlalchemy.pool import NullPool

# As `metadata.create_all` made them.
_TABLES = """
CREATE TABLE noiselib_schema (version INTEGER NOT NULL, PRIMARY KEY (version));
CREATE TABLE budgets (
    name TEXT NOT NULL, epsilon {double} NOT NULL, delta {double} NOT NULL, created TEXT NOT NULL, PRIMARY KEY (name)
);
CREATE TABLE history (
    seq {serial}, time TEXT NOT NULL, budget TEXT NOT NULL, release_id TEXT, event TEXT NOT NULL, detail TEXT NOT NULL,
    PRIMARY KEY (seq)
);
CREATE TABLE releases (
    release_id TEXT NOT NULL, budget TEXT NOT NULL, pipeline TEXT NOT NULL, partition TEXT NOT NULL,
    parallel BOOLEAN NOT NULL, key_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'staged', 'quarantined', 'published', 'abandoned')),
    charge TEXT NOT NULL, memos TEXT NOT NULL, holder_host TEXT, holder_pid INTEGER, holder_started TEXT,
    held_since TEXT, lease_until TEXT, publish_began TEXT, created TEXT NOT NULL, updated TEXT NOT NULL,
    PRIMARY KEY (release_id), FOREIGN KEY(budget) REFERENCES budgets (name)
);
CREATE INDEX ix_releases_budget ON releases (budget);
CREATE TABLE memos (
    budget TEXT NOT NULL, memo_id TEXT NOT NULL, pipeline TEXT NOT NULL, "column" TEXT NOT NULL, charge TEXT NOT NULL,
    first_release TEXT NOT NULL, PRIMARY KEY (budget, memo_id), FOREIGN KEY(budget) REFERENCES budgets (name)
);
INSERT INTO noiselib_schema VALUES (1)
"""

_TIME = "2026-01-0{}T00:00:00.000000+00:00"
_STATES = ("reserved", "staged", "quarantined", "published", "abandoned", "staged")
_CHARGE = '[{"count":1,"kind":"laplace","noise_multiplier":10.0,"slack":1e-12}]'
_MEMO = '[{"count":1,"kind":"laplace","noise_multiplier":5.0,"slack":0.0}]'


def make_version_1(url: str, more: int = 0) -> None:
    """Two budgets; a release in every state, one being published, one with a memo; and `more` published ones."""
    if (parsed := make_url(url)).get_backend_name() == "sqlite":
        Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
    engine = sa.create_engine(parsed, poolclass=NullPool)
    sqlite = engine.dialect.name == "sqlite"
    serial, double = ("INTEGER NOT NULL", "DOUBLE") if sqlite else ("SERIAL NOT NULL", "DOUBLE PRECISION")
    with engine.begin() as connection:
        for statement in _TABLES.format(serial=serial, double=double).split(";\n"):
            connection.exec_driver_sql(statement)
        for statement, rows in _rows(more):
            connection.execute(sa.text(statement), rows)


def _rows(more: int) -> list[tuple[str, list[dict[str, Any]]]]:
    budgets = [
        {"name": name, "epsilon": 1.0, "delta": 1e-6, "created": _TIME.format(1)} for name in ("features", "second")
    ]
    releases = [_release(number, state) for number, state in enumerate(_STATES)]
    releases += [_release(number, "published", "second") for number in range(100, 100 + more)]
    releases[3]["budget"] = "second"
    releases[5]["publish_began"] = _TIME.format(3)
    releases[0] |= {
        "holder_host": "elsewhere", "holder_pid": 4321, "holder_started": "boot/namespace/1",
        "held_since": _TIME.format(2), "lease_until": "2999-01-01T00:00:00.000000+00:00",
    }  # fmt: skip
    memo = {"budget": "features", "memo_id": "m1", "pipeline": "flights", "column": "income", "charge": _MEMO}
    releases[1]["memos"] = json.dumps([{"memo_id": "m1", "column": "income", "charge": json.loads(_MEMO)}])
    events = [{"budget": b["name"], "release": None, "event": "budget", "detail": '{"epsilon":1.0}'} for b in budgets]
    events.insert(1, {"budget": "features", "release": "r0", "event": "reserved", "detail": f'{{"charge":{_CHARGE}}}'})
    events += [
        {"budget": r["budget"], "release": r["release_id"], "event": r["state"], "detail": "null"} for r in releases[1:]
    ]
    columns = ", ".join(f":{name}" for name in releases[0])
    return [
        ("INSERT INTO budgets VALUES (:name, :epsilon, :delta, :created)", budgets),
        (f"INSERT INTO releases ({', '.join(releases[0])}) VALUES ({columns})", releases),
        ("INSERT INTO memos VALUES (:budget, :memo_id, :pipeline, :column, :charge, 'r1')", [memo]),
        (
            "INSERT INTO history (time, budget, release_id, event, detail) "
            f"VALUES ('{_TIME.format(1)}', :budget, :release, :event, :detail)",
            events,
        ),
    ]


def _release(number: int, state: str, budget: str = "features") -> dict[str, Any]:
    return {
        "release_id": f"r{number}", "budget": budget, "pipeline": "flights", "partition": "", "parallel": False,
        "key_id": "key-1", "state": state, "charge": _CHARGE, "memos": "[]", "holder_host": None, "holder_pid": None,
        "holder_started": None, "held_since": None, "lease_until": None, "publish_began": None,
        "created": _TIME.format(1), "updated": _TIME.format(2),
    }  # fmt: skip
