"""No key, nothing from which one follows, and no raw value in anything that a run writes. Each search finds a planted leak."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.dataset as ds
import pytest
from contents import contents
from processes import Watched, watched
from pyspark.sql import SparkSession
from repeating import repeating
from small_pipeline import Small, make_small

from noiselib.errors import SpecError
from noiselib.key import load_key
from noiselib.release import PipelineKeys, ReleaseKeys, law_text
from noiselib.spark.leaks import refuse_leaks, session_settings
from noiselib.spark.perturb import Job, noised_rows, published_columns
from noiselib.spark.run import prepare

pytestmark = pytest.mark.faults
TOLD = ["lineage.jsonl", "metrics.prom"]
NAME, AMOUNT = "canary name 5512", 13.37251937  # values that no release may show


def forms(secret: bytes) -> dict[str, bytes]:
    """How a key may be written: as bytes, in hexadecimal, in base64 of both alphabets, as Python shows bytes."""
    return {
        "raw": secret,
        "hex": secret.hex().encode(),
        "HEX": secret.hex().upper().encode(),
        "base64": base64.b64encode(secret).rstrip(b"="),
        "urlsafe base64": base64.urlsafe_b64encode(secret).rstrip(b"="),
        "repr": repr(secret)[2:-1].encode(),
    }


SCRATCH = "kept/"  # begins the names of scratch files


@dataclass(frozen=True)
class Secrets:
    """What to search for: keys by name, and values."""

    keys: dict[str, bytes]
    values: tuple[bytes, ...] = (NAME.encode(), repr(AMOUNT).encode())

    def found(self, text: bytes) -> list[str]:
        """The names of those that stand in `text`."""
        written = [
            f"{name} ({how})" for name, key in self.keys.items() for how, form in forms(key).items() if form in text
        ]
        return written + [value.decode() for value in self.values if value in text]

    def found_in(self, texts: dict[str, bytes]) -> dict[str, list[str]]:
        """What is found where. Spark may shuffle rows as they are: in its scratch files only keys are searched for."""
        keys = replace(self, values=())
        found = {name: (keys if name.startswith(SCRATCH) else self).found(text) for name, text in texts.items()}
        return {name: what for name, what in found.items() if what}


def secrets(small: Small) -> Secrets:
    """The pipeline's master key and all that is derived from it."""
    run, key = prepare(small.spec_file, [], lambda _: None), load_key(small.spec["key"])
    found = {"master key": key.secret}
    for release in run.releases:
        keys = ReleaseKeys(key, release.id)
        found |= {f"row key {release.id}": keys.row(), f"selection key {release.id}": keys.selection()}
        found |= {f"column key {c.name}": keys.column(c.name, law_text(c)) for c in run.plan.noised}
    found["pseudonym key"] = PipelineKeys(key, "small").pseudonym("name")
    return Secrets(found)


def canaries(home: Path) -> Small:
    """One day of rows, among them values that are easily told."""
    small = make_small(home, days=[1], size=50)
    small.rows[1]["name"][7], small.rows[1]["amount"][7] = NAME, AMOUNT
    small.write_source()
    return small


@contextmanager
def kept(scratch: Path, place: Path) -> Iterator[None]:
    """Keep what is written below `scratch`, which Spark empties when it ends: each file gets a second name, in `place`."""
    scratch.mkdir()
    place.mkdir()
    seen = set[int]()

    def link(file: Path) -> None:
        number = file.stat().st_ino
        if number not in seen:
            os.link(file, place / f"{number}-{file.name}")
            seen.add(number)

    def keep() -> None:
        with suppress(FileNotFoundError):  # a folder of a folder that was removed
            for file in [file for file in scratch.rglob("*") if file.is_file()]:
                with suppress(
                    FileNotFoundError
                ):  # it was removed, or renamed: then its new name is found the next time
                    link(file)

    with repeating(keep, lambda: 0.01):
        yield


PLAIN = {  # what is shuffled, spilled or broadcast is written as it is, so that a search can find something in it
    "spark.shuffle.compress": "false",
    "spark.shuffle.spill.compress": "false",
    "spark.broadcast.compress": "false",
    "spark.sql.shuffle.partitions": "2",
}


