"""RFC 8246, HTTP Immutable Responses."""

from __future__ import annotations

from tests.scenarios.dsl import ETAG, IMM, INM, cc, cdn, fetch, hit, ok, row, unchanged, validated

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("immutable-stale", "RFC 8246 2", fetch(ok("max-age=60, immutable", ETAG)),
    hit(advance=59), validated(unchanged(), advance=1))
row("immutable-reload", "RFC 8246 2", fetch(IMM), hit(b"one", cc("max-age=0"), advance=5))
row("immutable-reload-304", "RFC 8246 2", fetch(IMM),
    hit(b"", cc("max-age=0"), INM, status=304))
row("immutable-force-reload", "RFC 8246 2", fetch(IMM),
    validated(unchanged(), b"one", cc("no-cache")),
    validated(unchanged(), b"one", cc("no-cache, max-age=0"), advance=2),
    validated(unchanged(), b"one", ("Pragma", "no-cache"), advance=2))
row("immutable-reload-stale", "RFC 8246 2", fetch(IMM),
    validated(unchanged(), b"one", cc("max-age=0"), advance=60))
row("immutable-reload-no-cache", "RFC 8246 2", fetch(ok("no-cache, immutable", ETAG)),
    validated(unchanged(), b"one", cc("max-age=0")))
row("immutable-cdn", "RFC 8246 2", fetch(ok(None, cdn("max-age=60, immutable"), ETAG)),
    hit(b"one", cc("max-age=0")))
