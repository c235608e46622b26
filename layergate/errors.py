"""The error tree. Every exception that LayerGate raises on purpose is one of these.

LayerGateError
├── ConfigError(ValueError)      an option has a value that cannot work; raised at start-up
│   ├── LayerMissing             there is no place for a layer on this machine
│   └── SettingsError            the same in a file, the environment, or a command line, with the place
├── LayerError                   a layer could not be read or written
│   ├── LayerUnavailable         LayerGate did not ask the layer: its breaker is open
│   ├── LayerTimeout(TimeoutError)  the layer did not answer in time
│   ├── LayerRefused             the layer answered with a refusal
│   └── PartialWriteError        strict write policy: not every layer accepted the entry
├── WireError                    an entry or a purge cannot be encoded, or bytes cannot be decoded
├── KeyRefused(ValueError)       a key, tag, or pattern is empty, too long, or of the wrong type
├── PurgeRefused(ValueError)     a purge names nothing, or something that cannot be purged
├── ExplainRefused(ValueError)   a request to be explained is not a valid request
├── OriginUnreachable(ConnectionError)  the origin gave no response
├── OriginAborted                the origin broke off a response that followers were reading
├── FetchTimeout(TimeoutError)   a caller's `timeout` passed before the fetch ended
├── FetchAborted                 the fetch was cancelled before it returned a value
└── FetchRecursion(RuntimeError) a fetch waits for itself, directly or in a circle
    └── GateRecursion            a middleware was called by its own application
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = [
    "ConfigError",
    "ExplainRefused",
    "FetchAborted",
    "FetchRecursion",
    "FetchTimeout",
    "GateRecursion",
    "KeyRefused",
    "LayerError",
    "LayerGateError",
    "LayerMissing",
    "LayerRefused",
    "LayerTimeout",
    "LayerUnavailable",
    "OriginAborted",
    "OriginUnreachable",
    "PartialWriteError",
    "PurgeRefused",
    "SettingsError",
    "WireError",
]


class LayerGateError(Exception):
    """Base of all LayerGate errors."""


class ConfigError(LayerGateError, ValueError):
    """An option has a value that cannot work. The message names option, value and remedy."""


class LayerMissing(ConfigError):
    """There is no place for the layer on this machine, and none was named."""


class SettingsError(ConfigError):
    """The gateway's settings cannot work. The message has one line for each problem.

    ``problems``: pairs of a place (``layergate.toml:14``, ``$LAYERGATE_MEMORY``, ``--memory``; "" for a
    setting that is missing everywhere) and a description. No description shows a secret.
    ``warnings``: oddities that may explain the problems, such as an unknown variable.
    """

    def __init__(self, problems: Sequence[tuple[str, str]], warnings: Sequence[str] = ()) -> None:
        super().__init__(
            "\n".join(f"{where}: {what}" if where else what for where, what in problems)
        )
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)


class LayerError(LayerGateError):
    """A layer failed. ``layer`` is its name; ``__cause__`` is the exception that the layer raised."""

    def __init__(self, layer: str, message: str) -> None:
        super().__init__(message)
        self.layer = layer


class LayerUnavailable(LayerError):
    """The layer was not asked, because its breaker is open or because it is not part of a stack yet.

    Raised at once, without any I/O.
    """


class LayerTimeout(LayerError, TimeoutError):
    """The layer did not answer within its time budget."""


class LayerRefused(LayerError):
    """The layer's system answered with a refusal: no permission, a value too large, out of space.

    The system is reachable, so this does not open the breaker.
    """


class PartialWriteError(LayerError):
    """Under the strict write policy, at least one layer did not accept the write.

    ``failed`` maps the names of those layers to the exceptions that they raised. ``written`` names the
    layers that hold the new entry.
    """

    def __init__(self, failed: Mapping[str, BaseException], written: tuple[str, ...]) -> None:
        names = ", ".join(f"{name} ({exc!r})" for name, exc in failed.items())
        super().__init__(next(iter(failed)), f"write failed in layer(s): {names}")
        self.failed = dict(failed)
        self.written = written


class WireError(LayerGateError):
    """A value cannot be encoded for a shared layer, or bytes from there cannot be used.

    Such bytes are damaged, forged, too large, or written by an unknown version. Readers take them for a
    miss.
    """


class KeyRefused(LayerGateError, ValueError):
    """A key, tag, or pattern is over its size cap, is empty, or has the wrong type."""


class PurgeRefused(LayerGateError, ValueError):
    """A purge names nothing, or something that cannot be purged. The message says which."""


class ExplainRefused(LayerGateError, ValueError):
    """The request or response to be explained is not valid. The message says what to write."""


class OriginUnreachable(LayerGateError, ConnectionError):
    """The origin could not be connected to, or the connection ended before the head of a response.

    Raise it from an app that forwards requests. A stored response may then stand in, for as long as
    ``stale_if_unreachable`` permits (RFC 9111 section 4.2.4, "disconnected").
    """


class OriginAborted(LayerGateError):
    """The origin broke off a response while followers were reading it."""


class FetchTimeout(LayerGateError, TimeoutError):
    """A caller's ``timeout`` passed, and there was no stale value to use. The fetch goes on."""


class FetchAborted(LayerGateError):
    """The fetch was cancelled, by a shutdown or by itself, before it returned a value."""


class FetchRecursion(LayerGateError, RuntimeError):
    """A fetch asks the cache for a value that only this fetch can provide, directly or in a circle."""


class GateRecursion(FetchRecursion):
    """A `LayerGate` receives the request that it has just passed to its own application.

    The usual cause is ``app.wsgi_app = LayerGate(app)``. Write ``LayerGate(app.wsgi_app)``.
    """
