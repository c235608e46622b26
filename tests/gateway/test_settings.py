"""File, environment and flags name the same options; whatever is wrong is said with its place."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from layergate import Rule
from layergate.config import Options
from layergate.errors import SettingsError
from layergate.gateway.catalogue import PREFIX, RIVALS, SETTINGS, Kind
from layergate.gateway.options import GatewayOptions
from layergate.gateway.settings import load
from layergate.gateway.upstream_options import UpstreamOptions
from tests.support.tls import tls_files

UP = "http://127.0.0.1:8000"
SECRET = "s3cret-of-some-length"
Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write ``layergate.toml`` into the current folder, which is a new one."""
    monkeypatch.chdir(tmp_path)

    def write(text: str) -> Path:
        path = Path("layergate.toml")
        path.write_text(text, encoding="utf-8", newline="")
        return path

    return write


def pem() -> Path:
    """A certificate and its key, in the current folder."""
    cert, key = tls_files(Path())
    path = Path("pem")
    path.write_text(cert.read_text() + key.read_text())
    return path


def problems(*sources: Any) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        load(*sources)
    return str(raised.value).splitlines()


def entry(settings: Any, name: str) -> tuple[Any, str]:
    (found,) = (each for each in settings.entries if each.name == name)
    return found.value, found.origin


# -- one catalogue -----------------------------------------------------------------------------------


def test_every_option_can_be_set_and_nothing_else():
    in_code = {"admin", "cache", "hooks", "layers"}  # objects, or made from other options
    own = {option.name for option in dataclasses.fields(GatewayOptions) if option.init}
    cache = {option.name for option in dataclasses.fields(Options)}
    assert own & cache == set(), "a name would mean two things"
    upstream = {option.name for option in dataclasses.fields(UpstreamOptions) if option.init}
    of_one = {"url", "name", "hosts", "path"}
    inherited = {PREFIX + name for name in upstream - of_one}
    assert set(SETTINGS) == (own | cache | inherited | {"upstream"}) - in_code
    assert set(RIVALS) <= set(SETTINGS)


def test_defaults_are_those_of_the_options():
    options = load(None, {}, {"upstream": UP}).options
    assert options == GatewayOptions(upstreams=[UpstreamOptions(UP)])
    for name, setting in SETTINGS.items():
        if setting.default is None and name != "upstream":
            assert setting.optional or name == "upstreams", name


# Per kind: as text, in TOML, and what becomes of it.
_WRITTEN: dict[Kind, tuple[str, str, Any]] = {
    Kind.COUNT: ("7", "7", 7),
    Kind.SECONDS: ("1.5", "1.5", 1.5),
    Kind.NUMBER: ("0.5", "0.5", 0.5),
    Kind.SHARE: ("0.25", "0.25", 0.25),
    Kind.SIZE: ("5MB", '"5MB"', 5 * 1024**2),
}
_SPECIAL: dict[str, tuple[str, str, Any]] = {
    "listen": (":81,:82", '[":81", ":82"]', (":81", ":82")),
    "admin_networks": ("10.0.0.0/8", '["10.0.0.0/8"]', ("10.0.0.0/8",)),
    "trusted_proxies": ("unix, ::1", '["unix", "::1"]', ("unix", "::1")),
    "forwarding_fields": ("x-my-proto", '["x-my-proto"]', ("x-my-proto",)),
    "targets": ("a-control", '["a-control"]', ("a-control",)),
    "upstreams": (f'[{{url = "{UP}"}}]', f'[{{url = "{UP}"}}]', (UpstreamOptions(UP),)),
    "rules": ('[{path="/a",ttl=1}]', '[{path="/a",ttl=1}]', (Rule("/a", ttl=1),)),
    "upstream": (UP, f'"{UP}"', (UpstreamOptions(UP),)),
    "upstream_host": ("upstream", '"upstream"', "upstream"),
    "upstream_tls_server_name": ("a.b", '"a.b"', "a.b"),
    "shared": ("redis://localhost:1", '"redis://localhost:1"', "redis://localhost:1"),
    "collapse_fallback": ("504", '"504"', "504"),
    "admin_path": ("/x", '"/x"', "/x"),
    "forwarded": ("both", '"both"', "both"),
    "via": ("me", '"me"', "me"),
    "name": ("me", '"me"', "me"),
    "shared_namespace": ("shop", '"shop"', "shop"),
    "admin_token": ("tok", '"tok"', "tok"),
    "shared_secret": (SECRET, f'"{SECRET}"', SECRET),
}
# Without which it cannot be.
_BESIDE: dict[str, dict[str, str]] = {
    "tls_key": {"tls_cert": "pem"},
    "shared_secret": {"shared": "redis://localhost"},
    "shared_secret_file": {"shared": "redis://localhost"},
    "shared_compress_above": {"shared": "redis://localhost"},
}


