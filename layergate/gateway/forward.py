"""Fields that the gateway adds to a message, or removes from a response: Via, Forwarded, Date and others.

Fields are removed from a request before the cache sees it (`head.end_to_end`), and those about its client
are added before, because an origin may select its response by them (``Vary: X-Forwarded-For``).
`clients.cycle` and `proxy` call this module. It never looks at a stored response.
"""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final

from layergate.gateway.checks import Network
from layergate.gateway.head import date_now
from layergate.http.message.fields import Fields, Line, Lines, split_list

__all__ = ["FORWARDED", "ForwardPolicy", "response_lines", "trailer_lines"]

FORWARDED: Final = frozenset({
    b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port",
    b"x-forwarded-proto", b"x-real-ip",
})  # fmt: skip
# RFC 9110 7.6.1, and Trailer: trailer fields are only sent to clients that ask for them.
_NOT_FORWARDED: Final = frozenset({
    b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade",
    b"trailer",
})  # fmt: skip
_NOT_OF_REQUEST: Final = frozenset({b"te", b"transfer-encoding", b"upgrade", b"via"})
# RFC 7239 section 4: one forwarded-pair, or none, and its end.
_PAIR: Final = re.compile(
    rb"[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)="
    rb"(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)|\"((?:[^\"\\]|\\.)*)\"))?[ \t]*([;,]|\Z)"
).match
_ADDRESS: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+))(?::[0-9]{1,5})?"
).fullmatch


