"""Random requests from random clients, random responses from a random origin, and what must hold of
them whatever they are.

Requests are made by a grammar and then damaged, sent in packets cut anywhere, several on a connection.
The origin answers each target in one of many ways, some of them wrong. After each conversation a probe
asks for what is certain. What must hold:

  * a connection ends, or answers, within a bound;
  * what a probe gets is a response that the origin has made for exactly this host and target: whole,
    if the origin has sent it whole, and else at least nothing but what it has sent for it;
  * the origin gets requests that h11 reads, and nothing else (see `support.gateway`);
  * no exception reaches the loop or the log, and nothing is left open.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

from tests.support.gateways import Call, Gateway
from tests.support.http1 import Response, reply, request

__all__ = ["LIMITS", "Fuzzer"]

LIMITS: Final[dict[str, Any]] = {
    "head_timeout": 0.2, "body_timeout": 0.2, "send_timeout": 1, "keep_alive_timeout": 0.2,
    "upstream": {"first_byte_timeout": 0.5, "read_timeout": 0.5, "max_connections": 8},
    "cache": {"memory": "2MB", "collapse_timeout": 1},
}  # fmt: skip
"""Options of a gateway that gives up soon."""
_AT_ONCE: Final = 16  # conversations
BOUND: Final = 15.0  # seconds, for a conversation
_TARGETS: Final = [
    b"/", b"/a", b"/b", b"/a?x", b"/a?x=1", b"/a%2fb", b"/a//b", b"/a;b", b"/.", b"/a/../b", b"/%00",
]  # fmt: skip
_HOSTS: Final = [b"a", b"b", b"a:81", b"A", b"[::1]", b"a.b"]
_METHODS: Final = [
    b"GET", b"GET", b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PURGE", b"TRACE",
    b"CONNECT", b"QUERY", b"get", b"",
]  # fmt: skip
_LINES: Final = [
    b"Accept-Encoding: gzip", b"Accept-Language: de", b"Cookie: a=b", b"Authorization: Basic YTpi",
    b"Cache-Control: no-cache", b"Cache-Control: no-store", b"Cache-Control: only-if-cached",
    b"Cache-Control: max-stale", b"Pragma: no-cache", b"If-None-Match: *", b'If-None-Match: "1"',
    b"If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT", b"Range: bytes=0-0", b"Range: bytes=1-,0-1",
    b"If-Range: \"1\"", b"Connection: close", b"Connection: keep-alive", b"Connection: cookie, host",
    b"Connection: upgrade\r\nUpgrade: websocket", b"Connection: upgrade\r\nUpgrade: h2c",
    b"Expect: 100-continue", b"Expect: x", b"TE: trailers", b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: gzip", b"Content-Length: 0", b"Content-Length: 3", b"Content-Length: 03",
    b"Content-Length: 3\r\nContent-Length: 4", b"Host: evil", b"X-Forwarded-Host: evil", b"X: " + b"x" * 9000,
    b"X_Y: z", b"X : y", b" folded", b"X: \x80\xff", b"X: \0", b"Max-Forwards: 0", b"Via: 1.1 me", b":", b"",
]  # fmt: skip
_BODIES: Final = [
    b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"3;x=y\r\nabc\r\n0\r\nT: u\r\n\r\n", b"0\r\n\r\n", b"3\nabc\n0\n\n",
    b"FFFFFFFFFFFFFFFF1\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"GET /evil HTTP/1.1\r\nHost: a\r\n\r\n",
]  # fmt: skip
_CONTROLS: Final = [
    b"Cache-Control: max-age=60", b"Cache-Control: max-age=60", b"Cache-Control: max-age=0",
    b"Cache-Control: no-store", b"Cache-Control: private", b"Cache-Control: s-maxage=60, stale-while-revalidate=9",
    b"Cache-Control: no-cache", b"Cache-Control: max-age=1, stale-if-error=60", b"X: y",
    b"Expires: Fri, 01 Jan 2100 00:00:00 GMT", b'ETag: "1"\r\nCache-Control: max-age=0',
    b"Vary: Accept-Encoding\r\nCache-Control: max-age=60", b"Vary: *\r\nCache-Control: max-age=60",
    b"Set-Cookie: a=b\r\nCache-Control: max-age=60", b"Connection: cache-control\r\nCache-Control: no-store",
    b"Age: 50\r\nCache-Control: max-age=60", b"Cache-Control: max-age=\xff", b"Cache-Control: max-age=60\r\nTrailer: X",
]  # fmt: skip
_TOKENS: Final = [
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b",", b"%", b"0", b"HTTP/1.1 200 OK\r\n", b"\r\n\r\n",
    b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"\xff", b"chunked", b"0\r\n\r\n",
]  # fmt: skip
_MARK: Final = re.compile(rb"<(\S+) (\S+) (\d+) ([0-9a-f]{16})>(x*)</>")


def body_for(host: bytes, target: bytes, number: int, size: int) -> bytes:
    """Says by itself what it is for, and that it is whole."""
    proof = hashlib.sha256(b"%b %b %d %d" % (host, target, number, size)).hexdigest()[:16]
    return b"<%b %b %d %b>%b</>" % (host, target, number, proof.encode(), b"x" * size)


class Fuzzer:
    """Conversations with one gateway, all of which follow from ``seed``."""

    def __init__(self, gate: Gateway, seed: int) -> None:
        self.gate = gate
        self.random = random.Random(seed)
        self.conversations = self.probes = self.hits = 0
        # What was sent that was not as it should be, or had no content, by host and target.
        self._odd: dict[tuple[bytes, bytes], deque[bytes]] = {}
        self._numbers = 0
        self._wild = True
        gate.origin.otherwise = self._answer

    # -- requests ------------------------------------------------------------------------------

    def _damaged(self, data: bytes) -> bytes:
        pick = self.random
        for _ in range(pick.choice((1, 1, 2, 5))):
            at = pick.randrange(len(data) + 1)
            length = pick.choice((0, 1, 1, 2, 10))
            kind = pick.randrange(4)
            if kind == 0:
                new = bytes([pick.randrange(256)])
            elif kind == 1:
                new = pick.choice(_TOKENS)
            elif kind == 2:
                new = data[at : at + length] * 2
            else:
                new = b""
            data = data[:at] + new + data[at + length :]
        return data

    def _request(self) -> bytes:
        pick = self.random
        target = pick.choice(_TARGETS)
        if pick.random() < 0.1:
            target = (
                pick.choice((b"http://a", b"http://b:81", b"https://evil@a", b"*", b"x:")) + target
            )
        lines = pick.choices(_LINES, k=pick.choice((0, 0, 1, 1, 2, 4)))
        data = request(
            target,
            *lines,
            method=pick.choice(_METHODS),
            host=pick.choice([*_HOSTS, None]) if pick.random() < 0.3 else b"a",
            body=pick.choice(_BODIES) if pick.random() < 0.4 else b"",
        )
        if pick.random() < 0.1:
            data = data.replace(
                b"HTTP/1.1", pick.choice((b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b""))
            )
        return self._damaged(data) if pick.random() < 0.3 else data

    async def converse(self) -> None:
        """One connection: requests in packets, then perhaps the end of it, perhaps not."""
        pick = self.random
        self.conversations += 1
        data = b"".join([self._request() for _ in range(pick.choice((1, 1, 2, 3, 8)))])
        client = await self.gate.client()
        reading: asyncio.Task[bytes] | None = None
        try:
            async with asyncio.timeout(BOUND):
                if pick.random() < 0.8:
                    reading = asyncio.create_task(client.remains())
                with contextlib.suppress(ConnectionError):
                    while data:
                        size = pick.choice((1, 2, 7, 100, 10_000))
                        packet, data = data[:size], data[size:]
                        await client.send(packet)
                        if pick.random() < 0.3:
                            await asyncio.sleep(0)
                end = pick.randrange(4)
                with contextlib.suppress(OSError, RuntimeError):  # (uvloop: it is closed already)
                    if end == 0:
                        client.writer.transport.abort()
                    elif end == 1:
                        client.writer.write_eof()
                if reading is not None:
                    await reading
        finally:
            if reading is not None and not reading.done():
                reading.cancel()
            await client.close()
            self.gate.clients.remove(client)

    # -- responses -----------------------------------------------------------------------------

    async def _answer(self, seen: Call) -> None:
        pick = self.random
        self._numbers += 1
        number = self._numbers
        # As the gateway keys it: h11 has read the same bytes.
        host = b",".join(seen.all(b"host"))
        wild = self._wild and seen.method != b"HEAD" and pick.random() < 0.5
        size = pick.choice((0, 10, 1000) if wild else (0, 10, 1000, 100_000))
        body = body_for(host, seen.target, number, size)
        if wild:
            await pick.choice(self._faults)(seen, body)
        else:
            seen.writer.write(self._plain(seen, body))

    def _note(self, seen: Call, data: bytes) -> None:
        key = b",".join(seen.all(b"host")), seen.target
        self._odd.setdefault(key, deque(maxlen=300)).append(data)

    def _plain(self, seen: Call, body: bytes) -> bytes:
        pick = self.random
        control = pick.choice(_CONTROLS)
        if seen.method == b"HEAD":
            return reply(b"", control, b"Content-Length: %d" % len(body), length=False)
        if pick.random() < 0.3:
            chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            return reply(chunks, control, b"Transfer-Encoding: chunked", length=False)
        return reply(body, control)

    @property
    def _faults(self) -> list[Callable[[Call, bytes], Awaitable[None]]]:
        return [
            self._damage, self._damage, self._damage, self._cut, self._extra, self._error, self._early,
            self._hang_up, self._unframed, self._not_modified, self._partial, self._reset,
        ]  # fmt: skip

    async def _damage(self, seen: Call, body: bytes) -> None:
        data = self._plain(seen, body)
        head, _, _ = data.partition(b"\r\n\r\n")
        data = self._damaged(head) + data[len(head) :]
        self._note(seen, data)
        seen.writer.write(data)
        await seen.writer.drain()
        if self.random.random() < 0.7:
            seen.writer.close()

    async def _cut(self, seen: Call, body: bytes) -> None:
        data = self._plain(seen, body)
        seen.writer.write(data[: self.random.randrange(len(data))])
        await seen.writer.drain()
        seen.writer.close()

    async def _extra(self, seen: Call, body: bytes) -> None:
        poison = reply(b"poison", b"Cache-Control: max-age=60")
        cut = self.random.choice((1, 10, len(poison)))
        seen.writer.write(self._plain(seen, body) + poison[:cut])
        await seen.writer.drain()
        await asyncio.sleep(0)
        seen.writer.write(poison[cut:])

    async def _error(self, seen: Call, body: bytes) -> None:
        status = self.random.choice((b"500 X", b"503 X", b"404 X", b"301 X", b"204 X", b"206 X"))
        data = reply(body, self.random.choice(_CONTROLS), status=status)
        if status == b"204 X":
            self._note(seen, data)
        seen.writer.write(data)

    async def _early(self, seen: Call, body: bytes) -> None:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
        seen.writer.write(hints * self.random.choice((1, 3, 50)) + self._plain(seen, body))

    async def _hang_up(self, seen: Call, body: bytes) -> None:
        seen.writer.close()

    async def _reset(self, seen: Call, body: bytes) -> None:
        data = self._plain(seen, body)
        seen.writer.write(data[: self.random.randrange(len(data))])
        seen.writer.transport.abort()

    async def _unframed(self, seen: Call, body: bytes) -> None:
        seen.writer.write(reply(body, self.random.choice(_CONTROLS), length=False))
        await seen.writer.drain()
        seen.writer.close()

    async def _not_modified(self, seen: Call, body: bytes) -> None:
        seen.writer.write(b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\n\r\n')

    async def _partial(self, seen: Call, body: bytes) -> None:
        part = b"Content-Range: bytes 0-4/%d" % len(body)
        data = reply(body[:5], self.random.choice(_CONTROLS), part, status=b"206 Partial Content")
        self._note(seen, data)
        seen.writer.write(data)

    # -- what must hold --------------------------------------------------------------------------

    async def probe(self) -> None:
        """A plain request gets what the origin has made for it, from wherever it comes."""
        host = self.random.choice((b"a", b"b"))
        target = self.random.choice(_TARGETS)
        async with asyncio.timeout(BOUND):
            response = await self.gate.get(target, host=host)
        self.gate.clients.pop()
        self.probes += 1
        self.hits += response.hit
        self._check(response, host, target)

    def _check(self, response: Response, host: bytes, target: bytes) -> None:
        body = response.body
        found = _MARK.fullmatch(body)
        if found is not None:
            assert (found[1], found[2]) == (host, target), f"for {host!r} {target!r}: {response}"
            if body == body_for(host, target, int(found[3]), len(found[5])):
                return
        # Then it must be some of what was sent for this target, and was not a whole response.
        odd = self._odd.get((host, target), ())
        assert any(body in data for data in odd), f"for {host!r} {target!r}: {response}"

    async def run(self, conversations: int) -> None:
        """So many conversations, some at a time, with probes between."""
        for _ in range(0, conversations, _AT_ONCE):
            await asyncio.gather(*[self.converse() for _ in range(_AT_ONCE)])
            self._wild = False
            for _ in range(4):
                await self.probe()
            self._wild = True

    async def settled(self) -> None:
        """Nothing is under way any more."""
        await self.gate.origin.hang_up()
        await self.gate.idle()
