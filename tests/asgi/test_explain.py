"""``POST {admin}/explain``, under ASGI."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from layergate import Admin, Rule
from tests.support.asgi import Call, World

TOKEN = {"authorization": "Bearer s3cret"}
PATH = "/_layergate/explain"


def a_world(**options: Any) -> World:
    return World(admin=Admin(token="s3cret"), **options)


async def post(world: World, what: Any, *, path: str = PATH, **request: Any) -> Call:
    body = what if isinstance(what, bytes) else json.dumps(what).encode()
    request.setdefault("headers", TOKEN)
    return await world.get(path, method="POST", body=[body], **request)


async def explained(world: World, what: Any, **request: Any) -> Any:
    call = await post(world, what, **request)
    document = json.loads(call.body)
    assert (call.status, document["success"], document["errors"]) == (200, True, [])
    assert call.header("content-type") == "application/json"
    assert call.header("cache-control") == "no-store"
    return document["result"]


async def test_which_process_was_asked() -> None:
    told = await explained(a_world(), {"url": "http://example.com/"})
    assert told["process"]["pid"] == os.getpid() and told["process"]["host"]


async def test_a_tag_that_no_purge_could_name_is_not_one_too_many() -> None:
    world = a_world(rules=[Rule("/p/{id}", ttl=60, tags=["product:{id}"])])
    response = {"status": 200, "headers": [["content-length", "1"]]}
    ask = {"url": "http://example.com/p/" + "x" * 300, "response": response}
    told = (await explained(world, ask))["conclusion"]
    assert told["refused"] == "tag-template"
    assert "names a parameter" in told["text"]
    ask["url"] = "http://example.com/p/7"
    assert (await explained(world, ask))["conclusion"]["stored"] is True


async def test_what_is_told_is_what_happens_and_nothing_happens_by_telling() -> None:
    world = a_world(rules=[Rule("/silent/{id}", ttl=60)])
    ask = {"url": "http://example.com/silent/1"}
    assert (await explained(world, ask))["conclusion"]["answer"] == "miss"
    assert world.origin.total == 0
    assert not (await world.get("/silent/1")).hit
    world.clock.advance(10)
    told = await explained(world, ask)
    assert (told["conclusion"]["answer"], told["conclusion"]["ttl"]) == ("hit", 50)
    assert "ttl=50" in (await world.get("/silent/1")).cache_status
    assert world.origin.total == 1


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        ("/a b", "/a%20b"),
        ("/~c", "/%7Ec"),
        ("/caf\N{LATIN SMALL LETTER E WITH ACUTE}", "/caf%C3%A9"),
        ("/x/y", "/x%2Fy"),
    ],
)
@pytest.mark.parametrize("server", [{}, {"root_path": "/mount"}], ids=["plain", "mounted"])
async def test_the_key_is_the_one_that_the_middleware_makes(
    path: str, raw: str, server: dict[str, str]
) -> None:
    world = a_world()
    root = server.get("root_path", "")
    url = f"http://example.com{root}{raw}?q=%20"
    answers = []
    for _ in range(2):
        told = await explained(world, {"url": url}, path=root + PATH, **server)
        answers.append(told["conclusion"]["answer"])
        await world.get(root + path, raw_path=(root + raw).encode(), query=b"q=%20", **server)
    assert answers == ["miss", "hit"]


async def test_the_asking_requests_own_fields_are_not_the_explained_ones() -> None:
    world = a_world()
    told = await explained(
        world,
        {"url": "http://example.com/", "method": "HEAD", "headers": {"X-A": "b"}},
        headers={**TOKEN, "cookie": "admin=1"},
        session={"user": 1},
    )
    assert told["method"] == "HEAD"
    key = told["steps"][0]
    assert key["data"]["headers"] == [["host", "example.com"], ["x-a", "b"]]
    assert "s3cret" not in json.dumps(told)
    assert not any(step["name"] == "credentials" for step in told["steps"])


async def test_a_response_is_explained_as_if_it_came_now() -> None:
    world = a_world()
    response = {"status": 200, "headers": [["Cache-Control", "max-age=60"]], "seconds": 2}
    ask = {"url": "http://example.com/", "response": response}
    told = await explained(world, ask)
    assert told["conclusion"]["stored"] is True
    assert told["conclusion"]["text"].endswith("Stored, fresh for 58 s.")
    assert (await explained(world, {"url": "http://example.com/"}))["conclusion"]["ttl"] is None
    told = await explained(world, {**ask, "known_user": True})
    assert told["conclusion"]["refused"] == "user"


@pytest.mark.parametrize(
    ("admin", "request_", "status"),
    [
        ({}, {"headers": {}}, 401),
        ({}, {"headers": {"authorization": "Bearer wrong"}}, 403),
        ({"networks": ["10.0.0.0/8"]}, {}, 403),
        ({}, {"method": "GET"}, 405),
    ],
)
async def test_it_is_behind_the_same_checks_as_a_purge(
    admin: dict[str, Any], request_: dict[str, Any], status: int
) -> None:
    world = World(admin=Admin(token="s3cret", **admin))
    call = await world.get(
        PATH,
        body=[b'{"url": "http://example.com/"}'],
        **{"method": "POST", "headers": TOKEN, **request_},
    )
    assert call.status == status
    assert json.loads(call.body)["result"] is None


@pytest.mark.parametrize(
    ("body", "mentions"),
    [
        (b"", "JSON"),
        (b"[" * 60_000, "JSON"),
        (b"[]", "object"),
        ({}, "url"),
        ({"url": 1}, "url"),
        ({"url": "/path"}, "url"),
        ({"url": f"http://example.com{PATH}"}, "own"),
        ({"url": "http://a", "uri": 1}, "'uri'"),
        ({"url": "http://a", "method": "A B"}, "method"),
        ({"url": "http://a", "headers": "a: b"}, "headers"),
        ({"url": "http://a", "headers": {"a": "b\nc: d"}}, "headers"),
        ({"url": "http://a", "known_user": 1}, "known_user"),
        ({"url": "http://a", "response": []}, "response"),
        ({"url": "http://a", "response": {}}, "status"),
        ({"url": "http://a", "response": {"status": True}}, "status"),
        ({"url": "http://a", "response": {"status": 200, "body": "x"}}, "response"),
        ({"url": "http://a", "response": {"status": 200, "seconds": -1}}, "seconds"),
        ({"url": "http://a", "response": {"status": 200, "headers": [1]}}, "response.headers"),
    ],
)
async def test_what_cannot_be_explained_is_refused(body: Any, mentions: str) -> None:
    call = await post(a_world(), body)
    assert call.status == 400
    assert mentions in json.loads(call.body)["errors"][0]["message"]


async def test_its_size_is_bounded() -> None:
    call = await post(a_world(), {"url": "http://a/", "headers": {"a": "x" * 65536}})
    assert call.status == 413
    assert "65536" in json.loads(call.body)["errors"][0]["message"]
    # What is long, but not too long, is looked at like any request.
    told = await explained(a_world(), {"url": "http://example.com/" + "x" * 20_000})
    assert told["conclusion"]["refused"] == "key-too-long"