def logged(small: Small, environment: dict[str, str]) -> Watched:
    """The pipeline's run as a command of its own, with Spark's event log kept, and its scratch files and Python's."""
    events = small.home / "events"
    events.mkdir()
    conf = small.home / "spark.conf"
    conf.write_text(
        f"spark.eventLog.enabled true\nspark.eventLog.dir {events.as_uri()}\nspark.eventLog.compress false\n"
        + "".join(f"{name} {value}\n" for name, value in PLAIN.items())
    )
    told = (
        "--lineage",
        f"file:{small.home / 'lineage.jsonl'}",
        "--metrics",
        f"file:{small.home / 'metrics.prom'}",
        "--log",
        "json",
    )
    scratch = small.home / "scratch"
    environment = {"SPARK_LOCAL_DIRS": str(scratch), "TMPDIR": str(scratch)} | environment
    with kept(scratch, small.home / "kept"):
        run = watched(small, environment, "--master", "local[1]", "--spark-conf", str(conf), *told)
    assert len(run.commands) >= 3  # the driver, its Java, a worker
    return run


def written(small: Small) -> dict[str, bytes]:
    """Everything below the pipeline's folder but its source and its key: compressed files as they are and unpacked.

    Java may still be removing its scratch files; what they were is kept.
    """
    own = (small.home / "source", small.home / "noise.key", small.home / "scratch")
    found = {f: text for f, text in contents(small.home).items() if not any(f == o or o in f.parents for o in own)}
    texts = {str(f.relative_to(small.home)): text for f, text in found.items()}
    texts |= {f"{n} unpacked": gzip.decompress(t) for n, t in texts.items() if n.endswith(".gz")}
    for name in [name for name in texts if name.endswith(".parquet")]:
        texts[f"{name} as values"] = repr(ds.dataset(small.home / name).to_table().to_pylist()).encode()
    return texts


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Small, Watched, Secrets]:
    small = canaries(tmp_path_factory.mktemp("finished"))
    return small, logged(small, {"NOISELIB_TRACEBACK": "1"}), secrets(small)


def test_nothing_that_a_run_writes_holds_a_key_or_a_raw_value(finished: tuple[Small, Watched, Secrets]) -> None:
    small, run, hidden = finished
    assert run.code == 0, run.err
    texts = written(small)
    kinds = (
        "events/",
        "ledger.db",
        "run_results.json",
        ".published.noiselib/",
        "_noiselib/",
        ".parquet as values",
        "stderr",
        SCRATCH,
        *TOLD,
    )
    assert [kind for kind in kinds if not any(kind in name for name in texts)] == []
    assert any(b"SparkListenerSQLExecutionStart" in text for name, text in texts.items() if name.startswith("events/"))
    shown = {"arguments": b"\n".join(run.commands), "environments": b"\n".join(run.environments)}
    assert hidden.found_in(texts | shown) == {}
    shuffled = [text for name, text in texts.items() if name.startswith(SCRATCH) and "shuffle" in name]
    row = small.rows[1]["id"][7].to_bytes(8, "little")  # as Spark lays out a row
    assert any(row in text for text in shuffled)  # so they are what was shuffled, and can be searched


PLACES = ["events/", "ledger.db", "run_results.json", "_noiselib/", "stderr", "stdout", SCRATCH, *TOLD]


@pytest.mark.parametrize("how", forms(b"").keys())
@pytest.mark.parametrize("kind", PLACES)
def test_the_search_finds_a_key_planted_there(finished: tuple[Small, Watched, Secrets], kind: str, how: str) -> None:
    small, _, hidden = finished
    name, text = next((name, text) for name, text in written(small).items() if kind in name)
    for key in ("master key", "column key amount", "pseudonym key"):
        planted = {name: text[:99] + forms(hidden.keys[key])[how] + text[99:]}
        assert f"{key} ({how})" in hidden.found_in(planted)[name]
    assert hidden.found_in({name: text + NAME.encode()}) == ({} if kind == SCRATCH else {name: [NAME]})


