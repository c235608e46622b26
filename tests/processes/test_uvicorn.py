"""Behind a real server, asked over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.support.ports import free_port

ROOT = Path(__file__).parent.parent.parent
BOUND = 15.0  # seconds; only a test that hangs takes so long


class Server:
    """A uvicorn process on a loopback port."""

    def __init__(self, http: str = "httptools", **environment: str) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "uvicorn", "tests.processes.origin_app:app",
                "--port", str(self.port), "--http", http, "--no-access-log",
                "--timeout-graceful-shutdown", "1", "--backlog", "1024",
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        deadline = time.monotonic() + BOUND
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.process.kill()
                    raise AssertionError(self.process.communicate()) from None
                time.sleep(0.02)

    def stop(self, signum: int = signal.SIGTERM) -> tuple[str, str]:
        """End it; what it wrote on stdout and stderr."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            return self.process.communicate(timeout=BOUND)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"it did not end: {self.process.communicate()}") from None

    async def control(self, what: str) -> Any:
        async with Connection(self) as connection:
            await connection.ask(f"/control/{what}")
            return json.loads((await connection.response()).body)


class Response:
    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def header(self, name: str) -> str | None:
        values = [value for field, value in self.headers if field == name]
        assert len(values) < 2, f"{name} twice: {values}"
        return values[0] if values else None


class Connection:
    """One TCP connection, and HTTP/1.1 as RFC 9112 frames it. Everything is bounded."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def __aenter__(self) -> Self:
        async with asyncio.timeout(BOUND):
            self._reader, self._writer = await asyncio.open_connection(
                "127.0.0.1", self._server.port
            )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def ask(self, path: str, method: str = "GET", **headers: str) -> None:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self._writer.write(f"{method} {path} HTTP/1.1\r\nhost: example.com\r\n{lines}\r\n".encode())
        await self._writer.drain()

    async def head(self) -> tuple[int, list[tuple[str, str]]]:
        async with asyncio.timeout(BOUND):
            text = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = text.rstrip("\r\n").split("\r\n")
        pairs = [line.partition(":") for line in lines]
        return int(status.split()[1]), [(n.lower(), value.strip()) for n, _, value in pairs]

    async def chunk(self) -> bytes:
        async with asyncio.timeout(BOUND):
            size = int(await self._reader.readuntil(b"\r\n"), 16)
            data = await self._reader.readexactly(size + 2)
        assert data.endswith(b"\r\n")
        return data[:-2]

    async def chunks(self, size: int | None = None) -> bytes:
        """Of a chunked body: at least ``size`` bytes, or all of it."""
        data = b""
        while size is None or len(data) < size:
            part = await self.chunk()
            if not part:
                return data
            data += part
        return data

    async def response(self, method: str = "GET") -> Response:
        status, headers = await self.head()
        fields = dict(headers)
        if method == "HEAD" or status in (204, 304):
            return Response(status, headers, b"")
        if fields.get("transfer-encoding") == "chunked":
            assert "content-length" not in fields
            return Response(status, headers, await self.chunks())
        async with asyncio.timeout(BOUND):
            body = await self._reader.readexactly(int(fields["content-length"]))
        return Response(status, headers, body)

    async def at_end(self) -> bool:
        """Did the server close the connection, with nothing more to read?"""
        async with asyncio.timeout(BOUND):
            with contextlib.suppress(ConnectionResetError):
                return await self._reader.read(1) == b""
        return True

    def reset(self) -> None:
        """Go away as a client that crashed does: RST, with no good-bye."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


@pytest.fixture(scope="module", params=["httptools", "h11"])
def server(request) -> Iterator[Server]:
    server = Server(request.param, TEST_ABANDONED_TIMEOUT="0.2")
    yield server
    _, errors = server.stop()
    assert "was never awaited" not in errors
    assert "Task was destroyed" not in errors
    assert "exception was never retrieved" not in errors


async def get(server: Server, path: str, method: str = "GET", **headers: str) -> Response:
    async with Connection(server) as connection:
        await connection.ask(path, method, **headers)
        return await connection.response(method)


