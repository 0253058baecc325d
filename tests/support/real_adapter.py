"""A LoRA adapter as peft makes one, on a stored model, and what transformers answers with it."""

import warnings

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM


def load_base(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def make_adapter(base, folder, **terms):
    """Random and strong enough to change what the model says; saved as `peft` saves a trained one."""
    torch.manual_seed(11)
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj", "down_proj"], **terms},
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore", FutureWarning)
        adapted = get_peft_model(load_base(base), config)
        for name, tensor in adapted.named_parameters():
            if "lora_B" in name:
                tensor.normal_(std=0.05)
        adapted.save_pretrained(folder)
    return folder


def greedy_with_adapter(base, folder, prompt_ids, count):
    """The ids that transformers gives: with the adapter beside the weights, and merged into them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        adapted = PeftModel.from_pretrained(load_base(base), folder)
        beside = _generate(adapted, prompt_ids, count)
        return beside, _generate(adapted.merge_and_unload(), prompt_ids, count)


def _generate(model, prompt_ids, count):
    inputs = torch.tensor([prompt_ids])
    found = model.generate(
        input_ids=inputs, attention_mask=torch.ones_like(inputs), do_sample=False, max_new_tokens=count
    )
    return tuple(found[0, inputs.shape[1] :].tolist())
