"""The charge of each release that readers may have seen, noted in the target's workspace for a ledger that forgets it, being
restored from a backup.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from noiselib.errors import NoiselibError, SpecError
from noiselib.ledger import Budget, Holder, Ledger, ReleaseRequest, request_json, request_of
from noiselib.targets import Target
from noiselib.targets.files import read_json

VERSION = 1


@dataclass(frozen=True)
class Noted:
    """What a release was charged, and the origins of the ledgers that charged it: of more than one where its pipeline moved."""

    budget: Budget
    request: ReleaseRequest
    origins: tuple[str, ...]


def note(target: Target, ledger: Ledger, budget: Budget, request: ReleaseRequest) -> None:
    """Before any reader sees the release. What it was first charged stays as it is; another ledger is added."""
    origin, known = ledger.origin(), None
    if target.was_charged(request.release_id):
        known = read(target, request.release_id)
    if origin is not None and (known is None or origin not in known.origins):
        noted = known or Noted(budget, request, ())
        charged = {"budget": asdict(noted.budget), "request": request_json(noted.request)}
        told = {"version": VERSION, **charged, "ledgers": [*noted.origins, origin]}
        target.note_charge(request.release_id, told)


def read(target: Target, release_id: str) -> Noted:
    """Raises NoiselibError, naming the file, for one that is not as `note` wrote it."""
    file = target.charge_file(release_id)
    try:
        data = read_json(file) or {}
        if data.get("version") != VERSION:
            raise NoiselibError(
                f"{file}: has version {data.get('version')!r}; expected {VERSION}, as noiselib notes what a release was charged"
            )
        return Noted(Budget(**data["budget"]), request_of(release_id, data["request"]), tuple(data["ledgers"]))
    except (OSError, KeyError, TypeError, ValueError, AttributeError, SpecError) as error:
        raise NoiselibError(f"{file}: cannot be read as what a release was charged: {error!r}") from None


@dataclass(frozen=True)
class Entered:
    """What came of the notes: the releases entered, how many the ledger knew, how many other ledgers alone have charged, and
    what is wrong with some.
    """

    entered: list[ReleaseRequest]
    known: int
    foreign: int
    problems: list[str]


def enter_forgotten(target: Target, ledger: Ledger, pipeline: str, holder: Holder, take_over: bool = False) -> Entered:
    """Enter what this ledger had charged for the pipeline, or the one that it is a copy of, and knows no more.

    Raises NoiselibError for a note that cannot be read or entered: what was spent is not known then.
    """
    missing, known = _not_known(target, ledger, pipeline)
    origin = ledger.origin() if missing else None
    notes = [read(target, release_id) for release_id in missing]
    ours = [one for one in notes if origin in one.origins]
    of_it = [one for one in ours if one.request.pipeline == pipeline]
    entered = [one.request for one in of_it if _enter(target, ledger, one, holder, take_over)]
    return Entered(entered, known, len(notes) - len(ours), [])


def enter_noted(target: Target, ledger: Ledger) -> Entered:
    """Enter all that is noted and that this ledger does not know, whichever ledger had charged it.

    What is wrong with one is among the problems, and keeps no other one out.
    """
    missing, known = _not_known(target, ledger)
    found, holder = Entered([], known, 0, []), Holder.current()
    for release_id in missing:
        try:
            noted = read(target, release_id)
            if _enter(target, ledger, noted, holder):
                found.entered.append(noted.request)
        except NoiselibError as error:
            found.problems.append(str(error))
    return found


def _not_known(target: Target, ledger: Ledger, pipeline: str | None = None) -> tuple[list[str], int]:
    """The noted releases that the ledger does not know to be seen, and how many of them it does.

    It knows those whose publishing began: their charge counts, and a run may be at work on them.
    """
    # Before the ledger is read, since publishing begins there first, also that of a run beside this one.
    noted = target.charged()
    known = {one.release_id for one in ledger.releases(pipeline) if one.state == "published" or one.publish_began}
    return sorted(noted - known), len(noted & known)


def _enter(target: Target, ledger: Ledger, noted: Noted, holder: Holder, take_over: bool = False) -> bool:
    """Whether the ledger did not know it. What it refuses names the note, for which nobody has asked."""
    try:
        return ledger.enter(noted.budget, noted.request, holder, take_over=take_over)
    except SpecError as error:
        file = target.charge_file(noted.request.release_id)
        raise NoiselibError(f"{file}: cannot be entered into the ledger: {error}") from None
