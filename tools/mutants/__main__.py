"""Mutation testing: `make mutants MINUTES=20 ARGS="--module http/rfc9111 --seed 1"`.

Changes one small thing in a module that carries the guarantees, runs the tests that enter the changed
function, and counts the changes that no test notices. Prints the score by module, and each survivor
as a block for ``equivalents.txt``, should it turn out to be no change at all. Without ``--module``
all modules get their share of the time. The first run measures the tests, which takes minutes more.

    --module core/flight.py:30     one line, to see whether a new test kills its mutants
    --count 40                     at most so many mutants of each module

Of the libraries, mutmut 3.8 (BSD, 2026) is the closest: it forks, and selects tests by function. But
it leaves out every decorated function (our properties), deletes no statement, knows neither a sample
by seed nor a bound in time, marks equivalents by comments in the code, and wraps every function in
one that a test of signatures or of speed notices. cosmic-ray 8.7 (MIT) starts a process for every
mutant with one command for all modules. mutatest 3.1 (MIT, 2022) samples, but ends at Python 3.8.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

if not hasattr(os, "fork"):
    sys.exit("mutants: needs a system that can fork")

from tools.mutants.campaign import Campaign
from tools.mutants.mutations import Mutant
from tools.mutants.suites import MODULES


def block(mutant: Mutant) -> str:
    function = mutant.function.replace(".<locals>", "") or "(top)"
    return f"@ {function}\n- {mutant.before}\n+ {mutant.after}"


def report(campaign: Campaign) -> None:
    print("\nmodule            mutants   tried  killed  survived  equivalent   score")
    for module, score in campaign.scores.items():
        share = "-" if score.share is None else f"{score.share:.1%}"
        print(
            f"{module:16} {score.mutants:8} {score.tried:7} {score.killed:7}"
            f" {len(score.survived):9} {score.equivalent:11} {share:>7}"
        )
    for module, score in campaign.scores.items():
        if score.survived:
            print(f"\n{module}: survivors")
        for mutant, tests in score.survived:
            print(f"\n{mutant.path}:{mutant.line} ({mutant.kind}, {tests} tests)\n{block(mutant)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make mutants", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--minutes", type=float, default=20.0, help="how long mutants are tried")
    parser.add_argument("--module", action="append", help="a folder or file below layergate/")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, help="mutants of each module, at most")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds of tests for a mutant")
    given = parser.parse_args()
    modules = given.module or list(MODULES)
    root = Path(__file__).resolve().parent.parent.parent
    campaign = Campaign(root, modules, given.seed, given.budget)
    try:
        campaign.prepare()
        campaign.end = time.monotonic() + given.minutes * 60
        for mutant, became in campaign.run(given.count):
            place = f"{mutant.path.removeprefix('layergate/')}:{mutant.line}"
            print(f"{place:36} {mutant.kind:17} {became}", flush=True)
    except KeyboardInterrupt:
        print("\ninterrupted")
    finally:
        campaign.close()
    report(campaign)


if __name__ == "__main__":
    main()