async def test_a_leader_that_crashes_in_the_middle_leaves_its_followers_with_everything(server):
    path = "/stream/a"
    async with contextlib.AsyncExitStack() as stack:
        leader = await stack.enter_async_context(Connection(server))
        await leader.ask(path)
        await leader.head()
        assert await leader.chunks(6) == b"first "
        followers = [await stack.enter_async_context(Connection(server)) for _ in range(5)]
        for follower in followers:
            await follower.ask(path)
            await follower.head()
            assert await follower.chunks(6) == b"first "
        leader.reset()
        await server.control("open/a")
        for follower in followers:
            assert await follower.chunks() == b"second"
    assert await server.control("calls/stream/a") == 1
    hit = await get(server, path)
    assert hit.body == b"first second" and "; hit" in (hit.header("cache-status") or "")


async def test_a_leader_that_crashes_before_the_head_leaves_its_followers_with_everything(server):
    path = "/page/b"
    async with contextlib.AsyncExitStack() as stack:
        leader = await stack.enter_async_context(Connection(server))
        await leader.ask(path)
        await server.control("arrived/b/1")
        followers = [await stack.enter_async_context(Connection(server)) for _ in range(5)]
        for follower in followers:
            await follower.ask(path)
        await server.control("waiters/5")
        leader.reset()
        await server.control("open/b")
        for follower in followers:
            assert (await follower.response()).body == b"page"
    assert await server.control("calls/page/b") == 1


async def test_a_follower_that_crashes_disturbs_nobody(server):
    path = "/stream/c"
    async with Connection(server) as leader, Connection(server) as follower:
        await leader.ask(path)
        await leader.head()
        await follower.ask(path)
        await follower.head()
        follower.reset()
        await server.control("open/c")
        assert await leader.chunks() == b"first second"


async def test_an_oversized_stream_is_whole_for_leader_and_followers(server):
    path = "/large/d"
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(Connection(server)) for _ in range(4)]
        for connection in connections:
            await connection.ask(path)
            await connection.head()
        await server.control("arrived/d/1")
        gone = connections.pop()
        gone.reset()
        await server.control("open/d")
        whole = b"".join(bytes([number]) * 16384 for number in range(64))
        for body in await asyncio.gather(*(connection.chunks() for connection in connections)):
            assert body == whole
    assert await server.control("calls/large/d") == 1


async def test_two_hundred_clients_on_a_cold_key_cost_one_call(server):
    path = "/page/e"
    async with contextlib.AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(Connection(server)) for _ in range(200)]
        for connection in connections:
            await connection.ask(path)
        await server.control("waiters/199")
        await server.control("open/e")
        answers = [await connection.response() for connection in connections]
    assert {answer.body for answer in answers} == {b"page"}
    collapsed = sum("collapsed" in (answer.header("cache-status") or "") for answer in answers)
    assert collapsed == 199
    assert await server.control("calls/page/e") == 1


async def test_framing_holds_on_one_connection_through_hits_heads_and_304s(server):
    async with Connection(server) as connection:
        for _ in range(2):
            await connection.ask("/etag/x")
            full = await connection.response()
            assert full.status == 200 and full.body == b"hello"
            assert full.header("content-length") == "5"
            await connection.ask("/etag/x", "HEAD")
            head = await connection.response("HEAD")
            assert head.status == 200 and head.header("content-length") == "5"
            await connection.ask("/etag/x", if_none_match='"v1"')
            unchanged = await connection.response()
            assert unchanged.status == 304
            assert unchanged.header("content-length") is None
            assert unchanged.header("transfer-encoding") is None
            await connection.ask("/chunked/x")
            assert (await connection.response()).body == b"one two"
            await connection.ask("/chunked/x", "HEAD")
            await connection.response("HEAD")
            await connection.ask("/empty/x")
            assert (await connection.response()).status == 204
            await connection.ask("/private/x")
            assert (await connection.response()).body == b"private"
            await connection.ask("/private/x", "HEAD")
            await connection.response("HEAD")
            await connection.ask("/etag/x", "POST", content_length="0")
            assert (await connection.response()).body == b"hello"


