"""Who asks: X-Forwarded-*, Forwarded (RFC 7239), and whose word is taken."""

from __future__ import annotations

import ipaddress

import pytest

from layergate.gateway.forward import ForwardPolicy
from tests.support.gateways import Gateway, Origin

EVERY_LOOP = True

PEER = ("10.0.0.1", 4711)
NETWORKS = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32"))


def told(lines, *, peer=PEER, forwarded="both", scheme="http", trusted=NETWORKS, unix=False):
    policy = ForwardPolicy(via=None, forwarded=forwarded, trusted=trusted, trusts_unix=unix)
    given = [(b"host", b"a.example"), *[(n.encode(), v.encode()) for n, v in lines]]
    lines, client, scheme = policy.incoming(given, peer, scheme, believed=policy.believes(peer))
    seen: dict[str, str] = {}
    for name, value in lines:
        assert name.decode() not in seen, "a line twice"
        seen[name.decode()] = value.decode()
    return seen, client, scheme


XFF, XFP, F = "x-forwarded-for", "x-forwarded-proto", "forwarded"

BELIEVED = [
    # what a trusted proxy sends; client; scheme; the chain that the origin sees
    pytest.param([], "10.0.0.1", "http", "10.0.0.1", id="nothing"),
    pytest.param([(XFF, "192.0.2.9")], "192.0.2.9", "http", "192.0.2.9, 10.0.0.1", id="one"),
    pytest.param([(XFF, "192.0.2.9"), (XFP, "https")],
                 "192.0.2.9", "https", "192.0.2.9, 10.0.0.1", id="and the scheme"),
    pytest.param([(XFF, "6.6.6.6, 192.0.2.9, 10.9.9.9")],
                 "192.0.2.9", "http", "6.6.6.6, 192.0.2.9, 10.9.9.9, 10.0.0.1",
                 id="the last that is no proxy's"),
    pytest.param([(XFF, "10.1.1.1, 10.2.2.2")],
                 "10.1.1.1", "http", "10.1.1.1, 10.2.2.2, 10.0.0.1", id="proxies alone"),
    pytest.param([(XFF, "192.0.2.9:1234")], "192.0.2.9", "http", "192.0.2.9:1234, 10.0.0.1",
                 id="with a port"),
    pytest.param([(XFF, "[2001:db9::1]:80")], "2001:db9::1", "http", "[2001:db9::1]:80, 10.0.0.1",
                 id="IPv6 with a port"),
    pytest.param([(XFF, "2001:db9::1, 2001:db8::1")], "2001:db9::1", "http",
                 "2001:db9::1, 2001:db8::1, 10.0.0.1", id="IPv6"),
    pytest.param([(XFF, "unknown")], None, "http", "unknown, 10.0.0.1", id="no address"),
    pytest.param([(XFF, "192.0.2.9, junk")], None, "http", "192.0.2.9, junk, 10.0.0.1", id="junk"),
    pytest.param([(XFF, "192.0.2.1"), (XFF, "192.0.2.9")], "192.0.2.9", "http",
                 "192.0.2.1, 192.0.2.9, 10.0.0.1", id="two lines"),
    pytest.param([(XFP, "https")], "10.0.0.1", "https", "10.0.0.1", id="the scheme alone"),
    pytest.param([(XFP, "gopher")], "10.0.0.1", "http", "10.0.0.1", id="another scheme"),
    pytest.param([(XFP, "http, https")], "10.0.0.1", "https", "10.0.0.1", id="the nearest's scheme"),
    pytest.param([("x-forwarded-host", "evil"), ("x-real-ip", "6.6.6.6"), ("x-forwarded-port", "1")],
                 "10.0.0.1", "http", "10.0.0.1", id="others are replaced"),
    pytest.param([(F, "for=192.0.2.9;proto=https")],
                 "192.0.2.9", "https", "192.0.2.9, 10.0.0.1", id="7239 4"),
    pytest.param([(F, 'For="[2001:db9::1]:80";Proto=HTTPS;by=_x')],
                 "2001:db9::1", "https", "2001:db9::1, 10.0.0.1", id="7239 6: IPv6, in quotes"),
    pytest.param([(F, "for=192.0.2.9;proto=https , for=10.9.9.9;proto=http")],
                 "192.0.2.9", "https", "192.0.2.9, 10.9.9.9, 10.0.0.1", id="7239: the client's scheme"),
    pytest.param([(F, "for=unknown")], None, "http", "unknown, 10.0.0.1", id="7239 6.2"),
    pytest.param([(F, "for=_hidden, for=_x")], None, "http", "unknown, unknown, 10.0.0.1",
                 id="7239 6.3"),
    pytest.param([(F, "for=192.0.2.9;for=192.0.2.8")], None, "http", "10.0.0.1", id="twice"),
    pytest.param([(F, 'for="192.0.2.9')], None, "http", "10.0.0.1", id="no end of quotes"),
    pytest.param([(F, "192.0.2.9")], None, "http", "10.0.0.1", id="no pair"),
    pytest.param([(F, "for=192.0.2.9"), (XFF, "192.0.2.9")],
                 "192.0.2.9", "http", "192.0.2.9, 10.0.0.1", id="both, and they agree"),
    pytest.param([(F, "for=6.6.6.6"), (XFF, "192.0.2.9")],
                 None, "http", "192.0.2.9, 10.0.0.1", id="both, and they do not"),
    pytest.param([(F, "proto=https;for=192.0.2.9"), (XFP, "http")],
                 "192.0.2.9", "http", "192.0.2.9, 10.0.0.1", id="two schemes"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "client", "scheme", "chain"), BELIEVED)
