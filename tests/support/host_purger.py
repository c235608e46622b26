"""A management command that goes on: ``python -m tests.support.host_purger FOLDER``.

Each line of its input is a JSON list of tags. It purges them through the folder, as a program of its own
does that no request ever reaches, and prints a line: ``final``, or why nothing was purged.
"""

from __future__ import annotations

import json
import sys

from layergate.errors import ConfigError
from layergate.host import purge


def main() -> None:
    folder = sys.argv[1]
    for line in sys.stdin:
        try:
            purge(folder, tags=json.loads(line))
        except (ConfigError, OSError) as error:
            answer = str(error)
        else:
            answer = "final"
        print(answer, flush=True)  # noqa: T201 - what it is asked for


if __name__ == "__main__":
    main()