def _in_force(options: GatewayOptions, name: str) -> Any:
    if name == "upstream":
        return options.upstreams
    if name.startswith(PREFIX):
        return getattr(next(iter(options.upstreams)), name.removeprefix(PREFIX))
    owner: Any = options if hasattr(options, name) else options.cache
    return getattr(owner, name)


@pytest.mark.parametrize("name", SETTINGS)
def test_each_in_the_file_in_the_environment_and_as_a_flag(write: Write, name: str):
    setting = SETTINGS[name]
    value: Any
    Path("held").write_text(SECRET)
    if setting.kind is Kind.FILE:
        value = text = "held"
        if "tls" in name:
            value = text = pem().name
        toml = f'"{text}"'
    elif setting.kind is Kind.SWITCH:
        value = not setting.default
        text = toml = str(value).lower()
    else:
        text, toml, value = _SPECIAL.get(name) or _WRITTEN[setting.kind]
    beside = _BESIDE.get(name, {}) | ({} if name in ("upstream", "upstreams") else {"upstream": UP})
    path = write(f"{name} = {toml}\n")
    for options in (
        load(path, {}, beside).options,
        load(None, {setting.variable: text}, beside).options,
        load(None, {}, {**beside, name: text}).options if setting.flag else None,
    ):
        if options is not None:
            assert _in_force(options, name) == value


@pytest.mark.parametrize("name", [name for name, setting in SETTINGS.items() if setting.optional])
def test_none_is_an_empty_text(write: Write, name: str):
    given = {} if name == "upstream" else {"upstream": UP}
    if SETTINGS[name].flag and name != "upstream":
        assert _in_force(load(None, {}, {**given, name: ""}).options, name) in (None, 64 * 1024**2)
    # In the environment it says nothing.
    plain = load(None, {SETTINGS[name].variable: ""}, {"upstream": UP}).options
    assert plain == GatewayOptions(upstreams=[UpstreamOptions(UP)])


def test_the_nearest_wins(write: Write):
    path = write(f'upstream = "{UP}"\nworkers = 2\nmax_fields = 20\nmax_connections = 200\n')
    variables = {"LAYERGATE_WORKERS": "3", "LAYERGATE_MAX_FIELDS": "30"}
    found = load(path, variables, {"workers": "4"})
    assert entry(found, "workers") == (4, "--workers")
    assert entry(found, "max_fields") == (30, "$LAYERGATE_MAX_FIELDS")
    assert entry(found, "max_connections") == (200, "layergate.toml")
    assert entry(found, "max_head") == ("32KB", "default")
    options = found.options
    assert (options.workers, options.max_fields, options.max_connections) == (4, 30, 200)


