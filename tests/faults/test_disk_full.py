"""A full disk, a real one: the run fails in words, readers see the old release, a rerun publishes the same for one charge."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_pipeline import Small, make_small

from noiselib.errors import NoiseKeyError
from noiselib.key import create_key_file, load_key
from noiselib.targets.parquet import ParquetTarget

pytestmark = [pytest.mark.faults, pytest.mark.long]


def fill(disk: Path) -> Path:
    """Take all the space that is left; says by which file."""
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (65536, 512, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    return filler


@pytest.fixture
def on_disk(tmp_path: Path, disk: Path, spark: object) -> Small:
    """A pipeline that publishes to that disk, its first day published."""
    (tmp_path / "small").mkdir()
    small = make_small(tmp_path / "small", days=[1, 2], size=200)
    small.spec["target"]["path"] = str(disk / "published")
    small.write_spec()
    assert small.noiselib("run", "--partition", "day=1").code == 0
    return small


def refused(small: Small, command: str, *phrases: str) -> None:
    """The command fails in words, and readers see what they saw."""
    before = small.checksums()
    answer = small.noiselib(command, "--partition", "day=2")
    assert answer.code == 1, answer.err
    assert "Traceback" not in answer.err
    for phrase in phrases:
        assert phrase in answer.err
    assert small.checksums() == before != {}


def digests(small: Small) -> dict[str, str]:
    return {m["partition"]: m["content_digest"] for m in ParquetTarget(small.spec["target"]["path"], 1).manifests()}


def finishes(small: Small, tmp_path: Path, spent: float) -> None:
    """With space again, a rerun publishes what an undisturbed run elsewhere does, for one charge; nothing is left behind."""
    answer = small.noiselib("run", "--partition", "day=2")
    assert answer.code == 0, answer.err
    assert small.spent() == pytest.approx(spent)
    (tmp_path / "other").mkdir()
    other = make_small(tmp_path / "other", days=[1, 2], size=200)
    assert other.noiselib("run").code == 0
    digests = [
        {m["partition"]: m["content_digest"] for m in ParquetTarget(p.spec["target"]["path"], 1).manifests()}
        for p in (small, other)
    ]
    assert digests[0] == digests[1]
    assert other.spent() == pytest.approx(spent)
    assert not list(Path(small.spec["target"]["path"]).parent.glob(".published.noiselib/staging/*"))


def test_full_while_staging(on_disk: Small, disk: Path, tmp_path: Path) -> None:
    filler = fill(disk)
    refused(on_disk, "run", "no space is left where releases are staged")
    spent = on_disk.spent()
    assert not list(disk.glob(".published.noiselib/staging/*/staged.json"))
    assert on_disk.noiselib("gc").code == 0
    assert not list(disk.glob(".published.noiselib/staging/*"))
    filler.unlink()
    finishes(on_disk, tmp_path, spent)


def test_full_while_publishing(on_disk: Small, disk: Path, tmp_path: Path) -> None:
    for command in ("perturb", "check"):
        assert on_disk.noiselib(command, "--partition", "day=2").code == 0
    filler, spent = fill(disk), on_disk.spent()
    refused(on_disk, "publish", "No space left on device")
    filler.unlink()
    finishes(on_disk, tmp_path, spent)


def test_full_while_the_ledger_is_written(tmp_path: Path, disk: Path, spark: object) -> None:
    (tmp_path / "small").mkdir()
    small = make_small(tmp_path / "small", days=[1, 2], size=200)
    assert small.noiselib("run", "--partition", "day=1").code == 0
    ledger = disk / "ledger.db"
    ledger.write_bytes((small.home / "ledger.db").read_bytes())
    small.spec["ledger"] = f"sqlite:///{ledger}"
    small.write_spec()
    spent, filler = small.spent(), fill(disk)
    refused(small, "run", "LedgerError", str(ledger))
    assert not list(small.home.glob(".published.noiselib/staging/*"))
    filler.unlink()
    assert small.spent() == pytest.approx(spent)
    finishes(small, tmp_path, spent)


def test_full_while_a_key_is_made(disk: Path) -> None:
    """An empty file can still be made there, but not filled: it is gone again, and the next try makes a key."""
    filler, file = fill(disk), disk / "noise.key"
    file.touch()
    file.unlink()
    with pytest.raises(NoiseKeyError, match=r"cannot be written \(No space left on device\)"):
        create_key_file(file)
    assert [place.name for place in disk.iterdir()] == [filler.name]
    filler.unlink()
    assert create_key_file(file) == load_key(f"file:{file}")
