"""The explanation that is being written: what it is about, and the steps so far.

`walk.explain` makes one `Trace` and gives it to the functions of this package, which add steps to it.
They read the engine, and change nothing in it.
"""

from __future__ import annotations

from typing import Any

from layergate.http.engine.engine import Engine
from layergate.http.engine.settings import Settings
from layergate.http.explain.report import Conclusion, Explanation, Step, section
from layergate.http.explain.wording import REMEDIES
from layergate.http.message.key import target_of
from layergate.http.message.request import Request
from layergate.http.rfc9111.storing import Bypass, NotStored
from layergate.http.rules import Match

__all__ = ["Trace"]


class Trace:
    """An explanation of ``request``.

    ``live``   False for an engine that was made for this explanation and holds nothing.
    ``now``    when the explanation began, in seconds since the epoch.
    ``match``  the rule that covers the request, once it is known.
    """

    __slots__ = ("_steps", "engine", "live", "match", "now", "request")

    def __init__(self, engine: Engine, request: Request, *, live: bool) -> None:
        self.engine = engine
        self.request = request
        self.live = live
        self.now = engine.runtime.now()
        self.match: Match | None = None
        self._steps: list[Step] = []

    @property
    def settings(self) -> Settings:
        return self.engine.settings

    def add(
        self,
        name: str,
        outcome: str,
        rfc: str,
        text: str,
        good: bool | None = None,
        **data: Any,
    ) -> None:
        """Add a `Step`. ``rfc``: its source, in the form of `NotStored.rfc`."""
        self._steps.append(Step(name, outcome, section(rfc), text, good, data))

    def add_reason(self, name: str, reason: Bypass | NotStored, **data: Any) -> None:
        """Add a step whose outcome is ``reason``, with the remedy if there is one."""
        remedy = REMEDIES.get(reason.not_stored if isinstance(reason, Bypass) else reason)
        if remedy is not None:
            data["remedy"] = remedy
        self.add(name, reason.token, reason.rfc, reason.explain, False, **data)

    def concluded(self, conclusion: Conclusion) -> Explanation:
        """The finished explanation."""
        request = self.request
        return Explanation(request.method, target_of(request.key), tuple(self._steps), conclusion)
