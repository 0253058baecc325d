"""Any k of n cloves give the message back, fewer say nothing, and a false one is found out."""

from contextlib import suppress
from dataclasses import replace
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crypto.dispersal import (
    CLOVE_HEADER_BYTES,
    MAX_FRAGMENTS,
    MAX_MESSAGE_BYTES,
    clove_bytes,
    decode_clove,
    disperse,
    reassemble,
    recover,
    split,
)
from crypto.erasure import generator_row
from crypto.errors import AuthenticationError, DecodeError, ShortageError
from crypto.gf256 import combine, invert, invert_matrix, multiply
from tests.support.entropy import fixed_entropy

MID = b"m" * 16
elements = st.integers(0, 255)
codes = st.integers(1, MAX_FRAGMENTS).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n)))


def cloves_of(message, k=2, n=4, seed="cloves"):
    return split(message, k, n, mid=MID, entropy=fixed_entropy(seed))


def flip(data, at=0):
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


class TestField:
    @given(a=elements, b=elements, c=elements)
    def test_multiplication_is_that_of_a_field(self, a, b, c):
        assert multiply(a, b) == multiply(b, a)
        assert multiply(a, multiply(b, c)) == multiply(multiply(a, b), c)
        assert multiply(a, b ^ c) == multiply(a, b) ^ multiply(a, c)
        assert multiply(a, 1) == a

    def test_polynomial_is_0x11d(self):
        assert multiply(0x80, 2) == 0x1D

    def test_every_element_but_zero_has_an_inverse(self):
        assert all(multiply(a, invert(a)) == 1 for a in range(1, 256))
        with pytest.raises(ZeroDivisionError):
            invert(0)

    @given(
        row=st.lists(elements, min_size=3, max_size=3),
        buffers=st.tuples(*[st.binary(min_size=5, max_size=5)] * 3),
    )
    def test_combining_buffers_is_combining_their_bytes(self, row, buffers):
        expected = []
        for column in zip(*buffers, strict=True):
            total = 0
            for factor, element in zip(row, column, strict=True):
                total ^= multiply(factor, element)
            expected.append(total)
        assert combine(row, buffers) == bytes(expected)

    def test_matrix_without_inverse_is_refused(self):
        with pytest.raises(ZeroDivisionError):
            invert_matrix([(1, 2), (1, 2)])


class TestErasureCode:
    @pytest.mark.parametrize(("k", "n"), [(k, n) for n in range(1, 8) for k in range(1, n + 1)])
    def test_every_k_of_n_fragments_suffice(self, k, n):
        data = bytes(range(41))
        fragments = disperse(data, k, n)
        for chosen in combinations(range(n), k):
            assert reassemble({index: fragments[index] for index in chosen}, k, n, len(data)) == data

    @given(data=st.binary(max_size=300), code=codes, draw=st.data())
    @settings(deadline=None)
    def test_any_k_of_n_fragments_suffice(self, data, code, draw):
        k, n = code
        fragments = disperse(data, k, n)
        chosen = draw.draw(st.lists(st.integers(0, n - 1), min_size=k, max_size=n, unique=True))
        assert reassemble({index: fragments[index] for index in chosen}, k, n, len(data)) == data

    def test_first_k_fragments_are_the_data_itself(self):
        assert b"".join(disperse(b"abcdef", 3, 5)[:3]) == b"abcdef"

    def test_first_parity_fragment_is_the_sum_of_the_data(self):
        assert generator_row(4, 4) == (1, 1, 1, 1)

    def test_fewer_than_k_fragments_are_a_shortage(self):
        with pytest.raises(ShortageError):
            reassemble({0: b"ab"}, 2, 4, 4)

    @pytest.mark.parametrize("fragments", [{4: b"ab", 0: b"ab"}, {-1: b"ab", 0: b"ab"}, {0: b"a", 1: b"ab"}])
    def test_fragment_that_can_not_be_is_malformed(self, fragments):
        with pytest.raises(DecodeError):
            reassemble(fragments, 2, 4, 4)

    @pytest.mark.parametrize(("k", "n"), [(0, 1), (3, 2), (1, MAX_FRAGMENTS + 1), (-1, 4)])
    def test_code_out_of_bounds_is_refused(self, k, n):
        with pytest.raises(DecodeError):
            disperse(b"x", k, n)


