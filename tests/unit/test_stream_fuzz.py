"""Every fuzz target of prompts, updates and answers, run over hypothesis' bytes and over records of its making."""

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.fuzz import fuzz_answer, fuzz_prompt

TARGETS = [
    fuzz_prompt.fuzz_prompt_message,
    fuzz_prompt.fuzz_prompt_changed,
    fuzz_prompt.fuzz_update,
    fuzz_prompt.fuzz_envelope,
    fuzz_prompt.fuzz_delivery,
    fuzz_answer.fuzz_event,
    fuzz_answer.fuzz_event_stream,
    fuzz_answer.fuzz_answer_cell,
    fuzz_answer.fuzz_receiver,
]
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-1, 2**64 - 1)
    | st.floats()
    | st.binary(max_size=40)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=13) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=30,
)
records = values.map(msgpack.packb)
framed = records.map(lambda record: len(record).to_bytes(4, "big") + record)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_only_our_errors_escape(target):
    @settings(deadline=None, max_examples=60)
    @example(b"")
    @example(bytes(512))
    @example(bytes(1024))
    @example(b"\x91" * 900)
    @example(b"\0\0\0\1\x91")
    @given(st.binary(max_size=1100) | records | framed)
    def run(data):
        target(data)

    run()
