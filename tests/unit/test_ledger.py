"""The ledger on real SQLite files, with real processes: races, kills, locks, damage."""

import json
import multiprocessing
import os
import shutil
import signal
import sqlite3
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from noiselib import ledger as module
from noiselib.accounting import Charge, Event
from noiselib.errors import LedgerError, OverBudget, ReleaseHeld, SpecError
from noiselib.ledger import Budget, Holder, Ledger, Memo, ReleaseRequest, preview, spent, worst_charges

# Ten of these fit the budget, and eleven do not.
CHARGE = Charge.of(Event.laplace(10.0, slack=1e-12))
BUDGET = Budget("features", epsilon=1.0, delta=1e-6)
ME = Holder.current()
ELSEWHERE = Holder("elsewhere", 4321, "boot/namespace/1")
fork = multiprocessing.get_context("fork")


def request(name: object, partition: str = "", parallel: bool = False, **changes: Any) -> ReleaseRequest:
    return replace(ReleaseRequest(f"r{name}", "flights", partition, parallel, "key-1", CHARGE), **changes)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/state/ledger.db"


@pytest.fixture
def ledger(url):
    with Ledger.create(url) as ledger:
        yield ledger


def in_process(work: Callable[[], Any]) -> Any:
    """Run in a process of its own that ends thereafter; the outcome's repr, or None if it was killed."""
    return in_processes([work])[0]


def in_processes(works: list[Callable[[], Any]]) -> list[Any]:
    """Run all at once, each in a process of its own, from one starting gun."""
    start = fork.Barrier(len(works))
    pipes = [fork.Pipe(duplex=False) for _ in works]

    def body(work: Callable[[], Any], send: Any) -> None:
        start.wait()
        try:
            send.send(work())
        except Exception as error:
            send.send(type(error).__name__)

    processes = [fork.Process(target=body, args=(work, pipe[1])) for work, pipe in zip(works, pipes, strict=True)]
    for process, pipe in zip(processes, pipes, strict=True):
        process.start()
        pipe[1].close()
    outcomes = []
    for process, pipe in zip(processes, pipes, strict=True):
        try:
            outcomes.append(pipe[0].recv())
        except EOFError:
            outcomes.append(None)
        process.join(30)
    return outcomes


def killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


# -- the account


def test_sequential_and_parallel_composition():
    one = Charge.of(Event.laplace(1.0))
    months = [request(month, f"month={month}", True, charge=one) for month in range(1, 4)]
    assert worst_charges(months) == [one]
    assert worst_charges([*months, request("again", "month=2", True, charge=one)]) == [one.times(2)]
    assert worst_charges([replace(month, parallel=False) for month in months]) == [one.times(3)]
    assert worst_charges([*months, request("all", charge=one)]) == [one.times(2)]
    assert worst_charges([*months, replace(months[0], release_id="x", pipeline="other")]) == [one.times(2)]
    # Partitions by another column overlap these.
    assert worst_charges([*months, request("region", "region=1", True, charge=one)]) == [one.times(2)]
    assert spent(months, 1e-12) == pytest.approx(1.0)
    assert spent([replace(month, parallel=False) for month in months], 1e-12) == pytest.approx(3.0)
    assert worst_charges([]) == [Charge()]


def test_unlike_partitions_are_all_candidates():
    a, b = Charge.of(Event.laplace(1.0)), Charge.of(Event.gaussian(1.0))
    releases = [request(1, "month=1", True, charge=a), request(2, "month=2", True, charge=b)]
    assert set(worst_charges(releases)) == {a, b}
    assert spent(releases, 1e-9) == max(a.epsilon(1e-9), b.epsilon(1e-9))
    other = [replace(release, pipeline="other") for release in releases]
    assert set(worst_charges([*releases, *other])) == {a.times(2), a + b, b.times(2)}


