"""The conformance suite of a journal, the log of purges.

    from layergate.testing.journals import JournalConformance

    class TestMyJournal(JournalConformance):
        def make_journal(self):
            return MyJournal(...)

Each test begins with a log that does not exist yet. `make_journal` is called once for each instance that
a test needs; all of these reach the same log. The suite asks for everything that the head of
`layergate.shared.journal` promises, but for what only a system under stress shows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from typing import Any, ClassVar
from unittest import SkipTest

from layergate.shared.journal import (
    INCARNATION_SIZE,
    Addition,
    Appended,
    Founding,
    Grew,
    Journal,
    Place,
    Record,
    Reply,
    Status,
    chained,
)
from layergate.testing.harness import PATIENCE, Harness

__all__ = ["Instance", "JournalConformance"]

_NEVER = float("-inf")


class Instance:
    """One instance, as the suite plays it: it takes in what it reads, and checks the chain."""

    def __init__(self, suite: JournalConformance, journal: Journal, *, member: bool = True) -> None:
        self.suite = suite
        self.journal = journal
        self.name = os.urandom(8).hex().encode()
        self.member = member
        self.log: bytes | None = None
        self.position = 0
        self.tip = b""
        self.refused = b""
        self.records: list[Record] = []
        self.trusted_until = _NEVER
        self.holes = 0

    @property
    def place(self) -> Place:
        founding = Founding(os.urandom(INCARNATION_SIZE), b"seal", self.refused)
        return Place(self.log, self.position, self.tip, self.name, self.member, founding)

    @property
    def data(self) -> list[bytes]:
        """What the records say that it has read, without leaps."""
        return [record.data for record in self.records if record.data]

    def sync(self) -> Reply:
        """One sync, taken in."""
        sent = time.monotonic()
        return self._take(self.suite.call(self.journal.sync(self.place)), sent)

    def read_all(self) -> Reply:
        """Sync until all is read and acknowledged."""
        for _ in range(100):
            reply = self.sync()
            if reply.complete and not reply.records:
                return reply
        raise AssertionError("the log does not end")

    def append(self, *data: bytes, again: Sequence[bytes] = ()) -> Appended:
        """Append records, read up to them, and return the last one."""
        names = [*again, *[b""] * (len(data) - len(again))]
        additions = [
            Addition(os.urandom(8), name, one) for one, name in zip(data, names, strict=True)
        ]
        for _ in range(10):
            sent = time.monotonic()
            reply = self._take(self.suite.call(self.journal.append(self.place, additions)), sent)
            if reply.appended:
                record = Appended(reply.log, reply.appended, reply.tip, time.monotonic())
                while self.log == reply.log and self.position < reply.appended:
                    self.sync()
                return record
        raise AssertionError("nothing is ever appended")

    def status(self, record: Appended) -> Status:
        return self.suite.call(self.journal.status(self.place, record))

    def until_final(self, record: Appended) -> Status:
        """Ask until it is final."""
        limit = time.monotonic() + self.journal.terms.finality + PATIENCE
        while not (status := self.status(record)).final:
            assert status.found, "the record was lost"
            assert time.monotonic() < limit, f"never final: {status}"
            self.suite.pause(0.005)
        return status

    def leave(self) -> None:
        self.trusted_until = _NEVER
        self.suite.call(self.journal.leave(self.place))

    def _take(self, reply: Reply, sent: float) -> Reply:
        if reply.log != self.log:
            self.log, self.position, self.tip = reply.log, 0, b""
            self.records = []
        for record in reply.records:
            assert record.position > self.position, "in order, and nothing that was read already"
            if record.before == self.position and record.nonce is not None:
                if self.tip or not self.position:
                    assert record.tip == chained(self.tip, record.nonce, record.data)
            elif record.before > self.position:
                self.holes += 1
            self.records.append(record)
            self.position, self.tip = record.position, record.tip
        assert not reply.trusted_for or reply.complete, "trusted without knowing all"
        if reply.complete:
            assert self.position == reply.last or not reply.records
        if reply.trusted_for:
            self.trusted_until = max(self.trusted_until, sent + reply.trusted_for)
        return reply


class JournalConformance(Harness, ABC):
    """What every journal must do. Subclass it, and override `make_journal`.

    Class attributes to adjust:

    ``members``  False for a journal that keeps no members: a purge is then final only when the trust of
                 all instances is over.
    """

    members: ClassVar[bool] = True

    # -- hooks ------------------------------------------------------------------------------------

    @abstractmethod
    def make_journal(self) -> Journal | Awaitable[Journal]:
        """A journal of one more instance, on the one log of this test. Its trust should last about a
        second: the suite waits for its end."""

    def close_journal(self, journal: Journal) -> object:  # noqa: ARG002 - for subclasses
        """Release what `make_journal` opened. May return an awaitable."""
        return None

    def factory(self) -> tuple[str, list[Any]] | None:
        """``module:function`` and arguments that make a journal on the log of this test in another
        process, for `layergate.testing.member`; None if processes cannot share it."""
        return None

    def lose(self) -> bool:
        """Empty the system. False if that cannot be done: tests that need it are skipped."""
        return False

    def save(self) -> Any:
        """The state of the system, for `restore`; None if it cannot be put back."""
        return None

    def restore(self, saved: Any) -> None:
        """Put an old state back, as a failover to a replica does that is behind."""

    # -- harness ----------------------------------------------------------------------------------

    def setup_method(self) -> None:
        super().setup_method()
        self._journals: list[Journal] = []
        self._processes: list[subprocess.Popen[str]] = []

    def teardown_method(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        try:
            for journal in self._journals:
                self.call(self.close_journal(journal))
        finally:
            super().teardown_method()

    def instance(self, *, member: bool = True) -> Instance:
        """One more instance that has not asked anything yet."""
        journal = self.call(self.make_journal())
        self._journals.append(journal)
        return Instance(self, journal, member=member)

    def fleet(self, number: int) -> list[Instance]:
        """Instances that have joined a log in which a purge was final already: so no purge has to wait
        for the trust that was granted before the log was founded."""
        instances = [self.instance() for _ in range(number)]
        instances[0].sync()
        first = instances[0].append(b"the first")
        instances[0].until_final(first)
        for one in instances:
            one.read_all()
        return instances

    # -- the log ----------------------------------------------------------------------------------

    def test_is_a_journal(self) -> None:
        one, other = self.instance(), self.instance()
        assert isinstance(one.journal, Journal)
        assert one.journal.identity == other.journal.identity
        terms = one.journal.terms
        assert 0 < terms.heartbeat < terms.trust
        assert terms.finality < float("inf")

    def test_the_first_caller_founds_the_log(self) -> None:
        one, other = self.instance(), self.instance()
        place = one.place
        reply = self.call(one.journal.sync(place))
        assert (reply.log, reply.seal) == (place.founding.log, b"seal")
        assert reply.complete
        assert not [record for record in reply.records if record.data]
        assert self.call(other.journal.sync(other.place)).log == reply.log

    def test_all_read_the_same_records_in_the_same_order(self) -> None:
        one, other = self.instance(), self.instance()
        one.sync()
        for number in range(6):
            (one, other)[number % 2].append(b"%d" % number)
        late = self.instance()
        for each in (one, other, late):
            each.read_all()
        assert one.data == other.data == late.data
        assert sorted(late.data) == [b"%d" % number for number in range(6)]
        assert len({(each.log, each.position, each.tip) for each in (one, other, late)}) == 1

    def test_what_is_appended_at_once_stays_together(self) -> None:
        one, other = self.instance(), self.instance()
        one.sync()
        data = [b"%d" % number for number in range(64)]
        record = one.append(*data)
        assert (record.position, record.tip) == (one.position, one.tip)
        other.read_all()
        assert other.data == data

    def test_a_late_reader_misses_nothing(self) -> None:
        one = self.instance()
        one.sync()
        early = self.instance()
        early.read_all()
        data = [b"%d" % number for number in range(200)]
        for start in range(0, 200, 50):
            one.append(*data[start : start + 50])
        late = self.instance()
        for each in (early, late):
            each.read_all()
            assert each.data == data
            assert not each.holes

    def test_nothing_is_appended_to_another_log(self) -> None:
        one = self.instance()
        one.sync()
        place = one.place._replace(log=b"x" * INCARNATION_SIZE)
        reply = self.call(one.journal.append(place, [Addition(b"n" * 8, b"", b"data")]))
        assert not reply.appended
        one.read_all()
        assert not one.data

    def test_a_repetition_is_appended_once(self) -> None:
        one, other = self.instance(), self.instance()
        one.sync()
        other.sync()
        first = one.append(b"lost", again=[b"which"])
        second = other.append(b"lost", again=[b"which"])
        assert (first.position, first.tip) == (second.position, second.tip)
        one.append(b"lost", again=[b"another"])
        other.read_all()
        assert other.data == [b"lost", b"lost"]

    def test_a_log_that_is_refused_is_founded_anew(self) -> None:
        one, other = self.instance(), self.instance()
        one.sync()
        record = one.append(b"of the old log")
        other.sync()
        old = other.log
        other.refused = old or b""
        reply = other.sync()
        assert reply.log != old
        assert not other.data
        status = one.status(record)
        assert status.log != old
        assert not status.found
        assert one.sync().log == reply.log

    def test_the_end_is_read_without_a_change(self) -> None:
        one = self.instance()
        one.sync()
        one.append(b"a", b"b")
        end = self.call(one.journal.end())
        assert end is None or (end.log, end.position) == (one.log, one.position)

    # -- who is waited for ------------------------------------------------------------------------

    def test_a_purge_is_final_when_all_have_acknowledged_it(self) -> None:
        if not self.members:
            raise SkipTest("this journal keeps no members")
        one, other = self.fleet(2)
        record = one.append(b"purge")
        status = one.status(record)
        assert (status.instances, status.applied, status.final) == (2, 1, False)
        other.read_all()
        status = one.until_final(record)
        assert (status.instances, status.applied) == (2, 2)

    def test_a_purge_is_not_final_while_a_member_is_trusted_that_lacks_it(self) -> None:
        one, still = self.fleet(2)
        still.sync()
        assert still.trusted_until > time.monotonic()
        record = one.append(b"purge")
        status = one.until_final(record)
        assert time.monotonic() >= still.trusted_until
        assert status.instances >= status.applied

    def test_a_member_that_leaves_is_not_waited_for(self) -> None:
        if not self.members:
            raise SkipTest("this journal keeps no members")
        one, other = self.fleet(2)
        other.sync()
        until = other.trusted_until
        other.leave()
        one.until_final(one.append(b"purge"))
        assert time.monotonic() < until

    def test_who_is_no_member_is_not_trusted(self) -> None:
        if not self.members:
            raise SkipTest("this journal keeps no members")
        one = self.fleet(1)[0]
        guest = self.instance(member=False)
        reply = guest.read_all()
        assert not reply.member
        assert not reply.trusted_for
        assert one.until_final(one.append(b"purge")).instances == 1

    def test_an_acknowledgement_counts_for_its_own_history_only(self) -> None:
        one, still = self.fleet(2)
        still.sync()
        record = one.append(b"purge")
        # One that claims to be as far, in a history that is not this one.
        place = still.place._replace(log=b"x" * INCARNATION_SIZE, position=record.position)
        self.call(still.journal.sync(place._replace(tip=record.tip)))
        status = one.status(record)
        assert not (status.found and status.final) or time.monotonic() >= still.trusted_until

    # -- losses -----------------------------------------------------------------------------------

    def test_a_lost_log_is_another_one_and_waits_for_the_trust_of_the_old(self) -> None:
        one, still = self.fleet(2)
        still.sync()
        record = one.append(b"lost")
        if not self.lose():
            raise SkipTest("this system cannot be emptied")
        status = one.status(record)
        assert not status.found
        assert one.sync().log != record.log
        assert not one.data
        one.until_final(one.append(b"purge"))
        assert time.monotonic() >= still.trusted_until

    def test_a_log_that_was_rolled_back_does_not_give_a_position_twice(self) -> None:
        one, still = self.fleet(2)
        saved = self.save()
        if saved is None:
            raise SkipTest("this system cannot be put back")
        record = one.append(b"lost", b"lost too")
        still.read_all()
        self.restore(saved)
        before = one.position
        assert not one.status(record).found
        one.sync()
        assert one.log != record.log or one.position > before
        found = one.append(b"purge")
        assert found.log != record.log or found.position > record.position
        one.until_final(found)
        assert time.monotonic() >= still.trusted_until

    # -- news -------------------------------------------------------------------------------------

    def test_a_subscription_tells_that_the_log_grew(self) -> None:
        one, other = self.instance(), self.instance()
        one.sync()
        subscription = self.call(other.journal.subscribe(other.name))
        if subscription is None:
            raise SkipTest("this journal has no subscriptions")
        try:
            record = one.append(b"purge")
            limit = time.monotonic() + PATIENCE
            while True:
                assert time.monotonic() < limit, "no message"
                news = self.call(subscription.next(0.5))
                if isinstance(news, Grew) and news.log in (None, record.log):
                    if news.log is None or news.position >= record.position:
                        break
        finally:
            self.call(subscription.close())

    # -- processes --------------------------------------------------------------------------------

    def processes(self, number: int) -> list[subprocess.Popen[str]]:
        """Members in processes of their own, once they are trusted."""
        factory = self.factory()
        if factory is None:
            raise SkipTest("processes cannot share this log")
        name, arguments = factory
        command = [sys.executable, "-m", "layergate.testing.member", name, json.dumps(arguments)]
        made = [
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603 - its own
            for _ in range(number)
        ]
        self._processes += made
        for process in made:
            assert process.stdout is not None
            if not any(json.loads(line)["until"] is not None for line in process.stdout):
                raise AssertionError("the member has ended")
        return made

    def kill(self, process: subprocess.Popen[str]) -> list[dict[str, Any]]:
        """Kill it, so that it cannot say anything any more. Returns the last of what it has said."""
        process.kill()
        assert process.stdout is not None
        said = process.stdout.read()
        return [json.loads(line) for line in said.splitlines() if line.endswith("}")]

    @staticmethod
    def check_member(said: list[dict[str, Any]], record: Appended, final: float) -> None:
        """At the time ``final`` no member was trusted that had not applied the record by then."""
        for line in said:
            if line["position"] < record.position and (line["until"] or 0.0) > final:
                applied = [one["at"] for one in said if one["position"] >= record.position]
                assert applied, "it was trusted, and never applied the purge"
                assert min(applied) <= final, "it was trusted, and applied the purge too late"

    def test_a_member_that_is_killed_is_waited_for_until_its_trust_is_over(self) -> None:
        one = self.fleet(1)[0]
        (process,) = self.processes(1)
        said = self.kill(process)
        record = one.append(b"purge")
        one.until_final(record)
        self.check_member(said, record, time.monotonic())

    def test_no_purge_is_final_too_soon_while_members_live_and_are_killed(self) -> None:
        one = self.fleet(1)[0]
        *doomed, living = self.processes(4)
        purges: list[tuple[Appended, float]] = []
        gone: list[list[dict[str, Any]]] = []
        for process in doomed:
            gone.append(self.kill(process))
            record = one.append(b"purge")
            one.until_final(record)
            purges.append((record, time.monotonic()))
        assert living.poll() is None
        self.pause(one.journal.terms.heartbeat)
        for said in (*gone, self.kill(living)):
            for record, final in purges:
                self.check_member(said, record, final)
