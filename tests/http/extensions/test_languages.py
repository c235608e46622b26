"""Accept-Language and Content-Language, as the option language_match reads them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layergate.http.extensions.languages import (
    InLanguage,
    in_language,
    language_of,
    preferred_language,
)
from layergate.http.message.fields import Fields
from tests.support.asgi import OriginCall, World

PREFERRED = [
    ("de", b"de"), ("DE-at", b"de-at"), ("fr;q=0.5, de;q=1.0", b"de"), ("de ; q=0.9,*;q=0.8", b"de"),
    ("de;Q=0.5", b"de"), ("fr;q=0, de;q=0.001", b"de"), ("a, b, c;q=0.5", None), ("a;q=0.5, b;q=0.5, c", b"c"),
    ("*", None), ("*, de;q=0.5", None), ("de;q=0", None), ("", None), (",", None), ("de;q=1.1", None),
    ("de;q", None), ("de;q=", None), ("de;level=1", None), ("de;q=1;q=1", None), ("de_AT", None),
    ("d\u00e9", None), ("de at", None), (";q=1", None), ("abcdefghi", None), ("de-", None), ("de, de", None),
    ("x;q=0.1, " * 200 + "de", None),
]  # fmt: skip


@pytest.mark.parametrize(("value", "expected"), PREFERRED)
def test_what_a_client_prefers(value: str, expected: bytes | None) -> None:
    fields = Fields([(b"accept-language", value.encode("latin-1"))])
    assert preferred_language(fields) == expected


def test_a_client_that_says_nothing() -> None:
    assert preferred_language(Fields([])) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"de"], b"de"), ([b" De-AT "], b"de-at"), ([b"de, en"], None), ([b"de", b"en"], None),
        ([b""], None), ([b"*"], None), ([], None), ([b"de;q=1"], None),
    ],
)  # fmt: skip
def test_the_language_of_a_response(values: list[bytes], expected: bytes | None) -> None:
    assert language_of(Fields([(b"content-language", value) for value in values])) == expected


@given(st.lists(st.one_of(st.binary(), st.from_regex(rb"[de,;q=0.1* -]*", fullmatch=True))))
def test_any_value_is_read(values: list[bytes]) -> None:
    language = preferred_language(Fields([(b"accept-language", value) for value in values]))
    assert language is None or any(language in value.lower() for value in values)
    language_of(Fields([(b"content-language", value) for value in values]))


async def test_g7_what_is_chosen_by_language_is_not_stored_again() -> None:
    """However many ways there are to prefer a language."""
    world = World(language_match=True)
    headers = {
        "cache-control": "max-age=60", "vary": "accept-language", "content-language": "de"
    }  # fmt: skip
    world.origin.answers("/", headers)
    await world.get("/", headers={"accept-language": "en, de"})
    before = world.entries
    for number in range(100):
        call = await world.get("/", headers={"accept-language": f"de, x-{number};q=0.5"})
        assert call.hit
    assert (world.entries, world.origin.total) == (before, 1)


async def test_what_expires_as_it_is_chosen_is_not_validated_for_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be stored as what this other client selects, once the origin says 304."""
    world = World(language_match=True)
    asked: list[str | None] = []

    @world.origin.on("/")
    async def handler(call: OriginCall) -> None:
        asked.append(call.header("if-none-match"))
        said = {
            "cache-control": "max-age=60", "vary": "accept-language", "content-language": "de",
            "etag": '"de"',
        }  # fmt: skip
        await call.reply(b"de", 304 if asked[-1] else 200, said)

    def slow(*arguments: Any) -> InLanguage | None:
        found = in_language(*arguments)
        world.clock.advance(2)
        return found

    monkeypatch.setattr("layergate.http.engine.lookup.in_language", slow)
    await world.get("/", headers={"accept-language": "en, de"})
    world.clock.advance(59)
    await world.get("/", headers={"accept-language": "de"})
    assert asked == [None, None]
