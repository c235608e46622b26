"""Soak the folder of a host: `make soak-host MINUTES=10`, or tools/soak_host.py --minutes 10.

uvicorn with four workers, two gunicorns (sync, and gthread with --preload in a PID namespace of its own), a
gateway with two workers, and commands share one folder (`tests/support/host_history.py`). Readers compare
every answer with the purges that were final when they asked. Meanwhile workers are killed or stopped,
servers are restarted, and the folder is deleted or renamed.

Prints a line every ten seconds, then what was counted. Ends with status 1 if an answer was too old, if one
was no 200, or if nothing was tested. With ``--broken`` the apps never look whether the log has grown (or have another
bug, see `MANY`): then it ends with status 1 unless many answers were too old.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.support.host_history import ALL, History, rows, unshare_command  # noqa: E402
from tests.support.host_truth import COUNTS  # noqa: E402

SHOWN: Final = 10.0  # seconds between two lines
MANY: Final = {"compares_nothing": 1000, "notices_no_replacement": 1000, "waits_for_nobody": 1}
"""The bugs that the apps can have, and how many answers have to be too old then."""


async def soak(
    scratch: Path, seconds: float, reads: int, readers: int, pause: float, broken: str, seed: int
) -> int:
    """The exit status."""
    history = History(scratch, ALL, readers=readers, planted=broken, seed=seed)
    if not unshare_command():
        print("PID namespaces are not permitted here: all servers run in this one")
    async with history.running():
        began = time.monotonic()
        print("    s", *(f"{name:>10}" for name in (*COUNTS, "purges", "final")), flush=True)
        while True:
            passed = time.monotonic() - began
            total = history.truth.total()
            purges = history.counts["purges"], history.counts["purges that were final"]
            print(f"{passed:5.0f}", *(f"{n:10}" for n in (*total.values(), *purges)), flush=True)
            if passed >= seconds and total["reads"] >= reads:
                break
            await history.faults(SHOWN, pause)
        await history.purge_all()
        stats = await history.stats()
    total = history.truth.total()
    for line in rows(history.counts):
        print(line)
    for name in ("invalidation", "layers"):
        print(f"{name} at the end: {stats[name]}")
    for line in history.told()[:40]:
        print(line)
    faults = [
        f"there were no {name}: nothing was tested"
        for name in ("reads", "hits", "collapsed")
        if not total[name]
    ]
    if total["errors"]:
        faults.append(f"{total['errors']} answers were no 200")
    if broken and total["violations"] < MANY[broken]:
        faults.append(f"only {total['violations']} of the answers were seen to be too old")
    if not broken and total["violations"]:
        faults.append(f"{total['violations']} answers were too old")
    for fault in faults:
        print("FAILED:", fault)
    print(", ".join(f"{count} {name}" for name, count in total.items()))
    return 1 if faults else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--reads", type=int, default=0, help="and at least so many reads")
    parser.add_argument("--readers", type=int, default=3, help="processes that read")
    parser.add_argument(
        "--pause", type=float, default=1.5, help="seconds between two faults, on average"
    )
    parser.add_argument(
        "--broken", nargs="?", const="compares_nothing", default="", choices=MANY,
        help="with a bug that has to be found",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="another order of faults")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="leave logs and all here")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        scratch = given.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        scratch.mkdir(exist_ok=True)
        work = soak(
            scratch, given.minutes * 60, given.reads, given.readers, given.pause,
            given.broken, given.seed,
        )  # fmt: skip
        code = asyncio.run(work)
    sys.exit(code)


if __name__ == "__main__":
    main()
