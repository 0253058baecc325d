"""The model architectures that the engine runs, and where transformers keeps them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Architecture:
    """Modules and classes of one architecture in transformers."""

    model_module: str
    model_class: str
    config_module: str
    config_class: str


ARCHITECTURES = {
    "llama": Architecture(
        "transformers.models.llama.modeling_llama",
        "LlamaForCausalLM",
        "transformers.models.llama.configuration_llama",
        "LlamaConfig",
    ),
    "gemma3_text": Architecture(
        "transformers.models.gemma3.modeling_gemma3",
        "Gemma3ForCausalLM",
        "transformers.models.gemma3.configuration_gemma3",
        "Gemma3TextConfig",
    ),
}
"""By `model_type` of config.json."""

GGUF_ARCHITECTURES = ("llama", "gemma3")
"""The same by `general.architecture` of a GGUF file."""
