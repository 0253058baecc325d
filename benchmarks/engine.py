"""What the engine gives: tokens a second against transformers, a shared prefix, a long prompt among answers.

Everything runs in this process, with the same weights, threads and numbers (fp32), so that nothing but the two ways of
running the model differs. What is compared takes turns, round by round; medians are given, and ratios within a round.
The step loop is the engine worker's own (`node.engine.model_engine`); pipes and processes are not in it.

    python -m benchmarks.engine [--model smollm2-135m] [--threads 0] [--rounds 5] [--quick]
"""

import os

from node.engine.launch import THREAD_WAITING

# As the worker's own environment has it; must be set before torch is imported.
os.environ.update(THREAD_WAITING)

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from benchmarks.report import Target, print_report
from node.engine.events import PromptPrefilled, TokensDecoded
from node.engine.model_engine import ModelEngine, Output
from node.engine.models import ModelStore
from node.engine.settings import EngineSettings
from overlay.wire.prompt import Prompt, SamplerSpec

BATCHES = (1, 4, 8, 16)
PREFILLS = (512, 2048)
PROMPT_TOKENS = 128
SHARED_TOKENS, SUFFIX_TOKENS, SHARED_OUTPUT, SHARED_REQUESTS = 1024, 32, 32, 16
DECODING, LONG_PROMPT = 8, 2048
WORDS = ("harbour", "winter", "engine", "letter", "garden", "copper", "window", "river", "engine", "candle")


