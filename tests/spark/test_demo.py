"""The README's commands and the demo's promises, on the real flights: run, run again, restated, by month, verified."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noiselib.cli import main

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project(spark: object, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that looks like a clone after `make features`, where every README command has been given, in order."""
    home = tmp_path_factory.mktemp("project")
    (home / "conf").symlink_to(ROOT / "conf")
    (home / "demo" / "features").mkdir(parents=True)
    for table in ("flights", "aircraft_monthly"):
        copy_table(ROOT / "demo" / "features" / table, home / "demo" / "features" / table)
    before = Path.cwd()
    os.chdir(home)
    for command in readme_commands():
        assert main(command) == 0, command
    yield home
    os.chdir(before)


def readme_commands() -> list[list[str]]:
    block = re.findall(r"^    (noiselib [^#\n]*)", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(block) >= 8
    return [shlex.split(line)[1:] for line in block]


def copy_table(source: Path, target: Path) -> None:
    """The same files under other names and times: the same snapshot."""
    for file in sorted(source.rglob("*.parquet")):
        place = target / file.relative_to(source).with_name(f"copied-{file.name}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())


def run(pipeline: str, *arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict]:  # type: ignore[type-arg]
    capsys.readouterr()
    code = main(["run", pipeline, "--json", *arguments])
    return code, json.loads(capsys.readouterr().out)


def checksums(table: Path) -> dict[str, str]:
    files = sorted(path for path in table.rglob("*") if path.is_file())
    return {str(path.relative_to(table)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def digests(table: Path) -> dict[str, str]:
    manifests = [json.loads(path.read_text()) for path in (table / "_noiselib").glob("*.json")]
    return {manifest["partition"]: manifest["content_digest"] for manifest in manifests}


def test_a_second_run_has_the_same_releases_spends_nothing_and_changes_no_byte(project, capsys):
    table = project / "demo" / "published" / "flights_private"
    before, ids = checksums(table), {path.stem for path in (table / "_noiselib").glob("*.json")}
    code, again = run("flights_private", capsys=capsys)
    assert code == 0
    assert again["charge"] == {"epsilon": 0.0, "delta": 0.0}
    assert {release["release_id"] for release in again["releases"]} == ids
    assert {release["status"] for release in again["releases"]} == {"unchanged"}
    assert checksums(table) == before


def test_month_by_month_in_another_order_into_another_target_is_the_same_content(project, capsys):
    spec = (project / "conf" / "pipelines" / "flights_private.yaml").read_text()
    other = project / "elsewhere.yaml"
    other.write_text(spec.replace("demo/published/flights_private", "demo/published/elsewhere"))
    spent = 0.0
    for month in (7, 2, 12):
        code, answer = run(str(other), "--partition", f"month={month}", capsys=capsys)
        assert code == 0
        spent += answer["charge"]["epsilon"]
    assert spent == 0  # the same releases as before: nothing new is revealed
    whole = digests(project / "demo" / "published" / "flights_private")
    parts = digests(project / "demo" / "published" / "elsewhere")
    assert parts == {f"month={month}": whole[f"month={month}"] for month in (7, 2, 12)}


def test_the_aircraft_compose_in_sequence_and_their_seats_are_charged_once(project, capsys):
    code, first = run("aircraft_monthly_private", "--partition", "month=1", "--partition", "month=2", capsys=capsys)
    assert code == 0
    both = first["charge"]["epsilon"]
    code, third = run("aircraft_monthly_private", "--partition", "month=3", capsys=capsys)
    assert code == 0
    one = first["releases"][0]["charge"]["epsilon"]  # of a release by itself, seats included
    assert one < both < 2 * one
    assert 0 < third["charge"]["epsilon"] < one - 0.5  # no seats a second time
    assert main(["verify", "aircraft_monthly_private", "--partition", "month=3"]) == 0
    seats = [
        pq.ParquetFile(next(project.glob(f"demo/published/aircraft_monthly_private/month={m}/*.parquet")))
        for m in (1, 2)
    ]
    by_tail = [dict(zip(*(f.read().column(n).to_pylist() for n in ("tailnum", "seats")), strict=True)) for f in seats]
    shared = by_tail[0].keys() & by_tail[1].keys()
    assert len(shared) > 2000
    assert all(by_tail[0][tail] == by_tail[1][tail] for tail in shared)


def test_verify_names_the_row_of_one_changed_value(project, capsys):
    table = project / "demo" / "published" / "flights_private"
    [file] = (table / "month=5").glob("*.parquet")
    whole, rows = file.read_bytes(), pq.ParquetFile(file).read()
    position = rows.schema.get_field_index("distance")
    distances = rows.column("distance").to_pylist()
    distances[1234] ^= 1  # one bit of one value
    field = rows.schema.field(position)
    changed = rows.set_column(position, field, pa.array(distances, field.type))
    named = {name: rows.column(name)[1234].as_py() for name in ("carrier", "flight")}
    try:
        pq.write_table(changed, file)
        assert main(["verify", "flights_private", "--partition", "month=5"]) == 1
        lines = capsys.readouterr().out.splitlines()
    finally:
        file.write_bytes(whole)
    assert len(lines) == 1
    assert lines[0].startswith("month=5: ")
    assert f"carrier={named['carrier']}, flight={named['flight']}: differs in distance" in lines[0]


def test_one_restated_value_in_march_is_a_new_release_of_march_alone(project, capsys):
    table = project / "demo" / "published" / "flights_private"
    before = checksums(table)
    [file] = (project / "demo" / "features" / "flights" / "month=3").glob("*.parquet")
    whole = pq.ParquetFile(file).read()
    position = whole.schema.get_field_index("distance")
    distances = whole.column("distance").to_pylist()
    distances[0] += 1
    field = whole.schema.field(position)
    pq.write_table(whole.set_column(position, field, pa.array(distances, field.type)), file)
    code, answer = run("flights_private", capsys=capsys)
    assert code == 0
    assert [r["partition"] for r in answer["releases"] if r["status"] != "unchanged"] == ["month=3"]
    assert answer["charge"]["epsilon"] > 1
    after = checksums(table)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert {name for name in changed if name.startswith("month=")} == {n for n in changed if n.startswith("month=3/")}
    assert len(changed) == 4  # the data file and the manifest: one of each gone, one of each new
