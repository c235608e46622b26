"""RFC 9111 section 5.2, Cache-Control: how the field is read."""

from __future__ import annotations

from tests.scenarios.dsl import not_reused, ok, reused

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

for name, value in (
    ("quoted", 'max-age="60"'), ("case", "MaX-aGe=60"), ("list", "a, b=c,,max-age=60, d"),
    ("quoted-comma", 'x="a,b", max-age=60'), ("before-unknown", "max-age=60, x=\"no-store\""),
    ("first-wins", "max-age=60, max-age=1"), ("tabs", "max-age=60\t,\tpublic"),
    ("unknown", "max-age=60, immutable, foo=bar, ext"), ("semicolon-other", "max-age=60, a;b"),
    ("no-transform", "no-transform, max-age=60"),
):
    reused(f"cc-{name}", "5.2", ok(value), after=59)
not_reused("cc-other-name", "5.2", ok("x-max-age=60"))
not_reused("cc-inside-quotes", "5.2", ok('x="max-age=60"'))