def test_an_explosion_of_candidates_is_bounded_from_above():
    releases = [
        request(f"{pipeline}-{month}", f"month={month}", True, pipeline=f"p{pipeline}", charge=charge)
        for pipeline in range(9)
        for month, charge in enumerate(
            (Charge.of(Event.laplace(9.0 + pipeline)), Charge.of(Event.laplace(30.0)).times(2))
        )
    ]
    worst = worst_charges(releases)
    assert len(worst) <= 64
    heaviest = Charge.of(*(Event.laplace(9.0 + pipeline) for pipeline in range(9)))
    assert any(heaviest <= charge for charge in worst)


def test_a_memo_is_charged_once():
    memo = Memo("memo-1", "income", Charge.of(Event.laplace(2.0)))
    months = [request(month, f"month={month}", True, memos=(memo,)) for month in range(3)]
    assert worst_charges(months) == [CHARGE + memo.charge]
    assert worst_charges([*months, request(9, memos=(replace(memo, memo_id="memo-2"),))]) == [
        CHARGE.times(2) + memo.charge.times(2)
    ]


def test_preview_needs_no_ledger():
    outcome = preview(BUDGET, [request(1), request(2)])
    assert outcome.epsilon_before == 0.0
    assert outcome.added == pytest.approx(0.2, rel=1e-3)
    assert outcome.remaining == 1.0
    assert outcome.fits


def test_rounding_does_not_cost_a_release():
    budget = Budget("thirds", 0.3, 1e-30)
    assert preview(budget, [request(i, charge=Charge.of(Event.laplace(10.0))) for i in range(3)]).fits


# -- reserving


def test_reserve_sets_the_limit_and_charges(ledger):
    result = ledger.reserve(BUDGET, [request(1), request(2)], ME)
    assert result.states == {"r1": None, "r2": None}
    assert (result.epsilon_before, result.epsilon_after) == (0.0, pytest.approx(0.2, rel=1e-3))
    status = ledger.show("features")[0]
    assert (status.budget, status.counts["reserved"]) == (BUDGET, 2)
    assert status.spent == result.epsilon_after
    assert status.remaining == BUDGET.epsilon - status.spent
    assert status.slack == pytest.approx(2e-12)
    assert ledger.release("r1").holder == ME
    with pytest.raises(SpecError, match=r"epsilon=1\.0.*epsilon=2\.0"):
        ledger.reserve(replace(BUDGET, epsilon=2.0), [request(3)], ME)
    assert ledger.release("r3") is None


def test_reserving_again_adds_nothing(ledger):
    first = ledger.reserve(BUDGET, [request(1)], ME)
    again = ledger.reserve(BUDGET, [request(1)], ME)
    assert again.states == {"r1": "reserved"}
    assert again.added == 0.0
    assert again.epsilon_before == first.epsilon_after
    more = ledger.reserve(BUDGET, [request(1), request(2)], ME)
    assert more.added == pytest.approx(0.1, rel=1e-2)


def test_over_budget_writes_nothing(ledger):
    with pytest.raises(OverBudget, match=r"'features'.*requested epsilon=1\.09.*remaining 1 of 1, over by 0\.09"):
        ledger.reserve(BUDGET, [request(i) for i in range(11)], ME)
    assert ledger.show() == []
    assert ledger.releases() == []
    assert ledger.history() == []
    ledger.reserve(BUDGET, [request(i) for i in range(10)], ME)
    with pytest.raises(OverBudget):
        ledger.reserve(BUDGET, [request(0), request(10)], ME)
    assert ledger.reserve(BUDGET, [request(0)], ME).added == 0.0
    assert ledger.remaining_after(BUDGET, [request(10)]).fits is False


def test_a_budget_must_have_room_for_slack(ledger):
    with pytest.raises(SpecError, match="sampler"):
        Budget("pure", 1.0, 0.0)
    with pytest.raises(OverBudget, match="slack"):
        ledger.reserve(Budget("tiny", 1.0, 1e-13), [request(1)], ME)


def test_one_release_one_charge(ledger):
    ledger.reserve(BUDGET, [request(1)], ME)
    with pytest.raises(SpecError, match="another one"):
        ledger.reserve(BUDGET, [request(1, charge=CHARGE.times(2))], ME)
    with pytest.raises(SpecError, match=r"'features'.*'second'"):
        ledger.reserve(replace(BUDGET, name="second"), [request(1)], ME)
    with pytest.raises(SpecError, match="once"):
        ledger.reserve(BUDGET, [request(2), request(2)], ME)
    assert [release.release_id for release in ledger.releases()] == ["r1"]


