"""Building a circuit: who may, who learns what, and what happens when anyone on the way cheats."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.aead import ONE_USE_NONCE, AeadKey
from crypto.build import SLOT_BYTES, SLOT_COUNT, SLOTS_BYTES
from crypto.errors import AuthenticationError, CryptoError, DecodeError
from crypto.exchange import OnionPublicKey
from crypto.identity import NodeId
from crypto.kdf import derive
from crypto.onion import BuildTerms, Hop, OnionKey, accept_build, start_build
from tests.support.entropy import fixed_entropy
from tests.support.low_order import LOW_ORDER_X25519
from tests.support.onion import (
    EPOCH,
    TERMS,
    UNIX_MINUTE,
    Relay,
    build_circuit,
    carry_build,
    carry_built,
    make_relays,
    shares_stretch,
    start,
)

HOPS = pytest.mark.parametrize("hops", [1, 2, 3])


@pytest.fixture
def entropy():
    return fixed_entropy("build")


def accept(relay, body, **changes):
    arguments = {
        "node_id": relay.node_id,
        "keys": [(EPOCH, relay.onion_key)],
        "unix_minute": UNIX_MINUTE,
        "seen": lambda _: False,
        "difficulty": 0,
        "entropy": fixed_entropy("relay"),
    }
    return accept_build(body, **(arguments | changes))


def slot_of(relay, body):
    return next(s for s in range(SLOT_COUNT) if body[s * SLOT_BYTES :].startswith(relay.node_id[:16]))


def flip(body, at):
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


def forge_record(relay, *, ephemeral=None, plaintext=None, **fields):
    """A body with one record, whatever it says; sealed as a client would seal it."""
    values = {
        "next_id": bytes(32),
        "flags": 1,
        "epoch": EPOCH,
        "lifetime_s": 600,
        "quota": 200,
        "unix_minute": UNIX_MINUTE,
        "zeros": bytes(11),
    } | fields
    key = ephemeral or OnionKey.from_bytes(b"x" * 32)
    transcript = relay.node_id + relay.onion_key.public + key.public
    record_key = derive(key.agree(relay.onion_key.public), transcript, 96, b"clove-onion/1|build")[:32]
    packed = plaintext or struct.pack("!32sBIHHI11s", *values.values())
    record = relay.node_id[:16] + key.public + bytes(8)
    return (record + AeadKey(record_key).seal(ONE_USE_NONCE, packed, transcript)).ljust(1016, b"\xaa")


class TestHonestBuild:
    @HOPS
    def test_every_hop_learns_its_neighbour_and_the_terms(self, hops, entropy):
        relays = make_relays(hops, entropy)
        _, body = start(relays, entropy)
        accepted, _ = carry_build(relays, body, entropy)
        assert [build.next_id for build in accepted] == [*(r.node_id for r in relays[1:]), None]
        assert {(build.lifetime_s, build.quota) for build in accepted} == {(600, 200)}
        assert [build.layer.is_last for build in accepted] == [False] * (hops - 1) + [True]

    @HOPS
    def test_client_and_every_hop_come_to_the_same_keys(self, hops, entropy):
        circuit = build_circuit(hops, entropy)
        assert circuit.client.hop_count == hops
        assert circuit.send_outbound(b"c" * 968)[0] == b"c" * 968
        assert circuit.send_inbound(b"c" * 1000)[0] == b"c" * 1000

    def test_relay_accepts_its_previous_key(self, entropy):
        (alice,) = make_relays(1, entropy)
        pending, body = start([alice], entropy)
        keys = [(EPOCH + 1, OnionKey.generate(entropy)), (EPOCH, alice.onion_key)]
        assert pending.finish(accept(alice, body, keys=keys).body).hop_count == 1

    def test_loaded_relay_accepts_a_solved_puzzle_only(self, entropy):
        (alice,) = make_relays(1, entropy)
        _, solved = start_build([alice.hop(difficulty=10)], TERMS, entropy=entropy)
        accept(alice, solved, difficulty=10)
        _, unsolved = start_build([alice.hop()], TERMS, entropy=entropy)
        with pytest.raises(AuthenticationError, match="puzzle"):
            accept(alice, unsolved, difficulty=20)

    def test_unsolved_puzzle_costs_no_key_agreement_and_no_look_at_the_cache(self, entropy):
        (alice,) = make_relays(1, entropy)
        _, body = start([alice], entropy)

        def never(_):
            raise AssertionError("the puzzle comes first")

        with pytest.raises(AuthenticationError, match="puzzle"):
            accept(alice, body, difficulty=20, seen=never)

    @pytest.mark.parametrize("minutes", [-5, -1, 0, 1, 5])
    def test_clocks_may_differ_by_five_minutes(self, minutes, entropy):
        (alice,) = make_relays(1, entropy)
        accept(alice, start([alice], entropy)[1], unix_minute=UNIX_MINUTE + minutes)


class TestWhatABodyShows:
    def test_bodies_of_one_two_and_three_hops_look_alike(self):
        # Everything but the first hop's own slot must be as random for a short path as for a long one. Each bit
        # outside it is a fair coin; with 256 builds, more than 5.5 standard deviations (88) means it isn't.
        for hops in (1, 2, 3):
            entropy = fixed_entropy(f"alike {hops}")
            relays = make_relays(hops, entropy)
            ones = [0] * ((SLOT_COUNT - 1) * SLOT_BYTES * 8)
            for _ in range(256):
                _, body = start(relays, entropy)
                assert len(body) == 1016
                at = slot_of(relays[0], body) * SLOT_BYTES
                others = int.from_bytes(body[:at] + body[at + SLOT_BYTES : SLOTS_BYTES], "big")
                for bit in range(0, len(ones), 7):
                    ones[bit] += others >> bit & 1
            assert all(40 <= ones[bit] <= 216 for bit in range(0, len(ones), 7))

    def test_slots_come_in_every_order(self, entropy):
        relays = make_relays(3, entropy)
        slots = {slot_of(relays[0], start(relays, entropy)[1]) for _ in range(100)}
        assert slots == set(range(SLOT_COUNT))

    def test_relay_can_not_tell_where_the_hop_before_it_wrote(self, entropy):
        # An X25519 key in clear would always have 0 as its top bit (byte 31 of a confirmation slot).
        relays = make_relays(2, entropy)
        tops = []
        for _ in range(64):
            _, body = start(relays, entropy)
            first_slot = slot_of(relays[0], body)
            _, bodies = carry_build(relays, body, entropy)
            tops.append(bodies[1][first_slot * SLOT_BYTES + 31] >> 7)
        assert 10 < sum(tops) < 54

    @HOPS
    def test_no_stretch_of_a_body_survives_a_hop(self, hops, entropy):
        for _ in range(20):
            circuit = build_circuit(hops, entropy)
            links = [*circuit.build_bodies, *circuit.built_bodies]
            assert all(len(body) == 1016 for body in links)
            for at, body in enumerate(links):
                assert not any(shares_stretch(body, other) for other in links[at + 1 :])

    def test_no_relay_id_but_the_next_ones_is_on_a_link(self, entropy):
        relays = make_relays(3, entropy)
        _, body = start(relays, entropy)
        _, bodies = carry_build(relays, body, entropy)
        for at, body in enumerate(bodies):
            assert [relay.node_id[:16] in body for relay in relays] == [at == i for i in range(3)]

    def test_two_builds_over_one_path_share_nothing_but_the_first_ids(self, entropy):
        relays = make_relays(3, entropy)
        one, two = start(relays, entropy)[1], start(relays, entropy)[1]
        prefix = relays[0].node_id[:16]
        assert not shares_stretch(one.replace(prefix, b"1" * 16), two.replace(prefix, b"2" * 16))


class TestRefusedByTheRelay:
    def test_build_seen_before(self, entropy):
        (alice,) = make_relays(1, entropy)
        _, body = start([alice], entropy)
        ephemeral = alice.accept(body, entropy).ephemeral
        with pytest.raises(AuthenticationError, match="before"):
            alice.accept(body, entropy, seen=frozenset({ephemeral}))

    def test_only_a_key_that_opened_its_record_is_worth_remembering(self, entropy):
        # Otherwise anyone could fill the replay cache, or burn a key that they saw on another link.
        (alice,) = make_relays(1, entropy)
        _, body = start([alice], entropy)
        with pytest.raises(AuthenticationError):
            alice.accept(flip(body, slot_of(alice, body) * SLOT_BYTES + 100), entropy)
        alice.accept(body, entropy)

    def test_record_for_another_relay(self, entropy):
        alice, bob = make_relays(2, entropy)
        _, body = start([alice], entropy)
        with pytest.raises(DecodeError):
            bob.accept(body, entropy)

    def test_record_of_another_relay_under_our_name(self, entropy):
        alice, bob = make_relays(2, entropy)
        _, body = start([alice], entropy)
        renamed = body.replace(alice.node_id[:16], bob.node_id[:16])
        with pytest.raises(AuthenticationError):
            bob.accept(renamed, entropy)

    def test_record_under_a_twin_of_our_name(self, entropy):
        # Whoever shares the first half of our id still fails: the whole id is bound to the record.
        (alice,) = make_relays(1, entropy)
        _, body = start([alice], entropy)
        with pytest.raises(AuthenticationError):
            accept(alice, body, node_id=NodeId(alice.node_id[:16] + bytes(16)))

    def test_key_of_another_epoch(self, entropy):
        (alice,) = make_relays(1, entropy)
        _, body = start([alice], entropy)
        with pytest.raises(AuthenticationError, match="no key"):
            accept(alice, body, keys=[(EPOCH, OnionKey.generate(entropy))])
        with pytest.raises(AuthenticationError, match="epoch"):
            accept(alice, body, keys=[(EPOCH + 1, alice.onion_key)])
        with pytest.raises(AuthenticationError):
            accept(alice, body, keys=[])

    @pytest.mark.parametrize("minutes", [-6, 6, 60 * 24])
    def test_record_from_another_time(self, minutes, entropy):
        (alice,) = make_relays(1, entropy)
        with pytest.raises(AuthenticationError, match="time"):
            accept(alice, start([alice], entropy)[1], unix_minute=UNIX_MINUTE + minutes)

    @pytest.mark.parametrize("public", LOW_ORDER_X25519)
    def test_ephemeral_key_of_low_order(self, public, entropy):
        (alice,) = make_relays(1, entropy)
        _, body = start([alice], entropy)
        at = slot_of(alice, body) * SLOT_BYTES + 16
        with pytest.raises(AuthenticationError):
            alice.accept(body[:at] + bytes.fromhex(public) + body[at + 32 :], entropy)

    @pytest.mark.parametrize("length", [0, 128, 1015, 1017])
    def test_body_of_another_length(self, length, entropy):
        (alice,) = make_relays(1, entropy)
        with pytest.raises(DecodeError):
            alice.accept((start([alice], entropy)[1] + b"\0")[:length], entropy)

    @given(at=st.integers(16, SLOT_BYTES - 1), bit=st.integers(0, 7))
    @settings(deadline=None)
    def test_record_with_any_bit_changed(self, at, bit):
        entropy = fixed_entropy("bits")
        (alice,) = make_relays(1, entropy)
        _, body = start([alice], entropy)
        changed = bytearray(body)
        changed[slot_of(alice, body) * SLOT_BYTES + at] ^= 1 << bit
        if 48 <= at < 56:
            return  # the puzzle's nonce: it authenticates nothing, and nothing follows from it
        with pytest.raises(AuthenticationError):
            alice.accept(bytes(changed), entropy)

    def test_records_of_two_builds_with_their_halves_swapped(self, entropy):
        (alice,) = make_relays(1, entropy)
        one, two = forge_record(alice), forge_record(alice, ephemeral=OnionKey.generate(entropy))
        alice.accept(one, entropy)
        with pytest.raises(AuthenticationError):
            alice.accept(one[:56] + two[56:], entropy)

    @pytest.mark.parametrize(
        "fields",
        [
            {"flags": 0},
            {"flags": 1, "next_id": b"n" * 32},
            {"flags": 2},
            {"flags": 0x81},
            {"zeros": bytes(10) + b"\1"},
        ],
    )
    def test_authentic_record_that_makes_no_sense(self, fields, entropy):
        (alice,) = make_relays(1, entropy)
        with pytest.raises(DecodeError):
            alice.accept(forge_record(alice, **fields), entropy)

    def test_record_that_leads_back_to_the_relay(self, entropy):
        (alice,) = make_relays(1, entropy)
        with pytest.raises(DecodeError, match="back"):
            alice.accept(forge_record(alice, flags=0, next_id=alice.node_id), entropy)


class TestRefusedByTheClient:
    @pytest.mark.parametrize("confirmation_of", [0, 1, 2])
    @pytest.mark.parametrize("at", [0, 31, 32, 111, 127])
    def test_confirmation_changed_on_any_link(self, confirmation_of, at, entropy):
        relays = make_relays(3, entropy)
        for link in range(3):
            pending, body = start(relays, entropy)
            accepted, bodies = carry_build(relays, body, entropy)
            slots = [slot_of(relay, body) for relay, body in zip(relays, bodies, strict=True)]
            changed = flip(accepted[-1].body, slots[confirmation_of] * SLOT_BYTES + at) if link == 0 else None
            built = changed or accepted[-1].body
            for step, build in enumerate(reversed(accepted[:-1]), start=1):
                built = build.layer.wrap_built(built)
                if step == link:
                    built = flip(built, slots[confirmation_of] * SLOT_BYTES + at)
            with pytest.raises(AuthenticationError):
                pending.finish(built)

    @pytest.mark.parametrize("link", [1, 2])
    @pytest.mark.parametrize("victim", [0, 1, 2])
    def test_slot_changed_on_its_way_out(self, link, victim, entropy):
        """Either the hop whose record it is notices, or the client does, whose confirmation it was."""
        relays = make_relays(3, entropy)
        pending, first = start(relays, entropy)
        _, bodies = carry_build(relays, first, entropy)
        at = slot_of(relays[victim], bodies[victim]) * SLOT_BYTES + 70

        def build_with_a_change():
            body, accepted = first, []
            for index, relay in enumerate(relays):
                accepted.append(relay.accept(flip(body, at) if index == link else body, entropy))
                body = accepted[-1].body
            return pending.finish(carry_built(accepted)[-1])

        with pytest.raises(AuthenticationError):
            build_with_a_change()

    def test_built_answered_early(self, entropy):
        relays = make_relays(3, entropy)
        pending, body = start(relays, entropy)
        accepted, _ = carry_build(relays[:2], body, entropy)
        with pytest.raises(CryptoError):
            pending.finish(carry_built(accepted)[-1])

    def test_built_of_another_build_over_the_same_path(self, entropy):
        relays = make_relays(2, entropy)
        pending, _ = start(relays, entropy)
        _, body = start(relays, entropy)
        accepted, _ = carry_build(relays, body, entropy)
        with pytest.raises(AuthenticationError):
            pending.finish(carry_built(accepted)[-1])

    def test_record_opened_and_confirmed_by_a_relay_in_the_middle(self, entropy):
        """mallory, asked to extend to bob, plays bob herself; without bob's onion key she can't."""
        alice, bob = make_relays(2, entropy)
        mallory = Relay(bob.identity, OnionKey.generate(entropy))
        pending, body = start([alice, bob], entropy)
        build = alice.accept(body, entropy)
        with pytest.raises(AuthenticationError):
            mallory.accept(build.body, entropy)
        with pytest.raises(AuthenticationError):
            pending.finish(build.layer.wrap_built(build.body))

    @pytest.mark.parametrize("length", [0, 1015, 1017])
    def test_built_of_another_length(self, length, entropy):
        pending, _ = start(make_relays(1, entropy), entropy)
        with pytest.raises(DecodeError):
            pending.finish(bytes(length))

    @given(body=st.binary(min_size=1016, max_size=1016))
    @settings(deadline=None, max_examples=30)
    def test_anything_else(self, body):
        pending, _ = start(make_relays(3, fixed_entropy("any")), fixed_entropy("any"))
        with pytest.raises(AuthenticationError):
            pending.finish(body)

    @pytest.mark.parametrize("public", LOW_ORDER_X25519)
    def test_onion_key_of_low_order_in_a_descriptor(self, public, entropy):
        hop = Hop(make_relays(1, entropy)[0].node_id, OnionPublicKey(bytes.fromhex(public)), EPOCH)
        with pytest.raises(AuthenticationError):
            start_build([hop], TERMS, entropy=entropy)


class TestWrongUse:
    @pytest.mark.parametrize("count", [0, 4])
    def test_path_has_one_to_three_relays(self, count, entropy):
        with pytest.raises(ValueError, match="relays"):
            start(make_relays(count, entropy), entropy)

    def test_relay_stands_once_in_a_path(self, entropy):
        (alice,) = make_relays(1, entropy)
        with pytest.raises(ValueError, match="different"):
            start([alice, alice], entropy)

    @pytest.mark.parametrize(
        "terms", [BuildTerms(70000, 1, 1), BuildTerms(1, -1, 1), BuildTerms(1, 1, 2**32)]
    )
    def test_terms_fit_their_fields(self, terms, entropy):
        with pytest.raises(ValueError, match="terms"):
            start_build([make_relays(1, entropy)[0].hop()], terms, entropy=entropy)

    def test_circuit_is_built_once(self, entropy):
        (alice,) = make_relays(1, entropy)
        build = alice.accept(start([alice], entropy)[1], entropy)
        with pytest.raises(ValueError, match="once"):
            build.layer.wrap_built(build.body)

    def test_no_repr_shows_a_key(self, entropy):
        relays = make_relays(2, entropy)
        pending, body = start(relays, entropy)
        accepted, _ = carry_build(relays, body, entropy)
        shown = repr(pending) + repr(accepted) + repr(relays[0].onion_key)
        assert "key" in shown
        assert relays[0].onion_key.to_bytes().hex()[:8] not in shown
        assert accepted[0].body.hex()[:8] not in shown
