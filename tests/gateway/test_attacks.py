"""Attacks on a cache in front of an application, each from end to end. (What two parsers could read
differently: test_smuggling. What costs too much: test_exhaustion.)"""

from __future__ import annotations

import asyncio
import json

import pytest

from layergate import Rule
from tests.support.gateways import FRESH, TOKEN, Call, Gateway, gateway
from tests.support.http1 import Response, reply, request

# -- poisoning by what is no part of the key ---------------------------------------------------------

UNKEYED = [
    b"X-Forwarded-Host", b"X-Forwarded-Scheme", b"X-Forwarded-Port", b"X-Forwarded-Proto",
    b"X-Forwarded-Protocol", b"X-Forwarded-Ssl", b"X-Forwarded-Server", b"X-Forwarded-Prefix",
    b"X-Forwarded-Path", b"X-Forwarded-Uri", b"X-Forwarded-Method", b"X-Forwarded-For",
    b"X-Real-IP", b"Forwarded", b"X-Host", b"X-Original-Host", b"X-HTTP-Host-Override",
    b"X-Original-URL", b"X-Original-URI", b"X-Original-Method", b"X-Rewrite-URL", b"X-Request-URI",
    b"X-HTTP-DestinationURL", b"X-Envoy-Original-Path", b"X-Script-Name", b"X-Scheme",
    b"X-Url-Scheme", b"Front-End-Https", b"X-HTTP-Method-Override", b"X-HTTP-Method",
    b"X-Method-Override", b"Proxy", b"HTTP2-Settings", b"Keep-Alive", b"Proxy-Connection",
]  # fmt: skip


@pytest.mark.parametrize("name", UNKEYED)
async def test_unkeyed_header(name):
    """The origin never sees what it could take another host, URL, scheme or method from, so nothing
    that was made with it can be stored for everybody."""
    async with gateway() as gate:
        first = await gate.get(b"/", name + b": evil.test")
        second = await gate.get(b"/")
        assert first.body == second.body
        assert second.hit
        assert b"evil" not in gate.origin.bytes
        if name.startswith(b"X-Forwarded-") and name.endswith((b"Host", b"Proto", b"For")):
            # Told anew, from what is known.
            assert gate.origin.bytes.lower().count(name.lower() + b":") == 1
        else:
            assert name.lower() + b":" not in gate.origin.bytes.lower()


async def test_unkeyed_header_twice_in_odd_case():
    async with gateway() as gate:
        await gate.get(b"/", b"x-fOrwarded-hOst: evil", b"X-FORWARDED-HOST: evil")
        assert b"evil" not in gate.origin.bytes


async def test_header_with_an_underscore_is_not_the_one_with_a_dash():
    """CGI and WSGI make X_Forwarded_Host and X-Forwarded-Host one variable."""
    async with gateway() as gate:
        await gate.get(b"/", b"X_Forwarded_Host: evil", b"X_Original-URL: /evil")
        assert b"evil" not in gate.origin.bytes


async def test_what_a_trusted_proxy_says_of_the_scheme_is_keyed():
    """A redirect from http to https, stored and given to who came by https, is a loop."""
    async with gateway(trusted_proxies=["127.0.0.0/8"]) as gate:

        async def script(seen: Call) -> None:
            scheme = seen.all(b"x-forwarded-proto")[0]
            seen.writer.write(reply(scheme, FRESH))

        gate.origin.otherwise = script
        secure = b"X-Forwarded-Proto: https"
        for _ in range(3):
            assert (await gate.get(b"/")).body == b"http"
            assert (await gate.get(b"/", secure)).body == b"https"
        assert len(gate.origin.seen) == 2
        client = await gate.client()
        for _ in range(3):
            assert (await client.exchange(request(b"/", secure))).hit
            assert (await client.exchange(request(b"/"))).body == b"http"


async def test_what_a_stranger_says_of_the_scheme_is_not_heard():
    async with gateway(trusted_proxies=["10.0.0.0/8"]) as gate:
        await gate.get(b"/", b"X-Forwarded-Proto: https")
        assert gate.origin.seen[0].all(b"x-forwarded-proto") == [b"http"]
        assert (await gate.get(b"/")).hit


