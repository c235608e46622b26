"""A Redis that somebody else can write to: what comes from there is data that anybody may have made."""

from __future__ import annotations

import asyncio
import random
import sys
from importlib import import_module
from typing import Any

import pytest

from tests.support.gateways import FRESH, Gateway, gateway
from tests.support.http1 import reply
from tests.support.redis_servers import SharedValkey

pytest_plugins = ("tests.support.redis_servers",)

zstd: Any = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")

SECRET = "a secret of more than 16 characters"
ORIGIN = b"from the origin"
secret_or_not = pytest.mark.parametrize("secret", [SECRET, None], ids=["signed", "unsigned"])


def _options(valkey: SharedValkey, secret: str | None) -> dict[str, Any]:
    return {
        "cache": {"shared": valkey.url, "layer_timeout": 5},
        "shared_namespace": valkey.namespace,
        "shared_secret": secret,
    }


def _keys(valkey: SharedValkey, kind: bytes = b"") -> list[bytes]:
    keys: list[bytes] = valkey.cli("KEYS", f"*{valkey.namespace}*")
    return sorted(key for key in keys if kind in (b"", valkey.cli("TYPE", key)))


def _entries(valkey: SharedValkey) -> list[bytes]:
    return [key for key in _keys(valkey) if b":e:" in key]


async def _fill(
    valkey: SharedValkey, secret: str | None, response: bytes, *targets: bytes
) -> dict[bytes, bytes]:
    """Have an instance store this response; what lies in Redis then, by key."""
    async with gateway(**_options(valkey, secret)) as gate:
        gate.origin.otherwise = response
        for target in targets:
            assert (await gate.get(target)).status == 200
        async with asyncio.timeout(20):
            while len(_entries(valkey)) < len(targets):
                await asyncio.sleep(0.01)
    blobs = {key: valkey.cli("GET", key) for key in _entries(valkey)}
    assert all(blobs.values())
    return blobs


