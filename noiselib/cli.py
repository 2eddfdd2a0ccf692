"""The command line. stdout is the answer, stderr the log; exit codes are those of the errors.

Spark is imported only by the commands that need it: plan, calibrate, ledger, schema and keygen start in a moment.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from noiselib.errors import ChecksFailed, LedgerError, NoiselibError, ReleaseHeld, SpecError
from noiselib.key import create_key_file

if TYPE_CHECKING:
    from noiselib.ledger import Ledger
    from noiselib.spark.path import Run

PIPELINES = Path("conf/pipelines")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a request to end: what unwinds the stack after a signal."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code: 0 done, 1 failure, 2 usage or spec, 3 checks, 4 over budget, 5 held.

    After a signal it is 128 + its number, as the shell counts: 130 for Ctrl-C, 143 for SIGTERM.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)  # some libraries set their own loggers lower
    logging.basicConfig(handlers=[handler], format="%(message)s")
    arguments = _parser().parse_args(argv)
    try:
        with _interruptible():
            _enter(arguments.directory)
            return int(arguments.command(arguments))
    except NoiselibError as error:
        _log(f"{type(error).__name__}: {error}")
        return error.exit_code
    except KeyboardInterrupt as error:
        _log(f"interrupted ({error or 'SIGINT'}): what was reserved stays reserved; run again to resume")
        return int(getattr(error, "exit_code", 130))
    except BrokenPipeError:  # the reader of stdout has gone, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a full disk, a place that may not be written; the path stops at a step that is run again
        _log(
            f"{error.filename or arguments.directory}: {error.strerror or type(error).__name__}: stopped; run again to resume"
        )
        return 1
    except Exception as error:
        if os.environ.get("NOISELIB_TRACEBACK"):
            raise
        _log(
            f"unexpected {type(error).__name__}{_condition(error)}: stopped; what was reserved stays reserved, run again to resume"
        )
        _log("NOISELIB_TRACEBACK=1 shows the traceback; keep it private, it may hold values of the data")
        return 1


def _condition(error: Exception) -> str:
    """Spark's name for what went wrong, without the message: that may quote values."""
    condition = getattr(error, "getCondition", lambda: None)()
    return f" ({condition})" if condition else ""


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Signals that ask a process to end unwind it. One that is ignored already, as under nohup, stays so."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        _listen()
        yield
    finally:
        logging.disable(logging.NOTSET)
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen() -> None:
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _interrupt(number: int, _frame: object) -> None:
    """Nothing that we started outlives us, so Spark goes first. Another signal now would only stop the tidying up."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    logging.disable()  # Py4J would complain of the connection that is cut now
    if session := sys.modules.get("noiselib.spark.session"):
        session.end_session()
    raise Interrupted(number)


def _enter(directory: Path) -> None:
    try:
        os.chdir(directory)
    except OSError as error:
        raise SpecError(f"--directory {directory}: {error.strerror}; expected a directory") from None


# ---- the path --------------------------------------------------------------------------------------------------------


STEPS = {  # command -> the steps of the path that it takes, after reserving
    "run": ("perturb", "check", "publish"),
    "reserve": (),
    "perturb": ("perturb",),
    "check": ("check",),
    "publish": ("publish",),
}


def _walk(arguments: argparse.Namespace) -> int:
    """Take the command's steps, and write run_results.json whatever happens."""
    began, started = time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds")
    run: Run | None = None
    nothing = {"epsilon": 0.0, "delta": 0.0}
    outcome: dict[str, Any] = {"status": "failed", "pipeline": str(arguments.pipeline), "rows_in": 0, "rows_out": 0}
    outcome |= {"charge": nothing, "target": None, "manifest": None, "releases": []}
    try:
        from noiselib.spark import path, session  # takes seconds

        run = path.prepare(_spec_file(arguments.pipeline), _partitions(arguments.partition), _progress(began))
        key = run.spec.key
        session.check_conf(arguments.spark_conf, key)  # here too: before anything is reserved
        name, run.take_over = run.spec.pipeline, arguments.take_over
        path.walk(run, lambda: _spark(arguments, name, key), STEPS[arguments.step])
        outcome = path.results(run, "success")
    except BaseException as error:
        status = _status(error)
        if run is not None:
            outcome = path.results(run, status)
        text = str(error) if isinstance(error, (NoiselibError, Interrupted)) else type(error).__name__
        outcome |= {"status": status, "error": {"type": type(error).__name__, "message": text}}
        raise
    finally:
        outcome |= {"started": started, "seconds": round(time.monotonic() - began, 3)}
        _write_results(arguments.results, outcome)
        if arguments.json:
            print(json.dumps(outcome))
    if not arguments.json:
        _print_outcome(outcome)
    return 0


