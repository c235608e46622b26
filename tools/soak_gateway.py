"""Soak the gateway: `make soak-gateway MINUTES=10`, or tools/soak_gateway.py --minutes 10.

`layergate serve` with two workers and a Valkey, an origin that fails in every way now and then, and
clients of all kinds: hits, misses, purges, aborts, slow ones. Held are

  * every body is one that the origin has made for that URL, whole;
  * no version is older than the last purge of its URL that was final before it was asked for (G3);
  * sockets and tasks are as many at the end as at the beginning, and memory does not grow.

Prints a table over time, what became of the requests, and of the one that took longest what went on
meanwhile; ends with status 1 if anything did not hold. To find out what something is due to,
``--without aborts,faults`` leaves out kinds of trouble (`KINDS`).
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.ports import free_port  # noqa: E402
from tests.support.redis_servers import Valkey  # noqa: E402

PAGES: Final = 300
TOKEN: Final = "soak-token"  # noqa: S105
HOST: Final = b"soak.test"
SHOWN: Final = 10.0  # seconds
KINDS: Final = {
    "aborts": "clients that leave in the middle",
    "faults": "responses that break off, hang, or are a 500",
    "large": "bodies of 300 KB",
    "outages": "seconds without an origin",
    "purges": "changes of pages, and their purges",
    "shared": "Valkey: each worker has a memory of its own then",
    "slow": "clients that begin something and never end it",
}
_LOOKED_AT: Final = 0.25  # seconds between two looks at how the workers do with the shared layer
PURGE: Final = "purge of"
ORDINARY: Final = frozenset({"asked", "answered", "304", PURGE})
_BEFORE: Final = 12.0  # seconds; more than a lease's term
_TOLD: Final = 16  # requests for one target that are told of one by one
_ILL: Final = frozenset({
    "breaker", "layer_error", "lease_lost", "log_trusted", "shared_back", "shared_lost", "unavailable",
    "wait_timeout", "write_error",
})  # fmt: skip
_TELLING: Final = (
    "layer_error", "lease_lost", "log_leap", "shared_back", "shared_lost", "wait_timeout", "write_error",
)  # fmt: skip
_BODY: Final = re.compile(rb"<(\S+) v(\d+) ([0-9a-f]{16})>(x*)</>")
_MOST_GROWTH: Final = 0.05  # of memory, from the first third to the last
_LONGEST: Final = (
    9.0  # seconds that any answer may take: some fetches that hang, one after the other
)
_SPARE: Final = 3.0  # MB that a worker may take beside that


def body_for(target: bytes, version: int, size: int) -> bytes:
    proof = hashlib.sha256(b"%b %d %d" % (target, version, size)).hexdigest()[:16]
    return b"<%b v%d %b>%b</>" % (target, version, proof.encode(), b"x" * size)


class Happening:
    """Something that a client may have waited for. Times are monotonic; what has not ended, ends never."""

    __slots__ = ("began", "ended", "target", "what")

    def __init__(self, what: str, target: bytes = b"") -> None:
        self.began = time.monotonic()
        self.ended = float("inf")
        self.what = what
        self.target = target

    def over(self) -> None:
        self.ended = time.monotonic()

    def told(self, since: float) -> str:
        end = "" if self.ended == float("inf") else f" to {self.ended - since:+.2f} s"
        return f"{self.began - since:+.2f} s{end}: {self.what} {self.target.decode()}".rstrip()


class Longest(NamedTuple):
    """An answer that took long to begin."""

    seconds: float
    asked: float  # monotonic
    clock: float
    asking: str = ""
    answer: str = ""

    @property
    def answered(self) -> float:
        return self.asked + self.seconds


class Chronicle:
    """What happened lately, and to whom."""

    def __init__(self) -> None:
        self.happenings: deque[Happening] = deque(maxlen=50_000)
        self.counts: deque[tuple[float, dict[str, Counter[str]]]] = deque(maxlen=2000)

    def begins(self, what: str, target: bytes = b"") -> Happening:
        happening = Happening(what, target)
        self.happenings.append(happening)
        return happening

    def look(self, stats: Any) -> None:
        """What the workers say of themselves."""
        each = {}
        for number, worker in stats["workers"]["each"].items():
            told = Counter({name: worker["events"][name] for name in _TELLING})
            shared = worker["layers"].get("redis", {})
            told["breaker"] = shared.get("breaker", 0)
            told["unavailable"] = shared.get("unavailable", 0)
            told["log_trusted"] = worker["invalidation"].get("log_trusted", 1)
            each[number] = told
        self.counts.append((time.monotonic(), each))

    def meanwhile(self, longest: Longest) -> list[str]:
        """What went on between this question and its answer: what the origin was asked for of the same
        target, what was wrong as a whole, and what the workers have counted."""
        since, until = longest.asked, longest.answered
        early = since - _BEFORE  # what it waits for may have begun before it was asked
        target = longest.asking.split(" ")[1].encode()
        among = [one for one in self.happenings if one.began < until and one.ended > early]
        same = [one for one in among if one.target == target]
        told = [one for one in among if not one.target or one.target == target]
        if len(told) > _TOLD:
            told = [one for one in told if one.what not in ORDINARY or one.ended > one.began + 0.5]
        story = [(one.began, one.told(since)) for one in told[-3 * _TOLD :]]
        for at, number, changed in self._changes():
            ill = [f"{name} {old} -> {new}" for name, (old, new) in changed.items() if name in _ILL]
            if ill and early < at < until + _LOOKED_AT:
                story.append((at, f"{at - since:+.2f} s: worker {number}: {', '.join(ill)}"))
        lines = [line for _, line in sorted(story)]
        others = [one for one in among if one.target and one.target != target and one.ended > since]
        for name, group in (("this target", same), ("others", others)):
            counts = Counter(one.what for one in group if one.ended > since and one.what != PURGE)
            lines.append(f"meanwhile the origin was asked for {name}: {_counted(counts)}")
        return lines

    def _changes(self) -> Iterator[tuple[float, str, dict[str, tuple[int, int]]]]:
        """When a worker's numbers were seen to have changed, and from what to what."""
        before: dict[str, Counter[str]] = {}
        for at, each in self.counts:
            for number, now in each.items():
                was = before.get(number, now)
                yield (
                    at,
                    number,
                    {name: (was[name], now[name]) for name in now if now[name] != was[name]},
                )
            before = each


