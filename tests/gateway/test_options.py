from __future__ import annotations

import dataclasses
import subprocess
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layergate import Admin, HttpCache
from layergate.config import Options
from layergate.errors import ConfigError
from layergate.gateway.addresses import Address
from layergate.gateway.options import GatewayOptions
from layergate.gateway.upstream_options import UpstreamOptions
from layergate.layers.redis import RedisLayer
from tests.support.tls import tls_files

UP = "http://127.0.0.1:8000"
SECRET = "s3cret-of-some-length"


def gateway(**options) -> GatewayOptions:
    return GatewayOptions(**{"upstreams": [UP], **options})


# -- upstreams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "tls", "address", "name"),
    [
        ("http://127.0.0.1:8000", False, Address("127.0.0.1", 8000), "127.0.0.1:8000"),
        ("http://app", False, Address("app", 80), "app:80"),
        ("https://App.Example", True, Address("app.example", 443), "app.example:443"),
        ("HTTPS://a:8443", True, Address("a", 8443), "a:8443"),
        ("http://a/", False, Address("a", 80), "a:80"),
        ("http://[::1]:8000", False, Address("::1", 8000), "[::1]:8000"),
        ("https://[2001:DB8::0]", True, Address("2001:db8::", 443), "[2001:db8::]:443"),
        ("http://my_service:80", False, Address("my_service", 80), "my_service:80"),
        ("unix:/run/app.sock", False, Address(path="/run/app.sock"), "unix:/run/app.sock"),
    ],
)
def test_where_an_upstream_is(url, tls, address, name):
    upstream = UpstreamOptions(url)
    assert (upstream.tls, upstream.address, upstream.name) == (tls, address, name)
    assert upstream.url == url


@pytest.mark.parametrize(
    "url",
    [
        None, 8000, b"http://a", "", "a", "a:80", "//a", "ftp://a", "http:/a", "http://", "http://:80",
        "http://a:0", "http://a:65536", "http://a:b", "http://a:80:80", "http://a/b", "http://a//",
        "http://a?b", "http://a#b", "http://a b", "http://[::1", "http://[::g]", "http://::1",
        "http://a,b", "http://-a", "http://ä", "http://a\n", "http://a\\b", "http://a%41", "unix:",
        "unix:run/x", "unix:/a\nb", "unix:/" + "x" * 107, "unix://run/x\0",
    ],
)  # fmt: skip
def test_where_no_upstream_can_be(url):
    with pytest.raises(ConfigError, match=r"^url "):
        UpstreamOptions(url)


def test_a_password_in_a_url_is_refused_and_not_shown():
    for url in ("http://user:pa55@a", "user:pa55@a", "http://user:pa55@a/b", "x://user:pa55@a"):
        with pytest.raises(ConfigError) as raised:
            UpstreamOptions(url)
        assert "pa55" not in str(raised.value)


def test_the_url_of_a_socket_may_have_more_slashes():
    assert UpstreamOptions("unix:///run/app.sock").address == Address(path="/run/app.sock")


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("name", "a b"), ("name", 1), ("name", "ä"), ("name", None),
        ("hosts", "example.com"), ("hosts", []), ("hosts", [""]), ("hosts", ["a:80"]), ("hosts", ["*"]),
        ("hosts", ["*."]), ("hosts", ["a.*"]), ("hosts", ["*.*.a"]), ("hosts", ["http://a"]),
        ("hosts", ["[::1]:80"]), ("hosts", ["*.[::1]"]), ("hosts", ["ä.example"]), ("hosts", [1]),
        ("hosts", {"a": 1}), ("hosts", ["::1"]),
        ("path", ""), ("path", "api"), ("path", "/a?b"), ("path", "/a#b"), ("path", "/%61"),
        ("path", "/a*"), ("path", "/{a}"), ("path", "/a b"), ("path", "/a/../b"), ("path", "/."),
        ("path", None), ("path", "/a\n"), ("path", "\\a"), ("path", "/a\\b"),
        ("host", ""), ("host", None), ("host", "a b"), ("host", "a:x"), ("host", "http://a"),
        ("host", ":80"), ("host", "a\r\nx: y"), ("host", "a:70000"),
        ("max_connections", 0), ("max_connections", True), ("max_connections", "1"),
        ("queue_timeout", -1), ("queue_timeout", None), ("queue_timeout", "1"),
        ("connect_timeout", 0), ("connect_timeout", float("nan")), ("first_byte_timeout", 0),
        ("first_byte_timeout", None), ("read_timeout", 0), ("read_timeout", -1), ("idle_timeout", -1),
        ("max_tunnels", 0), ("max_tunnels", "1"), ("tunnel_idle_timeout", 0),
        ("retries", -1), ("retries", 11), ("retries", False), ("retries", 1.0),
        ("tls_verify", 1), ("tls_verify", None),
        ("tls_ca_file", ""), ("tls_ca_file", 1), ("tls_ca_file", "/nosuch/file"), ("tls_ca_file", "\0"),
        ("tls_ca_file", "/"), ("tls_server_name", ""), ("tls_server_name", "a b"), ("tls_server_name", 1),
    ],
)  # fmt: skip
def test_what_an_upstream_cannot_be_told(option, value):
    with pytest.raises(ConfigError, match=rf"^{option} .*upstream"):
        UpstreamOptions(**{"url": UP, option: value})


