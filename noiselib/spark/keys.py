"""Row keys and units as 128 bits, in native Spark expressions: what tells rows apart in the noise stream."""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql import Column
from pyspark.sql import functions as F


def key_encoding(names: Sequence[str], types: dict[str, str], domain: str, hashed: bool = False) -> list[Column]:
    """The canonical encoding of a key: [id] where it is one whole number (unless `hashed`), else the two halves of a 128-bit hash.

    The hash is SHA-256, truncated, of each part's text behind its length in bytes, so that no two keys run into one
    another. Timestamps and dates enter as numbers: no time zone plays a part. Null where any part is null.
    """
    if len(names) == 1 and types[names[0]] in ("int32", "int64") and not hashed:
        return [F.col(quoted(names[0])).cast("bigint")]
    parts: list[Column] = [F.lit(domain)]
    for name in names:
        text = _key_text(F.col(quoted(name)), types[name])
        parts += [F.octet_length(text).cast("string"), F.lit(":"), text]
    return _hash_halves(F.concat(*parts))


def value_hash(name: str) -> list[Column]:
    """The two halves of the 128-bit hash of a value that gets a pseudonym. Not null: a null stays outside."""
    return _hash_halves(F.coalesce(F.col(quoted(name)).cast("string"), F.lit("")))


def local_micros(value: Column) -> Column:
    """Microseconds since 1970-01-01 00:00 on the clock that a timestamp without time zone shows, whatever the session's."""
    minutes = (F.unix_date(value.cast("date")).cast("bigint") * 24 + F.hour(value)) * 60 + F.minute(value)
    return minutes * 60_000_000 + (F.extract(F.lit("SECOND"), value) * 1_000_000).cast("bigint")


def quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def _key_text(value: Column, kind: str) -> Column:
    if kind == "timestamp":
        return F.unix_micros(value).cast("string")
    if kind == "timestamp_ntz":
        return local_micros(value).cast("string")
    if kind == "date":
        return F.unix_date(value).cast("string")
    return value.cast("string")


def _hash_halves(text: Column) -> list[Column]:
    """The first 128 bits of SHA-256 as two bigints, high half first."""
    digest = F.sha2(text.cast("binary"), 256)
    return [F.conv(F.substring(digest, start, 16), 16, -10).cast("bigint") for start in (1, 17)]
