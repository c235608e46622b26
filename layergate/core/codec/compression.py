"""zstd, with a bound on the memory that a frame can claim."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, Final

from layergate.errors import WireError

__all__ = ["Zstd"]

_LARGEST_WINDOW: Final = 27  # log2 of bytes: what zstd accepts by default


class Zstd:
    """Compression for payloads of at most ``max_size`` bytes.

    ``compress``: bytes -> one frame; None if zstd is not installed.
    """

    __slots__ = ("_decompressor", "_max_size", "compress")

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self.compress: Callable[[bytes], bytes] | None = None
        self._decompressor: Callable[[], Any] | None = None
        for name in ("compression.zstd", "backports.zstd"):  # the former since Python 3.14
            try:
                zstd = import_module(name)
            except ImportError:
                continue
            # A frame says how much memory it wants for its window: at most as much as `max_size`.
            window = min(max((max_size - 1).bit_length(), 10), _LARGEST_WINDOW)
            options = {zstd.DecompressionParameter.window_log_max: window}
            self.compress = zstd.compress
            self._decompressor = partial(zstd.ZstdDecompressor, options=options)
            break

    def decompress(self, frame: Any) -> bytes:
        """At most ``max_size`` bytes, whatever size the frame declares.

        Raises WireError, and whatever zstd raises for a malformed frame.
        """
        if self._decompressor is None:
            raise WireError(
                "the data is compressed, and zstd is not installed: pip install 'layergate[zstd]'"
            )
        decompressor = self._decompressor()
        payload: bytes = decompressor.decompress(frame, self._max_size + 1)
        if len(payload) > self._max_size:
            raise WireError("the data is larger than max_size when decompressed")
        if not decompressor.eof or decompressor.unused_data:
            raise WireError("the data is not exactly one zstd frame")
        return payload
