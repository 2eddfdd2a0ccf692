"""The target: where releases are staged and published. Staging is one for all formats; what is published depends on the format.

Parquet publishes by one rename of a symbolic link, Delta and Iceberg by one commit of metadata that names the files.
"""

from __future__ import annotations

from pathlib import Path

from noiselib import spec as s
from noiselib.errors import NoiselibError
from noiselib.targets.parquet import ParquetTarget
from noiselib.targets.target import MANIFESTS, Target, by_partition

__all__ = ["MANIFESTS", "Target", "demand_own", "open_path", "open_target"]


def open_target(spec: s.PipelineSpec) -> Target:
    """The target of a pipeline; raises NoiselibError for a place that its format cannot publish to."""
    target, depth = spec.target, len(spec.source.partition_by)
    if target.format == "delta":
        from noiselib.targets.delta import DeltaTarget  # a second each: only where they are used

        return DeltaTarget(target.path, target.keep)
    if target.format == "iceberg":
        from noiselib.targets.iceberg import IcebergTarget

        return IcebergTarget.of(target)
    return ParquetTarget(target.path, depth, target.keep)


def open_path(path: str) -> Target:
    """The published table in the folder `path`, to be read only: Parquet or Delta."""
    if (Path(path.removeprefix("file://")) / "_delta_log").is_dir():
        from noiselib.targets.delta import DeltaTarget

        return DeltaTarget(path)
    return ParquetTarget(path, None)


def demand_own(target: Target, spec: s.PipelineSpec) -> dict[str, str]:
    """The release that is current in each partition, by its text.

    Raises NoiselibError if what the target holds is another pipeline's, or partitioned otherwise: before anything is spent.
    """
    owners = target.owners()
    for manifest in owners:
        if manifest["pipeline"] != spec.pipeline or manifest["partition_by"] != spec.source.partition_by:
            raise NoiselibError(
                f"target {target}: holds a release of pipeline {manifest['pipeline']}, partitioned by {manifest['partition_by']}; "
                f"expected a target of its own for {spec.pipeline}, partitioned by {spec.source.partition_by}"
            )
    seen = target.seen([owner["release_id"] for owner in owners])
    return by_partition(owner for owner in owners if owner["release_id"] in seen)
