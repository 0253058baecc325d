"""Asking a model node anonymously: a prompt out over n circuits, its answer back over the same.

`Client.complete` chooses a model node, takes n open circuits to it, seals and splits the prompt, and gives the
`Answering` that reads what comes back.
"""

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import trio

from crypto.entropy import Entropy
from crypto.identity import NodeId
from crypto.sealed import SealingPublicKey
from overlay.client.answering import Answering, reply_path
from overlay.client.circuit_pool import CircuitPool
from overlay.client.circuit_set import CircuitSet
from overlay.client.completion import Completion
from overlay.client.pooled_circuit import PooledCircuit
from overlay.errors import AnswerError, LocalProtocolError
from overlay.protocol.envelope import SealingTarget
from overlay.protocol.request import RequestTerms, open_request
from overlay.protocol.session import SessionNames
from overlay.protocol.stream import (
    AnswerReceiver,
    AnswerTiming,
)
from overlay.protocol.witness import Witness
from overlay.routing.draw import draw_below
from overlay.transport.switch import Switch
from overlay.wire.answer import BUSY
from overlay.wire.descriptor import Descriptor, ModelOffer
from overlay.wire.limits import MESSAGE_BYTES
from overlay.wire.prompt import Cache, Prompt

CIRCUITS_TIMEOUT_S = 20.0
MAX_TRIES = 3
"""Model nodes that are tried in turn until one begins to answer."""
SHUNNED_S = 60.0
"""A model node that could not be reached or fell silent is asked again only after this, unless it is the only one."""
_ELSEWHERE = frozenset(
    {
        "model_node_unreachable",
        "model_node_silent",
        "model_node_lost",
        "answer_malformed",
        "answer_cut_short",
        "draining",
        "engine_down",
        "engine_failed",
        "member_lost",
        BUSY,
    }
)
"""Failures of a node rather than of the prompt: another one may do better."""


@dataclass(frozen=True, slots=True)
class ClientTerms:
    """What holds for every prompt of this client. network is part of what a prompt is sealed to."""

    network: bytes
    request: RequestTerms
    timing: AnswerTiming


