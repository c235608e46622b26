"""Where a host's folder is, and who may use it (`layergate.layers.host.folder`)."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from layergate.errors import ConfigError
from layergate.layers.host import folder as module
from layergate.layers.host.folder import check, made, place_for, places, room


def test_a_folder_is_made_for_its_user(tmp_path: Path) -> None:
    made(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700
    made(tmp_path / "a" / "b")


def test_what_is_not_a_folder_of_ours(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path)
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o770)
    (tmp_path / "everybody").mkdir()
    (tmp_path / "everybody" / "mine").mkdir(mode=0o700)
    (tmp_path / "everybody").chmod(0o777)
    for name, said in {
        "file": "no folder",
        "link": "symbolic link",
        "open": "chmod 700",
        "everybody/mine": "everybody",
        "everybody/new": "everybody",
        "file/below": "looked at",
    }.items():
        with pytest.raises(ConfigError, match=said):
            check(tmp_path / name)
    with pytest.raises(ConfigError, match="absolute"):
        check(Path("relative"))


def test_a_folder_in_a_sticky_place(tmp_path: Path) -> None:
    tmp_path.chmod(0o1777)
    made(tmp_path / "mine")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user(tmp_path: Path) -> None:
    os.chown(tmp_path, 1, -1)
    with pytest.raises(ConfigError, match=r"belongs to .*runs as root.*sudo -u"):
        check(tmp_path)


@pytest.mark.parametrize("kind", [0x6969, 0xFF534D42, 0x65735546, 0x01021997])
def test_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: int) -> None:
    class Library:
        def __init__(self, *_: object, **__: object) -> None: ...

        def statfs(self, path: bytes, buffer: object) -> int:
            buffer[:8] = kind.to_bytes(8, "little")  # type: ignore[index]
            return 0

    monkeypatch.setattr(ctypes, "CDLL", Library)
    with pytest.raises(ConfigError, match=r"network file system.*/dev/shm"):
        check(tmp_path)
    with pytest.raises(ConfigError, match="network file system"):
        check(tmp_path / "new")


def test_a_local_file_system_is_told_from_them(tmp_path: Path) -> None:
    assert module._network(tmp_path) is None
    assert module._network(Path("/proc")) is None
    assert module._network(tmp_path / "missing") is None


def test_the_places_of_a_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = places()
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/nonexistent")  # as cron and sudo may have it
    assert first == [tmp_path / "layergate", *places()]
    assert Path(f"/dev/shm/layergate-{os.geteuid()}") in places()


def test_the_first_place_that_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "small").mkdir()
    free = {tmp_path / "small" / "x": 1000}
    real = module._free
    monkeypatch.setattr(module, "_free", lambda path: free.get(path) or real(path))
    here = [tmp_path / "file" / "x", tmp_path / "no" / "such" / "x", tmp_path / "small" / "x"]
    monkeypatch.setattr(module, "places", lambda: here)
    path, reasons = place_for("shop")
    assert path is None
    assert len(reasons) == 3
    assert "less than 16 MB" in reasons[2]
    here.append(tmp_path / "good")
    assert place_for("shop")[0] == tmp_path / "good" / "shop"
    made(tmp_path / "small" / "x" / "shop")  # one that is there already is the one to use
    assert place_for("shop") == (tmp_path / "small" / "x" / "shop", [])


def test_an_eighth_of_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_group_limit", lambda: None)
    monkeypatch.setattr(module, "_free", lambda _: 800_000)
    assert room(tmp_path) == 100_000
    (tmp_path / "entries").write_bytes(bytes(80_000))  # what it takes already is free for it
    assert room(tmp_path) > 105_000
    monkeypatch.setattr(module, "_group_limit", lambda: 40_000)
    assert room(tmp_path) == 5000


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "1000", "memory.max": "max"}, 1000),
        ("0::/a\n", {"a/memory.max": "500", "memory.max": "200"}, 200),
        ("0::/../other\n", {"memory.max": "700"}, 700),
        ("4:cpu:/x\n7:cpu,memory:/d\n", {"memory/d/memory.limit_in_bytes": "900"}, 900),
        ("7:memory:/d\n", {"memory/d/memory.limit_in_bytes": str(2**63 - 4096)}, None),
        ("", {}, None),
    ],
)
def test_the_limit_of_the_control_group(
    tmp_path: Path, own: str, files: dict[str, str], limit: int | None
) -> None:
    root = tmp_path / "cgroup"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text + "\n")
    (tmp_path / "own").write_text(own)
    assert module._group_limit(root, tmp_path / "own") == limit
    assert module._group_limit(root, tmp_path / "missing") is None
