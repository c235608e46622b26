"""What any release has written stays readable (or is a miss), byte for byte (G10)."""

from __future__ import annotations

from pathlib import Path

import pytest

from layergate.core.codec import VERSION, Codec
from layergate.errors import WireError
from layergate.http.wire import VALUES
from tests.snapshots.same import assert_same_entry
from tests.snapshots.samples import (
    FOLDER,
    KEY,
    LOG,
    POSITION,
    SAMPLES,
    TIME,
    entry,
    main,
    written,
)

FILES = sorted(FOLDER.glob("v*/*.bin"))


def test_every_sample_has_its_file() -> None:
    assert {path.stem for path in FOLDER.glob(f"v{VERSION}/*.bin")} == set(SAMPLES)


def test_the_writer_writes_no_file_twice() -> None:
    before = {path: path.stat().st_mtime_ns for path in FILES}
    main()
    assert {path: path.stat().st_mtime_ns for path in FILES} == before


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_snapshot_is_read(path: Path) -> None:
    sample = SAMPLES[path.stem]
    codec = Codec(VALUES, **sample.codec)
    data = path.read_bytes()
    if sample.record:
        assert codec.decode_record(LOG, data) == (sample.value, TIME)
    else:
        decoded = codec.decode(KEY, data)
        assert_same_entry(decoded.entry, entry(sample.value))
        assert decoded[1:] == (POSITION, LOG)


@pytest.mark.parametrize("name", [name for name in SAMPLES if "sets" not in name])
def test_what_is_written_today_is_what_was_written_then(name: str) -> None:
    """But for the order of sets, and for zstd, whose releases compress differently."""
    data = (FOLDER / f"v{VERSION}" / f"{name}.bin").read_bytes()
    if "compressed" in name:
        assert data[:2] == written(SAMPLES[name])[:2]
    elif name != "plain-signed":  # it has sets
        assert data == written(SAMPLES[name])


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_version_to_come_is_a_miss(path: Path) -> None:
    sample = SAMPLES[path.stem]
    codec = Codec(VALUES, **sample.codec)
    data = bytes([VERSION + 1]) + path.read_bytes()[1:]
    decode, name = (codec.decode_record, LOG) if sample.record else (codec.decode, KEY)
    with pytest.raises(WireError, match=f"version {VERSION + 1} is not known"):
        decode(name, data)
