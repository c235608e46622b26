"""The layer that the processes of one host share: a folder, no server.

`HostLayer` is what users construct. A log of purges (`journal`, `log`), leases (`leases`), and entries
(`entries`) lie in files of the folder. `folder` says where the folder is and who may use it.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":  # before the imports below fail for want of fcntl
    from layergate.errors import ConfigError

    raise ConfigError(
        "shared='host' needs file locks that Windows does not have; run one process there, or use"
        " shared='redis://...'"
    )

from layergate.layers.host.layer import HostLayer, from_url

__all__ = ["HostLayer", "from_url"]