def test_a_memo_keeps_its_charge(ledger):
    memo = Memo("m1", "income", Charge.of(Event.laplace(5.0)))
    first = ledger.reserve(BUDGET, [request(1, memos=(memo,))], ME)
    second = ledger.reserve(BUDGET, [request(2, memos=(memo,))], ME)
    assert first.added == pytest.approx(0.3, rel=1e-2)
    assert second.added == pytest.approx(0.1, rel=1e-1)
    assert ledger.release("r2").request.memos == (memo,)
    with pytest.raises(SpecError, match="m1"):
        ledger.reserve(BUDGET, [request(3, memos=(replace(memo, charge=CHARGE),))], ME)
    ledger.abandon("r1")  # the other release still uses the memo
    assert ledger.show()[0].spent == pytest.approx(0.3, rel=1e-2)


# -- states


@pytest.mark.parametrize(
    "path", ["staged published", "staged quarantined staged published", "staged quarantined reserved"]
)
def test_lawful_paths(ledger, path):
    before = ledger.reserve(BUDGET, [request(1)], ME).epsilon_after
    for state in path.split():
        ledger.advance("r1", state, {"step": state}, ME)
        ledger.advance("r1", state, holder=ME)  # the reply was lost
        assert ledger.release("r1").state == state
    assert ledger.show()[0].spent == before
    events = [(entry.event, entry.detail) for entry in ledger.history(release_id="r1")]
    assert events[1:] == [(state, {"step": state}) for state in path.split()]


@pytest.mark.parametrize(
    ("path", "state"),
    [
        ("", "published"),
        ("", "quarantined"),
        ("staged quarantined", "published"),
        ("staged published", "abandoned"),
        ("staged published", "staged"),
        ("abandoned", "reserved"),
        ("", "lost"),
    ],
)
def test_unlawful_transitions(ledger, path, state):
    ledger.reserve(BUDGET, [request(1)], ME)
    for step in path.split():
        ledger.advance("r1", step)
    with pytest.raises(LedgerError, match=f"r1.*{state}"):
        ledger.advance("r1", state)
    with pytest.raises(LedgerError, match="r2"):
        ledger.advance("r2", "staged")


def test_abandoning_gives_back_and_reserving_pays_again(ledger):
    ledger.reserve(BUDGET, [request(i) for i in range(10)], ME)
    ledger.abandon("r1", {"why": "spec changed"})
    assert ledger.show()[0].counts["abandoned"] == 1
    ledger.reserve(BUDGET, [request(10)], ME)
    with pytest.raises(OverBudget):
        ledger.reserve(BUDGET, [request(1)], ME)
    ledger.abandon("r10")
    result = ledger.reserve(BUDGET, [request(1)], ME)
    assert result.states == {"r1": "abandoned"}
    assert result.added > 0
    assert ledger.release("r1").state == "reserved"


def test_what_a_reader_may_have_seen_is_not_given_back(ledger):
    ledger.reserve(BUDGET, [request(1)], ME)
    with pytest.raises(LedgerError, match="staged"):
        ledger.begin_publish("r1", ME)
    ledger.advance("r1", "staged")
    ledger.begin_publish("r1", ME)
    ledger.begin_publish("r1", ME)
    with pytest.raises(LedgerError, match="publishing began"):
        ledger.abandon("r1")
    ledger.advance("r1", "published")
    result = ledger.reserve(BUDGET, [request(1)], ELSEWHERE)
    assert (result.states, result.added) == ({"r1": "published"}, 0.0)
    assert ledger.release("r1").holder is None


