"""The conformance suite of a lease store.

    from layergate.testing.leases import LeaseConformance

    class TestMyLeases(LeaseConformance):
        def make_store(self):
            return MyLeaseStore(...)

`make_store` is called once for each instance that a test needs; all of these reach the same leases.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from typing import ClassVar
from unittest import SkipTest

from layergate.shared.journal import (
    FencingLeaseStore,
    Held,
    LeaseStore,
    Observed,
    Release,
    Released,
    Subscription,
    Taken,
)
from layergate.shared.names import blob_name, digest, lease_name
from layergate.testing.harness import PATIENCE, Harness

__all__ = ["LeaseConformance"]

LONG = 600.0  # seconds of a term that no test waits for


def token(note: bytes = b"") -> bytes:
    """One as `SharedLeases` makes it: the first byte is above 127."""
    return bytes((os.urandom(1)[0] | 0x80,)) + os.urandom(15) + note


class LeaseConformance(Harness, ABC):
    """What every lease store must do. Subclass it, and override `make_store`.

    Class attributes to adjust:

    ``namespace``  that of the stores.
    ``term``       seconds: a term whose end some tests wait for. As short as the system can.
    """

    namespace: ClassVar[str] = "leases"
    term: ClassVar[float] = 0.4

    # -- hooks ------------------------------------------------------------------------------------

    @abstractmethod
    def make_store(self) -> LeaseStore | Awaitable[LeaseStore]:
        """The store of one more instance."""

    def close_store(self, store: LeaseStore) -> object:  # noqa: ARG002 - for subclasses
        """Release what `make_store` opened. May return an awaitable."""
        return None

    def subscribe(
        self,
        instance: bytes,  # noqa: ARG002 - for subclasses
    ) -> Subscription | Awaitable[Subscription | None] | None:
        """The news that the instance of this name gets, of the journal beside the leases; None if
        there is none."""
        return None

    def read_blob(self, name: str) -> bytes | Awaitable[bytes | None] | None:  # noqa: ARG002
        """What `FencingLeaseStore.fenced_set` has written."""
        return None

    # -- harness ----------------------------------------------------------------------------------

    def setup_method(self) -> None:
        super().setup_method()
        self._stores: list[LeaseStore] = []
        self.name = self.new_name()
        self.store = self.another()

    def teardown_method(self) -> None:
        try:
            for store in self._stores:
                self.call(self.close_store(store))
        finally:
            super().teardown_method()

    def another(self) -> LeaseStore:
        """The store of one more instance."""
        store = self.call(self.make_store())
        self._stores.append(store)
        return store

    def new_name(self) -> str:
        return lease_name(self.namespace, digest(os.urandom(8)))

    def acquire(
        self,
        mine: bytes,
        *,
        name: str | None = None,
        store: LeaseStore | None = None,
        term: float = LONG,
        waiter: bytes = b"",
    ) -> Taken | Held:
        answer = self.call((store or self.store).acquire(name or self.name, mine, term, waiter))
        assert isinstance(answer, Taken | Held)
        return answer

    def take(self, *, name: str | None = None, term: float = LONG) -> bytes:
        """Acquire it. Returns the token."""
        mine = token()
        assert isinstance(self.acquire(mine, name=name, term=term), Taken)
        return mine

    def look(self, holder: bytes, *, waiter: bytes = b"") -> Observed:
        return self.call(self.store.look(self.name, holder, LONG, waiter))

    def renew(self, mine: bytes, *, term: float = LONG) -> bool | Exception:
        (answer,) = self.call(self.store.renew([(self.name, mine)], term))
        return answer

    def release(
        self, mine: bytes, *, granted: bool = True, free: bool = False, term: float = LONG
    ) -> bool | Exception:
        release = Release(self.name, mine, granted, free)
        (answer,) = self.call(self.store.release([release], term))
        return answer

    # -- one holder -------------------------------------------------------------------------------

    def test_is_a_lease_store(self) -> None:
        assert isinstance(self.store, LeaseStore)

    def test_a_lease_has_one_holder(self) -> None:
        mine = token(b"a note")
        assert self.acquire(mine) == Taken(recent=False)
        held = self.acquire(token(), store=self.another())
        assert isinstance(held, Held)
        assert held.token == mine
        assert 0 < held.left <= LONG
        assert isinstance(self.acquire(token(), name=self.new_name()), Taken)

    def test_asked_again_with_the_same_token_it_is_granted_again(self) -> None:
        mine = self.take()
        assert isinstance(self.acquire(mine), Taken)

    def test_of_many_that_ask_one_gets_it(self) -> None:
        stores = [self.another() for _ in range(4)]
        answers = [self.acquire(token(), store=stores[number % 4]) for number in range(20)]
        assert sum(isinstance(answer, Taken) for answer in answers) == 1

    def test_a_lease_that_is_not_renewed_runs_out(self) -> None:
        mine = token()
        began = time.monotonic()
        assert isinstance(self.acquire(mine, term=self.term), Taken)
        other = token()
        self.until(lambda: isinstance(self.acquire(other), Taken), pause=self.term / 20)
        assert time.monotonic() - began >= self.term * 0.8
        assert self.renew(mine) is False
        assert self.look(mine).left is None

    # -- looking ----------------------------------------------------------------------------------

    def test_a_look_tells_whether_the_holder_still_has_it(self) -> None:
        mine = self.take()
        left = self.look(mine).left
        assert left is not None
        assert 0 <= left <= LONG
        assert self.release(mine) is True
        assert self.look(mine) == Observed(None, free=False)

    def test_a_look_tells_that_it_was_released_as_free(self) -> None:
        mine = self.take()
        assert self.release(mine, free=True) is True
        assert self.look(mine) == Observed(None, free=True)
        other = self.take()
        assert self.look(mine).left is None
        assert self.look(other).left is not None

    # -- renewing ---------------------------------------------------------------------------------

    def test_renewing_keeps_it(self) -> None:
        mine = self.take(term=self.term)
        other = token()
        until = time.monotonic() + 2 * self.term
        while time.monotonic() < until:
            assert self.renew(mine, term=self.term) is True
            assert isinstance(self.acquire(other), Held)
            self.pause(self.term / 10)

    def test_one_that_ran_out_is_renewed_if_no_other_has_it(self) -> None:
        mine = self.take(term=self.term)
        self.pause(self.term * 1.5)
        assert self.renew(mine) is True
        assert isinstance(self.acquire(token()), Held)

    def test_each_of_many_is_renewed(self) -> None:
        names = [self.new_name() for _ in range(20)]
        tokens = [self.take(name=name) for name in names]
        lost = token()
        answers = self.call(
            self.store.renew([(names[0], lost), *zip(names, tokens, strict=True)], LONG)
        )
        assert list(answers) == [False, *[True] * 20]

    # -- releasing --------------------------------------------------------------------------------

    def test_a_released_lease_leaves_a_trace(self) -> None:
        mine = self.take()
        assert self.release(mine) is True
        assert self.acquire(token()) == Taken(recent=True)

    def test_a_trace_lasts_one_term(self) -> None:
        mine = self.take()
        assert self.release(mine, term=self.term) is True
        self.pause(self.term * 1.5)
        assert self.acquire(token()) == Taken(recent=False)

    def test_a_release_takes_nothing_from_a_later_holder(self) -> None:
        mine = self.take()
        assert self.release(mine) is True
        other = self.take()
        assert self.release(mine) is False
        assert self.renew(other) is True

    def test_a_renewal_that_comes_after_the_release_takes_nothing(self) -> None:
        mine = self.take()
        assert self.release(mine) is True
        assert self.renew(mine) is False
        self.take()

    def test_a_release_that_overtakes_its_request_prevents_it(self) -> None:
        late = token()
        assert self.release(late, granted=False) is False
        assert isinstance(self.acquire(late), Held)
        mine = self.take()
        assert self.release(late, granted=False) is False
        assert self.renew(mine) is True

    def test_a_release_that_is_not_sure_releases_what_was_granted(self) -> None:
        mine = self.take()
        assert self.release(mine, granted=False) is True
        self.take()

    # -- waiting ----------------------------------------------------------------------------------

    def test_a_waiter_is_told_of_the_release(self) -> None:
        waiter = os.urandom(8).hex().encode()
        subscription = self.call(self.subscribe(waiter))
        if subscription is None:
            raise SkipTest("this system sends no messages")
        try:
            for free in (False, True):
                mine = self.take()
                if free:
                    self.look(mine, waiter=waiter)
                else:
                    assert isinstance(self.acquire(token(), waiter=waiter), Held)
                assert self.release(mine, free=free) is True
                limit = time.monotonic() + PATIENCE
                while True:
                    assert time.monotonic() < limit, "no message"
                    news = self.call(subscription.next(0.5))
                    if isinstance(news, Released):
                        break
                assert news == Released(self.name, free)
        finally:
            self.call(subscription.close())

    # -- the fence --------------------------------------------------------------------------------

    def test_a_holder_that_lost_the_lease_cannot_write(self) -> None:
        store = self.store
        if not isinstance(store, FencingLeaseStore):
            raise SkipTest("this store has no fence")
        blob = blob_name(self.namespace, self.name[-41:-1])

        def write(mine: bytes, data: bytes) -> bool:
            return self.call(store.fenced_set(self.name, mine, blob, data, 60.0))

        mine = self.take(term=self.term)
        assert write(mine, b"first")
        self.pause(self.term * 1.5)
        assert write(mine, b"it ran out, but no other has taken it")
        theirs = self.take()
        assert not write(mine, b"late")
        assert write(theirs, b"theirs")
        assert self.release(theirs) is True
        assert not write(mine, b"later"), "they have finished after us"
        assert self.call(self.read_blob(blob)) == b"theirs"
