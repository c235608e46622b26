"""Layers that fail, wait or answer later, and a runtime whose clock stands still."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from layergate.core.entry import Entry
from layergate.core.layer import Key


class Boom(Exception):
    """What failing layers and fetches raise."""


class DictLayer:
    """A dict. ``fail``: operations that raise. ``later``: answer with awaitables. ``gates``:
    operation -> event to wait for before answering (implies an awaitable)."""

    def __init__(self, name: str = "low", *, later: bool = False, ttl: float | None = None) -> None:
        self.name = name
        self.later = later
        self.ttl = ttl
        self.data: dict[Key, Entry] = {}
        self.fail: set[str] = set()
        self.gates: dict[str, asyncio.Event] = {}
        self.calls: Counter[str] = Counter()

    def _answer(self, operation: str, value: Any) -> Any:
        self.calls[operation] += 1
        if operation in self.fail:
            raise Boom(operation)
        gate = self.gates.get(operation)
        if gate is None and not self.later:
            return value()
        return self._answer_later(operation, gate, value)

    async def _answer_later(self, operation: str, gate: asyncio.Event | None, value: Any) -> Any:
        if gate is not None:
            await gate.wait()
        else:
            await asyncio.sleep(0)
        return value()

    def get(self, key: Key) -> Any:
        return self._answer("get", lambda: self.data.get(key))

    def get_many(self, keys: Sequence[Key]) -> Any:
        return self._answer("get_many", lambda: {k: self.data[k] for k in keys if k in self.data})

    def set(self, key: Key, entry: Entry) -> Any:
        # What is written is a copy, as on a wire: nothing but the fields travels.
        copy = entry.clipped(entry.fresh_until)
        return self._answer("set", lambda: self.data.__setitem__(key, copy))

    def delete(self, key: Key) -> Any:
        return self._answer("delete", lambda: self.data.pop(key, None) is not None)

    def clear(self) -> Any:
        return self._answer("clear", self.data.clear)

    def stats(self) -> Mapping[str, int | float]:
        if "stats" in self.fail:
            raise Boom("stats")
        return {"entries": len(self.data)}


class TopLayer(DictLayer):
    """One that can be peeked."""

    def __init__(self, name: str = "top", *, ttl: float | None = None) -> None:
        super().__init__(name, ttl=ttl)

    def peek(self, key: Key) -> Entry | None:
        if "peek" in self.fail:
            raise Boom("peek")
        return self.data.get(key)


class Source:
    """A fetch that counts its calls. ``gate``: it waits there. ``error``: it raises that."""

    def __init__(self, *values: Any) -> None:
        self.values = list(values)
        self.calls = 0
        self.gate: asyncio.Event | None = None
        self.error: BaseException | None = None
        self.running = 0

    def close_gate(self) -> asyncio.Event:
        self.gate = asyncio.Event()
        return self.gate

    async def __call__(self) -> Any:
        self.calls += 1
        number = self.calls
        gate, error = self.gate, self.error
        self.running += 1
        try:
            if gate is not None:
                await gate.wait()
        finally:
            self.running -= 1
        if error is not None:
            raise error
        return self.values[number - 1] if number <= len(self.values) else number


class Events:
    """A hook that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, facts: dict[str, Any]) -> None:
        self.seen.append((event, facts))

    def names(self) -> list[str]:
        return [name for name, _ in self.seen]

    def of(self, name: str) -> list[dict[str, Any]]:
        return [facts for event, facts in self.seen if event == name]