async def test_set_cookie_replay():
    async with gateway(cache={"rules": [Rule("/*", ttl=60)]}) as gate:
        for lines in ((b"Set-Cookie: sid=alice",), (FRESH, b"Set-Cookie: sid=alice"),
                      (b"Cache-Control: public, max-age=60", b"SET-COOKIE: sid=alice")):  # fmt: skip
            gate.origin.otherwise = reply(b"hello", *lines)
            target = b"/%d" % len(gate.origin.seen)
            assert (await gate.get(target)).get(b"set-cookie") == b"sid=alice"
            gate.origin.otherwise = reply(b"hello")
            second = await gate.get(target)
            assert not second.hit
            assert second.get(b"set-cookie") is None


async def test_set_cookie_is_not_given_to_those_who_wait():
    async with gateway() as gate:
        begun = asyncio.Event()
        go = asyncio.Event()

        async def script(seen: Call) -> None:
            number = len(gate.origin.seen)
            begun.set()
            await go.wait()
            seen.writer.write(reply(b"hello", FRESH, b"Set-Cookie: sid=%d" % number))

        gate.origin.otherwise = script
        asked = [asyncio.create_task(gate.get(b"/")) for _ in range(5)]
        await begun.wait()
        go.set()
        cookies = [(await one).get(b"set-cookie") for one in asked]
        assert len(set(cookies)) == 5


async def test_fat_get():
    """Content of a GET is forwarded as it is, but the key does not hold it: nothing is stored."""
    async with gateway() as gate:

        async def script(seen: Call) -> None:
            seen.writer.write(reply(b"report=" + seen.body, FRESH))

        gate.origin.otherwise = script
        chunked = b"Transfer-Encoding: chunked"
        for lines, body in [
            ((b"Content-Length: 4",), b"evil"),
            ((chunked,), b"4\r\nevil\r\n0\r\n\r\n"),
        ]:
            assert (await gate.get(b"/", *lines, body=body)).body == b"report=evil"
            clean = await gate.get(b"/")
            assert clean.body == b"report="
            # Nor does somebody with content get what was made without.
            assert (await gate.get(b"/", *lines, body=body)).body == b"report=evil"
        assert (await gate.get(b"/")).hit


async def test_method_override_in_a_fat_get_and_in_the_query():
    async with gateway() as gate:
        await gate.get(b"/?_method=DELETE")
        assert not (await gate.get(b"/")).hit
        assert [seen.method for seen in gate.origin.seen] == [b"GET", b"GET"]


# -- the key is what is forwarded --------------------------------------------------------------------

SPELLINGS = [
    b"/", b"//", b"/.", b"/..", b"/a", b"/a/", b"/A", b"/%61", b"/a//b", b"//a/b", b"/a/b", b"/a/./b",
    b"/a/../b", b"/a/..%2fb", b"/a/%2e%2e/b", b"/a/%2E%2E/b", b"/a%2fb", b"/a%2Fb", b"/a%252fb",
    b"/a\\b", b"/a%5cb", b"/a/..\\b", b"/a;b", b"/a;/b", b"/a/..;/b", b"/a%3bb", b"/a%00", b"/a%00b",
    b"/a%0a", b"/a%0d%0aX:%20y", b"/a%09", b"/a%20", b"/a+", b"/a%2b", b"/a%3f", b"/a%3fx=1", b"/a%23",
    b"/a%23b", b"/a%", b"/a%zz", b"/a%c3%a4", b"/a%e4", b"/a%ff", b"/a%fe", b"/a~", b"/a%7e", b"/a|b",
    b'/a"b', b"/a<b>", b"/a{b}", b"/a^b", b"/a`b", b"/a:80", b"/http://evil/", b"/@evil", b"/a,b", b"/a*",
    b"/a?x", b"/a?x=", b"/a?x=1", b"/a?x=1&x=2", b"/a?x=2&x=1", b"/a?x=1;x=2", b"/a?x=1%26x=2",
    b"/a?x=1%3bx=2", b"/a?%78=1", b"/a?X=1", b"/a?x=1&", b"/a?&x=1", b"/a??x=1", b"/a?x=1?", b"/a?x=1/../b",
    b"/a?x=%00", b"/a?x=%0a", b"/a?x=%ff", b"/a?x=%e4", b"/a?x=+", b"/a?x=%20", b"/a?x=%2b",
]  # fmt: skip


