"""`noiselib plan`: the plan as data, and as a table for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import Any

from noiselib.accounting import Accountant, Charge
from noiselib.errors import LedgerError
from noiselib.key import known_id
from noiselib.ledger import Budget, Ledger, Preview, ReleaseRequest, preview
from noiselib.pipelines import load_plan
from noiselib.plan import Plan, describe_column, relation
from noiselib.release import budget_of, make_release, request
from noiselib.snapshot import Locate, Partition, choose_partitions, partition_argument, partition_text
from noiselib.spec import PipelineSpec
from noiselib.targets import open_target


def planned(
    spec_file: Path,
    wanted: Sequence[dict[str, str]],
    accountant: Accountant = "pld",
    locate: Locate | None = None,
    key_reference: str | None = None,
) -> tuple[dict[str, Any], list[ReleaseRequest]]:
    """The plan of the chosen partitions: columns, charge of one release, and what it would leave of the budget; and what the
    ledger would be asked for.

    Another accountant's figure for the charge is said beside it; the ledger pays by privacy loss distributions alone, the
    tightest. Reads a table's metadata and footers, no rows. So it does not know the snapshot's fingerprint, and counts every
    release as new.
    """
    spec, plan, table = load_plan(spec_file, locate)
    partitions = choose_partitions(table, wanted)
    rows = [table.rows(partition) for partition in partitions]
    typical = sum(rows) // len(rows) if rows else 0
    data: dict[str, Any] = {
        "pipeline": spec.pipeline,
        "purpose": spec.purpose,
        "source": spec.source.path,
        "source_version": table.version,
        "target": spec.target.path,
        "columns": [describe_column(column, typical) for column in plan.columns],
        "partitions": [
            {"partition": partition_text(p), "argument": partition_argument(p), "rows": n}
            for p, n in zip(partitions, rows, strict=True)
        ],
        "rows_per_release": typical,
    }
    if spec.privacy is None:
        return data | {"charge": None, "relation": None}, []
    key_id = known_id(key_reference or spec.key)
    data["key"] = {"id": key_id, "under_another": _under_another_key(spec, key_id, partitions)}
    releases = [make_release(plan, p, f"new {i}", key_id, 0) for i, p in enumerate(partitions)]
    requests = [request(plan, release) for release in releases]
    return data | _cost(spec, plan, requests, accountant), requests


def _under_another_key(spec: PipelineSpec, key_id: str, partitions: Sequence[Partition]) -> dict[str, str]:
    """Of the chosen partitions, those published now under another key than the spec's, each with that key's id."""
    chosen = {partition_text(partition) for partition in partitions}
    published = open_target(spec).manifests()
    return {m["partition"]: m["key_id"] for m in published if m["partition"] in chosen and m["key_id"] != key_id}


def _cost(spec: PipelineSpec, plan: Plan, requests: Sequence[ReleaseRequest], accountant: Accountant) -> dict[str, Any]:
    budget = budget_of(spec)
    assert budget is not None
    one = sum((memo for _, memo in plan.memos), plan.charge)
    outlook, ledger = outlook_of(spec.ledger, budget, requests)
    return {
        "relation": relation(plan),
        "composition": _composition(spec, plan),
        "charge": {
            "epsilon": one.epsilon(budget.delta),
            "delta": budget.delta,
            "events": one.to_json(),
            "by": {name: one.epsilon(budget.delta, name) for name in dict.fromkeys(("pld", accountant))},
            "pure": _pure(one),
        },
        "budget": {
            "name": budget.name,
            "limit": {"epsilon": budget.epsilon, "delta": budget.delta},
            "ledger": ledger,
            "spent": outlook.epsilon_before,
            "remaining": outlook.remaining,
            "after_run_if_all_new": outlook.epsilon_after,
            "fits": outlook.fits,
        },
        "leaks": _leaks(plan),
    }


def _pure(charge: Charge) -> dict[str, float] | None:
    """(epsilon, 0) but for the samplers' own delta, where no mechanism needs more."""
    return {"epsilon": charge.pure_epsilon, "delta": charge.slack} if charge.pure else None


def outlook_of(url: str | None, budget: Budget, requests: Sequence[ReleaseRequest]) -> tuple[Preview, str]:
    """What the requests would do to the budget, and the ledger's condition: a plan is a plan before there is one."""
    assert url is not None
    try:
        with Ledger.open(url) as ledger:
            return ledger.remaining_after(budget, requests), "open"
    except LedgerError as error:
        return preview(budget, requests), str(error)


def _composition(spec: PipelineSpec, plan: Plan) -> str:
    unit = (
        "row"
        if spec.entity is None
        else f"entity ({', '.join(spec.entity.entity)}) of at most {plan.rows_per_unit} rows a release"
    )
    across = "in parallel: a unit lies in one of them" if plan.parallel else "in sequence: a unit may be in every one"
    return f"Privacy unit: {unit}. Partitions compose {across}; releases of one partition in sequence."