def _counted(counts: Counter[str]) -> str:
    return (
        ", ".join(f"{name} {count}" for name, count in counts.most_common() if count) or "nothing"
    )


class Pages:
    """What is true: the version of each page, and which of them no client may get any more."""

    def __init__(self, without: Collection[str] = ()) -> None:
        self.large = 20_000 if "large" in without else 300_000
        self.version: Counter[bytes] = Counter()
        self.floor: Counter[bytes] = Counter()

    def size(self, target: bytes) -> int:
        return (0, 500, 2000, 20_000, self.large)[hash_of(target) % 5]


def hash_of(target: bytes) -> int:
    return int.from_bytes(hashlib.sha256(target).digest()[:4], "big")


class Origin:
    """Answers with the present version of a page; one time in fifty something else happens."""

    def __init__(self, pages: Pages, chronicle: Chronicle, without: Collection[str] = ()) -> None:
        self.pages = pages
        self.chronicle = chronicle
        self.without = without
        self.random = random.Random(1)  # noqa: S311
        self.requests: Counter[str] = Counter()
        self.listener: asyncio.Server | None = None
        self.port = 0
        self.open = 0

    async def listen(self) -> None:
        self.listener = await asyncio.start_server(self.serve, "127.0.0.1", self.port, backlog=512)
        self.port = self.listener.sockets[0].getsockname()[1]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            while await self.answer(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the gateway hung up
        finally:
            self.open -= 1
            writer.close()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        start, _, fields = head.partition(b"\r\n")
        method, target, _ = start.split(b" ")
        happening = self.chronicle.begins("asked", target)
        try:
            return await self.respond(
                method, target, start + b"\r\n" + fields, reader, writer, happening
            )
        finally:
            happening.over()

    async def respond(
        self, method: bytes, target: bytes, head: bytes, reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter, happening: Happening,
    ) -> bool:  # fmt: skip
        length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head.lower())
        if length is not None:
            await reader.readexactly(int(length[1]))
        version = self.pages.version[target]
        await asyncio.sleep(self.random.choice((0, 0, 0, 0.002, 0.02)))
        body = body_for(target, version, self.pages.size(target))
        etag = b'"%d"' % version
        lines = [b"HTTP/1.1 200 OK", b"ETag: " + etag, b"Content-Type: text/plain"]
        lines.append(self.control(target))
        fault = self.random.random() * 50
        kind = "answered"
        if fault < 1 and method == b"GET" and "faults" not in self.without:
            return await self.fault(int(fault * 5), body, writer, happening)
        if b"if-none-match: " + etag in head.lower():
            kind = "304"
            lines[0] = b"HTTP/1.1 304 Not Modified"
            body = b""
        elif method == b"GET" and hash_of(target) % 3 == 0:
            lines.append(b"Transfer-Encoding: chunked")
            half = len(body) // 2
            body = b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (
                half, body[:half], len(body) - half, body[half:],
            )  # fmt: skip
        else:
            lines.append(b"Content-Length: %d" % len(body))
        self.requests[kind] += 1
        happening.what = kind
        writer.write(b"\r\n".join([*lines, b"", b"" if method == b"HEAD" else body]))
        await writer.drain()
        return True

    def control(self, target: bytes) -> bytes:
        return (
            b"Cache-Control: max-age=30",
            b"Cache-Control: max-age=1, stale-while-revalidate=20",
            b"Cache-Control: max-age=2, stale-if-error=30",
            b"Cache-Control: max-age=60\r\nVary: Accept-Language",
            b"Cache-Control: no-store",
            b"Cache-Control: no-cache",
        )[hash_of(target) // 7 % 6]

    async def fault(
        self, kind: int, body: bytes, writer: asyncio.StreamWriter, happening: Happening
    ) -> bool:
        name = ("closed", "hung", "truncated", "500", "reset")[kind]
        self.requests[name] += 1
        happening.what = name
        head = b"HTTP/1.1 200 OK\r\nCache-Control: max-age=60\r\nContent-Length: %d\r\n\r\n"
        if name == "hung":
            await asyncio.sleep(2.5)  # longer than the gateway waits
            return False
        if name == "truncated":
            writer.write(head % (len(body) + 1) + body)
            await writer.drain()
            return False
        if name == "500":
            writer.write(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
            return True
        if name == "reset":
            writer.write((head % len(body) + body)[: len(body) // 2 + 40])
            writer.transport.abort()
        return False


class Wrong(Exception):
    """Something did not hold."""


class Soak:
    def __init__(
        self, port: int, pages: Pages, origin: Origin, without: Collection[str] = ()
    ) -> None:
        self.port = port
        self.without = without
        self.chronicle = origin.chronicle
        self.pages = pages
        self.origin = origin
        self.results: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest = Longest(0.0, 0.0, 0.0)
        self.story: list[str] = []
        self._ended = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def end(self) -> None:
        self._ended.set()

    # -- clients -------------------------------------------------------------------------------

    def target(self, pick: random.Random) -> bytes:
        if pick.random() < 0.1:
            return b"/once/%d" % pick.randrange(10**9)
        return b"/page/%d" % min(int(pick.paretovariate(0.7)), PAGES)

    async def client(self, number: int) -> None:
        """Keeps a connection for a while, and does with it what clients do."""
        pick = random.Random(number)  # noqa: S311
        while not self.ended:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**20)
            except OSError:
                self.results["not connected"] += 1
                await asyncio.sleep(0.1)
                continue
            try:
                async with asyncio.timeout(60):
                    for _ in range(pick.randrange(1, 200)):
                        if not await self.ask(pick, reader, writer) or self.ended:
                            break
            except (OSError, asyncio.IncompleteReadError):
                self.results["broken off"] += 1
            except TimeoutError:
                self.wrong.append("a client waited for a minute")
            except Wrong as error:
                self.wrong.append(str(error))
            finally:
                rude = pick.random() < 0.3 and "aborts" not in self.without
                writer.transport.abort() if rude else writer.close()

    async def ask(
        self, pick: random.Random, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        target = self.target(pick)
        floor = self.pages.floor[target]
        kind = pick.random()
        method = b"HEAD" if kind < 0.02 else b"POST" if kind < 0.03 else b"GET"
        lines = [b"%b %b HTTP/1.1" % (method, target), b"Host: " + HOST]
        if pick.random() < 0.2:
            lines.append(b"Accept-Language: " + pick.choice((b"de", b"en", b"fr")))
        if kind > 0.98:
            lines.append(b"Cache-Control: no-cache")
        elif kind > 0.96:
            lines.append(b"Authorization: Basic YTpi")
        data = b"hello" if method == b"POST" else b""
        if data:
            lines.append(b"Content-Length: 5")
        message = b"\r\n".join([*lines, b"", data])
        if pick.random() < 0.01:  # slowly
            for at in range(0, len(message), 20):
                writer.write(message[at : at + 20])
                await asyncio.sleep(0.01)
        else:
            writer.write(message)
        await writer.drain()
        left = 1.0 if "aborts" in self.without else pick.random()
        if left < 0.01:
            self.results["left at once"] += 1
            return False
        asked = time.monotonic()
        head = await reader.readuntil(b"\r\n\r\n")
        if (seconds := time.monotonic() - asked) > self.longest.seconds:
            self.remember(seconds, lines, head)
        if left < 0.02:
            self.results["left after the head"] += 1
            return False
        status = int(head[9:12])
        body = await self.body(pick, method, status, head.lower(), reader)
        self.check(target, floor, method, status, head, body)
        if b"\r\nconnection: close" in head.lower():
            return False
        if pick.random() < 0.05:
            await asyncio.sleep(pick.random() * 0.1)
        return True

    def remember(self, seconds: float, lines: list[bytes], head: bytes) -> None:
        """No answer has taken so long yet."""
        now = time.monotonic()
        asking = ", ".join(line.decode() for line in lines if line and not line.startswith(b"Host"))
        answer = b", ".join(re.findall(rb"(?i)^http/1.1 \d+|cache-status: [^\r]*", head)).decode()
        longest = Longest(seconds, now - seconds, time.time() - seconds, asking, answer)
        self.longest = longest
        # When it is known what the workers have counted till then.
        asyncio.get_running_loop().call_later(2 * _LOOKED_AT, self.tell, longest)

    def tell(self, longest: Longest) -> None:
        if self.longest is longest:
            self.story = self.chronicle.meanwhile(longest)

    async def looks(self) -> None:
        """Asks the workers how they get on with the shared layer."""
        while not self.ended:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                status, stats = await admin(self.port, "GET", "stats")
                if status == 200:
                    self.chronicle.look(stats)
            await asyncio.sleep(_LOOKED_AT)

    async def body(
        self, pick: random.Random, method: bytes, status: int, head: bytes,
        reader: asyncio.StreamReader,
    ) -> bytes:  # fmt: skip
        if method == b"HEAD" or status in (204, 304):
            return b""
        if pick.random() < 0.01:
            await asyncio.sleep(0.3)  # slow to read
        length = re.search(rb"\r\ncontent-length: (\d+)\r\n", head)
        if length is not None:
            return await reader.readexactly(int(length[1]))
        body = b""
        while True:
            size = int(await reader.readuntil(b"\r\n"), 16)
            body += (await reader.readexactly(size + 2))[:-2]
            if not size:
                return body

    def check(
        self, target: bytes, floor: int, method: bytes, status: int, head: bytes, body: bytes
    ) -> None:
        found = re.search(rb"\r\ncache-status: ([^\r]*)\r\n", head)
        said = b"" if found is None else found[1]
        if status != 200:
            self.results[str(status)] += 1
            if status not in (500, 502, 503, 504):
                raise Wrong(f"{status} for {target!r}: {head!r}")
            return
        how = "hit" if b"; hit" in said else "collapsed" if b"collapsed" in said else "forwarded"
        self.results[how] += 1
        if method == b"HEAD":
            return
        parts = _BODY.fullmatch(body)
        if parts is None or parts[1] != target:
            raise Wrong(f"for {target!r}: {head!r} {body[:100]!r}")
        version = int(parts[2])
        if body != body_for(target, version, self.pages.size(target)):
            raise Wrong(f"not whole, for {target!r}: {head!r} {len(body)} bytes")
        if version < floor:
            raise Wrong(f"version {version} after a final purge of {floor}, {target!r}: {head!r}")

    async def slow(self) -> None:
        """Clients that begin something and never end it."""
        pick = random.Random(0)  # noqa: S311
        while not self.ended:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                begun = (
                    b"", b"GET /page/1 HTT", b"GET /page/1 HTTP/1.1\r\nHost: a\r\nX: ",
                    b"POST /page/1 HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx",
                    b"GET /page/5 HTTP/1.1\r\nHost: a\r\n\r\n" * 100, b"\x16\x03\x01 garbage\r\n",
                )  # fmt: skip
                writer.write(pick.choice(begun))
                self.results["began and left"] += 1
                asyncio.get_running_loop().call_later(pick.random() * 8, writer.transport.abort)
            await asyncio.sleep(0.05)

    async def purges(self) -> None:
        """Changes pages, and purges them."""
        pick = random.Random(2)  # noqa: S311
        while not self.ended:
            targets = {b"/page/%d" % min(int(pick.paretovariate(0.7)), PAGES) for _ in range(3)}
            now = {}
            for target in targets:
                self.pages.version[target] += 1
                now[target] = self.pages.version[target]
            what = {"files": [f"http://{HOST.decode()}{target.decode()}" for target in targets]}
            under_way = [self.chronicle.begins(PURGE, target) for target in targets]
            try:
                status = await admin(self.port, "POST", "purge", what)
            except (OSError, asyncio.IncompleteReadError):
                self.results["purges that failed"] += 1
                continue
            for one in under_way:
                one.over()
            self.results["purges" if status[0] == 200 else f"purges, {status[0]}"] += 1
            if status[0] == 200:
                for target, version in now.items():
                    self.pages.floor[target] = max(self.pages.floor[target], version)
            await asyncio.sleep(0.05)

    async def outages(self) -> None:
        """Now and then there is no origin for a second."""
        while not self.ended:
            await asyncio.sleep(17)
            assert self.origin.listener is not None
            self.origin.listener.close()
            happening = self.chronicle.begins("no origin")
            await asyncio.sleep(1)
            await self.origin.listen()
            happening.over()
            self.results["outages"] += 1


async def admin(port: int, method: str, action: str, what: Any = None) -> tuple[int, Any]:
    """Ask the gateway's endpoint."""
    data = b"" if what is None else json.dumps(what).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(
            f"{method} /_layergate/{action} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n"
            f"Authorization: Bearer {TOKEN}\r\nContent-Length: {len(data)}\r\n\r\n".encode()
            + data
        )
        async with asyncio.timeout(30):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        if not head:
            raise ConnectionResetError("no answer")
        return int(head[9:12]), json.loads(body)
    finally:
        writer.close()


# -- what is looked at -------------------------------------------------------------------------------


class Sample:
    """Memory in MB and open files of each worker; tasks of all."""

    def __init__(self, pids: list[int], tasks: int) -> None:
        self.rss = [memory(pid) for pid in pids]
        self.files = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids]
        self.tasks = tasks


def memory(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def sample(port: int) -> Sample:
    _, stats = await admin(port, "GET", "stats")
    each = stats["workers"]["each"].values()
    pids = sorted(int(one["pid"]) for one in each)
    return Sample(pids, sum(one["tasks"] for one in each))


def grown(samples: list[Sample]) -> list[float]:
    """By how many MB each worker's memory is more in the last third of the samples than in the second
    (the first is for warming up)."""
    third = max(1, len(samples) // 3)
    growth = []
    for worker in range(len(samples[0].rss)):
        second = [one.rss[worker] for one in samples[third : 2 * third]]
        last = [one.rss[worker] for one in samples[-third:]]
        growth.append(sum(last) / len(last) - sum(second) / len(second))
    return growth


async def soak(minutes: float, clients: int, folder: Path, without: Collection[str] = ()) -> int:
    pages = Pages(without)
    origin = Origin(pages, Chronicle(), without)
    await origin.listen()
    port = free_port()
    token = folder / "token"
    token.write_text(TOKEN + "\n")
    log = folder / "log"
    with contextlib.ExitStack() as stack:
        written = stack.enter_context(log.open("w"))
        shared = []
        if "shared" not in without:
            shared = ["--shared", stack.enter_context(Valkey(folder)).url]
        command = [
            sys.executable, "-m", "layergate", "serve",
            "--upstream", f"http://127.0.0.1:{origin.port}", "--listen", f"127.0.0.1:{port}",
            "--workers", "2", "--memory", "16MB", *shared,
            "--admin-token-file", str(token), "--upstream-first-byte-timeout", "2",
            "--upstream-read-timeout", "2", "--head-timeout", "2", "--body-timeout", "2",
            "--send-timeout", "2", "--keep-alive-timeout", "5", "--upstream-idle-timeout", "5",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=written, stderr=written, cwd=ROOT)  # noqa: ASYNC220, S603
        try:
            return await watch(Soak(port, pages, origin, without), minutes, clients, log)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
            if process.poll() is None:
                process.kill()
                process.wait()


async def watch(work: Soak, minutes: float, clients: int, log: Path) -> int:
    await ready(work.port)
    before = await sample(work.port)
    tasks = [asyncio.create_task(work.client(number)) for number in range(clients)]
    kinds = {"slow": work.slow, "purges": work.purges, "outages": work.outages, "looks": work.looks}
    tasks += [asyncio.create_task(one()) for name, one in kinds.items() if name not in work.without]
    samples: list[Sample] = []
    begun = time.monotonic()
    print("    s  requests  wrong  purges  worker MB        worker files  tasks")
    while (passed := time.monotonic() - begun) < minutes * 60:
        await asyncio.sleep(min(SHOWN, minutes * 60 - passed))
        with contextlib.suppress(OSError, TimeoutError):
            samples.append(await sample(work.port))
            show(time.monotonic() - begun, work, samples[-1])
    work.end()
    for task in tasks[clients:]:
        task.cancel()
    await asyncio.wait(tasks)
    errors = [task.exception() for task in tasks if not task.cancelled()]
    faults = [repr(error) for error in errors if error is not None]
    await asyncio.sleep(9)  # idle connections, and what was abandoned, come to their ends
    after = await sample(work.port)
    show(time.monotonic() - begun, work, after)
    print("clients:", ", ".join(f"{name} {count}" for name, count in sorted(work.results.items())))
    print("origin: ", ", ".join(f"{name} {n}" for name, n in sorted(work.origin.requests.items())))
    faults += work.wrong[:10]
    growth = grown(samples)
    print("memory: ", ", ".join(f"{mb:+.1f} MB" for mb in growth), "(last third less second third)")
    for mb, was in zip(growth, samples[len(samples) // 3].rss, strict=True):
        if mb > _SPARE + _MOST_GROWTH * was:
            faults.append(f"memory grew by {mb:.1f} MB from {was:.1f} MB")
    for now, was in zip(after.files, before.files, strict=True):
        if now > was + 6:
            faults.append(f"{now} open files, {was} at the beginning")
    if after.tasks > before.tasks + 6:
        faults.append(f"{after.tasks} tasks, {before.tasks} at the beginning")
    text = log.read_text(errors="replace")  # noqa: ASYNC240 - nothing else runs any more
    if "Traceback" in text:
        at = text.index("Traceback")
        faults.append(f"a traceback in the log: {text[max(0, at - 300) : at + 3000]}")
    tell_longest(work, text, begun)
    if work.longest.seconds > _LONGEST:
        faults.append(f"a client waited for {work.longest.seconds:.1f} s")
    for name in {"hit", "purges"} - {*work.without}:
        if not work.results[name]:
            faults.append(f"there were no {name}: nothing was tested")
    for fault in faults:
        print("FAILED:", fault)
    print(f"{len(work.wrong)} wrong bodies or answers in {total(work)} requests")
    return 1 if faults else 0


def tell_longest(work: Soak, log: str, begun: float) -> None:
    """The answer that took longest, with what went on meanwhile, and what the log says of it."""
    longest = work.longest
    after = longest.asked - begun
    print(f"longest: {longest.seconds:.2f} s, asked after {after:.1f} s: {longest.asking}")
    print(f"         {longest.answer}")
    for line in work.story:
        print(f"         {line}")
    since, until = (stamp(longest.clock + more) for more in (0, longest.seconds + 0.1))
    target = repr(longest.asking.split(" ")[1]) + ":"
    said = [line for line in log.splitlines() if since <= line[:23] <= until]
    said = [line for line in said if target in line or "shared layer" in line]
    for line in said[:20]:
        print(f"         log: {line}")


def stamp(clock: float) -> str:
    """As `layergate.gateway.logs` writes it."""
    whole = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(clock))
    return f"{whole},{int(clock % 1 * 1000):03}"


def total(work: Soak) -> int:
    names = ("hit", "collapsed", "forwarded", "500", "502", "503", "504")
    return sum(work.results[name] for name in names)


def show(seconds: float, work: Soak, now: Sample) -> None:
    rss = " ".join(f"{mb:7.1f}" for mb in now.rss)
    files = " ".join(f"{count:5}" for count in now.files)
    print(
        f"{seconds:5.0f} {total(work):9} {len(work.wrong):6} {work.results['purges']:7}  {rss}  {files:>12}"
        f" {now.tasks:6}",
        flush=True,
    )


async def ready(port: int) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                _, stats = await admin(port, "GET", "stats")
                if stats["workers"]["answered"] == 2:
                    return
            await asyncio.sleep(0.1)


def kinds(given: str) -> frozenset[str]:
    """The names in ``given``. Raises argparse.ArgumentTypeError for one that is none."""
    names = frozenset(filter(None, given.split(",")))
    if names - KINDS.keys():
        raise argparse.ArgumentTypeError(f"only {', '.join(KINDS)} can be left out")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument(
        "--without", type=kinds, default=frozenset(), metavar="KIND,...",
        help="; ".join(f"{name}: {what}" for name, what in KINDS.items()),
    )  # fmt: skip
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = soak(given.minutes, given.clients, Path(folder), given.without)
        try:
            import uvloop
        except ImportError:  # Windows, PyPy
            code = asyncio.run(work)
        else:
            code = uvloop.run(work)
    sys.exit(code)


if __name__ == "__main__":
    main()
