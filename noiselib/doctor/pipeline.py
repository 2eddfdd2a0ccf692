"""What one pipeline needs beside the machine: its spec and source, key, ledger and budget, target, and room for its releases."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from noiselib.doctor import probe
from noiselib.doctor.finding import Finding, failure, gib, ok, warning
from noiselib.doctor.machine import judge_scratch, scratch_directories
from noiselib.errors import LedgerError, NoiseKeyError, NoiselibError, SpecError
from noiselib.key import known_id, load_key
from noiselib.ledger import LEASE_SECONDS, Ledger
from noiselib.plan import Plan, make_plan
from noiselib.release import budget_of, make_release, request
from noiselib.snapshot import TableMetadata, read_source
from noiselib.spec import PipelineSpec, load_spec
from noiselib.targets import Target, open_target
from noiselib.yaml_text import Positions


def check_pipeline(spec_file: Path, conf: Mapping[str, str]) -> Iterator[Finding]:
    """The pipeline's findings; without a readable spec only that one. `conf`: Spark settings, as given by --spark-conf."""
    try:
        spec, positions = load_spec(spec_file)
    except SpecError as error:
        yield failure(f"{spec_file.stem} spec", str(error), f"edit {spec_file}")
        return
    name = spec.pipeline
    yield ok(f"{name} spec", str(spec_file))
    yield check_key(f"{name} key", spec.key)
    table = None
    try:
        if spec.source.format == "table":
            looked = f"{spec.source.path}: in Spark's catalog, not looked at here"
            yield warning(f"{name} source", looked, f"noiselib plan {spec_file} --spark-conf FILE")
        else:
            table = read_source(spec, positions)
    except (NoiselibError, OSError) as error:
        yield failure(f"{name} source", str(error), f"ls -l {spec.source.path}; or set source.path in {spec_file}")
    plan = None
    if table is not None:
        plan, finding = check_source(f"{name} source", spec_file, spec, table, positions)
        yield finding
    yield from check_ledger(name, spec_file, spec, plan, table)
    target, finding = check_target(f"{name} target", spec)
    yield finding
    if table is not None and target is not None:
        yield from check_space(name, table, target, conf)


def check_key(what: str, reference: str) -> Finding:
    try:
        return ok(what, f"{reference}, id {load_key(reference).id}")
    except NoiseKeyError as error:
        scheme, _, rest = reference.partition(":")
        if scheme == "airflow":
            # not `connections get`, which prints the key
            return warning(
                what,
                f"{reference}: not looked at: Airflow's tasks alone know it",
                f"airflow connections list, with {rest} in it",
            )
        if scheme == "env":
            return failure(
                what, str(error), f"export {rest}=the key, from your secret store; a new one: noiselib keygen FILE"
            )
        exists = os.path.lexists(rest)
        return failure(what, str(error), f"chmod 600 {rest}" if exists else f"noiselib keygen {rest}")


def check_source(
    what: str, spec_file: Path, spec: PipelineSpec, table: TableMetadata, positions: Positions
) -> tuple[Plan | None, Finding]:
    """The plan, if the source is what the spec says."""
    try:
        plan = make_plan(spec, table, positions)
    except NoiselibError as error:
        return None, failure(what, str(error), f"noiselib plan {spec_file}")
    size = source_bytes(table)
    return plan, ok(
        what, f"{spec.source.path}: {len(table.files)} files, {len(table.partitions)} partitions, {gib(size)}"
    )


def check_ledger(
    name: str, spec_file: Path, spec: PipelineSpec, plan: Plan | None, table: TableMetadata | None
) -> Iterator[Finding]:
    """Opens, is of this version, can be written, agrees on the time; and what its budget has left."""
    if spec.ledger is None:
        yield ok(f"{name} ledger", f"none: purpose {spec.purpose} makes no claim to pay for")
        return
    try:
        with Ledger.open(spec.ledger) as ledger:
            before = datetime.now(UTC)
            now = ledger.prove()
            yield ok(f"{name} ledger", f"{ledger.name} opens and can be written")
            if not spec.ledger.startswith("sqlite"):
                yield check_skew(f"{name} ledger's clock", before, now, datetime.now(UTC))
            if plan is not None and table is not None:
                yield check_budget(f"{name} budget", spec_file, ledger, plan, table)
    except LedgerError as error:
        yield failure(f"{name} ledger", str(error), _ledger_remedy(spec_file, str(error)))


