"""A request as the cache sees it."""

from __future__ import annotations

from typing import Final

from layergate.http.cache_control import EMPTY, CacheControl, parse_cache_control
from layergate.http.fields import Fields
from layergate.http.validation import CONDITIONAL_FIELDS

__all__ = ["Request"]

_OF_ONE_ANSWER: Final = CONDITIONAL_FIELDS | {b"cache-control", b"pragma", b"range"}


class Request:
    """What both adapters hand to the engine.

    ``host``: the Host field as it came. ``path``: the decoded path that rules match.
    ``target``: bytes of host, path and query, for the cap on a key's length.
    ``key``: see `key.primary_key`. ``has_body``: content was announced or seen.
    ``directives``: the request's Cache-Control; ``Pragma: no-cache`` counts as ``no-cache`` when
    there is none (RFC 9111 5.4, for HTTP/1.0 clients).
    """

    __slots__ = (
        "authorization", "cookie", "directives", "fields", "has_body", "host", "key", "method",
        "path", "scheme", "target_length",
    )  # fmt: skip

    def __init__(
        self,
        *,
        method: str,
        scheme: str,
        host: bytes,
        path: str,
        key: bytes,
        fields: Fields,
        has_body: bool,
        obey_directives: bool,
    ) -> None:
        self.method = method
        self.scheme = scheme
        self.host = host
        self.path = path
        self.key = key
        self.fields = fields
        self.has_body = has_body
        self.target_length = len(key)
        self.authorization = b"authorization" in fields
        self.cookie = b"cookie" in fields
        directives: CacheControl = EMPTY
        if obey_directives:
            control = fields.get(b"cache-control")
            if control is not None:
                directives = parse_cache_control(control)
            elif b"no-cache" in (fields.get(b"pragma") or b"").lower():
                directives = parse_cache_control(b"no-cache")
        self.directives = directives

    def for_refresh(self) -> Request:
        """This request as the cache makes it on its own (RFC 9111 4.3.1): a GET, without what the
        client asked of this one answer (preconditions, directives)."""
        lines = [line for line in self.fields.lines if line[0] not in _OF_ONE_ANSWER]
        copy = Request.__new__(Request)
        copy.method = "GET"
        copy.scheme = self.scheme
        copy.host = self.host
        copy.path = self.path
        copy.key = self.key
        copy.fields = Fields(lines)
        copy.has_body = False
        copy.target_length = self.target_length
        copy.authorization = self.authorization
        copy.cookie = self.cookie
        copy.directives = EMPTY
        return copy
