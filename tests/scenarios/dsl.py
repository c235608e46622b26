"""The words of a scenario: what the origin answers, what a client asks, and what it gets.

The files in `rows` say with them, in a row a line, how the cache behaves. A row is a `Scenario`
that `row` adds to `SCENARIOS`; read these from `tests.scenarios.rows`, which imports every file.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from tests.scenarios.model import TOKEN, Lines, Reply, Scenario, Step, at

SCENARIOS: list[Scenario] = []


def ok(cc: str | None = None, *lines: tuple[str, str], **kw: Any) -> Reply:
    """A reply, with this Cache-Control."""
    return Reply(lines=(*(() if cc is None else (("Cache-Control", cc),)), *lines), **kw)


def unchanged(cc: str | None = None, *lines: tuple[str, str], **kw: Any) -> Reply:
    """A 304."""
    return ok(cc, *lines, status=304, body=b"", **kw)


def fetch(reply: Reply, *headers: tuple[str, str], **kw: Any) -> Step:
    """The origin is called once, and the client gets what it says."""
    kw.setdefault("content", b"" if kw.get("method") == "HEAD" else reply.body)
    kw.setdefault("status", None if reply.raises or reply.lost else reply.status)
    kw["cs"] = {"hit": None, **(kw.get("cs") or {})}
    return Step(headers=headers, origin=(reply,), **kw)


def hit(content: bytes | None = b"one", *headers: tuple[str, str], **kw: Any) -> Step:
    """The origin is not called."""
    kw["cs"] = {"hit": True, "fwd": None, **(kw.get("cs") or {})}
    return Step(headers=headers, content=content, **kw)


def validated(reply: Reply, content: bytes = b"one", *headers: tuple[str, str], **kw: Any) -> Step:
    """The origin says 304, and the client gets what is stored."""
    kw["cs"] = {"hit": None, "fwd-status": 304, **(kw.get("cs") or {})}
    return Step(headers=headers, origin=(reply,), content=content, **kw)


def stale(content: bytes, refresh: Reply | None, *headers: tuple[str, str], **kw: Any) -> Step:
    """Served stale, while ``refresh`` comes in the background."""
    detail = "stale-while-revalidate"
    kw["cs"] = {"hit": True, "fwd": None, "detail": detail, **(kw.get("cs") or {})}
    return Step(headers=headers, content=content, refresh=refresh, **kw)


def instead(content: bytes, failure: Reply, *headers: tuple[str, str], **kw: Any) -> Step:
    """Served stale in place of the origin's ``failure``. RFC 9211 2.1: a hit "was not forwarded"."""
    kw["cs"] = {"hit": None, "fwd": "stale", "detail": "stale-if-error", **(kw.get("cs") or {})}
    return Step(headers=headers, content=content, origin=(failure,), **kw)


def unreachable(content: bytes, failure: Reply, *headers: tuple[str, str], **kw: Any) -> Step:
    """Served stale, since the origin cannot be reached."""
    kw["cs"] = {"detail": "stale-if-unreachable", **(kw.get("cs") or {})}
    return instead(content, failure, *headers, **kw)


def row(id_: str, rfc: str, *steps: Step, rules: tuple = (), **options: Any) -> None:
    SCENARIOS.append(Scenario(id_, rfc, steps, rules, options))


def reused(id_: str, rfc: str, reply: Reply, *, after: float = 1, **options: Any) -> None:
    """Stored, and used ``after`` so many seconds."""
    row(id_, rfc, fetch(reply), hit(reply.body, advance=after, status=reply.status), **options)


def not_reused(
    id_: str, rfc: str, reply: Reply, *, after: float = 1, detail: str | None = None, **options: Any
) -> None:
    """Not used without asking the origin."""
    cs = {} if detail is None else {"detail": detail, "stored": None}
    row(
        id_, rfc, fetch(reply, cs=cs), fetch(ok("max-age=9", body=b"two"), advance=after), **options
    )


def cc(value: str) -> tuple[str, str]:
    return ("Cache-Control", value)


TWO = ok("max-age=60", body=b"two")
ETAG = ("ETag", '"abc"')
LM = ("Last-Modified", at(-1000))
INM = ("If-None-Match", '"abc"')
AUTH = ("Authorization", "Basic eDp5")
COOKIE = ("Cookie", "sid=1")
FAIL = ok("no-store", status=503, body=b"down")
RAISES = Reply(raises=True)
LOST = Reply(lost=True)
OLD = ok("max-age=10", ETAG)
DAY = ("Date", at(0))


