from __future__ import annotations

import traceback

import pytest

from layergate.errors import ConfigError
from layergate.layers.redis.url import Address, parse_url

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "address", "db", "tls"),
    [
        ("redis://localhost", ("localhost", 6379), 0, False),
        ("redis://localhost:6380", ("localhost", 6380), 0, False),
        ("redis://localhost:6380/3", ("localhost", 6380), 3, False),
        ("redis://localhost/?db=4", ("localhost", 6379), 4, False),
        ("rediss://cache.example.com:1/2", ("cache.example.com", 1), 2, True),
        ("valkey://10.0.0.1:7/", ("10.0.0.1", 7), 0, False),
        ("valkeys://h", ("h", 6379), 0, True),
        ("redis://[::1]:6380/1", ("::1", 6380), 1, False),
        ("REDIS://localhost", ("localhost", 6379), 0, False),
    ],
)
def test_one_server(url, address, db, tls):
    target = parse_url(url)
    assert target.kind == "single"
    assert target.addresses == (Address(*address),)
    assert (target.db, target.tls, target.path) == (db, tls, None)
    assert (target.username, target.password) == (None, None)


@pytest.mark.parametrize(
    ("userinfo", "user", "password"),
    [
        (f":{SECRET}@", None, SECRET),
        (f"app:{SECRET}@", "app", SECRET),
        ("app@", "app", None),
        ("a%40b:p%2F%3F%23%3A@", "a@b", "p/?#:"),
        ("app:with@sign@", "app", "with@sign"),
        ("app:a:b@", "app", "a:b"),
    ],
)
def test_credentials(userinfo, user, password):
    target = parse_url(f"redis://{userinfo}host:1/0")
    assert (target.username, target.password) == (user, password)
    assert target.addresses == (Address("host", 1),)


def test_unix_socket():
    target = parse_url(f"unix://app:{SECRET}@/run/redis/s.sock?db=2")
    assert target.kind == "single"
    assert (target.path, target.db, target.password) == ("/run/redis/s.sock", 2, SECRET)
    assert target.addresses == ()
    assert parse_url("unix:///run/with%20space").path == "/run/with space"


@pytest.mark.parametrize("scheme", ["redis", "rediss", "valkey", "valkeys"])
def test_cluster(scheme):
    target = parse_url(f"{scheme}+cluster://u:p@a:1,b,[::1]:3")
    assert target.kind == "cluster"
    assert target.addresses == (Address("a", 1), Address("b", 6379), Address("::1", 3))
    assert target.tls is scheme.endswith(("ss", "ys"))
    assert (target.username, target.password) == ("u", "p")


def test_sentinel():
    target = parse_url(
        "valkey+sentinel://u:p@a:1,b/mymaster/5?sentinel_username=su&sentinel_password=sp"
    )
    assert target.kind == "sentinel"
    assert target.addresses == (Address("a", 1), Address("b", 26379))
    assert (target.master, target.db) == ("mymaster", 5)
    assert (target.sentinel_username, target.sentinel_password) == ("su", "sp")
    assert parse_url("redis+sentinel://a/m").db == 0


def test_options():
    target = parse_url("rediss://h?client_name=web&ssl_ca_certs=/ca.pem&ssl_check_hostname=no")
    assert target.options == {
        "client_name": "web",
        "ssl_ca_certs": "/ca.pem",
        "ssl_check_hostname": False,
    }


@pytest.mark.parametrize(
    ("url", "match"),
    [
        ("", "must begin with redis://"),
        ("localhost:6379", "must begin with redis://"),
        ("http://localhost", "must begin with redis://"),
        ("redis:/localhost", "must begin with redis://"),
        ("redis://", "must begin with redis://"),
        ("redis+unix:///x", "must begin with redis://"),
        ("redis://:6379", "needs hosts as name:port"),
        ("redis://a:0", "needs hosts as name:port"),
        ("redis://a:65536", "needs hosts as name:port"),
        ("redis://a:b", "needs hosts as name:port"),
        ("redis://a b", "needs hosts as name:port"),
        ("redis://[::1", "cannot be read"),
        ("redis://a,b", "names several hosts"),
        ("redis+cluster://a,,b", "needs hosts as name:port"),
        ("redis+cluster://a/1", "number 0 only"),
        ("redis+sentinel://a", "needs the name of the master"),
        ("redis+sentinel://a/m/x", "whole number"),
        ("redis+sentinel://a/m/1/2", "too long a path"),
        ("redis://a/x", "whole number"),
        ("redis://a/1/2", "too long a path"),
        ("redis://a/-1", "whole number"),
        ("unix://relative", "absolute path"),
        ("redis://a#b", "%23"),
        ("redis://a?db=1&db=2", "twice"),
        ("redis://a?colour=red", "not one of db, client_name"),
        ("redis://a?sentinel_password=x", "not one of db, client_name"),
        ("redis://a?socket_timeout=5", "timeout=... of RedisLayer"),
        ("redis://a?ssl_ca_certs=x", "rediss://"),
        ("rediss://a?ssl_check_hostname=maybe", "true or false"),
        ("rediss://a?ssl_cert_reqs=some", "required, optional or none"),
        ("rediss://a?ssl_ca_certs=", "empty"),
        ("redis://a?client_name=a%20b", "visible ASCII"),
    ],
)
def test_what_cannot_be_right(url, match):
    with pytest.raises(ConfigError, match=match):
        parse_url(url)


@pytest.mark.parametrize(
    "url",
    [
        f"{SECRET}://host",
        f":{SECRET}@host",
        f"redis//:{SECRET}@host",
        f"redis://:{SECRET}",  # forgot the host
        f"redis://app:{SECRET}",
        f"redis://:{SECRET}/slash@host",
        f"redis://:a/{SECRET}@host",
        f"redis://:a#{SECRET}@host",
        f"redis://:a?{SECRET}@host",
        f"redis://:a?b=1&{SECRET}=2@host",
        f"redis://:[{SECRET}@host",
        f"redis://:{SECRET}@host:port",
        f"redis://:{SECRET}@host/x",
        f"redis://:{SECRET}@host?colour={SECRET}",
        f"redis+cluster://:{SECRET}@a,b/1",
        f"redis+sentinel://:{SECRET}@a,b",
        f"redis+sentinel://a/m?sentinel_password={SECRET}&x={SECRET}",
        f"unix://:{SECRET}@run",
        f"redis://a?password={SECRET}&y=1",
    ],
)
def test_no_message_shows_a_password(url):
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    "url",
    [
        f"redis://app:{SECRET}@host:1/2",
        f"rediss://:{SECRET}@host?ssl_password={SECRET}",
        f"redis+cluster://:{SECRET}@a,b",
        f"redis+sentinel://:{SECRET}@a,b/m?sentinel_password={SECRET}",
        f"unix://:{SECRET}@/s",
        f"redis://host?password={SECRET}",
    ],
)
def test_no_repr_shows_a_password(url):
    target = parse_url(url)
    assert SECRET not in f"{target} {target!r} {(target,)}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("valkeys://u:p@h:1/2", "rediss://h:1"),
        ("redis+cluster://[::1]:3,b", "redis+cluster://[::1]:3,b:6379"),
        ("redis+sentinel://a/m/1", "redis+sentinel://a:26379/m"),
        ("unix:///s", "unix:///s"),
    ],
)
def test_shown(url, shown):
    assert str(parse_url(url)) == shown
