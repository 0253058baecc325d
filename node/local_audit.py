"""Audits one kept answer on this machine: the reference model in a worker of its own, for one replay."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import trio

from crypto.errors import DecodeError
from node.engine.errors import EngineError, PromptRefusedError
from node.engine.models import ModelStore
from node.engine.settings import NUMERICS, EngineSettings
from node.engine.supervisor import Engine
from node.errors import NodeError
from overlay.wire.prompt import Prompt
from verify.answer import AnswerRecord, check_answer, check_without_model
from verify.errors import ReplayRefusedError, ReplayUnavailableError
from verify.ports import Replay
from verify.record_codec import decode_record
from verify.verdict import Verdict


class LocalScorer:
    """`verify.ports.Scorer` over an engine of ours."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def replay(self, prompt: Prompt, output_ids: Sequence[int]) -> Replay:
        """Score an answer by a fresh forward pass."""
        try:
            return await self._engine.replay(prompt, output_ids)
        except PromptRefusedError as error:
            raise ReplayRefusedError(str(error)) from error
        except EngineError as error:
            raise ReplayUnavailableError(str(error)) from error


def audit_kept(kept: str, models_dir: Path, threads: int = 0) -> tuple[AnswerRecord, Verdict]:
    """Check what `clove ask --save` wrote, or a bare record; where a model is loaded for it, that takes seconds.

    Raises:
        NodeError: it is no kept answer, or the reference model can't be run here.
    """
    try:
        record = decode_record(_bare_record(kept))
    except DecodeError as error:
        raise NodeError(f"this is no kept answer: {error}") from None
    return record, audit_record(record, models_dir, threads)


def audit_record(record: AnswerRecord, models_dir: Path, threads: int = 0) -> Verdict:
    """Check one answer. Raises NodeError where the reference model is needed and can't be run here."""
    if (verdict := check_without_model(record)) is not None:
        return verdict
    try:
        folder = ModelStore(models_dir).find(record.model_id).folder
        return trio.run(_audit, record, folder, threads)
    except (EngineError, ReplayUnavailableError) as error:
        remedy = f"fetch the reference model: clove models pull {record.prompt.model}"
        raise NodeError(f"the reference model can't be run: {error}", remedy) from None


async def _audit(record: AnswerRecord, folder: Path, threads: int) -> Verdict:
    engine = Engine([folder], _settings_for(record.numerics_class, threads))
    failures: list[EngineError] = []
    verdict: Verdict | None = None
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.serve)
            verdict = await check_answer(record, LocalScorer(engine))
            nursery.cancel_scope.cancel()
    except* EngineError as group:
        failures += [error for error in group.exceptions if isinstance(error, EngineError)]
    except* ReplayUnavailableError as group:
        failures += [EngineError(str(error)) for error in group.exceptions]
    if verdict is None:
        raise failures[0] if failures else EngineError("the engine ended without a word")
    return verdict


def _settings_for(numerics_class: str, threads: int) -> EngineSettings:
    """An engine of the answer's own class, where this machine can be one, else the most exact there is."""
    if numerics_class == NUMERICS["int8"]:
        return EngineSettings(threads=threads, device="cpu", weights="int8")
    device: Literal["auto", "cpu"] = "cpu" if numerics_class == NUMERICS["fp32"] else "auto"
    return EngineSettings(threads=threads, device=device, weights="fp32")


def _bare_record(kept: str) -> str:
    """The record inside what the API gives for an answer; anything else is left for the decoder to judge."""
    try:
        parsed: Any = json.loads(kept)
    except (ValueError, RecursionError):
        return kept
    if isinstance(parsed, dict) and isinstance(parsed.get("record"), dict):
        return json.dumps(parsed["record"], ensure_ascii=False)
    return kept
