"""The one path: plan -> reserve -> perturb -> stage -> check -> publish -> commit.

Each step finds its releases anew from spec, snapshot and key, and leaves what it did on disk and in the ledger; so `run`
walks them in one process, a scheduler walks them as tasks, and a step that was interrupted is simply run again.
"""

from __future__ import annotations

import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from noiselib.accounting import Charge
from noiselib.errors import ChecksFailed, InputError, NoiseKeyError, NoiselibError
from noiselib.failpoint import failpoint
from noiselib.key import load_key
from noiselib.ledger import LEASE_SECONDS, Budget, Holder, Ledger, ReserveResult
from noiselib.plan import Plan, describe_column, digest, make_plan, relation
from noiselib.publish import MANIFESTS, Target
from noiselib.release import SCHEME, Release, budget_of, make_release, request, snapshot_identity
from noiselib.snapshot import TableMetadata, choose_partitions, fingerprint, read_metadata
from noiselib.spark.causes import cause
from noiselib.spark.perturb import Inspection, Job, inspect
from noiselib.spark.stage import stage
from noiselib.spec import PipelineSpec, load_spec

Say = Callable[[str], None]
OpenSpark = Callable[[], SparkSession]


@dataclass
class Run:
    """One pipeline's releases on their way. `status` per release id: what became of it in this process."""

    spec_file: Path
    spec: PipelineSpec
    plan: Plan
    table: TableMetadata
    target: Target
    releases: tuple[Release, ...]
    say: Say
    reserved: ReserveResult | None = None
    status: dict[str, str] = field(default_factory=dict)
    inspections: dict[str, Inspection] = field(default_factory=dict)
    holder: Holder = field(default_factory=Holder.current)
    take_over: bool = False  # releases from another run that still holds them

    @property
    def budget(self) -> Budget | None:
        return budget_of(self.spec)

    def newly_reserved(self, release: Release) -> bool:
        """Whether it was this run that reserved the release."""
        return self.reserved is not None and self.reserved.states.get(release.id) in (None, "abandoned")

    def open(self) -> list[Release]:
        """Releases that are not published yet."""
        return [release for release in self.releases if self.status.get(release.id) not in ("published", "unchanged")]


def load_plan(spec_file: Path) -> tuple[PipelineSpec, Plan, TableMetadata]:
    """Spec, metadata and plan: reads no row, needs no Spark."""
    spec, positions = load_spec(spec_file)
    table = read_metadata(spec.source.path, spec.source.partition_by)
    return spec, make_plan(spec, table, positions), table


def prepare(
    spec_file: Path,
    wanted: Sequence[dict[str, str]],
    say: Say,
    snapshot: str | None = None,
    key_reference: str | None = None,
) -> Run:
    """Everything known before the first row is read as rows: plan, snapshot, key id, release ids.

    `snapshot` holds the snapshot's identity to one taken elsewhere: for tests of equality only. `key_reference` leads to
    another key than the spec's: that of releases made before the key was replaced.
    """
    spec, plan, table = load_plan(spec_file)
    spec = spec.model_copy(update={"key": key_reference or spec.key})
    key = load_key(spec.key)
    releases = []
    for partition in choose_partitions(table, wanted):
        identity = snapshot or snapshot_identity(key, fingerprint(table, partition))
        releases.append(make_release(plan, partition, identity, key.id, table.rows(partition)))
    target = Target(spec.target.path, len(spec.source.partition_by))
    _check_target(target, spec)
    say(f"plan      {spec.pipeline}: {len(releases)} releases, {len(plan.noised)} noised columns")
    return Run(spec_file, spec, plan, table, target, tuple(releases), say)


