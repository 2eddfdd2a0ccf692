"""The commands that read what is published: report, verify and estimate."""

from __future__ import annotations

import argparse
import json
import time

from noiselib.cli.log import progress
from noiselib.cli.names import partitions, pipeline_or_release, published
from noiselib.cli.spark import locator, open_spark


def report(arguments: argparse.Namespace) -> int:
    from noiselib.report.summary import summary_data, summary_text

    pipeline, release = pipeline_or_release(arguments.pipeline)
    data = summary_data(pipeline, partitions(arguments.partition), release)
    print(json.dumps(data) if arguments.json else summary_text(data))
    return 0


def verify(arguments: argparse.Namespace) -> int:
    from noiselib.spark import verify
    from noiselib.spark.run import prepare

    pipeline, release = pipeline_or_release(arguments.pipeline)
    wanted, say = partitions(arguments.partition), progress(time.monotonic())
    run = prepare(pipeline, wanted, say, key_reference=arguments.key, locate=locator(arguments))
    answer = verify.verify(run, open_spark(arguments, run.spec.pipeline, run.spec.key), release)
    if arguments.json:
        print(json.dumps(answer))
    elif answer["success"]:
        print(f"{run.spec.pipeline}: {len(answer['releases'])} releases derived again, equal to the bit")  # type: ignore[arg-type]
    else:
        for found in answer["differences"]:  # type: ignore[attr-defined]
            print(f"{found['partition']}: {found['row']}: differs in {', '.join(found['columns']) or 'the whole row'}")
    return 0 if answer["success"] else 1


def estimate(arguments: argparse.Namespace) -> int:
    """Estimates from every release named, each with its standard error."""
    from noiselib.report.estimates import estimates_text
    from noiselib.spark.estimate import Asked, estimate

    asked = Asked(arguments.confidence, arguments.option, arguments.bins)
    target, manifests = published(arguments.release)
    spark, readable = open_spark(arguments, "estimate"), target.readable()
    answer = [
        {"release_id": one["release_id"], "partition": one["partition"], "rows": one["rows"],
         "option": asked.option, "estimates": estimate(spark, readable.get(one["partition"], []), one, asked, arguments.column)}
        for one in manifests
    ]  # fmt: skip
    print(json.dumps(answer) if arguments.json else estimates_text(answer))
    return 0
