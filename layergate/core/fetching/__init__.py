"""How a missing value is fetched: once, whatever number of calls ask for it.

Every miss of a key is one *flight*: a background task looks into the layers, fetches if they have
nothing fresh, and stores. Callers wait for the flight, they do not run it. So a caller that is
cancelled takes nothing along, even the one that began the flight. The lookup is part of the flight,
so no other caller can start a second fetch between "the layers have nothing" and "I fetch".

A flight carries as its *stamp* the log position at which its fetch began. A caller that came later
than a matching purge does not take the value of that flight. A purge by key, pattern or of
everything turns the caller away when it joins. A purge by tag turns it away at the end, when the
tags are known. Either way the caller waits for a newer flight.

    flights  `Flight`, and `Fetches`: what is under way for one stack
    waits    which fetch waits for which, to find a fetch that waits for itself
    source   calls the user's function
    entries  makes an entry of a value, by the policy
    task     `FetchTask`: the background task of one or several flights
    call     `Call`: one caller, who joins flights and waits for them
    stack    `Fetching`: a `Stack` with these; `layergate.core.loader` is what users see of it
"""

from __future__ import annotations

from layergate.core.fetching.flights import LoadRuntime
from layergate.core.fetching.source import Load
from layergate.core.fetching.stack import Fetching

__all__ = ["Fetching", "Load", "LoadRuntime"]
