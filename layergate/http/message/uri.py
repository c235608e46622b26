"""http and https URIs, normalized for cache keys and purges (RFC 9110 section 4.2, RFC 3986).

URIs are ``str``. Callers that have bytes decode them as latin-1, which keeps every byte.

A *label* is the form of a URL that purges by URL, prefix and pattern match. Keys separate all targets
that the app can distinguish (G9). Labels do the opposite: all spellings that an app, a server or a
browser may treat as one URL have the same label, so a purge of one spelling reaches the responses that
are stored under the others. A purge may remove too much, but never too little. `label` makes the label
of a URI; `label_prefix` and `label_pattern` make the prefixes and patterns to compare with it. No other
module decides what a label is.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from ipaddress import IPv6Address
from typing import Final
from urllib.parse import quote_from_bytes, unquote_to_bytes

__all__ = [
    "canonical_uri",
    "label",
    "label_authority",
    "label_pattern",
    "label_prefix",
    "normalized",
    "origin_of",
    "resolve_uri",
    "twin",
    "uri_label",
]

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}

# RFC 3986 appendix B: splits any string at all.
_PARTS: Final = re.compile(
    r"(?:([^:/?#]+):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#.*)?", re.DOTALL
)
# RFC 3986 3.2.2, ASCII only: a name in other letters belongs in a URI only as Punycode.
_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]+)(?::([0-9]*))?")
_NUMBER: Final = re.compile(r"0x[0-9a-f]*|[0-9]+").fullmatch
_ENCODED: Final = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED: Final = re.compile(r"[A-Za-z0-9._~-]")
# No request target can contain these (RFC 9112 3.2), so no stored response has them in its URI.
_NOT_IN_URI: Final = re.compile(r"[\x00-\x20\x7f]")


def origin_of(uri: str) -> tuple[str, str, int] | None:
    """Scheme, host and port, normalized as in RFC 9110 4.3.1; None if ``uri`` is not an http(s) URI.

    Also None with userinfo. RFC 9110 4.2.4, "a recipient SHOULD parse for userinfo and treat
    its presence as an error".
    """
    parts = _PARTS.fullmatch(uri)
    return None if parts is None else _origin(parts[1], parts[2])


def _origin(scheme: str | None, authority: str | None) -> tuple[str, str, int] | None:
    if scheme is None or authority is None:
        return None
    scheme = scheme.lower()
    default = _DEFAULT_PORTS.get(scheme)
    match = _HOST_PORT.fullmatch(authority)
    if default is None or match is None:
        return None
    # "normalizing the port to remove any leading zeros. If port is elided from the URI, the default
    # port for that scheme is used."
    digits = (match[2] or "").lstrip("0")
    if len(digits) > 5:
        return None
    port = int(digits) if digits else (0 if match[2] else default)
    return None if port > 65535 else (scheme, _host(match[1]), port)


@lru_cache(maxsize=1024)
def _host(text: str) -> str:
    """A host in the spelling that browsers show and send (WHATWG URL, "host parsing").

    Lower case, without a final dot; IP addresses in canonical form, non-ASCII names in Punycode.
    """
    host = text.lower()
    if host.startswith("["):
        try:
            return f"[{_compressed(IPv6Address(host[1:-1]))}]"
        except ValueError:
            return host
    if "%" in host or not host.isascii():
        host = _ascii(host)
    if host.endswith(".") and len(host) > 1:
        host = host[:-1]
    return _ipv4(host) or host


def _ascii(host: str) -> str:
    """A host with percent-encoded or non-ASCII letters, as DNS queries spell it."""
    try:
        name = unquote_to_bytes(host).decode() if host.isascii() else host
    except UnicodeDecodeError:
        return host
    name = unicodedata.normalize("NFKC", name).lower()
    labels = re.split("[.\u3002\uff0e\uff61]", name)
    return ".".join(
        one if one.isascii() else "xn--" + one.encode("punycode").decode() for one in labels
    )


def _ipv4(host: str) -> str | None:
    """The dotted decimal form of an IPv4 address in any notation ("0x7f.1"); None for a name."""
    parts = host.split(".")
    if len(parts) > 4 or not all(map(_NUMBER, parts)):
        return None
    numbers = [
        int(part[2:] or "0", 16)
        if part[:2] == "0x"
        else int(part, 8 if part[0] == "0" and not set(part) & {"8", "9"} else 10)
        for part in parts
    ]
    *most, last = numbers
    if any(number > 255 for number in most) or last >= 256 ** (5 - len(numbers)):
        return None
    value = last + sum(number << (24 - 8 * at) for at, number in enumerate(most))
    return ".".join(str(value >> shift & 255) for shift in (24, 16, 8, 0))


def _compressed(address: IPv6Address) -> str:
    """The form that browsers show. Python's own form of IPv4-mapped addresses differs by version."""
    words = [int.from_bytes(address.packed[at : at + 2]) for at in range(0, 16, 2)]
    best = at = 0
    start = -1
    while at < 8:
        stop = at
        while stop < 8 and not words[stop]:
            stop += 1
        if stop - at > max(best, 1):
            best, start = stop - at, at
        at = stop + 1
    texts = [f"{word:x}" for word in words]
    if start < 0:
        return ":".join(texts)
    return ":".join(texts[:start]) + "::" + ":".join(texts[start + best :])


