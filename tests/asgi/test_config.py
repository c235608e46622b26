"""Every option that cannot work is refused, with a message that names option, value and remedy."""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import pytest

from layergate import Admin, ConfigError, HttpCache, LayerGate, MemoryLayer, Rule
from layergate.config import Options
from tests.support.asgi import Origin, World

NAN = float("nan")
SIZES = ["memory", "max_body", "max_inflight"]
COUNTS = ["max_tags", "max_variants", "max_key_length", "max_waiters", "background_refreshes"]
DURATIONS = [
    "keep",
    "collapse_timeout",
    "hit_for_miss_ttl",
    "slow_reader_timeout",
    "abandoned_timeout",
    "shutdown_timeout",
    "layer_timeout",
]
FLAGS = [
    "collapse",
    "request_directives",
    "cache_status",
    "strip_tags",
    "trace_keys",
    "no_vary_search",
    "language_order",
    "language_match",
    "nominate_codings",
]

# What each kind of option refuses; Any, so that one comprehension can go through mixed types.
NO_SIZE: list[Any] = ["", "x", "-1", 0, -1, 1.5, True, [], "1PB"]
NO_COUNT: list[Any] = [-1, 1.5, "10", None, True, NAN]
NO_DURATION: list[Any] = [-1, "10", None, True, NAN, []]
NO_RULES: list[Any] = ["/x", Rule("/x"), 7, ["/x"], [None]]
NO_LAYERS: list[Any] = [[], "memory", 7, {}, [7], [None]]
NO_HOOKS: list[Any] = ["x", print, 7, ["x"], [None]]
NO_URL: list[Any] = ["", "localhost:6379", 7, True, b"redis://x", [], {}]
NO_FALLBACK: list[Any] = ["", "503", 504, True, []]
NO_TELEMETRY: list[Any] = ["on", 1, 0, []]
NO_SHARE: list[Any] = [-0.1, 1.1, "0.1", None, NAN, []]
NO_TARGETS: list[Any] = [
    "x",
    b"x",
    7,
    None,
    [""],
    [7],
    ["a b"],
    ["expires"],
    {"x": 1},
    ["cache-control"],
]
NO_FRACTION: list[Any] = [0, -0.1, 1.1, True, "0.1", NAN]

BAD_OPTIONS: list[tuple[str, Any]] = [
    *((name, value) for name in SIZES for value in NO_SIZE),
    *((name, value) for name in COUNTS for value in NO_COUNT),
    *((name, 0) for name in ("max_tags", "max_variants", "max_key_length")),
    *((name, value) for name in DURATIONS for value in NO_DURATION),
    *((name, value) for name in FLAGS for value in (1, 0, "yes", None)),
    *(("origin_timeout", value) for value in (-1, "10", True, NAN)),
    *(("stale_if_unreachable", value) for value in (-1, "10", True, NAN)),
    *(("reload_pause", value) for value in (-1, "1", True, NAN)),
    *(("stale_if_untrusted", value) for value in (-1, "10", True, NAN)),
    *(("targets", value) for value in NO_TARGETS),
    *(("forwarding_fields", value) for value in ("x", b"x", 7, [""], [7], ["a b"], {"x": 1})),
    *(("heuristic", value) for value in NO_FRACTION),
    *(("layers", value) for value in NO_LAYERS),
    *(("shared", value) for value in NO_URL),
    *(("collapse_fallback", value) for value in NO_FALLBACK),
    *(("rules", value) for value in NO_RULES),
    *(("admin", value) for value in ("token", True, {"token": "x"}, 7)),
    *(("name", value) for value in ("", "\u00e9", "a\nb", 7, None, b"x")),
    *(("telemetry", value) for value in NO_TELEMETRY),
    *(("trace_hits", value) for value in NO_SHARE),
    *(("hooks", value) for value in NO_HOOKS),
]


@pytest.mark.parametrize(("option", "value"), BAD_OPTIONS, ids=str)
def test_an_option_that_cannot_work_is_refused_by_name(option, value):
    with pytest.raises(ConfigError) as caught:
        HttpCache(**{option: value})
    message = str(caught.value)
    assert option in message
    shown = value[0] if isinstance(value, list) and value else value
    assert repr(shown) in message or shown == [] or str(shown) in message
    assert "must" in message or ";" in message  # what to write instead
    assert isinstance(caught.value, ValueError)


def test_the_middleware_refuses_the_same():
    bad: dict[str, Any] = {"memory": "x", "max_tags": 0, "keep": -1}
    for option, value in bad.items():
        with pytest.raises(ConfigError, match=option):
            LayerGate(Origin(), None, **{option: value})


