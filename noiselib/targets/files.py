"""Files that last: whole or not there, and on the disk when the call returns."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from noiselib.errors import NoiselibError


def link(source: Path, target: Path) -> None:
    """The same bytes at `target`: a hard link, or a copy where the file system has none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EXDEV, errno.ENOTSUP, errno.EMLINK):
            raise
        copy = target.with_name(f".{target.name}.tmp")  # half a copy must not pass for the file
        shutil.copy2(source, copy)
        sync(copy)
        os.replace(copy, target)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(data, file, indent=2, sort_keys=True)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync(path.parent)


def read_json(path: Path) -> dict[str, Any] | None:
    try:
        text = path.read_text("utf-8")
        data = json.loads(text)
    except FileNotFoundError:
        return None
    except ValueError:  # also for what is no UTF-8
        raise NoiselibError(f"{path}: not valid JSON; expected a file that noiselib wrote") from None
    if not isinstance(data, dict):
        raise NoiselibError(f"{path}: holds {text[:40]!r}; expected a JSON object, as noiselib wrote it")
    return data


def sync_directories(root: Path) -> None:
    for directory in [root, *(p for p in root.rglob("*") if p.is_dir())]:
        sync(directory)


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