def _leaks(plan: Plan) -> list[str]:
    """What the guarantee does not cover, said plainly."""
    found = [f"{column.name}: released as it is" for column in plan.columns if column.treatment == "keep"]
    found += [
        f"{c.name}: a stable pseudonym, linkable over time" for c in plan.columns if c.treatment == "pseudonymize"
    ]
    found += [
        f"{c.name}: memoized: that a value changed shows, and each further value of a unit costs as much again, uncounted"
        for c in plan.columns
        if c.memoized
    ]
    kinds = {
        "on_null": "null",
        "on_nan": "NaN",
        "on_infinite": "infinite",
        "on_unknown": "unknown",
        "on_outside": "outside",
    }
    for column in plan.noised:
        shown = [kind for policy, kind in kinds.items() if getattr(column.declared, policy, "fail") in ("keep", "null")]
        found += [f"{column.name}: where it is {kind} shows" for kind in shown]
    return [*found, "row counts are exact"]


def plan_text(data: dict[str, Any]) -> str:
    """The plan as a table, the charge and what it leaves."""
    heads = ("column", "treatment", "mechanism", "noise", "guarantee", "error of a value", "of a mean or share")
    rows = [heads, *(_row(entry) for entry in data["columns"])]
    version = "" if data["source_version"] is None else f" at version {data['source_version']}"
    lines = [
        f"pipeline {data['pipeline']} ({data['purpose']}): {data['source']}{version} -> {data['target']}",
        *_aligned(rows),
        "",
    ]
    lines.append(
        f"{len(data['partitions'])} releases of about {data['rows_per_release']} rows; errors are expected absolute ones"
    )
    if data["charge"] is None:
        return "\n".join([*lines, f"purpose {data['purpose']}: no privacy claim, nothing to pay"])
    charge, budget = data["charge"], data["budget"]
    lines += [data["relation"], data["composition"]]
    pure = f"; {charge['pure']['epsilon']:g} as pure epsilon" if charge["pure"] else ""
    others = "".join(f"; {epsilon:.4g} by {name}" for name, epsilon in charge["by"].items() if name != "pld")
    lines.append(f"charge of one release: epsilon {charge['epsilon']:.4g} at delta {charge['delta']:g}{pure}{others}")
    lines.append(
        f"budget {budget['name']}: spent {budget['spent']:.4g} of epsilon {budget['limit']['epsilon']:g} at delta "
        f"{budget['limit']['delta']:g}; remaining {budget['remaining']:.4g}; after this run, if all of it is new: "
        f"{budget['after_run_if_all_new']:.4g}{'' if budget['fits'] else ' (over budget)'}"
    )
    if data["key"]["under_another"]:
        others = ", ".join(sorted(set(data["key"]["under_another"].values())))
        lines.append(
            f"{len(data['key']['under_another'])} of these partitions are published under another key ({others}): under key "
            f"{data['key']['id']} each is a new release, with new noise and a charge of its own"
        )
    if budget["ledger"] != "open":
        lines.append(f"(ledger: {budget['ledger']})")
    lines.append(
        "The guarantee is computational: against anyone without the noise key. Not covered: " + "; ".join(data["leaks"])
    )
    return "\n".join(lines)


# What is said of a mechanism's noise, where its parameters have the names. Lengths are in the column's unit.
NOISE = (
    "scale {scale:.4g}", "sensitivity {sensitivity:.4g}", "{categories} categories", "p={p:.3g} q={q:.3g}", "f={f:g}",
    "kept with {kept:.3g}",
    "{blocks} blocks of {block_size}", "variance {variance:.4g}", "factor 1 +- {sigma:.3g}", "rate {rate:g}",
    "covariance times {share:g}", "{law} of step {step:g}", "at most {max_noise}",
)  # fmt: skip


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    if "mechanism" not in entry:
        return (entry["column"], entry["treatment"], "", "", entry["guarantee"], "", "")
    return (
        entry["column"],
        "memoized" if entry["memoized"] else "noise",
        entry["mechanism"],
        noise_text(entry),
        entry["guarantee"],
        _number(entry["expected_error_value"]),
        _number(entry["expected_error_mean"]),
    )


def noise_text(entry: dict[str, Any]) -> str:
    """A mechanism's noise in a few words, from its entry in a plan or a manifest."""
    known = {name: value for name, value in (entry["parameters"] | entry).items() if value is not None}
    if "scale" in known:
        del known["variance"]  # it follows
    return ", ".join(text.format_map(known) for text in NOISE if _names(text) <= known.keys())


def _names(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
