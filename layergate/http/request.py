"""A request as the cache sees it."""

from __future__ import annotations

from layergate.http.cache_control import EMPTY, CacheControl, parse_cache_control
from layergate.http.fields import Fields

__all__ = ["Request"]


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
