"""vLLM's speed in fp32, for `benchmarks.engine`: run by a Python that has vLLM for CPUs, which need not be ours.

    PYTHON benchmarks/peers/vllm_speed.py MODEL_FOLDER THREADS

A line of JSON comes in for each measurement, `{"decode": 4, "steps": 48}` or `{"prefill": 512}`; a line with tokens a
second goes out. Each is the difference of two runs, which leaves the prompt out, or the request's other costs.
"""

import json
import os
import sys
import time

PROMPT_TOKENS = 128


def main(folder, threads):
    """Answer line by line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    os.environ.update(
        VLLM_CPU_KVCACHE_SPACE="2",
        VLLM_ENABLE_V1_MULTIPROCESSING="0",
        VLLM_CPU_OMP_THREADS_BIND=",".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0))[:threads]),
        HF_HUB_OFFLINE="1",
    )
    from vllm import LLM, SamplingParams

    terms = {"max_model_len": 4096, "max_num_seqs": 16, "enable_prefix_caching": False}
    model = LLM(model=folder, dtype="float32", **terms)

    def seconds(batch, prompt, tokens):
        ids = [[100 + (7 * i + each) % 5000 for i in range(prompt)] for each in range(batch)]
        sampling = SamplingParams(temperature=0.8, max_tokens=tokens, ignore_eos=True)
        start = time.perf_counter()
        model.generate([{"prompt_token_ids": each} for each in ids], sampling, use_tqdm=False)
        return time.perf_counter() - start

    for line in sys.stdin:
        asked = json.loads(line)
        if "prefill" in asked:
            speed = asked["prefill"] / seconds(1, asked["prefill"], 1)
        else:
            batch, steps = asked["decode"], asked["steps"]
            short = seconds(batch, PROMPT_TOKENS, 1)
            speed = batch * steps / (seconds(batch, PROMPT_TOKENS, 1 + steps) - short)
        print(json.dumps(speed), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
