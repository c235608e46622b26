"""The table of scenarios, through the ASGI middleware."""

from __future__ import annotations

import asyncio
import contextlib
from urllib.parse import unquote

import pytest

from layergate import Admin, HttpCache, LayerGate, MemoryLayer, Rule
from layergate.runtime.loop import LoopRuntime
from tests.scenarios.checks import OriginFailed, Seen, check_step
from tests.scenarios.model import START, TOKEN, Reply, Scenario, Step
from tests.scenarios.table import SCENARIOS


class Clock(LoopRuntime):
    """An asyncio runtime whose time is set by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.time = float(START)

    def now(self) -> float:  # type: ignore[override]
        return self.time


class Origin:
    """An ASGI app that answers from a step's script."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.script: list[Reply] = []
        self.seen: list[list[tuple[str, str]]] = []
        self.gate: asyncio.Event | None = None

    async def __call__(self, scope, receive, send) -> None:
        self.seen.append([(n.decode("latin-1"), v.decode("latin-1")) for n, v in scope["headers"]])
        reply = self.script.pop(0) if self.script else Reply(599, body=b"unexpected call")
        if self.gate is not None:
            await self.gate.wait()
        self.clock.time += reply.takes
        if reply.raises:
            raise OriginFailed
        headers = [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in reply.lines]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        body = b"" if scope["method"] == "HEAD" else reply.body
        size = -(-len(body) // reply.chunks)
        parts = [body[i : i + size] for i in range(0, len(body), size)] if size else [b""]
        for number, part in enumerate(parts, 1):
            more = number < len(parts)
            await send({"type": "http.response.body", "body": part, "more_body": more})


# A field that occurs twice keeps a request off `Cache.peek`: whatever the hit path answers, the way
# through `Cache.open` answers the same.
TWICE = [(b"x-twice", b"1"), (b"x-twice", b"2")]


def scope_of(step: Step, extra: list) -> dict:
    path, _, query = step.target.partition("?")
    headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in step.headers]
    if not any(name == b"host" for name, _ in headers):
        headers.insert(0, (b"host", b"example.org"))
    headers += extra
    if step.body:
        headers.append((b"content-length", b"%d" % len(step.body)))
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": step.method,
        "scheme": step.scheme,
        "path": unquote(path),
        "raw_path": path.encode("latin-1"),
        "query_string": query.encode("latin-1"),
        "root_path": "",
        "headers": headers,
        "client": ("192.0.2.1", 4711),
        "server": ("example.org", 80),
    }


async def ask(app: LayerGate, step: Step, extra: list) -> Seen:
    status: int | None = None
    lines: list[tuple[str, str]] = []
    body: list[bytes] = []
    asked = False

    async def receive():
        nonlocal asked
        if asked:
            await asyncio.Event().wait()
        asked = True
        return {"type": "http.request", "body": step.body, "more_body": False}

    async def send(message):
        nonlocal status
        if message["type"] == "http.response.start":
            assert status is None, "two heads"
            status = message["status"]
            lines.extend((n.decode("latin-1"), v.decode("latin-1")) for n, v in message["headers"])
        elif message["type"] == "http.response.body":
            body.append(bytes(message.get("body", b"")))

    with contextlib.suppress(OriginFailed):
        await app(scope_of(step, extra), receive, send)
    return Seen(status, lines, b"".join(body))


@pytest.mark.parametrize("extra", [[], TWICE], ids=["", "off-hit-path"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.id)
async def test_scenario(scenario: Scenario, extra: list) -> None:
    clock = Clock()
    layer = MemoryLayer("4MB", clock=clock.now)
    rules = [Rule(**rule) for rule in scenario.rules]
    cache = HttpCache(
        runtime=clock, layers=[layer], rules=rules, admin=Admin(token=TOKEN), **scenario.options
    )
    origin = Origin(clock)
    app = LayerGate(origin, cache=cache)
    for number, step in enumerate(scenario.steps, 1):
        clock.time += step.advance
        origin.script = [*step.origin, *([] if step.refresh is None else [step.refresh])]
        origin.seen = []
        if step.concurrent == 1:
            answers = [await ask(app, step, extra)]
        else:
            origin.gate = asyncio.Event()
            tasks = [asyncio.create_task(ask(app, step, extra)) for _ in range(step.concurrent)]
            for _ in range(20):  # until each of them waits, for the origin or for another one
                await asyncio.sleep(0)
            origin.gate.set()
            answers = list(await asyncio.gather(*tasks))
            origin.gate = None
        await cache.aclose()
        check_step(f"{scenario.id}, step {number} ({scenario.rfc})", step, answers, origin.seen)


def test_ids_are_unique() -> None:
    ids = [scenario.id for scenario in SCENARIOS]
    assert len(ids) == len(set(ids))
    assert len(ids) >= 200
