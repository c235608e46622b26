"""Requests that are forwarded at once: for targets known not to be shareable, and unsafe methods.

The app speaks with its client through a ``send`` that looks at the head. Only if that shows a response
that may be stored is an exchange made, and a `Tap` takes the rest of the messages. The middleware calls
these functions, in the task of the request; they never wait for another request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from layergate.asgi.calling import ask, begin_call
from layergate.asgi.incoming import Incoming
from layergate.asgi.messages import START, App, Message, Receive, Scope, Send
from layergate.asgi.scope import header_lines, is_personal, read_request, route_path, target_uri
from layergate.asgi.tap import Client, Tap, settled
from layergate.frameworks import KEY
from layergate.http.engine.cache import Cache
from layergate.http.engine.posting import after_post, begin
from layergate.http.engine.uncacheable import KnownUnshareable
from layergate.http.message.fields import Lines
from layergate.http.message.request import Request
from layergate.http.rules import Match
from layergate.route_calls import RouteCall, policy_place

__all__ = ["after_unsafe", "forward_known", "forward_post"]


async def forward_known(
    app: App,
    cache: Cache,
    scope: Scope,
    receive: Receive,
    send: Send,
    match: Match | None,
    fields: dict[bytes, bytes],
) -> None:
    """A request for a target that is known not to be shareable.

    ``match``: the rule that covers it; ``fields``: its header fields, none of which occurred twice.
    """
    known = KnownUnshareable(cache, match, fields)
    asked = dict(scope)  # as it is now: apps change theirs as they route
    route = scope[KEY] = begin_call(cache, scope)
    tap: Tap | None = None

    def watched(message: Message) -> Awaitable[None]:
        if tap is not None:
            return tap.send(message)
        if message["type"] == START:
            headers = list(message.get("headers", ()))
            message = {**message, "headers": headers}
            if route.policy(scope, "GET", message["status"]) is not None:
                return look_closer(message)
            lines = known.head(message["status"], headers)
            if lines is None:
                return look_closer(message)
            message["headers"] = lines
        return send(message)

    async def look_closer(message: Message) -> None:
        nonlocal tap
        asked["headers"] = fields.items()
        obey = bool(cache.options.request_directives)
        exchange = await known.exchange(read_request(asked, obey_directives=obey))
        # (the app has the server's own receive)
        tap = Tap(app, cache, exchange, scope, Client(Incoming(receive), send), route=route)
        await tap.send(message)

    await _call(app, scope, receive, watched, route, lambda: tap)


async def forward_post(
    app: App, cache: Cache, scope: Scope, receive: Receive, send: Send, lines: Lines
) -> None:
    """A POST: as other unsafe methods, but its response may answer a later GET too.

    ``lines``: what is added to a head that is not stored.
    """
    begun = begin(cache)
    # As it is now: apps change theirs as they route.
    asked = {**scope, "headers": [*header_lines(scope)]}
    personal = is_personal(scope)
    path = route_path(scope)
    target = target_uri(asked)
    route = scope[KEY] = begin_call(cache, scope)
    tap: Tap | None = None

    def read() -> Request:
        request = read_request(asked, obey_directives=bool(cache.options.request_directives))
        request.mark_personal(personal or is_personal(scope))
        request.secured = route.secured(scope, "POST", path)
        return request

    async def watched(message: Message) -> None:
        nonlocal tap
        if tap is not None:
            await tap.send(message)
            return
        if message["type"] == START:
            headers = list(message.get("headers", ()))
            # Before the client learns of its success: what it reads next is the new state.
            exchange = await after_post(
                cache,
                read,
                target,
                message["status"],
                headers,
                begun,
                route=route.policy(scope, "POST", message["status"]),
                trailers=bool(message.get("trailers")),
            )
            if exchange is not None:
                # (the app has the server's own receive)
                tap = Tap(app, cache, exchange, scope, Client(Incoming(receive), send), route=route)
                await tap.send({**message, "headers": headers})
                return
            message = {**message, "headers": [*cache.for_clients(headers), *lines]}
        await send(message)

    await _call(app, scope, receive, watched, route, lambda: tap)


async def _call(
    app: App,
    scope: Scope,
    receive: Receive,
    send: Send,
    route: RouteCall,
    tapped: Callable[[], Tap | None],
) -> None:
    """Call the app. ``tapped``: the tap that ``send`` has made by the end, if any. Its exchange is over
    then too."""
    place = policy_place.set(route)
    try:
        await ask(app, scope, receive, send)
    except BaseException as error:
        if (tap := tapped()) is not None:
            tap.feed.abort(error)
        raise
    finally:
        policy_place.reset(place)
        route.returned()
        route.close()
    if (tap := tapped()) is not None:
        await tap.flushed()
        tap.feed.abort()  # does nothing if the body is complete
        await settled(tap.feed)


def after_unsafe(cache: Cache, scope: Scope, send: Send, lines: Lines) -> Send:
    """A ``send`` that watches the response to an unsafe method (RFC 9111 4.4) and adds ``lines`` to its
    head."""
    # (now, since the app may change its scope)
    method: str = scope["method"]
    uri = target_uri(scope)

    async def watched(message: Message) -> None:
        if message["type"] == START:
            headers = list(message.get("headers", ()))
            # Before the client learns of its success: what it reads next is the new state.
            await cache.after_unsafe(uri, method, message["status"], headers)
            message = {**message, "headers": [*cache.for_clients(headers), *lines]}
        await send(message)

    return watched
