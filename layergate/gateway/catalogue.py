"""Every option of a file, the environment and the command line: its name, kind and description.

This is the one place that describes an option: the command line's help and the tables of docs/gateway.md
are made of it. The options are the fields of `GatewayOptions`, of `layergate.config.Options` and, as
defaults for every upstream, of `UpstreamOptions`. Those classes own the defaults and the checks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from layergate.config import Options
from layergate.gateway.options import CACHE_DEFAULTS, GatewayOptions
from layergate.gateway.upstream_options import UpstreamOptions

__all__ = ["PREFIX", "RIVALS", "SETTINGS", "Kind", "Setting"]

PREFIX: Final = "upstream_"  # of the defaults for every upstream

# Pairs that say the same in two ways. The nearer one (see `settings`) wins.
RIVALS: Final = MappingProxyType({
    "admin_token": "admin_token_file",
    "admin_token_file": "admin_token",
    "shared_secret": "shared_secret_file",
    "shared_secret_file": "shared_secret",
    "upstream": "upstreams",
    "upstreams": "upstream",
})  # fmt: skip


class Kind(Enum):
    """How a value is written as text."""

    TEXT = "text"
    FILE = "file"  # in a configuration file, relative to its folder
    # Never on a command line, which every process of the machine can read.
    HIDDEN = "hidden text"
    SWITCH = "true or false"
    COUNT = "integer"
    SECONDS = "seconds"
    NUMBER = "number"
    SHARE = "number, or true or false"
    SIZE = "size"
    LIST = "list"  # of strings
    TABLES = "tables"


class Setting(NamedTuple):
    """One option.

    ``group``     its heading.
    ``optional``  True if it may be None, which is written "".
    ``default``   None also for ``upstream``, which has none.
    """

    name: str
    kind: Kind
    group: str
    help: str
    optional: bool
    default: Any

    @property
    def flag(self) -> str | None:
        """On the command line. None: it has no flag."""
        return None if self.kind is Kind.HIDDEN else "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """In the environment."""
        return "LAYERGATE_" + self.name.upper()


_T: Final = Kind
# A name with "upstream_" in front is a field of UpstreamOptions.
_TABLE: Final[tuple[tuple[str, tuple[tuple[str, Kind, str], ...]], ...]] = (
    ("addresses and processes", (
        ("listen", _T.LIST, "addresses: 127.0.0.1:8080, [::1]:8080, :8080 (every interface), unix:/path"),
        ("workers", _T.COUNT, "number of processes"),
        ("tls_cert", _T.FILE, "PEM file of the certificate and its chain; all TCP addresses then use TLS"),
        ("tls_key", _T.FILE, "PEM file of the private key; none: tls_cert holds it"),
    )),
    ("upstreams", (
        ("upstream", _T.TEXT, "URL of the only upstream: http://host:port, https://host, unix:/path"),
        ("upstreams", _T.TABLES, "several upstreams, by host and path; the first that covers a request gets it"),
        ("upstream_host", _T.TEXT, "the Host that upstreams get: preserve, upstream, or a literal"),
        ("upstream_max_connections", _T.COUNT, "concurrent connections to an upstream, per worker"),
        ("upstream_queue_timeout", _T.SECONDS, "longest wait of a request for a free connection; then 503"),
        ("upstream_connect_timeout", _T.SECONDS, "longest wait for a connection, TLS handshake included"),
        ("upstream_first_byte_timeout", _T.SECONDS, "from the end of the request to the first byte of the response"),
        ("upstream_read_timeout", _T.SECONDS, "between two parts of a response; also for a WebSocket's upstream to take more"),
        ("upstream_idle_timeout", _T.SECONDS, "lifetime of an unused connection"),
        ("upstream_max_tunnels", _T.COUNT, "concurrent WebSockets to an upstream, per worker, besides its connections"),
        ("upstream_tunnel_idle_timeout", _T.SECONDS, "lifetime of a WebSocket in which nothing passes"),
        ("upstream_retries", _T.COUNT, "further attempts to connect"),
        ("upstream_tls_verify", _T.SWITCH, "require a certificate that is valid for the host of an https upstream"),
        ("upstream_tls_ca_file", _T.FILE, "PEM file of the trusted authorities; none: those of the system"),
        ("upstream_tls_server_name", _T.TEXT, "name to request (SNI) and verify; none: the host of the URL"),
    )),
    ("storing", (
        ("memory", _T.SIZE, "budget of the memory layer, per worker; none: 64MB"),
        ("shared", _T.TEXT, "what instances share: host:/path for the processes of this machine, or the URL of a Redis or Valkey"),
        ("shared_namespace", _T.TEXT, "prefix of every key in the shared layer"),
        ("shared_secret", _T.HIDDEN, "secret of 16 characters or more that signs entries in the shared layer"),
        ("shared_secret_file", _T.FILE, "file that holds the secret"),
        ("shared_compress_above", _T.SIZE, "larger responses are compressed in the shared layer; none: no compression"),
        ("rules", _T.TABLES, "policies by path; the first that matches applies"),
        ("heuristic", _T.NUMBER, "freshness of responses that state none: this fraction of the time since Last-Modified; none: off"),
        ("forwarding_fields", _T.LIST, "request fields that tell an origin its scheme, host, port or prefix, and select variants"),
        ("targets", _T.LIST, "response fields that come before Cache-Control and Expires (RFC 9213)"),
        ("max_body", _T.SIZE, "larger bodies are not stored; default: 8MB, or the most that a layer takes"),
        ("max_inflight", _T.SIZE, "total size of the bodies that are being received to be stored"),
        ("max_tags", _T.COUNT, "a response with more tags is not stored"),
        ("max_variants", _T.COUNT, "stored variants (Vary) per target"),
        ("language_order", _T.SWITCH, "the order of equal weights in Accept-Language is significant"),
        ("language_match", _T.SWITCH, "use a stored response in the language a client prefers, whatever else it accepts"),
        ("nominate_codings", _T.SWITCH, "send the entity tags of stored variants that differ from a request by Accept-Encoding alone"),
        ("max_key_length", _T.COUNT, "bytes of a target (host, path and query); longer ones bypass the cache"),
        ("no_vary_search", _T.SWITCH, "use a response for all queries that its No-Vary-Search makes equivalent"),
        ("keep", _T.SECONDS, "how long a stale response with a validator is kept for revalidation"),
    )),
    ("concurrent requests", (
        ("collapse", _T.SWITCH, "concurrent identical requests share one fetch"),
        ("collapse_timeout", _T.SECONDS, "longest wait of a follower for the leader's response"),
        ("collapse_fallback", _T.TEXT, "what a follower does after that: fetch, or 504"),
        ("max_waiters", _T.COUNT, "followers per worker; further requests are not collapsed"),
        ("hit_for_miss_ttl", _T.SECONDS, "how long a target that proved not shareable is not collapsed"),
        ("background_refreshes", _T.COUNT, "concurrent background refreshes"),
        ("slow_reader_timeout", _T.SECONDS, "a client that holds up others in a large response is cut off after this time"),
        ("abandoned_timeout", _T.SECONDS, "how long a fetch continues without a client that waits for it"),
        ("shutdown_timeout", _T.SECONDS, "how long background work may continue after the last request"),
    )),
    ("faults", (
        ("layer_timeout", _T.SECONDS, "a layer operation that takes longer counts as a miss"),
        ("origin_timeout", _T.SECONDS, "a stale response may be sent after this time; none: no limit"),
        ("stale_if_untrusted", _T.SECONDS, "how long a stale response may be used after contact to `shared` was lost, though purges may be missed; none: never"),
        ("stale_if_unreachable", _T.SECONDS, "how long a stale response may be used for an upstream that gives no response (or 502, 503, 504)"),
    )),
    ("access", (
        ("admin_path", _T.TEXT, "path of the admin endpoint; healthz and readyz are below it"),
        ("admin_token", _T.HIDDEN, "bearer token of the admin endpoint; without one there are only healthz and readyz"),
        ("admin_token_file", _T.FILE, "file that holds the token"),
        ("admin_networks", _T.LIST, "networks of clients that may use the admin endpoint; none: all"),
        ("purge_method", _T.SWITCH, "accept PURGE for any URL, with the token"),
        ("trusted_proxies", _T.LIST, "networks of proxies, and unix, whose word about a client's address and scheme is taken"),
    )),
    ("forwarding and fields", (
        ("forwarded", _T.TEXT, "fields that tell upstreams about the client: x-forwarded, forwarded, both or none"),
        ("via", _T.TEXT, "pseudonym in Via and CDN-Loop; none: neither field"),
        ("pass_upgrades", _T.SWITCH, "pass WebSockets (Upgrade) to the upstream; otherwise 501"),
        ("request_directives", _T.SWITCH, "obey the Cache-Control of requests"),
        ("reload_pause", _T.SECONDS, "how long after a client's reload (no-cache) further reloads of its target are answered from the cache; none: never"),
        ("cache_status", _T.SWITCH, "send Cache-Status"),
        ("name", _T.TEXT, "name of LayerGate in Cache-Status"),
        ("strip_tags", _T.SWITCH, "remove Cache-Tag and Surrogate-Key from responses to clients"),
    )),
    ("limits", (
        ("keep_alive_timeout", _T.SECONDS, "between two requests of a connection; 0: one request per connection"),
        ("head_timeout", _T.SECONDS, "for the head of a request, from its first byte"),
        ("body_timeout", _T.SECONDS, "between two parts of a request's content"),
        ("send_timeout", _T.SECONDS, "a client that takes nothing of its response for this long is cut off"),
        ("max_head", _T.SIZE, "size of a request's line and fields"),
        ("max_fields", _T.COUNT, "number of a request's fields"),
        ("max_content", _T.SIZE, "size of a request's content; none: no limit"),
        ("max_connections", _T.COUNT, "connections of clients, per worker, WebSockets not counted"),
        ("drain_timeout", _T.SECONDS, "for requests that are under way, after a signal to stop"),
    )),
    ("observability", (
        ("access_log", _T.SWITCH, "log a line for each request"),
        ("telemetry", _T.SWITCH, "spans and metrics; none: on if opentelemetry-api is installed"),
        ("trace_hits", _T.SHARE, "spans for hits in memory too, or for this share of them"),
        ("trace_keys", _T.SWITCH, "add a hash of the cache key to spans"),
    )),
)  # fmt: skip


def _fields() -> Mapping[str, Field[Any]]:
    found: dict[str, Field[Any]] = {}
    for owner, prefix in ((GatewayOptions, ""), (Options, ""), (UpstreamOptions, PREFIX)):
        found |= {prefix + field.name: field for field in fields(owner) if field.init}
    return found


def _settings() -> dict[str, Setting]:
    known = _fields()
    settings = {}
    for group, rows in _TABLE:
        for name, kind, told in rows:
            optional, default = True, None
            if name in known:
                field = known[name]
                # Annotations are strings here.
                optional = kind is not Kind.TABLES and "None" in str(field.type)
                default = None if field.default is MISSING else field.default
            default = CACHE_DEFAULTS.get(name, default)
            settings[name] = Setting(name, kind, group, told, optional, default)
    # Typed Any, as it may be an object in code.
    for name in ("shared", "telemetry"):
        settings[name] = settings[name]._replace(optional=True)
    return settings


SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType(_settings())
