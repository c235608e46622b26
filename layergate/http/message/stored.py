"""Stored responses: complete ones and partial ones, as plain data.

An entry's value is a `StoredResponse` or a `PartialResponse`. `rfc9111` decides what goes in and when it
is used; nothing here decides anything.
"""

from __future__ import annotations

import enum
from typing import Any, Final, NamedTuple, TypeAlias

from layergate.http.message.cache_control import LAYERGATE_CONTROL
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.ranges import PIECE, Slices

__all__ = ["Audience", "PartialResponse", "Served", "StoredResponse"]

Part: TypeAlias = tuple[int, bytes]
"""The position of a part's first octet in the representation, and the part's octets."""
_TRACEPARENT_SIZE: Final = 55 + 49  # bytes of the text, and of a str object

# The keyword arguments of `StoredResponse`, which are also its attributes.
_ATTRIBUTES: Final = (
    "generated", "response_time", "request_time", "no_cache", "must_revalidate",
    "without_credentials_only", "shared_with_authorization", "shared_with_users", "immutable",
    "reloaded", "traceparent", "own",
)  # fmt: skip


class Audience(enum.IntEnum):
    """The requests that a stored response may answer on the hit path, without the full decision."""

    EVERYONE = 0
    UNIDENTIFIED = 1  # requests that name no user; a cookie is allowed
    WITHOUT_CREDENTIALS = 2  # requests that have no cookie either


class StoredResponse:
    """A complete response, as RFC 9111 section 3 lets a shared cache keep it.

    ``status``, ``lines`` (the stored header fields, without Age), ``body``.
    ``generated``: when the response's age was 0, seconds since the epoch. ``now - generated`` is its
    current_age (4.2.3).
    ``response_time``, ``request_time``: when the response arrived or was last validated, and when that
    request was made; seconds since the epoch.
    ``no_cache``: never used without validation (``no-cache``).
    ``must_revalidate``: never used stale, whatever the request says (``must-revalidate``,
    ``proxy-revalidate``, ``s-maxage``). The stale windows of the entry already reflect this.
    ``without_credentials_only``: the lifetime comes from a rule or a heuristic, so the response is only
    for requests without credentials.
    ``shared_with_authorization``: RFC 9111 3.5 allows the response for requests with Authorization.
    ``shared_with_users``: the response may go to a client whose user is known (`Request.personal`).
    ``immutable``: the response does not change while it is fresh (RFC 8246), so a reload does not
    revalidate it.
    ``reloaded``: it was fetched or validated for a client that rejected a fresh response.
    ``traceparent``: the span of the fetch that brought or last validated it; None without a trace.
    ``own``: its LayerGate-Cache-Control, which is stored but not sent; None if it has none.
    ``large``: the body is sent in pieces (see `ranges.PIECE`).
    ``audience``: the requests that it may answer on the hit path.
    """

    __slots__ = (
        "_fields",
        "audience",
        "body",
        "generated",
        "immutable",
        "large",
        "lines",
        "must_revalidate",
        "no_cache",
        "own",
        "reloaded",
        "request_time",
        "response_time",
        "shared_with_authorization",
        "shared_with_users",
        "status",
        "traceparent",
        "without_credentials_only",
    )

    def __init__(
        self,
        status: int,
        lines: Lines,
        body: bytes,
        *,
        generated: float,
        response_time: float,
        no_cache: bool = False,
        must_revalidate: bool = False,
        without_credentials_only: bool = False,
        shared_with_authorization: bool = False,
        shared_with_users: bool = True,
        immutable: bool = False,
        reloaded: bool = False,
        request_time: float = 0.0,
        traceparent: str | None = None,
        own: bytes | None = None,
    ) -> None:
        self.status = status
        self.lines = lines
        self.body = body
        self.generated = generated
        self.response_time = response_time
        self.no_cache = no_cache
        self.must_revalidate = must_revalidate
        self.without_credentials_only = without_credentials_only
        self.shared_with_authorization = shared_with_authorization
        self.shared_with_users = shared_with_users
        self.immutable = immutable
        self.reloaded = reloaded
        self.request_time = request_time
        self.traceparent = traceparent
        self.own = own
        self.large = len(body) > PIECE
        self.audience = int(
            Audience.WITHOUT_CREDENTIALS
            if without_credentials_only
            else Audience.EVERYONE
            if shared_with_users
            else Audience.UNIDENTIFIED
        )
        self._fields: Fields | None = None

    @property
    def fields(self) -> Fields:
        """The stored fields, parsed on first use."""
        fields = self._fields
        if fields is None:
            fields = self._fields = Fields(self.lines)
        return fields

    @property
    def all_lines(self) -> Lines:
        """The stored fields, including those that are not sent. An update applies to these (3.2)."""
        return self.lines if self.own is None else [*self.lines, (LAYERGATE_CONTROL, self.own)]

    @property
    def length(self) -> int | None:
        """Octets of the whole representation; None if unknown."""
        return len(self.body)

    @property
    def held(self) -> tuple[Part, ...]:
        """The parts of the body that are stored, in order, without overlaps."""
        return ((0, self.body),)

    @property
    def size(self) -> int:
        """Payload in bytes: body, header lines, trace context."""
        size = 0
        for _, octets in self.held:
            size += len(octets)
        for name, value in self.all_lines:
            size += len(name) + len(value)
        return size if self.traceparent is None else size + _TRACEPARENT_SIZE

    def view(self, first: int, stop: int) -> memoryview:
        """The octets from ``first`` up to ``stop``. Raises LookupError if they are not all stored."""
        for start, octets in self.held:
            if start <= first <= stop <= start + len(octets):
                return memoryview(octets)[first - start : stop - start]
        raise LookupError("this piece of the response is not stored")

    def piece(self, first: int, stop: int) -> bytes:
        """A copy of these octets. Raises LookupError like `view`."""
        return bytes(self.view(first, stop))

    def attributes(self) -> dict[str, Any]:
        """The keyword arguments for another response that is like this one but for content and lines."""
        return {name: getattr(self, name) for name in _ATTRIBUTES}

    def renewed(self, lines: Lines, **attributes: Any) -> StoredResponse:
        """The same content under other ``lines``. ``attributes``: as for the constructor."""
        return StoredResponse(self.status, lines, self.body, **attributes)


