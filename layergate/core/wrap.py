"""The decorator `wrap`, and how a call becomes a key. `Loader.wrap` makes what is here."""

# What these functions are given comes from users: the check that the declared type makes redundant
# is the one that turns a typing mistake into a readable error.
# mypy: disable-error-code="redundant-expr"

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import hashlib
import inspect
import string
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, ParamSpec, Protocol, TypeAlias

from layergate.core.entry import Entry
from layergate.core.layer import Key, Layer
from layergate.core.policy import Options, Policy
from layergate.errors import ConfigError, KeyRefused

__all__ = ["KeyOf", "Wrapped"]

P = ParamSpec("P")

KeyOf: TypeAlias = str | Callable[..., Key]

_LONGEST_PLAIN: Final = 512  # characters of encoded arguments; beyond it their hash is shorter
_DEEPEST: Final = 16
_BY_REPR: Final = frozenset({
    complex,
    datetime.date,
    datetime.datetime,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    uuid.UUID,
})  # fmt: skip


class _Loader(Protocol):
    """What a wrapped function needs of the `Loader` that has wrapped it."""

    @property
    def layers(self) -> Sequence[Layer]: ...

    @property
    def default_ttl(self) -> float | None: ...

    def fresh(self, key: Key) -> Entry | None: ...

    async def read(self, key: Key, fetch: Callable[[], Any], policy: Policy) -> Any: ...

    async def delete(self, key: Key) -> bool: ...


