"""Which pipelines are meant, and in which order they run: expressions and graph operators as dbt has them. Pure.

    tag:daily state:failed      a space is a union: either
    tag:daily,state:changed     a comma is an intersection: both
    +name  name+  1+name+2      with all that is upstream, downstream, or so many steps away at most

A pipeline depends on those whose target is its source. Values may hold wildcards (`*`, `?`, `[...]`).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from noiselib.errors import NoiselibError, SpecError, choice

METHODS = ("name", "path", "purpose", "state", "tag")
STATES = ("changed", "failed", "new")
Address = tuple[str, str]  # of a table: see address.py


@dataclass(frozen=True)
class Pipeline:
    """A pipeline as its spec has it. One whose spec cannot be used has a `problem`, and nothing but a name and a file."""

    name: str
    file: Path
    tags: tuple[str, ...] = ()
    purpose: str = ""
    source: Address | None = None
    targets: tuple[Address, ...] = ()  # of one table: its path or name, and its name in Spark's catalog if it has one
    problem: str | None = None


Graph = Mapping[str, tuple[str, ...]]  # name -> the names of those that it depends on


@dataclass(frozen=True)
class Project:
    """All pipelines that there are, under names of their own. `has_state` looks at tables and ledgers: it is asked last."""

    pipelines: tuple[Pipeline, ...]
    has_state: Callable[[str, Pipeline], bool]

    @cached_property
    def graph(self) -> Graph:
        """Who depends on whom: on every pipeline that publishes the table which it reads."""
        makers: defaultdict[Address, list[str]] = defaultdict(list)
        for one in self.pipelines:
            for made in one.targets:
                makers[made].append(one.name)
        return {one.name: tuple(makers[one.source] if one.source else ()) for one in self.pipelines}


@dataclass(frozen=True)
class Term:
    """One part of an expression. `up` and `down`: how many steps of the graph are taken with it; None for all of them."""

    text: str
    method: str
    value: str
    up: int | None = 0
    down: int | None = 0


# ---- reading expressions ---------------------------------------------------------------------------------------------

_TERM = re.compile(r"((?P<up>\d*)\+)?((?P<method>[A-Za-z_]+):)?(?P<value>[^+:]+)(?P<plus>\+(?P<down>\d*))?")


def parse(expressions: Iterable[str]) -> list[list[Term]]:
    """The union of what the expressions mean, each an intersection of terms. Raises SpecError."""
    return [
        [_term(text, union) for text in union.split(",")]
        for expression in expressions
        for union in expression.split() or [expression]
    ]


def _term(text: str, within: str) -> Term:
    found = _TERM.fullmatch(text)
    if found is None:
        raise SpecError(
            f"selection {within!r}: {text!r}: expected NAME or METHOD:VALUE, with +, N+ before or +, +N after it"
        )
    method, value = found["method"] or ("path" if _is_path(found["value"]) else "name"), found["value"]
    if method not in METHODS:
        raise SpecError(f"selection {text!r}: method {method!r}: expected one of {', '.join(METHODS)}")
    if method == "state" and not any(fnmatchcase(state, value) for state in STATES):
        raise SpecError(f"selection {text!r}: state {value!r}: expected one of {', '.join(STATES)}")
    value = os.path.normpath(value) if method == "path" else value
    return Term(text, method, value, _steps(found["up"]), _steps(found["down"] if found["plus"] else None))


def _is_path(value: str) -> bool:
    return "/" in value or value.endswith((".yaml", ".yml"))


def _steps(text: str | None) -> int | None:
    """No operator: no step; one without a number: all of them."""
    return 0 if text is None else int(text) if text else None


# ---- choosing --------------------------------------------------------------------------------------------------------


def select(
    project: Project, wanted: Iterable[str], unwanted: Iterable[str] = (), named: Collection[str] = ()
) -> list[Pipeline]:
    """Those `named` and those that `wanted` means, or else all, without those that `unwanted` means, in order.

    Where a tag, purpose or state cannot be told, as of a spec that cannot be read or a source that is not there yet, the
    pipeline counts as meant by `wanted`, so that it is not passed over in silence, and not by `unwanted`. Raises SpecError
    for a name, tag, purpose or path that no pipeline has, and for a loop.
    """
    union, known = parse(wanted), {one.name: one for one in project.pipelines}
    chosen = {*named, *_union(project, union, True)} if union or named else set(known)
    chosen -= _union(project, parse(unwanted), False)
    return [known[name] for name in in_order(project.graph, chosen)]


def _union(project: Project, union: list[list[Term]], doubtful: bool) -> set[str]:
    found: set[str] = set()
    for terms in union:
        left = set(project.graph)
        for term in sorted(terms, key=lambda term: term.method == "state"):  # what takes time is asked of the fewest
            asked = left if term.up == term.down == 0 else set(project.graph)
            left &= _with_neighbours(term, project.graph, _matching(project, term, asked, doubtful))
        found |= left
    return found


def _matching(project: Project, term: Term, asked: set[str], doubtful: bool) -> set[str]:
    """Those of `asked` that the term means, its operators aside."""
    among = [one for one in project.pipelines if one.name in asked]
    unread = {one.name for one in among if one.problem and doubtful and term.method in ("tag", "purpose", "state")}
    if term.method == "state":
        return unread | {one.name for one in among if not one.problem and _has_state(project, term, one, doubtful)}
    known = {value for one in project.pipelines for value in _known(term, one)}
    meant = {value for value in known if fnmatchcase(value, term.value)}
    if not meant and not unread:
        raise SpecError(
            f"selection {term.text!r}: no pipeline has this {term.method}; known: {choice(sorted(known)) or 'none'}"
        )
    return unread | {one.name for one in among if meant & set(_known(term, one))}


def _has_state(project: Project, term: Term, one: Pipeline, doubtful: bool) -> bool:
    try:
        return any(project.has_state(state, one) for state in STATES if fnmatchcase(state, term.value))
    except NoiselibError:  # what is wrong, the pipeline's own run tells
        return doubtful


def _known(term: Term, one: Pipeline) -> tuple[str, ...]:
    """What a pipeline goes by."""
    known = {
        "name": (one.name, one.file.stem),
        "path": (os.path.normpath(one.file),),
        "purpose": (one.purpose,) if one.purpose else (),
        "tag": one.tags,
    }
    return known[term.method]


# ---- the graph -------------------------------------------------------------------------------------------------------


def upstream(graph: Graph, names: Collection[str], steps: int | None = None) -> set[str]:
    """What `names` depend on, in at most `steps` steps, without themselves unless they are in a loop."""
    found: set[str] = set()
    frontier = set(names)
    while frontier and steps != 0:
        frontier = {one for name in frontier for one in graph[name]} - found
        found |= frontier
        steps = None if steps is None else steps - 1
    return found


def in_order(graph: Graph, names: Collection[str]) -> list[str]:
    """`names`, each after all that it depends on. Raises SpecError for a loop, which it names."""
    concerned = {*names, *upstream(graph, names)}
    try:
        ordered = TopologicalSorter({name: graph[name] for name in sorted(concerned)}).static_order()
        return [name for name in ordered if name in names]
    except CycleError as error:
        raise SpecError(
            f"pipelines depend on each other in a loop: {' -> '.join(error.args[1])}; expected a source that none of them makes"
        ) from None


def _with_neighbours(term: Term, graph: Graph, names: set[str]) -> set[str]:
    turned: defaultdict[str, list[str]] = defaultdict(list)
    for name, sources in graph.items():
        for source in sources:
            turned[source].append(name)
    downward = {name: tuple(turned[name]) for name in graph}
    return names | upstream(graph, names, term.up) | upstream(downward, names, term.down)
