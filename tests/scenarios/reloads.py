"""What clients may have fetched again although it is fresh: the option ``reload_pause``."""

from __future__ import annotations

from tests.scenarios.model import Step
from tests.scenarios.table import OLD, TWO, cc, fetch, hit, ok, row, unchanged, validated

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

P = "5.2.1"
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
    row(f"reload-{name}", P, fetch(FRESH), fetch(TWO, directive), held(b"two", directive), held(b"two", NO_CACHE),
        fetch(ok("max-age=60", body=b"three"), directive, advance=1.5))
row("reload-max-age", P, fetch(ok("max-age=60", ("Age", "30"))), fetch(ok("max-age=60", ("Age", "30"), body=b"two"), cc("max-age=5")),
    held(b"two", cc("max-age=5")))
row("reload-not-an-ordinary-one", P, fetch(FRESH), fetch(TWO, NO_CACHE), hit(b"two", cs={"detail": None}))
row("reload-validated", P, fetch(OLD), validated(unchanged(), b"one", NO_CACHE), held(b"one", NO_CACHE),
    validated(unchanged(), b"one", NO_CACHE, advance=1))
row("reload-head", P, fetch(OLD), validated(unchanged(), b"", NO_CACHE, method="HEAD"), held(b"one", NO_CACHE), held(b"", NO_CACHE, method="HEAD"))
row("reload-range", P, fetch(FRESH), fetch(TWO, NO_CACHE), held(b"t", NO_CACHE, BYTES, status=206), held(b"", NO_CACHE, ("Range", "bytes=9-"), status=416))
row("reload-precondition", P, fetch(OLD), validated(unchanged(), b"one", NO_CACHE), held(b"", NO_CACHE, ("If-None-Match", '"abc"'), status=304))
# What is stale is not reloaded, but fetched; what says so itself is validated each time.
row("reload-stale", P, fetch(ok("max-age=10")), fetch(ok("max-age=10"), NO_CACHE, advance=10), fetch(TWO, NO_CACHE))
row("reload-no-cache-stored", "5.2.2.4", fetch(ok("no-cache", ("ETag", '"abc"'))), validated(unchanged(), b"one", NO_CACHE), validated(unchanged(), b"one", NO_CACHE))
row("reload-lifetime-shorter", P, fetch(ok("max-age=2")), fetch(ok("max-age=2"), NO_CACHE), held(b"one", NO_CACHE, advance=1), fetch(TWO, NO_CACHE, advance=1), reload_pause=60)
row("reload-must-revalidate", P, fetch(ok("max-age=60, must-revalidate")), fetch(ok("max-age=60, must-revalidate", body=b"two"), NO_CACHE), held(b"two", NO_CACHE))
# Each variant, each target, its own.
_DE, _EN = ("Accept-Language", "de"), ("Accept-Language", "en")
V = ok("max-age=60", ("Vary", "Accept-Language"))
row("reload-variants", P, fetch(V, _DE), fetch(V, _EN), fetch(V, _DE, NO_CACHE), held(b"one", _DE, NO_CACHE),
    fetch(V, _EN, NO_CACHE), held(b"one", _EN, NO_CACHE))
row("reload-targets", P, fetch(FRESH, target="/a"), fetch(FRESH, target="/b"), fetch(FRESH, NO_CACHE, target="/a"),
    fetch(FRESH, NO_CACHE, target="/b"), held(b"one", NO_CACHE, target="/a"))
# With credentials: nobody waits for them, and what they may have, they get like the others.
row("reload-authorized", "3.5", fetch(ok("public, max-age=60")), fetch(ok("public, max-age=60", body=b"two"), NO_CACHE, ("Authorization", "x")),
    held(b"two", NO_CACHE, ("Authorization", "y")), held(b"two", NO_CACHE))
row("reload-not-authorized", "3.5", fetch(FRESH), fetch(FRESH, NO_CACHE), fetch(TWO, NO_CACHE, ("Authorization", "x")))
# What a reload brings that is not for keeping changes nothing for the others, and the pause holds.
row("reload-refused", P, fetch(FRESH), fetch(ok("private", body=b"mine"), NO_CACHE, ("Cookie", "a=1")), hit(b"one"))
row("reload-purged", "4.4", fetch(FRESH), fetch(FRESH, NO_CACHE), Step("PUT", origin=(ok(),), cs={"fwd": "method"}), fetch(TWO, NO_CACHE))
row("reload-together", P, fetch(FRESH),
    Step(headers=(NO_CACHE,), concurrent=4, origin=(TWO,), content=b"two", cs={}, advance=5))
row("reload-together-without-a-pause", P, fetch(FRESH), Step(headers=(NO_CACHE,), concurrent=4, origin=(TWO,), content=b"two", cs={}),
    Step(headers=(NO_CACHE,), concurrent=4, origin=(FRESH,), content=b"one", cs={}), reload_pause=None)
for off in (None, 0):
    row(f"reload-pause-{off}", "5.2.1.4", fetch(FRESH), fetch(TWO, NO_CACHE), fetch(FRESH, NO_CACHE), reload_pause=off)
row("reload-not-heard", P, fetch(FRESH), hit(b"one", NO_CACHE, cs={"detail": None}), request_directives=False)
