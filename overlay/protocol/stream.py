"""The stream of an answer from a model node to a client: both machines, and how they work together.

Theory of operation
-------------------
An answer is a stream of bytes (`wire/answer_codec.py`: events, each behind its length) from one
AnswerSender to one AnswerReceiver over n paths, any k of which suffice. Nothing but cells of one size, at
one pace, ever shows.

**Pace.** From the prompt's acceptance on, every living path carries one cell a tick, whether the model is
queued, reads the prompt or writes. The stream's bytes since the last tick, at most k times FRAGMENT_BYTES,
are the next *block*, dispersed k of n; where there is none the cells are dummies, which say how many blocks
there are so far. A backlog that tokens can't make (a receipt can) is sent in *bulk runs*: BULK_CELLS cells
a path and tick for BULK_TICKS ticks, filled up with dummies, so a watcher sees how many runs there were,
not what was in them. After the last block dummies go on to a duration out of a short row, then the sender
*lingers*, silent, for repairs.

    RUNNING --last block sent--> TAIL --bucket full--> LINGER --LINGER_S--> DONE
    any --cancel, or no living path for DEAD_TIMEOUT_S--> DONE

All answers of a node tick together, on multiples of TICK_S of its clock: cells for one proxy then leave in one
write, and go on together from hop to hop, which costs a relay a fraction of what single cells do. The clock's zero
is random for each run of a process (trio's is), so the phase says nothing.

**Two numberings.** Blocks are numbered over the whole answer, inside the ciphertext. Cells are numbered on
each path, in clear, and that number is the nonce: a fragment sent again is a new cell. Path p carries
fragment p mod n; the path that replaces it is p + n and has a key of its own, so a number names one circuit
for ever.

**Repair.** The sender keeps every block that the client has not said it has. An update lists the client's
paths as they are now and `have`. A number higher than the one in use replaces that path; everything from
`have` on goes over the new one, a few cells a tick. Numbers and `have` only grow, so updates may be lost,
doubled or reordered. `stalled` asks for the same on all living paths.

**What goes wrong, and who says so.** A cell that does not open: PathFaulty. No cell for 1.5 s while others
deliver: PathSilent. One in twenty missing: PathLossy. The caller replaces such a path; cells that open are
good wherever they come from. A block that stays incomplete: BlocksMissing. No cell at all, or dummies for
ever: AnswerTimedOut. Cells that open and make no sense can only be the model node's: AnswerMalformed. The
sender learns of dead paths from proxies; with none left and no update it gives up: AnswerAbandoned.

**Invariants.** The events given out are a prefix of those written, in order, each once. A key and a
sequence seal one plaintext. What either machine holds is bounded. After AnswerEnded, AnswerTimedOut or
AnswerMalformed a receiver gives out nothing; after AnswerClosed a sender sends nothing.
"""

from overlay.protocol.answer_cell import FRAGMENT_BYTES, AnswerTerms
from overlay.protocol.answer_receiver import (
    AnswerEnded,
    AnswerMalformed,
    AnswerReceiver,
    AnswerTimedOut,
    AnswerTiming,
    BlocksMissing,
    PathFaulty,
    PathLossy,
    PathSilent,
    ReceiverEvent,
)
from overlay.protocol.answer_sender import (
    TICK_S,
    AnswerAbandoned,
    AnswerClosed,
    AnswerSender,
    SendAnswerCell,
    SenderOutput,
)

__all__ = [
    "FRAGMENT_BYTES",
    "TICK_S",
    "AnswerAbandoned",
    "AnswerClosed",
    "AnswerEnded",
    "AnswerMalformed",
    "AnswerReceiver",
    "AnswerSender",
    "AnswerTerms",
    "AnswerTimedOut",
    "AnswerTiming",
    "BlocksMissing",
    "PathFaulty",
    "PathLossy",
    "PathSilent",
    "ReceiverEvent",
    "SendAnswerCell",
    "SenderOutput",
]
