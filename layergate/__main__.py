"""``python -m layergate``: the command line."""

from __future__ import annotations

import sys

from layergate.cli import main

if __name__ == "__main__":
    sys.exit(main())
