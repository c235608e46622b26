"""G8, streaming: what is forwarded as it is."""

from __future__ import annotations

from tests.scenarios.dsl import TWO, fetch, ok, row, rule

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("event-stream", "G8", fetch(ok(None, ("Content-Type", "text/event-stream"))),
    fetch(ok(None, ("Content-Type", "text/event-stream"))), rules=rule(ttl=60))
row("upgrade-passes", "G8", fetch(ok("max-age=60")),
    fetch(TWO, ("Upgrade", "foo"), ("Connection", "upgrade"), cs={"fwd": "bypass", "detail": "upgrade"}))
