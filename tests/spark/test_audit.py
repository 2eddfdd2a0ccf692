"""The audit of a pipeline: through the whole path, and planted bugs that its claims do not survive there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from false_alarms import ALARM, alarms
from small_pipeline import Small

from noiselib.spark import checks, perturb

ROWS = "60000"
CONFIDENCE = str(1 - ALARM)


def audited(pipeline: Small, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and the findings by subject; each is a look of the suite's."""
    answer = pipeline.noiselib("audit", "--rows", ROWS, "--confidence", CONFIDENCE, "--json", *arguments)
    findings = {found["subject"]: found for found in answer.json["findings"]}
    refuted = alarms({subject: 0.0 if found["exceeds"] else 1.0 for subject, found in findings.items()})
    assert answer.json["success"] == (not refuted)
    return answer.code, findings


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """The release's own checks see the planted bugs as well: here they say nothing, so that the audit stands alone."""
    right = checks.check_release

    def check_release(*arguments: Any) -> dict[str, Any]:
        result = right(*arguments)
        return {**result, "success": True, "checks": [{**check, "success": True} for check in result["checks"]]}

    monkeypatch.setattr(checks, "check_release", check_release)


def test_a_right_pipeline_keeps_to_its_claims_and_nothing_of_it_is_touched(small: Small, spark: object) -> None:
    before = sorted(small.home.rglob("*"))
    code, findings = audited(small)
    assert code == 0
    assert sorted(small.home.rglob("*")) == before
    assert small.spent() == 0
    assert list(findings)[:3] == ["column color", "column amount", "column count"]
    assert list(findings)[-1] == "record"
    for found in findings.values():
        assert found["epsilon_lower"] > 0.6 * found["epsilon"], found
    assert findings["record"]["epsilon"] == pytest.approx(3, rel=1e-3)


def test_the_units_of_an_entity_are_attacked_whole(small: Small, spark: object) -> None:
    """Each has a row more than may enter a release, which the path must leave out; partitions tell the worlds apart."""
    small.spec["row_key"] = ["name", "id"]
    small.spec["privacy"]["unit"] = {"entity": ["name"], "max_rows": 2}
    small.spec["columns"] |= {"color": {"drop": True}, "amount": {"drop": True}}
    small.write_spec()
    code, findings = audited(small)
    assert code == 0
    record = findings["record"]
    assert record["epsilon"] == pytest.approx(2, rel=1e-3)
    assert sum(record["draws"]) == pytest.approx(int(ROWS) / 3 / 2, rel=0.01)  # units that were judged by
    assert record["epsilon_lower"] > 1.2  # more than one row's


def test_noise_of_half_the_scale_and_a_missing_clip_are_refuted(
    small: Small, spark: object, unchecked: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted, point = perturb.fitted, perturb.point

    def halved(*arguments: Any) -> Any:
        found = fitted(*arguments)
        (mechanism,) = found["amount"]
        return found | {"amount": (replace(mechanism, scale=mechanism.scale / 2),)}

    def unclipped(column: Any) -> Any:
        if column.name != "count":
            return point(column)
        return point(replace(column, points=replace(column.points, lower=-(2**30), upper=2**30)))

    monkeypatch.setattr(perturb, "fitted", halved)
    monkeypatch.setattr(perturb, "point", unclipped)
    code, findings = audited(small)
    assert code == 1
    assert findings["column amount"]["epsilon_lower"] > 1.5
    assert findings["column count"]["epsilon_lower"] > 2
    assert findings["record"]["exceeds"]
    assert not findings["column color"]["exceeds"]


def test_what_cannot_be_audited_is_said(small: Small, spark: object) -> None:
    small.spec["row_key"] = ["color"]
    small.write_spec()
    answer = small.noiselib("audit")
    assert answer.code == 2
    assert "row key ['color']: expected a column without noise" in answer.err


def test_the_pipelines_of_the_demo_can_be_laid_out(tmp_path: Path) -> None:
    """Their tables of worst cases, one by a kept column and one by partitions; the runs are in docs/guarantees.md."""
    from noiselib.pipelines import load_plan
    from noiselib.spark.audit import Layout, write_source, write_spec
    from noiselib.spark.run import prepare

    for name, columns, numbered in [("flights_private", 5, "year"), ("aircraft_monthly_private", 4, None)]:
        file = Path(f"conf/pipelines/{name}.yaml")
        _, plan, table = load_plan(file)
        layout, home = Layout(plan, 240, table.files[0].path), tmp_path / name
        home.mkdir()
        assert len(write_source(layout, home)) == columns
        assert layout.numbered == numbered
        run = prepare(write_spec(file, home), [], lambda _: None)
        assert sum(run.table.rows(partition) for partition in run.table.partitions) == 240
        assert json.dumps([column.name for column in run.plan.noised]) == json.dumps([c.name for c in plan.noised])