def test_what_is_said_in_another_way_is_displaced_too(write: Write):
    Path("token").write_text("of-the-file")
    path = write('admin_token_file = "token"\n[[upstreams]]\nurl = "http://a"\n')
    found = load(path, {"LAYERGATE_ADMIN_TOKEN": "nearer"}, {"upstream": "http://b"}).options
    assert found.admin is not None
    assert found.admin.token == "nearer"
    assert [upstream.url for upstream in found.upstreams] == ["http://b"]
    # At the same distance it is a contradiction.
    variables = {"LAYERGATE_ADMIN_TOKEN": "x", "LAYERGATE_ADMIN_TOKEN_FILE": "token"}
    assert problems(path, variables, {}) == [
        "$LAYERGATE_ADMIN_TOKEN: admin_token excludes admin_token_file; drop one of them"
    ]
    path = write('upstream = "http://a"\nupstreams = ["http://b"]')
    assert problems(path, {}, {}) == [
        "layergate.toml: upstream excludes upstreams; drop one of them"
    ]


def test_the_file_may_be_named_in_the_environment(write: Write):
    path = write(f'upstream = "{UP}"')
    variables = {"LAYERGATE_CONFIG": str(path)}
    assert load(None, variables, {}).options.upstreams == (UpstreamOptions(UP),)
    named = load(None, {"LAYERGATE_CONFIG": ""}, {"upstream": UP}).options
    assert named.upstreams == (UpstreamOptions(UP),)
    assert problems(None, {"LAYERGATE_CONFIG": "nosuch.toml"}, {}) == [
        "nosuch.toml: cannot be read: No such file or directory"
    ]


def test_upstreams_and_what_they_inherit(write: Write):
    path = write("""\
upstream_read_timeout = 5
upstream_retries = 3
[[upstreams]]
url = "http://a"
path = "/api"
read_timeout = 7
[[upstreams]]
url = "unix:/run/b"
""")
    found = load(path, {}, {"upstream_retries": "2"})
    first, second = found.options.upstreams
    assert (first.read_timeout, first.retries, first.path) == (7.0, 2, "/api")
    assert (second.read_timeout, second.retries, second.path) == (5.0, 2, "/")
    origins = [{each.name: each.origin for each in table} for table in found.upstreams]
    assert (origins[0]["url"], origins[0]["read_timeout"]) == (
        "layergate.toml",
        "layergate.toml",
    )
    assert (origins[1]["read_timeout"], origins[1]["retries"]) == (
        "layergate.toml",
        "--upstream-retries",
    )
    assert origins[1]["max_connections"] == "default"


def test_upstreams_may_be_just_urls(write: Write):
    found = load(write(f'upstreams = ["{UP}"]'), {}, {}).options
    assert found.upstreams == (UpstreamOptions(UP),)


def test_one_upstream_that_verifies_nothing_needs_no_authorities(write: Write):
    pem()
    path = write("""\
upstream_tls_ca_file = "pem"
[[upstreams]]
url = "https://a"
hosts = ["a"]
tls_verify = false
[[upstreams]]
url = "https://b"
""")
    first, second = load(path, {}, {}).options.upstreams
    assert (first.tls_ca_file, second.tls_ca_file) == (None, "pem")


def test_files_are_found_beside_the_configuration(tmp_path: Path, write: Write):
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "token").write_text("held")
    shutil.copy(pem(), folder / "ca.pem")
    config = folder / "layergate.toml"
    config.write_text(
        f'admin_token_file = "token"\n[[upstreams]]\nurl = "{UP}"\ntls_ca_file = "ca.pem"\n'
    )
    options = load("etc/layergate.toml", {}, {}).options
    assert options.admin_token_file == str(Path("etc/token"))
    assert next(iter(options.upstreams)).tls_ca_file == str(Path("etc/ca.pem"))
    assert problems("etc/layergate.toml", {}, {"admin_token_file": "token"}) == [
        "--admin-token-file: admin_token_file cannot be read, got 'token': No such file or directory"
    ]


