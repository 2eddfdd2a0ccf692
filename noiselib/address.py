"""How a table is known outside of its pipeline: to other pipelines that read it, and to lineage."""

from __future__ import annotations

import os
import re
from urllib.parse import quote

from noiselib.spec import Catalog, Table, Target

CATALOGS = "noiselib://table"
SECRETS = [  # of a catalog's URI: who reads it, as SQLAlchemy takes it; the query; and what else stands before an @
    re.compile(part, re.DOTALL) for part in (r"(?<=://)[^:/]*(:[^@]*)?@", r"\?.*", r"(?<=://)[^/].*@")
]


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
    """Tells catalogs of Iceberg apart, in one part of a URI and without what may be secret."""
    if not isinstance(catalog, Catalog):
        return catalog or "default"
    uri = catalog.uri
    for secret in SECRETS:
        uri = secret.sub("", uri)
    return quote(uri if catalog.name == "default" else f"{uri}#{catalog.name}", safe="")
