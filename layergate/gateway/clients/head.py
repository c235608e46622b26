"""The head of a request: which ones the gateway takes, and what it makes of them (RFC 9112).

`reader` makes a `RequestHead` of every head that the parser accepts. It never looks at content, and
never decides about the cache.
"""

from __future__ import annotations

from typing import Final, cast

from layergate.gateway.head import HeadRefused, encode_lines, end_to_end, valid_host
from layergate.gateway.options import GatewayOptions
from layergate.http.engine.markers import HitForMiss
from layergate.http.message.fields import Lines, split_list

__all__ = ["READS", "RequestHead"]

READS: Final = frozenset({"GET", "HEAD"})
_VERSIONS: Final = frozenset({"1.0", "1.1"})
_REFUSED: Final = frozenset({"CONNECT", "TRACE"})
_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})


class RequestHead:
    """A request's head.

    ``lines``         field lines, without those that are not forwarded. Names are in lower case.
    ``close``         True if the connection ends after the response.
    ``content``       True if content follows.
    ``expects``       True if the client holds its content back until a 100 (Continue).
    ``upgrade``       True if the request asks for a WebSocket that the gateway may pass on.
    ``origin_form``   True if the target is a path and a query, and nothing else.
    ``hit_for_miss``  the cache key and the marker that a look into the cache has found, for the ASGI call
                      that follows. See `asgi.scope.HIT_FOR_MISS`.
    """

    __slots__ = (
        "close", "content", "expects", "hit_for_miss", "lines", "method", "origin_form", "upgrade", "url",
        "version",
    )  # fmt: skip

    def __init__(self, method: str, version: str, lines: Lines, url: bytes) -> None:
        self.method = method
        self.version = version
        self.url = url
        self.lines = lines
        self.close = version != "1.1"
        self.content = False
        self.expects = False
        self.upgrade = False
        self.origin_form = True
        self.hit_for_miss: tuple[bytes, HitForMiss] | None = None

    def check(self, upgrades: bool, options: GatewayOptions) -> None:
        """Read the fields that concern the connection, and take off those that are not forwarded.

        ``upgrades``: True if the parser has found a request to upgrade.

        Raises HeadRefused.
        """
        if self.version not in _VERSIONS:
            raise HeadRefused(505, "the version is neither 1.0 nor 1.1")
        hosts = length = 0
        coded = ignored = False
        for name, value in self.lines:
            if name == b"host":
                hosts += 1
                if not valid_host(value):
                    raise HeadRefused(400, "Host is malformed")
            elif name == b"content-length":
                length = int(value) if len(value) < 19 else 1 << 62
            elif name == b"transfer-encoding":
                # RFC 9112 6.1: "A server that receives a request message with a transfer coding it
                # does not understand SHOULD respond with 501", and one in HTTP/1.0 is faulty.
                if value.lower() != b"chunked":
                    raise HeadRefused(501, "there is a transfer coding besides chunked")
                if self.version != "1.1":
                    raise HeadRefused(400, "HTTP/1.0 has no transfer codings")
                coded = True
            elif name == b"connection":
                options_given = split_list(value.lower())
                if b"close" in options_given:
                    self.close = True
                elif b"keep-alive" in options_given and self.version == "1.0":
                    self.close = False
            elif name == b"expect":
                self.expects = self._expects(value)
                ignored = not self.expects
        # RFC 9112 3.2: "any HTTP/1.1 request message that lacks a Host header field and ... any
        # request message that contains more than one Host header field line".
        if hosts > 1 or (hosts == 0 and self.version != "1.0"):
            raise HeadRefused(400, "there must be one Host")
        self._check_limits(length, options)
        self.content = coded or length > 0
        if ignored:
            self.lines = [line for line in self.lines if line[0] != b"expect"]
        self.origin_form = self.url[:1] == b"/" and b"#" not in self.url
        cleaned = end_to_end(self.method, self.lines)
        if cleaned is not self.lines:
            self.lines = cleaned
            self._check_upgrade(upgrades, options)

    def _check_upgrade(self, upgrades: bool, options: GatewayOptions) -> None:
        # RFC 6455 4.1: "The method of the request MUST be GET"; RFC 9110 7.8: "A server MUST
        # ignore an Upgrade header field that is received in an HTTP/1.0 request."
        self.upgrade = (
            upgrades
            and self.method == "GET"
            and self.version == "1.1"
            and any(name == b"upgrade" for name, _ in self.lines)
        )
        if self.upgrade and self.content:
            raise HeadRefused(400, "a request for a WebSocket must have no content")
        if self.upgrade and not options.pass_upgrades:
            raise HeadRefused(501, "no other protocol is spoken here")
        if not self.upgrade:
            self.lines = [line for line in self.lines if line[0] != b"upgrade"]

    def _expects(self, value: bytes) -> bool:
        """True if the client waits for a 100 (Continue). Raises HeadRefused."""
        # RFC 9110 10.1.1: "A server that receives a 100-continue expectation in an HTTP/1.0 request
        # MUST ignore that expectation."
        if self.version == "1.0":
            return False
        if value.lower() != b"100-continue":
            raise HeadRefused(417, "the expectation is unknown")
        return True

    def _check_limits(self, length: int, options: GatewayOptions) -> None:
        if self.method in _REFUSED:
            # A gateway has no use for CONNECT; TRACE shows cookies to scripts.
            raise HeadRefused(501, f"{self.method} is not served here")
        if options.max_content is not None and length > cast(int, options.max_content):
            raise HeadRefused(413, f"the content is over {options.max_content} bytes")

    @property
    def size(self) -> int:
        """Bytes of the request target and the field lines."""
        return len(self.url) + sum(len(name) + len(value) for name, value in self.lines)

    @property
    def framing(self) -> bytes:
        """A head that frames content as this one does, and says nothing else."""
        lines = [line for line in self.lines if line[0] in _FRAMING]
        return b"POST / HTTP/1.1\r\n" + encode_lines(lines) + b"\r\n"
