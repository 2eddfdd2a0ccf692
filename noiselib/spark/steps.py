"""The steps between reserving and the end: perturb (and stage), check, publish (and commit the charge).

Each finds what is left to do on disk and in the ledger, so a step that was interrupted is simply taken again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pyspark.sql import SparkSession

from noiselib import charged
from noiselib.errors import ChecksFailed, InputError, NoiselibError, ReleaseHeld
from noiselib.failpoint import failpoint
from noiselib.ledger import Ledger
from noiselib.log_entry import Level
from noiselib.plan import digest
from noiselib.release import Release, request
from noiselib.spark import catalog
from noiselib.spark.causes import cause
from noiselib.spark.manifest import make_manifest
from noiselib.spark.perturb import Job, inspect
from noiselib.spark.reserve import ledger_state, still_held
from noiselib.spark.run import Run
from noiselib.spark.stage import stage
from noiselib.spark.tables import table_schema

OpenSpark = Callable[[], SparkSession]


def perturb(run: Run, ledger: Ledger | None, spark: OpenSpark) -> None:
    """Draw the noise of every release that is not staged yet, in one Spark job, and stage them."""
    todo = [release for release in run.open() if run.target.staged(release.id) is None]
    if todo:
        job = Job(run.plan, run.table, tuple(todo), run.spec.key)
        session = _started(run, ledger, spark, todo)
        try:
            run.inspections = inspect(session, job)
            failpoint("after_inspect")
            rows = sum(found.rows for found in run.inspections.values())
            run.tell("perturb", f"{rows} rows of {len(todo)} releases", rows=rows, releases=len(todo))
            stage(session, job, run.target, run.inspections, lambda: still_held(run, ledger, todo))
        except Exception as error:
            found = cause(error, run.table, [release.partition for release in todo], run.target)
            if isinstance(found, InputError):
                _give_back(run, ledger, todo, "input")
            raise found from (error if found is error else None)
        failpoint("after_stage")
    for release in run.open():
        if ledger is not None and ledger_state(ledger, release) != "published":
            ledger.advance(release.id, "staged", holder=run.holder)
        run.status[release.id] = "staged"
        run.tell("stage", "staged", release, "debug")
    there = len(run.releases) - len(todo)
    run.tell("stage", f"{len(todo)} releases staged, {there} were there", staged=len(todo), there=there)


def _started(run: Run, ledger: Ledger | None, spark: OpenSpark, todo: Sequence[Release]) -> SparkSession:
    """Spark. Where it does not start, or has settings that are refused, what this run reserved is freed."""
    try:
        return spark()
    except NoiselibError:
        _give_back(run, ledger, [release for release in todo if run.newly_reserved(release)], "spark")
        raise


def _give_back(run: Run, ledger: Ledger | None, releases: Sequence[Release], reason: str) -> None:
    """No noise has left staging: what is held for `releases` is freed."""
    try:
        still_held(run, ledger, releases)
    except ReleaseHeld as error:
        run.tell("perturb", f"not given back, since it is another run's now: {error}", level="warning")
        return
    for release in releases:
        run.target.forget(release.id)
        run.status[release.id] = "abandoned"
        known = ledger.release(release.id) if ledger is not None else None
        unseen = known and not known.publish_began and not run.target.was_charged(release.id)
        if ledger is not None and known and unseen and known.state in ("reserved", "staged"):
            ledger.abandon(release.id, {"reason": reason}, run.holder)


def check(run: Run, ledger: Ledger | None, spark: OpenSpark) -> None:
    """Check every staged release that has not passed yet. A failed one is quarantined, and nothing of this run is published."""
    failed = []
    for release in run.open():
        must_be_staged(run, release)
        if passed := _passed(run, release):
            run.status[release.id] = "checked"
            run.verdicts[release.id] = passed["checks"]
            continue
        about = _checked(run, release)  # the files before they are read: a verdict on others passes for none
        result = {**_check_release(run, release, spark), **about}
        run.verdicts[release.id] = result["checks"]
        _tell_failed(run, release)
        if result["success"]:
            run.target.record_checks(release.id, result)
            run.status[release.id] = "checked"
            run.tell("check", "passed", release, "debug", checks=len(result["checks"]))
        else:
            failed.append((release, result))
    for release, result in failed:
        _quarantine(run, ledger, release, result)
    if failed:
        named = [f"{r.partition_text or r.pipeline}: {', '.join(_failures(result))}" for r, result in failed]
        raise ChecksFailed("checks failed, nothing is published:\n" + "\n".join(named))
    failpoint("after_check")
    run.tell("check", f"{len(run.releases)} releases passed", releases=len(run.releases))


def _tell_failed(run: Run, release: Release) -> None:
    for verdict in run.verdicts[release.id]:
        if not verdict["success"]:
            what = _named(verdict)
            named = {name: verdict[name] for name in ("check", "column", "severity")}
            level: Level = "error" if verdict["severity"] == "error" else "warning"
            run.tell("check", f"{verdict['severity']}: {release.partition_text} {what} failed", release, level, **named)


def _check_release(run: Run, release: Release, spark: OpenSpark) -> dict[str, Any]:
    from noiselib.spark.checks import check_release  # Great Expectations takes seconds to import: only where it is used

    return check_release(spark(), run.plan, release, run.target)


def _checked(run: Run, release: Release) -> dict[str, Any]:
    """What a verdict is about: the checks, and the files as they are staged."""
    return {"suite": _suite(run), "files": run.target.files(release.id)}


def _passed(run: Run, release: Release) -> dict[str, Any] | None:
    """The result by which the release, as it is staged, passed the checks as they are in the spec; None if it did not."""
    result = run.target.checks(release.id) or {}
    passed = all(result.get(name) == value for name, value in {"success": True, **_checked(run, release)}.items())
    return result if passed else None


def _suite(run: Run) -> str:
    """Which checks a verdict is about: the spec's own may change without a new release, and must then run again."""
    return digest([check.model_dump() for check in run.spec.checks])