def _status(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return "quarantined" if isinstance(error, ChecksFailed) else "failed"


def _progress(began: float) -> Callable[[str], None]:
    """A line per step, with the seconds since the start."""
    return lambda line: _log(f"{time.monotonic() - began:6.1f}s  {line}")


def _print_outcome(outcome: dict[str, Any]) -> None:
    charge = outcome["charge"]
    print(
        f"{outcome['pipeline']}: {outcome['status']}, {outcome['rows_out']} rows in {len(outcome['releases'])} releases"
    )
    print(f"charge added: epsilon {charge['epsilon']:.4g} at delta {charge['delta']:g}")
    print(f"target: {outcome['target']}")


def _verify(arguments: argparse.Namespace) -> int:
    from noiselib.spark import path, verify

    pipeline, release = _pipeline_or_release(arguments.pipeline)
    wanted, say = _partitions(arguments.partition), _progress(time.monotonic())
    run = path.prepare(pipeline, wanted, say, key_reference=arguments.key)
    answer = verify.verify(run, _spark(arguments, run.spec.pipeline, run.spec.key), release)
    if arguments.json:
        print(json.dumps(answer))
    elif answer["success"]:
        print(f"{run.spec.pipeline}: {len(answer['releases'])} releases derived again, equal to the bit")  # type: ignore[arg-type]
    else:
        for found in answer["differences"]:  # type: ignore[attr-defined]
            print(f"{found['partition']}: {found['row']}: differs in {', '.join(found['columns']) or 'the whole row'}")
    return 0 if answer["success"] else 1


def _estimate(arguments: argparse.Namespace) -> int:
    """Estimates from every release named, each with its standard error."""
    from noiselib.report.estimates import estimates_text
    from noiselib.spark.estimate import Asked, estimate

    asked = Asked(arguments.confidence, arguments.option, arguments.bins)
    root, manifests = _published(arguments.release)
    spark = _spark(arguments, "estimate")
    answer = [
        {"release_id": one["release_id"], "partition": one["partition"], "rows": one["rows"],
         "option": asked.option, "estimates": estimate(spark, root, one, asked, arguments.column)}
        for one in manifests
    ]  # fmt: skip
    print(json.dumps(answer) if arguments.json else estimates_text(answer))
    return 0


def _spark(arguments: argparse.Namespace, app: str, key_reference: str | None = None) -> Any:
    from noiselib.spark.session import open_session

    handler = signal.getsignal(signal.SIGINT)
    session = open_session(app, arguments.master, arguments.spark_conf, key_reference)
    signal.signal(signal.SIGINT, handler)  # Spark sets one of its own
    return session


# ---- without Spark ---------------------------------------------------------------------------------------------------


def _plan(arguments: argparse.Namespace) -> int:
    from noiselib.report.plan_text import plan_data, plan_text

    data = plan_data(_spec_file(arguments.pipeline), _partitions(arguments.partition), arguments.accountant)
    print(json.dumps(data) if arguments.json else plan_text(data))
    return 0


def _calibrate(arguments: argparse.Namespace) -> int:
    from noiselib.report.calibration import calibrate

    given = arguments
    asked = (given.mechanism, given.epsilon, given.delta, given.sensitivity, given.granularity, given.categories)
    answer = calibrate(*asked, given.accountant)
    print(json.dumps(answer) if arguments.json else "\n".join(f"{name:12} {value}" for name, value in answer.items()))
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    """Attacks on a mechanism, or on a pipeline through the whole path; 1 if one exceeds what is claimed."""
    from noiselib.report import audits

    of = arguments.of
    if of in audits.NAMES:
        named = {name: getattr(arguments, name) for name in audits.PARAMETERS}
        findings = audits.audit(audits.Asked(of, **named), arguments.draws, arguments.confidence)
    else:
        audits.check_confidence(arguments.confidence)
        began, file = time.monotonic(), _spec_file(of)
        from noiselib.spark.audit import audit_pipeline

        spark = lambda: _spark(arguments, "audit")  # noqa: E731
        findings = audit_pipeline(file, spark, arguments.rows, _progress(began), arguments.confidence)
    answer = audits.audit_data(of, findings)
    print(json.dumps(answer) if arguments.json else audits.audit_text(of, findings))
    return 0 if answer["success"] else 1


def _ledger(arguments: argparse.Namespace) -> int:
    from noiselib.ledger import Ledger
    from noiselib.report import ledger_text

    url = _ledger_url(arguments.ledger)
    if arguments.action == "init":
        with Ledger.create(url) as ledger:
            print(f"ledger {url}: {'created' if ledger.created else 'is there already, unchanged'}")
        return 0
    if arguments.action == "migrate":
        before, after = Ledger.migrate(url)
        print(f"ledger {url}: {'is of' if before == after else f'migrated from version {before} to'} version {after}")
        return 0
    with Ledger.open(url) as ledger:
        if arguments.action == "abandon":
            _abandon(ledger, arguments)
            return 0
        if arguments.action == "verify":
            verified = ledger_text.verified(ledger, arguments.head)
            print(json.dumps(verified) if arguments.json else ledger_text.verified_text(verified))
            return 0 if verified["success"] else 1
        data = ledger_text.show(ledger) if arguments.action == "show" else ledger_text.history(ledger, arguments.budget)
        print(json.dumps(data) if arguments.json else ledger_text.table(data))
    return 0


def _abandon(ledger: Ledger, arguments: argparse.Namespace) -> None:
    """Give up a release that no reader could have seen: its noised rows are removed first, then its charge is given back."""
    from noiselib.ledger import Holder
    from noiselib.publish import Target
    from noiselib.spec import load_spec

    if not arguments.release or "://" in arguments.ledger:
        raise SpecError(
            "ledger abandon: expected the pipeline and --release ID: noiselib ledger abandon PIPELINE --release ID"
        )
    spec, _ = load_spec(_spec_file(arguments.ledger))
    release_id = _one_release(ledger, arguments.release)
    target = Target(spec.target.path, len(spec.source.partition_by))
    if target.manifest(release_id) is not None:
        raise LedgerError(f"release {release_id[:12]} is published: its charge is never given back")
    holder = Holder.current()
    ledger.hold(release_id, holder)  # from here on nobody stages it anew
    target.forget(release_id)
    ledger.abandon(release_id, holder=holder)


def _one_release(ledger: Any, prefix: str) -> str:
    found = ledger.find(prefix)
    if len(found) != 1:
        raise LedgerError(f"release {prefix}: {len(found)} in the ledger begin so; expected one")
    return str(found[0].release_id)


def _schema(arguments: argparse.Namespace) -> int:
    from noiselib.spec import PipelineSpec

    print(json.dumps(PipelineSpec.model_json_schema(), indent=2))
    return 0


def _keygen(arguments: argparse.Namespace) -> int:
    print(f"{arguments.file}: key {create_key_file(arguments.file).id}")
    return 0


def _gc(arguments: argparse.Namespace) -> int:
    from noiselib.ledger import Ledger
    from noiselib.publish import Target
    from noiselib.spec import load_spec

    spec, _ = load_spec(_spec_file(arguments.pipeline))
    if spec.ledger is not None:
        with Ledger.open(spec.ledger) as ledger:
            for release in ledger.releases(spec.pipeline):
                if release.holder is not None and not release.holder.dead():
                    raise ReleaseHeld(
                        f"release {release.release_id[:12]} of {spec.pipeline} is being made by process {release.holder.pid} on "
                        f"{release.holder.host}: nothing is removed while it runs"
                    )
    target = Target(spec.target.path, len(spec.source.partition_by))
    with target.held() if spec.ledger is None else nullcontext():
        for removed in target.collect():
            print(removed)
    return 0


# ---- arguments -------------------------------------------------------------------------------------------------------


def _spec_file(pipeline: str) -> Path:
    """The spec named by a path, or by the name of a file in conf/pipelines."""
    if pipeline.endswith((".yaml", ".yml")):
        return Path(pipeline)
    file = PIPELINES / f"{pipeline}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in PIPELINES.glob("*.yaml"))) or "none here"
        raise SpecError(f"pipeline {pipeline!r}: expected a spec's path, or a name in {PIPELINES}: {known}")
    return file


def _pipeline_or_release(text: str) -> tuple[Path, str | None]:
    """A pipeline's spec, or the spec of the pipeline that published a release whose id begins with `text`."""
    from noiselib.publish import Target
    from noiselib.spec import load_spec

    if len(text) < 8 or any(letter not in "0123456789abcdef" for letter in text):
        return _spec_file(text), None
    for file in sorted(PIPELINES.glob("*.yaml")):
        spec, _ = load_spec(file)
        published = Target(spec.target.path, len(spec.source.partition_by)).manifests()
        if any(manifest["release_id"].startswith(text) for manifest in published):
            return file, text
    raise SpecError(f"release {text}: no pipeline in {PIPELINES} has published it")


def _published(text: str) -> tuple[Path, list[dict[str, Any]]]:
    """Where a published table lies and the manifests of its releases: by the table's path, a pipeline, or a release's id."""
    from noiselib.publish import Target
    from noiselib.spec import load_spec

    chosen: str | None = None
    if Path(text).is_dir():
        path = text
    else:
        file, chosen = _pipeline_or_release(text)
        path = load_spec(file)[0].target.path
    manifests = Target(path, 0).manifests()
    named = [one for one in manifests if chosen is None or one["release_id"].startswith(chosen)]
    if not named:
        raise SpecError(f"{text}: nothing is published at {path}; expected a table with the manifests of its releases")
    return Path(path), sorted(named, key=lambda one: str(one["partition"]))


def _ledger_url(text: str) -> str:
    """A ledger's URL, or that of a pipeline."""
    from noiselib.spec import load_spec

    if "://" in text:
        return text
    spec, _ = load_spec(_spec_file(text))
    if spec.ledger is None:
        raise SpecError(f"pipeline {text}: has no ledger (purpose {spec.purpose})")
    return spec.ledger


def _partitions(texts: Sequence[str]) -> list[dict[str, str]]:
    """`K=V` or `K=V/K2=V2`, each naming partitions by some of their columns; values may be escaped as in directory names."""
    chosen = []
    for text in texts:
        parts = [part.partition("=") for part in text.split("/")]
        if any(not name or not separator for name, separator, _ in parts):
            raise SpecError(f"--partition {text!r}: expected COLUMN=VALUE, or COLUMN=VALUE/COLUMN=VALUE")
        chosen.append({name: unquote(value) for name, _, value in parts})
    return chosen


def _parser() -> argparse.ArgumentParser:
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
        _add_selection(step)
        _add_spark(step)
        if name == "verify":
            step.add_argument(
                "--key",
                metavar="REF",
                help="the key of releases made before the spec's was replaced: file:PATH or env:NAME",
            )
            step.set_defaults(command=_verify)
        else:
            step.add_argument(
                "--results", type=Path, default=Path("run_results.json"), help="where run results are written"
            )
            step.add_argument(
                "--take-over",
                action="store_true",
                help="take the releases from a run that still holds them; it can write nothing to the ledger afterwards",
            )
            step.set_defaults(command=_walk, step=name)
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
    estimate.set_defaults(command=_estimate)
    plan = commands.add_parser("plan", help="what a run would do and cost; reads no rows, spends nothing")
    _add_selection(plan)
    _add_accountant(plan)
    plan.set_defaults(command=_plan)
    _add_tools(commands)
    return parser


def _add_spark(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--master", help="Spark master, where not run by spark-submit (default: local[*])")
    parser.add_argument("--spark-conf", type=Path, help="Spark settings, in the form of spark-defaults.conf")


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--directory", type=Path, default=Path(), metavar="DIR", help="work in this directory, as make -C"
    )
    parser.add_argument("--json", action="store_true", help="the answer as JSON on stdout")


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pipeline", metavar="PIPELINE", help="a spec's path, or its name in conf/pipelines")
    parser.add_argument(
        "--partition", action="append", default=[], metavar="K=V", help="only this partition; may be repeated"
    )
    _add_directory(parser)


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
    calibrate.set_defaults(command=_calibrate)
    _add_audit(commands)
    ledger = commands.add_parser("ledger", help="the account that pays")
    ledger.add_argument("action", choices=["init", "show", "history", "abandon", "verify", "migrate"])
    ledger.add_argument("ledger", metavar="LEDGER", help="a URL, or the pipeline whose ledger it is")
    ledger.add_argument("--budget")
    ledger.add_argument("--release", metavar="ID", help="the beginning of a release's id")
    ledger.add_argument("--head", metavar="HASH", help="verify: a head noted earlier, which must still be in the chain")
    ledger.add_argument("--json", action="store_true")
    ledger.set_defaults(command=_ledger)
    schema = commands.add_parser("schema", help="the JSON Schema of the spec, for editors")
    schema.set_defaults(command=_schema)
    keygen = commands.add_parser("keygen", help="write a new noise key, mode 0600")
    keygen.add_argument("file", type=Path)
    keygen.set_defaults(command=_keygen)
    gc = commands.add_parser("gc", help="remove staging and quarantine of a pipeline")
    gc.add_argument("pipeline")
    gc.set_defaults(command=_gc)


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
    audit.set_defaults(command=_audit)


def _write(path: Path, data: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(data, indent=2) + "\n", "utf-8")
    os.replace(temporary, path)


def _write_results(path: Path, outcome: dict[str, Any]) -> None:
    """Where they cannot be written, what the run itself came to is still told."""
    try:
        _write(path, outcome)
    except OSError as error:
        _log(f"run results {path}: not written ({error.strerror})")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
