"""RFC 9875, HTTP Cache Groups."""

from __future__ import annotations

from typing import Any

from tests.scenarios.dsl import ETAG, TWO, fetch, grouped, hit, ok, purge, row, unchanged, validated
from tests.scenarios.model import Reply

# A row a line, or a few: the formatter would make a page of each.
# fmt: off


def invalidating(value: str, **kw: Any) -> Reply:
    return ok(None, ("Cache-Group-Invalidation", value), **{"status": 204, "body": b"", **kw})


def group_row(id_: str, groups: str, invalidated: str, *, gone: bool, **kw: Any) -> None:
    """What is in these groups is gone, or not, after a POST to somewhere else."""
    post = {"target": "/else", "method": "POST", **kw}
    reply = invalidating(invalidated, **post.pop("reply", {}))
    other = fetch(reply, *post.pop("headers", ()), **post)
    then = fetch(TWO, target="/a") if gone else hit(target="/a")
    row(f"group-{id_}", "RFC 9875", fetch(grouped(groups), target="/a"), other, then)


group_row("one", '"scripts"', '"scripts"', gone=True)
group_row("other", '"scripts"', '"styles"', gone=False)
group_row("one-of-many", '"a", "b", "c"', '"x", "c"', gone=True)
group_row("case", '"scripts"', '"Scripts"', gone=False)
group_row("parameters", '"scripts";v=1', '"scripts";w', gone=True)
group_row("no-string", "scripts", "scripts", gone=False)
group_row("no-strings-alone", '"scripts"', '"scripts", 1', gone=False)
group_row("32", ", ".join(f'"{n:032}"' for n in range(32)), f'"{31:032}"', gone=True)
group_row("32-invalidated", f'"{31:032}"', ", ".join(f'"{n:032}"' for n in range(32)), gone=True)
group_row("very-many-invalidated", '"a"', ", ".join(f'"{n}"' for n in range(200)), gone=True)
group_row("error", '"a"', '"a"', gone=True, reply={"status": 500})
group_row("put", '"a"', '"a"', gone=True, method="PUT")
group_row("unknown-method", '"a"', '"a"', gone=True, method="M-SEARCH")
group_row("safe-method", '"a"', '"a"', gone=False, method="OPTIONS")
group_row("get", '"a"', '"a"', gone=False, method="GET", reply={"status": 200})
group_row("other-scheme", '"a"', '"a"', gone=False, scheme="https")
group_row("other-host", '"a"', '"a"', gone=False, headers=(("Host", "b.example"),))
group_row("no-tag", '"a"', '""', gone=False)
row("group-sent-on", "RFC 9875", fetch(grouped('"a"'), has={"cache-groups": '"a"'}),
    hit(has={"cache-groups": '"a"'}),
    fetch(invalidating('"b"'), method="POST", target="/else",
          has={"cache-group-invalidation": '"b"'}), hit())
row("group-no-cascade", "RFC 9875 2.2.1", fetch(grouped('"a", "b"'), target="/a"),
    fetch(grouped('"b"'), target="/b"), fetch(invalidating('"a"'), method="POST", target="/else"),
    fetch(TWO, target="/a"), hit(target="/b"))
row("group-not-by-uri", "RFC 9875 2.2.1", fetch(grouped('"a"'), target="/a"),
    fetch(grouped('"a"'), target="/b"), fetch(ok(status=204, body=b""), method="POST", target="/a"),
    hit(target="/b"), fetch(TWO, target="/a"))
row("group-is-no-tag", "RFC 9875", fetch(ok("max-age=60", ("Cache-Tag", "a"), ("Surrogate-Key", "a"))),
    fetch(invalidating('"a"'), method="POST", target="/else"), hit())
row("group-is-not-purged-as-a-tag", "RFC 9875", fetch(grouped('"a"')), purge(tags="a"), hit())
row("group-too-many", "G7", fetch(grouped(", ".join(f'"{n}"' for n in range(129))),
                                  cs={"detail": "tags"}), fetch(TWO))
row("group-beside-tags", "G7",
    fetch(ok("max-age=60", ("Cache-Tag", "a, b"), ("Cache-Groups", '"c", "d"'))), hit(), max_tags=2)
row("group-304-keeps", "3.2", fetch(ok("max-age=10", ETAG, ("Cache-Groups", '"a"'))),
    validated(unchanged(), advance=10), hit(),
    fetch(invalidating('"a"'), method="POST", target="/else"), fetch(TWO))
row("group-304-updates", "3.2", fetch(ok("max-age=10", ETAG, ("Cache-Groups", '"a"'))),
    validated(unchanged(None, ("Cache-Groups", '"b"')), advance=10),
    fetch(invalidating('"a"'), method="POST", target="/else"), hit(has={"cache-groups": '"b"'}),
    fetch(invalidating('"b"'), method="POST", target="/else"), fetch(TWO))
VARY_FOO = ("Vary", "Foo")
row("group-variants", "RFC 9875", fetch(ok("max-age=60", VARY_FOO, ("Cache-Groups", '"a"')), ("Foo", "1")),
    fetch(ok("max-age=60", VARY_FOO, ("Cache-Groups", '"b"'), body=b"two"), ("Foo", "2")),
    fetch(invalidating('"a"'), method="POST", target="/else"),
    hit(b"two", ("Foo", "2")), fetch(TWO, ("Foo", "1")))
