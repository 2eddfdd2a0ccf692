"""The real job on a real cluster, whose processes are killed while it writes: bit-equal to a run that nothing disturbed.

One partition of twenty files is twenty tasks. A kill comes when some tasks of the writing stage have committed and others
have not, which their files under _temporary show.
"""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from clusters import Cluster
from contents import contents
from crashing import Count, Outcome, Started, collected, make_pipeline, outcome, restate, send, start, target_of, until
from small_pipeline import SMALL_SCHEMA, Small

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

FILES = 20
SEED = 20130102


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as one:
        yield one


@dataclass(frozen=True)
class ManyFiles:
    """The pipeline, published and then restated as twenty files, and what a run in this process, on local[2], makes of it."""

    restated: Small
    first: Outcome
    second: Outcome


@pytest.fixture(scope="module")
def many_files(tmp_path_factory: pytest.TempPathFactory, spark: object) -> ManyFiles:
    home = tmp_path_factory.mktemp("many_files")
    small = make_pipeline(home / "before", days=[1], size=FILES * 50)
    assert small.noiselib("run").code == 0
    first = outcome(small)
    restate(small)
    table = pa.table(small.rows[1], schema=SMALL_SCHEMA)
    for number in range(FILES):
        pq.write_table(table.slice(number * 50, 50), small.home / "source" / "day=1" / f"part-{number}.parquet")
    after = small.copy(home / "after")
    answer = after.noiselib("run")
    assert answer.code == 0, answer.err
    return ManyFiles(small, first, outcome(after))


@pytest.fixture
def small(many_files: ManyFiles, tmp_path: Path, watched) -> Iterator[Small]:
    """While a test works on it, a reader sees the old release, and then the new one."""
    one = many_files.restated.copy(tmp_path / "small")
    end = watched(one, [many_files.first.values, many_files.second.values])
    yield one
    end()


def run_on(cluster: Cluster, small: Small, **settings: str) -> Started:
    """The job on both workers, an executor on each; a task per file."""
    conf = {
        "spark.master": cluster.url,
        "spark.executor.memory": "512m",
        "spark.executor.cores": "1",
        "spark.executor.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        "spark.sql.shuffle.partitions": "4",
        "spark.sql.files.maxPartitionBytes": "20000",  # a file is smaller than that, two are not
        "spark.sql.files.openCostInBytes": "20000",
        "spark.eventLog.enabled": "true",
        "spark.eventLog.compress": "false",
        "spark.eventLog.dir": f"file://{small.home}/events",
    }
    (small.home / "events").mkdir(exist_ok=True)
    return start(small, conf=conf | settings)


def committed(small: Small) -> int:
    """How many tasks of the writing stage have committed; 0 before and after it."""
    return len(list(target_of(small).home.glob("staging/job-*/table/_temporary/0/task_*")))


def wait_for_the_middle(small: Small, run: Started) -> None:
    """Until the writing stage is under way."""
    assert until(lambda: 2 <= committed(small) < FILES or run.process.poll() is not None, 400), run.text()
    assert run.process.poll() is None, run.text()


def finished(small: Small, expected: Outcome) -> None:
    assert outcome(small) == expected
    collected(small)
    assert outcome(small) == expected


def events(small: Small, name: str) -> list[str]:
    """The lines of the Spark event log about this event."""
    texts = [text.decode() for file, text in contents(small.home / "events").items() if file.suffix != ".crc"]
    lines = [line for text in texts for line in text.splitlines()]
    return [line for line in lines if f'"Event":"{name}"' in line]


def test_an_executor_is_killed_while_tasks_write(cluster, small, many_files, count: Count):
    before = cluster.two_workers().launched()
    run = run_on(cluster, small)
    wait_for_the_middle(small, run)
    send(cluster.executors()[0], signal.SIGKILL)
    assert committed(small) < FILES
    assert run.wait() == 0, run.text()
    assert cluster.launched() - before >= 3  # two, and one in the place of the killed one
    assert events(small, "SparkListenerExecutorRemoved")
    finished(small, many_files.second)
    count(kills=1, runs=1)