def test_what_an_upstream_can_be_told(tmp_path: Path):
    ca, _ = tls_files(tmp_path)
    upstream = UpstreamOptions(
        UP, name="app", hosts=["Example.com", "*.Example.com", "[::0]"], path="/api", host="A.b:80",
        queue_timeout=0, idle_timeout=0, read_timeout=float("inf"), retries=0, tls_ca_file=str(ca),
        tls_server_name="a.b",
    )  # fmt: skip
    assert upstream.hosts == ("example.com", "*.example.com", "[::]")
    assert upstream.host == "a.b:80"
    assert (upstream.queue_timeout, upstream.read_timeout) == (0.0, 2.0**31)
    assert dataclasses.replace(upstream) == upstream
    with pytest.raises(ConfigError, match="tls_ca_file has no use without tls_verify"):
        dataclasses.replace(upstream, tls_verify=False)


@pytest.mark.parametrize(
    ("hosts", "path", "host", "asked", "covered"),
    [
        (None, "/", "a", "/", True),
        (None, "/", "", "/x/y", True),
        (["a"], "/", "a", "/", True),
        (["a"], "/", "b", "/", False),
        (["a", "b"], "/", "b", "/", True),
        (["*.a"], "/", "x.a", "/", True),
        (["*.a"], "/", "y.x.a", "/", True),
        (["*.a"], "/", "a", "/", False),
        (["*.a"], "/", "xa", "/", False),
        (["*.a"], "/", ".a", "/", False),
        (None, "/api", "a", "/api", True),
        (None, "/api", "a", "/api/", True),
        (None, "/api", "a", "/api/x", True),
        (None, "/api", "a", "/apix", False),
        (None, "/api", "a", "/API", False),
        (None, "/api", "a", "/", False),
        (None, "/api/", "a", "/api", False),
        (None, "/api/", "a", "/api/", True),
        (None, "/api/", "a", "/api/x", True),
        (["a"], "/api", "b", "/api", False),
    ],
)
def test_what_an_upstream_covers(hosts, path, host, asked, covered):
    assert UpstreamOptions(UP, hosts=hosts, path=path).covers(host, asked) is covered


_HOSTS = st.none() | st.lists(
    st.sampled_from(["a", "b.a", "*.a", "*.b.a", "c"]), min_size=1, max_size=3
)
_PATHS = st.sampled_from(["/", "/x", "/x/", "/x/y", "/xy"])


@given(_HOSTS, _PATHS, _HOSTS, _PATHS, st.sampled_from(["a", "b.a", "d.b.a", "c", "e"]),
       st.sampled_from(["/", "/x", "/x/", "/x/y", "/x/y/z", "/xy", "/xyz"]))  # fmt: skip
def test_one_that_covers_all_of_another_covers_each_request(
    ours, our_path, theirs, path, host, asked
):
    one = UpstreamOptions(UP, hosts=ours, path=our_path)
    other = UpstreamOptions(UP, hosts=theirs, path=path)
    if one.covers_all_of(other) and other.covers(host, asked):
        assert one.covers(host, asked)


# -- the gateway -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("[::1]:8080", Address("::1", 8080)),
        (":8080", Address("", 8080)),
        ("localhost:0", Address("localhost", 0)),
        ("unix:/run/x.sock", Address(path="/run/x.sock")),
    ],
)
def test_where_it_listens(text, address):
    options = gateway(listen=[text])
    assert options.addresses == (address,)
    assert str(address) == text


