"""`noiselib plan` of several pipelines: what each would cost, and what they come to together, by budget."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from noiselib.accounting import Accountant
from noiselib.errors import NoiselibError, SpecError
from noiselib.ledger import Budget, ReleaseRequest, shown
from noiselib.release import budget_of
from noiselib.report.ledger_text import table
from noiselib.report.plan_text import outlook_of, planned
from noiselib.selection import Pipeline
from noiselib.snapshot import Locate
from noiselib.spec import load_spec

Account = tuple[str, Budget]  # a ledger's URL, and a budget in it


def plans_data(
    pipelines: Sequence[Pipeline],
    wanted: Sequence[dict[str, str]],
    accountant: Accountant,
    failed: Callable[[NoiselibError], object],
    locate: Locate | None = None,
    key_reference: str | None = None,
) -> dict[str, Any]:
    """The plan of each pipeline, and by budget what all of them add to it, composed and not added up.

    What cannot be planned, as a pipeline whose source another one is yet to make, is told to `failed` and not in the sums.
    """
    plans: list[dict[str, Any]] = []
    asked: defaultdict[Account, list[ReleaseRequest]] = defaultdict(list)
    for pipeline in pipelines:
        try:
            if pipeline.problem:
                raise SpecError(pipeline.problem)
            data, requests = planned(pipeline.file, wanted, accountant, locate, key_reference)
            spec, _ = load_spec(pipeline.file)
        except NoiselibError as error:
            failed(error)
            plans.append({"pipeline": pipeline.name, "error": str(error)})
            continue
        plans.append(data)
        if (budget := budget_of(spec)) is not None:
            asked[str(spec.ledger), budget] += requests
    return {"pipelines": plans, "budgets": [_sum(account, requests) for account, requests in asked.items()]}


def _sum(account: Account, requests: Sequence[ReleaseRequest]) -> dict[str, Any]:
    url, budget = account
    outlook, ledger = outlook_of(url, budget, requests)
    return {
        "budget": budget.name,
        "ledger": shown(url) if ledger == "open" else ledger,
        "releases": len(requests),
        "epsilon": outlook.added,
        "delta": budget.delta,
        "remaining": outlook.remaining,
        "limit": budget.epsilon,
        "fits": outlook.fits,
    }


def plans_text(data: Mapping[str, Any]) -> str:
    """A line for each pipeline, and one for each budget."""
    lines = [table([_line(plan) for plan in data["pipelines"]])]
    for one in data["budgets"]:
        lines.append(
            f"budget {one['budget']}: {one['releases']} releases add epsilon {one['epsilon']:.4g} at delta {one['delta']:g} if "
            f"all are new; remaining {one['remaining']:.4g} of {one['limit']:g}{'' if one['fits'] else ' (over budget)'}"
        )
    return "\n".join(lines)


def _line(plan: Mapping[str, Any]) -> dict[str, Any]:
    if "error" in plan:
        return {"pipeline": plan["pipeline"], "releases": "not planned"}
    rows = sum(partition["rows"] for partition in plan["partitions"])
    line = {"pipeline": plan["pipeline"], "releases": len(plan["partitions"]), "rows": rows}
    if plan["charge"] is None:
        return line
    return line | {"budget": plan["budget"]["name"], "epsilon of one": plan["charge"]["epsilon"]}
