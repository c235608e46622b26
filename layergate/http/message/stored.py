"""What the HTTP cache keeps in an `Entry`: a response, an index of variants, or a marker."""

from __future__ import annotations

from typing import Any, Final, NamedTuple, TypeAlias

from layergate.http.extensions.targeted import OWN
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.ranges import PIECE, Slices
from layergate.http.privacy.closer import Audience
from layergate.http.rfc9111.storing import Refused

__all__ = ["HitForMiss", "PartialResponse", "Served", "StoredResponse", "VariantIndex"]

Part: TypeAlias = tuple[int, bytes]
"""The position of a part's first octet in the representation, and its octets."""
_TRACEPARENT_SIZE: Final = 55 + 49  # bytes of the text, and of a str object

_SAID: Final = (
    "generated", "response_time", "request_time", "no_cache", "must_revalidate", "without_credentials_only", "shared_with_authorization",
    "shared_with_users", "immutable", "reloaded", "traceparent", "own",
)  # fmt: skip


class StoredResponse:
    """A complete response as RFC 9111 section 3 lets a shared cache keep it.

    ``status``, ``lines`` (header fields as stored; no Age), ``body``.
    ``generated``: when its age was 0, seconds since the epoch; ``now - generated`` is its
    current_age (4.2.3).
    ``response_time``: when it arrived here or was last validated; ``request_time``: when that was asked for.
    ``no_cache``: never to be used without validation (``no-cache``).
    ``must_revalidate``: never to be used stale (must-revalidate, proxy-revalidate, s-maxage), whatever the
    client says; the stale windows of the entry are already what they may be.
    ``without_credentials_only``: its lifetime is a rule's or a guess, so only for requests without credentials.
    ``shared_with_authorization``: RFC 9111 3.5 allows it for requests with Authorization.
    ``traceparent``: the span of the fetch that brought it, or validated it last; None if nobody
    traced that.
    ``own``: its LayerGate-Cache-Control, which is stored with it but not sent; None if it has none.
    ``shared_with_users``: it may be given to a client whose user the app knows (`Request.personal`).
    ``immutable``: it will not change while it is fresh (RFC 8246), so a reload does not ask for it.
    ``reloaded``: it was fetched or validated for a client that would not have what was fresh.
    ``large``: its body is sent in pieces (see `ranges.PIECE`).
    ``audience``: who may have it without a closer look than the hit path takes.
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
            Audience.ANONYMOUS
            if without_credentials_only
            else Audience.ANYBODY
            if shared_with_users
            else Audience.UNKNOWN
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
        """The stored fields with those that are not sent: what an update is an update of (3.2)."""
        return self.lines if self.own is None else [*self.lines, (OWN, self.own)]

    @property
    def length(self) -> int | None:
        """Octets of the whole representation; None if that is not known."""
        return len(self.body)

    @property
    def held(self) -> tuple[Part, ...]:
        """What is there of the body, in order, without overlaps."""
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
        """The octets from ``first`` to before ``stop``. Raises LookupError for what is not there."""
        for start, octets in self.held:
            if start <= first <= stop <= start + len(octets):
                return memoryview(octets)[first - start : stop - start]
        raise LookupError("this piece of a stored response is not there")

    def piece(self, first: int, stop: int) -> bytes:
        """A copy of these octets. Raises as `view`."""
        return bytes(self.view(first, stop))

    def said(self) -> dict[str, Any]:
        """All but its content and its lines, as the arguments that make another one."""
        return {name: getattr(self, name) for name in _SAID}

    def renewed(self, lines: Lines, **what: Any) -> StoredResponse:
        """The same content under other ``lines``. ``what``: as for making one."""
        return StoredResponse(self.status, lines, self.body, **what)


class PartialResponse(StoredResponse):
    """Parts of a 200 (RFC 9111 3.3): never an answer, but to a range "wholly within" what is held.

    ``parts``: position and octets of each, in order, with a gap between any two.
    ``whole``: octets of the whole representation; None if the origin did not say.
    ``vague``: the origin's Content-Range did not fit its content (see `partial.received_part`): its
    ``whole`` is not repeated to anybody, and nothing is combined with it.

    ``lines`` are those of the 200 that it is a part of: no Content-Range, no Content-Length. A class
    of its own, since the hit path takes a `StoredResponse` for something whole.
    """

    __slots__ = ("parts", "vague", "whole")

    def __init__(
        self,
        lines: Lines,
        parts: tuple[Part, ...],
        whole: int | None,
        *,
        vague: bool = False,
        **what: Any,
    ) -> None:
        super().__init__(200, lines, b"", **what)
        self.parts = parts
        self.whole = whole
        self.vague = vague

    @property
    def length(self) -> int | None:
        return self.whole

    @property
    def held(self) -> tuple[Part, ...]:
        return self.parts

    def renewed(self, lines: Lines, **what: Any) -> PartialResponse:
        return PartialResponse(lines, self.parts, self.whole, vague=self.vague, **what)


class VariantIndex(NamedTuple):
    """Under a primary key whose responses vary: by what, and which variants there are.

    ``names``: sets of request fields to select by, most recent first.
    ``variants``: the keys of the stored variants, oldest first; see `admission`.
    ``expires``: when each of these ends, seconds since the epoch; none: that is not known.
    """

    names: tuple[tuple[bytes, ...], ...]
    variants: tuple[bytes, ...]
    expires: tuple[int, ...] = ()


class HitForMiss(NamedTuple):
    """A short-lived marker: what is asked for is not shareable, so do not collapse requests.

    ``witnesses``: what the requests that it is for say (see `hit_for_miss`); none: it is for all."""

    reason: Refused
    witnesses: tuple[bytes, ...] = ()


class Served(NamedTuple):
    """A response ready to be sent."""

    status: int
    lines: Lines
    body: bytes | Slices
