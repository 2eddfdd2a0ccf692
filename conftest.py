"""What every test and doctest needs, wherever it lies."""

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

# The main module of a pytest-xdist worker has neither a file nor a spec. Spark takes that for its own doctests: where
# gRPC is missing, its Connect package, which Great Expectations tries to import, then ends the whole process.
main = sys.modules["__main__"]
if main.__spec__ is None and not hasattr(main, "__file__"):
    main.__spec__ = ModuleSpec("__main__", loader=None)


def pytest_addoption(parser: pytest.Parser) -> None:  # here, since pytest asks no conftest further down for options
    parser.addoption("--faults-json", type=Path, metavar="FILE", help="keep there what the tests of faults counted")
