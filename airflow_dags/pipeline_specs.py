"""Which pipelines there are. A DAG needs no more of a spec than the pipeline's name; its tasks read the rest.

The specs are in the project's conf/pipelines, or in the folder that NOISELIB_PIPELINES names.
"""

import os
import re
from collections import defaultdict
from pathlib import Path

import yaml

PROJECT = Path(__file__).resolve().parents[1]
PIPELINES = PROJECT / (os.environ.get("NOISELIB_PIPELINES") or "conf/pipelines")
NAME = "[a-z][a-z0-9_]{0,62}"  # as in the spec


def read_pipelines(directory: Path) -> tuple[dict[str, Path], list[str]]:
    """Each pipeline's spec by the pipeline's name, and a complaint about every file that no DAG can be made of.

    Two files of one name are both broken: either would publish, and be charged, in the other's name.
    """
    if not directory.is_dir():
        return {}, [f"{directory}: no such folder; expected the pipelines' specs"]
    named: dict[str, list[Path]] = defaultdict(list)
    broken = []
    for file in sorted(directory.glob("*.yaml")):
        try:
            named[pipeline_name(file)].append(file)
        except (OSError, ValueError, yaml.YAMLError) as error:
            broken.append(f"{file}: {error}")
    for name, files in named.items():
        if len(files) > 1:
            broken.append(f"{', '.join(map(str, files))}: pipeline {name} in each; expected it in one")
    return {name: files[0] for name, files in named.items() if len(files) == 1}, broken


def pipeline_name(file: Path) -> str:
    spec = yaml.safe_load(file.read_bytes())
    name = spec.get("pipeline") if isinstance(spec, dict) else None
    if not isinstance(name, str) or not re.fullmatch(NAME, name):
        raise ValueError(f"pipeline is {name!r}; expected a name like {NAME}")
    return name
