"""The steps from one schema version to the next, one a file, for alembic. A step never changes once ledgers have taken it."""
