"""Users that the application or its server has identified: in an ASGI scope or a WSGI environ.

The adapters call this to decide whether a request is personal (G1). Nothing here reads request fields;
see `message.credentials` for those.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["is_authenticated", "is_user_key"]

_MAX_KEY_LENGTH: Final = 64
# Names under which middleware stores the user in `scope["state"]` or an environ.
_USER_KEY: Final = re.compile(
    r"(?:.*[._])?(?:current_?user|remote_?user|auth_?user|user|user_?(?:id|name)|identity|principal"
    r"|claims|auth|account|credentials)",
    re.IGNORECASE,
).fullmatch


def is_user_key(name: object) -> bool:
    """True if middleware would store an identified user under this name."""
    return isinstance(name, str) and len(name) <= _MAX_KEY_LENGTH and _USER_KEY(name) is not None


def is_authenticated(user: object) -> bool:
    """True if this value, stored where a user belongs, is an authenticated user.

    None is not, nor is an object whose ``is_authenticated`` is false (Starlette's and Django's
    convention). Any other value is: a dict, a dataclass, a name, a number.
    """
    if user is None:
        return False
    try:
        flag = getattr(user, "is_authenticated", True)
        return bool(flag() if callable(flag) else flag)
    except Exception:  # a property of user code; Starlette's own raises until it is overridden
        return True
