"""noiselib doctor: what a run needs, looked at before it starts."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from noiselib.cli.names import spec_file
from noiselib.cli.spark import open_spark
from noiselib.errors import NoiselibError

if TYPE_CHECKING:
    from noiselib.doctor import Finding


def doctor(arguments: argparse.Namespace) -> int:
    """A line per finding; 1 if one is a failure."""
    from noiselib.doctor.finding import text

    findings = list(_findings(arguments))
    success = all(one.state != "failure" for one in findings)
    answer = {"success": success, "findings": [asdict(one) for one in findings]}
    print(json.dumps(answer) if arguments.json else text(findings))
    return 0 if success else 1


def _findings(arguments: argparse.Namespace) -> Iterator[Finding]:
    from noiselib.doctor import check_machine, check_pipeline
    from noiselib.doctor.finding import failure
    from noiselib.spark_conf import read_conf

    files = [spec_file(name) for name in arguments.pipelines]
    conf = read_conf(arguments.spark_conf)
    machine = list(check_machine(conf, workers=not arguments.cluster))  # else the executors tell, wherever they are
    yield from machine
    for file in files:
        yield from check_pipeline(file, conf)
    if not arguments.cluster:
        return
    if any(one.what == "java" and one.state == "failure" for one in machine):
        return  # no session starts; why is said above
    from noiselib.spark.cluster_doctor import check_cluster

    try:
        session = open_spark(arguments, "doctor")
    except NoiselibError as error:
        yield failure("spark session", str(error), "mend what is said above, or the settings of --spark-conf")
        return
    yield from check_cluster(session, files, arguments.executors)
