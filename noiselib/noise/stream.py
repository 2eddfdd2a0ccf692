"""Keyed words: the noise of a row is a pseudo-random function of its key, its value and a counter. No state, no seed.

    release key = derive(master key, release id)             column key = derive(release key, column, use)
    row tag     = AES_row-key(128-bit encoding of the row key)                   once per row
    words       = AES_column-key(row tag XOR (value, counter))                   128 bits per counter

AES over distinct blocks is a PRF up to the birthday bound: after b blocks under one key an adversary without the key
tells the words from uniform ones with advantage at most b^2/2^129. Row tags are themselves pseudo-random, so that two
rows' blocks meet (whatever their values and counters) with that same probability.

Every word is little-endian by declaration, so the bits do not depend on the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

KEY_BYTES = 32
WORD = np.dtype("<u8")
Rows = NDArray[np.intp] | slice


def derive(key: bytes, *info: str) -> bytes:
    """The 32-byte key for one use, by HKDF-SHA256 without salt (RFC 5869).

    Each part of `info` is UTF-8 behind its length in 8 big-endian bytes, so no two tuples give the same bytes.
    Raises ValueError if `key` is not 32 bytes.
    """
    _check_key(key)
    parts = [part.encode() for part in info]
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=framed).derive(key)


def encode_bigint(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Row keys that are one bigint, int64 (n,), as blocks (0, id), uint64 (n, 2). Injective; nothing is hashed.

    Other row keys are 128-bit hashes, which could equal such a block. They never meet: a pipeline has one kind of row
    key, and each pipeline derives its own row key for `row_tags`.
    """
    if ids.ndim != 1 or ids.dtype != np.int64:
        raise ValueError(f"ids={ids.dtype}{list(ids.shape)}, expected int64 of shape (n,)")
    blocks = np.zeros((len(ids), 2), WORD)
    blocks[:, 1] = ids.view(np.uint64)
    return blocks


def row_tags(key: bytes, encoded: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One secret 128-bit tag per row: AES-256 of `encoded`, uint64 (n, 2); distinct row keys have distinct tags."""
    _check_key(key)
    _check_blocks("encoded", encoded)
    return _encrypt(key, np.ascontiguousarray(encoded, WORD))


@dataclass(frozen=True, eq=False)
class Stream:
    """The words of one column: `key` (32 bytes, never shown), `tags` uint64 (n, 2), `values` int64 (n,) on the lattice.

    One stream feeds one sampler. Two samplers on one stream would share their words: derive a key per column, and see `use`.
    Raises ValueError if a shape, a type or the key's length is wrong.
    """

    key: bytes = field(repr=False)
    tags: NDArray[np.uint64] = field(repr=False)
    values: NDArray[np.int64] = field(repr=False)

    def __post_init__(self) -> None:
        _check_key(self.key)
        _check_blocks("tags", self.tags)
        if self.values.shape != (len(self.tags),) or self.values.dtype != np.int64:
            found = f"{self.values.dtype}{list(self.values.shape)}"
            raise ValueError(f"values={found}, expected int64 of shape ({len(self.tags)},), one per tag")

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Rows) -> Stream:
        """The stream of some rows only, a slice or indexes; each keeps its words."""
        return Stream(self.key, self.tags[rows], self.values[rows])

    def use(self, name: str, values: NDArray[np.int64] | None = None) -> Stream:
        """A stream of its own for one more sampler on the same rows: another key, and other `values` if they are given."""
        return Stream(derive(self.key, "use", name), self.tags, self.values if values is None else values)

    def words(self, counter: int, rows: Rows | None = None) -> NDArray[np.uint64]:
        """128 bits per row, uint64 (m, 2): AES_key(tag XOR (value, counter)); of all rows, or those in `rows`.

        A row's words depend on its own tag and value and on `counter`, 0 to 2^64 - 1, never on the other rows.
        """
        if not 0 <= counter < 2**64:
            raise ValueError(f"counter={counter}, expected 0 <= counter < 2^64")
        chosen = slice(None) if rows is None else rows
        tags, values = self.tags[chosen], self.values[chosen]
        blocks = np.empty(tags.shape, WORD)
        np.bitwise_xor(tags[:, 0], values.view(np.uint64), out=blocks[:, 0])
        np.bitwise_xor(tags[:, 1], np.uint64(counter), out=blocks[:, 1])
        return _encrypt(self.key, blocks)


def _encrypt(key: bytes, blocks: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """AES-256 of each 16-byte block. ECB over blocks that are all distinct: a PRF in bulk, not a mode for messages."""
    size = blocks.nbytes
    out = np.empty(size + 15, np.uint8)  # update_into asks for a block's slack
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    encryptor.update_into(blocks.reshape(-1).view(np.uint8).data, out.data)
    return out[:size].view(WORD).reshape(-1, 2)


def _check_key(key: bytes) -> None:
    if len(key) != KEY_BYTES:
        raise ValueError(f"key has {len(key)} bytes, expected {KEY_BYTES}")


def _check_blocks(name: str, blocks: NDArray[np.uint64]) -> None:
    if blocks.ndim != 2 or blocks.shape[1] != 2 or blocks.dtype != np.uint64:
        raise ValueError(f"{name}={blocks.dtype}{list(blocks.shape)}, expected uint64 of shape (n, 2)")
