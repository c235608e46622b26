"""The gateway and paths that it and its origin may read differently: a rule's lifetime is for none.

The origin is one that resolves what it is sent, as nginx and servlet containers do.
"""

from __future__ import annotations

import posixpath
import re
from urllib.parse import unquote

import pytest

from layergate import Rule
from tests.support.gateways import Call, gateway
from tests.support.http1 import reply

STATIC = [Rule("/static/*", ttl=60), Rule("*.css", ttl=60, stale_while_revalidate=60)]
DECEPTIVE = [
    b"/static/../account", b"/static/..%2faccount", b"/static/%2e%2e/account", b"/static/%2e%2e%2faccount",
    b"/static//../account", b"/static/x/../../account", b"/static/..;/account", b"/static/..;a=b/account",
    b"/static/..%5caccount", b"/static/\\..\\..\\account", b"/static/%252e%252e/account",
    b"/static/..%252faccount", b"/static/%25252e%25252e/account", b"/account;x.css", b"/account%3bx.css",
    b"/account%3fx.css", b"/account%23x.css", b"//account;.css", b"/x/%2e%2e/account;.css",
    b"/x/..%2f/account;.css",
]  # fmt: skip


def resolved(target: bytes) -> str:
    """What a lenient origin takes a target for."""
    path = target.decode("latin-1").partition("?")[0]
    for _ in range(4):
        path = unquote(path)
    path = re.split("[?#]", path.replace("\\", "/"))[0]
    return posixpath.normpath(re.sub(";[^/]*", "", re.sub("/+", "/", path)))


@pytest.mark.parametrize("target", DECEPTIVE)
async def test_a_page_that_is_not_the_rules_is_not_stored(target):
    async with gateway(cache={"rules": STATIC}) as gate:
        count = 0

        async def script(seen: Call) -> None:
            nonlocal count
            count += 1
            seen.writer.write(reply(b"%b %d" % (resolved(seen.target).encode(), count)))

        gate.origin.otherwise = script
        first, second = await gate.get(target), await gate.get(target)
        assert (first.body, second.body) == (b"/account 1", b"/account 2")
        assert b"detail=path" in (second.get(b"cache-status") or b"")
        await gate.get(b"/static/app.js")
        assert (await gate.get(b"/static/app.js")).hit
