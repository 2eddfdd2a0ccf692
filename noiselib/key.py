"""The noise key: 32 random bytes, reached by reference only.

Whoever holds the key can take the noise off every release made with it. So the key itself never enters a spec, a command
line, a Spark conf or closure, a log or an artifact: only its reference (`file:PATH`, `env:NAME`) and its id do, and each
process that needs the key resolves the reference itself. `airflow:CONNECTION` is resolved by the DAG's tasks, which hand
the job a `file:` reference in its place.
"""

from __future__ import annotations

import base64
import binascii
import os
import stat
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from noiselib.errors import NoiseKeyError
from noiselib.noise.stream import derive

KEY_BYTES = 32
UNKNOWN = "unknown"  # the id of a key that is not at hand


@dataclass(frozen=True)
class NoiseKey:
    """A master noise key. `id` names it in public: 16 hex digits from which the key does not follow."""

    secret: bytes = field(repr=False)

    @property
    def id(self) -> str:
        return derive(self.secret, "noise key id")[:8].hex()


def load_key(reference: str) -> NoiseKey:
    """The key that `reference` (`file:PATH` or `env:NAME`) leads to. Raises NoiseKeyError; no message holds key material."""
    scheme, _, rest = reference.partition(":")
    if scheme == "file":
        return _decode(_read_key_file(Path(rest)), reference)
    if scheme == "env":
        text = os.environ.get(rest)
        if text is None:
            raise NoiseKeyError(f"key {reference}: environment variable {rest} is not set")
        return _decode(text, reference)
    if scheme == "airflow":
        raise NoiseKeyError(
            f"key {reference}: is known to Airflow's tasks only; expected --key file:PATH or --key env:NAME"
        )
    raise NoiseKeyError(f"key reference of scheme {scheme!r}: expected file:PATH or env:NAME")


def known_id(reference: str) -> str:
    """The key's id, or UNKNOWN: a plan without the key at hand is still a plan, which counts memoized columns anew."""
    try:
        return load_key(reference).id
    except NoiseKeyError:
        return UNKNOWN


def absolute(reference: str) -> str:
    """The reference, good in any working directory: a worker's is not the driver's."""
    scheme, _, rest = reference.partition(":")
    return f"file:{Path(rest).absolute()}" if scheme == "file" else reference


def create_key_file(path: Path) -> NoiseKey:
    """Write a new random key to `path` with mode 0600. An existing file is never replaced: its releases need it."""
    secret = os.urandom(KEY_BYTES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        if os.path.lexists(path):
            raise NoiseKeyError(f"key file {path}: exists already; a key is never overwritten") from None
        raise NoiseKeyError(f"key file {path}: cannot be written ({error.strerror})") from None
    try:
        _write(handle, base64.b64encode(secret) + b"\n")
    except BaseException as error:  # an interrupt too
        path.unlink(missing_ok=True)  # part of a key is none, and would stand in the way of the next try
        if isinstance(error, OSError):
            raise NoiseKeyError(f"key file {path}: cannot be written ({error.strerror})") from None
        raise
    return NoiseKey(secret)


def _write(handle: int, content: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _read_key_file(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise NoiseKeyError(f"key file {path}: not a regular file")
        if mode & 0o077:
            raise NoiseKeyError(
                f"key file {path}: mode {stat.S_IMODE(mode):04o} lets others read it; expected 0600 (chmod 600 {path})"
            )
        return path.read_text("ascii")
    except FileNotFoundError:
        raise NoiseKeyError(f"key file {path}: not found; make one with: noiselib keygen {path}") from None
    except (OSError, ValueError) as error:  # a ValueError: not ASCII, or no path at all
        raise NoiseKeyError(f"key file {path}: cannot be read as a key ({type(error).__name__})") from None


def _decode(text: str, reference: str) -> NoiseKey:
    try:
        secret = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raise NoiseKeyError(f"key {reference}: expected one line of base64") from None
    if len(secret) != KEY_BYTES:
        raise NoiseKeyError(f"key {reference}: {len(secret)} bytes; expected {KEY_BYTES}")
    if reason := _not_random(secret):
        raise NoiseKeyError(f"key {reference}: {reason}; make one with: noiselib keygen")
    return NoiseKey(secret)


def _not_random(secret: bytes) -> str | None:
    """Why these bytes were not drawn at random, where that shows. A random key is taken for such with probability < 2^-45."""
    if len(set(secret)) < 12:  # of 32 random bytes: below 2^-60
        return "too regular to be random"
    if len({(after - before) % 256 for before, after in pairwise(secret)}) == 1:  # counted up: 2^-240
        return "too regular to be random"
    if all(0x20 <= byte < 0x7F for byte in secret.removesuffix(b"\n")):  # 95 of 256: (95/256)^31 * 96/256 < 2^-45
        return "text, such as a passphrase or hexadecimal digits; expected random bytes"
    return None
