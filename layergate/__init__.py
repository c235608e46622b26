"""LayerGate: an HTTP response cache for Python web applications.

    app.add_middleware(LayerGate)

See the README for the options, `docs/architecture.md` for how it works.
"""

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
    "__version__",
    "cached",
]
