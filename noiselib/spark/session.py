"""The Spark session. No setting changes a published value; these change how long it takes, and what Spark lets slip."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pyspark import SparkContext
from pyspark.sql import SparkSession

from noiselib.errors import NoiselibError
from noiselib.spark.java_output import JavaOutput
from noiselib.spark.leaks import refuse_leaks, session_settings
from noiselib.spark_conf import read_conf

# What must hold however the session was made, each settable while it runs.
REQUIRED = {
    "spark.sql.session.timeZone": "UTC",  # a timestamp is the same text wherever the job runs
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",  # other readers know it; INT96 is deprecated
    # A file of unknown origin reads, and ours is written, in the calendar of everyone: days before 1582 are not shifted.
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
    "spark.sql.parquet.int96RebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.int96TimestampConversion": "false",  # an INT96 instant is not shifted by who wrote it
    # A column is of the type that its file and its name say, which a release's id stands for.
    "spark.sql.parquet.inferTimestampNTZ.enabled": "true",
    "spark.sql.parquet.binaryAsString": "false",
    "spark.sql.timestampType": "TIMESTAMP_LTZ",
    "spark.sql.ansi.enabled": "true",  # an overflow is an error, never a silent wrap
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",  # the samplers' work fits the cache, calls are few
    "spark.sql.files.ignoreCorruptFiles": "false",  # a truncated file fails the release
    "spark.sql.files.ignoreMissingFiles": "false",
    "spark.sql.sources.parallelPartitionDiscovery.parallelism": "32",  # by default a task for each file, only to find its size
}
# What holds where nothing else is said. A session under spark-submit is made before us: conf/spark/ has them for it.
DEFAULTS = {
    "spark.master": "local[*]",
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    # HotSpot never compiles a method of more bytes than this: rows of twenty noised columns went through an interpreted one.
    "spark.sql.codegen.hugeMethodLimit": "8000",
    # The line of Python behind every expression, for messages: half of the driver's time where there are many columns.
    "spark.python.sql.dataFrameDebugging.enabled": "false",
}
QUIET_LOG = Path(__file__).with_name("log4j2.properties")
OPTIONS = "spark.driver.extraJavaOptions"
LOG_LEVELS = ("OFF", "FATAL", "ERROR", "WARN", "INFO", "DEBUG", "TRACE")


def open_session(
    app: str,
    master: str | None = None,
    conf_file: Path | None = None,
    key_reference: str | None = None,
    log_level: str = "ERROR",
    show: Callable[[str], None] = lambda line: print(line, file=sys.stderr),
) -> SparkSession:
    """The running session, or a new one: on `master` (default local[*]), with `conf_file` in spark-defaults form.

    log_level: of Spark's log, one of LOG_LEVELS; above ERROR it may quote values of the data
    show: is given each line that Java and the workers write to stderr (under spark-submit they have a stderr of their own)

    Under spark-submit the session's own configuration stands. Raises NoiselibError where Java or Spark cannot start, and
    SpecError for settings that would show values of the data, or the key that `key_reference` leads to.
    """
    given = check_conf(conf_file, key_reference)
    os.environ["PYSPARK_PYTHON"] = os.environ.get("PYSPARK_PYTHON") or sys.executable
    os.environ["PYSPARK_DRIVER_PYTHON"] = os.environ["PYSPARK_PYTHON"]
    builder = SparkSession.builder.appName(f"noiselib {app}")
    java = JavaOutput(show, keep_back=LOG_LEVELS.index(log_level) <= LOG_LEVELS.index("ERROR"))
    if "PYSPARK_GATEWAY_PORT" not in os.environ:  # spark-submit sets it, on a cluster too, and has a master of its own
        settings = DEFAULTS | given | ({"spark.master": master} if master else {})
        settings[OPTIONS] = f"{_log_options(log_level)} {given.get(OPTIONS, '')}".rstrip()
        for name, value in settings.items():
            builder = builder.config(name, value)
    try:
        if "PYSPARK_GATEWAY_PORT" not in os.environ:
            java.launch(settings)
        session = builder.getOrCreate()
    except Exception as error:  # a JVM that does not start raises many kinds
        java.failed()
        raise NoiselibError(
            f"Spark does not start ({type(error).__name__}): expected Java 17 or newer on the PATH or in JAVA_HOME"
        ) from error
    java.started()
    refuse_leaks(session_settings(session), key_reference)
    session.sparkContext.setLogLevel(log_level)
    for name, value in REQUIRED.items():
        session.conf.set(name, value)
    return session


def _log_options(level: str) -> str:
    """Java options, before the user's own: what they say of the log stands."""
    return f"-Dlog4j2.configurationFile={QUIET_LOG} -Dnoiselib.spark.log={level.lower()}"


def end_session(wait_seconds: float = 5.0) -> None:
    """End the JVM that this process started, and with it its Python workers: by closing the pipe it waits on, else by force.

    For a process that ends now. Under spark-submit the JVM is our parent and not ours to end.
    """
    process: subprocess.Popen[bytes] | None = getattr(SparkContext._gateway, "proc", None)
    if process is None or process.stdin is None:
        return
    hush = threading.Thread(target=_hush, daemon=True)  # a thread has a connection of its own: ours may be in mid-call
    hush.start()
    hush.join(wait_seconds)
    process.stdin.close()
    try:
        process.wait(wait_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def check_conf(conf_file: Path | None, key_reference: str | None) -> dict[str, str]:
    """The settings in `conf_file`. Raises SpecError for those that would show what must stay secret, or for no such file."""
    given = read_conf(conf_file)
    refuse_leaks(given, key_reference)
    return given


def _hush() -> None:
    """Spark would log the stack of every job that ends with it, and PySpark that its counters' connection ended."""
    context = SparkContext._active_spark_context
    if context is None:
        return
    with suppress(Exception):  # the JVM may have ended already: then it logs nothing
        context.setLogLevel("OFF")
    context._accumulatorServer.shutdown()
