"""The gateway's options from a file, the environment and a command line, which name the same things:
``max_head`` in TOML is ``LAYERGATE_MAX_HEAD`` and ``--max-head``.

What is nearer wins: flag, then environment, then file, then default. In the file all options are keys
at the top; ``[[upstreams]]`` and ``[[rules]]`` are arrays of tables with the fields of
`UpstreamOptions` and `layergate.Rule`::

    listen = [":8080"]
    memory = "256MB"
    upstream = "http://127.0.0.1:8000"

    [[rules]]
    path = "/products/{id}"
    ttl = 60

``upstream`` is short for a single ``[[upstreams]]`` with this URL. ``upstream_read_timeout`` and the
like are defaults for every upstream. "" stands for None; an empty variable is as good as none. Paths
of files are relative to the folder of the configuration file, or on a command line and in the
environment to the current one.

Whatever is wrong is a `SettingsError` that names all of it, each with its place. No message and
nothing of `Settings.entries` shows a secret.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from layergate.config import Options, Rule
from layergate.errors import ConfigError, SettingsError
from layergate.gateway.catalogue import PREFIX, RIVALS, SETTINGS, Kind, Setting
from layergate.gateway.options import CACHE_DEFAULTS, GatewayOptions, UpstreamOptions
from layergate.gateway.toml_lines import Place, key_lines
from layergate.http.rules import RuleSet
from layergate.layers.schemes import shown_url
from layergate.sizes import parse_size

__all__ = ["CONFIG_VARIABLE", "Entry", "Settings", "load"]

CONFIG_VARIABLE: Final = "LAYERGATE_CONFIG"  # names the file

# Variables that have a meaning elsewhere: see the command line's client and `telemetry.logs`.
_OTHER_VARIABLES: Final = frozenset({CONFIG_VARIABLE, "LAYERGATE_ADMIN", "LAYERGATE_DEBUG"})
# What Kubernetes and Docker's links put into the environment next to a service named "layergate".
_FOREIGN_VARIABLE: Final = re.compile(
    r"LAYERGATE_(?:.*_)?(?:PORT|SERVICE_HOST|SERVICE_PORT)(?:_.*)?"
)
_MOST: Final = 4 * 1024 * 1024  # bytes of a configuration file
_PLACE_IN_MESSAGE: Final = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_OPTION: Final = re.compile(r"\w+")
_TABLES: Final[Mapping[str, type[Any]]] = {"upstreams": UpstreamOptions, "rules": Rule}
_HIDDEN: Final = "(hidden)"
_T = TypeVar("_T")
_ANY_UPSTREAM: Final = (UpstreamOptions("http://localhost"),)
# What is needed in a table, where what was given is refused, and how messages name the table then.
_STANDINS: Final[Mapping[str, tuple[Mapping[str, Any], str]]] = {
    "upstreams": ({"url": "http://localhost"}, " in upstream 'localhost:80'"),
    "rules": ({"path": "*"}, " in rule '*'"),
}
# Options that are judged together.
_TOGETHER: Final = (
    frozenset({"tls_cert", "tls_key"}),
    frozenset({"tls_verify", "tls_ca_file"}),
    frozenset({"admin_token", "admin_token_file"}),
    frozenset({"shared", "shared_secret", "shared_secret_file", "shared_compress_above"}),
    frozenset({"path", "tags"}),
    frozenset({"ttl", "override"}),
)


class Entry(NamedTuple):
    """An option as it is in force.

    ``value``   as given; a default as it is in code. "(hidden)" for a secret, and for a URL that
                holds one what may be shown of it.
    ``origin``  ``layergate.toml:14``, ``$LAYERGATE_MEMORY``, ``--memory`` or ``default``.
    ``hidden``  the value is not shown, or not all of it.
    """

    name: str
    value: Any
    origin: str
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """What `load` has found.

    ``options``    for the gateway.
    ``entries``    every option and where it came from, but the defaults for upstreams, which are in
                   ``upstreams``: for each upstream its entries. ``rules``: for each rule those given.
    ``warnings``   what is odd and harms nothing: variables that look like ours and are not known.
    """

    options: GatewayOptions
    entries: tuple[Entry, ...]
    upstreams: tuple[tuple[Entry, ...], ...]
    rules: tuple[tuple[Entry, ...], ...]
    warnings: tuple[str, ...] = ()


def load(
    file: str | Path | None,
    environment: Mapping[str, str],
    flags: Mapping[str, Any],
) -> Settings:
    """Read and validate.

    ``file``         None: what ``LAYERGATE_CONFIG`` names in the environment, or no file.
    ``environment``  such as ``os.environ``; what does not begin with ``LAYERGATE_`` is not looked at.
    ``flags``        by the option's name what the command line said: a string, True or False, or for
                     a list one or several strings.

    Raises SettingsError.
    """
    reading = _Reading()
    if file is None:
        file = environment.get(CONFIG_VARIABLE) or None
    sources = []
    if file is not None:
        sources.append(reading.file(Path(file)))
    sources += [reading.environment(environment), reading.flags(flags)]
    for source in sources:
        for name in source:
            rival = RIVALS.get(name)
            if rival is not None and rival not in source:
                reading.given.pop(rival, None)
        reading.given |= source
    return reading.settings()


class _Given(NamedTuple):
    """A value, where it is, and for what is in a file the folder that paths start from."""

    value: Any
    origin: str
    file: _File | None = None


class _File(NamedTuple):
    name: str
    folder: Path
    lines: Mapping[Place, int]

    def at(self, *place: str | int) -> str:
        """The nearest thing that has a line."""
        for end in range(len(place), 0, -1):
            if place[:end] in self.lines:
                return f"{self.name}:{self.lines[place[:end]]}"
        return self.name


@dataclass(slots=True)
class _Reading:
    given: dict[str, _Given] = field(default_factory=dict)
    mentioned: set[str] = field(default_factory=set)  # those that could not be read, too
    problems: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    upstream_entries: list[tuple[Entry, ...]] = field(default_factory=list)
    rule_entries: list[tuple[Entry, ...]] = field(default_factory=list)

    # -- sources -------------------------------------------------------------------------------

    def file(self, path: Path) -> dict[str, _Given]:
        text = _text(path)
        try:
            document = tomllib.loads(text)
            lines = key_lines(text)
        except tomllib.TOMLDecodeError as error:
            raise _not_toml(path, text, error) from None
        except RecursionError:
            raise SettingsError([(str(path), "values are nested too deeply")]) from None
        except ValueError:  # an integer of thousands of digits, which tomllib does not foresee
            raise SettingsError([(str(path), "a value is no TOML can hold")]) from None
        file = _File(str(path), path.parent, lines)
        given = {}
        self.mentioned |= document.keys()
        for name, value in document.items():
            where = file.at(name)
            setting = SETTINGS.get(name)
            if setting is None:
                self._unknown(where, name, SETTINGS, "option")
                continue
            wrong = list(_too_large(value, (name,)))
            self.problems += [(file.at(*place), told) for place, told in wrong]
            told = _mistyped(setting, value)
            if told is not None:
                self.problems.append((where, f"{name} {told}"))
            elif not wrong:
                read = _none(setting, value)
                if setting.kind is Kind.FILE:
                    read = _resolved(read, file)
                given[name] = _Given(read, where, file)
        return given

    def environment(self, environment: Mapping[str, str]) -> dict[str, _Given]:
        known = {setting.variable: setting for setting in SETTINGS.values()}
        names = [name.upper() for name in SETTINGS]
        given: dict[str, _Given] = {}
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

    def flags(self, flags: Mapping[str, Any]) -> dict[str, _Given]:
        given: dict[str, _Given] = {}
        for name, value in flags.items():
            setting = SETTINGS[name]
            origin = setting.flag or name
            if isinstance(value, bool):
                given[name] = _Given(value, origin)
            else:
                text = value if isinstance(value, str) else ",".join(value)
                self._from_text(setting, text, origin, given)
        return given

    def _from_text(
        self, setting: Setting, text: str, origin: str, given: dict[str, _Given]
    ) -> None:
        self.mentioned.add(setting.name)
        try:
            given[setting.name] = _Given(_parsed(setting, text), origin)
        except ConfigError as error:
            self.problems.append((origin, str(error)))

    # -- what they come to -----------------------------------------------------------------------

    def settings(self) -> Settings:
        """Raises SettingsError."""
        cache = self._cache(self._rules())
        upstreams = self._upstreams()
        names = {option.name for option in fields(GatewayOptions)} & set(SETTINGS)
        values = {name: self.given[name].value for name in names - set(_TABLES) & set(self.given)}
        # What is wrong beside the upstreams and the cache is found even if those are wrong too.
        options = self._tried(
            partial(GatewayOptions, cache=cache or Options()),
            {"upstreams": upstreams or _ANY_UPSTREAM, **values},
            {"upstreams": _ANY_UPSTREAM},
            self._blame,
        )
        if options is not None:
            try:
                options.cache_arguments()
            except ConfigError as error:
                self.problems.append((self._origin("shared"), f"shared: {error}"))
        if self.problems or options is None:
            raise SettingsError(sorted(self.problems, key=_by_line), self.warnings)
        entries = tuple(
            self._entry(setting, options)
            for name, setting in SETTINGS.items()
            if name not in ("upstream", *_TABLES) and not name.startswith(PREFIX)
        )
        return Settings(
            options,
            entries,
            tuple(self.upstream_entries),
            tuple(self.rule_entries),
            tuple(self.warnings),
        )

    def _cache(self, rules: list[Rule]) -> Options | None:
        names = {option.name for option in fields(Options)} & set(SETTINGS) - {"rules"}
        values = {name: self.given[name].value for name in names & set(self.given)}
        values = {**CACHE_DEFAULTS, "rules": rules, **values}
        return self._tried(Options, values, {}, self._blame)

    def _rules(self) -> list[Rule]:
        rules = []
        for number, table in self._tables("rules"):
            rule = self._made("rules", number, table)
            if rule is not None:
                rules.append(rule)
                self.rule_entries.append(
                    tuple(
                        Entry(name, value, self._at("rules", number, name))
                        for name, value in table.items()
                    )
                )
        return rules

    def _upstreams(self) -> list[UpstreamOptions]:
        defaults = {
            name.removeprefix(PREFIX): given
            for name, given in self.given.items()
            if name.startswith(PREFIX)
        }

        def blame(error: ConfigError) -> None:
            name = _option(error)
            told = str(error).replace(" in upstream 'localhost:80'", "")
            origin = defaults[name].origin if name in defaults else ""
            self.problems.append((origin, f"{PREFIX}{told}"))
            defaults.pop(name, None)

        values = {name: given.value for name, given in defaults.items()}
        self._tried(partial(UpstreamOptions, "http://localhost"), values, {}, blame)
        if "upstream" in self.given and "upstreams" in self.given:
            origin = self._origin("upstream")
            self.problems.append((origin, "upstream excludes upstreams; drop one of them"))
            del self.given["upstream"]
        if "upstream" in self.given:
            tables: Iterable[tuple[int, Mapping[str, Any]]] = [
                (0, {"url": self.given["upstream"].value})
            ]
        else:
            tables = self._tables("upstreams")
        if not self.mentioned & {"upstream", "upstreams"} or (
            "upstreams" in self.given and not self.given["upstreams"].value
        ):
            told = (
                "there is no upstream; write upstream = 'http://127.0.0.1:8000' in the file, or"
                " --upstream http://127.0.0.1:8000"
            )
            self.problems.append((self._origin("upstreams"), told))
        upstreams = []
        wrong = len(self.problems)
        for number, table in tables:
            inherited = {name: given for name, given in defaults.items() if name not in table}
            # A CA file has no use where a certificate is not verified.
            if table.get("tls_verify") is False:
                inherited.pop("tls_ca_file", None)
            values = {name: given.value for name, given in inherited.items()}
            upstream = self._made("upstreams", number, {**values, **table})
            if upstream is not None:
                upstreams.append(upstream)
                self.upstream_entries.append(
                    tuple(self._upstream_entries(number, upstream, table, inherited))
                )
        # One that lost its hosts to a misspelling would seem to cover those after it.
        return upstreams if len(self.problems) == wrong else []

    def _upstream_entries(
        self,
        number: int,
        upstream: UpstreamOptions,
        table: Mapping[str, Any],
        inherited: Mapping[str, _Given],
    ) -> Iterator[Entry]:
        for option in fields(UpstreamOptions):
            if not option.init:
                continue
            if option.name in table:
                short = "upstream" in self.given
                origin = (
                    self._origin("upstream")
                    if short
                    else self._at("upstreams", number, option.name)
                )
            elif option.name in inherited:
                origin = inherited[option.name].origin
            else:
                origin = "default"
            value = getattr(upstream, option.name)
            if origin != "default" or option.name == "name":
                yield Entry(option.name, value, origin)
            else:
                yield Entry(option.name, option.default, origin)

    def _tables(self, name: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """The tables of ``rules`` or ``upstreams``, with those of their keys that are known."""
        if name not in self.given:
            return
        value, _, file = self.given[name]
        kind = _TABLES[name]
        known = {option.name: option for option in fields(kind) if option.init}
        required = next(iter(known))
        for number, table in enumerate(value):
            if name == "upstreams" and isinstance(table, str):
                table = {"url": table}  # noqa: PLW2901 - the short form of the same
            where = self._at(name, number)
            if not isinstance(table, Mapping):
                self.problems.append((where, f"{name}[{number}] must be a table, got {table!r}"))
                continue
            unknown = [key for key in table if key not in known]
            for key in unknown:
                self._unknown(self._at(name, number, key), key, known, f"{name}[{number}]")
            if required not in table:
                self.problems.append((where, f"{name}[{number}] needs a {required}"))
            else:
                checked = {key: value for key, value in table.items() if key in known}
                for key in ("tls_ca_file", "tls_server_name"):
                    if checked.get(key) == "":
                        checked[key] = None
                if file is not None and "tls_ca_file" in checked:
                    checked["tls_ca_file"] = _resolved(checked["tls_ca_file"], file)
                yield number, checked

    def _made(self, name: str, number: int, values: Mapping[str, Any]) -> Any:
        standin, shown = _STANDINS[name]

        def made(**values: Any) -> Any:
            one = _TABLES[name](**values)
            if isinstance(one, Rule):
                RuleSet((one,))
            return one

        def blame(error: ConfigError) -> None:
            told = f"{name}[{number}].{error}"
            if name == "upstreams" and "upstream" in self.given:
                told = f"upstream: {error}"
            self.problems.append((self._at(name, number, _option(error)), told.replace(shown, "")))

        wrong = len(self.problems)
        one = self._tried(made, values, standin, blame)
        return one if len(self.problems) == wrong else None

    def _tried(
        self,
        make: Callable[..., _T],
        values: Mapping[str, Any],
        standin: Mapping[str, Any],
        blame: Callable[[ConfigError], None],
    ) -> _T | None:
        """What ``make`` makes of the values that it does not refuse; None if that is nothing.

        What it refuses is told and left out, or replaced by its ``standin``, and the rest is tried:
        so all that is wrong is found, not the first of it.
        """
        left = dict(values)
        refused: set[str] = set()
        while True:
            try:
                return make(**left)
            except ConfigError as error:
                name = _option(error)
                # What is said of an option whose partner is missing here may not be so.
                if not any(name in group and refused & group for group in _TOGETHER):
                    blame(error)
                if name in refused or name not in left:
                    return None
                refused.add(name)
                del left[name]
                if name in standin:
                    left[name] = standin[name]

    # -- places ----------------------------------------------------------------------------------

    def _at(self, name: str, *inner: str | int) -> str:
        """Where something in a table of ``rules`` or ``upstreams`` is."""
        if name == "upstreams" and "upstream" in self.given:
            return self._origin("upstream")
        given = self.given[name]
        return given.origin if given.file is None else given.file.at(name, *inner)

    def _origin(self, name: str) -> str:
        return self.given[name].origin if name in self.given else ""

    def _blame(self, error: ConfigError) -> None:
        self.problems.append((self._origin(_option(error)), str(error)))

    def _unknown(self, where: str, name: str, known: Iterable[str], owner: str) -> None:
        near = difflib.get_close_matches(name, sorted(known), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        if name == "statuses" and owner.startswith("rules"):
            hint = "; write ttl = {200 = 60, 404 = 5}, seconds by status"
        told = f"there is no option {name!r}" if owner == "option" else f"{owner} has no {name!r}"
        if owner != "option" and name in SETTINGS:
            hint = "; as an option of the gateway it stands above the first [[…]]"
        self.problems.append((where, told + hint))

    def _entry(self, setting: Setting, options: GatewayOptions) -> Entry:
        given = self.given.get(setting.name)
        if given is None and setting.name == "max_body":  # its default depends on the layers
            most: Any = options.cache.max_body
            default = parse_size(setting.default, option="max_body")
            return Entry(setting.name, most if most < default else setting.default, "default")
        if given is None:
            return Entry(setting.name, setting.default, "default")
        if setting.kind is Kind.HIDDEN:
            return Entry(setting.name, _HIDDEN, given.origin, hidden=True)
        if setting.name == "shared" and given.value is not None:
            shown = shown_url(given.value)
            if {"@", "?"} & set(given.value):  # a password, or options that may be one
                return Entry(setting.name, shown, given.origin, hidden=True)
        return Entry(setting.name, given.value, given.origin)


# -- text --------------------------------------------------------------------------------------------


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
    """The value that a text from the environment or a command line stands for. Raises ConfigError,
    whose message shows no secret."""
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
    for place, told in _too_large(value, (name,)):
        raise ConfigError(f"{'.'.join(map(str, place))}: {told}")
    return value


def _mistyped(setting: Setting, value: Any) -> str | None:
    """What is wrong with a value of TOML that the options would not notice, or not as well."""
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
    """TOML has integers of 64 bits; tomllib's may be so large that they cannot even be shown."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield place, f"{place[-1]} must be an integer of at most 64 bits"
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _too_large(inner, (*place, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _too_large(inner, (*place, number))


def _none(setting: Setting, value: Any) -> Any:
    return None if setting.optional and isinstance(value, str) and not value else value


def _resolved(path: Any, file: _File) -> Any:
    return str(file.folder / path) if isinstance(path, str) and path else path


def _option(error: ConfigError) -> str:
    """What the message of a ConfigError is about: it begins with the name."""
    found = _OPTION.match(str(error))
    return found.group() if found else ""


def _by_line(problem: tuple[str, str]) -> tuple[str, int]:
    name, _, line = problem[0].rpartition(":")
    return (name, int(line)) if line.isdecimal() else (problem[0], 0)
