"""URLs of memcached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layergate import ConfigError
from layergate.layers.memcached import MemcachedLayer
from layergate.layers.memcached.url import Address, parse_url


@pytest.mark.parametrize(
    ("url", "addresses", "user"),
    [
        ("memcached://h", [Address("h", 11211)], ""),
        ("memcached://h/", [Address("h", 11211)], ""),
        (
            "memcached://h1:1,h2,h3:3",
            [Address("h1", 1), Address("h2", 11211), Address("h3", 3)],
            "",
        ),
        ("memcached://[::1]:5,[fe80::1]", [Address("::1", 5), Address("fe80::1", 11211)], ""),
        ("memcached:///run/m%20c.sock", [Address("", 0, "/run/m c.sock")], ""),
        ("MEMCACHED://ann:p%40ss@h", [Address("h", 11211)], "ann"),
    ],
)
def test_what_a_url_names(url: str, addresses: list[Address], user: str) -> None:
    found = parse_url(url)
    assert list(found.addresses) == addresses
    assert found.username == user
    assert found.password == ("p@ss" if user else "")
    assert found.tls is None


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h", "must begin with memcached://"),
        ("memcached:h", "must begin with memcached://"),
        ("memcached://", "must name hosts"),
        ("memcached://h:0", "must name hosts"),
        ("memcached://h:x", "must name hosts"),
        ("memcached://h,", "must name hosts"),
        ("memcached://h/0", "must name hosts"),
        ("memcached://h#x", "must name hosts"),
        ("memcached://h1, h2", "must name hosts"),
        ("memcached://h1,/run/x", "must name hosts"),
        ("memcached://[::1", "must name hosts"),
        ("memcached://[::1]5", "must name hosts"),
        ("memcached://h,h", "each server once"),
        ("memcached://ann@h", "a user and a password"),
        ("memcached://:s3cret@h", "a user and a password"),
        ("memcached://ann:s3cret%0d%0aflush_all@h", "without spaces and line breaks"),
        ("memcached://ann:1?s3cret@h", "%3F and %40"),
        ("memcached://ann:a?b=1&s3cret@h", "%3F and %40"),
        ("memcacheds://ann:s3cret@h?cafile=/a@b", "%3F and %40"),
        ("memcached://h?x=1", "takes the options"),
        ("memcacheds://h?cafile=", "must name a file"),
        ("memcached://h?cafile=/x", "takes the options"),
        ("memcacheds://h?cafile=/not/there", "cannot be read"),
        ("memcacheds://h?keyfile=/x", "must have a certfile"),
        ("memcacheds:///run/x", "must name a host for TLS"),
    ],
)
def test_what_is_refused(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as refused:
        parse_url(url)
    assert "s3cret" not in str(refused.value)


def test_a_certificate_is_verified(tmp_path: Path) -> None:
    context = parse_url("memcacheds://h").tls
    assert context is not None
    assert context.check_hostname


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"look_every": 0}, "look_every must be"),
        ({"look_every": True}, "look_every"),
        ({"look_every": "1"}, "look"),
    ],
)
def test_options_that_cannot_work(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        MemcachedLayer("memcached://h", **options)
