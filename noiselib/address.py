"""How a table is known outside of its pipeline: to other pipelines that read it, and to lineage."""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from noiselib.spec import Catalog, Table, Target

CATALOGS = "noiselib://table"


def address_of(table: Table | Target) -> tuple[str, str]:
    """A table's namespace and name: by OpenLineage's convention for local files, else its catalog and its name there."""
    if table.format == "iceberg":
        return f"{CATALOGS}/{_label(table.catalog)}", table.path
    if table.format == "table":
        return in_session(table.path)
    return "file", os.path.abspath(table.path.removeprefix("file://"))


def in_session(table: str) -> tuple[str, str]:
    """The address of a table in Spark's catalog, however its name was given."""
    return CATALOGS, table.removeprefix("spark_catalog.")


def _label(catalog: Catalog | str | None) -> str:
    """Tells catalogs of Iceberg apart, in one part of a URI and without a password."""
    if not isinstance(catalog, Catalog):
        return catalog or "default"
    uri = re.sub("(://[^:/@]*):[^/]*@", r"\1@", catalog.uri)
    return quote(uri if catalog.name == "default" else f"{uri}#{catalog.name}", safe="")
