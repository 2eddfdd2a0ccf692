"""A coverage-guided fuzz target: whatever bytes a spec holds, `load_spec` gives a spec or a SpecError, and in time.

Run by `make fuzz`, in an environment of its own (atheris has no wheel for every Python). `corpus/` holds what it found that
takes other ways through the loader; `tests/faults/test_hostile_specs.py` reads all of it without atheris.

    fuzz_spec.py corpus -max_total_time=300
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from pathlib import Path

import atheris

# not the scanner: instrumented by atheris 2.3 it raises errors that it does not have (for one, that a str has no prefix)
with atheris.instrument_imports(include=["noiselib", "yaml"], exclude=["yaml.scanner", "yaml.reader"]):
    from noiselib.errors import SpecError
    from noiselib.spec import load_spec

FILE = Path(tempfile.mkdtemp()) / "spec.yaml"


def one_input(data: bytes) -> None:
    FILE.write_bytes(data)
    with contextlib.suppress(SpecError):
        load_spec(FILE)


if __name__ == "__main__":
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
