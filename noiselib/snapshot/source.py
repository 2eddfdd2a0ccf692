"""The table that a spec names as its source, in whatever format: read once, at one version, when the plan is made."""

from __future__ import annotations

from collections.abc import Callable

from noiselib.errors import SpecError
from noiselib.snapshot.catalogued import Catalogued, catalogued_table
from noiselib.snapshot.listed import listed_table
from noiselib.snapshot.parquet import read_metadata
from noiselib.snapshot.table import TableMetadata
from noiselib.spec import PipelineSpec
from noiselib.yaml_text import Positions

Locate = Callable[[PipelineSpec], Catalogued]  # asks Spark, whose catalog holds the pipeline's source


def read_source(spec: PipelineSpec, positions: Positions, locate: Locate | None = None) -> TableMetadata:
    """The metadata of the pipeline's source. `locate` finds tables of Spark's catalog. Raises InputError or SpecError."""
    source = spec.source
    if source.format == "table":
        if locate is None:
            where = positions.where("source", "format")
            raise SpecError(f"{where}: format table: {source.path}: expected a source that is found without Spark")
        return catalogued_table(locate(spec), source.partition_by, positions)
    if source.format == "delta":
        from noiselib.snapshot.delta import read_delta  # each format's library is loaded where it is used

        return listed_table(read_delta(source.path, source.version), source.partition_by, positions)
    if source.format == "iceberg":
        from noiselib.snapshot.iceberg import read_iceberg

        assert source.catalog is not None
        return listed_table(read_iceberg(source.path, source.catalog, source.version), source.partition_by, positions)
    return read_metadata(source.path, source.partition_by)
