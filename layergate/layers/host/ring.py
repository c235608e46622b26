"""Values in a file of fixed size that many processes read and write: what `Entries` keeps entries in.

The file never grows, and nothing in it is ever freed: new records overwrite the oldest ones, so the bytes
are bounded by construction. It has four parts::

    head     magic 8 | data bytes 8 | buckets 8 | end 8 | start 8 of the main queue, and both of the young
             queue, and room up to 4,096 bytes
    index    buckets of ten slots:  fingerprint 8 | offset 8 | length 4 | reads 1 | 3 free
    main, young    records:  offset 8 | name 20 | length 4 | expires 8 | CRC-32 4 | 4 free | value, padded to 8

Offsets are *virtual*: they count all bytes ever written to a queue, and lie in the file at their remainder by
the size of the queue. So an offset never comes back, and a slot that points to an overwritten record is
recognized. Those of the young queue begin at 2**62.

**Reading** takes no lock: read the bucket, read the record, and see whether offset, name, length and
checksum are right. Whatever is not is a miss. A record that is being overwritten fails its checksum.

**Writing** takes the lock of the file, for some 20 microseconds. The order makes a writer that is killed
between any two steps harmless: the start goes up past the records that will be overwritten, the record
is written behind the end, the end goes up, the slot is written. Up to the last step, the record is not
found; the others are all as they were, but for those that had to go.

**What stays** is decided as in S3-FIFO. A new record goes to the young queue, a fifth of the data. When its
turn comes there, it moves to the main queue if it was read, and is lost otherwise. So records that are never
read again do not push out those that are. The slot of a lost record remains for a while: a record whose name
has one goes to the main queue at once. In the main queue, a record that was read is written again at the end,
with one read less. One write moves at most `moves` bytes so. Places in the main queue that cost nothing (it
has not turned yet, or its oldest record has expired or was replaced) go to records that were not read.
`benchmarks/host_entries.py` compares the hit ratio with that of a queue, S3-FIFO, and the optimum.

**Removing** takes the lock, too. A writer that moves a record has read its slot before and writes it after,
so a slot that is emptied in between would be filled again. If the lock cannot be had, the slot is emptied
all the same, because a remover must not fail where a writer is stopped.

**A stopped writer** keeps the lock. If the ring has not moved for `_PATIENCE` seconds while writers were
refused, a new file takes the name, and the stopped writer can only write into the old file. Writers that are
refused because others are busy never replace the file. All processes compare the file with the one at the
path every `_COMPARED` seconds. Until then they may read what is stored in the old one, which is as fresh as
it says.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, NamedTuple

__all__ = ["NAME_SIZE", "Ring"]

NAME_SIZE: Final = 20
"""Bytes of a name: a digest, so all bits are as good as random."""

_MAGIC: Final = b"LGRING2\n"
_HEAD: Final = struct.Struct("=8sQQQQQQ")
_WORD: Final = struct.Struct("=Q")
_SLOT: Final = struct.Struct("=8sQIB3x")
_MARK: Final = 8  # bytes of a fingerprint: the first of the name
_READS_AT: Final = 20  # in a slot
_READS: Final = 2  # reads that a slot counts, at most
_SLOTS: Final = 10  # in a bucket
_BUCKET: Final = _SLOTS * _SLOT.size
_RECORD: Final = struct.Struct("=Q20sIdI4x")
_CHECKED: Final = struct.Struct("=Q20sd")
_INDEX_AT: Final = 4096
_YOUNG: Final = 1 << 62  # where the offsets of the young queue begin
_YOUNG_PART: Final = 5  # the young queue is one part in five of the data
_WHOLE: Final = 16 * 1024  # bytes of a record that is read without a look at its head
_PER_SLOT: Final = 512  # bytes of data for each slot of the index
_MOVES: Final = 256 * 1024
_AHEAD: Final = 64 * 1024  # bytes of the young queue that are made free at once
_COMPARED: Final = 0.1  # seconds
_PATIENCE: Final = 1.0  # seconds
_SPIN: Final = 20  # tries to take the lock, with a pause of `_PAUSE` seconds between them
_PAUSE: Final = 0.0001
_OPEN: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_HELD: Final = frozenset((errno.EACCES, errno.EAGAIN))
_EMPTY: Final = bytes(_SLOT.size)
_NO_MARK: Final = bytes(_MARK)
_SLOTS_AT: Final = range(0, _BUCKET, _SLOT.size)
_NEVER: Final = float("-inf")
_UNFINISHED: Final = (
    60.0  # seconds after which a file that was to be a ring is that of a killed process
)


class _Damaged(Exception):
    """The file is not as a ring is."""


class _Queue(NamedTuple):
    """Where in the file a queue is: its size and its data, and its end and start in the head."""

    size: int
    data_at: int
    end_at: int
    start_at: int


class _Ends(NamedTuple):
    """Where the records of the two queues start and end."""

    end: int
    start: int
    young_end: int
    young_start: int


class _Record(NamedTuple):
    """A record that is to be written."""

    name: bytes
    value: bytes
    expires: float
    reads: int = 0

    @property
    def size(self) -> int:
        return _padded(_RECORD.size + len(self.value))


class _File:
    """One file, open. It is closed when no thread uses it any more: an operation that goes on after the
    ring has gone over to another file must not meet a third one under the same number.

    Raises OSError and `_Damaged`.
    """

    __slots__ = ("buckets", "fd", "identity", "main", "path", "size", "young")

    def __init__(self, path: Path) -> None:
        self.fd = -1  # for `__del__`, if it cannot be opened
        self.path = path
        self.fd = os.open(path, _OPEN)
        status = os.fstat(self.fd)
        head = os.pread(self.fd, _HEAD.size, 0)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise _Damaged("it is no file of this user")
        if len(head) < _HEAD.size:
            raise _Damaged("it is too short")
        magic, self.size, self.buckets, *_ = _HEAD.unpack(head)
        if magic != _MAGIC or self.size < 1024 or self.size % 8 or not 0 < self.buckets < 1 << 32:
            raise _Damaged("it has another format")
        data_at = _INDEX_AT + self.buckets * _BUCKET
        if status.st_size != data_at + self.size:
            raise _Damaged("it has another length")
        young = self.size // _YOUNG_PART // 8 * 8
        main = self.size - young
        self.main: Final = _Queue(main, data_at, 24, 32)
        self.young: Final = _Queue(young, data_at + main, 40, 48)
        self.identity = status.st_dev, status.st_ino

    def ends(self) -> _Ends:
        """Where the records begin and end."""
        head = os.pread(self.fd, _HEAD.size, 0)
        if len(head) < _HEAD.size:
            raise _Damaged("it is too short")
        magic, size, _, *words = _HEAD.unpack(head)
        ends = _Ends(*words)
        if (
            magic != _MAGIC
            or size != self.size
            or (words[0] | words[1] | words[2] | words[3]) % 8
            or not ends.start <= ends.end <= ends.start + self.main.size
            or not ends.young_start <= ends.young_end <= ends.young_start + self.young.size
            or ends.end >= _YOUNG
            or not ends.young_start >= _YOUNG
            or ends.young_end >= 2 * _YOUNG
        ):
            raise _Damaged("its head cannot be")
        return ends

    def bucket_at(self, name: bytes) -> int:
        number: int = int.from_bytes(name[8:16]) % self.buckets
        return _INDEX_AT + number * _BUCKET

    def slot(self, name: bytes) -> tuple[int, int, int, int] | None:
        """Where in the file the slot of ``name`` is, and what it says: offset, length, reads."""
        mark, bucket_at = name[:_MARK], self.bucket_at(name)
        bucket = os.pread(self.fd, _BUCKET, bucket_at)
        at = bucket.find(mark)
        while at >= 0:
            if not at % _SLOT.size and at + _SLOT.size <= len(bucket):
                _, offset, length, reads = _SLOT.unpack_from(bucket, at)
                if _RECORD.size <= length <= self.size:
                    return bucket_at + at, offset, length, reads
            at = bucket.find(mark, at + 1)
        return None

    def queue(self, offset: int) -> _Queue:
        return self.young if offset >= _YOUNG else self.main

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of a queue; fewer if the file is shorter than it should be."""
        size, data_at, _, _ = self.queue(offset)
        at = offset % size
        data = os.pread(self.fd, min(length, size - at), data_at + at)
        if len(data) < length <= size and at + len(data) == size:
            data += os.pread(self.fd, length - len(data), data_at)
        return data

    def write(self, offset: int, data: bytes) -> None:
        size, data_at, _, _ = self.queue(offset)
        at = offset % size
        room = size - at
        self.put(data[:room], data_at + at)
        if len(data) > room:
            self.put(data[room:], data_at)

    def put(self, data: bytes, at: int) -> None:
        """Write at a place in the file."""
        if os.pwrite(self.fd, data, at) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def __del__(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)


