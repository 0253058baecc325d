"""Members of a group over a network that loses, doubles and reorders: when it heals, all have the same view."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.support.groups import IDLE, SPEED, Group, Load, Member

NAMES = ("alice", "bob", "carol", "dave", "erin")
BLOCKS = [bytes([index]) * 8 for index in range(10)]

names = st.sampled_from(NAMES)
blocks = st.lists(st.sampled_from(BLOCKS), max_size=5, unique=True)


class NetworkMachine(RuleBasedStateMachine):
    """Messages lie in a bag; any may arrive any number of times, or never. Directories differ for a while."""

    @initialize()
    def begin(self):
        self.group = Group(*NAMES)
        self.started = 1
        self.loads = {}

    @rule(name=names, stored=blocks, evicted=blocks)
    def change(self, name, stored, evicted):
        self.group[name].change([block for block in stored if block not in evicted], evicted)

    @rule(name=names, queued=st.integers(0, 1 << 20))
    def tell_load(self, name, queued):
        load = Load(
            queued_tokens=queued, decoding=0, free_slots=IDLE.free_slots, answer_s=0.0, decoding_s=0.0
        )
        self.group[name].machine.tell_load(SPEED, load)
        self.loads[name] = load

    @rule(name=names)
    def lose_the_cache(self, name):
        self.group[name].machine.begin_anew()
        self.group[name].held = set()

    @rule(name=names, step=st.sampled_from([1, 1000, -5]))
    def restart(self, name, step):
        """Also with a clock that was set back."""
        self.started += step
        self.group.members[name] = Member(name, incarnation=max(0, self.started), now=self.group.now)
        self.loads.pop(name, None)
        ids = [member.node_id for member in self.group.members.values()]
        self.group[name].machine.set_members(ids)

    @rule(name=names, others=st.sets(names))
    def see_some_only(self, name, others):
        self.group[name].machine.set_members([self.group[other].node_id for other in others])

    @rule(seconds=st.sampled_from([0.1, 1.0, 7.0, 300.0]))
    def wait(self, seconds):
        self.group.pass_time(seconds)

    @precondition(lambda self: self.group.flying)
    @rule(index=st.integers(0))
    def deliver(self, index):
        self.group.deliver(index % len(self.group.flying))

    @precondition(lambda self: self.group.flying)
    @rule(index=st.integers(0))
    def lose(self, index):
        del self.group.flying[index % len(self.group.flying)]

    def teardown(self):
        group = self.group
        group.introduce(group.members.values())
        group.pass_time(300.0)  # rates fill, logs that stood still go on
        group.settle(40)
        held = {member.node_id: len(member.held) for member in group.members.values()}
        for member in group.members.values():
            for other in group.members.values():
                assert {
                    each for each in other.held if other.node_id in member.tree.match([each], 0.0)
                } == other.held
                assert member.tree.held_by(other.node_id) == held[other.node_id]
                if other.name in self.loads:
                    assert member.machine.load_of(other.node_id).report.load == self.loads[other.name]


TestNetwork = NetworkMachine.TestCase
TestNetwork.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
