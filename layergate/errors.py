"""The error tree. Every exception LayerGate raises on purpose is one of these.

LayerGateError
├── ConfigError(ValueError)      an option is wrong; raised at start-up
│   └── SettingsError            in a file, the environment or a command line: it says where
├── LayerError                   a layer could not be read or written
│   ├── LayerUnavailable         it is not asked at all for now: its breaker is open
│   ├── LayerTimeout(TimeoutError)  it did not answer in time
│   ├── LayerRefused             it answered, and said no
│   └── PartialWriteError        strict write policy: some layers took the entry, some did not
├── WireError                    an entry or a purge that cannot travel, or bytes that are none
├── KeyRefused(ValueError)       a key, tag or pattern over its size cap or of the wrong type
├── PurgeRefused(ValueError)     a purge request that names nothing, or something unusable
├── ExplainRefused(ValueError)   a request to be explained that could not be sent
├── OriginUnreachable(ConnectionError)  no connection to the origin, or none that gave a response
├── OriginAborted                the origin broke off a response that was being streamed along
├── FetchTimeout(TimeoutError)   a caller's `timeout` passed before the fetch it waits for ended
├── FetchAborted                 the fetch was cancelled before it gave a value
└── FetchRecursion(RuntimeError) a fetch waits, directly or in a circle, for itself
    └── GateRecursion            a middleware that its own application calls
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


class SettingsError(ConfigError):
    """Settings that cannot work: all that is wrong with them, a line each.

    ``problems``: pairs of where it is (``layergate.toml:14``, ``$LAYERGATE_MEMORY``, ``--memory``; ""
    for what is missing everywhere) and what it is. None of them shows a secret.
    ``warnings``: what is odd beside them, such as a variable that is not known: it may be why.
    """

    def __init__(self, problems: Sequence[tuple[str, str]], warnings: Sequence[str] = ()) -> None:
        super().__init__(
            "\n".join(f"{where}: {what}" if where else what for where, what in problems)
        )
        self.problems = tuple(problems)
        self.warnings = tuple(warnings)


class LayerError(LayerGateError):
    """A layer failed. ``layer`` is its name; ``__cause__`` is what the layer raised."""

    def __init__(self, layer: str, message: str) -> None:
        super().__init__(message)
        self.layer = layer


class LayerUnavailable(LayerError):
    """The layer was not asked: its breaker is open after failures, or it is not part of a stack yet.

    Raised at once, without any I/O.
    """


class LayerTimeout(LayerError, TimeoutError):
    """The layer did not answer within its time budget."""


class LayerRefused(LayerError):
    """The layer's system answered, and said no: no permission, a value too large, out of space.

    It is there, so its breaker does not open for this.
    """


class PartialWriteError(LayerError):
    """Strict write policy: at least one layer refused the write.

    ``failed`` maps the names of the layers that failed to what they raised; ``written`` names the
    layers that hold the new entry.
    """

    def __init__(self, failed: Mapping[str, BaseException], written: tuple[str, ...]) -> None:
        names = ", ".join(f"{name} ({exc!r})" for name, exc in failed.items())
        super().__init__(next(iter(failed)), f"write failed in layer(s): {names}")
        self.failed = dict(failed)
        self.written = written


class WireError(LayerGateError):
    """Something cannot travel to a shared layer, or what came from there is not to be used: damaged,
    forged, too large, or written by a version that this one does not know. For a reader, a miss."""


class KeyRefused(LayerGateError, ValueError):
    """A key, tag or pattern is over its size cap, empty, or of the wrong type."""


class PurgeRefused(LayerGateError, ValueError):
    """A purge names nothing, or something that cannot be purged. The message says what."""


class ExplainRefused(LayerGateError, ValueError):
    """What is to be explained is no request or response. The message says what to write."""


class OriginUnreachable(LayerGateError, ConnectionError):
    """The connection to the origin could not be made, or it ended before the head of a response.

    For an app that forwards requests to raise: then a stored response may stand in, as long as
    ``stale_if_unreachable`` says (RFC 9111 section 4.2.4, "disconnected").
    """


class OriginAborted(LayerGateError):
    """The origin ended a response before its end while followers were streaming along."""


class FetchTimeout(LayerGateError, TimeoutError):
    """A caller's ``timeout`` passed, with no stale value to use. The fetch goes on without it."""


class FetchAborted(LayerGateError):
    """The fetch was cancelled, by a shutdown or by itself, before it gave a value."""


class FetchRecursion(LayerGateError, RuntimeError):
    """A fetch asks the cache for what only this very fetch can give, directly or in a circle."""


class GateRecursion(FetchRecursion):
    """A `LayerGate` gets the request that it has just handed to its own application: it is inside itself.

    Most often ``app.wsgi_app = LayerGate(app)``, where ``LayerGate(app.wsgi_app)`` is meant.
    """
