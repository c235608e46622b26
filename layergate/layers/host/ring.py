"""Values in a file of fixed size that many processes read and write: what `Entries` keeps entries in.

The file never grows, and nothing in it is ever freed: new records overwrite the oldest ones, so the bytes
are bounded by construction. It has three parts::

    head     magic 8 | data bytes 8 | buckets 8 | end 8 | start 8, and room up to 4,096 bytes
    index    buckets of ten slots:  fingerprint 8 | offset 8 | length 4 | reads 1 | 3 free
    data     records:  offset 8 | name 20 | length 4 | expires 8 | CRC-32 4 | 4 free | value, padded to 8

Offsets are *virtual*: they count all bytes ever written, and lie in the file at their remainder by the
data's size. So an offset never comes back, and a slot that points to an overwritten record is recognized.

**Reading** takes no lock: read the bucket, read the record, and see whether offset, name, length and
checksum are right. Whatever is not is a miss. A record that is being overwritten fails its checksum.

**Writing** takes the lock of the file, for some 20 microseconds. The order makes a writer that is killed
between any two steps harmless: the start goes up past the records that will be overwritten, the record
is written behind the end, the end goes up, the slot is written. Up to the last step, the record is not
found; the others are all as they were, but for those that had to go.

**A second chance.** A slot counts the reads of its record, up to `_READS`. When the turn of a record that
was read comes to be overwritten, it is written again at the end, with one read less. Without this, the ring
is a queue that forgets the hottest entry as soon as any other. One write moves at most `moves` bytes.
`benchmarks/host_entries.py` measures the hit ratio beside a queue, S3-FIFO, and the optimum.

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
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

__all__ = ["NAME_SIZE", "Ring"]

NAME_SIZE: Final = 20
"""Bytes of a name: a digest, so all bits are as good as random."""

_MAGIC: Final = b"LGRING1\n"
_HEAD: Final = struct.Struct("=8sQQQQ")
_WORD: Final = struct.Struct("=Q")
_END_AT, _START_AT = 24, 32
_SLOT: Final = struct.Struct("=8sQIB3x")
_MARK: Final = 8  # bytes of a fingerprint: the first of the name
_READS_AT: Final = 20  # in a slot
_READS: Final = 2  # reads that a slot counts, at most
_SLOTS: Final = 10  # in a bucket
_BUCKET: Final = _SLOTS * _SLOT.size
_RECORD: Final = struct.Struct("=Q20sIdI4x")
_CHECKED: Final = struct.Struct("=Q20sd")
_INDEX_AT: Final = 4096
_PER_SLOT: Final = 512  # bytes of data for each slot of the index
_MOVES: Final = 256 * 1024
_AHEAD: Final = 64 * 1024  # bytes that are made free at once
_COMPARED: Final = 0.1  # seconds
_PATIENCE: Final = 1.0  # seconds
_SPIN: Final = 20  # tries to take the lock, with a pause of `_PAUSE` seconds between them
_PAUSE: Final = 0.0001
_OPEN: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_HELD: Final = frozenset((errno.EACCES, errno.EAGAIN))
_EMPTY: Final = bytes(_SLOT.size)
_NEVER: Final = float("-inf")
_UNFINISHED: Final = (
    60.0  # seconds after which a file that was to be a ring is that of a killed process
)


class _Damaged(Exception):
    """The file is not as a ring is."""


class _File:
    """One file, open. It is closed when no thread uses it any more: an operation that goes on after the
    ring has gone over to another file must not meet a third one under the same number.

    Raises OSError and `_Damaged`.
    """

    __slots__ = ("buckets", "data_at", "fd", "identity", "path", "size")

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
        magic, self.size, self.buckets, _, _ = _HEAD.unpack(head)
        if magic != _MAGIC or not self.size or self.size % 8 or not 0 < self.buckets < 1 << 32:
            raise _Damaged("it has another format")
        self.data_at = _INDEX_AT + self.buckets * _BUCKET
        if status.st_size != self.data_at + self.size:
            raise _Damaged("it has another length")
        self.identity = status.st_dev, status.st_ino

    def ends(self) -> tuple[int, int]:
        """Where the records begin and end."""
        head = os.pread(self.fd, _HEAD.size, 0)
        if len(head) < _HEAD.size:
            raise _Damaged("it is too short")
        magic, size, _, end, start = _HEAD.unpack(head)
        if magic != _MAGIC or size != self.size or (start | end) % 8 or end >> 62:
            raise _Damaged("its head cannot be")
        if not start <= end <= start + size:
            raise _Damaged("its head cannot be")
        return start, end

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

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the data; fewer if the file is shorter than it should be."""
        at = offset % self.size
        data = os.pread(self.fd, min(length, self.size - at), self.data_at + at)
        if len(data) < length and at + len(data) == self.size:
            data += os.pread(self.fd, length - len(data), self.data_at)
        return data

    def write(self, offset: int, data: bytes) -> None:
        at = offset % self.size
        room = self.size - at
        self.put(data[:room], self.data_at + at)
        if len(data) > room:
            self.put(data[room:], self.data_at)

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
            found = None if file is None else file.slot(name)
            if file is None or found is None:
                return None
            at, offset, length, reads = found
            value = self._value(file.read(offset, length), offset, name)
        except (OSError, _Damaged):
            self.failures += 1
            return None
        if value is not None and reads < _READS:
            try:
                file.put(bytes((reads + 1,)), at + _READS_AT)
            except OSError:  # a full disk, where every write takes new room; the value is good
                self.failures += 1
        return value

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
        start, end = file.ends()
        data = bytearray(_record(end, name, value, expires))
        written = [(end, name, len(data), 0)]
        if end + len(data) - start > file.size:
            start, kept = self._made_free(file, start, end, len(data))
            file.put(_WORD.pack(start), _START_AT)
            for each, its_value, its_expires, reads in kept:
                offset = end + len(data)
                record = _record(offset, each, its_value, its_expires)
                written.append((offset, each, len(record), reads - 1))
                data += record
            self.moved += len(kept)
        file.write(end, bytes(data))
        file.put(_WORD.pack(end + len(data)), _END_AT)
        # The new one last, so that none of those that were moved takes its place in a full bucket.
        for offset, each, length, reads in reversed(written):
            self._index(file, each, _SLOT.pack(each[:_MARK], offset, length, reads), start)

    def _made_free(
        self, file: _File, start: int, end: int, need: int
    ) -> tuple[int, list[tuple[bytes, bytes, float, int]]]:
        """Where the ring starts once there is room for ``need`` bytes, and more; and what of the records
        that have to go was read: name, value, expires, reads."""
        most = min(self._moves, file.size // 16)
        goal = end + need + min(_AHEAD, file.size // 16) - file.size
        now = self._now()
        kept: list[tuple[bytes, bytes, float, int]] = []
        moved = 0
        while start < min(goal, end):
            head = file.read(start, _RECORD.size)
            if len(head) < _RECORD.size:
                raise _Damaged("it is too short")
            own, name, length, expires, _ = _RECORD.unpack(head)
            whole = _padded(_RECORD.size + length)
            if own != start or whole > end - start:
                raise _Damaged("a record is not where it should be")
            found = file.slot(name) if expires > now else None
            if found is not None and found[1] == start:
                value = None
                if found[3] and moved + whole <= most:
                    value = self._value(file.read(start, whole), start, name)
                if value is not None:
                    kept.append((name, value, expires, found[3]))
                    moved += whole
                    goal += whole
                else:
                    self.evictions += 1
            start += whole
        return start, kept

    def _index(self, file: _File, name: bytes, slot: bytes, start: int) -> None:
        """Write the slot of ``name``. A full bucket gives up the oldest of those that were read least."""
        mark, bucket_at = name[:_MARK], file.bucket_at(name)
        bucket = os.pread(file.fd, _BUCKET, bucket_at).ljust(_BUCKET, b"\0")
        best, least = 0, (256, 0)
        for at in range(0, _BUCKET, _SLOT.size):
            own, other, _, reads = _SLOT.unpack_from(bucket, at)
            if own == mark:
                best, least = at, (-1, 0)
                break
            rank = (-1, 0) if other < start or own == _EMPTY[:_MARK] else (reads, other)
            if rank < least:
                best, least = at, rank
        if least[0] >= 0:
            self.evictions += 1
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
                    there = self._value(file.read(offset, length), offset, name) is not None
                    file.put(_EMPTY, at)
                finally:
                    if locked:
                        fcntl.flock(file.fd, fcntl.LOCK_UN)
        except (OSError, _Damaged):
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
            os.pwrite(fd, _HEAD.pack(_MAGIC, self._size, buckets, 0, 0), 0)
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
        try:
            start, end = (0, 0) if file is None else file.ends()
        except (OSError, _Damaged):
            return 0
        return end - start


def _record(offset: int, name: bytes, value: bytes, expires: float) -> bytes:
    checksum = _checksum(offset, name, expires, value)
    head = _RECORD.pack(offset, name, len(value), expires, checksum)
    return b"".join((head, value, bytes(-len(value) % 8)))


def _padded(size: int) -> int:
    return size + -size % 8


def _checksum(offset: int, name: bytes, expires: float, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(_CHECKED.pack(offset, name, expires)))