# -- what is wrong, and where ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # The option's own complaint, with its place.
        ("\nmax_head = 12", ["layergate.toml: max_head must be at least 1024 bytes, got 12"]),
        ("memory = '1'", [("layergate.toml: memory must be at least 4096 bytes, got '1'; give a size"
                          " such as '64MB'")]),
        ("[[rules]]\npath='/a'\nttl=1\n[[rules]]\n[[rules]]\npath='/b'\n ttl =\t-5",
         ["layergate.toml: rules[1] needs a path",
          "layergate.toml: rules[2].ttl must be >= 0 seconds, got -5 in rule '/b'"]),
        ("rules = [\n{path='/a', ttl=1},\n{ttl = 1,\npath = 'b'}\n]".replace(",\npath", ", path"),
         [("layergate.toml: rules[1].path must be a string that starts with '/' or '*', got 'b' in a"
          " rule, e.g. Rule('/products/{id}', ttl=60)")]),
        ("[[rules]]\npath = '/{a}{b}'",
         [("layergate.toml: rules[0].path has two adjacent placeholders in rule '/{a}{b}'; put text"
          " between them, or use one")]),
        ("[[rules]]\npath = '/a'\noverride = true",
         [("layergate.toml: rules[0].override needs a ttl in rule '/a'; write Rule(..., ttl=60,"
          " override=True)")]),
        ("[[rules]]\npath = '/a'\ntags = {a = 1}",
         [("layergate.toml: rules[0].tags must be a list of strings, got {'a': 1} in rule '/a'; write"
          " [{'a': 1}] for a single one")]),
        # Names that are none.
        ("workres = 2", ["layergate.toml: there is no option 'workres'; did you mean 'workers'?"]),
        ("[zzz]\na = 1", ["layergate.toml: there is no option 'zzz'"]),
        ("[[rules]]\npath = '/a'\ntll = 1", [("layergate.toml: rules[0] has no 'tll'; did you mean"
                                             " 'ttl'?")]),
        ("'max head' = 1", ["layergate.toml: there is no option 'max head'; did you mean 'max_head'?"]),
        # Values of the wrong kind.
        ("via = 1", ["layergate.toml: via must be a string, got 1"]),
        ("shared = 2020-01-01", [("layergate.toml: shared must be a string, got"
                                 " datetime.date(2020, 1, 1)")]),
        ("access_log = 1", ["layergate.toml: access_log must be true or false, got 1"]),
        ("rules = 1", ["layergate.toml: rules must be an array of tables; write [[rules]]"]),
        ("rules = [1]", ["layergate.toml: rules[0] must be a table, got 1"]),
        ("listen = ':8080'", [("layergate.toml: listen must be a list of strings, got ':8080'; write"
                              " [':8080'] for a single one")]),
        ("workers = 0x" + "f" * 5000, ["layergate.toml: workers must be an integer of at most 64 bits"]),
        ("rules = [\n{path='/a',\nttl=99999999999999999999}]".replace(",\nttl", ", ttl"),
         ["layergate.toml: rules[0].ttl must be an integer of at most 64 bits"]),
        # Several at once, in the order of the file.
        ("max_fields = 0\nkeep = -1\nwrong = 1\nupstream_retries = 99",
         ["layergate.toml: max_fields must be an integer >= 1, got 0",
          "layergate.toml: keep must be >= 0 seconds, got -1",
          "layergate.toml: there is no option 'wrong'",
          "layergate.toml: upstream_retries must be an integer from 0 to 10, got 99"]),
        # No TOML.
        ("a = 1\nb =", ["layergate.toml:2: is no TOML: invalid value"]),
        ("a = 1\nb = [1\n\n", ["layergate.toml:2: is no TOML: unclosed array"]),
        ("a = 1\na = 2", ["layergate.toml:2: is no TOML: cannot overwrite a value"]),
        ("x = 9" + "9" * 5000, ["layergate.toml: a value is no TOML can hold"]),
        ("x = " + "[" * 100_000, ["layergate.toml: values are nested too deeply"]),
    ],
)  # fmt: skip
def test_in_a_file(write: Write, text: str, expected: list[str]):
    assert problems(write(text), {}, {"upstream": UP}) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ("there is no upstream; write upstream = 'http://127.0.0.1:8000' in the file, or --upstream"
             " http://127.0.0.1:8000")),
        ("upstreams = []", ("layergate.toml: there is no upstream; write upstream ="
                           " 'http://127.0.0.1:8000' in the file, or --upstream http://127.0.0.1:8000")),
        ("upstream = 'a'", ("layergate.toml: upstream: url must begin with http://, https:// or unix:/,"
                           " got something else in an upstream; write e.g. 'http://127.0.0.1:8000'")),
        ("[upstream]\nurl = 'http://a'", ("layergate.toml: upstream must be a URL such as"
                                         " 'http://127.0.0.1:8000'; for more write [[upstreams]]")),
        ("[upstreams]\nurl = 'http://a'", ("layergate.toml: upstreams must be an array of tables; write"
                                          " [[upstreams]]")),
        ("[[upstreams]]\nhosts = ['a']", "layergate.toml: upstreams[0] needs a url"),
        ("[[upstreams]]\nurl = 'http://a'\nhost = 1",
         ("layergate.toml: upstreams[0].host must be a string, got 1 in upstream 'a:80'; write"
         " 'preserve', 'upstream', or what Host is to say, such as 'shop.example.com' or"
         " 'shop.example.com:8000'")),
        ("[[upstreams]]\nurl = 'http://a'\n[[upstreams]]\nurl = 'http://b'",
         ("layergate.toml: upstreams has 'b:80', which is never asked: 'a:80' comes first and covers"
         " the same hosts and paths; put the narrower one first")),
    ],
)  # fmt: skip
def test_in_upstreams(write: Write, text: str, expected: str):
    assert problems(write(text), {}, {}) == [expected]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("workers", "two", "workers must be an integer, got 'two'"),
        ("workers", "1.0", "workers must be an integer, got '1.0'"),
        ("workers", "٣", "workers must be an integer, got '٣'"),
        ("workers", "0", "workers must be an integer from 1 to 256, got 0"),
        ("keep", "1h", "keep must be a number of seconds, got '1h'"),
        ("keep", "nan", "keep must be a number of seconds, got 'nan'"),
        ("heuristic", "x", "heuristic must be a number, got 'x'"),
        ("max_head", "x", "max_head must be a size such as '256MB' or a number of bytes, got 'x'"),
        ("access_log", "maybe", "access_log must be true or false, got 'maybe'"),
        ("listen", ",", "listen must name an address, e.g. ['127.0.0.1:8080']"),
        ("rules", "1", 'rules must be a TOML array of tables such as [{path = "/a", ttl = 60}]'),
        ("rules", "[]\nworkers = 5",
         'rules must be a TOML array of tables such as [{path = "/a", ttl = 60}]'),
        ("rules", "[{path = '/a', ttl = -1}]", "rules[0].ttl must be >= 0 seconds, got -1 in rule '/a'"),
        ("rules", "[{path = '/a', ttl = 0x" + "f" * 5000 + "}]",
         "rules[0].ttl must be an integer of at most 64 bits"),
        ("shared", "redis://a:b:c", None),
    ],
)  # fmt: skip
def test_in_texts(name: str, text: str, expected: str | None):
    setting = SETTINGS[name]
    for where, sources in (
        (f"${setting.variable}", ({setting.variable: text}, {"upstream": UP})),
        (str(setting.flag), ({}, {"upstream": UP, name: text})),
    ):
        (found,) = problems(None, *sources)
        assert found.startswith(f"{where}: ")
        if expected is not None:
            assert found == f"{where}: {expected}"


