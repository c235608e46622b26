"""Tokens made for one client: CSRF tokens, and the nonces of a Content-Security-Policy.

A response with such a token is useless to other clients, and dangerous: a client with another client's
CSRF token may be unable to post, and a nonce that everybody receives protects nothing. If the app says
``public, max-age=60``, it has decided. A lifetime from a rule or a heuristic comes from someone who may
not know what middleware adds to the page, so it does not apply to a response with a token.

The search covers the response's head, the values that outer middleware left for the app (`is_token`),
and complete content that is a page or JSON. It takes time linear in the text. Content in a coding that
can't be decoded here counts as having a token.
"""

from __future__ import annotations

import re
import zlib
from typing import Any, Final

from layergate.http.message.fields import Fields

__all__ = ["TOKEN_NAMES", "has_token", "head_has_token", "is_token", "may_have_token"]

_POLICIES: Final = (b"content-security-policy", b"content-security-policy-report-only")
_NAMES: Final = ("csrf", "xsrf", "nonce")
_MAX_NAMES: Final = 4096
_PAGES: Final = frozenset({b"text/html", b"application/xhtml+xml"})
_WORDS: Final = (b"csrf", b"xsrf", b"nonce", b"token")
_CANDIDATES: Final = (
    2000  # candidates examined in one page; a page with more counts as having a token
)
_TAGS: Final = re.compile(rb"<(input|button|meta|script|style|link)\b([^<>]{0,8192})")
_NAME: Final = re.compile(rb"\b(?:name|id|property|http-equiv)\s*=\s*[\"']?([^\s\"'>]+)")
_VALUE: Final = re.compile(rb"\b(?:value|content)\s*=\s*(?:\"[^\"]|'[^']|[^\s\"'>])")
_NONCE: Final = re.compile(rb"\bnonce\s*=\s*[\"']?[\w+/=-]")
_POLICY_NONCE: Final = re.compile(rb"nonce-[\w+/=-]")
_QUOTE: Final = rb"(?:[\"']|&quot;|&#34;|&#39;|&#x27;|\\\")"
# In a script, in JSON or in an attribute: csrfToken = "…", "X-CSRFToken": "…", data-csrf="…".
_SAID: Final = re.compile(
    rb".srf[\w.-]{0,64}+%b?\]?\s{0,8}+[:=]\s{0,8}+%b([^\s\"'<>&\\]{1,512}+)" % (_QUOTE, _QUOTE)
)
# In a link: ?csrf_token=…
_BEFORE: Final = re.compile(rb"[?&;][\w-]{0,32}\Z")
_IN_QUERY: Final = re.compile(rb".srf[\w-]{0,32}+=[\w%.-]{6}")
_CODINGS: Final = frozenset({b"gzip", b"x-gzip", b"deflate"})
_MOST: Final = 16 * 1024 * 1024  # bytes of decompressed content


class _Named(dict[Any, bool]):
    """A memo: True for a name under which a scope or an environ holds a token.

    Header fields in an environ never count. Clients can choose names, so the memo is bounded in number
    and length.
    """

    def __missing__(self, name: Any) -> bool:
        if not isinstance(name, str) or name[:5] == "HTTP_":
            return False
        named = any(word in name.lower() for word in _NAMES)
        if len(self) < _MAX_NAMES and len(name) <= 64:
            self[name] = named
        return named


TOKEN_NAMES: Final = _Named()


def is_token(value: Any) -> bool:
    """True if the value under such a name is a token, or a function that makes one."""
    return bool(value) and (isinstance(value, str | bytes) or callable(value))


def head_has_token(fields: Fields) -> bool:
    """True if the head of a response has a nonce or a CSRF token."""
    for name in _POLICIES:
        if name in fields and any(b"nonce-" in value.lower() for value in fields.all(name)):
            return True
    if b"link" in fields and any(_NONCE.search(value.lower()) for value in fields.all(b"link")):
        return True
    names = b" ".join(fields.names())
    return b"csrf" in names or b"xsrf" in names


def may_have_token(fields: Fields) -> bool:
    """True if the content of a response with this head has to be searched."""
    return _kind(fields) is not None


def _kind(fields: Fields) -> bool | None:
    """True for a page, False for JSON, None for anything else."""
    media_type = (fields.first(b"content-type") or b"").partition(b";")[0].strip().lower()
    if media_type in _PAGES:
        return True
    return False if media_type == b"application/json" or media_type.endswith(b"+json") else None


def has_token(fields: Fields, content: bytes) -> bool:
    """True if ``content``, all or the beginning of a response with this head, has a token."""
    page = _kind(fields)
    if page is None or not content:
        return False
    plain = _decoded(fields, content)
    if plain is None:
        return True
    text = plain.lower()
    return any(word in text for word in _WORDS) and _found(text, page=page)


def _decoded(fields: Fields, content: bytes) -> bytes | None:
    """The decoded content; None if it can't be decoded."""
    coding = (fields.get(b"content-encoding") or b"identity").strip().lower()
    if coding == b"identity":
        return content
    if coding not in _CODINGS:
        return None
    try:
        reader = zlib.decompressobj(47)  # with gzip's header or zlib's
        plain = reader.decompress(content, _MOST)
    except zlib.error:
        return None
    return None if reader.unconsumed_tail else plain


def _found(text: bytes, *, page: bool) -> bool:
    """``text``: in lower case."""
    left = _CANDIDATES
    if page:
        for tag in _TAGS.finditer(text):
            if any(word in tag[2] for word in _WORDS):
                left -= 1
                if not left or _tag_has_token(tag[1], tag[2]):
                    return True
    for name in (b"csrf", b"xsrf"):
        at = text.find(name)
        while at >= 0:
            left -= 1
            if left <= 0 or _said_at(text, at, page=page):
                return True
            at = text.find(name, at + 4)
    return False


def _said_at(text: bytes, at: int, *, page: bool) -> bool:
    """True if the text at this position names a token and gives its value."""
    said = _SAID.match(text, at)
    if said is not None:
        # A value with such a name in it is the name of a cookie or a field, not a token.
        return b"csrf" not in said[1] and b"xsrf" not in said[1]
    return (
        page
        and _IN_QUERY.match(text, at) is not None
        and _BEFORE.search(text[max(0, at - 33) : at]) is not None
    )


def _tag_has_token(tag: bytes, attributes: bytes) -> bool:
    if tag in (b"script", b"style", b"link"):
        return b"nonce" in attributes and _NONCE.search(attributes) is not None
    named = b" ".join(_NAME.findall(attributes))
    if b"content-security-policy" in named:
        return _POLICY_NONCE.search(attributes) is not None
    if not any(word in named for word in (b"csrf", b"xsrf", b"nonce")) and (
        b"token" not in named or (tag == b"meta" and b"authenticity" not in named)
    ):
        return False
    return _VALUE.search(attributes) is not None
