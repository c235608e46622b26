"""Where the folder of a host is, who may use it, and how much room it has.

`HostLayer` and ``layergate purge --host`` ask. Three kinds of folder:

- one that you name: ``host:/var/cache/shop``. What is wrong with it is a ConfigError.
- one of a *namespace*, in the first of the user's own places that can be used (`places`): below the cache
  directory, else in shared memory, else in the temporary directory.
- a *private* one, of one gateway: removed at its end, and by the next gateway if it could not.

Whoever can write to the folder can serve what they like to your users. So a folder that belongs to
another user, or that others can write to, is refused, and a new one can be opened by its user only. Locks
and mappings do not hold over a network, so a network file system is refused, too.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import pwd
import re
import shutil
import stat
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from layergate.errors import ConfigError
from layergate.layers.host.locks import ByteLocks, locks_of
from layergate.layers.host.members import Members

__all__ = [
    "LEAST",
    "NAMESPACE",
    "PrivateFolder",
    "check",
    "default_namespace",
    "found",
    "made",
    "place_for",
    "places",
    "room",
]

NAMESPACE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
LEAST: Final = 16 * 1024 * 1024
"""Bytes that have to be free where a folder is made: the log needs 4 MB, and is made anew beside an old one."""

_PRIVATE: Final = "layergate-gateway-"
_OWNER: Final = "owner"  # the file that the gateway of a private folder has locked
_ORPHAN_AGE: Final = 60.0  # seconds; a younger folder may still be waiting for its first member
_SHARE: Final = 8  # one part in eight of what there is

# statfs(2), f_type: file systems whose files may be on another machine.
_NETWORK: Final = {
    0x6969: "NFS",
    0x517B: "SMB",
    0xFE534D42: "SMB2",
    0xFF534D42: "CIFS",
    0x65735546: "FUSE",
    0x01021997: "9P",
    0x00C36400: "Ceph",
    0x5346414F: "AFS",
    0x6B414653: "AFS",
    0x01161970: "GFS2",
    0x7461636F: "OCFS2",
    0x0BD00BD0: "Lustre",
    0x47504653: "GPFS",
    0x73757245: "Coda",
    0x564C: "NCP",
    0x19830326: "BeeGFS",
    0x786F4256: "VirtualBox shared folder",
    0xBACBACBC: "VMware shared folder",
}
_MNT_LOCAL: Final = 0x1000  # macOS: statfs(2), f_flags


def check(path: Path) -> None:
    """Raises ConfigError for a folder that must not be used, or cannot be made. Changes nothing."""
    if sys.platform == "win32":
        raise ConfigError(
            "shared='host' needs file locks that Windows does not have;"
            " use shared='redis://...' there, or one process"
        )
    if not path.is_absolute():
        raise ConfigError(f"path must be absolute, got {str(path)!r}; write host:/var/cache/shop")
    try:
        status = path.lstat()
    except FileNotFoundError:
        _check_parent(path)
        return
    except OSError as error:
        raise ConfigError(f"{path} cannot be looked at: {error.strerror}") from error
    if stat.S_ISLNK(status.st_mode):
        raise ConfigError(f"{path} is a symbolic link; give the folder that it leads to")
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"{path} is no folder; give the path of one")
    if status.st_uid != os.geteuid():
        owner = _user(status.st_uid)
        raise ConfigError(
            f"{path} belongs to {owner}, but this process runs as {_user(os.geteuid())}; run it as"
            f" {owner} (for a command: sudo -u {owner} ...), or give it another folder"
        )
    if status.st_mode & 0o022:
        raise ConfigError(
            f"{path} can be written to by others, who could put pages into your cache;"
            f" run: chmod 700 {path}"
        )
    _check_open_to_others(path.parent)
    _check_local(path)
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"{path} cannot be written to; give a folder on a writable file system")


def _check_parent(path: Path) -> None:
    parent = path.parent
    while not parent.exists():
        parent = parent.parent
    _check_local(parent)
    _check_open_to_others(parent)
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ConfigError(
            f"{path} cannot be made, because {_user(os.geteuid())} cannot write to {parent};"
            f" run: sudo install -d -m 700 -o {_user(os.geteuid())} {path}"
        )


def _check_open_to_others(parent: Path) -> None:
    mode = parent.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ConfigError(
            f"{parent} can be written to by everybody, who could put another folder into the"
            " place of yours; give a folder elsewhere"
        )


def _check_local(path: Path) -> None:
    kind = _network(path)
    if kind is not None:
        raise ConfigError(
            f"{path} is on a network file system ({kind}), where locks and mappings do not hold;"
            " give a folder on a local disk or in /dev/shm"
        )


def _network(path: Path) -> str | None:
    """The network file system that ``path`` is on; None if it is on none, or that cannot be told."""
    try:
        statfs = ctypes.CDLL(None, use_errno=True).statfs
    except (OSError, AttributeError):
        return None
    buffer = ctypes.create_string_buffer(4096)
    if statfs(os.fsencode(path), buffer):
        return None
    if sys.platform == "darwin":
        flags = int.from_bytes(buffer.raw[64:68], sys.byteorder)
        name = buffer.raw[72:88].partition(b"\0")[0].decode("ascii", "replace")
        return None if flags & _MNT_LOCAL else name
    kind = int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) & 0xFFFFFFFF
    return _NETWORK.get(kind)


def made(path: Path) -> None:
    """Make the folder if there is none, and check it. Raises ConfigError and OSError."""
    check(path)
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    check(path)


# -- the user's own places -----------------------------------------------------------------------------


def default_namespace() -> str:
    """Names the folder in which the process was started: two projects of one user share nothing."""
    here = Path.cwd()
    name = re.sub(r"[^A-Za-z0-9_.-]", "-", here.name).lstrip(".-")[:48] or "app"
    return f"{name}-{hashlib.blake2b(os.fsencode(here), digest_size=4).hexdigest()}"


def places() -> list[Path]:
    """Where folders of namespaces are, the best first."""
    user = os.geteuid()
    found = []
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        found.append(named / "layergate")
    with contextlib.suppress(KeyError):  # a user without an entry, in a container
        # Not $HOME, which cron, sudo and service managers set differently.
        found.append(Path(pwd.getpwuid(user).pw_dir) / ".cache" / "layergate")
    found.append(Path("/dev/shm") / f"layergate-{user}")  # noqa: S108 - checked before it is used
    found.append(Path(tempfile.gettempdir()) / f"layergate-{user}")
    return list(dict.fromkeys(found))


def place_for(namespace: str) -> tuple[Path | None, list[str]]:
    """The folder of a namespace: one that is there already, or else the first that can be made. None if
    there is no such place. And why each place before it cannot be used. Changes nothing."""
    existing = found(namespace)
    if existing is not None:
        return existing, []
    reasons = []
    for place in places():
        path = place / namespace
        try:
            if not place.parent.parent.is_dir():  # of a user without a home, say
                raise ConfigError(f"{place.parent.parent} does not exist")
            check(path)
            if _free(place) < LEAST:
                raise ConfigError(f"{place} has less than {LEAST >> 20} MB free")
        except (ConfigError, OSError) as error:
            reasons.append(str(error))
        else:
            return path, reasons
    return None, reasons


def found(namespace: str) -> Path | None:
    """The folder of a namespace that is there and may be used; None if there is none."""
    for place in places():
        path = place / namespace
        try:
            if path.is_dir():
                check(path)
                return path
        except (ConfigError, OSError):
            continue
    return None


# -- room ----------------------------------------------------------------------------------------------


def room(path: Path) -> int:
    """Bytes that the entries in a folder may take: an eighth of what is free there (with what they take
    already), and of the memory that the control group of this process may use. A file in memory, or in
    the page cache, counts to the group."""
    own = 0
    for file in ("entries", "large"):
        try:
            own += (path / file).stat().st_blocks * 512
        except OSError:
            continue
    limits = [_free(path) + own]
    group = _group_limit()
    if group is not None:
        limits.append(group)
    return min(limits) // _SHARE


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def _group_limit(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """Bytes of memory that the control group of this process may use; None: no limit, or not known."""
    limits = []
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, name = rest.partition(":")
        if number == "0" and not controllers:
            top, file = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, file = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        # The limit of a group above counts as well. Inside a container, the name may lead nowhere.
        folder = top / name.lstrip("/")
        for each in (folder, *folder.parents):
            try:
                text = (each / file).read_text().strip()
            except OSError:
                text = ""
            if text.isdecimal() and int(text) < 1 << 60:
                limits.append(int(text))
            if each == top:
                break
    return min(limits, default=None)


# -- private folders -----------------------------------------------------------------------------------


class PrivateFolder:
    """A new folder for the processes of one gateway. Removes those that others have left behind.

    Raises ConfigError if there is no place for one.
    """

    def __init__(self) -> None:
        self.path: Final = _private_path()
        self._lock: Final[ByteLocks] = locks_of(self.path / _OWNER)
        self._lock.take(0)

    def remove(self) -> None:
        """Remove the folder, as far as that is possible. Idempotent."""
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)


def _private_path() -> Path:
    reasons = []
    for parent in (Path("/dev/shm"), Path(tempfile.gettempdir())):  # noqa: S108 - see mkdtemp
        try:
            _check_local(parent)
            if _free(parent) < LEAST:
                raise ConfigError(f"{parent} has less than {LEAST >> 20} MB free")
            _sweep(parent)
            return Path(tempfile.mkdtemp(prefix=_PRIVATE, dir=parent))
        except (ConfigError, OSError) as error:
            reasons.append(str(error))
    raise ConfigError(
        "workers need a folder that they share, but there is no place for one"
        f" ({'; '.join(reasons)}); give one with --shared host:/path, or start one worker"
    )


def _sweep(parent: Path) -> None:
    for folder in parent.glob(f"{_PRIVATE}*"):
        try:
            status = folder.lstat()
            old = time.time() - status.st_mtime > _ORPHAN_AGE
            if old and status.st_uid == os.geteuid() and stat.S_ISDIR(status.st_mode):
                if not _in_use(folder):
                    shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue


def _in_use(folder: Path) -> bool:
    owner, members = locks_of(folder / _OWNER), Members(folder)
    try:
        return owner.taken(0) or bool(members.others())
    finally:
        owner.close()
        members.leave()


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