def test_all_that_is_wrong_is_told_at_once(write: Write):
    file = write(
        "workers = 0\n"
        "tls_cert = 'nope.pem'\n"
        "tls_key = 'nope.key'\n"
        "forwarded = 'xff'\n"
        "shared = 'http://localhost'\n"
        "shared_secret = 'short'\n"
        "max_tags = 0\n"
        "max_variants = 0\n"
        "upstream_retries = 99\n"
        "upstream_max_connections = 0\n"
        "[[upstreams]]\n"
        "url = 'nowhere'\n"
        "hosts = ['a:80']\n"
        "[[upstreams]]\n"
        "url = 'http://a'\n"
        "paht = '/api'\n"
        "[[upstreams]]\n"
        "url = 'http://b'\n"
        "[[rules]]\n"
        "path = 'a/{id}'\n"
        "ttl = -1\n"
        "tags = ['{id}']\n"
        "[[rules]]\n"
        "path = '/b'\n"
        "override = 1\n"
        "memory = '64MB'\n"
    )
    told = problems(file, {}, {"listen": "99999", "max_head": "1"})
    assert [line.split(" ")[:2] for line in told] == [
        ["--listen:", "listen"],
        ["--max-head:", "max_head"],
        ["layergate.toml:", "workers"],
        ["layergate.toml:", "tls_cert"],
        ["layergate.toml:", "forwarded"],
        ["layergate.toml:", "shared:"],
        ["layergate.toml:", "shared_secret"],
        ["layergate.toml:", "max_tags"],
        ["layergate.toml:", "max_variants"],
        ["layergate.toml:", "upstream_retries"],
        ["layergate.toml:", "upstream_max_connections"],
        ["layergate.toml:", "upstreams[0].url"],
        ["layergate.toml:", "upstreams[0].hosts"],
        ["layergate.toml:", "upstreams[1]"],
        ["layergate.toml:", "rules[0].path"],
        ["layergate.toml:", "rules[0].ttl"],
        ["layergate.toml:", "rules[1].override"],
        ["layergate.toml:", "rules[1]"],
    ]
    assert "in upstream 'localhost" not in "".join(told)  # (what stands in is not shown)
    assert told[-1].endswith(
        "rules[1] has no 'memory'; as an option of the gateway it stands above the first [[…]]"
    )


