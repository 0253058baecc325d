"""What a node has signed of its answer so far, held against what arrived.

One witness an attempt at an answer, fed with its events in their order. A checkpoint states all tokens that came
before it: those that the node was given, and its own. It must be signed; be for this model, arithmetic, sampler and
nonce; name the very tokens that came, and more of them than the one before; and agree with that one on the signer and
on the commitment to the prompt, which a client can't make itself, as it has no tokenizer. What does not is the node's
doing: an honest one signs what it has sent.

None is owed: who sends none leaves its part unsigned, as it could by signing with a key that nobody knows. So a signer
who is nobody to speak of (`may_sign`) is no fault, either; what it signs is not kept.
"""

from collections.abc import Callable
from dataclasses import dataclass

from crypto.checkable import Signed
from crypto.errors import AuthenticationError, DecodeError
from crypto.identity import NodeId
from overlay.errors import RemoteProtocolError
from overlay.wire.answer import AnswerEvent, CheckpointIssued, TokensGenerated
from overlay.wire.answer_terms import SamplerTerms
from overlay.wire.checkpoint import Checkpoint, OutputHash, decode_checkpoint
from overlay.wire.limits import MAX_CHECKPOINTS
from overlay.wire.prompt import ModelId, Prompt


@dataclass(frozen=True, slots=True)
class SignedPart:
    """The last checkpoint of an attempt, checked. count: so many of the answer's first tokens it covers."""

    signer: NodeId
    count: int
    checkpoint: bytes


class Witness:
    """Keeps the last checkpoint of one attempt. given: the tokens that the node was given."""

    def __init__(
        self,
        prompt: Prompt,
        model_id: ModelId,
        numerics_class: str,
        given: tuple[int, ...],
        may_sign: Callable[[NodeId], bool],
    ) -> None:
        self.signed: SignedPart | None = None
        self._terms = (model_id, numerics_class, SamplerTerms.of(prompt.sampler), prompt.nonce, len(given))
        self._may_sign = may_sign
        self._output = OutputHash(given)
        self._last: tuple[NodeId, Checkpoint] | None = None
        self._seen = 0

    def receive(self, event: AnswerEvent) -> None:
        """Take the attempt's next event. Raises RemoteProtocolError for a checkpoint that does not hold."""
        if isinstance(event, TokensGenerated):
            self._output.add(event.ids)
        elif isinstance(event, CheckpointIssued):
            self._seen += 1
            if self._seen > MAX_CHECKPOINTS:
                raise RemoteProtocolError("more checkpoints than an answer may have")
            self._take(event.checkpoint)

    def _take(self, data: bytes) -> None:
        try:
            signed: Signed[Checkpoint] = decode_checkpoint(data)
            found = signed.check()
        except (DecodeError, AuthenticationError) as error:
            raise RemoteProtocolError(f"a checkpoint that can't be used: {error}") from error
        stated = (found.model_id, found.numerics_class, found.sampler, found.nonce, found.given)
        if stated != self._terms:
            raise RemoteProtocolError("a checkpoint of another answer")
        if (found.count, found.output_hash) != (self._output.count, self._output.digest()):
            raise RemoteProtocolError("a checkpoint of other tokens than came")
        if self._last is not None:
            signer, before = self._last
            if found.count <= before.count:
                raise RemoteProtocolError("a checkpoint without a token since the one before")
            if (signed.signer, found.commitment) != (signer, before.commitment):
                raise RemoteProtocolError("checkpoints that disagree on the signer or the prompt")
        self._last = signed.signer, found
        if self._may_sign(signed.signer):
            self.signed = SignedPart(signed.signer, found.count, data)
