"""A published table whose rows others change: what is repaired by a run, and what by a rollback."""

from __future__ import annotations

import pytest
from deltalake import DeltaTable, write_deltalake
from small_pipeline import Small

pytestmark = [pytest.mark.faults, pytest.mark.usefixtures("spark")]


def add_rows(small: Small) -> None:
    table = DeltaTable(small.spec["target"]["path"])
    rows = table.to_pyarrow_table(partitions=[("day", "=", "1")]).slice(0, 3)
    write_deltalake(table, rows, mode="append")


def rows_of_the_day(small: Small) -> int:
    return int(DeltaTable(small.spec["target"]["path"]).to_pyarrow_table(partitions=[("day", "=", "1")]).num_rows)


def run(small: Small) -> str:
    answer = small.noiselib("run", "--partition", "day=1")
    assert answer.code == 0, answer.err
    return answer.err


@pytest.fixture
def releases(small: Small) -> tuple[str, str]:
    """Two releases of the day, the second current."""
    small.spec["target"]["format"] = "delta"
    small.spec["privacy"]["limit"]["epsilon"] = 10.0
    small.write_spec()
    ids = []
    for _ in range(2):
        small.rows[1]["amount"][0] += 1.0
        small.write_source()
        run(small)
        ids.append(small.results()["releases"][0]["release_id"])
    return ids[0], ids[1]


def test_a_rollback_from_a_release_that_others_have_changed_is_not_undone_by_the_next_run(
    small: Small, releases: tuple[str, str]
) -> None:
    add_rows(small)
    assert small.noiselib("rollback", "--to", releases[0]).code == 0
    assert "stays withdrawn" in run(small)
    assert rows_of_the_day(small) == 200
    [first] = [one for one in small.noiselib("rollback", "--json").json if one["current"]]
    assert first["release_id"] == releases[0]


def test_where_others_have_changed_what_was_rolled_back_to_the_run_says_what_mends_it(
    small: Small, releases: tuple[str, str]
) -> None:
    assert small.noiselib("rollback", "--to", releases[0]).code == 0
    assert "others have changed it" not in run(small)
    add_rows(small)
    mend = f"noiselib rollback {small.spec_file} --to {releases[0][:12]}"
    assert f"is not in the table as it was published: others have changed it; to mend that: {mend}" in run(small)
    assert rows_of_the_day(small) == 203
    assert small.noiselib("rollback", "--to", releases[0][:12]).code == 0
    assert rows_of_the_day(small) == 200
    assert "others have changed it" not in run(small)


def test_rolling_back_twice_is_no_change_by_others(small: Small, releases: tuple[str, str]) -> None:
    """The mark of the first says in whose favour it was, which has been rolled back from since."""
    small.rows[1]["amount"][0] += 1.0
    small.write_source()
    run(small)
    for release in reversed(releases):
        assert small.noiselib("rollback", "--to", release).code == 0
    told = run(small)
    assert ("stays withdrawn" in told, "others have changed it" in told) == (True, False)
