"""`noiselib ledger show|history|verify`: the accounts as data and as text."""

from __future__ import annotations

from typing import Any

from noiselib.ledger import Ledger
from noiselib.release import budget_of
from noiselib.spec import PipelineSpec


def show(ledger: Ledger) -> list[dict[str, Any]]:
    """One entry per budget; epsilons are at the budget's delta."""
    return [
        {
            "budget": status.budget.name,
            "epsilon": status.budget.epsilon,
            "delta": status.budget.delta,
            "spent": status.spent,
            "remaining": status.remaining,
            "unit": status.budget.unit,
            **status.counts,
        }
        for status in ledger.show()
    ]


def history(ledger: Ledger, budget: str | None) -> list[dict[str, Any]]:
    """What happened to each release and budget, oldest first."""
    return [
        {
            "time": entry.time,
            "budget": entry.budget,
            "event": entry.event,
            "release_id": entry.release_id,
            "detail": entry.detail,
        }
        for entry in ledger.history(budget)
    ]


def verified(ledger: Ledger, head: str | None) -> dict[str, Any]:
    """Whether the history's chain holds and the tables are what it tells; `head`, if given, must be in the chain."""
    found = ledger.verify(head)
    return {
        "success": not found.problems,
        "entries": found.entries,
        "head": found.head,
        "problems": list(found.problems),
    }


def verified_text(found: dict[str, Any]) -> str:
    """One line, or one for each problem."""
    if found["problems"]:
        return "\n".join(found["problems"])
    return f"{found['entries']} entries, chained, and every row is what they tell; head {found['head']}"


def table(entries: list[dict[str, Any]]) -> str:
    """The entries under their names, aligned."""
    if not entries:
        return "(nothing yet)"
    names = list(dict.fromkeys(name for entry in entries for name in entry if name != "detail"))
    rows = [names, *([_cell(entry.get(name)) for name in names] for entry in entries)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)[:40]


def account_of(spec: PipelineSpec) -> dict[str, Any] | None:
    """The budget that pays for a pipeline, with what is left of it; all of it, before it is first used. Raises LedgerError."""
    budget = budget_of(spec)
    if budget is None or spec.ledger is None:
        return None
    with Ledger.open(spec.ledger) as ledger:
        spent = sum(status.spent for status in ledger.show(budget.name))
    limit = {"epsilon": budget.epsilon, "delta": budget.delta}
    return {"name": budget.name, "limit": limit, "spent": spent, "remaining": max(0.0, budget.epsilon - spent)}
