"""Which rule covers a request, and what its placeholders stand for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from typing import Final, NamedTuple

from layergate.config import MAX_TAG_LENGTH, Rule

__all__ = ["Match", "RuleSet", "fill_tags"]

_PART: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(:path)?\}|\*")
_FIELD: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)(?::path)?\}")


class Match(NamedTuple):
    """A rule and the values of its path's placeholders."""

    rule: Rule
    params: Mapping[str, str]


def _compile(path: str) -> re.Pattern[str]:
    pattern = ""
    end = 0
    for part in _PART.finditer(path):
        pattern += re.escape(path[end : part.start()])
        end = part.end()
        name, greedy = part.group(1), part.group(2)
        if name is None:
            pattern += ".*"
        else:
            pattern += f"(?P<{name}>{'.*' if greedy else '[^/]+'})"
    return re.compile(pattern + re.escape(path[end:]), re.DOTALL)


class RuleSet:
    """Rules in order, compiled."""

    __slots__ = ("_rules", "bypassed")

    def __init__(self, rules: Iterable[Rule]) -> None:
        rules = tuple(rules)
        self._rules = tuple((_compile(rule.path).fullmatch, rule) for rule in rules)
        self.bypassed = _first_bypasses(rules)
        """Is this path certainly bypassed? One pattern for the rules at the head of the list that
        say so for every host; None if there are none. The others `match` finds."""

    def __len__(self) -> int:
        return len(self._rules)

    def match(self, path: str, host: bytes) -> Match | None:
        """The first rule that covers this (decoded) path and host, or None."""
        for fullmatch, rule in self._rules:
            found = fullmatch(path)
            if found is not None and (rule.hosts is None or _hostname(host) in rule.hosts):
                return Match(rule, found.groupdict())
        return None


def _first_bypasses(rules: tuple[Rule, ...]) -> Callable[[str], object] | None:
    first = list(takewhile(lambda rule: rule.bypass and rule.hosts is None, rules))
    if not first:
        return None
    # The names of placeholders play no part here, and may occur in several rules.
    patterns = (re.sub(r"\(\?P<\w+>", "(?:", _compile(rule.path).pattern) for rule in first)
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), re.DOTALL).fullmatch


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
        if not tag or len(tag) > MAX_TAG_LENGTH:
            return None
        tags.append(tag)
    return tuple(tags)
