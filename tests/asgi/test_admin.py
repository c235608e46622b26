"""The purge and stats endpoint, and the PURGE method."""

from __future__ import annotations

import json
from typing import Any

import pytest

from layergate import Admin, Rule
from tests.support.asgi import Call, OriginCall, World, scope_of

TOKEN = {"authorization": "Bearer s3cret"}
PURGE_PATH, STATS_PATH = "/_layergate/purge", "/_layergate/stats"


def a_world(**admin: Any) -> World:
    world = World(admin=Admin(**{"token": "s3cret", **admin}))

    async def handler(call: OriginCall) -> None:
        headers = {
            "cache-control": "max-age=60, stale-while-revalidate=60",
            "cache-tag": f"all, {call.path[1:]}",
        }
        await call.reply(b"%d" % call.number, headers=headers)

    for path in ("/a", "/b", "/c/d"):
        world.origin.handlers[path] = handler
    return world


def answer(call: Call) -> Any:
    document = json.loads(call.body)
    assert set(document) == {"success", "errors", "messages", "result"}
    assert call.header("content-type") == "application/json"
    assert call.header("cache-control") == "no-store"
    assert call.header("content-length") == str(len(call.body))
    assert document["success"] is (call.status == 200)
    assert all(error["message"] for error in document["errors"])
    return document


async def post(world: World, what: Any, *, path: str = PURGE_PATH, **request: Any) -> Call:
    body = what if isinstance(what, bytes) else json.dumps(what).encode()
    request.setdefault("headers", TOKEN)
    return await world.get(path, method="POST", body=[body], **request)


async def fill(world: World) -> None:
    for path in ("/a", "/b", "/c/d"):
        await world.get(path)


async def gone(world: World) -> set[str]:
    return {path for path in ("/a", "/b", "/c/d") if not (await world.get(path)).hit}


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ({"tags": ["a"]}, {"/a"}),
        ({"tags": ["a", "b"]}, {"/a", "/b"}),
        ({"tags": ["all"]}, {"/a", "/b", "/c/d"}),
        ({"tags": ["nothing"]}, set()),
        ({"files": ["http://example.com/a"]}, {"/a"}),
        ({"files": [{"url": "http://example.com/a", "headers": {"x": "y"}}]}, {"/a"}),
        ({"files": ["https://example.com/a"]}, {"/a"}),
        ({"files": ["https://example.com/a"], "schemes": "exact"}, set()),
        ({"files": ["http://example.com/a"], "schemes": "exact"}, {"/a"}),
        ({"prefixes": ["example.com/c"]}, {"/c/d"}),
        ({"prefixes": ["http://example.com/"]}, {"/a", "/b", "/c/d"}),
        ({"hosts": ["example.com"]}, {"/a", "/b", "/c/d"}),
        ({"hosts": ["example.org"]}, set()),
        ({"patterns": ["/c/*"]}, {"/c/d"}),
        ({"patterns": ["http://example.com/?"]}, set()),
        ({"patterns": ["*/b"]}, {"/b"}),
        ({"purge_everything": True}, {"/a", "/b", "/c/d"}),
        ({"tags": ["a"], "files": ["http://example.com/b"]}, {"/a", "/b"}),
        ({"tags": ["a"], "purge_everything": False, "soft": False}, {"/a"}),
    ],
    ids=lambda value: str(sorted(value) if isinstance(value, set) else value),
)
async def test_each_field_purges_what_it_names(what, expected):
    world = a_world()
    await fill(world)
    call = await post(world, what)
    assert call.status == 200
    result = answer(call)["result"]
    assert (result["applied"], result["instances"], result["scope"]) == (1, 1, "process")
    assert await gone(world) == expected


async def test_a_soft_purge_makes_stale():
    world = a_world()
    await fill(world)
    assert (await post(world, {"tags": ["a"], "soft": True})).status == 200
    stale = await world.get("/a")
    assert stale.body == b"1" and "stale-while-revalidate" in stale.cache_status
    await world.idle()
    assert (await world.get("/a")).body == b"2"


