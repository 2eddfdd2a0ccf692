"""The ledger's doings: reserving, states, leases, reading. On SQLite and on PostgreSQL alike."""

import json
import os
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from ledgers import BUDGET, CHARGE, ELSEWHERE, ME, execute, in_process, killed, request

from noiselib.accounting import Charge, Event
from noiselib.errors import LedgerError, OverBudget, ReleaseHeld, SpecError
from noiselib.ledger import Budget, Holder, Ledger, Memo, database, holder

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


def test_what_readers_have_seen_is_charged_whatever_is_left(ledger):
    """A ledger restored from a backup learns of it; of nothing else beside it."""
    ledger.reserve(BUDGET, [request(1, charge=CHARGE.times(9))], ME)
    seen = request(2, charge=CHARGE.times(9))
    assert ledger.enter(BUDGET, seen, ME)
    [status] = ledger.show()
    assert (status.spent > BUDGET.epsilon, status.remaining) == (True, 0.0)
    assert (ledger.release("r2").state, ledger.release("r2").holder) == ("published", None)
    before = ledger.history()
    assert not ledger.enter(BUDGET, seen, ME)
    assert ledger.history() == before
    with pytest.raises(OverBudget):
        ledger.reserve(BUDGET, [request(3)], ME)
    with pytest.raises(LedgerError, match="is published"):
        ledger.abandon("r2")
    assert ledger.verify().problems == ()


def test_what_readers_have_seen_takes_the_place_of_what_was_reserved_before(ledger):
    """The backup is from before the release was given up and made again, for another budget and charge."""
    ledger.reserve(BUDGET, [request(1), request(2)], ELSEWHERE)
    other, seen = replace(BUDGET, name="other"), request(1, charge=CHARGE.times(2))
    with pytest.raises(ReleaseHeld, match="elsewhere"):
        ledger.enter(other, seen, ME)
    assert ledger.enter(other, seen, ME, take_over=True)
    assert (ledger.release("r1").request, ledger.release("r1").budget) == (seen, "other")
    spent = {status.budget.name: status.spent for status in ledger.show()}
    assert spent == {"features": pytest.approx(0.1, rel=1e-2), "other": pytest.approx(0.2, rel=1e-2)}
    with pytest.raises(SpecError, match="limit it is in use with"):
        ledger.enter(replace(other, epsilon=2.0), request(3), ME)
    assert ledger.release("r3") is None
    assert ledger.verify().problems == ()


def test_what_began_to_be_published_is_entered_as_it_was_charged(ledger):
    ledger.reserve(BUDGET, [request(1)], ME)
    ledger.advance("r1", "staged", holder=ME)
    ledger.begin_publish("r1", ME)
    assert ledger.enter(replace(BUDGET, name="other"), request(1, charge=CHARGE.times(2)), ME)
    release = ledger.release("r1")
    assert (release.state, release.budget, release.request) == ("published", "features", request(1))
    assert [status.budget.name for status in ledger.show()] == ["features"]
    assert ledger.verify().problems == ()


def test_a_ledger_and_its_copies_have_one_origin(ledger, tmp_path):
    assert ledger.origin() is None
    ledger.reserve(BUDGET, [request(1)], ME)
    origin = ledger.origin()
    ledger.reserve(BUDGET, [request(2)], ME)
    assert ledger.origin() == origin == ledger.history()[0].hash
    with Ledger.create(f"sqlite:///{tmp_path}/another.db") as another:
        another.reserve(BUDGET, [request(1)], ME)
        assert another.origin() != origin


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


def test_a_budget_is_of_one_privacy_unit(ledger):
    people = replace(BUDGET, unit="entity (person)")
    ledger.reserve(people, [request(1)], ME)
    assert ledger.show()[0].budget == people
    for other in (BUDGET, replace(BUDGET, unit="entity (household)")):
        for use in (
            lambda other=other: ledger.reserve(other, [request(2)], ME),
            lambda: ledger.remaining_after(BUDGET, []),
        ):
            with pytest.raises(SpecError, match=r"in use with, entity \(person\), got (row|entity \(household\))"):
                use()
    assert [release.release_id for release in ledger.releases()] == ["r1"]
    ledger.reserve(people, [request(2)], ME)


