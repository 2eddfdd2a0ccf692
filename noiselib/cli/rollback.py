"""noiselib rollback: an earlier release of a partition is current again, at no cost."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from noiselib.cli.names import spec_file
from noiselib.errors import SpecError

if TYPE_CHECKING:
    from noiselib.targets import Target


def rollback(arguments: argparse.Namespace) -> int:
    """Make the release current, or list those that can be. The ledger is not touched: all of them are published and paid for."""
    from noiselib.spec import load_spec
    from noiselib.targets import demand_own, open_target

    spec, _ = load_spec(spec_file(arguments.pipeline))
    target = open_target(spec)
    demand_own(target, spec)
    kept = {manifest["release_id"]: manifest for manifest in target.kept() if manifest["pipeline"] == spec.pipeline}
    releases = _entries(target, list(kept.values()))
    if arguments.to is None or arguments.list:
        print(json.dumps(releases) if arguments.json else _table(releases))
        return 0
    answer = _roll_back(target, kept, releases, arguments.to)
    print(json.dumps(answer) if arguments.json else _told(answer, str(target)))
    return 0


def _roll_back(
    target: Target, kept: Mapping[str, dict[str, Any]], releases: list[dict[str, Any]], prefix: str
) -> dict[str, Any]:
    """What became of the release that begins so: current | unchanged | reinstated, for one to be made again by the next run."""
    if len(prefix) < 8 or any(letter not in "0123456789abcdef" for letter in prefix):
        raise SpecError(f"--to {prefix}: expected the beginning of a release's id, 8 hex digits at least")
    found = [entry for entry in releases if entry["release_id"].startswith(prefix)]
    if len(found) > 1:
        raise SpecError(f"--to {prefix}: {len(found)} releases begin so; expected one")
    if found:
        target.rollback(kept[found[0]["release_id"]])
        return found[0] | {
            "status": "unchanged" if found[0]["current"] else "current",
            "current": True,
            "withdrawn": False,
        }
    for release_id, mark in target.withdrawn().items():
        if release_id.startswith(prefix):
            with target.alone():
                target.reinstate([release_id])
            return {"release_id": release_id, "partition": mark["partition"], "status": "reinstated"}
    raise target.not_kept(prefix)


def _entries(target: Target, kept: list[dict[str, Any]]) -> list[dict[str, Any]]:
    current, withdrawn = {manifest["release_id"] for manifest in target.manifests()}, target.rolled_back()
    return [
        {
            **{name: one[name] for name in ("partition", "release_id", "published", "rows")},
            "current": one["release_id"] in current,
            "withdrawn": one["release_id"] in withdrawn and one["release_id"] not in current,
        }
        for one in kept
    ]


def _told(answer: dict[str, Any], target: str) -> str:
    name = f"release {answer['release_id'][:12]} ({answer['partition'] or 'whole table'})"
    return {
        "current": f"{name}: current in {target}",
        "unchanged": f"{name}: was current in {target} already",
        "reinstated": f"{name}: is not kept, and no longer withdrawn: the next run makes it again, at no cost",
    }[answer["status"]]


def _table(releases: list[dict[str, Any]]) -> str:
    lines = [
        f"{entry['partition'] or 'whole table':20} {entry['release_id'][:12]}  published {entry['published']}  {entry['rows']} rows"
        + ("  current" if entry["current"] else "  withdrawn" if entry["withdrawn"] else "")
        for entry in releases
    ]
    return "\n".join(lines) or "nothing is published"
