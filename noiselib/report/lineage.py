"""OpenLineage events of a command: each release it works on is a run of its own, begun and ended.

A run's id is of one attempt: a step that is taken again is another run of the same release, which a facet names. The events hold
what the manifest tells every reader, and less: no value, no key, no row count of the source, nothing of the noise that was drawn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import attr
from openlineage.client import event_v2 as ol
from openlineage.client.facet_v2 import (
    DatasetFacet,
    OutputDatasetFacet,
    RunFacet,
    column_lineage_dataset,
    dataset_version_dataset,
    error_message_run,
    output_statistics_output_dataset,
    schema_dataset,
    symlinks_dataset,
)
from openlineage.client.uuid import generate_new_uuid

from noiselib.address import address_of, in_session
from noiselib.column_plan import ColumnPlan
from noiselib.column_spec import CorrelatedGaussian
from noiselib.plan import Plan, describe_column, relation
from noiselib.release import Release, budget_of

FACETS = "urn:noiselib:openlineage-facets:1-0-0"  # the $id of openlineage_facets.json
TREATMENTS = {
    "keep": "kept",
    "drop": "dropped",
    "pseudonymize": "pseudonymized",
    "mechanism": "noised",
    "noised_with": "noised",
}
SEEN = ("published", "unchanged")  # by readers
UNHEARD = {"status": "planned", "rows": None}  # of a release that the results say nothing of


@attr.define
class PrivacyFacet(DatasetFacet):
    """What became of each column, and what is guaranteed; described in openlineage_facets.json."""

    purpose: str
    columns: list[dict[str, Any]]
    unit: str | None = None
    relation: str | None = None
    charge: dict[str, Any] | None = None

    @staticmethod
    def _get_schema() -> str:
        return f"{FACETS}#/$defs/NoiselibPrivacyDatasetFacet"


@attr.define
class ReleaseFacet(RunFacet):
    """Which release a run makes, and what has become of it."""

    release_id: str
    partition: str
    command: str
    status: str

    @staticmethod
    def _get_schema() -> str:
        return f"{FACETS}#/$defs/NoiselibReleaseRunFacet"


class Lineage:
    """The events of one command about `releases`. `schema`: the source's columns and types."""

    def __init__(
        self, command: str, plan: Plan, schema: Sequence[tuple[str, str]], releases: Sequence[Release]
    ) -> None:
        ol.set_producer(f"urn:noiselib:{version('noiselib')}")
        self.command, self.plan, self.schema, self.releases = command, plan, schema, releases
        self.run_ids = {release.id: str(generate_new_uuid()) for release in releases}

    def started(self) -> list[ol.RunEvent]:
        return [self._event(ol.RunState.START, release, "planned") for release in self.releases]

    def ended(self, results: Mapping[str, Any]) -> list[ol.RunEvent]:
        """`results`: what run_results.json holds."""
        found = {entry["release_id"]: entry for entry in results["releases"]}
        return [self._ended(release, found.get(release.id, UNHEARD), results) for release in self.releases]

    def _ended(self, release: Release, entry: Mapping[str, Any], results: Mapping[str, Any]) -> ol.RunEvent:
        status = entry["status"]
        if results["status"] == "success" or status in SEEN:
            return self._event(ol.RunState.COMPLETE, release, status, rows=entry["rows"])
        state = ol.RunState.ABORT if results["status"] == "interrupted" else ol.RunState.FAIL
        return self._event(state, release, status, error=results["error"]["message"])

    def _event(
        self, state: ol.RunState, release: Release, status: str, rows: int | None = None, error: str = ""
    ) -> ol.RunEvent:
        facets: dict[str, RunFacet] = {
            "noiselib_release": ReleaseFacet(release.id, release.partition_text, self.command, status)
        }
        if error:
            facets["errorMessage"] = error_message_run.ErrorMessageRunFacet(error, "PYTHON")
        return ol.RunEvent(
            eventTime=datetime.now(UTC).isoformat(),
            eventType=state,
            run=ol.Run(self.run_ids[release.id], facets),
            job=self._job(),
            inputs=[self._input(release)],
            outputs=self._outputs(state, release, status, rows),
        )

    def _job(self) -> ol.Job:
        """A step that a scheduler calls is a job beside the whole path's."""
        pipeline = self.plan.spec.pipeline
        name = pipeline if self.command == "run" else f"{pipeline}.{self.command}"
        return ol.Job(os.environ.get("OPENLINEAGE_NAMESPACE") or "noiselib", name)

    def _input(self, release: Release) -> ol.InputDataset:
        facets = {"schema": _schema(self.schema), "version": _version(release.snapshot)}
        return ol.InputDataset(*address_of(self.plan.spec.source), facets=facets)

    def _outputs(self, state: ol.RunState, release: Release, status: str, rows: int | None) -> list[ol.OutputDataset]:
        """The target: where the command publishes, and unless it ended without readers seeing the release."""
        if self.command not in ("run", "publish") or (state != ol.RunState.START and status not in SEEN):
            return []
        facets: dict[str, DatasetFacet] = {
            "schema": _schema(self.plan.published),
            "columnLineage": self._columns(),
            "noiselib_privacy": privacy(self.plan),
        }
        if name := self.plan.spec.target.table:
            facets["symlinks"] = _also_known_as(*in_session(name))
        counted: dict[str, OutputDatasetFacet] = {}
        if state != ol.RunState.START:
            facets["version"] = _version(release.id)
            counted["outputStatistics"] = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(rows)
        return [ol.OutputDataset(*address_of(self.plan.spec.target), facets=facets, outputFacets=counted)]

    def _columns(self) -> column_lineage_dataset.ColumnLineageDatasetFacet:
        """Every published column with those of the source that its values come from."""
        columns = self.plan.columns
        fields = {column.name: self._field(column) for column in columns if column.treatment != "drop"}
        return column_lineage_dataset.ColumnLineageDatasetFacet(fields)

    def _field(self, column: ColumnPlan) -> column_lineage_dataset.Fields:
        kept = column.treatment == "keep"
        description = TREATMENTS[column.treatment]
        if drawn := column.mechanism or (self.plan.column(column.lead).mechanism if column.lead else None):
            description = f"{description} ({drawn.name})"
        how = column_lineage_dataset.Transformation(
            "DIRECT", "IDENTITY" if kept else "TRANSFORMATION", description, masking=not kept
        )
        space, name = address_of(self.plan.spec.source)
        return column_lineage_dataset.Fields(
            [column_lineage_dataset.InputField(space, name, field, [how]) for field in self._inputs(column)]
        )

    def _inputs(self, column: ColumnPlan) -> list[str]:
        """A place's noise mixes both coordinates; correlated noise is added to each column by itself."""
        lead = self.plan.column(column.lead or column.name)
        if isinstance(lead.declared, CorrelatedGaussian):
            return [column.name]
        with_it = [other.name for other in self.plan.columns if other.lead == lead.name]
        return [lead.name, *with_it] if column.treatment in ("mechanism", "noised_with") else [column.name]