def _check_target(target: Target, spec: PipelineSpec) -> None:
    """A target that is not this pipeline's own fails here, before anything is spent. Raises NoiselibError."""
    for manifest in target.manifests():
        # a part without a name belongs to the value before it, which holds a slash
        names = [part.partition("=")[0] for part in manifest["partition"].split("/") if "=" in part]
        if manifest["pipeline"] != spec.pipeline or names != spec.source.partition_by:
            raise NoiselibError(
                f"target {target.path}: holds a release of pipeline {manifest['pipeline']}, partitioned by {names}; "
                f"expected a target of its own for {spec.pipeline}, partitioned by {spec.source.partition_by}"
            )


@contextmanager
def reserved(run: Run) -> Iterator[Ledger | None]:
    """Hold the run's releases: their charge durably in the ledger, their leases ours until the block ends."""
    budget = run.budget
    if budget is None or run.spec.ledger is None:  # no privacy claim: nothing to pay, and no lease to hold
        with run.target.held():
            for release in run.releases:
                run.status[release.id] = "unchanged" if run.target.manifest(release.id) else "reserved"
            yield None
        return
    with Ledger.open(run.spec.ledger) as ledger:
        holder = run.holder
        _demand_original_key(run, ledger)
        asked = [request(run.plan, release) for release in run.releases]
        run.reserved = ledger.reserve(budget, asked, holder, take_over=run.take_over)
        try:
            failpoint("after_reserve")
            for release in run.releases:
                run.status[release.id] = _state(run, ledger, release)
            run.say(f"reserve   {run.reserved.added:.4g} epsilon added to budget {budget.name}: "
                    f"{run.reserved.epsilon_after:.4g} of {budget.epsilon:g} at delta {budget.delta:g}")  # fmt: skip
            with _renewed(ledger, run):
                yield ledger
        finally:
            ledger.free([release.id for release in run.releases], holder)


def _demand_original_key(run: Run, ledger: Ledger) -> None:
    """What was begun under another key is finished under it, or given up, before the partition is made under this one."""
    mine = {release.partition_text: release for release in run.releases}
    for known in ledger.releases(run.spec.pipeline):
        release = mine.get(known.request.partition)
        if release and known.state in ("reserved", "staged") and known.request.key_id != release.key_id:
            raise NoiseKeyError(
                f"key {run.spec.key}: has id {release.key_id}, and release {known.release_id[:12]} "
                f"({release.partition_text or 'whole table'}) was begun under {known.request.key_id} and is not finished; "
                f"expected that key, or: noiselib ledger abandon {run.spec_file} --release {known.release_id[:12]}"
            )


