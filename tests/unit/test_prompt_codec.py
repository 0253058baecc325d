import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crypto.errors import DecodeError
from overlay.errors import LocalProtocolError
from overlay.wire.limits import MAX_PROMPT_BYTES
from overlay.wire.prompt import ChatMessage, PromptMessage
from overlay.wire.prompt_codec import decode_prompt_message, encode_prompt_message, padded_size
from overlay.wire.records import pack_record
from tests.support.answers import a_prompt, a_request, prompt_messages


def a_message(**changes: object) -> PromptMessage:
    return dataclasses.replace(a_request().message, **changes)


def with_prompt(**changes: object) -> PromptMessage:
    return a_message(prompt=dataclasses.replace(a_prompt(), **changes))


def framed(record: bytes) -> bytes:
    data = len(record).to_bytes(4, "big") + record
    return data.ljust(padded_size(len(data)), b"\0")


@given(prompt_messages())
def test_a_prompt_survives_the_codec(message):
    data = encode_prompt_message(message)
    assert decode_prompt_message(data) == message
    assert len(data) == padded_size(len(data))


@given(st.binary(max_size=3000))
def test_decoder_raises_only_decode_error_on_noise(data):
    with pytest.raises(DecodeError):
        decode_prompt_message(data)


@given(prompt_messages(), st.data())
def test_decoder_raises_only_decode_error_on_damage(message, data):
    encoded = bytearray(encode_prompt_message(message))
    at = data.draw(st.integers(0, len(encoded) - 1))
    encoded[at] ^= data.draw(st.integers(1, 255))
    try:
        changed = decode_prompt_message(bytes(encoded))
    except DecodeError:
        return
    assert changed != message


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.binary(max_size=33) | st.text(max_size=9),
        st.lists,
    )
)
def test_decoder_raises_only_decode_error_on_other_records(value):
    with pytest.raises(DecodeError):
        decode_prompt_message(framed(pack_record((1, value))))


def test_a_prompt_with_all_that_its_sampler_may_hold_survives():
    sampler = dataclasses.replace(
        a_prompt().sampler,
        min_tokens=256,
        logit_bias=tuple((2**32 - 64 + at, -100.0) for at in range(64)),
        stop=("x" * 256,) * 8,
        logprobs=20,
    )
    message = with_prompt(sampler=sampler)
    assert decode_prompt_message(encode_prompt_message(message)) == message


def test_sizes_are_the_row_of_powers_and_their_halves():
    sizes = [1024]
    while sizes[-1] < MAX_PROMPT_BYTES:
        sizes.append(padded_size(sizes[-1] + 1))
    assert [size / 1024 for size in sizes[:9]] == [1, 1.5, 2, 3, 4, 6, 8, 12, 16]
    assert sizes[-1] == MAX_PROMPT_BYTES
    assert all(padded_size(size) == size for size in sizes)


def test_prompts_of_similar_length_have_one_size():
    assert len({len(encode_prompt_message(with_prompt(text="x" * n))) for n in range(1200, 1600, 50)}) == 1


def test_too_long_a_prompt_is_refused_with_its_length():
    with pytest.raises(LocalProtocolError, match=r"too long: 6\d{5} bytes, at most 512 KiB"):
        encode_prompt_message(with_prompt(text="x" * 600_000))


@pytest.mark.parametrize(
    "message",
    [
        with_prompt(text=None),
        with_prompt(text=""),
        with_prompt(messages=(ChatMessage("user", "hi"),)),
        with_prompt(text=None, messages=(ChatMessage("root", "hi"),)),
        with_prompt(text="\ud800"),
        with_prompt(model=""),
        with_prompt(nonce=b"short"),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, temperature=float("nan"))),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, temperature=-0.1)),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, top_k=65)),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, max_tokens=0)),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, stop=("",))),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, temperature=-0.0)),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, min_tokens=257)),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, repetition_penalty=2.1)),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, presence_penalty=float("inf"))),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, frequency_penalty=-0.0)),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, logit_bias=((2, 1.0), (1, 1.0)))),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, logit_bias=((1, 1.0), (1, 1.0)))),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, logit_bias=((-1, 1.0),))),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, logit_bias=((1, -101.0),))),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, logprobs=21)),
        with_prompt(sampler=dataclasses.replace(a_prompt().sampler, logprobs=20, max_tokens=10_000)),
        a_message(k=0),
        a_message(k=5),
        a_message(paths=()),
        a_message(expires_unix=-1),
        a_message(expires_unix=2**64),
        a_message(response_secret=b""),
        a_message(forward="everyone"),
        a_message(cache="for ever"),
        a_message(session=b"short"),
        a_message(cache="none", session=bytes(16)),
        a_message(cache="public", session=bytes(16)),
    ],
)
def test_a_value_out_of_bounds_is_never_sent(message):
    with pytest.raises(LocalProtocolError):
        encode_prompt_message(message)


def test_bytes_in_the_padding_are_refused():
    data = bytearray(encode_prompt_message(a_message()))
    data[-1] = 1
    with pytest.raises(DecodeError, match="padding"):
        decode_prompt_message(bytes(data))


def test_more_padding_than_needed_is_refused():
    with pytest.raises(DecodeError, match="padding"):
        decode_prompt_message(encode_prompt_message(a_message()).ljust(2048, b"\0"))


def test_secrets_are_not_shown():
    message = a_message()
    assert repr(message.response_secret) not in repr(message)
    assert repr(message.blinding) not in repr(a_request())
