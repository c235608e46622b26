"""The options of the gateway: frozen, and validated when the object is made, as `layergate.config` is.

`settings` makes them from a file, the environment and a command line; `catalogue` describes them.
"""

# A check that the declared type makes "redundant" is the one that makes a mistake readable.
# mypy: disable-error-code="redundant-expr,unreachable"

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any, Final

from layergate.config import ADMIN_PATH, ADMIN_TOKEN, Admin, Options, count, flag, seconds, strings
from layergate.core.shared import SharedLayer
from layergate.errors import ConfigError
from layergate.gateway import addresses, checks
from layergate.gateway.addresses import Address
from layergate.gateway.checks import Network
from layergate.gateway.upstream_options import UpstreamOptions, checked_upstreams
from layergate.http.privacy.forwarding import FORWARDING_FIELDS
from layergate.layers.schemes import layer_of
from layergate.sizes import parse_size

__all__ = ["CACHE_DEFAULTS", "FORWARDED", "GatewayOptions"]

FORWARDED: Final = ("x-forwarded", "forwarded", "both", "none")
CACHE_DEFAULTS: Final[Mapping[str, Any]] = MappingProxyType({"stale_if_unreachable": 3600.0})
"""Options of the cache with another default than in the middleware. An upstream is across a network: while
it can't be reached, RFC 9111 4.2.4 allows the cache ("disconnected") to serve what it has, unless the
response forbids it. A gateway that has the page had better show it."""

_OWN_FORWARDING: Final = frozenset({
    "forwarded", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto",
})  # fmt: skip
_LEAST_HEAD: Final = 1024  # bytes; less than a browser's own request has
_MOST_WORKERS: Final = 256
_LEAST_SECRET: Final = 16  # characters, as the layers ask for
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """All options of the gateway. `catalogue` describes each of them; the defaults and the checks are here.

    ``upstreams``  `UpstreamOptions`, or just URLs. The first that covers a request gets it.
    ``cache``      the `Options` of the cache. Its ``admin`` is made from the options of the gateway.

    Sizes are in bytes, or a text such as "32KB", which becomes bytes. Times are in seconds. What is read
    from an option stands in a field of its own: ``addresses`` (from ``listen``), ``trusted_networks`` and
    ``trusts_unix`` (from ``trusted_proxies``), and ``admin``, the `Admin` of the cache, or None. So
    `dataclasses.replace` works on every option.

    Files that hold secrets are read when the object is made.

    Raises ConfigError.
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
        put(self, "addresses", tuple(addresses.listen(text) for text in self.listen))
        if not self.addresses:
            raise ConfigError("listen must name an address, e.g. ['127.0.0.1:8080']")
        put(self, "upstreams", checked_upstreams(self.upstreams))
        checks.at_most(self.workers, "workers", low=1, high=_MOST_WORKERS)
        for option in ("tls_cert", "tls_key"):
            checks.file(getattr(self, option), option, "")
        if self.tls_key is not None and self.tls_cert is None:
            raise ConfigError("tls_key needs a tls_cert, the certificate that it belongs to")
        if self.tls_cert is not None:
            checks.certificate(self.tls_cert, self.tls_key)
        put(self, "trusted_proxies", strings(self.trusted_proxies, "trusted_proxies", ""))
        networks = [text for text in self.trusted_proxies if text != "unix"]
        put(self, "trusted_networks", checks.networks(networks, "trusted_proxies"))
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
            put(self, option, checks.positive(getattr(self, option), option, ""))
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

    def cache_arguments(self, folder: str | None = None) -> dict[str, Any]:
        """The keyword arguments for the gateway's `HttpCache`: ``cache`` with ``admin``, and with a
        shared layer of its own where ``shared`` is a URL, or where the workers share a ``folder``.

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
        elif folder is not None:
            from layergate.layers.host import HostLayer  # needs locks that Windows does not have

            memory = arguments.get("memory") or "64MB"
            layer = HostLayer(folder, size=memory, large=memory)
            if self.cache.layers is None:
                arguments["shared"] = layer
            elif not any(isinstance(one, SharedLayer) for one in self.cache.layers):
                arguments["layers"] = (*self.cache.layers, layer)
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
            checks.networks(self.admin_networks or (), "admin_networks")
        token = checks.secret(self.admin_token, self.admin_token_file, "admin_token")
        if token is None:
            return None
        if not ADMIN_TOKEN.fullmatch(token):
            option = "admin_token_file" if self.admin_token is None else "admin_token"
            raise ConfigError(f"{option} must hold printable ASCII without spaces")
        return Admin(self.admin_path, token, self.admin_networks, self.purge_method)

    def _shared_secret(self) -> str | None:
        secret = checks.secret(self.shared_secret, self.shared_secret_file, "shared_secret")
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