async def test_path_confusion_and_parameter_cloaking():
    """What the origin gets is byte for byte what was asked for, and each spelling has a response of
    its own: nobody can make the one be stored as the other."""
    async with gateway() as gate:
        client = await gate.client()
        for target in SPELLINGS:
            response = await client.exchange(request(target))
            assert response.body == target + b" 1"
            assert gate.origin.targets[-1] == target
        for target in reversed(SPELLINGS):
            response = await client.exchange(request(target))
            assert (response.body, response.hit) == (target + b" 1", True)
        assert len(gate.origin.seen) == len(SPELLINGS)


async def test_an_empty_query_is_none_for_key_and_origin_alike():
    async with gateway() as gate:
        assert (await gate.get(b"/a?")).body == b"/a 1"
        assert (await gate.get(b"/a")).body == b"/a 1"
        assert gate.origin.targets == [b"/a"]


async def test_key_collision():
    """Host, path and query cannot run into each other."""
    async with gateway() as gate:
        asked = [
            (b"a", b"/b/c"), (b"a:80", b"/b/c"), (b"a.b", b"/c"), (b"a", b"/b?/c"), (b"a", b"/b%3f/c"),
            (b"a", b"//b/c"), (b"a4", b"/b/c"), (b"a", b"/4:/b/c"), (b"a", b"/b/c?0:"), (b"1", b"/a"),
            (b"1:", b"/a"), (b"1:1", b"/a"), (b"1", b"/1:a"), (b"a", b"/cookie"), (b"a", b"/%00cookie"),
        ]  # fmt: skip

        async def script(seen: Call) -> None:
            seen.writer.write(reply(seen.all(b"host")[0] + b" " + seen.target, FRESH))

        gate.origin.otherwise = script
        for _ in range(2):
            for host, target in asked:
                assert (await gate.get(target, host=host)).body == host + b" " + target


# -- whose host it is --------------------------------------------------------------------------------


async def test_an_absolute_target_is_what_host_says():
    """RFC 9112 3.2.2. What is keyed, forwarded and told in X-Forwarded-Host is one host."""
    async with gateway() as gate:
        await gate.get(b"http://evil.test/a", host=b"shop.test")
        (seen,) = gate.origin.seen
        assert seen.target == b"/a"
        assert seen.all(b"host") == seen.all(b"x-forwarded-host") == [b"evil.test"]
        assert b"shop.test" not in gate.origin.bytes
        assert not (await gate.get(b"/a", host=b"shop.test")).hit
        assert (await gate.get(b"/a", host=b"evil.test")).hit
        # The scheme is that of the connection.
        assert (await gate.get(b"https://evil.test/a", host=b"shop.test")).hit


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a?b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a#b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\tb\r\n\r\n",
        b'GET / HTTP/1.1\r\nHost: a"><script>\r\n\r\n',
        b"GET / HTTP/1.1\r\nHost: b\xc3\xbccher.test\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a:80:90\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a:http\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a:-1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: ::1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
        b"GET http://user@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:///a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http://a\\b/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET http:/a HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
async def test_host_header_attack(head):
    async with gateway() as gate:
        await gate.refused(head, 400)


@pytest.mark.parametrize("host", [b"SHOP.test", b"shop.test:80", b"shop.test:", b"shop.test:0080"])
async def test_another_spelling_of_the_host_is_no_second_copy(host):
    """It would be one that no purge of the URL finds."""
    async with gateway() as gate:
        await gate.get(b"/a", host=host)
        assert not (await gate.get(b"/a", host=host)).hit
        assert not (await gate.get(b"/a")).hit
        assert (await gate.get(b"/a")).hit


async def test_port_confusion():
    """A port in Host that is not the origin's: a redirect with it must not be everybody's."""
    async with gateway() as gate:

        async def script(seen: Call) -> None:
            location = b"Location: http://%b/login" % seen.all(b"host")[0]
            seen.writer.write(reply(b"", FRESH, location, status=b"302 Found"))

        gate.origin.otherwise = script
        evil = await gate.get(b"/", host=b"shop.test:1337")
        assert evil.get(b"location") == b"http://shop.test:1337/login"
        assert (await gate.get(b"/")).get(b"location") == b"http://shop.test/login"


# -- cache deception ---------------------------------------------------------------------------------

