"""Reserve: the releases' charge lies durably in the ledger, and their leases are ours, before any noise is drawn."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from noiselib import charged
from noiselib.errors import LedgerError, NoiseKeyError, NoiselibError
from noiselib.failpoint import failpoint
from noiselib.ledger import LEASE_SECONDS, Ledger
from noiselib.ledger import Release as Known
from noiselib.release import Release, request
from noiselib.spark.run import Run

JOIN_SECONDS = 15.0  # more than a renewal waits for a lock


@contextmanager
def reserved(run: Run) -> Iterator[Ledger | None]:
    """Hold the run's releases: their charge durably in the ledger, their leases ours until the block ends."""
    settled = run.settled()
    budget = run.budget
    if budget is None or run.spec.ledger is None:  # no privacy claim: nothing to pay, and no lease to hold
        with run.target.held():
            for release in run.releases:
                run.status[release.id] = settled.get(release.id, "reserved")
            yield None
        return
    idle = len(settled) == len(run.releases)
    with nullcontext() if idle else run.target.held(shared=True), Ledger.open(run.spec.ledger) as ledger:
        _enter_seen(run, ledger, settled)
        _demand_original_key(run, ledger)
        asked = [request(run.plan, release) for release in run.releases]
        try:
            run.reserved = ledger.reserve(budget, asked, run.holder, take_over=run.take_over, settled=settled)
            failpoint("after_reserve")
            for release in run.releases:
                run.status[release.id] = _state(run, release, settled.get(release.id))
            added, after = run.reserved.added, run.reserved.epsilon_after
            _tell_left_behind(run, ledger)
            run.tell("reserve", f"{added:.4g} epsilon added to budget {budget.name}: {after:.4g} of {budget.epsilon:g} "
                     f"at delta {budget.delta:g}", budget=budget.name, epsilon_added=added, epsilon_spent=after,
                     epsilon_limit=budget.epsilon, delta=budget.delta)  # fmt: skip
            with _renewed(ledger, run):
                yield ledger
        finally:
            _free(run, ledger)


def _enter_seen(run: Run, ledger: Ledger, settled: Collection[str]) -> None:
    """What readers may have seen is charged before anything else is asked for: a run may have been killed before it told
    the ledger, or the ledger was restored from a backup and has forgotten it.
    """
    assert run.budget is not None
    found = charged.enter_forgotten(run.target, ledger, run.spec.pipeline, run.holder, run.take_over)
    if found.foreign and ledger.origin() is None:
        what = (
            f"{found.foreign} releases noted beside {run.target} were charged to another ledger than this empty one; "
        )
        recover = f"noiselib ledger recover {run.spec_file}"
        run.tell("reserve", f"{what}if it was restored from a backup, enter them: {recover}", level="warning")
    entered = found.entered
    for release in run.releases:
        state = ledger_state(ledger, release) if release.id in settled else "published"
        if state != "published":
            asked = request(run.plan, release)
            ledger.enter(run.budget, asked, run.holder, take_over=run.take_over)
            charged.note(run.target, ledger, run.budget, asked)
            entered += [asked] if state in (None, "abandoned") else []
    if entered:
        named = ", ".join(f"{one.release_id[:12]} ({one.partition or 'whole table'})" for one in entered[:5])
        more = f" and {len(entered) - 5} more" if len(entered) > 5 else ""
        what = f"the ledger did not know what readers may have seen: {named}{more}, entered with its charge"
        run.tell("reserve", what, level="warning", entered=[one.release_id for one in entered])


def _free(run: Run, ledger: Ledger) -> None:
    """What has come of the run stands, also where its leases cannot be freed: they end by themselves."""
    try:
        ledger.free([release.id for release in run.releases], run.holder)
    except LedgerError as error:
        run.tell("lease", f"not freed, which ends within {LEASE_SECONDS / 60:g} minutes: {error}", level="warning")


def still_held(run: Run, ledger: Ledger | None, releases: Sequence[Release]) -> None:
    """Asked before staged rows are moved or removed: those of a release that was taken over meanwhile are another run's.

    Raises ReleaseHeld.
    """
    if ledger is not None:
        ledger.renew([release.id for release in releases], run.holder)


def _unfinished(run: Run, ledger: Ledger) -> list[Known]:
    """What was charged for the run's partitions and not published, by this run's spec, snapshot and key or by others.

    Without what readers may have seen: its charge stays, whether it is finished or not.
    """
    mine = {release.partition_text for release in run.releases}
    known = [one for one in ledger.releases(run.spec.pipeline) if one.request.partition in mine]
    unseen = [one for one in known if one.publish_began is None and not run.target.was_charged(one.release_id)]
    return [one for one in unseen if one.state in ("reserved", "staged")]


def _demand_original_key(run: Run, ledger: Ledger) -> None:
    """What was begun under another key is finished under it, or given up, before the partition is made under this one."""
    key_id = run.releases[0].key_id if run.releases else ""
    for known in _unfinished(run, ledger):
        if known.request.key_id != key_id:
            raise NoiseKeyError(
                f"key {run.spec.key}: has id {key_id}, and release {known.release_id[:12]} "
                f"({known.request.partition or 'whole table'}) was begun under {known.request.key_id} and is not finished; "
                f"expected that key, or: {_abandon(run, known)}"
            )


def _tell_left_behind(run: Run, ledger: Ledger) -> None:
    """A source that was restated, or a spec that was changed, before its release was made leaves a charge for nothing."""
    ids = {release.id for release in run.releases}
    others = [one for one in _unfinished(run, ledger) if one.release_id not in ids]
    at_work = {one.release_id for one in ledger.at_work(run.spec.pipeline)} if others else set()
    for known in others:
        if known.release_id not in at_work:
            what = f"release {known.release_id[:12]} ({known.request.partition or 'whole table'}), of another source or spec"
            told = f"{what}, was charged and not published; to give it up: {_abandon(run, known)}"
            run.tell("reserve", told, level="warning")


def _abandon(run: Run, known: Known) -> str:
    return f"noiselib ledger abandon {run.spec_file} --release {known.release_id[:12]}"


@contextmanager
def _renewed(ledger: Ledger, run: Run) -> Iterator[None]:
    """Keep the leases alive while the block works, however long that takes."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(LEASE_SECONDS / 5):
            try:
                still_held(run, ledger, run.open())
            except NoiselibError as error:  # taken over, or the ledger is away: the next write to it will be refused
                run.tell("lease", f"not renewed: {error}", level="warning")

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(JOIN_SECONDS)  # it may be waiting for a server that does not answer


def _state(run: Run, release: Release, settled: str | None) -> str:
    """Where the release stands."""
    if settled is not None:  # readers see it, or have seen it before it was withdrawn
        run.target.discard(release.id)
        return settled
    return "staged" if run.target.staged(release.id) is not None else "reserved"


def ledger_state(ledger: Ledger, release: Release) -> str | None:
    known = ledger.release(release.id)
    return known.state if known else None
