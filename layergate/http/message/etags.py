"""Entity tags (RFC 9110 sections 8.8.3 and 13.1.2).

Preconditions and validation compare tags here. A tag is its bytes, with the weakness prefix and the
quotes. Some origins send invalid tags, such as ``abc`` without quotes. Those are compared byte for byte
like any other, and match only themselves.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_weak", "parse_etag_list", "strong_match", "weak_match"]

# A tag is not a quoted-string: a backslash is an ordinary character of it, and so is a comma (8.8.3).
# Text that is not a tag extends to the next comma.
_MEMBER: Final = re.compile(rb'[ \t,]*+((?:W/)?"[^"]*"|[^,]+)')


def parse_etag_list(value: bytes) -> list[bytes] | None:
    """The members of If-None-Match or If-Match, in order; None for ``*``, which matches anything.

    Invalid text between commas counts as a member; empty members are dropped. ``*`` beside other
    members is malformed (13.1.2) and dropped.
    """
    # Without separators at the end every attempt of the pattern succeeds, which keeps it linear.
    value = value.strip(b" \t,")
    members = [stripped for member in _MEMBER.findall(value) if (stripped := member.strip(b" \t"))]
    if members == [b"*"]:
        return None
    return [member for member in members if member != b"*"]


def is_weak(tag: bytes) -> bool:
    """True for a tag with the prefix ``W/``, which 8.8.3 calls "case-sensitive"."""
    return tag.startswith(b"W/")


def weak_match(a: bytes, b: bytes) -> bool:
    """8.8.3.2: "equivalent if their opaque-tags match character-by-character, regardless of either
    or both being tagged as "weak"". An empty value is not a tag and never matches.
    """
    opaque = a.removeprefix(b"W/")
    return opaque == b.removeprefix(b"W/") and bool(opaque)


def strong_match(a: bytes, b: bytes) -> bool:
    """8.8.3.2: "equivalent if both are not weak and their opaque-tags match"."""
    return a == b and bool(a) and not is_weak(a)
