"""What the ledger holds, as values: releases, budgets, history entries; and the rows that they are stored in."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy.engine import Row

from noiselib.accounting import Charge
from noiselib.ledger.account import Budget, Memo, ReleaseRequest
from noiselib.ledger.holder import Holder

# No one works on the release.
FREE: dict[str, None] = dict.fromkeys(("holder_host", "holder_pid", "holder_started", "held_since", "lease_until"))


@dataclass(frozen=True)
class Release:
    """A release as the ledger knows it. Times are UTC, ISO 8601. `holder` is None when nobody works on it."""

    request: ReleaseRequest
    budget: str
    state: str
    holder: Holder | None
    held_since: str | None
    lease_until: str | None
    publish_began: str | None
    created: str
    updated: str

    @property
    def release_id(self) -> str:
        return self.request.release_id


@dataclass(frozen=True)
class BudgetStatus:
    """A budget's account. `spent` is epsilon at the budget's delta, `slack` the delta that samplers owe of it."""

    budget: Budget
    created: str
    spent: float
    slack: float
    remaining: float
    counts: Mapping[str, int]


@dataclass(frozen=True)
class HistoryEntry:
    """One line of the append-only history. `hash` is over `previous`, the hash of the line before it, and this line."""

    seq: int
    time: str
    budget: str
    release_id: str | None
    event: str
    detail: Any
    previous: str
    hash: str


def request_json(request: ReleaseRequest) -> dict[str, Any]:
    """A request without its id, as a history entry's detail has it."""
    names = ("pipeline", "partition", "parallel", "key_id")
    memos = [memo.to_json() for memo in request.memos]
    return {name: getattr(request, name) for name in names} | {"charge": request.charge.to_json(), "memos": memos}


def request_of(release_id: str, detail: Mapping[str, Any]) -> ReleaseRequest:
    """The inverse of `request_json`."""
    plain = {name: detail[name] for name in ("pipeline", "partition", "parallel", "key_id")}
    memos = tuple(map(Memo.from_json, detail["memos"]))
    return ReleaseRequest(release_id, charge=Charge.from_json(detail["charge"]), memos=memos, **plain)


def request_columns(detail: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a release's row that say what was asked for, from what `request_json` made."""
    plain = {name: detail[name] for name in ("pipeline", "partition", "parallel", "key_id")}
    return plain | {"charge": dump(detail["charge"]), "memos": dump(detail["memos"])}


def holder_json(holder: Holder) -> dict[str, Any]:
    return asdict(holder)


def holder_columns(detail: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that name a release's holder, from what `holder_json` made."""
    return {f"holder_{name}": detail[name] for name in ("host", "pid", "started")}


def release_of(row: Row[Any]) -> Release:
    """Raises ValueError, TypeError, KeyError, AttributeError or SpecError for a damaged row."""
    base = (row.release_id, row.pipeline, row.partition, row.parallel, row.key_id)
    request = ReleaseRequest(*base, _load_charge(row.charge), _load_memos(row.memos))
    held = row.holder_host is not None
    holder = Holder(row.holder_host, row.holder_pid, row.holder_started) if held else None
    times = (row.held_since, row.lease_until, row.publish_began, row.created, row.updated)
    return Release(request, row.budget, row.state, holder, *times)


def dump(value: Any) -> str:
    """Canonical JSON: equal values have equal texts."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


# The releases of a pipeline mostly share their charge, so each text is parsed once.
@lru_cache(maxsize=1024)
def _load_charge(text: str) -> Charge:
    return Charge.from_json(json.loads(text))


@lru_cache(maxsize=1024)
def _load_memos(text: str) -> tuple[Memo, ...]:
    return tuple(Memo.from_json(memo) for memo in json.loads(text))
