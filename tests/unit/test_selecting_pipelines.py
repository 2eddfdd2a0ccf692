"""Which pipelines an expression means, and in which order they run. Pure: no spec is read, no table looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noiselib.errors import NoiselibError, SpecError
from noiselib.selection import Pipeline, Project, Term, in_order, parse, select, upstream


def pipeline(name: str, source: str, target: str, *tags: str, **more: Any) -> Pipeline:
    return Pipeline(
        name,
        Path(f"conf/pipelines/{name}.yaml"),
        tags,
        more.pop("purpose", "privacy"),
        ("file", source),
        (("file", target),),
        **more,
    )


# raw -> clean -> by_day, by_week -> report (which reads by_week); dither stands alone
PIPELINES = (
    pipeline("report", "/t/week", "/t/report", "weekly"),
    pipeline("clean", "/t/in", "/t/clean", "daily"),
    pipeline("by_week", "/t/clean", "/t/week", "weekly", "daily"),
    pipeline("by_day", "/t/clean", "/t/day", "daily"),
    pipeline("images", "/t/images", "/t/dithered", purpose="dither"),
)
STATES = {"new": {"report", "images"}, "changed": {"clean", "report", "images"}, "failed": set[str]()}
BROKEN = Pipeline("broken", Path("conf/pipelines/broken.yaml"), problem="broken.yaml:1: no spec")


def project(*more: Pipeline) -> Project:
    return Project((*PIPELINES, *more), lambda state, one: one.name in STATES[state])


def names(
    *wanted: str, exclude: tuple[str, ...] = (), named: tuple[str, ...] = (), of: Project | None = None
) -> list[str]:
    return [one.name for one in select(of or project(), wanted, exclude, named)]


# ---- expressions -----------------------------------------------------------------------------------------------------


def test_an_expression_is_a_union_of_intersections():
    assert parse(["tag:daily,state:changed +a", "b+2"]) == [
        [Term("tag:daily", "tag", "daily"), Term("state:changed", "state", "changed")],
        [Term("+a", "name", "a", up=None)],
        [Term("b+2", "name", "b", down=2)],
    ]
    assert parse(["1+tag:x+"]) == [[Term("1+tag:x+", "tag", "x", up=1, down=None)]]
    assert parse(["./conf/*.yaml", "a.yml"]) == [
        [Term("./conf/*.yaml", "path", "conf/*.yaml")],
        [Term("a.yml", "path", "a.yml")],
    ]


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("tag:hourly", "selection 'tag:hourly': no pipeline has this tag; known: daily, weekly"),
        ("purpose:art", "no pipeline has this purpose; known: dither, privacy"),
        ("orders", "no pipeline has this name; known: by_day, by_week, clean, images, report"),
        ("path:other/*", "no pipeline has this path; known: conf/pipelines/by_day.yaml, "),
        ("owner:me", "method 'owner': expected one of name, path, purpose, state, tag"),
        ("state:modified", "state 'modified': expected one of changed, failed, new"),
        ("clean,", "'': expected NAME or METHOD:VALUE"),
        ("", "expected NAME or METHOD:VALUE"),
        ("+", "expected NAME or METHOD:VALUE"),
        ("a+b", "expected NAME or METHOD:VALUE"),
        ("tag:", "expected NAME or METHOD:VALUE"),
        ("clean,tag:hourly", "no pipeline has this tag"),
    ],
)
def test_what_is_not_known_is_told_with_what_is(expression, what):
    for wanted, unwanted in (([expression], []), (["*"], [expression])):
        with pytest.raises(SpecError) as error:
            select(project(), wanted, unwanted)
        assert what in str(error.value)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([], "clean images by_day by_week report"),
        (["*"], "clean images by_day by_week report"),
        (["by_*"], "by_day by_week"),
        (["tag:daily"], "clean by_day by_week"),
        (["tag:daily,tag:weekly"], "by_week"),
        (["tag:daily tag:weekly"], "clean by_day by_week report"),
        (["tag:daily", "tag:weekly"], "clean by_day by_week report"),
        (["purpose:dither"], "images"),
        (["path:conf/pipelines/by_*"], "by_day by_week"),
        (["conf/pipelines/report.yaml"], "report"),
        (["state:changed"], "clean images report"),
        (["tag:daily,state:changed"], "clean"),
        (["tag:daily,state:new"], ""),
        (["state:failed"], ""),
        (["+report"], "clean by_week report"),
        (["1+report"], "by_week report"),
        (["0+report"], "report"),
        (["clean+"], "clean by_day by_week report"),
        (["clean+1"], "clean by_day by_week"),
        (["1+by_week+1"], "clean by_week report"),
        (["+report,clean+"], "clean by_week report"),
        (["+by_day,+report"], "clean"),
        (["tag:weekly,state:changed+"], "by_week report"),
        (["state:changed+,tag:daily"], "clean by_day by_week"),
    ],
)
def test_an_expression_means(wanted, expected):
    assert names(*wanted) == expected.split()


def test_what_is_excluded_is_taken_from_the_rest():
    assert names(exclude=("tag:daily",)) == ["images", "report"]
    assert names("+report", exclude=("clean",)) == ["by_week", "report"]
    assert names("tag:daily", exclude=("state:changed+",)) == []
    assert names(named=("images",)) == ["images"]
    assert names("tag:weekly", named=("images",)) == ["images", "by_week", "report"]


def test_states_are_asked_of_as_few_as_can_be():
    asked: list[str] = []
    watched = Project(PIPELINES, lambda state, one: bool(asked.append(one.name)) or True)
    assert names("state:changed,tag:weekly", of=watched) == ["by_week", "report"]
    assert sorted(asked) == ["by_week", "report"]


def test_what_cannot_be_told_is_not_passed_over():
    known = project(BROKEN)
    for wanted in ("tag:daily", "state:new,purpose:privacy", "broken", "path:*broken*", "tag:misspelt"):
        assert "broken" in names(wanted, of=known)
    for wanted in ("clean", "by_*", "+report"):
        assert "broken" not in names(wanted, of=known)
    assert "broken" in names(exclude=("tag:daily", "state:*"), of=known)
    assert "broken" not in names(exclude=("broken",), of=known)

    def no_ledger(state: str, one: Pipeline) -> bool:
        raise NoiselibError("no ledger")

    untold = Project(PIPELINES, no_ledger)
    assert names("state:failed,tag:weekly", of=untold) == ["by_week", "report"]
    assert names("tag:weekly", exclude=("state:failed",), of=untold) == ["by_week", "report"]


# ---- the graph -------------------------------------------------------------------------------------------------------


def test_who_reads_what_another_publishes_depends_on_it():
    assert project().graph == {
        "report": ("by_week",), "clean": (), "by_week": ("clean",), "by_day": ("clean",), "images": ()
    }  # fmt: skip
    assert upstream(project().graph, ["report"]) == {"by_week", "clean"}
    assert upstream(project().graph, ["report"], 1) == {"by_week"}


def test_order_goes_by_what_lies_between_as_well():
    assert in_order(project().graph, ["report", "clean"]) == ["clean", "report"]


def test_a_loop_is_named_unless_it_is_elsewhere():
    looped = Project(
        (
            *PIPELINES,
            pipeline("egg", "/t/hen", "/t/egg"),
            pipeline("hen", "/t/egg", "/t/hen"),
            pipeline("own", "/o", "/o"),
        ),
        lambda state, one: True,
    )
    with pytest.raises(SpecError, match=r"in a loop: (egg -> hen -> egg|hen -> egg -> hen)"):
        names("hen", of=looped)
    with pytest.raises(SpecError, match="in a loop: own -> own"):
        names("own", of=looped)
    assert names("clean+", of=looped) == ["clean", "by_day", "by_week", "report"]
