"""Where a Redis is, as a URL.

    redis://[user:password@]host[:port][/db]              one server
    unix://[user:password@]/path/to/socket[?db=0]         one server, on this machine
    redis+cluster://[...@]host:port,host:port             a Cluster, by some of its nodes
    redis+sentinel://[...@]host:port,host:port/name[/db]  the master that these Sentinels know by name

``rediss`` instead of ``redis`` is TLS; ``valkey`` and ``valkeys`` mean the same. Options in the
query: ``db``, ``client_name``, the ``ssl_*`` of `_TLS_OPTIONS`, and for Sentinels
``sentinel_username`` and ``sentinel_password``.

A server's certificate must be valid for the host that is connected to: of a Cluster the address that
its nodes announce, behind Sentinels the one that they name. ``ssl_check_hostname=false`` turns that
off, ``ssl_cert_reqs=none`` turns off all verification.

Nothing that is raised or shown from here contains a password, not even of a malformed URL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, TypeAlias
from urllib.parse import parse_qsl, unquote, urlsplit

from layergate.errors import ConfigError

__all__ = ["Address", "Kind", "Target", "parse_url"]

Kind: TypeAlias = Literal["single", "cluster", "sentinel"]

_SCHEME: Final = re.compile(
    r"(?:(?P<name>redis|valkey)(?P<tls>s?)(?:\+(?P<kind>cluster|sentinel))?|unix)"
)
_HOST: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9_.-]+))(?::(?P<port>[0-9]{1,5}))?"
)
_EXAMPLE: Final = "'redis://localhost:6379/0'"
_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379

_YES: Final = frozenset({"1", "true", "yes", "on"})
_NO: Final = frozenset({"0", "false", "no", "off"})
_TLS_OPTIONS: Final = frozenset({
    "ssl_ca_certs", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname",
    "ssl_keyfile", "ssl_password",
})  # fmt: skip
_SENTINEL_OPTIONS: Final = frozenset({"sentinel_username", "sentinel_password"})
# Options of redis-py's URLs that would work against the layer's own time budgets.
_OURS: Final = {
    "socket_timeout": "timeout=... of RedisLayer",
    "timeout": "timeout=... of RedisLayer",
    "socket_connect_timeout": "connect_timeout=... of RedisLayer",
}


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, repr=False)
class Target:
    """What a URL says. ``str`` and ``repr`` show it without user name, password and options.

    ``addresses``  of the server, or of nodes of the Cluster, or of Sentinels; empty with ``path``.
    ``path``       of a Unix socket, or None.
    ``master``     the name that Sentinels know the master by, or "".
    ``options``    for the connections: ``client_name`` and ``ssl_*``.
    """

    kind: Kind
    addresses: tuple[Address, ...]
    path: str | None = None
    db: int = 0
    tls: bool = False
    username: str | None = None
    password: str | None = None
    master: str = ""
    sentinel_username: str | None = None
    sentinel_password: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix://{self.path}"
        scheme = "rediss" if self.tls else "redis"
        if self.kind != "single":
            scheme += f"+{self.kind}"
        hosts = ",".join(map(str, self.addresses))
        return f"{scheme}://{hosts}{f'/{self.master}' if self.master else ''}"

    def __repr__(self) -> str:
        return f"Target({str(self)!r})"

    def remap(self, address: Address) -> Address:
        """An address that a Cluster announces, as it can be reached from here."""
        return address


def parse_url(url: str) -> Target:
    """The target that ``url`` names. Connects to nothing.

    Raises ConfigError for anything that cannot be right; the message never shows a password.
    """
    scheme, _, rest = url.partition("://")
    match = _SCHEME.fullmatch(scheme.lower())
    if match is None or not rest:
        # Not even the scheme is shown: of ":secret@host" it would be the secret.
        raise ConfigError(
            "url must begin with redis://, rediss://, redis+cluster://, redis+sentinel:// or unix://"
            f" (or valkey in place of redis), got something else; write e.g. {_EXAMPLE}"
        )
    shown = f"{match.group()}://..."
    try:
        parts = urlsplit(f"x://{rest}")
    except ValueError as error:  # brackets that do not match
        raise _wrong(shown, "has a host that cannot be read") from error
    if parts.fragment:
        raise _wrong(shown, "has a '#', which must be written %23")
    options = _query(shown, parts.query)
    userinfo, _, hosts = parts.netloc.rpartition("@")
    user, _, password = userinfo.partition(":")
    common: dict[str, Any] = {
        "username": unquote(user) or options.pop("username", None),
        "password": unquote(password) or options.pop("password", None),
    }
    if match.group() == "unix":
        path = unquote(f"{hosts}{parts.path}")
        if not path.startswith("/"):
            raise _wrong(shown, "needs the absolute path of a socket, unix:///run/redis.sock")
        common |= _options(shown, options, tls=False, sentinel=False)
        return Target("single", (), path=path, **common)

    tls = bool(match["tls"])
    kind: Kind = match["kind"] or "single"  # type: ignore[assignment] # the pattern has just these
    default = _SENTINEL_PORT if kind == "sentinel" else _PORT
    addresses = _addresses(shown, hosts, default)
    if kind == "single" and len(addresses) > 1:
        raise _wrong(shown, "names several hosts; write redis+cluster:// or redis+sentinel://")
    words = [unquote(word) for word in parts.path.strip("/").split("/") if word]
    if kind == "sentinel":
        if not words:
            raise _wrong(
                shown, "needs the name of the master, redis+sentinel://host:26379/mymaster"
            )
        common["master"] = words.pop(0)
    if words:
        options["db"] = words.pop(0)
    if words:
        raise _wrong(shown, "has too long a path; after the host there is the number of a database")
    common |= _options(shown, options, tls=tls, sentinel=kind == "sentinel")
    if kind == "cluster" and common.get("db"):
        raise _wrong(shown, "names a database; a Cluster has number 0 only, so leave it out")
    return Target(kind, addresses, tls=tls, **common)


def _wrong(shown: str, what: str) -> ConfigError:
    return ConfigError(f"url {what}; got {shown!r} (not shown in full: it may hold a password)")


def _query(shown: str, query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in options:
            raise _wrong(shown, "gives an option twice")
        options[name] = value
    return options


def _addresses(shown: str, hosts: str, default: int) -> tuple[Address, ...]:
    addresses = []
    for text in hosts.split(","):
        match = _HOST.fullmatch(text)
        port = default if match is None or match["port"] is None else int(match["port"])
        # An all-digit "host" with a bad port is as likely a password whose @ was forgotten.
        if match is None or not 0 < port < 65536:
            raise _wrong(
                shown,
                "needs hosts as name:port, with a port from 1 to 65535 (and in a user name or"
                " password '/', '@', ':', '?' and '#' as %2F, %40, %3A, %3F and %23)",
            )
        addresses.append(Address(match["six"] or match["host"], port))
    return tuple(addresses)


def _options(shown: str, given: dict[str, str], *, tls: bool, sentinel: bool) -> dict[str, Any]:
    """Fields of `Target` from the query's options."""
    fields: dict[str, Any] = {}
    connection: dict[str, Any] = {}
    for name, value in given.items():
        if name == "db":
            if not re.fullmatch(r"[0-9]{1,6}", value, re.ASCII):
                raise _wrong(shown, "must have a database that is a whole number from 0")
            fields["db"] = int(value)
        elif name == "client_name":
            if not re.fullmatch(r"[!-~]{1,64}", value):
                raise _wrong(shown, "must have a client_name of 1 to 64 visible ASCII characters")
            connection[name] = value
        elif name in _TLS_OPTIONS:
            if not tls:
                raise _wrong(shown, f"has {name} without TLS; write rediss:// for redis://")
            connection[name] = _tls_option(shown, name, value)
        elif name in _SENTINEL_OPTIONS and sentinel:
            fields[name] = value
        elif name in _OURS:
            raise _wrong(shown, f"has {name}, which is not an option here; use {_OURS[name]}")
        else:
            known = ["db", "client_name"]
            known += sorted(_TLS_OPTIONS) if tls else []
            known += sorted(_SENTINEL_OPTIONS) if sentinel else []
            # A name may be a piece of a password with a raw "?" or "&" in it.
            raise _wrong(shown, f"has an option that is not one of {', '.join(known)}")
    if tls:
        # Said in any case: before its version 6, redis-py checks no host name unless it is told to.
        verified = connection.get("ssl_cert_reqs") != "none"
        if connection.setdefault("ssl_check_hostname", verified) and not verified:
            raise _wrong(
                shown,
                "has ssl_check_hostname with ssl_cert_reqs=none, which verifies nothing; drop one of"
                " them",
            )
    fields["options"] = connection
    return fields


def _tls_option(shown: str, name: str, value: str) -> str | bool:
    if name == "ssl_check_hostname":
        if value.lower() not in _YES | _NO:
            raise _wrong(shown, f"must have {name} true or false")
        return value.lower() in _YES
    if name == "ssl_cert_reqs":
        if value not in {"required", "optional", "none"}:
            raise _wrong(shown, f"must have {name} required, optional or none")
        return value
    if not value:
        raise _wrong(shown, f"has an empty {name}")
    return value