STATIC = [
    Rule("/static/*", ttl=60),
    Rule("*.css", ttl=60),
    Rule("*.js", ttl=60, stale_while_revalidate=60, stale_if_error=60),
]
DECEPTIVE = [
    b"/account/x.css", b"/account;x.css", b"/account%2fx.css", b"/account%00.css", b"/account%0a.css",
    b"/account%3fx.css", b"/account%23x.css", b"/account/..%2fx.css", b"/static/../account",
    b"/static/..%2faccount", b"/static/%2e%2e/account", b"/static/..;/account", b"/static/..%5caccount",
    b"/static\\..\\account", b"/account/%2e%2e/static/x.js", b"/account/.js", b"//account/x.css",
    b"/account?x.css", b"/account/x.css?a=b",
]  # fmt: skip


@pytest.mark.parametrize(
    "known_by", [b"Cookie: sid=alice", b"Authorization: Bearer alice", b"X-API-Key: alice"]
)
async def test_cache_deception(known_by):
    """A page of Alice's under a URL that looks static: a rule's lifetime is for nobody that says who
    they are, whatever the path looks like."""
    async with gateway(cache={"rules": STATIC}) as gate:

        async def script(seen: Call) -> None:
            known = any(b"alice" in value for _, value in seen.lines)
            seen.writer.write(reply(b"alice's secret" if known else b"log in"))

        gate.origin.otherwise = script
        for target in DECEPTIVE:
            assert (await gate.get(target, known_by)).body == b"alice's secret"
            assert (await gate.get(target)).body == b"log in"
            # ... and the other way round, that what is everybody's does not hide hers.
            assert (await gate.get(target, known_by)).body == b"alice's secret"


async def test_private_is_private_under_any_url():
    async with gateway(
        cache={"rules": [Rule("/*", ttl=60, override=True, allow_cookie=True)]}
    ) as gate:
        gate.origin.otherwise = reply(b"alice's", b"Cache-Control: private")
        for target in DECEPTIVE:
            await gate.get(target, b"Cookie: sid=alice")
            assert not (await gate.get(target)).hit


# -- CPDoS: an error for everybody -------------------------------------------------------------------


async def _good_afterwards(gate: Gateway, target: bytes = b"/") -> Response:
    response = await gate.get(target)
    assert response.status == 200
    return response


async def test_cpdos_by_oversized_header():
    """HHO. Over the gateway's limit nothing is asked at all; what the origin refuses below that, it
    refuses for this request (431), or says nothing of keeping."""
    async with gateway(cache={"rules": [Rule("/*", ttl=60)]}) as gate:
        response = await gate.get(b"/", b"X-Long: " + b"x" * 40_000)
        assert response.status == 431
        assert not gate.origin.seen
        await _good_afterwards(gate)
        answers: dict[bytes, tuple[bytes, tuple[bytes, ...]]] = {
            b"/400": (b"400 Bad Request", ()),
            b"/413": (b"413 Content Too Large", ()),
            b"/500": (b"500 Internal Server Error", ()),
            b"/431": (b"431 Request Header Fields Too Large", (FRESH,)),
        }

        async def script(seen: Call) -> None:
            if any(len(value) > 8000 for _, value in seen.lines):
                status, lines = answers[seen.target]
                seen.writer.write(reply(b"too long", *lines, status=status))
            else:
                seen.writer.write(reply(b"fine", FRESH))

        gate.origin.otherwise = script
        for target, (status, _) in answers.items():
            first = await gate.get(target, b"X-Long: " + b"x" * 9000)
            assert first.status == int(status[:3])
            await _good_afterwards(gate, target)


@pytest.mark.parametrize("byte", [b"\0", b"\1", b"\a", b"\b", b"\n", b"\r", b"\x1b", b"\x7f"])
async def test_cpdos_by_meta_character(byte):
    """HMC."""
    async with gateway() as gate:
        await gate.refused(request(b"/", b"X-Meta: a" + byte + b"b"), 400)
        await _good_afterwards(gate)


