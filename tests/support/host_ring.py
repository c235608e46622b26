"""A process that writes and reads values in the rings of a folder (`layergate.layers.host.entries`)."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from layergate.layers.host.entries import Entries
from layergate.layers.host.ring import NAME_SIZE
from layergate.runtime.threads import ThreadRuntime
from tests.support.forks import Connection

__all__ = ["name", "storm"]


def name(number: int) -> bytes:
    return hashlib.blake2b(b"%d" % number, digest_size=NAME_SIZE).digest()


def storm(pipe: Connection[object, object], folder: Path, seed: int, rounds: int) -> None:
    """Send None when it begins, and the number of hits at the end."""
    entries = Entries(folder, size=1 << 20, large=8 << 20, runtime=ThreadRuntime())
    dice = random.Random(seed)
    hits = 0
    pipe.send(None)
    for done in range(rounds):
        if not done % 256 and pipe.poll():
            return  # nothing is ever sent here: the test's process has ended
        number = dice.randrange(400)
        if dice.random() < 0.5:
            entries.set(name(number), _value_of(number, dice), 4e9)
        else:
            hits += _checked(number, entries.get(name(number)))
    pipe.send(hits)


def _value_of(number: int, dice: random.Random) -> bytes:
    """A value that tells whose it is, how long it is, and what it is made of."""
    length = dice.choice((0, 100, 2000, 9000, 60_000, 300_000))
    seed = dice.randrange(256)
    return b"%d:%d:%d:" % (number, length, seed) + bytes((seed,)) * length


def _checked(number: int, value: bytes | None) -> bool:
    if value is None:
        return False
    of, length, seed, rest = value.split(b":", 3)
    assert int(of) == number
    assert len(rest) == int(length)
    assert rest == bytes((int(seed),)) * int(length)
    return True
