"""RFC 9111 section 5.2.1, Request Directives: the option ``reload_pause``."""

from __future__ import annotations

from tests.scenarios.dsl import (
    ETAG,
    FAIL,
    OLD,
    SOFT,
    SOFT_TAG,
    TWO,
    cc,
    fetch,
    hit,
    instead,
    ok,
    row,
    unchanged,
    validated,
)
from tests.scenarios.model import Step

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# -- what clients may have fetched again although it is fresh --------------------------------------

HELD = {"detail": "reload-pause"}
NO_CACHE = cc("no-cache")
BYTES = ("Range", "bytes=0-0")
FRESH = ok("max-age=60")


def held(content: bytes = b"one", *headers: tuple[str, str], **kw: object) -> Step:
    """A reload that is answered from the store, which says why."""
    return hit(content, *headers, cs=HELD, **kw)


# The first is forwarded, whatever was fetched just before. Whatever makes a fresh response too old for a
# client is a reload.
for name, directive in {
    "no-cache": NO_CACHE, "pragma": ("Pragma", "no-cache"), "max-age-0": cc("max-age=0"),
    "min-fresh": cc("min-fresh=100000"), "both": cc("no-cache, max-age=0"),
}.items():
    row(f"reload-{name}", "5.2.1", fetch(FRESH), fetch(TWO, directive), held(b"two", directive), held(b"two", NO_CACHE),
        fetch(ok("max-age=60", body=b"three"), directive, advance=1.5))
row("reload-max-age", "5.2.1", fetch(ok("max-age=60", ("Age", "30"))), fetch(ok("max-age=60", ("Age", "30"), body=b"two"), cc("max-age=5")),
    held(b"two", cc("max-age=5")))
row("reload-not-an-ordinary-one", "5.2.1", fetch(FRESH), fetch(TWO, NO_CACHE), hit(b"two", cs={"detail": None}))
row("reload-validated", "5.2.1", fetch(OLD), validated(unchanged(), b"one", NO_CACHE), held(b"one", NO_CACHE),
    validated(unchanged(), b"one", NO_CACHE, advance=1))
row("reload-head", "5.2.1", fetch(OLD), validated(unchanged(), b"", NO_CACHE, method="HEAD"), held(b"one", NO_CACHE), held(b"", NO_CACHE, method="HEAD"))
row("reload-range", "5.2.1", fetch(FRESH), fetch(TWO, NO_CACHE), held(b"t", NO_CACHE, BYTES, status=206), held(b"", NO_CACHE, ("Range", "bytes=9-"), status=416))
row("reload-precondition", "5.2.1", fetch(OLD), validated(unchanged(), b"one", NO_CACHE), held(b"", NO_CACHE, ("If-None-Match", '"abc"'), status=304))
# What is stale is not reloaded, but fetched; what says so itself is validated each time.
row("reload-stale", "5.2.1", fetch(ok("max-age=10")), fetch(ok("max-age=10"), NO_CACHE, advance=10), fetch(TWO, NO_CACHE))
row("reload-no-cache-stored", "5.2.2.4", fetch(ok("no-cache", ("ETag", '"abc"'))), validated(unchanged(), b"one", NO_CACHE), validated(unchanged(), b"one", NO_CACHE))
row("reload-lifetime-shorter", "5.2.1", fetch(ok("max-age=2")), fetch(ok("max-age=2"), NO_CACHE), held(b"one", NO_CACHE, advance=1), fetch(TWO, NO_CACHE, advance=1), reload_pause=60)
row("reload-must-revalidate", "5.2.1", fetch(ok("max-age=60, must-revalidate")), fetch(ok("max-age=60, must-revalidate", body=b"two"), NO_CACHE), held(b"two", NO_CACHE))
# Each variant, each target, its own.
_DE, _EN = ("Accept-Language", "de"), ("Accept-Language", "en")
V = ok("max-age=60", ("Vary", "Accept-Language"))
row("reload-variants", "5.2.1", fetch(V, _DE), fetch(V, _EN), fetch(V, _DE, NO_CACHE), held(b"one", _DE, NO_CACHE),
    fetch(V, _EN, NO_CACHE), held(b"one", _EN, NO_CACHE))
