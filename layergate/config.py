"""Option objects: frozen and validated when they are made, with errors that say what to write instead.

Durations are seconds (int or float) or `datetime.timedelta`. Sizes are bytes or ``"256MB"``.
"""

# Users write the values of these objects. A check that the declared type makes "redundant" is exactly
# the check that turns a mistake into a readable error.
# mypy: disable-error-code="redundant-expr,unreachable"

from __future__ import annotations

import datetime
import ipaddress
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import InitVar, dataclass, field, fields
from typing import Any, Final, Literal, TypeAlias

from layergate.errors import ConfigError
from layergate.sizes import parse_size

__all__ = [
    "ADMIN_PATH",
    "ADMIN_TOKEN",
    "DEFAULT_STATUSES",
    "FIXED_OPTIONS",
    "MAX_TAG_LENGTH",
    "MISSING_TTL",
    "NO_STATUSES",
    "ONE_REQUEST_STATUSES",
    "Admin",
    "Options",
    "Rule",
    "Seconds",
    "StatusSeconds",
    "check_telemetry",
    "count",
    "flag",
    "seconds",
    "strings",
    "unknown_option",
]

Seconds: TypeAlias = float | datetime.timedelta

StatusSeconds: TypeAlias = Seconds | Mapping[int, Seconds]
"""A duration, or one for each status code."""

# The statuses that a rule's ttl covers when it is one number: final answers that mean the same to every
# client. 206, 405, 414, and 501 are heuristically cacheable too (RFC 9110 15.1), but an error in one
# request's form concerns no other client, and a part is not a whole response.
DEFAULT_STATUSES: Final = frozenset({200, 203, 204, 300, 301, 308, 404, 410})
# A missing resource may exist soon, and the request that creates it does not always name its URL.
_MISSING: Final = frozenset({404, 410})
MISSING_TTL: Final = 10.0
"""The longest lifetime that a rule's ttl gives to 404 and 410 when it is one number, seconds."""
ONE_REQUEST_STATUSES: Final = frozenset({407, 408, 412, 416, 417, 425, 426, 428, 429, 431, 511})
"""The status codes that depend on one request, by parts of it that are not in any key: never stored."""
NO_STATUSES: Final = (
    "statuses is no longer an option; write ttl={200: 60, 404: 5}, seconds by status"
)
MAX_TAG_LENGTH: Final = 256
# Fields whose meaning is not that of RFC 9213.
_NO_TARGETS: Final = frozenset({"cache-control", "expires", "pragma", "surrogate-control"})
# Options that a cache is built with. A running cache cannot change them.
FIXED_OPTIONS: Final = frozenset({
    "memory", "shared", "layers", "layer_timeout", "name", "telemetry", "trace_hits", "trace_keys",
    "hooks", "no_vary_search", "forwarding_fields",
})  # fmt: skip
ADMIN_PATH: Final = re.compile(r"(/[A-Za-z0-9._~-]+)+")
ADMIN_TOKEN: Final = re.compile(r"[\x21-\x7e]+")
_LEAST_MEMORY: Final = 4096  # bytes that a MemoryLayer needs
_MEMORY_SHARE: Final = 8  # an entry takes at most this fraction (1/8) of a MemoryLayer
_SHARED_LARGEST: Final = 16 * 1024 * 1024 - 1024  # largest entry of a RedisLayer by default, bytes
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::path)?\}")


def seconds(value: Any, option: str, where: str, *, optional: bool = True) -> float | None:
    """Return a duration in seconds. None is valid if ``optional``.

    Raises ConfigError.
    """
    if value is None:
        if optional:
            return None
        raise ConfigError(f"{option} must be a number of seconds, got None{where}")
    if isinstance(value, datetime.timedelta):
        value = value.total_seconds()
    # An int may be too large for math.isnan.
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or (isinstance(value, float) and math.isnan(value))
    ):
        raise ConfigError(
            f"{option} must be a number of seconds or a timedelta, got {value!r}{where}"
        )
    if value < 0:
        raise ConfigError(f"{option} must be >= 0 seconds, got {value!r}{where}")
    # Infinity is a lifetime like any other; the cap keeps every sum of times finite.
    return float(min(value, 2**31))


