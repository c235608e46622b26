"""RFC 9111 section 4.4: what an unsafe request invalidates."""

import pytest

from layergate.http.message.fields import Fields
from layergate.http.rfc9111.invalidation import SAFE_METHODS, invalidated_uris, invalidates

# "A cache MUST invalidate the target URI ... when it receives a non-error status code in response
# to an unsafe request method (including methods whose safety is unknown)."
UNSAFE = ["POST", "PUT", "DELETE", "PATCH", "MKCOL", "M-SEARCH", "get", "", "FOO"]
# 'A "non-error response" is one with a 2xx (Successful) or 3xx (Redirection) status code.'
NON_ERROR = [200, 201, 204, 299, 300, 303, 304, 399]
ERROR = [0, 100, 199, 400, 404, 409, 500, 503, 599, 600]


@pytest.mark.parametrize("method", UNSAFE)
def test_unsafe_methods(method):
    assert [invalidates(method, status) for status in NON_ERROR] == [True] * len(NON_ERROR)
    assert [invalidates(method, status) for status in ERROR] == [False] * len(ERROR)


@pytest.mark.parametrize("method", sorted(SAFE_METHODS))
def test_safe_methods(method):
    assert not any(invalidates(method, status) for status in NON_ERROR + ERROR)


def location(value: bytes) -> tuple[bytes, bytes]:
    return (b"Location", value)


TARGET = "https://example.com/a/b?c=d"
ROWS = [
    ("target", TARGET, [], [TARGET]),
    ("target-canonical", "HTTPS://Example.COM:443#x", [], ["https://example.com/"]),
    ("target-unreadable", "nonsense", [location(b"/x")], ["nonsense"]),
    # "the URI(s) in the Location and Content-Location response header fields (if present)"
    ("location", TARGET, [location(b"https://example.com/x")], [TARGET, "https://example.com/x"]),
    ("content-location", TARGET, [(b"content-location", b"/y")], [TARGET, "https://example.com/y"]),
    ("both", TARGET, [(b"content-location", b"/y"), location(b"/x")],
     [TARGET, "https://example.com/x", "https://example.com/y"]),
    ("relative", TARGET, [location(b"x")], [TARGET, "https://example.com/a/x"]),
    ("relative-up", TARGET, [location(b"../x/./y")], [TARGET, "https://example.com/x/y"]),
    ("relative-query", TARGET, [location(b"?e")], [TARGET, "https://example.com/a/b?e"]),
    ("relative-scheme", TARGET, [location(b"//EXAMPLE.com/x")], [TARGET, "https://example.com/x"]),
    ("fragment", TARGET, [location(b"/x#y")], [TARGET, "https://example.com/x"]),
    ("same", TARGET, [location(b"https://EXAMPLE.com:0443/a/b?c=d#e")], [TARGET]),
    ("same-twice", TARGET, [location(b"/x"), (b"content-location", b"/x")],
     [TARGET, "https://example.com/x"]),
    ("blanks", TARGET, [location(b" /x\t")], [TARGET, "https://example.com/x"]),
    ("empty-query", TARGET, [location(b"/x?")], [TARGET, "https://example.com/x?"]),
    ("latin-1", TARGET, [location(b"/\xe9")], [TARGET, "https://example.com/é"]),
    # "a cache MUST NOT trigger an invalidation under these conditions if the origin ... of the URI
    # to be invalidated differs from that of the target URI"
    ("other-host", TARGET, [location(b"https://example.org/x")], [TARGET]),
    ("other-host-relative", TARGET, [location(b"//example.org/x")], [TARGET]),
    ("other-scheme", TARGET, [location(b"http://example.com/x")], [TARGET]),
    ("other-port", TARGET, [location(b"https://example.com:8443/x")], [TARGET]),
    ("subdomain", TARGET, [location(b"https://a.example.com/x")], [TARGET]),
    ("userinfo", TARGET, [location(b"https://example.com@example.org/")], [TARGET]),
    ("userinfo-same-host", TARGET, [location(b"https://u@example.com/x")], [TARGET]),
    ("javascript", TARGET, [location(b"javascript:alert(1)")], [TARGET]),
    # Garbage survives.
    ("bad-brackets", TARGET, [location(b"https://[::1/x")], [TARGET]),
    ("bad-port", TARGET, [location(b"https://example.com:x/y")], [TARGET]),
    ("space", TARGET, [location(b"/a b")], [TARGET]),
    ("control", TARGET, [location(b"/a\x00b"), location(b"/a\r\nb")], [TARGET]),
    ("empty", TARGET, [location(b"")], [TARGET]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("target", "lines", "expected"), [pytest.param(*row[1:], id=f"4.4-{row[0]}") for row in ROWS]
)
def test_uris(target, lines, expected):
    assert invalidated_uris(target, Fields(lines)) == expected


def test_a_flood_of_locations_is_cut_off():
    lines = [location(b"/%d" % number) for number in range(1000)]
    assert len(invalidated_uris(TARGET, Fields(lines))) < 20
