"""Rows: a request that comes while the origin works on another one (G1, G2)."""

from __future__ import annotations

from typing import Any

from tests.scenarios.model import Step
from tests.scenarios.table import AUTH, COOKIE, DAY, TWO, WEEK, fetch, hit, ok, row, rule

JOINED = {"collapsed": True, "fwd": "uri-miss"}
APART = {"collapsed": None}
FRESH = ok("max-age=60")


def joined(content: bytes, **kw: object) -> Step:
    """It gets what the other one's fetch brings."""
    return Step(content=content, cs=JOINED, **kw)  # type: ignore[arg-type]


row("together-shared", "G2", fetch(FRESH, meanwhile=joined(b"one")), hit(b"one"))
row("together-not-with-authorization", "G1", fetch(FRESH, meanwhile=fetch(TWO, AUTH, cs=APART)))
# A lifetime that is a guess is for clients without credentials, also while the response is under way.
GUESSED = ok(None, WEEK, DAY)
row(
    "together-guessed-not-with-a-cookie",
    "4.2.2, G1",
    fetch(GUESSED, meanwhile=fetch(ok(None, WEEK, DAY, body=b"alice"), COOKIE, cs=APART)),
    hit(b"one"),
    heuristic=0.1,
)
row("together-guessed", "4.2.2", fetch(GUESSED, meanwhile=joined(b"one")), heuristic=0.1)
row(
    "together-rule-not-with-a-cookie",
    "G1",
    fetch(ok(), meanwhile=fetch(ok(body=b"alice"), COOKIE, cs=APART)),
    hit(b"one"),
    rules=rule(ttl=60),
)
# A fetch that has stood still for longer than anybody waits is not joined.
LATE: dict[str, Any] = {"collapse_timeout": 30}
row("together-after-30-s", "G2", fetch(FRESH, meanwhile=joined(b"one", advance=30)), **LATE)
row(
    "together-not-after-31-s",
    "G2",
    fetch(FRESH, meanwhile=fetch(TWO, cs=APART, advance=31)),
    hit(b"two"),
    **LATE,
)
