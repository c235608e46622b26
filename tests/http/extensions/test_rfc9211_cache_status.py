"""RFC 9211: one member of Cache-Status. Each row quotes the section it is from."""

import pytest

from layergate.errors import ConfigError
from layergate.http.extensions.cache_status import forward_value, hit_value, identifier

CACHE = identifier("ExampleCache")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # 2: "this identifier MUST be a String or Token"
        pytest.param("LayerGate", b"LayerGate", id="2-token"),
        pytest.param("cache-3.example.com", b"cache-3.example.com", id="2-host"),
        pytest.param("*a:b/c", b"*a:b/c", id="2-token-characters"),
        pytest.param("CDN Company Here", b'"CDN Company Here"', id="2-string"),
        pytest.param("3rd", b'"3rd"', id="2-string-digit-first"),
        pytest.param('a"b\\c', b'"a\\"b\\\\c"', id="2-string-escaped"),
        pytest.param("a, b; hit", b'"a, b; hit"', id="2-string-delimiters"),
    ],
)
def test_identifier(name, expected):
    assert identifier(name) == expected


@pytest.mark.parametrize("name", ["", "é", "a\nb", "a\x00", "\x7f", "a\r\nX: y", "\ud800"])
def test_identifier_that_cannot_be_sent(name):
    with pytest.raises(ConfigError, match="printable ASCII"):
        identifier(name)


ROWS = [
    # 3, examples
    ("3-hit", hit_value(CACHE, 376), b"ExampleCache; hit; ttl=376"),
    # 2.4: "It may be negative, to indicate staleness."
    ("3-stale-hit", hit_value(CACHE, -412), b"ExampleCache; hit; ttl=-412"),
    ("3-miss", forward_value(CACHE, "uri-miss"), b"ExampleCache; fwd=uri-miss"),
    ("3-validated", forward_value(CACHE, "stale", fwd_status=304),
     b"ExampleCache; fwd=stale; fwd-status=304"),
    ("3-collapsed", forward_value(CACHE, "uri-miss", collapsed=True),
     b"ExampleCache; fwd=uri-miss; collapsed"),
    ("3-not-collapsed", forward_value(CACHE, "uri-miss", collapsed=False),
     b"ExampleCache; fwd=uri-miss; collapsed=?0"),
    # 2.8: "The value of "detail" is either a String or a Token"
    ("2.8-token", hit_value(CACHE, 1, "MEMORY"), b"ExampleCache; hit; ttl=1; detail=MEMORY"),
    ("2.8-string", hit_value(CACHE, 1, "in memory"),
     b'ExampleCache; hit; ttl=1; detail="in memory"'),
    ("2.8-not-ascii", hit_value(CACHE, 1, "é\n"),
     b'ExampleCache; hit; ttl=1; detail="%C3%A9%0A"'),
    # 2.5: "a true value indicates that it did"
    ("2.5-stored", forward_value(CACHE, "miss", stored=True), b"ExampleCache; fwd=miss; stored"),
    ("2.5-not-stored", forward_value(CACHE, "miss", stored=False),
     b"ExampleCache; fwd=miss; stored=?0"),
    # 2.7: "The value of "key" is a String"
    ("2.7-key", forward_value(CACHE, "miss", key="token"), b'ExampleCache; fwd=miss; key="token"'),
    ("2.7-key-quotes", forward_value(CACHE, "miss", key='a"\ud800'),
     b'ExampleCache; fwd=miss; key="a\\"\\\\ud800"'),
    ("all", forward_value(CACHE, "stale", fwd_status=200, ttl=60, stored=True, collapsed=True,
                          key="k", detail="x"),
     b'ExampleCache; fwd=stale; fwd-status=200; ttl=60; stored; collapsed; key="k"; detail=x'),
    # RFC 9651 3.3.1: integers of at most 15 digits
    ("big", hit_value(CACHE, 10**20), b"ExampleCache; hit; ttl=999999999999999"),
    ("small", hit_value(CACHE, -(10**20)), b"ExampleCache; hit; ttl=-999999999999999"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), [pytest.param(*row[1:], id=row[0]) for row in ROWS])
def test_member(value, expected):
    assert value == expected
