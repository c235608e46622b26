"""A shared body on every order of events: no cache, no loop, a clock that only the test moves.

Held throughout: each reader gets exactly what was sent, from the byte on that it began with; a body that
is not kept is held no longer than a reader lacks it; only a reader that holds up others is cut off.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from layergate.core.flight import Pulse
from layergate.errors import OriginAborted
from layergate.http.engine import stream as module
from layergate.http.engine.stream import Reader, Stream, StreamOver
from tests.support.steps import Steps, Walk

PATIENCE = 10.0
SMALL = {"WINDOW": 40, "PIECE": 16}


class Follower:
    """A reader, what it has got, and what it waits for."""

    def __init__(self, reader: Reader, begin: int) -> None:
        self.reader = reader
        self.begin = begin
        self.got = b""
        self.waits: Walk | None = None


class StreamMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patched = {name: getattr(module, name) for name in SMALL}
        for name, value in SMALL.items():
            setattr(module, name, value)

    def teardown(self) -> None:
        for name, value in self.patched.items():
            setattr(module, name, value)
        for follower in self.followers:
            if follower.waits is not None:
                follower.waits.cancel()
        if self.producer is not None:
            self.producer.cancel()

    @initialize(keeps=st.booleans(), shared=st.booleans())
    def begin(self, keeps: bool, shared: bool) -> None:
        self.runtime = Steps(0.0)
        self.cut: list[Any] = []
        self.stream = Stream(
            Pulse(self.runtime),
            self.runtime.lock(),
            self.runtime.monotonic,
            patience=PATIENCE,
            cut=self.cut.append,
        )
        self.stream.keeps, self.stream.shared = keeps, shared
        self.sent = b""
        self.followers: list[Follower] = []
        self.left: list[Follower] = []
        self.producer: Walk | None = None
        self.over = False
        self.serial = 0

    def poll(self) -> None:
        for _ in range(3):
            if self.producer is not None and self.producer.poll():
                assert self.producer.error is None
                self.producer = None
                for one in self.followers:
                    if not one.reader.cut:
                        assert self.stream._backlog(one.reader) <= SMALL["WINDOW"]
            for one in self.followers:
                if one.waits is not None:
                    one.waits.poll()

    # -- the producer --------------------------------------------------------------------------

    @rule(size=st.integers(1, 60))
    def send(self, size: int) -> None:
        chunk = bytes((len(self.sent) + at) % 251 for at in range(size))
        if self.over:
            with pytest.raises(StreamOver):
                self.stream.add(chunk)
            return
        if self.producer is not None or self.stream.body is not None:
            return
        self.stream.add(chunk)
        self.sent += chunk
        if self.stream.oversized:
            self.producer = self.runtime.begin(self.stream.room())
        self.poll()

    @rule()
    def drop(self) -> None:
        could = self.stream.keeps and self.stream.body is None
        assert self.stream.drop() is could
        self.poll()

    @precondition(lambda self: self.stream.keeps and not self.over)
    @rule()
    def join(self) -> None:
        assert self.stream.join() == self.sent
        self.poll()

    @rule()
    def end(self) -> None:
        if self.over:
            with pytest.raises(StreamOver):
                self.stream.end()
        elif self.producer is None:
            self.stream.end()
            self.over = True
        self.poll()

    @rule()
    def break_off(self) -> None:
        if self.over:
            with pytest.raises(StreamOver):
                self.stream.break_off()
            return
        if self.producer is not None:
            self.producer.cancel()
            self.producer = None
        error = ValueError()
        had = self.stream.readers
        self.stream.break_off(error)
        assert self.stream.error is (error if had else None)
        assert not self.stream.keeps
        self.over = True
        self.poll()

    @precondition(lambda self: self.stream._idle_since is None)
    @rule()
    def its_own_client_stops(self) -> None:
        self.stream.rests()

    @rule()
    def its_own_client_goes_on(self) -> None:
        self.stream.goes_on()
        self.poll()

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.runtime.time += seconds
        self.poll()

    # -- the readers ---------------------------------------------------------------------------

    @precondition(lambda self: self.stream.shared and len(self.followers) < 4)
    @rule()
    def enter(self) -> None:
        self.serial += 1
        reader = self.stream.reader(self.serial)
        if reader.late:
            assert self.sent
            reader.__exit__()  # what has come is not there any more, so it decides anew
        else:
            self.followers.append(Follower(reader, 0))

    @precondition(lambda self: self.followers)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.followers))
        piece = one.reader.take()
        assert len(piece) <= SMALL["PIECE"]
        one.got += piece
        if not piece and one.waits is None:
            one.waits = self.runtime.begin(one.reader.more(5.0))
        self.poll()

    @precondition(lambda self: self.followers)
    @rule(data=st.data())
    def heed(self, data: st.DataObject) -> None:
        """What a wait came to."""
        one = data.draw(st.sampled_from(self.followers))
        wait = one.waits
        if wait is None or not wait.done():
            return
        one.waits = None
        if wait.error is not None:
            assert isinstance(wait.error, OriginAborted)
            assert one.reader.cut or self.stream.broken
            self.followers.remove(one)
            one.reader.__exit__()
        elif wait.result:
            assert one.reader._waiting() or self.stream.ended or one.reader.gone or one.reader.cut

    @precondition(lambda self: self.followers and self.stream.ended)
    @rule(data=st.data())
    def rest(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.followers))
        rest = one.reader.rest()
        assert (rest is None) is (self.stream.body is None)
        one.got += rest or b""

    @precondition(lambda self: self.followers)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.followers))
        self.followers.remove(one)
        one.reader.__exit__()
        if one.waits is not None:
            one.waits.cancel()
        self.poll()

    # -- what holds ----------------------------------------------------------------------------

    @invariant()
    def each_gets_what_was_sent(self) -> None:
        for one in self.followers:
            assert self.sent.startswith(one.got)
            assert one.reader._taken == len(one.got)
            if one.reader.at_end:
                assert one.got == self.sent

    @invariant()
    def nothing_is_held_that_nobody_lacks(self) -> None:
        stream = self.stream
        if stream.body is not None:
            assert stream.body == self.sent
            assert not stream._chunks
        elif stream.keeps:
            assert b"".join(stream._chunks) == self.sent
        elif not stream.shared:
            assert not stream._chunks

    @invariant()
    def a_reader_is_cut_for_holding_up_others(self) -> None:
        assert len(self.cut) == len(set(self.cut))
        for one in self.followers:
            assert one.reader.cut is (one.reader.request in self.cut)
            if one.reader.cut:
                assert max(one.reader.held, one.reader.starved) >= PATIENCE
                assert one.reader.take() == b""

    @invariant()
    def held_up_is_its_own_clients_doing(self) -> None:
        assert self.stream.held_up is (self.stream.idle > PATIENCE)


StreamMachine.TestCase.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)
TestStream = StreamMachine.TestCase


def test_a_body_that_is_not_kept_is_held_no_longer_than_a_reader_lacks_it() -> None:
    runtime = Steps(0.0)
    stream = Stream(
        Pulse(runtime),
        runtime.lock(),
        runtime.monotonic,
        patience=PATIENCE,
        cut=lambda _: None,
    )
    stream.shared = True
    fast, slow = stream.reader("fast"), stream.reader("slow")
    for _ in range(3):
        stream.add(b"x" * 10)
        fast.take()
    assert sum(map(len, stream._chunks)) == 30
    slow.take()
    stream.add(b"y" * 10)
    assert sum(map(len, stream._chunks)) == 10
    assert stream.reader("newcomer").late
