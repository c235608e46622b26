"""The rules that cover requests: compiled paths, and the values of their placeholders.

The settings of a cache hold one `RuleSet`. `open_request` and `explain` ask it for the rule of a request;
the middlewares ask `Bypasses` before anything else, without a `Request`. No path that a client sends can
make a match slow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise, takewhile
from typing import Final, NamedTuple

from layergate.config import MAX_TAG_LENGTH, Rule
from layergate.errors import ConfigError
from layergate.http.message.key import path_of
from layergate.http.message.request import Request
from layergate.http.privacy.paths import doubled, is_doubtful, is_plain, readings

__all__ = ["Match", "RuleSet", "fill_tags"]

_PART: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}|\*")
_FIELD: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::path)?\}")


class Match(NamedTuple):
    """A rule that covers a request.

    ``params``  the values of the placeholders in its path.
    ``rules``   the set that the rule was chosen from. None for a route's policy: the app chose the route.
    """

    rule: Rule
    params: Mapping[str, str]
    rules: RuleSet | None = None

    def is_certain(self, request: Request) -> bool:
        """True if every reading of the request's path selects this rule. See `privacy.paths`."""
        octets, root = path_of(request.exact)
        raw = octets.decode("utf-8", "replace")
        if is_plain(raw) and is_plain(request.path):
            return True
        if is_doubtful(raw, request.path):
            return False
        if self.rules is None:
            return True
        if doubled(self.rules.before_wildcard(self.rule, request.path)):
            return False
        for reading in readings(raw, request.path, root):
            other = self.rules.match(reading, request.host)
            if other is None or other.rule is not self.rule:
                return False
        return True


def _compile(path: str) -> re.Pattern[str]:
    """The path as a regular expression that a hostile request path cannot make slow.

    A wildcard that crosses slashes, with only text up to the next such wildcard, matches up to the first
    occurrence of that text. So it is an atomic group, which the engine never backtracks into. `_check`
    allows one wildcard for which this does not hold.
    """
    pattern = ""
    runs = _split(path)
    for number, run in enumerate(runs):
        inner = _inside(run.parts)
        if run.wildcard is None:
            pattern += inner
            continue
        last = number == len(runs) - 1
        wildcard = ".*" if last else ".*?"
        if run.wildcard:
            wildcard = f"(?P<{run.wildcard}>{wildcard})"
        pattern += f"(?>{wildcard}{inner})" if run.literal and not last else wildcard + inner
    return re.compile(pattern, re.DOTALL)


def _inside(parts: list[tuple[str, str | None]]) -> str:
    """The expression for the parts after a wildcard. A placeholder does not match the character that
    follows it, so there is at most one way to match, and no backtracking."""
    pattern = ""
    for number, (text, name) in enumerate(parts):
        if name is None:
            pattern += re.escape(text)
        else:
            following = parts[number + 1][0][:1] if number + 1 < len(parts) else ""
            pattern += f"(?P<{name}>[^/{re.escape(following)}]+)"
    return pattern


class _Run(NamedTuple):
    """A wildcard that crosses slashes, and the parts up to the next one.

    ``wildcard``  its name, "" for ``*``, None for the beginning of the path.
    ``parts``     (text, None) for text, ("", name) for a placeholder within one segment.
    """

    wildcard: str | None
    parts: list[tuple[str, str | None]]

    @property
    def literal(self) -> bool:
        """True if only text follows the wildcard."""
        return bool(self.parts) and all(name is None for _, name in self.parts)


def _split(path: str) -> list[_Run]:
    """The runs of a rule's path. The first has no wildcard."""
    runs = [_Run(None, [])]
    end = 0
    for part in _PART.finditer(path):
        if part.start() > end:
            runs[-1].parts.append((path[end : part.start()], None))
        end = part.end()
        name, over_slashes = part.group(1), part.group(2)
        if name is not None and not over_slashes:
            runs[-1].parts.append(("", name))
        else:
            runs.append(_Run(name or "", []))
    if end < len(path):
        runs[-1].parts.append((path[end:], None))
    return runs


def _check(rule: Rule) -> None:
    """Raises ConfigError for a path that could be slow to match, or ambiguous."""
    for run in _split(rule.path):
        for (_, name), (_, following) in pairwise(run.parts):
            if name is not None and following is not None:
                raise ConfigError(
                    f"path has two adjacent placeholders in rule {rule.path!r}; put text between them, or"
                    " use one"
                )
    runs = [run for run in _split(rule.path)[1:-1] if not run.literal]
    if len(runs) > 1:
        raise ConfigError(
            f"path has more than one wildcard that is followed by a placeholder in rule {rule.path!r};"
            " write it as two rules, or with one '*' less"
        )


