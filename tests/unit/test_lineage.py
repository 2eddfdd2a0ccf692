"""OpenLineage events: valid by OpenLineage's schemas and our own, and telling what became of each column."""

from __future__ import annotations

import copy
import json
from typing import Any

import jsonschema
import pyarrow as pa
import pytest
from lineage_schemas import validate
from openlineage.client.serde import Serde
from small_pipeline import Small

from noiselib.address import address_of
from noiselib.plan import make_plan
from noiselib.release import make_release
from noiselib.report.lineage import Lineage
from noiselib.snapshot import read_metadata
from noiselib.spec import Table, load_spec


def lineage(small: Small, command: str = "run") -> Lineage:
    small.write_spec()
    spec, positions = load_spec(small.spec_file)
    table = read_metadata(spec.source.path, spec.source.partition_by)
    plan = make_plan(spec, table, positions)
    releases = [make_release(plan, partition, "ab" * 32, "key", 200) for partition in table.partitions]
    return Lineage(command, plan, table.schema, releases)


def results(events: Lineage, status: str, *each: str) -> dict[str, Any]:
    rows = {"published": 200, "unchanged": 200}
    entries = [
        {"release_id": release.id, "status": state, "rows": rows.get(state)}
        for release, state in zip(events.releases, each, strict=True)
    ]
    failed = {} if status == "success" else {"error": {"type": "ChecksFailed", "message": "checks failed"}}
    return {"status": status, "releases": entries} | failed


def plain(events: list[Any]) -> list[dict[str, Any]]:
    return [json.loads(Serde.to_json(event)) for event in events]


