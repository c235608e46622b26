"""G8: the first byte goes out as soon as the origin gives it; what is no plain response passes."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.asgi import FRESH, Call, Gate, OriginCall, World, scope_of
from tests.support.waiting import turns, until


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(FRESH, id="shareable"),
        pytest.param({"cache-control": "private"}, id="private"),
        pytest.param({"cache-control": "no-cache", "etag": '"1"'}, id="for-validation-only"),
        pytest.param({}, id="says-nothing"),
    ],
)
async def test_the_leader_gets_each_part_before_the_app_gives_the_next(headers):
    world = World()
    gates = [Gate() for _ in range(3)]

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, headers)
        await gates[0].wait()
        await call.chunk(b"one ")
        await gates[1].wait()
        await call.chunk(b"two ")
        await gates[2].wait()
        await call.end(b"three")

    call = world.call("/")
    await call.begun()
    assert call.body == b""
    gates[0].open()
    await call.received(4)
    assert call.body == b"one "
    gates[1].open()
    await call.received(8)
    assert call.body == b"one two " and not call.complete
    gates[2].open()
    await call.done()
    assert call.body == b"one two three" and call.complete


async def test_followers_get_each_part_before_the_app_gives_the_next():
    world = World()
    head, rest = Gate(), Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await head.wait()
        await call.start(200, FRESH)
        await call.chunk(b"one ")
        await rest.wait()
        await call.end(b"two")

    leader = world.call("/")
    await head.reached()
    early = world.call("/")
    await world.waiting(1)
    head.open()
    await early.received(4)
    late = world.call("/")  # joins in the middle, and gets the beginning as well
    await late.received(4)
    for call in (leader, early, late):
        assert call.body == b"one " and not call.complete
    assert world.origin.total == 1
    rest.open()
    for call in (leader, early, late):
        assert (await call.done()).body == b"one two"
    hit = await world.get("/")
    assert hit.hit and hit.body == b"one two"


async def test_a_head_goes_out_before_any_body():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        await gate.wait()
        await call.end(b"x")

    leader = world.call("/")
    await leader.begun()
    follower = world.call("/")
    await follower.begun()
    assert leader.body == follower.body == b""
    gate.open()
    await leader.done()
    await follower.done()


@pytest.mark.parametrize("control", [None, "no-cache", "no-store"])
async def test_server_sent_events_reach_every_client_from_a_call_of_its_own(control):
    world = World()
    beat = asyncio.Event()
    gone: list[int] = []

    @world.origin.on("/events")
    async def handler(call: OriginCall) -> None:
        headers = {"content-type": "text/event-stream"}
        if control:
            headers["cache-control"] = control
        await call.start(200, headers)
        await call.chunk(b"data: %d\n\n" % call.number)
        await beat.wait()
        await call.chunk(b"data: more\n\n")
        message = await call.receive()
        while message["type"] != "http.disconnect":
            message = await call.receive()
        gone.append(call.number)

    clients = [world.call("/events") for _ in range(3)]
    for client in clients:
        await client.received(9)
    assert {client.body for client in clients} == {b"data: %d\n\n" % n for n in (1, 2, 3)}
    beat.set()
    for client in clients:
        await client.received(20)
        client.leave()
    for client in clients:
        await client.done()
    assert sorted(gone) == [1, 2, 3]
    assert not any(client.complete for client in clients)
    world.assert_nothing_left()


async def test_websockets_lifespan_and_unknown_scopes_pass_untouched():
    seen: list[object] = []

    async def app(scope, receive, send):
        seen.append(scope)
        message = await receive()
        await send({"type": f"{scope['type']}.echo", "of": message["type"]})

    world = World(app=app)
    for kind in ("websocket", "lifespan", "something.new"):
        scope: dict = {"type": kind, "path": "/", "headers": []}
        sent: list[dict] = []

        async def receive(kind=kind):
            return {"type": f"{kind}.message"}

        async def send(message, sent=sent):
            sent.append(message)

        await world.app(scope, receive, send)
        assert seen[-1] is scope
        assert sent == [{"type": f"{kind}.echo", "of": f"{kind}.message"}]


async def test_an_upgrade_passes_untouched():
    world = World()
    await world.get("/x")
    call = await world.get("/x", headers={"upgrade": "h2c", "connection": "upgrade"})
    assert call.body == b"/x 2"


@pytest.mark.parametrize("collapse", [True, False])
async def test_a_file_is_cached_whatever_way_the_server_could_send_it(collapse, tmp_path):
    """A fetch for many is not offered pathsend; one client's own is, and is then not stored."""
    file = tmp_path / "file"
    file.write_bytes(b"content")
    world = World(collapse=collapse)

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, FRESH)
        if "http.response.pathsend" in call.scope["extensions"]:
            await call.send({"type": "http.response.pathsend", "path": str(file)})
        else:
            await call.end(file.read_bytes())

    for _ in range(2):
        call = await world.get("/", extensions={"http.response.pathsend": {}})
        if call.messages[-1]["type"] == "http.response.pathsend":
            assert call.messages[-1]["path"] == str(file)
            assert not call.hit
        else:
            assert call.body == b"content"
    world.assert_nothing_left()


