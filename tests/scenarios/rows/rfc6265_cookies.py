"""RFC 6265, HTTP State Management Mechanism: requests with cookies."""

from __future__ import annotations

from tests.scenarios.dsl import fetch, hit, ok, row

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("cookie-request", "RFC 6265", fetch(ok("max-age=60")), hit(b"one", ("Cookie", "a=b")))
row("cookie-request-stores", "RFC 6265", fetch(ok("max-age=60"), ("Cookie", "a=b")), hit())
