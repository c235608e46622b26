"""The cells of the ledger that any release has written stay readable, byte for byte (G10).

A file that was committed is never written again: it is what an instance of an older release left in a
store that others share. `python -m tests.snapshots.test_ledger` writes those that are missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layergate.shared.journal import Addition, Founding
from layergate.shared.ledger.head import (
    Acknowledgement,
    Head,
    Mode,
    Page,
    extended,
    founded,
    joined,
    paged,
    settled,
    suspected,
)
from layergate.shared.ledger.leasing import Shelf
from layergate.shared.ledger.wire import VERSION, LaterVersion

FOLDER = Path(__file__).parent
LOG = bytes(range(16))


def head(mode: Mode) -> Head:
    made = founded(
        Founding(LOG, b"s" * 16, b""), term=5.0, mode=mode, settle=7.5, epoch=b"epoch \xff"
    )
    made = extended(made, [Addition(b"%08d" % n, b"", b"record %d" % n) for n in range(5)])
    if mode is Mode.MEMBERS:
        for name in (b"0123456789abcdef", b"fedcba9876543210"):
            after = joined(made, name)
            assert after is not None
            made = after
        made = suspected(made, {b"fedcba9876543210"}, lambda: b"a mark..")
    return made


SAMPLES: dict[str, Any] = {
    "head": head(Mode.MEMBERS),
    "head-plain": head(Mode.PLAIN),
    "head-settled": settled(paged(head(Mode.MEMBERS), 12, 2)),
    "page": Page(LOG, 12, head(Mode.PLAIN).chain),
    "acknowledgement": Acknowledgement(
        b"0123456789abcdef", LOG, 5, head(Mode.PLAIN).chain.last_tip
    ),
    "leases": Shelf(7)
    .granted(b"a" * 16, b"\xffa token and its note", 10.0)
    .renewed(b"a" * 16, 10.0)
    .traced(b"b" * 16, b"\xffanother", 2.5, free=True)
    .traced(b"c" * 16, b"\xffone more", 2.5, free=False),
}
FILES = sorted(FOLDER.glob("ledger-v*/*.bin"))


def test_every_sample_has_its_file() -> None:
    assert {path.stem for path in FOLDER.glob(f"ledger-v{VERSION}/*.bin")} == set(SAMPLES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_snapshot_is_read(path: Path) -> None:
    sample = SAMPLES[path.stem]
    assert type(sample).decode(path.read_bytes()) == sample


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_written_today_is_what_was_written_then(name: str) -> None:
    assert SAMPLES[name].encode() == (FOLDER / f"ledger-v{VERSION}" / f"{name}.bin").read_bytes()


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_version_to_come_is_left_alone(path: Path) -> None:
    data = path.read_bytes()
    with pytest.raises(LaterVersion):
        type(SAMPLES[path.stem]).decode(data[:3] + bytes([VERSION + 1]) + data[4:])


def main() -> None:
    folder = FOLDER / f"ledger-v{VERSION}"
    folder.mkdir(exist_ok=True)
    for name, sample in SAMPLES.items():
        path = folder / f"{name}.bin"
        if not path.exists():
            path.write_bytes(sample.encode())


if __name__ == "__main__":
    main()
