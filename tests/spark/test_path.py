"""The one path, walked whole and step by step."""

from __future__ import annotations

from small_pipeline import Small


def test_run_publishes_every_partition_and_charges_once(small: Small, spark: object) -> None:
    first = small.noiselib("run", "--json")
    assert first.code == 0, first.err
    answer = first.json
    assert (answer["status"], answer["rows_in"], answer["rows_out"]) == ("success", 600, 600)
    assert answer["charge"]["epsilon"] == small.spent() > 0
    published = small.published()
    again = small.noiselib("run", "--json")
    assert again.code == 0
    assert again.json["charge"] == {"epsilon": 0.0, "delta": 0.0}
    assert [r["status"] for r in again.json["releases"]] == ["unchanged"] * 3
    assert small.published() == published
