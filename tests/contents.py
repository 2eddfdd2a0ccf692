"""What lies below a folder in which another process may still be at work, as a Java that is ending."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def contents(root: Path) -> dict[Path, bytes]:
    """Each file's bytes, without files that were removed or renamed since they were listed."""
    found = {}
    for folder, _, names in os.walk(root):
        for name in names:
            with suppress(FileNotFoundError):
                found[Path(folder, name)] = Path(folder, name).read_bytes()
    return found