@pytest.mark.parametrize(
    ("body", "mentions"),
    [
        (b"", "JSON"),
        (b"{", "JSON"),
        (b"\xff", "JSON"),
        (b"[" * 100_000, "JSON"),
        (b"9" * 10_000, ""),
        (b"[]", "object"),
        (b"null", "object"),
        (b'"tags"', "object"),
        (b"{}", "tags"),
        (b'{"tags": []}', "tags"),
        (b'{"purge_everything": false}', "everything"),
        (b'{"tag": ["a"]}', "'tag'"),
        (b'{"tags": ["a"], "extra": 1}', "'extra'"),
        (b'{"everything": true}', "'everything'"),
        (b'{"tags": "a"}', "tags"),
        (b'{"tags": {"a": 1}}', "tags"),
        (b'{"tags": null}', "tags"),
        (b'{"tags": [1]}', "tags"),
        (b'{"tags": [""]}', "tags"),
        (b'{"tags": [["a"]]}', "tags"),
        (b'{"purge_everything": 1}', "purge_everything"),
        (b'{"purge_everything": "true"}', "purge_everything"),
        (b'{"tags": ["a"], "soft": "yes"}', "soft"),
        (b'{"files": ["/a"]}', "files"),
        (b'{"files": ["ftp://example.com/a"]}', "files"),
        (b'{"files": ["http://"]}', "files"),
        (b'{"files": [{"headers": {}}]}', "files"),
        (b'{"files": [{"url": "http://x/", "other": 1}]}', "files"),
        (b'{"files": ["http://x/\\ud800"]}', "surrogate"),
        (b'{"prefixes": ["/a"]}', "prefixes"),
        (b'{"prefixes": ["x/\\ud800"]}', "surrogate"),
        (b'{"hosts": ["example.com/a"]}', "hosts"),
        (b'{"patterns": ["/' + b"*a" * 17 + b'"]}', "patterns"),
        (b'{"patterns": ["' + b"a" * 5000 + b'"]}', "patterns"),
        (b'{"patterns": ["/\\ud800*"]}', "surrogate"),
        (b'{"tags": ["' + b"a" * 300 + b'"]}', "tags"),
    ],
    ids=lambda value: value[:40].decode("latin-1") if isinstance(value, bytes) else "",
)
async def test_a_bad_body_is_a_400_that_says_why_and_purges_nothing(body, mentions):
    world = a_world()
    await fill(world)
    call = await post(world, body)
    assert call.status == 400
    (error,) = answer(call)["errors"]
    assert mentions in error["message"]
    assert await gone(world) == set()


async def test_one_bad_name_among_good_ones_purges_nothing():
    world = a_world()
    await fill(world)
    call = await post(world, {"tags": ["a"], "files": ["nonsense"]})
    assert call.status == 400
    assert await gone(world) == set()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": ""}, 403),
        ({"authorization": "Bearer"}, 403),
        ({"authorization": "Bearer "}, 403),
        ({"authorization": "Bearer wrong"}, 403),
        ({"authorization": "Bearer s3cre"}, 403),
        ({"authorization": "Bearer s3cret2"}, 403),
        ({"authorization": "Bearer S3CRET"}, 403),
        ({"authorization": "Basic s3cret"}, 403),
        ({"authorization": "s3cret"}, 403),
        ({"authorization": "Bearer \u00ff\u00fe"}, 403),
        ([("authorization", "Bearer s3cret"), ("authorization", "Bearer wrong")], 403),
        ({"authorization": "bearer s3cret"}, 200),
        ({"authorization": "Bearer  s3cret "}, 200),
        ({"cookie": "token=s3cret"}, 401),
    ],
    ids=str,
)
async def test_the_token_is_needed_and_must_be_right(headers, status):
    world = a_world()
    await fill(world)
    call = await post(world, {"purge_everything": True}, headers=headers)
    assert call.status == status
    answer(call)
    assert (call.header("www-authenticate") == "Bearer") is (status == 401)
    assert bool(await gone(world)) is (status == 200)
    stats = await world.get(STATS_PATH, headers=headers)
    assert stats.status == status


def test_the_token_is_not_in_the_repr():
    assert "s3cret" not in repr(Admin(token="s3cret"))


