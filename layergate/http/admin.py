"""The admin endpoint: purges, statistics, explanations; and the ``PURGE`` method.

Both middlewares call an `AdminEndpoint` for requests below the path of the `Admin` option, and for the
``PURGE`` method. It never calls the application, and changes nothing except by a purge.

``POST {path}/purge`` follows Cloudflare's purge_cache API, so that its clients work unchanged. ``PURGE`` on a
URL is for users of Varnish and Squid, with Fastly's soft purge. ``POST {path}/explain`` returns what
`explain` says about a request, and ``GET {path}/stats`` the counters.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import os
import platform
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from layergate.config import Admin
from layergate.core.invalidation import PurgeReceipt
from layergate.errors import ExplainRefused, PurgeRefused
from layergate.http.engine.cache import Cache
from layergate.http.explain.report import Response
from layergate.http.explain.walk import explain
from layergate.http.message.described import DescribedRequest, checked_lines
from layergate.http.message.fields import Fields, Lines, split_list
from layergate.http.message.request import Request
from layergate.http.message.stored import Served

__all__ = ["MAX_BODY", "AdminEndpoint", "ReadAsked"]

ReadAsked: TypeAlias = Callable[[DescribedRequest], Request]

MAX_BODY: Final = 1024 * 1024  # bytes; Cloudflare's own limit on names is far lower
_LISTS: Final = ("tags", "files", "prefixes", "hosts", "patterns")
_FLAGS: Final = ("purge_everything", "soft")
_SCHEMES: Final = "schemes"
MAX_EXPLAIN: Final = 64 * 1024  # bytes; the heads of a request and a response are far smaller
_HERE_ONLY: Final = (
    "applied in the process {} only; other processes serve this app too ({}), and keep what they hold; add"
    ' shared="host" or shared="redis://..."'
)
_EXPLAINED: Final = ("url", "method", "headers", "known_user", "response")


class AdminEndpoint:
    """The endpoint of one cache that has the option `Admin`."""

    def __init__(self, cache: Cache, admin: Admin) -> None:
        self._cache = cache
        self._admin = admin
        self._token = admin.token.encode("ascii")

    def serves(self, path: str) -> bool:
        """True if this path is the endpoint's. ``path``: decoded, as the app would route it."""
        own = self._admin.path
        return path.startswith(own) and (len(path) == len(own) or path[len(own)] == "/")

    @property
    def purge_method(self) -> bool:
        """True if the endpoint accepts the ``PURGE`` method."""
        return self._admin.purge_method

    def refuse(self, fields: Fields, client: str | None) -> Served | None:
        """None if the client may use the endpoint, or the answer that refuses it: a 401 or a 403.

        ``client``: the address of the client, or None if it is not known.
        """
        networks: Any = self._admin.networks
        if networks is not None and not _within(client, networks):
            return _answer(403, errors=["this address may not use this endpoint"])
        given = fields.all(b"authorization")
        if not given:
            return _answer(
                401, errors=["a bearer token is required"], extra=[(b"www-authenticate", b"Bearer")]
            )
        scheme, _, token = given[0].partition(b" ")
        # Compared in constant time, so that the time it takes reveals nothing about the token.
        right = hmac.compare_digest(token.strip(), self._token)
        if len(given) != 1 or scheme.lower() != b"bearer" or not right:
            return _answer(403, errors=["wrong token"])
        return None

    async def handle(
        self,
        method: str,
        path: str,
        body: bytes,
        read: ReadAsked,
        *,
        multiprocess: bool | None = None,
    ) -> Served:
        """The answer to an authorized request to the endpoint.

        ``read``: makes the `Request` that the middleware would make of a described request.
        ``multiprocess``: what the server says about other processes; None if it says nothing.
        """
        action = path[len(self._admin.path) :].strip("/")
        if action == "purge":
            if method != "POST":
                return _answer(405, errors=["use POST"], extra=[(b"allow", b"POST")])
            return await self._purge(body, multiprocess)
        if action == "explain":
            if method != "POST":
                return _answer(405, errors=["use POST"], extra=[(b"allow", b"POST")])
            return await self._explain(body, read)
        if action == "stats":
            if method not in ("GET", "HEAD"):
                return _answer(405, errors=["use GET"], extra=[(b"allow", b"GET, HEAD")])
            report = dict(await self._cache.report())
            if self._cache.reporter is None:
                report["process"] = _own_process()
            return _json(200, report, head=method == "HEAD")
        known = "purge, stats and explain"
        return _answer(404, errors=[f"no such endpoint: {action!r}; there are {known}"])

    async def _explain(self, body: bytes, read: ReadAsked) -> Served:
        if len(body) > MAX_EXPLAIN:
            return _answer(413, errors=[f"the body must have at most {MAX_EXPLAIN} bytes"])
        wanted = _wanted(body, _EXPLAINED, '{"url": "https://host/path"}')
        if isinstance(wanted, Served):
            return wanted
        try:
            asked = DescribedRequest.of(
                wanted.get("method", "GET"), wanted.get("url"), wanted.get("headers")
            )
            response = _response(wanted.get("response"))
            if not isinstance(wanted.get("known_user", False), bool):
                raise ExplainRefused("known_user must be true or false")
        except ExplainRefused as error:
            return _answer(400, errors=[str(error)])
        request = read(asked)
        if self.serves(request.path):
            return _answer(400, errors=["url must not be this endpoint's own"])
        request.mark_personal(wanted.get("known_user", False))
        explanation = await explain(self._cache, request, response)
        # Each process has its own memory, so the client needs to know which process answered.
        return _answer(200, result={**explanation.as_json(), "process": _own_process()})

    async def _purge(self, body: bytes, multiprocess: bool | None) -> Served:
        wanted = _wanted(body, (*_LISTS, *_FLAGS, _SCHEMES), '{"tags": ["a"]}')
        if isinstance(wanted, Served):
            return wanted
        for name in _FLAGS:
            if not isinstance(wanted.get(name, False), bool):
                return _answer(400, errors=[f"{name} must be true or false"])
        for name in _LISTS:
            if not isinstance(wanted.get(name, []), list):
                return _answer(400, errors=[f"{name} must be a list of strings"])
        files = []
        for file in wanted.get("files", []):
            # Cloudflare also accepts {"url": …, "headers": {…}}. A purge here drops every variant.
            if isinstance(file, dict) and isinstance(file.get("url"), str):
                if set(file) - {"url", "headers"}:
                    return _answer(400, errors=["files may have url and headers only"])
                files.append(file["url"])
            else:
                files.append(file)
        try:
            receipt = await self._cache.purge(
                tags=wanted.get("tags", []),
                urls=files,
                prefixes=wanted.get("prefixes", []),
                hosts=wanted.get("hosts", []),
                patterns=wanted.get("patterns", []),
                everything=wanted.get("purge_everything", False),
                soft=wanted.get("soft", False),
                schemes=wanted.get(_SCHEMES, "either"),
            )
        except PurgeRefused as error:
            return _answer(400, errors=[str(error).replace("urls must", "files must")])
        return _purged(receipt, self._cache.several(multiprocess))

    async def purge_url(
        self, uri: str, fields: Fields, *, multiprocess: bool | None = None
    ) -> Served:
        """The answer to an authorized request with the method ``PURGE`` on ``uri``.

        The request fields ``Surrogate-Key`` and ``Cache-Tag`` name tags to purge instead of the URL.
        ``Fastly-Soft-Purge: 1`` makes it a soft purge.
        """
        tags = [tag for line in fields.all(b"surrogate-key") for tag in line.split()]
        tags += [tag for line in fields.all(b"cache-tag") for tag in split_list(line)]
        soft = (fields.first(b"fastly-soft-purge") or b"").strip() == b"1"
        try:
            if tags:
                names = [tag.decode("utf-8", "surrogateescape") for tag in tags]
                receipt = await self._cache.purge(tags=names, soft=soft)
            else:
                receipt = await self._cache.purge(urls=[uri], soft=soft)
        except PurgeRefused as error:
            return _answer(400, errors=[str(error)])
        return _purged(receipt, self._cache.several(multiprocess))