def _ledger_remedy(spec_file: Path, message: str) -> str:
    if "locked" in message:
        return "wait for the process that writes to it; if none does: fuser -v the file, or pg_locks"
    if "read-only" in message or "readonly" in message:
        return "chmod u+w the file and its folder; of PostgreSQL: docs/ledger.md, the rights of its users"
    if "migrate" in message:
        return f"noiselib ledger migrate {spec_file}"
    return f"noiselib ledger init {spec_file} (never in place of one that was lost: restore that from its backup)"


def check_skew(what: str, before: datetime, server: datetime, after: datetime) -> Finding:
    """The server was asked between `before` and `after`: what lies outside is a difference of clocks."""
    skew = max((before - server).total_seconds(), (server - after).total_seconds(), 0.0)
    found = f"{skew:.1f} s from this host's"
    if skew > LEASE_SECONDS / 5:
        return failure(what, f"{found}; leases last {LEASE_SECONDS:g} s by the server's", "timedatectl set-ntp true")
    return warning(what, found, "timedatectl set-ntp true") if skew > 5 else ok(what, found)


def check_budget(what: str, spec_file: Path, ledger: Ledger, plan: Plan, table: TableMetadata) -> Finding:
    """Whether one more release fits: of the last partition, as if it were restated."""
    budget = budget_of(plan.spec)
    assert budget is not None  # who has a ledger has a budget
    partition = table.partitions[-1] if table.partitions else ()
    release = make_release(plan, partition, "the next snapshot", known_id(plan.spec.key), 0)
    try:
        outlook = ledger.remaining_after(budget, [request(plan, release)])
    except SpecError as error:
        return failure(what, str(error), f"noiselib ledger show {spec_file}")
    found = (
        f"{budget.name}: epsilon {outlook.epsilon_before:.4g} spent of {budget.epsilon:g} at delta {budget.delta:g}, "
        f"{outlook.epsilon_after:.4g} after a new release of {release.partition_text or 'the table'}"
    )
    if not outlook.fits:
        return warning(what, f"{found}: it would be refused (exit code 4)", f"noiselib ledger history {spec_file}")
    return ok(what, found)


def check_target(what: str, spec: PipelineSpec) -> tuple[Target | None, Finding]:
    """Publishes nothing, but does beside the target what publishing does."""
    target = None
    try:
        target = open_target(spec)
        target.prove()
    except NoiselibError as error:
        return target, failure(
            what, str(error), "set target.path to a directory that can be written, or chmod that one"
        )
    return target, ok(what, f"{target}: can be published to, in one step")


def check_space(name: str, table: TableMetadata, target: Target, conf: Mapping[str, str]) -> Iterator[Finding]:
    """Staged beside the target: about as much as the source. Spilled: row keys and noised columns, in the worst case all of it."""
    size = source_bytes(table)
    place = target.home if target.home.exists() else target.path.parent
    facts = probe.place_facts(str(place))
    what, found = f"{name} space", f"{gib(facts['free'])} free at {place}, source {gib(size)}"
    if facts["free"] < size:
        yield failure(what, found, f"df -h {place}; noiselib gc {name} removes what is staged and quarantined")
    elif facts["free"] < 2 * size:
        yield warning(what, f"{found}: no room for a second version", f"df -h {place}; noiselib gc {name}")
    else:
        yield ok(what, found)
    for directory in scratch_directories(conf):
        finding = judge_scratch(f"{name} scratch", probe.place_facts(directory), size)
        if finding.state != "ok":
            yield finding


def source_bytes(table: TableMetadata) -> int:
    return sum(os.path.getsize(file.path) for file in table.files)