def test_reading(ledger):
    other = request("x1", pipeline="other")
    ledger.reserve(BUDGET, [request("a1"), request("a2"), request("_b")], ME)
    ledger.reserve(Budget("second", 5.0, 1e-9), [other], ME)
    assert [release.release_id for release in ledger.find("ra")] == ["ra1", "ra2"]
    assert [release.release_id for release in ledger.find("r_")] == ["r_b"]
    assert [release.request for release in ledger.releases(pipeline="other")] == [other]
    assert len(ledger.releases(budget="features")) == 3
    assert [status.budget.name for status in ledger.show()] == ["features", "second"]
    assert ledger.show("unknown") == []
    assert [entry.event for entry in ledger.history(budget="second")] == ["budget", "reserved"]
    assert [entry.seq for entry in ledger.history()] == sorted(entry.seq for entry in ledger.history())


# -- leases


def test_a_live_holder_keeps_its_release(ledger, url):
    ledger.reserve(BUDGET, [request(1)], ME)

    def rival() -> str:
        with Ledger.open(url) as mine, pytest.raises(ReleaseHeld) as caught:
            mine.reserve(BUDGET, [request(1), request(2)], Holder.current())
        return str(caught.value)

    message = in_process(rival)
    assert f"process {ME.pid} on {ME.host} since 20" in message
    assert ledger.release("r2") is None
    with pytest.raises(ReleaseHeld):
        ledger.abandon("r1", holder=ELSEWHERE)
    taken = ledger.reserve(BUDGET, [request(1)], ELSEWHERE, take_over=True)
    assert taken.added == 0.0
    for stale in (lambda: ledger.advance("r1", "staged", holder=ME), lambda: ledger.renew(["r1"], ME)):
        with pytest.raises(ReleaseHeld, match="elsewhere"):
            stale()
    ledger.free(["r1"], ME)
    assert ledger.release("r1").holder == ELSEWHERE
    ledger.free(["r1"], ELSEWHERE)
    ledger.reserve(BUDGET, [request(1)], ME)


@pytest.mark.parametrize("end", [killed, lambda: None], ids=["killed", "ended"])
def test_a_dead_holder_is_followed_at_once_and_charged_once(ledger, url, end):
    def first() -> None:
        with Ledger.open(url) as mine:
            mine.reserve(BUDGET, [request(1)], Holder.current())
        end()  # the reply is lost

    in_process(first)
    assert ledger.release("r1").holder.dead()
    result = ledger.reserve(BUDGET, [request(1)], ME)
    assert (result.states, result.added) == ({"r1": "reserved"}, 0.0)
    assert ledger.release("r1").holder == ME


def test_a_lease_ends_and_is_renewed(ledger):
    ledger.reserve(BUDGET, [request(1)], ELSEWHERE, lease_seconds=0.0)
    ledger.renew(["r1"], ELSEWHERE, lease_seconds=60.0)
    with pytest.raises(ReleaseHeld, match="elsewhere"):
        ledger.reserve(BUDGET, [request(1)], ME)
    ledger.renew(["r1"], ELSEWHERE, lease_seconds=0.0)
    assert ledger.reserve(BUDGET, [request(1)], ME).states == {"r1": "reserved"}


def test_who_is_dead():
    assert not ME.dead()
    assert not ELSEWHERE.dead()  # cannot be known from here
    place = ME.started.rpartition("/")[0]
    assert replace(ME, started=f"{place}/1").dead()  # the pid has been reused
    assert not replace(ME, started="another boot/namespace/1").dead()
    child = os.fork()
    if child == 0:
        os._exit(0)
    while not module._process_start(child).endswith("ended"):
        time.sleep(0.001)
    zombie = Holder(ME.host, child, f"{place}/123")
    assert zombie.dead()
    os.waitpid(child, 0)
    assert zombie.dead()


# -- many processes


def race(url: str) -> list[Any]:
    CHARGE.times(2).epsilon(BUDGET.delta)  # imports what composes once, here, and not in each process

    def rival(name: int) -> Callable[[], Any]:
        def run() -> Any:
            with Ledger.open(url) as mine:
                return mine.reserve(BUDGET, [request(name)], Holder.current()).states[f"r{name}"]

        return run

    return in_processes([rival(name) for name in range(32)])


def test_thirty_two_processes_spend_a_budget_for_ten(ledger, url):
    assert sorted(map(str, race(url))) == ["None"] * 10 + ["OverBudget"] * 22
    status = ledger.show()[0]
    assert status.counts["reserved"] == 10
    assert status.spent <= BUDGET.epsilon


