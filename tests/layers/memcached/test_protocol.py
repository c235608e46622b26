"""memcached's protocol without a server: whatever comes, no command gets the reply of another one."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layergate.errors import LayerRefused
from layergate.layers.memcached.connection import Connection
from layergate.layers.memcached.protocol import (
    Command,
    ProtocolError,
    Replies,
    Reply,
    StrangerError,
    delete,
    get,
    put,
    stats,
)
from layergate.runtime.blocking import run_blocking

FIRST = 41


def replies_to(*commands: Command) -> Replies:
    return Replies(commands, FIRST)


def value(number: int, data: bytes, cas: int | None = None) -> bytes:
    more = b"" if cas is None else b" c%d" % cas
    return b"VA %d%b O%d\r\n%b\r\n" % (len(data), more, FIRST + number, data)


# -- what is asked ------------------------------------------------------------------------------------------


def test_commands() -> None:
    assert get(b"k").wire(7) == b"mg k v O7\r\n"
    assert get(b"k", cas=True).wire(7) == b"mg k v c O7\r\n"
    assert put(b"k", b"data", seconds=9).wire(7) == b"ms k 4 c T9 MS O7\r\ndata\r\n"
    assert put(b"k", b"", mode=b"E").wire(7) == b"ms k 0 c T0 ME O7\r\n\r\n"
    assert put(b"k", b"x", compare=5).wire(7) == b"ms k 1 c T0 MS C5 O7\r\nx\r\n"
    assert delete(b"k").wire(7) == b"md k O7\r\n"
    assert stats().wire(7) == b"stats\r\n"
    assert stats(b"settings").wire(7) == b"stats settings\r\n"


@pytest.mark.parametrize(
    "key", [b"", b"a b", b"a\r\nflush_all", b"a\n", b"\x00", b"\x7f", b"\xe4", b"k" * 251], ids=repr
)
def test_a_key_that_is_more_than_one_word_is_refused(key: bytes) -> None:
    for make in (get, delete, lambda key: put(key, b"")):
        with pytest.raises(ValueError, match="visible ASCII"):
            make(key)
    assert get(b"k" * 250)


# -- what comes ---------------------------------------------------------------------------------------------


bodies = st.binary(max_size=60) | st.sampled_from(
    [b"\r\n", b"VA 3 O41\r\nabc\r\n", b"EN\r\n", b"HD O42\r\n", b"END\r\n", b"SERVER_ERROR x\r\n"]
)
answers = st.lists(
    st.tuples(st.sampled_from(["value", "none", "done", "refused", "error"]), bodies),
    min_size=1,
    max_size=6,
)


def wire(number: int, kind: str, data: bytes) -> bytes:
    opaque = FIRST + number
    return {
        "value": value(number, data, 7),
        "none": b"EN\r\n" if len(data) % 2 else b"EN O%d\r\n" % opaque,
        "done": b"HD c9 O%d\r\n" % opaque,
        "refused": b"EX c0 O%d\r\n" % opaque,
        "error": b"SERVER_ERROR out of memory storing object\r\n",
    }[kind]


def expected(kind: str, data: bytes) -> Reply:
    return {
        "value": Reply(b"VA", data, 7),
        "none": Reply(b"EN"),
        "done": Reply(b"HD", cas=9),
        "refused": Reply(b"EX"),
        "error": Reply(b"SERVER_ERROR out of memory storing object"),
    }[kind]


@given(answers, st.data())
def test_replies_are_the_same_however_they_are_split(
    found: list[tuple[str, bytes]], data: st.DataObject
) -> None:
    stream = b"".join(wire(number, *one) for number, one in enumerate(found))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    replies = replies_to(*(get(b"k") for _ in found))
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        assert not replies.complete or start == len(stream)
        replies.feed(stream[start:end])
    assert replies.complete
    assert replies.replies == [expected(*one) for one in found]


@given(answers, st.data())
def test_what_is_cut_off_is_no_reply(found: list[tuple[str, bytes]], data: st.DataObject) -> None:
    stream = b"".join(wire(number, *one) for number, one in enumerate(found))
    end = data.draw(st.integers(0, len(stream) - 1))
    replies = replies_to(*(get(b"k") for _ in found))
    replies.feed(stream[:end])
    assert not replies.complete
    assert replies.replies == [expected(*one) for one in found][: len(replies.replies)]


@given(st.binary(max_size=200), st.integers(1, 3))
def test_garbage_brings_no_value(junk: bytes, count: int) -> None:
    replies = replies_to(*(get(b"k") for _ in range(count)))
    try:
        replies.feed(junk)
    except ProtocolError:
        return
    for number, reply in enumerate(replies.replies):
        # It looked like a reply to this very command.
        assert reply.code != b"VA" or b"O%d" % (FIRST + number) in junk


@pytest.mark.parametrize(
    "stream",
    [
        value(1, b"another's"),  # the reply to the next command
        b"VA 3\r\nabc\r\n",
        b"VA 3 O4\r\nabc\r\n",
        b"VA -1 O41\r\n\r\n",
        b"VA x O41\r\n",
        b"VA O41\r\n",
        b"VA 99999999999 O41\r\n",
        b"VA 3 O41\r\nabcd\r\n",
        b"HD O40\r\n",
        b"HD\r\n",
        b"NF\r\n",
        b"EN O7\r\n",
        b"EN k7 O7\r\n",
        b"MN\r\n",
        b"STORED\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x00\xff\r\n",
        b"a" * 9000,
        b"a" * 9000 + b"\r\n",
        value(0, b"one") + b"more",
        value(0, b"one") + value(0, b"one"),
    ],
    ids=repr,
)
def test_what_is_no_reply_to_this_command(stream: bytes) -> None:
    with pytest.raises(ProtocolError):
        replies_to(get(b"k")).feed(stream)


@pytest.mark.parametrize(
    ("version", "says"),
    [
        (b"1.5.16", "older than 1.6.10"),
        (b"1.6.9", "older than 1.6.10"),
        (b"1.6.10", ""),
        (b"1.7.0-beta", "does not say who it is"),
        (b"2.0.1", ""),
        (b"", "does not say who it is"),
    ],
)
def test_a_server_that_would_take_data_for_commands_is_sent_none(version: bytes, says: str) -> None:
    """Before its meta commands were settled, memcached answers ERROR to one, and reads on: the data of a value,
    which a user's request may have made, would be carried out."""
    settings = b"STAT item_size_max 1048576\r\nSTAT cas_enabled yes\r\nEND\r\n"
    numbers = b"STAT pid 7\r\nSTAT time 100\r\nSTAT uptime 9\r\nSTAT version %b\r\nEND\r\n"

    class Scripted(Connection):
        async def exchange(self, commands: Sequence[Command], seconds: float) -> Sequence[Reply]:
            assert all(one.data is None for one in commands)
            replies = replies_to(*commands)
            replies.feed(numbers % version + settings)
            return replies.replies

    connection = Scripted()
    if says:
        with pytest.raises((LayerRefused, ProtocolError), match=says):
            run_blocking(connection.greet(1.0))
    else:
        run_blocking(connection.greet(1.0))
        assert connection.identity == b"7:91"


