"""The doctor on a cluster: two tiny jobs that run on every executor, and what they find against the driver's.

The first is the JVM's own (a shell command for each task), so it works where Python does not. Only where every executor has
a Python of the driver's minor version does the second start real workers, which see what a UDF would see: packages, files,
scratch disks, the clock.
"""

from __future__ import annotations

import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pyspark import cloudpickle
from pyspark.sql import SparkSession

from noiselib.doctor import probe
from noiselib.doctor.finding import Finding, failure, ok, warning
from noiselib.doctor.machine import judge_java, judge_python, judge_scratch, minor
from noiselib.errors import NoiselibError
from noiselib.key import absolute, load_key
from noiselib.ledger import LEASE_SECONDS
from noiselib.plan import make_plan
from noiselib.snapshot import read_source
from noiselib.spark.catalog import find_table, prove_name
from noiselib.spec import load_spec
from noiselib.targets import open_target

WAIT_SECONDS, ROUNDS, TASK_SECONDS = 300, 5, 2.0
# In an executor's shell: its id and host (from the command line of the JVM, our parent), and the version of the Python $0.
# A line per task, whatever happens.
SHELL = r"""
cat >/dev/null
given() { tr '\0' '\n' </proc/$PPID/cmdline | sed -n "/^--$1\$/{n;p}"; }
id=$(given executor-id) host=$(given hostname)
said=$("$0" -c 'import platform; print("Python", platform.python_version())' 2>&1 | tail -n 1)
sleep "$1"
echo "${id:-driver}|${host:-$(hostname)}|$said"
"""


def check_cluster(session: SparkSession, spec_files: Sequence[Path], executors: int) -> Iterator[Finding]:
    """The findings on every executor. `executors`: how many to wait for. Of the pipelines, what only Spark can tell: whether its
    catalog has what they name in it, and an executor sees their files.
    """
    driver = probe.python_facts()
    known = _wait_for_executors(session, executors)
    if len(known) < executors:
        yield failure("executors", f"{len(known)} after {WAIT_SECONDS} s; expected {executors}",
                      "see on the master's page whether workers have cores and spark.executor.memory free")  # fmt: skip
        return
    yield ok("executors", f"{len(known)}: {', '.join(known)}")
    shells = _on_every_executor(known, lambda: _ask_shells(session))
    yield from _unseen(known, shells)
    broken = list(_judge_shells(session, shells, driver))
    yield from broken
    if broken:  # a job with such workers fails as a whole, and tells of one executor only
        return
    with ExitStack() as stack:
        files: dict[str, str] = {}
        for file in spec_files:
            try:
                files |= stack.enter_context(_to_be_seen(session, file))
            except (NoiselibError, OSError) as error:
                yield failure(f"{file.stem} files", f"not looked for by executors: {error}",
                              f"mend {file}, what it names, or --spark-conf; then run the doctor again")  # fmt: skip
        before = time.time()
        workers = _on_every_executor(known, lambda: _ask_workers(session, files))
        lasted = (before, time.time())
    for executor, facts in sorted(workers.items()):
        yield from _judge_worker(f"executor {executor} on {facts['host']}", facts, driver, lasted)


def _wait_for_executors(session: SparkSession, wanted: int) -> list[str]:
    """Their ids. A local master has none beside the driver."""
    context: Any = session.sparkContext
    ends = time.monotonic() + WAIT_SECONDS
    while True:
        if context.master.startswith("local") and not context.master.startswith("local-cluster"):
            return ["driver"]
        found = context._jsc.sc().getExecutorIds()
        known = sorted((found.apply(i) for i in range(found.size())), key=lambda text: (len(text), text))
        if len(known) >= wanted or time.monotonic() > ends:
            return known
        time.sleep(0.5)


