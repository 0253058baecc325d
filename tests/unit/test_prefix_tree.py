"""The tree against a plain model of it, its bounds, and what it costs a match that members come and go."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from crypto.identity import NodeId
from overlay.routing.prefix_tree import PrefixTree

PERIOD_S = 10.0
MEMBERS = [NodeId(bytes([index]) * 32) for index in range(1, 7)]
A, B, C = MEMBERS[:3]


def chain(word):
    """The blocks of a prompt; prompts that begin alike share the first ones."""
    return [word[: end + 1].encode().ljust(8, b".") for end in range(len(word))]


words = st.text("ab", min_size=1, max_size=5)
members = st.sampled_from(MEMBERS)


class TreeMachine(RuleBasedStateMachine):
    """Told blocks are a set for each member; an expected one is there for a period and gone after two."""

    @initialize()
    def begin(self):
        self.tree = PrefixTree(period_s=PERIOD_S)
        self.now = 0.0
        self.told = {}
        self.expected = {}

    @rule(member=members, word=words)
    def store(self, member, word):
        assert self.tree.store(member, chain(word)) == 0
        self.told.setdefault(member, set()).update(chain(word))

    @rule(member=members, word=words, cut=st.integers(0, 4))
    def evict(self, member, word, cut):
        gone = chain(word)[cut:]
        self.tree.evict(member, gone)
        self.told.get(member, set()).difference_update(gone)
        for block in gone:
            self.expected.pop((member, block), None)

    @rule(member=members, word=words)
    def expect(self, member, word):
        self.tree.expect(member, chain(word), self.now)
        self.expected.update(dict.fromkeys(((member, block) for block in chain(word)), self.now))

    @rule(member=members)
    def forget(self, member):
        self.tree.forget(member)
        self.told.pop(member, None)
        self.expected = {key: at for key, at in self.expected.items() if key[0] != member}

    @rule(member=members)
    def retract(self, member):
        self.tree.retract(member)
        self.told.pop(member, None)

    @rule(seconds=st.sampled_from([1.0, 4.0, 10.0, 25.0, 1000.0]))
    def wait(self, seconds):
        self.now += seconds

    @rule(word=words)
    def match(self, word):
        found = self.tree.match(chain(word), self.now)
        assert 0 not in found.values()
        for member in MEMBERS:
            least = self.depth(member, word, PERIOD_S)
            most = self.depth(member, word, 2 * PERIOD_S)
            assert least <= found.get(member, 0) <= most

    def depth(self, member, word, within_s):
        held = self.told.get(member, set()) | {
            block for (who, block), at in self.expected.items() if who == member and self.now - at < within_s
        }
        return next((depth for depth, block in enumerate(chain(word)) if block not in held), len(word))

    @invariant()
    def counts_are_right(self):
        assert len(self.tree) == len(set().union(*self.told.values()))
        for member in MEMBERS:
            assert self.tree.held_by(member) == len(self.told.get(member, ()))


TestTree = TreeMachine.TestCase
TestTree.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_a_block_deep_in_a_chain_is_worth_nothing_without_those_before_it():
    tree = PrefixTree()
    tree.store(A, chain("abab")[2:])
    tree.store(B, chain("abab")[:2])
    assert tree.match(chain("abab"), 0.0) == {B: 2}


def test_over_its_bound_a_members_claims_are_not_taken_and_nobody_is_pushed_out():
    tree = PrefixTree(max_blocks=100, max_member_blocks=10)
    tree.store(A, chain("abab"))
    flood = [index.to_bytes(8, "big") for index in range(1000)]
    assert tree.store(B, flood) == 990
    assert tree.held_by(B) == 10
    assert tree.match(chain("abab"), 0.0) == {A: 4}


def test_what_a_member_evicts_makes_room_for_what_it_stores():
    tree = PrefixTree(max_member_blocks=4)
    tree.store(A, chain("abab"))
    tree.evict(A, chain("abab")[2:])
    assert tree.store(A, chain("bb")) == 0


def test_over_the_trees_bound_the_block_that_was_touched_longest_ago_goes():
    tree = PrefixTree(max_blocks=4)
    tree.store(A, chain("aa"))
    tree.store(B, chain("bb"))
    tree.match(chain("aa"), 0.0)
    tree.store(C, chain("ab")[1:])
    assert tree.match(chain("aa"), 0.0) == {A: 2}
    assert tree.match(chain("bb"), 0.0) == {}
    assert (len(tree), tree.held_by(B)) == (4, 1)


def test_expected_blocks_are_bounded_too_and_the_newest_stay():
    tree = PrefixTree(max_blocks=8)
    for index in range(1000):
        tree.expect(A, [index.to_bytes(8, "big")], 0.0)
    assert len(tree._expected) + len(tree._fading) <= 16
    assert tree.match([(999).to_bytes(8, "big")], 0.0) == {A: 1}


def test_a_tree_without_anything_expected_for_long_still_fades():
    tree = PrefixTree(period_s=PERIOD_S)
    tree.expect(A, chain("a"), 1000.0)
    assert tree.match(chain("a"), 1000.0 + PERIOD_S - 1) == {A: 1}
    assert tree.match(chain("a"), 1000.0 + 2 * PERIOD_S) == {}


def test_a_member_that_begins_anew_holds_nothing():
    tree = PrefixTree()
    tree.store(A, chain("ab"))
    tree.store(B, chain("ab"))
    tree.forget(A)
    assert tree.match(chain("ab"), 0.0) == {B: 2}
    tree.store(A, chain("a"))
    assert tree.match(chain("ab"), 0.0) == {A: 1, B: 2}


def test_who_tells_all_anew_is_still_expected_to_hold_what_was_sent_to_it():
    tree = PrefixTree(period_s=PERIOD_S)
    tree.store(A, chain("b"))
    tree.expect(A, chain("a"), 0.0)
    tree.retract(A)
    assert tree.match(chain("b"), 0.0) == {}
    assert tree.match(chain("a"), 0.0) == {A: 1}


def test_a_bit_that_is_used_again_brings_nothing_of_its_last_member():
    tree = PrefixTree(period_s=PERIOD_S)
    tree.store(A, chain("a"))
    tree.expect(A, chain("b"), 0.0)
    tree.forget(A)
    tree.store(B, chain("ab")[1:])
    assert tree.match(chain("a"), 0.0) == {}
    assert tree.match(chain("b"), 0.0) == {}


def test_thousands_who_came_and_went_leave_no_bits_behind():
    tree = PrefixTree()
    tree.store(A, chain("ab"))
    for index in range(5000):
        stranger = NodeId(index.to_bytes(32, "big"))
        tree.store(stranger, chain("ab"))
        tree.forget(stranger)
    assert max(tree._told.values()).bit_length() <= 2
    assert tree.match(chain("ab"), 0.0) == {A: 2}
