"""The charge of each release that readers may have seen, noted in the target's workspace for a ledger that forgets it, being
restored from a backup.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from noiselib.errors import NoiselibError, SpecError
from noiselib.ledger import Budget, Holder, Ledger, ReleaseRequest, request_json, request_of
from noiselib.targets import Target
from noiselib.targets.files import read_json

VERSION = 1


@dataclass(frozen=True)
class Noted:
    """What a release was charged, and the origin of the ledger that charged it."""

    budget: Budget
    request: ReleaseRequest
    origin: str | None


def note(target: Target, ledger: Ledger, budget: Budget, request: ReleaseRequest) -> None:
    """For good, before any reader sees the release. One that was noted stays as it is: a release has one charge."""
    if not target.was_charged(request.release_id):
        charged = {"budget": asdict(budget), "request": request_json(request), "ledger": ledger.origin()}
        target.note_charge(request.release_id, {"version": VERSION, **charged})


def read(target: Target, release_id: str) -> Noted:
    """Raises NoiselibError, naming the file, for one that is not as `note` wrote it."""
    file = target.charge_file(release_id)
    data = read_json(file) or {}
    if data.get("version") != VERSION:
        raise NoiselibError(
            f"{file}: has version {data.get('version')!r}; expected {VERSION}, as noiselib notes what a release was charged"
        )
    try:
        return Noted(Budget(**data["budget"]), request_of(release_id, data["request"]), data["ledger"])
    except (KeyError, TypeError, ValueError, AttributeError, SpecError) as error:
        raise NoiselibError(f"{file}: not what noiselib noted of a release's charge: {error!r}") from None


def enter_forgotten(
    target: Target, ledger: Ledger, pipeline: str, holder: Holder, take_over: bool = False
) -> list[ReleaseRequest]:
    """Enter what this ledger had charged, or the one it is a copy of, and knows no more.

    One whose publishing began is not forgotten: its charge counts, and a run may be at work on it.
    """
    # Before the ledger is read: publishing begins there first, also that of a run beside this one.
    noted = target.charged()
    kept = {one.release_id for one in ledger.releases(pipeline) if one.state == "published" or one.publish_began}
    missing = sorted(noted - kept)
    origin = ledger.origin() if missing else None
    ours = [one for release_id in missing if (one := read(target, release_id)).origin == origin]
    return [one.request for one in ours if ledger.enter(one.budget, one.request, holder, take_over=take_over)]


@dataclass(frozen=True)
class Entered:
    """What `enter_noted` entered, how many releases the ledger knew, and what is wrong with others."""

    entered: list[ReleaseRequest]
    there: int
    problems: list[str]


def enter_noted(target: Target, ledger: Ledger) -> Entered:
    """Enter all that is noted and that this ledger does not know as published, whichever ledger had charged it.

    What is wrong with one is among the problems, and keeps no other one out.
    """
    found, there, holder = Entered([], 0, []), 0, Holder.current()
    published = {one.release_id: one.budget for one in ledger.releases() if one.state == "published"}
    for release_id in sorted(target.charged()):
        try:
            noted = read(target, release_id)
            if published.get(release_id, noted.budget.name) != noted.budget.name:
                raise NoiselibError(
                    f"release {release_id[:12]}: is charged to budget {published[release_id]}; expected {noted.budget.name}, "
                    f"as {target.charge_file(release_id)} says"
                )
            if release_id not in published and ledger.enter(noted.budget, noted.request, holder):
                found.entered.append(noted.request)
            else:
                there += 1
        except NoiselibError as error:
            found.problems.append(str(error))
    return replace(found, there=there)
