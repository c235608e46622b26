"""RFC 9111 section 5.2.1, Request Directives."""

from __future__ import annotations

from tests.scenarios.dsl import (
    DAY,
    ETAG,
    IMM,
    LM,
    OLD,
    TEN_MINUTES,
    TWO,
    cc,
    fetch,
    hit,
    ok,
    row,
    unchanged,
    validated,
)
from tests.scenarios.model import Step, at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("immutable-older", "5.2.1.1", fetch(IMM), validated(unchanged(), b"one", cc("max-age=3"), advance=5))
row("mutable-reload", "5.2.1.1", fetch(OLD), validated(unchanged(), b"one", cc("max-age=0")))
AGED = ok("max-age=600", ("Age", "300"))
row("req-no-cache", "5.2.1.4", fetch(ok("max-age=60")), fetch(TWO, cc("no-cache"), cs={"fwd": "request"}),
    hit(b"two"))
row("req-no-cache-etag", "5.2.1.4", fetch(TEN_MINUTES),
    validated(unchanged(), b"one", cc("no-cache"), saw={"if-none-match": '"abc"'},
              cs={"fwd": "request"}), hit())
row("req-no-cache-lm", "5.2.1.4", fetch(ok("max-age=600", LM, DAY)),
    validated(unchanged(), b"one", cc("no-cache"), saw={"if-modified-since": at(-1000)}))
row("req-no-cache-case", "5.2", fetch(ok("max-age=60")), fetch(TWO, cc("No-Cache")))
row("req-max-age-0", "5.2.1.1", fetch(TEN_MINUTES), validated(unchanged(), b"one", cc("max-age=0"), advance=1))
row("req-max-age-0-at-once", "5.2.1.1", fetch(TEN_MINUTES), validated(unchanged(), b"one", cc("max-age=0")))
row("req-max-age", "5.2.1.1", fetch(TEN_MINUTES), hit(b"one", cc("max-age=10"), advance=9),
    validated(unchanged(), b"one", cc("max-age=10"), advance=2, cs={"fwd": "request"}))
# "a response whose age is less than or equal to the specified number of seconds"
row("req-max-age-equal", "5.2.1.1", fetch(TEN_MINUTES), hit(b"one", cc("max-age=10"), advance=10))
row("req-max-age-aged", "5.2.1.1", fetch(AGED), hit(b"one", cc("max-age=301")),
    fetch(TWO, cc("max-age=299")))
row("req-max-age-larger", "5.2.1.1", fetch(OLD), hit(b"one", cc("max-age=999"), advance=9),
    validated(unchanged(), b"one", cc("max-age=999"), advance=1, cs={"fwd": "stale"}))
row("req-max-age-invalid", "5.2.1.1", fetch(TEN_MINUTES), hit(b"one", cc("max-age=x")))
row("req-min-fresh", "5.2.1.3", fetch(TEN_MINUTES), hit(b"one", cc("min-fresh=600")),
    hit(b"one", cc("min-fresh=590"), advance=10),
    validated(unchanged(), b"one", cc("min-fresh=591"), cs={"fwd": "request"}))
row("req-min-fresh-aged", "5.2.1.3", fetch(AGED), hit(b"one", cc("min-fresh=300")),
    fetch(TWO, cc("min-fresh=301")))
row("req-max-stale", "5.2.1.2", fetch(OLD),
    hit(b"one", cc("max-stale=20"), advance=30, cs={"ttl": -20}, has={"age": "30"}),
    validated(unchanged(), b"one", cc("max-stale=20"), advance=1))
row("req-max-stale-any", "5.2.1.2", fetch(OLD),
    hit(b"one", cc("max-stale"), advance=1000, cs={"ttl": -990}))
row("req-max-stale-aged", "5.2.1.2", fetch(ok("max-age=1500", ("Age", "2000"), ETAG)),
    hit(b"one", cc("max-stale=1000"), cs={"ttl": -500}))
row("req-max-stale-invalid", "5.2.1.2", fetch(OLD),
    validated(unchanged(), b"one", cc("max-stale=x"), advance=30))