async def test_an_uncacheable_file_is_still_sent_by_the_server_the_second_time():
    """G5: with the marker set, the request passes with everything that the server offers."""
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, {"cache-control": "private"})
        if "http.response.pathsend" in call.scope["extensions"]:
            await call.send({"type": "http.response.pathsend", "path": "/x"})
        else:
            await call.end(b"content")

    await world.get("/", extensions={"http.response.pathsend": {}})
    call = await world.get("/", extensions={"http.response.pathsend": {}})
    assert call.messages[-1] == {"type": "http.response.pathsend", "path": "/x"}


async def test_early_hints_reach_the_client_before_the_head():
    world = World()
    gate = Gate()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.send({"type": "http.response.early_hint", "links": [b"</a>; rel=preload"]})
        await gate.wait()
        await call.reply(b"x", headers=FRESH)

    call = world.call("/", extensions={"http.response.early_hint": {}})
    await until(lambda: call.messages)
    assert call.messages[0]["links"] == [b"</a>; rel=preload"]
    gate.open()
    assert (await call.done()).status == 200
    assert (await world.get("/")).hit


@pytest.mark.parametrize("headers", [FRESH, {"cache-control": "private"}])
async def test_trailers_reach_the_client(headers):
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        announced = "http.response.trailers" in call.scope["extensions"]
        await call.start(200, headers, **({"trailers": True} if announced else {}))
        await call.end(b"x")
        if announced:
            await call.send({"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]})

    extensions: dict = {"http.response.trailers": {}}
    for method in ("GET", "POST"):
        call = await world.get("/", method=method, extensions=extensions)
        assert call.complete and call.body == b"x"
    call = await world.get("/", headers={"authorization": "x"}, extensions=extensions)
    assert call.messages[-1] == {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")]}


async def test_debug_information_reaches_the_client():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.send({"type": "http.response.debug", "info": {"template": "t"}})
        await call.reply(b"x", headers=FRESH)

    call = await world.get("/", extensions={"http.response.debug": {}})
    assert call.messages[0] == {"type": "http.response.debug", "info": {"template": "t"}}
    assert call.body == b"x"


async def test_a_passed_requests_body_reaches_the_app_part_by_part():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        body = b""
        while True:
            message = await call.receive()
            body += message["body"]
            if not message["more_body"]:
                break
        await call.reply(body, headers=FRESH)

    for method in ("POST", "GET"):
        call = await world.get(
            "/", method=method, body=[b"a", b"b", b"c"], headers={"content-length": "3"}
        )
        assert call.body == b"abc"
    assert not (await world.get("/")).hit


async def test_content_that_no_field_announces_reaches_the_app_and_is_not_cached_over():
    """HTTP/2: a GET may have content without a content-length."""
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        body = b""
        while True:
            message = await call.receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        await call.reply(body, headers=FRESH)

    call = await world.get("/", http_version="2", body=[b"a", b"b"])
    assert call.body == b"ab"
    assert (await world.get("/", http_version="2", body=[b"c"])).body == b"c"
    assert (await world.get("/", http_version="2")).body == b""
    assert (await world.get("/", http_version="2")).hit


async def test_content_of_a_get_over_http_2_is_not_answered_from_what_is_stored():
    world = World()
    await world.get("/x", http_version="2")
    call = await world.get("/x", http_version="2", body=[b"query"])
    assert call.body == b"/x 2" and not call.hit


async def test_backpressure_reaches_an_app_whose_response_is_its_clients_alone():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.start(200, {"cache-control": "private"})
        for _ in range(10):
            await call.chunk(b"x")
        await call.end()

    call = Call(world.app, scope_of("/"), pause_after=3)
    await until(lambda: call.blocked)
    await turns()
    assert world.origin.running == 1
    call.resume()
    assert (await call.done()).body == b"x" * 10


async def test_push_and_zerocopy_of_a_private_request_pass():
    world = World()

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        await call.send({"type": "http.response.push", "path": "/a.css", "headers": []})
        await call.start(200, {"cache-control": "private"})
        await call.send({"type": "http.response.zerocopysend", "file": 3})

    call = await world.get("/", headers={"authorization": "x"})
    assert [m["type"].rpartition(".")[2] for m in call.messages] == [
        "push",
        "start",
        "zerocopysend",
    ]
