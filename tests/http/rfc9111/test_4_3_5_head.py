"""RFC 9111 section 4.3.5: whether a 200 to HEAD freshens a stored response to GET.

"if the stored response and HEAD response have matching values for any received validator fields
(ETag and Last-Modified) and, if the HEAD response has a Content-Length header field, the value of
Content-Length matches that of the stored response"
"""

import pytest

from layergate.http.message.fields import Fields
from layergate.http.rfc9111.validation import head_matches

TAG, OTHER = (b"ETag", b'"a"'), (b"ETag", b'"b"')
LM = (b"Last-Modified", b"Tue, 14 Nov 2023 22:13:20 GMT")
LM2 = (b"Last-Modified", b"Tue, 14 Nov 2023 22:13:21 GMT")
LM_ASCTIME = (b"Last-Modified", b"Tue Nov 14 22:13:20 2023")


def length(value: bytes) -> tuple[bytes, bytes]:
    return (b"Content-Length", value)


ROWS = [
    ("nothing-received", [TAG, LM, length(b"3")], [], None, True),
    ("other-fields", [TAG], [(b"x", b"1")], None, True),
    ("etag-same", [TAG], [TAG], None, True),
    ("etag-other", [TAG], [OTHER], None, False),
    ("etag-weakened", [TAG], [(b"etag", b'W/"a"')], None, False),
    ("etag-not-stored", [], [TAG], None, False),
    ("modified-same", [LM], [LM], None, True),
    ("modified-same-other-format", [LM], [LM_ASCTIME], None, True),
    ("modified-other", [LM], [LM2], None, False),
    ("modified-not-stored", [TAG], [LM], None, False),
    ("one-of-two-other", [TAG, LM], [TAG, LM2], None, False),
    ("length-same", [length(b"3")], [length(b"3")], None, True),
    ("length-other", [length(b"3")], [length(b"4")], None, False),
    ("length-other-same-tag", [TAG, length(b"3")], [TAG, length(b"4")], None, False),
    ("length-not-stored", [TAG], [TAG, length(b"3")], None, False),
    ("length-of-body", [], [length(b"3")], 3, True),
    ("length-of-body-other", [length(b"4")], [length(b"4")], 3, False),
    ("length-of-body-zero", [], [length(b"0")], 0, True),
    ("length-garbage", [], [length(b"x")], 3, False),
    ("length-twice", [], [length(b"3"), length(b"3")], 3, False),
]


@pytest.mark.parametrize(
    ("stored", "head", "body", "expected"),
    [pytest.param(*row[1:], id=f"4.3.5-{row[0]}") for row in ROWS],
)
def test_head_matches(stored, head, body, expected):
    assert head_matches(Fields(stored), Fields(head), stored_length=body) is expected
