"""Sender and receiver under everything that a network does to cells and updates: no token lost or doubled, ever."""

from collections import deque

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from overlay.protocol.stream import AnswerEnded, AnswerMalformed, AnswerTiming, PathFaulty, SendAnswerCell
from overlay.wire.answer import AnswerEvent, ReceiptIssued, TokensGenerated
from overlay.wire.update import Update
from tests.support.answers import StapledAnswer, a_request

N = 4
PATIENT = AnswerTiming(first_s=1e6, idle_s=1e6, progress_s=1e6, pause_s=1e6)
STARTED = 100.0
LONGEST_NOW = STARTED + 9.0
indexes = st.integers(0, N - 1)


class AnswerUnderFire(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.answer = StapledAnswer(a_request(n=N), now=STARTED, timing=PATIENT)
        self.written: list[AnswerEvent] = []
        self.queues: dict[int, deque[bytes]] = {number: deque() for number in range(N)}
        self.delivered: list[tuple[int, bytes]] = []
        self.dead: set[int] = set()
        self.updates: list[Update] = []
        self.blamed: set[int] = set()
        self.finished = False

    # --- the model node ---

    @precondition(lambda self: not self.finished)
    @rule(size=st.sampled_from([1, 3, 40, 400]), count=st.integers(1, 4))
    def write_tokens(self, size, count):
        for _ in range(count):
            self.write(TokensGenerated(f"{len(self.written)}:" + "x" * size, 1))

    @precondition(lambda self: not self.finished)
    @rule(size=st.sampled_from([1, 2000, 9000]))
    def write_receipt(self, size):
        self.write(ReceiptIssued(len(self.written).to_bytes(4, "big") * size))

    def write(self, event):
        if self.answer.sender.write(event):
            self.written.append(event)

    @precondition(lambda self: not self.finished)
    @rule()
    def finish(self):
        self.finished = True
        self.answer.sender.finish()

    @precondition(lambda self: self.answer.now < LONGEST_NOW)
    @rule(ticks=st.integers(1, 6))
    def tick(self, ticks):
        """Time passes, but not so much that the sender may give up on a client that has not been heard."""
        for _ in range(ticks):
            deadline = self.answer.sender.next_deadline()
            if deadline is None or deadline > self.answer.now + 1.0:
                return
            self.answer.now = max(self.answer.now, deadline)
            for output in self.answer.sender.handle_deadline(self.answer.now):
                if isinstance(output, SendAnswerCell):
                    number = self.answer.number_of[output.reply_token]
                    if number not in self.dead:
                        self.queues[number].append(output.data)

    # --- the network ---

    @rule(index=indexes, count=st.integers(1, 12))
    def deliver(self, index, count):
        number = self.current(index)
        for _ in range(min(count, len(self.queues[number]))):
            data = self.queues[number].popleft()
            self.delivered.append((number, data))
            self.receive(number, data)

    @rule(index=indexes)
    def drop_a_cell(self, index):
        queue = self.queues[self.current(index)]
        if queue:
            queue.popleft()

    @rule(index=indexes, at=st.integers(0, 983), bit=st.integers(0, 7))
    def damage_a_cell(self, index, at, bit):
        number = self.current(index)
        if not self.queues[number]:
            return
        data = bytearray(self.queues[number].popleft())
        data[at] ^= 1 << bit
        before = len(self.answer.events)
        self.receive(number, bytes(data))
        assert len(self.answer.events) == before
        receiver = self.answer.receiver
        assert receiver.is_over or number in self.blamed | receiver.retired_paths

    @rule(data=st.data())
    def repeat_a_cell(self, data):
        if self.delivered:
            self.receive(*data.draw(st.sampled_from(self.delivered)))

    @rule(index=indexes)
    def swap_two_cells(self, index):
        queue = self.queues[self.current(index)]
        if len(queue) > 1:
            queue[0], queue[-1] = queue[-1], queue[0]

    @rule(index=indexes, told=st.booleans())
    def kill_path(self, index, told):
        number = self.current(index)
        self.dead.add(number)
        self.queues[number].clear()
        self.answer.receiver.path_lost(number)
        token = next(token for token, known in self.answer.number_of.items() if known == number)
        if told:
            self.answer.sender.path_refused(token, self.answer.now)

    # --- the client ---

    @rule(index=indexes)
    def replace_path(self, index):
        """The old circuit lives on for a while: its cells may still come, and count."""
        number = self.current(index)
        replacement = self.answer.replace(number, tell=False)
        self.queues[replacement] = deque()
        self.updates.append(self.answer.request.current_update(self.answer.receiver.have))

    @rule(data=st.data())
    def an_update_arrives(self, data):
        if self.updates:
            update = data.draw(st.sampled_from(self.updates))
            self.answer.sender.receive_update(update, self.answer.now)

    @rule()
    def ask_again(self):
        self.updates.append(self.answer.request.current_update(self.answer.receiver.have, stalled=True))

    # --- what must hold ---

    def current(self, index):
        return self.answer.request.path_numbers[index]

    def receive(self, number, data):
        events = self.answer.receiver.receive_cell(number, data, self.answer.now)
        self.answer.got += events
        self.blamed |= {event.number for event in events if isinstance(event, PathFaulty)}

    @invariant()
    def what_arrived_is_a_prefix_of_what_was_written(self):
        events = self.answer.events
        assert events == self.written[: len(events)]
        assert not any(isinstance(event, AnswerMalformed) for event in self.answer.got)

    def teardown(self):
        """Once the network behaves again, everything arrives."""
        if not self.finished:
            self.finish()
        for index in range(N):
            self.replace_path(index)
        self.answer.sender.receive_update(self.updates[-1], self.answer.now)
        for _ in range(600):
            if self.answer.receiver.is_over:
                break
            self.tick(1)
            for index in range(N):
                self.deliver(index, 20)
        assert self.answer.events == self.written
        assert sum(isinstance(event, AnswerEnded) for event in self.answer.got) == 1


AnswerUnderFire.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_no_token_is_lost_or_doubled = AnswerUnderFire.TestCase
