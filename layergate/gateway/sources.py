"""What a file, the environment and a command line say, by the option's name, with the place of each value.

`settings` makes the options of it. A value is only checked here as far as it can't be read otherwise;
messages never show a secret.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeAlias

from layergate.errors import ConfigError, SettingsError
from layergate.gateway.catalogue import RIVALS, SETTINGS, Kind, Setting

__all__ = ["CONFIG_VARIABLE", "File", "Given", "Place", "Sources", "dotted", "resolved"]

CONFIG_VARIABLE: Final = "LAYERGATE_CONFIG"  # names the file

# Of a value in a file, from the root: names of tables, and positions in arrays.
Place: TypeAlias = tuple[str | int, ...]

# Variables with another meaning: see the command line's client and `telemetry.logs`.
_OTHER_VARIABLES: Final = frozenset({CONFIG_VARIABLE, "LAYERGATE_ADMIN", "LAYERGATE_DEBUG"})
# Kubernetes and Docker's links put these into the environment beside a service named "layergate".
_FOREIGN_VARIABLE: Final = re.compile(
    r"LAYERGATE_(?:.*_)?(?:PORT|SERVICE_HOST|SERVICE_PORT)(?:_.*)?"
)
_MOST: Final = 4 * 1024 * 1024  # bytes of a configuration file
_PLACE_IN_MESSAGE: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


class File(NamedTuple):
    """A configuration file. ``folder``: where paths in it start."""

    name: str
    folder: Path
    document: Mapping[str, Any]

    def order(self, place: Place) -> tuple[int, ...]:
        """Where in the file a place is, to sort by."""
        order: list[int] = []
        inner: Any = self.document
        for name in place:
            if isinstance(inner, Mapping) and name in inner:
                order.append(list(inner).index(name))
            elif isinstance(inner, list) and isinstance(name, int) and name < len(inner):
                order.append(name)
            else:
                break
            inner = inner[name]
        return tuple(order)


class Given(NamedTuple):
    """A value, its origin (``layergate.toml``, ``$LAYERGATE_MEMORY``, ``--memory``), and the file if it is
    from one."""

    value: Any
    origin: str
    file: File | None = None


class Sources:
    """Everything that is given, the nearest value of each option, and what is wrong with it.

    ``given``      values by the option's name.
    ``mentioned``  names of all options that were given, also of those that could not be read.
    ``warnings``   oddities that do no harm.
    """

    def __init__(self) -> None:
        self.given: dict[str, Given] = {}
        self.mentioned: set[str] = set()
        self.warnings: list[str] = []
        self._problems: list[tuple[str, tuple[int, ...], str]] = []

    def add(self, source: Mapping[str, Given]) -> None:
        """Add values that are nearer than all before: they displace those of the same option, and of an
        option that says the same in another way."""
        for name in source:
            rival = RIVALS.get(name)
            if rival is not None and rival not in source:
                self.given.pop(rival, None)
        self.given |= source

    # -- problems ------------------------------------------------------------------------------

    def problem(self, what: str, *place: str | int) -> None:
        """Something is wrong with the value at this place: an option's name first, then what is inside.
        No place: something is missing."""
        given = self.given.get(str(place[0])) if place else None
        if given is None:
            self.problem_at("", what)
        elif given.file is None:
            self.problem_at(given.origin, what)
        else:
            self.problem_at(given.origin, what, given.file.order(place))

    def problem_at(self, origin: str, what: str, order: tuple[int, ...] = ()) -> None:
        self._problems.append((origin, order, what))

    @property
    def count(self) -> int:
        """Problems so far."""
        return len(self._problems)

    @property
    def problems(self) -> list[tuple[str, str]]:
        """Pairs of an origin and a description, those of a file in its order."""
        return [
            (origin, what) for origin, _, what in sorted(self._problems, key=lambda one: one[:2])
        ]

    def unknown(
        self, name: str, known: Iterable[str], origin: str, order: tuple[int, ...], owner: str = ""
    ) -> None:
        """There is no option of this name, or no key in the table that is ``owner``."""
        near = difflib.get_close_matches(name, sorted(known), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        if name == "statuses" and owner.startswith("rules"):
            hint = "; write ttl = {200 = 60, 404 = 5}, seconds by status"
        if owner and name in SETTINGS:
            hint = "; as an option of the gateway it stands above the first [[…]]"
        told = f"{owner} has no {name!r}" if owner else f"there is no option {name!r}"
        self.problem_at(origin, told + hint, order)

    # -- sources -------------------------------------------------------------------------------

    def file(self, path: Path) -> dict[str, Given]:
        """The values of a TOML file. Raises SettingsError if it can't be read."""
        text = _text(path)
        try:
            document = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise _not_toml(path, text, error) from None
        except RecursionError:
            raise SettingsError([(str(path), "values are nested too deeply")]) from None
        except ValueError:  # an integer of thousands of digits, which tomllib doesn't expect
            raise SettingsError([(str(path), "a value is no TOML can hold")]) from None
        file = File(str(path), path.parent, document)
        given = {}
        self.mentioned |= document.keys()
        for name, value in document.items():
            setting = SETTINGS.get(name)
            if setting is None:
                self.unknown(name, SETTINGS, file.name, file.order((name,)))
                continue
            wrong = [(place, told) for place, told in _too_large(value, (name,))]
            told = _mistyped(setting, value)
            if told is not None:
                wrong.append(((name,), f"{name} {told}"))
            for place, problem in wrong:
                self.problem_at(file.name, problem, file.order(place))
            if not wrong:
                read = None if setting.optional and value == "" else value
                if setting.kind is Kind.FILE:
                    read = resolved(read, file)
                given[name] = Given(read, file.name, file)
        return given

    def environment(self, environment: Mapping[str, str]) -> dict[str, Given]:
        """The values of variables that begin with ``LAYERGATE_``. Empty ones are ignored."""
        known = {setting.variable: setting for setting in SETTINGS.values()}
        names = [name.upper() for name in SETTINGS]
        given: dict[str, Given] = {}
        for variable, text in sorted(environment.items()):
            if not variable.startswith("LAYERGATE_") or not text:
                continue
            setting = known.get(variable)
            if setting is not None:
                self._from_text(setting, text, f"${variable}", given)
            elif variable not in _OTHER_VARIABLES and not _FOREIGN_VARIABLE.fullmatch(variable):
                near = difflib.get_close_matches(variable.removeprefix("LAYERGATE_"), names, n=1)
                hint = f"; did you mean LAYERGATE_{near[0]}?" if near else ""
                self.warnings.append(f"${variable} is not known{hint}")
        return given

    def flags(self, flags: Mapping[str, Any]) -> dict[str, Given]:
        """The values of a command line: a string, True or False, or for a list one or several strings."""
        given: dict[str, Given] = {}
        for name, value in flags.items():
            setting = SETTINGS[name]
            origin = setting.flag or name
            if isinstance(value, bool):
                given[name] = Given(value, origin)
            else:
                text = value if isinstance(value, str) else ",".join(value)
                self._from_text(setting, text, origin, given)
        return given

    def _from_text(self, setting: Setting, text: str, origin: str, given: dict[str, Given]) -> None:
        self.mentioned.add(setting.name)
        try:
            given[setting.name] = Given(_parsed(setting, text), origin)
        except ConfigError as error:
            self.problem_at(origin, str(error))


