"""A whole committee on virtual time, under a schedule that a seed fixes: what the network and traitors do to it.

Until a moment (GST) messages are late, lost and out of order and members cut off from each other; after it all arrive
in good time. Up to a third of the members are traitors: silent, twins (one key in two members, each heard by some),
forgers of votes, or honest ones whose log is damaged. Honest members crash between any two effects and restart.

Signatures are a keyed hash that only this file can make: ideal ones, and quick. `run` raises
`UnsafeError` or `StuckError`.
"""

import hashlib
import heapq
import random  # noqa: TID251 - the same schedule for a seed in every run, no secrets
from itertools import count

from crypto.errors import AuthenticationError
from tests.support.committee import INVALID, genesis_of, keys_of
from verify.committee import messages
from verify.committee.effects import (
    AppendToLog,
    Broadcast,
    HeightDecided,
    ReplaceLog,
    SendCertificate,
    SendMessage,
)
from verify.committee.log import read_log
from verify.committee.member import CommitteeMember
from verify.committee.message_codec import CERTIFICATE, WANTED, decode_message, encode_message
from verify.committee.messages import NIL, Kind, Proposal, Statement, Votes, sign_statement, value_id
from verify.committee.recall import new_log, recall

PATIENCE_S = 300.0
MOST_EVENTS = 200_000
TRAITORS = ("silent", "twins", "twins", "forger", "forger", "forgetful")


class UnsafeError(AssertionError):
    """Two values at one height, two statements in one place, or one that was not on disk."""


class StuckError(AssertionError):
    """The network healed, and the committee did not go on."""


class IdealKey:
    """Signs with what only `check_ideal` can tell from forgeries."""

    def __init__(self, node_id):
        self.node_id = node_id

    def sign(self, context, message):
        return hashlib.blake2b(message, key=self.node_id, salt=context[:16]).digest()


def check_ideal(node_id, context, message, signature):
    if IdealKey(node_id).sign(context, message) != signature:
        raise AuthenticationError("the signature does not hold")


def install(monkeypatch):
    monkeypatch.setattr(messages, "check_signature", check_ideal)


GENESIS = {size: genesis_of(size) for size in (4, 7)}
KEYS = {size: [IdealKey(key.node_id) for key in keys_of(size)] for size in (4, 7)}


class Ballots:
    def __init__(self, name):
        self.name = name

    def propose(self, height):
        return f"{self.name} at {height}".encode()

    def is_valid(self, height, value):
        return value != INVALID


class Node:
    """A member with its disk: the log, and the certificates that it stored."""

    def __init__(self, world, number, kind, name):
        self.world, self.number, self.kind, self.name = world, number, kind, name
        self.key = KEYS[world.size][number]
        self.log, self.store = new_log(world.genesis, self.key.node_id), []
        self.heard_by, self.life, self.member, self.crash_after = None, 0, None, None
        self.start()

    @property
    def is_honest(self):
        return self.kind in ("honest", "forgetful")

    def start(self):
        self.life += 1
        memory = recall(
            self.world.genesis, self.key.node_id, self.log, self.store[-1] if self.store else None
        )
        if self.kind == "honest":
            assert not memory.abstains, memory.abstains
        self.member = CommitteeMember(self.world.genesis, self.key, Ballots(self.name), memory)
        self.perform(self.member.start(self.world.now))
        self.world.later(0.05, self, "begin")

    def perform(self, effects):
        for effect in effects:
            if self.crash_after is not None:
                self.crash_after -= 1
                if self.crash_after < 0:
                    self.crash(effect)
                    return
            self.perform_one(effect)
        self.world.wake(self)

    def perform_one(self, effect):
        match effect:
            case AppendToLog(record):
                self.log += record
            case ReplaceLog(data):
                self.log = data
            case Broadcast(data):
                self.world.watch(self, data)
                for number in range(self.world.size):
                    self.world.send(self, number, data)
            case SendMessage(peer, data):
                self.world.send(self, self.world.genesis.number_of(peer), data)
            case SendCertificate(peer, height):
                data = encode_message(self.store[height - 1])
                self.world.send(self, self.world.genesis.number_of(peer), data)
            case HeightDecided(certificate):
                if certificate.height > len(self.store):
                    self.store.append(certificate)
                    self.world.note_decision(self, certificate)
                    self.world.later(0.2, self, "begin")

    def crash(self, effect):
        """Here and now; what was being written may be on disk in part."""
        if isinstance(effect, AppendToLog):
            self.log += effect.record[: self.world.rng.randrange(len(effect.record))]
        if self.kind == "forgetful":
            self.damage()
        self.crash_after, self.member = None, None
        self.life += 1
        self.world.later(self.world.rng.uniform(0.1, 5), self, "start")

    def damage(self):
        rng = self.world.rng
        at = rng.randrange(len(self.log) - 30)
        damaged = bytes([self.log[at] ^ 1 << rng.randrange(8)])
        self.log = rng.choice([None, b"", self.log[:at] + damaged + self.log[at + 1 :]])


