"""The one path: plan -> reserve -> perturb -> stage -> check -> publish -> commit.

Each step finds its releases anew from spec, snapshot and key, and leaves what it did on disk and in the ledger; so `run`
walks them in one process, a scheduler walks them as tasks, and a step that was interrupted is simply run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

from noiselib.release import Release
from noiselib.spark.catalog import prove_name
from noiselib.spark.reserve import reserved
from noiselib.spark.run import Run
from noiselib.spark.steps import OpenSpark, check, must_be_staged, perturb, publish, register


def walk(run: Run, spark: OpenSpark, steps: Sequence[str] = ("perturb", "check", "publish")) -> None:
    """Reserve, then take `steps` in order. A published release is not computed again; Spark starts only if there is work."""
    settled = run.settled()
    todo = [release for release in run.releases if release.id not in settled]
    if steps and steps[0] != "perturb":  # nothing is reserved for what was never made
        for release in todo:
            must_be_staged(run, release)
    if todo:
        run.target.prove(run.plan.published, run.spec.source.partition_by)
        if (not steps or "perturb" in steps) and (name := run.spec.target.table):
            prove_name(spark(), run.target, dict(run.plan.published), name)
    with ExitStack() as held:
        with run.taking("reserve"):
            ledger = held.enter_context(reserved(run))
        for release in run.releases:
            if run.status[release.id] == "withdrawn":
                _tell_withdrawn(run, release)
        if not run.open():
            unchanged = len(run.releases)
            run.tell("publish", f"nothing to do: {unchanged} releases unchanged", published=0, unchanged=unchanged)
        for step in steps if run.open() else ():
            with run.taking(step):
                if step == "perturb":
                    perturb(run, ledger, spark)
                elif step == "check":
                    check(run, ledger, spark)
                elif step == "publish":
                    publish(run, ledger)
    if "publish" in steps and (name := run.spec.target.table):
        register(run, spark, name)


def _tell_withdrawn(run: Run, release: Release) -> None:
    what = f"release {release.id[:12]} ({release.partition_text or 'whole table'}) was rolled back from"
    rollback = f"noiselib rollback {run.spec_file} --to"
    run.tell("publish", f"{what} and stays withdrawn; to undo that: {rollback} {release.id[:12]}", release, "warning")
    for owner in run.target.owners() if release.partition_text not in run.before else ():
        if owner["partition"] == release.partition_text:
            what = f"release {owner['release_id'][:12]} ({release.partition_text or 'whole table'}), which was rolled back to"
            why = f"{what}, is not in the table as it was published: others have changed it"
            run.tell("publish", f"{why}; to mend that: {rollback} {owner['release_id'][:12]}", release, "warning")