def _failures(result: dict[str, Any]) -> list[str]:
    wrong = [v for v in result["checks"] if not v["success"] and v["severity"] == "error"]
    return [_named(verdict) for verdict in wrong] or ["no check ran"]


def _named(verdict: dict[str, Any]) -> str:
    return f"{verdict['check']}{' of ' + verdict['column'] if verdict['column'] else ''}"


def _quarantine(run: Run, ledger: Ledger | None, release: Release, result: dict[str, Any]) -> None:
    still_held(run, ledger, [release])
    if run.target.staging(release.id).exists():
        run.target.record_checks(release.id, result)
        run.target.quarantine(release.id)
    failpoint("after_quarantine")
    run.status[release.id] = "quarantined"
    if (
        ledger is not None and ledger_state(ledger, release) != "published"
    ):  # made again for another target: paid and seen
        ledger.advance(release.id, "quarantined", {"failed": _failures(result)}, run.holder)


def publish(run: Run, ledger: Ledger | None) -> None:
    """Make every checked release current in one atomic step, then commit the charges."""
    ready = run.open()
    for release in ready:
        must_be_staged(run, release)
        if not _passed(run, release):
            raise NoiselibError(
                f"release {release.id[:12]} ({release.partition_text}): not checked; expected a passed check first"
            )
    manifests = {release.id: make_manifest(run, release) for release in ready}
    still_held(run, ledger, ready)

    def begin() -> None:  # asked for under the publishing lock: what has begun is charged for ever
        for release in ready:
            if ledger is not None and ledger_state(ledger, release) != "published":
                ledger.begin_publish(release.id, run.holder)
            if ledger is not None and run.budget is not None:
                charged.note(run.target, ledger, run.budget, request(run.plan, release))
        failpoint("before_publish")

    if ready:
        run.target.publish(ready, manifests, run.before, begin)
    failpoint("after_publish")
    for release in run.open():
        if ledger is not None:
            ledger.advance(release.id, "published", holder=run.holder)
        failpoint("after_commit")
        run.target.discard(release.id)
        run.status[release.id] = "published"
        run.tell("publish", "published", release, "debug", rows=manifests[release.id]["rows"])
    unchanged = len(run.releases) - len(ready)
    run.tell("publish", f"{len(ready)} releases to {run.target}, {unchanged} unchanged",
             published=len(ready), unchanged=unchanged, target=str(run.target))  # fmt: skip


def register(run: Run, spark: OpenSpark, name: str) -> None:
    """Make the published table known to Spark's catalog as `name`. Asked at every run, since one may have ended before this."""
    session, files = spark(), [file for found in run.target.readable().values() for file in found]
    columns = table_schema(session, files[0], run.plan.partition_types)
    catalog.register(session, run.target, columns, run.spec.source.partition_by, name)
    run.tell("publish", f"{run.target} is table {name}", table=name)


def must_be_staged(run: Run, release: Release) -> None:
    if run.target.staged(release.id) is None:
        raise NoiselibError(
            f"release {release.id[:12]} ({release.partition_text or 'whole table'}): not staged for this snapshot; "
            "expected perturb first"
        )
