"""What only the garbage collector can free.

A request refers to a whole body. If it is part of a circle of references when it is over, that body
stays until the collector comes, which for what has once survived it is minutes later.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["none_of_ours"]


@contextmanager
def none_of_ours() -> Iterator[None]:
    """Without a garbage collector. At the end there must be no object of LayerGate's that it would
    have been needed for; whatever went on inside must be over by then, and have begun in there."""
    gc.collect()
    # What there is already need not be looked at again, nor by the next test: it stays frozen, since to
    # collect all that pytest holds takes longer than most of these tests.
    gc.freeze()
    gc.disable()
    flags = gc.get_debug()
    before = logging.root.manager.disable
    logging.disable()  # pytest keeps what is logged, errors included
    try:
        yield
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = sorted({_name(one) for one in gc.garbage})
        ours = [name for name in found if name.startswith("layergate.")]
        assert not ours, f"in circles: {ours}, with {found}"
    finally:
        gc.set_debug(flags)
        logging.disable(before)
        gc.garbage.clear()
        gc.enable()


def _name(one: object) -> str:
    if hasattr(one, "cr_code"):  # a coroutine is known by its code, a function by its module
        return f"coroutine {one.cr_code.co_qualname}"
    if isinstance(one, type):
        return f"class {one.__qualname__}"
    module = getattr(one, "__module__", None) if callable(one) else None
    kind = type(one)
    if isinstance(module, str) and hasattr(one, "__qualname__"):
        return f"{module}.{one.__qualname__}"
    return f"{kind.__module__}.{kind.__qualname__}"
