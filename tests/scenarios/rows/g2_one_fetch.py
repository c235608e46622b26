"""G2, one fetch: requests that share a fetch, and those that do not."""

from __future__ import annotations

from typing import Any

from tests.scenarios.dsl import (
    AUTH,
    COOKIE,
    DAY,
    FAIL,
    OLD,
    SIE,
    TWO,
    VARY,
    WEEK,
    fetch,
    field,
    hit,
    ok,
    row,
    rule,
    unchanged,
)
from tests.scenarios.model import Step

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# -- equal requests at once ------------------------------------------------------------------------

row("collapse", "4, G2", Step(concurrent=5, origin=(ok("max-age=60"),), content=b"one", cs={}), hit())
row("collapse-chunks", "G8",
    Step(concurrent=5, origin=(ok("max-age=60", body=b"0123456789", chunks=4),),
         content=b"0123456789", cs={}))
row("collapse-not-shareable", "G4",
    Step(concurrent=3, origin=(ok("no-store"),) * 3, content=b"one", cs={}))
row("collapse-vary", "4.1", Step(concurrent=3, headers=field("1"), origin=(ok("max-age=60", *VARY),),
                                 content=b"one", cs={}), fetch(TWO, *field("2")))
row("collapse-validation", "4.3", fetch(OLD),
    Step(concurrent=4, advance=10, origin=(unchanged("max-age=60"),), content=b"one", cs={}), hit())
row("collapse-set-cookie", "G1",
    Step(concurrent=3, origin=(ok("max-age=60", ("Set-Cookie", "a=b")),) * 3, content=b"one", cs={}))
row("collapse-sie", "RFC 5861 4", fetch(ok(SIE)),
    Step(concurrent=3, advance=20, origin=(FAIL,), content=b"one", cs={}))
row("collapse-authorization", "3.5",
    Step(concurrent=2, headers=(AUTH,), origin=(ok("public, max-age=60"),) * 2, content=b"one", cs={}))
row("collapse-off", "4, G2", Step(concurrent=3, origin=(ok("max-age=60"),) * 3, content=b"one", cs={}),
    collapse=False)

# -- a request that comes while the origin works on another one ------------------------------------

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
