"""Makes docs/spec/vectors/seeded.json: `python -m docs.spec.make_sampling_vectors` in the repository's root.

Byte strings are hex; noise is given as multiples of 2^-24 and logits as hexadecimal floats, so that no decimal
rounding comes in.
"""

import json
from hashlib import shake_256
from pathlib import Path

import numpy as np

from crypto.seeded import gumbel_noise, prompt_hash, token_seed
from node.engine.penalties import Penalties
from node.engine.sampler import Candidates, SeededPosition, margin, sample
from overlay.wire.prompt import SamplerSpec

Vector = dict[str, object]

FILE = Path(__file__).parent / "vectors" / "seeded.json"
GRID = 1 << 24
PROMPTS = ((), (0,), (1, 4093, 198, 49151), tuple(range(300)))
POSITIONS = (0, 1, 255, 256, (1 << 32) - 1)
TOKENS = (0, 1, 2, 255, 256, 49151, 262143)
SPECS = (
    SamplerSpec(temperature=0.0),
    SamplerSpec(temperature=0.8),
    SamplerSpec(temperature=2.0, top_k=5),
    SamplerSpec(temperature=1.0, top_p=0.5),
    SamplerSpec(temperature=1.0, top_p=0.0),
    SamplerSpec(temperature=0.7, top_p=0.9, top_k=3),
    SamplerSpec(temperature=1.5, top_k=1),
)


RAW_LOGITS = tuple(float(np.float32(4.0 - 0.7 * token)) for token in range(16))
END_IDS = (2, 9)
PENALTIES = (
    SamplerSpec(logit_bias=((0, -100.0), (3, 0.1), (15, 7.3))),
    SamplerSpec(repetition_penalty=1.3),
    SamplerSpec(repetition_penalty=0.7, logit_bias=((4, -1.2),)),
    SamplerSpec(presence_penalty=0.6, frequency_penalty=0.3),
    SamplerSpec(presence_penalty=-2.0, frequency_penalty=-0.1),
    SamplerSpec(min_tokens=3, logit_bias=((2, 100.0),)),
    SamplerSpec(
        min_tokens=3,
        repetition_penalty=1.1,
        presence_penalty=0.1,
        frequency_penalty=0.7,
        logit_bias=((1, 0.3), (9, 5.0)),
    ),
)
PENALISED_PROMPT, PENALISED_ANSWER = (1, 3, 3, 12), (4, 1, 4, 10)


def nonce_of(name: str) -> bytes:
    """A fixed nonce."""
    return shake_256(f"clovenet vectors 1 {name}".encode()).digest(32)


def make_noise() -> list[Vector]:
    """Prompt hashes, seeds and noise."""
    cases: list[Vector] = []
    for ids in PROMPTS:
        for position in POSITIONS:
            nonce = nonce_of(f"noise {len(ids)} {position}")
            seed = token_seed(nonce, prompt_hash(ids), position)
            cases.append(
                {
                    "nonce": nonce.hex(),
                    "prompt_ids": list(ids),
                    "prompt_hash": prompt_hash(ids).hex(),
                    "position": position,
                    "seed": seed.hex(),
                    "token_ids": list(TOKENS),
                    "noise_2_24": [int(noise * GRID) for noise in gumbel_noise(seed, TOKENS)],
                }
            )
    return cases


def make_choices() -> list[Vector]:
    """What is taken from 64 candidates, two of them tied, and the margin of the tenth."""
    ids = [(7919 * rank) % 49152 for rank in range(64)]
    logits = [12.0 - 0.25 * rank for rank in range(64)]
    ids[3], ids[4] = sorted((ids[3], ids[4]))
    logits[4] = logits[3]
    candidates = Candidates(ids, logits)
    cases: list[Vector] = []
    for number, spec in enumerate(SPECS):
        for position in range(4):
            nonce = nonce_of(f"choice {number}")
            seeded = SeededPosition(nonce, prompt_hash(PROMPTS[2]), position)
            cases.append(
                {
                    "nonce": nonce.hex(),
                    "prompt_ids": list(PROMPTS[2]),
                    "position": position,
                    "temperature": spec.temperature,
                    "top_p": spec.top_p,
                    "top_k": spec.top_k,
                    "candidate_ids": ids,
                    "candidate_logits": logits,
                    "token_id": ids[sample(candidates, spec, seeded)],
                    "margin_of_tenth": margin(candidates, spec, seeded, ids[9], logits[9]).hex(),
                }
            )
    return cases


def make_adjusted() -> list[Vector]:
    """Raw logits of a vocabulary of 16, and what settings make of them after none, two and four tokens."""
    cases: list[Vector] = []
    for spec in PENALTIES:
        penalties = Penalties.of(spec, PENALISED_PROMPT, frozenset(END_IDS))
        for taken in range(len(PENALISED_ANSWER) + 1):
            if penalties is None:
                raise ValueError("these settings change something")
            logits = np.array(RAW_LOGITS, dtype=np.float32)
            logits[penalties.ids] = penalties.adjust(logits[penalties.ids])
            if taken % 2 == 0:
                cases.append(_adjusted_case(spec, PENALISED_ANSWER[:taken], logits.tolist()))
            penalties = penalties.after(PENALISED_ANSWER[taken]) if taken < len(PENALISED_ANSWER) else None
    return cases


def _adjusted_case(spec: SamplerSpec, answer: tuple[int, ...], adjusted: list[float]) -> Vector:
    return {
        "prompt_ids": list(PENALISED_PROMPT),
        "output_ids": list(answer),
        "end_ids": list(END_IDS),
        "min_tokens": spec.min_tokens,
        "repetition_penalty": spec.repetition_penalty,
        "presence_penalty": spec.presence_penalty,
        "frequency_penalty": spec.frequency_penalty,
        "logit_bias": [list(pair) for pair in spec.logit_bias],
        "raw": [logit.hex() for logit in RAW_LOGITS],
        "adjusted": [logit.hex() for logit in adjusted],
    }


def make() -> str:
    """The file's content."""
    cases = {"noise": make_noise(), "choices": make_choices(), "adjusted": make_adjusted()}
    return json.dumps(cases, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(make(), encoding="utf-8")
