"""A model and an adapter small enough to be made for a test: right in every part, and without a mind."""

import json

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

WORDS = ("?", "user", "assistant", "system", "hi", "there", "START", "END")
HIDDEN, KV, INNER, LAYERS, CONTEXT = 32, 16, 64, 2, 64
CONFIG = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "vocab_size": len(WORDS),
    "tie_word_embeddings": True,
    "eos_token_id": 7,
}
_LINEAR = {
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "self_attn.k_proj": (KV, HIDDEN),
    "self_attn.v_proj": (KV, HIDDEN),
    "self_attn.o_proj": (HIDDEN, HIDDEN),
    "mlp.gate_proj": (INNER, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}


def write_tokenizer(folder):
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="?"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))


def write_model(folder, seed=1, **settings):
    """A whole model; settings change its config.json."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **settings}))
    write_tokenizer(folder)
    save_file(weights(np.random.default_rng(seed)), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def weights(draw):
    tensors = {"model.embed_tokens.weight": normal(draw, len(WORDS), HIDDEN), "model.norm.weight": ones()}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        tensors |= {f"{prefix}.{name}.weight": normal(draw, *shape) for name, shape in _LINEAR.items()}
        tensors |= {f"{prefix}.{name}_layernorm.weight": ones() for name in ("input", "post_attention")}
    return tensors


def normal(draw, *shape):
    return draw.normal(size=shape).astype(np.float32)


def ones():
    return np.ones(HIDDEN, np.float32)


def write_adapter(folder, tensors=None, rank=2, **settings):
    """An adapter of its q and v projections, as peft would save one; settings change its adapter_config.json."""
    folder.mkdir(parents=True)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "somebody/tiny",
        "r": rank,
        "lora_alpha": 4,
        "target_modules": ["q_proj", "v_proj"],
        **settings,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(adapter_tensors(rank) if tensors is None else tensors, folder / "adapter_model.safetensors")
    return folder


def adapter_tensors(rank=2, seed=2):
    draw, tensors = np.random.default_rng(seed), {}
    for layer in range(LAYERS):
        for name in ("self_attn.q_proj", "self_attn.v_proj"):
            outputs, inputs = _LINEAR[name]
            prefix = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{prefix}.lora_A.weight"] = normal(draw, rank, inputs)
            tensors[f"{prefix}.lora_B.weight"] = normal(draw, outputs, rank)
    return tensors
