"""Processes race for a budget that fits ten of them: exactly ten win, every time, on either database.

What the winners come to is computed from the stored rows without noiselib: the sum of the pure epsilons, and privacy
loss distributions. Planted bugs, an account read too early and a lock that is not taken, must fail the same check.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import pytest
from dp_accounting.pld import privacy_loss_distribution as pld
from ledgers import BUDGET, CHARGE, ME, execute, fork, in_processes, request

from noiselib.accounting import Charge, Event
from noiselib.errors import OverBudget
from noiselib.ledger import Budget, Holder, Ledger, database, schema

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
RIVALS = 32
WAIT = 120.0  # two cores and other work besides; a deadlock would last for ever
Count = Callable[..., None]


def budget(name: str) -> Budget:
    return Budget(name, BUDGET.epsilon, BUDGET.delta)


class Rivals:
    """Processes that stay for many rounds, and reserve at one moment in each."""

    def __init__(self, url: str, number: int = RIVALS) -> None:
        warm_up()
        self._start = fork.Barrier(number)
        pipes = [fork.Pipe() for _ in range(number)]
        self._processes = [fork.Process(target=self._serve, args=(url, theirs), daemon=True) for _, theirs in pipes]
        for process in self._processes:
            process.start()
        for _, theirs in pipes:
            theirs.close()
        self._pipes = [ours for ours, _ in pipes]

    def _serve(self, url: str, pipe: Any) -> None:
        with Ledger.open(url, wait_seconds=WAIT) as ledger:
            while (task := pipe.recv()) is not None:
                self._start.wait()
                try:
                    ledger.reserve(task[0], [task[1]], Holder.current())
                    pipe.send("won")
                except OverBudget:
                    pipe.send("over budget")
                except Exception as error:
                    pipe.send(f"{type(error).__name__}: {error}")

    def round(self, account: Budget, charges: list[Charge] | None = None) -> Counter[str]:
        """One race for an account that is not in use yet; how many had which outcome."""
        for number, pipe in enumerate(self._pipes):
            charge = charges[number] if charges else CHARGE
            pipe.send((account, request(f"{account.name}-{number}", charge=charge)))
        outcomes: Counter[str] = Counter()
        for pipe in self._pipes:
            assert pipe.poll(WAIT), "a rival has not answered: deadlock"
            outcomes[pipe.recv()] += 1
        return outcomes

    def end(self) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(30)


@contextmanager
def rivals(url: str) -> Iterator[Rivals]:
    one = Rivals(url)
    try:
        yield one
    finally:
        one.end()


@lru_cache
def warm_up() -> None:
    """Import and compose once, in the process that all rivals are forked from."""
    for times in range(1, 12):
        CHARGE.times(times).epsilon(BUDGET.delta)


# -- the check, without noiselib


def held(url: str, account: str) -> list[dict[str, Any]]:
    """The events of everything that counts, as they are stored."""
    rows = execute(url, f"SELECT charge FROM releases WHERE budget = '{account}' AND state <> 'abandoned'")
    return [event for (charge,) in rows for event in json.loads(charge)]


def check_total(events: list[dict[str, Any]]) -> None:
    slack = sum(event["slack"] * event["count"] for event in events)
    multipliers = tuple(sorted(event["noise_multiplier"] for event in events if event["kind"] == "laplace"))
    sigmas = tuple(sorted(event["noise_multiplier"] for event in events if event["kind"] == "gaussian"))
    assert len(multipliers) + len(sigmas) == len(events)
    if not sigmas:
        assert sum(1 / multiplier for multiplier in multipliers) <= BUDGET.epsilon * (1 + 1e-9)
    assert loss(multipliers, sigmas, BUDGET.delta - slack) <= BUDGET.epsilon * (1 + 1e-3)  # its grid is coarser


@lru_cache(maxsize=4096)
def loss(multipliers: tuple[float, ...], sigmas: tuple[float, ...], delta: float) -> float:
    total = pld.identity()
    for multiplier in multipliers:
        total = total.compose(pld.from_laplace_mechanism(multiplier))
    for sigma in sigmas:
        total = total.compose(pld.from_gaussian_mechanism(sigma))
    return float(total.get_epsilon_for_delta(delta))


def check_round(url: str, account: Budget, outcomes: Counter[str]) -> None:
    assert outcomes == {"won": 10, "over budget": RIVALS - 10}
    events = held(url, account.name)
    assert len(events) == 10  # none lost
    check_total(events)


@pytest.mark.parametrize("rounds", [20, pytest.param(200, marks=pytest.mark.long)])
def test_thirty_two_processes_race_for_a_budget_that_fits_ten(ledger, url, rounds, count: Count):
    with rivals(url) as racing:
        for number in range(rounds):
            account = budget(f"round-{number}")
            check_round(url, account, racing.round(account))
            count(ledger_races=1)
    found = ledger.verify()
    assert found.problems == ()
    assert found.entries == 11 * rounds
    assert len(ledger.show()) == rounds
    assert all(status.spent <= BUDGET.epsilon for status in ledger.show())


@pytest.mark.parametrize("rounds", [2, pytest.param(20, marks=pytest.mark.long)])
def test_a_race_of_unlike_charges(ledger, url, rounds, count: Count):
    """Who wins is chance; that the winners fit is not, and neither is that nobody else would have."""
    chance = random.Random(7)
    choices = [Charge.of(Event.laplace(b)) for b in (5.0, 10.0)] + [Charge.of(Event.gaussian(s)) for s in (12.0, 25.0)]
    with rivals(url) as racing:
        for number in range(rounds):
            account = budget(f"mixed-{number}")
            outcomes = racing.round(account, chance.choices(choices, k=RIVALS))
            events = held(url, account.name)
            assert outcomes == {"won": len(events), "over budget": RIVALS - len(events)}
            check_total(events)
            count(ledger_races=1)
    assert ledger.verify().problems == ()


def test_control_an_account_that_was_read_before_the_lock(ledger, url, monkeypatch):
    """Read, then lock, then decide: everybody wins, and the check says so."""
    monkeypatch.setattr(Ledger, "_account", lambda *_: [])
    with rivals(url) as racing:
        account = budget("planted")
        outcomes = racing.round(account)
    assert outcomes == {"won": RIVALS}
    with pytest.raises(AssertionError):
        check_round(url, account, outcomes)
    with pytest.raises(AssertionError):
        check_total(held(url, account.name))


def test_control_a_lock_that_is_not_taken(ledger, url, monkeypatch):
    """Without it two write the history's next entry, which its key refuses: not overspent, but the round fails."""
    monkeypatch.setattr(schema, "lock", lambda *_: None)
    monkeypatch.setattr(database, "_begin_sqlite", lambda connection: connection.exec_driver_sql("BEGIN"))
    account_of = Ledger._account

    def slowly(*arguments: Any) -> Any:
        found = account_of(*arguments)
        time.sleep(0.2)
        return found

    monkeypatch.setattr(Ledger, "_account", slowly)
    with rivals(url) as racing:
        account = budget("planted")
        outcomes = racing.round(account)
    with pytest.raises(AssertionError):
        check_round(url, account, outcomes)
    check_total(held(url, account.name))