async def test_what_a_trusted_proxy_says(lines, client, scheme, chain):
    seen, found, used = told(lines)
    assert (found and found[0], used) == (client, scheme)
    assert seen["x-forwarded-for"] == chain
    assert (seen["x-forwarded-proto"], seen["x-forwarded-host"]) == (scheme, "a.example")
    assert "x-real-ip" not in seen and "x-forwarded-port" not in seen


@pytest.mark.parametrize(("lines", "client", "scheme", "chain"), BELIEVED)
async def test_what_a_stranger_says(lines, client, scheme, chain):
    seen, found, used = told(lines, peer=("192.0.2.7", 1))
    assert (found, used) == (("192.0.2.7", 1), "http")
    assert seen == {
        "host": "a.example",
        "x-forwarded-for": "192.0.2.7",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "a.example",
        "forwarded": 'for=192.0.2.7;host="a.example";proto=http',
    }


SAID = [
    pytest.param("x-forwarded", {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}, id="x"),
    pytest.param("forwarded", {"forwarded"}, id="RFC 7239"),
    pytest.param("none", set(), id="none"),
]  # fmt: skip


@pytest.mark.parametrize(("option", "names"), SAID)
async def test_what_the_origin_is_told(option, names):
    for lines in ([], [(XFF, "192.0.2.9"), (F, "for=192.0.2.9")]):
        seen, _, _ = told(lines, forwarded=option)
        assert set(seen) == {"host", *names}


FORWARDED = [
    pytest.param([], ("192.0.2.7", 1), 'for=192.0.2.7;host="a.example";proto=http', id="alone"),
    pytest.param([], ("2001:db9::1", 1), 'for="[2001:db9::1]";host="a.example";proto=http', id="IPv6"),
    pytest.param([], None, 'for=unknown;host="a.example";proto=http', id="a Unix socket"),
    pytest.param([(XFF, "192.0.2.9")], PEER,
                 'for=192.0.2.9, for=10.0.0.1;host="a.example";proto=http', id="from the other field"),
    pytest.param([(F, "for=192.0.2.9;host=x;proto=https")], PEER,
                 'for=192.0.2.9;host=x;proto=https, for=10.0.0.1;host="a.example";proto=https',
                 id="appended"),
    pytest.param([(F, "nonsense")], PEER, 'for=10.0.0.1;host="a.example";proto=http',
                 id="what is malformed is not passed on"),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "peer", "value"), FORWARDED)
async def test_the_field_of_rfc_7239(lines, peer, value):
    assert told(lines, peer=peer, forwarded="forwarded")[0]["forwarded"] == value


@pytest.mark.parametrize("unix", [True, False])
async def test_whether_a_unix_socket_is_believed(unix):
    seen, client, scheme = told([(XFF, "192.0.2.9"), (XFP, "https")], peer=None, unix=unix)
    if unix:
        assert (client, scheme) == (("192.0.2.9", 0), "https")
        assert seen["x-forwarded-for"] == "192.0.2.9, unknown"
    else:
        assert (client, scheme) == (None, "http")
        assert seen["x-forwarded-for"] == "unknown"


