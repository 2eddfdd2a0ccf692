"""The command line: `main` runs one command."""

from noiselib.cli.main import main

__all__ = ["main"]
