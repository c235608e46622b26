"""RFC 9110 section 4.2 and RFC 3986 section 5: URIs compared, split and resolved."""

import pytest

from layergate.http.message.uri import canonical_uri, origin_of, resolve_uri

CANONICAL = [
    ("as-is", "http://example.com/a?b=c", "http://example.com/a?b=c"),
    ("scheme-host-case", "HTTP://EXAMPLE.com/Ab", "http://example.com/Ab"),
    ("empty-path", "http://example.com", "http://example.com/"),
    ("empty-path-query", "http://example.com?a", "http://example.com/?a"),
    ("fragment", "http://example.com/a#b?c", "http://example.com/a"),
    ("default-port", "http://example.com:80/", "http://example.com/"),
    ("default-port-s", "https://example.com:0443/", "https://example.com/"),
    ("empty-port", "https://example.com:/", "https://example.com/"),
    ("other-port", "http://example.com:443/", "http://example.com:443/"),
    ("leading-zeros", "http://example.com:08080/", "http://example.com:8080/"),
    ("ipv6", "http://[2001:DB8::1]:80/", "http://[2001:db8::1]/"),
    ("underscore", "http://a_b/", "http://a_b/"),
    # RFC 3986 6.2.2: what means the same is written one way, and nothing else is touched.
    ("percent", "http://h/%7e/%7E/~", "http://h/~/~/~"),
    ("percent-hex", "http://h/%c3%a9?a=%2f", "http://h/%C3%A9?a=%2F"),
    ("percent-reserved", "http://h/a%2Fb%3F", "http://h/a%2Fb%3F"),
    ("percent-garbage", "http://h/%zz%4", "http://h/%zz%4"),
    ("dots", "http://h/a/../b/./c", "http://h/a/../b/./c"),
    ("slashes", "http://h//a//", "http://h//a//"),
    ("empty-query", "http://h/a?", "http://h/a?"),
    ("question-marks", "http://h/a?b?c", "http://h/a?b?c"),
    ("latin-1", "http://h/\xe9", "http://h/\xe9"),
    # RFC 9110 4.2.4: "a recipient SHOULD parse for userinfo and treat its presence as an error"
    ("userinfo", "http://u:p@h/", None),
    ("userinfo-empty", "http://@h/", None),
    ("no-scheme", "//example.com/", None),
    ("path-only", "/a", None),
    ("no-authority", "http:/a", None),
    ("no-host", "http:///a", None),
    ("no-host-port", "http://:80/", None),
    ("other-scheme", "ftp://example.com/", None),
    ("javascript", "javascript://example.com/%0aalert(1)", None),
    ("port-letters", "http://h:8o/", None),
    ("port-big", "http://h:65536/", None),
    ("port-huge", "http://h:" + "9" * 5000 + "/", None),
    ("port-other-digits", "http://h:\u0663/", None),
    ("host-space", "http://a b/", None),
    ("host-not-ascii", "http://\u0130/", None),
    ("host-backslash", "http://a\\b/", None),
    ("bracket", "http://[::1/", None),
    ("space", "http://h/a b", None),
    ("newline", "http://h/a\nb", None),
    ("nul", "http://h/\x00", None),
    ("empty", "", None),
    ("newline-only", "\n", None),
]


@pytest.mark.parametrize(
    ("uri", "expected"), [pytest.param(*row[1:], id=row[0]) for row in CANONICAL]
)
def test_canonical(uri, expected):
    assert canonical_uri(uri) == expected
    if expected is not None:
        assert canonical_uri(expected) == expected


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        pytest.param("https://Example.Com/happy.js", ("https", "example.com", 443), id="example"),
        pytest.param("HTTP://h:0080", ("http", "h", 80), id="port"),
        pytest.param("http://h:81?x", ("http", "h", 81), id="other-port"),
        pytest.param("http://u@h/", None, id="userinfo"),
        pytest.param("mailto:a@b", None, id="no-authority"),
    ],
)
def test_origin(uri, expected):
    assert origin_of(uri) == expected


BASE = "http://a/b/c/d;p?q"
# RFC 3986 5.4.1 and 5.4.2, fragments left out
RESOLVED = {
    "g": "http://a/b/c/g", "./g": "http://a/b/c/g", "g/": "http://a/b/c/g/", "/g": "http://a/g",
    "//g": "http://g/", "?y": "http://a/b/c/d;p?y", "g?y": "http://a/b/c/g?y",
    "#s": "http://a/b/c/d;p?q", "g#s": "http://a/b/c/g", ";x": "http://a/b/c/;x",
    "g;x?y#s": "http://a/b/c/g;x?y", "": "http://a/b/c/d;p?q", ".": "http://a/b/c/",
    "./": "http://a/b/c/", "..": "http://a/b/", "../": "http://a/b/", "../g": "http://a/b/g",
    "../..": "http://a/", "../../": "http://a/", "../../g": "http://a/g",
    "../../../g": "http://a/g", "../../../../g": "http://a/g", "/./g": "http://a/g",
    "/../g": "http://a/g", "g.": "http://a/b/c/g.", ".g": "http://a/b/c/.g",
    "g..": "http://a/b/c/g..", "..g": "http://a/b/c/..g", "./../g": "http://a/b/g",
    "./g/.": "http://a/b/c/g/", "g/./h": "http://a/b/c/g/h", "g/../h": "http://a/b/c/h",
    "g;x=1/./y": "http://a/b/c/g;x=1/y", "g;x=1/../y": "http://a/b/c/y",
    "g?y/../x": "http://a/b/c/g?y/../x", "https://G:443": "https://g/",
    "http:g": None, "g:h": None, "mailto:x": None, "//u@g/": None, "a b": None, "//[": None,
}  # fmt: skip


@pytest.mark.parametrize(("reference", "expected"), RESOLVED.items())
def test_resolve(reference, expected):
    assert resolve_uri(BASE, reference) == expected


@pytest.mark.parametrize(
    ("base", "expected"),
    [("http://a", "http://a/g"), ("http://a?q", "http://a/g"), ("nonsense", None), ("", None)],
)
def test_resolve_against(base, expected):
    assert resolve_uri(base, "g") == expected