def privacy(plan: Plan) -> PrivacyFacet:
    """The privacy facet of a release. A guarantee is named only where the purpose claims one."""
    budget = budget_of(plan.spec)
    columns = [_treated(column, claimed=budget is not None) for column in plan.columns]
    if budget is None:
        return PrivacyFacet(plan.spec.purpose, columns)
    charge = sum((memo for _, memo in plan.memos), plan.charge)
    cost = {"epsilon": charge.epsilon(budget.delta), "delta": budget.delta if charge else 0.0, "budget": budget.name}
    return PrivacyFacet(plan.spec.purpose, columns, budget.unit, relation(plan), cost)


def _treated(column: ColumnPlan, claimed: bool) -> dict[str, Any]:
    told = describe_column(column, 1)
    entry: dict[str, Any] = {"column": column.name, "treatment": TREATMENTS[column.treatment]}
    entry |= {name: told[name] for name in ("mechanism", "noised_with", "memoized") if name in told}
    if claimed and told.get("epsilon") is not None:
        entry |= {"epsilon": told["epsilon"], "delta": told.get("delta") or 0.0, "sampler_delta": told["sampler_delta"]}
        entry["guarantee"] = told["guarantee"]
    return entry


def _schema(columns: Sequence[tuple[str, str]]) -> schema_dataset.SchemaDatasetFacet:
    return schema_dataset.SchemaDatasetFacet(
        [schema_dataset.SchemaDatasetFacetFields(name, kind) for name, kind in columns]
    )


def _also_known_as(space: str, name: str) -> symlinks_dataset.SymlinksDatasetFacet:
    """Of a table that has an address of its own: who reads it by this one names another dataset as the source."""
    return symlinks_dataset.SymlinksDatasetFacet([symlinks_dataset.Identifier(space, name, "TABLE")])


def _version(text: str) -> dataset_version_dataset.DatasetVersionDatasetFacet:
    return dataset_version_dataset.DatasetVersionDatasetFacet(text)
