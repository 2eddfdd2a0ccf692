"""Version 1 to 2: budgets know their privacy unit, and the history is chained.

What version 1 wrote into the history goes into the chain as it is, numbered anew without gaps. It does not tell
everything that the tables hold; so an entry `migrated` follows for each of their rows, and `verify` begins there.
"""

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = None

_OLD = ("time", "budget", "release_id", "event", "detail")
_NEW = ("seq", *_OLD, "previous", "hash")


def upgrade() -> None:
    connection = op.get_bind()
    old = [tuple(row) for row in connection.execute(sa.text(f"SELECT {', '.join(_OLD)} FROM history ORDER BY seq"))]
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    carried = [
        (now, budget, release_id, "migrated", _dump({"table": table, "row": row}))
        for table, budget, release_id, row in _rows(connection)
    ]
    op.drop_table("history")
    op.create_table(
        "history",
        sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("time", sa.Text, nullable=False),
        sa.Column("budget", sa.Text, nullable=False),
        sa.Column("release_id", sa.Text),
        sa.Column("event", sa.Text, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
        sa.Column("previous", sa.Text, nullable=False),
        sa.Column("hash", sa.Text, nullable=False),
    )
    if chained := _chain([*old, *carried]):
        places = ", ".join(f":{name}" for name in _NEW)
        connection.execute(sa.text(f"INSERT INTO history ({', '.join(_NEW)}) VALUES ({places})"), chained)
    op.add_column("budgets", sa.Column("unit", sa.Text))
    op.drop_table("noiselib_schema")


def _rows(connection: sa.Connection) -> list[tuple[str, str, str | None, dict[str, Any]]]:
    """Every row with its table, its budget and its release; but not when its lease ends, which no history tells."""
    found: list[tuple[str, str, str | None, dict[str, Any]]] = []
    for row in connection.execute(sa.text("SELECT * FROM budgets ORDER BY name")):
        found.append(("budgets", row.name, None, {**row._mapping, "unit": None}))
    for row in connection.execute(sa.text("SELECT * FROM memos ORDER BY budget, memo_id")):
        found.append(("memos", row.budget, None, dict(row._mapping)))
    for row in connection.execute(sa.text("SELECT * FROM releases ORDER BY release_id")):
        columns = {name: value for name, value in row._mapping.items() if name != "lease_until"}
        # SQLite has no booleans.
        found.append(("releases", row.budget, row.release_id, columns | {"parallel": bool(row.parallel)}))
    return found


def _chain(entries: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    previous, chained = "0" * 64, []
    for seq, entry in enumerate(entries, start=1):
        digest = hashlib.sha256(_dump([previous, seq, *entry]).encode()).hexdigest()
        chained.append(dict(zip(_NEW, (seq, *entry, previous, digest), strict=True)))
        previous = digest
    return chained


def _dump(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
