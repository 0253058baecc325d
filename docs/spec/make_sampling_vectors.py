"""Makes docs/spec/vectors/seeded.json: `python -m docs.spec.make_sampling_vectors` in the repository's root.

Byte strings are hex; noise is given as multiples of 2^-24, so that no decimal rounding comes in.
"""

import json
from dataclasses import asdict
from hashlib import shake_256
from pathlib import Path

from crypto.seeded import gumbel_noise, prompt_hash, token_seed
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
    candidates = Candidates(ids, logits, 14.0)
    cases: list[Vector] = []
    for number, spec in enumerate(SPECS):
        for position in range(4):
            nonce = nonce_of(f"choice {number}")
            seeded = SeededPosition(nonce, prompt_hash(PROMPTS[2]), position)
            settings = asdict(spec)
            del settings["max_tokens"], settings["stop"]
            cases.append(
                {
                    "nonce": nonce.hex(),
                    "prompt_ids": list(PROMPTS[2]),
                    "position": position,
                    **settings,
                    "candidate_ids": ids,
                    "candidate_logits": logits,
                    "token_id": ids[sample(candidates, spec, seeded)],
                    "margin_of_tenth": margin(candidates, spec, seeded, ids[9], logits[9]).hex(),
                }
            )
    return cases


def make() -> str:
    """The file's content."""
    return json.dumps({"noise": make_noise(), "choices": make_choices()}, indent=1) + "\n"


if __name__ == "__main__":
    FILE.write_text(make(), encoding="utf-8")
