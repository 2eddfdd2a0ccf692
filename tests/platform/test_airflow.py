"""Airflow for real: a scheduler, an API server and a dag-processor of the test's own walk pipelines through spark-submit."""

from __future__ import annotations

import json
import signal
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from crashing import SPARK as QUICK_SPARK
from crashing import marked, name_of, read, send
from orchestrator import PROJECT, Airflow
from small_pipeline import Small, make_small, write_fixed_key

from noiselib.cli import main
from noiselib.ledger import Ledger
from noiselib.targets.parquet import ParquetTarget

pytestmark = [pytest.mark.platform, pytest.mark.timeout(4 * 3600)]
MONTHS = range(1, 13)
ROWS = 300  # of each month: what takes time is 48 times starting Spark, not the rows


@pytest.fixture
def airflow(tmp_path: Path) -> Airflow:
    """With settings of Spark under which a small job ends soonest."""
    settings = tmp_path / "spark.conf"
    settings.write_text("".join(f"{name} {value}\n" for name, value in QUICK_SPARK.items()))
    return Airflow(tmp_path / "airflow", tmp_path / "pipelines", {"NOISELIB_SPARK_CONF": str(settings)})


class Watch:
    """Looks at Airflow's processes while they run: what their arguments and environments hold, and which of them to kill."""

    def __init__(self, airflow: Airflow, target: Path | None = None) -> None:
        self.airflow, self.target = airflow, target
        self.seen: set[bytes] = set()
        self.killed: list[int] = []

    def __call__(self) -> None:
        pids = {pid: read(Path(f"/proc/{pid}/cmdline")) for pid in marked(self.airflow.mark)}
        self.seen.update(pids.values())
        self.seen.update(read(Path(f"/proc/{pid}/environ")) for pid in pids)
        if self.target is None or self.killed or not ParquetTarget(str(self.target), 1).manifests():
            return
        # a month is published; in another one the noise is being drawn
        if any(b"pyspark.daemon" in command for command in pids.values()):
            for pid, command in pids.items():
                if name_of(pid).endswith("java") and b"perturb.py" in command:
                    send(pid, signal.SIGKILL)
                    self.killed.append(pid)