def test_the_search_finds_a_key_in_a_scratch_file_that_was_removed(tmp_path: Path) -> None:
    """The planted leak: a file as a worker would leave it for a moment, in a folder that is gone afterwards."""
    small = canaries(tmp_path)
    hidden, scratch = secrets(small), tmp_path / "scratch"
    with kept(scratch, tmp_path / "kept"):
        (scratch / "blockmgr-1" / "0c").mkdir(parents=True)
        (scratch / "blockmgr-1" / "0c" / "temp").write_bytes(b"rows" + hidden.keys["column key amount"] + b"rows")
        (scratch / "blockmgr-1" / "0c" / "temp").rename(scratch / "blockmgr-1" / "0c" / "shuffle_0_0_0.data")
        time.sleep(0.5)
        shutil.rmtree(scratch / "blockmgr-1")
    assert [*hidden.found_in(written(small)).values()] == [["column key amount (raw)"]]


def test_a_key_in_the_environment_is_in_no_other_place(tmp_path: Path) -> None:
    """`env:` puts the key where every process of the job has it: readable, under /proc, by root and the job's own user."""
    small = canaries(tmp_path)
    key = (small.home / "noise.key").read_text().strip()
    small.spec["key"] = "env:THE_NOISE_KEY"
    small.write_spec()
    run = logged(small, {"THE_NOISE_KEY": key, "NOISELIB_TRACEBACK": "1"})
    assert run.code == 0, run.err
    os.environ["THE_NOISE_KEY"] = key
    try:
        hidden = secrets(small)
    finally:
        del os.environ["THE_NOISE_KEY"]
    assert hidden.found(b"\n".join(run.environments)) == [
        "master key (base64)"
    ]  # as the search must find it, and as it says above
    assert hidden.found_in(written(small) | {"arguments": b"\n".join(run.commands)}) == {}


BREAK = """
import os
if os.environ.get("PYTHON_WORKER_FACTORY_SECRET") or os.environ.get("SPARK_REUSE_WORKER"):
    from noiselib.mechanisms.additive import Additive
    import noiselib.noise.stream as stream
    def broken(key, tags): raise RuntimeError("planted")
    stream._encrypt = broken
"""


def crashed(small: Small, environment: dict[str, str]) -> Watched:
    """A run whose workers fail in the middle of drawing noise, with the key in their hands."""
    place = small.home / "site"
    place.mkdir()
    (place / "sitecustomize.py").write_text(BREAK)
    return watched(
        small, {"PYTHONPATH": f"{place}:{Path(__file__).parents[2]}", "NOISELIB_TRACEBACK": "1"} | environment
    )


def test_a_crash_with_its_traceback_shows_no_key(tmp_path: Path) -> None:
    small = canaries(tmp_path)
    run = crashed(small, {})
    assert run.code == 1
    assert "planted" in run.err
    assert "Traceback" in run.err
    hidden = Secrets(secrets(small).keys, ())  # a traceback is the operator's own, and may quote values: it says so
    for name, text in written(small).items():
        assert hidden.found(text) == [], name


@pytest.mark.long
def test_a_traceback_with_locals_would_show_the_key(tmp_path: Path) -> None:
    """The planted leak: what the refused variable does, in a run that does not refuse it."""
    small = canaries(tmp_path)
    (small.home / "site").mkdir()
    allow = "\nelse:\n    import noiselib.spark.leaks as leaks\n    leaks.refuse_leaks = lambda *_: None\n"
    run_site = BREAK + allow
    (small.home / "site" / "sitecustomize.py").write_text(run_site)
    place = f"{small.home / 'site'}:{Path(__file__).parents[2]}"
    run = logged(small, {"PYTHONPATH": place, "NOISELIB_TRACEBACK": "1", "SPARK_TRACEBACK_WITH_LOCALS": "1"})
    assert run.code == 1
    assert [name for name in secrets(small).found(run.err.encode("utf-8", "surrogateescape")) if "key" in name]


def test_no_plan_holds_a_key_or_a_raw_value(tmp_path: Path, spark: SparkSession) -> None:
    small = canaries(tmp_path)
    run, hidden = prepare(small.spec_file, [], lambda _: None), secrets(small)
    job = Job(run.plan, run.table, run.releases, run.spec.key)
    frame = noised_rows(spark, job).select(*published_columns(job))
    plans = frame._jdf.queryExecution().toString() + frame._jdf.queryExecution().debug().toString()  # type: ignore[operator]
    assert "Parsed Logical Plan" in plans
    assert hidden.found(plans.encode()) == []
    frame = frame.filter(f"name != '{NAME}'")
    assert hidden.found(frame._jdf.queryExecution().toString().encode()) == [NAME]  # type: ignore[operator]


