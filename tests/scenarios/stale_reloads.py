"""Scenarios: what is stale is not answered from the store in the pause between two reloads
(``reload_pause``), whatever has made it stale."""

from __future__ import annotations

from tests.scenarios.model import Step
from tests.scenarios.table import (
    ETAG,
    FAIL,
    SOFT,
    SOFT_TAG,
    TWO,
    cc,
    fetch,
    instead,
    ok,
    row,
    unchanged,
    validated,
)

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

G = "4.2.4, 5.2.1.4"
NO_CACHE = cc("no-cache")
STALE = {"fwd": "stale", "detail": None}

for name, more in (("plain", ""), ("swr", ", stale-while-revalidate=600"), ("sie", ", stale-if-error=600"),
                   ("must-revalidate", ", must-revalidate")):
    old = f"max-age=10{more}"
    # By time: the pause is longer than the lifetime.
    row(f"stale-reload-{name}", G, fetch(ok(old, ETAG)), validated(unchanged(old), b"one", NO_CACHE),
        validated(unchanged(old), b"one", NO_CACHE, advance=10, cs=STALE), reload_pause=60)
    # By a soft purge.
    row(f"stale-reload-purged-{name}", "G3", fetch(ok(f"max-age=60{more}", ETAG, SOFT_TAG)), validated(unchanged(), b"one", NO_CACHE),
        SOFT, fetch(TWO, NO_CACHE, cs=STALE), reload_pause=60)
# A reload that failed is one, too, and what it was for is as stale as before.
row("stale-reload-failed", G, fetch(ok("max-age=10, stale-if-error=600", ETAG)), instead(b"one", FAIL, NO_CACHE, advance=20),
    instead(b"one", FAIL, NO_CACHE), fetch(TWO, NO_CACHE, cs=STALE), reload_pause=60)
row("stale-reload-failed-must-revalidate", G, fetch(ok("max-age=10, must-revalidate", ETAG)),
    Step(headers=(NO_CACHE,), advance=20, origin=(FAIL,), status=503, content=FAIL.body, cs={"fwd": "stale"}),
    fetch(TWO, NO_CACHE, cs=STALE), reload_pause=60)