async def test_a_cold_304_and_a_cold_head_are_framed_as_well(server):
    async with Connection(server) as connection:
        await connection.ask("/etag/cold", if_none_match='"v1"')
        unchanged = await connection.response()
        assert unchanged.status == 304 and unchanged.header("content-length") is None
        await connection.ask("/etag/cold-too", "HEAD")
        head = await connection.response("HEAD")
        assert head.status == 200 and head.header("content-length") == "5"
        await connection.ask("/etag/cold")
        assert (await connection.response()).body == b"hello"


async def test_a_hit_has_one_length_and_a_stream_becomes_one_with_a_length(server):
    cold = await get(server, "/chunked/y")
    assert cold.header("transfer-encoding") == "chunked"
    hit = await get(server, "/chunked/y")
    assert hit.header("content-length") == "7" and hit.header("transfer-encoding") is None
    assert hit.body == b"one two"


async def test_requests_sent_in_one_go_are_answered_in_order(server):
    async with Connection(server) as connection:
        paths = ["/etag/p", "/chunked/p", "/etag/p", "/private/p", "/chunked/p"]
        for path in paths:
            await connection.ask(path)
        bodies = [(await connection.response()).body for _ in paths]
    assert bodies == [b"hello", b"one two", b"hello", b"private", b"one two"]


async def test_a_private_stream_hears_that_its_client_left(server):
    async with Connection(server) as connection:
        await connection.ask("/events/f")
        await connection.head()
        assert await connection.chunks(13) == b"data: hello\n\n"
        connection.reset()
    await asyncio.wait_for(server.control("arrived/f/1"), BOUND)


async def test_a_shared_stream_that_every_client_left_ends(server):
    path = "/forever/g"
    async with Connection(server) as leader, Connection(server) as follower:
        for connection in (leader, follower):
            await connection.ask(path)
            await connection.head()
            await connection.chunks(15)
        leader.reset()
        follower.reset()
    await asyncio.wait_for(server.control("arrived/g/1"), BOUND)
    stats = await server.control("stats")
    assert stats["inflight_bytes"] == 0


async def test_an_error_before_the_head_is_a_500_and_the_server_goes_on(server):
    for _ in range(2):
        answer = await get(server, "/error/x")
        assert answer.status == 500
    assert (await get(server, "/etag/x")).status == 200


async def test_a_body_that_breaks_off_breaks_off_for_the_client_too(server):
    async with Connection(server) as connection:
        await connection.ask("/half/x")
        await connection.head()
        assert await connection.chunks(4) == b"half"
        assert await connection.at_end()
    assert await server.control("calls/half/x") == 1
    async with Connection(server) as connection:
        await connection.ask("/half/x")
        await connection.head()
    assert await server.control("calls/half/x") == 2


async def test_nothing_is_left_when_all_are_gone(server):
    stats = await server.control("stats")
    assert (stats["flights"], stats["waiters"], stats["inflight_bytes"]) == (0, 0, 0)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_a_shutdown_ends_a_refresh_that_is_running_before_the_app_closes(signum):
    server = Server(TEST_SHUTDOWN_TIMEOUT="0.1")
    try:
        assert (await get(server, "/swr/r")).body == b"1"
        stale = await get(server, "/swr/r")
        assert stale.body == b"1" and "stale-while-revalidate" in (
            stale.header("cache-status") or ""
        )
        await server.control("arrived/r/1")
    finally:
        output, errors = server.stop(signum)
    assert output.split("\n")[:2] == ["refresh cancelled", "app closed"]
    assert "Traceback" not in errors and "Task was destroyed" not in errors
    assert server.process.returncode in (0, -signum, 128 + signum)


async def test_a_shutdown_lets_clients_that_stream_along_finish_what_they_can():
    """With a leader and a follower in the middle of a body, the server still ends in time."""
    server = Server(TEST_SHUTDOWN_TIMEOUT="0.1")
    try:
        async with Connection(server) as leader, Connection(server) as follower:
            for connection in (leader, follower):
                await connection.ask("/stream/z")
                await connection.head()
                await connection.chunks(6)
            server.process.send_signal(signal.SIGTERM)
            leader.reset()
            follower.reset()
    finally:
        output, errors = server.stop()
    assert "app closed" in output
    assert "Task was destroyed" not in errors
