"""The rules that make a purge final on nothing but cells, each as one small function, and their proof.

`layergate.shared.ledger.journal` asks these functions at every turn; nothing here does I/O or reads a
clock. Durations are in seconds on the monotonic clock of the process that asks. No clock of a server
is used, and no two clocks are compared.

Words
-----
The *head* is one cell. It holds the incarnation of the log, the period T for which an instance may
trust what it has read, the last records, and the members: the instances that a purge waits for. A
member writes its *acknowledgement* (incarnation, position, tip) to a cell of its own. A *look* is a
load of the head, followed by a read of the store's epoch if the store has epochs.

The protocol
------------
*Sync.* An instance acknowledges what it has applied, looks, and applies every record it finds there.
If the head that it found lists it as a member without a mark, it is *trusted* until T after the sync
was **sent**. If not, it swaps itself into the list, or its mark out of it, and looks again.

*Purge.* The purging process swaps a record R into the head. R is *final* when a look finds R in the
log, the incarnation is *settled*, and either every member in that head has acknowledged R, or T has
passed since the swap returned.

Claim
-----
R is final at the moment f, by a look that found the head V' of incarnation I. At t >= f an instance M
is trusted, by a sync sent at s that found the head V at the moment r, so s <= r and t < s + T. Then M
has applied R, or holds nothing that was fetched before R was appended.

Proof
-----
Let w be the moment at which R was swapped in. Heads of one incarnation only ever gain records.

1. *V is of I, and r > w.* Then R is in V, and M was trusted only after it had applied all of V; or
   records between were not to be had any more, and M dropped everything.
2. *V is of I, and r < w.* In V, M was a member without a mark. In V', found after w, M is one of these:

   - *Waited for, and it has acknowledged R.* It does so only for what it has applied. The
     acknowledgement counts only if its tip is in the history that V' confirms (`counts`), so it does not
     speak of another history that had the same position.
   - *Waited for, and it has not.* Then T has passed since the swap returned, by the purger's clock
     and with a margin (`waited_out`): f > w + T > r + T > t. Contradiction.
   - *Not waited for, as it is marked.* Its mark is newer than V, or M would not have been trusted by V
     (`must_clear`). A process has known the mark for T, with a margin (`is_out`), so M's trust had
     ended at f. Contradiction.
   - *Not in the list.* It left, and dropped its trust before that; or it was taken off, which takes a
     mark that a process has known for T. Contradiction.
3. *V is of an incarnation before I.* I is settled at f: a process has known I for as long as any
   instance may trust an earlier incarnation (`settle_after`, `is_settled`). So f > r + T. Contradiction.
4. *V is of an incarnation after I.* V was founded after V' was found, hence after w. When M moved to
   it, M dropped everything unless it was trusted at that moment; and if it was trusted, that was by an
   earlier V, to which 1 to 3 apply.

*When the store loses writes.* The proof takes the head for one cell with one history. A store that
fails over or is restored may go back. If it has epochs, a look reads the epoch **after** the head and
founds a new incarnation unless the head was founded under this epoch (`same_epoch`): so the heads of all
successful looks of one incarnation are of one history. That is why a swap alone founds no trust, and
why R is only final after another look. Without epochs, a process whose own position is not in the
head founds a new incarnation (`continues`); a loss that no living process can see is not covered, and
neither is a store that is two at once (split brain).

*Tags.* A swap must fail if the cell was changed, removed, or lost since it was loaded. Else a process
that stood still could put an old head back. So a tag never repeats for a name (`Cells`).

*Mode plain.* Where writes are expensive there are no members and no acknowledgements: case 2 is only
its second item, and every purge takes T.

What is not covered
-------------------
- Asynchronous failover of a store without epochs, and split brain.
- Instances that are configured with different T at a moment when the head is lost and a process that
  never saw it founds the next one: it can only wait for the T that it knows. As long as the head
  exists its T counts for all, whatever they are configured with (`term_of`).
- Clocks whose rates differ by more than `MARGIN`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from layergate.shared.ledger.head import Acknowledgement, Chain, Head, Member, Mode
from layergate.shared.ledger.trail import Trail

__all__ = [
    "MARGIN",
    "continues",
    "counts",
    "is_out",
    "is_settled",
    "mode_of",
    "must_clear",
    "same_epoch",
    "settle_after",
    "stood_still",
    "term_of",
    "waited_out",
]

MARGIN: Final = 1.05
"""How much longer a process waits on its own clock than another one trusts on its own. So the rates of
two clocks may differ by a twentieth."""


def term_of(head: Head, configured: float) -> float:  # noqa: ARG001 - what the rule says
    """T stands in the head, and every process adopts it.

    Without this, a purger configured with T = 0.2 would not wait for a member that trusts for T = 5.
    """
    return head.term


def mode_of(head: Head, configured: Mode) -> Mode:  # noqa: ARG001 - what the rule says
    """The mode stands in the head, and every process adopts it.

    Without this, a purger that counts members would not wait for an instance that is none.
    """
    return head.mode


def settle_after(term: float, before: Sequence[Head]) -> float:
    """How long an incarnation has to be known before a purge in it is final. ``term``: its own T.
    ``before``: the heads that its founder has known.

    Instances that have not seen the new incarnation yet may trust an older one, for as long as that one
    allowed.
    """
    longest = term
    for head in before:
        longest = max(longest, head.term, 0.0 if head.settled else head.settle)
    return longest


def is_settled(head: Head, known_for: float) -> bool:
    """No instance trusts an earlier incarnation any more. ``known_for``: how long this process has
    known this one.

    Without this, a purge right after the head was lost would not wait for instances that have not
    noticed the loss.
    """
    return head.settled or known_for >= head.settle * MARGIN


def continues(chain: Chain, position: int, tip: bytes | None) -> bool:
    """The records that were found continue the history that was known up to ``position`` when the load
    was sent. ``tip``: of that history there; None if it is not known.

    If not, the store went back, and purges after the point to which it went back are lost with all
    that was known of them. The log begins anew.
    """
    there = chain.tip_at(position)
    return position <= chain.position and (there is None or tip is None or there == tip)


def same_epoch(head: Head, epoch: bytes) -> bool:
    """The store has lost nothing since the head was founded. ``epoch`` was read **after** the head.

    Read before, it could be the epoch of a server that was replaced by one with an older head.
    """
    return head.epoch == epoch


def counts(acknowledgement: Acknowledgement, trail: Trail, position: int) -> bool:
    """The acknowledgement says that its writer has applied ``position`` of this history. ``trail``:
    the history, confirmed by a look that came **after** the acknowledgement was loaded.

    Without the tip, a member that was ahead of a failover would have acknowledged whatever records
    come to stand at these positions afterwards.
    """
    return (
        acknowledgement.log == trail.log
        and acknowledgement.position >= position
        and trail.tip_at(acknowledgement.position) == acknowledgement.tip
    )


def must_clear(member: Member) -> bool:
    """The member has to take its mark away, and look again, before it trusts anything.

    A purge may not have waited for it.
    """
    return bool(member.mark)


def is_out(member: Member, known_for: float, term: float) -> bool:
    """The member's trust is over, so no purge waits for it, and it is taken off the list. ``known_for``:
    how long this process has known its mark."""
    return bool(member.mark) and known_for >= term * MARGIN


def waited_out(since: float, term: float) -> bool:
    """The trust of every instance that has not read a record is over. ``since``: seconds since the
    swap of that record returned."""
    return since >= term * MARGIN


def stood_still(since: float, term: float) -> bool:
    """A lease has run out. ``since``: for how long this process has seen it without a change.

    Without this, a holder that is alive and renews its lease would lose it.
    """
    return since >= term * MARGIN and not math.isinf(term)
