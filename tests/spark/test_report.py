"""`noiselib report`, and `--key` where the spec's key is one that Airflow holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_pipeline import Small


def test_a_report_says_what_is_published(small: Small, spark: Any) -> None:
    key = small.spec["key"]
    small.spec["key"] = "airflow:noise"
    small.write_spec()
    for command in ("reserve", "run"):
        refused = small.noiselib(command, "--partition", "day=1")
        assert refused.code == 1
        assert "NoiseKeyError: key airflow:noise: is known to Airflow's tasks only; expected --key" in refused.err
    early = small.noiselib("report")
    assert early.code == 1
    assert f"target {small.spec['target']['path']}: nothing of any partition is published; expected a run" in early.err

    for day in (1, 3):
        assert small.noiselib("run", "--partition", f"day={day}", "--key", key).code == 0
    report = small.noiselib("report", "--json").json
    assert [(one["partition"], one["rows"]) for one in report["releases"]] == [("day=1", 200), ("day=3", 200)]
    assert all(one["epsilon"] == pytest.approx(3.0, abs=1e-3) for one in report["releases"])
    assert all(one["checks_passed"] > 5 and one["checks_warned"] == [] for one in report["releases"])
    assert report["budget"]["name"] == "small"
    assert report["budget"]["spent"] == small.spent()
    one = small.noiselib("report", "--partition", "day=3", "--json").json
    assert one["releases"] == report["releases"][1:]
    text = small.noiselib("report").out
    assert report["releases"][0]["release_id"][:12] in text
    assert "remaining" in text
    missing = small.noiselib("report", "--partition", "day=2")
    assert (missing.code, "nothing of day=2 is published" in missing.err) == (1, True)

    # with the key, the plan sees whose the published releases are
    plan = small.noiselib("plan", "--key", key, "--json").json
    assert plan["key"]["under_another"] == {}
    assert Path(small.spec["target"]["path"]).exists()