def canonical_uri(uri: str) -> str | None:
    """The canonical form of a URI, for comparison; None if it is not a usable http(s) URI.

    RFC 9110 4.2.3: scheme and host in lower case, no default port, no fragment, "/" for an empty path;
    and a single percent-encoding (see `normalized`). Path and query are otherwise unchanged: if they
    differ in any character, they may be different resources to the app.
    """
    parts = _PARTS.fullmatch(uri)
    if parts is None or _NOT_IN_URI.search(uri):
        return None
    return _join(_origin(parts[1], parts[2]), parts[3], parts[4])


def _join(origin: tuple[str, str, int] | None, path: str, query: str | None) -> str | None:
    if origin is None:
        return None
    scheme, host, port = origin
    authority = host if port == _DEFAULT_PORTS[scheme] else f"{host}:{port}"
    query = "" if query is None else "?" + query
    return normalized(f"{scheme}://{authority}{path or '/'}{query}")


def normalized(uri: str) -> str:
    """``uri`` with equivalent percent-encodings written in one way (RFC 3986 6.2.2): hexadecimal digits
    in upper case, unreserved characters unencoded."""
    return _ENCODED.sub(_one_way, uri) if "%" in uri else uri


def _one_way(encoded: re.Match[str]) -> str:
    char = chr(int(encoded[1], 16))
    return char if _UNRESERVED.fullmatch(char) else encoded[0].upper()


def resolve_uri(base: str, reference: str) -> str | None:
    """``reference`` resolved against ``base`` (RFC 3986 5.2.2), canonical; None if unusable.

    ``base`` is an absolute http(s) URI.
    """
    b, r = _PARTS.fullmatch(base), _PARTS.fullmatch(reference)
    if b is None or r is None or _NOT_IN_URI.search(base) or _NOT_IN_URI.search(reference):
        return None
    scheme, authority, path, query = r[1] or b[1], r[2], r[3], r[4]
    if r[1] is None and authority is None:
        authority = b[2]
        if not path:
            return _join(_origin(scheme, authority), b[3], b[4] if query is None else query)
        if not path.startswith("/"):
            # 5.2.3: an empty base path counts as "/".
            path = (b[3].rpartition("/")[0] + "/" + path) if "/" in b[3] else "/" + path
    return _join(_origin(scheme, authority), _without_dots(path), query)


def _without_dots(path: str) -> str:
    """RFC 3986 5.2.4, for a path that is empty or starts with a slash."""
    if "/." not in path:
        return path
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in {".", ".."}:
        kept.append("")
    return "/" + "/".join(kept)


# -- labels ----------------------------------------------------------------------------------------

