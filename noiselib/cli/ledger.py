"""noiselib ledger: the account that pays."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from noiselib.cli.names import ledger_url, spec_file
from noiselib.errors import LedgerError, SpecError

if TYPE_CHECKING:
    from noiselib.ledger import Ledger, Release


def ledger(arguments: argparse.Namespace) -> int:
    from noiselib.ledger import Ledger, shown
    from noiselib.report import ledger_text

    url = ledger_url(arguments.ledger)
    if arguments.action == "init":
        with Ledger.create(url) as ledger:
            print(f"ledger {shown(url)}: {'created' if ledger.created else 'is there already, unchanged'}")
        return 0
    if arguments.action == "migrate":
        before, after = Ledger.migrate(url)
        print(
            f"ledger {shown(url)}: {'is of' if before == after else f'migrated from version {before} to'} version {after}"
        )
        return 0
    with Ledger.open(url) as ledger:
        if arguments.action == "abandon":
            _abandon(ledger, arguments)
            return 0
        if arguments.action == "recover":
            return _recover(ledger, arguments)
        if arguments.action == "verify":
            verified = ledger_text.verified(ledger, arguments.head)
            print(json.dumps(verified) if arguments.json else ledger_text.verified_text(verified))
            return 0 if verified["success"] else 1
        data = ledger_text.show(ledger) if arguments.action == "show" else ledger_text.history(ledger, arguments.budget)
        print(json.dumps(data) if arguments.json else ledger_text.table(data))
    return 0


def _abandon(ledger: Ledger, arguments: argparse.Namespace) -> None:
    """Give up a release that no reader could have seen: its noised rows are removed first, then its charge is given back."""
    from noiselib.ledger import Holder
    from noiselib.spec import load_spec
    from noiselib.targets import open_target

    if not arguments.release or "://" in arguments.ledger:
        raise SpecError(
            "ledger abandon: expected the pipeline and --release ID: noiselib ledger abandon PIPELINE --release ID"
        )
    spec, _ = load_spec(spec_file(arguments.ledger))
    release = _one_release(ledger, arguments.release)
    release_id = release.release_id
    if release.request.pipeline != spec.pipeline:  # its noise lies in another target, where nobody looked for readers
        raise SpecError(
            f"release {release_id[:12]}: is of pipeline {release.request.pipeline!r}, got {arguments.ledger}, which is "
            f"{spec.pipeline!r}; expected the pipeline that the release is of"
        )
    target = open_target(spec)
    seen = target.manifest(release_id) is not None or release_id in target.rolled_back([release_id])
    if seen or target.was_charged(release_id):
        raise LedgerError(
            f"release {release_id[:12]}: is published, or was, or its publishing began, so readers may have seen it; its charge "
            "is never given back"
        )
    holder = Holder.current()
    ledger.hold(release_id, holder)  # from here on nobody stages it anew
    target.forget(release_id)
    ledger.abandon(release_id, holder=holder)


def _recover(ledger: Ledger, arguments: argparse.Namespace) -> int:
    """Enter what readers may have seen and the ledger does not know: it is spent, whatever is left. 1 if some could not be."""
    from noiselib.charged import enter_noted
    from noiselib.spec import load_spec
    from noiselib.targets import open_target

    if "://" in arguments.ledger:
        raise SpecError(
            f"ledger recover: expected a pipeline, whose target knows what was published; got {arguments.ledger}"
        )
    spec, _ = load_spec(spec_file(arguments.ledger))
    target = open_target(spec)
    found = enter_noted(target, ledger)
    entered = [{"release_id": one.release_id, "partition": one.partition} for one in found.entered]
    if arguments.json:
        print(json.dumps({"entered": entered, "known": found.known, "problems": found.problems}))
    else:
        for one in entered:
            print(f"release {one['release_id'][:12]} ({one['partition'] or 'whole table'}): entered with its charge")
        for problem in found.problems:
            print(problem)
        left = f", {len(found.problems)} not to be entered" if found.problems else ""
        print(f"{len(entered)} releases entered, {found.known} were there{left}: of those noted beside {target}")
    return 1 if found.problems else 0


def _one_release(ledger: Ledger, prefix: str) -> Release:
    found = ledger.find(prefix)
    if len(found) != 1:
        raise LedgerError(f"release {prefix}: {len(found)} in the ledger begin so; expected one")
    return found[0]
