"""The ring of values (`layergate.layers.host.ring`): what is read is what was written last, or a miss."""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from layergate.layers.host import ring as module
from layergate.layers.host.entries import Entries
from layergate.layers.host.ring import Ring
from layergate.runtime.threads import ThreadRuntime
from tests.support import forks
from tests.support.host_ring import name, storm

MB = 1024 * 1024
FAR = 4e9  # seconds since the epoch


class Clock(ThreadRuntime):
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0.0
        self.now = lambda: time.time() + self.passed
        self.monotonic = lambda: time.monotonic() + self.passed


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Callable[..., Ring]:
    def ring(size: int = MB, largest: int = 128 * 1024) -> Ring:
        return Ring(
            tmp_path / "ring",
            size,
            largest=largest,
            lock=clock.lock(),
            now=clock.now,
            monotonic=clock.monotonic,
        )

    return ring


def later(clock: Clock) -> None:
    """Each process compares its file with the one at the path."""
    clock.passed += 2 * module._COMPARED


# -- one value -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 2048, 100_000])
def test_a_value_is_read_by_all(make: Callable[..., Ring], size: int) -> None:
    one, other = make(), make()
    value = os.urandom(size)
    assert one.set(name(1), value, FAR)
    assert one.get(name(1)) == other.get(name(1)) == value
    assert other.get(name(2)) is None


def test_a_value_is_replaced(make: Callable[..., Ring]) -> None:
    ring = make()
    for value in (b"one", b"two" * 1000, b""):
        assert ring.set(name(1), value, FAR)
        assert ring.get(name(1)) == value


def test_a_value_is_removed(make: Callable[..., Ring]) -> None:
    one, other = make(), make()
    assert not one.delete(name(1))
    one.set(name(1), b"v", FAR)
    assert other.delete(name(1))
    assert not one.delete(name(1))
    assert one.get(name(1)) is None


def test_a_value_expires(make: Callable[..., Ring], clock: Clock) -> None:
    ring = make()
    ring.set(name(1), b"v", clock.now() + 10)
    clock.passed += 9
    assert ring.get(name(1)) == b"v"
    clock.passed += 2
    assert ring.get(name(1)) is None


def test_what_is_too_large_is_not_kept(make: Callable[..., Ring]) -> None:
    ring = make(largest=1000)
    assert ring.set(name(1), b"x" * 1000, FAR)
    assert not ring.set(name(1), b"x" * 1001, FAR)


def test_clearing(make: Callable[..., Ring], clock: Clock) -> None:
    one, other = make(), make()
    one.set(name(1), b"v", FAR)
    assert other.get(name(1)) == b"v"
    one.clear()
    assert one.get(name(1)) is None
    later(clock)
    assert other.get(name(1)) is None
    assert other.set(name(2), b"w", FAR)
    assert one.get(name(2)) == b"w"


# -- the ring turns --------------------------------------------------------------------------------------


def test_the_ring_stays_full_and_keeps_the_latest(make: Callable[..., Ring]) -> None:
    ring = make()
    held = 0
    for number in range(4000):
        assert ring.set(name(number), b"%04d" % number * 200, FAR)
        assert ring.used <= MB
        held = ring.used if number < 1300 else held
    assert ring.used >= held - 128 * 1024  # a turn of the young queue makes room ahead
    assert all(ring.get(name(number)) == b"%04d" % number * 200 for number in range(3950, 4000))
    found = [number for number in range(4000) if ring.get(name(number)) is not None]
    assert len(found) > 1000
    # What was evicted can be read until it is overwritten.
    assert 0 <= ring.evictions - (4000 - len(found)) < 100


def turn(ring: Ring, start: int) -> None:
    """Write and read twice as many values as the ring holds: all of them go to the main queue."""
    for number in range(start, start + 2600):
        assert ring.set(name(number), bytes(800), FAR)
        ring.get(name(number))


def test_what_is_read_survives_the_turn(make: Callable[..., Ring]) -> None:
    ring = make()
    ring.set(name(1), b"hot", FAR)
    for start in range(1000, 20_000, 200):
        for number in range(start, start + 200):
            ring.set(name(number), bytes(900), FAR)
            if number % 2:
                ring.get(name(number))
        assert ring.get(name(1)) == b"hot"
    assert ring.moved >= 10


def test_what_was_read_once_does_not_stay_for_ever(make: Callable[..., Ring]) -> None:
    ring = make()
    ring.set(name(1), b"hot", FAR)
    assert ring.get(name(1)) == b"hot"
    for start in (10_000, 20_000, 30_000):
        turn(ring, start)
    assert ring.get(name(1)) is None


