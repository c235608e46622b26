"""HTTP-dates for header fields of tests."""

from __future__ import annotations

from email.utils import formatdate


def http_date(seconds: float) -> bytes:
    """``seconds`` since the epoch as an IMF-fixdate (RFC 9110 5.6.7)."""
    return formatdate(seconds, usegmt=True).encode()
