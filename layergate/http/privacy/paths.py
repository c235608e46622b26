r"""Whether a target's path is one thing to everyone who reads it.

A rule gives a lifetime by path. A proxy in front, a router or an application behind may read the same
path in another way: it resolves dot segments, merges slashes, decodes once more, takes a backslash for a
slash, or cuts off what follows a semicolon. So ``/static/..%2faccount`` is covered by ``/static/*``, and
what answers is the account page (web cache deception). A rule's lifetime is not for such a target; what
the application itself says of its response holds.

`is_doubtful` is for every lifetime of a rule; `readings` and `doubled` for rules that are chosen by path,
which is not so next to a route. The plain paths, which are almost all, are recognised by one regular expression.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote

__all__ = ["doubled", "is_doubtful", "is_plain", "readings"]

_ROUNDS: Final = 5
"""How often a path is decoded. One that still changes then is doubtful."""
# No percent sign, semicolon, backslash or control character, no empty segment but the last, and none
# that begins with a dot.
_PLAIN: Final = re.compile(
    r"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9._~!$&'()*+,=:@-]*)*/?"
).fullmatch
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]").search
_SEPARATORS: Final = re.compile(r"[/\\]")
_SEVERAL: Final = re.compile(r"[/\\]{2,}")
_PARAMETERS: Final = re.compile(r";[^/\\]*")
_DOTS: Final = re.compile(r"\.+").fullmatch
_SEPARATOR_ESCAPES: Final = re.compile(r"%(?=2f|5c)", re.IGNORECASE)
# Dots and slashes in more octets than UTF-8 allows, and in the way of IIS.
_ODD: Final = re.compile(
    r"%c0%(?P<two>ae|af)|%c1%(?P<back>9c)|%e0%80%(?P<three>ae|af)|%u(?P<code>[0-9a-f]{4})",
    re.IGNORECASE,
)


def is_plain(path: str) -> bool:
    """True if nobody reads this path, as it came or decoded, as another one."""
    return _PLAIN(path) is not None


def is_doubtful(raw: str, path: str) -> bool:
    """True if a path has a dot segment or a control character, as it came (``raw``, taken for UTF-8), as the app gets it (``path``), or when it is decoded again and again."""
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
    """The other paths that a path without dot segments may be taken for.

    ``raw``: as it came, taken for UTF-8; ``path``: decoded, without ``root``, the prefix under
    which the application is mounted.
    """
    forms = [path]
    # An encoded slash or backslash is no separator to everyone.
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
    """True if a path, or the beginning of one, has two separators next to each other."""
    return _SEVERAL.search(head) is not None


def _merged(form: str) -> str:
    return _SEVERAL.sub("/", form.replace("\\", "/"))