# A path and a query that need no change.
_PLAIN_PATH: Final = re.compile(
    r"(?:/[A-Za-z0-9!$&'()*+,;=:@_~-][A-Za-z0-9!$&'()*+,;=:@._~-]*)*/?"
).fullmatch
_PLAIN_QUERY: Final = re.compile(r"[A-Za-z0-9!$'()*,;:@/?&=._~-]*").fullmatch
_PATH_SAFE: Final = "/!$&'()*+,;=:@-._~"
_QUERY_SAFE: Final = "!$'()*,;:@/?&=-._~"
_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/*[^/?#]*")
_CUT_SHORT: Final = re.compile(r"%[0-9A-Fa-f]?(?=\*)|%[0-9A-Fa-f]?\Z")
_DEFAULTS: Final = frozenset({":80", ":443", ":"})


def label(scheme: str, authority: str, path: str, query: str = "") -> str:
    """The label of a request target or URI, from its parts. ``query``: without its "?"."""
    path, cut = _label_path(path)
    uri = f"{scheme.lower()}://{label_authority(authority)}{path}"
    query = "" if cut else _label_query(query)
    return f"{uri}?{query}" if query else uri


def uri_label(uri: str) -> str:
    """The label of an absolute URI."""
    parts = _PARTS.fullmatch(uri)
    assert parts is not None  # it splits anything
    return label(parts[1] or "", parts[2] or "", parts[3], parts[4] or "")


def twin(label: str) -> str | None:
    """The same label with the other scheme, http or https; None if the scheme is neither."""
    scheme, colon, rest = label.partition(":")
    other = {"http": "https", "https": "http"}.get(scheme)
    return None if other is None else other + colon + rest


@lru_cache(maxsize=1024)
def label_authority(text: str) -> str:
    """Host and port of a label, without a port that is the default of *either* scheme.

    Behind a TLS terminator, an app may see one scheme with the other scheme's port.
    """
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        return text.lower()
    port = "" if match[2] is None else ":" + match[2].lstrip("0")
    return _host(match[1]) + ("" if port in _DEFAULTS else port)


def _label_path(path: str, *, partial: bool = False) -> tuple[str, bool]:
    """The path of a label, with as few escapes as possible and without empty and dot segments.

    The second value is True if the path ended at a "#". ``partial``: ``path`` is only the beginning of
    a path.
    """
    if path and _PLAIN_PATH(path):
        return path, False
    if path[:1] != "/":
        # The absolute form of a target (RFC 9112 3.2.2), from a server that passes it on.
        absolute = _ABSOLUTE.match(path)
        path = path[absolute.end() :] if absolute is not None else path
    octets = unquote_to_bytes(path.encode("latin-1", "surrogateescape"))
    octets, hash_, _ = octets.partition(b"#")
    if hash_:
        partial = False
    # Browsers treat a backslash as a slash.
    *before, last = octets.replace(b"\\", b"/").removeprefix(b"/").split(b"/")
    kept: list[bytes] = []
    for segment in before:
        if segment == b"..":
            del kept[-1:]
        elif segment not in (b"", b"."):
            kept.append(segment)
    if not partial and last in (b".", b".."):
        if last == b"..":
            del kept[-1:]
        last = b""
    kept.append(last)
    return "/" + quote_from_bytes(b"/".join(kept), safe=_PATH_SAFE), bool(hash_)


def _label_query(query: str) -> str:
    """The query of a label, with as few escapes as possible.

    In forms "+" is a space and "%2B" is a plus; elsewhere "+" and "%2B" are the same. So labels treat
    all three alike.
    """
    if _PLAIN_QUERY(query):
        return query
    octets = unquote_to_bytes(query.encode("latin-1", "surrogateescape"))
    return quote_from_bytes(octets.partition(b"#")[0].replace(b"+", b" "), safe=_QUERY_SAFE)


def label_prefix(scheme: str, rest: str) -> str | None:
    """The common prefix of the labels of all URIs that begin with ``scheme://rest``.

    None if ``rest`` has no authority. If ``rest`` ends within an escape or a segment, other labels have
    this prefix too.
    """
    match = re.match(r"[^/?#]+", rest)
    if match is None:
        return None
    path, question, query = rest[match.end() :].partition("?")
    uri = f"{scheme.lower()}://{label_authority(match[0])}"
    if question:
        path, cut = _label_path(path)
        return uri + path if cut else f"{uri}{path}?{_label_query(_CUT_SHORT.sub('', query))}"
    return uri + _label_path(_CUT_SHORT.sub("", path), partial=True)[0]


def label_pattern(pattern: str) -> str | None:
    """A pattern that matches the labels of all URIs that ``pattern`` matches.

    ``*`` stands for any run of characters. A pattern that begins with "/" matches from the path on. None
    if ``pattern`` is undefined, because a ``..`` follows a segment with a star.
    """
    before, scheme, rest = pattern.partition("://")
    start = ""
    if scheme and "/" not in before:
        match = re.match(r"[^/?#]*", rest)
        assert match is not None
        authority = match[0] if "*" in match[0] else label_authority(match[0])
        if authority.endswith((":80", ":443")):  # after a star
            authority = authority.rpartition(":")[0]
        start, rest = f"{before.lower()}://{authority.lower()}", rest[match.end() :]
        if not rest:
            return start if start.endswith("*") else start + "/"
    else:
        rest = pattern
    path, question, query = _CUT_SHORT.sub("", rest).partition("?")
    if "*" in path and re.search(r"\*.*/(?:\.|%2[Ee]){2}(?:/|\Z)", path):
        return None
    star = path[:1] == "*"
    label, cut = _label_path("/" + path if star else path)
    start += label[1:] if star else label
    return start if cut or not question else f"{start}?{_label_query(query)}"
