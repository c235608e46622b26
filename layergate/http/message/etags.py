"""Entity tags (RFC 9110 sections 8.8.3 and 13.1.2).

A tag is kept as its bytes, weakness prefix and quotes included. Origins send tags that are none
(``abc``, without quotes); they are compared like any other, byte for byte, and match only
themselves.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_weak", "parse_etag_list", "strong_match", "weak_match"]

# No quoted-string: a backslash is an ordinary character of a tag (8.8.3), a comma in it too. What
# is not a tag is taken up to the next comma.
_MEMBER: Final = re.compile(rb'[ \t,]*+((?:W/)?"[^"]*"|[^,]+)')


def parse_etag_list(value: bytes) -> list[bytes] | None:
    """The members of If-None-Match or If-Match, in order; None for ``*``, which matches anything.

    Garbage between the commas is kept as a member, empty members are not. ``*`` beside other
    members is malformed (13.1.2) and is left out.
    """
    # Without separators at the end every attempt of the pattern succeeds, which keeps it linear.
    value = value.strip(b" \t,")
    members = [stripped for member in _MEMBER.findall(value) if (stripped := member.strip(b" \t"))]
    if members == [b"*"]:
        return None
    return [member for member in members if member != b"*"]


def is_weak(tag: bytes) -> bool:
    """8.8.3: weak are those with the prefix ``W/`` "(case-sensitive)"."""
    return tag.startswith(b"W/")


def weak_match(a: bytes, b: bytes) -> bool:
    """8.8.3.2: "equivalent if their opaque-tags match character-by-character, regardless of either
    or both being tagged as "weak"". Nothing is equivalent to an empty value, which is no tag.
    """
    opaque = a.removeprefix(b"W/")
    return opaque == b.removeprefix(b"W/") and bool(opaque)


def strong_match(a: bytes, b: bytes) -> bool:
    """8.8.3.2: "equivalent if both are not weak and their opaque-tags match"."""
    return a == b and bool(a) and not is_weak(a)
