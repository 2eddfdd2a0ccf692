"""The noise key: made once, read only where nobody else can, and never shown."""

from __future__ import annotations

import base64
import hashlib
import os
import stat
from pathlib import Path

import pytest

from noiselib.errors import NoiseKeyError
from noiselib.key import NoiseKey, create_key_file, load_key
from noiselib.release import PipelineKeys, ReleaseKeys

pytestmark = pytest.mark.faults
SECRET = hashlib.sha256(b"the key of these tests").digest()
LINE = base64.b64encode(SECRET).decode()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A key file as it should be."""
    return written(tmp_path / "noise.key", LINE + "\n")


def written(path: Path, content: str | bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    path.chmod(mode)
    return path


def refusal(reference: str) -> str:
    with pytest.raises(NoiseKeyError) as raised:
        load_key(reference)
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__ or raised.value.__context__ is None  # no other error's words come along
    return str(raised.value)


def test_a_new_key_file_holds_32_random_bytes_for_its_owner_alone(tmp_path):
    before = os.umask(0)  # even then
    try:
        first = create_key_file(tmp_path / "deep" / "first.key")
    finally:
        os.umask(before)
    path = tmp_path / "deep" / "first.key"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes().count(b"\n") == 1
    assert len(base64.b64decode(path.read_text())) == 32
    assert load_key(f"file:{path}") == first
    assert create_key_file(tmp_path / "second.key") != first


def test_a_key_file_is_never_overwritten(file, tmp_path):
    with pytest.raises(NoiseKeyError, match="exists already; a key is never overwritten"):
        create_key_file(file)
    assert file.read_text() == LINE + "\n"
    (tmp_path / "link.key").symlink_to(tmp_path / "nowhere")
    for taken in (tmp_path / "link.key", tmp_path):
        with pytest.raises(NoiseKeyError, match="exists already"):
            create_key_file(taken)
    assert not (tmp_path / "nowhere").exists()


def test_a_key_file_that_cannot_be_written_is_named(file):
    with pytest.raises(NoiseKeyError, match="cannot be written"):
        create_key_file(file / "below-a-file.key")


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_key_file_that_was_not_written_whole_is_removed(tmp_path, monkeypatch, error):
    def fail(_: int) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(NoiseKeyError if isinstance(error, OSError) else KeyboardInterrupt) as raised:
            create_key_file(tmp_path / "noise.key")
    assert isinstance(raised.value, KeyboardInterrupt) or "cannot be written (No space left" in str(raised.value)
    assert not (tmp_path / "noise.key").exists()
    create_key_file(tmp_path / "noise.key")


def test_a_key_comes_from_a_file_or_the_environment(file, monkeypatch):
    monkeypatch.setenv("THE_KEY", f" {LINE}\n")
    assert load_key(f"file:{file}") == load_key("env:THE_KEY") == NoiseKey(SECRET)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o601, 0o620])
def test_a_key_file_open_to_others_is_refused(tmp_path, mode):
    path = written(tmp_path / "noise.key", LINE, mode)
    assert refusal(f"file:{path}") == (
        f"key file {path}: mode {mode:04o} lets others read it; expected 0600 (chmod 600 {path})"
    )


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_key_file_for_its_owner_alone_is_read(tmp_path, mode):
    assert load_key(f"file:{written(tmp_path / 'noise.key', LINE, mode)}").secret == SECRET


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "0 bytes; expected 32"),
        (base64.b64encode(SECRET[:31]), "31 bytes; expected 32"),
        (base64.b64encode(SECRET + b"x"), "33 bytes; expected 32"),
        (LINE[:-1], "expected one line of base64"),
        (LINE[:20] + "\n" + LINE[20:], "expected one line of base64"),
        (LINE + "\n" + LINE, "expected one line of base64"),
        ("key: " + LINE, "expected one line of base64"),
        (SECRET.hex(), "48 bytes; expected 32"),
        (SECRET, "cannot be read as a key (UnicodeDecodeError)"),
        (b"\xff" * 32, "cannot be read as a key (UnicodeDecodeError)"),
        (base64.b64encode(bytes(32)), "too regular to be random"),
        (base64.b64encode(b"0123456789" * 3 + b"01"), "too regular to be random"),
        (base64.b64encode(bytes(range(32))), "too regular to be random"),
        (base64.b64encode(bytes(5 - 7 * i & 255 for i in range(32))), "too regular to be random"),  # down, and round
        (base64.b64encode(b"correct horse battery staple, ok"), "text, such as a passphrase"),
        (base64.b64encode(b"correct horse battery staple, o\n"), "text, such as a passphrase"),  # as echo ends it
        (base64.b64encode(SECRET.hex()[:32].encode()), "text, such as a passphrase"),
    ],
)
def test_what_is_no_key_is_refused_without_being_shown(tmp_path, content, what):
    message = refusal(f"file:{written(tmp_path / 'noise.key', content)}")
    assert what in message
    assert LINE[:8] not in message
    assert SECRET.hex()[:8] not in message


def test_random_keys_are_not_refused(monkeypatch):
    for number in range(20_000):
        secret = hashlib.sha256(number.to_bytes(4)).digest()
        monkeypatch.setenv("THE_KEY", base64.b64encode(secret).decode())
        assert load_key("env:THE_KEY").secret == secret


@pytest.mark.parametrize("tail", [b"\x00", b"\x7f", b"\x80", b"\t"])
def test_one_byte_that_is_no_text_makes_a_key(monkeypatch, tail):
    monkeypatch.setenv("THE_KEY", base64.b64encode(b"correct horse battery staple, o" + tail).decode())
    load_key("env:THE_KEY")


@pytest.mark.parametrize(
    ("reference", "what"),
    [
        ("file:/nowhere/noise.key", "not found; make one with: noiselib keygen /nowhere/noise.key"),
        ("file:", "not a regular file"),
        ("file:/dev/null", "not a regular file"),
        ("file:/\0", "cannot be read as a key (ValueError)"),
        ("env:NO_SUCH_KEY", "environment variable NO_SUCH_KEY is not set"),
        ("vault:noise", "key reference of scheme 'vault': expected file:PATH or env:NAME"),
        ("noise.key", "expected file:PATH or env:NAME"),
        ("", "expected file:PATH or env:NAME"),
    ],
)
def test_a_reference_that_leads_nowhere_is_told(reference, what):
    assert what in refusal(reference)


def test_an_empty_variable_is_no_key(monkeypatch):
    monkeypatch.setenv("THE_KEY", "")
    assert "0 bytes; expected 32" in refusal("env:THE_KEY")


def test_the_secret_is_in_no_text_of_a_key():
    key = NoiseKey(SECRET)
    for shown in (
        repr(key),
        str(key),
        f"{key}",
        repr([key]),
        repr(ReleaseKeys(key, "r")),
        repr(PipelineKeys(key, "p")),
    ):
        assert "secret" not in shown
        assert LINE[:8] not in shown
        assert repr(SECRET)[2:10] not in shown
        assert SECRET.hex()[:8] not in shown


def test_the_id_names_the_key_in_public():
    assert NoiseKey(bytes(range(100, 132))).id == "c0705406749fa7d5"
    assert NoiseKey(SECRET[::-1]).id != NoiseKey(SECRET).id
    assert bytes.fromhex(NoiseKey(SECRET).id) not in SECRET
