"""The Spark session that the command line asks for."""

from __future__ import annotations

import argparse
import signal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from noiselib.snapshot import Catalogued, Locate
    from noiselib.spec import PipelineSpec

from noiselib.cli.log import spark_line


def open_spark(arguments: argparse.Namespace, app: str, key_reference: str | None = None) -> Any:
    from noiselib.spark.session import open_session

    handler = signal.getsignal(signal.SIGINT)
    session = open_session(app, arguments.master, arguments.spark_conf, key_reference, arguments.spark_log, spark_line)
    signal.signal(signal.SIGINT, handler)  # Spark sets one of its own
    return session


def locator(arguments: argparse.Namespace) -> Locate:
    """Finds a source in Spark's catalog. Spark starts for that alone: other sources are found without it."""

    def locate(spec: PipelineSpec) -> Catalogued:
        from noiselib.key import UNKNOWN, known_id
        from noiselib.spark.catalog import find_table

        reference: str = getattr(arguments, "key", None) or spec.key  # `audit` has no --key
        # no setting can show a key that is not at hand; who needs it, as a run does, says that it is missing
        key = None if known_id(reference) == UNKNOWN else reference
        return find_table(open_spark(arguments, spec.pipeline, key), spec.source.path)

    return locate
