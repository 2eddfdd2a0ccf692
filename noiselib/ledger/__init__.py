"""The ledger: what every budget has been charged, durably, and who works on which release.

    account    who pays what, and how far it goes: pure        history   the chain of entries, and what it proves
    holder     processes, dead or alive                        schema    tables, their version; versions/: the way there
    rows       what is stored, as values                       database  SQLite and PostgreSQL
    store      the ledger: every change is one transaction     checks    what must hold before a change

docs/ledger.md says what is stored, and how a ledger is set up, migrated and verified.
"""

from noiselib.ledger.account import Budget, Memo, Preview, ReleaseRequest, preview, spent, worst_charges
from noiselib.ledger.database import shown
from noiselib.ledger.history import Verification
from noiselib.ledger.holder import Holder
from noiselib.ledger.rows import BudgetStatus, HistoryEntry, Release, request_json, request_of
from noiselib.ledger.store import LEASE_SECONDS, Ledger, ReserveResult

__all__ = [
    "LEASE_SECONDS",
    "Budget",
    "BudgetStatus",
    "HistoryEntry",
    "Holder",
    "Ledger",
    "Memo",
    "Preview",
    "Release",
    "ReleaseRequest",
    "ReserveResult",
    "Verification",
    "preview",
    "request_json",
    "request_of",
    "shown",
    "spent",
    "worst_charges",
]