# -- over sockets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("trusted", [(), ("127.0.0.0/8",)])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_the_origin_is_told(trusted, method):
    async with Origin() as origin, Gateway(origin, trusted_proxies=trusted) as gateway:
        await gateway.ask(
            "/", "X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https", method=method
        )
        chain = "192.0.2.9, 127.0.0.1" if trusted else "127.0.0.1"
        assert origin.last.all("x-forwarded-for") == [chain]
        assert origin.last.all("x-forwarded-proto") == ["https" if trusted else "http"]
        assert origin.last.all("x-forwarded-host") == ["example.com"]


async def test_the_scheme_is_part_of_what_is_asked_for():
    """A redirect to https, stored for http, must not be the answer to who came by https. The fast path
    for hits has to know that as well, and when the same bytes come from somebody else."""
    async with Origin() as origin, Gateway(origin, trusted_proxies=["127.0.0.1"]) as gateway:

        async def ask(*lines):
            response = await gateway.ask("/", *lines)
            return response.body, response.hit

        origin.handlers["/"] = lambda call: call.reply(
            200,
            ["Cache-Control: max-age=60"],
            (call.request.header("x-forwarded-proto") or "").encode(),
        )
        for hit in (False, True, True):
            assert await ask() == (b"http", hit)
            assert await ask("X-Forwarded-Proto: https") == (b"https", hit)
        gateway.reload(trusted_proxies=[])
        for _ in range(3):
            assert await ask("X-Forwarded-Proto: https") == (b"http", True)
        gateway.reload()
        for _ in range(3):
            assert await ask("X-Forwarded-Proto: https") == (b"https", True)


@pytest.mark.parametrize("field", ["X-Forwarded-For", "Forwarded"])
async def test_an_origin_that_varies_by_its_client(field):
    """What the gateway adds is part of what a stored response is selected by; what a client adds of
    it, is not."""
    async with (
        Origin() as origin,
        Gateway(origin, trusted_proxies=["127.0.0.1"], forwarded="both") as gateway,
    ):
        origin.handlers["/"] = lambda call: call.reply(
            200,
            ["Cache-Control: max-age=60", f"Vary: {field}"],
            (call.request.header("x-forwarded-for") or "").encode(),
        )
        for hit in (False, True):
            for client in ("192.0.2.1", "192.0.2.2"):
                response = await gateway.ask("/", f"X-Forwarded-For: {client}")
                assert (response.body, response.hit) == (f"{client}, 127.0.0.1".encode(), hit)
        gateway.reload(trusted_proxies=[])
        for value in ("192.0.2.1", "192.0.2.1, 127.0.0.1"):
            for _ in range(2):
                response = await gateway.ask("/", f"X-Forwarded-For: {value}")
                assert response.body == b"127.0.0.1"


async def test_a_unix_socket_that_is_believed(tmp_path):
    async with (
        Origin() as origin,
        Gateway(origin, path=str(tmp_path / "gw.sock"), trusted_proxies=["unix"]) as gateway,
    ):
        await gateway.ask("/", "X-Forwarded-For: 192.0.2.9", "X-Forwarded-Proto: https")
        assert origin.last.header("x-forwarded-for") == "192.0.2.9, unknown"
        assert origin.last.header("x-forwarded-proto") == "https"


async def test_who_may_use_the_admin_endpoint_is_who_the_proxy_says():
    async with (
        Origin() as origin,
        Gateway(
            origin,
            trusted_proxies=["127.0.0.1"],
            admin_token="t",
            admin_networks=["127.0.0.0/8", "192.0.2.0/24"],
        ) as gateway,
    ):
        for told_lines, status in (
            ((), 200),
            (("X-Forwarded-For: 192.0.2.1",), 200),
            (("X-Forwarded-For: 198.51.100.1",), 403),
            (("X-Forwarded-For: unknown",), 403),
            (("X-Forwarded-For: 192.0.2.1", "Forwarded: for=198.51.100.1"), 403),
        ):
            response = await gateway.ask(
                "/_layergate/stats", "Authorization: Bearer t", *told_lines
            )
            assert response.status == status, told_lines