def test_what_is_read_once_only_does_not_push_out_what_is_read(make: Callable[..., Ring]) -> None:
    ring = make()
    turn(ring, 0)
    kept = [number for number in range(2600) if ring.get(name(number)) is not None]
    for number in range(10_000, 20_000):  # a crawler
        ring.set(name(number), bytes(800), FAR)
    lost = [number for number in kept if ring.get(name(number)) is None]
    assert len(kept) > 900
    assert len(lost) < 0.4 * len(
        kept
    )  # as many as the young queue holds, and what makes room ahead


def test_a_value_that_is_stored_again_soon_goes_to_the_main_queue(
    make: Callable[..., Ring],
) -> None:
    ring = make()
    turn(ring, 0)
    again = range(10_000, 10_500)
    for number in again:  # twice as many as the young queue holds
        ring.set(name(number), bytes(800), FAR)
    lost = [number for number in again if ring.get(name(number)) is None]
    assert len(lost) > 50
    for number in lost:
        ring.set(name(number), bytes(800), FAR)
    for number in range(20_000, 20_400):
        ring.set(name(number), bytes(800), FAR)
    assert sum(ring.get(name(number)) is not None for number in lost) > 0.7 * len(lost)


def test_what_has_expired_makes_room(make: Callable[..., Ring], clock: Clock) -> None:
    ring = make()
    for number in range(1100):
        ring.set(name(number), bytes(800), clock.now() + 10)
        ring.get(name(number))
    clock.passed += 20
    for number in range(2000, 4000):  # which nobody reads
        ring.set(name(number), bytes(800), FAR)
    assert sum(ring.get(name(number)) is not None for number in range(2000, 4000)) > 900


def test_what_has_expired_is_not_moved(make: Callable[..., Ring], clock: Clock) -> None:
    ring = make()
    for number in range(1000):
        ring.set(name(number), bytes(900), clock.now() + 10)
        ring.get(name(number))
    clock.passed += 20
    for number in range(1000, 2000):
        ring.set(name(number), bytes(900), FAR)
    assert ring.get(name(1999)) is not None
    assert ring.moved == 0


def test_a_burst_of_hot_values_moves_a_bounded_part(make: Callable[..., Ring]) -> None:
    ring = make()
    for number in range(1000):
        ring.set(name(number), bytes(900), FAR)
        ring.get(name(number))
    before = ring.moved
    for number in range(1000, 1400):
        assert ring.set(name(number), bytes(900), FAR)
        moved, before = ring.moved - before, ring.moved
        assert moved * 900 <= MB // 16
    assert ring.get(name(1399)) is not None


