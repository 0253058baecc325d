"""Frames between daemon and worker: whatever is sent arrives, however the pipe cuts it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.engine import errors
from node.engine.events import (
    CacheReport,
    EngineLoad,
    GenerationFinished,
    ModelCard,
    PromptPrefilled,
    Replay,
    TokensDecoded,
)
from node.engine.protocol import (
    Beat,
    Cancel,
    Configure,
    FrameReader,
    LoadFailed,
    LoadReport,
    Ready,
    Refused,
    ReportCache,
    Submit,
    Told,
    encode_frame,
    rebuild_error,
    report_error,
)
from node.engine.settings import EngineSettings
from overlay.wire.prompt import ChatMessage, ModelId, Prompt, SamplerSpec

MODEL = ModelId("m-" + "0" * 40)
CHAT = Prompt(
    model="smollm2-135m",
    messages=(ChatMessage("system", "Be brief."), ChatMessage("user", "Warum? \u2603")),
    sampler=SamplerSpec(temperature=0.5, stop=("\n", "END")),
    nonce=bytes(range(32)),
)
PLAIN = Prompt(model="smollm2-135m", text="Once", sampler=SamplerSpec(), nonce=bytes(32))
FRAMES = (
    Configure(("/models/a", "/models/b"), EngineSettings(threads=3)),
    Submit(1, MODEL, CHAT),
    Submit(2, MODEL, PLAIN, "none", (1, 2, 3)),
    Cancel(1),
    Ready((ModelCard(MODEL, "smollm2-135m", "torch-fp32", 8192),), 3.5),
    Told(1, PromptPrefilled(3, 0, bytes(32), (1, 2, 3))),
    Told(1, TokensDecoded((5,), "caf\u00e9", (-0.5,), (bytes(18),))),
    Told(1, GenerationFinished("stop", 3, 1, 0, 0.1, 0.2, 0.3)),
    Told(2, Replay(MODEL, "torch-fp32", (1,), bytes(32), "x", "eos", (0.0,), (-1.0,), (bytes(18),), (7,))),
    Refused(3, report_error(errors.PromptTooLongError(9000, 8191))),
    LoadFailed(report_error(errors.ModelDamagedError("a", "config.json", "is missing"))),
    Beat(),
    ReportCache(MODEL, bytes(16)),
    CacheReport(MODEL, bytes(16), begins=True, stored=(bytes(8),), evicted=(bytes(8),)),
    LoadReport(
        EngineLoad(
            model_id=MODEL,
            alias="smollm2-135m",
            waiting=1,
            reading=2,
            decoding=3,
            queued_tokens=400,
            prefill_token_s=0.001,
            decode_step_s=0.05,
            attended_s=1e-8,
            mixed_tokens=16,
            mixed_step_s=0.1,
            decoding_s=3.0,
            free_slots=4,
            wait_s=1.5,
            answer_s=8.0,
        ),
        taken=7,
    ),
)


@given(st.integers(1, 4000))
def test_frames_arrive_however_the_pipe_cuts_them(piece):
    data = b"".join(encode_frame(frame) for frame in FRAMES)
    reader = FrameReader()
    arrived = [
        frame for start in range(0, len(data), piece) for frame in reader.feed(data[start : start + piece])
    ]
    assert arrived == list(FRAMES)


@pytest.mark.parametrize(
    "error",
    [
        errors.PromptTooLongError(9000, 8191),
        errors.ModelDamagedError("a", "config.json", "is missing"),
        errors.UnsupportedModelError("architecture 'mamba'"),
        errors.PromptRefusedError("the prompt is empty"),
        errors.EngineBusyError(2.5, 40.0),
    ],
)
def test_errors_come_out_as_they_went_in(error):
    rebuilt = rebuild_error(report_error(error))
    assert type(rebuilt) is type(error)
    assert str(rebuilt) == str(error)


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\0\0\0\x01\xc1", b"\0\0\0\x03\xc7\x01\x7f\x01"])
def test_garbage_is_a_value_error(garbage):
    with pytest.raises(ValueError):  # noqa: PT011 - whichever it is, the worker is broken
        list(FrameReader().feed(garbage + bytes(8)))