class Client:
    """Sends prompts of this node to model nodes of the directory."""

    def __init__(
        self,
        switch: Switch,
        pool: CircuitPool,
        terms: ClientTerms,
        *,
        entropy: Entropy,
        unix_time: Callable[[], float],
    ) -> None:
        self.pool = pool
        self._switch = switch
        self._terms = terms
        self._entropy = entropy
        self._unix_time = unix_time
        self._sessions = SessionNames(entropy)
        self._shunned: dict[NodeId, float] = {}  # until when, by model node

    def warm(self, model: str | None = None) -> None:
        """Begin to build circuits to some model node, so that the first prompt finds them open."""
        nodes = self._switch.directory.serving(model) if model else self._switch.directory.model_nodes()
        others = [node for node in nodes if node.node_id != self._switch.node_id]
        if others and not self.pool.sets:
            self.pool.to(others[draw_below(len(others), self._entropy)].node_id)

    @asynccontextmanager
    async def complete(self, prompt: Prompt, *, cache: Cache | None = None) -> AsyncIterator[Completion]:
        """Send a prompt and give its answer; leaving the context ends the answer, at the model node too.

        Entering waits until a model node has begun to answer. One that can't be reached, is busy or says nothing
        gives way to another, and so does one that fails in the middle of its answer (`Completion`).

        cache: with whom what is computed for the prompt may be shared; None: as the client's terms say.

        Raises:
            AnswerError: no node serves the model, the prompt can't be sent, or no node would answer.
            NoRouteError: the circuits can't be had.
        """

        async def go_on(failed: Answering, given: tuple[int, ...]) -> Answering:
            self._note_end(failed)
            return await self._begin(prompt, given, failed, terms)

        terms = self._terms.request if cache is None else replace(self._terms.request, cache=cache)
        first = await self._begin(prompt, (), None, terms)
        completion = Completion(first, go_on, lambda error: error.code in _ELSEWHERE)
        try:
            yield completion
        finally:
            self._note_end(completion.current)
            completion.current.end()

    async def _begin(
        self, prompt: Prompt, given: tuple[int, ...], failed: Answering | None, terms: RequestTerms
    ) -> Answering:
        """Begin to get an answer, or what is left of one. failed: the attempt before; its likes go on with it."""
        like = failed.offer if failed is not None and given else None
        tried = [failed.node_id] if failed is not None and not _is_of_another(failed) else []
        most = len(tried) + MAX_TRIES
        while True:
            node = self._choose_node(prompt.model, tried, like)
            tried.append(node.node_id)
            answering = await self._attempt(prompt, node, given, terms)
            error = answering.error
            if error is None:
                return answering
            self._note_end(answering)
            if (
                error.code not in _ELSEWHERE
                or len(tried) == most
                or not self._others(prompt.model, tried, like)
            ):
                raise error

    async def _attempt(
        self, prompt: Prompt, node: Descriptor, given: tuple[int, ...], terms: RequestTerms
    ) -> Answering:
        """Ask one node, up to the first sign of an answer or of a failure."""
        circuits = self.pool.to(node.node_id)
        opened = await circuits.wait_open(CIRCUITS_TIMEOUT_S)
        # It may have started again meanwhile, with other keys.
        node = self._switch.directory.find(node.node_id) or node
        answering = self._open(prompt, given, node, terms, circuits, opened)
        try:
            answering.start(self._switch)
            await answering.wait_begun()
        except BaseException:
            answering.end()
            raise
        if answering.error is not None:
            answering.end()
        return answering

    def _note_end(self, answering: Answering) -> None:
        """Remember a node that failed, so that the next prompt goes elsewhere."""
        error = answering.error
        if error is not None and error.code in _ELSEWHERE and not _is_of_another(answering):
            self._shunned[answering.node_id] = trio.current_time() + SHUNNED_S

    def _others(self, model: str, tried: Collection[NodeId], like: ModelOffer | None) -> list[Descriptor]:
        """Nodes that serve the model; with `like`, such as give the same tokens."""
        ends = {*tried, self._switch.node_id}
        return [
            node
            for node in self._switch.directory.serving(model)
            if node.node_id not in ends and (like is None or _is_alike(node.offer_of(model), like))
        ]

    def _choose_node(self, model: str, tried: Collection[NodeId], like: ModelOffer | None) -> Descriptor:
        """A node that serves the model; not one that has just failed, and rather one with open circuits."""
        nodes = self._others(model, tried, like)
        if not nodes:
            raise AnswerError("model_not_found", self._explain_missing(model))
        now = trio.current_time()
        self._shunned = {node_id: until for node_id, until in self._shunned.items() if until > now}
        sound = [node for node in nodes if node.node_id not in self._shunned] or nodes
        choices = [node for node in sound if self.pool.is_warm(node.node_id)] or sound
        return choices[draw_below(len(choices), self._entropy)]

    def explain_unready(self) -> list[str]:
        """What keeps a prompt from being sent now, in sentences; empty when nothing does."""
        directory, policy = self._switch.directory, self.pool.policy
        own = self._switch.node_id
        reasons = []
        if not any(node.node_id != own for node in directory.model_nodes()):
            reasons.append("no model node is known")
        relays = sum(relay.node_id != own for relay in directory.relays())
        if relays < policy.relays_needed:
            shape = f"{policy.n} paths of {policy.hops}"
            reasons.append(f"{shape} need {policy.relays_needed} relays, {relays} are known")
        elif not reasons and not any(self.pool.is_warm(kept.destination) for kept in self.pool.sets):
            reasons.append("circuits are being built")
        return reasons

    def _explain_missing(self, model: str) -> str:
        nodes = self._switch.directory.model_nodes()
        served = sorted({offer.alias for node in nodes for offer in node.models})
        known = ", ".join(served) if served else "none at all"
        return f"no node serves {model!r}; models served now: {known}"

    def _open(
        self,
        prompt: Prompt,
        given: tuple[int, ...],
        node: Descriptor,
        terms: RequestTerms,
        circuits: CircuitSet,
        opened: list[PooledCircuit],
    ) -> Answering:
        key = node.sealing_keys[-1]
        target = SealingTarget(self._terms.network, node.node_id, key.epoch, SealingPublicKey(key.public))
        messages = [self._entropy(MESSAGE_BYTES) for _ in opened]
        replies = [reply_path(circuit, message) for circuit, message in zip(opened, messages, strict=True)]
        try:
            request = open_request(
                prompt,
                replies,
                target,
                terms,
                unix_time=self._unix_time(),
                entropy=self._entropy,
                session=self._sessions.name(prompt, node.node_id, trio.current_time()),
                given=given,
            )
        except LocalProtocolError as error:
            raise AnswerError("prompt_not_sendable", str(error)) from None
        receiver = AnswerReceiver(request.terms, trio.current_time(), self._terms.timing)
        carried = list(zip(opened, messages, strict=True))
        offer = _offer_of(node, prompt.model)

        def may_sign(signer: NodeId) -> bool:
            is_other = terms.forward == "group" and self._switch.directory.serves_alike(signer, offer)
            return signer == node.node_id or is_other

        witness = Witness(prompt, offer.model_id, offer.numerics_class, given, may_sign)
        return Answering(request, receiver, circuits, carried, offer, witness, self._entropy)


def _is_of_another(answering: Answering) -> bool:
    """Whether a node failed that the prompt was handed to: the one asked is sound, and may be asked again."""
    return answering.error is not None and answering.error.code == "member_lost"


def _is_alike(offer: ModelOffer | None, other: ModelOffer) -> bool:
    """Whether both give the same tokens to the same prompt and nonce."""
    return (
        offer is not None
        and (offer.model_id, offer.numerics_class) == (other.model_id, other.numerics_class)
        and offer.context_tokens >= other.context_tokens
    )


def _offer_of(node: Descriptor, model: str) -> ModelOffer:
    offer = node.offer_of(model)
    if offer is None:
        raise AnswerError("model_not_found", f"the node chosen does not serve {model!r} any more")
    return offer
