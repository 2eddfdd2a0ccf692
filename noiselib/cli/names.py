"""What the words on the command line stand for: specs, releases, published tables, ledgers, partitions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from noiselib.errors import SpecError

if TYPE_CHECKING:
    from noiselib.targets import Target

PIPELINES = Path("conf/pipelines")


def spec_file(pipeline: str) -> Path:
    """The spec named by a path, or by the name of a file in conf/pipelines."""
    if pipeline.endswith((".yaml", ".yml")):
        return Path(pipeline)
    file = PIPELINES / f"{pipeline}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in PIPELINES.glob("*.yaml"))) or "none here"
        raise SpecError(f"pipeline {pipeline!r}: expected a spec's path, or a name in {PIPELINES}: {known}")
    return file


def name_of(pipeline: str) -> str:
    """The name that its spec gives the pipeline, also where the rest of the spec is wrong; without one the file's."""
    from noiselib.spec import NAME
    from noiselib.yaml_text import read_yaml

    try:
        name = read_yaml(spec_file(pipeline))[0].get("pipeline")
    except SpecError:  # which the command itself tells of
        name = None
    return name if isinstance(name, str) and re.fullmatch(NAME, name) else Path(pipeline).stem


def pipeline_or_release(text: str) -> tuple[Path, str | None]:
    """A pipeline's spec, or the spec of the pipeline that published a release whose id begins with `text`."""
    from noiselib.spec import load_spec
    from noiselib.targets import open_target

    if len(text) < 8 or any(letter not in "0123456789abcdef" for letter in text):
        return spec_file(text), None
    for file in sorted(PIPELINES.glob("*.yaml")):
        spec, _ = load_spec(file)
        published = open_target(spec).manifests()
        if any(manifest["release_id"].startswith(text) for manifest in published):
            return file, text
    raise SpecError(f"release {text}: no pipeline in {PIPELINES} has published it")


def published(text: str) -> tuple[Target, list[dict[str, Any]]]:
    """A published table and the manifests of its releases: by the table's path, a pipeline, or a release's id."""
    from noiselib.spec import load_spec
    from noiselib.targets import open_path, open_target

    chosen: str | None = None
    if Path(text).is_dir():
        target = open_path(text)
    else:
        file, chosen = pipeline_or_release(text)
        target = open_target(load_spec(file)[0])
    manifests = target.manifests()
    named = [one for one in manifests if chosen is None or one["release_id"].startswith(chosen)]
    if not named:
        raise SpecError(
            f"{text}: nothing is published at {target}; expected a table with the manifests of its releases"
        )
    return target, sorted(named, key=lambda one: str(one["partition"]))


def ledger_url(text: str) -> str:
    """A ledger's URL, or that of a pipeline."""
    from noiselib.spec import load_spec

    if "://" in text:
        return text
    spec, _ = load_spec(spec_file(text))
    if spec.ledger is None:
        raise SpecError(f"pipeline {text}: has no ledger (purpose {spec.purpose})")
    return spec.ledger


def partitions(texts: Sequence[str]) -> list[dict[str, str]]:
    """`K=V` or `K=V/K2=V2`, each naming partitions by some of their columns; values may be escaped as in directory names."""
    chosen = []
    for text in texts:
        parts = [part.partition("=") for part in text.split("/")]
        if any(not name or not separator for name, separator, _ in parts):
            raise SpecError(f"--partition {text!r}: expected COLUMN=VALUE, or COLUMN=VALUE/COLUMN=VALUE")
        chosen.append({name: unquote(value) for name, _, value in parts})
    return chosen
