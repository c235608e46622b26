"""A short look at what `make fuzz` does for as long as one likes."""

from __future__ import annotations

import pytest

from tests.gateway.fuzzing import LIMITS, Fuzzer
from tests.support.gateways import gateway

EVERY_LOOP = True


@pytest.mark.parametrize("seed", [1, 2])
async def test_fuzz(seed):
    async with gateway(**LIMITS) as gate:
        fuzzer = Fuzzer(gate, seed)
        await fuzzer.run(96)
        await fuzzer.settled()
        assert fuzzer.probes
        assert gate.origin.seen