def make_flights(home: Path, source: Path, key: str) -> Path:
    """The demo's pipeline, with this source and key, and a ledger and a target in a folder of its own."""
    home.mkdir()
    spec = yaml.safe_load((PROJECT / "conf" / "pipelines" / "flights_private.yaml").read_text())
    spec["source"]["path"], spec["target"]["path"] = str(source), str(home / "published")
    spec["ledger"], spec["key"] = f"sqlite:///{home}/ledger.db", key
    spec["schedule"] |= {"retries": 3, "retry_delay": "5s"}
    (home / "flights.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    Ledger.create(spec["ledger"]).close()
    return home / "flights.yaml"


def published(home: Path) -> dict[str, Any]:
    return {one["partition"]: one for one in ParquetTarget(str(home / "published"), 1).manifests()}


def test_a_backfill_of_twelve_months_with_a_killed_job_is_the_same_as_one_run(
    airflow: Airflow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "features"
    for month in MONTHS:
        (file,) = (PROJECT / "demo" / "features" / "flights" / f"month={month}").glob("*.parquet")
        place = source / f"month={month}"
        place.mkdir(parents=True)
        pq.write_table(pq.ParquetFile(file).read().slice(0, ROWS), place / "part-0.parquet")
    write_fixed_key(tmp_path / "noise.key")
    secret = (tmp_path / "noise.key").read_text().strip().encode()
    by_tasks = make_flights(tmp_path / "by_tasks", source, "airflow:noise")
    (airflow.pipelines / "flights.yaml").write_bytes(by_tasks.read_bytes())

    watch = Watch(airflow, tmp_path / "by_tasks" / "published")
    airflow.migrate()
    airflow.keep_key("noise", tmp_path / "noise.key")
    airflow.backfill("flights_private", "2013-01-01", f"2013-{MONTHS[-1]}-01")
    with airflow.started():
        # and one run of the schedule's own, for the month that has just ended: of another year, but the same partition
        airflow.all_ended("flights_private", len(MONTHS) + 1, 3 * 3600, watch)
        runs = airflow.runs("flights_private")
        tries = Counter(
            name
            for run in runs
            for name, task in airflow.tasks("flights_private", run).items()
            if task["try_number"] > 1
        )
        events = airflow.get("assets/events?limit=100")["asset_events"]
        rendered = [airflow.get(f"dags/flights_private/dagRuns/{run}/taskInstances") for run in runs]
    assert set(runs.values()) == {"success"}, airflow.logs("flights_private")[-5000:]
    assert len(watch.killed) == 1
    assert tries["perturb"] == 1  # the one whose Spark was killed was tried again

    # every month is published, as one process would have, and charged once
    monkeypatch.chdir(PROJECT)
    whole = make_flights(tmp_path / "whole", source, f"file:{tmp_path / 'noise.key'}")
    assert main(["run", str(whole), "--master", "local[2]", "--results", str(tmp_path / "run_results.json")]) == 0
    ours, theirs = published(tmp_path / "by_tasks"), published(tmp_path / "whole")
    assert set(ours) == {f"month={month}" for month in MONTHS}
    same = ("release_id", "content_digest", "rows", "charge")
    assert [[ours[m][name] for name in same] for m in ours] == [[theirs[m][name] for name in same] for m in ours]
    with (
        Ledger.open(f"sqlite:///{tmp_path}/by_tasks/ledger.db") as mine,
        Ledger.open(f"sqlite:///{tmp_path}/whole/ledger.db") as other,
    ):
        assert [one.spent for one in mine.show()] == [one.spent for one in other.show()]
        told = Counter((entry.event, entry.release_id) for entry in mine.history())
    for one in ours.values():
        assert told["reserved", one["release_id"]] == told["published", one["release_id"]] == 1

    # the target's asset was announced with each release and its charge
    announced = [release for event in events for release in event["extra"]["releases"]]
    assert {event["asset_uri"] if "asset_uri" in event else event["uri"] for event in events} == {
        (tmp_path / "by_tasks" / "published").as_uri()
    }
    assert len(announced) == len(runs)
    assert {one["partition"]: one["release_id"] for one in announced} == {m: ours[m]["release_id"] for m in ours}
    assert all(one["epsilon"] == ours[one["partition"]]["charge"]["epsilon"] for one in announced)

    # the key is in no argument, environment, rendered field, log or database
    assert any(b"perturb.py" in text and b"--key\0file:" in text for text in watch.seen)
    assert not [text for text in watch.seen if secret in text]
    assert secret not in airflow.known()
    assert secret.decode() not in json.dumps(rendered)
    assert not list(Path("/tmp").glob("noiselib-*/noise.key"))


class Inbox:
    """A web server that keeps the notices that are posted to it."""

    def __init__(self) -> None:
        notices: list[Any] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                notices.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(204)
                self.end_headers()

        self.notices = notices
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/"


def make_poor(airflow: Airflow, home: Path, inbox: Inbox) -> Small:
    """The small pipeline, by the year: day 1 in 2001 and so on. The first of its three days can be paid for: each costs 3 of 4."""
    home.mkdir()
    small = make_small(home)
    small.spec["privacy"]["limit"]["epsilon"] = 4.0
    # an entity may be in every day, so their charges add up
    small.spec["privacy"]["unit"] = {"entity": ["name"], "max_rows": 1}
    small.spec["schedule"] = {
        "every": "@yearly",
        "start": "2001-01-01",
        "retries": 1,
        "retry_delay": "1s",
        "partition": {"day": "%-y"},
        "notify": {"url": inbox.url, "when": ["success", "failure", "over_budget"]},
    }
    small.write_spec()
    (airflow.pipelines / "small.yaml").write_bytes(small.spec_file.read_bytes())
    reader = small.spec | {
        "pipeline": "reader",
        "source": {"path": small.spec["target"]["path"], "format": "parquet", "partition_by": ["day"]},
        "target": {"path": str(home / "read"), "format": "parquet"},
        "privacy": {"unit": "row", "budget": "reader", "limit": {"epsilon": 8.0, "delta": 1e-5}},
        "schedule": {"every": "source"},
    }
    (airflow.pipelines / "reader.yaml").write_text(yaml.safe_dump(reader))
    return small


def test_a_backfill_stops_when_the_budget_ends_and_tasks_done_again_cost_nothing(
    airflow: Airflow, tmp_path: Path
) -> None:
    inbox = Inbox()
    small = make_poor(airflow, tmp_path / "small", inbox)
    airflow.migrate()
    airflow.backfill("small", "2001-01-01", "2003-01-01")
    # named by the day after their year
    first, second, third = (f"backfill__{year}-01-01T00:00:00+00:00" for year in range(2002, 2005))
    with airflow.started():
        # three runs, and the schedule's own: of the year that has just ended, for which there is no partition
        airflow.all_ended("small", 4, 3600)
        states = {
            run: {name: task["state"] for name, task in airflow.tasks("small", run).items()}
            for run in airflow.runs("small")
        }
        tries = {
            run: {name: task["try_number"] for name, task in airflow.tasks("small", run).items()} for run in states
        }
        assert set(states.pop(first).values()) == {"success"}, airflow.logs("small")
        for run in (second, third):
            expected = dict.fromkeys(("perturb", "check", "publish", "report"), "upstream_failed")
            assert states.pop(run) == {"plan": "success", "reserve": "failed", **expected}
            assert tries[run]["reserve"] == 1  # to try again would not help
        (last,) = states
        assert (states[last]["plan"], tries[last]["plan"]) == ("failed", 2)

        # the DAG that waits for the target's asset has run, and published from it
        airflow.all_ended("reader", 1, 1800)
        (read,) = airflow.runs("reader").items()
        assert (read[0].split("__")[0], read[1]) == ("asset_triggered", "success"), airflow.logs("reader")[-5000:]
        assert [one["partition"] for one in ParquetTarget(str(tmp_path / "small" / "read"), 1).manifests()] == ["day=1"]

        # what was published is, nothing else; what was asked for and what was left are told
        before, spent, history = small.checksums(), small.spent(), len(events(small))
        assert [event for event, _ in events(small)].count("published") == 2  # the reader's is in the same ledger
        assert sorted({name.split("/")[0] for name in before} - {"_noiselib"}) == ["day=1"]
        told = {notice["run_id"]: notice for notice in inbox.notices if notice["event"] == "over_budget"}
        assert set(told) == {second, third}
        assert all("requested epsilon=" in one["error"] and ", remaining 1" in one["error"] for one in told.values())
        assert Counter(notice["event"] for notice in inbox.notices) == {"success": 1, "over_budget": 2, "failure": 1}

        # of neither is anything charged again: a run that is cleared, and another for the same partition
        airflow.post("dags/small/clearTaskInstances", {"dry_run": False, "dag_run_id": first, "only_failed": False})
        again = {"dag_run_id": "by_hand", "logical_date": None, "conf": {"partition": "day=1"}}
        airflow.post("dags/small/dagRuns", again)
        airflow.all_ended("small", 5, 3600)
        for run in (first, "by_hand"):
            assert airflow.runs("small")[run] == "success", airflow.logs("small")[-5000:]
        assert {task["try_number"] for task in airflow.tasks("small", first).values()} == {2}
    assert small.checksums() == before
    assert small.spent() == spent
    assert [event for event, _ in events(small)[history:] if event in ("reserved", "published")] == []


def events(small: Small) -> list[tuple[str, str | None]]:
    with small.ledger() as ledger:
        return [(entry.event, entry.release_id) for entry in ledger.history()]
