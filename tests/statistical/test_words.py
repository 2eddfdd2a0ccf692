"""The keyed words themselves: fair, independent bits, and no block twice in ten million, whatever rows, columns, counters
and releases they are of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from laws import DroppedBit, OneCounter, alarm, bit_dependence, chi_square, dependence, least, replaced, stream_of

from noiselib.noise import Stream

ROWS = 500_000
Change = Callable[[Stream], Stream]


def as_it_is(stream: Stream) -> Stream:
    return stream


def blocks(
    rows: int, change: Change = as_it_is, columns: str = "ab", releases: str = "12", id_mask: int = -1
) -> Iterator[np.ndarray]:
    """Five counters of so many rows, two columns and two releases."""
    for column, release in itertools.product(columns, releases):
        stream = change(stream_of(column, rows=rows, release=release, id_mask=id_mask))
        yield from (stream.words(counter) for counter in range(5))


def repeated(words: np.ndarray) -> int:
    """How many 128-bit blocks of (n, 2) words came before, seen after sorting by the first word."""
    ordered = words[np.argsort(words[:, 0])]
    return int((ordered[1:] == ordered[:-1]).all(1).sum())


def test_no_block_comes_twice_in_ten_million():
    words = np.concatenate(list(blocks(ROWS)))
    assert len(words) == 10_000_000
    assert repeated(words) == 0  # by chance with probability 10^14 / 2^129


@pytest.mark.parametrize(
    "planted",
    [
        {"change": lambda stream: replaced(stream, DroppedBit)},
        {"change": lambda stream: replaced(stream, OneCounter)},
        {"columns": "aa"},
        {"releases": "11"},
        {"id_mask": ~1},
        {"id_mask": 2**15 - 1},
    ],
    ids=[
        "dropped counter bit",
        "one counter",
        "one column",
        "one release",
        "dropped bit of the row key",
        "row key cut off",
    ],
)
def test_blocks_that_come_twice_are_seen(planted):
    assert repeated(np.concatenate(list(blocks(ROWS // 10, **planted)))) >= ROWS // 10


# ---- bits and bytes


def bits_of(words: np.ndarray) -> np.ndarray:
    return np.unpackbits(np.ascontiguousarray(words).view(np.uint8).reshape(len(words), -1), axis=1)


def test_all_bits_of_a_row_are_fair_and_independent_two_by_two():
    """Of four blocks: one, the next counter's, another column's and another release's."""
    stream = stream_of("a", rows=ROWS // 4)
    others = stream_of("b", rows=ROWS // 4), stream_of("a", rows=ROWS // 4, release="2")
    words = np.hstack([stream.words(0), stream.words(1), *(other.words(0) for other in others)])
    assert not alarm(bit_dependence(bits_of(words)))


def test_a_bit_that_is_another_is_seen():
    words = stream_of("a", rows=ROWS).words(0)
    words[:, 1] = words[:, 1] & ~np.uint64(1) | words[:, 0] >> np.uint64(40) & np.uint64(1)
    assert alarm(bit_dependence(bits_of(words)))


def test_a_bit_that_is_set_too_often_is_seen():
    """One row in fifty has its top bit set."""
    words = stream_of("a", rows=ROWS).words(0)
    words[::50, 0] |= np.uint64(2**63)
    assert alarm(bit_dependence(bits_of(words)))


def test_bytes_are_uniform():
    words = stream_of("a").words(0)
    counts = [np.bincount(column, minlength=256) for column in words.view(np.uint8).reshape(len(words), 16).T]
    assert not alarm(least(chi_square(one, np.full(256, len(words) / 256)) for one in counts))


def test_neighbouring_rows_values_and_counters_have_independent_words():
    stream, moved = stream_of("a", 42), stream_of("a", 43)
    first = stream.words(0).view(np.int64)
    pairs = {
        "counters": stream.words(1)[:, 0],
        "rows": np.roll(stream.words(0)[:, 0], 1),
        "halves": stream.words(0)[:, 1],
        "values": moved.words(0)[:, 0],
        "uses": stream.use("another").words(0)[:, 0],
    }
    assert {name for name, other in pairs.items() if alarm(dependence(first[:, 0], other.view(np.int64)))} == set()
