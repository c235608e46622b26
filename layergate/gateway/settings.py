"""The gateway's options from a file, the environment and a command line, which name the same things:
``max_head`` in TOML is ``LAYERGATE_MAX_HEAD`` and ``--max-head``.

The nearest value wins: flag, then environment, then file, then default. In the file all options are keys
at the top; ``[[upstreams]]`` and ``[[rules]]`` are arrays of tables with the fields of
`UpstreamOptions` and `layergate.Rule`::

    listen = [":8080"]
    memory = "256MB"
    upstream = "http://127.0.0.1:8000"

    [[rules]]
    path = "/products/{id}"
    ttl = 60

``upstream`` is short for a single ``[[upstreams]]`` with this URL. ``upstream_read_timeout`` and the
like are defaults for every upstream. "" stands for None; empty variables are ignored. Paths of files
are relative to the folder of the configuration file, or on a command line and in the environment to the
current folder.

`load` reports all mistakes at once, as a `SettingsError`: each with its origin and the path of its key,
such as ``layergate.toml: upstreams[2].tls_verify must be …``. No message and nothing of
`Settings.entries` shows a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from layergate.config import Options, Rule
from layergate.errors import ConfigError, SettingsError
from layergate.gateway.catalogue import PREFIX, SETTINGS, Kind, Setting
from layergate.gateway.options import CACHE_DEFAULTS, GatewayOptions
from layergate.gateway.sources import CONFIG_VARIABLE, Given, Sources, dotted, resolved
from layergate.gateway.upstream_options import UpstreamOptions
from layergate.http.rules import RuleSet
from layergate.layers.schemes import shown_url
from layergate.sizes import parse_size

__all__ = ["CONFIG_VARIABLE", "Entry", "Settings", "load"]

_OPTION: Final = re.compile(r"\w+")
_TABLES: Final[Mapping[str, type[Any]]] = {"upstreams": UpstreamOptions, "rules": Rule}
_HIDDEN: Final = "(hidden)"
_T = TypeVar("_T")
_ANY_UPSTREAM: Final = (UpstreamOptions("http://localhost"),)
# Stands in for a value that a table needs and that is refused, and how messages name the table then.
_STANDINS: Final[Mapping[str, tuple[Mapping[str, Any], str]]] = {
    "upstreams": ({"url": "http://localhost"}, " in upstream 'localhost:80'"),
    "rules": ({"path": "*"}, " in rule '*'"),
}
# Options that are checked together.
_TOGETHER: Final = (
    frozenset({"tls_cert", "tls_key"}),
    frozenset({"tls_verify", "tls_ca_file"}),
    frozenset({"admin_token", "admin_token_file"}),
    frozenset({"shared", "shared_secret", "shared_secret_file", "shared_compress_above"}),
    frozenset({"path", "tags"}),
    frozenset({"ttl", "override"}),
)


class Entry(NamedTuple):
    """An option that is in force.

    ``value``   as given; a default as it is in code. "(hidden)" for a secret, and for a URL that
                holds one the part of it that may be shown.
    ``origin``  ``layergate.toml``, ``$LAYERGATE_MEMORY``, ``--memory`` or ``default``.
    ``hidden``  True if the value is not shown, or not all of it.
    """

    name: str
    value: Any
    origin: str
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Settings:
    """The result of `load`.

    ``options``    for the gateway.
    ``entries``    every option and where it came from, but the defaults for upstreams, which are in
                   ``upstreams``: for each upstream its entries. ``rules``: for each rule those given.
    ``warnings``   oddities that do no harm: variables that look like LayerGate's and are not known.
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

    ``file``         None: the one that ``LAYERGATE_CONFIG`` names in the environment, or none.
    ``environment``  such as ``os.environ``; only variables that begin with ``LAYERGATE_`` count.
    ``flags``        the values of a command line by the option's name. See `Sources.flags`.

    Raises SettingsError.
    """
    sources = Sources()
    if file is None:
        file = environment.get(CONFIG_VARIABLE) or None
    found = [sources.file(Path(file))] if file is not None else []
    for source in [*found, sources.environment(environment), sources.flags(flags)]:
        sources.add(source)
    return _Assembly(sources).settings()


class _Assembly:
    """Makes the options of what is given, and finds everything that is wrong with it."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._given = sources.given
        self._upstream_entries: list[tuple[Entry, ...]] = []
        self._rule_entries: list[tuple[Entry, ...]] = []

    def settings(self) -> Settings:
        """Raises SettingsError."""
        cache = self._cache(self._rules())
        upstreams = self._upstreams()
        names = {option.name for option in fields(GatewayOptions)} & set(SETTINGS)
        values = {name: self._given[name].value for name in names - set(_TABLES) & set(self._given)}
        # Mistakes beside the upstreams and the cache are found even if those are wrong too.
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
                self._sources.problem(f"shared: {error}", "shared")
        if self._sources.count or options is None:
            raise SettingsError(self._sources.problems, self._sources.warnings)
        entries = tuple(
            self._entry(setting, options)
            for name, setting in SETTINGS.items()
            if name not in ("upstream", *_TABLES) and not name.startswith(PREFIX)
        )
        return Settings(
            options,
            entries,
            tuple(self._upstream_entries),
            tuple(self._rule_entries),
            tuple(self._sources.warnings),
        )

    def _cache(self, rules: list[Rule]) -> Options | None:
        names = {option.name for option in fields(Options)} & set(SETTINGS) - {"rules"}
        values = {name: self._given[name].value for name in names & set(self._given)}
        values = {**CACHE_DEFAULTS, "rules": rules, **values}
        return self._tried(Options, values, {}, self._blame)

    def _rules(self) -> list[Rule]:
        rules = []
        for number, table in self._tables("rules"):
            rule = self._made("rules", number, table)
            if rule is not None:
                rules.append(rule)
                origin = self._given["rules"].origin
                self._rule_entries.append(
                    tuple(Entry(name, value, origin) for name, value in table.items())
                )
        return rules

    def _upstreams(self) -> list[UpstreamOptions]:
        defaults = {
            name.removeprefix(PREFIX): given
            for name, given in self._given.items()
            if name.startswith(PREFIX)
        }

        def blame(error: ConfigError) -> None:
            name = _option(error)
            told = str(error).replace(" in upstream 'localhost:80'", "")
            self._sources.problem(f"{PREFIX}{told}", PREFIX + name)
            defaults.pop(name, None)

        values = {name: given.value for name, given in defaults.items()}
        self._tried(partial(UpstreamOptions, "http://localhost"), values, {}, blame)
        if "upstream" in self._given and "upstreams" in self._given:
            self._sources.problem("upstream excludes upstreams; drop one of them", "upstream")
            del self._given["upstream"]
        if "upstream" in self._given:
            tables: Iterable[tuple[int, Mapping[str, Any]]] = [
                (0, {"url": self._given["upstream"].value})
            ]
        else:
            tables = self._tables("upstreams")
        if not self._sources.mentioned & {"upstream", "upstreams"} or (
            "upstreams" in self._given and not self._given["upstreams"].value
        ):
            told = (
                "there is no upstream; write upstream = 'http://127.0.0.1:8000' in the file, or"
                " --upstream http://127.0.0.1:8000"
            )
            self._sources.problem(told, "upstreams")
        upstreams = []
        wrong = self._sources.count
        for number, table in tables:
            inherited = {name: given for name, given in defaults.items() if name not in table}
            # A CA file has no use where a certificate is not verified.
            if table.get("tls_verify") is False:
                inherited.pop("tls_ca_file", None)
            values = {name: given.value for name, given in inherited.items()}
            upstream = self._made("upstreams", number, {**values, **table})
            if upstream is not None:
                upstreams.append(upstream)
                self._upstream_entries.append(tuple(self._entries_of(upstream, table, inherited)))
        # One that lost its hosts to a misspelling would seem to cover those after it.
        return upstreams if self._sources.count == wrong else []

    def _entries_of(
        self,
        upstream: UpstreamOptions,
        table: Mapping[str, Any],
        inherited: Mapping[str, Given],
    ) -> Iterator[Entry]:
        for option in fields(UpstreamOptions):
            if not option.init:
                continue
            if option.name in table:
                name = "upstream" if "upstream" in self._given else "upstreams"
                origin = self._given[name].origin
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
        if name not in self._given:
            return
        value, origin, file = self._given[name]
        kind = _TABLES[name]
        known = {option.name: option for option in fields(kind) if option.init}
        required = next(iter(known))
        for number, table in enumerate(value):
            if name == "upstreams" and isinstance(table, str):
                table = {"url": table}  # noqa: PLW2901 - the short form of the same
            path = dotted((name, number))
            if not isinstance(table, Mapping):
                self._sources.problem(f"{path} must be a table, got {table!r}", name, number)
                continue
            for key in table:
                if key not in known:
                    order = () if file is None else file.order((name, number, key))
                    self._sources.unknown(key, known, origin, order, path)
            if required not in table:
                self._sources.problem(f"{path} needs a {required}", name, number)
                continue
            checked = {key: value for key, value in table.items() if key in known}
            for key in ("tls_ca_file", "tls_server_name"):
                if checked.get(key) == "":
                    checked[key] = None
            if file is not None and "tls_ca_file" in checked:
                checked["tls_ca_file"] = resolved(checked["tls_ca_file"], file)
            yield number, checked

    def _made(self, name: str, number: int, values: Mapping[str, Any]) -> Any:
        standin, shown = _STANDINS[name]

        def made(**values: Any) -> Any:
            one = _TABLES[name](**values)
            if isinstance(one, Rule):
                RuleSet((one,))
            return one

        def blame(error: ConfigError) -> None:
            told = f"{dotted((name, number))}.{error}"
            place: tuple[str | int, ...] = (name, number, _option(error))
            if name == "upstreams" and "upstream" in self._given:
                told, place = f"upstream: {error}", ("upstream",)
            self._sources.problem(told.replace(shown, ""), *place)

        wrong = self._sources.count
        one = self._tried(made, values, standin, blame)
        return one if self._sources.count == wrong else None

    def _tried(
        self,
        make: Callable[..., _T],
        values: Mapping[str, Any],
        standin: Mapping[str, Any],
        blame: Callable[[ConfigError], None],
    ) -> _T | None:
        """The result of ``make`` with the values that it accepts; None if it accepts too few.

        Each value that it refuses is reported and left out, or replaced by its ``standin``, and the rest
        is tried again. So all mistakes are found, and not only the first.
        """
        left = dict(values)
        refused: set[str] = set()
        while True:
            try:
                return make(**left)
            except ConfigError as error:
                name = _option(error)
                # A complaint about an option may be wrong if its partner was left out.
                if not any(name in group and refused & group for group in _TOGETHER):
                    blame(error)
                if name in refused or name not in left:
                    return None
                refused.add(name)
                del left[name]
                if name in standin:
                    left[name] = standin[name]

    def _blame(self, error: ConfigError) -> None:
        self._sources.problem(str(error), _option(error))

    def _entry(self, setting: Setting, options: GatewayOptions) -> Entry:
        given = self._given.get(setting.name)
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


def _option(error: ConfigError) -> str:
    """The option that a ConfigError is about: its message begins with the name."""
    found = _OPTION.match(str(error))
    return found.group() if found else ""