# ---- settings that are refused


KEY = hashlib.sha256(b"the key that settings hold").digest()
HOLDING = [
    ("spark.executorEnv.ANY", forms(KEY)["base64"].decode(), "holds the noise key"),
    ("spark.driver.extraJavaOptions", f"-Dkey={KEY.hex()}", "holds the noise key"),
    ("spark.app.name", f"run {forms(KEY)['urlsafe base64'].decode()}", "holds the noise key"),
    ("spark.executorEnv.THE_KEY", "anything", "would put the noise key into Spark's configuration"),
    ("spark.yarn.appMasterEnv.THE_KEY", "anything", "would put the noise key into Spark's configuration"),
]
SHOWING = [
    ("spark.sql.execution.pyspark.udf.tracebackWithLocals.enabled", "true", "would print its local variables"),
    ("spark.executorEnv.SPARK_TRACEBACK_WITH_LOCALS", "1", "would print its local variables"),
    ("spark.executor.extraJavaOptions", "-XX:+HeapDumpOnOutOfMemoryError", "a heap dump holds rows"),
    ("spark.executor.defaultJavaOptions", "-XX:HeapDumpPath=/tmp", "a heap dump holds rows"),
    ("spark.driver.extraJavaOptions", "-Xdump:heap:events=vmstop", "a heap dump holds rows"),
    ("spark.driver.defaultJavaOptions", "-Xmx1g -agentlib:jdwp=transport=dt_socket", "attaches a debugger"),
    ("spark.driver.extraJavaOptions", "-Xrunjdwp:transport=dt_socket", "attaches a debugger"),
    ("spark.driver.extraJavaOptions", "-XX:StartFlightRecording=duration=60s", "a flight recording holds"),
    ("spark.executor.extraJavaOptions", "-XX:FlightRecorderOptions=repository=/tmp", "a flight recording holds"),
    ("spark.driver.extraJavaOptions", "-javaagent:/opt/monitor.jar=port=1", "with -javaagent: an agent reads"),
    ("spark.driver.extraJavaOptions", "-agentpath:/opt/libmonitor.so", "with -agentpath: an agent reads"),
    ("spark.executor.extraJavaOptions", "-agentlib:monitor", "with -agentlib: an agent reads"),
    ("spark.executor.extraJavaOptions", "-Xrunmonitor", "with -Xrun: an agent reads"),
    ("spark.driver.extraJavaOptions", "-Dcom.sun.management.jmxremote", "whoever connects can have the heap dumped"),
    ("spark.executor.extraJavaOptions", "-Dcom.sun.management.jmxremote.port=9010", "whoever connects can"),
    ("spark.driver.extraJavaOptions", "-XX:+ManagementServer", "whoever connects can have the heap dumped"),
    ("spark.driver.extraJavaOptions", "-XX:VMOptionsFile=/tmp/more", "options in a file are not looked at"),
    ("spark.driver.extraJavaOptions", "-XX:+UnlockDiagnosticVMOptions -XX:Flags=more", "options in a file are not"),
    ("spark.executor.extraJavaOptions", "-Xmx1g @/tmp/more", "options in a file are not looked at"),
    ("spark.executorEnv.JAVA_TOOL_OPTIONS", "-XX:+HeapDumpOnOutOfMemoryError", "a heap dump holds rows"),
    ("spark.yarn.appMasterEnv.JAVA_TOOL_OPTIONS", "-agentlib:jdwp=server=y", "attaches a debugger"),
    ("spark.executorEnv.JDK_JAVA_OPTIONS", "@more", "options in a file are not looked at"),
    ("spark.executorEnv._JAVA_OPTIONS", "-XX:StartFlightRecording", "a flight recording holds the environment"),
    ("spark.kubernetes.driverEnv.JDK_JAVA_OPTIONS", "-XX:+HeapDumpBeforeFullGC", "a heap dump holds rows"),
    ("spark.yarn.appMasterEnv.SPARK_SUBMIT_OPTS", "-javaagent:monitor.jar", "an agent reads"),
]
HARMLESS = {
    "spark.sql.execution.pyspark.udf.simplifiedTraceback.enabled": "false",  # frames, no variables
    "spark.python.worker.faulthandler.enabled": "true",  # the same
    "spark.sql.pyspark.udf.profiler": "perf",  # names of functions and times
    "spark.eventLog.logBlockUpdates.enabled": "true",  # ids and sizes of blocks
    "spark.redaction.regex": "(?!)",  # nothing of ours is in the configuration to be redacted
    "spark.executorEnv.OTHER": "x",
    "spark.executorEnv.JAVA_HOME": "/usr/lib/jvm/java-17@2",
    "spark.driver.extraJavaOptions": "-Xss4m -XX:+UseSerialGC -Dmail=a@b -Dlog4j2.configurationFile=file:log4j2.xml",
    "spark.executor.extraJavaOptions": "-XX:+ExitOnOutOfMemoryError --add-opens=java.management/sun.management=ALL-UNNAMED",
}


