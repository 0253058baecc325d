"""Fuzz targets for what members of a model group sign and for the machine that takes it in."""

from contextlib import suppress

from crypto.errors import CryptoError, DecodeError
from overlay.protocol.group import Misbehaved, SendGroupMessage
from overlay.wire.group_codec import (
    LOAD_CONTEXT,
    LOG_CONTEXT,
    decode_load,
    decode_log_entry,
    sign_load,
    sign_log_entry,
)
from overlay.wire.group_messages import GroupNews, GroupVector
from overlay.wire.messages import decode_message
from tests.support.groups import GROUP, Group, Member

_ALICE = Member("alice")


def fuzz_group_blob(data: bytes) -> None:
    """Bytes are one entry or report, or malformed; what nobody signed is never used."""
    for decode in (decode_log_entry, decode_load):
        with suppress(CryptoError):
            decode(data, GROUP).check()


def fuzz_signed_entry(data: bytes) -> None:
    """A body that its origin did sign has one encoding, or is malformed."""
    blob = _ALICE.key.sign(LOG_CONTEXT, GROUP + data) + data
    with suppress(CryptoError):
        assert sign_log_entry(_ALICE.key.sign, GROUP, decode_log_entry(blob, GROUP).check()) == blob


def fuzz_signed_load(data: bytes) -> None:
    """The same of a report."""
    blob = _ALICE.key.sign(LOAD_CONTEXT, GROUP + data) + data
    with suppress(CryptoError):
        assert sign_load(_ALICE.key.sign, GROUP, decode_load(blob, GROUP).check()) == blob


def fuzz_group_machine(data: bytes) -> None:
    """Whatever a member says, it is answered in bounds, and nothing is believed that its origin did not sign."""
    group = Group("bob", "mallory")
    bob, mallory = group["bob"], group["mallory"].node_id
    news = GroupNews(GROUP, (data[:4207] or b"x",), (data[:139] or b"x",))
    heard = [news]
    with suppress(DecodeError):
        message = decode_message(data)
        if isinstance(message, GroupVector | GroupNews):
            heard.append(message)
    for message in heard:
        outputs = bob.machine.receive_message(mallory, message, 0.0)
        assert len(outputs) <= 2
        assert all(isinstance(output, SendGroupMessage | Misbehaved) for output in outputs)
    assert len(bob.tree) == 0
