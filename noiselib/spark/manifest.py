"""What is told of a release: its manifest to readers, the run's results to the operator."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from noiselib.accounting import Charge
from noiselib.errors import NoiselibError
from noiselib.ledger import Budget
from noiselib.plan import canonical, describe_column, digest, relation
from noiselib.release import SCHEME, Release
from noiselib.spark.run import Run
from noiselib.targets import MANIFESTS


def make_manifest(run: Run, release: Release) -> dict[str, Any]:
    """What is published beside the data: everything a reader may know of the release, nothing the operator alone may."""
    staged, checks = run.target.staged(release.id), run.target.checks(release.id)
    assert staged is not None
    assert checks is not None
    private = run.spec.privacy is not None
    return {
        "release_id": release.id,
        "pipeline": release.pipeline,
        "partition": release.partition_text,
        "partition_by": run.spec.source.partition_by,
        "purpose": run.spec.purpose,
        "spec": digest(canonical(run.plan)),
        "snapshot": release.snapshot,
        "source_version": staged.get("source_version"),
        "key_id": release.key_id,
        "rows": staged["rows"],
        "rows_per_unit": 1 if run.plan.bounded_by_row_key else run.plan.rows_per_unit,
        "content_digest": checks["content_digest"],
        "columns": [describe_column(column, staged["rows"]) for column in run.plan.columns],
        "relation": relation(run.plan) if private else None,
        "assumptions": ASSUMPTIONS if private else None,
        "charge": charge_of(run),
        "checks": checks["checks"],
        "published": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
    }


ASSUMPTIONS = [
    "The guarantee is computational: it holds against anyone without the noise key.",
    "Row counts, null patterns, kept columns and pseudonyms are released as they are and are not protected.",
]


def charge_of(run: Run) -> dict[str, Any] | None:
    """One release's own charge per privacy unit, memoized columns included, with its mechanism events."""
    budget = run.budget
    if budget is None:
        return None
    charge = sum((memo for _, memo in run.plan.memos), run.plan.charge)
    return {**epsilon_delta(charge, budget), "budget": budget.name, "events": charge.to_json()}


def epsilon_delta(charge: Charge, budget: Budget) -> dict[str, float]:
    """A charge as (epsilon, delta), at the delta of the budget that pays."""
    return {"epsilon": charge.epsilon(budget.delta), "delta": budget.delta if charge else 0.0}


def versions() -> dict[str, str]:
    """Of everything that could matter to whoever computes the release again."""
    names = ("noiselib", "numpy", "pandas", "pyarrow", "pyspark", "cryptography", "dp-accounting", "great-expectations")
    return {"scheme": str(SCHEME), "python": platform.python_version(), **{name: version(name) for name in names}}


def results(run: Run, status: str) -> dict[str, Any]:
    """What `noiselib run --json` prints and `run_results.json` holds. `charge` is what this run added to the account."""
    entries = [_release_result(run, release, status) for release in run.releases]
    budget = run.budget
    kept = any(run.newly_reserved(one) and run.status.get(one.id) != "abandoned" for one in run.releases)
    added = run.reserved.added if run.reserved and kept else 0.0
    return {
        "status": status,
        "pipeline": run.spec.pipeline,
        "rows_in": sum(release.rows_expected for release in run.releases),
        "rows_out": sum(entry["rows"] or 0 for entry in entries),
        "charge": {"epsilon": added, "delta": budget.delta if budget and added else 0.0},
        "target": str(run.target),
        "manifest": str(run.target.path / MANIFESTS),
        "releases": entries,
    }


def _release_result(run: Run, release: Release, run_status: str) -> dict[str, Any]:
    manifest, staged = _shown(run, release, run_status)
    rows = (manifest or staged or {}).get("rows")
    status = run.status.get(release.id, "planned")
    if manifest is not None and status != "unchanged":
        status = "published"  # readers see it, though the run may have been interrupted before it said so
    new = run.newly_reserved(release) and status != "abandoned"
    entry = {
        "release_id": release.id,
        "partition": release.partition_text,
        "status": status,
        "rows": rows,
        "charge": charge_of(run) if new else {"epsilon": 0.0, "delta": 0.0},
    }
    found = run.inspections.get(release.id)
    return entry | ({"rows_in": found.rows_in, "adjusted": found.adjusted} if found else {})


def _shown(run: Run, release: Release, run_status: str) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What is published and what is staged of the release. A target that does not answer may be why the run has failed."""
    try:
        return run.target.manifest(release.id), run.target.staged(release.id)
    except (NoiselibError, OSError):
        if run_status == "success":
            raise
        return None, None