@pytest.fixture
def key_reference(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("THE_KEY", base64.b64encode(KEY).decode())
    return "env:THE_KEY"


@pytest.mark.parametrize(("name", "value", "why"), [*HOLDING, *SHOWING], ids=[n for n, *_ in [*HOLDING, *SHOWING]])
def test_a_setting_that_shows_what_is_secret_is_refused(key_reference: str, name: str, value: str, why: str) -> None:
    with pytest.raises(SpecError, match=f"Spark setting refused: {name}.*{why}") as raised:
        refuse_leaks({name: value}, key_reference)
    assert not [form for form in forms(KEY).values() if form in str(raised.value).encode()]


def test_a_variable_that_has_workers_print_their_locals_is_refused(
    key_reference: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_TRACEBACK_WITH_LOCALS", "1")
    with pytest.raises(SpecError, match="SPARK_TRACEBACK_WITH_LOCALS"):
        refuse_leaks({}, key_reference)


@pytest.mark.parametrize("name", ["JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "SPARK_SUBMIT_OPTS"])
def test_a_setting_in_a_variable_that_java_reads_is_refused_before_java_starts(
    key_reference: str, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "-Xmx1g")
    refuse_leaks({}, key_reference)
    monkeypatch.setenv(name, "-Xmx1g -XX:StartFlightRecording")
    with pytest.raises(SpecError, match=f"environment variable {name} with FlightRecord: a flight recording"):
        refuse_leaks({}, key_reference)


def test_a_setting_that_shows_nothing_is_not_refused(key_reference: str) -> None:
    refuse_leaks(HARMLESS, key_reference)


def test_a_running_session_is_looked_at_whoever_made_its_settings(spark: SparkSession, key_reference: str) -> None:
    assert any("log4j2" in value for value in session_settings(spark).values())  # an option of the Java that runs
    refuse_leaks(session_settings(spark), key_reference)
    name = SHOWING[0][0]
    spark.conf.set(name, "true")
    try:
        with pytest.raises(SpecError, match=name):
            refuse_leaks(session_settings(spark), key_reference)
    finally:
        spark.conf.unset(name)


@pytest.mark.parametrize("how", ["--spark-conf", "SPARK_CONF_DIR", "JAVA_TOOL_OPTIONS"])
def test_a_setting_is_refused_wherever_it_was_made(tmp_path: Path, how: str) -> None:
    """And nothing stays reserved, though some settings are known only when Spark has started."""
    small = canaries(tmp_path)
    (tmp_path / "spark-defaults.conf").write_text(f"{SHOWING[0][0]} true\n")
    command = [sys.executable, "-m", "noiselib.cli", "run", str(small.spec_file), "--master", "local[1]"]
    command += ["--results", str(tmp_path / "results.json")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYSPARK")}
    if how == "--spark-conf":
        command += ["--spark-conf", str(tmp_path / "spark-defaults.conf")]
    elif how == "SPARK_CONF_DIR":
        environment["SPARK_CONF_DIR"] = str(tmp_path)
    else:
        environment["JAVA_TOOL_OPTIONS"] = "-XX:+HeapDumpOnOutOfMemoryError"
    done = subprocess.run(command, env=environment, capture_output=True, timeout=300, check=False)
    assert done.returncode == 2, done.stderr
    assert b"SpecError: Spark setting refused: " in done.stderr
    assert json.loads((tmp_path / "results.json").read_text())["status"] == "failed"
    with small.ledger() as ledger:
        assert {known.state for known in ledger.releases("small")} <= {"abandoned"}
    assert small.published() is None
