"""What the verbs of the engine work with: one record, passed to each of them.

`Cache` makes it, and replaces it as a whole when options are reloaded. No verb keeps one.
"""

from __future__ import annotations

from dataclasses import dataclass

from layergate.core.events import Counters
from layergate.core.flight import Flights
from layergate.core.ports import Runtime
from layergate.core.stack import Stack
from layergate.http.engine.admission import Admission
from layergate.http.engine.budget import Budget
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.learned import Learned
from layergate.http.engine.settings import Settings

__all__ = ["Engine"]


@dataclass(frozen=True, slots=True)
class Engine:
    """``runtime`` and ``counters`` are those of the stack, ``top`` is the name of its top layer.
    ``flights``: the fetches under way that requests may join."""

    stack: Stack
    settings: Settings
    runtime: Runtime
    counters: Counters
    top: str
    flights: Flights[Exchange]
    budget: Budget
    admission: Admission
    learned: Learned

    @classmethod
    def of(cls, stack: Stack, settings: Settings) -> Engine:
        runtime = stack.runtime
        return cls(
            stack=stack,
            settings=settings,
            runtime=runtime,
            counters=stack.counters,
            top=stack.layers[0].name,
            flights=Flights(runtime),
            budget=Budget(runtime),
            admission=Admission(stack),
            learned=Learned(runtime),
        )
