"""``layergate serve`` runs the gateway; ``layergate check`` validates its configuration."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Final

from layergate.cli import system
from layergate.cli.client import UsageError
from layergate.cli.effective import as_data, as_toml
from layergate.cli.text import printable
from layergate.errors import SettingsError
from layergate.gateway.catalogue import SETTINGS, Kind, Setting
from layergate.gateway.options import GatewayOptions
from layergate.gateway.settings import CONFIG_VARIABLE, Settings, load

__all__ = ["add"]

_EPILOG: Final = """\
Each option can also be set in the file (--max-head is max_head) and in the environment
(LAYERGATE_MAX_HEAD). A flag overrides the environment, which overrides the file. Tokens and secrets
have no flags, because every process can read a command line: set them in the file, the environment,
or a file of their own. Sizes are 256MB or bytes, times are seconds. An empty value means none.
"""
_METAVARS: Final = {
    Kind.COUNT: "N", Kind.FILE: "FILE", Kind.LIST: "LIST", Kind.NUMBER: "X", Kind.SECONDS: "SECONDS",
    Kind.SHARE: "X", Kind.SIZE: "SIZE", Kind.TABLES: "TOML", Kind.TEXT: "TEXT",
}  # fmt: skip
_URLS: Final = frozenset({"shared", "upstream"})


def add(commands: Any) -> None:
    """Add the subcommands."""
    serve: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="the gateway: an HTTP cache in front of any application",
        usage="%(prog)s [-h] [-c FILE] [option ...]",
        description="An HTTP cache in front of one or several upstreams.",
        epilog=f"{_EPILOG}\nSignals: TERM and INT stop the gateway once the requests under way have ended, HUP"
        " reloads the\nconfiguration.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_settings(serve)
    serve.set_defaults(run=run_serve)

    check: argparse.ArgumentParser = commands.add_parser(
        "check",
        help="validate the gateway's configuration, or try out a shared system",
        usage="%(prog)s [-h] [--json] [-c FILE] [option ...]\n       %(prog)s [-h] [--json] URL",
        description="Validate the configuration that `layergate serve` would use in the same place, and"
        " show the effective values: every option, its value, and the origin of the value. With a URL:"
        " say what the shared system there lacks and promises, and how long an entry and a purge take.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    check.add_argument("url", metavar="URL", nargs="?", help="of a shared system, as in shared=URL")
    check.add_argument("--json", action="store_true", help="as JSON, for tools")
    _add_settings(check)
    check.set_defaults(run=run_check)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-c", "--config", metavar="FILE", help=f"a TOML file (default: ${CONFIG_VARIABLE}, or none)"
    )
    groups: dict[str, Any] = {}
    for setting in SETTINGS.values():
        if setting.flag is None:
            continue
        if setting.group not in groups:
            groups[setting.group] = parser.add_argument_group(setting.group)
        _add_setting(groups[setting.group], setting)


def _add_setting(group: Any, setting: Setting) -> None:
    default = setting.default
    shown = ""
    if isinstance(default, bool):
        shown = f" (default: {'yes' if default else 'no'})"
    elif isinstance(default, tuple):
        shown = f" (default: {','.join(default)})" if default else ""
    elif default is not None:
        shown = (
            f" (default: {default:g})" if isinstance(default, float) else f" (default: {default})"
        )
    # SUPPRESS: an option that is not given is absent, so the environment and the file decide.
    told: dict[str, Any] = {
        "dest": setting.name,
        "default": argparse.SUPPRESS,
        "help": (setting.help + shown).replace("%", "%%"),
    }
    if setting.kind is Kind.SWITCH:
        group.add_argument(setting.flag, action=argparse.BooleanOptionalAction, **told)
        return
    metavar = "URL" if setting.name in _URLS else _METAVARS[setting.kind]
    if setting.kind is Kind.LIST:
        told["action"] = "append"
        told["help"] += "; separated by commas, or repeated"
    group.add_argument(setting.flag, metavar=metavar, **told)


def _load(arguments: argparse.Namespace) -> Settings:
    """Raises SettingsError."""
    given: Mapping[str, Any] = vars(arguments)
    flags = {name: given[name] for name in SETTINGS if name in given}
    return load(arguments.config, os.environ, flags)


def run_serve(arguments: argparse.Namespace) -> int:
    """Raises UsageError."""
    try:
        settings = _load(arguments)
    except SettingsError as error:
        # The same status as for a wrong command line: a restart does not help.
        _complain(error)
        return 2
    _warn(settings)
    if find_spec("httptools") is None:
        raise UsageError(
            "serve needs httptools, which is not installed; run: pip install 'layergate[gateway]'"
        )
    from layergate.gateway.run import run

    def reloaded() -> GatewayOptions:
        """Raises SettingsError."""
        again = _load(arguments)
        _warn(again)
        return again.options

    return run(settings.options, reloaded)


def run_check(arguments: argparse.Namespace) -> int:
    """The exit status: 0, or 1 for an invalid configuration, or a system that cannot be used. Raises
    UsageError."""
    if arguments.url is not None:
        return system.run_check(arguments.url, as_json=arguments.json)
    try:
        settings = _load(arguments)
    except SettingsError as error:
        if arguments.json:
            problems = [{"where": where, "problem": what} for where, what in error.problems]
            told = {"valid": False, "warnings": error.warnings, "problems": problems}
            print(json.dumps(told, indent=2))
        else:
            _complain(error)
        return 1
    if arguments.json:
        told = {"valid": True, "warnings": settings.warnings, **as_data(settings)}
        print(json.dumps(told, indent=2))
    else:
        _warn(settings)
        print(as_toml(settings))
    return 0


def _complain(error: SettingsError) -> None:
    _warn(error)
    for where, what in error.problems:
        print(printable(f"{where}: {what}" if where else f"layergate: {what}"), file=sys.stderr)


def _warn(found: Settings | SettingsError) -> None:
    for warning in found.warnings:
        print(printable(f"layergate: {warning}"), file=sys.stderr)