def dotted(place: Place) -> str:
    """A place as messages name it: ``upstreams[2].tls_verify``."""
    text = ""
    for name in place:
        if isinstance(name, int):
            text += f"[{name}]"
        else:
            text += f".{name}" if text else name
    return text


def resolved(path: Any, file: File) -> Any:
    """A path of a file, relative to the folder of the configuration."""
    return str(file.folder / path) if isinstance(path, str) and path else path


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            held = file.read(_MOST + 1)
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise SettingsError([(str(path), f"cannot be read: {why}")]) from None
    except ValueError as error:  # a zero byte in the name
        raise SettingsError([(repr(str(path)), f"cannot be read: {error}")]) from None
    if len(held) > _MOST:
        raise SettingsError([(str(path), f"must have at most {_MOST} bytes")])
    try:
        return held.decode().replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = held.count(b"\n", 0, error.start) + 1
        raise SettingsError([(f"{path}:{line}", "is not UTF-8, as TOML must be")]) from None


def _not_toml(path: Path, text: str, error: tomllib.TOMLDecodeError) -> SettingsError:
    told = str(error)
    found = _PLACE_IN_MESSAGE.search(told)
    if found is None:
        return SettingsError([(str(path), f"is no TOML: {told}")])
    line = found.group(1) or str(text.rstrip().count("\n") + 1)
    what = told[: found.start()]
    return SettingsError([(f"{path}:{line}", f"is no TOML: {what[:1].lower()}{what[1:]}")])


