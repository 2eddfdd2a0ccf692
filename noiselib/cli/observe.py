"""Lineage and metrics of a command, sent where --lineage and --metrics say.

A place that fails is warned of, within seconds, and changes nothing else: neither what is released nor the exit code.
"""

from __future__ import annotations

import argparse
import os
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from noiselib.cli.log import log
from noiselib.errors import LedgerError, SpecError, exit_code

if TYPE_CHECKING:
    from openlineage.client.event_v2 import RunEvent
    from prometheus_client import CollectorRegistry

    from noiselib.ledger import BudgetStatus
    from noiselib.report.lineage import Lineage
    from noiselib.spark.run import Run

PLACES = "file:PATH or http(s)://HOST[:PORT][/PATH]"
PIPELINE, COMMAND = "{pipeline}", "{command}"  # in a metrics file's path
PATIENCE = 5.0  # seconds that a place may take, each time; it is tried at a run's start (lineage) and end
TIMEOUT = 2.0  # of one request
RETRY = {"total": 0}  # each would be a warning of its own, and more of our time
SECRETIVE = re.compile("[@?#]")
OPENLINEAGE = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG")  # the client's own way to be configured


@dataclass(frozen=True)
class Place:
    """Where something is sent: a file, or a server's URL."""

    file: str = ""
    url: str = ""

    def __str__(self) -> str:
        return self.url or f"file:{self.file}"

    def path(self, pipeline: str, command: str) -> Path:
        return Path(self.file.replace(PIPELINE, pipeline).replace(COMMAND, command))


def asked_place(argument: str | None, name: str) -> Place | None:
    """By the command line's --`name`, else by the environment's NOISELIB_`NAME`. Raises SpecError for what is no place."""
    variable = f"NOISELIB_{name.upper()}"
    said, text = (f"--{name}", argument) if argument else (variable, os.environ.get(variable))
    if not text:
        return None
    if text.startswith("file:") and text != "file:":
        return Place(file=text.removeprefix("file:").removeprefix("//"))
    try:
        parts = urlsplit(text)
        plain = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        if plain and not SECRETIVE.search(text):
            return Place(url=text)
    except ValueError:  # of the port
        pass
    shown = "a URL with a user, a query or a fragment" if SECRETIVE.search(text) else repr(text)  # which may be secret
    raise SpecError(f"{said}: {shown}: expected {PLACES}")


@dataclass
class Observers:
    """Who is told of a command: of its beginning and of its end."""

    command: str
    lineage: Place | None = None
    metrics: Place | None = None
    events: Lineage | None = None
    unsent: Path = Path("lineage_unsent.jsonl")  # events that their place did not take

    @staticmethod
    def asked(arguments: argparse.Namespace) -> Observers:
        places = (asked_place(arguments.lineage, "lineage"), asked_place(arguments.metrics, "metrics"))
        return Observers(arguments.step, *places, unsent=Path(arguments.results).with_name("lineage_unsent.jsonl"))

    def demand_files_for(self, pipelines: int) -> None:
        """Raises SpecError where the metrics of one of several pipelines would replace another's."""
        if pipelines > 1 and self.metrics is not None and self.metrics.file and PIPELINE not in self.metrics.file:
            raise SpecError(
                f"metrics to {self.metrics}: one file for {pipelines} pipelines, each of which would replace what is in it; "
                f"expected {PIPELINE} in its path"
            )

    def started(self, run: Run) -> None:
        """The releases are known, and nothing is done yet."""
        if self.lineage is None and not _openlineage_configured():
            return
        from noiselib.report.lineage import Lineage  # a second to import: only where it is asked for

        self.events = Lineage(self.command, run.plan, run.table.schema, run.releases)
        self._send_lineage(self.events.started())

    def ended(self, run: Run | None, outcome: dict[str, Any], failure: BaseException | None) -> None:
        """Whatever the command came to, `outcome` says it. `run`: None where it failed before its releases were known."""
        if self.events is not None:
            self._send_lineage(self.events.ended(outcome))
        if self.metrics is not None:
            place = self.metrics
            _patiently("metrics", str(place), lambda: self._send_metrics(place, run, outcome, failure))

    def _send_lineage(self, events: list[RunEvent]) -> None:
        what = str(self.lineage) if self.lineage else "OpenLineage's own configuration"
        if not _patiently("lineage", what, lambda: _emit(self.lineage, events), PATIENCE + len(events) / 20):
            _patiently("unsent lineage", str(self.unsent), lambda: _emit(Place(file=str(self.unsent)), events))

    def _send_metrics(
        self, place: Place, run: Run | None, outcome: dict[str, Any], failure: BaseException | None
    ) -> None:
        from prometheus_client import write_to_textfile

        from noiselib.report import metrics

        pipeline = outcome["pipeline"]
        verdicts = [verdict for found in run.verdicts.values() for verdict in found] if run else []
        seconds, code = (run.seconds if run else {}), exit_code(failure)
        ended = metrics.Ended(pipeline, self.command, code, outcome, seconds, verdicts, _budget(run))
        if place.file:
            file = place.path(pipeline, self.command)
            write_to_textfile(str(file), metrics.registry(ended, metrics.last_success(file, pipeline, self.command)))
        else:
            _push(place, pipeline, self.command, metrics.registry(ended))


