"""Reserve: the releases' charge lies durably in the ledger, and their leases are ours, before any noise is drawn."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from noiselib.errors import NoiseKeyError, NoiselibError
from noiselib.failpoint import failpoint
from noiselib.ledger import LEASE_SECONDS, Ledger
from noiselib.release import Release, request
from noiselib.spark.run import Run


@contextmanager
def reserved(run: Run) -> Iterator[Ledger | None]:
    """Hold the run's releases: their charge durably in the ledger, their leases ours until the block ends."""
    budget = run.budget
    if budget is None or run.spec.ledger is None:  # no privacy claim: nothing to pay, and no lease to hold
        with run.target.held():
            for release in run.releases:
                run.status[release.id] = run.settled(release) or "reserved"
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
            added, after = run.reserved.added, run.reserved.epsilon_after
            run.tell("reserve", f"{added:.4g} epsilon added to budget {budget.name}: {after:.4g} of {budget.epsilon:g} "
                     f"at delta {budget.delta:g}", budget=budget.name, epsilon_added=added, epsilon_spent=after,
                     epsilon_limit=budget.epsilon, delta=budget.delta)  # fmt: skip
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
            try:
                known = [ledger.release(release.id) for release in run.open()]
                ledger.renew([found.release_id for found in known if found and found.state != "published"], run.holder)
            except NoiselibError as error:  # taken over, or the ledger is away: the next write to it will be refused
                run.tell("lease", f"not renewed: {error}", level="warning")

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _state(run: Run, ledger: Ledger, release: Release) -> str:
    """Where the release stands. One that readers see already is published, though a run was killed before it told the ledger."""
    settled = run.settled(release)
    if settled is not None:  # readers see it, or have seen it before it was withdrawn
        if ledger_state(ledger, release) != "published":
            ledger.advance(release.id, "staged", holder=run.holder)
            ledger.begin_publish(release.id, run.holder)
            ledger.advance(release.id, "published", holder=run.holder)
        run.target.discard(release.id)
        return settled
    return "staged" if run.target.staged(release.id) is not None else "reserved"


def ledger_state(ledger: Ledger, release: Release) -> str | None:
    known = ledger.release(release.id)
    return known.state if known else None
