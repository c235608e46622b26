"""What one client of the gateway cannot do to the others: switch a page off, have it fetched again and
again, or crowd it out."""

from __future__ import annotations

import pytest

from tests.support.gateways import FRESH, Call, gateway
from tests.support.http1 import reply

ATTACKS = [
    pytest.param(b"Cookie: sid=bad", b"200 OK", [FRESH, b"Set-Cookie: sid=new"], id="bad-cookie"),
    pytest.param(b"X-Bad: " + b"x" * 9000, b"400 Bad Request", [], id="400"),
    pytest.param(b"X-Bad: sqlmap", b"403 Forbidden", [b"Cache-Control: no-store"], id="403"),
]


@pytest.mark.parametrize(("line", "status", "lines"), ATTACKS)
async def test_one_request_does_not_switch_a_page_off(line, status, lines):
    async with gateway() as gate:

        async def answer(seen: Call) -> None:
            bad = seen.all(b"cookie") or seen.all(b"x-bad")
            good = reply(b"all", FRESH)
            seen.writer.write(reply(b"one", *lines, status=status) if bad else good)

        gate.origin.otherwise = answer
        await gate.get(b"/")
        await gate.get(b"/", line, b"Cache-Control: no-cache")
        before = len(gate.origin.targets)
        for _ in range(60):
            assert (await gate.get(b"/")).hit
        assert len(gate.origin.targets) == before


async def test_twenty_reloads_in_a_row_cost_one_call():
    async with gateway(cache={"reload_pause": 60}) as gate:
        gate.origin.otherwise = reply(b"all", FRESH)
        await gate.get(b"/")
        for _ in range(20):
            await gate.get(b"/", b"Cache-Control: no-cache")
        assert len(gate.origin.targets) == 2


async def test_a_flood_of_variants_does_not_displace_what_is_read():
    async with gateway(cache={"max_variants": 8}) as gate:
        gate.origin.otherwise = reply(b"all", FRESH, b"Vary: X-Shade")
        for _ in range(20):
            await gate.get(b"/", b"X-Shade: me")
        for number in range(50):
            await gate.get(b"/", b"X-Shade: %d" % number)
        assert (await gate.get(b"/", b"X-Shade: me")).hit
