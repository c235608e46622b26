from __future__ import annotations

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layergate.errors import ConfigError
from layergate.sizes import parse_size

K = 1024


@pytest.mark.parametrize(
    ("written", "size"),
    [
        (1, 1),
        (4096, 4096),
        ("4096", 4096),
        ("4096B", 4096),
        ("4096 b", 4096),
        ("64kb", 64 * K),
        ("64K", 64 * K),
        ("64 KiB", 64 * K),
        ("256MB", 256 * K**2),
        ("256m", 256 * K**2),
        ("256MiB", 256 * K**2),
        ("  2 GB  ", 2 * K**3),
        ("2gib", 2 * K**3),
        ("1.5 GiB", 3 * K**3 // 2),
        ("0.5KB", 512),
        ("1T", K**4),
        ("1.0009KB", 1024),
        (sys.maxsize, sys.maxsize),
    ],
)
def test_sizes_as_people_write_them(written: int | str, size: int) -> None:
    assert parse_size(written, option="memory") == size


@pytest.mark.parametrize(
    "wrong",
    [
        "12XB",
        "",
        " ",
        "MB",
        "ib",
        "12 iB",
        "-1MB",
        "+1MB",
        "1e6",
        "nan",
        "inf",
        "infinity",
        "1_000",
        "1,5GB",
        "1.GB",
        ".5GB",
        "1 M B",
        "256MBs",
        "256MB\x00",
        "0x10",
        "\N{ARABIC-INDIC DIGIT FIVE}MB",
        "5\N{KELVIN SIGN}B",
        pytest.param("9" * 5000, id="long"),
        True,
        False,
        1.0,
        64e6,
        float("nan"),
        None,
        b"64MB",
        [64],
    ],
)
def test_what_is_no_size_is_refused_with_option_value_and_remedy(wrong: object) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_size(wrong, option="memory")  # type: ignore[arg-type]
    message = str(caught.value)
    assert message.startswith("memory must be a size such as '256MB' or a number of bytes, got ")
    assert repr(wrong)[:70] in message
    assert len(message) < 200


def test_the_message_in_full() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_size("12XB", option="memory")
    assert (
        str(caught.value)
        == "memory must be a size such as '256MB' or a number of bytes, got '12XB'"
    )


@pytest.mark.parametrize("small", [0, -1, -(10**30), "0", "0MB", "0.5B", "0.0001kb"])
def test_less_than_a_byte_is_refused(small: int | str) -> None:
    with pytest.raises(ConfigError, match=r"^memory must be at least 1 byte, got .*'256MB'"):
        parse_size(small, option="memory")


@pytest.mark.parametrize(
    "big", [sys.maxsize + 1, pytest.param(10**5000, id="huge"), "99999999999TB", "9" * 20]
)
def test_more_than_can_be_addressed_is_refused(big: int | str) -> None:
    with pytest.raises(ConfigError, match=r"^memory is more than this machine can address"):
        parse_size(big, option="memory")


@given(st.integers(1, sys.maxsize))
def test_a_number_of_bytes_means_itself(size: int) -> None:
    assert parse_size(size, option="x") == parse_size(str(size), option="x") == size


@given(st.text(max_size=12))
def test_any_string_is_a_size_or_a_config_error(text: str) -> None:
    try:
        assert parse_size(text, option="x") >= 1
    except ConfigError as error:
        assert "x " in str(error)