for name in ("must-revalidate", "proxy-revalidate", "s-maxage=10"):
    row(f"req-max-stale-{name}", "4.2.4", fetch(ok(f"max-age=10, {name}", ETAG)),
        validated(unchanged(), b"one", cc("max-stale"), advance=11))
row("req-max-stale-no-cache", "4.2.4", fetch(ok("max-age=10, no-cache", ETAG)),
    validated(unchanged(), b"one", cc("max-stale"), advance=11))
row("req-max-age-max-stale", "5.2.1.2", fetch(OLD),
    hit(b"one", cc("max-age=5, max-stale=10"), advance=9),
    hit(b"one", cc("max-age=99, max-stale=10"), advance=10),
    validated(unchanged(), b"one", cc("max-age=5, max-stale=10")))
row("req-max-stale-beats-window", "5.2.1.2",
    fetch(ok("max-age=10, stale-while-revalidate=60", ETAG)),
    validated(unchanged(), b"one", cc("max-stale=1"), advance=20))
# RFC 5861 3: inside the window "the cache SHOULD attempt to revalidate it while still serving".
row("req-max-stale-in-window", "RFC 5861 3",
    fetch(ok("max-age=10, stale-while-revalidate=60")),
    Step(headers=(cc("max-stale=30"),), advance=20, content=b"one", refresh=TWO,
         cs={"hit": True, "ttl": -10}),
    hit(b"two"))
row("req-max-age-beats-window", "5.2.1.1",
    fetch(ok("max-age=10, stale-while-revalidate=60", ETAG)),
    validated(unchanged(), b"one", cc("max-age=100"), advance=20))
row("req-no-store", "5.2.1.5", fetch(ok("max-age=60"), cc("no-store"), cs={"stored": None}), fetch(TWO),
    hit(b"two"))
row("req-no-store-must-understand", "5.2.1.5",
    fetch(ok("must-understand, max-age=60"), cc("no-store")), fetch(TWO))
row("req-no-store-keeps-stored", "5.2.1.5", fetch(OLD),
    validated(unchanged("max-age=60"), b"one", cc("no-store"), advance=10, cs={"stored": None}),
    validated(unchanged("max-age=60")))
row("req-only-if-cached", "5.2.1.7",
    Step(headers=(cc("only-if-cached"),), status=504, members=0),
    fetch(ok("max-age=60")), hit(b"one", cc("only-if-cached")),
    Step(headers=(cc("only-if-cached"),), status=504, advance=60, members=0))
row("req-only-if-cached-max-stale", "5.2.1.7", fetch(OLD),
    hit(b"one", cc("only-if-cached, max-stale=99"), advance=30))
row("req-only-if-cached-window", "5.2.1.7", fetch(ok("max-age=10, stale-while-revalidate=60")),
    Step(headers=(cc("only-if-cached"),), advance=20, refresh=TWO, content=b"one", cs={"hit": True}))
row("req-only-if-cached-no-cache", "5.2.1.7", fetch(TEN_MINUTES),
    Step(headers=(cc("only-if-cached, no-cache"),), status=504, members=0))
row("req-only-if-cached-head", "5.2.1.7",
    Step(method="HEAD", headers=(cc("only-if-cached"),), status=504, content=b"", members=0))
row("req-only-if-cached-range", "5.2.1.7",
    Step(headers=(cc("only-if-cached"), ("Range", "bytes=0-1")), status=504, members=0))
row("req-pragma", "5.4", fetch(ok("max-age=60")), fetch(TWO, ("Pragma", "no-cache")))
row("req-pragma-with-cc", "5.4", fetch(ok("max-age=60")),
    hit(b"one", ("Pragma", "no-cache"), cc("max-age=60")))
row("req-pragma-other", "5.4", fetch(ok("max-age=60")), hit(b"one", ("Pragma", "foo")))
row("req-unknown", "5.2.3", fetch(ok("max-age=60")), hit(b"one", cc("foo, bar=1")))
row("req-ignored", "5.2.1", fetch(ok("max-age=60")), hit(b"one", cc("no-cache, max-age=0")),
    hit(b"one", ("Pragma", "no-cache")), request_directives=False)
row("req-two-lines", "RFC 9110 5.3", fetch(ok("max-age=60")),
    fetch(TWO, cc("max-age=60"), cc("no-cache")))
