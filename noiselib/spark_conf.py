"""Files of Spark settings, in the form of spark-defaults.conf."""

from __future__ import annotations

from pathlib import Path

from noiselib.errors import SpecError


def read_conf(path: Path | None) -> dict[str, str]:
    """The settings in the file, by name; none without a file. Raises SpecError for one that cannot be read."""
    if path is None:
        return {}
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not UTF-8"
        raise SpecError(f"Spark configuration {path}: cannot be read ({why})") from None
    settings = (line.split(None, 1) for line in lines if line.strip() and not line.lstrip().startswith("#"))
    return {parts[0]: parts[1].strip() if len(parts) > 1 else "" for parts in settings}
