"""RFC 9110 section 12.5.4, Accept-Language: the option ``language_match``."""

from __future__ import annotations

from typing import Any

from tests.scenarios.dsl import AUTH, COOKIE, ETAG, INM, TWO, cc, fetch, field, hit, ok, purge, row
from tests.scenarios.model import Reply

# A row a line, or a few: the formatter would make a page of each.
# fmt: off

# -- which stored language a client takes ----------------------------------------------------------

LANG = ("Vary", "Accept-Language")


def al(value: str) -> tuple[str, str]:
    return ("Accept-Language", value)


def german(cc: str = "max-age=60", *lines: tuple[str, str], tag: str | None = "de", vary: str = "Accept-Language") -> Reply:
    return ok(cc, ("Vary", vary), *(() if tag is None else (("Content-Language", tag),)), *lines)


row("lang-order", "RFC 9110 12.5.4", fetch(german(), al("en, de")), fetch(TWO, al("de, en")))
row("lang-order-off", "RFC 9110 12.5.4", fetch(german(), al("en, de")), hit(b"one", al("de, en")), hit(b"one", al("DE;q=1,en")),
    fetch(TWO, al("de, en;q=0.9")), language_order=False)
row("lang-order-off-weights", "RFC 9110 12.5.4", fetch(german(), al("fr;q=0.5, en, de")), hit(b"one", al("de, en, fr;q=0.5")),
    fetch(TWO, al("de, en;q=0.5, fr")), language_order=False)
ACCEPT = ("Vary", "Accept")
row("lang-order-off-is-not-about-media-types", "RFC 9110 12.5.4", fetch(ok("max-age=60", ACCEPT), ("Accept", "text/html, text/plain")),
    fetch(TWO, ("Accept", "text/plain, text/html")), language_order=False)
MATCH: dict[str, Any] = {"language_match": True}


def spoken(id_: str, reply: Reply, *headers: tuple[str, str], asked: tuple = (al("en, de"),), **kw: Any) -> None:
    """Stored for ``asked``, and used for a request with these headers."""
    row(f"lang-{id_}", "RFC 9110 12.5.4", fetch(reply, *asked), hit(b"one", *headers), hit(b"one", *asked), **MATCH, **kw)


def not_spoken(id_: str, reply: Reply, *headers: tuple[str, str], asked: tuple = (al("en, de"),), **kw: Any) -> None:
    row(f"lang-not-{id_}", "RFC 9110 12.5.4", fetch(reply, *asked),
        fetch(german(), *headers, cs={"fwd": "vary-miss"}), **{**MATCH, **kw})


for value in ("de", "de;q=0.1", "fr;q=0.5, de;q=1.0", "de, *;q=0.5", "DE,en;q=0.9", "de,de-AT;q=0.9,en;q=0.9", "fr;q=0, de;q=0.001"):
    spoken(f"prefers-{value}", german(), al(value))
for value in ("de, fr", "*", "de, *", "de-AT", "de-AT, de;q=0.9", "fr, de;q=0.9", "de;q=0", "de;q=2", "de;x=1", "de;q=1;x=1",
              "d\xe9", "", ",", "de, de", "x" * 1100 + ";q=0.1, de", "de_DE", "toolonglanguage"):
    not_spoken(f"prefers-{value[:20]}", german(), al(value))
not_spoken("silent", german())
not_spoken("without-the-option", german(), al("de"), language_match=False)
for tag in (None, "de-AT", "de, en", "en", "", "*", "german-language"):
    not_spoken(f"content-{tag}", german(tag=tag), al("de"))
spoken("content-case", german(tag="DE-at"), al("de-AT"))
BOTH_VARY = {"vary": "Accept-Language, X-A"}
spoken("others-agree", german(**BOTH_VARY), al("de"), ("X-A", "1"), asked=(al("en, de"), ("X-A", "1")))
not_spoken("others-differ", german(**BOTH_VARY), al("de"), ("X-A", "2"), asked=(al("en, de"), ("X-A", "1")))
not_spoken("others-absent", german(**BOTH_VARY), al("de"), asked=(al("en, de"), ("X-A", "1")))
not_spoken("authorization", german(), al("de"), AUTH)
not_spoken("cookie-varies", german(vary="Accept-Language, Cookie"), al("de"), COOKIE)
row("lang-not-other-vary", "RFC 9110 12.5.4", fetch(german(vary="X-A"), ("X-A", "1"), al("en, de")), fetch(TWO, ("X-A", "2"), al("de")), **MATCH)
row("lang-stale", "RFC 9110 12.5.4", fetch(german("max-age=10, stale-while-revalidate=60", ETAG), al("en, de")),
    fetch(german(), al("de"), advance=20, saw={"if-none-match": None}), **MATCH)
row("lang-no-cache", "RFC 9110 12.5.4", fetch(german("no-cache", ETAG), al("en, de")), fetch(german(), al("de"), saw={"if-none-match": None}), **MATCH)
row("lang-request-no-cache", "RFC 9110 12.5.4", fetch(german("max-age=60", ETAG), al("en, de")),
    fetch(german(), al("de"), cc("no-cache"), saw={"if-none-match": None}), **MATCH)
row("lang-purged", "RFC 9110 12.5.4", fetch(german(), al("en, de")), hit(b"one", al("de")), purge(), fetch(german(), al("de")), **MATCH)
row("lang-own-first", "RFC 9110 12.5.4", fetch(german(), al("en, de")), fetch(ok("max-age=60", LANG, ("Content-Language", "en"), body=b"own"), al("en")),
    hit(b"own", al("en")), hit(b"one", al("en, de")), hit(b"one", al("de")), **MATCH)
row("lang-most-recent", "RFC 9110 12.5.4", fetch(german(), al("en, de")), fetch(ok("max-age=60", LANG, ("Content-Language", "de"), body=b"new"), al("fr, de")),
    hit(b"new", al("de")), **MATCH)
row("lang-head-304", "RFC 9110 12.5.4", fetch(german("max-age=60", ETAG), al("en, de")), hit(b"", al("de"), method="HEAD"),
    hit(b"", al("de"), INM, status=304), **MATCH)
row("lang-only-if-cached", "RFC 9110 12.5.4", fetch(german(), al("en, de")), hit(b"one", al("de"), cc("only-if-cached")), **MATCH)
row("lang-marker", "G4", fetch(german(), al("en, de")), fetch(ok("no-store", LANG), al("fr")), hit(b"one", al("de")), **MATCH)

# -- in no other field may what is stored differ, by the most recent Vary --------------------------

BY_LANGUAGE, BY_MORE = field("Accept-Language", name="Vary"), field("Accept-Language, X-Region", name="Vary")
EN_DE, LIKES_DE = field("en, de", name="Accept-Language"), field("de;q=1.0, fr;q=0.5", name="Accept-Language")
GERMAN = ("Content-Language", "de")
for name_, region, found in (("other", "2", False), ("same", "1", True)):
    row(f"language-by-more-{name_}", "4.1, G1", fetch(ok("max-age=60", *BY_MORE, GERMAN), *EN_DE, ("X-Region", "1")),
        hit(b"one", *LIKES_DE, ("X-Region", region)) if found else fetch(TWO, *LIKES_DE, ("X-Region", region)), language_match=True)
row("language-not-by-an-older-vary", "4.1, G1", fetch(ok("max-age=60", *BY_LANGUAGE, GERMAN), *EN_DE),
    fetch(ok("max-age=60", *BY_MORE, body=b"fr"), *field("fr", name="Accept-Language"), ("X-Region", "1")),
    fetch(TWO, *LIKES_DE, ("X-Region", "2")), language_match=True)
