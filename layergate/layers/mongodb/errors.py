"""What the errors of pymongo mean: a refusal, a time-out, a fault.

Their texts do not hold the URL. They may hold the name of a user, of a host, and of a collection.
"""

from __future__ import annotations

from typing import Final

from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
)

from layergate.errors import LayerRefused, LayerTimeout

__all__ = [
    "NO_PRIMARY",
    "NO_SET",
    "NO_STREAM",
    "PASSING",
    "REFUSALS",
    "UNSUPPORTED",
    "ported",
    "reason",
]

NO_PRIMARY: Final = "this server is no primary; name the replica set in the URL (replicaSet=...)"

NO_SET: Final = 123
"""NotAReplicaSet: a standalone server reads nothing linearizably."""

NO_STREAM: Final = frozenset({115, 303, 40324, 40573})
"""There are no change streams: a standalone server, or one that only resembles MongoDB."""

UNSUPPORTED: Final = frozenset({72, 115, NO_SET, 148, 303, 9999})
"""The read concern is not supported: the same."""

PASSING: Final = frozenset({50, 91, 134, 189, 262, 11600, 11602})
"""It had no time, or is going down, or is not ready: the same may be answered later."""

# No time left, for the operation or for the connection.
_TIMED_OUT: Final = frozenset({50, 262})
# No privilege, not authenticated, out of space, not enough quota, a document that is too large.
REFUSALS: Final = frozenset({13, 18, 8000, 10334, 12501, 14031})

_REMEDIES: Final = {
    13: "give the user of the URL the role readWrite on the database",
    18: "check the user, the password and authSource in the URL",
    10334: "set max_size to less",
    8000: "check the user and the password in the URL",
}


def ported(layer: str, error: PyMongoError) -> Exception:
    """The error to be raised by a port of ``layer``. What is left as it is counts as a fault."""
    if isinstance(error, DocumentTooLarge):
        return LayerRefused(layer, "the value is larger than a document of MongoDB may be")
    if isinstance(error, WriteConcernError):
        return error  # it may be done, and it may get lost
    if error.timeout and not isinstance(error, DuplicateKeyError):
        return LayerTimeout(layer, f"no answer in time: {reason(error)}")
    if isinstance(error, ConfigurationError):
        return LayerRefused(layer, reason(error))
    if isinstance(error, OperationFailure):
        if error.code in _TIMED_OUT:
            return LayerTimeout(layer, f"no answer in time: {reason(error)}")
        if error.code in REFUSALS or error.code in UNSUPPORTED:
            return LayerRefused(layer, reason(error))
    return error


def reason(error: BaseException) -> str:
    """What it says, on one line, with a remedy where there is one."""
    if isinstance(error, OperationFailure):
        details = error.details or {}
        said = f"{details.get('errmsg', 'refused')} (code {error.code})"
        remedy = _REMEDIES.get(error.code or 0)
    else:
        said, remedy = str(error) or type(error).__name__, None
        if isinstance(error, ConnectionFailure):
            # What follows is for developers: settings, and all servers once more.
            said = said.partition(" (configured timeouts")[0].partition(", Timeout: ")[0]
        if isinstance(error, ServerSelectionTimeoutError) and "certificate" in said.lower():
            remedy = "check tlsCAFile and tlsCertificateKeyFile in the URL"
    said = " ".join(said.split())[:300]
    return f"{said}; {remedy}" if remedy else said
