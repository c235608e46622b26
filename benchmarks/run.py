"""`make bench`: run the benchmarks one after another, each in its own process.

python benchmarks/run.py [hit_path] [wsgi_hit_path] [entries] [through_uvicorn] [eviction] [fleet] [host]
    [host_entries] [systems] [telemetry]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
BENCHMARKS = (
    "hit_path", "wsgi_hit_path", "entries", "through_uvicorn", "eviction", "fleet", "host", "host_entries",
    "systems", "telemetry",
)  # fmt: skip


def main() -> int:
    wanted = sys.argv[1:] or BENCHMARKS
    unknown = set(wanted) - set(BENCHMARKS)
    if unknown:
        print(
            f"unknown benchmark: {', '.join(sorted(unknown))}; choose from {', '.join(BENCHMARKS)}"
        )
        return 2
    failed = []
    for name in wanted:
        print(f"\n=== {name} ===", flush=True)
        try:
            if subprocess.run([sys.executable, HERE / f"{name}.py"], check=False).returncode:
                failed.append(name)
        except KeyboardInterrupt:
            return 130
    if failed:
        print(f"\nfailed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
