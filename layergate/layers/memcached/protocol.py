"""memcached's meta protocol, without I/O: commands to bytes, and bytes to replies.

This is our own, because the clients that there are either have one face (aiomcache asyncio, pymemcache
threads), or do not speak the meta protocol, whose replies name the request that they belong to. That
matters here: a reply that is taken for that of another request is one user's page for another.

Each command carries an opaque number (``O``) that its reply repeats. Replies come in the order of the
commands. Whatever is not the expected reply is a `ProtocolError`; then the connection has to be closed,
because nobody knows what else comes on it.

Source: https://github.com/memcached/memcached/blob/master/doc/protocol.txt
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

__all__ = [
    "LONGEST_KEY",
    "STRANGER",
    "Command",
    "ProtocolError",
    "Replies",
    "Reply",
    "StrangerError",
    "delete",
    "get",
    "put",
    "stats",
]

LONGEST_KEY: Final = 250  # bytes
STRANGER: Final = b"CLIENT_ERROR unauthenticated"
_LONGEST_LINE: Final = 8192  # bytes of a reply's first line
_KEY: Final = re.compile(rb"[\x21-\x7e]{1,250}")
_NUMBER: Final = re.compile(rb"[0-9]{1,20}")
_LARGEST: Final = 1024 * 1024 * 1024  # bytes of an item, by the server's own limit
_MANY: Final = 1000  # lines of an answer to ``stats``


class ProtocolError(ConnectionError):
    """What came is not the reply to what was asked."""


class StrangerError(ProtocolError):
    """The server answers nobody who has not logged in. It says so once, whatever was asked, and no more."""


class Command(NamedTuple):
    """``line``: without its opaque and its end. ``data``: the block that follows; None for none. ``lists``:
    its reply is a list of lines that ends with END."""

    line: bytes
    data: bytes | None = None
    lists: bool = False

    def wire(self, opaque: int) -> bytes:
        if self.lists:
            return self.line + b"\r\n"
        if self.data is None:
            return b"%b O%d\r\n" % (self.line, opaque)
        return b"%b O%d\r\n%b\r\n" % (self.line, opaque, self.data)


class Reply(NamedTuple):
    """``code``: two characters: ``VA`` a value, ``EN`` no such item, ``HD`` done, ``NS`` not stored, ``EX`` it
    was changed meanwhile, ``NF`` not found, ``OK`` a list; or the server's error, as a line.
    ``cas``: the item's unique number, if it was asked for."""

    code: bytes
    value: bytes = b""
    cas: int = 0
    lines: tuple[bytes, ...] = ()

    @property
    def error(self) -> str:
        """What the server complains of; "" if it does not."""
        return self.code.decode("ascii", "replace") if len(self.code) > 2 else ""


def get(key: bytes, *, cas: bool = False) -> Command:
    """The value of an item."""
    return Command(b"mg %b v%b" % (_checked(key), b" c" if cas else b""))


def put(
    key: bytes, data: bytes, *, seconds: int = 0, mode: bytes = b"S", compare: int | None = None
) -> Command:
    """Store an item. ``seconds``: 0 for ever. ``mode``: S set, E add. ``compare``: only if this is its cas."""
    wanted = b"" if compare is None else b" C%d" % compare
    return Command(
        b"ms %b %d c T%d M%b%b" % (_checked(key), len(data), seconds, mode, wanted), data
    )


def delete(key: bytes) -> Command:
    return Command(b"md %b" % _checked(key))


def stats(what: bytes = b"") -> Command:
    """The server's numbers, or its settings."""
    return Command(b"stats" + (b" " + what if what else b""), lists=True)


def _checked(key: bytes) -> bytes:
    """A key must not end its line, or be two words."""
    if _KEY.fullmatch(key) is None:
        raise ValueError(
            f"a key of memcached is 1 to 250 visible ASCII characters, got {key!r:.300}"
        )
    return key


class Replies:
    """The replies to some commands, as they come. ``first``: the opaque of the first command."""

    def __init__(self, commands: tuple[Command, ...], first: int) -> None:
        self._commands = commands
        self._first = first
        self._buffer = bytearray()
        self._listed: list[bytes] = []
        self.replies: list[Reply] = []

    @property
    def complete(self) -> bool:
        return len(self.replies) == len(self._commands)

    def feed(self, data: bytes) -> None:
        """Raises ProtocolError."""
        self._buffer += data
        while not self.complete:
            reply = self._next()
            if reply is None:
                return
            self.replies.append(reply)
        if self._buffer:
            raise ProtocolError("more came than was asked for")

    def _next(self) -> Reply | None:
        """The next reply, if it is there as a whole."""
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > _LONGEST_LINE:
                raise ProtocolError("a line of a reply does not end")
            return None
        if end > _LONGEST_LINE:
            raise ProtocolError("a line of a reply is too long")
        line = bytes(self._buffer[:end])
        if line == STRANGER:
            raise StrangerError("the server answers nobody who has not logged in")
        if line == b"ERROR" or line.startswith((b"CLIENT_ERROR", b"SERVER_ERROR")):
            del self._buffer[: end + 2]
            self._listed.clear()
            return Reply(line + b" " if len(line) <= 2 else line)
        number = len(self.replies)
        if self._commands[number].lists:
            return self._list()
        code, *words = line.split(b" ")
        opaque = b"%d" % (self._first + number)
        size = -1
        if code == b"VA":
            if not words or _NUMBER.fullmatch(words[0]) is None:
                raise ProtocolError("a reply has no length")
            size = int(words.pop(0))
            if size > _LARGEST:
                raise ProtocolError("a reply is too long")
        elif code not in (b"HD", b"EN", b"NS", b"EX", b"NF"):
            raise ProtocolError(f"this is no reply: {line!r:.100}")
        cas, told = 0, b""
        for word in words:
            if word[:1] == b"O":
                told = word[1:]
            elif word[:1] == b"c" and _NUMBER.fullmatch(word[1:]):
                cas = int(word[1:])
        # (memcached says no more than EN, unless it is asked for more.)
        if told != opaque and not (code == b"EN" and not words):
            raise ProtocolError("this is the reply to another command")
        if size < 0:
            del self._buffer[: end + 2]
            return Reply(code, cas=cas)
        whole = end + 2 + size + 2
        if len(self._buffer) < whole:
            return None
        if self._buffer[whole - 2 : whole] != b"\r\n":
            raise ProtocolError("a value does not end where it should")
        value = bytes(self._buffer[end + 2 : whole - 2])
        del self._buffer[:whole]
        return Reply(code, value, cas)

    def _list(self) -> Reply | None:
        """The lines of a list, as far as they are there; the reply if the last one is."""
        while (end := self._buffer.find(b"\r\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 2]
            if line == b"END":
                lines, self._listed = tuple(self._listed), []
                return Reply(b"OK", lines=lines)
            if not line.startswith(b"STAT ") or len(self._listed) >= _MANY:
                raise ProtocolError(f"this is no line of a list: {line!r:.100}")
            self._listed.append(line[5:])
        return None
