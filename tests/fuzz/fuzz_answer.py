"""Fuzz targets for what a client reads: answer cells, blocks and events, from a hostile network or model node."""

from contextlib import suppress

from crypto.errors import AuthenticationError, DecodeError
from overlay.protocol.answer_cell import FRAGMENT_BYTES, AnswerCell, CellKind, open_cell, seal_cell
from overlay.protocol.stream import AnswerReceiver, PathFaulty
from overlay.wire.answer_codec import EventReader, decode_event, encode_event
from overlay.wire.limits import ANSWER_CELL_BYTES
from tests.support.answers import a_request

_terms = a_request().terms
_key = _terms.key(0)


def fuzz_event(data: bytes) -> None:
    """Bytes are an event or malformed."""
    with suppress(DecodeError):
        event = decode_event(data)
        assert decode_event(encode_event(event)) == event


def fuzz_event_stream(data: bytes) -> None:
    """A stream cut in two gives the events, or the error, of the whole."""
    results = []
    for pieces in ((data,), (data[: len(data) // 2], data[len(data) // 2 :])):
        reader, events = EventReader(), []
        with suppress(DecodeError):
            for piece in pieces:
                events += reader.feed(piece)
            results.append(events)
    assert len(results) in {0, 2}
    assert results[:1] == results[1:]


def fuzz_answer_cell(data: bytes) -> None:
    """Nobody but the model node makes a cell that opens."""
    for sized in (data, data.ljust(ANSWER_CELL_BYTES, b"\0")[:ANSWER_CELL_BYTES]):
        with suppress(DecodeError, AuthenticationError):
            open_cell(_key, sized, _terms.k)
            raise AssertionError("a forged cell was opened")


def fuzz_receiver(data: bytes) -> None:
    """Genuine cells of a lying model node, and forged ones: the receiver stays within its bounds."""
    receiver = AnswerReceiver(_terms, 0.0)
    for at in range(0, len(data), 8):
        path, kind, block, length = data[at] % 5, data[at] >> 5, *data[at + 1 : at + 3].ljust(2, b"\0")
        cell = AnswerCell(
            CellKind(kind % 3), block, length * 8, data[at + 3 : at + 8] * (FRAGMENT_BYTES // 5)
        )
        sealed = seal_cell(_terms.key(path), at, cell)
        forged = sealed[:-1] + bytes([sealed[-1] ^ 1])
        was_over = receiver.is_over
        events = receiver.receive_cell(path, sealed, at / 100)
        assert not (was_over and events)
        for event in receiver.receive_cell(path, forged, at / 100):
            assert event == PathFaulty(path)
    assert receiver.is_over == (receiver.next_deadline() is None)
