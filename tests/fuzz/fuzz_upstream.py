"""Fuzz targets for what an upstream engine says."""

from contextlib import suppress

from crypto.errors import DecodeError
from node.engine.errors import UpstreamDownError, UpstreamMalformedError
from node.engine.openai_codec import decode_complaint, decode_models
from node.engine.upstream_answer import UpstreamAnswer
from overlay.wire.prompt import SamplerSpec


def fuzz_upstream_answer(data: bytes) -> None:
    """Bytes are an answer, are broken off, or make no sense; cut in two or whole."""
    size, stream = data[:1] or b"\x01", data[1:]
    answer = UpstreamAnswer(SamplerSpec(max_tokens=8, stop=("stop",)))
    with suppress(UpstreamDownError, UpstreamMalformedError):
        for part in (stream[: size[0]], stream[size[0] :]):
            for told in answer.feed(part):
                assert told.text
                assert "stop" not in told.text
        answer.finish()


def fuzz_upstream_models(data: bytes) -> None:
    """Bytes are a list of models or malformed."""
    with suppress(DecodeError):
        assert all(tokens is None or tokens > 0 for tokens in decode_models(data).values())


def fuzz_upstream_complaint(data: bytes) -> None:
    """A complaint is a text, or there is none."""
    assert decode_complaint(data) is None or decode_complaint(data)
