"""The log: lines on stderr, for people or (`--log json`) as one JSON object each. All that noiselib and libraries log goes here."""

from __future__ import annotations

import logging
import os
import sys
import time
import warnings
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, WrappedLogger

from noiselib.errors import SpecError
from noiselib.log_entry import LogEntry, Say

FORMS = ("console", "json")
VARIABLE = "NOISELIB_LOG"
_SUBJECT: dict[str, Any] = {}  # of all threads: what Java prints is read by one of its own
FIRST = ("time", "level", "pipeline", "step", "release", "partition", "event")  # of a JSON line, where it has them


def asked_form(argument: str | None) -> str:
    """The form by the command line, else by the environment. Raises SpecError for another than those there are."""
    form = argument or os.environ.get(VARIABLE) or FORMS[0]
    if form not in FORMS:
        raise SpecError(f"{VARIABLE}={form}: expected one of {', '.join(FORMS)}")
    return form


def set_up(form: str) -> None:
    """Send structlog's lines, the standard library's and its warnings to stderr in this form."""
    _SUBJECT.clear()
    told: list[Any] = [
        _about_subject,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    shown = [_ordered, structlog.processors.JSONRenderer(default=str)] if form == "json" else [_line]
    structlog.configure(
        processors=[*told, structlog.processors.format_exc_info, *shown],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if form == "json" else logging.INFO),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
        cache_logger_on_first_use=False,
    )
    _take_over_logging([*told, structlog.stdlib.add_logger_name, structlog.processors.format_exc_info], shown)
    if sys.warnoptions:  # asked for, by -W or PYTHONWARNINGS
        logging.captureWarnings(True)
    else:
        warnings.simplefilter("ignore")  # of libraries, to those who wrote them: nothing that a user can mend


def _take_over_logging(told: list[Any], shown: list[Any]) -> None:
    """Libraries' own records are shown as ours are, once, whichever form an earlier command of this process had."""
    root, handler = logging.getLogger(), _Stderr(logging.WARNING)  # some libraries set their own loggers lower
    strip = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[strip, *shown], foreign_pre_chain=told))
    for earlier in [each for each in root.handlers if isinstance(each, _Stderr)]:
        root.removeHandler(earlier)
    root.addHandler(handler)


class _Stderr(logging.StreamHandler[TextIO]):
    """To what sys.stderr is when a line is written: it may be replaced while the process lives."""

    def __init__(self, level: int) -> None:
        logging.Handler.__init__(self, level)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _line(_logger: WrappedLogger, _method: str, fields: EventDict) -> str:
    """For people: the seconds since the start, the step, the text. An error begins with its kind."""
    text = str(fields["event"])
    if "seconds" in fields:
        text = f"{fields['seconds']:6.1f}s  {fields['step']:<10}{text}"
    if "error" in fields:
        text = f"{fields['error']}: {text}"
    return f"{text}\n{fields['exception']}" if "exception" in fields else text


def _about_subject(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
    return {**_SUBJECT, **fields}


def _ordered(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
    return {name: fields[name] for name in FIRST if name in fields} | dict(fields)


def log(line: str, level: str = "info", **fields: Any) -> None:
    getattr(structlog.get_logger(), level)(line, **fields)


def about(**fields: Any) -> None:
    """All lines are about this from here on: the pipeline, the step; None: about none."""
    _SUBJECT.update(fields)
    for name in [name for name, value in _SUBJECT.items() if value is None]:
        del _SUBJECT[name]


def progress(began: float) -> Say:
    """A line per step, with the seconds since the start."""

    def say(entry: LogEntry) -> None:
        seconds = round(time.monotonic() - began, 3)
        log(entry.text, entry.level, **{**entry.fields, "step": entry.step, "seconds": seconds})

    return say


def spark_line(line: str) -> None:
    """What Java or one of its workers wrote to its stderr."""
    log(line, "error", logger="spark")