@contextmanager
def _renewed(ledger: Ledger, run: Run) -> Iterator[None]:
    """Keep the leases alive while the block works, however long that takes."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(LEASE_SECONDS / 5):
            known = [ledger.release(release.id) for release in run.open()]
            try:
                ledger.renew([found.release_id for found in known if found and found.state != "published"], run.holder)
            except NoiselibError as error:  # taken over, or the ledger is away: the next write to it will be refused
                run.say(f"lease     not renewed: {error}")

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _state(run: Run, ledger: Ledger, release: Release) -> str:
    """Where the release stands. One that readers see already is published, though a run was killed before it told the ledger."""
    if run.target.manifest(release.id) is not None:
        if _ledger_state(ledger, release) != "published":
            ledger.advance(release.id, "staged", holder=run.holder)
            ledger.begin_publish(release.id, run.holder)
            ledger.advance(release.id, "published", holder=run.holder)
        run.target.discard(release.id)
        return "unchanged"
    return "staged" if run.target.staged(release.id) is not None else "reserved"


def perturb(run: Run, ledger: Ledger | None, spark: OpenSpark) -> None:
    """Draw the noise of every release that is not staged yet, in one Spark job, and stage them."""
    todo = [release for release in run.open() if run.target.staged(release.id) is None]
    if todo:
        job = Job(run.plan, run.table, tuple(todo), run.spec.key)
        session = _started(run, ledger, spark, todo)
        try:
            run.inspections = inspect(session, job)
            failpoint("after_inspect")
            run.say(f"perturb   {sum(i.rows for i in run.inspections.values())} rows of {len(todo)} releases")
            stage(session, job, run.target, run.inspections)
        except Exception as error:
            found = cause(error, run.table, [release.partition for release in todo], run.target)
            if isinstance(found, InputError):
                _give_back(run, ledger, todo, "input")
            raise found from (error if found is error else None)
        failpoint("after_stage")
    for release in run.open():
        if ledger is not None and _ledger_state(ledger, release) != "published":
            ledger.advance(release.id, "staged", holder=run.holder)
        run.status[release.id] = "staged"
    run.say(f"stage     {len(todo)} releases staged, {len(run.releases) - len(todo)} were there")


def _started(run: Run, ledger: Ledger | None, spark: OpenSpark, todo: Sequence[Release]) -> SparkSession:
    """Spark. Where it does not start, or has settings that are refused, what this run reserved is freed."""
    try:
        return spark()
    except NoiselibError:
        _give_back(run, ledger, [release for release in todo if run.newly_reserved(release)], "spark")
        raise


def _give_back(run: Run, ledger: Ledger | None, releases: Sequence[Release], reason: str) -> None:
    """No noise has left staging: what is held for `releases` is freed."""
    for release in releases:
        run.target.discard(release.id)
        run.status[release.id] = "abandoned"
        known = ledger.release(release.id) if ledger is not None else None
        if ledger is not None and known and known.state in ("reserved", "staged") and not known.publish_began:
            ledger.abandon(release.id, {"reason": reason}, run.holder)


def check(run: Run, ledger: Ledger | None, spark: OpenSpark) -> None:
    """Check every staged release that has not passed yet. A failed one is quarantined, and nothing of this run is published."""
    failed = []
    for release in run.open():
        _must_be_staged(run, release)
        if _passed(run, release):
            run.status[release.id] = "checked"
            continue
        result = {**_check_release(run, release, spark), **_checked(run, release)}
        for verdict in result["checks"]:
            if not verdict["success"]:
                what = f"{verdict['check']}{' of ' + verdict['column'] if verdict['column'] else ''}"
                run.say(f"check     {verdict['severity']}: {release.partition_text} {what} failed")
        if result["success"]:
            run.target.record_checks(release.id, result)
            run.status[release.id] = "checked"
        else:
            failed.append((release, result))
    for release, result in failed:
        _quarantine(run, ledger, release, result)
    if failed:
        named = [f"{r.partition_text or r.pipeline}: {', '.join(_failures(result))}" for r, result in failed]
        raise ChecksFailed("checks failed, nothing is published:\n" + "\n".join(named))
    failpoint("after_check")
    run.say(f"check     {len(run.releases)} releases passed")


def _check_release(run: Run, release: Release, spark: OpenSpark) -> dict[str, Any]:
    from noiselib.spark.checks import check_release  # Great Expectations takes seconds to import: only where it is used

    return check_release(spark(), run.plan, release, run.target)


def _checked(run: Run, release: Release) -> dict[str, Any]:
    """What a verdict is about: the checks, and the files as they are staged."""
    return {"suite": _suite(run), "files": run.target.files(release.id)}


def _passed(run: Run, release: Release) -> bool:
    """Whether the release, as it is staged, passed the checks as they are in the spec."""
    result = run.target.checks(release.id) or {}
    return all(result.get(name) == value for name, value in {"success": True, **_checked(run, release)}.items())


def _suite(run: Run) -> str:
    """Which checks a verdict is about: the spec's own may change without a new release, and must then run again."""
    return digest([check.model_dump() for check in run.spec.checks])


def _failures(result: dict[str, Any]) -> list[str]:
    wrong = [v for v in result["checks"] if not v["success"] and v["severity"] == "error"]
    return [f"{v['check']}{' of ' + v['column'] if v['column'] else ''}" for v in wrong] or ["no check ran"]