class World:
    """One schedule."""

    def __init__(self, seed, size=4, heights=2):
        self.rng = rng = random.Random(seed)
        self.size, self.heights, self.genesis = size, heights, GENESIS[size]
        self.now, self.queue, self.ties = 0.0, [], count()
        self.said, self.decided, self.recorded = {}, {}, []
        self.gst = rng.choice([0.0, rng.uniform(0, 20)])
        self.slowest, self.loss = rng.choice([0.2, 1.0, 4.0]), rng.choice([0.0, 0.2, 0.6])
        self.parts = [(rng.uniform(0, self.gst), rng.randrange(1 << size)) for _ in range(3)]
        self.knows_alone = rng.choice([None, rng.randrange(size)])
        traitors = rng.sample(range(size), (size - 1) // 3)
        self.nodes = {number: [] for number in range(size)}
        self.wakes = {}
        for number in range(size):
            self.populate(number, rng.choice(TRAITORS) if number in traitors else "honest")

    def populate(self, number, kind):
        rng = self.rng
        if kind in ("twins", "forger"):
            for name in ("left", "right")[: 2 if kind == "twins" else 1]:
                twin = Node(self, number, kind, f"{number} {name}")
                twin.heard_by = rng.randrange(1 << self.size)
                self.nodes[number].append(twin)
            for _ in range(rng.randrange(60)):
                self.later(rng.uniform(0, self.gst + 10), self.nodes[number][0], "forge")
        elif kind != "silent":
            node = Node(self, number, kind, f"{number}")
            self.nodes[number].append(node)
            crashes = 1 if kind == "forgetful" else rng.choice([0, 0, 1, 2])
            for _ in range(crashes):
                self.later(rng.uniform(0, self.gst + 3), node, "arm")

    # --- time ---

    def later(self, delay_s, node, what, data=None, peer=None):
        life = getattr(node, "life", 0)
        heapq.heappush(self.queue, (self.now + delay_s, next(self.ties), node, what, life, data, peer))

    def wake(self, node):
        at = node.member.next_deadline()
        if at < self.wakes.get(node, (0, float("inf")))[1] or self.wakes[node][0] != node.life:
            self.wakes[node] = (node.life, at)
            self.later(max(0.0, at - self.now), node, "wake")

    def run(self):
        for _ in range(MOST_EVENTS):
            if self.is_done():
                return self
            self.now, _, node, what, life, data, peer = heapq.heappop(self.queue)
            if self.now > self.gst + PATIENCE_S:
                break
            self.step(node, what, life, data, peer)
        raise StuckError([(n.kind, n.member and n.member.standing) for n in self.all_nodes()])

    def is_done(self):
        return all(len(n.store) >= self.heights for n in self.all_nodes() if n.kind == "honest")

    def all_nodes(self):
        return [node for twins in self.nodes.values() for node in twins]

    def step(self, node, what, life, data, peer):
        if what == "start":
            node.start()
        elif what == "forge":
            self.forge(node)
        elif what == "arm":
            node.crash_after = self.rng.randrange(12) if node.crash_after is None else node.crash_after
        elif node.member is not None and life == node.life:
            self.input(node, what, data, peer)

    def input(self, node, what, data, peer):
        if what == "begin":
            node.perform(node.member.begin(self.now))
        elif what == "message":
            node.perform(node.member.receive(peer, data, self.now))
        elif what == "wake":
            self.wakes.pop(node, None)
            node.perform(node.member.handle_deadline(self.now))

    # --- the network ---

    def send(self, source, number, data):
        if number == source.number or (source.heard_by is not None and not source.heard_by >> number & 1):
            return
        rng = self.rng
        for target in self.nodes[number]:
            if target.heard_by is not None and not target.heard_by >> source.number & 1:
                continue
            delay_s = rng.uniform(0.01, 0.1)
            if self.now < self.gst:
                side = next((mask for until, mask in self.parts if self.now < until), 0)
                if (side >> source.number ^ side >> number) & 1 or rng.random() < self.loss_of(
                    data, source, number
                ):
                    continue
                delay_s = rng.uniform(0.01, self.slowest)
            self.later(delay_s, target, "message", data, source.key.node_id)

    def loss_of(self, data, source, number):
        """Where one member is to know alone: it hears every precommit, the others none, and it is not heard after."""
        kind = data[1]  # behind the head of the array
        if self.knows_alone is None or kind in (Kind.PROPOSAL, WANTED):
            return self.loss
        if number == self.knows_alone:
            return 0.0
        told = kind == CERTIFICATE or len(source.store) > 0
        return 0.97 if kind == Kind.PRECOMMIT or told else self.loss

    # --- a traitor that holds a member's key ---

    def forge(self, node):
        rng, member = self.rng, node.number
        for target in rng.sample(range(self.size), rng.randint(1, self.size)):
            data = self.forged(member)
            if data is not None:
                for victim in self.nodes[target]:
                    if victim.number != member:
                        self.later(rng.uniform(0.01, 0.5), victim, "message", data, node.key.node_id)

    def forged(self, member):
        rng = self.rng
        if not self.recorded:
            return None
        seen = rng.choice(self.recorded[-40:])
        if rng.random() < 0.1:
            broken = bytearray(encode_message(seen))
            broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
            return bytes(broken)
        kind, height = rng.choice(list(Kind)), seen.statement.height
        round_ = max(0, seen.statement.round + rng.choice([-1, 0, 0, 0, 1, 2, 50]))
        key = KEYS[self.size][member]
        if kind is Kind.PROPOSAL:
            value = rng.choice([INVALID, b"forged", seen.value if isinstance(seen, Proposal) else b"other"])
            statement = Statement(kind, height, round_, value_id(value))
            return encode_message(
                Proposal(statement, value, None, sign_statement(key, self.genesis, statement))
            )
        statement = Statement(kind, height, round_, rng.choice([NIL, seen.statement.value_id]))
        return encode_message(Votes(statement, ((member, sign_statement(key, self.genesis, statement)),)))

    # --- what must never be ---

    def watch(self, node, data):
        message = decode_message(data)
        self.recorded.append(message)
        statement = message.statement
        if isinstance(message, Proposal):
            is_own = self.genesis.proposer(statement.height, statement.round) == node.number
        else:
            is_own = node.number in dict(message.signatures)
        if node.is_honest and is_own:
            place = (node.number, statement.height, statement.round, statement.kind)
            if self.said.setdefault(place, statement) != statement:
                raise UnsafeError(f"said twice: {self.said[place]}, {statement}")
            is_alone = isinstance(message, Proposal) or len(message.signatures) == 1
            if is_alone and data not in node.log:
                raise UnsafeError(f"said before it was on disk: {statement}")

    def note_decision(self, node, certificate):
        if node.is_honest:
            if self.decided.setdefault(certificate.height, certificate.value) != certificate.value:
                raise UnsafeError(f"height {certificate.height}: {certificate.value} after {self.decided}")
            if certificate.value == INVALID:
                raise UnsafeError("an invalid value")

    def check_logs(self):
        """Every log gives back the standing that wrote it."""
        for node in self.all_nodes():
            if node.kind == "honest" and node.member is not None:
                found = read_log(node.log, self.genesis, node.key.node_id)
                assert not found.damage
                assert found.torn_bytes == 0
                assert found.standing == node.member.standing
