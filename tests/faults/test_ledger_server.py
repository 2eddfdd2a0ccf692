"""A ledger on PostgreSQL while sessions are ended, the server is restarted or crashes, and the network loses replies."""

from __future__ import annotations

import itertools
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress

import pytest
from ledgers import BUDGET, ME, PostgreSQL, execute, in_process, request
from repeating import repeating
from sqlalchemy.engine import make_url

from noiselib.errors import LedgerError
from noiselib.ledger import Budget, Holder, Ledger, database, spent

pytestmark = [pytest.mark.faults, pytest.mark.timeout(3600)]
Count = Callable[..., None]
WIDE = Budget("wide", 1000.0, 1e-3)  # all of the tests' releases fit


@pytest.fixture
def own() -> Iterator[PostgreSQL]:
    """A server that no other test needs: it is ended and started again."""
    server = PostgreSQL()
    yield server
    server.remove()


def until_done(operation: Callable[[], object]) -> int:
    """Do it again as often as it fails, as a scheduler does; how often that was."""
    for failures in itertools.count():
        try:
            operation()
            return failures
        except LedgerError:
            assert failures < 1000
            time.sleep(0.01)
    raise AssertionError


def walk(ledger: Ledger, name: int) -> int:
    """Take a release all the way; how often an operation had to be done again."""
    release_id = f"r{name}"
    return sum(
        until_done(operation)
        for operation in (
            lambda: ledger.reserve(WIDE, [request(name)], ME),
            lambda: ledger.advance(release_id, "staged", holder=ME),
            lambda: ledger.begin_publish(release_id, ME),
            lambda: ledger.advance(release_id, "published", holder=ME),
        )
    )


def check_walked(ledger: Ledger, names: int) -> None:
    """Every release is charged once and every operation is in the history once, however often it was tried."""
    assert [release.state for release in ledger.releases()] == ["published"] * names
    [status] = ledger.show()
    assert status.spent == spent([request(name) for name in range(names)], WIDE.delta)
    events = [entry.event for entry in ledger.history()]
    assert {event: events.count(event) for event in set(events)} == {
        "budget": 1, "reserved": names, "staged": names, "publishing": names, "published": names,
    }  # fmt: skip
    assert ledger.verify().problems == ()


def meanwhile(disturb: Callable[[], None], pause: tuple[float, float]) -> AbstractContextManager[None]:
    """Disturb at random instants until the block ends."""
    chance = random.Random(5)
    return repeating(disturb, lambda: chance.uniform(*pause))


@pytest.mark.parametrize("ended", [20, pytest.param(300, marks=pytest.mark.long)])
def test_sessions_are_terminated(postgresql: PostgreSQL, ended, count: Count):
    url, done, again = postgresql.new_url(), [0], 0
    schema = url.rpartition("%3D")[2]

    def terminate() -> None:
        # A session is known as this ledger's by the lock it holds, that is, in mid-transaction.
        query = (
            "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM (SELECT DISTINCT pid FROM pg_locks "
            f"WHERE relation = '{schema}.noiselib_version'::regclass AND pid <> pg_backend_pid()) AS writers"
        )
        done[0] += postgresql.execute(query)[0][0]

    names = itertools.count()
    with Ledger.create(url) as ledger, meanwhile(terminate, (0.0, 0.01)):
        deadline = time.monotonic() + 400
        while done[0] < ended and time.monotonic() < deadline:
            again += walk(ledger, next(names))
    assert done[0] >= ended
    assert again > 0
    with Ledger.open(url) as ledger:
        check_walked(ledger, next(names))
    count(ledger_sessions_terminated=done[0], ledger_operations_tried_again=again)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT], ids=["fast", "immediate"])
def test_the_server_is_restarted_between_calls(own: PostgreSQL, how, count: Count):
    with Ledger.create(own.new_url()) as ledger:
        for name in range(2):
            ledger.reserve(WIDE, [request(name)], ME)
            own.stop(how)
            with pytest.raises(LedgerError, match=r"127\.0\.0\.1"):
                ledger.advance(f"r{name}", "staged", holder=ME)
            own.start()
            assert walk(ledger, name) == 0
            count(ledger_server_restarts=1)
        check_walked(ledger, 2)


@pytest.mark.parametrize("crashes", [2, pytest.param(25, marks=pytest.mark.long)])
def test_the_server_crashes_at_random_instants(own: PostgreSQL, crashes, count: Count):
    url = own.new_url()
    Ledger.create(url).close()
    names, crashed, chance = itertools.count(), threading.Event(), random.Random(3)

    def work() -> None:
        with Ledger.open(url) as ledger:
            while not crashed.is_set():
                walk(ledger, next(names))

    thread = threading.Thread(target=work)
    thread.start()
    for _ in range(crashes):
        time.sleep(chance.uniform(0.05, 0.5))
        own.stop(signal.SIGQUIT)
        own.start()
        count(ledger_server_crashes=1)
    crashed.set()
    thread.join(120)
    assert not thread.is_alive()
    with Ledger.open(url) as ledger:
        check_walked(ledger, next(names))


# -- the network


