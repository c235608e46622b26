"""``layergate init URL`` and ``layergate check URL``: what a shared system needs, has, and promises."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from layergate.assembly import CacheStack
from layergate.cli.client import Unreachable, UsageError
from layergate.cli.text import printable
from layergate.errors import ConfigError, LayerError
from layergate.layers.schemes import layer_of, shown_url
from layergate.shared.capabilities import Capabilities
from layergate.shared.layer import SystemLayer

__all__ = ["add", "run_check"]

_VARIABLE: Final = "LAYERGATE_SHARED"
_KEY: Final = "layergate check"
_BODY: Final = b"x" * 1024
_PURGES: Final = 5
# Seconds: the first purge of a new log takes that long.
_DISCONNECTED: Final = 1.0
_DEFAULT: Final = 5.0  # of max_disconnected


def add(commands: Any) -> None:
    """Add ``init``. (``check`` is the gateway's too: see `layergate.cli.serve`.)"""
    init: argparse.ArgumentParser = commands.add_parser(
        "init",
        help="make the tables and indexes that a shared system needs",
        description="Make what LayerGate needs in a shared system: tables, indexes. What is there stays."
        f" Without a URL: the one in ${_VARIABLE}, because others can read a command line.",
    )
    init.add_argument("url", metavar="URL", nargs="?", help="as in shared=URL")
    init.set_defaults(run=run_init)


def run_init(arguments: argparse.Namespace) -> int:
    """Raises UsageError, Unreachable."""
    url = arguments.url or os.environ.get(_VARIABLE)
    if not url:
        raise UsageError(f"init needs a URL, as an argument or in ${_VARIABLE}")
    layer = _layer(url)
    try:
        made = layer.setup()
    except (ConfigError, LayerError, OSError) as error:
        raise Unreachable(f"{shown_url(url)}: {error}") from error
    for sentence in made or ("There is nothing to make.",):
        print(printable(sentence))
    return 0


class _Found(NamedTuple):
    """What was found out. Times in seconds; None: it failed, and ``problems`` says why."""

    system: str
    url: str
    capabilities: Capabilities | None
    idle: int | None  # calls an hour
    problems: tuple[str, ...]
    stored: float | None
    purges: tuple[float, ...]

    def as_data(self) -> dict[str, Any]:
        return {
            "system": self.system,
            "url": self.url,
            "usable": not self.problems,
            "problems": self.problems,
            "idle_calls_an_hour": self.idle,
            "capabilities": None if self.capabilities is None else self.capabilities._asdict(),
            "stored_seconds": self.stored,
            "final_purge_seconds": self.purges,
        }


def run_check(url: str, *, as_json: bool) -> int:
    """Print what is missing in a system, what it promises, and how long an entry and a purge take. Uses a
    namespace of its own. Returns the exit status: 0, or 1 if something is missing.

    Raises UsageError.
    """
    found = _found(url)
    if as_json:
        print(json.dumps(found.as_data(), indent=2))
    else:
        for line in _lines(found):
            print(printable(line))
    return 1 if found.problems else 0


def _layer(url: str) -> SystemLayer:
    """Raises UsageError."""
    nothing = "this shared layer needs no preparation, and has nothing to be checked"
    if url.partition(":")[0].lower() == "host":
        raise UsageError(nothing)
    try:
        # Not that of the app: what is tried here must not meet its entries.
        layer = layer_of(
            url,
            namespace="layergate-check",
            timeout=2.0,
            connect_timeout=5.0,
            max_disconnected=_DISCONNECTED,
        )
    except ConfigError as error:
        raise UsageError(str(error)) from error
    if not isinstance(layer, SystemLayer):
        raise UsageError(nothing)
    return layer


def _found(url: str) -> _Found:
    layer = _layer(url)
    logging.getLogger("layergate").addHandler(logging.NullHandler())  # it is said below
    capabilities = layer.capabilities
    idle = None if capabilities is None else capabilities.idle_calls(_DEFAULT)
    problems: list[str] = []
    stored: float | None = None
    purges: Sequence[float] = ()
    try:
        problems += layer.examine()
        if not problems:
            stored, purges = asyncio.run(_tried(layer))
    except Exception as error:  # a client library may raise anything
        problems.append(f"{error}" or repr(error))
    return _Found(
        layer.name, shown_url(url), capabilities, idle, tuple(problems), stored, tuple(purges)
    )


async def _tried(layer: SystemLayer) -> tuple[float, Sequence[float]]:
    """Seconds for an entry to be stored and read back, and for purges to be final. Raises LayerError."""
    stack = CacheStack([layer], write_policy="strict", layer_timeout=10.0)
    try:
        log: Any = stack.shared_log
        await log.refresh(probe=True)  # raises what `join` would only log
        await stack.join()
        await stack.set(_KEY, _BODY, ttl=60, tags=["check"])  # in a new log this takes its time
        began = time.perf_counter()
        await stack.set(_KEY, _BODY, ttl=60, tags=["check"])
        if await stack.get(_KEY) != _BODY:
            raise LayerError(layer.name, "an entry that was stored cannot be read back")
        stored = time.perf_counter() - began
        purges = []
        for _ in range(_PURGES):
            began = time.perf_counter()
            receipt = await stack.invalidate_by_tag("check")
            if not receipt.final:
                raise LayerError(layer.name, "a purge was not final")
            purges.append(time.perf_counter() - began)
        await layer.clear()
        return stored, purges
    finally:
        await stack.aclose()


def _lines(found: _Found) -> Sequence[str]:
    lines = [f"{found.url} ({found.system})"]
    told = found.capabilities
    if found.stored is not None:
        lines.append(f"  an entry      stored and read back in {found.stored * 1000:.1f} ms")
        middle = sorted(found.purges)[len(found.purges) // 2]
        lines.append(f"  a purge       final after {middle * 1000:.1f} ms, with no other instance")
    if told is not None:
        one = "one fetch for all instances" if told.leases else "each instance fetches for itself"
        lines.append(f"  misses        {one}")
        if told.final_after is None:
            lines.append(f"  purges        never final: up to {told.staleness:g} s stale")
        else:
            lines.append(
                f"  purges        final within {told.final_after}; woken by {told.woken_by}"
            )
        lines.append(f"  when idle     {found.idle:,} calls an hour for each process")
        for number, one in enumerate(told.uncovered):
            lines.append(f"  {'' if number else 'not covered':<13} {one}")
    lines += [f"  problem: {problem}" for problem in found.problems]
    return lines
