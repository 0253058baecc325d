"""Transformers' own ways of running a model, in this process."""

from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers

from benchmarks.report import timed


class Reference:
    """Transformers' own model on the same files, in fp32."""

    def __init__(self, folder: Path, prompts: list[list[int]]) -> None:
        # generate_batch runs the model in a thread of its own, where tensors of the inference mode can't be used.
        with torch.inference_mode(mode=False):
            self._model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32
            ).eval()
        self._prompts = prompts

    def decode_static(self, batch: int, steps: int) -> float:
        """`generate`, static batch: the time of so many more tokens, which leaves the prompts out."""
        ids = torch.tensor(self._prompts[:batch])

        def generate(tokens: int) -> object:
            return self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                min_new_tokens=tokens,
                max_new_tokens=tokens,
                pad_token_id=0,
            )

        first = timed(lambda: generate(1))
        return batch * steps / (timed(lambda: generate(1 + steps)) - first)

    def decode_continuous(self, batch: int, steps: int) -> float:
        """Continuous batching: from when every answer has begun to when all are whole."""
        terms = {"eos_token_id": -1, "pad_token_id": 0, "num_blocks": 256, "max_batch_tokens": 512}
        config = transformers.GenerationConfig(do_sample=False, **terms)
        with (
            torch.inference_mode(mode=False),
            torch.no_grad(),
            self._model.continuous_batching_context_manager(generation_config=config) as manager,
        ):
            for prompt in self._prompts[:batch]:
                manager.add_request(prompt, max_new_tokens=1 + steps, streaming=True)
            return _rate(manager, batch)

    def prefill(self, ids: list[int]) -> float:
        """One plain forward pass, keys and values kept as an answer needs them."""
        row = torch.tensor([ids])
        return len(ids) / timed(lambda: self._model(row, logits_to_keep=1, use_cache=True))


def _rate(manager: Any, batch: int) -> float:
    """Tokens a second of the answers under way, from when each has its first."""
    counts: dict[str, int] = {}
    before, start, ended = 0, 0.0, 0
    while ended < batch:
        told = manager.get_result(timeout=60)
        if told is None or told.error:
            raise RuntimeError("transformers' continuous batching gave no answer")
        counts[told.request_id] = len(told.generated_tokens)
        if not start and len(counts) == batch and all(counts.values()):
            before, start = sum(counts.values()), perf_counter()
        ended += told.is_finished()
    return (sum(counts.values()) - before) / (perf_counter() - start)
