"""Which pipelines there are, and what a DAG needs of their specs: name, schedule, tables, whose the key is.

The specs are in the project's conf/pipelines, or in the folder that NOISELIB_PIPELINES names. They are read as plain
YAML; noiselib, which its tasks run, judges the rest of them.
"""

import os
import re
import stat
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from airflow.sdk import Asset
from croniter import croniter

PROJECT = Path(__file__).resolve().parents[1]
PIPELINES = PROJECT / (os.environ.get("NOISELIB_PIPELINES") or "conf/pipelines")
NAME = "[a-z][a-z0-9_]{0,62}"  # as in the spec
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, where there is one: some times as fast
PARTS = ("pipeline", "source", "target", "key", "schedule")
# What noiselib/yaml_text.py refuses: here it would end or hold up the process that makes all DAGs.
MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_NUMBER = 400  # characters
MAX_SHOWN = 80  # characters of a value in an error
MAX_TOLD = 1000  # characters of an error
# These four as in noiselib/schedule.py: what it would refuse in the first task is refused here.
PRESETS = ("@hourly", "@daily", "@weekly", "@monthly", "@quarterly", "@yearly")
FIELDS = (  # of a cron line: least, greatest, names
    (0, 59, ""),
    (0, 23, ""),
    (1, 31, ""),
    (1, 12, "jan feb mar apr may jun jul aug sep oct nov dec"),
    (0, 7, "sun mon tue wed thu fri sat"),
)
WORDS = [  # by field
    {form for n in range(least, greatest + 1) for form in (f"{n}", f"{n:02}")} | set(names.split()) | {None}
    for least, greatest, names in FIELDS
]
ITEM = re.compile(r"(\*|(?P<first>[0-9a-z]+)(-(?P<last>[0-9a-z]+))?)(/[1-9][0-9]*)?")
YEARS = range(1970, 2100)
CRON = {"@quarterly": "0 0 1 */3 *"}  # Airflow's, and not croniter's
SECRETS = [  # of a catalog's URI, as in noiselib/address.py
    re.compile(part, re.DOTALL) for part in (r"(?<=://)[^:/]*(:[^@]*)?@", r"\?.*", r"(?<=://)[^/].*@")
]
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@dataclass(frozen=True)
class Schedule:
    """The spec's `schedule`. What is None is left to Airflow's settings."""

    every: str | None = None  # `source`, a preset or a cron line; None: started by hand
    start: datetime | None = None
    catchup: bool = False
    retries: int | None = None
    retry_delay: timedelta | None = None
    pool: str | None = None
    partition: dict[str, str] = field(default_factory=dict)
    notify: dict[str, Any] = field(default_factory=dict)


LONGEST_URI = 1500  # of an asset, in Airflow's database


@dataclass(frozen=True)
class Pipeline:
    name: str
    file: Path
    source: str | None  # URIs of the tables, by which assets are known
    target: str | None
    table: str | None  # the target under its name in Spark's catalog
    key_connection: str | None  # of a key that Airflow holds
    schedule: Schedule

    @property
    def pool(self) -> str:
        """One slot for whatever writes to a target. scripts/airflow_pools.py makes it."""
        place = self.schedule.pool or self.target or self.name
        return re.sub("[^A-Za-z0-9_.-]+", "_", place.removeprefix(PROJECT.as_uri() + "/"))[-200:]


def read_pipelines(directory: Path) -> tuple[dict[str, Pipeline], list[str]]:
    """Each pipeline by its name, and a complaint about every file that no DAG can be made of.

    Two files of one name are both broken: either would publish, and be charged, in the other's name.
    """
    if not directory.is_dir():
        return {}, [f"{directory}: no such folder; expected the pipelines' specs"]
    named: dict[str, list[Pipeline]] = defaultdict(list)
    broken = []
    for file in sorted(directory.glob("*.yaml")):
        try:
            pipeline = read_pipeline(file)
            named[pipeline.name].append(pipeline)
        except Exception as error:  # of any kind: an error that came out would take all other DAGs down
            broken.append(f"{file}: {str(error)[:MAX_TOLD]}")
    for name, same in named.items():
        if len(same) > 1:
            files = ", ".join(str(pipeline.file) for pipeline in same)
            broken.append(f"{files}: pipeline {name} in each; expected it in one")
    return {name: same[0] for name, same in named.items() if len(same) == 1}, broken


