"""``layergate completion``: a script that completes this command line, for bash, zsh or fish."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any, Final

from layergate.cli.client import UsageError

__all__ = ["add"]

_SHELLS: Final = ("bash", "zsh", "fish")
_DESCRIPTION: Final = """\
Write a script that completes layergate's commands and options.

  bash   layergate completion bash >~/.local/share/bash-completion/completions/layergate
  zsh    layergate completion zsh >"${fpath[1]}/_layergate"
  fish   layergate completion fish >~/.config/fish/completions/layergate.fish
"""


def add(commands: Any, whole: argparse.ArgumentParser) -> None:
    """Add the subcommand. ``whole``: the parser of the whole command."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "completion",
        help="completion for a shell",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("shell", choices=_SHELLS)
    parser.set_defaults(run=lambda arguments: _run(arguments.shell, whole))


def _run(shell: str, whole: argparse.ArgumentParser) -> int:
    """Raises UsageError."""
    try:
        import shtab
    except ImportError:
        raise UsageError(
            "completion needs shtab, which is not installed; run: pip install 'layergate[gateway]'"
        ) from None
    for action in _actions(whole):
        if action.metavar == "FILE":
            action.complete = shtab.FILE  # type: ignore[attr-defined] # shtab looks there
    print(shtab.complete(whole, shell=shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _actions(inner)
