"""The log of purges of one host (`layergate.layers.host.log`): G3 without a server."""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layergate.core.entry import Entry
from layergate.layers.host import journal, log
from layergate.layers.host.journal import LARGEST, RING, JournalFile, replaced
from tests.layers.host.support import Process


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "folder"


@pytest.fixture
def processes(folder: Path) -> tuple[Process, Process]:
    return Process(folder).join(), Process(folder).join()


def path(folder: Path) -> Path:
    return folder / journal.NAME


# -- a purge ---------------------------------------------------------------------------------------------


def test_a_purge_is_final_when_it_returns(processes: tuple[Process, Process]) -> None:
    one, other = processes
    entry, kept = other.fetched("a"), other.fetched("b")
    receipt = one.purge("a")
    assert receipt == (2, 2, True, "host", None, False, None, (), None)
    assert not other.admits(entry)
    assert other.admits(kept)


def test_a_fill_under_way_dies_on_arrival(processes: tuple[Process, Process]) -> None:
    one, other = processes
    began = other.fetched("a")
    one.purge("a")
    assert not other.admits(began)
    assert other.admits(other.fetched("a"))


def test_a_soft_purge_makes_stale(processes: tuple[Process, Process]) -> None:
    one, other = processes
    entry = other.fetched("a")
    one.purge("a", soft=True)
    assert other.admits(entry)
    assert entry.fresh_until == 0.0


def test_many_purges_by_everybody_in_one_order(folder: Path) -> None:
    processes = [Process(folder).join() for _ in range(4)]
    entries = [[each.fetched(str(number)) for number in range(200)] for each in processes]
    for number in range(0, 200, 2):
        assert processes[number % 4].purge(str(number)).final
    for each, held in zip(processes, entries, strict=True):
        assert [each.admits(entry) for entry in held] == [False, True] * 100
    assert len({each.position for each in processes}) == 1


def test_the_folder_is_for_its_user_only(processes: tuple[Process, Process], folder: Path) -> None:
    assert folder.stat().st_mode & 0o777 == 0o700
    assert path(folder).stat().st_mode & 0o777 == 0o600


def test_a_purge_of_nothing_is_a_record_too(processes: tuple[Process, Process]) -> None:
    one, other = processes
    entry = other.fetched("a")
    assert one.purge().final
    assert other.admits(entry)


def test_a_purge_of_many_things_is_several_records(processes: tuple[Process, Process]) -> None:
    one, other = processes
    purged, kept = other.fetched("t2499"), other.fetched("else")
    assert one.purge(*(f"t{number}" for number in range(2500))).final
    assert not other.admits(purged)
    assert other.admits(kept)


@pytest.mark.parametrize("length", [8193, LARGEST, RING, 3 * RING])
def test_a_purge_larger_than_the_ring_purges_more(
    processes: tuple[Process, Process], length: int
) -> None:
    one, other = processes
    entry = other.fetched("a" * length)
    assert one.purge("a" * length).final
    assert not other.admits(entry)


def test_a_purge_of_too_many_things_purges_more(processes: tuple[Process, Process]) -> None:
    one, other = processes
    tags = [f"{number:06d}" + "x" * 2000 for number in range(3000)]  # 6 MB
    entry, other_entry = other.fetched(tags[-1]), other.fetched("else")
    assert one.purge(*tags).final
    assert not other.admits(entry)
    assert not other.admits(other_entry)


# -- following -------------------------------------------------------------------------------------------


def test_a_ring_that_overran_a_sleeping_process(processes: tuple[Process, Process]) -> None:
    one, sleeper = processes
    entry = sleeper.fetched("mine")
    record = ["x" * 8000] * 30
    appended = 0
    while appended <= RING:
        one.purge(*(f"{appended}{number}{tag}" for number, tag in enumerate(record)))
        appended += 30 * 8000
    assert not sleeper.admits(entry)  # nobody knows what was purged
    assert "log_trimmed" in sleeper.names()
    assert sleeper.admits(sleeper.fetched("mine"))