class Bypasses:
    """The paths that bypass the cache for every host.

    They come from the rules at the head of the list that have ``bypass`` and no ``hosts``. `RuleSet.match`
    finds the other rules with ``bypass``. Most of these paths are one path, or a prefix, and need no regular
    expression.

    ``exact``     paths.
    ``prefixes``  prefixes of paths.
    ``matches``   matches all other paths, or None.
    """

    __slots__ = ("exact", "matches", "prefixes")

    def __init__(self, rules: Iterable[Rule]) -> None:
        exact, prefixes, patterns = [], [], []
        for rule in takewhile(lambda rule: rule.bypass and rule.hosts is None, rules):
            path = rule.path
            if "{" in path or "*" in path[:-1]:
                # Several rules may use the same names for placeholders, so the names are dropped.
                patterns.append(re.sub(r"\(\?P<\w+>", "(?:", _compile(path).pattern))
            elif path.endswith("*"):
                prefixes.append(path[:-1])
            else:
                exact.append(path)
        self.exact = frozenset(exact)
        self.prefixes = tuple(prefixes)
        self.matches: Callable[[str], object] | None = None
        if patterns:
            either = "|".join(f"(?:{pattern})" for pattern in patterns)
            self.matches = re.compile(either, re.DOTALL).fullmatch

    def cover(self, path: str, longest: int) -> bool:
        """True if this path bypasses the cache. A path of more than ``longest`` characters never does, by
        these rules."""
        return len(path) <= longest and (
            path in self.exact
            or path.startswith(self.prefixes)
            or (self.matches is not None and self.matches(path) is not None)
        )

    def __bool__(self) -> bool:
        return bool(self.exact or self.prefixes or self.matches)


class RuleSet:
    """The rules of a cache, in order. Raises ConfigError for a path that could be slow to match."""

    __slots__ = ("_heads", "_rules", "bypasses")

    def __init__(self, rules: Iterable[Rule]) -> None:
        rules = tuple(rules)
        for rule in rules:
            _check(rule)
        self._rules = tuple((_compile(rule.path).fullmatch, rule) for rule in rules)
        self._heads: dict[str, re.Pattern[str]] = {}
        self.bypasses = Bypasses(rules)

    def __len__(self) -> int:
        return len(self._rules)

    def match(self, path: str, host: bytes) -> Match | None:
        """The first rule that covers this decoded path and this host, or None."""
        for fullmatch, rule in self._rules:
            found = fullmatch(path)
            if found is not None and (rule.hosts is None or _hostname(host) in rule.hosts):
                return Match(rule, found.groupdict(), self)
        return None

    def before_wildcard(self, rule: Rule, path: str) -> str:
        """The part of ``path`` before the wildcard that ends the rule's path, if that crosses slashes; else
        all of it."""
        last = list(_PART.finditer(rule.path))[-1:]
        if not last or last[0].end() < len(rule.path) or (last[0][1] and not last[0][2]):
            return path
        head = self._heads.get(rule.path)
        if head is None:
            head = self._heads[rule.path] = _compile(rule.path[: last[0].start()])
        found = head.match(path)
        return path if found is None else found[0]


def _hostname(host: bytes) -> str:
    name = host.decode("latin-1").lower()
    if name.startswith("["):  # an IPv6 literal
        return name.partition("]")[0] + "]"
    return name.partition(":")[0]


def fill_tags(templates: Iterable[str], params: Mapping[str, object]) -> tuple[str, ...] | None:
    """The tags with the values of their placeholders; None if a tag cannot be filled.

    A tag may name a parameter that the route lacks, or grow longer than the limit for tags. No purge could
    name the tag that its author has in mind, so then the response must not be stored.
    """
    tags = []
    for template in templates:
        tag = template
        if "{" in template:
            try:
                tag = _FIELD.sub(lambda found: str(params[found.group(1)]), template)
            except KeyError:
                return None
        if not tag or len(tag) > MAX_TAG_LENGTH or "\0" in tag:  # NUL: for LayerGate's own
            return None
        tags.append(tag)
    return tuple(tags)
