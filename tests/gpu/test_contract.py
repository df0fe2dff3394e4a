"""The contract of six families on a CUDA device, in float32 and in bfloat16.

These are suites of `tests/adapters` and `tests/families` with model and inputs on the device. The
oracles' bookkeeping (which position is a vision token, which is padding, which mask a layer gets) stays
on the host.
`LIGHTKV_CONTRACT_DEVICE=cpu` runs the same there, and `LIGHTKV_CONTRACT_FAMILIES` names some of the
families; `benchmarks/gpu_check.sh` sets both.
"""

import os
from importlib import import_module

import pytest
import torch

DEVICE = os.environ.get("LIGHTKV_CONTRACT_DEVICE", "cuda")
if DEVICE == "cuda" and not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)

pytestmark = pytest.mark.gpu
FAMILIES = {
    "llava": ("test_llava", "TestLlava"),
    "llava_next": ("test_llava_next", "TestLlavaNext"),
    "qwen2_5_vl": ("test_qwen_vl", "TestQwen25VL"),
    "internvl": ("test_internvl", "TestInternVL"),
    "gemma3": ("test_gemma3", "TestGemma3"),
    "mistral3": ("test_mistral3", "TestMistral3"),
}
LOW = {
    "test_identity",
    "test_drop_equals_mask",
    "test_before_the_decoder_and_dropping_all",
    "test_dropped_entries_are_masked_entries",
    "test_second_turn_of_text",
    "test_second_turn_with_a_new_image",
    "test_decoding_goes_on_at_the_same_positions",
    "test_generation_keeps_per_layer_lengths",
    "test_every_preset_runs",
}
"""What holds in bfloat16 too: one selection on both sides. Two runs that each select anew may part by
a rounding, so "a batch equals its rows" is for float32."""
FULL = LOW | {
    "test_batch_equals_single",
    "test_cache_site_batch_equals_single",
    "test_positions_policies",
    "test_cache_truth",
    "test_restores_everything",
    "test_beams_share_the_selection_of_their_prompt",
    "test_gradients_flow",
    "test_offloaded_cache",
}
# torch may round the operands of convolutions and products in float32 to 10 bits on such devices.
torch.backends.cudnn.allow_tf32 = False
torch.backends.cuda.matmul.allow_tf32 = False


def on_device(value):
    return value.to(DEVICE) if isinstance(value, torch.Tensor) else value


def on_host(values):
    return {
        name: value.cpu() if isinstance(value, torch.Tensor) else value
        for name, value in values.items()
    }


class OnDevice:
    """Moves what a suite makes to the device, and its bookkeeping to the host."""

    dtype = torch.float32

    def make_model(self, attn_implementation="sdpa", dtype=None):
        return super().make_model(attn_implementation, dtype or self.dtype).to(DEVICE)

    def make_inputs(self, model, prompts):
        made = super().make_inputs(model, prompts)
        return {name: on_device(value) for name, value in made.items()}

    def call(self, model, inputs, **changes):
        """`generate` hands out logits in float32, whatever the model computes in."""
        out = super().call(model, inputs, **changes)
        out.logits = out.logits.float()
        return out

    def vision_mask(self, model, inputs, prompts):
        return super().vision_mask(model, on_host(inputs), prompts)

    def valid(self, model, inputs):
        return super().valid(model, on_host(inputs))

    def own_masks(self, model, inputs):
        return super().own_masks(model, on_host(inputs))


def contract(module, name, dtype):
    """A family's suite on the device, with the oracles that hold in `dtype`."""
    suite = getattr(import_module(module), name)
    oracles = FULL if dtype == torch.float32 else LOW
    assert oracles <= set(dir(suite))
    left_out = {each: None for each in dir(suite) if each.startswith("test_")}
    body = {each: None for each in left_out if each not in oracles} | {"dtype": dtype}
    if dtype == torch.bfloat16:
        # Two units in the last place of a logit between 1 and 2; dropping moves some by 0.05 and more.
        body |= {"exact": 2**-6, "least_effect": 2**-5}
    return type(name, (OnDevice, suite), body)


chosen = os.environ.get("LIGHTKV_CONTRACT_FAMILIES", ",".join(FAMILIES)).split(",")
for precision in (torch.float32, torch.bfloat16):
    for family in chosen:
        made = contract(*FAMILIES[family], precision)
        label = f"{made.__name__}_{str(precision).removeprefix('torch.')}"
        globals()[label] = made
del made
