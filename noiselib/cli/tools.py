"""The commands beside the path: plan, calibrate, audit, schema, keygen, gc."""

from __future__ import annotations

import argparse
import json
import time

from noiselib.cli.chosen import chosen, one
from noiselib.cli.failures import common, told
from noiselib.cli.log import progress
from noiselib.cli.names import partitions, spec_file
from noiselib.cli.spark import locator, open_spark
from noiselib.errors import ReleaseHeld
from noiselib.key import create_key_file


def plan(arguments: argparse.Namespace) -> int:
    from noiselib.report.plan_text import plan_text, planned

    pipeline = one(arguments)
    if pipeline is None:
        return _plans(arguments)
    wanted = partitions(arguments.partition)
    data, _ = planned(spec_file(pipeline), wanted, arguments.accountant, locator(arguments), arguments.key)
    print(json.dumps(data) if arguments.json else plan_text(data))
    return 0


def _plans(arguments: argparse.Namespace) -> int:
    """Of several: the exit code is that of what could not be planned."""
    from noiselib.report.plans import plans_data, plans_text

    wanted, (pipelines, _) = partitions(arguments.partition), chosen(arguments)
    codes: list[int] = []
    failed = lambda error: codes.append(told(error, arguments.directory))  # noqa: E731
    data = plans_data(pipelines, wanted, arguments.accountant, failed, locator(arguments), arguments.key)
    print(json.dumps(data) if arguments.json else plans_text(data))
    return common(codes)


def calibrate(arguments: argparse.Namespace) -> int:
    from noiselib.report.calibration import calibrate

    given = arguments
    asked = (given.mechanism, given.epsilon, given.delta, given.sensitivity, given.granularity, given.categories)
    answer = calibrate(*asked, given.accountant)
    print(json.dumps(answer) if arguments.json else "\n".join(f"{name:12} {value}" for name, value in answer.items()))
    return 0


def audit(arguments: argparse.Namespace) -> int:
    """Attacks on a mechanism, or on a pipeline through the whole path; 1 if one exceeds what is claimed."""
    from noiselib.report import audits

    of = arguments.of
    if of in audits.NAMES:
        named = {name: getattr(arguments, name) for name in audits.PARAMETERS}
        findings = audits.audit(audits.Asked(of, **named), arguments.draws, arguments.confidence)
    else:
        audits.check_confidence(arguments.confidence)
        began, file = time.monotonic(), spec_file(of)
        from noiselib.spark.audit import audit_pipeline

        spark = lambda: open_spark(arguments, "audit")  # noqa: E731
        findings = audit_pipeline(
            file, spark, arguments.rows, progress(began), arguments.confidence, locator(arguments)
        )
    answer = audits.audit_data(of, findings)
    print(json.dumps(answer) if arguments.json else audits.audit_text(of, findings))
    return 0 if answer["success"] else 1


def schema(arguments: argparse.Namespace) -> int:
    from noiselib.spec import PipelineSpec

    print(json.dumps(PipelineSpec.model_json_schema(), indent=2))
    return 0


def keygen(arguments: argparse.Namespace) -> int:
    print(f"{arguments.file}: key {create_key_file(arguments.file).id}")
    return 0


def gc(arguments: argparse.Namespace) -> int:
    """Remove what no reader needs, while no run is at work on the target: on this host by its lock, elsewhere by its leases."""
    from noiselib.ledger import Ledger
    from noiselib.release import budget_of
    from noiselib.spec import load_spec
    from noiselib.targets import demand_own, open_target

    spec, _ = load_spec(spec_file(arguments.pipeline))
    target = open_target(spec)
    demand_own(target, spec)
    with target.held():
        if spec.ledger is not None and budget_of(spec) is not None:
            with Ledger.open(spec.ledger) as ledger:
                for release in ledger.at_work(spec.pipeline):
                    assert release.holder is not None
                    raise ReleaseHeld(
                        f"release {release.release_id[:12]} of {spec.pipeline} is being made by process {release.holder.pid} on "
                        f"{release.holder.host} since {release.held_since}: nothing is removed while it runs"
                    )
        for removed in target.collect():
            print(removed)
    return 0