def test_the_race_overspends_without_a_transaction(ledger, url, monkeypatch):
    """The negative control: read, decide, write with nothing held in between."""
    ledger.reserve(BUDGET, [request(name) for name in range(100, 105)], ME)
    hold = Ledger._hold

    def slow(*args: Any) -> None:
        time.sleep(0.3)
        hold(*args)

    monkeypatch.setattr(Ledger, "_hold", slow)
    monkeypatch.setattr(module, "_begin_sqlite", lambda connection: None)
    outcomes = race(url)
    monkeypatch.undo()
    assert outcomes.count(None) > 5
    assert ledger.show()[0].spent > BUDGET.epsilon


def test_one_release_many_processes_one_charge(ledger, url):
    def rival() -> Any:
        with Ledger.open(url) as mine:
            result = mine.reserve(BUDGET, [request(1)], replace(Holder.current(), host="elsewhere"))
            return str(result.states["r1"])

    outcomes = in_processes([rival] * 8)
    assert sorted(outcomes) == ["None"] + ["ReleaseHeld"] * 7
    assert ledger.show()[0].spent == pytest.approx(0.1, rel=1e-2)


def test_one_of_many_creates(tmp_path):
    target = f"sqlite:///{tmp_path}/deep/er/ledger.db"
    outcomes = in_processes([lambda: Ledger.create(target).created] * 8)
    assert sorted(outcomes) == [False] * 7 + [True]


def test_killed_inside_a_transaction(ledger, url, monkeypatch):
    ledger.reserve(BUDGET, [request(0)], ME)
    before = ledger.show()

    def doomed() -> None:
        record = Ledger._record

        def kill(self: Ledger, connection: Any, *args: Any) -> None:
            record(self, connection, *args)
            connection.exec_driver_sql("PRAGMA cache_spill = 1")
            killed()

        monkeypatch.setattr(Ledger, "_record", kill)
        with Ledger.open(url) as mine:
            mine.reserve(BUDGET, [request(name) for name in range(1, 9)], Holder.current())

    assert in_process(doomed) is None
    assert ledger.show() == before
    assert ledger.reserve(BUDGET, [request(name) for name in range(1, 10)], ME).states["r1"] is None


def test_a_lock_is_waited_for(ledger, url):
    def blocker() -> None:
        with closing(sqlite3.connect(ledger.name, isolation_level=None)) as connection:
            connection.execute("BEGIN EXCLUSIVE")
            time.sleep(0.5)
            connection.execute("COMMIT")

    process = fork.Process(target=blocker)
    process.start()
    time.sleep(0.2)
    assert ledger.reserve(BUDGET, [request(1)], ME).states == {"r1": None}
    process.join()


# -- a ledger that cannot be used


def test_create_is_harmless_and_open_is_not_create(url):
    with pytest.raises(LedgerError, match=r"ledger\.db.*noiselib ledger init"):
        Ledger.open(url)
    with Ledger.create(url) as first:
        assert first.created
        first.reserve(BUDGET, [request(1)], ME)
    with Ledger.create(url) as second:
        assert not second.created
        assert len(second.releases()) == 1


def test_a_ledger_that_goes_is_not_replaced(ledger):
    Path(ledger.name).unlink()
    with pytest.raises(LedgerError, match=r"ledger\.db"):
        ledger.reserve(BUDGET, [request(1)], ME)
    assert not Path(ledger.name).exists()


@pytest.mark.parametrize("wrong", ["sqlite://", "sqlite:///:memory:", "ledger.db", "", "mysql://host/db"])
def test_a_url_that_is_no_ledger(wrong):
    with pytest.raises(SpecError, match="sqlite:///path"):
        Ledger.open(wrong)


def test_locked(ledger, url):
    with closing(sqlite3.connect(ledger.name, isolation_level=None)) as blocker:
        blocker.execute("BEGIN EXCLUSIVE")
        begun = time.monotonic()
        with pytest.raises(LedgerError, match=r"ledger\.db: locked"):
            Ledger.open(url, wait_seconds=0.3)
        assert 0.2 < time.monotonic() - begun < 5
        blocker.execute("ROLLBACK")
        blocker.execute("BEGIN IMMEDIATE")
        with Ledger.open(url, wait_seconds=0.1) as patient, pytest.raises(LedgerError, match="locked"):
            patient.reserve(BUDGET, [request(1)], ME)


