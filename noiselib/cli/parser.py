"""The arguments of every command. Nothing imported here needs Spark: what does, imports it when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from noiselib.cli import doctor as doctor_command
from noiselib.cli import ledger as ledger_command
from noiselib.cli import listing, observe, path, published, rollback, several, tools
from noiselib.cli.log import FORMS, VARIABLE

SPARK_LOG = ("OFF", "FATAL", "ERROR", "WARN", "INFO", "DEBUG", "TRACE")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="noiselib", description="Calibrated noise for partitioned feature tables.")
    parser.set_defaults(directory=Path())
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    steps = {
        "run": "the whole path; resumes where an earlier run stopped",
        "reserve": "reserve the charge of the releases, and no more",
        "perturb": "reserve, draw the noise and stage",
        "check": "check what is staged",
        "publish": "publish what is checked, and commit its charge",
        "verify": "derive every published value again and compare",
    }
    for name, text in steps.items():
        step = commands.add_parser(name, help=text, description=text)
        _add_selection(step, several=name == "run")
        _add_spark(step)
        _add_key(step)
        if name == "verify":
            step.set_defaults(command=published.verify)
        else:
            step.add_argument(
                "--results", type=Path, default=Path("run_results.json"), help="where run results are written"
            )
            step.add_argument(
                "--take-over",
                action="store_true",
                help="take the releases from a run that still holds them; it can write nothing to the ledger afterwards",
            )
            step.add_argument("--lineage", metavar="PLACE", help=f"OpenLineage events to {observe.PLACES}")
            step.add_argument("--metrics", metavar="PLACE", help=f"Prometheus metrics to {observe.PLACES}")
            step.set_defaults(command=several.run if name == "run" else path.walk, step=name)
        if name == "run":
            step.add_argument("--fail-fast", action="store_true", help="of several: begin none after one has failed")
    estimate = commands.add_parser(
        "estimate", help="what a published release says about its data, with standard errors"
    )
    estimate.add_argument(
        "release", metavar="RELEASE", help="a release's id, a pipeline, or the path of a published table"
    )
    estimate.add_argument(
        "--column", action="append", default=[], metavar="NAME", help="only this column; may be repeated"
    )
    estimate.add_argument("--confidence", type=float, default=0.95, help="of the intervals (default: 0.95)")
    estimate.add_argument(
        "--bins", type=int, default=0, help="histograms and quantiles of that many bins, where theory gives them"
    )
    estimate.add_argument(
        "--option",
        choices=["raw", "simplex", "clip", "em", "ems"],
        default="raw",
        help="raw is unbiased (the default); the others are proper distributions, and biased",
    )
    _add_spark(estimate)
    _add_directory(estimate)
    estimate.set_defaults(command=published.estimate)
    plan = commands.add_parser("plan", help="what a run would do and cost; reads no rows, spends nothing")
    _add_selection(plan, several=True)
    _add_accountant(plan)
    _add_spark(plan)  # which it needs for a source in Spark's catalog alone
    _add_key(plan)
    plan.set_defaults(command=tools.plan)
    ls = commands.add_parser("ls", help="which pipelines there are, and where they stand; reads no rows")
    _add_pipelines(ls)
    _add_directory(ls)
    _add_spark(ls)  # as plan
    _add_key(ls)
    ls.add_argument(
        "--output", choices=["table", "name"], default="table", help="names alone, in the order they run in"
    )
    ls.set_defaults(command=listing.ls)
    report = commands.add_parser("report", help="what is published, release by release, and what the budget has left")
    _add_selection(report, "a pipeline, or the beginning of a release's id")
    report.set_defaults(command=published.report)
    _add_tools(commands)
    for command in commands.choices.values():
        command.add_argument(
            "--log", choices=FORMS, help=f"the form of the log on stderr (default: ${VARIABLE}, or console)"
        )
    return parser


def _add_spark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--master", help="Spark master, where not run by spark-submit (default: local[*])")
    parser.add_argument("--spark-conf", type=Path, help="Spark settings, in the form of spark-defaults.conf")
    parser.add_argument(
        "--spark-log",
        metavar="LEVEL",
        choices=SPARK_LOG,
        default="ERROR",
        help=f"how much of Spark's own log is shown (default: ERROR): {', '.join(SPARK_LOG)}; above ERROR it may quote values",
    )


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--directory", type=Path, default=Path(), metavar="DIR", help="work in this directory, as make -C"
    )
    parser.add_argument("--json", action="store_true", help="the answer as JSON on stdout")


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--key",
        metavar="REF",
        help="where the key lies, if not where the spec says: file:PATH or env:NAME. To verify what was made before the spec's "
        "key was replaced; for airflow:CONNECTION",
    )


def _add_selection(
    parser: argparse.ArgumentParser, what: str = "a spec's path, or its name in conf/pipelines", several: bool = False
) -> None:
    if several:
        _add_pipelines(parser)
    else:
        parser.add_argument("pipeline", metavar="PIPELINE", help=what)
    text = "only this partition, or FIRST..LAST of whole numbers; may be repeated"
    parser.add_argument("--partition", action="append", default=[], metavar="K=V", help=text)
    _add_directory(parser)


def _add_pipelines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pipeline", nargs="*", metavar="PIPELINE", help="specs' paths, or names in conf/pipelines")
    methods = (
        "NAME, tag:NAME, state:changed|failed|new, purpose:NAME, path:GLOB; +NAME, NAME+ with what is up- or downstream"
    )
    for name, text in {"select": f"also those that this means: {methods}", "exclude": "but for those"}.items():
        parser.add_argument(f"--{name}", nargs="+", action="extend", default=[], metavar="EXPR", help=text)


def _add_accountant(command: argparse.ArgumentParser) -> None:
    text = "whose figure to give (default: pld, by which budgets are paid)"
    command.add_argument("--accountant", choices=["pld", "rdp", "zcdp"], default="pld", help=text)


def _add_tools(commands: Any) -> None:
    calibrate = commands.add_parser("calibrate", help="the noise that a guarantee asks for")
    calibrate.add_argument("mechanism")
    calibrate.add_argument("--epsilon", type=float, required=True)
    calibrate.add_argument("--delta", type=float)
    calibrate.add_argument(
        "--sensitivity", type=float, help="the most by which a value can change, or its bounds' width"
    )
    calibrate.add_argument("--categories", type=int, help="how many categories there are, of a categorical mechanism")
    calibrate.add_argument(
        "--granularity", type=float, help="the lattice's step (default: fine against the scale, or 1)"
    )
    _add_accountant(calibrate)
    calibrate.add_argument("--json", action="store_true")
    calibrate.set_defaults(command=tools.calibrate)
    _add_audit(commands)
    _add_doctor(commands)
    ledger = commands.add_parser("ledger", help="the account that pays")
    ledger.add_argument("action", choices=["init", "show", "history", "abandon", "recover", "verify", "migrate"])
    ledger.add_argument("ledger", metavar="LEDGER", help="a URL, or the pipeline whose ledger it is")
    ledger.add_argument("--budget")
    ledger.add_argument("--release", metavar="ID", help="the beginning of a release's id")
    ledger.add_argument("--head", metavar="HASH", help="verify: a head noted earlier, which must still be in the chain")
    ledger.add_argument("--json", action="store_true")
    ledger.set_defaults(command=ledger_command.ledger)
    schema = commands.add_parser("schema", help="the JSON Schema of the spec, for editors")
    schema.set_defaults(command=tools.schema)
    keygen = commands.add_parser("keygen", help="write a new noise key, mode 0600")
    keygen.add_argument("file", type=Path)
    keygen.set_defaults(command=tools.keygen)
    gc = commands.add_parser("gc", help="remove staging and quarantine of a pipeline")
    gc.add_argument("pipeline")
    gc.set_defaults(command=tools.gc)
    _add_rollback(commands)


def _add_rollback(commands: Any) -> None:
    text = "make an earlier release of a partition current again, at no cost"
    command = commands.add_parser("rollback", help=text, description=text)
    command.add_argument("pipeline", metavar="PIPELINE", help="a spec's path, or its name in conf/pipelines")
    command.add_argument("--to", metavar="RELEASE", help="the beginning of a release's id")
    command.add_argument("--list", action="store_true", help="those that can be made current; so without --to")
    _add_directory(command)
    command.set_defaults(command=rollback.rollback)


def _add_audit(commands: Any) -> None:
    audit = commands.add_parser("audit", help="attack a mechanism or a pipeline: a lower bound on its epsilon")
    audit.add_argument("of", metavar="MECHANISM|PIPELINE")
    numbers = {
        "epsilon": "what the mechanism claims",
        "delta": "the same, of Gaussian laws",
        "sensitivity": "the most by which a value can change, or its bounds' width; of places in metres, "
        "of vectors twice the norm they are clipped to",
        "granularity": "the lattice's step (default: fine against the scale, or 1)",
        "f": "of rappor: the permanent noise",
        "p": "of rappor: how likely a report's bit is 1 where the permanent one is 0",
        "q": "of rappor: how likely it is where that is 1",
    }
    for name, text in numbers.items():
        audit.add_argument(f"--{name}", type=float, help=text)
    for name, text in {
        "categories": "how many there are",
        "dimension": "of vectors",
        "bits": "of rappor's filters",
    }.items():
        audit.add_argument(f"--{name}", type=int, help=text)
    for name in ("hashes", "cohorts"):
        audit.add_argument(f"--{name}", type=int, default=1, help="of rappor (default: 1)")
    audit.add_argument("--draws", type=int, default=1_000_000, help="of either neighbour (default: 1000000)")
    audit.add_argument(
        "--rows", type=int, default=200_000, help="of the table that a pipeline is given (default: 200000)"
    )
    audit.add_argument(
        "--confidence", type=float, default=1 - 1e-9, help="of a bound that refutes a claim (default: 1 - 1e-9)"
    )
    _add_spark(audit)
    _add_directory(audit)
    audit.set_defaults(command=tools.audit)


def _add_doctor(commands: Any) -> None:
    text = "whether a run has what it needs: Java, Pythons, packages, key, ledger, tables, clock, disk, memory"
    doctor = commands.add_parser("doctor", help=text, description=text)
    pipeline = "these as well: specs' paths, or their names in conf/pipelines (default: the machine only)"
    doctor.add_argument("pipelines", nargs="*", metavar="PIPELINE", help=pipeline)
    doctor.add_argument("--cluster", action="store_true", help="start a session, and look at every executor")
    doctor.add_argument(
        "--executors", type=int, default=1, metavar="N", help="of the cluster: wait for that many (default: 1)"
    )
    _add_spark(doctor)
    _add_directory(doctor)
    doctor.set_defaults(command=doctor_command.doctor)
