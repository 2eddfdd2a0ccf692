"""The database under a ledger: SQLite (a file) or PostgreSQL. How it is opened, locked, timed, and how it fails."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from noiselib.errors import LedgerError, SpecError

IDLE_SECONDS = 60.0  # the host of a writer may vanish without a word: PostgreSQL then ends its transaction
# A statement may wait for several locks, one after the other, so the limit of each wait is none of the whole. All that
# runs ask for takes a fraction of a second once it need not wait.
STATEMENT_SECONDS = 60.0
# To read or migrate the whole of a history, once its lock is held: ten million entries, far away.
WHOLE_SECONDS = 3600.0
_EXAMPLES = "sqlite:///path/to/ledger.db or postgresql+psycopg://user@host/database"


def parse(url: str) -> URL:
    """Raises SpecError for what is no ledger's URL, without the password that it may hold."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):  # the second for a port that is no number
        _, secret, place = url.rpartition("@")
        raise SpecError(f"Expected a ledger like {_EXAMPLES}, got {'...@' + place if secret else url!r}") from None
    if parsed.get_backend_name() != "sqlite" and parsed.drivername != "postgresql+psycopg":
        raise SpecError(f"Expected a ledger like {_EXAMPLES}, got {_public(parsed)!r}")
    if parsed.get_backend_name() == "sqlite" and (not parsed.database or parsed.database == ":memory:"):
        raise SpecError(f"Expected a ledger in a file, like sqlite:///path/to/ledger.db, got {_public(parsed)!r}")
    return parsed


def name_of(url: URL) -> str:
    """The ledger's name in messages: its file, or its URL without the password."""
    return str(url.database) if url.get_backend_name() == "sqlite" else _public(url)


def shown(url: str) -> str:
    """A ledger's URL without the password."""
    return _public(parse(url))


def _public(url: URL) -> str:
    """The URL without the password, which may also stand among libpq's options."""
    query = {name: "***" if name == "password" else value for name, value in url.query.items()}
    return url.set(query=query).render_as_string(hide_password=True)


def connect(url: URL, wait_seconds: float, mode: str = "rw") -> Engine:
    """An engine for the ledger; `mode` "rwc" makes the file of one in SQLite. No lock is waited for any longer.

    NullPool: a connection lives as long as its transaction, and none crosses a fork.
    """
    try:
        if url.get_backend_name() == "sqlite":
            return _sqlite(url, wait_seconds, mode)
        return sa.create_engine(url, poolclass=NullPool, connect_args=_postgresql_arguments(url, wait_seconds))
    except (NoSuchModuleError, ModuleNotFoundError) as error:
        raise LedgerError(f"Ledger {name_of(url)}: no driver for it is installed: {error}") from error


def _postgresql_arguments(url: URL, wait_seconds: float) -> dict[str, Any]:
    milliseconds = math.ceil(wait_seconds * 1000)
    settings = {
        "lock_timeout": milliseconds,
        "statement_timeout": milliseconds + math.ceil(STATEMENT_SECONDS * 1000),
        "synchronous_commit": "on",  # whatever the server's own default: what was reserved survives a power cut
        "idle_in_transaction_session_timeout": math.ceil(IDLE_SECONDS * 1000),
    }
    own = url.query.get("options", "")
    options = [own if isinstance(own, str) else " ".join(own)]
    options += [f"-c {setting}={value}" for setting, value in settings.items()]
    return {
        "options": " ".join(options),
        "prepare_threshold": None,  # a pooler may give the session to others, prepared statements and all
        "connect_timeout": max(2, math.ceil(wait_seconds)),  # libpq takes whole seconds, 2 at the least
        # So may the host of the server: it is given up when it has not answered for that long.
        "tcp_user_timeout": max(milliseconds, 2000),
        "keepalives_idle": 10,
        "keepalives_interval": 5,
    }


def _sqlite(url: URL, wait_seconds: float, mode: str) -> Engine:
    # As a URI, for mode=rw: SQLite must not make a file in place of one that has gone.
    path = "file:" + quote(str(Path(str(url.database)).absolute()))
    url = url.set(database=path, query={"uri": "true", "mode": mode, "timeout": str(wait_seconds)})
    engine = sa.create_engine(url, poolclass=NullPool)
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # this module says BEGIN, not the driver (SQLAlchemy: pysqlite, transactions)
    connection.execute("PRAGMA synchronous = EXTRA")  # a commit survives a power cut
    connection.execute("PRAGMA foreign_keys = ON")


def _begin_sqlite(connection: Connection) -> None:
    # IMMEDIATE takes the write lock before anything is read: no other process can spend between the two.
    write = connection.get_execution_options()["ledger_write"]
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@contextmanager
def transaction(engine: Engine, name: str, write: bool = False) -> Iterator[Connection]:
    """One transaction on a connection of its own. One that reads sees a single state of the ledger.

    Raises LedgerError, naming the ledger, for whatever the database complains of.
    """
    options: dict[str, Any] = {"ledger_write": write}
    if engine.dialect.name == "postgresql":
        # Whatever the server's default: a writer must see what was committed while it waited for the lock.
        options |= {"isolation_level": "READ COMMITTED" if write else "REPEATABLE READ"}
        options |= {} if write else {"postgresql_readonly": True}
    try:
        with engine.connect() as connection:
            connection = connection.execution_options(**options)
            with connection.begin():
                yield connection
    except SQLAlchemyError as error:
        raise LedgerError(f"Ledger {name}: {_explain(error)}") from error


def take_time(connection: Connection) -> None:
    """Let each statement of this transaction take as long as the whole ledger needs; what it waits for comes before."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL statement_timeout = {math.ceil(WHOLE_SECONDS * 1000)}")


def clock(connection: Connection) -> datetime:
    """The time that all users of the ledger share: the server's. A file has no clock but its host's."""
    if connection.dialect.name == "postgresql":
        time: datetime = connection.execute(sa.select(sa.func.clock_timestamp())).scalar_one()
        return time
    return host_clock()


def host_clock() -> datetime:
    return datetime.now(UTC)


# PostgreSQL's codes do not depend on the language of its messages.
_SQLSTATES = {
    "55P03": "locked by another process, also after waiting",
    "25006": "read-only, expected to write",
    "57014": "a statement was ended: it took too long, or the server's operator did",
    "42P01": "its tables are not there, or were changed while they were waited for: run again",
}


def _explain(error: SQLAlchemyError) -> str:
    original = getattr(error, "orig", None)
    text = str(original or error).strip()
    if known := _SQLSTATES.get(getattr(original, "sqlstate", None) or ""):
        return known
    if "locked" in text:
        return _SQLSTATES["55P03"]
    if "readonly" in text:
        return _SQLSTATES["25006"]
    if "not a database" in text or "malformed" in text:
        return f"damaged or not a ledger ({text})"
    if getattr(error, "connection_invalidated", False):
        return f"the connection was lost, so what was asked may be done or not; run again, nothing is charged twice ({text})"
    return text