@pytest.mark.parametrize(
    ("networks", "client", "status"),
    [
        (["10.0.0.0/8"], ("10.1.2.3", 1), 200),
        (["10.0.0.0/8"], ("192.0.2.1", 1), 403),
        (["10.0.0.0/8"], None, 403),
        (["10.0.0.0/8"], ("unix", 0), 403),
        (["10.0.0.0/8"], ("::ffff:10.1.2.3", 1), 200),
        (["fe80::/10"], ("fe80::1%eth0", 1), 200),
        (["::1", "192.0.2.0/24"], ("192.0.2.1", 1), 200),
        (["0.0.0.0/0"], ("::1", 1), 403),
        ([], ("10.1.2.3", 1), 403),
        (None, None, 200),
    ],
    ids=str,
)
async def test_only_clients_of_the_networks_are_heard(networks, client, status):
    world = a_world(networks=networks)
    call = await world.get(STATS_PATH, headers=TOKEN, client=client)
    assert call.status == status


async def test_another_network_is_refused_before_the_token_is_looked_at():
    world = a_world(networks=["10.0.0.0/8"])
    assert (await world.get(STATS_PATH)).status == 403


async def test_stats_are_counters_and_sizes_in_json():
    world = a_world()
    await fill(world)
    await world.get("/a")
    call = await world.get(STATS_PATH, headers=TOKEN)
    stats = json.loads(call.body)
    assert call.status == 200 and call.header("cache-control") == "no-store"
    assert stats["events"]["hit"] == 1
    assert stats["events"]["store"] == 3
    assert stats["layers"]["memory"]["entries"] == 3
    assert stats["layers"]["memory"]["bytes"] > 0
    for name in ("flights", "waiters", "refreshing", "inflight_bytes"):
        assert stats[name] == 0
    head = await world.get(STATS_PATH, method="HEAD", headers=TOKEN)
    assert head.status == 200 and head.body == b""


@pytest.mark.parametrize("path", [PURGE_PATH, STATS_PATH, "/_layergate", "/_layergate/x"])
async def test_nothing_below_the_path_is_ever_cached_or_reaches_the_app(path):
    world = World(admin=Admin(token="s3cret"), rules=[Rule("*", ttl=60)])
    for _ in range(2):
        call = await world.get(path, headers=TOKEN)
        assert not call.hit
    await world.get(path)
    assert world.origin.total == 0


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", PURGE_PATH, 405, "POST"),
        ("PUT", PURGE_PATH, 405, "POST"),
        ("POST", STATS_PATH, 405, "GET, HEAD"),
        ("GET", "/_layergate", 404, None),
        ("GET", "/_layergate/", 404, None),
        ("POST", "/_layergate/purge/x", 404, None),
    ],
)
async def test_wrong_methods_and_paths_are_told_what_is_right(method, path, status, allow):
    world = a_world()
    call = await world.get(path, method=method, headers=TOKEN)
    assert call.status == status and call.header("allow") == allow
    answer(call)


@pytest.mark.parametrize(
    "path", ["/_layergatex", "/_layergate2/purge", "/x/_layergate/purge", "/_LayerGate/purge"]
)
async def test_other_paths_are_the_apps(path):
    world = a_world()
    assert (await world.get(path)).body == path.encode() + b" 1"


async def test_without_an_admin_there_is_no_endpoint():
    world = World()
    assert (await world.get(PURGE_PATH, method="POST")).body == b"/_layergate/purge 1"


async def test_the_endpoint_lives_where_it_is_put():
    world = a_world(path="/internal/cache")
    assert (await post(world, {"tags": ["a"]}, path="/internal/cache/purge")).status == 200
    assert (await world.get(STATS_PATH)).body == b"/_layergate/stats 1"


async def test_the_endpoint_is_below_the_root_path():
    """uvicorn --root-path, or a mount: where the app's own routes are."""
    world = a_world()
    call = await post(world, {"tags": ["a"]}, path="/api/_layergate/purge", root_path="/api")
    assert call.status == 200


async def test_a_huge_body_is_refused_and_not_kept():
    world = a_world()
    parts = [b" " * 65536] * 40
    call = await world.get(PURGE_PATH, method="POST", headers=TOKEN, body=parts)
    assert call.status == 413
    wrong = await world.get(PURGE_PATH, method="POST", body=parts)
    assert wrong.status == 401