class Bench:
    """The engine and transformers' model, on one model's files."""

    def __init__(self, folder: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        settings = EngineSettings(max_batch=max(BATCHES), cache_key=bytes(16), context_tokens=8192)
        self.engine = ModelEngine(folder, settings, "cpu", time.perf_counter)
        self.engine._tokenizer.end_ids = frozenset()  # noqa: SLF001 - an answer is as long as it was asked for
        self.reference = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self._requests = 0

    def text(self, tokens: int, seed: int) -> str:
        """A text of exactly so many tokens."""
        words = " ".join(f"{WORDS[(seed + i * i) % 10]} {seed}{i}" for i in range(tokens))
        tokenizer = self.engine._tokenizer  # noqa: SLF001
        ids = tokenizer.encode(self.prompt(words, 1))
        for extra in range(8):
            text = tokenizer.decode(ids[: tokens - extra])
            if len(tokenizer.encode(self.prompt(text, 1))) == tokens:
                return text
        raise RuntimeError(f"no text of {tokens} tokens")

    @staticmethod
    def prompt(text: str, tokens: int) -> Prompt:
        """What is asked; sampled, as people ask."""
        return Prompt(model="any", text=text, sampler=SamplerSpec(max_tokens=tokens), nonce=bytes(32))

    def submit(self, text: str, tokens: int, scope: bytes | None = None) -> int:
        """Queue one; its number."""
        self._requests += 1
        self.engine.submit(self._requests, self.prompt(text, tokens), cache_scope=scope)
        return self._requests

    def step(self) -> list[Output]:
        """One step."""
        return self.engine.step()

    def drain(self) -> None:
        """All that is queued, to its end."""
        while not self.engine.is_idle:
            self.step()

    def cancel(self, requests: list[int]) -> None:
        """Forget these."""
        for request in requests:
            self.engine.cancel(request)

    def ids(self, text: str) -> list[int]:
        """Token ids of a text."""
        return list(self.engine._tokenizer.encode(self.prompt(text, 1)))  # noqa: SLF001


def timed(action: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def decode_ours(bench: Bench, batch: int, steps: int) -> float:
    """Tokens a second while `batch` answers run, prompts read before."""
    requests = [bench.submit(bench.text(PROMPT_TOKENS, seed), 4096) for seed in range(batch)]
    begun: set[int] = set()
    while len(begun) < batch:
        begun |= {request for request, event in bench.step() if isinstance(event, PromptPrefilled)}
    took = timed(lambda: [bench.step() for _ in range(steps)])
    bench.cancel(requests)
    return batch * steps / took


def decode_theirs(bench: Bench, batch: int, steps: int) -> float:
    """The same by `generate`, static batch: the time of so many more tokens, which leaves the prompts out."""
    ids = torch.tensor([bench.ids(bench.text(PROMPT_TOKENS, seed)) for seed in range(batch)])

    def generate(tokens: int) -> object:
        return bench.reference.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,
        )

    first = timed(lambda: generate(1))
    return batch * steps / (timed(lambda: generate(1 + steps)) - first)


def prefill_ours(bench: Bench, tokens: int) -> float:
    """Tokens a second of one prompt that is read in the engine's chunks."""
    bench.submit(bench.text(tokens, 3), 1)
    return tokens / timed(bench.drain)


def prefill_theirs(bench: Bench, tokens: int) -> float:
    """The same in one plain forward pass, keys and values kept as an answer needs them."""
    ids = torch.tensor([bench.ids(bench.text(tokens, 3))])
    return tokens / timed(lambda: bench.reference(ids, logits_to_keep=1, use_cache=True))


def share_prefix(bench: Bench, scope: bytes | None) -> tuple[float, float]:
    """Tokens a second of all requests, prompts included, and the median time to the first token of one alone.

    All begin with the same tokens; with a scope, the prefix was left in the cache by an earlier request.
    """
    shared = bench.text(SHARED_TOKENS, 7)
    suffixes = [f" {WORDS[i % 10]} {i}" * (SUFFIX_TOKENS // 5) for i in range(SHARED_REQUESTS)]
    if scope is not None:
        bench.submit(shared, 1, scope)
        bench.drain()
    alone = []
    for suffix in suffixes[:5]:
        request = bench.submit(shared + suffix + " alone", 2, scope)
        start = time.perf_counter()
        while not any(isinstance(event, TokensDecoded) for _, event in bench.step()):
            pass
        alone.append(time.perf_counter() - start)
        bench.cancel([request])
    for suffix in suffixes:
        bench.submit(shared + suffix, SHARED_OUTPUT, scope)
    took = timed(bench.drain)
    return SHARED_REQUESTS * SHARED_OUTPUT / took, statistics.median(alone)


def join_long_prompt(bench: Bench) -> dict[str, float]:
    """Times between tokens of running answers, before and while a long prompt is read. Seconds."""
    requests = [bench.submit(bench.text(PROMPT_TOKENS, seed), 4096) for seed in range(DECODING)]
    begun: set[int] = set()
    while len(begun) < DECODING:
        begun |= {request for request, event in bench.step() if isinstance(event, PromptPrefilled)}
    calm = [timed(bench.step) for _ in range(30)]
    long_one = bench.submit(bench.text(LONG_PROMPT, 11), 1)
    joined: list[float] = []
    read = False
    while not read:
        start = time.perf_counter()
        read = any(request == long_one for request, _ in bench.step())
        joined.append(time.perf_counter() - start)
    bench.cancel(requests)
    gaps = calm + joined
    return {
        "calm_ms": round(statistics.median(calm) * 1000, 1),
        "joined_median_ms": round(statistics.median(joined) * 1000, 1),
        "p99_ms": round(statistics.quantiles(gaps, n=100)[98] * 1000, 1),
        "p99_over_calm": round(statistics.quantiles(gaps, n=100)[98] / statistics.median(calm), 2),
        "long_prompt_tokens_per_s": round(LONG_PROMPT / sum(joined), 1),
    }


def compare(
    ours: Callable[[], float], theirs: Callable[[], float], rounds: int, name: str
) -> dict[str, float]:
    """Both in turn, after one round to warm up; medians, and the median of the ratios."""
    ours(), theirs()
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    figures = {
        "ours": round(statistics.median(our for our, _ in pairs), 1),
        "transformers": round(statistics.median(their for _, their in pairs), 1),
        "ratio": round(statistics.median(our / their for our, their in pairs), 3),
    }
    print(f"{name:18} {figures['ours']:8.1f} {figures['transformers']:13.1f} {figures['ratio']:7.3f}")
    return figures


def measure(bench: Bench, rounds: int, steps: int) -> tuple[dict[str, object], list[Target]]:
    """All figures and what they should be."""
    results: dict[str, object] = {}
    targets = []
    print(f"{'tokens/s':18} {'ours':>8} {'transformers':>13} {'ratio':>7}")
    for batch in BATCHES:
        figures = compare(
            lambda batch=batch: decode_ours(bench, batch, steps),
            lambda batch=batch: decode_theirs(bench, batch, steps),
            rounds,
            f"decode, {batch} at once",
        )
        results[f"decode_{batch}"] = figures
        targets.append(Target(f"decode at {batch}, over transformers", figures["ratio"], 1.0, "higher"))
    for tokens in PREFILLS:
        figures = compare(
            lambda tokens=tokens: prefill_ours(bench, tokens),
            lambda tokens=tokens: prefill_theirs(bench, tokens),
            rounds,
            f"prefill of {tokens}",
        )
        results[f"prefill_{tokens}"] = figures
        targets.append(Target(f"prefill of {tokens}, over one pass", figures["ratio"], 0.95, "higher"))
    miss, hit = share_prefix(bench, None), share_prefix(bench, b"bench")
    shared = {
        "throughput_no_cache": round(miss[0], 1),
        "throughput_cache": round(hit[0], 1),
        "throughput_ratio": round(hit[0] / miss[0], 2),
        "ttft_miss_ms": round(miss[1] * 1000, 1),
        "ttft_hit_ms": round(hit[1] * 1000, 1),
        "ttft_ratio": round(miss[1] / hit[1], 2),
    }
    results["shared_prefix"] = shared
    print("shared prefix:", ", ".join(f"{name} {value}" for name, value in shared.items()))
    targets.append(Target("first token, miss over hit", shared["ttft_ratio"], 10.0, "higher"))
    targets.append(Target("tokens/s, hit over no cache", shared["throughput_ratio"], 3.0, "higher"))
    joined = join_long_prompt(bench)
    results["long_prompt_joins"] = joined
    print("a long prompt joins:", ", ".join(f"{name} {value}" for name, value in joined.items()))
    targets.append(Target("p99 between tokens over its median", joined["p99_over_calm"], 3.0, "lower"))
    return results, targets


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=0, help="0: every core")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few rounds, for a look")
    options = parser.parse_args()
    store = ModelStore(Path(os.environ.get("CLOVE_MODELS") or Path(__file__).parents[1] / ".models"))
    threads = options.threads or len(os.sched_getaffinity(0))
    with torch.inference_mode():
        bench = Bench(store.find(options.model).folder, threads)
        rounds, steps = (2, 24) if options.quick else (options.rounds, 48)
        results, targets = measure(bench, rounds, steps)
    print_report("engine", {"model": options.model, "threads": threads, **results}, targets)


if __name__ == "__main__":
    main()
