"""Workers are killed at random instants of their work on a ledger, in mid-transaction more often than not.

After each kill the ledger is what the acknowledged operations say, with the one that was under way done or not done at
all; its history verifies; its total fits; and the next worker goes on at once.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import alembic.runtime.environment  # so that a process that is killed need not
import alembic.script  # noqa: F401
import pytest
from ledgers import BUDGET, CHARGE, execute, fork, request
from ledgers_v1 import make_version_1
from sqlalchemy.engine import make_url

from noiselib.errors import LedgerError, OverBudget, ReleaseHeld
from noiselib.ledger import Holder, Ledger

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
Count = Callable[..., None]
NAMES = range(14)
# What a worker does next to a release, by its state; None: it is not in the ledger. Publishing is two operations.
NEXT = {
    None: ("reserve",),
    "reserved": ("staged", "staged", "abandoned", "free"),
    "staged": ("publish", "quarantined", "abandoned"),
    "quarantined": ("staged", "abandoned"),
    "publishing": ("published",),
    "abandoned": ("reserve",),
    "published": ("reserve",),  # costs nothing
}


@dataclass
class Model:
    """The state that each release must have, by the operations that were acknowledged."""

    states: dict[int, str | None] = field(default_factory=lambda: dict.fromkeys(NAMES))

    def after(self, name: int, operation: str) -> str | None:
        known = self.states[name]
        if operation == "reserve":
            return "reserved" if known in (None, "abandoned") else known
        return {"free": known, "publish": "publishing"}.get(operation, operation)


def work(url: str, states: dict[int, str | None], seed: int, pipe: Any) -> None:
    """Operate on releases until killed: say what is begun, then what is done."""
    chance, model, me = random.Random(seed), Model(dict(states)), Holder.current()
    held: set[int] = set()
    with Ledger.open(url, wait_seconds=60) as ledger:
        while True:
            name = chance.choice(NAMES)
            operation = chance.choice(NEXT[model.states[name]])
            if name not in held:
                operation = "reserve"  # also to resume what the one before left: it is dead
            pipe.send(("begun", name, operation))
            try:
                operate(ledger, name, operation, me)
            except OverBudget:
                pipe.send(("refused", name, operation))
                continue
            pipe.send(("done", name, operation))
            model.states[name] = model.after(name, operation)
            (held.discard if operation in ("free", "published", "abandoned") else held.add)(name)


def operate(ledger: Ledger, name: int, operation: str, me: Holder) -> None:
    release_id = f"r{name}"
    if operation == "reserve":
        ledger.reserve(BUDGET, [request(name)], me)
    elif operation == "free":
        ledger.free([release_id], me)
    elif operation == "publish":
        ledger.begin_publish(release_id, me)
    else:
        ledger.advance(release_id, operation, holder=me)


def states(ledger: Ledger) -> dict[int, str | None]:
    found: dict[int, str | None] = dict.fromkeys(NAMES)
    for release in ledger.releases():
        began = release.publish_began is not None and release.state == "staged"
        found[int(release.release_id[1:])] = "publishing" if began else release.state
    return found


def kill_one(url: str, model: Model, seed: int) -> Counter[str]:
    """Start a worker, kill it, check what it leaves; what to count."""
    chance = random.Random(seed)
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=work, args=(url, model.states, seed, theirs))
    process.start()
    theirs.close()
    said, took, begun = [], 0.005, 0.0
    for _ in range(1 + 2 * chance.randrange(8)):  # up to the beginning of its first operation, or of a later one
        assert ours.poll(60), "the worker does not get to work after the kill before it"
        said.append(ours.recv())
        now = time.monotonic()
        took, begun = (now - begun, begun) if said[-1][0] == "done" else (took, now)
    time.sleep(chance.uniform(0.0, took))
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    journal = Path(f"{make_url(url).database}-journal").exists()
    done = 0
    try:
        while True:
            said.append(ours.recv())
    except EOFError:
        pass
    for what, name, operation in said:
        if what == "done":
            done += 1
            model.states[name] = model.after(name, operation)
    counted = Counter(ledger_kills=1, ledger_operations=done, ledger_kills_within_a_file_commit=int(journal))
    with Ledger.open(url, wait_seconds=60) as ledger:
        found = states(ledger)
        differing = {name for name in NAMES if found[name] != model.states[name]}
        what, name, operation = said[-1]
        if what == "begun":  # killed within it: done, or not done
            assert differing <= {name}
            assert found[name] in (model.states[name], model.after(name, operation))
            counted[f"ledger_kills_within_an_operation_{'done' if differing else 'not_done'}"] += 1
        else:
            assert not differing
        model.states = found
        assert ledger.verify().problems == ()
        counts = sum(state not in (None, "abandoned") for state in found.values())
        assert counts <= 10
        assert sum(status.spent for status in ledger.show()) <= BUDGET.epsilon
    return counted


@pytest.mark.parametrize("kills", [12, pytest.param(150, marks=pytest.mark.long)])
def test_killed_at_random_instants(ledger, url, kills, count: Count):
    for times in range(1, 12):
        CHARGE.times(times).epsilon(BUDGET.delta)  # once, in the process that workers are forked from
    model, total = Model(), Counter[str]()
    for seed in range(kills):
        total += (counted := kill_one(url, model, seed))
        count(**counted)
        if sum(state in ("published", "publishing") for state in model.states.values()) >= 8:
            start_anew(url, model)
    assert total["ledger_operations"] > kills  # they did get to work
    assert total["ledger_kills_within_an_operation_not_done"] > kills // 4


def start_anew(url: str, model: Model) -> None:
    """Publishing fills the budget for good: an emptied ledger, so that the next kill finds all kinds of work."""
    for table in ("releases", "memos", "budgets", "history"):
        execute(url, f"DELETE FROM {table}")
    model.states = dict.fromkeys(NAMES)


@pytest.mark.parametrize("kills", [8, pytest.param(60, marks=pytest.mark.long)])
def test_killed_at_random_instants_of_a_migration(url, kills, count: Count):
    """Ever later on average, until one is killed too late."""
    make_version_1(url, more=400)
    before = execute(url, "SELECT release_id, state, charge FROM releases ORDER BY 1")
    chance, done = random.Random(11), 0
    while done < kills and not is_migrated(url):
        process = fork.Process(target=Ledger.migrate, args=(url,))
        process.start()
        time.sleep(chance.uniform(0.0, 0.05 * 1.1**done))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join(30)
        done += 1
        count(ledger_migrations_killed=1)
        assert execute(url, "SELECT release_id, state, charge FROM releases ORDER BY 1") == before
    Ledger.migrate(url)
    with Ledger.open(url) as ledger:
        assert ledger.verify().problems == ()
        assert len(ledger.releases()) == len(before)


def is_migrated(url: str) -> bool:
    """Of the new version and whole, or of the old one; anything between is an error."""
    try:
        with Ledger.open(url) as ledger:
            assert ledger.verify().problems == ()
    except LedgerError as error:
        if "version 1, expected 2" not in str(error):
            raise
        return False
    return True


RESERVE = """
import sys, time
from ledgers import BUDGET, request
from noiselib.ledger import Holder, Ledger
Ledger.open(sys.argv[1]).reserve(BUDGET, [request(1)], Holder.current(), lease_seconds=float(sys.argv[2]))
print("held", flush=True)
time.sleep(600)
"""


def test_who_was_killed_in_another_container_holds_until_its_lease_ends(ledger, url, count: Count):
    """From here its processes cannot be seen, so that whether it lives is not known: its lease decides, by the ledger's clock."""
    lease = 10.0
    unshare = [
        "unshare",
        "--map-root-user",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
        sys.executable,
        "-c",
        RESERVE,
    ]
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    command = [*unshare, url, str(lease)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": paths}) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        held = time.monotonic()
        other.kill()
    with pytest.raises(ReleaseHeld, match="is held by process"):
        ledger.reserve(BUDGET, [request(1)], Holder.current())
    assert [release.release_id for release in ledger.at_work("flights")] == ["r1"]
    while ledger.at_work("flights"):
        assert time.monotonic() - held < 3 * lease
        time.sleep(0.2)
    assert time.monotonic() - held > lease - 5  # it was held before we were told
    ledger.reserve(BUDGET, [request(1)], Holder.current())
    assert [entry.event for entry in ledger.history()].count("reserved") == 1
    count(kills=1)
