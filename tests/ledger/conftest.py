"""All tests of the ledger are tests of faults: they take locks, kill holders, damage files."""

from __future__ import annotations

import pytest


def pytest_itemcollected(item: pytest.Item) -> None:  # asked of this folder's conftest about this folder's tests only
    item.add_marker(pytest.mark.faults)
