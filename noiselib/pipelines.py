"""A project's pipelines: what their specs say of them, and where each one's releases stand. No row is read.

Spark is needed for a table of its catalog alone, which `locate` finds. `key`: where the key lies, if not where the spec says.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from noiselib.address import address_of, in_session
from noiselib.errors import NoiselibError, SpecError
from noiselib.key import load_key
from noiselib.ledger import Ledger
from noiselib.ledger import Release as Known
from noiselib.plan import Plan, make_plan
from noiselib.release import Release, make_releases
from noiselib.selection import Pipeline
from noiselib.snapshot import Locate, TableMetadata, read_source
from noiselib.spec import PipelineSpec, load_spec
from noiselib.targets import Target, open_target

UNFINISHED = ("reserved", "staged", "quarantined")  # of the ledger's states: charged, and not published


def read_pipelines(files: Iterable[Path]) -> tuple[Pipeline, ...]:
    """The pipelines of these specs, by name. One that cannot be used is among them, with its problem and the file's name.

    Two specs of one name are both unusable: either would publish, and be charged, in the other's name.
    """
    unique = {file.resolve(): file for file in files}.values()
    found = [_read(file) for file in unique]
    times = Counter(one.name for one in found)
    named = [one if times[one.name] == 1 else _twice(one, found) for one in found]
    return tuple(sorted(named, key=lambda one: one.name))


def _read(file: Path) -> Pipeline:
    try:
        spec, _ = load_spec(file)
    except SpecError as error:
        return Pipeline(file.stem, file, problem=str(error))
    targets = [address_of(spec.target), *([in_session(spec.target.table)] if spec.target.table else [])]
    return Pipeline(spec.pipeline, file, tuple(spec.tags), spec.purpose, address_of(spec.source), tuple(targets))


def _twice(one: Pipeline, found: list[Pipeline]) -> Pipeline:
    others = ", ".join(str(other.file) for other in found if other.name == one.name and other is not one)
    problem = one.problem or f"{one.file}: pipeline {one.name!r} is the name of {others} as well; expected it in one"
    return Pipeline(str(one.file), one.file, problem=problem)


def load_plan(spec_file: Path, locate: Locate | None = None) -> tuple[PipelineSpec, Plan, TableMetadata]:
    """Spec, metadata and plan."""
    spec, positions = load_spec(spec_file)
    table = read_source(spec, positions, locate)
    return spec, make_plan(spec, table, positions), table


@contextmanager
def reading(spec: PipelineSpec) -> Iterator[None]:
    """What the system cannot read of a pipeline's tables is a NoiselibError of that pipeline: one of many hides no other."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: pathlib's, of a loop of links
        what = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise NoiselibError(f"pipeline {spec.pipeline}, target {spec.target.path}: cannot be read ({what})") from None


# ---- where releases stand --------------------------------------------------------------------------------------------


def standing(file: Path, key: str | None = None, locate: Locate | None = None) -> dict[str, str]:
    """Each partition of the source as it is now, with what became of its release; found as a run does, by every byte.

    published: readers see it · withdrawn: an operator rolled back from it · held: another run is at work on it ·
    quarantined, unfinished: it failed, or stopped on the way · changed: readers see another release, or what others have
    made of one · new: they see none.
    Raises NoiselibError where that cannot be told, as where the source is not there yet.
    """
    spec, plan, table = load_plan(file, locate)
    releases = make_releases(plan, table, table.partitions, load_key(key or spec.key))
    target, known = open_target(spec), newest(spec)
    ids = [release.id for release in releases]
    seen, rolled_back = target.seen(ids), target.rolled_back(ids)
    owned = {owner["partition"] for owner in target.owners()}
    states = {}
    for release in releases:
        where = release.partition_text
        if release.id in seen:
            states[where] = "published"
        elif release.id in rolled_back:
            states[where] = "withdrawn"
        else:
            states[where] = _under_way(release, known.get(where), target) or ("changed" if where in owned else "new")
    return states


@dataclass(frozen=True)
class Heard:
    """What the ledger tells of a partition: the release that it heard of last, and whether a run is at work on it now."""

    release: Known
    at_work: bool


def newest(spec: PipelineSpec) -> dict[str, Heard]:
    """What the ledger tells of each partition, releases that were given up aside."""
    if spec.ledger is None:
        return {}
    with Ledger.open(spec.ledger) as ledger:
        known = [release for release in ledger.releases(spec.pipeline) if release.state != "abandoned"]
        held = {release.request.partition for release in ledger.at_work(spec.pipeline)}
    last = {release.request.partition: release for release in sorted(known, key=lambda release: release.updated)}
    return {partition: Heard(release, partition in held) for partition, release in last.items()}


def _under_way(release: Release, heard: Heard | None, target: Target) -> str | None:
    if heard is not None and heard.at_work:
        return "held"
    charged = heard.release.state if heard is not None and heard.release.release_id == release.id else None
    if target.quarantined(release.id) or charged == "quarantined":
        return "quarantined"
    if target.staged(release.id) is not None or charged in UNFINISHED:
        return "unfinished"
    return None


# ---- what is selected by it ------------------------------------------------------------------------------------------


def has_state(state: str, pipeline: Pipeline, key: str | None = None, locate: Locate | None = None) -> bool:
    """Whether it is `changed`, `failed` or `new`, told at the least cost. Raises NoiselibError where it cannot be told."""
    spec, _ = load_spec(pipeline.file)
    with reading(spec):
        return _has_state(state, spec, pipeline.file, key, locate)


def _has_state(state: str, spec: PipelineSpec, file: Path, key: str | None, locate: Locate | None) -> bool:
    if state == "new":  # nothing was ever published
        return not open_target(spec).owners()
    if state == "changed":  # some partition's release is not published
        return any(found not in ("published", "withdrawn") for found in standing(file, key, locate).values())
    if spec.ledger is None:
        return bool({"quarantined", "unfinished"} & set(standing(file, key, locate).values()))
    # some partition's newest release failed its checks or stopped on its way
    return any(heard.release.state in UNFINISHED and not heard.at_work for heard in newest(spec).values())