def test_every_event_of_a_run_is_valid(small: Small):
    events = lineage(small)
    begun, ended = plain(events.started()), plain(events.ended(results(events, "success", *["published"] * 3)))
    expected = ["columnLineage", "noiselib_privacy", "noiselib_release", "schema", "version"]
    assert [validate(event) for event in begun] == [expected] * 3
    assert [validate(event) for event in ended] == [sorted([*expected, "outputStatistics"])] * 3
    assert [event["eventType"] for event in [*begun, *ended]] == ["START"] * 3 + ["COMPLETE"] * 3
    assert [event["run"]["runId"] for event in begun] == [event["run"]["runId"] for event in ended]
    for release, event in zip(events.releases, ended, strict=True):
        assert event["job"] == {"namespace": "noiselib", "name": "small", "facets": {}}
        assert event["run"]["facets"]["noiselib_release"]["release_id"] == release.id
        assert event["run"]["facets"]["noiselib_release"]["partition"] == release.partition_text
        [source], [target] = event["inputs"], event["outputs"]
        assert (source["namespace"], source["name"]) == ("file", small.spec["source"]["path"])
        assert (target["namespace"], target["name"]) == ("file", small.spec["target"]["path"])
        assert source["facets"]["version"]["datasetVersion"] == release.snapshot
        assert target["facets"]["version"]["datasetVersion"] == release.id
        assert target["outputFacets"]["outputStatistics"]["rowCount"] == 200


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("run", "runId"), "no uuid"),
        (("outputs", 0, "facets", "noiselib_privacy", "columns", 0, "treatment"), "noisy"),
        (("outputs", 0, "facets", "noiselib_privacy", "columns", 2, "epsilon"), -1),
        (("outputs", 0, "facets", "noiselib_privacy", "purpose"), "dither"),  # which claims nothing
        (("outputs", 0, "facets", "noiselib_privacy", "noise_sum"), 3.0),
        (("run", "facets", "noiselib_release", "release_id"), "short"),
        (("outputs", 0, "facets", "columnLineage", "fields", "id"), {}),
    ],
)
def test_a_wrong_event_is_not_valid(small: Small, where: tuple[Any, ...], value: Any):
    event = plain(lineage(small).started())[0]
    validate(copy.deepcopy(event))
    part = event
    for name in where[:-1]:
        part = part[name]
    part[where[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        validate(event)


def test_columns_come_from_those_they_are_made_of(small: Small):
    small.spec["columns"]["color"] = {"drop": True}
    target = plain(lineage(small).started())[0]["outputs"][0]
    fields = target["facets"]["columnLineage"]["fields"]
    told = {
        name: [(one["field"], how["subtype"], how["description"], how["masking"])
               for one in found["inputFields"] for how in one["transformations"]]
        for name, found in fields.items()
    }  # fmt: skip
    assert told == {
        "id": [("id", "IDENTITY", "kept", False)],
        "name": [("name", "TRANSFORMATION", "pseudonymized", True)],
        "amount": [("amount", "TRANSFORMATION", "noised (laplace)", True)],
        "count": [("count", "TRANSFORMATION", "noised (discrete_laplace)", True)],
        "day": [("day", "IDENTITY", "kept", False)],
    }
    assert [field["name"] for field in target["facets"]["schema"]["fields"]] == ["id", "name", "amount", "count", "day"]
    columns = {one["column"]: one for one in target["facets"]["noiselib_privacy"]["columns"]}
    assert columns["color"] == {"column": "color", "treatment": "dropped"}


def test_columns_that_are_noised_together(small: Small):
    """A place's noise turns both coordinates into both; correlated noise is added to each column by itself."""
    assert inputs(
        small, {"mechanism": "correlated_gaussian", "with": ["other"], "share": 0.1, "granularity": 0.01}
    ) == [
        ["amount"],
        ["other"],
    ]
    bounds = {"bounds": [-80, 80], "longitude_bounds": [-170, 170]}
    place = {"mechanism": "planar_laplace", "longitude": "other", "epsilon": 1.0, "protect_distance": 100} | bounds
    assert inputs(small, place) == [["amount", "other"], ["amount", "other"]]


def inputs(small: Small, lead: dict[str, Any]) -> list[list[str]]:
    """What `amount` and `other` come from, of which the first leads."""
    for day, rows in small.rows.items():
        table = pa.table({**rows, "other": rows["amount"]})
        small.write_partition(day, table)
    small.spec["columns"] |= {"amount": lead, "other": {"noised_with": "amount"}}
    small.spec["columns"] |= {name: {"drop": True} for name in ("color", "count")}
    small.spec["purpose"] = "privacy" if "epsilon" in lead else "microdata"
    if "epsilon" not in lead:
        small.spec = {name: part for name, part in small.spec.items() if name not in ("privacy", "ledger")}
    else:
        small.spec["privacy"] = {"unit": "row", "budget": "small", "limit": {"epsilon": 8.0, "delta": 1e-5}}
        small.spec["ledger"] = f"sqlite:///{small.home / 'ledger.db'}"
    fields = plain(lineage(small).started())[0]["outputs"][0]["facets"]["columnLineage"]["fields"]
    assert fields["other"]["inputFields"][0]["transformations"][0]["description"] == f"noised ({lead['mechanism']})"
    return [[one["field"] for one in fields[name]["inputFields"]] for name in ("amount", "other")]


def test_the_guarantee_is_told_by_column_and_in_all(small: Small):
    event = plain(lineage(small).started())[0]
    facet = event["outputs"][0]["facets"]["noiselib_privacy"]
    columns = {one["column"]: one for one in facet["columns"]}
    amount = columns["amount"]
    assert (amount["mechanism"], amount["epsilon"], amount["delta"]) == ("laplace", 1.0, 0.0)
    assert amount["guarantee"] == "1-DP within [0, 25]"
    assert (columns["color"]["mechanism"], columns["color"]["epsilon"]) == ("randomized_response", 1.0)
    assert columns["name"] == {"column": "name", "treatment": "pseudonymized"}
    assert facet["charge"] == {"epsilon": pytest.approx(3, abs=1e-3), "delta": 1e-5, "budget": "small"}
    assert facet["unit"] == "row"
    assert facet["relation"].startswith("Neighbours differ in one row: any change in color, amount, count")


def test_where_nothing_is_claimed_no_guarantee_is_told(small: Small):
    small.spec["purpose"] = "augmentation"
    small.spec["columns"]["amount"] = {"mechanism": "gaussian", "scale": 1.0}
    small.spec["columns"] |= {"count": {"keep": "public"}, "color": {"keep": "public"}}
    for name in ("privacy", "ledger"):
        del small.spec[name]
    event = plain(lineage(small).started())[0]
    validate(event)
    facet = event["outputs"][0]["facets"]["noiselib_privacy"]
    assert set(facet) == {"_producer", "_schemaURL", "purpose", "columns"}
    told = next(one for one in facet["columns"] if one["column"] == "amount")
    assert set(told) <= {"column", "treatment", "mechanism", "memoized"}


def test_a_run_that_fails_ends_each_release_as_it_is(small: Small):
    events = lineage(small)
    ended = plain(events.ended(results(events, "quarantined", "unchanged", "checked", "quarantined")))
    for event in ended:
        validate(event)
    assert [event["eventType"] for event in ended] == ["COMPLETE", "FAIL", "FAIL"]
    assert [bool(event["outputs"]) for event in ended] == [True, False, False]  # readers see the first only
    assert "errorMessage" not in ended[0]["run"]["facets"]
    assert ended[2]["run"]["facets"]["errorMessage"]["message"] == "checks failed"
    interrupted = plain(events.ended(results(events, "interrupted", *["reserved"] * 3)))
    assert {event["eventType"] for event in interrupted} == {"ABORT"}
    # what came of them could not be found out
    nothing = results(events, "failed", *["reserved"] * 3) | {"releases": []}
    for event in plain(events.ended(nothing)):
        validate(event)
        assert (event["eventType"], event["run"]["facets"]["noiselib_release"]["status"]) == ("FAIL", "planned")


def test_a_step_is_a_job_of_its_own_and_names_no_target_that_it_does_not_publish(small: Small):
    events = lineage(small, "perturb")
    ended = plain(events.ended(results(events, "success", *["staged"] * 3)))
    for event in [*plain(events.started()), *ended]:
        validate(event)
        assert (event["job"]["name"], event["outputs"]) == ("small.perturb", [])
    assert {event["eventType"] for event in ended} == {"COMPLETE"}
    assert plain(lineage(small, "publish").started())[0]["outputs"]


def test_a_target_is_found_by_its_name_in_sparks_catalog_as_well(small: Small):
    """As which another pipeline reads it."""
    assert "symlinks" not in plain(lineage(small).started())[0]["outputs"][0]["facets"]
    small.spec["target"]["table"] = "spark_catalog.features.small"
    event = plain(lineage(small).started())[0]
    assert "symlinks" in validate(event)
    [target] = event["outputs"]
    [other] = target["facets"]["symlinks"]["identifiers"]
    source = address_of(Table(path="features.small", format="table"))
    assert (other["namespace"], other["name"], other["type"]) == (*source, "TABLE")
    assert (target["namespace"], target["name"]) == ("file", small.spec["target"]["path"])


def test_each_attempt_has_runs_of_its_own(small: Small):
    first, second = lineage(small), lineage(small)
    assert len({*first.run_ids.values(), *second.run_ids.values()}) == 6
    assert [release.id for release in first.releases] == [release.id for release in second.releases]


def test_no_row_count_of_the_source_and_no_noise_is_told(small: Small):
    events = lineage(small)
    text = "\n".join(
        map(Serde.to_json, [*events.started(), *events.ended(results(events, "success", *["published"] * 3))])
    )
    assert not [
        word for word in ("rows_in", "inputStatistics", "adjusted", "null", "variance", "noise_") if word in text
    ]
