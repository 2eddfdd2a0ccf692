"""A published value, worked out in plain Python from the key: what the Spark path must give, to the bit.

Written from the construction (HKDF, AES, SHA-256, lattices), one row at a time, with none of the package's code but the
samplers, which have their own tests.
"""

from __future__ import annotations

import hashlib
import hmac
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

Block = tuple[int, int]  # two words of 64 bits
MASK = 2**64 - 1


def derive(key: bytes, *info: str) -> bytes:
    """HKDF-SHA256 without salt (RFC 5869), one block of output."""
    framed = b"".join(len(part.encode()).to_bytes(8, "big") + part.encode() for part in info)
    extracted = hmac.new(bytes(32), key, hashlib.sha256).digest()
    return hmac.new(extracted, framed + b"\x01", hashlib.sha256).digest()


def aes(key: bytes, block: Block) -> Block:
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    out = encryptor.update(b"".join((word & MASK).to_bytes(8, "little") for word in block))
    return int.from_bytes(out[:8], "little"), int.from_bytes(out[8:], "little")


def hashed(text: bytes) -> Block:
    digest = hashlib.sha256(text).digest()
    return int.from_bytes(digest[:8], "big"), int.from_bytes(digest[8:16], "big")


def key_block(domain: str, *parts: Any) -> Block:
    """The 128 bits that stand for a key of several parts, or of one that is no whole number."""
    texts = [key_text(part).encode() for part in parts]
    return hashed(domain.encode() + b"".join(str(len(text)).encode() + b":" + text for text in texts))


def key_text(value: Any) -> str:
    if isinstance(value, datetime):
        return str(round((value - datetime(1970, 1, 1, tzinfo=value.tzinfo)).total_seconds() * 10**6))
    if isinstance(value, date):
        return str((value - date(1970, 1, 1)).days)
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


@dataclass
class Words:
    """The keyed words of some rows, as the samplers ask for them."""

    key: bytes
    tags: Sequence[Block]
    points: Sequence[int]

    def __len__(self) -> int:
        return len(self.tags)

    def __getitem__(self, rows: Any) -> Words:
        chosen = np.arange(len(self))[rows]
        return Words(self.key, [self.tags[i] for i in chosen], [self.points[i] for i in chosen])

    def words(self, counter: int, rows: Any = None) -> Any:
        part = self if rows is None else self[rows]
        blocks = [
            aes(self.key, (tag[0] ^ (point & MASK), tag[1] ^ counter))
            for tag, point in zip(part.tags, part.points, strict=True)
        ]
        return np.array(blocks, np.uint64).reshape(-1, 2)


def noise(key: bytes, tag_key: bytes, block: Block, point: int, law: Any) -> int:
    """One draw for the row (or unit) that `block` stands for."""
    return int(law.sample(Words(key, [aes(tag_key, block)], [point]))[0])


def release_noise(
    master: bytes, release_id: str, column: str, law_text: str, block: Block, point: int, law: Any
) -> int:
    release = derive(master, "release", release_id)
    return noise(derive(release, "column", column, law_text), derive(release, "row"), block, point, law)


def memo_noise(master: bytes, pipeline: str, column: str, law_text: str, block: Block, point: int, law: Any) -> int:
    key = derive(master, "memo", pipeline, column, law_text)
    return noise(key, derive(master, "memo unit", pipeline, column), block, point, law)


def pseudonym(master: bytes, pipeline: str, column: str, value: Any) -> str:
    block = aes(derive(master, "pseudonym", pipeline, column), hashed(str(value).encode()))
    return "".join(word.to_bytes(8, "little").hex() for word in block)


# ---- lattices


def fine_step(scale: float) -> float:
    """The power of two of which `scale` is 2^18 to 2^19."""
    return float(2.0 ** (math.floor(math.log2(scale)) - 18))


def float_point(value: float, bounds: tuple[float, float] | None, step: float) -> int:
    if bounds is not None:
        value = min(max(value, bounds[0]), bounds[1])
    return round(value / step)


def whole_point(value: int | Decimal, bounds: tuple[float, float] | None, step: Fraction) -> int:
    """To the nearest multiple of `step`, halves up."""
    number = Fraction(value)
    if bounds is not None:
        number = min(max(number, Fraction(str(bounds[0]))), Fraction(str(bounds[1])))
    return math.floor(number / step + Fraction(1, 2))