async def test_a_body_in_parts_is_put_together():
    world = a_world()
    await fill(world)
    parts = [b'{"ta', b'gs": [', b'"a"]}']
    call = await world.get(PURGE_PATH, method="POST", headers=TOKEN, body=parts)
    assert call.status == 200
    assert await gone(world) == {"/a"}


async def test_a_client_that_leaves_in_the_middle_of_its_body_purges_nothing():
    world = a_world()
    await fill(world)
    messages: list[dict] = [
        {"type": "http.request", "body": b'{"tags": ["a"]}', "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> dict:
        return messages.pop(0)

    async def send(message: object) -> None:
        return None

    await world.app(scope_of(PURGE_PATH, method="POST", headers=TOKEN), receive, send)
    assert await gone(world) == set()


# -- PURGE -----------------------------------------------------------------------------------------


async def test_purge_on_a_url_purges_it():
    world = a_world()
    await fill(world)
    call = await world.get("/a", method="PURGE", headers=TOKEN)
    assert call.status == 200
    result = answer(call)["result"]
    assert (result["applied"], result["instances"], result["scope"]) == (1, 1, "process")
    assert await gone(world) == {"/a"}
    assert world.origin.calls["/a"] == 2


async def test_purge_takes_the_query_into_account():
    world = a_world()
    await world.get("/a", query=b"x=1")
    await world.get("/a", method="PURGE", headers=TOKEN)
    assert (await world.get("/a", query=b"x=1")).hit
    await world.get("/a", query=b"x=1", method="PURGE", headers=TOKEN)
    assert not (await world.get("/a", query=b"x=1")).hit


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([("surrogate-key", "a b")], {"/a", "/b"}),
        ([("cache-tag", "a, b")], {"/a", "/b"}),
        ([("surrogate-key", "a"), ("cache-tag", "b")], {"/a", "/b"}),
        ([("surrogate-key", "a"), ("surrogate-key", "c/d")], {"/a", "/c/d"}),
    ],
)
async def test_purge_with_tags_purges_the_tags_and_not_the_url(headers, expected):
    world = a_world()
    await fill(world)
    call = await world.get("/b", method="PURGE", headers=[*TOKEN.items(), *headers])
    assert call.status == 200
    assert await gone(world) == expected


@pytest.mark.parametrize(("value", "soft"), [("1", True), ("0", False), ("", False), (None, False)])
async def test_fastly_soft_purge(value, soft):
    world = a_world()
    await fill(world)
    headers = {**TOKEN, **({} if value is None else {"fastly-soft-purge": value})}
    await world.get("/a", method="PURGE", headers=headers)
    call = await world.get("/a")
    assert (call.body == b"1") is soft


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
async def test_purge_needs_the_token(headers):
    world = a_world()
    await fill(world)
    call = await world.get("/a", method="PURGE", headers=headers)
    assert call.status in (401, 403)
    assert await gone(world) == set()


async def test_purge_from_another_network_is_refused():
    world = a_world(networks=["10.0.0.0/8"])
    await fill(world)
    assert (await world.get("/a", method="PURGE", headers=TOKEN)).status == 403
    assert await gone(world) == set()


@pytest.mark.parametrize("admin", [None, Admin(token="s3cret", purge_method=False)])
async def test_where_purge_is_off_it_is_the_apps(admin):
    world = World(admin=admin)

    @world.origin.on("/a")
    async def handler(call: OriginCall) -> None:
        if call.scope["method"] == "PURGE":
            await call.reply(b"what?", 405)
        else:
            await call.reply(b"x", headers={"cache-control": "max-age=60"})

    await world.get("/a")
    call = await world.get("/a", method="PURGE", headers=TOKEN)
    assert call.status == 405 and call.body == b"what?"
    assert (await world.get("/a")).hit


async def test_purge_with_an_unusable_tag_is_a_400():
    world = a_world()
    headers = {**TOKEN, "surrogate-key": "t" * 300}
    call = await world.get("/a", method="PURGE", headers=headers)
    assert call.status == 400 and "tags" in answer(call)["errors"][0]["message"]


async def test_purge_of_an_unusable_host_is_a_400():
    world = a_world()
    call = await world.get("/a", method="PURGE", host="bad host", headers=TOKEN)
    assert call.status == 400
