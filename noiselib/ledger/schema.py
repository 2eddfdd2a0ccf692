"""The ledger's tables, the version they are of, and the way from one version to the next.

Version 1 kept its number in the table `noiselib_schema`, and its history had no chain.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from noiselib.errors import LedgerError

VERSION = "2"
OLDER = ("1",)  # from which `upgrade` leads here
STATES = ("reserved", "staged", "quarantined", "published", "abandoned")
_CREATION_LOCK = 0x6E6F697365  # PostgreSQL's advisory locks have a number for a name: "noise"

metadata = sa.MetaData()
# One row. Its lock is the write lock of a ledger in PostgreSQL. The name of the column is alembic's.
version = sa.Table(
    "noiselib_version",
    metadata,
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="noiselib_version_pkc"),
)
budgets = sa.Table(
    "budgets",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("epsilon", sa.Double, nullable=False),
    sa.Column("delta", sa.Double, nullable=False),
    sa.Column("unit", sa.Text),  # null where version 1 did not know it and nothing was reserved since
    sa.Column("created", sa.Text, nullable=False),
)
releases = sa.Table(
    "releases",
    metadata,
    sa.Column("release_id", sa.Text, primary_key=True),
    sa.Column("budget", sa.Text, sa.ForeignKey("budgets.name"), nullable=False, index=True),
    sa.Column("pipeline", sa.Text, nullable=False),
    sa.Column("partition", sa.Text, nullable=False),
    sa.Column("parallel", sa.Boolean, nullable=False),
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("state", sa.Text, sa.CheckConstraint(f"state IN {STATES}"), nullable=False),
    sa.Column("charge", sa.Text, nullable=False),
    sa.Column("memos", sa.Text, nullable=False),
    sa.Column("holder_host", sa.Text),
    sa.Column("holder_pid", sa.Integer),
    sa.Column("holder_started", sa.Text),
    sa.Column("held_since", sa.Text),
    sa.Column("lease_until", sa.Text),
    sa.Column("publish_began", sa.Text),
    sa.Column("created", sa.Text, nullable=False),
    sa.Column("updated", sa.Text, nullable=False),
)
memos = sa.Table(
    "memos",
    metadata,
    sa.Column("budget", sa.Text, sa.ForeignKey("budgets.name"), primary_key=True),
    sa.Column("memo_id", sa.Text, primary_key=True),
    sa.Column("pipeline", sa.Text, nullable=False),
    sa.Column("column", sa.Text, nullable=False),
    sa.Column("charge", sa.Text, nullable=False),
    sa.Column("first_release", sa.Text, nullable=False),
)
history = sa.Table(
    "history",
    metadata,
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("time", sa.Text, nullable=False),
    sa.Column("budget", sa.Text, nullable=False),
    sa.Column("release_id", sa.Text),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    sa.Column("previous", sa.Text, nullable=False),
    sa.Column("hash", sa.Text, nullable=False),
)


def create(connection: Connection, name: str) -> bool:
    """Make the tables where there are none; whether it did. Raises LedgerError for a database of something else."""
    _lock_creation(connection)
    tables = set(sa.inspect(connection).get_table_names())
    if version.name in tables or "noiselib_schema" in tables:
        return False
    if tables & set(metadata.tables):
        raise LedgerError(f"Ledger {name}: expected an empty database, got tables {sorted(tables)}")
    metadata.create_all(connection)
    connection.execute(version.insert().values(version_num=VERSION))
    return True


def check(connection: Connection, name: str) -> None:
    """Raises LedgerError unless the ledger is there, and of the version that this code reads and writes."""
    found = version_of(connection)
    if found is None:
        raise LedgerError(
            f"Ledger {name}: expected a noiselib ledger, found a database without its tables; "
            "make it by `noiselib ledger init`"
        )
    if found in OLDER:
        raise LedgerError(
            f"Ledger {name}: is of schema version {found}, expected {VERSION}; bring it there by `noiselib ledger migrate`"
        )
    if found != VERSION:
        raise LedgerError(
            f"Ledger {name}: is of schema version {found}, which this noiselib, at {VERSION}, does not know"
        )


def version_of(connection: Connection) -> str | None:
    """The version; None where there is no ledger."""
    tables = set(sa.inspect(connection).get_table_names())
    if version.name in tables:
        return "+".join(connection.scalars(sa.select(version.c.version_num)).all()) or "unknown"
    if "noiselib_schema" in tables:
        numbers = connection.scalars(sa.text("SELECT version FROM noiselib_schema")).all()
        return "+".join(map(str, numbers)) or "unknown"
    return None


def lock(connection: Connection, name: str) -> None:
    """Take the ledger's one write lock, until the transaction ends, and check the version again under it.

    SQLite has taken its lock when the transaction began; FOR UPDATE says nothing there. Raises LedgerError.
    """
    _demand_current(connection.scalars(sa.select(version.c.version_num).with_for_update()).all(), name)


def lock_for_reading(connection: Connection, name: str) -> None:
    """Keep out who changes the tables, until the transaction ends, and check the version again. Raises LedgerError.

    It comes before all else that is read. Every transaction locks this table first, so no two wait for each other
    crosswise. LOCK takes no snapshot: what is read afterwards is as it is once a migration that was waited for is over.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text(f"LOCK TABLE {version.name} IN ACCESS SHARE MODE"))
    _demand_current(connection.scalars(sa.select(version.c.version_num)).all(), name)


def lock_for_change(connection: Connection) -> None:
    """Keep out everyone else, also those who create or migrate, and a version 1 that knows no write lock."""
    _lock_creation(connection)
    if connection.dialect.name != "postgresql":
        return
    there = set(sa.inspect(connection).get_table_names())
    first = [name for name in (version.name, "noiselib_schema") if name in there]  # as everyone else does
    if named := [*first, *sorted(there & {*metadata.tables} - {*first})]:
        connection.execute(sa.text(f"LOCK TABLE {', '.join(named)} IN ACCESS EXCLUSIVE MODE"))


def _lock_creation(connection: Connection) -> None:
    """Keep out others who create or migrate: there may be no table yet that could be locked."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_CREATION_LOCK)))


def _demand_current(found: Sequence[str], name: str) -> None:
    if found != [VERSION]:
        raise LedgerError(f"Ledger {name}: is of schema version {'+'.join(found) or 'unknown'}, expected {VERSION}")


def upgrade(connection: Connection) -> None:
    """Take every step in `versions/` that this ledger has not taken, within the transaction that is open."""
    from alembic.config import Config  # takes its time to import, and only this needs it
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)

    def steps(revision: Any, _context: Any) -> Any:
        return script._upgrade_revs(VERSION, revision)

    with EnvironmentContext(config, script, fn=steps) as environment:
        environment.configure(connection=connection, version_table=version.name, transactional_ddl=True)
        environment.run_migrations()
