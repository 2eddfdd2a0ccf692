"""The target imports atheris, which only `make fuzz` has: it is no test, nor does it hold doctests."""

collect_ignore = ["fuzz_spec.py"]