def test_read_only():
    directory = Path(tempfile.mkdtemp())
    try:
        directory.chmod(0o755)
        url = f"sqlite:///{directory}/ledger.db"
        with Ledger.create(url) as ledger:
            ledger.reserve(BUDGET, [request(1)], ME)
        (directory / "ledger.db").chmod(0o444)

        def reader() -> tuple[int, str]:
            if os.geteuid() == 0:
                os.setuid(65534)  # root may write anything
            with Ledger.open(url) as mine:
                assert mine.show()[0].counts["reserved"] == 1
                with pytest.raises(LedgerError) as caught:
                    mine.reserve(BUDGET, [request(2)], ME)
                return len(mine.releases()), str(caught.value)

        count, message = in_process(reader)
        assert count == 1
        assert "ledger.db: read-only" in message
    finally:
        shutil.rmtree(directory)


def damage(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()


def test_not_a_ledger(tmp_path):
    path = tmp_path / "ledger.db"
    url = f"sqlite:///{path}"
    path.write_bytes(os.urandom(8192))
    for use in (Ledger.open, Ledger.create):
        with pytest.raises(LedgerError, match=r"ledger\.db: damaged or not a ledger"):
            use(url)
    path.write_bytes(b"")
    with pytest.raises(LedgerError, match="without its tables"):
        Ledger.open(url)
    damage(path, "CREATE TABLE budgets (name TEXT)")
    with pytest.raises(LedgerError, match="empty database"):
        Ledger.create(url)


def test_truncated_and_overwritten(ledger, url):
    ledger.reserve(BUDGET, [request(1)], ME)
    path = Path(ledger.name)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(LedgerError, match="damaged"):
        ledger.reserve(BUDGET, [request(2)], ME)
    path.write_bytes(whole[:100] + os.urandom(len(whole) - 100))
    with pytest.raises(LedgerError, match=r"ledger\.db"):
        Ledger.open(url)


@pytest.mark.parametrize(
    "statement",
    [
        'UPDATE releases SET charge = \'[{"kind": "cauchy", "slack": 0, "count": 1}]\'',
        "UPDATE releases SET charge = '[]x'",
        "UPDATE releases SET memos = '[1]'",
    ],
)
def test_a_charge_that_cannot_be_read_is_not_skipped(ledger, statement):
    ledger.reserve(BUDGET, [request(1)], ME)
    damage(Path(ledger.name), statement)
    with pytest.raises(LedgerError, match=r"ledger\.db: release r1 is damaged"):
        ledger.reserve(BUDGET, [request(2)], ME)


@pytest.mark.parametrize("statement", ["UPDATE noiselib_schema SET version = 99", "DELETE FROM noiselib_schema"])
def test_unknown_schema(ledger, url, statement):
    damage(Path(ledger.name), statement)
    for use in (Ledger.open, Ledger.create):
        with pytest.raises(LedgerError, match="schema version 1"):
            use(url)


# -- what is stored


def test_what_is_stored_is_plain_json(ledger):
    ledger.reserve(BUDGET, [request(1)], ME)
    with sqlite3.connect(ledger.name) as connection:
        text = connection.execute("SELECT charge FROM releases").fetchone()[0]
    connection.close()
    assert json.loads(text) == [{"count": 1, "kind": "laplace", "noise_multiplier": 10.0, "slack": 1e-12}]


def test_no_connection_outlives_a_call(ledger):
    ledger.reserve(BUDGET, [request(1)], ME)
    ledger.releases()
    links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert ledger.name not in links


def test_the_statements_compile_for_postgresql():
    dialect = postgresql.dialect()
    for table in module._metadata.sorted_tables:
        assert str(sa.schema.CreateTable(table).compile(dialect=dialect))
    assert "FOR UPDATE" in str(sa.select(module._budgets).with_for_update().compile(dialect=dialect))