@pytest.mark.parametrize(
    "listen",
    [
        ":8080", [], [""], ["8080"], ["localhost"], ["[::1]"], ["::1:8080"], [":99999"], ["a:b"],
        ["http://a:80"], ["unix:x"], ["unix:"], ["[::1:80"], ["a:"], [8080], ["a b:80"], ["*:80"],
    ],
)  # fmt: skip
def test_where_it_cannot_listen(listen):
    with pytest.raises(ConfigError, match=r"^listen "):
        gateway(listen=listen)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("upstreams", UP), ("upstreams", []), ("upstreams", [1]), ("upstreams", None),
        ("upstreams", UpstreamOptions(UP)), ("upstreams", {"url": UP}),
        ("workers", 0), ("workers", 257), ("workers", True), ("workers", "2"),
        ("tls_cert", "/nosuch"), ("tls_key", "/nosuch"), ("tls_cert", ""),
        ("admin_path", "x"), ("admin_path", "/"), ("admin_path", "/a/"), ("admin_path", "/a?"),
        ("admin_path", None),
        ("admin_token", ""), ("admin_token", "a b"), ("admin_token", "ä"), ("admin_token", 1),
        ("admin_token_file", "/nosuch"), ("admin_token_file", 1),
        ("admin_networks", "10.0.0.0/8"), ("admin_networks", ["10.0.0.1/8"]), ("admin_networks", ["x"]),
        ("purge_method", 1), ("trusted_proxies", "unix"), ("trusted_proxies", ["x"]),
        ("trusted_proxies", None), ("trusted_proxies", [""]),
        ("forwarded", "X"), ("forwarded", None), ("forwarded", []),
        ("via", ""), ("via", "a b"), ("via", "a\r\n"), ("via", 1), ("via", "x" * 65),
        ("keep_alive_timeout", -1), ("drain_timeout", None), ("head_timeout", 0), ("body_timeout", 0),
        ("send_timeout", 0), ("send_timeout", "1"),
        ("max_head", 1023), ("max_head", "1"), ("max_head", None), ("max_head", "x"),
        ("max_fields", 0), ("max_content", 0), ("max_content", "x"), ("max_connections", 0),
        ("pass_upgrades", None), ("access_log", "yes"),
        ("shared_namespace", ""), ("shared_namespace", "{}"), ("shared_namespace", None),
        ("cache", {}), ("cache", Options(admin=Admin(token="x"))),
    ],
)  # fmt: skip
def test_what_the_gateway_cannot_be_told(option, value):
    with pytest.raises(ConfigError, match=rf"^{option} "):
        gateway(**{option: value})


def test_what_it_makes_of_them():
    options = gateway(
        upstreams=[UpstreamOptions("unix:/run/a", hosts=["a"]), UP],
        listen=["[::1]:0", "unix:/run/x"],
        trusted_proxies=["10.0.0.0/8", "unix", "::1"],
        admin_token="tok",
        admin_networks=["127.0.0.0/8"],
        max_head="64KB",
        max_content="1MB",
        via=None,
    )
    assert [upstream.name for upstream in options.upstreams] == ["unix:/run/a", "127.0.0.1:8000"]
    assert options.trusted_networks == (ip_network("10.0.0.0/8"), ip_network("::1"))
    assert options.trusts_unix
    assert (options.max_head, options.max_content) == (65536, 1024**2)
    assert options.admin == Admin("/_layergate", "tok", ["127.0.0.0/8"])
    assert dataclasses.replace(options) == options
    assert dataclasses.replace(options, admin_token=None).admin is None


def test_by_default_nobody_is_trusted_and_nobody_may_purge():
    options = gateway()
    assert (options.trusted_networks, options.trusts_unix, options.admin) == ((), False, None)
    assert options.addresses == (Address("127.0.0.1", 8080),)
    assert options.cache.heuristic is None


def test_an_upstream_that_would_never_be_asked():
    narrow = UpstreamOptions("http://b", path="/api")
    assert len(gateway(upstreams=[narrow, UP]).upstreams) == 2
    with pytest.raises(ConfigError, match=r"upstreams has 'b:80', which is never asked"):
        gateway(upstreams=[UP, narrow])


def test_upstreams_have_names_of_their_own():
    pair = [UpstreamOptions(UP, hosts=["a"]), UpstreamOptions(UP, hosts=["b"])]
    with pytest.raises(ConfigError, match="names of their own"):
        gateway(upstreams=pair)
    named = gateway(upstreams=[pair[0], dataclasses.replace(pair[1], name="b")])
    assert [upstream.name for upstream in named.upstreams] == ["127.0.0.1:8000", "b"]


def test_a_certificate_and_its_key(tmp_path: Path):
    cert, key = tls_files(tmp_path)
    both = tmp_path / "both.pem"
    both.write_text(cert.read_text() + key.read_text())
    assert gateway(tls_cert=str(cert), tls_key=str(key)).tls_cert == str(cert)
    assert gateway(tls_cert=str(both)).tls_key is None
    (tmp_path / "other").mkdir()
    _, other = tls_files(tmp_path / "other")
    for wrong in ((cert, None), (key, key), (cert, other), (cert, cert)):
        with pytest.raises(ConfigError, match=r"^tls_cert must be a certificate in PEM"):
            gateway(tls_cert=str(wrong[0]), tls_key=None if wrong[1] is None else str(wrong[1]))
    with pytest.raises(ConfigError, match=r"^tls_key needs a tls_cert"):
        gateway(tls_key=str(key))
    with pytest.raises(ConfigError, match=r"^tls_ca_file must hold certificates in PEM"):
        UpstreamOptions(UP, tls_ca_file=str(key))