def _parsed(setting: Setting, text: str) -> Any:
    """The value of a text from the environment or a command line. Raises ConfigError."""
    name, kind = setting.name, setting.kind
    bare = text.strip()
    if not text and setting.optional:
        return None
    if kind is Kind.LIST:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if kind is Kind.TABLES:
        return _tables_of(name, text)
    if kind in (Kind.SWITCH, Kind.SHARE) and bare.lower() in ("true", "yes", "on"):
        return True
    if kind in (Kind.SWITCH, Kind.SHARE) and bare.lower() in ("false", "no", "off"):
        return False
    if kind is Kind.SWITCH:
        if bare in ("1", "0"):
            return bare == "1"
        raise ConfigError(f"{name} must be true or false, got {text!r}")
    if kind is Kind.COUNT:
        if re.fullmatch(r"-?[0-9]{1,18}", bare, re.ASCII):
            return int(bare)
        raise ConfigError(f"{name} must be an integer, got {text!r}")
    if kind in (Kind.SECONDS, Kind.NUMBER, Kind.SHARE):
        if re.fullmatch(r"-?(?:[0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18}|inf)", bare, re.ASCII):
            return float(bare) if set(bare) - set("-0123456789") else int(bare)
        unit = " of seconds" if kind is Kind.SECONDS else ""
        raise ConfigError(f"{name} must be a number{unit}, got {text!r}")
    return text


def _tables_of(name: str, text: str) -> Any:
    example = '[{path = "/a", ttl = 60}]' if name == "rules" else '[{url = "http://host:8000"}]'
    refusal = ConfigError(f"{name} must be a TOML array of tables such as {example}")
    try:
        document = tomllib.loads(f"{name} = {text}")
    except (ValueError, RecursionError):
        raise refusal from None
    value = document[name]
    if len(document) != 1 or not isinstance(value, list):
        raise refusal
    for _, told in _too_large(value, (name,)):
        raise ConfigError(told)
    return value


def _mistyped(setting: Setting, value: Any) -> str | None:
    """What is wrong with a value of TOML, where the options would not notice it or say it worse."""
    if setting.kind in (Kind.TEXT, Kind.FILE, Kind.HIDDEN) and not isinstance(value, str):
        if setting.name == "upstream":
            return "must be a URL such as 'http://127.0.0.1:8000'; for more write [[upstreams]]"
        shown = "" if setting.kind is Kind.HIDDEN else f", got {value!r}"
        return f"must be a string{shown}"
    if setting.kind is Kind.TABLES and not isinstance(value, list):
        return f"must be an array of tables; write [[{setting.name}]]"
    if setting.kind is Kind.SWITCH and not (
        isinstance(value, bool) or (setting.optional and value == "")
    ):
        return f"must be true or false, got {value!r}"
    return None


def _too_large(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    """Integers that TOML does not have. Those of tomllib may be too large to be shown."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield place, f"{dotted(place)} must be an integer of at most 64 bits"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _too_large(inner, (*place, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _too_large(inner, (*place, number))