def read_pipeline(file: Path) -> Pipeline:
    spec = read_parts(file)
    name = spec.get("pipeline")
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise ValueError(f"pipeline is {shown(name)}; expected a name like {NAME}")
    given = spec.get("schedule")
    schedule = read_schedule({} if given is None else given)
    source, target = (table_uri(spec.get(table)) for table in ("source", "target"))
    named = spec["target"].get("table") if isinstance(spec.get("target"), dict) else None
    table = table_uri({"path": named, "format": "table"})
    for uri in filter(None, (source, target, table)):
        Asset(uri=uri)  # raises ValueError for what cannot be one
    if schedule.every == "source" and source is None:
        raise ValueError("schedule.every is 'source'; expected a source with a path")
    scheme, _, connection = str(spec.get("key")).partition(":")
    return Pipeline(name, file, source, target, table, connection if scheme == "airflow" else None, schedule)


def read_parts(file: Path) -> dict[str, Any]:
    """The parts of a spec that a DAG is made of. Its columns, most of it, are not made into objects: that takes long."""
    if not stat.S_ISREG(file.stat().st_mode):
        raise ValueError("is no regular file; expected a spec")  # another may never come to its end
    with file.open("rb") as content:
        raw = content.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise ValueError(f"larger than {MAX_BYTES} bytes; expected a spec")
    must_be_plain(raw)
    loader = LOADER(raw)
    try:
        root = loader.get_single_node()
        parts = root.value if isinstance(root, yaml.MappingNode) else []
        return {key.value: loader.construct_object(value, deep=True) for key, value in parts if key.value in PARTS}
    finally:
        loader.dispose()


def must_be_plain(raw: bytes) -> None:
    """Raises ValueError for what may not be made into objects: libyaml dies of deep nesting, aliases unfold a small file into
    a huge one, and a number of base 60 takes minutes to read.
    """
    depth = 0
    for event in yaml.parse(raw, LOADER):
        what = ""
        if isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        elif getattr(event, "anchor", None):
            what = "anchors and aliases are not allowed"
        elif isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            what = f"nested too deeply; expected at most {MAX_DEPTH} levels" if depth > MAX_DEPTH else ""
        elif isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_NUMBER:
            is_number = event.implicit[0] and event.value[0] in "+-0123456789"
            what = f"a number of more than {MAX_NUMBER} characters" if is_number else ""
        if what:
            raise ValueError(f"line {event.start_mark.line + 1}: {what}")


def shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def table_uri(table: Any) -> str | None:
    """A table's URI: that of its path; `noiselib://table/` and its name for one in Spark's catalog, after its own catalog's
    for one of Iceberg.
    """
    path = table.get("path") if isinstance(table, dict) else None
    if not isinstance(path, str):
        return None
    if table.get("format") == "table":
        return f"noiselib://table/{path.removeprefix('spark_catalog.')}"
    if table.get("format") == "iceberg":
        return f"noiselib://table/{catalog_label(table.get('catalog'))}/{path}"
    uri = path if "://" in path else (PROJECT / path).as_uri()
    if len(uri) > LONGEST_URI:
        raise ValueError(f"path {path[:40]!r}...: makes a URI of {len(uri)} letters; expected at most {LONGEST_URI}")
    return uri


def catalog_label(catalog: Any) -> str:
    """Tells catalogs of Iceberg apart, in one part of a URI and without what may be secret, as noiselib/address.py does."""
    if not isinstance(catalog, dict):
        return str(catalog or "default")
    uri, name = str(catalog.get("uri")), catalog.get("name", "default")
    for secret in SECRETS:
        uri = secret.sub("", uri)
    return quote(uri if name == "default" else f"{uri}#{name}", safe="")


