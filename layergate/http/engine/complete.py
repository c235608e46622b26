"""Complete: whether a part that the origin sent completes what is stored (RFC 9111 3.4).

`receive` asks for the response of a fetch, and `explain` for one that it is asked about. Nothing is
changed here.
"""

from __future__ import annotations

from layergate.http.engine.engine import Engine
from layergate.http.engine.exchange import Exchange
from layergate.http.engine.keys import place_of
from layergate.http.engine.plan import Planned, plan_response
from layergate.http.message.fields import Fields
from layergate.http.message.stored import StoredResponse
from layergate.http.rfc9111.decision import answers
from layergate.http.rfc9111.selecting import varies_on_more, vary_names, with_vary
from layergate.http.rfc9111.storing import NotStored

__all__ = ["plan_completion"]


def plan_completion(
    engine: Engine, exchange: Exchange, fields: Fields, now: float, *, trailers: bool = False
) -> Planned | None:
    """How the part with these fields, which is to complete what is stored, is to be stored; None if it
    does not complete that."""
    asked = exchange.asked
    rest = asked.rest
    assert rest is not None
    planned = plan_response(engine, exchange, 206, fields, now, trailers=trailers)
    plan, part, _ = planned
    stored: StoredResponse = rest.entry.value
    if (
        isinstance(plan, NotStored)
        or part is None
        or not answers(asked.request, stored)  # by now its user may be known
        # One of them is for requests that the other is not for.
        or varies_on_more(stored.fields, Fields(plan.lines))
        or not rest.brought_by(part)
        or not engine.stack.admits(asked.storage_key, rest.entry)
        # By its No-Vary-Search it belongs where the rest is from.
        or place_of(engine.settings, asked.request, plan).primary != asked.primary
    ):
        return None
    # For whom it is: what is stored and what comes must both allow it. It is selected by all that
    # what is stored is selected by, for its octets are a part of the answer.
    vary = vary_names(stored.fields) or ()
    plan = plan._replace(
        vary=vary,
        names=engine.settings.forwarding.selecting(vary, asked.request.fields.names()),
        lines=with_vary(plan.lines, vary),
        without_credentials_only=plan.without_credentials_only or stored.without_credentials_only,
        shared_with_authorization=plan.shared_with_authorization
        and stored.shared_with_authorization,
        shared_with_users=plan.shared_with_users and stored.shared_with_users,
    )
    return planned._replace(plan=plan)
