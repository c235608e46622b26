"""Sizes as people write them: ``"256MB"``, ``"1.5 GiB"``, ``"64kb"``, or a plain number of bytes.

KB and KiB, MB and MiB, GB and GiB, TB and TiB mean the same: powers of 1024. These sizes are memory
budgets, and the tools that run next to this library in production (nginx's ``10m``, Varnish's
``malloc,256m``, Redis's ``maxmemory 256mb``) count this way. A budget that meant 7 % less than its
neighbor's would be a trap, and a cache of exactly 10**6 bytes has no use.
"""

from __future__ import annotations

import re
import sys
from decimal import Decimal

from layergate.errors import ConfigError

__all__ = ["parse_size"]

# The counts of digits are bounded so that a hostile string costs nothing to refuse.
_SIZE = re.compile(
    r"\s*(?P<number>[0-9]{1,20}(?:\.[0-9]{1,20})?)\s*(?:(?P<unit>[kmgt])i?)?b?\s*",
    re.IGNORECASE | re.ASCII,
)
_FACTORS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}


def parse_size(value: int | str, *, option: str) -> int:
    """The size in bytes, at least 1. Fractions of a byte are dropped.

    ``value``   a number of bytes (an int), or a string: a decimal number, then optionally a unit
                ``B``, ``K``/``KB``/``KiB``, ``M...``, ``G...`` or ``T...`` in any case, with or
                without a space. Every unit is a power of 1024.
    ``option``  the name of the setting in error messages.

    Raises `ConfigError` for anything else: another type (including bool and float), a malformed
    string, a size below one byte, or a size beyond what this platform can address.
    """
    size = _read(value)
    if size is None:
        raise ConfigError(
            f"{option} must be a size such as '256MB' or a number of bytes, got {_shown(value)}"
        )
    if size < 1:
        raise ConfigError(
            f"{option} must be at least 1 byte, got {_shown(value)};"
            f" give a size such as '256MB' or a number of bytes"
        )
    if size > sys.maxsize:
        raise ConfigError(
            f"{option} is more than this machine can address, got {_shown(value)};"
            f" give a size such as '256MB' or a number of bytes"
        )
    return size


def _read(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return None
    return int(Decimal(match["number"]) * _FACTORS[(match["unit"] or "").lower()])


def _shown(value: object) -> str:
    """``repr`` cut to a length that fits a log line."""
    if isinstance(value, int) and value.bit_length() > 256:
        return "an int of more than 256 bits"  # repr() itself refuses beyond 4300 digits
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