class ForwardPolicy:
    """What origins are told about requests and their clients.

    ``via``          the gateway's pseudonym in Via (RFC 9110 7.6.3). None: no Via and no CDN-Loop.
    ``forwarded``    ``"x-forwarded"``, ``"forwarded"`` (RFC 7239), ``"both"`` or ``"none"``.
    ``trusted``      networks of proxies that are believed about a client's address and scheme.
    ``trusts_unix``  True if peers on Unix sockets are believed, too.
    ``instance``     a token that only this gateway adds to CDN-Loop (RFC 8586). None: no CDN-Loop.
    """

    def __init__(
        self,
        *,
        via: str | None,
        forwarded: str,
        trusted: tuple[Network, ...] = (),
        trusts_unix: bool = False,
        instance: str | None = None,
    ) -> None:
        self._via = None if via is None else via.encode()
        self._loop: Line | None = None
        if via is not None and instance is not None:
            self._loop = (b"cdn-loop", f"{via};id={instance}".encode())
        self._x = forwarded in ("x-forwarded", "both")
        self._rfc = forwarded in ("forwarded", "both")
        self._trusted = trusted
        self._trusts_unix = trusts_unix

    # -- the client ----------------------------------------------------------------------------

    def trusts(self, peer: str) -> bool:
        """True for the address of a trusted proxy."""
        if not self._trusted:
            return False
        try:
            address = ip_address(peer)
        except ValueError:
            return False
        return any(address in network for network in self._trusted)

    def believes(self, peer: tuple[str, int] | None) -> bool:
        """True if this peer (None: on a Unix socket) is believed about its client."""
        return self._trusts_unix if peer is None else self.trusts(peer[0])

    def incoming(
        self, lines: Lines, peer: tuple[str, int] | None, scheme: str, *, believed: bool
    ) -> tuple[Lines, tuple[str, int] | None, str]:
        """A request's lines as they are forwarded, its client and its scheme. ``believed``: the result of
        `believes` for the peer.

        Statements of other peers about a client are removed. A trusted proxy is believed: the client is
        the last address in its list that is no trusted proxy's. The client is None, for unknown, if that
        is no address, or if Forwarded and X-Forwarded-For list different ones.
        """
        client = peer
        earlier: list[bytes] = []  # addresses, as they were told
        elements = b""
        for name, _ in lines:
            if name in FORWARDED:
                if believed:
                    told = _Told(Fields(lines))
                    client, scheme = self._nearest(told, peer, scheme)
                    earlier, elements = told.addresses, told.elements
                lines = [line for line in lines if line[0] not in FORWARDED]
                break
        else:
            lines = [*lines]
        host = next((value for name, value in lines if name == b"host"), b"")
        address = b"unknown" if peer is None else peer[0].encode()
        if self._x:
            lines.append((b"x-forwarded-for", b", ".join([*earlier, address])))
            lines.append((b"x-forwarded-proto", scheme.encode()))
            if host:
                lines.append((b"x-forwarded-host", host))
        if self._rfc:
            own = _element(address, host, scheme)
            before = elements or b", ".join([b"for=" + _node(one) for one in earlier])
            lines.append((b"forwarded", b"%b, %b" % (before, own) if before else own))
        return lines, client, scheme

    def _nearest(
        self, told: _Told, peer: tuple[str, int] | None, scheme: str
    ) -> tuple[tuple[str, int] | None, str]:
        client = peer
        used = ""
        for address, proto in reversed(told.chain):
            used = proto or used
            client = None if address is None else (address, 0)
            if address is None or not self.trusts(address):
                break
        schemes = {told.proto, used} - {""}
        return client, schemes.pop() if len(schemes) == 1 else scheme

    # -- to the origin -------------------------------------------------------------------------

    def request_lines(self, lines: Lines, *, version: str, new_host: bytes | None) -> Lines:
        """The lines that go to the origin. ``version``: of the request as it came. ``new_host``: the Host
        to send; None for that of the request."""
        kept: Lines = []
        via = b""
        for line in lines:
            name = line[0]
            if name == b"host":
                kept.append(line if new_host is None else (name, new_host))
            elif name == b"via":
                via = via + b", " + line[1] if via else line[1]
            elif name not in _NOT_OF_REQUEST:
                kept.append(line)
        if self._via is not None:
            own = b"%b %b" % (version.encode(), self._via)
            kept.append((b"via", b"%b, %b" % (via, own) if via else own))
        elif via:
            kept.append((b"via", via))
        if self._loop is not None:
            kept.append(self._loop)
        return kept

    # -- from the origin -----------------------------------------------------------------------

    def response_lines(self, lines: Lines, version: str) -> Lines:
        """A response's lines as they are stored and sent on: `response_lines` and Via. ``version``: of the
        response as it came."""
        lines = response_lines(lines)
        if self._via is None:
            return lines
        # RFC 9110 7.6.3: a gateway "MAY send a Via header field in forwarded response messages".
        return [*lines, (b"via", b"%b %b" % (version.encode(), self._via))]

    def returned(self, lines: Lines) -> bool:
        """True if this very gateway has sent this request (RFC 8586), or if the request has passed a
        gateway of this name too often (RFC 9110 7.6.3).

        Ask before the cache is asked: the request may wait there for itself. Anyone can write such
        fields, so no other request may wait for the response to them."""
        names = dict(lines)
        if self._loop is not None and b"cdn-loop" in names:
            own = self._loop[1]
            for name, value in lines:
                if name == b"cdn-loop" and own in [
                    one.replace(b" ", b"") for one in split_list(value)
                ]:
                    return True
        return b"via" in names and self._looped(lines)

    def _looped(self, lines: Lines) -> bool:
        """Detects a loop in which some proxy removes CDN-Loop."""
        if self._via is None:
            return False
        seen = 0
        for name, value in lines:
            if name == b"via":
                for member in split_list(value):
                    seen += member.split(b" ")[1:2] == [self._via]
        return seen >= _MAX_HOPS


_MAX_HOPS: Final = 8  # several gateways of one name may stand one behind the other


