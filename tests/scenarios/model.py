"""What a scenario is made of. Data only, and nothing of ASGI or WSGI: see `dsl`, `rows`, and the runners.

Header lines are (name, value) strings, latin-1, in order, duplicates kept; times are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

START = 1_700_000_000
"""When every scenario's clock begins, seconds since the epoch."""

TOKEN = "s3cret"

Lines = tuple[tuple[str, str], ...]


def at(seconds: float) -> str:
    """The HTTP-date so many seconds after the scenario began."""
    return formatdate(START + seconds, usegmt=True)


@dataclass(frozen=True)
class Reply:
    """What the scripted origin answers to one call; or ``raises`` before it answers, or is ``lost``:
    its connection is."""

    status: int = 200
    lines: Lines = ()
    body: bytes = b"one"
    raises: bool = False
    lost: bool = False
    takes: float = 0.0
    """How far the clock moves while the origin thinks."""
    chunks: int = 1
    """In how many parts the body comes."""


@dataclass(frozen=True)
class Step:
    """One request (or ``concurrent`` equal ones at once), and what is expected of it."""

    # The request.
    method: str = "GET"
    target: str = "/"
    headers: Lines = ()
    body: bytes = b""
    scheme: str = "http"
    advance: float = 0.0
    """How far the clock is set forward before the request."""
    concurrent: int = 1
    # The origin's script: its answers to the calls expected while the client waits, in order. None
    # at all: it must not be called. ``refresh``: its answer to the one call in the background.
    origin: tuple[Reply, ...] = ()
    refresh: Reply | None = None
    # Another request, which comes while the origin works on this one. What it says of the origin and
    # of its client is about itself alone. None: none comes.
    meanwhile: Step | None = None
    # What the client gets.
    status: int | None = 200
    """None: the origin's exception."""
    content: bytes | None = None
    """None: not looked at."""
    has: Mapping[str, str | None] = field(default_factory=dict)
    """Fields by name: the combined value. None: the field is absent."""
    lines: Lines | None = None
    """If given, all lines but Cache-Status and Age, as a multiset."""
    cs: Mapping[str, Any] | None = None
    """Parameters of our member of Cache-Status, which is the last: True for a bare one, an int, or
    text. None: absent. Parameters not named are not looked at. ``cs=None``: there is no member."""
    members: int = 1
    """How many members Cache-Status has. 0: not looked at."""
    # What the origin saw of the request, in its last call of this step; None: absent.
    saw: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Scenario:
    """Steps on one fresh cache. ``options`` and ``rules`` are keyword arguments of `HttpCache` and
    of `Rule`; there is an `Admin` whose token is `TOKEN`."""

    id: str
    rfc: str
    steps: tuple[Step, ...]
    rules: tuple[Mapping[str, Any], ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