def test_a_full_bucket_gives_up_its_oldest(
    make: Callable[..., Ring], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PER_SLOT", MB)  # one bucket of ten slots
    ring = make()
    for number in range(12):
        ring.set(name(number), b"v", FAR)
    assert [ring.get(name(number)) for number in range(12)] == [None] * 2 + [b"v"] * 10


def test_a_hot_large_value_survives_the_turn(tmp_path: Path, clock: Clock) -> None:
    entries = Entries(tmp_path, size=MB, large=64 * MB, runtime=clock)
    hot = os.urandom(3 * MB)
    entries.set(name(1), hot, FAR)
    for number in range(10, 310):
        entries.set(name(number), bytes(500_000), FAR)
        entries.get(name(number))
        if not number % 20:
            assert entries.get(name(1)) == hot
    assert entries.stats()["moved"] > 0


def test_a_value_that_changes_its_ring_does_not_come_back(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = Entries(tmp_path, size=MB, large=8 * MB, runtime=clock)
    entries.set(name(1), bytes(500_000), FAR)
    ends = Ring.set

    def killed(self: Ring, *args: Any) -> bool:
        ends(self, *args)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Ring, "set", killed)
        with pytest.raises(Killed):
            entries.set(name(1), b"small", FAR)
    assert entries.get(name(1)) == b"small"
    (tmp_path / "entries").unlink()
    later(clock)
    assert entries.get(name(1)) is None


def test_small_and_large_values_in_two_rings(tmp_path: Path, clock: Clock) -> None:
    entries = Entries(tmp_path, size=4 * MB, large=16 * MB, runtime=clock)
    assert entries.largest == Entries.largest_of(4 * MB, 16 * MB) == 2 * MB
    for number in range(6):
        entries.set(name(number), b"x", FAR)
    for size in (MB, 10, 2 * MB, 300_000, 5):  # from one ring to the other and back
        value = os.urandom(size)
        assert entries.set(name(1), value, FAR)
        assert entries.get(name(1)) == value
    for number in range(100, 140):  # large ones do not push out small ones
        assert entries.set(name(number), bytes(MB), FAR)
    assert entries.get(name(0)) == b"x"
    assert not entries.set(name(1), bytes(2 * MB + 1), FAR)
    assert entries.delete(name(1)) is False
    assert entries.stats()["rejections"] == 1
    entries.clear()
    assert entries.get(name(0)) is None


def test_without_room_nothing_is_kept(tmp_path: Path, clock: Clock) -> None:
    entries = Entries(tmp_path, size=1000, large=0, runtime=clock)
    assert entries.largest == Entries.largest_of(1000, 0) == 0
    assert not entries.set(name(1), b"", FAR)
    assert entries.get(name(1)) is None
    assert list(tmp_path.iterdir()) == []


# -- the file is not what it should be -------------------------------------------------------------------


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def shortened(file: Path) -> None:
    os.truncate(file, 300_000)


def overwritten(file: Path) -> None:
    file.write_bytes(b"x" * file.stat().st_size)


def removed(file: Path) -> None:
    file.unlink()


def scribbled(file: Path) -> None:
    size = file.stat().st_size
    with file.open("r+b") as raw:
        raw.seek(4096)
        raw.write(os.urandom(size - 4096))


def beheaded(file: Path) -> None:
    with file.open("r+b") as raw:
        raw.seek(24)
        raw.write(b"\xff" * 16)


@pytest.mark.parametrize("broken", [emptied, shortened, overwritten, removed, scribbled, beheaded])
def test_a_damaged_file_is_a_miss_and_is_made_anew(
    make: Callable[..., Ring], tmp_path: Path, clock: Clock, broken: Callable[[Path], None]
) -> None:
    one, other = make(), make()
    for number in range(900):
        one.set(name(number), b"%d" % number * 50, FAR)
    other.get(name(1))
    broken(tmp_path / "ring")
    for _ in range(2):
        for number in range(900):
            for ring in (one, other):
                assert ring.get(name(number)) in (None, b"%d" % number * 50)
        later(clock)
    for _ in range(4):
        one.set(name(5000), b"new", FAR)
        later(clock)
    assert one.set(name(5000), b"new", FAR)
    assert other.get(name(5000)) == b"new"


def test_a_value_is_removed_from_a_file_whose_head_is_damaged(
    make: Callable[..., Ring], tmp_path: Path
) -> None:
    ring = make()
    ring.set(name(1), b"v", FAR)
    beheaded(tmp_path / "ring")
    assert ring.get(name(1)) == b"v"
    ring.delete(name(1))
    assert ring.get(name(1)) is None


def test_a_record_that_was_overwritten_in_part(make: Callable[..., Ring], tmp_path: Path) -> None:
    ring = make()
    ring.set(name(1), bytes(1000), FAR)
    file = tmp_path / "ring"
    data = bytearray(file.read_bytes())
    at = data.rindex(name(1))
    data[at + 500] = 1
    file.write_bytes(data)
    assert ring.get(name(1)) is None


def test_another_size(make: Callable[..., Ring], tmp_path: Path) -> None:
    first = make(4 * MB)
    first.set(name(1), b"v", FAR)
    smaller = make(2 * MB)  # the operator wants less: the file is replaced
    assert smaller.get(name(1)) is None
    assert (tmp_path / "ring").stat().st_size < 3 * MB
    smaller.set(name(1), b"v", FAR)
    larger = make(4 * MB)  # there was less room when another process began: it is used
    assert larger.get(name(1)) == b"v"
    assert larger.size == 2 * MB


def test_no_folder(make: Callable[..., Ring], tmp_path: Path) -> None:
    ring = make()
    tmp_path.rename(tmp_path.with_name("elsewhere"))
    assert ring.get(name(1)) is None
    assert not ring.set(name(1), b"v", FAR)
    assert not ring.delete(name(1))
    ring.clear()


# -- writers that end, stop, or find the disk full -------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("full", [False, True])
def test_a_writer_killed_between_any_two_stores(
    make: Callable[..., Ring], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    real = os.pwrite
    ended = 0
    other = make()
    held = range(1400) if full else range(100)
    for number in held:
        other.set(name(number), b"%d" % number * 200, FAR)
    extra = 5000  # until the next record needs the place of others
    while full and other.used <= MB - 1200:
        other.set(name(extra), bytes(100), FAR)
        extra += 1
    other.close()
    shutil.copy(tmp_path / "ring", tmp_path / "before")
    for step in range(100):
        (tmp_path / "ring").unlink()
        shutil.copy(tmp_path / "before", tmp_path / "ring")
        other, victim = make(), make()
        kept = [number for number in held if other.get(name(number)) is not None]
        calls = iter(range(1000))

        def pwrite(fd: int, data: Any, at: int, calls: Any = calls, step: int = step) -> int:
            if next(calls) == step:
                real(fd, data[: len(data) // 2], at)
                raise Killed
            return real(fd, data, at)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwrite", pwrite)
            patch.setattr(module, "_AHEAD", 32 * 1024)
            try:
                assert victim.set(name(9999), b"new" * 500, FAR)
            except Killed:
                ended += 1
            else:
                break
        victim.close()
        lost = [number for number in kept if other.get(name(number)) != b"%d" % number * 200]
        # Only what stood where others were to go, and was to move from there: here everything was read.
        assert len(lost) <= (60 if full else 0)
        assert other.get(name(9999)) in (None, b"new" * 500)
        for number in range(20_000, 20_500):
            assert other.set(name(number), b"%d" % number, FAR)
            assert other.get(name(number)) == b"%d" % number
        other.close()
    assert ended >= (10 if full else 3)


@pytest.mark.parametrize("step", range(5))
def test_a_full_disk(make: Callable[..., Ring], monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    real, calls = os.pwrite, iter(range(1000))
    ring = make()
    ring.set(name(1), b"v", FAR)

    def pwrite(fd: int, data: Any, at: int) -> int:
        if next(calls) >= step:
            raise OSError(28, "No space left on device")
        return real(fd, data, at)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", pwrite)
        kept = ring.set(name(2), b"w", FAR)
        assert kept == (step > 2)
    assert ring.get(name(1)) == b"v"
    assert ring.set(name(3), b"x", FAR)
    assert ring.get(name(3)) == b"x"


def test_a_hit_needs_no_room_on_the_disk(
    make: Callable[..., Ring], monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = make()
    ring.set(name(1), b"v", FAR)

    def pwrite(fd: int, data: Any, at: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", pwrite)
    assert ring.get(name(1)) == b"v"
    assert ring.failures == 1


def test_a_value_removed_while_it_is_moved_does_not_come_back(
    make: Callable[..., Ring], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = make(), make()
    for number in range(1000):
        one.set(name(number), bytes(900), FAR)
        one.get(name(number))
    other.get(name(1))
    real = os.pwrite
    tried = threading.Event()
    flock = fcntl.flock
    removed: list[threading.Thread] = []

    def locked(fd: int, kind: int) -> None:
        try:
            flock(fd, kind)
        finally:
            if removed and threading.current_thread() is removed[0]:
                tried.set()

    def pwrite(fd: int, data: Any, at: int) -> int:
        # The record of the first value has been read, and is about to be written elsewhere.
        if not removed and name(0) in bytes(data) and len(data) > 2000:
            thread = threading.Thread(target=other.delete, args=(name(0),))
            removed.append(thread)
            thread.start()
            assert tried.wait(10)
        return real(fd, data, at)

    monkeypatch.setattr(module, "_SPIN", 10**6)
    monkeypatch.setattr(fcntl, "flock", locked)
    monkeypatch.setattr(os, "pwrite", pwrite)
    for number in range(1000, 1400):
        one.set(name(number), bytes(900), FAR)
    assert removed
    removed[0].join()
    assert one.get(name(0)) is None


def test_busy_writers_never_replace_the_file(
    make: Callable[..., Ring], tmp_path: Path, clock: Clock
) -> None:
    busy, refused = make(), make()
    busy.set(name(1), b"v", FAR)
    identity = (tmp_path / "ring").stat().st_ino
    fd = os.open(tmp_path / "ring", os.O_RDWR)
    for number in range(2, 12):
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert not refused.set(name(1), b"w", FAR)
        fcntl.flock(fd, fcntl.LOCK_UN)
        assert busy.set(name(number), b"v", FAR)
        clock.passed += module._PATIENCE
    assert (tmp_path / "ring").stat().st_ino == identity
    os.close(fd)


def test_the_file_of_a_killed_maker_is_removed(
    make: Callable[..., Ring], tmp_path: Path, clock: Clock
) -> None:
    ring = make()
    ring.set(name(1), b"v", FAR)
    left = tmp_path / "ring.0123456789abcdef.new"
    left.touch()
    ring.clear()
    assert left.exists()  # its maker may be at it
    clock.passed += 2 * module._UNFINISHED
    ring.clear()
    assert sorted(file.name for file in tmp_path.iterdir()) == ["ring"]


STOPPED = """
import os, signal, sys
from pathlib import Path
from layergate.layers.host.entries import Entries
from layergate.runtime.threads import ThreadRuntime
from tests.layers.host.test_ring import name
entries = Entries(Path(sys.argv[1]), size=1 << 20, large=0, runtime=ThreadRuntime())
assert entries.set(name(1), b"before", 4e9)
real, stopped = os.pwrite, []
def pwrite(fd, data, at):
    if not stopped:
        stopped.append(True)
        os.kill(os.getpid(), signal.SIGSTOP)
    return real(fd, data, at)
os.pwrite = pwrite
print("kept", entries.set(name(1), b"stopped", 4e9), flush=True)
"""


def test_a_stopped_writer_that_goes_on_writes_into_the_old_file(
    tmp_path: Path, clock: Clock
) -> None:
    command = [sys.executable, "-c", STOPPED, str(tmp_path)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        _, status = os.waitpid(writer.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        entries = Entries(tmp_path, size=MB, large=0, runtime=clock)
        assert entries.get(name(1)) == b"before"
        assert not entries.set(name(2), b"w", FAR)
        clock.passed += module._PATIENCE + 0.1
        assert not entries.set(name(2), b"w", FAR)  # a new file takes the name
        assert entries.set(name(2), b"w", FAR)
        writer.send_signal(signal.SIGCONT)
        out, _ = writer.communicate()
        assert out == "kept True\n"
        later(clock)
        assert entries.get(name(2)) == b"w"
        assert entries.get(name(1)) is None
        assert entries.stats()["contended"] == 2
    finally:
        writer.kill()
        writer.wait()


def test_a_stopped_writer_is_bypassed(
    make: Callable[..., Ring], tmp_path: Path, clock: Clock
) -> None:
    one, other = make(), make()
    one.set(name(1), b"v", FAR)
    fd = os.open(tmp_path / "ring", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)  # and never goes on
    assert not one.set(name(2), b"w", FAR)
    assert one.get(name(1)) == b"v"  # readers take no lock
    clock.passed += module._PATIENCE + 0.1
    assert not one.set(name(2), b"w", FAR)
    assert one.set(name(2), b"w", FAR)
    later(clock)
    assert other.get(name(2)) == b"w"
    os.close(fd)


def test_many_processes_and_one_is_killed_again_and_again(tmp_path: Path) -> None:
    steady = [forks.start(storm, tmp_path, seed, 6000) for seed in range(3)]
    killed = 0
    while any(process.is_alive() for process, _ in steady):
        victim, pipe = forks.start(storm, tmp_path, 100 + killed, 10**9)
        assert pipe.recv() is None
        time.sleep(random.random() / 5)
        victim.kill()
        victim.join()
        pipe.close()
        killed += 1
    for process, pipe in steady:
        process.join()
        assert process.exitcode == 0
        assert pipe.recv() is None
        assert pipe.recv() > 500
        pipe.close()
    assert killed > 1


# -- a model ---------------------------------------------------------------------------------------------


class Model(RuleBasedStateMachine):
    """Two processes, one ring: what is read is what was written last, or, once the ring has turned,
    nothing."""

    @initialize()
    def begin(self) -> None:
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        runtime = ThreadRuntime()
        self.rings = [
            Ring(
                Path(self.folder.name) / "ring",
                64 * 1024,
                largest=8 * 1024,
                lock=runtime.lock(),
                now=runtime.now,
                monotonic=runtime.monotonic,
            )
            for _ in range(2)
        ]
        self.model: dict[int, bytes] = {}
        self.written = 0

    @rule(which=st.integers(0, 1), number=st.integers(0, 30), value=st.binary(max_size=8 * 1024))
    def write(self, which: int, number: int, value: bytes) -> None:
        assert self.rings[which].set(name(number), value, FAR)
        self.model[number] = value
        self.written += len(value) + 64

    @rule(which=st.integers(0, 1), number=st.integers(0, 30))
    def read(self, which: int, number: int) -> None:
        found = self.rings[which].get(name(number))
        if found is None:
            assert number not in self.model or self.written > 32 * 1024
            self.model.pop(number, None)
        else:
            assert found == self.model[number]

    @rule(which=st.integers(0, 1), number=st.integers(0, 30))
    def remove(self, which: int, number: int) -> None:
        self.rings[which].delete(name(number))
        self.model.pop(number, None)

    @invariant()
    def bounded(self) -> None:
        assert self.rings[0].used <= 64 * 1024

    def teardown(self) -> None:
        self.folder.cleanup()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