@pytest.mark.parametrize(
    "name", [b"X-HTTP-Method-Override", b"X-HTTP-Method", b"X-Method-Override"]
)
async def test_cpdos_by_method_override(name):
    """HMO."""
    async with gateway(cache={"rules": [Rule("/*", ttl=60)]}) as gate:

        async def script(seen: Call) -> None:
            override = seen.all(name.lower())
            status = b"405 Method Not Allowed" if override else b"200 OK"
            seen.writer.write(reply(b"x", FRESH, status=status))

        gate.origin.otherwise = script
        await gate.get(b"/", name + b": DELETE")
        await _good_afterwards(gate)
        # A POST may carry it; what it does, nobody else gets.
        await gate.get(b"/post", name + b": GET", b"Content-Length: 0", method=b"POST")
        assert not (await _good_afterwards(gate, b"/post")).hit


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((b"Range: bytes=900-",), b"416 Range Not Satisfiable"),
        ((b'If-Match: "x"',), b"412 Precondition Failed"),
        ((b"Expect: 100-continue",), b"417 Expectation Failed"),
        ((b"If-None-Match: *",), b"304 Not Modified"),
    ],
)
async def test_cpdos_by_a_header_that_asks_for_an_error(lines, status):
    async with gateway(cache={"rules": [Rule("/*", ttl=60)]}) as gate:

        async def script(seen: Call) -> None:
            names = {name for name, _ in seen.lines}
            provoked = names & {b"range", b"if-match", b"expect", b"if-none-match"}
            seen.writer.write(reply(b"", FRESH, status=status) if provoked else reply(b"x", FRESH))

        gate.origin.otherwise = script
        await gate.get(b"/", *lines)
        await _good_afterwards(gate)


async def test_cpdos_by_a_client_that_leaves():
    """What was not received to its end is not stored as if it had been."""
    async with gateway() as gate:
        begun, go = asyncio.Event(), asyncio.Event()

        async def script(seen: Call) -> None:
            seen.writer.write(
                b"HTTP/1.1 200 OK\r\n" + FRESH + b"\r\nContent-Length: 10\r\n\r\nhello"
            )
            await seen.writer.drain()
            begun.set()
            await go.wait()
            seen.writer.write(b"world")

        gate.origin.otherwise = script
        client = await gate.client()
        await client.send(request(b"/"))
        await begun.wait()
        await client.close()
        go.set()
        assert (await gate.get(b"/")).body == b"helloworld"


async def test_vary_flood():
    """Each value of a header another response: their number is bounded, and so is what is kept."""
    async with gateway(cache={"max_variants": 8}) as gate:
        gate.origin.otherwise = reply(b"x" * 1000, FRESH, b"Vary: X-Any")
        client = await gate.client()
        for number in range(100):
            await client.exchange(request(b"/", b"X-Any: %d" % number))
        assert gate.cache.stats()["layers"]["memory"]["entries"] <= 8 + 2
        gate.origin.otherwise = reply(b"x", FRESH, b"Vary: *")
        await client.exchange(request(b"/star"))
        assert not (await client.exchange(request(b"/star"))).hit
        names = b", ".join(b"X-%d" % number for number in range(5000))
        gate.origin.otherwise = reply(b"x", FRESH, b"Vary: " + names)
        assert (await client.exchange(request(b"/many"))).status == 200
        assert (await client.exchange(request(b"/many"))).status == 200


# -- what others have must not be found out ----------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        (b'If-None-Match: "alice-1"',),
        (b"If-None-Match: *",),
        (b"If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT",),
        (b'If-Range: "alice-1"', b"Range: bytes=0-0"),
    ],
)
async def test_etag_oracle(lines):
    """Whether a validator is that of Alice's private page, only the origin can say, and it is asked
    with the asker's own credentials."""
    async with gateway(cache={"rules": [Rule("/*", ttl=60)]}) as gate:
        controls: dict[bytes, tuple[bytes, ...]] = {
            b"/silent": (),
            b"/private": (b"Cache-Control: private, max-age=60",),
            b"/varying": (b"Vary: Cookie", FRESH),
        }

        async def script(seen: Call) -> None:
            if seen.all(b"cookie") or seen.all(b"authorization"):
                control = controls[seen.target]
                seen.writer.write(reply(b"alice's", b'ETag: "alice-1"', *control))
            else:
                seen.writer.write(reply(b"no", b"Cache-Control: no-store", status=b"403 No"))

        gate.origin.otherwise = script
        for known_by in (b"Cookie: sid=alice", b"Authorization: Bearer alice"):
            for target in controls:
                assert (await gate.get(target, known_by)).status == 200
                response = await gate.get(target, *lines)
                assert response.status == 403
                assert response.get(b"etag") is None
                assert b"hit" not in (response.get(b"cache-status") or b"")


