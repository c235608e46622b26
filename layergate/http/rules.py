"""Which rule covers a request, and what its placeholders stand for."""

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
    """A rule and the values of its path's placeholders. ``rules``: the set that it was chosen from by
    the path; None: it is a route's policy, and the app has chosen the route."""

    rule: Rule
    params: Mapping[str, str]
    rules: RuleSet | None = None

    def is_certain(self, request: Request) -> bool:
        """True if everyone who reads the request's path finds this rule for it. See `paths`."""
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
    """The pattern as a regular expression that a hostile path cannot make slow.

    A wildcard that runs over slashes, followed by nothing but text up to the next such wildcard, is
    satisfied by the first occurrence of that text: so it is an atomic group, never gone back into.
    What cannot be decided so locally, `_check` allows once.
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
    """What follows a wildcard. A placeholder does not hold the character that comes after it, so
    there is one way at most to match, and nothing to go back to."""
    pattern = ""
    for number, (text, name) in enumerate(parts):
        if name is None:
            pattern += re.escape(text)
        else:
            following = parts[number + 1][0][:1] if number + 1 < len(parts) else ""
            pattern += f"(?P<{name}>[^/{re.escape(following)}]+)"
    return pattern


class _Run(NamedTuple):
    """A wildcard over slashes (its name, "" for ``*``, None at the beginning of the path), and the
    (text, None) and ("", name of one segment) that follow it."""

    wildcard: str | None
    parts: list[tuple[str, str | None]]

    @property
    def literal(self) -> bool:
        return bool(self.parts) and all(name is None for _, name in self.parts)


def _split(path: str) -> list[_Run]:
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
    for run in _split(rule.path):
        for (_, name), (_, following) in pairwise(run.parts):
            if name is not None and following is not None:
                raise ConfigError(
                    f"path has two placeholders with nothing between them in rule {rule.path!r};"
                    " put text between them, or use one"
                )
    runs = [run for run in _split(rule.path)[1:-1] if not run.literal]
    if len(runs) > 1:
        raise ConfigError(
            f"path has too many wildcards that are followed by a placeholder in rule {rule.path!r};"
            " write it as two rules, or with one '*' less"
        )


class Bypasses:
    """The paths that are certainly bypassed: by the rules at the head of the list that say so for
    every host (the others `RuleSet.match` finds). Most are a path, or a path and all below it, and
    are answered without a regular expression.

    ``exact``: paths. ``prefixes``: what paths start with. ``matches``: for the rest, or None.
    """

    __slots__ = ("exact", "matches", "prefixes")

    def __init__(self, rules: Iterable[Rule]) -> None:
        exact, prefixes, patterns = [], [], []
        for rule in takewhile(lambda rule: rule.bypass and rule.hosts is None, rules):
            path = rule.path
            if "{" in path or "*" in path[:-1]:
                # The names of placeholders play no part here, and may occur in several rules.
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
        """Is this path, if it has no more than ``longest`` characters, one of them?"""
        return len(path) <= longest and (
            path in self.exact
            or path.startswith(self.prefixes)
            or (self.matches is not None and self.matches(path) is not None)
        )

    def __bool__(self) -> bool:
        return bool(self.exact or self.prefixes or self.matches)


class RuleSet:
    """Rules in order, compiled. Raises ConfigError for a path that could be slow to match."""

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
        """The first rule that covers this (decoded) path and host, or None."""
        for fullmatch, rule in self._rules:
            found = fullmatch(path)
            if found is not None and (rule.hosts is None or _hostname(host) in rule.hosts):
                return Match(rule, found.groupdict(), self)
        return None

    def before_wildcard(self, rule: Rule, path: str) -> str:
        """What of ``path`` comes before the wildcard over slashes that ends the rule's pattern; all of
        it, if the pattern does not end in one."""
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
    """The tags with their placeholders filled; None if one cannot be.

    One that names a parameter the route does not have, or that grows past the cap on a tag's
    length, could never be purged by the tag its author has in mind: then nothing may be stored.
    """
    tags = []
    for template in templates:
        tag = template
        if "{" in template:
            try:
                tag = _FIELD.sub(lambda found: str(params[found.group(1)]), template)
            except KeyError:
                return None
        if not tag or len(tag) > MAX_TAG_LENGTH or "\0" in tag:  # (a NUL only our own tags have)
            return None
        tags.append(tag)
    return tuple(tags)