def test_every_option_has_a_row_above():
    names = {field.name for field in dataclasses.fields(Options)}
    assert names == {option for option, _ in BAD_OPTIONS}


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("memroy", "memory"),
        ("max_bdy", "max_body"),
        ("rule", "rules"),
        ("coalesce_time_out", "collapse_timeout"),
        ("stripe_tags", "strip_tags"),
    ],
)
def test_an_unknown_option_suggests_the_nearest(wrong, right):
    bad: dict[str, Any] = {wrong: 1}
    with pytest.raises(ConfigError, match=f"'{wrong}'.*'{right}'"):
        HttpCache(**bad)
    with pytest.raises(ConfigError, match=f"'{wrong}'.*'{right}'"):
        LayerGate(Origin(), **bad)


def test_an_option_like_no_other_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"known options: .*memory.*rules"):
        HttpCache(zzzzzz=1)


def test_memory_beside_layers_is_refused():
    with pytest.raises(ConfigError, match="memory"):
        HttpCache(memory="1MB", layers=[MemoryLayer("1MB")])


def test_layers_with_the_same_name_are_refused():
    with pytest.raises(ConfigError, match="names"):
        HttpCache(layers=[MemoryLayer("1MB"), MemoryLayer("1MB")])


def test_options_beside_a_cache_are_refused():
    with pytest.raises(ConfigError, match=r"cache excludes.*memory.*HttpCache"):
        LayerGate(Origin(), cache=HttpCache(), memory="1MB")


@pytest.mark.parametrize("cache", [7, "64MB", MemoryLayer("1MB"), HttpCache])
def test_a_cache_that_is_none_is_refused(cache):
    with pytest.raises(ConfigError, match="cache must be an HttpCache"):
        LayerGate(Origin(), cache=cache)


def test_a_memory_too_small_for_one_entry_is_refused_by_the_users_name():
    with pytest.raises(ConfigError, match=r"memory must be at least"):
        HttpCache(memory=100)


GOOD_OPTIONS: list[tuple[str, Any]] = [
    *((name, value) for name in SIZES for value in (65536, "64KB", "1 MiB", "1.5mb")),
    *((name, value) for name in COUNTS for value in (1, 10**9)),
    *((name, 0) for name in ("max_waiters", "background_refreshes")),
    *((name, value) for name in DURATIONS for value in (0.5, 10, datetime.timedelta(minutes=1))),
    ("keep", float("inf")),
    ("origin_timeout", None),
    ("origin_timeout", 0.5),
    ("stale_if_unreachable", None),
    ("stale_if_unreachable", 600),
    ("stale_if_untrusted", None),
    ("stale_if_untrusted", 600),
    ("heuristic", None),
    ("heuristic", 1),
    ("rules", ()),
    ("rules", (Rule("/x") for _ in range(1))),
    ("hooks", {print}),
    ("name", "my cache"),
]


@pytest.mark.parametrize(
    ("option", "value"), GOOD_OPTIONS, ids=lambda value: str(value).partition(" at 0x")[0]
)
def test_an_option_that_works_is_taken(option, value):
    HttpCache(**{option: value})


NO_RULE_DURATION: list[Any] = [-1, "60", True, NAN, []]
BAD_RULES: list[tuple[str, dict[str, Any]]] = [
    *(("path", {"path": value}) for value in ("", "x", None, 7, b"/x", "x/*")),
    *(("brace", {"path": value}) for value in ("/{", "/}", "/{a", "/{1}", "/{a b}", "/{{a}}")),
    ("twice", {"path": "/{a}/{a}"}),
    ("at most", {"path": "/" + "*" * 17}),
    *(
        (name, {name: value})
        for name in ("ttl", "stale_while_revalidate", "stale_if_error")
        for value in NO_RULE_DURATION
    ),
    *(("tags", {"tags": value}) for value in ("a", b"a", [""], [7], 7, ["x" * 257], ["{id}"])),
    *(("vary", {"vary": value}) for value in ("accept", ["*"], [""], ["a b"], [7], 7, ["\u00e9"])),
    *(("statuses", {"ttl": 1, "statuses": value}) for value in (200, [200], {200: 60}, ())),
    *(
        ("ttl", {"ttl": value})
        for value in (
            {},
            {"ok": 60},
            {"0200": 60},
            {True: 60},
            {100: 60},
            {206: 60},
            {304: 60},
            {600: 60},
            {429: 60},
            {200.0: 60},
            {None: 60},
            {200: 60, "200": 60},
            {200: None},
            {200: -1},
            {200: "60"},
            {200: {404: 60}},
            [200],
            [(200, 60)],
        )
    ),
    *(("hosts", {"hosts": value}) for value in ("a.example", [""], [7], 7)),
    *(
        (name, {"ttl": 1, name: value})
        for name in (
            "override",
            "bypass",
            "allow_authorization",
            "allow_cookie",
            "allow_set_cookie",
        )
        for value in (1, "yes", None)
    ),
    ("allow_authorization", {"ttl": 1, "allow_authorization": "all"}),
    ("override", {"override": True}),
    ("bypass", {"bypass": True, "ttl": 60}),
    ("bypass", {"bypass": True, "tags": ["a"]}),
]


