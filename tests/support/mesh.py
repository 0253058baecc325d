"""Membership machines stapled together in memory, with a clock that the test moves."""

from collections import deque

from crypto.identity import NodeId
from overlay.protocol.effects import CloseLink
from overlay.protocol.membership import MembershipMachine, MembershipTiming, SendDirectoryMessage
from overlay.wire.messages import decode_message, encode_message
from tests.support.descriptors import UNIX_TIME, fixed_key

TIMING = MembershipTiming(interval_s=10.0, eager_s=1.0, answer_timeout_s=4.0)


class Mesh:
    """Machines by name, the links between them, and what is on its way. Messages travel encoded."""

    def __init__(self, *names: str) -> None:
        self.now = 100.0
        self.machines = {fixed_key(name).node_id: self.new_machine(name) for name in names}
        self.links: set[frozenset[NodeId]] = set()
        self.closed: list[tuple[NodeId, CloseLink]] = []
        self.sent: list[tuple[NodeId, SendDirectoryMessage]] = []
        self._queue: deque[tuple[NodeId, SendDirectoryMessage]] = deque()

    @property
    def unix_time(self) -> float:
        return UNIX_TIME + self.now - 100.0

    def new_machine(self, name: str, **changes) -> MembershipMachine:
        return MembershipMachine(fixed_key(name).node_id, now=self.now, timing=TIMING, **changes)

    def machine(self, name: str) -> MembershipMachine:
        return self.machines[fixed_key(name).node_id]

    def link(self, one: str, other: str) -> None:
        first, second = fixed_key(one).node_id, fixed_key(other).node_id
        self.links.add(frozenset((first, second)))
        self.perform(first, self.machines[first].link_opened(second, self.now))
        self.perform(second, self.machines[second].link_opened(first, self.now))

    def perform(self, node_id: NodeId, outputs) -> None:
        for output in outputs:
            match output:
                case SendDirectoryMessage():
                    self._queue.append((node_id, output))
                case CloseLink(peer):
                    self.closed.append((node_id, output))
                    self.links.discard(frozenset((node_id, peer)))
                    self.machines[node_id].link_closed(peer)

    def deliver(self) -> None:
        """Delivers everything that is on its way, and what comes of it."""
        while self._queue:
            sender, output = self._queue.popleft()
            self.sent.append((sender, output))
            receiver = self.machines.get(output.peer)
            if receiver is not None and frozenset((sender, output.peer)) in self.links:
                message = decode_message(encode_message(output.message)[4:])
                self.perform(output.peer, receiver.receive_message(sender, message, self.now, self.unix_time))

    def run(self, seconds: float) -> None:
        """Lets that much time pass, with every deadline in it kept."""
        end = self.now + seconds
        self.deliver()
        while (due := min(machine.next_deadline() for machine in self.machines.values())) <= end:
            self.now = max(self.now, due)
            for node_id, machine in self.machines.items():
                if machine.next_deadline() <= self.now:
                    self.perform(node_id, machine.handle_deadline(self.now, self.unix_time))
            self.deliver()
        self.now = end
