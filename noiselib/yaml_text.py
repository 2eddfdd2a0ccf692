"""YAML as plain data, each part with its line: no tags, no anchors, no duplicate keys, no file too large to be a spec."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from noiselib.errors import SpecError

MAX_BYTES = 1_000_000
MAX_PARTS = 100_000  # names and values: 5,000 columns with all that can be said of each
MAX_NAME = 255  # characters of a key: no column is called more
MAX_NUMBER = 400  # characters, or decimal digits, of a number: Python refuses to print a whole one of many more


@dataclass(frozen=True)
class Positions:
    """Where each part of a spec stands: path of keys -> line."""

    file: str
    lines: dict[tuple[str | int, ...], int]

    def where(self, *path: str | int) -> str:
        """`file:line` of the deepest part of `path` that the file holds."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.lines:
                return f"{self.file}:{self.lines[path[:length]]}"
        return f"{self.file}:1"


def read_yaml(path: Path) -> tuple[dict[str, Any], Positions, list[str]]:
    """The file as plain data, where its parts stand, and what in it is no plain data. SpecError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)  # a device has no size to ask for
    except OSError as error:
        raise SpecError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError:
        raise SpecError(f"{str(path)!r}: cannot be read (no path)") from None
    if len(raw) > MAX_BYTES:
        raise SpecError(f"{path}:1: larger than {MAX_BYTES} bytes: not a spec")
    try:
        root = yaml.compose(raw.decode("utf-8"), Loader=_PlainLoader)
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}:1: not UTF-8 text (byte {error.start})") from None
    except RecursionError:
        raise SpecError(f"{path}:1: nested too deeply") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise SpecError(f"{path}:{line}: not valid YAML: {getattr(error, 'problem', None) or 'unreadable'}") from None
    lines: dict[tuple[str | int, ...], int] = {}
    problems: list[tuple[int, str]] = []
    data = _plain(root, (), lines, problems) if root is not None else None
    if not isinstance(data, dict):
        raise SpecError(f"{path}:1: expected a mapping of the spec's names")
    return data, Positions(str(path), lines), [f"{path}:{line}: {what}" for line, what in sorted(problems)]


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without tags, and without anchors: an alias could make a small file unfold into a huge one."""

    parts = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise yaml.composer.ComposerError(None, None, "anchors and aliases are not allowed", event.start_mark)
        if len(self.indents) > 50 or self.flow_level > 50:
            raise yaml.composer.ComposerError(None, None, "nested too deeply", event.start_mark)
        self.parts += 1
        if self.parts > MAX_PARTS:
            raise yaml.composer.ComposerError(None, None, f"more than {MAX_PARTS} parts", event.start_mark)
        node: Any = super().compose_node(parent, index)
        if getattr(event, "tag", None):
            # written, not inferred: even !!int is refused, by a name that is not among _TAGS
            node.tag = event.tag.replace("tag:yaml.org,2002:", "!!")
        return node


# YAML 1.1 takes 1e-5 for a text, since it has no point; whoever writes it means the number
_PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)

_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq", "timestamp")}


def _plain(
    node: Any, path: tuple[str | int, ...], lines: dict[tuple[str | int, ...], int], problems: list[tuple[int, str]]
) -> Any:
    """The node as plain Python data; records each part's line, and what plain data may not hold."""
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if node.tag not in _TAGS:
        problems.append((line, f"YAML tag {node.tag!r} is not allowed"))
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*path, index), lines, problems) for index, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if not isinstance(key_node, yaml.ScalarNode) or not _is_name(key_node):
                problems.append((key_node.start_mark.line + 1, f"key {key[:60]!r}: expected a name"))
                continue
            if key in result:
                problems.append((key_node.start_mark.line + 1, f"key {key!r} stands twice in one mapping"))
            lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = _plain(value_node, (*path, key), lines, problems)
        return result
    if node.tag.endswith((":timestamp", ":str")):
        if "\0" in node.value:
            problems.append((line, "value with a null character: expected text"))
            return None
        return node.value
    try:
        return _number(node)
    except (ValueError, OverflowError, yaml.YAMLError):
        problems.append((line, f"value {str(node.value)[:60]!r} cannot be read as {node.tag.rsplit(':', 1)[1]}"))
        return None


def _is_name(key: Any) -> bool:
    return key.tag in _TAGS and key.value.isprintable() and len(key.value) <= MAX_NAME


def _number(node: Any) -> Any:
    """A number, a boolean or null. Raises ValueError for a number of no use, before it takes time to read."""
    if len(node.value) > MAX_NUMBER:
        raise ValueError
    value = yaml.SafeLoader("").construct_object(node, deep=True)
    if isinstance(value, int) and abs(value) >= 10**MAX_NUMBER:
        raise ValueError
    return value