def test_in_files_that_are_no_text(write: Write):
    path = write("")
    path.write_bytes(b"a = 1\nb = '\xff'")
    assert problems(path, {}, {}) == ["layergate.toml:2: is not UTF-8, as TOML must be"]
    path.write_bytes(b"#" * (4 * 1024 * 1024 + 1))
    assert problems(path, {}, {}) == ["layergate.toml: must have at most 4194304 bytes"]
    assert problems(".", {}, {}) == [".: cannot be read: Is a directory"]
    assert problems("a\0b", {}, {}) == ["'a\\x00b': cannot be read: embedded null byte"]


def test_variables_that_are_not_known_are_told_of_and_do_no_harm():
    found = load(
        None,
        {
            "LAYERGATE_WORKRES": "2",
            "LAYERGATE_XYZZY": "2",
            "LAYERGATE_DEBUG": "1",
            "LAYERGATE_ADMIN": "http://localhost/_layergate",
            # Kubernetes, next to a service of this name.
            "LAYERGATE_SERVICE_HOST": "10.0.0.1",
            "LAYERGATE_SERVICE_PORT": "80",
            "LAYERGATE_SERVICE_PORT_HTTP": "80",
            "LAYERGATE_PORT": "tcp://10.0.0.1:80",
            "LAYERGATE_PORT_80_TCP_ADDR": "10.0.0.1",
            "PATH": "/bin",
        },
        {"upstream": UP},
    )
    assert found.options == GatewayOptions(upstreams=[UpstreamOptions(UP)])
    assert found.warnings == (
        "$LAYERGATE_WORKRES is not known; did you mean LAYERGATE_WORKERS?",
        "$LAYERGATE_XYZZY is not known",
    )


# -- secrets -----------------------------------------------------------------------------------------


def test_no_secret_is_shown(write: Write):
    hidden = ("t0ken", SECRET, "pa55word")
    path = write(
        f'admin_token = "t0ken"\nshared_secret = "{SECRET}"\nshared = "redis://:pa55word@h"'
    )
    found = load(path, {}, {"upstream": UP})
    shown = repr(found)
    assert not any(secret in shown for secret in hidden)
    assert entry(found, "admin_token") == ("(hidden)", "layergate.toml")
    assert entry(found, "shared")[0] == "redis://h:6379"