def _on_every_executor(known: Sequence[str], ask: Callable[[], Iterator[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Executor -> its answer. Tasks as many as slots, each lasting a while, fill the cluster; if one was busy, once more."""
    answers: dict[str, dict[str, Any]] = {}
    for _ in range(ROUNDS):
        answers |= {answer["executor"]: answer for answer in ask()}
        if set(known) <= set(answers):
            break
    return answers


def _ask_shells(session: SparkSession) -> Iterator[dict[str, Any]]:
    context: Any = session.sparkContext
    slots, command = context._jvm.java.util.ArrayList(), context._jvm.java.util.ArrayList()
    for number in range(context.defaultParallelism):
        slots.add(number)
    for word in ("/bin/sh", "-c", SHELL, context.pythonExec, str(TASK_SECONDS)):
        command.add(word)
    # one line per task, none of it a row of data: executor|host|what its Python said
    for line in context._jsc.parallelize(slots, len(slots)).pipe(command).collect():
        executor, host, said = line.split("|", 2)
        yield {"executor": executor, "host": host, "said": said}


def _ask_workers(session: SparkSession, files: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    context: Any = session.sparkContext
    pickle: Any = cloudpickle
    slots, seen, seconds, facts_of = context.defaultParallelism, dict(files), TASK_SECONDS, probe.worker_facts

    def task(_: Any) -> Any:
        facts = facts_of(seen)
        time.sleep(seconds)
        return [facts]

    modules = (probe, sys.modules[__name__])
    for module in modules:  # the code travels with the task: noiselib may be missing there
        pickle.register_pickle_by_value(module)
    try:
        yield from context.parallelize(range(slots), slots).mapPartitions(task).collect()
    finally:
        for module in modules:
            pickle.unregister_pickle_by_value(module)


def _unseen(known: Sequence[str], answers: Mapping[str, Any]) -> Iterator[Finding]:
    for executor in known:
        if executor not in answers:
            yield warning(f"executor {executor}", f"ran none of the doctor's tasks in {ROUNDS} rounds",
                          "run the doctor again when the cluster is less busy")  # fmt: skip


def _judge_shells(
    session: SparkSession, shells: Mapping[str, dict[str, Any]], driver: Mapping[str, Any]
) -> Iterator[Finding]:
    """What is wrong with an executor's Python itself; nothing where all start and are of the driver's minor version."""
    path, wanted = session.sparkContext.pythonExec, minor(driver["python"])
    for executor, facts in sorted(shells.items()):
        what = f"executor {executor} on {facts['host']}"
        remedy = (
            f"install Python {wanted} there as {path}, or set PYSPARK_PYTHON to one that is everywhere (docs/deploy.md)"
        )
        word, _, version = facts["said"].partition(" ")
        if word != "Python":
            yield failure(what, f"its Python {path} does not run: {facts['said']}", remedy)
        elif minor(version) != wanted:
            yield failure(what, f"its Python {path} is {version}; expected {wanted}, as the driver's", remedy)


def _judge_worker(
    what: str, facts: Mapping[str, Any], driver: Mapping[str, Any], lasted: tuple[float, float]
) -> Iterator[Finding]:
    yield judge_java(f"{what}: java", facts["java"])
    yield from judge_python(f"{what}: python", facts, driver)
    skew = max(lasted[0] - facts["time"], facts["time"] - lasted[1], 0.0)
    if skew > 5:
        say = failure if skew > LEASE_SECONDS / 5 else warning
        yield say(f"{what}: clock", f"{skew:.0f} s from the driver's", "timedatectl set-ntp true, there or here")
    else:
        yield ok(f"{what}: clock", f"within the {lasted[1] - lasted[0]:.0f} s that the job took by the driver's")
    for scratch in facts["scratch"]:
        yield judge_scratch(f"{what}: scratch", scratch)
    for path in facts["unseen"]:
        yield failure(f"{what}: files", f"{path}: not there as the driver sees it",
                      "mount it at the same path on every host, readable by the executor's user (a key: mode 0600)")  # fmt: skip


@contextmanager
def _to_be_seen(session: SparkSession, spec_file: Path) -> Iterator[dict[str, str]]:
    """Files that every executor must see as we do, path -> SHA-256: one of the source, the key's if it is at hand, and one that we
    write beside the target while the block lasts. Raises NoiselibError or OSError for a source that is not found, a target that
    cannot be published to, or a name of its own in Spark's catalog that is not.
    """
    spec, positions = load_spec(spec_file)
    target = open_target(spec)
    table = read_source(spec, positions, lambda spec: find_table(session, spec.source.path))
    target.prove()
    if name := spec.target.table:
        prove_name(session, target, dict(make_plan(spec, table, positions).published), name)
    note = target.home / f"probe-{uuid.uuid4().hex[:8]}"
    note.write_text(note.name)
    paths = [*(file.path for file in table.files[:1]), *_key_file(spec.key), str(note)]
    try:
        yield {os.path.abspath(path): digest for path in paths if (digest := probe.file_digest(path))}
    finally:
        note.unlink(missing_ok=True)


def _key_file(reference: str) -> list[str]:
    """Where the key lies, if in a file. One that cannot be loaded here is told by the pipeline's own findings."""
    try:
        load_key(reference)
    except NoiselibError:
        return []
    return [absolute(reference).removeprefix("file:")] if reference.startswith("file:") else []
