"""A cache on a runtime that goes by steps, and requests and responses without an adapter."""

from __future__ import annotations

from typing import Any

from layergate.config import Options
from layergate.core.stack import Stack
from layergate.http.engine.cache import Cache
from layergate.http.engine.driver import Conversation, Fetch, Serve, Stream
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.feed import Feed
from layergate.http.extensions.no_vary_search import purge_label
from layergate.http.message.fields import Fields, Lines
from layergate.http.message.key import primary_key
from layergate.http.message.request import Request
from layergate.http.wire import VALUES
from layergate.layers.memory import MemoryLayer
from tests.support.steps import Steps, Walk

__all__ = ["FRESH", "PRIVATE", "Client", "World", "body_of", "lines_of", "request_for"]

FRESH = {"cache-control": "max-age=60"}
PRIVATE = {"cache-control": "private"}
HOST = b"example.org"


def lines_of(fields: dict[str, str]) -> Lines:
    return [(name.encode(), value.encode()) for name, value in fields.items()]


def request_for(path: str = "/", method: str = "GET", **fields: str) -> Request:
    """``fields``: names with an underscore for the hyphen."""
    raw, _, query = path.encode().partition(b"?")
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return Request(
        method=method,
        scheme="http",
        host=HOST,
        path=raw.decode(),
        key=primary_key("http", HOST, raw.decode(), raw, query),
        fields=Fields([(b"host", HOST), *lines_of(named)]),
        has_body=False,
        obey_directives=True,
    )


def body_of(step: Serve | Stream) -> bytes:
    """All of a body that is at hand, or that has come to its end."""
    if isinstance(step, Serve):
        return bytes(step.response.body[: len(step.response.body)])
    with step.reader:
        parts = []
        while not step.reader.at_end:
            part = step.reader.take()
            assert part, "the body has not come to its end"
            parts.append(part)
        return b"".join(parts)


class Client:
    """One request and where it has come to."""

    def __init__(self, world: World, request: Request) -> None:
        self._steps = world.steps
        self.request = request
        self.conversation = Conversation(world.cache, request)
        self.walk: Walk = self._steps.begin(self.conversation.next())

    @property
    def waits(self) -> bool:
        return not self.walk.done()

    @property
    def step(self) -> Any:
        return self.walk.result

    @property
    def fetch(self) -> Fetch:
        step = self.step
        assert isinstance(step, Fetch), step
        return step

    @property
    def served(self) -> Serve:
        step = self.step
        assert isinstance(step, Serve), step
        return step

    def again(self) -> None:
        self.walk = self._steps.begin(self.conversation.again())


class World:
    """A cache, its clock, and what is fed into it."""

    def __init__(self, layers: int = 1, **options: Any) -> None:
        self.steps = Steps()
        clock = self.steps.now
        stack = Stack(
            [MemoryLayer("1MB", clock=clock, name=f"memory{n}") for n in range(layers)],
            runtime=self.steps,
            label=purge_label,
            values=VALUES,
        )
        self.events: list[tuple[str, dict[str, Any]]] = []
        stack.counters.observe(hooks=[lambda event, facts: self.events.append((event, facts))])
        self.cache = Cache(stack, Options.of(options))

    def ask(self, path: str = "/", method: str = "GET", **fields: str) -> Client:
        """A request, as far as it goes without waiting."""
        return Client(self, request_for(path, method, **fields))

    def feed(self, exchange: Exchange, *, token: bool = False) -> Feed:
        return Feed(self.cache, exchange, lambda: token)

    def respond(
        self, exchange: Exchange, status: int, fields: dict[str, str], *parts: bytes
    ) -> Feed:
        """Feed a whole response; without a length, as a list would come under WSGI."""
        feed = self.feed(exchange)
        now = self.steps.now_done
        now(feed.head(status, lines_of(fields)))
        for number, part in enumerate(parts or (b"",)):
            now(feed.part(part, more=number < len(parts) - 1))
        now(feed.end())
        self.steps.run()
        return feed

    def store(self, fields: dict[str, str], body: bytes = b"stored", path: str = "/") -> None:
        self.respond(self.ask(path).fetch.exchange, 200, fields, body)
        assert self.stats["layers"]["memory0"]["entries"] >= 1

    @property
    def stats(self) -> dict[str, Any]:
        return self.cache.stats()

    def count(self, event: str, **facts: object) -> int:
        return sum(name == event and facts.items() <= told.items() for name, told in self.events)

    def assert_nothing_left(self) -> None:
        assert self.stats["flights"] == 0
        assert self.stats["waiters"] == 0
        assert self.stats["inflight_bytes"] == 0
