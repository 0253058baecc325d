"""Fuzz targets for what members of a model group hand over: prompts and the messages they travel in."""

from contextlib import suppress

from crypto.errors import DecodeError
from overlay.wire.handover import HandedPrompt, decode_handed, encode_handed
from overlay.wire.messages import FRAME_HEADER_BYTES, decode_message, encode_message
from tests.support.answers import a_request
from tests.support.descriptors import fixed_key

HANDED = HandedPrompt(a_request().message.task, 1, ((fixed_key("bob").node_id, 0.25),))
_GENUINE = encode_handed(HANDED)


def fuzz_handed_prompt(data: bytes) -> None:
    """Bytes are a handed prompt or malformed."""
    with suppress(DecodeError):
        handed = decode_handed(data)
        assert decode_handed(encode_handed(handed)) == handed


def fuzz_handed_prompt_changed(data: bytes) -> None:
    """A genuine one XORed with the data is malformed, or another one."""
    mask = data[: len(_GENUINE)].ljust(len(_GENUINE), b"\0")
    with suppress(DecodeError):
        changed = decode_handed(bytes(a ^ b for a, b in zip(_GENUINE, mask, strict=True)))
        assert (changed == HANDED) is not any(mask)


def fuzz_hand_message(data: bytes) -> None:
    """Bytes are a control message or malformed, as the body of a frame of any kind."""
    with suppress(DecodeError):
        message = decode_message(data)
        assert decode_message(encode_message(message)[FRAME_HEADER_BYTES:]) == message