@pytest.mark.parametrize(
    "text",
    [
        "admin_token = 't0ken with spaces'",
        "admin_token = ['t0ken']",
        "admin_token = {a = 't0ken'}",
        "shared_secret = 't0ken'",
        "shared = 'redis://u:t0ken@h:x'",
        "shared = 'h:t0ken@x'",
        "upstream = 'http://u:t0ken@h'",
        "upstream = 't0ken:x@h'",
        "upstreams = ['http://u:t0ken@h']",
        "admin_token = 't0ken\"",
        "admin_token = 't0ken'\nadmin_token = 't0ken'",
    ],
)
def test_no_secret_is_in_a_complaint(write: Write, text: str):
    given = {} if text.startswith("upstream") else {"upstream": UP}
    assert "t0ken" not in "\n".join(problems(write(text), {}, given))


# -- anything at all ---------------------------------------------------------------------------------

_SCALARS: Any = (
    st.sampled_from(["", "/", "/a", "*", "1MB", "http://a", "unix:/x", "redis://a", "a@b", "none"])
    | st.text(max_size=5)
    | st.integers()
    | st.sampled_from([0, 1, -1, 10**400, 2**63, -(2**63)])
    | st.floats()
    | st.booleans()
    | st.sampled_from(["1979-05-27T07:32:00Z", "1979-05-27", "07:32:00"]).map(lambda d: ("date", d))
)
_NAMES = st.sampled_from([
    *SETTINGS, "path", "url", "ttl", "tags", "vary", "statuses", "200", "404", "hosts", "host", "bypass", "x", "",
    "stale_if_error", "tls_ca_file", "é",
])  # fmt: skip
_VALUES: Any = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=8,
)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return str(value[1])
    if isinstance(value, str):
        return '"' + "".join(f"\\U{ord(char):08x}" for char in value if ord(char) >> 11 != 27) + '"'
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value)


@given(st.dictionaries(_NAMES, _VALUES, max_size=5))
@example({"rules": [{"path": "/a", "ttl": 10**400}]})
@example({"rules": [{"path": "/a", "statuses": [[1]]}]})
@example({"rules": [{"path": "/a", "ttl": {"200": 1, "": []}}]})
@example({"upstreams": [{"url": []}]})
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=80,
)
def test_whatever_the_values_are_there_is_an_answer(tmp_path: Path, document: dict[str, Any]):
    path = tmp_path / "layergate.toml"
    path.write_text("\n".join(f"{_toml(k)} = {_toml(v)}" for k, v in document.items()))
    try:
        load(path, {}, {})
    except SettingsError as error:
        assert error.problems
        assert all(what for _, what in error.problems)


@given(
    st.lists(
        st.sampled_from([
            "[", "]", "[[", "]]", "{", "}", "=", "\n", '"', "'", '"""', "'''", "\\", "#", ".", ",", " ",
            "rules", "upstreams", "path", "workers", "1", "true", "-", "1e5", "1979-05-27", "a", "é",
            "\0", "\r\n", "\x7f",
        ]) | st.text(max_size=3),
        max_size=30,
    ).map("".join)
)  # fmt: skip
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=80,
)
def test_whatever_the_text_is_there_is_an_answer(tmp_path: Path, text: str):
    path = tmp_path / "layergate.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load(path, {}, {"upstream": UP})
    except SettingsError as error:
        assert error.problems


@given(st.dictionaries(st.sampled_from(sorted(SETTINGS)), st.text(max_size=20), max_size=4))
def test_whatever_the_texts_are_there_is_an_answer(texts: dict[str, str]):
    variables = {SETTINGS[name].variable: text for name, text in texts.items()}
    for environment, flags in ((variables, {}), ({}, texts)):
        try:
            load(None, environment, flags)
        except SettingsError as error:
            assert error.problems
