"""The command ``layergate``. Each subcommand is a module with ``add``, which gives `argparse` its
options and the function that runs it.

Exit codes: 0; 1, something could not be reached, or was refused, or is no valid configuration; 2, the
command line is wrong, or what `serve` is told; 3, a purge was applied, and is not confirmed by every
instance yet.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from layergate import __version__
from layergate.cli import admin, completion, explain, serve, system
from layergate.cli.client import Unreachable, UsageError
from layergate.cli.text import printable

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. ``argv``: its arguments; None: those of the process. Returns the exit status.

    Raises SystemExit as argparse does: with 2 for a wrong command line, 0 for ``--help``.
    """
    arguments = _parser().parse_args(argv)
    # Characters that a terminal or a pipe can't show must not make the command fail.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except UsageError as error:
        _complain(error)
        return 2
    except Unreachable as error:
        _complain(error)
        return 1
    except BrokenPipeError:
        # The reader has closed the pipe (``| head``). Nothing may be written at exit, either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="layergate",
        description="An HTTP response cache: run it as a gateway, and look into it from outside.",
        epilog="exit codes: 0; 1 not reachable, refused or not valid; 2 usage; 3 a purge is not"
        " confirmed yet",
    )
    parser.add_argument("--version", action="version", version=f"layergate {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="command", required=True)
    for module in (serve, system, explain, admin):
        module.add(commands)
    completion.add(commands, parser)
    return parser


def _complain(error: Exception) -> None:
    # The message may quote a server.
    print(f"layergate: {printable(str(error).strip())}", file=sys.stderr)