async def _ask(gate: Gateway, target: bytes) -> bytes:
    """What another instance answers: one well-formed response (h11 reads it), and no error."""
    gate.origin.otherwise = reply(ORIGIN, FRESH)
    client = await gate.client()
    for _ in range(2):  # from Redis, and then from memory
        response = await client.exchange(b"GET %b HTTP/1.1\r\nHost: shop.test\r\n\r\n" % target)
        assert response.status == 200
    for name, value in response.raw:
        assert b"evil" not in name + value
    # Nothing follows it: what is asked for next is what comes next.
    gate.origin.otherwise = reply(b"next", b"Cache-Control: no-store")
    assert (await client.exchange(b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n")).body == b"next"
    return response.body


@secret_or_not
async def test_what_is_whole_is_shared(shared_valkey, secret):
    await _fill(shared_valkey, secret, reply(b"shared", FRESH), b"/a")
    async with gateway(**_options(shared_valkey, secret)) as gate:
        assert await _ask(gate, b"/a") == b"shared"


POISON = {
    "cr-lf-in-a-value": (b"x-marker: 0123456789", b"0123456789", b"\r\nevil: abc"[:10]),
    "response-splitting": (b"x-marker: 0123456789", b"0123456789", b"\r\n\r\nevil!!"),
    "nul-in-a-value": (b"x-marker: 0123456789", b"0123456789", b"evil\0evil1"),
    "cr-lf-in-a-name": (b"x-marker1: 0", b"x-marker1", b"x\r\nevil:1"[:9]),
    "space-in-a-name": (b"x-marker1: 0", b"x-marker1", b"evil evil"),
    "transfer-encoding": (b"x-marker-12345678: chunked", b"x-marker-12345678", b"transfer-encoding"),
    "set-cookie": (b"x-marker-1: evil=1", b"x-marker-1", b"set-cookie"),
    "connection": (b"x-marker-1: evil", b"x-marker-1", b"connection"),
    "length-too-long": (b"x: y", b"content-length:11", b"content-length:99"),
    "length-plus": (b"x: y", b"content-length:11", b"content-length:+1"),
}  # fmt: skip


@secret_or_not
@pytest.mark.parametrize("poison", POISON)
async def test_poisoned_bytes_in_redis(shared_valkey, secret, poison):
    """A field line that would be two, or one that frames the message, or is never stored."""
    line, before, after = POISON[poison]
    assert len(before) == len(after)
    blobs = await _fill(shared_valkey, secret, reply(b"the content", FRESH, line), b"/a")
    for key, blob in blobs.items():
        assert before in blob
        shared_valkey.cli("SET", key, blob.replace(before, after))
    async with gateway(**_options(shared_valkey, secret)) as gate:
        assert await _ask(gate, b"/a") == ORIGIN


@secret_or_not
async def test_damaged_bytes_in_redis(shared_valkey, secret):
    """Whatever is damaged: no error, and no response that is not one. Signed, it is not used at all."""
    pick = random.Random(7)
    targets = [b"/%d" % number for number in range(60)]
    body = b"shared" * 20
    line = b"X-Long: " + b"y" * 50
    blobs = await _fill(shared_valkey, secret, reply(body, FRESH, line, b"Vary: X"), *targets)
    for key, blob in blobs.items():
        data = bytearray(blob)
        for _ in range(pick.choice((1, 1, 3))):
            kind = pick.randrange(4)
            at = pick.randrange(len(data)) if data else 0
            if kind == 0 and data:
                data[at] ^= 1 << pick.randrange(8)
            elif kind == 1:
                del data[at:]
            elif kind == 2:
                data[at:at] = pick.randbytes(pick.choice((1, 4, 100)))
            else:
                data[at : at + 4] = b"\xdd\xff\xff\xff"  # "a list of four thousand million items"
        if bytes(data) == blob:
            data += b"x"
        shared_valkey.cli("SET", key, bytes(data))
    async with gateway(**_options(shared_valkey, secret)) as gate:
        for target in targets:
            got = await _ask(gate, target)
            if secret is not None:
                assert got == ORIGIN


async def test_an_entry_that_was_put_under_another_key(shared_valkey):
    """Signed, it is good for its own key only."""
    blobs = await _fill(shared_valkey, SECRET, reply(b"a's", FRESH), b"/a")
    (key_a,) = blobs
    more = await _fill(shared_valkey, SECRET, reply(b"b's", FRESH), b"/a", b"/b")
    (key_b,) = set(more) - {key_a}
    shared_valkey.cli("SET", key_b, blobs[key_a])
    async with gateway(**_options(shared_valkey, SECRET)) as gate:
        assert await _ask(gate, b"/b") == ORIGIN
        assert await _ask(gate, b"/a") == b"a's"


async def test_a_decompression_bomb_in_redis(shared_valkey):
    """What is stored there may be a zstd frame of ours; one that grows beyond all bounds is none."""
    blobs = await _fill(shared_valkey, None, reply(b"a", FRESH), b"/a")
    bomb = zstd.compress(b"\0" * 200_000_000)
    assert len(bomb) < 100_000
    for key, blob in blobs.items():
        shared_valkey.cli("SET", key, blob[:1] + b"\x01" + bomb)
    async with gateway(**_options(shared_valkey, None)) as gate:
        assert await _ask(gate, b"/a") == ORIGIN


@secret_or_not
async def test_forged_messages_in_the_log(shared_valkey, secret):
    """Whoever can write there can cost misses; signed, not even those. The clients notice nothing."""
    await _fill(shared_valkey, secret, reply(b"shared", FRESH), b"/a", b"/b")
    async with gateway(**_options(shared_valkey, secret)) as gate:
        assert await _ask(gate, b"/a") == b"shared"
        assert (await gate.cache.purge(tags=["none"])).final  # so that there is a log
        streams = _keys(shared_valkey, b"stream")
        assert streams
        for junk in (b"", b"\0" * 100, b"\x01\x00\x93\xc0\xc0\xc0", b"\xff" * 5000):
            for key in streams:
                shared_valkey.cli("XADD", key, "*", "d", junk, "r", junk)
                shared_valkey.cli("XADD", key, "*", "x", junk)
        for channel in shared_valkey.cli("PUBSUB", "CHANNELS"):
            for message in ("", "junk", "\0", "9" * 100):
                shared_valkey.cli("PUBLISH", channel, message)
        for target in (b"/a", b"/b", b"/c"):
            assert await _ask(gate, target) in (b"shared", ORIGIN)


async def test_keys_of_another_type_in_redis(shared_valkey):
    await _fill(shared_valkey, SECRET, reply(b"shared", FRESH), b"/a", b"/b")
    for key in _entries(shared_valkey):
        shared_valkey.cli("DEL", key)
        shared_valkey.cli("LPUSH", key, "x")
    async with gateway(**_options(shared_valkey, SECRET)) as gate:
        for target in (b"/a", b"/b"):
            assert await _ask(gate, target) == ORIGIN
