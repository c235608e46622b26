"""RFC 9111 section 5.1, Age."""

from __future__ import annotations

from tests.scenarios.dsl import fetch, hit, ok, row

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

row("age-grows", "5.1", fetch(ok("max-age=60"), has={"age": None}),
    hit(advance=0.5, has={"age": "0"}), hit(advance=1, has={"age": "1"}),
    hit(advance=40, has={"age": "41"}))
row("age-list", "5.1", fetch(ok("max-age=60", ("Age", "30, 9999"))), hit(has={"age": "30"}))
row("age-two-lines", "5.1", fetch(ok("max-age=60", ("Age", "30"), ("Age", "9999"))),
    hit(has={"age": "30"}))
for name, value in (
    ("float", "30.5"), ("negative", "-7200"), ("text", "abc"), ("empty", ""), ("quoted", '"99"'),
    ("parameter", "7200;a=b"),
):
    row(f"age-invalid-{name}", "5.1", fetch(ok("max-age=60", ("Age", value))), hit(has={"age": "0"}))
row("age-passes", "5.1", fetch(ok("no-store", ("Age", "7")), has={"age": "7"}))