def test_an_error_stands_in_its_place() -> None:
    replies = replies_to(get(b"a"), put(b"b", b"x"), get(b"c"))
    replies.feed(value(0, b"a") + b"CLIENT_ERROR bad data chunk\r\n" + b"ERROR\r\n")
    assert [reply.error for reply in replies.replies] == [
        "",
        "CLIENT_ERROR bad data chunk",
        "ERROR",
    ]


def test_a_stranger_is_told_once() -> None:
    with pytest.raises(StrangerError):
        replies_to(stats(), stats(b"settings")).feed(b"CLIENT_ERROR unauthenticated\r\n")


def test_lists() -> None:
    replies = replies_to(stats(), stats(b"settings"))
    replies.feed(b"STAT pid 7\r\nSTAT version 1.6")
    assert not replies.replies
    replies.feed(b".18\r\nEND\r\nSTAT a b\r\nEND\r\n")
    assert [reply.lines for reply in replies.replies] == [(b"pid 7", b"version 1.6.18"), (b"a b",)]
    with pytest.raises(ProtocolError, match="no line of a list"):
        replies_to(stats()).feed(b"HD O41\r\n")
    with pytest.raises(ProtocolError, match="no line of a list"):
        replies_to(stats()).feed(b"STAT a b\r\n" * 2000)