def read_schedule(given: Any) -> Schedule:
    """Raises ValueError for what no DAG can be made of, naming it."""
    if not isinstance(given, dict):
        # neither it nor notify is shown: an address of notices may be a secret, and whoever sees the DAGs sees this
        raise ValueError(f"schedule is of type {type(given).__name__}; expected a mapping")
    read = {
        "every": (_when, "source, a preset such as @monthly, or a cron line"),
        "start": (_day, f"a date like 2013-01-31, of the years {YEARS[0]} to {YEARS[-1]}"),
        "catchup": (_a(bool), "true or false"),
        "retries": (_retries, "a whole number from 0 to 100"),
        "retry_delay": (_duration, "a duration like 30s, 5m, 2h or 1d"),
        "pool": (_pool, "a pool's name, of letters, digits, '_', '.' and '-'"),
        "partition": (_templates, "patterns of strftime by partition column, as in month: '%-m', without '/' and '='"),
        "notify": (_notify, "url (http... or airflow:...), and when: a list of success, failure, over_budget"),
    }
    values = {}
    for name, value in given.items():
        if name not in read:
            raise ValueError(f"schedule.{str(name)[:MAX_SHOWN]}: unknown key; expected one of {', '.join(read)}")
        if value is None:
            continue
        made = read[name][0](value)
        if made is None:
            what = "is not as it should be" if name == "notify" else f"is {shown(value)}"
            raise ValueError(f"schedule.{name} {what}; expected {read[name][1]}")
        values[name] = made
    schedule = Schedule(**values)
    must_fit_together(schedule)
    return schedule


def must_fit_together(schedule: Schedule) -> None:
    every, start = schedule.every, schedule.start
    if every in (None, "source"):
        if start or schedule.catchup:
            raise ValueError(f"schedule.every is {every!r}; expected a preset or a cron line for start and catchup")
        if every and schedule.partition:
            raise ValueError("schedule.every is 'source'; expected no partition: a run has no date of its own")
    elif start is None:
        raise ValueError(f"schedule.every is {every!r}; expected start, the first interval's day")
    else:
        must_have_dates(every, start)


@cache  # many pipelines have the same
def must_have_dates(every: str, start: datetime) -> None:
    """Else Airflow, asking for the first run's date, would register none of the DAGs, and show no import error."""
    try:
        line = croniter(every, start)
        line.get_next()
        line.get_prev()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"schedule.every is {every!r}; expected a line that some date fits: {error}") from None


# Each gives None for a value that is not what was expected.


def _a(kind: type) -> Any:
    return lambda value: value if type(value) is kind else None


def _when(value: Any) -> str | None:
    if value == "source":
        return value
    if value in PRESETS:
        return CRON.get(value, value)
    parts = value.lower().split() if isinstance(value, str) else []
    if len(parts) != len(FIELDS):
        return None
    for part, words in zip(parts, WORDS, strict=True):
        items = [ITEM.fullmatch(item) for item in part.split(",")]
        if not all(item and {item["first"], item["last"]} <= words for item in items):
            return None
    return value


def _day(value: Any) -> datetime | None:
    """YAML reads a date as such, unless it stands in quotes."""
    try:
        day = date.fromisoformat(value) if isinstance(value, str) else value
    except ValueError:
        return None
    return datetime(day.year, day.month, day.day, tzinfo=UTC) if type(day) is date and day.year in YEARS else None


def _retries(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= 100 else None


def _duration(value: Any) -> timedelta | None:
    match = re.fullmatch("([1-9][0-9]{0,3})([smhd])", str(value))
    return timedelta(seconds=int(match[1]) * SECONDS[match[2]]) if match else None


def _pool(value: Any) -> str | None:
    return value if isinstance(value, str) and re.fullmatch("[A-Za-z0-9_.-]{1,200}", value) else None


def _templates(value: Any) -> dict[str, str] | None:
    if not isinstance(value, dict) or not all(isinstance(text, str) for item in value.items() for text in item):
        return None
    shown = [datetime(2013, 1, 31, 23, 59).strftime(text) for text in value.values()]
    return value if all(text and not set(text) & set("%/=") for text in shown) else None


def _notify(value: Any) -> dict[str, Any] | None:
    known = {"success", "failure", "over_budget"}
    if not isinstance(value, dict) or not isinstance(value.get("url"), str) or not set(value) <= {"url", "when"}:
        return None
    when = value.get("when", ["failure", "over_budget"])
    if not re.match("(https?://|airflow:).", value["url"]):
        return None
    fits = isinstance(when, list) and when and all(isinstance(event, str) and event in known for event in when)
    return {"url": value["url"], "when": when} if fits else None
