"""Cells on a built circuit: every hop changes every byte, and any change by anyone else is noticed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.errors import AuthenticationError, DecodeError
from tests.support.entropy import fixed_entropy
from tests.support.onion import build_circuit, shares_stretch

HOPS = pytest.mark.parametrize("hops", [1, 2, 3])
hop_counts = st.integers(1, 3)


@pytest.fixture
def entropy():
    return fixed_entropy("layers")


def flip_bit(body, bit):
    changed = bytearray(body)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


class TestRoundTrip:
    @given(hops=hop_counts, contents=st.lists(st.binary(max_size=968), max_size=5))
    @settings(deadline=None, max_examples=40)
    def test_outbound_contents_arrive_in_order(self, hops, contents):
        circuit = build_circuit(hops, fixed_entropy("out"))
        for content in (content.ljust(968, b"\0") for content in contents):
            arrived, bodies = circuit.send_outbound(content)
            assert arrived == content
            assert {len(body) for body in bodies} == {1016}

    @given(hops=hop_counts, contents=st.lists(st.binary(max_size=1000), max_size=5))
    @settings(deadline=None, max_examples=40)
    def test_inbound_contents_arrive_in_order(self, hops, contents):
        circuit = build_circuit(hops, fixed_entropy("in"))
        for content in (content.ljust(1000, b"\0") for content in contents):
            arrived, bodies = circuit.send_inbound(content)
            assert arrived == content
            assert {len(body) for body in bodies} == {1016}

    def test_directions_do_not_disturb_each_other(self, entropy):
        circuit = build_circuit(3, entropy)
        for number in range(50):
            content = bytes([number]) * 1000
            if number % 3:
                assert circuit.send_inbound(content)[0] == content
            else:
                assert circuit.send_outbound(content[:968])[0] == content[:968]

    def test_same_content_never_looks_the_same(self, entropy):
        circuit = build_circuit(3, entropy)
        outbound = [body for _ in range(20) for body in circuit.send_outbound(bytes(968))[1]]
        inbound = [body for _ in range(20) for body in circuit.send_inbound(bytes(1000))[1]]
        assert (
            len({body[at : at + 16] for body in outbound + inbound for at in range(0, 1001, 8)}) == 120 * 126
        )


class TestNothingRecurs:
    """10^4 cells: no 16 bytes of what enters a hop leave it again, anywhere in the body."""

    def test_outbound(self, entropy):
        circuit = build_circuit(3, entropy)
        for _ in range(5000):
            _, links = circuit.send_outbound(bytes(968))
            assert not shares_stretch(links[0], links[1])
            assert not shares_stretch(links[1], links[2])

    def test_inbound(self, entropy):
        circuit = build_circuit(3, entropy)
        for _ in range(5000):
            _, links = circuit.send_inbound(bytes(1000))
            assert not shares_stretch(links[0], links[1])
            assert not shares_stretch(links[1], links[2])

    def test_the_search_itself_finds_a_shared_stretch(self):
        left, right = fixed_entropy("left")(1016), fixed_entropy("right")(1016)
        assert not shares_stretch(left, right)
        for at in (0, 3, 500, 1000):
            for to in (0, 501, 1000):
                assert shares_stretch(left, right[:to] + left[at : at + 16] + right[to + 16 :])
                assert not shares_stretch(left, right[:to] + left[at : at + 15] + b"?" + right[to + 16 :])

    def test_last_hop_of_a_short_circuit_sees_as_much_as_that_of_a_long_one(self, entropy):
        for hops in (1, 2, 3):
            circuit = build_circuit(hops, entropy)
            content, bodies = circuit.send_outbound(b"c" * 968)
            assert (len(content), len(bodies[-1])) == (968, 1016)


class TestTampering:
    @given(hops=hop_counts, data=st.data(), bit=st.integers(0, 1016 * 8 - 1))
    @settings(deadline=None, max_examples=60)
    def test_next_hop_notices_an_outbound_cell_changed_on_any_link(self, hops, data, bit):
        link = data.draw(st.integers(0, hops - 1))
        circuit = build_circuit(hops, fixed_entropy("tamper"))
        body = circuit.client.wrap(bytes(968))
        for relay in circuit.relays[:link]:
            body = relay.peel(body)
        with pytest.raises(AuthenticationError):
            circuit.relays[link].peel(flip_bit(body, bit))

    @given(hops=hop_counts, data=st.data(), bit=st.integers(0, 1016 * 8 - 1))
    @settings(deadline=None, max_examples=60)
    def test_client_notices_an_inbound_cell_changed_on_any_link(self, hops, data, bit):
        link = data.draw(st.integers(0, hops - 1))
        circuit = build_circuit(hops, fixed_entropy("tamper"))
        body = circuit.relays[-1].seal(bytes(1000))
        for at, relay in enumerate(reversed((None, *circuit.relays[:-1]))):
            body = flip_bit(body, bit) if at == link else body
            body = relay.wrap(body) if relay else body
        with pytest.raises(AuthenticationError):
            circuit.client.peel(body)

    @HOPS
    def test_replayed_outbound_cell_is_noticed(self, hops, entropy):
        circuit = build_circuit(hops, entropy)
        body = circuit.client.wrap(bytes(968))
        circuit.relays[0].peel(body)
        with pytest.raises(AuthenticationError):
            circuit.relays[0].peel(body)

    @HOPS
    def test_reordered_or_dropped_outbound_cell_is_noticed(self, hops, entropy):
        circuit = build_circuit(hops, entropy)
        circuit.client.wrap(bytes(968))
        with pytest.raises(AuthenticationError):
            circuit.relays[0].peel(circuit.client.wrap(bytes(968)))

    @pytest.mark.parametrize("event", ["replayed", "dropped"])
    @HOPS
    def test_replayed_or_dropped_inbound_cell_is_noticed(self, event, hops, entropy):
        circuit = build_circuit(hops, entropy)
        _, links = circuit.send_inbound(bytes(1000))
        if event == "dropped":
            circuit.relays[-1].seal(bytes(1000))
            links = [circuit.relays[-1].seal(bytes(1000))]
            for relay in reversed(circuit.relays[:-1]):
                links.append(relay.wrap(links[-1]))
        with pytest.raises(AuthenticationError):
            circuit.client.peel(links[-1])

    def test_cell_of_another_circuit_is_noticed(self, entropy):
        ours, theirs = build_circuit(3, entropy), build_circuit(3, entropy)
        with pytest.raises(AuthenticationError):
            ours.relays[0].peel(theirs.client.wrap(bytes(968)))
        with pytest.raises(AuthenticationError):
            ours.client.peel(theirs.send_inbound(bytes(1000))[1][-1])

    def test_cell_meant_for_another_hop_is_noticed(self, entropy):
        circuit = build_circuit(3, entropy)
        with pytest.raises(AuthenticationError):
            circuit.relays[1].peel(circuit.client.wrap(bytes(968)))

    def test_cell_that_skips_a_hop_inward_is_noticed(self, entropy):
        circuit = build_circuit(3, entropy)
        with pytest.raises(AuthenticationError):
            circuit.client.peel(circuit.relays[0].wrap(circuit.relays[2].seal(bytes(1000))))

    def test_mark_that_colluding_hops_make_dies_at_the_honest_one_between(self, entropy):
        """Entry and proxy collude: the entry XORs a mark into the body. The middle hop opens nothing of it."""
        circuit = build_circuit(3, entropy)
        marked = flip_bit(circuit.relays[0].peel(circuit.client.wrap(bytes(968))), 1016 * 8 - 1)
        with pytest.raises(AuthenticationError):
            circuit.relays[1].peel(marked)


class TestReplyToken:
    def test_client_and_last_hop_agree_and_no_other_hop_does(self, entropy):
        circuit = build_circuit(3, entropy)
        token = circuit.client.reply_token(b"message1")
        assert len(token) == 16
        assert [relay.reply_token(b"message1") == token for relay in circuit.relays] == [False, False, True]

    def test_tokens_differ_by_message_and_by_circuit(self, entropy):
        ours, theirs = build_circuit(1, entropy), build_circuit(1, entropy)
        messages = [bytes(7) + bytes([number]) for number in range(50)]
        tokens = {circuit.client.reply_token(message) for circuit in (ours, theirs) for message in messages}
        assert len(tokens) == 100

    @pytest.mark.parametrize("length", [0, 7, 9])
    def test_message_id_has_eight_bytes(self, length, entropy):
        with pytest.raises(DecodeError):
            build_circuit(1, entropy).client.reply_token(bytes(length))


class TestWrongUse:
    @pytest.mark.parametrize("length", [0, 1015, 1017])
    def test_body_of_another_length_is_malformed(self, length, entropy):
        circuit = build_circuit(2, entropy)
        middle, last = circuit.relays
        for call in (middle.peel, middle.wrap, last.peel, circuit.client.peel):
            with pytest.raises(DecodeError):
                call(bytes(length))

    def test_content_of_another_length_is_refused(self, entropy):
        circuit = build_circuit(1, entropy)
        with pytest.raises(DecodeError):
            circuit.client.wrap(bytes(967))
        with pytest.raises(DecodeError):
            circuit.relays[0].seal(bytes(1001))

    def test_hops_keep_to_their_role(self, entropy):
        middle, last = build_circuit(2, entropy).relays
        with pytest.raises(ValueError, match="last"):
            middle.seal(bytes(1000))
        with pytest.raises(ValueError, match="last"):
            last.wrap(bytes(1016))

    def test_no_repr_shows_a_key(self, entropy):
        circuit = build_circuit(2, entropy)
        assert repr(circuit.client) == "ClientLayers(2 hops, keys not shown)"
        assert repr(circuit.relays[0]) == "RelayLayer(is_last=False, keys not shown)"