def test_the_ring_turns_many_times(processes: tuple[Process, Process]) -> None:
    one, other = processes
    for number in range(60):
        entry, kept = other.fetched(f"a{number}"), other.fetched("b")
        one.purge(f"a{number}", *(f"{number}.{each}" + "x" * 7000 for each in range(30)))
        assert not other.admits(entry)
        assert other.admits(kept)
    assert one.log.stats()["log_position"] > 2 * RING
    assert "log_trimmed" not in other.names()


def test_who_starts_later_knows_what_was_purged(
    processes: tuple[Process, Process], folder: Path
) -> None:
    one, _ = processes
    stamps = [one.log.positions.place(one.fetched(str(number)).stamp) for number in range(10)]
    for number in range(0, 10, 2):
        one.purge(str(number))
    late = Process(folder).join()
    for number, place in enumerate(stamps):
        assert place is not None
        entry = late.fetched(str(number))
        stamp = late.log.positions.stamp(*place)
        assert stamp is not None
        entry.stamp = entry.checked = stamp
        assert late.admits(entry) is bool(number % 2)


def test_who_starts_after_the_ring_has_turned_uses_what_is_newer(folder: Path) -> None:
    one = Process(folder).join()
    old = one.log.positions.place(one.fetched().stamp)
    for number in range(30):
        one.purge(*(f"{number}.{each}" + "x" * 7000 for each in range(30)))
    new = one.log.positions.place(one.fetched().stamp)
    one.purge("else")
    late = Process(folder).join()
    assert old is not None
    assert new is not None
    assert late.log.positions.stamp(*old) is None
    entry = late.fetched("a")
    stamp = late.log.positions.stamp(*new)
    assert stamp is not None
    entry.stamp = entry.checked = stamp
    assert late.admits(entry)


# -- the folder goes away --------------------------------------------------------------------------------


def waited(process: Process) -> None:
    """Until the process has to compare again."""
    while process.runtime.monotonic() < process.log.trusted_until:
        process.runtime.event()._event.wait(0.01)


def deleted(folder: Path) -> None:
    shutil.rmtree(folder)


def emptied(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def renamed(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def made_anew(folder: Path) -> None:
    assert replaced(path(folder), over=True)


@pytest.mark.parametrize("gone", [deleted, emptied, renamed, made_anew])
def test_another_folder_begins_empty_for_all(
    processes: tuple[Process, Process], folder: Path, gone: Callable[[Path], None]
) -> None:
    one, other = processes
    entry = other.fetched("a")
    gone(folder)
    assert one.purge("a").final  # after at most BOUND: `other` has not compared yet
    assert not other.admits(entry)
    fresh = other.fetched("a")
    assert other.admits(fresh)
    assert one.purge("a").final
    assert not other.admits(fresh)
    assert one.log.positions.log == other.log.positions.log


def test_a_purge_after_a_replacement_waits_until_all_have_noticed(
    processes: tuple[Process, Process], folder: Path
) -> None:
    one, other = processes
    entry = other.fetched("else")
    deleted(folder)
    assert other.admits(entry)  # it has compared just now, or will in less than BOUND
    began = one.runtime.monotonic()
    assert one.purge("a").final
    assert one.runtime.monotonic() - began >= log.BOUND
    assert not other.admits(entry)


def test_a_purge_that_must_not_wait_says_that_it_is_not_final(
    processes: tuple[Process, Process], folder: Path
) -> None:
    one, other = processes
    entry = other.fetched("a")
    deleted(folder)
    receipt = one.purge("a", wait=0.0)
    assert not receipt.final
    assert "no time to wait" in (receipt.reason or "")
    waited(other)
    assert not other.admits(entry)


def test_the_folder_cannot_be_made(processes: tuple[Process, Process], folder: Path) -> None:
    one, other = processes
    mine, theirs = one.fetched("a"), other.fetched("a")
    deleted(folder)
    folder.touch()  # as root, a mode keeps nobody out
    receipt = one.purge("a")
    assert receipt[:4] == (1, 2, False, "host")
    assert "cannot be written to" in (receipt.reason or "")
    assert not one.admits(mine)
    waited(other)
    assert not other.admits(theirs)
    assert ("layer_error", "log") in [(name, facts.get("operation")) for name, facts in one.events]
    folder.unlink()
    one.log._retry_at = other.log._retry_at = 0.0
    late = other.fetched("a")
    assert one.log.stats()["log_pending"] == 1
    assert one.log.ready()  # the purge is written now
    assert one.log.stats()["log_pending"] == 0
    assert not other.admits(late)  # it began before that


# -- damage ----------------------------------------------------------------------------------------------


def poked(file: Path, at: int, data: bytes) -> None:
    fd = os.open(file, os.O_RDWR)
    os.pwrite(fd, data, at)
    os.close(fd)


def test_a_torn_record_drops_everything(processes: tuple[Process, Process], folder: Path) -> None:
    one, other = processes
    entry = other.fetched("a")
    one.purge("b")
    poked(path(folder), 4096 + 20, b"\xff")
    assert not other.admits(entry)
    assert "log_trimmed" in other.names()
    fresh = other.fetched("a")
    assert one.purge("a").final
    assert not other.admits(fresh)
    late = Process(folder).join()  # cannot read it either
    assert late.admits(late.fetched("a"))


@pytest.mark.parametrize("end", [0, 8, 3, 2**40, 2**64 - 8])
def test_an_end_that_cannot_be(processes: tuple[Process, Process], folder: Path, end: int) -> None:
    one, other = processes
    for number in range(3):
        one.purge(f"b{number}")
    entry = other.fetched("a")
    poked(path(folder), 64, struct.pack("=Q", end))
    assert not other.admits(entry)
    fresh = other.fetched("a")
    assert one.purge("a").final
    assert not other.admits(fresh)


def test_a_record_that_cannot_be_read_is_a_purge_of_everything(
    processes: tuple[Process, Process], folder: Path
) -> None:
    one, other = processes
    entry = other.fetched("a")
    file = JournalFile(path(folder))
    assert file.lock()
    file.append([b"of a later version"])
    file.close()
    assert not other.admits(entry)
    assert "record_refused" in other.names()
    assert one.admits(one.fetched("a"))


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"x" * (4096 + RING)])
def test_a_file_of_something_else_is_replaced(folder: Path, content: bytes) -> None:
    folder.mkdir(mode=0o700)
    path(folder).write_bytes(content)
    one, other = Process(folder).join(), Process(folder).join()
    entry = other.fetched("a")
    assert one.purge("a").final
    assert not other.admits(entry)