def _wanted(body: bytes, known: tuple[str, ...], example: str) -> dict[str, Any] | Served:
    """The JSON object in the body of a request, or the answer that refuses it. It may have the ``known``
    fields only."""
    try:
        wanted = json.loads(body)
    except (ValueError, RecursionError) as error:
        return _answer(400, errors=[f"the body is not JSON: {error}"])
    if not isinstance(wanted, dict):
        return _answer(400, errors=[f"the body must be a JSON object such as {example}"])
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        fields = ", ".join(known)
        return _answer(400, errors=[f"unknown field {unknown[0]!r}; known fields: {fields}"])
    return wanted


def _response(wanted: Any) -> Response | None:
    """The response that a request for an explanation describes. Raises ExplainRefused."""
    if wanted is None:
        return None
    if not isinstance(wanted, dict) or set(wanted) - {"status", "headers", "seconds"}:
        raise ExplainRefused("response must be an object with status, headers and seconds")
    status, seconds = wanted.get("status"), wanted.get("seconds", 0)
    if type(status) is not int or not 100 <= status <= 999:
        raise ExplainRefused(f"response.status must be a status code such as 200, got {status!r}")
    if type(seconds) not in (int, float) or not 0 <= seconds <= 86400:
        raise ExplainRefused(f"response.seconds must be from 0 to 86400, got {seconds!r}")
    lines = checked_lines(wanted.get("headers"), "response.headers")
    return Response(status, lines, float(seconds))


def _own_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": platform.node()}


def _purged(receipt: PurgeReceipt, several: str | None) -> Served:
    """The answer to a purge: 200 if it is final, 202 while an instance has not applied it yet, or if there
    are processes that it does not reach. ``several``: see `Cache.several`."""
    result = {
        "applied": receipt.applied,
        "instances": receipt.instances,
        "scope": receipt.scope,
        # These three are about the memory of this process.
        "matched": receipt.matched,
        "matched_at_least": receipt.matched_at_least,
        "seen": receipt.seen,
        "unknown": list(receipt.unknown),
    }
    if receipt.scope == "process" and several is not None:
        return _answer(202, result=result, messages=[_HERE_ONLY.format(os.getpid(), several)])
    if receipt.final:
        return _answer(200, result=result)
    why = "not yet confirmed everywhere" if receipt.reason is None else receipt.reason
    return _answer(202, result=result, messages=[f"applied here; {why}"])


def _within(client: str | None, networks: Any) -> bool:
    """True if the address is in one of the networks."""
    if client is None:
        return False
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return any(address in network or (mapped and mapped in network) for network in networks)


def _answer(
    status: int,
    *,
    errors: list[str] | None = None,
    result: dict[str, Any] | None = None,
    messages: list[str] | None = None,
    extra: Lines | None = None,
) -> Served:
    document = {
        "success": not errors,
        "errors": [{"code": status, "message": message} for message in errors or []],
        "messages": [{"code": status, "message": message} for message in messages or []],
        "result": result,
    }
    return _json(status, document, extra=extra)


def _json(status: int, document: Any, *, extra: Lines | None = None, head: bool = False) -> Served:
    body = json.dumps(document).encode()
    lines: Lines = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"cache-control", b"no-store"),
        *(extra or []),
    ]
    return Served(status, lines, b"" if head else body)
