"""RFC 9111 section 3.5: responses to requests that carry Authorization.

"A shared cache MUST NOT use a cached response to a request with an Authorization header field ...
to satisfy any subsequent request unless the response contains a Cache-Control field with a response
directive ... that allows it to be stored by a shared cache".
"""

import pytest

from layergate.http.message.cache_control import EMPTY, parse_cache_control
from layergate.http.message.fields import Fields
from layergate.http.rfc9111.storing import NotStored, authorization_allows, may_store

EXPIRES = b"Thu, 18 Aug 2050 02:01:18 GMT"

# "must-revalidate (Section 5.2.2.2), public (Section 5.2.2.9), and s-maxage (Section 5.2.2.10)"
ROWS = [
    ("expires", b"", False),
    ("max-age", b"max-age=3600", False),
    ("public", b"max-age=3600, public", True),
    ("must-revalidate", b"max-age=3600, must-revalidate", True),
    ("s-maxage", b"s-maxage=3600", True),
    ("s-maxage-0", b"s-maxage=0", True),
    ("s-maxage-unusable", b"s-maxage=x, max-age=60", False),
    ("proxy-revalidate", b"max-age=3600, proxy-revalidate", False),
    ("no-cache", b"no-cache", False),
    ("public-malformed", b"public=1, max-age=60", False),
    ("public-in-quotes", b'x="public, s-maxage=60", max-age=60', False),
]


@pytest.mark.parametrize(
    ("value", "allowed"), [pytest.param(*row[1:], id=f"3.5-{row[0]}") for row in ROWS]
)
def test_stored_only_if_allowed(value, allowed):
    cc = parse_cache_control(value)
    refused = may_store(
        method="GET",
        request_fields=Fields([(b"Authorization", b"Basic eDp5")]),
        request_cc=EMPTY,
        status=200,
        fields=Fields([(b"Cache-Control", value), (b"Expires", EXPIRES)]),
        cc=cc,
        explicit_lifetime=False,
    )
    assert authorization_allows(cc) is allowed
    assert refused is (None if allowed else NotStored.AUTHORIZATION)


@pytest.mark.parametrize(
    ("value", "by_rule", "expected"),
    [
        pytest.param(b"", False, NotStored.AUTHORIZATION, id="3.5-lifetime-of-the-caller"),
        pytest.param(b"", True, None, id="3.5-rule-allows"),
        pytest.param(b"private", True, NotStored.PRIVATE, id="3.5-rule-does-not-allow-private"),
        pytest.param(b"public, private", False, NotStored.PRIVATE, id="3.5-private-overrules"),
        pytest.param(b"public, no-store", False, NotStored.NO_STORE, id="3.5-no-store-overrules"),
    ],
)
def test_what_else_decides(value, by_rule, expected):
    refused = may_store(
        method="GET",
        request_fields=Fields([(b"authorization", b"")]),
        request_cc=EMPTY,
        status=200,
        fields=Fields([(b"cache-control", value)]),
        cc=parse_cache_control(value),
        explicit_lifetime=True,
        allow_authorization=by_rule,
    )
    assert refused is expected