@pytest.mark.parametrize("rounds", [3, pytest.param(30, marks=pytest.mark.long)])
def test_one_release_many_processes_one_charge(ledger, url, rounds, count: Count):
    warm_up()
    for number in range(rounds):
        name = f"r{number}"

        def rival(name: str = name) -> Any:
            # From another host, as far as the others know: that it has ended does not free it.
            holder = Holder("elsewhere", os.getpid(), "boot/namespace/1")
            with Ledger.open(url, wait_seconds=WAIT) as mine:
                return str(mine.reserve(budget(name), [request(name[1:])], holder).states[name])

        assert sorted(in_processes([rival] * 8)) == ["None"] + ["ReleaseHeld"] * 7
        count(ledger_races=1)
    assert all(status.spent == pytest.approx(0.1, rel=1e-2) for status in ledger.show())
    assert ledger.verify().problems == ()


def test_partitions_at_once_all_go_through(ledger, url):
    warm_up()

    def walk(month: int) -> Callable[[], Any]:
        def work() -> str:
            asked, me = request(month, f"month={month}", parallel=True), Holder.current()
            with Ledger.open(url, wait_seconds=WAIT) as mine:
                mine.reserve(BUDGET, [asked], me)
                mine.advance(asked.release_id, "staged", holder=me)
                mine.begin_publish(asked.release_id, me)
                mine.advance(asked.release_id, "published", holder=me)
            return "done"

        return work

    assert in_processes([walk(month) for month in range(16)]) == ["done"] * 16
    [status] = ledger.show()
    assert (status.counts["published"], status.spent) == (16, pytest.approx(0.1, rel=1e-2))
    assert ledger.verify().problems == ()
    assert ME.alive()