def _quarantine(run: Run, ledger: Ledger | None, release: Release, result: dict[str, Any]) -> None:
    if run.target.staging(release.id).exists():
        run.target.record_checks(release.id, result)
        run.target.quarantine(release.id)
    failpoint("after_quarantine")
    run.status[release.id] = "quarantined"
    if (
        ledger is not None and _ledger_state(ledger, release) != "published"
    ):  # made again for another target: paid and seen
        ledger.advance(release.id, "quarantined", {"failed": _failures(result)}, run.holder)


def publish(run: Run, ledger: Ledger | None) -> None:
    """Make every checked release current in one atomic step, then commit the charges."""
    ready = run.open()
    for release in ready:
        _must_be_staged(run, release)
        if not _passed(run, release):
            raise NoiselibError(
                f"release {release.id[:12]} ({release.partition_text}): not checked; expected a passed check first"
            )
    manifests = {release.id: make_manifest(run, release) for release in ready}
    for release in ready:
        if ledger is not None and _ledger_state(ledger, release) != "published":
            ledger.begin_publish(release.id, run.holder)
    failpoint("before_publish")
    if ready:
        run.target.publish(ready, manifests)
    failpoint("after_publish")
    for release in run.open():
        if ledger is not None:
            ledger.advance(release.id, "published", holder=run.holder)
        failpoint("after_commit")
        run.target.discard(release.id)
        run.status[release.id] = "published"
    run.say(f"publish   {len(ready)} releases to {run.target.path}, {len(run.releases) - len(ready)} unchanged")


def _must_be_staged(run: Run, release: Release) -> None:
    if run.target.staged(release.id) is None:
        raise NoiselibError(
            f"release {release.id[:12]} ({release.partition_text or 'whole table'}): not staged for this snapshot; "
            "expected perturb first"
        )


def _ledger_state(ledger: Ledger, release: Release) -> str | None:
    known = ledger.release(release.id)
    return known.state if known else None


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
        "purpose": run.spec.purpose,
        "snapshot": release.snapshot,
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


def walk(run: Run, spark: OpenSpark, steps: Sequence[str] = ("perturb", "check", "publish")) -> None:
    """Reserve, then take `steps` in order. A published release is not computed again; Spark starts only if there is work."""
    if steps and steps[0] != "perturb":  # nothing is reserved for what was never made
        for release in run.releases:
            if run.target.manifest(release.id) is None:
                _must_be_staged(run, release)
    if any(run.target.manifest(release.id) is None for release in run.releases):
        run.target.prove()
    with reserved(run) as ledger:
        if not run.open():
            run.say(f"publish   nothing to do: {len(run.releases)} releases unchanged")
            return
        for step in steps:
            if step == "perturb":
                perturb(run, ledger, spark)
            elif step == "check":
                check(run, ledger, spark)
            elif step == "publish":
                publish(run, ledger)


def results(run: Run, status: str) -> dict[str, Any]:
    """What `noiselib run --json` prints and `run_results.json` holds. `charge` is what this run added to the account."""
    entries = [_release_result(run, release) for release in run.releases]
    budget = run.budget
    given_back = {"abandoned", "unchanged"} >= {entry["status"] for entry in entries}
    added = run.reserved.added if run.reserved and not given_back else 0.0
    return {
        "status": status,
        "pipeline": run.spec.pipeline,
        "rows_in": sum(release.rows_expected for release in run.releases),
        "rows_out": sum(entry["rows"] or 0 for entry in entries),
        "charge": {"epsilon": added, "delta": budget.delta if budget and added else 0.0},
        "target": str(run.target.path),
        "manifest": str(run.target.path / MANIFESTS),
        "releases": entries,
    }


def _release_result(run: Run, release: Release) -> dict[str, Any]:
    manifest, staged = run.target.manifest(release.id), run.target.staged(release.id)
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
