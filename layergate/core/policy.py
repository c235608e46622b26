"""How one value is to be cached: the options of a read or write, checked once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypedDict

from layergate.core.layer import Key, Layer
from layergate.errors import ConfigError, KeyRefused

__all__ = [
    "MAX_KEY_BYTES",
    "MAX_TAGS",
    "MAX_TAG_LENGTH",
    "Options",
    "Policy",
    "Tags",
    "TimeToLive",
    "checked_key",
    "checked_tags",
]

MAX_KEY_BYTES: Final = 4096
MAX_TAGS: Final = 64
MAX_TAG_LENGTH: Final = 256
MAX_SECONDS: Final = 2**31  # 68 years, which RFC 9111 1.2.2 takes for infinity

TimeToLive: TypeAlias = float | Mapping[str, float]
Tags: TypeAlias = Iterable[str] | Callable[[Any], Iterable[str]]


class Options(TypedDict, total=False):
    """The keyword options of `get`, `mget` and `wrap`. See `Loader.get` for their meaning."""

    ttl: TimeToLive | None
    tags: Tags
    stale_while_revalidate: float
    stale_if_error: float
    negative_ttl: float | None
    jitter: float
    refresh_ahead: float | None
    soft_timeout: float | None
    timeout: float | None


def checked_key(key: Any) -> None:
    """Raises KeyRefused unless ``key`` is a non-empty str or bytes of at most 4096 bytes."""
    if isinstance(key, str):
        # A character is at most four bytes, so most keys need not be encoded to know that they fit.
        size = len(key)
        if size * 4 > MAX_KEY_BYTES:
            size = len(key.encode("utf-8", "surrogatepass"))
    elif isinstance(key, bytes):
        size = len(key)
    else:
        raise KeyRefused(f"key must be str or bytes, got {type(key).__name__}; convert it first")
    if not size:
        raise KeyRefused("key must not be empty")
    if size > MAX_KEY_BYTES:
        raise KeyRefused(f"key must be at most {MAX_KEY_BYTES} bytes, got {size}; use a hash of it")


def checked_tags(tags: Any) -> tuple[str, ...]:
    """The tags without duplicates. Raises KeyRefused for one that cannot be a tag."""
    if isinstance(tags, (str, bytes)) or not isinstance(tags, Iterable):
        raise KeyRefused(f"tags must be a list of str, got {tags!r}; write [{tags!r}]")
    distinct = tuple(dict.fromkeys(tags))
    if len(distinct) > MAX_TAGS:
        raise KeyRefused(f"tags must be at most {MAX_TAGS}, got {len(distinct)}")
    for tag in distinct:
        if not isinstance(tag, str) or not 0 < len(tag) <= MAX_TAG_LENGTH:
            shown = tag if not isinstance(tag, str) else tag[:40]
            raise KeyRefused(
                f"a tag must be a str of 1 to {MAX_TAG_LENGTH} characters, got {shown!r}"
            )
    return distinct


def _seconds(option: str, value: Any, remedy: str, *, zero: bool = False) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or value < 0
        or (value == 0 and not zero)
        or value > MAX_SECONDS
    ):
        least = "at least 0" if zero else "more than 0"
        raise ConfigError(
            f"{option} must be {least} and at most 2**31 seconds, got {value!r}; {remedy}"
        )
    return float(value)


def _fraction(option: str, value: Any, remedy: str, *, zero: bool) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not (0 <= value < 1 if zero else 0 < value < 1)
    ):
        least = "at least 0" if zero else "more than 0"
        raise ConfigError(
            f"{option} must be a fraction, {least} and less than 1, got {value!r}; {remedy}"
        )
    return float(value)


class Policy:
    """Checked options, with the same meaning as for `Loader.get`.

    ``ttl``        seconds; the longest lifetime.
    ``per_layer``  seconds by layer name, if ``ttl`` was given per layer; else None.
    ``tags``       the tags, if they do not depend on the value.
    ``tag_of``     a function from a value to its tags; else None.

    Raises ConfigError or KeyRefused, naming the option.
    """

    __slots__ = (
        "force",
        "jitter",
        "negative_ttl",
        "per_layer",
        "refresh_ahead",
        "soft_timeout",
        "stale_if_error",
        "stale_while_revalidate",
        "tag_of",
        "tags",
        "timeout",
        "ttl",
    )

    def __init__(
        self,
        layers: Sequence[Layer],
        default_ttl: float | None,
        *,
        ttl: TimeToLive | None = None,
        tags: Tags = (),
        stale_while_revalidate: float = 0.0,
        stale_if_error: float = 0.0,
        negative_ttl: float | None = None,
        jitter: float = 0.0,
        refresh_ahead: float | None = None,
        soft_timeout: float | None = None,
        timeout: float | None = None,
        force: bool = False,
    ) -> None:
        self.per_layer: Mapping[str, float] | None = None
        if ttl is None:
            self.ttl = _layers_own_ttl(layers) if default_ttl is None else default_ttl
        elif isinstance(ttl, Mapping):
            self.per_layer = _per_layer(ttl, layers)
            self.ttl = max(self.per_layer.values())
        else:
            self.ttl = _seconds("ttl", ttl, "to not cache at all, call the fetch yourself")
        self.tag_of: Callable[[Any], Iterable[str]] | None = None
        self.tags: tuple[str, ...] = ()
        if callable(tags):
            self.tag_of = tags
        elif tags:
            self.tags = checked_tags(tags)
        self.stale_while_revalidate = _seconds(
            "stale_while_revalidate", stale_while_revalidate, "use 0 for no window", zero=True
        )
        self.stale_if_error = _seconds(
            "stale_if_error", stale_if_error, "use 0 for no window", zero=True
        )
        self.negative_ttl = negative_ttl
        if negative_ttl is not None:
            self.negative_ttl = _seconds(
                "negative_ttl",
                negative_ttl,
                "use 0 to not cache None, or None to use ttl",
                zero=True,
            )
        self.jitter = _fraction("jitter", jitter, "use 0 for no jitter", zero=True)
        self.refresh_ahead = refresh_ahead
        if refresh_ahead is not None:
            self.refresh_ahead = _fraction(
                "refresh_ahead", refresh_ahead, "use None for no refresh ahead", zero=False
            )
        self.soft_timeout = soft_timeout
        if soft_timeout is not None:
            self.soft_timeout = _seconds(
                "soft_timeout", soft_timeout, "use None for no soft timeout", zero=True
            )
        self.timeout = timeout
        if timeout is not None:
            self.timeout = _seconds("timeout", timeout, "use None to wait without limit")
        if not isinstance(force, bool):
            raise ConfigError(
                f"force must be True or False, got {force!r}; leave it out to use False"
            )
        self.force = force

    def copy(self, **changes: Any) -> Policy:
        """The same options with some attributes changed. The changes are not checked."""
        other = object.__new__(Policy)
        for name in self.__slots__:
            setattr(other, name, changes[name] if name in changes else getattr(self, name))
        return other

    def tags_of(self, value: Any) -> tuple[str, ...]:
        """The tags of a fetched value. Raises KeyRefused, and whatever a callable ``tags``
        raises."""
        return self.tags if self.tag_of is None else checked_tags(self.tag_of(value))


def _per_layer(ttl: Mapping[str, float], layers: Sequence[Layer]) -> dict[str, float]:
    names = [layer.name for layer in layers]
    if not ttl or not set(ttl) <= set(names):
        raise ConfigError(f"ttl must name layers among {names}, got {dict(ttl)!r}")
    return {
        name: _seconds(
            f"ttl[{name!r}]", value, "leave the layer out to use the longest of the others"
        )
        for name, value in ttl.items()
    }


def _layers_own_ttl(layers: Sequence[Layer]) -> float:
    own = [getattr(layer, "ttl", None) for layer in layers]
    known = [ttl for ttl in own if ttl is not None]
    if len(known) < len(own):
        raise ConfigError(
            "ttl must be a number of seconds, got None; pass ttl=..., or CacheStack(..., ttl=...),"
            " or give every layer a ttl of its own"
        )
    return float(max(known))


def checked_keys(keys: Iterable[Key]) -> list[Key]:
    """The keys without duplicates, in their order. Raises KeyRefused as `checked_key` does."""
    if isinstance(keys, (str, bytes)):
        raise KeyRefused(f"keys must be a list of keys, got {keys!r}; write [{keys!r}]")
    listed = list(keys)
    for key in listed:
        checked_key(key)
    return list(dict.fromkeys(listed))
