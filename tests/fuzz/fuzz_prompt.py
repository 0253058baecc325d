"""Fuzz targets for what a model node reads: prompts, updates, envelopes, deliveries."""

from contextlib import suppress

from crypto.dispersal import split
from crypto.errors import AuthenticationError, DecodeError
from crypto.sealed import seal
from overlay.protocol.envelope import open_envelope, seal_info
from overlay.protocol.intake import Intake, PromptArrived
from overlay.wire.prompt_codec import decode_prompt_message, encode_prompt_message, padded_size
from overlay.wire.update import UPDATE_BYTES, decode_update, encode_update
from tests.support.answers import EPOCH, MODEL_NODE, NETWORK, UNIX_TIME, a_request, sealing_key
from tests.support.entropy import fixed_entropy

_request = a_request()
_keys = {EPOCH: sealing_key()}
_info = seal_info(NETWORK, MODEL_NODE, EPOCH)


def _framed(data: bytes, header_bytes: int, size: int) -> bytes:
    return (len(data).to_bytes(header_bytes, "big") + data).ljust(size, b"\0")


def fuzz_prompt_message(data: bytes) -> None:
    """Bytes are a prompt or malformed, as they come and as a record in sound padding."""
    for sized in (data, _framed(data, 4, padded_size(len(data) + 4))):
        with suppress(DecodeError):
            message = decode_prompt_message(sized)
            assert decode_prompt_message(encode_prompt_message(message)) == message


def fuzz_prompt_changed(data: bytes) -> None:
    """A genuine prompt XORed with the data is malformed, or another prompt."""
    genuine = encode_prompt_message(_request.message)
    mask = data[: len(genuine)].ljust(len(genuine), b"\0")
    with suppress(DecodeError):
        changed = decode_prompt_message(bytes(a ^ b for a, b in zip(genuine, mask, strict=True)))
        assert (changed == _request.message) is not any(mask)


def fuzz_update(data: bytes) -> None:
    """Bytes are an update or malformed, as they come and as a record in sound padding."""
    for sized in (data, _framed(data[: UPDATE_BYTES - 2], 2, UPDATE_BYTES)):
        with suppress(DecodeError):
            update = decode_update(sized)
            assert decode_update(encode_update(update)) == update


def fuzz_envelope(data: bytes) -> None:
    """Nothing opens that was not sealed; what was sealed is a clove, an update or malformed."""
    epoch = EPOCH.to_bytes(4, "big")
    for envelope in (data, epoch + data, epoch + seal(_keys[EPOCH].public, data, info=_info)):
        with suppress(DecodeError, AuthenticationError):
            open_envelope(envelope, network=NETWORK, node_id=MODEL_NODE, keys=_keys)


def fuzz_delivery(data: bytes) -> None:
    """A model node that is fed rubbish, in genuine cloves too, lets nothing in and still takes a prompt."""
    intake = Intake(MODEL_NODE, NETWORK)
    intake.set_keys(_keys)
    cloves = split(data, 2, 2, mid=bytes(16), entropy=fixed_entropy("fuzz"))
    sealed = [seal(_keys[EPOCH].public, b"\0" + clove.encode(), info=_info) for clove in cloves]
    for envelope in (data, *(EPOCH.to_bytes(4, "big") + each for each in sealed)):
        assert intake.receive_delivery(MODEL_NODE, envelope, 0.0, UNIX_TIME) == []
    events = [e for c in _request.cloves() for e in intake.receive_delivery(MODEL_NODE, c, 0.0, UNIX_TIME)]
    assert [type(event) for event in events] == [PromptArrived]