class Proxy:
    """Between a ledger and its server, on loopback. It can lose a writer's COMMIT or the reply to it, or fall silent."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.lose: str | None = None  # "commit", "reply" or "silence", once
        self.lost = 0
        self._closed = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # the listener was closed
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", self._port)) as server, suppress(OSError):
            silent = threading.Event()
            back = threading.Thread(target=self._back, args=(server, client, silent), daemon=True)
            back.start()
            writes = False
            while sent := client.recv(65536):
                if writes and self.lose == "silence":  # the lock is taken, and the host is gone without a word
                    self.lose = None
                    self.lost += 1
                    self._closed.wait(60)
                    return
                writes = writes or b"FOR UPDATE" in sent
                if writes and b"COMMIT" in sent and self.lose:
                    mode, self.lose = self.lose, None
                    self.lost += 1
                    if mode == "reply":
                        silent.set()
                        server.sendall(sent)
                        server.settimeout(10)
                        time.sleep(0.3)  # committed by now; the reply goes nowhere
                    server.shutdown(socket.SHUT_RDWR)
                    return
                server.sendall(sent)

    def _back(self, server: socket.socket, client: socket.socket, silent: threading.Event) -> None:
        with suppress(OSError):
            while received := server.recv(65536):
                if silent.is_set():
                    return
                client.sendall(received)
            client.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed.set()
        self._listener.close()


@pytest.fixture
def proxy(postgresql: PostgreSQL) -> Iterator[Proxy]:
    one = Proxy(postgresql.port)
    yield one
    one.close()


def through(url: str, proxy: Proxy) -> str:
    return make_url(url).set(port=proxy.port).render_as_string(hide_password=False)


@pytest.mark.parametrize("lost", ["commit", "reply"])
def test_what_is_lost_on_its_way_is_done_once(postgresql: PostgreSQL, proxy: Proxy, lost, count: Count):
    url = postgresql.new_url()
    Ledger.create(url).close()
    steps: list[Callable[[Ledger], object]] = [
        lambda ledger: ledger.reserve(BUDGET, [request(1), request(2)], ME),
        lambda ledger: ledger.advance("r1", "staged", holder=ME),
        lambda ledger: ledger.begin_publish("r1", ME),
        lambda ledger: ledger.advance("r1", "published", holder=ME),
        lambda ledger: ledger.abandon("r2", {"why": "a test"}, ME),
    ]
    with Ledger.open(through(url, proxy)) as far, Ledger.open(url) as near:
        for number, step in enumerate(steps, start=1):
            before = len(near.history())
            proxy.lose = lost
            with pytest.raises(LedgerError, match=r"the connection was lost.*nothing is charged twice"):
                step(far)
            assert proxy.lost == number
            assert (len(near.history()) > before) == (lost == "reply")  # done, or not, and the caller cannot know
            step(far)
            after = near.history()
            step_again_is_harmless(near, number)
            assert near.history() == after
            count(ledger_commits_lost=1)
        events = [entry.event for entry in near.history()]
        assert events == ["budget", "reserved", "reserved", "staged", "publishing", "published", "abandoned"]
        assert near.show()[0].spent == pytest.approx(0.1, rel=1e-2)
        assert near.verify().problems == ()


def step_again_is_harmless(ledger: Ledger, number: int) -> None:
    """By a process that was told nothing at all: a reservation resumes, and what is published stays."""
    if number < 5:
        ledger.reserve(BUDGET, [request(1), request(2)], ME, settled={"r1"})


def test_a_lost_reply_and_a_dead_process(postgresql: PostgreSQL, proxy: Proxy):
    """The run ends with the error; the next one, another process, takes over at once and pays nothing more."""
    url = postgresql.new_url()
    Ledger.create(url).close()

    proxy.lose = "reply"

    def first() -> None:
        with Ledger.open(through(url, proxy)) as ledger:
            ledger.reserve(BUDGET, [request(1)], Holder.current())

    assert in_process(first) == "LedgerError"
    with Ledger.open(url) as ledger:
        result = ledger.reserve(BUDGET, [request(1)], ME)
        assert (result.states, result.added) == ({"r1": "reserved"}, 0.0)


def test_a_writer_whose_host_vanishes_keeps_the_lock_for_a_bounded_time(
    postgresql: PostgreSQL, proxy: Proxy, monkeypatch
):
    monkeypatch.setattr(database, "IDLE_SECONDS", 2.0)
    url = postgresql.new_url()
    Ledger.create(url).close()
    proxy.lose = "silence"

    def vanish() -> None:
        with suppress(LedgerError), Ledger.open(through(url, proxy)) as ledger:
            ledger.reserve(BUDGET, [request(1)], ME)

    thread = threading.Thread(target=vanish)
    thread.start()
    while not proxy.lost:
        time.sleep(0.01)
    with Ledger.open(url, wait_seconds=30) as ledger:
        ledger.reserve(BUDGET, [request(2)], ME)
        assert [release.release_id for release in ledger.releases()] == ["r2"]
    assert execute(url, "SELECT count(*) FROM history") == [(2,)]
    proxy.close()
    thread.join(30)
