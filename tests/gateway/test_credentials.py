"""Rules of the gateway for requests with credentials: ``allow_authorization = "each"``."""

from __future__ import annotations

from typing import Any

import pytest

from layergate import Rule
from layergate.errors import SettingsError
from layergate.gateway.settings import load
from tests.support.gateways import Call, gateway
from tests.support.http1 import reply

ANN, BOB = b"Authorization: Bearer ann", b"Authorization: Bearer bob"
UP = "http://127.0.0.1:8000"


async def test_each_credential_has_what_the_origin_gave_to_it():
    async with gateway(cache={"rules": [Rule("/*", ttl=60, allow_authorization="each")]}) as gate:

        async def script(seen: Call) -> None:
            known = [value for name, value in seen.lines if name.lower() == b"authorization"]
            seen.writer.write(reply(known[0] if known else b"nobody"))

        gate.origin.otherwise = script
        for _ in range(2):
            assert (await gate.get(b"/a", ANN)).body == b"Bearer ann"
            assert (await gate.get(b"/a", BOB)).body == b"Bearer bob"
            assert (await gate.get(b"/a")).body == b"nobody"
        for field in ((ANN,), (BOB,), ()):
            assert (await gate.get(b"/a", *field)).hit
        assert (await gate.get(b"/a", b"Authorization: Bearer an")).body == b"Bearer an"


def test_it_is_written_as_text(tmp_path):
    file = tmp_path / "layergate.toml"
    rule = "[[rules]]\npath = '/a'\nttl = 1\nallow_authorization = "
    file.write_text(f"upstream = '{UP}'\n{rule}'each'\n")
    options: Any = load(file, {}, {}).options.cache
    (made,) = options.rules
    assert made.allow_authorization == "each"
    file.write_text(f"upstream = '{UP}'\n{rule}'all'\n")
    with pytest.raises(
        SettingsError,
        match=r"layergate\.toml: rules\[0\]\.allow_authorization must be True, False or",
    ):
        load(file, {}, {})
