"""One call of the application: the caching policy of the route that answers, and calls within calls.

A decorated endpoint (`layergate.routes`) notes its policy when it is called, in a context variable that no
middleware in between can lose. That it was called is not enough: a view may call a decorated function as a
helper, or depend on one, and the page that it makes is not the response of that function. So a policy counts
only if a framework has routed the request to the function that noted it (see `layergate.frameworks`), and if
that function has answered, rather than a decorator in front of it or the handler of an exception.

The policy takes the place of the rule, if any, that covers the request. If a dependency and a decorator have
both noted one, the decorator's counts. Both middlewares make a `RouteCall` for each call of the app whose
response may be stored.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any, Final

from layergate import frameworks
from layergate.config import Rule
from layergate.errors import GateRecursion
from layergate.frameworks import Called, Routed
from layergate.http.rules import Match

__all__ = ["NotedPolicy", "RouteCall", "policy_place", "refuse_circle"]

_logger = logging.getLogger("layergate")
_CIRCLE: Final = (
    "LayerGate got the request that it has just handed to its own application, so it is inside itself, or"
    " inside another LayerGate with the same cache; wrap the inner application:"
    " app.wsgi_app = LayerGate(app.wsgi_app), not LayerGate(app)"
)
_OWN_FRAMES: Final = 6  # of a middleware that answers one request
_MAX_NOTED: Final = 256
_MAX_WARNINGS: Final = 256
_warned: Final[set[str]] = set()


class NotedPolicy:
    """A policy that was noted while the app was called.

    ``by``: the function that noted it. ``params``: parameters of the path, or arguments, for its tags.
    ``failed``: True if the function has raised since.
    """

    __slots__ = ("by", "failed", "params", "rule")

    def __init__(self, rule: Rule, by: Any, params: Mapping[str, Any]) -> None:
        self.rule = rule
        self.by = by
        self.params = params
        self.failed = False


class RouteCall:
    """One call of the app, and what it tells about the route that answers.

    A middleware makes it, and puts it into the context (`policy_place`) and into the scope or environ
    (`frameworks.KEY`).

    ``cache``, ``target``: the cache of the middleware that makes the call, and the request. ``outer``: the
    call that this one is part of, if another middleware is outside of this one. ``running``: True until
    the app has returned.
    """

    __slots__ = (
        "_closed", "_dependencies", "_endpoints", "_routed", "cache", "outer", "running", "target",
    )  # fmt: skip

    def __init__(self, cache: object, target: object, outer: RouteCall | None) -> None:
        self.cache = cache
        self.target = target
        self.outer = outer
        self.running = True
        self._endpoints: dict[tuple[int, int], NotedPolicy] = {}
        self._dependencies: list[NotedPolicy] = []
        self._routed: Routed | None = None
        self._closed = False

    def endpoint(
        self, rule: Rule, by: Called, arguments: Mapping[str, Any], *more: Any
    ) -> NotedPolicy:
        """Note ``rule``: a decorated function is called, with ``arguments`` by keyword and ``more`` by
        position."""
        me = by.first if by.bound is None else by.bound
        key = id(by.function), id(me)  # (both live as long as they are noted here)
        noted = self._endpoints.get(key)
        if noted is None:
            noted = NotedPolicy(rule, by, arguments)
            # The endpoint is called before the functions that it calls, of which there is no limit.
            if not self._closed and len(self._endpoints) < _MAX_NOTED:
                self._endpoints[key] = noted
                self.look((*more[:2], *arguments.values()))
        noted.rule, noted.failed = rule, False
        return noted

    def dependency(self, rule: Rule, by: object, request: Any) -> NotedPolicy:
        """Note ``rule``: a dependency of FastAPI is called."""
        noted = NotedPolicy(rule, by, request.path_params)
        if not self._closed and len(self._dependencies) < _MAX_NOTED:
            self._dependencies.append(noted)
            self.look((request,))
        return noted

    def look(self, arguments: tuple[Any, ...] = ()) -> None:
        """Note what the request is routed to, as long as the framework tells."""
        if self._routed is None and not self._closed:
            self._routed = frameworks.current(self, arguments)

    def policy(self, place: Mapping[str, Any], method: str, status: int) -> Match | None:
        """The policy of the route that has answered with ``status``; None if it has none.

        ``place``: the scope or environ that the app was called with.
        """
        if not self._endpoints and not self._dependencies:
            return None
        routed = frameworks.routed(place, self._routed)
        if routed is None:
            for each in self._endpoints.values():
                _warn(each.by.function)
                break
            return None
        noted: NotedPolicy | None = None
        for each in self._dependencies:
            if routed.depends_on(each.by):
                noted = each
        for each in self._endpoints.values():
            if routed.answered_by(each.by, method):
                noted = each
        # If the function has raised, the handler of its exception has answered. An error response is
        # still the response of the function; a page in place of the error is not.
        if noted is None or (noted.failed and status < 400):
            return None
        params = noted.params if routed.params is None else routed.params
        return Match(noted.rule, params)

    def secured(self, place: Mapping[str, Any], method: str, path: str) -> bool:
        """True if the route that answers declares that it requires a user. ``path``: the path of the
        request within the app."""
        routed = frameworks.routed(place, self._routed) or frameworks.resolved(path)
        return routed is not None and routed.secured(method)

    def refuse(self, cache: object, target: object) -> None:
        """Raises GateRecursion if a middleware of ``cache`` gets the request that it has just handed to its
        own application, directly or through other middleware."""
        call: RouteCall | None = self
        while call is not None:
            if call.running and call.cache is cache and call.target == target:
                raise GateRecursion(_CIRCLE)
            call = call.outer

    def returned(self) -> None:
        """The app has returned, or failed."""
        self.running = False

    def close(self) -> None:
        """The head of the response is known: functions that are called from now on have no part in it."""
        self._closed = True
        self._endpoints, self._dependencies, self._routed = {}, [], None


policy_place: Final[ContextVar[RouteCall | None]] = ContextVar(
    "layergate_policy_place", default=None
)
"""The call of the app that is under way. Set by the middleware."""


def refuse_circle(gate: object, error: RecursionError) -> None:
    """Raises GateRecursion if the stack overflowed because the middleware ``gate`` was called inside
    itself."""
    place, times = error.__traceback__, 0
    while place is not None:
        times += place.tb_frame.f_locals.get("self") is gate
        place = place.tb_next
    if times > _OWN_FRAMES:
        raise GateRecursion(_CIRCLE) from None


def _warn(function: Any) -> None:
    """Log, once for each function, that its policy is not used."""
    name = f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', function)}"
    if name in _warned or len(_warned) >= _MAX_WARNINGS:
        return
    _warned.add(name)
    _logger.warning(
        "the policy of %s is not used: no framework that LayerGate knows has routed the request to it, so"
        " another endpoint may have called it; write a rule for its path, such as Rule('/path', ttl=60)",
        name,
    )
