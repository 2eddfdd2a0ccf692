"""The regular expressions of checks, by RE2: it takes time linear in the text, whatever the pattern.

Java's, which Spark would use, backtracks: `(a+)+b` over thirty letters takes minutes, and every further letter twice that.
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def check_pattern(regex: str) -> None:
    """Raises ValueError for a pattern that RE2 does not know, such as one that looks behind or refers back, or is too large."""
    try:
        pc.match_substring_regex(pa.array([""]), regex)
    except (pa.ArrowException, UnicodeError) as error:
        reason = str(error).splitlines()[0][:120]
        raise ValueError(f"regex: {reason}; expected a regular expression in RE2's syntax") from None


def matches(values: pa.Array, regex: str) -> pa.Array:
    """Whether each string has a part that matches, booleans of the same length; null where it is null."""
    return pc.match_substring_regex(values, regex)
