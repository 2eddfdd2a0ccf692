"""The spec's optional `schedule`: when an orchestrator runs the pipeline, and for which partition. No part of a release.

noiselib itself acts on none of it: the DAGs in airflow_dags/ read it from the same file, as plain YAML.
"""

from __future__ import annotations

import re
from calendar import monthrange
from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from noiselib.column_spec import Model

PRESETS = ("@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
FIELDS = (  # of a cron line: name, least, greatest, names
    ("minute", 0, 59, ""),
    ("hour", 0, 23, ""),
    ("day", 1, 31, ""),
    ("month", 1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"),
    ("day of the week", 0, 7, "sun mon tue wed thu fri sat"),
)
ITEM = re.compile(r"(\*|(?P<first>[0-9a-z]+)(-(?P<last>[0-9a-z]+))?)(/(?P<step>[1-9][0-9]*))?")
YEARS = range(1970, 2100)  # of a start: no calendar or clock that reckons from there comes to its end


def _when(every: str) -> str:
    """`source`, a preset, or a cron line of five fields."""
    if every == "source" or every in PRESETS:
        return every
    parts = every.lower().split()
    if len(parts) != len(FIELDS):
        raise ValueError(f"expected source, one of {', '.join(PRESETS)}, or a cron line of {len(FIELDS)} fields")
    for part, (name, least, greatest, names) in zip(parts, FIELDS, strict=True):
        known = {form for n in range(least, greatest + 1) for form in (f"{n}", f"{n:02}")} | set(names.split()) | {None}
        items = [ITEM.fullmatch(item) for item in part.split(",")]
        if not all(item and {item["first"], item["last"]} <= known for item in items):
            raise ValueError(
                f"cron line's {name} {part!r}: expected numbers from {least} to {greatest}, as in 1-5,7 or */2"
            )
    _, _, day, month, weekday = parts
    # where the day of the week is restricted too, a date that fits either will do
    if "*" in weekday.split(",") and not _has_day(_numbers(month, "month"), _numbers(day, "day")):
        raise ValueError(f"cron line's day {day!r} is in no month of {month!r}: expected a line that some date fits")
    return every


def _has_day(months: set[int], days: set[int]) -> bool:
    return any(min(days) <= monthrange(2012, month)[1] for month in months)  # of a leap year


def _numbers(part: str, field: str) -> set[int]:
    """Those that a field, already found right, stands for."""
    _, least, greatest, names = next(known for known in FIELDS if known[0] == field)

    def number(word: str) -> int:
        return int(word) if word.isdigit() else least + names.split().index(word)

    numbers: set[int] = set()
    for item in filter(None, map(ITEM.fullmatch, part.split(","))):
        first, step = number(item["first"] or str(least)), int(item["step"] or 1)
        if item["last"]:
            last = number(item["last"])
            rises = first < last
            numbers |= set(range(first, last + 1, step)) if rises else _round(first, last, step, least, greatest)
        else:
            alone = item["first"] and not item["step"]
            numbers |= {first} if alone else set(range(first, greatest + 1, step))
    return numbers


def _round(first: int, last: int, step: int, least: int, greatest: int) -> set[int]:
    """What a range that does not rise stands for to croniter, by which Airflow schedules: readers of cron lines differ here.

    From a number to itself it is all there are; else it goes on at the beginning, and a step across the end is one longer.
    """
    if first == last:
        return set(range(least, greatest + 1, step))
    upwards = range(first, greatest + 1, step)
    passed = greatest - upwards[-1]  # by the last step, at the end
    skipped = 0 if passed == step - 1 else step - passed
    return {*upwards, *range(least + skipped, last + 1, step)}


def _day(text: str) -> str:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        raise ValueError("expected a date, as in 2013-01-31") from None
    if day.year not in YEARS:
        raise ValueError(f"expected a date of the years {YEARS[0]} to {YEARS[-1]}")
    return text


def _template(text: str) -> str:
    shown = datetime(2013, 1, 31, 23, 59).strftime(text)
    if not shown or set(shown) & set("%/="):
        raise ValueError("expected a pattern of strftime for the run's date, as in %Y-%m-%d, without '/' and '='")
    return text


Day = Annotated[str, AfterValidator(_day)]


class Notify(Model):
    """Who is told how a run ended: a POST of JSON to `url`, or to the address that an Airflow connection holds."""

    url: Annotated[str, Field(pattern=r"^(https?://|airflow:).+")]
    when: Annotated[list[Literal["success", "failure", "over_budget"]], Field(min_length=1)] = Field(
        default=["failure", "over_budget"]
    )


class Schedule(Model):
    """`every`: `source` (when the source's asset changed), a preset or a cron line; without it, runs are started by hand.

    A run makes all partitions, or the one that `partition` (column -> pattern of strftime) names for the start of the
    interval that has just ended; in a run by hand, of the one that its date lies in.
    """

    every: Annotated[str, AfterValidator(_when)] | None = None
    start: Day | None = None
    catchup: bool = False
    retries: Annotated[int, Field(ge=0, le=100)] | None = None
    retry_delay: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,3}[smhd]$")] | None = None
    pool: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,200}$")] | None = None
    partition: dict[str, Annotated[str, AfterValidator(_template)]] = Field(default_factory=dict)
    notify: Notify | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Schedule:
        timed = self.every not in (None, "source")
        if timed and self.start is None:
            raise ValueError(f"every {self.every}: expected start, the first interval's day")
        if not timed and (self.start or self.catchup):
            raise ValueError(f"every {self.every}: start and catchup are for a preset or a cron line")
        if self.every == "source" and self.partition:
            raise ValueError("every source: a run has no date of its own, so no partition follows from it")
        return self
