"""What can be set in a file, in the environment and on the command line: all names, in one table.

The options are the fields of `GatewayOptions`, of `layergate.config.Options` and, as defaults for
every upstream, of `UpstreamOptions`; those have the defaults and the checks. Here is what else is
needed to read them from text and to speak of them.
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

# Each of which says the same in another way: the one that is nearer (see `settings`) wins.
RIVALS: Final = MappingProxyType({
    "admin_token": "admin_token_file",
    "admin_token_file": "admin_token",
    "shared_secret": "shared_secret_file",
    "shared_secret_file": "shared_secret",
    "upstream": "upstreams",
    "upstreams": "upstream",
})  # fmt: skip


class Kind(Enum):
    """How a value is written."""

    TEXT = "text"
    FILE = "file"  # in a configuration file relative to its folder
    HIDDEN = (
        "hidden text"  # never on a command line, where every process of the machine could read it
    )
    SWITCH = "true or false"
    COUNT = "integer"
    SECONDS = "seconds"
    NUMBER = "number"
    SHARE = "number, or true or false"
    SIZE = "size"
    LIST = "list"  # of strings
    TABLES = "tables"


class Setting(NamedTuple):
    """One of them.

    ``group``     the heading it is under.
    ``optional``  may be None, which is written "".
    ``default``   None also where there is none (``upstream``).
    """

    name: str
    kind: Kind
    group: str
    help: str
    optional: bool
    default: Any

    @property
    def flag(self) -> str | None:
        """On the command line; None: not there."""
        return None if self.kind is Kind.HIDDEN else "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """In the environment."""
        return "LAYERGATE_" + self.name.upper()


_T: Final = Kind
# A name with "upstream_" in front is a field of UpstreamOptions.
_TABLE: Final[tuple[tuple[str, tuple[tuple[str, Kind, str], ...]], ...]] = (
    ("where it stands", (
        ("listen", _T.LIST, "addresses: 127.0.0.1:8080, [::1]:8080, :8080 (every interface), unix:/path"),
        ("workers", _T.COUNT, "processes"),
        ("tls_cert", _T.FILE, "PEM file of the certificate and its chain; TCP addresses then speak TLS"),
        ("tls_key", _T.FILE, "PEM file of its private key; none: it is in tls_cert"),
    )),
    ("upstreams", (
        ("upstream", _T.TEXT, "URL of the only upstream: http://host:port, https://host, unix:/path"),
        ("upstreams", _T.TABLES, "several upstreams, by host and path; the first that covers a request has it"),
        ("upstream_host", _T.TEXT, "what Host says there: preserve, upstream, or a literal"),
        ("upstream_max_connections", _T.COUNT, "connections at a time to an upstream, per worker"),
        ("upstream_queue_timeout", _T.SECONDS, "how long a request waits for one of them; then 503"),
        ("upstream_connect_timeout", _T.SECONDS, "for a connection, TLS handshake included"),
        ("upstream_first_byte_timeout", _T.SECONDS, "from the end of the request to the response's first byte"),
        ("upstream_read_timeout", _T.SECONDS, "between two parts of a response; for a WebSocket's upstream to take more"),
        ("upstream_idle_timeout", _T.SECONDS, "how long an unused connection is kept"),
        ("upstream_max_tunnels", _T.COUNT, "WebSockets at a time to an upstream, per worker, beside its connections"),
        ("upstream_tunnel_idle_timeout", _T.SECONDS, "how long a WebSocket is kept in which nothing passes"),
        ("upstream_retries", _T.COUNT, "further attempts to connect"),
        ("upstream_tls_verify", _T.SWITCH, "whether an https upstream's certificate must be valid for it"),
        ("upstream_tls_ca_file", _T.FILE, "PEM file of the authorities to believe; none: the system's"),
        ("upstream_tls_server_name", _T.TEXT, "the name asked for and verified; none: the URL's host"),
    )),
    ("what is stored", (
        ("memory", _T.SIZE, "budget of the memory layer, per worker; none: 64MB"),
        ("shared", _T.TEXT, "URL of the Redis or Valkey that all instances share"),
        ("shared_namespace", _T.TEXT, "begins every key there"),
        ("shared_secret", _T.HIDDEN, "16 characters or more; what is stored there is signed with it"),
        ("shared_secret_file", _T.FILE, "the file that holds it"),
        ("shared_compress_above", _T.SIZE, "larger responses are stored compressed there; none: none is"),
        ("rules", _T.TABLES, "policies by path; the first that matches wins"),
        ("heuristic", _T.NUMBER, "freshness of responses that state none: this fraction of the time since Last-Modified; none: off"),
        ("forwarding_fields", _T.LIST, "request fields that tell an origin its scheme, host, port or prefix, and select variants"),
        ("targets", _T.LIST, "response fields that come before Cache-Control and Expires (RFC 9213)"),
        ("max_body", _T.SIZE, "a larger body is not stored; by default 8MB, or the most that a layer takes"),
        ("max_inflight", _T.SIZE, "bodies being received to be stored, all together"),
        ("max_tags", _T.COUNT, "a response with more tags is not stored"),
        ("max_variants", _T.COUNT, "stored variants (Vary) per target"),
        ("language_order", _T.SWITCH, "whether the order of equal weights in Accept-Language counts"),
        ("language_match", _T.SWITCH, "use what is stored in the language a client prefers, whatever else it accepts"),
        ("nominate_codings", _T.SWITCH, "send the entity tags of stored variants that differ from a request by Accept-Encoding alone"),
        ("max_key_length", _T.COUNT, "bytes of a target (host, path and query); a longer one is passed"),
        ("no_vary_search", _T.SWITCH, "use a response for all queries that its No-Vary-Search makes one"),
        ("keep", _T.SECONDS, "how long a stale response with a validator is kept for revalidation"),
    )),
    ("what happens at the same time", (
        ("collapse", _T.SWITCH, "concurrent identical requests share one fetch"),
        ("collapse_timeout", _T.SECONDS, "how long a follower waits for the leader's response"),
        ("collapse_fallback", _T.TEXT, "what follows that: fetch, or 504"),
        ("max_waiters", _T.COUNT, "followers per worker; more are passed"),
        ("hit_for_miss_ttl", _T.SECONDS, "how long what turned out not to be shareable is not collapsed"),
        ("background_refreshes", _T.COUNT, "refreshes at a time"),
        ("slow_reader_timeout", _T.SECONDS, "a client that holds up others in a large response is cut off"),
        ("abandoned_timeout", _T.SECONDS, "how long a fetch goes on that no client waits for"),
        ("shutdown_timeout", _T.SECONDS, "how long background work may go on after the requests"),
    )),
    ("trouble", (
        ("layer_timeout", _T.SECONDS, "a layer's operation that takes longer is a miss"),
        ("origin_timeout", _T.SECONDS, "when a stale response may be sent instead; none: no limit"),
        ("stale_if_untrusted", _T.SECONDS, "for so long after losing touch with `shared` (or with the other workers) a stale response still stands in, though purges may pass unheard; none: never"),
        ("stale_if_unreachable", _T.SECONDS, "a stale response stands in so long for an upstream that gives none (or 502, 503, 504)"),
    )),
    ("who may do what", (
        ("admin_path", _T.TEXT, "where the endpoint for purging and looking is; below it healthz, readyz"),
        ("admin_token", _T.HIDDEN, "its bearer token; without one there are only healthz and readyz"),
        ("admin_token_file", _T.FILE, "the file that holds it"),
        ("admin_networks", _T.LIST, "clients that are heard there; none: all"),
        ("purge_method", _T.SWITCH, "whether PURGE works on any URL, with the token"),
        ("trusted_proxies", _T.LIST, "networks, and unix, that are believed about a client's address and scheme"),
    )),
    ("what is heard and said", (
        ("forwarded", _T.TEXT, "what upstreams are told: x-forwarded, forwarded, both or none"),
        ("via", _T.TEXT, "pseudonym in Via and CDN-Loop; none: neither"),
        ("pass_upgrades", _T.SWITCH, "pass Upgrade (WebSocket) to the upstream; else 501"),
        ("request_directives", _T.SWITCH, "obey the Cache-Control of requests"),
        ("reload_pause", _T.SECONDS, "for so long after a client's reload (no-cache), others of its target are answered from the store; none: never"),
        ("cache_status", _T.SWITCH, "send Cache-Status"),
        ("name", _T.TEXT, "LayerGate's name in there"),
        ("strip_tags", _T.SWITCH, "keep Cache-Tag and Surrogate-Key from clients"),
    )),
    ("how long, how much", (
        ("keep_alive_timeout", _T.SECONDS, "between two requests of a connection; 0: one request each"),
        ("head_timeout", _T.SECONDS, "for a request's head, from its first byte"),
        ("body_timeout", _T.SECONDS, "between two parts of a request's content"),
        ("send_timeout", _T.SECONDS, "how long a client may take nothing of what it is sent"),
        ("max_head", _T.SIZE, "of a request: its line and fields"),
        ("max_fields", _T.COUNT, "fields of a request"),
        ("max_content", _T.SIZE, "content of a request; none: no limit"),
        ("max_connections", _T.COUNT, "connections of clients, per worker, WebSockets apart"),
        ("drain_timeout", _T.SECONDS, "after a signal to stop, for the requests there are"),
    )),
    ("what is seen of it", (
        ("access_log", _T.SWITCH, "a line per request"),
        ("telemetry", _T.SWITCH, "spans and metrics; none: if opentelemetry-api is installed"),
        ("trace_hits", _T.SHARE, "spans for hits in memory too, or for so large a share of them"),
        ("trace_keys", _T.SWITCH, "spans tell a hash of the cache key"),
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
                # What may be None says so: annotations are strings here.
                optional = kind is not Kind.TABLES and "None" in str(field.type)
                default = None if field.default is MISSING else field.default
            default = CACHE_DEFAULTS.get(name, default)
            settings[name] = Setting(name, kind, group, told, optional, default)
    # Typed Any, as it may be an object in code.
    for name in ("shared", "telemetry"):
        settings[name] = settings[name]._replace(optional=True)
    return settings


SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType(_settings())
