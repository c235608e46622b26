"""Entries and log records as bytes: versioned, data only, bounded in size, and signed if there is a
secret (G10).

    blob      version (1 byte) | flags (1 byte) | MAC (16 bytes, if flagged) | payload
    payload   of an entry:  log, position, size, times (72 bytes) | msgpack [code, tags, value]
              of a record:  msgpack [time, kind, value, soft, kind, value, soft, ...]

The payload of an entry may be one zstd frame, which a flag says. The MAC is HMAC-SHA256, cut to 16
bytes, over purpose, version, flags, key and payload as they are in the blob. So a blob that is
copied to another key, or from an entry to the log, does not verify. With a secret, nothing is
parsed before it verifies. The configuration decides whether a secret is required, never the flag.

Without a secret, a client of the shared system can store any plain data under any key, and can make
one decode build objects of some 80 times ``max_size`` bytes. It can do no more: nothing is pickled,
and nothing is imported by name.

    blobs        version, flags and MAC around a payload
    compression  zstd with a bound on what comes out
    values       plain data and `ValueType`s as msgpack
    entries      the head of an entry, and what its parts must look like
    records      log records
    codec        `Codec`, which puts these together; shared layers use it

msgpack and zstd are optional dependencies. They are imported when a `Codec` is made.
"""

from __future__ import annotations

from layergate.core.codec.blobs import VERSION
from layergate.core.codec.codec import MAX_SIZE, Codec, Decoded
from layergate.core.codec.entries import FAR, LOG_ID, MAX_TAGS
from layergate.core.codec.records import MAX_INVALIDATION_LENGTH, MAX_INVALIDATIONS
from layergate.core.codec.values import ValueType

__all__ = [
    "FAR",
    "LOG_ID",
    "MAX_INVALIDATIONS",
    "MAX_INVALIDATION_LENGTH",
    "MAX_SIZE",
    "MAX_TAGS",
    "VERSION",
    "Codec",
    "Decoded",
    "ValueType",
]
