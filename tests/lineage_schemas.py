"""Whether an event is what OpenLineage's JSON Schemas and noiselib's own say: the event, and each facet by its `_schemaURL`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource

import noiselib.report

SCHEMAS = [
    *sorted(Path(__file__).with_name("openlineage").glob("*.json")),
    Path(noiselib.report.__file__).with_name("openlineage_facets.json"),
]
_read = [json.loads(file.read_text()) for file in SCHEMAS]
REGISTRY: Any = Registry().with_resources([(one["$id"], Resource.from_contents(one)) for one in _read])


def validate(event: Any) -> list[str]:
    """Raises jsonschema.ValidationError; returns the names of the facets that were looked at."""
    _against(event, event["schemaURL"])
    found = dict(_facets(event))
    for facet in found.values():
        _against(facet, facet["_schemaURL"])
    return sorted(found)


def _against(data: Any, url: str) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator({"$ref": url}, registry=REGISTRY, format_checker=checker).validate(data)


def _facets(data: Any) -> Iterator[tuple[str, Any]]:
    parts = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for name, part in parts:
        if isinstance(part, dict) and "_schemaURL" in part:
            yield str(name), part
        yield from _facets(part)
