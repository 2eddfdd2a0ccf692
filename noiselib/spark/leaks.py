"""Spark settings that would show the noise key or values of the data: refused by name, wherever they were made.

Looked for in a configuration file and in the variables that Java reads before Spark starts, and in the session that is
there afterwards, which also has what spark-submit and SPARK_CONF_DIR put in: what such an option wrote in the meantime is
the operator's to remove. Code that an operator has Spark load (jars, plugins, listeners, another worker module) is trusted as
the operator is, and not looked at; Java's agents are refused, since monitoring sets them up where nobody thinks of the data.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterable, Iterator, Mapping

from pyspark.sql import SparkSession

from noiselib.errors import SpecError
from noiselib.key import load_key

LOCALS = "spark.sql.execution.pyspark.udf.tracebackWithLocals.enabled"
LOCALS_VARIABLE = "SPARK_TRACEBACK_WITH_LOCALS"
JAVA_VARIABLES = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "SPARK_SUBMIT_OPTS")
AGENT = "an agent reads every value, and the environment"
UNSEEN = "options in a file are not looked at; expected them written out"
SHOWING = {  # part of a Java option, as a pattern -> why it is refused
    r"HeapDump": "a heap dump holds rows of the data, and the environment",
    r"-Xdump": "a heap dump holds rows of the data, and the environment",
    r"FlightRecord": "a flight recording holds the environment, where a key may stand, and pieces of stacks",
    r"jdwp": "whoever attaches a debugger reads every value",
    r"-Dcom\.sun\.management|ManagementServer": "whoever connects can have the heap dumped, and reads the environment",
    r"-javaagent": AGENT,
    r"-agent(path|lib)": AGENT,
    r"-Xrun": AGENT,
    r"-XX:(Flags|VMOptionsFile)": UNSEEN,
    r"(?<![^\s\"'])@\S": UNSEEN,  # at the beginning of an option: Java takes the rest for a file's name
}


def refuse_leaks(settings: Mapping[str, str], key_reference: str | None) -> None:
    """Raises SpecError naming each of `settings` (name -> value) that shows what must stay secret, and why."""
    own = {f"environment variable {name}": os.environ[name] for name in JAVA_VARIABLES if name in os.environ}
    found = [*_shown(settings), *_shown(own), *_holding_the_key(settings, key_reference)]
    if os.environ.get(LOCALS_VARIABLE):
        found.append(f"environment variable {LOCALS_VARIABLE}: a failing worker would print its local variables")
    if found:
        raise SpecError("\n".join(f"Spark setting refused: {problem}" for problem in found))


def session_settings(session: SparkSession) -> dict[str, str]:
    """All that the running session was told, Java options of its own machine included."""
    context = session.sparkContext
    bean = context._jvm.java.lang.management.ManagementFactory.getRuntimeMXBean()  # type: ignore[union-attr]
    started = {f"Java option {number}": str(option) for number, option in enumerate(bean.getInputArguments())}
    return {**started, **dict(context.getConf().getAll()), LOCALS: str(session.conf.get(LOCALS, "false"))}


def _shown(settings: Mapping[str, str]) -> Iterator[str]:
    for name, value in settings.items():
        if (name == LOCALS and value.lower() == "true") or name.endswith(f"Env.{LOCALS_VARIABLE}"):
            yield f"{name}: a failing worker would print its local variables, the key and values of the data among them"
        elif "java" in name.lower() or name.endswith("SPARK_SUBMIT_OPTS"):
            shown = ((re.search(pattern, value), why) for pattern, why in SHOWING.items())
            yield from (f"{name} with {option[0]}: {why}" for option, why in shown if option)


def _holding_the_key(settings: Mapping[str, str], key_reference: str | None) -> Iterator[str]:
    if key_reference is None:
        return
    scheme, _, variable = key_reference.partition(":")
    written = writings(load_key(key_reference).secret)
    for name, value in settings.items():
        if any(text in value for text in written):
            yield f"{name}: holds the noise key, which Spark's logs and pages would show; make a new key (noiselib keygen)"
        elif scheme == "env" and name.endswith(f"Env.{variable}"):
            yield f"{name}: would put the noise key into Spark's configuration, which its logs and pages show"


def writings(secret: bytes) -> Iterable[str]:
    """The ways in which a key is written as text: base64 in both alphabets, hexadecimal in both cases."""
    plain, urls = base64.b64encode(secret).decode(), base64.urlsafe_b64encode(secret).decode()
    return {plain.rstrip("="), urls.rstrip("="), secret.hex(), secret.hex().upper()}
