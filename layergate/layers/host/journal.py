"""The file with the log of purges that the processes of one host share.

`HostLog` calls it. Everything here is a few system calls; nothing waits, and nothing knows what a record
says. The file has two parts::

    page (4,096 bytes):   magic 8 | incarnation 16 | boot id 16 | ring size 8 | settled 8 | oldest 8 | end 8
    ring (4 MiB):         records, each at its virtual offset modulo the ring's size

    record:   virtual offset 8 | length 4 | CRC-32 4 | data, padded to a multiple of 8 bytes

A *virtual offset* counts all bytes ever appended; it never repeats. ``end`` is the virtual offset behind
the last record. This one word is the *position* of the log and the place for the next record at once.
With two words, a writer that dies between its two stores would leave a record whose position the next
purge gets again; a reader that had seen the first would miss the second.

**Order.** An append writes the record behind the end, where nobody looks, then the new end. A writer that
is killed before the last step has appended nothing. Where a record will overwrite older ones, ``oldest``,
the offset of the oldest record that is whole, goes up first.

**Reading** takes no lock. The page is mapped, so the position costs a memory access. The ring is read by
``pread``: a mapped ring would be SIGBUS for every process at once if somebody truncated the file. What is
read counts only if each record has its own offset and its checksum, and ``oldest`` has not passed the
start meanwhile. The page is written by ``pwrite``, which fails on a full disk where a store into a mapping
is a signal. The two see the same memory on every local file system.

**Replacement.** A file is never truncated or written anew. If it cannot be used, a new one with another
incarnation takes over its name in one step, and positions of the two mean nothing to each other. The lock
for appending belongs to the file, not to the name. So a process that was stopped while it held the lock
holds only the old file's, and when it goes on, it writes only there. Each process compares the file at
the name with the one it has open (`is_current`); while it holds one open, no other can have its number.

**Boot.** After a crash of the machine, a file may lack its last writes. So one with another boot id is
replaced, unless it is *durable*: then each append is written to the disk before it counts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
import time
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Final

__all__ = ["END", "LARGEST", "NAME", "RING", "Damaged", "JournalFile", "boot_id", "replaced"]

NAME: Final = "log-1"
"""The file's name. The number is the version of the format: versions do not share a file."""
RING: Final = 4 * 1024 * 1024
"""Bytes of the ring. A purge of one tag takes about 80, so it keeps some 50,000 of them."""
LARGEST: Final = RING // 8
"""Bytes of the largest record."""

_PAGE: Final = 4096
_MAGIC: Final = b"LGHOST1\n"
_HEAD: Final = struct.Struct("=8s16s16sQdQQ")
_RECORD: Final = struct.Struct("=QII")
_WORD: Final = struct.Struct("=Q")
_SETTLED_AT, _OLDEST_AT, _END_AT = 48, 56, 64
_OLDEST: Final = _OLDEST_AT // 8
END: Final = _END_AT // 8
"""Index of the end in `JournalFile.words`."""
_LEFT: Final = 60.0  # seconds; a younger file is being made
_OPEN: Final = os.O_CLOEXEC | os.O_NOFOLLOW
_HELD: Final = frozenset((errno.EACCES, errno.EAGAIN))


class Damaged(Exception):
    """The file is none of ours, or is from before the machine was started, or somebody wrote into it."""