async def test_only_if_cached_tells_nothing_of_what_is_others():
    async with gateway() as gate:
        gate.origin.otherwise = reply(b"alice's", b"Cache-Control: private, max-age=60")
        await gate.get(b"/a", b"Cookie: sid=alice")
        probed = await gate.get(b"/a", b"Cache-Control: only-if-cached")
        other = await gate.get(b"/never-asked-for", b"Cache-Control: only-if-cached")
        assert (probed.status, probed.body) == (other.status, other.body) == (504, b"")
        assert [name for name, _ in probed.lines] == [name for name, _ in other.lines]


async def test_authorization_is_not_shared():
    async with gateway() as gate:

        async def script(seen: Call) -> None:
            seen.writer.write(reply(b"".join(seen.all(b"authorization")) or b"nobody", FRESH))

        gate.origin.otherwise = script
        for name in (b"alice", b"bob", b"alice"):
            assert (await gate.get(b"/", b"Authorization: " + name)).body == name
        assert (await gate.get(b"/")).body == b"nobody"
        assert (await gate.get(b"/", b"Authorization: eve")).body == b"eve"


async def test_decompression_bomb():
    """Nothing is decompressed, whatever it says that it is."""
    async with gateway() as gate:
        bomb = b"\x1f\x8b\x08\x00" + b"\0" * 1000
        gate.origin.otherwise = reply(bomb, FRESH, b"Content-Encoding: gzip, gzip, br")
        for _ in range(2):
            response = await gate.get(b"/")
            assert response.body == bomb
            assert response.get(b"content-encoding") == b"gzip, gzip, br"


async def test_log_injection():
    async with gateway(upstream={"connect_timeout": 1}) as gate:

        async def script(seen: Call) -> None:
            seen.writer.close()

        gate.origin.otherwise = script
        await gate.get(b"/a%0d%0aroot%20logged%20in%1b[2J%ff")
        assert len(gate.logged.texts) == 1
        assert gate.logged.texts[0].isprintable()


# -- who may purge -----------------------------------------------------------------------------------

EVERYTHING = json.dumps({"purge_everything": True}).encode()
LENGTH = b"Content-Length: %d" % len(EVERYTHING)
BEARER = b"Authorization: Bearer " + TOKEN.encode()


async def _purge(gate: Gateway, *lines: bytes, target: bytes = b"/_layergate/purge") -> Response:
    return await gate.get(target, LENGTH, *lines, method=b"POST", body=EVERYTHING)


async def test_purge_with_right():
    async with gateway() as gate:
        await gate.get(b"/a")
        assert (await _purge(gate, BEARER)).status == 200
        assert not (await gate.get(b"/a")).hit
        assert (await gate.get(b"/a", BEARER, method=b"PURGE")).status == 200
        assert not (await gate.get(b"/a")).hit


@pytest.mark.parametrize(
    "lines",
    [
        (),
        (b"Authorization: Bearer wrong",),
        (b"Authorization: Bearer ",),
        (b"Authorization: Basic czNjcmV0OnMzY3JldA==",),
        (b"Authorization: Bearer wrong", BEARER),
        (BEARER, b"Authorization: Bearer wrong"),
        (b"Authorization: Bearer " + TOKEN.encode() + b"\xff",),
        (b"Cookie: token=" + TOKEN.encode(),),
        (b"X-Forwarded-For: 127.0.0.1", b"X-Real-IP: 127.0.0.1"),
        (b"Connection: Authorization",),
    ],
)
async def test_purge_without_right(lines):
    async with gateway() as gate:
        await gate.get(b"/a")
        assert (await _purge(gate, *lines)).status in (401, 403)
        assert (await gate.get(b"/a", *lines, method=b"PURGE")).status in (401, 403)
        assert (await gate.get(b"/a")).hit


@pytest.mark.parametrize(
    "target",
    [
        b"/_layergate/purge", b"/_layergate/stats", b"/_layergate/explain", b"/_layergate",
        b"/_layergate/", b"/_layergate//purge", b"/%5flayergate/purge", b"/_layer%67ate/purge",
        b"/_layergate%2fpurge", b"/_layergate/../_layergate/purge", b"/_layergate/./purge",
        b"/_layergate/healthz/../purge", b"/_layergate/healthz/purge", b"/_layergate/purge?healthz",
        b"http://shop.test/_layergate/purge", b"http://_layergate/_layergate/purge",
    ],
)  # fmt: skip
async def test_purge_without_right_by_another_path(target):
    """Whatever leads to the endpoint asks for the token."""
    async with gateway() as gate:
        await gate.get(b"/a")
        for method in (b"POST", b"GET", b"PUT", b"PURGE"):
            response = await gate.get(target, LENGTH, method=method, body=EVERYTHING)
            assert response.status == 401, method
        assert (await gate.get(b"/a")).hit
        assert gate.origin.targets == [b"/a"]


