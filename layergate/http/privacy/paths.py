r"""Paths that different readers may understand differently.

A rule grants a lifetime by path. A proxy, a router or the application may read the same path differently:
it resolves dot segments, merges slashes, decodes once more, treats a backslash as a slash, or cuts off
everything after a semicolon. So ``/static/..%2faccount`` matches ``/static/*``, but the response is the
account page (web cache deception). A rule's lifetime does not apply to such a target; directives in the
application's own response still do.

`is_doubtful` applies to the lifetimes of all rules. `readings` and `doubled` apply to rules that are
chosen by path, not to those attached to a route. One regular expression recognizes plain paths, which
are almost all paths.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

__all__ = ["doubled", "is_doubtful", "is_plain", "readings"]

_ROUNDS: Final = 5
"""How often a path is decoded. A path that still changes afterwards is doubtful."""
# No percent sign, semicolon, backslash or control character; no empty segment except the last; no
# segment that begins with a dot.
_PLAIN: Final = re.compile(
    r"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,=:@-]*)*/?"
).fullmatch
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]").search
_SEPARATORS: Final = re.compile(r"[/\\]")
_SEVERAL: Final = re.compile(r"[/\\]{2,}")
_PARAMETERS: Final = re.compile(r";[^/\\]*")
_DOTS: Final = re.compile(r"\.+").fullmatch
_SEPARATOR_ESCAPES: Final = re.compile(r"%(?=2f|5c)", re.IGNORECASE)
# Dots and slashes in overlong UTF-8, and in the %u notation of IIS.
_ODD: Final = re.compile(
    r"%c0%(?P<two>ae|af)|%c1%(?P<back>9c)|%e0%80%(?P<three>ae|af)|%u(?P<code>[0-9a-f]{4})",
    re.IGNORECASE,
)


def is_plain(path: str) -> bool:
    """True if all readers understand this path, raw or decoded, in the same way."""
    return _PLAIN(path) is not None


def is_doubtful(raw: str, path: str) -> bool:
    """True if a path has a dot segment or a control character in any form.

    The forms are ``raw`` (as received, decoded as UTF-8), ``path`` (as the app gets it), and the results
    of decoding each of them repeatedly.
    """
    seen = [raw, path]
    for start in (raw, path):
        form = start
        for _ in range(_ROUNDS):
            decoded = _decoded(form)
            if decoded == form:
                break
            seen.append(decoded)
            form = decoded
        else:
            return True
    return any(_has_dots(form) for form in seen)


def _has_dots(form: str) -> bool:
    if _CONTROL(form):
        return True
    forms = [form] if form.isascii() else [form, unicodedata.normalize("NFKC", form)]
    return any(
        _DOTS(segment.partition(";")[0].strip(" "))
        for form in forms
        for segment in _SEPARATORS.split(form)
    )


def _decoded(path: str) -> str:
    return unquote(_ODD.sub(_plainly, path), errors="surrogateescape")


def _plainly(found: re.Match[str]) -> str:
    if found["code"]:
        return chr(int(found["code"], 16))
    if found["back"]:
        return "\\"
    return "." if (found["two"] or found["three"]).lower() == "ae" else "/"


def readings(raw: str, path: str, root: str) -> Iterator[str]:
    """The other paths that readers may understand, for a path without dot segments.

    ``raw``: as received, decoded as UTF-8. ``path``: percent-decoded, without ``root``, the prefix under
    which the application is mounted.
    """
    forms = [path]
    # Not every reader treats an encoded slash or backslash as a separator.
    kept = unquote(_SEPARATOR_ESCAPES.sub("%25", raw), errors="replace")
    if root and kept.startswith(root) and kept[len(root) : len(root) + 1] in ("", "/"):
        kept = kept[len(root) :] or "/"
    forms.append(kept)
    form = path
    for _ in range(_ROUNDS):
        decoded = _decoded(form)
        if decoded == form:
            break
        forms.append(decoded)
        form = decoded
    for form in dict.fromkeys(forms):
        cut = re.split(r"[?#]", form, maxsplit=1)[0]
        bare = _PARAMETERS.sub("", form)
        yield from (form, _merged(form), cut, bare, _merged(_PARAMETERS.sub("", cut)))


def doubled(head: str) -> bool:
    """True if a path, or the beginning of one, has two adjacent separators."""
    return _SEVERAL.search(head) is not None


def _merged(form: str) -> str:
    return _SEVERAL.sub("/", form.replace("\\", "/"))
