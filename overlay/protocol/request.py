"""The client's side of a prompt: sealed cloves, one for each path, and the updates that follow them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from crypto.dispersal import MID_BYTES, Clove, clove_bytes, split
from crypto.entropy import Entropy
from crypto.sealed import SEALED_OVERHEAD_BYTES
from overlay.errors import LocalProtocolError
from overlay.protocol.answer_cell import AnswerTerms
from overlay.protocol.envelope import (
    EPOCH_BYTES,
    SealingTarget,
    close_update,
    seal_clove,
    seal_update,
    update_key,
)
from overlay.wire.limits import MAX_PATHS, MAX_PROMPT_LIFETIME_S, MAX_SEALED_BYTES
from overlay.wire.prompt import Prompt, PromptMessage, ReplyPath
from overlay.wire.prompt_codec import SECRET_BYTES, encode_prompt_message
from overlay.wire.update import MAX_PATH_NUMBER, NumberedPath, Update

UPDATE_COPIES = 2
"""An update goes over this many paths, as far as there are so many: it may meet a dead one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestTerms:
    """How a prompt is sent: any k of its cloves suffice, and who else may see or keep it."""

    k: int = 2
    lifetime_s: int = MAX_PROMPT_LIFETIME_S
    forward: Literal["none", "group"] = "none"
    cache: Literal["none", "session", "public"] = "session"


@dataclass(slots=True)
class Request:
    """One prompt on its way, and the paths of its answer as they are now.

    `message` holds what the author may need later (the blinding for an audit). Path numbers are those of the
    AnswerReceiver: path i carries clove i and fragment i; p + n replaces p.
    """

    mid: bytes
    message: PromptMessage
    target: SealingTarget
    terms: AnswerTerms
    _cloves: list[Clove] = field(repr=False)
    _paths: list[NumberedPath] = field(repr=False)
    _next_sequence: int = 0

    def clove(self, index: int) -> bytes:
        """The sealed clove for path `index`, 0..n-1, sealed afresh at each call; goes out over that path."""
        return seal_clove(self.target, self._cloves[index])

    def cloves(self) -> tuple[bytes, ...]:
        """All n sealed cloves, in the order of the paths."""
        return tuple(seal_clove(self.target, clove) for clove in self._cloves)

    def replace_path(self, number: int, reply: ReplyPath) -> int:
        """Puts a new path in the place of `number`; returns its number. Then tell receiver and model node."""
        if self._paths[number % self.terms.n].number != number:
            raise LocalProtocolError(f"path {number} is not in use")
        replacement = number + self.terms.n
        if replacement > MAX_PATH_NUMBER:
            raise LocalProtocolError("this answer has used up its path numbers")
        self._paths[number % self.terms.n] = NumberedPath(replacement, reply.proxy, reply.token)
        return replacement

    @property
    def path_numbers(self) -> tuple[int, ...]:
        """The numbers of the paths in use, in the order of their fragments."""
        return tuple(path.number for path in self._paths)

    def current_update(self, have: int, *, stalled: bool = False, cancel: bool = False) -> Update:
        """What an update would say now."""
        return Update(have=have, paths=tuple(self._paths), stalled=stalled, cancel=cancel)

    def update(
        self, have: int, *, stalled: bool = False, cancel: bool = False, copies: int = UPDATE_COPIES
    ) -> tuple[bytes, ...]:
        """Envelopes that say how the paths are now, one a path; one that arrives is enough.

        have: of the receiver. stalled: after BlocksMissing. cancel: nothing more is wanted.
        """
        update = self.current_update(have, stalled=stalled, cancel=cancel)
        sealed = close_update(update_key(self.terms), self.mid, self._next_sequence, update)
        self._next_sequence += 1
        return tuple(seal_update(self.target, sealed) for _ in range(copies))


def open_request(
    prompt: Prompt,
    paths: Sequence[ReplyPath],
    target: SealingTarget,
    terms: RequestTerms,
    *,
    unix_time: float,
    entropy: Entropy,
    session: bytes = b"",
    given: tuple[int, ...] = (),
) -> Request:
    """Makes a request of a prompt. Raises LocalProtocolError where it can't be sent (too long, bad k).

    session: the name (`SessionNames`) that goes with it where the terms say that it may share with its session.
    given: ids of the answer's first tokens, where another node has begun it.
    """
    if not 1 <= terms.k <= len(paths) <= MAX_PATHS:
        raise LocalProtocolError(f"{terms.k} of {len(paths)} paths: n is at most {MAX_PATHS}, k at most n")
    if not 0 < terms.lifetime_s <= MAX_PROMPT_LIFETIME_S:
        raise LocalProtocolError(f"a prompt lives at most {MAX_PROMPT_LIFETIME_S} s, not {terms.lifetime_s}")
    message = PromptMessage(
        prompt=prompt,
        expires_unix=int(unix_time) + terms.lifetime_s,
        response_secret=entropy(SECRET_BYTES),
        blinding=entropy(SECRET_BYTES),
        paths=tuple(paths),
        k=terms.k,
        forward=terms.forward,
        cache=terms.cache,
        session=session if terms.cache == "session" else b"",
        given=given,
    )
    encoded = encode_prompt_message(message)
    if EPOCH_BYTES + SEALED_OVERHEAD_BYTES + 1 + clove_bytes(len(encoded), terms.k) > MAX_SEALED_BYTES:
        raise LocalProtocolError(f"the prompt is too long for k = {terms.k}; a larger k makes cloves shorter")
    mid = entropy(MID_BYTES)
    numbered = [NumberedPath(index, path.proxy, path.token) for index, path in enumerate(paths)]
    return Request(
        mid=mid,
        message=message,
        target=target,
        terms=AnswerTerms(target.node_id, message.response_secret, terms.k, len(paths)),
        _cloves=split(encoded, terms.k, len(paths), mid=mid, entropy=entropy),
        _paths=numbered,
    )
