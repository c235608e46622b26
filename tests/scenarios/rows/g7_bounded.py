"""G7, bounded: lengths of keys and bodies."""

from __future__ import annotations

from tests.scenarios.dsl import fetch, ok, row

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("body-over-cap", "G7", fetch(ok("max-age=60", body=b"x" * 2000)),
    fetch(ok("max-age=60", body=b"y" * 2000)), max_body=1000)
row("key-too-long", "G7", *(fetch(ok("max-age=60"), target="/" + "x" * 300,
                                  cs={"detail": "key-too-long"}) for _ in range(2)), max_key_length=200)
