"""What the errors of redis-py mean: a fault of the server, a refusal, or nothing asked.

`RedisClient` raises redis-py's errors and asks here what to tell the breaker. The ports (`blobs`,
`journal`, `leases`) turn errors into LayerGate's own with `reraise`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NoReturn

from redis.exceptions import (
    ClusterDownError,
    NoScriptError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from layergate.errors import LayerRefused, LayerTimeout

__all__ = [
    "first_error",
    "garbled",
    "is_answer",
    "is_fault",
    "ported",
    "raise_first",
    "reraise",
    "uncovered",
]

_DOWN: Final = ("BUSY ", "CLUSTERDOWN ", "MASTERDOWN ", "TRYAGAIN ")


def is_fault(reply: object) -> bool:
    """True if this reply, or error, is a sign that the Redis does not work.

    Error replies are answers: the server is there. OOM, READONLY, MISCONF and NOREPLICAS refuse
    writes only; reads go on, so the breaker does not count them. These count as faults: a Cluster or
    replica that says it cannot serve (CLUSTERDOWN, TRYAGAIN, MASTERDOWN), a server that is held up by
    a script (BUSY), that loads its data (LOADING is a ConnectionError) or does not let us in
    (AuthenticationError is one, too).
    """
    if not isinstance(reply, BaseException):
        return False
    if isinstance(reply, ResponseError):
        # By name as well: outside of its own Cluster client redis-py 5 does not know these.
        down = isinstance(reply, (ClusterDownError, TryAgainError))
        return down or str(reply).startswith(_DOWN)
    return isinstance(reply, (RedisError, OSError))


def is_answer(reply: object) -> bool:
    """True if the server has answered, if only to refuse."""
    if not isinstance(reply, BaseException):
        return True
    return isinstance(reply, ResponseError) and not is_fault(reply)


def garbled(error: object) -> bool:
    """True if this error of a script may come from keys that somebody else has written."""
    if not isinstance(error, ResponseError) or isinstance(error, NoScriptError):
        return False
    text = str(error)
    # Redis 6.2 wraps what a script raises; later ones begin with the code of the command.
    return text.startswith("WRONGTYPE") or "unning script" in text or "user_script" in text


def reraise(name: str, error: Exception) -> NoReturn:
    """Raise the error from a port of the layer ``name``: as `LayerTimeout`, as `LayerRefused`, or as it
    is, which is a fault."""
    if isinstance(error, RedisTimeoutError):
        raise LayerTimeout(name, str(error)) from error
    if isinstance(error, ResponseError) and not is_fault(error):
        raise LayerRefused(name, str(error)) from error
    raise error


def ported(name: str, replies: Sequence[Any]) -> list[bool | Exception]:
    """Replies of a batch, as the ports give them: True for 1, errors as `reraise` raises them."""
    found: list[bool | Exception] = []
    for reply in replies:
        if not isinstance(reply, Exception):
            found.append(bool(reply))
            continue
        try:
            reraise(name, reply)
        except Exception as error:
            found.append(error)
    return found


def uncovered() -> Exception:
    """What is raised for keys that no node of a Cluster serves."""
    return ClusterDownError("CLUSTERDOWN Hash slot not served")


def raise_first(replies: list[Any]) -> list[Any]:
    """The replies, if none is an error; else the first error is raised."""
    error = first_error(replies)
    if error is not None:
        raise error
    return replies


def first_error(replies: Sequence[object]) -> Exception | None:
    return next((reply for reply in replies if isinstance(reply, Exception)), None)
