"""Which layer a URL names: the table of schemes that ``shared="redis://..."`` is looked up in.

`layergate.assembly` and the gateway call `layer_of`. A scheme leads to a *factory*: a class, or any
callable, that makes a shared layer of the URL and of options by keyword (``timeout`` and
``connect_timeout`` in any case; the gateway also gives ``namespace``, ``secret`` and
``compress_above``). There are three ways into the table:

- The layers of this package stand in `_BUILT_IN`, by name, so that none is imported before it is used.
- An installed package declares an entry point in the group ``layergate.layers``. Its name is the
  scheme, its object the factory.
- An application calls `add_scheme`.

A factory may have an attribute ``shown_url``, a function that takes a URL and returns what may be shown
of it (``layergate check`` shows it). Without one, only the scheme is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeAlias

from layergate.core.layer import Layer
from layergate.errors import ConfigError

__all__ = ["GROUP", "add_scheme", "layer_of", "schemes", "shown_url"]

GROUP: Final = "layergate.layers"

Factory: TypeAlias = Callable[..., Layer]

_REDIS: Final = "layergate.layers.redis:RedisLayer"
_HOST: Final = "layergate.layers.host:from_url"
_MEMCACHED: Final = "layergate.layers.memcached:MemcachedLayer"
_MONGODB: Final = "layergate.layers.mongodb:MongoLayer"
_POSTGRES: Final = "layergate.layers.postgres:PostgresLayer"
_BUILT_IN: Final[dict[str, str]] = {
    scheme: _REDIS
    for server in ("redis", "rediss", "valkey", "valkeys")
    for scheme in (server, f"{server}+cluster", f"{server}+sentinel")
} | {
    "host": _HOST,
    "memcached": _MEMCACHED,
    "memcacheds": _MEMCACHED,
    "mongodb": _MONGODB,
    "mongodb+srv": _MONGODB,
    "postgres": _POSTGRES,
    "postgresql": _POSTGRES,
    "unix": _REDIS,
}
# Client objects that a layer takes in place of a URL, by the package of their class.
_CLIENTS: Final[dict[str, str]] = {"redis": _REDIS}

_added: Final[dict[str, Factory]] = {}


def add_scheme(scheme: str, factory: Factory) -> None:
    """Have URLs with this scheme name the layer that ``factory`` makes.

    Raises ConfigError if the scheme has another factory already.
    """
    known = _added.get(scheme.lower())
    if scheme.lower() in _BUILT_IN or (known is not None and known is not factory):
        raise ConfigError(f"scheme must not have a layer already, got {scheme!r}; use another one")
    _added[scheme.lower()] = factory


def schemes() -> tuple[str, ...]:
    """All schemes that are known, in alphabetical order."""
    return tuple(sorted({*_BUILT_IN, *_added, *_declared()}))


def layer_of(target: Any, **options: Any) -> Layer:
    """The layer for a URL, or for the client object of a library that a layer knows.

    Raises ConfigError: the scheme, or the kind of object, is not known; or what the factory raises.
    """
    factory = _by_scheme(target) if isinstance(target, str) else _by_class(type(target))
    return factory(target, **options)


def shown_url(url: str) -> str:
    """The URL without anything that may be a secret. Raises as `layer_of` does."""
    show: Callable[[str], str] | None = getattr(_by_scheme(url), "shown_url", None)
    return f"{_scheme(url)}://..." if show is None else show(url)


def _scheme(url: str) -> str:
    return url.partition(":")[0].lower()


def _by_scheme(url: str) -> Factory:
    scheme = _scheme(url)
    if scheme in _BUILT_IN:
        return _loaded(_BUILT_IN[scheme])
    if scheme in _added:
        return _added[scheme]
    if scheme in _declared():
        factory: Factory = _declared()[scheme].load()
        return factory
    # Not even the scheme is shown: of ":secret@host" it would be the secret.
    raise ConfigError(
        "url must begin with a scheme of a shared layer, got something else; known are"
        f" {', '.join(f'{one}://' for one in schemes())}"
    )


@cache  # finding them reads the metadata of all that is installed
def _declared() -> Mapping[str, EntryPoint]:
    return {point.name.lower(): point for point in entry_points(group=GROUP)}


def _by_class(kind: type) -> Factory:
    for base in kind.__mro__:
        name = _CLIENTS.get(base.__module__.partition(".")[0])
        if name is not None:
            return _loaded(name)
    raise ConfigError(
        "client must be a URL such as 'redis://localhost:6379/0', or a client of"
        f" {', '.join(sorted(_CLIENTS))}, got {kind.__module__}.{kind.__name__}; give its URL"
    )


def _loaded(name: str) -> Factory:
    module, _, attribute = name.partition(":")
    factory: Factory = getattr(import_module(module), attribute)
    return factory