def test_another_boot_begins_empty(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Process(folder).join()
    place = before.log.positions.place(before.fetched("a").stamp)
    monkeypatch.setattr(journal, "boot_id", lambda: b"another boot id!")
    after = Process(folder).join()
    assert place is not None
    assert after.log.positions.stamp(*place) is None


def test_a_durable_log_outlives_a_boot(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Process(folder, durable=True).join()
    place = before.log.positions.place(before.fetched("a").stamp)
    before.purge("a")
    monkeypatch.setattr(journal, "boot_id", lambda: b"another boot id!")
    after = Process(folder, durable=True).join()
    assert place is not None
    stamp = after.log.positions.stamp(*place)
    assert stamp is not None
    entry = after.fetched("a")
    entry.stamp = entry.checked = stamp
    assert not after.admits(entry)


# -- writers that end or stop ----------------------------------------------------------------------------


def test_a_stopped_writer_is_bypassed(processes: tuple[Process, Process], folder: Path) -> None:
    one, other = processes
    entry = other.fetched("a")
    stopped = JournalFile(path(folder))
    assert stopped.lock()  # and never goes on
    assert one.purge("a").final
    assert not other.admits(entry)
    assert one.purge("b").final
    stopped.append([other.codec.encode_record(stopped.incarnation, (), 0.0)])  # it goes on at last
    assert not stopped.is_current()
    assert other.admits(other.fetched("a"))


class Killed(BaseException):
    """Stands for the end of the process: nothing of it runs any more."""


def killed_at(step: int) -> Callable[..., int]:
    """A ``pwrite`` at whose ``step``-th call the process ends, having written half of it."""
    real, calls = os.pwrite, iter(range(1000))

    def pwrite(fd: int, data: Any, at: int) -> int:
        if next(calls) == step:
            real(fd, data[: len(data) // 2 & ~7], at)
            raise Killed
        return real(fd, data, at)

    return pwrite


@pytest.mark.parametrize("full", [False, True])
def test_a_writer_killed_between_any_two_stores(
    folder: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    ended = 0
    for step in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        other, victim = Process(folder).join(), Process(folder).join()
        if full:  # an append overwrites old records, and turns from the end to the beginning
            while other.log.end[0] < 2 * RING - 60_000:
                other.purge(*(f"{each}" + "x" * 7900 for each in range(7)))
            other.purge("y" * 3000)
        entry, kept = other.fetched("a"), other.fetched("b")
        assert victim.trusted
        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", killed_at(step))
            try:
                victim.purge("a", *("z" * 7900 + str(n) for n in range(9)))
            except Killed:
                ended += 1
            else:
                break
        victim.log._close()  # as the kernel does
        # It has purged or it has not; the next purge is final either way.
        assert other.admits(kept)
        late = Process(folder).join()
        late_entry = late.fetched("c")
        assert other.purge("a", "c").final
        assert not other.admits(entry)
        assert other.admits(kept)
        assert not late.admits(late_entry)
        assert Process(folder).join().position > 0
    assert ended >= (4 if full else 2)


@pytest.mark.parametrize("step", range(4))
def test_a_full_disk(
    processes: tuple[Process, Process], monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    one, other = processes
    mine, theirs = one.fetched("a"), other.fetched("a")
    real, calls = os.pwrite, iter(range(1000))

    def pwrite(fd: int, data: Any, at: int) -> int:
        if next(calls) >= step:
            raise OSError(28, "No space left on device")
        return real(fd, data, at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        receipt = one.purge("a")
        if not receipt.final:
            assert receipt[:2] == (1, 2)
        assert not one.admits(mine)
        assert one.admits(one.fetched("b"))  # goes on with what it holds
    one.log._retry_at = 0.0
    assert one.trusted
    assert one.log.ready()
    assert one.log.stats()["log_pending"] == 0
    assert not other.admits(theirs)


# -- members and forks -----------------------------------------------------------------------------------


def test_receipts_count_processes_that_live(
    processes: tuple[Process, Process], folder: Path
) -> None:
    one, other = processes
    command = Process(folder, member=False, create=False)
    assert command.purge("a")[:2] == (2, 2)
    other.log._close()  # as the kernel does
    assert one.purge("a")[:2] == (1, 1)
    one.log._close()
    assert command.purge("a")[:2] == (0, 0)


def test_a_command_makes_no_folder(folder: Path) -> None:
    command = Process(folder, member=False, create=False)
    assert not command.log.ready()
    assert not folder.exists()


def test_the_child_of_a_fork_is_a_member_of_its_own(
    processes: tuple[Process, Process], folder: Path
) -> None:
    one, other = processes
    entry = one.fetched("a")
    read, write = os.pipe()
    back, ready = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            one.log.forked()
            good = one.admits(entry)  # what its parent held, it holds
            os.write(ready, b"1" if good else b"0")
            os.read(read, 1)
            status = int(one.admits(entry))  # purged meanwhile
        finally:
            os._exit(status)
    assert os.read(back, 1) == b"1"
    assert other.purge("a")[:3] == (3, 3, True)
    os.write(write, b"1")
    assert os.waitpid(child, 0)[1] == 0
    assert other.purge("b")[:3] == (2, 2, True)


def test_leaving_and_coming_back(processes: tuple[Process, Process]) -> None:
    one, other = processes
    entry = one.fetched("a")
    from layergate.runtime.blocking import run_blocking

    run_blocking(one.log.leave())
    assert one.log.trusted_until == float("-inf")
    assert other.purge("b")[:2] == (1, 1)
    assert one.admits(entry)  # it has read what was purged meanwhile
    assert other.purge("a")[:2] == (2, 2)
    assert not one.admits(entry)


def test_an_entry_of_another_log_is_a_miss(
    processes: tuple[Process, Process], folder: Path
) -> None:
    one, _ = processes
    entry: Entry = one.fetched("a")
    place = one.log.positions.place(entry.stamp)
    assert place is not None
    made_anew(folder)
    waited(one)
    assert one.trusted
    assert one.log.positions.stamp(*place) is None
    assert one.log.positions.place(entry.stamp) is None
