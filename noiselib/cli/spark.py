"""The Spark session that the command line asks for."""

from __future__ import annotations

import argparse
import signal
from typing import Any


def open_spark(arguments: argparse.Namespace, app: str, key_reference: str | None = None) -> Any:
    from noiselib.spark.session import open_session

    handler = signal.getsignal(signal.SIGINT)
    session = open_session(app, arguments.master, arguments.spark_conf, key_reference)
    signal.signal(signal.SIGINT, handler)  # Spark sets one of its own
    return session