@pytest.mark.long
def test_a_worker_is_killed_with_its_python_workers(cluster, small, many_files, count: Count):
    run = run_on(cluster.two_workers(), small)
    wait_for_the_middle(small, run)
    cluster.kill_worker_of(cluster.executors()[0])
    assert run.wait() == 0, run.text()
    assert events(small, "SparkListenerExecutorRemoved")
    finished(small, many_files.second)
    count(kills=1, runs=1)


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_executors_are_killed_at_random_instants(cluster, many_files, tmp_path, watched, count: Count):
    """An instant at which the run has no executor any more kills nothing: another one is drawn, for another run."""
    random_ = random.Random(SEED)
    lasts, killed, runs = 30.0, 0, 0  # how long executors live
    while killed < 5:
        assert until(lambda: not cluster.executors(), 60)  # of the run before
        small = many_files.restated.copy(tmp_path / str(runs))
        end = watched(small, [many_files.first.values, many_files.second.values])
        run = run_on(cluster.two_workers(), small)
        assert until(lambda run=run: bool(cluster.executors()) or run.process.poll() is not None, 400), run.text()
        began = time.monotonic()
        time.sleep(random_.uniform(0, lasts))
        alive = cluster.executors() if run.process.poll() is None else []
        if alive:
            send(alive[0], signal.SIGKILL)
        assert run.wait() == 0, run.text()
        lasts = time.monotonic() - began
        end()
        finished(small, many_files.second)
        killed, runs = killed + bool(alive), runs + 1
        assert runs <= 20
    count(kills=killed, runs=runs)


@pytest.mark.long
@pytest.mark.parametrize("what", ["driver", "all"])
def test_the_driver_is_killed_while_tasks_write(cluster, small, many_files, count: Count, what):
    run = run_on(cluster.two_workers(), small)
    wait_for_the_middle(small, run)
    run.kill(what)
    run.wait()
    assert outcome(small).values == many_files.first.values
    again = run_on(cluster, small)  # at once, while the executors may still be writing
    assert again.wait() == 0, again.text()
    finished(small, many_files.second)
    assert until(lambda: not cluster.executors(), 60)
    count(kills=1, runs=2)


@pytest.mark.long
def test_a_slow_task_and_its_speculative_copy(cluster, small, many_files, count: Count):
    """An executor is stopped in the middle of a task: a copy of that task commits; then the first one may go on."""
    speculation = {
        "spark.speculation": "true",
        "spark.speculation.interval": "100ms",
        "spark.speculation.quantile": "0.2",
        "spark.speculation.multiplier": "1.1",
        # Stopped in mid-commit, the first one alone may commit: then the stage goes on once its executor counts as lost.
        "spark.executor.heartbeatInterval": "2s",
        "spark.network.timeout": "30s",
        "spark.network.timeoutInterval": "10s",
    }
    run = run_on(cluster.two_workers(), small, **speculation)
    wait_for_the_middle(small, run)
    executor = cluster.executors()[0]
    send(executor, signal.SIGSTOP)
    staging = target_of(small).home / "staging"
    written = until(lambda: bool([*staging.glob("*/staged.json"), *staging.glob("*/table/_SUCCESS")]), 300)
    send(executor, signal.SIGCONT)
    assert written, run.text()
    assert run.wait() == 0, run.text()
    copies = copies_of_writers(small)
    assert copies
    finished(small, many_files.second)  # no row twice: its ids are distinct, and as many as the manifest says
    count(speculative_copies=len(copies), runs=1)


def copies_of_writers(small: Small) -> list[int]:
    """The writing stage's tasks, by index, of which a copy was started because they were slow."""
    stages = [json.loads(line)["Stage Info"] for line in events(small, "SparkListenerStageSubmitted")]
    writing = [one["Stage ID"] for one in stages if one["Number of Tasks"] == FILES and "parquet" in one["Stage Name"]]
    tasks = [json.loads(line) for line in events(small, "SparkListenerTaskStart")]
    chosen = [task["Task Info"] for task in tasks if task["Stage ID"] in writing]
    return [info["Index"] for info in chosen if info["Speculative"]]