def _openlineage_configured() -> bool:
    return any(name in OPENLINEAGE or name.startswith("OPENLINEAGE__TRANSPORT") for name in os.environ)


def _emit(place: Place | None, events: list[RunEvent]) -> None:
    from openlineage.client.client import OpenLineageClient
    from openlineage.client.transport.file import FileConfig, FileTransport
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    if place is None:
        client = OpenLineageClient()
        for event in events:
            client.emit(event)
        client.close(PATIENCE)
        return
    # straight to the transport: the client would add what its own configuration and the working directory's git say
    sink: FileTransport | HttpTransport
    if place.file:
        sink = FileTransport(FileConfig(place.file, append=True))
    else:
        parts, key = urlsplit(place.url), os.environ.get("OPENLINEAGE_API_KEY")
        config = {"url": f"{parts.scheme}://{parts.netloc}", "timeout": TIMEOUT, "retry": RETRY}
        config |= {"endpoint": parts.path.strip("/")} if parts.path.strip("/") else {}
        config |= {"auth": {"type": "api_key", "apiKey": key}} if key else {}
        sink = HttpTransport(HttpConfig.from_dict(config))
    for event in events:
        sink.emit(event)
    sink.close()


def _push(place: Place, pipeline: str, command: str, registry: CollectorRegistry) -> None:
    """Added to what the gateway has: the time of the last success stays while runs fail."""
    from prometheus_client import pushadd_to_gateway

    group = {"pipeline": pipeline, "command": command}
    pushadd_to_gateway(place.url, "noiselib", registry, grouping_key=group, timeout=TIMEOUT)


def _budget(run: Run | None) -> BudgetStatus | None:
    """The account as it stands now; None where nothing is claimed, it was never used, or it cannot be read."""
    from noiselib.ledger import Ledger

    if run is None or run.budget is None or run.spec.ledger is None:
        return None
    try:
        with Ledger.open(run.spec.ledger, PATIENCE / 2) as ledger:
            return next(iter(ledger.show(run.budget.name)), None)
    except LedgerError:  # which the command has failed by, and must be told of
        return None


def _patiently(what: str, where: str, send: Callable[[], None], seconds: float = PATIENCE) -> bool:
    """Send from a thread of its own, which a place that hangs may keep: the command goes on without it. Whether it was sent."""
    failed: list[Exception] = []

    def attempt() -> None:
        try:
            send()
        except Exception as error:  # any: whatever is wrong there is no reason to fail here
            failed.append(error)

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(seconds)
    why = f"no answer in {seconds:g} s" if thread.is_alive() else ""
    if failed:
        text = str(failed[0])  # it may quote a URL of OpenLineage's own configuration
        why = type(failed[0]).__name__ + ("" if SECRETIVE.search(text) else f": {text}")
    if why:
        log(f"{what} to {where}: not sent ({why}); the releases are not affected", "warning")
    return not why
