"""A run before it starts: plan, snapshot and key give the releases that it is to make."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from noiselib.key import load_key
from noiselib.ledger import Budget, Holder, ReserveResult
from noiselib.log_entry import Level, LogEntry, Say
from noiselib.pipelines import load_plan, reading
from noiselib.plan import Plan
from noiselib.release import Release, budget_of, make_releases
from noiselib.snapshot import Locate, TableMetadata, choose_partitions
from noiselib.spark.perturb import Inspection
from noiselib.spec import PipelineSpec
from noiselib.targets import Target, demand_own, open_target

SETTLED = ("published", "unchanged", "withdrawn")


@dataclass
class Run:
    """One pipeline's releases on their way. `status` per release id: what became of it in this process.

    `before`: the release that was current in each partition when the run began. `verdicts` per release id: its checks;
    `seconds` per step taken, of which `step` is the last.
    """

    spec_file: Path
    spec: PipelineSpec
    plan: Plan
    table: TableMetadata
    target: Target
    releases: tuple[Release, ...]
    say: Say
    before: dict[str, str] = field(default_factory=dict)
    reserved: ReserveResult | None = None
    status: dict[str, str] = field(default_factory=dict)
    inspections: dict[str, Inspection] = field(default_factory=dict)
    holder: Holder = field(default_factory=Holder.current)
    take_over: bool = False  # releases from another run that still holds them
    verdicts: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    step: str = "plan"
    on_step: Callable[[str], None] = lambda _: None  # is told of each step as it begins

    @property
    def budget(self) -> Budget | None:
        return budget_of(self.spec)

    def newly_reserved(self, release: Release) -> bool:
        """Whether it was this run that reserved the release."""
        return self.reserved is not None and self.reserved.states.get(release.id) in (None, "abandoned")

    def open(self) -> list[Release]:
        """Releases that are to be published and are not yet."""
        return [release for release in self.releases if self.status.get(release.id) not in SETTLED]

    def settled(self) -> dict[str, str]:
        """The releases that nothing is to be done for, each with why: readers see it, or an operator has rolled back from it."""
        ids = [release.id for release in self.releases]
        rolled_back = dict.fromkeys(self.target.rolled_back(ids), "withdrawn")
        return rolled_back | dict.fromkeys(self.target.seen(ids), "unchanged")

    def tell(self, step: str, text: str, release: Release | None = None, level: Level = "info", **fields: Any) -> None:
        """A line of the log, about the pipeline or one release of it."""
        named = {"release": release.id, "partition": release.partition_text} if release else {}
        self.say(LogEntry(step, text, level, {"pipeline": self.spec.pipeline, **named, **fields}))

    @contextmanager
    def taking(self, step: str) -> Iterator[None]:
        """The block takes `step`, for as long as `seconds` says afterwards."""
        self.step, began = step, time.monotonic()
        self.on_step(step)
        try:
            yield
        finally:
            self.seconds[step] = time.monotonic() - began


def prepare(
    spec_file: Path,
    wanted: Sequence[dict[str, str]],
    say: Say,
    snapshot: str | None = None,
    key_reference: str | None = None,
    locate: Locate | None = None,
) -> Run:
    """Everything known before the first row is read as rows: plan, snapshot, key id, release ids.

    `snapshot` holds the snapshot's identity to one taken elsewhere: for tests of equality only. `key_reference` leads to
    another key than the spec's: that of releases made before the key was replaced.
    """
    began = time.monotonic()
    spec, plan, table = load_plan(spec_file, locate)
    spec = spec.model_copy(update={"key": key_reference or spec.key})
    key = load_key(spec.key)
    releases = make_releases(plan, table, choose_partitions(table, wanted), key, snapshot)
    with reading(spec):
        target = open_target(spec)
        before = demand_own(target, spec)
    run = Run(spec_file, spec, plan, table, target, releases, say, before)
    noised = len(plan.noised)
    run.tell("plan", f"{spec.pipeline}: {len(releases)} releases, {noised} noised columns{pinned(table)}",
             releases=len(releases), noised_columns=noised, source_version=table.version)  # fmt: skip
    run.seconds["plan"] = time.monotonic() - began
    return run


def pinned(table: TableMetadata) -> str:
    return "" if table.version is None else f", version {table.version} of {table.path}"
