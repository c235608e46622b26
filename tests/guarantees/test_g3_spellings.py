"""A purge of a URL, as a browser shows it, reaches what is stored for it, however the request for that
was spelled, and whichever scheme the app was told of. It may reach more; it must not reach less."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from layergate import HttpCache
from layergate.errors import PurgeRefused
from layergate.http.engine.purge import purge_invalidations
from layergate.http.message.key import label_of, primary_key
from layergate.http.message.uri import canonical_uri, uri_label
from layergate.http.rfc9111.decision import _canonical_host
from layergate.runtime.threads import ThreadRuntime
from layergate.wsgi import LayerGate
from tests.support.asgi import World
from tests.support.wsgi import ask

HEADERS = {"cache-control": "max-age=600"}

# What a server may hand to the app, and the URL that a browser shows for it.
TARGETS = [
    ("/x", "/x"),
    ("//x", "/x"),
    ("/a//b", "/a/b"),
    ("/x#f", "/x"),
    ("/x#f?g", "/x"),
    ("/./x", "/x"),
    ("/a/../x", "/x"),
    ("/a/%2e%2E/x", "/x"),
    ("/a/..", "/"),
    ("/%78", "/x"),
    ("/%7Eu", "/~u"),
    ("/%7eu", "/~u"),
    ("/a%2Fb", "/a/b"),
    ("/a%21", "/a!"),
    ("/a\\b", "/a/b"),
    ("/%C3%A9", "/\u00e9"),
    ("/%c3%a9", "/\u00e9"),
    ("/x?", "/x"),
    ("/x?q=%61", "/x?q=a"),
    ("/x?q=a+b", "/x?q=a%20b"),
    ("/x?q=%21", "/x?q=!"),
    ("/x?q#f", "/x?q"),
    ("http://example.com/x", "/x"),
]


@pytest.mark.parametrize(("target", "url"), TARGETS, ids=[target for target, _ in TARGETS])
@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("way", ["urls", "prefixes", "patterns", "post"])
async def test_asgi(target: str, url: str, scheme: str, way: str) -> None:
    world = World()
    path, _, query = target.partition("?")
    request: dict[str, Any] = {
        "path": unquote_to_bytes(path).decode(),
        "raw_path": path.encode(),
        "query": query.encode(),
    }
    world.origin.answers(str(request["path"]), HEADERS)
    await world.get(**request)
    match way:
        case "urls":
            await world.cache.purge(urls=[f"{scheme}://example.com{url}"])
        case "prefixes":
            await world.cache.purge(prefixes=[f"example.com{url[:-1]}"])
        case "patterns":
            await world.cache.purge(patterns=[f"{url}*"])
        case "post":
            shown, _, query = url.partition("?")
            raw = quote(shown, safe="/%!~").encode()
            path = unquote_to_bytes(raw).decode()
            world.origin.answers(path, {})
            post = {"path": path, "raw_path": raw, "query": query.encode(), "scheme": scheme}
            await world.get(**post, method="POST")  # type: ignore[arg-type]
            world.origin.answers(str(request["path"]), HEADERS)
    assert not (await world.get(**request)).hit


@pytest.mark.parametrize(("target", "url"), TARGETS, ids=[target for target, _ in TARGETS])
@pytest.mark.parametrize("tells", [True, False], ids=["raw", "decoded"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_wsgi(target: str, url: str, tells: bool, scheme: str) -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [*HEADERS.items(), ("Content-Length", "1")])
        return [b"x"]

    path, _, query = target.removeprefix("http://example.com").partition("?")
    environ = {"HTTP_HOST": "example.com", "QUERY_STRING": query}
    if tells:
        environ["RAW_URI"] = target
    gate = LayerGate(app, cache=HttpCache(runtime=ThreadRuntime()))
    decoded = unquote_to_bytes(path).decode("latin-1")
    ask(gate, decoded, **environ)
    assert "hit" in ask(gate, decoded, **environ).told
    gate.purge(urls=[f"{scheme}://example.com{url}"])
    assert "hit" not in ask(gate, decoded, **environ).told


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("example.com.", "example.com"),
        ("EXAMPLE.com", "example.com"),
        ("example.com:80", "example.com"),
        ("example.com:080", "example.com"),
        ("example.com:443", "example.com"),  # https, to an app that is told of http
        ("[0:0:0:0:0:0:0:1]", "[::1]"),
        ("[::0001]:8080", "[::1]:8080"),
        ("[::ffff:127.0.0.1]", "[::ffff:7f00:1]"),
        ("127.1", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("user@example.com", "example.com"),
        ("xn--bcher-kva.example", "b\u00fccher.example"),
        ("xn--strae-oqa.example", "stra\u00dfe.example"),
    ],
)
async def test_hosts(sent: str, shown: str) -> None:
    world = World()
    world.origin.answers("/x", HEADERS)
    for _ in range(2):
        got = await world.get("/x", host=sent)
    stored = got.hit
    assert (await world.cache.purge(urls=[f"https://{shown}/x"])).final
    assert not (await world.get("/x", host=sent)).hit
    assert stored is (sent in ("example.com:443", "xn--bcher-kva.example", "xn--strae-oqa.example"))
    purges: list[dict[str, Any]] = [{"hosts": [shown]}, {"prefixes": [shown + "/x"]}]
    for named in purges:
        await world.get("/x", host=sent)
        await world.cache.purge(**named)
        assert not (await world.get("/x", host=sent)).hit


async def test_one_scheme_alone_if_told_so() -> None:
    world = World()
    world.origin.answers("/x", HEADERS)
    await world.get("/x")
    await world.cache.purge(urls=["https://example.com/x"], schemes="exact")
    assert (await world.get("/x")).hit
    await world.cache.purge(urls=["http://example.com/x"], schemes="exact")
    assert not (await world.get("/x")).hit
    with pytest.raises(PurgeRefused, match="schemes must be 'either' or 'exact', got 'both'"):
        await world.cache.purge(urls=["http://example.com/x"], schemes="both")  # type: ignore[arg-type]


# -- the property ----------------------------------------------------------------------------------

segments = st.text("ab.~!é%/ +:", min_size=1, max_size=6).filter(lambda one: one not in (".", ".."))


@st.composite
def spelled(draw: Any) -> tuple[str, bytes, bytes, str]:
    """A host, a raw path and a raw query, and the URL that a browser shows for them."""
    octets = [one.encode() for one in draw(st.lists(segments, max_size=4))]
    octets = [one for one in b"/".join(octets).split(b"/") if one not in (b"", b".", b"..")]
    shown = "/" + "/".join(quote(one, safe="!~:+") for one in octets)
    query = draw(st.text("ab=& +%é", max_size=6)).encode()

    def any_way(text: bytes) -> bytes:
        out = b""
        for octet in text:
            plain = chr(octet) in "ab.~!:=&"
            ways = [b"%%%02X" % octet, b"%%%02x" % octet, *([bytes([octet])] * 3 * plain)]
            out += draw(st.sampled_from(ways))
        return out

    noise = st.sampled_from([b"", b"", b"/", b"/.", b"/%2e", b"/z/..", b"/z/.%2E"])
    path = b"".join(draw(noise) + b"/" + any_way(one) for one in octets) or b"/"
    asked = any_way(query)
    path += draw(st.sampled_from([b"", b"", b"#f"])) if not asked else b""
    url = shown + ("?" + quote(query, safe="=&+!~:").replace("+", "%20") if query else "")
    return draw(st.sampled_from(["example.com", "h:8000", "[::1]", "10.0.0.1"])), path, asked, url


@given(spelled(), st.sampled_from(["http", "https"]), st.sampled_from(["http", "https"]))
@settings(max_examples=125, deadline=None)
def test_every_spelling_has_the_label_that_the_purge_names(
    spelling: tuple[str, bytes, bytes, str], told: str, named: str
) -> None:
    host, path, query, url = spelling
    decoded = unquote_to_bytes(path).decode("utf-8", "surrogateescape")
    invalidations = purge_invalidations(urls=[f"{named}://{host}{url}"])
    values = [mark.value for mark in invalidations]
    for raw in (path, None):
        if raw is None and b"#" in path:
            continue
        key = primary_key(told, host.encode(), decoded, raw, query)
        assert label_of(key) in values


@given(st.text("abA0xX1:.[]%é\u3002-", min_size=1, max_size=12))
@example("0x.0x")
@example("a..")
@settings(max_examples=100)
def test_what_is_stored_has_the_host_that_a_purge_names(host: str) -> None:
    """A host is either what a browser would send, or nothing is stored for it."""
    try:
        sent = host.encode("ascii")
    except UnicodeEncodeError:
        return
    for scheme in ("http", "https"):
        if _canonical_host(scheme, sent):
            url = f"{scheme}://{host}/"
            assert canonical_uri(url) == url
            assert uri_label(url) == label_of(primary_key(scheme, sent, "/", b"/", b""))
