"""The pipelines that a command is about: those named, and those that --select and --exclude mean."""

from __future__ import annotations

import argparse
from functools import partial
from typing import TYPE_CHECKING

from noiselib.cli.names import PIPELINES, spec_file
from noiselib.cli.spark import locator
from noiselib.errors import SpecError

if TYPE_CHECKING:
    from noiselib.selection import Pipeline, Project


def one(arguments: argparse.Namespace) -> str | None:
    """The one pipeline, where one is named and nothing selected: its answer is its own, not a list of one."""
    if len(arguments.pipeline) == 1 and not arguments.select and not arguments.exclude:
        return str(arguments.pipeline[0])
    return None


def chosen(arguments: argparse.Namespace, everything: bool = False) -> tuple[list[Pipeline], Project]:
    """In the order in which they run, and the project that they are of. Where none is named: `everything`, or an error.

    All specs are read, also where pipelines are only named: what lies between two of them decides their order.
    """
    from noiselib.pipelines import has_state, read_pipelines
    from noiselib.selection import Project, select

    if not (arguments.pipeline or arguments.select or arguments.exclude or everything):
        raise SpecError("the following arguments are required: PIPELINE, or --select EXPR (`--select '*'` means all)")
    files = [spec_file(name) for name in arguments.pipeline]
    state = partial(has_state, key=arguments.key, locate=locator(arguments))
    project = Project(read_pipelines([*files, *sorted(PIPELINES.glob("*.yaml"))]), state)
    paths = {file.resolve() for file in files}
    named = {pipeline.name for pipeline in project.pipelines if pipeline.file.resolve() in paths}
    return select(project, arguments.select, arguments.exclude, named), project
