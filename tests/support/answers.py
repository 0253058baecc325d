"""Prompts, requests and a sender and a receiver stapled together, for tests."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import get_args

from hypothesis import strategies as st

from crypto.identity import NodeId
from crypto.sealed import SealingKey
from overlay.protocol.answer_receiver import AnswerReceiver, AnswerTiming, ReceiverEvent
from overlay.protocol.answer_sender import AnswerSender, SendAnswerCell, SenderOutput
from overlay.protocol.envelope import SealingTarget
from overlay.protocol.request import Request, RequestTerms, open_request
from overlay.wire.answer import (
    AnswerAccepted,
    AnswerEvent,
    AnswerFailed,
    AnswerFinished,
    CheckpointIssued,
    RankedToken,
    ReceiptIssued,
    TokenLogprobs,
    TokensGenerated,
)
from overlay.wire.prompt import ChatMessage, Prompt, PromptMessage, ReplyPath, SamplerSpec
from overlay.wire.update import NumberedPath, Update
from tests.support.entropy import fixed_entropy

NETWORK = b"test"
EPOCH = 20_000
UNIX_TIME = 1_800_000_000.0
MODEL_NODE = NodeId(b"M" * 32)
EVENT_TYPES = get_args(AnswerEvent)


def reply_path(number: int) -> ReplyPath:
    return ReplyPath(NodeId(number.to_bytes(2, "big") * 16), b"token" + number.to_bytes(11, "big"))


def a_prompt(text: str = "Why is the sky blue?") -> Prompt:
    return Prompt(model="smollm2-135m", text=text, sampler=SamplerSpec(), nonce=bytes(32))


def sealing_key(seed: str = "sealing") -> SealingKey:
    return SealingKey.generate(fixed_entropy(seed))


def a_request(
    prompt: Prompt | None = None, *, k: int = 2, n: int = 4, seed: str = "request", lifetime_s: int = 600
) -> Request:
    target = SealingTarget(NETWORK, MODEL_NODE, EPOCH, sealing_key().public)
    return open_request(
        prompt or a_prompt(),
        [reply_path(index) for index in range(n)],
        target,
        RequestTerms(k=k, lifetime_s=lifetime_s),
        unix_time=UNIX_TIME,
        entropy=fixed_entropy(seed),
    )


# --- strategies -----------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=200)
reply_paths = st.builds(
    ReplyPath, st.binary(min_size=32, max_size=32).map(NodeId), st.binary(min_size=16, max_size=16)
)
penalties = st.floats(-2, 2).map(lambda value: value + 0.0)
biases = st.dictionaries(
    st.integers(0, 2**32 - 1), st.floats(-100, 100).map(lambda value: value + 0.0), max_size=4
)


@st.composite
def sampler_specs(draw: st.DrawFn) -> SamplerSpec:
    max_tokens = draw(st.integers(1, 131_072))
    return SamplerSpec(
        temperature=draw(st.floats(0, 2)),
        top_p=draw(st.floats(0, 1)),
        top_k=draw(st.integers(1, 64)),
        max_tokens=max_tokens,
        min_tokens=draw(st.integers(0, max_tokens)),
        repetition_penalty=draw(st.floats(0.5, 2)),
        presence_penalty=draw(penalties),
        frequency_penalty=draw(penalties),
        logit_bias=tuple(sorted(draw(biases).items())),
        stop=tuple(
            draw(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=20), max_size=8))
        ),
        logprobs=draw(st.none() | st.integers(0, min(20, 131_072 // max_tokens - 1))),
    )


samplers = sampler_specs()
chat_messages = st.builds(ChatMessage, st.sampled_from(["system", "user", "assistant"]), texts)
secrets32 = st.binary(min_size=32, max_size=32)


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    is_chat = draw(st.booleans())
    return Prompt(
        model=draw(st.text(st.characters(codec="ascii"), min_size=1, max_size=60)),
        messages=draw(st.lists(chat_messages, min_size=1, max_size=5).map(tuple)) if is_chat else (),
        text=None if is_chat else draw(texts.filter(bool)),
        sampler=draw(samplers),
        nonce=draw(secrets32),
    )


@st.composite
def prompt_messages(draw: st.DrawFn) -> PromptMessage:
    paths = draw(st.lists(reply_paths, min_size=1, max_size=8).map(tuple))
    cache = draw(st.sampled_from(["none", "session", "public"]))
    names = (
        st.just(b"") if cache != "session" else st.one_of(st.just(b""), st.binary(min_size=16, max_size=16))
    )
    return PromptMessage(
        prompt=draw(prompts()),
        expires_unix=draw(st.integers(0, 2**64 - 1)),
        response_secret=draw(secrets32),
        blinding=draw(secrets32),
        paths=paths,
        k=draw(st.integers(1, len(paths))),
        forward=draw(st.sampled_from(["none", "group"])),
        cache=cache,
        session=draw(names),
    )


counts = st.integers(0, 2**31 - 1)
ranked_tokens = st.builds(
    RankedToken, st.binary(max_size=20), st.floats(-65504, 0).map(lambda value: value + 0.0)
)
token_logprobs = st.builds(
    lambda taken, likeliest: TokenLogprobs(taken, tuple(sorted(likeliest, key=lambda each: -each.logprob))),
    ranked_tokens,
    st.lists(ranked_tokens, max_size=4),
)
answer_events = st.one_of(
    st.builds(AnswerAccepted),
    st.builds(TokensGenerated, texts, counts),
    st.builds(
        lambda text, entries: TokensGenerated(text, len(entries), tuple(entries)),
        texts,
        st.lists(token_logprobs, min_size=1, max_size=3),
    ),
    st.builds(AnswerFinished, st.sampled_from(["stop", "length"]), counts, counts, counts),
    st.builds(CheckpointIssued, st.binary(min_size=1, max_size=400)),
    st.builds(ReceiptIssued, st.binary(min_size=1, max_size=4000)),
    st.builds(
        AnswerFailed,
        st.text(st.characters(codec="ascii"), min_size=1, max_size=40),
        texts,
        st.none() | st.floats(0, 86_400),
    ),
)
updates = st.builds(
    Update,
    have=st.integers(0, 2**32 - 1),
    paths=st.lists(
        st.builds(
            lambda number, reply: NumberedPath(number, reply.proxy, reply.token),
            st.integers(0, 2**16 - 1),
            reply_paths,
        ),
        max_size=8,
    ).map(tuple),
    stalled=st.booleans(),
    cancel=st.booleans(),
)


# --- sender and receiver --------------------------------------------------------------------------


@dataclass
class StapledAnswer:
    """A sender and a receiver with nothing but lists between them.

    `spoil(number, data)` decides what becomes of a cell: bytes to deliver, or None for loss.
    """

    request: Request
    now: float = 100.0
    timing: AnswerTiming = field(default_factory=AnswerTiming)
    spoil: Callable[[int, bytes], bytes | None] = lambda _number, data: data

    def __post_init__(self) -> None:
        self.sender = AnswerSender(self.request.terms, self.request.message.paths, self.now)
        self.receiver = AnswerReceiver(self.request.terms, self.now, self.timing)
        self.number_of = {reply.token: index for index, reply in enumerate(self.request.message.paths)}
        self.sent: list[SenderOutput] = []
        self.got: list[ReceiverEvent] = []

    @property
    def events(self) -> list[AnswerEvent]:
        return [event for event in self.got if isinstance(event, EVENT_TYPES)]

    @property
    def notices(self) -> list[ReceiverEvent]:
        return [event for event in self.got if not isinstance(event, EVENT_TYPES)]

    def write(self, *events: AnswerEvent) -> None:
        for event in events:
            while not self.sender.write(event):
                self.step()

    def step(self) -> list[SenderOutput]:
        """Moves to the next deadline of either and does what it asks."""
        deadlines = [d for d in (self.sender.next_deadline(), self.receiver.next_deadline()) if d is not None]
        self.now = max(self.now, min(deadlines, default=self.now))
        outputs = self.sender.handle_deadline(self.now)
        self.sent += outputs
        for output in outputs:
            if isinstance(output, SendAnswerCell):
                self.deliver(output)
        self.got += self.receiver.handle_deadline(self.now)
        return outputs

    def deliver(self, output: SendAnswerCell) -> None:
        number = self.number_of[output.reply_token]
        if (data := self.spoil(number, output.data)) is not None:
            self.got += self.receiver.receive_cell(number, data, self.now)

    def run_for(self, seconds: float) -> None:
        until = self.now + seconds
        while not self.sender.is_done or not self.receiver.is_over:
            deadlines = (self.sender.next_deadline(), self.receiver.next_deadline())
            if min((d for d in deadlines if d is not None), default=until) >= until:
                break
            self.step()
        self.now = max(self.now, until)

    def replace(self, number: int, *, tell: bool = True) -> int:
        """The client has another circuit in the place of `number`."""
        reply = reply_path(1000 + number)
        replacement = self.request.replace_path(number, reply)
        self.number_of[reply.token] = replacement
        self.receiver.add_path(replacement, self.now)
        if tell:
            self.tell()
        return replacement

    def tell(self, *, stalled: bool = False, cancel: bool = False) -> None:
        """An update reaches the model node at once."""
        update = self.request.current_update(self.receiver.have, stalled=stalled, cancel=cancel)
        self.sent += self.sender.receive_update(update, self.now)

    def cells(self) -> list[SendAnswerCell]:
        return [output for output in self.sent if isinstance(output, SendAnswerCell)]
