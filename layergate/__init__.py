"""LayerGate: an HTTP response cache for Python web applications.

    app.add_middleware(LayerGate)

See the README for the options, `docs/architecture.md` for how it works.
"""

from typing import TYPE_CHECKING, Any

from layergate.asgi import LayerGate
from layergate.assembly import CacheStack, HttpCache
from layergate.config import Admin, Rule
from layergate.core.invalidation import PurgeReceipt
from layergate.errors import (
    ConfigError,
    FetchAborted,
    FetchRecursion,
    FetchTimeout,
    GateRecursion,
    KeyRefused,
    LayerError,
    LayerGateError,
    OriginAborted,
    OriginUnreachable,
    PartialWriteError,
    PurgeRefused,
)
from layergate.layers.memory import MemoryLayer
from layergate.routes import cached

if TYPE_CHECKING:
    from layergate.shared.combined import Shared

__version__ = "0.1.0"

__all__ = [
    "Admin",
    "CacheStack",
    "ConfigError",
    "FetchAborted",
    "FetchRecursion",
    "FetchTimeout",
    "GateRecursion",
    "HttpCache",
    "KeyRefused",
    "LayerError",
    "LayerGate",
    "LayerGateError",
    "MemoryLayer",
    "OriginAborted",
    "OriginUnreachable",
    "PartialWriteError",
    "PurgeReceipt",
    "PurgeRefused",
    "Rule",
    "Shared",
    "__version__",
    "cached",
]


def __getattr__(name: str) -> Any:
    """`Shared` is imported when it is used, because most apps share with one system or none."""
    if name == "Shared":
        from layergate.shared.combined import Shared

        return Shared
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