@pytest.mark.parametrize(
    "target",
    [b"//_layergate/purge", b"/./_layergate/purge", b"/x/../_layergate/purge", b"/_layergatepurge",
     b"/_LAYERGATE/purge", b"/_layergate;/purge", b"/x/_layergate/purge"],
)  # fmt: skip
async def test_what_only_looks_like_the_endpoint_is_the_origins(target):
    """And is forwarded as it came; nothing is purged."""
    async with gateway() as gate:
        await gate.get(b"/a")
        response = await _purge(gate, BEARER, target=target)
        assert response.status == 200
        assert gate.origin.targets == [b"/a", target]
        assert (await gate.get(b"/a")).hit


async def test_purge_from_another_network():
    async with gateway(admin_networks=["10.0.0.0/8"]) as gate:
        await gate.get(b"/a")
        for lines in ((), (b"X-Forwarded-For: 10.0.0.1",), (b"Forwarded: for=10.0.0.1",),
                      (b"X-Real-IP: 10.0.0.1",), (b"X_Forwarded_For: 10.0.0.1",)):  # fmt: skip
            assert (await _purge(gate, BEARER, *lines)).status == 403
            assert (await gate.get(b"/a", BEARER, *lines, method=b"PURGE")).status == 403
        assert (await gate.get(b"/a")).hit


@pytest.mark.parametrize(
    ("told", "status"),
    [
        (b"10.0.0.1", 200),
        (b"10.0.0.1, 192.0.2.9", 403),  # the client says the former, the proxy the latter
        (b"192.0.2.9", 403),
        (b"192.0.2.9, 127.0.0.1", 403),
        (b"10.0.0.1, 127.0.0.1", 200),
        (b"10.0.0.1, unknown", 403),
        (b"10.0.0.1, 192.0.2.9:4711", 403),
        (b"unknown", 403),
        (b'"10.0.0.1"', 403),
        (b"10.0.0.1.", 403),
    ],
)
@pytest.mark.parametrize("networks", [["10.0.0.0/8"], ["10.0.0.0/8", "127.0.0.0/8"]])
async def test_purge_from_another_network_through_a_trusted_proxy(told, status, networks):
    """What the proxy itself has appended counts; and what it has not written clearly is no client of
    its own network."""
    async with gateway(trusted_proxies=["127.0.0.0/8"], admin_networks=networks) as gate:
        assert (await _purge(gate, BEARER, b"X-Forwarded-For: " + told)).status == status
        halves = [b"X-Forwarded-For: " + part for part in told.split(b", ")]
        assert (await _purge(gate, BEARER, *halves)).status == status


async def test_purge_without_a_token_configured():
    """Nobody may, and the method is the origin's."""
    async with gateway(admin_token=None) as gate:
        await gate.get(b"/a")
        response = await _purge(gate, BEARER)
        assert response.body.startswith(b"/_layergate/purge ")  # the origin's
        assert (await gate.get(b"/a")).hit


async def test_the_health_is_for_everybody_and_never_stored():
    async with gateway() as gate:
        for target in (b"/_layergate/healthz", b"/_layergate/readyz", b"/%5flayergate/healthz"):
            response = await gate.get(target)
            assert (response.status, response.body) == (200, b'{"status": "ready"}\n')
            assert response.get(b"cache-control") == b"no-store"
        assert not gate.origin.seen


async def test_a_post_purges_what_it_is_allowed_to_only():
    """RFC 9111 4.4: "unless the origin ... is the same": an unsafe request cannot drop another
    host's page by Location."""
    async with gateway() as gate:
        await gate.get(b"/a", host=b"victim.test")
        gate.origin.scripts[b"/evil"] = reply(
            b"", b"Location: http://victim.test/a", b"Content-Location: http://victim.test/a"
        )
        await gate.get(b"/evil", b"Content-Length: 0", method=b"POST", host=b"evil.test")
        assert (await gate.get(b"/a", host=b"victim.test")).hit