row("reload-targets", "5.2.1", fetch(FRESH, target="/a"), fetch(FRESH, target="/b"), fetch(FRESH, NO_CACHE, target="/a"),
    fetch(FRESH, NO_CACHE, target="/b"), held(b"one", NO_CACHE, target="/a"))
# With credentials: nobody waits for them, and what they may have, they get like the others.
row("reload-authorized", "3.5", fetch(ok("public, max-age=60")), fetch(ok("public, max-age=60", body=b"two"), NO_CACHE, ("Authorization", "x")),
    held(b"two", NO_CACHE, ("Authorization", "y")), held(b"two", NO_CACHE))
row("reload-not-authorized", "3.5", fetch(FRESH), fetch(FRESH, NO_CACHE), fetch(TWO, NO_CACHE, ("Authorization", "x")))
# What a reload brings that is not for keeping changes nothing for the others, and the pause holds.
row("reload-refused", "5.2.1", fetch(FRESH), fetch(ok("private", body=b"mine"), NO_CACHE, ("Cookie", "a=1")), hit(b"one"))
row("reload-purged", "4.4", fetch(FRESH), fetch(FRESH, NO_CACHE), Step("PUT", origin=(ok(),), cs={"fwd": "method"}), fetch(TWO, NO_CACHE))
row("reload-together", "5.2.1", fetch(FRESH),
    Step(headers=(NO_CACHE,), concurrent=4, origin=(TWO,), content=b"two", cs={}, advance=5))
row("reload-together-without-a-pause", "5.2.1", fetch(FRESH), Step(headers=(NO_CACHE,), concurrent=4, origin=(TWO,), content=b"two", cs={}),
    Step(headers=(NO_CACHE,), concurrent=4, origin=(FRESH,), content=b"one", cs={}), reload_pause=None)
for off in (None, 0):
    row(f"reload-pause-{off}", "5.2.1.4", fetch(FRESH), fetch(TWO, NO_CACHE), fetch(FRESH, NO_CACHE), reload_pause=off)
row("reload-not-heard", "5.2.1", fetch(FRESH), hit(b"one", NO_CACHE, cs={"detail": None}), request_directives=False)

# -- what is stale is not answered from the store, whatever has made it stale ----------------------

STALE = {"fwd": "stale", "detail": None}

for name, more in (("plain", ""), ("swr", ", stale-while-revalidate=600"), ("sie", ", stale-if-error=600"),
                   ("must-revalidate", ", must-revalidate")):
    old = f"max-age=10{more}"
    # By time: the pause is longer than the lifetime.
    row(f"stale-reload-{name}", "4.2.4, 5.2.1.4", fetch(ok(old, ETAG)), validated(unchanged(old), b"one", NO_CACHE),
        validated(unchanged(old), b"one", NO_CACHE, advance=10, cs=STALE), reload_pause=60)
    # By a soft purge.
    row(f"stale-reload-purged-{name}", "G3", fetch(ok(f"max-age=60{more}", ETAG, SOFT_TAG)), validated(unchanged(), b"one", NO_CACHE),
        SOFT, fetch(TWO, NO_CACHE, cs=STALE), reload_pause=60)
# A reload that failed is one, too, and what it was for is as stale as before.
row("stale-reload-failed", "4.2.4, 5.2.1.4", fetch(ok("max-age=10, stale-if-error=600", ETAG)), instead(b"one", FAIL, NO_CACHE, advance=20),
    instead(b"one", FAIL, NO_CACHE), fetch(TWO, NO_CACHE, cs=STALE), reload_pause=60)
row("stale-reload-failed-must-revalidate", "4.2.4, 5.2.1.4", fetch(ok("max-age=10, must-revalidate", ETAG)),
    Step(headers=(NO_CACHE,), advance=20, origin=(FAIL,), status=503, content=FAIL.body, cs={"fwd": "stale"}),
    fetch(TWO, NO_CACHE, cs=STALE), reload_pause=60)
