"""llama.cpp's speed, for `benchmarks.engine`: run by a Python that has llama-cpp-python, which need not be ours.

    PYTHON benchmarks/peers/llama_cpp_speed.py FILE.gguf THREADS

A line of JSON comes in for each measurement, `{"weights": "f32", "decode": 4, "steps": 48}` or `{"weights": "q4_0",
"prefill": 512}`; a line with tokens a second goes out. The file's weights are converted once to each kind asked for.
"""

import json
import os
import sys
import tempfile
import time

import llama_cpp
import numpy

PROMPT_TOKENS = 128
CONTEXT_TOKENS, SEQUENCES = 2304, 16
FILE_TYPES = {"f32": 0, "q4_0": 2, "q8_0": 7}


class Model:
    """One model in one context, for up to SEQUENCES answers."""

    def __init__(self, path, threads):
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), parameters)
        terms = llama_cpp.llama_context_default_params()
        terms.n_ctx, terms.n_seq_max = CONTEXT_TOKENS * SEQUENCES, SEQUENCES
        terms.n_batch, terms.n_ubatch = 2048, 512
        terms.n_threads = terms.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, terms)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))

    def decode(self, batch, steps):
        """Tokens a second of so many answers, each token chosen from its logits."""
        llama_cpp.llama_memory_clear(self._memory, True)  # noqa: FBT003
        for sequence in range(batch):
            self._run([(_token(i, sequence), i, sequence, False) for i in range(PROMPT_TOKENS)])
        start = time.perf_counter()
        for step in range(steps):
            self._run([(_token(step, each), PROMPT_TOKENS + step, each, True) for each in range(batch)])
            for each in range(batch):
                logits = llama_cpp.llama_get_logits_ith(self._context, each)
                numpy.ctypeslib.as_array(logits, (self._vocabulary,)).argmax()
        return batch * steps / (time.perf_counter() - start)

    def prefill(self, tokens):
        """Tokens a second of one prompt."""
        llama_cpp.llama_memory_clear(self._memory, True)  # noqa: FBT003
        start = time.perf_counter()
        self._run([(_token(i, 0), i, 0, i == tokens - 1) for i in range(tokens)])
        llama_cpp.llama_get_logits_ith(self._context, tokens - 1)[0]
        return tokens / (time.perf_counter() - start)

    def _run(self, rows):
        batch = llama_cpp.llama_batch_init(len(rows), 0, 1)
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, position, 1
            batch.seq_id[i][0], batch.logits[i] = sequence, wanted
        code = llama_cpp.llama_decode(self._context, batch)
        llama_cpp.llama_batch_free(batch)
        if code:
            raise RuntimeError(f"llama_decode returned {code}")


def _token(index, sequence):
    return 100 + (7 * index + sequence) % 5000


def _convert(source, weights, folder):
    target = os.path.join(folder, f"{weights}.gguf")  # noqa: PTH118
    terms = llama_cpp.llama_model_quantize_default_params()
    terms.ftype, terms.allow_requantize = FILE_TYPES[weights], True
    if llama_cpp.llama_model_quantize(source.encode(), target.encode(), terms):
        raise RuntimeError(f"{source} can't be converted to {weights}")
    return target


def main(source, threads):
    """Answer line by line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the library prints is no answer
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        for line in sys.stdin:
            asked = json.loads(line)
            weights = asked["weights"]
            if weights not in models:
                models[weights] = Model(_convert(source, weights, folder), threads)
            model = models[weights]
            speed = (
                model.prefill(asked["prefill"])
                if "prefill" in asked
                else model.decode(asked["decode"], asked["steps"])
            )
            print(json.dumps(speed), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
