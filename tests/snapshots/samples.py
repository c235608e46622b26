"""One of everything that goes over the wire, and the files it was written to.

A file that was committed is never written again: it is what an instance of an older release left in
Redis. `python -m tests.snapshots.samples` writes those that are missing, under the version that
`layergate.core.codec` has by then; the older folders stay, and `test_snapshots` reads them all.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from layergate.core.codec import VERSION, Codec
from layergate.core.entry import Entry
from layergate.core.invalidation import Invalidation
from layergate.http.engine.markers import HitForMiss, VariantIndex
from layergate.http.extensions.no_vary_search import SearchVariance
from layergate.http.message.stored import PartialResponse, StoredResponse
from layergate.http.rfc9111.storing import NotStored
from layergate.http.wire import VALUES

FOLDER = Path(__file__).parent
KEY = b"layergate:e:{00112233445566778899aabbccddeeff00112233}"
LOG = bytes(range(16))
POSITION = 3 << 24
SECRET = "a secret of the snapshots"
TIME = 1_700_000_000.25


class Sample(NamedTuple):
    """``value``: of an entry; or the marks of a record."""

    value: Any
    record: bool = False
    codec: dict[str, Any] = {}  # noqa: RUF012 - read only


def entry(value: Any) -> Entry:
    return Entry(
        value,
        created=TIME,
        fresh_until=TIME + 60.5,
        stale_while_revalidate=30.0,
        stale_if_error=3600.0,
        expires=TIME + 86400.0,
        tags=("product:1", "catégorie", "\udcff"),
        size=4321,
    )


PLAIN: dict[str, Any] = {
    "none": None,
    "booleans": [True, False],
    "ints": [0, 1, -1, 127, 128, -33, 2**16, 2**32, 2**64 - 1, -(2**63)],
    "floats": [0.0, -0.0, 1.0, 1.5e300, float("inf"), float("-inf")],
    "texts": ["", "a", "ü", "\U0001f600", "x" * 300, "\ud800"],
    "bytes": [b"", b"a", bytes(range(256))],
    "tuples": ((), (1,), [(1, [2, (3,)])]),
    "sets": [set(), {1, "a"}, frozenset({(1, 2)})],
    "dicts": {"a": {}, b"a": 1, 1: "one", (1, 2): None},
    "datetimes": [datetime(2024, 2, 29, 23, 59, 59, 123456, UTC), datetime(2000, 1, 1)],  # noqa: DTZ001
}

RESPONSE = StoredResponse(
    200,
    [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", b"300"),
        (b"etag", b'"abc"'),
        (b"link", b"</a>; rel=preload"),
        (b"link", b"</b>; rel=preload"),
        (b"x-latin", b"caf\xe9"),
        (b"x-empty", b""),
    ],
    b"<p>hello</p>" * 25,
    generated=TIME - 5.0,
    response_time=TIME,
    request_time=TIME - 0.5,
    must_revalidate=True,
    without_credentials_only=True,
    shared_with_users=False,
)
BARE = StoredResponse(
    404, [], b"", generated=TIME, response_time=TIME, no_cache=True, shared_with_authorization=True
)
TRACED = StoredResponse(
    200,
    [(b"content-type", b"text/plain")],
    b"hello",
    generated=TIME,
    response_time=TIME,
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)
OWN = StoredResponse(
    200,
    [(b"cache-control", b"no-store"), (b"cdn-cache-control", b"max-age=60")],
    b"hello",
    generated=TIME,
    response_time=TIME,
    immutable=True,
    own=b"max-age=3600, immutable",
)
GROUP = "\x00group 00112233445566778899aabbccddeeff scripts"
PARTIAL = PartialResponse(
    [(b"content-type", b"video/mp4"), (b"etag", b'"abc"')],
    ((0, b"abc"), (1000, b"def")),
    2000,
    generated=TIME,
    response_time=TIME,
    must_revalidate=True,
)
VAGUE = PartialResponse([], ((4, b"01234"),), 9, vague=True, generated=TIME, response_time=TIME)
UNKNOWN = PartialResponse([], ((4, b"01234"),), None, generated=TIME, response_time=TIME)
INDEX = VariantIndex(((b"accept-encoding", b"accept-language"), ()), (b"h;1:h1:/0:one", b"two"))
COOKIES = StoredResponse(
    200,
    [(b"set-cookie", b"a=b"), (b"set-cookie", b"c=d; Path=/"), (b"content-length", b"2")],
    b"ok",
    generated=TIME - 2.0,
    response_time=TIME,
    request_time=TIME - 0.5,
)
INVALIDATIONS = (
    Invalidation("tag", "product:1"),
    Invalidation("key", "https://example.com/a", True),
    Invalidation("prefix", "https://example.com/b"),
    Invalidation("glob", "https://*.example.com/*"),
    Invalidation("path", "/c/*", True),
    Invalidation("all"),
)

SAMPLES: dict[str, Sample] = {
    **{f"plain-{name}": Sample(value) for name, value in PLAIN.items()},
    "plain-signed": Sample(PLAIN, codec={"secret": SECRET}),
    "plain-compressed": Sample(["again"] * 500, codec={"compress_above": 100}),
    "response": Sample(RESPONSE),
    "response-bare": Sample(BARE),
    "response-traced": Sample(TRACED),
    "response-own": Sample(OWN),
    "response-cookies": Sample(COOKIES),
    "response-signed": Sample(RESPONSE, codec={"secret": SECRET}),
    "response-compressed": Sample(RESPONSE, codec={"compress_above": 100}),
    "response-signed-compressed": Sample(RESPONSE, codec={"secret": SECRET, "compress_above": 100}),
    "partial": Sample(PARTIAL),
    "partial-vague": Sample(VAGUE),
    "partial-of-unknown-length": Sample(UNKNOWN),
    "partial-signed": Sample(PARTIAL, codec={"secret": SECRET}),
    "responses-nested": Sample({"one": RESPONSE, "index": [INDEX]}),
    "index": Sample(INDEX),
    "search-variance": Sample(SearchVariance(False, True, (b"a b", b"id", b"\xff"))),
    "hit-for-miss": Sample(HitForMiss(NotStored.SET_COOKIE)),
    "record": Sample(INVALIDATIONS, record=True),
    "record-groups": Sample((Invalidation("tag", GROUP),), record=True),
    "record-signed": Sample(INVALIDATIONS, record=True, codec={"secret": SECRET}),
}


def written(sample: Sample) -> bytes:
    codec = Codec(VALUES, **sample.codec)
    if sample.record:
        return codec.encode_record(LOG, sample.value, TIME)
    return codec.encode(KEY, entry(sample.value), position=POSITION, log=LOG)


def main() -> None:
    folder = FOLDER / f"v{VERSION}"
    folder.mkdir(exist_ok=True)
    for name, sample in SAMPLES.items():
        path = folder / f"{name}.bin"
        if not path.exists():
            path.write_bytes(written(sample))


if __name__ == "__main__":
    main()
