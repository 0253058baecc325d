"""Members of a model group, stapled together: what one sends waits until a test delivers, loses or doubles it."""

from overlay.protocol.group import GroupMachine, LoadLearned, Misbehaved, SendGroupMessage
from overlay.routing.prefix_tree import PrefixTree
from overlay.wire.group import GroupId, Load, LogEntry, Speed
from overlay.wire.group_codec import sign_log_entry
from overlay.wire.group_messages import GroupNews
from overlay.wire.messages import FRAME_HEADER_BYTES, decode_message, encode_message
from tests.support.descriptors import fixed_key

GROUP = GroupId(b"a group of nodes")
SPEED = Speed(prefill_token_s=2.0**-10, attended_s=2.0**-24, mixed_step_s=2.0**-4, mixed_tokens=24)
IDLE = Load(queued_tokens=0, decoding=0, free_slots=8, answer_s=0.0, decoding_s=0.0)


class Member:
    """A machine, its tree, and what happened at it."""

    def __init__(self, name, *, incarnation=1, now=0.0):
        self.name = name
        self.key = fixed_key(name)
        self.node_id = self.key.node_id
        self.tree = PrefixTree()
        self.machine = GroupMachine(
            self.node_id, GROUP, sign=self.key.sign, incarnation=incarnation, holders=self.tree, now=now
        )
        self.held = set()
        self.named = []
        self.learned = []

    def change(self, stored, evicted=()):
        self.held = (self.held - set(evicted)) | set(stored)
        self.machine.tell_blocks(stored, evicted)

    def entry(self, seq, *, base=0, stored=(), evicted=(), incarnation=1):
        """An entry as this member would sign it."""
        entry = LogEntry(self.node_id, incarnation, seq, base, tuple(stored), tuple(evicted))
        return sign_log_entry(self.key.sign, GROUP, entry)


class Group:
    """Some members, and the messages that fly between them."""

    def __init__(self, *names):
        self.now = 0.0
        self.members = {name: Member(name) for name in names}
        self.flying = []
        self.introduce(self.members.values())

    def __getitem__(self, name):
        return self.members[name]

    def introduce(self, members):
        """Everybody takes these for the members."""
        ids = [member.node_id for member in members]
        for member in self.members.values():
            member.machine.set_members(ids)

    def by_id(self, node_id):
        return next((each for each in self.members.values() if each.node_id == node_id), None)

    def perform(self, member, outputs):
        for output in outputs:
            match output:
                case SendGroupMessage(peer, message):
                    frame = encode_message(message)
                    self.flying.append((member.node_id, peer, decode_message(frame[FRAME_HEADER_BYTES:])))
                case LoadLearned(who, report):
                    member.learned.append((who, report))
                case Misbehaved(who, reason):
                    member.named.append((who, reason))

    def deliver(self, index=0):
        """One message arrives; it stays in the bag."""
        sender, peer, message = self.flying[index]
        if (member := self.by_id(peer)) is not None:
            self.perform(member, member.machine.receive_message(sender, message, self.now))

    def deliver_all(self):
        while self.flying:
            self.deliver()
            del self.flying[0]

    def hear(self, name, sender, *entries, loads=()):
        """A member gets news of another's making; returns whom it names for it."""
        member = self[name]
        before = len(member.named)
        message = GroupNews(GROUP, entries, tuple(loads))
        self.perform(member, member.machine.receive_message(sender, message, self.now))
        return member.named[before:]

    def pass_time(self, seconds=1.0):
        """Wake everybody when it is time."""
        self.now += seconds
        for member in self.members.values():
            if member.machine.next_deadline() <= self.now:
                self.perform(member, member.machine.handle_deadline(self.now))

    def settle(self, rounds=None):
        """Rounds in which nothing is lost."""
        for _ in range(rounds or 4 * max(1, len(self.members).bit_length())):
            self.pass_time()
            self.deliver_all()