class Wrapped(Generic[P]):
    """A function whose results are cached; made by `Loader.wrap`.

    It is awaited, whether the function was ``async`` or plain. On a class it binds like a method;
    then the default key is of no use (what would stand for ``self``?) and ``key=`` is needed.
    """

    def __init__(
        self,
        loader: _Loader,
        function: Callable[P, Any],
        key: KeyOf | None,
        options: Options,
        names: dict[str, Any],
    ) -> None:
        if not callable(function) or inspect.isasyncgenfunction(function):
            raise ConfigError(f"wrap must decorate a function, plain or async, got {function!r}")
        self._loader = loader
        self._function = function
        self._signature = inspect.signature(function)
        parameters = self._signature.parameters.values()
        # Names and defaults, if there are no other than plain parameters: most calls can then be
        # bound without the generality of `Signature.bind`, which costs more than the hit.
        self._plain: tuple[tuple[str, Any], ...] | None = None
        if all(each.kind is each.POSITIONAL_OR_KEYWORD for each in parameters):
            self._plain = tuple((each.name, each.default) for each in parameters)
        self._bound: tuple[Any, ...] = ()
        self._tag_formats: tuple[str, ...] = ()
        tags = options.get("tags", ())
        if not callable(tags) and not isinstance(tags, (str, bytes)):
            listed = tuple(tags)
            if any(isinstance(tag, str) and "{" in tag for tag in listed):
                for tag in listed:
                    self._check_format("tags", tag)
                self._tag_formats = listed
                options = {**options, "tags": ()}
        self._policy = Policy(loader.layers, loader.default_ttl, **options)
        self._key: KeyOf | None = key
        self._prefix = ""
        if isinstance(key, str):
            self._check_format("key", key)
        elif key is None:
            self._prefix = _register(function, names)
        elif not callable(key):
            raise ConfigError(
                f"key must be a format like 'user:{{id}}', a callable or None, got {key!r}"
            )
        functools.update_wrapper(self, function)

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        return await self._read(False, *args, **kwargs)

    async def refresh(self, *args: P.args, **kwargs: P.kwargs) -> Any:
        """Call the function now, store its result under the call's key, and return it."""
        return await self._read(True, *args, **kwargs)

    async def invalidate(self, *args: P.args, **kwargs: P.kwargs) -> bool:
        """Remove the result of this call. True if a layer held it."""
        return await self._loader.delete(self.key(*args, **kwargs))

    def key(self, *args: P.args, **kwargs: P.kwargs) -> Key:
        """The key of this call. Raises TypeError for arguments that the function does not take,
        KeyRefused for ones that the default key cannot tell apart."""
        return self._key_of(self._arguments(args, kwargs), args, kwargs)

    async def _read(self, force: bool, *args: Any, **kwargs: Any) -> Any:
        arguments = self._arguments(args, kwargs)
        key = self._key_of(arguments, args, kwargs)
        policy = self._policy
        if not force and policy.refresh_ahead is None:
            # The usual hit, before anything is made that only a miss needs.
            entry = self._loader.fresh(key)
            if entry is not None:
                return entry.value
        if self._tag_formats:
            tags = [tag.format_map(arguments) for tag in self._tag_formats]
            # As computed ones: what depends on a call's data must not make the call fail.
            policy = policy.copy(tag_of=lambda _value: tags, force=force)
        elif force:
            policy = policy.copy(force=force)
        fetch = functools.partial(self._function, *self._bound, *args, **kwargs)
        return await self._loader.read(key, fetch, policy)

    def __get__(self, instance: Any, owner: type | None = None) -> Wrapped[...]:
        if instance is None:
            return self
        bound: Wrapped[...] = object.__new__(type(self))
        bound.__dict__.update(self.__dict__)
        bound._bound = (instance, *self._bound)
        return bound

    def _arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        plain = self._plain
        if plain is not None and not kwargs and len(self._bound) + len(args) <= len(plain):
            values = (*self._bound, *args)
            arguments = {name: value for (name, _), value in zip(plain, values, strict=False)}
            for name, default in plain[len(values) :]:
                if default is inspect.Parameter.empty:
                    break  # let `bind` say so
                arguments[name] = default
            else:
                return arguments
        bound = self._signature.bind(*self._bound, *args, **kwargs)
        bound.apply_defaults()
        return bound.arguments

    def _key_of(
        self, arguments: dict[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Key:
        if self._key is None:
            encoded = "".join(_encoded(value, name) for name, value in arguments.items())
            if len(encoded) > _LONGEST_PLAIN:
                # No encoding begins with '#', so this can be no other call's plain key.
                raw = encoded.encode("utf-8", "surrogatepass")
                encoded = "#" + hashlib.blake2b(raw, digest_size=32).hexdigest()
            return f"{self._prefix}({encoded})"
        if isinstance(self._key, str):
            return self._key.format_map(arguments)
        return self._key(*self._bound, *args, **kwargs)

    def _check_format(self, option: str, text: Any) -> None:
        known = list(self._signature.parameters)
        if not isinstance(text, str):
            raise ConfigError(f"{option} must be a format, got {text!r}; write a str")
        try:
            fields = [
                field for _, field, _, _ in string.Formatter().parse(text) if field is not None
            ]
        except ValueError as error:
            raise ConfigError(f"{option} must be a format, got {text!r}: {error}") from error
        for field in fields:
            name = field.replace("[", ".").split(".")[0]
            if name not in known:
                raise ConfigError(
                    f"{option} must name arguments of the function, one of {known}, got {text!r}"
                )


def _register(function: Callable[..., Any], names: dict[str, Any]) -> str:
    """The function's name for default keys; refused if another one already uses it."""
    inner = inspect.unwrap(function)
    qualname = getattr(inner, "__qualname__", None)
    if qualname is None:
        raise ConfigError(f"key must be given for {function!r}, which has no name; pass key=...")
    name = f"{getattr(inner, '__module__', '')}.{qualname}"
    code = getattr(inner, "__code__", None)
    closed_over = getattr(inner, "__closure__", None) is not None
    if "<" in qualname and name in names and (closed_over or names[name] is not code):
        # Two lambdas of a module, or two closures of one factory: same name, other results.
        raise ConfigError(
            f"key must be given for {name}: this stack has already wrapped another function of that"
            f" name; pass key=..."
        )
    names[name] = code
    return name


def _encoded(value: Any, name: str, depth: int = 0) -> str:
    """A text for ``value`` that no other value shares, and that is no other's beginning.

    Each begins with a letter for its type; text is preceded by its length, groups are closed.
    """
    kind = type(value)
    if value is None:
        return "n"
    if kind is bool:
        return "T" if value else "F"
    if kind is int:
        return f"i{value:x};"
    if kind is float:
        return f"d{value!r};"
    if kind is str:
        return _counted("s", value)
    if kind is bytes:
        return _counted("y", value.hex())
    if depth >= _DEEPEST:
        raise KeyRefused(f"argument {name!r} is nested more than {_DEEPEST} deep; pass key=...")
    if kind in _BY_REPR:
        return _counted("o", kind.__name__) + _counted("", repr(value))
    if isinstance(value, enum.Enum):
        return _counted("e", _type_name(kind)) + _counted("", value.name or repr(value.value))
    inner = functools.partial(_encoded, name=name, depth=depth + 1)
    if kind is tuple:
        return "(" + "".join(map(inner, value)) + ")"
    if kind is list:
        return "[" + "".join(map(inner, value)) + "]"
    if kind is set or kind is frozenset:
        return ("{" if kind is set else "z") + "".join(sorted(map(inner, value))) + "}"
    if kind is dict:
        pairs = sorted((inner(each), inner(value[each])) for each in value)
        return "<" + "".join(a + b for a, b in pairs) + ">"
    if dataclasses.is_dataclass(value):
        fields = (inner(getattr(value, field.name)) for field in dataclasses.fields(value))
        return _counted("c", _type_name(kind)) + "(" + "".join(fields) + ")"
    raise KeyRefused(
        f"argument {name!r} of type {_type_name(kind)} has no default key; pass key=... to wrap"
    )


def _counted(letter: str, text: str) -> str:
    return f"{letter}{len(text)}:{text}"


def _type_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
