"""The spec's schedule: read or refused with its line, and no part of a release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from small_plan import PUBLIC, plan_of

from noiselib.errors import NoiseKeyError, SpecError
from noiselib.key import load_key
from noiselib.plan import canonical
from noiselib.spec import PipelineSpec, load_spec

FLIGHTS = Path(__file__).parents[2] / "conf" / "pipelines" / "flights_private.yaml"
DEMO = yaml.safe_load(FLIGHTS.read_text()) | {"key": "airflow:noise"}


def load(tmp_path: Path, schedule: str) -> PipelineSpec:
    """The demo's spec with this schedule, on line 1."""
    rest = {name: value for name, value in DEMO.items() if name != "schedule"}
    file = tmp_path / "spec.yaml"
    file.write_text(f"schedule: {schedule}\n{yaml.safe_dump(rest)}")
    return load_spec(file)[0]


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "{every: source, pool: one, retries: 0}",
        "{every: '@monthly', start: 2013-01-01, catchup: true, retries: 3, retry_delay: 5m, partition: {month: '%-m'}}",
        "{every: '*/15 6-18 1,15 jan-mar 1-5', start: '2013-01-01'}",
        "{every: '05 00 * * sun', start: 2013-01-01}",
        "{every: '0 0 29 2 *', start: 2013-01-01}",
        "{every: '0 0 30,31 2-4 *', start: 1970-01-01}",
        "{every: '0 0 31 feb mon', start: 2013-01-01}",  # on Mondays too
        "{every: '0 0 31 nov-feb *', start: 2099-12-31}",
        "{notify: {url: 'airflow:chat', when: [success, over_budget]}}",
    ],
)
def test_a_schedule_is_read(tmp_path, text):
    read = load(tmp_path, text).schedule
    assert read is not None
    for name, value in yaml.load(text, yaml.BaseLoader).items():
        assert str(getattr(read, name)).lower() == str(value).lower() or name == "notify"
    assert load(tmp_path, "null").schedule is None


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{often: true}", "schedule.often: unknown key"),
        ("{every: hourly, start: 2013-01-01}", "schedule.every is 'hourly': expected source, one of @hourly, @daily"),
        ("{every: '0 24 * * *', start: 2013-01-01}", "cron line's hour '24': expected numbers from 0 to 23, as in"),
        ("{every: '0 0 0 * *', start: 2013-01-01}", "cron line's day '0': expected numbers from 1 to 31"),
        ("{every: '0 0 * 1-13 *', start: 2013-01-01}", "cron line's month '1-13'"),
        ("{every: '*/0 * * * *', start: 2013-01-01}", "cron line's minute '*/0'"),
        ("{every: '* * * * 1-', start: 2013-01-01}", "cron line's day of the week '1-'"),
        ("{every: '0 0 31 2 *', start: 2013-01-01}", "cron line's day '31' is in no month of '2': expected a"),
        ("{every: '0 0 30/1 feb *', start: 2013-01-01}", "cron line's day '30/1' is in no month of 'feb'"),
        ("{every: '0 0 31 4-6/2,sep *', start: 2013-01-01}", "cron line's day '31' is in no month of '4-6/2,sep'"),
        (
            "{every: '@daily', start: 9999-12-31}",
            "schedule.start is '9999-12-31': expected a date of the years 1970 to",
        ),
        ("{every: '@daily', start: 1969-12-31}", "schedule.start is '1969-12-31': expected a date of the years 1970"),
        ("{every: '@daily'}", "every @daily: expected start, the first interval's day"),
        ("{every: source, start: 2013-01-01}", "every source: start and catchup are for a preset or a cron line"),
        ("{every: source, partition: {month: '%m'}}", "every source: a run has no date of its own"),
        ("{every: '@daily', start: 2013-02-30}", "schedule.start is '2013-02-30': expected a date, as in 2013-01-31"),
        ("{retries: -1}", "schedule.retries is -1: input should be greater than or equal to 0"),
        ("{retry_delay: 5 minutes}", "schedule.retry_delay is '5 minutes'"),
        ("{partition: {month: '%Y/%m'}}", "schedule.partition.month is '%Y/%m': expected a pattern of strftime"),
        ("{partition: {month: '%!'}}", "schedule.partition.month is '%!'"),
        ("{partition: {year: '%Y'}}", "schedule.partition names year: expected partition columns: month"),
        ("{notify: {url: 'ftp://a.example'}}", "schedule.notify.url is 'ftp://a.example'"),
        ("{notify: {url: 'https://a.example', when: [never]}}", "schedule.notify.when.0 is 'never'"),
        ("{pool: 'two words'}", "schedule.pool is 'two words'"),
    ],
)
def test_a_wrong_schedule_is_told_with_its_line(tmp_path, text, what):
    with pytest.raises(SpecError) as raised:
        load(tmp_path, text)
    (line,) = str(raised.value).split("\n")
    assert line.startswith(f"{tmp_path}/spec.yaml:1: ")
    assert what in line


def test_a_schedule_is_no_part_of_a_release():
    columns: Any = {
        "day": ("int32", PUBLIC),
        "fare": ("double", {"mechanism": "laplace", "epsilon": 1.0, "bounds": [0, 9]}),
    }
    source = {"path": "in", "partition_by": ["day"]}
    schedule = {"every": "@daily", "start": "2013-01-01", "partition": {"day": "%-d"}}
    assert canonical(plan_of(columns, source=source, schedule=schedule)) == canonical(plan_of(columns, source=source))


def test_a_key_that_airflow_holds_is_asked_for_elsewhere():
    with pytest.raises(NoiseKeyError, match=r"key airflow:noise: .* expected --key file:PATH or --key env:NAME"):
        load_key("airflow:noise")