class Ring:
    """The ring in the file ``path``, with ``size`` bytes of data. Nothing is opened before it is used.

    ``largest``    bytes of the largest value that is kept.
    ``moves``      bytes of records that were read and that one write moves to the end, at most.
    ``lock``       serializes the writing threads of this process.
    ``now``        seconds since the epoch; ``monotonic``: seconds.

    A file of another size that is there already is used if it is not larger, nor much smaller. Any thread
    may call it, and nothing here raises an exception.
    """

    def __init__(
        self,
        path: Path,
        size: int,
        *,
        largest: int,
        moves: int = _MOVES,
        lock: AbstractContextManager[Any],
        now: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._path = path
        self._size = size - size % 8
        self.largest: Final = largest
        self._moves = moves
        self._lock = lock
        self._now = now
        self._monotonic = monotonic
        self._file: _File | None = None
        self._compared = _NEVER
        # Since when the lock is refused, and where the ring was then: file, start, end.
        self._refused: tuple[float, tuple[object, ...]] | None = None
        self._begun = False
        self.evictions = self.moved = self.contended = self.failures = 0

    # -- reading -------------------------------------------------------------------------------

    def get(self, name: bytes) -> bytes | None:
        """The value, or None."""
        try:
            file = self._opened()
            if file is None:
                return None
            found = file.slot(name)
            if found is None:
                return None
            at, offset, length, reads = found
            value = self._read(file, offset, length, name)
        except (OSError, _Damaged):
            self.failures += 1
            return None
        if value is not None and reads < _READS:
            try:
                file.put(bytes((reads + 1,)), at + _READS_AT)
            except OSError:  # a full disk, where every write takes new room; the value is good
                self.failures += 1
        return value

    def _read(self, file: _File, offset: int, length: int, name: bytes) -> bytes | None:
        if length > _WHOLE:  # it may have been overwritten long ago
            head = file.read(offset, _RECORD.size)
            if len(head) < _RECORD.size or _RECORD.unpack(head)[:2] != (offset, name):
                return None
        return self._value(file.read(offset, length), offset, name)

    def _value(self, record: bytes, offset: int, name: bytes) -> bytes | None:
        if len(record) < _RECORD.size:
            return None
        own, named, length, expires, checksum = _RECORD.unpack_from(record)
        value = record[_RECORD.size : _RECORD.size + length]
        if own != offset or named != name or len(value) != length or expires <= self._now():
            return None
        return value if checksum == _checksum(own, name, expires, value) else None

    # -- writing -------------------------------------------------------------------------------

    def set(self, name: bytes, value: bytes, expires: float) -> bool:
        """Keep the value until ``expires`` (seconds since the epoch). False if it is not kept; then another
        one may still be under the name."""
        if len(value) > self.largest:
            return False
        try:
            with self._lock:
                file = self._opened()
                if file is None or _RECORD.size + len(value) > file.size // 4:
                    return False
                if not self._locked(file):
                    return False
                try:
                    self._set(file, name, value, expires)
                finally:
                    fcntl.flock(file.fd, fcntl.LOCK_UN)
        except _Damaged:
            self.failures += 1
            self.clear()
            return False
        except OSError:
            self.failures += 1
            return False
        return True

    def _locked(self, file: _File) -> bool:
        refused = self._refused
        if refused is not None and refused[1] != (file.identity, *file.ends()):
            refused = self._refused = None  # others were busy, not stopped
        for _ in range(_SPIN if refused is None else 1):
            try:
                fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in _HELD:
                    raise
                time.sleep(_PAUSE)
            else:
                self._refused = None
                return True
        self.contended += 1
        now = self._monotonic()
        if refused is None:
            self._refused = now, (file.identity, *file.ends())
        elif now - refused[0] > _PATIENCE:
            self._refused = None
            self._make(over=True)
        return False

    def _set(self, file: _File, name: bytes, value: bytes, expires: float) -> None:
        ends = file.ends()
        new = _Record(name, value, expires)
        if self._is_main(file, ends, new):
            self._append_main(file, ends, [new])
            return
        need, start, end = new.size, ends.young_start, ends.young_end
        if end + need - start > file.young.size:
            start, read = self._young_turn(file, ends, need)
            if read:
                ends = self._append_main(file, ends, read)
            file.put(_WORD.pack(start), file.young.start_at)
        file.write(end, _record(end, new))
        file.put(_WORD.pack(end + need), file.young.end_at)
        self._index(file, _Ends(ends.end, ends.start, end + need, start), new, end)

    def _is_main(self, file: _File, ends: _Ends, new: _Record) -> bool:
        """True if the record goes to the main queue."""
        if new.size > file.young.size // 8 * 7 or ends.end + new.size <= file.main.size:
            return True
        slot = file.slot(new.name)
        if slot is None:
            return False
        _, offset, _, reads = slot
        if offset < _YOUNG:
            return offset >= ends.start
        # It was read; or it is lost, but not for long.
        return reads > 0 or (
            offset < ends.young_start and ends.young_end - offset <= file.main.size
        )

    def _append_main(self, file: _File, ends: _Ends, records: list[_Record]) -> _Ends:
        """Write the records at the end of the main queue, and behind them those that were read of the
        records that have to go."""
        need = sum(record.size for record in records)
        end, start = ends.end, ends.start
        if end + need - start > file.main.size:
            start, again = self._main_turn(file, ends, need)
            file.put(_WORD.pack(start), file.main.start_at)
            records = records + again
        data = bytearray()
        for record in records:
            data += _record(end + len(data), record)
        file.write(end, bytes(data))
        file.put(_WORD.pack(end + len(data)), file.main.end_at)
        ends = _Ends(end + len(data), start, ends.young_end, ends.young_start)
        offset = ends.end
        # The first one last, so that none of the others takes its place in a full bucket.
        for record in reversed(records):
            offset -= record.size
            self._index(file, ends, record, offset)
        return ends

    def _records(
        self, file: _File, start: int, end: int
    ) -> Iterator[tuple[int, int, bytes, float, int]]:
        """The records of a queue: offset, bytes, name, expires, and reads, which is -1 for one that has
        expired or is in the index no more."""
        now = self._now()
        while start < end:
            head = file.read(start, _RECORD.size)
            if len(head) < _RECORD.size:
                raise _Damaged("it is too short")
            own, name, length, expires, _ = _RECORD.unpack(head)
            whole = _padded(_RECORD.size + length)
            if own != start or whole > end - start:
                raise _Damaged("a record is not where it should be")
            found = file.slot(name) if expires > now else None
            reads = found[3] if found is not None and found[1] == start else -1
            yield start, whole, name, expires, reads
            start += whole

    def _record_at(
        self, file: _File, start: int, whole: int, name: bytes, expires: float, reads: int
    ) -> list[_Record]:
        value = self._value(file.read(start, whole), start, name)
        return [] if value is None else [_Record(name, value, expires, reads)]

    def _young_turn(self, file: _File, ends: _Ends, need: int) -> tuple[int, list[_Record]]:
        """Where the young queue starts once there is room for ``need`` bytes, and more; and which of the
        records that have to go move to the main queue."""
        end = ends.young_end
        goal = end + need + min(_AHEAD, file.young.size // 16) - file.young.size
        start = ends.young_start
        free = None
        moving: list[_Record] = []
        for at, whole, name, expires, reads in self._records(file, start, end):
            if at >= goal:
                break
            start = at + whole
            if reads < 0:
                continue
            if reads == 0:
                if free is None:
                    free = self._free(file, ends, goal - at)
                if whole > free:
                    self.evictions += 1
                    continue
                free -= whole
            moving += self._record_at(file, at, whole, name, expires, 0)
        return start, moving

    def _free(self, file: _File, ends: _Ends, most: int) -> int:
        """Bytes that can be written to the main queue without a loss; ``most``, or a little more, at most."""
        free = file.main.size - (ends.end - ends.start)
        for _, whole, _, _, reads in self._records(file, ends.start, ends.end):
            if reads >= 0 or free >= most:
                break
            free += whole
        return free

    def _main_turn(self, file: _File, ends: _Ends, need: int) -> tuple[int, list[_Record]]:
        """Where the main queue starts once there is room for ``need`` bytes; and which of the records that
        have to go are written again."""
        most = min(self._moves, file.size // 16)
        goal = ends.end + need - file.main.size
        start = ends.start
        again: list[_Record] = []
        moved = 0
        for at, whole, name, expires, reads in self._records(file, start, ends.end):
            if at >= goal:
                break
            start = at + whole
            record = []
            if reads > 0 and moved + whole <= most:
                record = self._record_at(file, at, whole, name, expires, reads - 1)
            if record:
                again += record
                moved += whole
                goal += whole
            elif reads >= 0:
                self.evictions += 1
        self.moved += len(again)
        return start, again

    def _index(self, file: _File, ends: _Ends, record: _Record, offset: int) -> None:
        """Write the slot of a record. A full bucket gives up the oldest of those that were read least."""
        mark, bucket_at = record.name[:_MARK], file.bucket_at(record.name)
        bucket = os.pread(file.fd, _BUCKET, bucket_at).ljust(_BUCKET, b"\0")
        start, young_start = ends.start, ends.young_start
        best, least = 0, (256, 0)
        for at, (own, other, _, reads) in zip(_SLOTS_AT, _SLOT.iter_unpack(bucket), strict=True):
            if own == mark:
                best, least = at, (-1, 0)
                break
            if own == _NO_MARK:
                rank = (-2, 0)
            elif other < (young_start if other >= _YOUNG else start):
                rank = (-1, other)  # the oldest of what is lost first: see `_is_main`
            else:
                rank = (reads, other)
            if rank < least:
                best, least = at, rank
        if least[0] >= 0:
            self.evictions += 1
        slot = _SLOT.pack(mark, offset, _RECORD.size + len(record.value), record.reads)
        file.put(slot, bucket_at + best)

    def delete(self, name: bytes) -> bool:
        """Remove the value. True if there was one."""
        try:
            file = self._opened()
            if file is None or file.slot(name) is None:
                return False
            with self._lock:
                locked = self._locked(file)
                try:
                    found = file.slot(name)
                    if found is None:
                        return False
                    at, offset, length, _ = found
                    there = self._read(file, offset, length, name) is not None
                    file.put(_EMPTY, at)
                finally:
                    if locked:
                        fcntl.flock(file.fd, fcntl.LOCK_UN)
        except _Damaged:
            self.failures += 1
            self.clear()  # readers do not need what is damaged
            return False
        except OSError:
            self.failures += 1
            return False
        return there

    def clear(self) -> None:
        """Remove all values. Other processes notice within `_COMPARED` seconds."""
        try:
            if self._path.parent.is_dir():
                self._make(over=True)
        except OSError:
            self.failures += 1

    # -- the file ------------------------------------------------------------------------------

    def _opened(self) -> _File | None:
        """The file at the path; None if there is no folder for one. Raises OSError and `_Damaged`."""
        file, now = self._file, self._monotonic()
        if file is not None and now - self._compared < _COMPARED:
            return file
        try:
            status = os.lstat(self._path)
            if file is not None and (status.st_dev, status.st_ino) == file.identity:
                self._compared = now
                return file
        except FileNotFoundError:
            if not self._path.parent.is_dir():
                self._file = None
                return None
        for _ in range(3):
            try:
                file = _File(self._path)
                # Only once: two processes that want different sizes must not go on replacing the file.
                if not self._begun and not self._size // 4 <= file.size <= self._size:
                    raise _Damaged("it has another size")
            except FileNotFoundError:
                self._make(over=False)
            except _Damaged:
                self._make(over=True)
            else:
                self._file, self._compared, self._begun = file, now, True
                return file
        raise _Damaged("it is replaced again and again")

    def _make(self, *, over: bool) -> None:
        """Put an empty file at the path; without ``over``, not if there is one. Raises OSError."""
        for left in self._path.parent.glob(f"{self._path.name}.*.new"):
            with contextlib.suppress(FileNotFoundError):
                if self._now() - left.lstat().st_mtime > _UNFINISHED:
                    left.unlink()
        name = self._path.with_name(f"{self._path.name}.{os.urandom(8).hex()}.new")
        fd = os.open(name, _OPEN | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            buckets = max(1, self._size // _PER_SLOT // _SLOTS)
            os.ftruncate(fd, _INDEX_AT + buckets * _BUCKET + self._size)
            os.pwrite(fd, _HEAD.pack(_MAGIC, self._size, buckets, 0, 0, _YOUNG, _YOUNG), 0)
            if over:
                name.rename(self._path)
            else:
                with contextlib.suppress(FileExistsError):
                    os.link(name, self._path)
        finally:
            os.close(fd)
            name.unlink(missing_ok=True)
        self._compared = _NEVER

    def close(self) -> None:
        """Close the file. Using the ring again opens it anew."""
        self._file = None

    @property
    def size(self) -> int:
        """Bytes of data that the file can hold."""
        file = self._file
        return self._size if file is None else file.size

    @property
    def used(self) -> int:
        """Bytes of data that it holds; 0 if it is not open."""
        file = self._file
        if file is None:
            return 0
        try:
            ends = file.ends()
        except (OSError, _Damaged):
            return 0
        return ends.end - ends.start + ends.young_end - ends.young_start


def _record(offset: int, record: _Record) -> bytes:
    name, value, expires, _ = record
    checksum = _checksum(offset, name, expires, value)
    head = _RECORD.pack(offset, name, len(value), expires, checksum)
    return b"".join((head, value, bytes(-len(value) % 8)))


def _padded(size: int) -> int:
    return size + -size % 8


def _checksum(offset: int, name: bytes, expires: float, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(_CHECKED.pack(offset, name, expires)))