class _Told:
    """The statements of a trusted proxy about a request.

    ``addresses``  those before its own, as stated.
    ``elements``   its Forwarded, if that is well-formed.
    ``chain``      the addresses, None for what is no address, with the scheme of each if it is stated.
    ``proto``      of X-Forwarded-Proto.
    """

    def __init__(self, fields: Fields) -> None:
        self.addresses: list[bytes] = []
        self.elements = b""
        self.chain: list[tuple[str | None, str]] = []
        listed = fields.get(b"x-forwarded-for")
        if listed is not None:
            self.addresses = split_list(listed)
            self.chain = [(_address(one), "") for one in self.addresses]
        forwarded = fields.get(b"forwarded")
        if forwarded is not None:
            elements = _parse_forwarded(forwarded)
            told = [
                (_address(one.get(b"for", b"")), _scheme(one.get(b"proto"))) for one in elements
            ]
            if elements:
                self.elements = forwarded
            if listed is None:
                self.addresses = [(one or "unknown").encode() for one, _ in told]
                self.chain = told or [(None, "")]
            elif [one for one, _ in told] != [one for one, _ in self.chain]:
                # One field is the proxy's. The other is the client's own, which the proxy passed on.
                self.chain = [(None, "")]
                self.elements = b""
        protos = split_list(fields.get(b"x-forwarded-proto") or b"")
        self.proto = _scheme(protos[-1]) if protos else ""  # the last one is the nearest proxy's


def _scheme(told: bytes | None) -> str:
    text = (told or b"").lower()
    return text.decode() if text in (b"http", b"https") else ""


def _address(told: bytes) -> str | None:
    """The IP address, without a port; None for anything else."""
    text = told.decode("latin-1")
    match = _ADDRESS(text)
    if match is not None:
        text = match["six"] or match["four"]
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def _parse_forwarded(value: bytes) -> list[dict[bytes, bytes]]:
    """The elements of Forwarded; an empty list if it is malformed."""
    elements: list[dict[bytes, bytes]] = []
    element: dict[bytes, bytes] = {}
    place = 0
    while (match := _PAIR(value, place)) is not None:
        name, token, quoted, end = match.groups()
        if name is not None:
            if name.lower() in element:
                return []  # 4: "Each parameter MUST NOT occur more than once per field-value."
            element[name.lower()] = re.sub(rb"\\(.)", rb"\1", quoted) if token is None else token
        if end != b";" and element:
            elements.append(element)
            element = {}
        place = match.end()
        if not end:
            return elements
    return []


def _element(address: bytes, host: bytes, scheme: str) -> bytes:
    """An element of Forwarded (RFC 7239)."""
    named = b"host=%b;" % _quoted(host) if host else b""
    return b"for=%b;%bproto=%b" % (_node(address), named, scheme.encode())


def _node(address: bytes) -> bytes:
    # 6: an IPv6 address is in brackets, and since a token has no colon, in quotes.
    return b'"[%b]"' % address if b":" in address else address


def _quoted(text: bytes) -> bytes:
    return b'"%b"' % text.replace(b"\\", b"\\\\").replace(b'"', b'\\"')


def response_lines(lines: Lines) -> Lines:
    """A response's lines without those of the connection that it came by, and with a Date.

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
        lines = [*lines, (b"date", date_now())]
    return lines


def trailer_lines(lines: Lines) -> Lines:
    """Trailer fields that may be sent on: none that frames the message or has a meaning only before the
    content (RFC 9110 6.5.1)."""
    return [line for line in lines if line[0] not in _NOT_IN_TRAILERS]


_NOT_IN_TRAILERS: Final = _NOT_FORWARDED | {
    b"age", b"authorization", b"cache-control", b"content-encoding", b"content-length",
    b"content-range", b"content-type", b"date", b"expires", b"host", b"location", b"retry-after",
    b"set-cookie", b"vary", b"www-authenticate",
}  # fmt: skip


# An origin can't have these removed, and its response shared, by naming them in Connection.
_NOT_FOR_CONNECTION: Final = frozenset({
    b"cache-control", b"content-length", b"content-type", b"content-encoding", b"date", b"expires",
    b"set-cookie", b"vary",
})  # fmt: skip
