"""Which parts of fields, tags, keys and rules an explanation shows, and in what form.

Every value that reaches a `Step` from a request, a response or the store comes through here. Credentials
and cookies never do: neither a client's nor those that a response sets. Nor do bodies.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, Final

from layergate.config import Rule
from layergate.core.invalidation import Caught
from layergate.http.extensions.groups import group_name
from layergate.http.message.credentials import Credential, credential_of
from layergate.http.message.stored import PartialResponse

__all__ = [
    "caught_data",
    "digest",
    "field_text",
    "group_names",
    "is_secret",
    "path_text",
    "purge_text",
    "quoted",
    "rule_data",
    "seconds_text",
    "shown_lines",
    "shown_parts",
    "shown_tags",
    "shown_value",
]

_SECRET: Final = frozenset({b"authorization", b"set-cookie", b"set-cookie2"})
_HIDDEN: Final = "…"


# -- fields ----------------------------------------------------------------------------------------


def is_secret(name: bytes) -> bool:
    """True for a field whose value is a credential or a cookie."""
    return name in _SECRET or credential_of(name) is not Credential.NONE


def shown_lines(lines: Iterable[tuple[bytes, bytes]]) -> list[list[str]]:
    """Header lines, with the values of credentials and cookies replaced."""
    return [[field_text(name), shown_value(name, value)] for name, value in lines]


def shown_value(name: bytes, value: bytes) -> str:
    """The value of a field, or a placeholder for a secret one."""
    return _HIDDEN if is_secret(name) else field_text(value)


def field_text(raw: bytes) -> str:
    """A field's name, or a value that is not secret, as text."""
    return raw.decode("latin-1")


def path_text(path: str) -> str:
    """A decoded path, with octets that are not UTF-8 replaced."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


# -- tags and purges -------------------------------------------------------------------------------


def shown_tags(tags: Iterable[str]) -> list[str]:
    """The tags that a response was given. LayerGate's own, which begin with a NUL, are left out."""
    return [path_text(tag) for tag in tags if not tag.startswith("\0")]


def group_names(tags: Iterable[str]) -> list[str]:
    """The cache groups (RFC 9875) among these tags."""
    return [name for tag in tags if (name := group_name(tag)) is not None]


def caught_data(caught: Caught) -> dict[str, Any]:
    """A purge that has met an entry, as JSON."""
    # A pattern for the targets that No-Vary-Search makes equivalent ends in a NUL.
    (value,) = shown_tags([caught.value.removesuffix("\0")]) or [""]
    return {"kind": caught.kind, "value": value, "soft": caught.soft, "time": caught.time}


def purge_text(caught: Iterable[Caught]) -> str:
    """The purges that have met an entry: "by a purge of …"."""
    words = []
    for one in caught:
        soft = "a soft purge" if one.soft else "a purge"
        (value,) = shown_tags([one.value]) or [""]
        if one.kind == "log":
            words.append("by a purge that may have been missed (the log was lost or trimmed)")
        elif one.kind == "all":
            words.append(f"by {soft} of everything")
        elif one.kind == "tag" and (group := group_name(one.value)) is not None:
            words.append(f"by {soft} of the cache group {group!r}")
        elif one.kind == "tag" and not value:
            words.append("by a response that was stored instead")
        else:
            named = {"key": "the URL", "path": "the pattern", "glob": "the pattern"}
            words.append(f"by {soft} of {named.get(one.kind, 'the ' + one.kind)} {value!r}")
    return " and ".join(words)


# -- the rest --------------------------------------------------------------------------------------


def digest(key: bytes) -> str:
    """A name for a key that may be shown. Keys hold the request fields that a variant is selected by."""
    return blake2b(key, digest_size=16).hexdigest()


def shown_parts(stored: PartialResponse) -> list[list[int]]:
    """The first and last position of each stored part."""
    return [[first, first + len(octets) - 1] for first, octets in stored.parts]


def rule_data(rule: Rule) -> dict[str, Any]:
    """The options of a rule that differ from their defaults, as JSON."""
    plain = Rule(rule.path)
    data: dict[str, Any] = {"path": rule.path}
    for name in Rule.__slots__:
        value = getattr(rule, name)
        if value != getattr(plain, name):
            if isinstance(value, frozenset):
                value = sorted(value)
            elif isinstance(value, Mapping):
                value = {str(key): inner for key, inner in value.items()}
            data[name] = value
    return data


def quoted(names: Iterable[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def seconds_text(value: float) -> str:
    """Seconds with their unit, with one decimal unless they are whole."""
    return f"{value:.0f} s" if value == int(value) else f"{value:.1f} s"
