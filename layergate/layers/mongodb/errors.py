"""What the errors of pymongo mean: a refusal, a time-out, a fault.

Their texts do not hold the URL. They may hold the name of a user, of a host, and of a collection.
"""

from __future__ import annotations

from typing import Final

from pymongo.errors import (
    ConfigurationError,
    DocumentTooLarge,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)

from layergate.errors import LayerRefused, LayerTimeout

__all__ = ["NO_STREAM", "UNSUPPORTED", "ported"]

NO_STREAM: Final = frozenset({115, 40324, 40573})
"""There are no change streams: a standalone server, or one that only resembles MongoDB."""

UNSUPPORTED: Final = frozenset({72, 115, 123, 148, 9999})
"""The read concern is not supported: the same."""

_TIMED_OUT: Final = frozenset({50, 262})
# No privilege, not authenticated, out of space, not enough quota.
_REFUSALS: Final = frozenset({13, 18, 8000, 14031, 12501})


def ported(layer: str, error: PyMongoError) -> Exception:
    """The error to be raised by a port of ``layer``. What is left as it is counts as a fault."""
    if isinstance(error, DocumentTooLarge):
        return LayerRefused(layer, "the value is larger than a document of MongoDB may be")
    if isinstance(error, WriteConcernError):
        return error  # it may be done, and it may get lost
    if error.timeout and not isinstance(error, DuplicateKeyError):
        return LayerTimeout(layer, f"no answer in time ({type(error).__name__})")
    if isinstance(error, ConfigurationError):
        return LayerRefused(layer, str(error))
    if isinstance(error, OperationFailure):
        if error.code in _TIMED_OUT:
            return LayerTimeout(layer, f"no answer in time (code {error.code})")
        if error.code in _REFUSALS or error.code in UNSUPPORTED:
            return LayerRefused(layer, f"{_message(error)} (code {error.code})")
    return error


def _message(error: OperationFailure) -> str:
    details = error.details or {}
    return str(details.get("errmsg", "refused"))[:300]