def rule(path: str = "*", **kw: Any) -> tuple[dict[str, Any], ...]:
    return ({"path": path, **kw},)


def purge(*, tags: str = "", **kw: Any) -> Step:
    """The PURGE method, on tags or on the target."""
    headers = [("Authorization", f"Bearer {TOKEN}")]
    if tags:
        headers.append(("Surrogate-Key", tags))
    return Step(method="PURGE", headers=tuple(headers), members=0, **kw)


def purge_all(**what: list[str] | bool) -> Step:
    """The endpoint, by what it names."""
    headers = (("Authorization", f"Bearer {TOKEN}"), ("Content-Type", "application/json"))
    body = json.dumps(what).encode()
    return Step("POST", "/_layergate/purge", headers, body, members=0)


WEEK = ("Last-Modified", at(-1000))


def cdn(value: str) -> tuple[str, str]:
    return ("CDN-Cache-Control", value)


def grouped(value: str, body: bytes = b"one") -> Reply:
    return ok("max-age=60", ("Cache-Groups", value), body=body)


# RFC 8246 2: "proxies SHOULD skip conditionally revalidating fresh responses ... unless there is a
# signal from the client that a validation is necessary (e.g., a no-cache ... directive"
IMM = ok("max-age=60, immutable", ETAG)


def field(*values: str, name: str = "Foo") -> Lines:
    return tuple((name, value) for value in values)


VARY = field("Foo", name="Vary")
BY_ENCODING = field("Accept-Encoding", name="Vary")
ONE_TAG, TWO_TAG = ("ETag", '"1"'), ("ETag", '"2"')


def accepting(value: str) -> Lines:
    return field(value, name="Accept-Encoding")


DONE = ok(status=204, body=b"")


def posted(
    cc: str | None = "max-age=60", *lines: tuple[str, str], where: str | None = "/", **kw: Any
) -> Reply:
    """A response to POST, with this Content-Location."""
    location = () if where is None else (("Content-Location", where),)
    return ok(cc, *location, *lines, body=b"posted", **kw)


def post(reply: Reply, *headers: tuple[str, str], **kw: Any) -> Step:
    """It is not stored, unless ``stored``."""
    stored = kw.pop("stored", None)
    kw = {"method": "POST", "body": b"a=b", **kw}
    return fetch(reply, *headers, cs={"fwd": "method", "stored": stored}, **kw)


TEN_MINUTES = ok("max-age=600", ETAG)

SWR = "max-age=10, stale-while-revalidate=30"
SIE = "max-age=10, stale-if-error=30"
ORIGIN = ("Cache-Status", "Origin; fwd=miss")
DIGITS = b"0123456789"


def bytes_(value: str) -> tuple[str, str]:
    return ("Range", f"bytes={value}")


def digits(cc: str = "max-age=60", *lines: tuple[str, str], **kw: Any) -> Reply:
    """All ten of them."""
    return ok(cc, *lines, **{"body": DIGITS, **kw})


def part(
    first: int, last: int, *lines: tuple[str, str], cc: str | None = "max-age=60", **kw: Any
) -> Reply:
    """Some of them, as a 206."""
    kw = {"status": 206, "body": DIGITS[first : last + 1], **kw}
    return ok(cc, ("Content-Range", f"bytes {first}-{last}/10"), *lines, **kw)


def cut(first: int, last: int, *headers: tuple[str, str], **kw: Any) -> Step:
    """That range, from the store."""
    kw = {"has": {}, **kw}
    kw["has"] = {
        "content-range": f"bytes {first}-{last}/10",
        "content-length": str(last - first + 1),
        **kw["has"],
    }
    return hit(DIGITS[first : last + 1], *headers, **{"status": 206, **kw})


TAGS = (("Cache-Tag", "a, b"), ("Surrogate-Key", "c d"))
NO_TAGS = {"cache-tag": None, "surrogate-key": None}
SOFT = Step(
    method="PURGE",
    members=0,
    headers=(
        ("Authorization", f"Bearer {TOKEN}"),
        ("Surrogate-Key", "a"),
        ("Fastly-Soft-Purge", "1"),
    ),
)
SOFT_TAG = ("Cache-Tag", "a")


def to(target: str, step: Step) -> Step:
    return replace(step, target=target)


STORED = {"stored": True, "detail": None}