def test_a_budget_is_of_one_neighbouring_relation(ledger):
    ledger.reserve(BUDGET, [request(1)], ME)
    added = Charge.of(Event.laplace(10.0).under("add_or_remove_one"))
    with pytest.raises(SpecError, match="one neighbouring relation"):
        ledger.reserve(BUDGET, [request(2, charge=added)], ME)
    assert [release.release_id for release in ledger.releases()] == ["r1"]


# -- states


@pytest.mark.parametrize(
    "path", ["staged published", "staged quarantined staged published", "staged quarantined abandoned"]
)
def test_lawful_paths(ledger, path):
    before = ledger.reserve(BUDGET, [request(1)], ME).epsilon_after
    for state in path.split():
        ledger.advance("r1", state, {"step": state}, ME)
        ledger.advance("r1", state, holder=ME)  # the reply was lost
        assert ledger.release("r1").state == state
    assert ledger.show()[0].spent == (0.0 if "abandoned" in path else before)
    events = [(entry.event, entry.detail) for entry in ledger.history(release_id="r1")]
    assert events[1:] == [(state, {"step": state}) for state in path.split()]


@pytest.mark.parametrize(
    ("path", "state"),
    [
        ("", "published"),
        ("", "quarantined"),
        ("staged quarantined", "published"),
        ("staged quarantined", "reserved"),
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
    with pytest.raises(LedgerError, match="published"):
        ledger.abandon("r1")
    result = ledger.reserve(BUDGET, [request(1)], ELSEWHERE, settled={"r1"})
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


def test_a_holder_that_lost_its_lease_writes_nothing(ledger):
    ledger.reserve(BUDGET, [request(1)], ME)
    ledger.reserve(BUDGET, [request(1)], ELSEWHERE, take_over=True)
    ledger.advance("r1", "staged", holder=ELSEWHERE)
    late = (
        lambda: ledger.advance("r1", "published", holder=ME),
        lambda: ledger.begin_publish("r1", ME),
        lambda: ledger.renew(["r1"], ME),
        lambda: ledger.abandon("r1", holder=ME),
    )

    def refused(by: str) -> None:
        before = ledger.release("r1"), ledger.history()
        for write in late:
            with pytest.raises(ReleaseHeld, match=by):
                write()
        ledger.free(["r1"], ME)
        assert (ledger.release("r1"), ledger.history()) == before

    refused("elsewhere")
    with pytest.raises(ReleaseHeld, match="elsewhere"):
        ledger.advance("r1", "staged", holder=ME)
    ledger.free(["r1"], ELSEWHERE)
    refused("nobody")


def test_holding_to_give_up(ledger):
    ledger.reserve(BUDGET, [request(1), request(2)], ELSEWHERE)
    with pytest.raises(ReleaseHeld, match="elsewhere"):
        ledger.hold("r1", ME)
    ledger.free(["r1", "r2"], ELSEWHERE)
    ledger.hold("r1", ME)
    ledger.hold("r1", ME)
    with pytest.raises(ReleaseHeld, match=str(ME.pid)):
        ledger.reserve(BUDGET, [request(1)], ELSEWHERE)
    ledger.abandon("r1", holder=ME)
    ledger.hold("r1", ME)  # there is nothing left to give up
    assert ledger.release("r1").holder is None
    ledger.advance("r2", "staged")
    ledger.begin_publish("r2")
    with pytest.raises(LedgerError, match="publishing began"):
        ledger.hold("r2", ME)
    ledger.advance("r2", "published")
    with pytest.raises(LedgerError, match="never given back"):
        ledger.hold("r2", ME)


# -- releases that were published, and are made again


def publish(ledger: Ledger, *names: object) -> None:
    ledger.reserve(BUDGET, [request(name) for name in names], ME)
    for name in names:
        ledger.advance(f"r{name}", "staged", holder=ME)
        ledger.begin_publish(f"r{name}", ME)
        ledger.advance(f"r{name}", "published", holder=ME)


def test_a_published_release_is_made_again_by_one_at_a_time_and_for_nothing(ledger):
    publish(ledger, 1)
    spent = ledger.show()[0].spent
    result = ledger.reserve(BUDGET, [request(1)], ELSEWHERE)
    assert (result.states, result.added) == ({"r1": "published"}, 0.0)
    with pytest.raises(ReleaseHeld, match="elsewhere"):
        ledger.reserve(BUDGET, [request(1), request(2)], ME)
    assert ledger.release("r2") is None
    ledger.renew(["r1"], ELSEWHERE, lease_seconds=60.0)
    ledger.advance("r1", "published", holder=ELSEWHERE)
    assert ledger.release("r1").holder == ELSEWHERE  # until it is freed
    with pytest.raises(ReleaseHeld, match="elsewhere"):
        ledger.advance("r1", "published", holder=ME)
    with pytest.raises(LedgerError, match="r1 is published"):
        ledger.abandon("r1", holder=ELSEWHERE)
    ledger.free(["r1"], ELSEWHERE)
    ledger.reserve(BUDGET, [request(1)], ME)
    ledger.reserve(BUDGET, [request(1)], ELSEWHERE, take_over=True)
    with pytest.raises(ReleaseHeld, match="elsewhere"):
        ledger.renew(["r1"], ME)
    ledger.free(["r1"], ELSEWHERE)
    assert [entry.event for entry in ledger.history(release_id="r1")][4:] == ["held", "freed", "held", "held", "freed"]
    assert ledger.show()[0].spent == spent
    assert ledger.release("r1").state == "published"
    assert ledger.verify().problems == ()


def test_what_is_settled_is_neither_held_nor_refused(ledger):
    publish(ledger, 1, 2)
    ledger.reserve(BUDGET, [request(1), request(3)], ELSEWHERE)
    before = ledger.history()
    ledger.reserve(BUDGET, [request(1), request(2)], ME, settled=["r1", "r2"])
    assert ledger.history() == before
    assert [ledger.release(name).holder for name in ("r1", "r2")] == [ELSEWHERE, None]
    with pytest.raises(ReleaseHeld, match="r3"):  # the caller saw more than the ledger was told: it has to be told
        ledger.reserve(BUDGET, [request(3)], ME, settled=["r3"])
    ledger.free(["r3"], ELSEWHERE)
    ledger.reserve(BUDGET, [request(3)], ME, settled=["r3"])
    assert ledger.release("r3").holder == ME


def test_what_is_settled_was_paid_from_whatever_budget(ledger):
    publish(ledger, 1)
    other = replace(BUDGET, name="other")
    with pytest.raises(SpecError, match=r"'features'.*'other'"):
        ledger.reserve(other, [request(1)], ME)
    result = ledger.reserve(other, [request(1), request(2)], ME, settled=["r1"])
    assert (result.epsilon_before, ledger.release("r1").budget) == (0.0, "features")
    assert result.added == pytest.approx(0.1, rel=1e-2)


def test_renewing_tells_whether_all_of_them_are_held(ledger):
    ledger.reserve(BUDGET, [request(1)], ME, lease_seconds=0.0)
    until = ledger.release("r1").lease_until
    publish(ledger, 2)
    with pytest.raises(ReleaseHeld, match=r"r2.*nobody"):
        ledger.renew(["r1", "r2"], ME)  # published, so the lease is over
    with pytest.raises(ReleaseHeld, match=r"r9 is not in ledger"):
        ledger.renew(["r1", "r9"], ME)
    assert ledger.release("r1").lease_until == until
    ledger.reserve(BUDGET, [request(2)], ME)
    ledger.renew(["r1", "r2"], ME)
    assert ledger.release("r1").lease_until == ledger.release("r2").lease_until > until


def a_day_off(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    right = database.host_clock
    monkeypatch.setattr(database, "host_clock", lambda: right() + timedelta(days=days))


@pytest.mark.parametrize("days", [-1, 1])
def test_on_one_host_no_clock_lets_two_work_at_once(ledger, url, monkeypatch, days):
    ledger.reserve(BUDGET, [request(1)], ME, lease_seconds=0.0)  # also one whose lease was not renewed in time

    def rival() -> str:
        a_day_off(monkeypatch, days)
        with Ledger.open(url) as mine:
            mine.reserve(BUDGET, [request(1)], Holder.current())
        return "both"

    assert in_process(rival) == "ReleaseHeld"
    assert ledger.release("r1").holder == ME


def test_between_hosts_the_clock_of_the_server_counts(ledger, url, monkeypatch):
    ledger.reserve(BUDGET, [request(1)], ELSEWHERE)
    a_day_off(monkeypatch, 1)
    if url.startswith("postgresql"):
        with pytest.raises(ReleaseHeld, match="elsewhere"):
            ledger.reserve(BUDGET, [request(1)], ME)
    else:  # the limit of a file, which has no clock: this is why it is for one host
        ledger.reserve(BUDGET, [request(1)], ME)
    ledger.reserve(BUDGET, [request(2)], ELSEWHERE, lease_seconds=0.0)
    a_day_off(monkeypatch, -2)
    if url.startswith("postgresql"):
        ledger.reserve(BUDGET, [request(2)], ME)
        assert ledger.release("r2").holder == ME


def test_who_is_at_work_is_told_by_the_same_clock(ledger, url, monkeypatch):
    ledger.reserve(BUDGET, [request(1), request(2)], ELSEWHERE)
    ledger.reserve(BUDGET, [request(3), request(4)], ME, lease_seconds=0.0)  # it lives: no clock is asked
    ledger.reserve(BUDGET, [request(5, pipeline="other")], ME)
    ledger.renew(["r2"], ELSEWHERE, lease_seconds=-1.0)
    ledger.free(["r4"], ME)

    def at_work() -> list[str]:
        return [release.release_id for release in ledger.at_work("flights")]

    assert at_work() == ["r1", "r3"]
    a_day_off(monkeypatch, 1)
    assert at_work() == (["r1", "r3"] if url.startswith("postgresql") else ["r3"])
    a_day_off(monkeypatch, -2)
    assert at_work() == (["r1", "r3"] if url.startswith("postgresql") else ["r1", "r2", "r3"])
    assert ledger.at_work("unknown") == []


def test_who_is_dead():
    assert not ME.dead()
    assert not ELSEWHERE.dead()  # cannot be known from here
    place = ME.started.rpartition("/")[0]
    assert replace(ME, started=f"{place}/1").dead()  # the pid has been reused
    assert not replace(ME, started="another boot/namespace/1").dead()
    child = os.fork()
    if child == 0:
        os._exit(0)
    while not holder._process_start(child).endswith("ended"):
        time.sleep(0.001)
    zombie = Holder(ME.host, child, f"{place}/123")
    assert zombie.dead()
    os.waitpid(child, 0)
    assert zombie.dead()


# -- what is stored


def test_what_is_stored_is_plain_json(ledger, url):
    ledger.reserve(BUDGET, [request(1)], ME)
    [(text,)] = execute(url, "SELECT charge FROM releases")
    assert json.loads(text) == [{"count": 1, "kind": "laplace", "noise_multiplier": 10.0, "slack": 1e-12}]


def test_no_connection_outlives_a_call(ledger, url, postgresql):
    ledger.reserve(BUDGET, [request(1)], ME)
    ledger.releases()
    if url.startswith("sqlite"):
        links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
        assert ledger.name not in links
    else:
        postgresql.until("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'", 1)  # its own