def test_a_key_with_a_password_is_refused_and_nobody_is_asked_for_it(tmp_path: Path):
    cert, key = tls_files(tmp_path)
    locked = tmp_path / "locked.pem"
    command = [
        "openssl",
        "pkcs8",
        "-topk8",
        "-in",
        str(key),
        "-passout",
        "pass:x",
        "-out",
        str(locked),
    ]
    subprocess.run(command, check=True, capture_output=True)
    with pytest.raises(ConfigError, match=r"^tls_cert must be .* not encrypted"):
        gateway(tls_cert=str(cert), tls_key=str(locked))


# -- secrets -----------------------------------------------------------------------------------------


def test_secrets_in_files(tmp_path: Path):
    token, secret = tmp_path / "token", tmp_path / "secret"
    token.write_bytes(b"tok\r\n")
    secret.write_text(f"{SECRET}\n")
    options = gateway(
        admin_token_file=str(token),
        shared_secret_file=str(secret),
        cache=Options(shared="redis://localhost"),
    )
    assert options.admin is not None
    assert options.admin.token == "tok"
    assert dataclasses.replace(options, workers=2).admin == options.admin
    token.write_text("other")
    assert options.admin.token == "tok"  # read once


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"\r\n\n", b"a b", b"\xff\xfe", b"a\nb", b"x" * 65537, b"a\0"]
)
def test_a_file_that_holds_no_token(tmp_path: Path, content: bytes):
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^admin_token_file must"):
        gateway(admin_token_file=str(file))


def test_one_of_two_places(tmp_path: Path):
    file = tmp_path / "token"
    file.write_text(SECRET)
    with pytest.raises(ConfigError, match=r"^admin_token excludes admin_token_file"):
        gateway(admin_token="x", admin_token_file=str(file))
    with pytest.raises(ConfigError, match=r"^shared_secret excludes shared_secret_file"):
        gateway(
            shared_secret=SECRET,
            shared_secret_file=str(file),
            cache=Options(shared="redis://localhost"),
        )


def test_a_secret_needs_something_to_sign():
    with pytest.raises(ConfigError, match=r"^shared_secret needs shared"):
        gateway(shared_secret=SECRET)
    with pytest.raises(ConfigError, match=r"^shared_secret must hold at least 16"):
        gateway(shared_secret="short", cache=Options(shared="redis://localhost"))


def test_no_secret_is_shown(tmp_path: Path):
    options = gateway(
        admin_token="tok3n-x", shared_secret=SECRET, cache=Options(shared="redis://:pa55@localhost")
    )
    for hidden in ("tok3n-x", SECRET, "pa55"):
        assert hidden not in repr(options)
    for option, value in (("admin_token", "tok3n x"), ("shared_secret", "tok3n x")):
        with pytest.raises(ConfigError) as raised:
            gateway(**{option: value, "cache": Options(shared="redis://localhost")})
        assert "tok3n" not in str(raised.value)


# -- the cache ---------------------------------------------------------------------------------------


def test_the_arguments_of_the_cache():
    options = gateway(admin_token="tok", cache=Options(memory="1MB", heuristic=0.1, trace_hits=0.5))
    arguments = options.cache_arguments()
    assert (arguments["memory"], arguments["heuristic"]) == (1024**2, 0.1)
    made = HttpCache(**arguments).options
    told = made.forwarding_fields
    assert made == dataclasses.replace(options.cache, admin=options.admin, forwarding_fields=told)
    # What the gateway tells its upstreams itself, a client cannot tell; the rest selects.
    assert told is not None
    assert {"x-scheme", "x-forwarded-prefix", "cf-visitor"} <= set(told)
    assert not {"forwarded", "x-forwarded-host", "x-forwarded-proto"} & set(told)


def test_forwarding_fields_that_are_named_are_taken():
    options = gateway(cache=Options(forwarding_fields=["X-Mine"]))
    assert HttpCache(**options.cache_arguments()).options.forwarding_fields == ("x-mine",)


def test_the_shared_layer_of_each_process_is_its_own():
    options = gateway(
        cache=Options(shared="redis://localhost:1"), shared_namespace="shop", shared_secret=SECRET
    )
    one, other = options.cache_arguments()["shared"], options.cache_arguments()["shared"]
    assert isinstance(one, RedisLayer)
    assert one is not other
    assert one.namespace == "shop"


def test_layers_of_ones_own():
    from layergate import MemoryLayer

    layers = (MemoryLayer("1MB"),)
    options = gateway(cache=Options(layers=layers))
    assert HttpCache(**options.cache_arguments()).stack.layers == layers
