"""What the gateway can be told: frozen, validated when made, as `layergate.config` is.

What is given stays as it is given (sizes become bytes, durations seconds); what is read from it is
beside it, in fields of their own. So `dataclasses.replace` works on all of them.
"""

# A check that the declared type makes "redundant" is the one that makes a mistake readable.
# mypy: disable-error-code="redundant-expr,unreachable"

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, fields
from itertools import combinations
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple, TypeAlias

from layergate.config import ADMIN_PATH, ADMIN_TOKEN, Admin, Options, count, flag, seconds, strings
from layergate.errors import ConfigError
from layergate.http.privacy.forwarding import FORWARDING_FIELDS
from layergate.layers.schemes import layer_of
from layergate.sizes import parse_size

__all__ = ["CACHE_DEFAULTS", "FORWARDED", "Address", "GatewayOptions", "Network", "UpstreamOptions"]

Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

FORWARDED: Final = ("x-forwarded", "forwarded", "both", "none")
CACHE_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType({"stale_if_unreachable": 3600.0})
"""Options of the cache whose default here is another than for the middleware. An upstream is across a
network: while it cannot be reached, RFC 9111 4.2.4 allows ("disconnected") what it once allowed to be
stored, unless it said otherwise, and a gateway that has the page had better show it."""

_OWN_FORWARDING: Final = frozenset({
    "forwarded", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto",
})  # fmt: skip
_LEAST_HEAD: Final = 1024  # bytes; less than a browser's own request has
_MOST_WORKERS: Final = 256
_MOST_RETRIES: Final = 10
_SOCKET_PATH: Final = 107  # bytes: Linux's sun_path without its final zero
_LEAST_SECRET: Final = 16  # characters; what a RedisLayer asks for
_MOST_SECRET: Final = 65_536  # bytes of a file that holds one
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_AUTHORITY: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:/@\s]*))(?::(?P<port>[0-9]{1,5}))?"
)
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_PREFIX: Final = re.compile(r"/[^\x00-\x20\x7f?#%*{}\\]*")


