"""Requests and header lines that an operator describes in JSON or on a command line.

The admin endpoints and the ``layergate`` command build a `DescribedRequest` to explain, warm or purge
what such a request would meet. All input is checked here, and an `ExplainRefused` says what to write
instead. Nothing here sends a request.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, NamedTuple, Self

from layergate.errors import ExplainRefused
from layergate.http.message.fields import Lines
from layergate.http.message.uri import canonical_uri

__all__ = ["DescribedRequest", "checked_lines"]

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
_FORBIDDEN_IN_VALUE: Final = re.compile(r"[\r\n\0]").search
_NOT_URL_SAFE: Final = re.compile(r"[^\x21-\x7e]")


class DescribedRequest(NamedTuple):
    """A request as it would arrive over the wire.

    ``authority``, ``path``, ``query``: as written in the URL, except for the case of the host and a
    default port. ``lines`` always contain a Host, which may differ from ``authority``.
    """

    method: str
    scheme: str
    authority: str
    path: bytes
    query: bytes
    lines: Lines

    @classmethod
    def of(cls, method: Any, url: Any, headers: Any) -> Self:
        """``headers``: as for `checked_lines`. Raises ExplainRefused for a request that can't be sent."""
        if not isinstance(method, str) or not _TOKEN(method):
            raise ExplainRefused(f"method must be a method such as 'GET', got {method!r}")
        if not isinstance(url, str):
            raise ExplainRefused(f"url must be an absolute http(s) URL, got {url!r}")
        try:
            # Characters that a URL can't contain are sent in UTF-8, percent-encoded.
            sent = _NOT_URL_SAFE.sub(
                lambda char: "".join(f"%{byte:02X}" for byte in char[0].encode()), url
            )
        except UnicodeEncodeError:
            sent = ""
        canonical = canonical_uri(sent)
        if canonical is None:
            got = "one with '@'" if "@" in url else repr(url)  # never repeat a password
            raise ExplainRefused(
                f"url must be an absolute http(s) URL without a password, got {got}; write"
                " 'https://host/path'"
            )
        scheme, _, rest = canonical.partition("://")
        # The host as clients write it in Host; the rest byte for byte, because keys compare bytes.
        host = re.split("[/?]", rest, maxsplit=1)[0]
        target = re.split("[/?#]", sent.partition("://")[2], maxsplit=1)
        target_path = sent.partition("://")[2][len(target[0]) :].partition("#")[0]
        path, _, query = target_path.partition("?")
        lines = checked_lines(headers, "headers")
        if all(name != b"host" for name, _ in lines):
            lines.insert(0, (b"host", host.encode()))
        return cls(method, scheme, host, path.encode() or b"/", query.encode(), lines)


def checked_lines(headers: Any, what: str) -> Lines:
    """Header lines with lower-case names, from a mapping or a list of (name, value), all text.

    None means no lines. Raises ExplainRefused for a line that can't be sent; the message names
    ``what``.
    """
    lines: Lines = []
    pairs: Iterable[Any] = headers.items() if isinstance(headers, dict) else headers or []
    if isinstance(pairs, str | bytes) or not isinstance(pairs, Iterable):
        raise ExplainRefused(
            f"{what} must be an object or a list of [name, value], got {headers!r}"
        )
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ExplainRefused(f"{what} must hold [name, value] pairs, got {pair!r}")
        name, value = pair
        if not isinstance(name, str) or not _TOKEN(name):
            raise ExplainRefused(f"{what} must have names that HTTP allows, got {name!r}")
        if not isinstance(value, str) or _FORBIDDEN_IN_VALUE(value):
            # The message leaves out the value, which may be a secret.
            raise ExplainRefused(
                f"{what} must have text without line breaks as values, see {name!r}"
            )
        try:
            lines.append((name.lower().encode(), value.strip(" \t").encode("latin-1")))
        except UnicodeEncodeError:
            raise ExplainRefused(
                f"{what} must have values in latin-1, one character for each byte, see {name!r}"
            ) from None
    return lines