def flag(value: Any, option: str, where: str) -> bool:
    """Return a switch that is True or False. Raises ConfigError."""
    if not isinstance(value, bool):
        raise ConfigError(f"{option} must be True or False, got {value!r}{where}")
    return value


def count(value: Any, option: str, *, low: int, where: str = "") -> int:
    """Return a count that is at least ``low``. Raises ConfigError."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ConfigError(f"{option} must be an integer >= {low}, got {value!r}{where}")
    return value


def strings(value: Any, option: str, where: str) -> tuple[str, ...]:
    """Return a list of non-empty strings as a tuple. Raises ConfigError."""
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ConfigError(
            f"{option} must be a list of strings, got {value!r}{where};"
            f" write [{value!r}] for a single one"
        )
    items = tuple(value)
    for item in items:
        if not isinstance(item, str) or not item:
            raise ConfigError(f"{option} must hold non-empty strings, got {item!r}{where}")
    return items


def _ttl(value: Any, where: str) -> float | dict[int, float] | None:
    if not isinstance(value, Mapping):
        try:
            return seconds(value, "ttl", where)
        except ConfigError:
            if value is None or isinstance(value, int | float | datetime.timedelta):
                raise
            raise ConfigError(
                f"ttl must be a number of seconds, a timedelta, or a mapping by status code such as"
                f" {{200: 60, 404: 5}}, got {value!r}{where}"
            ) from None
    if not value:
        raise ConfigError(f"ttl must name at least one status code, got {{}}{where}")
    found: dict[int, float] = {}
    for key, duration in value.items():
        # In TOML and JSON, keys are text.
        text = isinstance(key, str) and re.fullmatch("[1-9][0-9]{2}", key, re.ASCII)
        status = int(key) if text else key
        if isinstance(status, bool) or not isinstance(status, int):
            raise ConfigError(
                f"ttl must have status codes as keys, such as {{200: 60, 404: 5}}, got {key!r}{where}"
            )
        if not 200 <= status <= 599 or status in (206, 304):
            raise ConfigError(
                "ttl must name status codes of final and whole responses (200-599, not 206 or 304),"
                f" got {status}{where}"
            )
        if status in ONE_REQUEST_STATUSES:
            raise ConfigError(
                f"ttl names {status}, which applies to one request only and is never stored{where};"
                " leave it out"
            )
        if status in found:
            raise ConfigError(f"ttl names {status} twice{where}")
        checked = seconds(duration, f"ttl[{status}]", where, optional=False)
        assert checked is not None
        found[status] = checked
    return found


def _hosts(hosts: Any, where: str) -> frozenset[str] | None:
    if hosts is None:
        return None
    names = strings(hosts, "hosts", where)
    for name in names:
        if ":" in name.rpartition("]")[2] or "/" in name:
            raise ConfigError(f"hosts must be host names without a port, got {name!r}{where}")
    return frozenset(name.lower() for name in names)


def unknown_option(name: str, known: Iterable[str], owner: str) -> ConfigError:
    """The error for an option that does not exist. It suggests the nearest name that does."""
    import difflib

    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known options: {', '.join(known)}"
    return ConfigError(f"{owner} has no option {name!r}{hint}")


class _DefaultSize(str):
    """The default of a size, to tell it from the same value given by a user."""

    __slots__ = ()


class _DefaultBytes(int):
    """A default size in bytes, to tell it from the same value given by a user."""

    __slots__ = ()


_MAX_BODY: Final = _DefaultSize("8MB")


@dataclass(frozen=True, slots=True)
class Rule:
    """Policy for the requests whose path matches. The first rule that matches wins.

    ``path``: a pattern over the decoded path. ``{name}`` stands for one segment, or for a part of one up
    to the first occurrence of the text that follows it. ``{name:path}`` and ``*`` stand for any
    characters, slashes included. Everything else stands for itself.

    ``ttl``, ``stale_while_revalidate``, ``stale_if_error``: seconds. None: as the response says.
    They apply to responses that say nothing about caching. The app's own directives win, unless
    ``override`` is set. ``ttl`` as one number covers the statuses 200, 203, 204, 300, 301, 308, 404, and
    410; the last two for at most 10 seconds and without stale windows. A mapping such as
    ``{200: 60, 404: 5}`` gives seconds for each status and covers no other status.

    ``tags``: tags for each response. ``{name}`` is filled in from the path.
    ``vary``: request fields that the response depends on. They are added to its ``Vary``.
    ``override``: the ttl wins over the app's directives, except ``no-store`` and ``private``.
    ``bypass``: never look up, never store.
    ``hosts``: cover only these hosts (``example.com``, with any port). None: all hosts.

    ``allow_authorization``: True: *clients with a wrong Authorization, or with none, get the response that
    the app gave to a client with the right one*, because a hit does not call the app. Use it only for
    paths whose response everybody may have. ``"each"``: share a response only among requests with the same
    Authorization. A withdrawn one works until the stored response is stale and its stale windows have
    ended. False: the ttl does not apply to a request with Authorization.
    ``allow_cookie``: apply the ttl to requests with a Cookie, ``X-API-Key``, or another field that commonly
    holds credentials. *Clients with a wrong one, or with none, are answered too.*
    Neither option affects a route that declares authentication (see the README).
    ``allow_set_cookie``: store responses that set cookies. True: without their Set-Cookie lines,
    which go to the client whose request was forwarded. ``"keep"``: with them, so that *every client
    gets the same cookie*. Never use it for a cookie that names a session, a user, or a CSRF token.

    Raises ConfigError.
    """

    path: str
    ttl: StatusSeconds | None = field(default=None, hash=False)
    stale_while_revalidate: Seconds | None = None
    stale_if_error: Seconds | None = None
    tags: Collection[str] = ()
    vary: Collection[str] = ()
    override: bool = False
    bypass: bool = False
    hosts: Collection[str] | None = None
    allow_authorization: bool | Literal["each"] = False
    allow_cookie: bool = False
    allow_set_cookie: bool | Literal["keep"] = False
    statuses: InitVar[Any] = None  # a former option, refused with what to write instead

    def __post_init__(self, statuses: Any) -> None:
        put = object.__setattr__
        if not isinstance(self.path, str) or not self.path.startswith(("/", "*")):
            raise ConfigError(
                f"path must be a string that starts with '/' or '*', got {self.path!r}"
                " in a rule, e.g. Rule('/products/{id}', ttl=60)"
            )
        where = f" in rule {self.path!r}"
        if statuses is not None:
            raise ConfigError(f"{NO_STATUSES}{where}")
        names = _PLACEHOLDER.findall(self.path)
        rest = _PLACEHOLDER.sub("", self.path)
        if "{" in rest or "}" in rest:
            raise ConfigError(
                f"path has a brace outside of a placeholder{where}; write {{name}} or {{name:path}}"
            )
        if len(set(names)) != len(names):
            raise ConfigError(f"path names a placeholder twice{where}")
        if self.path.count("*") + len(names) > 16:
            raise ConfigError(f"path must have at most 16 '*' and placeholders{where}")
        put(self, "ttl", _ttl(self.ttl, where))
        for option in ("stale_while_revalidate", "stale_if_error"):
            put(self, option, seconds(getattr(self, option), option, where))
        put(self, "tags", strings(self.tags, "tags", where))
        for tag in self.tags:
            if len(tag) > MAX_TAG_LENGTH:
                raise ConfigError(
                    f"tags must be at most {MAX_TAG_LENGTH} characters, got {len(tag)}{where}"
                )
            # A route's policy has the path "*". Its tags use the parameters of the route.
            missing = set(_PLACEHOLDER.findall(tag)) - set(names)
            if missing and self.path != "*":
                raise ConfigError(
                    f"tags use {{{min(missing)}}}, which the path does not name{where}"
                )
        put(self, "vary", tuple(name.lower() for name in strings(self.vary, "vary", where)))
        for name in self.vary:
            if name == "*" or not _TOKEN.fullmatch(name):
                raise ConfigError(f"vary must name header fields, got {name!r}{where}")
        put(self, "hosts", _hosts(self.hosts, where))
        for option in ("override", "bypass", "allow_cookie"):
            flag(getattr(self, option), option, where)
        if not isinstance(self.allow_authorization, bool) and self.allow_authorization != "each":
            raise ConfigError(
                "allow_authorization must be True, False or 'each' (shared among the requests with the"
                f" same Authorization), got {self.allow_authorization!r}{where}"
            )
        if not isinstance(self.allow_set_cookie, bool) and self.allow_set_cookie != "keep":
            raise ConfigError(
                f"allow_set_cookie must be True, False or 'keep', got {self.allow_set_cookie!r}"
                f"{where}"
            )
        if self.override and self.ttl is None:
            raise ConfigError(
                f"override needs a ttl{where}; write Rule(..., ttl=60, override=True)"
            )
        if self.bypass and (self.ttl is not None or self.tags):
            raise ConfigError(f"bypass excludes ttl and tags{where}; drop one of them")

    def lifetime(self, status: int) -> float | None:
        """The seconds that ``ttl`` gives to a response with this status. None: it is not covered."""
        ttl: Any = self.ttl
        if isinstance(ttl, Mapping):
            return ttl.get(status)
        if ttl is None or status not in DEFAULT_STATUSES:
            return None
        return float(min(ttl, MISSING_TTL) if status in _MISSING else ttl)

    def is_brief(self, status: int) -> bool:
        """True if a response with this status has no stale windows, because a plain ttl covers it."""
        return status in _MISSING and not isinstance(self.ttl, Mapping)


@dataclass(frozen=True, slots=True)
class Admin:
    """The endpoint for purges, statistics, and explanations. Without an Admin there is no endpoint.

    ``path``: where the endpoint is, such as ``/_layergate``. It serves ``POST {path}/purge``,
    ``GET {path}/stats``, and ``POST {path}/explain``.
    ``token``: the bearer token that requests must carry in ``Authorization``.
    ``networks``: accept only clients from these networks, such as ``"10.0.0.0/8"``. None: all clients.
    ``purge_method``: accept the ``PURGE`` method on any URL, with the same token.

    Raises ConfigError.
    """

    path: str = "/_layergate"
    token: str = field(default="", repr=False)
    networks: Collection[str] | None = None
    purge_method: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not ADMIN_PATH.fullmatch(self.path):
            raise ConfigError(
                f"path must be an absolute path such as '/_layergate', got {self.path!r} in Admin"
            )
        if not isinstance(self.token, str) or not self.token:
            raise ConfigError(
                "token must be a non-empty string in Admin; without one, anyone could purge"
            )
        if not ADMIN_TOKEN.fullmatch(self.token):
            raise ConfigError("token must be printable ASCII without spaces in Admin")
        flag(self.purge_method, "purge_method", " in Admin")
        if self.networks is not None:
            parsed = []
            for network in strings(self.networks, "networks", " in Admin"):
                try:
                    parsed.append(ipaddress.ip_network(network))
                except ValueError as error:
                    raise ConfigError(
                        f"networks must be CIDR networks such as '10.0.0.0/8', got {network!r}"
                        f" in Admin: {error}"
                    ) from None
            object.__setattr__(self, "networks", tuple(parsed))


def check_telemetry(value: Any) -> None:
    """Raises ConfigError for a value that the option ``telemetry`` cannot have."""
    if value is None or isinstance(value, bool) or hasattr(value, "observe"):
        return
    raise ConfigError(
        "telemetry must be True, False, None (if opentelemetry-api is installed) or an"
        f" OpenTelemetry(...), got {value!r}"
    )


def _ratio(value: Any, option: str) -> float:
    if isinstance(value, bool):
        return float(value)
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(
            f"{option} must be True, False, or a share from 0 to 1, got {value!r}; 0.01 is one in 100"
        )
    return float(value)


def _rules(rules: Any) -> tuple[Rule, ...]:
    if isinstance(rules, str | Rule | Mapping) or not isinstance(rules, Iterable):
        raise ConfigError(f"rules must be a list of Rule objects, got {rules!r}")
    checked: tuple[Rule, ...] = tuple(rules)
    for rule in checked:
        if not isinstance(rule, Rule):
            raise ConfigError(
                f"rules must hold Rule objects, got {rule!r}; write Rule('/path', ttl=60)"
            )
        for tag in rule.tags:
            if rule.path == "*" and _PLACEHOLDER.search(tag):
                raise ConfigError(
                    f"tags use a placeholder that the path does not name, in rule '*': {tag!r};"
                    " write Rule('/{name:path}', ...)"
                )
    return checked


def _targets(names: Any) -> tuple[str, ...]:
    targets = tuple(name.lower() for name in strings(names, "targets", ""))
    for name in targets:
        if not _TOKEN.fullmatch(name):
            raise ConfigError(f"targets must name response fields, got {name!r}")
        if name in _NO_TARGETS:
            raise ConfigError(
                f"targets must name fields of RFC 9213 such as 'CDN-Cache-Control', got {name!r}"
            )
    return tuple(dict.fromkeys(targets))


def _forwarding_fields(names: Any) -> tuple[str, ...] | None:
    if names is None:
        return None
    checked = tuple(name.lower() for name in strings(names, "forwarding_fields", ""))
    for name in checked:
        if not _TOKEN.fullmatch(name):
            raise ConfigError(
                f"forwarding_fields must name request fields such as 'X-Forwarded-Proto', got {name!r}"
            )
    return tuple(sorted(set(checked)))


def _check_shared(shared: Any) -> None:
    """Raises ConfigError for a value that cannot be a shared layer. The layer checks the rest."""
    if isinstance(shared, str) and ("://" in shared or shared.partition(":")[0].lower() == "host"):
        return
    if isinstance(shared, str | bytes | bool | int | float | Collection | type):
        # The value may hold a password, so it is shown only if that is impossible.
        plain = shared is None or isinstance(shared, bool | int | float) or not shared
        shown = f"{shared!r}" if plain or "@" not in repr(shared) else type(shared).__name__
        raise ConfigError(
            "shared must be 'host' for the processes of this machine, a URL such as"
            " 'redis://localhost:6379/0', a redis-py client, or a shared layer such as"
            f" RedisLayer(...), got {shown}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of `HttpCache`. `LayerGate(app, **options)` takes the same names.

    Times are seconds, sizes are bytes.

    What is stored
      ``memory``            budget of the memory layer: bodies, headers, keys, and overhead. None: 64 MB.
      ``shared``            the layer that all instances share, below the memory layer. ``host``,
                            ``host:/path`` or ``host:name``: a folder for the processes of this machine.
                            Or a URL (``redis://``, ``rediss://``, ``unix://``, ``redis+cluster://``,
                            ``redis+sentinel://``), a redis-py client, or a layer with options of its
                            own, such as a `RedisLayer`. None: no shared layer.
      ``layers``            layers of your own instead, top first. Excludes ``memory`` and ``shared``.
      ``rules``             policies by path. The first match wins.
      ``targets``           response fields that come before Cache-Control and Expires, the most
                            preferred first (RFC 9213).
      ``heuristic``         the fraction of the time since Last-Modified for which a response without
                            explicit freshness is fresh (RFC 9111 4.2.2), such as 0.1. None: off.
      ``max_body``          the largest body to store; at most what a layer takes, which for the memory
                            layer is an eighth of its budget. By default 8 MB, or that.
      ``max_inflight``      the size of all bodies together that are being received to be stored.
      ``max_tags``          tags of one response. A response with more is not stored.
      ``max_variants``      stored variants of one target (``Vary``).
      ``max_key_length``    bytes of host, path, and query. A longer target bypasses the cache.
      ``keep``              how long a stale response with a validator is kept for revalidation.

    What selects a response
      ``forwarding_fields`` request fields by which proxies tell the app its scheme, host, port, prefix,
                            or method. They select a response as if ``Vary`` named them. None: the
                            usual ones, `layergate.http.privacy.forwarding.FORWARDING_FIELDS`.
      ``language_order``    True: "en, de" and "de, en" in Accept-Language may select different
                            variants. RFC 9110 12.5.4 leaves this to the app.
      ``language_match``    True: a request that selects no stored variant, and prefers one language to all
                            others, gets the fresh variant that was stored for others and whose
                            Content-Language is just that one. This is more than RFC 9111 4.1 allows.
      ``nominate_codings``  True: send the entity tags of stored variants with a request that selects none
                            of them and differs from theirs by Accept-Encoding alone (RFC 9111 4.3.1),
                            so that a 304 can name one. Only for apps whose tags differ wherever their
                            content does: see `layergate.http.rfc9111.variants`.
      ``no_vary_search``    True: use a response for all targets that its No-Vary-Search makes equivalent
                            to its own. A purge of a URL then purges every such response of its path.
                            All instances that share a layer must use the same value.

    Concurrent requests
      ``collapse``          True: concurrent identical requests share one call to the app.
      ``collapse_timeout``  how long a follower waits for the leader's response to begin or, if the
                            leader is another instance, to be stored.
      ``collapse_fallback`` what a follower does after that. ``"fetch"``: fetch on its own. ``"504"``:
                            send a stale response if ``stale-if-error`` permits one, or else 504.
      ``max_waiters``       followers in this process. Further requests are forwarded without waiting.
      ``hit_for_miss_ttl``  how long requests for a target that is not shareable are not collapsed.
      ``background_refreshes``  refreshes at a time. Further ones are left to a later request.
      ``slow_reader_timeout``   how long, in total, a client may hold up others that read the same stream
                            before it is cut off. After as long, a body that only its own client holds
                            up no longer counts toward ``max_inflight``.
      ``abandoned_timeout`` how long a fetch that no client waits for goes on. Under WSGI it holds the
                            thread of the client that left, so it goes on for at most one second.
      ``shutdown_timeout``  how long background work may go on after the lifespan's shutdown.

    Failures
      ``layer_timeout``     a layer's operation that takes longer has failed and counts as a miss.
      ``origin_timeout``    how long the app may take to begin its response before a stale response that
                            ``stale-if-error`` permits is sent instead. None: no limit.
      ``stale_if_unreachable``  how long after its lifetime a stored response may stand in if the origin
                            cannot be reached: the app raises a ConnectionError (such as
                            `OriginUnreachable`) or answers 502, 503, or 504. Not if the response
                            forbids it (must-revalidate, proxy-revalidate, s-maxage, no-cache).
                            None: only as ``stale-if-error`` permits.
      ``stale_if_untrusted``  how long after this instance lost contact with the shared layer (beyond its
                            ``max_disconnected``) a stored response may stand in for an origin that
                            fails, within the windows that permit it. This instance misses a purge that
                            happens meanwhile, so a receipt that says ``final`` does not cover these
                            responses. None: a response that may have been purged never stands in.

    Requests and responses
      ``request_directives``  True: obey the Cache-Control of requests (RFC 9111 5.2.1).
      ``reload_pause``      after a client's reload (``no-cache``, ``max-age=0`` ...) of a fresh response, how
                            long other reloads of its target are answered from the store. None or 0: every
                            reload is forwarded.
      ``cache_status``      True: send Cache-Status (RFC 9211).
      ``name``              this cache's name in Cache-Status.
      ``strip_tags``        True: keep Cache-Tag and Surrogate-Key from clients.

    Administration and telemetry
      ``admin``             the endpoint for purges, statistics, and explanations. None: no endpoint.
      ``telemetry``         spans and metrics through OpenTelemetry. None: on if opentelemetry-api is
                            installed. Or an ``OpenTelemetry(...)`` with providers of your own.
      ``trace_hits``        spans for hits in the memory layer too: True, or a share of them such as 0.01.
                            A span costs as much as several hits.
      ``trace_keys``        True: spans carry a hash of the cache key.
      ``hooks``             callables that receive (event name, facts). Hits, bypass rules, and requests
                            that are forwarded because their target is known not to be shareable are
                            counted but not reported.

    Raises ConfigError.
    """

    memory: int | str | None = None
    shared: Any = field(default=None, repr=False)  # a URL may hold a password
    layers: Collection[Any] | None = None
    rules: Collection[Rule] = ()
    admin: Admin | None = None
    targets: Collection[str] = ("LayerGate-Cache-Control", "CDN-Cache-Control")
    heuristic: float | None = None
    max_body: int | str = _MAX_BODY
    max_inflight: int | str = "64MB"
    max_tags: int = 128
    max_variants: int = 32
    language_order: bool = True
    language_match: bool = False
    nominate_codings: bool = False
    forwarding_fields: Collection[str] | None = None
    max_key_length: int = 8192
    no_vary_search: bool = False
    keep: Seconds = 3600.0
    collapse: bool = True
    collapse_timeout: Seconds = 30.0
    collapse_fallback: str = "fetch"
    max_waiters: int = 100_000
    hit_for_miss_ttl: Seconds = 120.0
    background_refreshes: int = 64
    slow_reader_timeout: Seconds = 30.0
    abandoned_timeout: Seconds = 60.0
    shutdown_timeout: Seconds = 5.0
    layer_timeout: Seconds = 0.25
    origin_timeout: Seconds | None = None
    stale_if_unreachable: Seconds | None = None
    stale_if_untrusted: Seconds | None = None
    request_directives: bool = True
    reload_pause: Seconds | None = 1.0
    cache_status: bool = True
    name: str = "LayerGate"
    strip_tags: bool = True
    telemetry: Any = None
    trace_hits: bool | float = False
    trace_keys: bool = False
    hooks: Collection[Any] = ()

    def __post_init__(self) -> None:
        put = object.__setattr__
        if self.memory is not None and self.layers is not None:
            raise ConfigError("memory excludes layers; write layers=[MemoryLayer(...), ...] alone")
        if self.shared is not None and self.layers is not None:
            raise ConfigError(
                "shared excludes layers; write layers=[MemoryLayer(...), RedisLayer(...)] alone"
            )
        if self.shared is not None:
            _check_shared(self.shared)
        if self.collapse_fallback not in ("fetch", "504"):
            raise ConfigError(
                f"collapse_fallback must be 'fetch' or '504', got {self.collapse_fallback!r}"
            )
        memory = parse_size("64MB" if self.memory is None else self.memory, option="memory")
        if memory < _LEAST_MEMORY:
            raise ConfigError(
                f"memory must be at least {_LEAST_MEMORY} bytes, got {self.memory!r};"
                " give a size such as '64MB'"
            )
        put(self, "memory", memory)
        put(self, "max_inflight", parse_size(self.max_inflight, option="max_inflight"))
        if self.layers is not None:
            if isinstance(self.layers, str | bytes | Mapping) or not isinstance(
                self.layers, Iterable
            ):
                raise ConfigError(f"layers must be a list of layers, got {self.layers!r}")
            put(self, "layers", tuple(self.layers))
            if not self.layers:
                raise ConfigError("layers must name at least one layer, e.g. [MemoryLayer('64MB')]")
        put(self, "max_body", self._max_body())
        put(self, "rules", _rules(self.rules))
        if self.admin is not None and not isinstance(self.admin, Admin):
            raise ConfigError(
                f"admin must be an Admin object, got {self.admin!r};"
                " write Admin(path='/_layergate', token='...')"
            )
        put(self, "targets", _targets(self.targets))
        put(self, "forwarding_fields", _forwarding_fields(self.forwarding_fields))
        if self.heuristic is not None and (
            isinstance(self.heuristic, bool)
            or not isinstance(self.heuristic, int | float)
            or not 0 < self.heuristic <= 1
        ):
            raise ConfigError(
                f"heuristic must be a fraction above 0 and at most 1, got {self.heuristic!r};"
                " 0.1 is usual, None turns it off"
            )
        for option in (
            "max_tags", "max_variants", "max_key_length", "max_waiters", "background_refreshes",
        ):  # fmt: skip
            low = 0 if option in ("max_waiters", "background_refreshes") else 1
            count(getattr(self, option), option, low=low)
        for option in (
            "keep", "collapse_timeout", "hit_for_miss_ttl", "slow_reader_timeout",
            "abandoned_timeout", "shutdown_timeout",
        ):  # fmt: skip
            put(self, option, seconds(getattr(self, option), option, "", optional=False))
        put(self, "layer_timeout", seconds(self.layer_timeout, "layer_timeout", "", optional=False))
        if not self.layer_timeout:
            raise ConfigError("layer_timeout must be > 0 seconds, got 0; 0.25 is the default")
        for option in (
            "origin_timeout", "stale_if_unreachable", "stale_if_untrusted", "reload_pause",
        ):  # fmt: skip
            put(self, option, seconds(getattr(self, option), option, ""))
        for option in (
            "collapse", "request_directives", "cache_status", "strip_tags", "trace_keys",
            "no_vary_search", "language_order", "language_match",
            "nominate_codings",
        ):  # fmt: skip
            flag(getattr(self, option), option, "")
        if not isinstance(self.name, str) or not re.fullmatch(r"[\x20-\x7e]+", self.name):
            raise ConfigError(f"name must be printable ASCII, got {self.name!r}")
        check_telemetry(self.telemetry)
        put(self, "trace_hits", _ratio(self.trace_hits, "trace_hits"))
        if isinstance(self.hooks, str) or not isinstance(self.hooks, Iterable):
            raise ConfigError(f"hooks must be a list of callables, got {self.hooks!r}")
        put(self, "hooks", tuple(self.hooks))
        for hook in self.hooks:
            if not callable(hook):
                raise ConfigError(f"hooks must be callable, got {hook!r}")

    def _max_body(self) -> int:
        """``max_body`` in bytes. Raises ConfigError if no layer takes a body of that size."""
        given, largest = self.max_body, self._largest()
        if isinstance(given, _DefaultSize | _DefaultBytes):
            most = parse_size(_MAX_BODY, option="max_body")
            return _DefaultBytes(most if largest is None else min(most, largest))
        size = parse_size(given, option="max_body")
        if largest is not None and size > largest:
            raise ConfigError(
                f"max_body must be at most {largest} bytes here, because no layer takes a larger"
                f" response, got {given!r}; lower it, or raise memory (the memory layer takes an eighth"
                " of its budget), or raise the max_entry or max_size of a layer"
            )
        return size

    def _largest(self) -> int | None:
        """The size of the largest response that any layer takes, in bytes. None: it is not known."""
        if self.layers is None:
            memory: int = self.memory  # type: ignore[assignment]
            takes: list[int | None] = [memory // _MEMORY_SHARE]
            if self.shared is not None:
                takes.append(getattr(self.shared, "largest", _SHARED_LARGEST))
        else:
            takes = [getattr(layer, "largest", None) for layer in self.layers]
        known = [each for each in takes if each is not None]
        return max(known) if len(known) == len(takes) else None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """Options from keyword arguments. Raises ConfigError, which suggests a name for an unknown one."""
        known = {f.name for f in fields(cls)}
        for name in options:
            if name not in known:
                raise unknown_option(name, known, "LayerGate")
        return cls(**options)

    def replaced(self, changes: Mapping[str, Any]) -> Options:
        """These options with ``changes``. Raises ConfigError, also for one of `FIXED_OPTIONS`."""
        fixed = FIXED_OPTIONS.intersection(changes)
        if fixed:
            raise ConfigError(
                f"{', '.join(sorted(fixed))} cannot change in a running cache; make a new one"
            )
        values = {option.name: getattr(self, option.name) for option in fields(self)}
        if self.layers is not None:
            del values["memory"]
        return Options.of({**values, **changes})
