"""RFC 9110 sections 5.3, Field Order, 5.6.7, Date/Time Formats, and 6.6.1, Date."""

from __future__ import annotations

from tests.scenarios.dsl import DAY, fetch, hit, not_reused, ok, reused, row
from tests.scenarios.model import at

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

for name, value in (
    ("rfc850", "Tuesday, 14-Nov-23 22:14:20 GMT"),
    ("asctime", "Tue Nov 14 22:14:20 2023"),
    ("lower-case", "tue, 14 nov 2023 22:14:20 gmt"),
):
    reused(f"expires-{name}", "RFC 9110 5.6.7", ok(None, ("Expires", value), DAY), after=59)
reused("cc-two-lines", "RFC 9110 5.3", ok("public", ("Cache-Control", "max-age=60")), after=59)
not_reused("cc-two-lines-no-store", "RFC 9110 5.3", ok("max-age=60", ("Cache-Control", "no-store")),
           detail="no-store")
row("date-unchanged", "RFC 9110 6.6.1", fetch(ok("max-age=60", DAY)),
    hit(advance=20, has={"date": at(0)}))