@pytest.mark.parametrize(("names", "options"), BAD_RULES, ids=str)
def test_a_rule_that_cannot_work_is_refused_by_name(names, options):
    with pytest.raises(ConfigError) as caught:
        Rule(**{"path": "/x", **options})
    message = str(caught.value)
    assert names in message
    if "path" not in options:
        assert "'/x'" in message  # which rule


def test_a_rule_with_an_unknown_option_is_refused():
    with pytest.raises((ConfigError, TypeError), match="tll"):
        Rule("/x", tll=60)  # type: ignore[call-arg]


def test_rules_cannot_be_changed_behind_the_caches_back():
    rule = Rule("/x", ttl=60)
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.ttl = 5  # type: ignore[misc]
    tags = ["a"]
    rule = Rule("/x", tags=tags)
    tags.append("b")
    assert list(rule.tags) == ["a"]


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("/products/{id}", "/products/7", True),
        ("/products/{id}", "/products/7/", False),
        ("/products/{id}", "/products/", False),
        ("/products/{id}", "/products/a/b", False),
        ("/files/{rest:path}", "/files/a/b", True),
        ("/a*", "/abc/d", True),
        ("/a.c", "/abc", False),
        ("/a+", "/a+", True),
        ("/a[b]", "/a[b]", True),
        ("/x", "/X", False),
        ("/caf\u00e9", "/caf\u00e9", True),
        ("*", "/anything", True),
        ("/*/end", "/a\nb/end", True),
    ],
)
async def test_a_rules_path_matches_what_it_says(pattern, path, matches):
    # (A lifetime is not for a path with a line break, whatever covers it.)
    world = World(rules=[Rule(pattern, bypass=True)])
    world.origin.answers(path)
    answer = await world.get(path)
    assert ("detail=rule" in (answer.header("cache-status") or "")) is matches


BAD_ADMINS: list[tuple[str, dict[str, Any]]] = [
    *(("path", {"path": value}) for value in ("", "/", "x", "/x/", "//x", "/a b", "/{x}", None, 7)),
    *(("token", {"token": value}) for value in ("", None, 7, b"x", "a b", "\u00e9", "a\n")),
    *(
        ("networks", {"networks": value})
        for value in ("10.0.0.0/8", ["10.0.0.1/8"], ["x"], [""], [7], 7, ["10.0.0.0/99"])
    ),
    *(("purge_method", {"purge_method": value}) for value in (1, None, "yes")),
]


@pytest.mark.parametrize(("option", "options"), BAD_ADMINS, ids=str)
def test_an_admin_that_cannot_work_is_refused_by_name(option, options):
    with pytest.raises(ConfigError) as caught:
        Admin(**{"token": "s3cret", **options})
    assert option in str(caught.value)
    assert "Admin" in str(caught.value)


def test_an_admin_without_a_token_is_refused():
    with pytest.raises(ConfigError, match="token"):
        Admin()


def test_a_refused_token_is_not_told_to_the_log():
    with pytest.raises(ConfigError) as caught:
        Admin(token="geheim\u00e9")
    assert "geheim" not in str(caught.value)


def test_nothing_starts_when_a_cache_is_made_outside_of_a_loop():
    import threading

    before = threading.active_count()
    cache = HttpCache(memory="1MB")
    LayerGate(Origin(), cache=cache)
    assert threading.active_count() == before
    assert cache.stats()["flights"] == 0


def test_a_duration_may_be_larger_than_any_float():
    assert Options(keep=10**400).keep == 2.0**31
    assert Rule("/x", ttl=10**400).ttl == 2.0**31


@pytest.mark.parametrize("option", ["tags", "vary", "hosts"])
def test_a_dict_is_no_list(option: str):
    given: dict[str, Any] = {option: {"a": 1}}
    with pytest.raises(ConfigError, match=rf"^{option} must be a list"):
        Rule("/x", **given)
