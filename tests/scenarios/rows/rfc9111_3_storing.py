"""RFC 9111 section 3, Storing Responses in Caches."""

from __future__ import annotations

from tests.scenarios.dsl import (
    ETAG,
    OLD,
    fetch,
    hit,
    not_reused,
    ok,
    reused,
    row,
    unchanged,
    validated,
)

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

for status in (200, 203, 204, 299, 300, 301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 409, 410,
               414, 418, 451, 499, 500, 501, 502, 503, 504, 599):
    body = b"" if status == 204 else b"one"
    reused(f"status-{status}", "3", ok("max-age=60", status=status, body=body))
for status in (201, 202, 302, 303, 307, 403, 500, 503, 599):
    not_reused(f"status-{status}-none", "3", ok(status=status))
for status in (408, 412, 416, 417, 425, 426, 428, 429, 431, 511):
    not_reused(f"status-{status}-one-request", "RFC 6585, 9110", ok("max-age=60", status=status),
               detail="status")
not_reused("status-304-unasked", "3", unchanged("max-age=60"), detail="not-modified")
row("public-validates", "3, 4.3", fetch(ok("public", ETAG)), validated(unchanged(), advance=1))
row("body-empty", "3", fetch(ok("max-age=60", body=b"")), hit(b""))
row("body-chunks", "3", fetch(ok("max-age=60", body=b"0123456789", chunks=4)), hit(b"0123456789"))

# -- which validators are sent ---------------------------------------------------------------------

# What is said of one request says nothing of what is stored.
for status in (429, 408, 428, 431):
    row(f"{status}-keeps-stored", "3, RFC 6585", fetch(OLD),
        fetch(ok(status=status, body=b"wait"), advance=10),
        validated(unchanged(), saw={"if-none-match": '"abc"'}))