def boot_id() -> bytes:
    """16 bytes that change when the machine is started; zeros where the system does not tell."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        return bytes(16)
    return blake2b(text.strip(), digest_size=16).digest()


class JournalFile:
    """The log file at ``path``, open.

    ``durable``  an append is on the disk when it returns, and the file outlives a start of the machine.

    Raises FileNotFoundError, other OSErrors, and `Damaged`.
    """

    __slots__ = ("_durable", "_fd", "_identity", "_map", "incarnation", "path", "ring", "words")

    def __init__(self, path: Path, *, durable: bool = False) -> None:
        self._fd = -1  # for `close`, if it cannot be opened
        self.path: Final = path
        self._durable = durable
        self._map: mmap.mmap | None = None
        self.words = memoryview(bytes(_PAGE)).cast("Q")
        self._fd = os.open(path, os.O_RDWR | _OPEN)
        try:
            self._open()
        except BaseException:
            self.close()
            raise

    def _open(self) -> None:
        status = os.fstat(self._fd)
        self._identity = status.st_dev, status.st_ino
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise Damaged("it is no file of this user")
        head = os.pread(self._fd, _HEAD.size, 0)
        if len(head) < _HEAD.size:
            raise Damaged("it is too short")
        magic, self.incarnation, boot, self.ring, _, oldest, end = _HEAD.unpack(head)
        if magic != _MAGIC or self.ring < 8 * LARGEST or status.st_size != _PAGE + self.ring:
            raise Damaged("it has another format")
        if boot != boot_id() and not self._durable:
            raise Damaged("it is from before the machine was started")
        if not oldest <= end <= oldest + self.ring or (oldest | end) % 8:
            raise Damaged("its positions cannot be")
        # A descriptor of its own: the mapping keeps a copy, and a copy of `_fd` would keep its lock.
        fd = os.open(self.path, os.O_RDONLY | _OPEN)
        try:
            opened = os.fstat(fd)
            if (opened.st_dev, opened.st_ino) != self._identity:
                raise Damaged("it is being replaced")
            self._map = mmap.mmap(fd, _PAGE, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
        finally:
            os.close(fd)
        self.words = memoryview(self._map).cast("Q")

    # -- reading -------------------------------------------------------------------------------

    @property
    def end(self) -> int:
        """The position: the virtual offset behind the last record."""
        return self.words[END]

    @property
    def oldest(self) -> int:
        """The virtual offset of the oldest record that is still there."""
        return self.words[_OLDEST]

    def is_current(self) -> bool:
        """True if this file is the one at its path. False, too, if there is none. Raises OSError if the
        path cannot be looked at."""
        try:
            status = os.lstat(self.path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def read(self, start: int, end: int) -> list[tuple[int, bytes]] | None:
        """The records from the virtual offset ``start`` up to ``end``: the position behind each, and its
        data. None if some have been overwritten, or the file is damaged. Raises OSError."""
        if not 0 <= end - start <= self.ring:
            return None
        data = self._pread(start, end - start)
        records = []
        at = 0
        while at < len(data):
            if len(data) - at < _RECORD.size:
                return None
            own, length, checksum = _RECORD.unpack_from(data, at)
            body = data[at + _RECORD.size : at + _RECORD.size + length]
            if own != start + at or len(body) != length or checksum != _checksum(own, body):
                return None
            at += _padded(_RECORD.size + length)
            records.append((start + at, body))
        # The checks above are as good as a checksum of 32 bits; this one is certain.
        if at != end - start or self.oldest > start:
            return None
        return records

    # -- appending -----------------------------------------------------------------------------

    def lock(self) -> bool:
        """Take the lock for appending; False if another process (or another open file of this one) has
        it. Raises OSError."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                return False
            raise
        return True

    def unlock(self) -> None:
        """Give the lock back."""
        if self._fd >= 0:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def append(self, records: Sequence[bytes]) -> int:
        """Append records of at most `LARGEST` bytes each, all or none. The position behind them. The
        caller holds the lock.

        Raises ValueError for records that are too large, `Damaged`, and OSError; then nothing was
        appended.
        """
        end = start = self.end
        data = bytearray()
        for record in records:
            if len(record) > LARGEST:
                raise ValueError(f"a record must be at most {LARGEST} bytes, got {len(record)}")
            data += _RECORD.pack(end, len(record), _checksum(end, record))
            data += record
            data += bytes(-len(record) % 8)
            end = start + len(data)
        if len(data) > self.ring // 2:
            raise ValueError(f"records must be at most {self.ring // 2} bytes, got {len(data)}")
        oldest = self._oldest_after(end)
        if oldest != self.oldest:
            self._pwrite(_WORD.pack(oldest), _OLDEST_AT)
        self._write(start, data)
        if self._durable:
            os.fsync(self._fd)
        self._pwrite(_WORD.pack(end), _END_AT)
        if self._durable:
            os.fsync(self._fd)
        return end

    def _oldest_after(self, end: int) -> int:
        """The oldest record that stays whole when the log grows up to ``end``."""
        oldest = self.oldest
        while end - oldest > self.ring:
            if oldest >= self.end:
                raise Damaged("its records do not end where they should")
            own, length, _ = _RECORD.unpack(self._pread(oldest, _RECORD.size))
            if own != oldest or length > LARGEST:
                raise Damaged("a record is not where it should be")
            oldest += _padded(_RECORD.size + length)
        return oldest

    def settle(self, now: float) -> None:
        """Note ``now`` (`Runtime.monotonic`) as a time at which this file was the one at its path."""
        self._pwrite(struct.pack("=d", now), _SETTLED_AT)

    @property
    def settled(self) -> float:
        """A time since which this file has been the one at its path; 0 if nobody has noted it."""
        return float(struct.unpack_from("=d", self.words.cast("B"), _SETTLED_AT)[0])

    def close(self) -> None:
        """Close the file, and give its lock back. What was read of the page stays readable."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # -- bytes ---------------------------------------------------------------------------------

    def _pread(self, start: int, length: int) -> bytes:
        at = start % self.ring
        first = os.pread(self._fd, min(length, self.ring - at), _PAGE + at)
        return (
            first
            if len(first) == length
            else first + os.pread(self._fd, length - len(first), _PAGE)
        )

    def _write(self, start: int, data: bytearray) -> None:
        at = start % self.ring
        room = self.ring - at
        self._pwrite(data[:room], _PAGE + at)
        if len(data) > room:
            self._pwrite(data[room:], _PAGE)

    def _pwrite(self, data: bytes | bytearray, at: int) -> None:
        if os.pwrite(self._fd, data, at) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def __del__(self) -> None:
        self.close()


def replaced(path: Path, *, over: bool, durable: bool = False) -> bool:
    """Put a new, empty log file at ``path``. With ``over`` it replaces one that is there; without, False
    if there is one. Raises OSError."""
    _sweep(path)
    name = path.with_name(f"{path.name}.{os.urandom(8).hex()}.new")
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OPEN, 0o600)
    try:
        try:
            head = _HEAD.pack(_MAGIC, os.urandom(16), boot_id(), RING, 0.0, 0, 0)
            # All of its space is taken now, so that a disk that fills up later stops no purge.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, _PAGE + RING)
            else:
                os.truncate(fd, _PAGE + RING)
            os.pwrite(fd, head, 0)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        if over:
            name.rename(path)
        else:
            try:
                os.link(name, path)
            except FileExistsError:
                return False
        if durable:
            _sync_folder(path.parent)
    finally:
        name.unlink(missing_ok=True)
    return True


def _sweep(path: Path) -> None:
    """Remove what processes have left that were killed while they made a file."""
    for left in path.parent.glob(f"{path.name}.*.new"):
        with contextlib.suppress(OSError):
            if time.time() - left.lstat().st_mtime > _LEFT:
                left.unlink()


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _padded(size: int) -> int:
    return size + -size % 8


def _checksum(offset: int, data: bytes) -> int:
    return zlib.crc32(data, zlib.crc32(_WORD.pack(offset)))