class Address(NamedTuple):
    """Where to listen or to connect to.

    ``host``  a name or an IP address without brackets; "" (only to listen): every interface.
    ``port``  0 (only to listen): one that is free.
    ``path``  of a Unix socket, and then host and port mean nothing; else None.
    """

    host: str = ""
    port: int = 0
    path: str | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UpstreamOptions:
    """An upstream: where requests for some hosts and paths are forwarded to.

    ``url``                 ``http://host[:port]``, ``https://host[:port]`` or ``unix:/path``, HTTP
                            over a Unix socket. No path: what is forwarded is the target as it came.
    ``name``                in logs and metrics; "": host and port of the URL.
    ``hosts``               host names without a port, ``example.com`` or ``*.example.com`` (all below
                            it, at any depth, but not itself); None: all.
    ``path``                prefix of the path, in whole segments: ``/api`` is ``/api`` and all below
                            ``/api/``; ``/api/`` only the latter.
    ``host``                what Host says there: ``"preserve"``, what the client said;
                            ``"upstream"``, the URL's own; or a literal host, with or without a port.
    ``max_connections``     at a time to this upstream, per worker.
    ``queue_timeout``       how long a request waits for one of them to be free; then 503. s.
    ``connect_timeout``     for a connection, TLS handshake included. s.
    ``first_byte_timeout``  from the end of the request to the first byte of the response. s.
    ``read_timeout``        between two parts of the response; and for an upstream to take more of what
                            the client of a WebSocket sends. s.
    ``idle_timeout``        how long an unused connection is kept. s. 0: not at all.
    ``max_tunnels``         WebSockets at a time to this upstream, per worker, beside ``max_connections``;
                            one more gets a 503, and nothing else does.
    ``tunnel_idle_timeout`` how long a WebSocket is kept in which nothing passes in either direction. s.
    ``retries``             further attempts to connect. (An idempotent request that met a pooled
                            connection which had been closed is always sent once more.)
    ``tls_verify``          whether an https upstream must have a certificate that is valid for it.
    ``tls_ca_file``         PEM file of the authorities to believe; None: the system's.
    ``tls_server_name``     the name asked for (SNI) and verified; None: the URL's host.

    Read from it: ``tls``, whether the URL is https; ``address``, where to connect to.

    Raises ConfigError.
    """

    url: str
    name: str = ""
    hosts: Collection[str] | None = None
    path: str = "/"
    host: str = "preserve"
    max_connections: int = 256
    queue_timeout: float = 10.0
    connect_timeout: float = 5.0
    first_byte_timeout: float = 60.0
    read_timeout: float = 60.0
    idle_timeout: float = 30.0
    max_tunnels: int = 1024
    tunnel_idle_timeout: float = 300.0
    retries: int = 1
    tls_verify: bool = True
    tls_ca_file: str | None = None
    tls_server_name: str | None = None
    tls: bool = field(init=False, repr=False)
    address: Address = field(init=False, repr=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        tls, address = _upstream_url(self.url)
        put(self, "tls", tls)
        put(self, "address", address)
        if not isinstance(self.name, str) or not re.fullmatch(r"[\x21-\x7e]*", self.name):
            raise ConfigError(
                f"name must be printable ASCII without spaces, got {self.name!r} in an upstream"
            )
        put(self, "name", self.name or str(address))
        where = f" in upstream {self.name!r}"
        put(self, "hosts", _hosts(self.hosts, where))
        if not isinstance(self.path, str) or not _PREFIX.fullmatch(self.path):
            raise ConfigError(
                f"path must be a prefix of paths such as '/api', decoded and without wildcards, got"
                f" {self.path!r}{where}"
            )
        if {".", ".."} & set(self.path.split("/")):
            raise ConfigError(f"path must have no dot segments, got {self.path!r}{where}")
        put(self, "host", _host_policy(self.host, where))
        count(self.max_connections, "max_connections", low=1, where=where)
        count(self.max_tunnels, "max_tunnels", low=1, where=where)
        _at_most(self.retries, "retries", low=0, high=_MOST_RETRIES, where=where)
        for option in ("queue_timeout", "idle_timeout"):
            put(self, option, seconds(getattr(self, option), option, where, optional=False))
        for option in (
            "connect_timeout", "first_byte_timeout", "read_timeout", "tunnel_idle_timeout",
        ):  # fmt: skip
            put(self, option, _positive(getattr(self, option), option, where))
        flag(self.tls_verify, "tls_verify", where)
        _file(self.tls_ca_file, "tls_ca_file", where)
        if self.tls_ca_file is not None:
            if not self.tls_verify:
                raise ConfigError(
                    f"tls_ca_file has no use without tls_verify{where}; drop one of them"
                )
            _authorities(self.tls_ca_file, where)
        if self.tls_server_name is not None and not (
            isinstance(self.tls_server_name, str) and _NAME.fullmatch(self.tls_server_name)
        ):
            raise ConfigError(
                f"tls_server_name must be a host name, got {self.tls_server_name!r}{where}"
            )

    def covers(self, host: str, path: str) -> bool:
        """Are requests for this host (lower case, without a port) and path (decoded) for this
        upstream?"""
        return self._covers_path(path) and (
            self.hosts is None or any(_host_covers(own, host) for own in self.hosts)
        )

    def covers_all_of(self, other: UpstreamOptions) -> bool:
        """Is every request that the other would cover covered by this one?"""
        if not self._covers_path(other.path):
            return False
        if self.hosts is None:
            return True
        return other.hosts is not None and all(
            any(_host_covers(own, host) for own in self.hosts) for host in other.hosts
        )

    def _covers_path(self, path: str) -> bool:
        own = self.path
        return path.startswith(own) and (
            own.endswith("/") or len(path) == len(own) or path[len(own)] == "/"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """Everything the gateway can be told. The options of the cache itself are in ``cache``.

    Where it stands
      ``listen``              addresses: ``"127.0.0.1:8080"``, ``"[::1]:8080"``, ``":8080"`` (every
                              interface), ``"unix:/run/layergate.sock"``.
      ``upstreams``           `UpstreamOptions`, or just URLs; the first that covers a request has it.
      ``workers``             processes.
      ``tls_cert``            PEM file of the certificate and its chain: every TCP address then speaks
                              TLS. None: none does.
      ``tls_key``             PEM file of its private key; None: it is in ``tls_cert``.

    Who may do what
      ``admin_path``          where the endpoint for purging and looking is; below it ``healthz`` and
                              ``readyz``, which need no token.
      ``admin_token``         what ``Authorization: Bearer …`` must carry there. None: nobody may do
                              anything but ask for the health.
      ``admin_token_file``    a file that holds it, read once, now. Excludes ``admin_token``.
      ``admin_networks``      clients that are heard there (``"10.0.0.0/8"``); None: all.
      ``purge_method``        whether the ``PURGE`` method works on any URL, behind the same token.
      ``trusted_proxies``     networks of proxies that are believed about a client's address and
                              scheme (``X-Forwarded-For``, ``-Proto``, ``Forwarded``), and ``"unix"``
                              for who comes by a Unix socket. By default nobody is.

    What upstreams are told
      ``forwarded``           ``"x-forwarded"`` (X-Forwarded-For, -Proto, -Host), ``"forwarded"``
                              (RFC 7239), ``"both"`` or ``"none"``.
      ``via``                 pseudonym in ``Via`` (RFC 9110 7.6.3), both ways, and to the origin in
                              ``CDN-Loop`` (RFC 8586). None: neither.
      ``pass_upgrades``       whether ``Upgrade`` (WebSocket) is passed to the upstream; else 501.

    How long, how much
      ``keep_alive_timeout``  between two requests of a connection. s. 0: one request each.
      ``head_timeout``        for a request's head, from its first byte on. s.
      ``body_timeout``        between two parts of a request's content. s.
      ``send_timeout``        how long a client may take nothing of what it is sent. s.
      ``max_head``            of a request: its line and fields. Bytes.
      ``max_fields``          of a request.
      ``max_content``         of a request. Bytes. None: no limit.
      ``max_connections``     of clients, per worker; WebSockets, which have a limit of their own for each
                              upstream, are not counted.
      ``drain_timeout``       after a signal to stop, for the requests there are. s.

    Beside it
      ``access_log``          a line per request.
      ``shared_namespace``    begins every key in the layer that ``cache.shared`` names by a URL.
      ``shared_secret``       of 16 characters or more: what is stored there is signed with it.
      ``shared_secret_file``  a file that holds it, read once, now. Excludes ``shared_secret``.
      ``shared_compress_above``  larger responses are stored compressed there. Bytes. None: none is.
      ``cache``               the `Options` of the cache; ``admin`` is made from the options above.

    Read from it: ``addresses``, what ``listen`` means; ``trusted_networks`` and ``trusts_unix``, what
    ``trusted_proxies`` means; ``admin``, the `Admin` of the cache, or None.

    Raises ConfigError. Files that hold secrets are read when the object is made.
    """

    upstreams: Collection[UpstreamOptions]
    listen: Collection[str] = ("127.0.0.1:8080",)
    workers: int = 1
    tls_cert: str | None = None
    tls_key: str | None = None
    admin_path: str = "/_layergate"
    admin_token: str | None = field(default=None, repr=False)
    admin_token_file: str | None = None
    admin_networks: Collection[str] | None = None
    purge_method: bool = True
    trusted_proxies: Collection[str] = ()
    forwarded: str = "x-forwarded"
    via: str | None = "layergate"
    pass_upgrades: bool = True
    keep_alive_timeout: float = 75.0
    head_timeout: float = 10.0
    body_timeout: float = 30.0
    send_timeout: float = 60.0
    max_head: int | str = "32KB"
    max_fields: int = 100
    max_content: int | str | None = None
    max_connections: int = 10_000
    drain_timeout: float = 30.0
    access_log: bool = False
    shared_namespace: str = "layergate"
    shared_secret: str | None = field(default=None, repr=False)
    shared_secret_file: str | None = None
    shared_compress_above: int | str | None = None
    cache: Options = field(default_factory=lambda: Options(**CACHE_DEFAULTS))
    addresses: tuple[Address, ...] = field(init=False, repr=False)
    trusted_networks: tuple[Network, ...] = field(init=False, repr=False)
    trusts_unix: bool = field(init=False, repr=False)
    admin: Admin | None = field(init=False, repr=False)
    _secret: str | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "listen", strings(self.listen, "listen", ""))
        put(self, "addresses", tuple(_listen(text) for text in self.listen))
        if not self.addresses:
            raise ConfigError("listen must name an address, e.g. ['127.0.0.1:8080']")
        put(self, "upstreams", _upstreams(self.upstreams))
        _at_most(self.workers, "workers", low=1, high=_MOST_WORKERS)
        for option in ("tls_cert", "tls_key"):
            _file(getattr(self, option), option, "")
        if self.tls_key is not None and self.tls_cert is None:
            raise ConfigError("tls_key needs a tls_cert, the certificate that it belongs to")
        if self.tls_cert is not None:
            _certificate(self.tls_cert, self.tls_key)
        put(self, "trusted_proxies", strings(self.trusted_proxies, "trusted_proxies", ""))
        networks = [text for text in self.trusted_proxies if text != "unix"]
        put(self, "trusted_networks", _networks(networks, "trusted_proxies"))
        put(self, "trusts_unix", "unix" in self.trusted_proxies)
        if self.forwarded not in FORWARDED:
            names = ", ".join(map(repr, FORWARDED))
            raise ConfigError(f"forwarded must be one of {names}, got {self.forwarded!r}")
        if self.via is not None and not (
            isinstance(self.via, str) and len(self.via) <= 64 and _TOKEN.fullmatch(self.via)
        ):
            raise ConfigError(
                f"via must be a name of letters, digits and dashes, or None for no Via, got"
                f" {self.via!r}"
            )
        for option in ("keep_alive_timeout", "drain_timeout"):
            put(self, option, seconds(getattr(self, option), option, "", optional=False))
        for option in ("head_timeout", "body_timeout", "send_timeout"):
            put(self, option, _positive(getattr(self, option), option, ""))
        put(self, "max_head", parse_size(self.max_head, option="max_head"))
        if int(self.max_head) < _LEAST_HEAD:
            raise ConfigError(
                f"max_head must be at least {_LEAST_HEAD} bytes, got {self.max_head!r}"
            )
        for option in ("max_content", "shared_compress_above"):
            if getattr(self, option) is not None:
                put(self, option, parse_size(getattr(self, option), option=option))
        count(self.max_fields, "max_fields", low=1)
        count(self.max_connections, "max_connections", low=1)
        for option in ("purge_method", "pass_upgrades", "access_log"):
            flag(getattr(self, option), option, "")
        put(self, "admin", self._admin())
        self._check_cache()
        put(self, "_secret", self._shared_secret())

    def cache_arguments(self) -> dict[str, Any]:
        """The keyword arguments for the gateway's `HttpCache`: ``cache`` with ``admin``, and with a
        shared layer of its own where ``shared`` is a URL.

        Each call makes a new layer: one for each process.

        Raises ConfigError: a library that the layer needs is not installed, or its URL is wrong.
        """
        arguments = {option.name: getattr(self.cache, option.name) for option in fields(Options)}
        arguments["admin"] = self.admin
        if self.cache.forwarding_fields is None:
            # What the gateway says itself is in the key: the scheme, and the host that is asked for.
            arguments["forwarding_fields"] = [
                name for name in FORWARDING_FIELDS if name.lower() not in _OWN_FORWARDING
            ]
        if self.cache.layers is not None:
            del arguments["memory"]
        if isinstance(self.cache.shared, str):
            patience = float(self.cache.layer_timeout)  # type: ignore[arg-type]
            arguments["shared"] = layer_of(
                self.cache.shared,
                timeout=min(patience, 0.2),
                namespace=self.shared_namespace,
                secret=self._secret,
                compress_above=self.shared_compress_above,
            )
        return arguments

    def _admin(self) -> Admin | None:
        if not isinstance(self.admin_path, str) or not ADMIN_PATH.fullmatch(self.admin_path):
            raise ConfigError(
                f"admin_path must be an absolute path such as '/_layergate', got"
                f" {self.admin_path!r}"
            )
        networks = self.admin_networks
        if networks is not None:
            put = object.__setattr__
            put(self, "admin_networks", strings(networks, "admin_networks", ""))
            _networks(self.admin_networks or (), "admin_networks")
        token = _secret(self.admin_token, self.admin_token_file, "admin_token")
        if token is None:
            return None
        if not ADMIN_TOKEN.fullmatch(token):
            option = "admin_token_file" if self.admin_token is None else "admin_token"
            raise ConfigError(f"{option} must hold printable ASCII without spaces")
        return Admin(self.admin_path, token, self.admin_networks, self.purge_method)

    def _shared_secret(self) -> str | None:
        secret = _secret(self.shared_secret, self.shared_secret_file, "shared_secret")
        if secret is not None and len(secret) < _LEAST_SECRET:
            option = "shared_secret_file" if self.shared_secret is None else "shared_secret"
            raise ConfigError(f"{option} must hold at least {_LEAST_SECRET} characters")
        if not isinstance(self.shared_namespace, str) or not re.fullmatch(
            r"[A-Za-z0-9_.:/-]{1,64}", self.shared_namespace
        ):
            raise ConfigError(
                "shared_namespace must be 1 to 64 letters, digits or any of _.:/-, got"
                f" {self.shared_namespace!r}"
            )
        return secret

    def _check_cache(self) -> None:
        if not isinstance(self.cache, Options):
            raise ConfigError(
                f"cache must be an Options object, got {self.cache!r};"
                " write layergate.config.Options(memory='256MB')"
            )
        if self.cache.admin is not None:
            raise ConfigError(
                "cache must have no admin; write admin_path, admin_token and admin_networks"
            )
        if not isinstance(self.cache.shared, str):
            for option in ("shared_secret", "shared_secret_file", "shared_compress_above"):
                if getattr(self, option) is not None:
                    raise ConfigError(
                        f"{option} needs shared to be a URL, such as 'redis://localhost:6379/0'"
                    )


def _upstreams(upstreams: Any) -> tuple[UpstreamOptions, ...]:
    if isinstance(upstreams, str | Mapping | UpstreamOptions) or not isinstance(
        upstreams, Iterable
    ):
        raise ConfigError(
            "upstreams must be a list of UpstreamOptions;"
            " write [UpstreamOptions('http://127.0.0.1:8000')]"
        )
    checked = tuple(UpstreamOptions(one) if isinstance(one, str) else one for one in upstreams)
    for upstream in checked:
        if not isinstance(upstream, UpstreamOptions):
            raise ConfigError(
                f"upstreams must hold UpstreamOptions, got {type(upstream).__name__};"
                " write UpstreamOptions('http://127.0.0.1:8000')"
            )
    if not checked:
        raise ConfigError("upstreams must name at least one, e.g. 'http://127.0.0.1:8000'")
    for earlier, later in combinations(checked, 2):
        if earlier.covers_all_of(later):
            raise ConfigError(
                f"upstreams has {later.name!r}, which is never asked: {earlier.name!r} comes first"
                " and covers the same hosts and paths; put the narrower one first"
            )
        if earlier.name == later.name:
            raise ConfigError(
                f"upstreams must have names of their own, got {later.name!r} twice; give each a name"
            )
    return checked


def _upstream_url(url: Any) -> tuple[bool, Address]:
    """Whether it is TLS, and the address. The URL is not shown before it is known to hold no
    password."""
    if not isinstance(url, str):
        raise ConfigError(
            f"url must be a string such as 'http://127.0.0.1:8000', got {type(url).__name__}"
            " in an upstream"
        )
    if url.startswith("unix:"):
        return False, Address(path=_socket_path(url.removeprefix("unix:"), "url"))
    scheme, colon, rest = url.partition("://")
    if not colon or scheme.lower() not in ("http", "https"):
        raise ConfigError(
            "url must begin with http://, https:// or unix:/, got something else in an upstream;"
            " write e.g. 'http://127.0.0.1:8000'"
        )
    if "@" in rest:
        raise ConfigError("url must be without a user name and password in an upstream")
    tls = scheme.lower() == "https"
    authority, _, path = rest.partition("/")
    if path or "?" in authority or "#" in authority:
        raise ConfigError(
            f"url must have no path, got {url!r}; requests are forwarded with the target they came"
            " with, and 'path' says which are"
        )
    host, port = _authority(authority, "url", f", got {url!r}")
    if not host or port == 0:
        raise ConfigError(f"url must name a host, and a port from 1 to 65535, got {url!r}")
    return tls, Address(host, (443 if tls else 80) if port is None else port)


def _listen(text: str) -> Address:
    if text.startswith("unix:"):
        return Address(path=_socket_path(text.removeprefix("unix:"), "listen"))
    shown = (
        f", got {text!r}; write '127.0.0.1:8080', '[::1]:8080', ':8080' for every interface, or"
        " 'unix:/run/layergate.sock'"
    )
    host, port = _authority(text, "listen", shown)
    if port is None:
        raise ConfigError(f"listen must name a port{shown}")
    return Address(host, port)


def _authority(text: str, option: str, shown: str) -> tuple[str, int | None]:
    """Host (without brackets, lower case) and port; "" and None for what is missing."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise ConfigError(f"{option} must be a host and a port{shown}")
    port = None if match["port"] is None else int(match["port"])
    if port is not None and port > 65535:
        raise ConfigError(f"{option} must have a port from 0 to 65535{shown}")
    if match["six"] is not None:
        try:
            return str(ipaddress.IPv6Address(match["six"])), port
        except ValueError:
            raise ConfigError(f"{option} must have an IPv6 address in brackets{shown}") from None
    name = match["name"]
    if name and not _NAME.fullmatch(name):
        raise ConfigError(f"{option} must have a host name of ASCII letters and digits{shown}")
    return name.lower(), port


def _socket_path(path: str, option: str) -> str:
    if not path.startswith("/") or not path.isprintable():
        raise ConfigError(
            f"{option} must have the absolute path of a socket, such as"
            f" 'unix:/run/layergate.sock', got {path!r}"
        )
    path = f"/{path.lstrip('/')}"  # unix:///run/x.sock is usual too
    if len(path.encode()) > _SOCKET_PATH:
        raise ConfigError(
            f"{option} must have a path of at most {_SOCKET_PATH} bytes, got {path!r}; that is the"
            " system's limit for Unix sockets"
        )
    return path


def _hosts(hosts: Any, where: str) -> tuple[str, ...] | None:
    if hosts is None:
        return None
    remedy = "write 'example.com' or '*.example.com', without a port"
    checked = []
    for given in strings(hosts, "hosts", where):
        shown = f", got {given!r}{where}; {remedy}"
        wildcard = "*." if given.startswith("*.") else ""
        name, port = _authority(given.removeprefix("*."), "hosts", shown)
        if not name or port is not None or (wildcard and ":" in name):
            raise ConfigError(f"hosts must be host names{shown}")
        checked.append(f"[{name}]" if ":" in name else f"{wildcard}{name}")
    if not checked:
        raise ConfigError(f"hosts must name a host{where}; leave it out for all of them")
    return tuple(checked)


def _host_covers(own: str, host: str) -> bool:
    """``host`` may itself be ``*.…``: then, whether all of it is covered."""
    return own == host or (own.startswith("*.") and host.endswith(own[1:]) and host != own[1:])


def _host_policy(host: Any, where: str) -> str:
    remedy = (
        "; write 'preserve', 'upstream', or what Host is to say, such as 'shop.example.com' or"
        " 'shop.example.com:8000'"
    )
    if not isinstance(host, str) or not host:
        raise ConfigError(f"host must be a string, got {host!r}{where}{remedy}")
    name, port = _authority(host, "host", f", got {host!r}{where}{remedy}")
    if not name:
        raise ConfigError(f"host must name a host, got {host!r}{where}{remedy}")
    literal = f"[{name}]" if ":" in name else name
    return literal if port is None else f"{literal}:{port}"


def _networks(texts: Iterable[str], option: str) -> tuple[Network, ...]:
    parsed = []
    for text in texts:
        try:
            parsed.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise ConfigError(
                f"{option} must hold CIDR networks such as '10.0.0.0/8', got {text!r}: {error}"
            ) from None
    return tuple(parsed)


def _positive(value: Any, option: str, where: str) -> float:
    checked = seconds(value, option, where, optional=False)
    if not checked:
        raise ConfigError(f"{option} must be > 0 seconds, got {value!r}{where}")
    return checked


def _at_most(value: Any, option: str, *, low: int, high: int, where: str = "") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ConfigError(f"{option} must be an integer from {low} to {high}, got {value!r}{where}")


def _file(path: Any, option: str, where: str) -> None:
    """Raises ConfigError unless it is None, or a file that can be read."""
    if path is None:
        return
    if not isinstance(path, str) or not path or "\0" in path:
        raise ConfigError(f"{option} must be the path of a file, got {path!r}{where}")
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError as error:
        raise ConfigError(f"{option} cannot be read, got {path!r}{where}: {_why(error)}") from None


def _certificate(cert: str, key: str | None) -> None:
    """Raises ConfigError unless they belong together, and need no password."""
    try:
        # Asked for a password, OpenSSL would ask the terminal.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password=str)
    except (OSError, ValueError) as error:
        fitting = f"and tls_key {key!r}" if key is not None else "with its key in the same file"
        raise ConfigError(
            f"tls_cert must be a certificate in PEM {fitting}, that fits and is not encrypted, got"
            f" {cert!r}: {_why(error)}"
        ) from None


def _authorities(file: str, where: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(file)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"tls_ca_file must hold certificates in PEM, got {file!r}{where}: {_why(error)}"
        ) from None


def _secret(value: Any, path: Any, option: str) -> str | None:
    """The secret that is given, or that is in the file; None for neither."""
    if value is not None and path is not None:
        raise ConfigError(f"{option} excludes {option}_file; drop one of them")
    if path is None:
        if value is not None and (not isinstance(value, str) or not value):
            raise ConfigError(f"{option} must be a non-empty string")
        return value
    _file(path, f"{option}_file", "")
    try:
        with Path(path).open("rb") as file:
            held = file.read(_MOST_SECRET + 1)
        secret = held.decode().rstrip("\r\n")
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"{option}_file must be a text file (UTF-8), got {path!r}") from None
    if not secret or len(held) > _MOST_SECRET:
        raise ConfigError(f"{option}_file must hold a secret, and that alone, got {path!r}")
    return secret


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