class PartialResponse(StoredResponse):
    """Parts of a 200 (RFC 9111 3.3). They answer only a range "wholly within" the stored parts.

    ``parts``: the position and the octets of each part, in order, with a gap between any two.
    ``whole``: octets of the whole representation; None if the origin did not say.
    ``vague``: the origin's Content-Range did not fit its content (see `combining.received_part`). Its
    ``whole`` is not repeated to any client, and no other part is combined with it.

    ``lines`` are those of the 200 to which the parts belong, without Content-Range and Content-Length.
    This is a class of its own because the hit path takes a `StoredResponse` for a complete response.
    """

    __slots__ = ("parts", "vague", "whole")

    def __init__(
        self,
        lines: Lines,
        parts: tuple[Part, ...],
        whole: int | None,
        *,
        vague: bool = False,
        **attributes: Any,
    ) -> None:
        super().__init__(200, lines, b"", **attributes)
        self.parts = parts
        self.whole = whole
        self.vague = vague

    @property
    def length(self) -> int | None:
        return self.whole

    @property
    def held(self) -> tuple[Part, ...]:
        return self.parts

    def renewed(self, lines: Lines, **attributes: Any) -> PartialResponse:
        return PartialResponse(lines, self.parts, self.whole, vague=self.vague, **attributes)


class Served(NamedTuple):
    """A response ready to be sent."""

    status: int
    lines: Lines
    body: bytes | Slices