class TestCloves:
    @given(message=st.binary(max_size=400), code=codes, draw=st.data())
    @settings(deadline=None)
    def test_any_k_cloves_give_the_message(self, message, code, draw):
        k, n = code
        cloves = cloves_of(message, k, n)
        chosen = draw.draw(
            st.lists(st.sampled_from(cloves), min_size=k, max_size=k, unique_by=lambda c: c.index)
        )
        recovered = recover(chosen)
        assert (recovered.message, recovered.culprits) == (message, frozenset())

    @given(message=st.binary(max_size=200), code=codes)
    @settings(deadline=None)
    def test_clove_survives_its_encoding(self, message, code):
        for clove in cloves_of(message, *code):
            encoded = clove.encode()
            assert len(encoded) == clove_bytes(len(message), code[0])
            assert decode_clove(encoded) == clove

    def test_fewer_than_k_cloves_are_a_shortage(self):
        cloves = cloves_of(b"hello", 3, 4)
        for few in ([], cloves[:2], [cloves[0]] * 3):
            with pytest.raises(ShortageError):
                recover(few)

    def test_one_clove_of_two_fits_every_key(self):
        # With k = 2 a share is s + c*x for a random c: whatever s is, each share occurs for exactly one c.
        for secret in (0, 1, 255):
            assert {secret ^ multiply(c, 3) for c in range(256)} == set(range(256))

    def test_shares_use_all_values_of_their_coefficients(self):
        # A zero coefficient is as good as any other; leaving it out would tell that a share isn't the secret.
        cloves = split(b"hello", 2, 4, mid=MID, entropy=bytes)
        assert {clove.share for clove in cloves} == {bytes(32)}
        assert recover(cloves[2:]).message == b"hello"

    def test_message_is_not_in_any_clove(self):
        message = bytes(range(200))
        for clove in cloves_of(message):
            encoded = clove.encode()
            assert not any(message[at : at + 6] in encoded for at in range(195))

    @pytest.mark.parametrize("index", range(4))
    @pytest.mark.parametrize(
        "spoil",
        [
            lambda clove: replace(clove, share=flip(clove.share)),
            lambda clove: replace(clove, fragment=flip(clove.fragment, -1 % len(clove.fragment))),
            lambda clove: replace(clove, share=bytes(32), fragment=bytes(len(clove.fragment))),
            lambda clove: replace(clove, commitment=flip(clove.commitment)),
            lambda clove: replace(clove, mid=flip(clove.mid)),
            lambda clove: replace(clove, length=clove.length ^ 1),
            lambda clove: replace(clove, k=1),
            lambda clove: replace(clove, n=5),
        ],
    )
    def test_one_spoiled_clove_of_four_is_repaired_and_named(self, index, spoil):
        cloves = cloves_of(b"hello " * 10)
        cloves[index] = spoil(cloves[index])
        recovered = recover(cloves)
        assert recovered.message == b"hello " * 10
        assert recovered.culprits == {index}

    def test_two_spoiled_cloves_of_four_are_repaired_and_named(self):
        cloves = cloves_of(b"hello")
        cloves[0], cloves[3] = replace(cloves[0], share=bytes(32)), replace(cloves[3], fragment=bytes(11))
        assert recover(cloves).culprits == {0, 3}

    def test_swapped_shares_name_both(self):
        cloves = cloves_of(b"hello")
        cloves[1], cloves[2] = (
            replace(cloves[1], share=cloves[2].share),
            replace(cloves[2], share=cloves[1].share),
        )
        recovered = recover(cloves)
        assert (recovered.message, recovered.culprits) == (b"hello", {1, 2})

    def test_k_cloves_with_a_false_one_are_not_believed(self):
        cloves = cloves_of(b"hello")
        with pytest.raises(AuthenticationError):
            recover([cloves[0], replace(cloves[1], fragment=flip(cloves[1].fragment))])

    def test_cloves_of_two_messages_are_not_mixed(self):
        ours, theirs = cloves_of(b"hello", seed="a"), cloves_of(b"other", seed="b")
        recovered = recover([theirs[0], ours[1], ours[3]])
        assert (recovered.message, recovered.culprits) == (b"hello", {0})

    def test_header_that_all_cloves_agree_on_is_authenticated_too(self):
        # mid, k, n and length are bound to the ciphertext: not even the whole set can be renamed.
        with pytest.raises(AuthenticationError):
            recover([replace(clove, mid=bytes(16)) for clove in cloves_of(b"hello")])

    def test_search_for_intact_cloves_is_bounded(self):
        cloves = cloves_of(b"hello", 8, 16)
        spoiled = [replace(clove, share=flip(clove.share)) for clove in cloves[:4]] + cloves[4:]
        with pytest.raises(AuthenticationError):
            recover(spoiled)

    def test_repr_shows_neither_share_nor_fragment(self):
        clove = cloves_of(b"hello")[0]
        assert "share" not in repr(clove)
        assert "fragment" not in repr(clove)
        assert "hello" not in repr(recover(cloves_of(b"hello")))


class TestDecoder:
    @given(at=st.integers(0, CLOVE_HEADER_BYTES - 1), value=st.integers(0, 255))
    def test_changed_header_is_malformed_or_another_clove(self, at, value):
        encoded = bytearray(cloves_of(b"hello")[0].encode())
        encoded[at] = value
        with suppress(DecodeError):
            assert decode_clove(bytes(encoded)).encode() == bytes(encoded)

    @pytest.mark.parametrize(
        ("at", "value"), [(0, 0), (0, 2), (1, 0), (1, 5), (2, 1), (2, 17), (3, 4), (20, 255), (23, 9)]
    )
    def test_header_out_of_bounds_is_malformed(self, at, value):
        encoded = bytearray(cloves_of(b"hello")[0].encode())
        encoded[at] = value
        with pytest.raises(DecodeError):
            decode_clove(bytes(encoded))

    @pytest.mark.parametrize(
        "change", [lambda e: e[:-1], lambda e: e + b"\0", lambda e: e[:87], lambda _: b""]
    )
    def test_clove_of_another_length_is_malformed(self, change):
        with pytest.raises(DecodeError):
            decode_clove(change(cloves_of(b"hello")[0].encode()))

    def test_message_over_the_bound_is_not_split(self):
        with pytest.raises(DecodeError):
            cloves_of(bytes(MAX_MESSAGE_BYTES + 1))

    def test_mid_of_another_length_is_not_split(self):
        with pytest.raises(DecodeError):
            split(b"hello", 2, 4, mid=b"short", entropy=bytes)
