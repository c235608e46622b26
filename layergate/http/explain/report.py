"""The values of an explanation: its steps, its conclusion, and the response it may be about.

The modules of this package make them. The admin endpoint and the command line show them, as JSON and as
text. Nothing here looks at a cache.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from layergate.http.message.fields import Lines

__all__ = ["Conclusion", "Explanation", "Response", "Step", "section"]


class Step(NamedTuple):
    """One thing that decides, or helps to decide.

    ``name``     the subject: ``key``, ``rule``, ``layer``, ``decision``, …; see `walk.explain`.
    ``outcome``  the result, in a word or two.
    ``section``  its source: "RFC 9111 section 4.2.1", "LayerGate guarantee G1".
    ``text``     one English sentence.
    ``good``     True if it speaks for an answer from the store, False if it speaks against one, else None.
    ``data``     the facts, as JSON values. Times are in seconds.
    """

    name: str
    outcome: str
    section: str
    text: str
    good: bool | None = None
    data: Mapping[str, Any] = {}


class Conclusion(NamedTuple):
    """The result of all steps.

    ``answer``   ``hit``, ``stale``, ``revalidate``, ``miss``, ``only-if-cached`` (a 504), or ``pass``
                 if the request bypasses the cache.
    ``fwd``      why the request goes forward (RFC 9211 section 2.2), or "" if it does not.
    ``ttl``      the remaining freshness of the stored response in seconds, negative if it is stale.
                 None if nothing is stored for this request.
    ``stored``   whether the response is stored. None if no response was given, or it cannot be said.
    ``refused``  the `NotStored.token` for a response that is not stored, or a request that bypasses the
                 cache; else None.
    ``text``     one English sentence, or several.
    """

    answer: str
    fwd: str
    ttl: int | None
    stored: bool | None
    refused: str | None
    text: str


class Explanation(NamedTuple):
    """The explanation of one request."""

    method: str
    url: str
    steps: tuple[Step, ...]
    conclusion: Conclusion

    def step(self, name: str) -> Step | None:
        """The first step of this name, or None."""
        return next((step for step in self.steps if step.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """A document for `json.dumps`."""
        return {
            "method": self.method,
            "url": self.url,
            "steps": [{**step._asdict(), "data": dict(step.data)} for step in self.steps],
            "conclusion": self.conclusion._asdict(),
        }

    @classmethod
    def of_json(cls, document: Any) -> Explanation:
        """The explanation in a document that `as_json` made, here or in another process. Raises
        ValueError for any other document."""
        try:
            steps = tuple(Step(**step) for step in document["steps"])
            conclusion = Conclusion(**document["conclusion"])
            made = cls(document["method"], document["url"], steps, conclusion)
        except (TypeError, KeyError) as error:
            raise ValueError(f"not an explanation: {error!r}") from None
        texts = [made.method, made.url, conclusion.answer, conclusion.text]
        texts += [part for step in steps for part in step[:4]]
        if not all(isinstance(text, str) for text in texts) or not all(
            isinstance(step.data, dict) and (step.good is None or isinstance(step.good, bool))
            for step in steps
        ):
            raise ValueError("not an explanation: a field has the wrong type")
        return made


class Response(NamedTuple):
    """The head of a response to the request.

    ``took``      how long the response took to arrive, in seconds.
    ``trailers``  True if trailer fields were announced.
    """

    status: int
    lines: Lines
    took: float = 0.0
    trailers: bool = False


def section(rfc: str) -> str:
    """`NotStored.rfc` in words: a guarantee, or a section of the RFC it names, by default RFC 9111."""
    if re.fullmatch(r"G[0-9]+", rfc):
        return f"LayerGate guarantee {rfc}"
    name, _, number = rfc.rpartition(" ")
    return f"{name or 'RFC 9111'} section {number}"
