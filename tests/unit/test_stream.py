"""Keyed words against straight per-row computations with the standard library and single AES blocks."""

from __future__ import annotations

import hashlib
import hmac
import pickle

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from noiselib.noise import Stream, derive, encode_bigint, row_tags

MASTER = bytes(range(32))
EXTREMES = [-(2**63), -(2**63) + 1, -1, 0, 1, 977, 2**53 + 1, 2**63 - 1]
MASK = 2**64 - 1


def aes_block(key: bytes, low: int, high: int) -> tuple[int, int]:
    """AES-256 of one block of two little-endian words."""
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    block = encryptor.update(low.to_bytes(8, "little") + high.to_bytes(8, "little"))
    return int.from_bytes(block[:8], "little"), int.from_bytes(block[8:], "little")


def hkdf(key: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, no salt, one output block."""
    extracted = hmac.digest(bytes(32), key, hashlib.sha256)
    return hmac.digest(extracted, info + b"\x01", hashlib.sha256)


def stream_of(values: list[int]) -> Stream:
    tags = row_tags(derive(MASTER, "rows"), encode_bigint(np.array(EXTREMES[: len(values)])))
    return Stream(derive(MASTER, "column"), tags, np.array(values, np.int64))


def test_derive_is_hkdf_of_framed_parts():
    info = b"".join(len(part).to_bytes(8, "big") + part for part in (b"release", "año".encode(), b""))
    assert derive(MASTER, "release", "año", "") == hkdf(MASTER, info)


def test_derive_separates_tuples_that_concatenate_alike():
    tuples = [(), ("",), ("", ""), ("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("a", "b", "c")]
    assert len({derive(MASTER, *parts) for parts in tuples}) == len(tuples)


def test_bigints_are_encoded_injectively():
    blocks = encode_bigint(np.array(EXTREMES))
    assert [tuple(block) for block in blocks.tolist()] == [(0, i & MASK) for i in EXTREMES]


def test_row_tags_are_aes_blocks():
    key = derive(MASTER, "rows")
    tags = row_tags(key, encode_bigint(np.array(EXTREMES)))
    assert [tuple(tag) for tag in tags.tolist()] == [aes_block(key, 0, i & MASK) for i in EXTREMES]


@pytest.mark.parametrize("counter", [0, 1, 2**32, 2**64 - 1])
def test_words_are_aes_of_tag_xor_value_and_counter(counter: int):
    stream = stream_of(EXTREMES[::-1])
    expected = [
        aes_block(stream.key, low ^ (value & MASK), high ^ counter)
        for (low, high), value in zip(stream.tags.tolist(), stream.values.tolist(), strict=True)
    ]
    assert [tuple(words) for words in stream.words(counter).tolist()] == expected


def test_words_are_pinned():
    words = stream_of(EXTREMES).words(3)
    assert words.dtype == np.dtype("<u8")
    assert (
        hashlib.sha256(words.tobytes()).hexdigest()
        == "402b80b1dc319061b77f0119c22660ae00ff6a929bf89fba697a1b3dcbecd3c1"
    )


@pytest.mark.parametrize("rows", [np.array([5, 0, 0, 7]), np.array([], np.intp), slice(2, 6), slice(0, 8, 3)])
def test_a_row_has_the_same_words_in_any_company(rows):
    stream = stream_of(EXTREMES)
    expected = stream.words(9)[rows]
    np.testing.assert_array_equal(stream.words(9, rows), expected)
    np.testing.assert_array_equal(stream[rows].words(9), expected)
    assert len(stream[rows]) == len(expected)


def test_words_change_with_key_value_tag_and_counter():
    stream = stream_of([5] * 8)
    others = [
        Stream(derive(MASTER, "other"), stream.tags, stream.values).words(0),
        Stream(stream.key, stream.tags, stream.values + 1).words(0),
        Stream(stream.key, stream.tags ^ np.uint64(1), stream.values).words(0),
        stream.words(1),
    ]
    assert all((stream.words(0) != other).all() for other in others)
    assert len({tuple(words) for words in stream.words(0).tolist()}) == 8


def test_columns_that_are_not_contiguous_or_read_only_give_the_same_words():
    stream = stream_of(EXTREMES)
    wide = np.zeros((8, 4), np.uint64)
    wide[:, 1:3] = stream.tags
    values = np.repeat(stream.values, 2)
    values.flags.writeable = False
    np.testing.assert_array_equal(Stream(stream.key, wide[:, 1:3], values[::2]).words(1), stream.words(1))


def test_no_rows():
    empty = Stream(MASTER, row_tags(MASTER, encode_bigint(np.array([], np.int64))), np.array([], np.int64))
    assert empty.words(0).shape == (0, 2)


def test_repr_hides_the_key_and_the_values():
    assert repr(stream_of(EXTREMES)) == "Stream()"


def test_a_stream_can_be_pickled():
    stream = stream_of(EXTREMES)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(stream)).words(0), stream.words(0))


TAGS, VALUES = np.zeros((3, 2), np.uint64), np.zeros(3, np.int64)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: derive(b"short"), "key has 5 bytes, expected 32"),
        (lambda: row_tags(b"", TAGS), "key has 0 bytes, expected 32"),
        (lambda: row_tags(MASTER, TAGS[:, :1]), r"encoded=uint64\[3, 1\], expected uint64 of shape \(n, 2\)"),
        (lambda: encode_bigint(np.zeros(3)), r"ids=float64\[3\], expected int64"),
        (lambda: Stream(b"k", TAGS, VALUES), "key has 1 bytes, expected 32"),
        (lambda: Stream(MASTER, TAGS.view(np.int64), VALUES), r"tags=int64\[3, 2\], expected uint64"),
        (lambda: Stream(MASTER, TAGS, VALUES[:2]), r"values=int64\[2\], expected int64 of shape \(3,\)"),
        (lambda: Stream(MASTER, TAGS, VALUES.astype(float)), r"values=float64\[3\], expected int64"),
        (lambda: Stream(MASTER, TAGS, VALUES).words(-1), "counter=-1, expected 0 <= counter"),
        (lambda: Stream(MASTER, TAGS, VALUES).words(2**64), "counter=18446744073709551616, expected"),
    ],
)
def test_errors_name_parameter_value_and_expectation(call, message: str):
    with pytest.raises(ValueError, match=message):
        call()
