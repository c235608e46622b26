"""What is added to a message on its way: Via, who it is from, when it was received.

What is taken off a request is taken off before the cache sees it (`head.end_to_end`); what is taken
off a response, here (`response_lines`).
"""

from __future__ import annotations

from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from layergate.gateway.options import Network
from layergate.http.fields import Fields, Lines, split_list

__all__ = ["ForwardPolicy", "response_lines"]

_FORWARDED: Final = frozenset({
    b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port",
    b"x-forwarded-proto", b"x-real-ip",
})  # fmt: skip
# RFC 9110 7.6.1, and Trailer: what it announces is not sent on unless somebody asked for it.
_NOT_FORWARDED: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade",
    b"trailer",
})  # fmt: skip
_NOT_OF_REQUEST: Final = frozenset({b"te", b"transfer-encoding", b"upgrade", b"via"})


class ForwardPolicy:
    """How requests are signed on their way to an origin.

    ``via``: our pseudonym in Via (RFC 9110 7.6.3); None: no Via. ``forwarded``: ``"x-forwarded"``,
    ``"forwarded"`` (RFC 7239), ``"both"`` or ``"none"``. ``trusted``: the networks of proxies whose
    word about the client and its scheme is taken; ``trusts_unix``: so is that of whoever is at the
    other end of a Unix socket.
    """

    def __init__(
        self,
        *,
        via: str | None,
        forwarded: str,
        trusted: tuple[Network, ...] = (),
        trusts_unix: bool = False,
    ) -> None:
        self._via = None if via is None else via.encode()
        self._x = forwarded in ("x-forwarded", "both")
        self._rfc = forwarded in ("forwarded", "both")
        self._trusted = trusted
        self._trusts_unix = trusts_unix

    # -- who asks ------------------------------------------------------------------------------

    def trusts(self, peer: str) -> bool:
        """Is this address one of the trusted proxies'?"""
        if not self._trusted:
            return False
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._trusted)

    def incoming(
        self, lines: Lines, peer: tuple[str, int] | None, scheme: str
    ) -> tuple[Lines, tuple[str, int] | None, str]:
        """A request's lines, client and scheme, given who sent it.

        Of a stranger, what it says of itself is taken off. Of a trusted proxy it is believed: the
        client is the last address in X-Forwarded-For that is no trusted proxy's.
        """
        if all(name not in _FORWARDED for name, _ in lines):
            return lines, peer, scheme
        if not (self._trusts_unix if peer is None else self.trusts(peer[0])):
            return [line for line in lines if line[0] not in _FORWARDED], peer, scheme
        fields = Fields(lines)
        told = (fields.first(b"x-forwarded-proto") or b"").strip().lower()
        if told in (b"http", b"https"):
            scheme = told.decode()
        client = peer
        for address in reversed(split_list(fields.get(b"x-forwarded-for") or b"")):
            text = address.decode("latin-1")
            try:
                ip_address(text)
            except ValueError:
                break
            client = (text, 0)
            if not self.trusts(text):
                break
        kept = [
            line for line in lines if line[0] not in _FORWARDED or line[0] == b"x-forwarded-for"
        ]
        return kept, client, scheme

    # -- to the origin -------------------------------------------------------------------------

    def request_lines(
        self,
        lines: Lines,
        *,
        peer: str | None,
        scheme: str,
        host: bytes,
        version: str,
        new_host: bytes | None,
    ) -> Lines:
        """The lines that go to the origin. ``host``: the one that was asked for; ``new_host``: the
        one to send instead, or None."""
        kept: Lines = []
        via = b""
        earlier = b""
        for line in lines:
            name = line[0]
            if name == b"host":
                kept.append(line if new_host is None else (name, new_host))
            elif name == b"via":
                via = via + b", " + line[1] if via else line[1]
            elif name == b"x-forwarded-for":  # a trusted proxy's, or it would not be here any more
                earlier = earlier + b", " + line[1] if earlier else line[1]
            elif name not in _NOT_OF_REQUEST and name not in _FORWARDED:
                kept.append(line)
        address = b"unknown" if peer is None else peer.encode()
        if self._x:
            chain = b"%b, %b" % (earlier, address) if earlier else address
            kept.append((b"x-forwarded-for", chain))
            kept.append((b"x-forwarded-proto", scheme.encode()))
            kept.append((b"x-forwarded-host", host))
        if self._rfc:
            kept.append((b"forwarded", _forwarded(earlier, address, host, scheme)))
        if self._via is not None:
            own = b"%b %b" % (version.encode(), self._via)
            kept.append((b"via", b"%b, %b" % (via, own) if via else own))
        elif via:
            kept.append((b"via", via))
        return kept

    def looped(self, lines: Lines) -> bool:
        """Has this request been here before (RFC 9110 7.6.3)? Then it would go round for ever."""
        if self._via is None:
            return False
        seen = 0
        for name, value in lines:
            if name == b"via":
                for member in split_list(value):
                    seen += member.split(b" ")[1:2] == [self._via]
        return seen >= _MAX_HOPS


_MAX_HOPS: Final = 8  # several gateways of one name, one behind the other, are no loop


def _forwarded(earlier: bytes, address: bytes, host: bytes, scheme: str) -> bytes:
    """RFC 7239, with one element for each address that is known."""
    elements = [b"for=" + _node(part) for part in split_list(earlier)]
    elements.append(b"for=%b;host=%b;proto=%b" % (_node(address), _quoted(host), scheme.encode()))
    return b", ".join(elements)


def _node(address: bytes) -> bytes:
    # 6: an IPv6 address is in brackets, and since a token has no colon, in quotes.
    return b'"[%b]"' % address if b":" in address else address


def _quoted(text: bytes) -> bytes:
    return b'"%b"' % text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def response_lines(lines: Lines, now: Callable[[], float]) -> Lines:
    """A response's lines without those of the connection it came by, and with a Date.

    RFC 9110 6.6.1: "A recipient with a clock that receives a response message without a Date header
    field MUST record the time it was received and append a corresponding Date header field to the
    message's header section if it is cached or forwarded downstream."
    """
    dated = False
    special = False
    for name, _ in lines:
        if name == b"date":
            dated = True
        elif name in _NOT_FORWARDED:
            special = True
    if special:
        dropped = _NOT_FORWARDED
        for name, value in lines:
            if name == b"connection":
                dropped = dropped.union(split_list(value.lower())) - _NOT_FOR_CONNECTION
        dropped |= _NOT_FORWARDED
        lines = [line for line in lines if line[0] not in dropped]
    if not dated:
        lines = [*lines, (b"date", _date(int(now())))]
    return lines


@lru_cache(maxsize=1)
def _date(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()


# An origin that names these in Connection does not get its response shared by doing so.
_NOT_FOR_CONNECTION: Final = frozenset({
    b"cache-control", b"content-length", b"content-type", b"content-encoding", b"date", b"expires",
    b"set-cookie", b"vary",
})  # fmt: skip
