"""How tables are known to other pipelines: the same one way only, different ones never alike."""

from __future__ import annotations

import os
from typing import Any

import pytest

from noiselib.address import address_of, in_session
from noiselib.spec import Catalog, Table

MINE = {"uri": "sqlite:////c/mine.db", "warehouse": "/w"}


def address(path: str, form: str = "parquet", catalog: Any = None) -> tuple[str, str]:
    return address_of(
        Table(path=path, format=form, catalog=Catalog(**catalog) if isinstance(catalog, dict) else catalog)
    )


def test_one_place_has_one_address():
    assert address("/t/clean") == address("/t/clean/") == address("file:///t/./clean", "delta") == ("file", "/t/clean")
    assert address("t") == ("file", os.path.abspath("t"))
    assert address("spark_catalog.db.t", "table") == address("db.t", "table") == in_session("spark_catalog.db.t")
    assert address("db.t", "iceberg", MINE) == address("db.t", "iceberg", MINE | {"name": "default"})


def test_tables_of_one_name_in_different_catalogs_are_told_apart():
    catalogs = ["mine", "yours", MINE, MINE | {"uri": "sqlite:////c/yours.db"}, MINE | {"name": "mine"}]
    found = {address("db.t", "iceberg", catalog) for catalog in catalogs} | {address("db.t", "table")}
    assert len(found) == len(catalogs) + 1


@pytest.mark.parametrize(
    "user", ["", "ann@", "ann:secret@", "ann:se/cret@", "ann:se?cr#et@", ":secret@", "ann:s@cr@t@"]
)
@pytest.mark.parametrize("query", ["", "?password=secret", "?user=ann&password=s@cret"])
def test_an_address_holds_no_password(user: str, query: str):
    uri = f"postgresql+psycopg://{user}host/lake{query}"
    space, name = address("db.t", "iceberg", {"uri": uri, "warehouse": "/w"})
    assert (space, name) == ("noiselib://table/postgresql%2Bpsycopg%3A%2F%2Fhost%2Flake", "db.t")


def test_a_folder_may_have_a_name_with_an_at():
    first, second = (
        address("db.t", "iceberg", {"uri": f"sqlite:////c/{home}@x/c.db", "warehouse": "/w"}) for home in "ab"
    )
    assert first != second
