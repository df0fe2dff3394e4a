"""What can only be seen on a CUDA device; skips itself where there is none."""

import pytest
import torch
from tiny import tiny_llava

import lightkv
from lightkv import Stage, VisionLayout
from lightkv.functional import compress_stage

NO_CUDA = not torch.cuda.is_available()
cuda = [pytest.mark.gpu, pytest.mark.skipif(NO_CUDA, reason="needs a CUDA device")]
on_cuda = pytest.mark.parametrize("device", [pytest.param("cuda", marks=cuda)])

LAYOUT = VisionLayout.from_spans(
    [[(5, (1, 12, 12))], [(9, (1, 6, 8)), (60, (1, 6, 8))], []], length=170, pads=[0, 4, 0]
)
PRESETS = ["lightkv", "lightkv-release", "fastv", "tome", "random"]


def stage_of(preset):
    return Stage.preset(preset, windows=2 if "lightkv" in preset else None, ratio=0.5)


@on_cuda
@pytest.mark.parametrize("preset", PRESETS)
def test_a_stage_gives_what_it_gives_on_the_cpu(preset, device):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 170, 32, generator=generator)
    query = torch.randn(3, 4, 170, 8, generator=generator)
    key = torch.randn(3, 2, 170, 8, generator=generator)
    one = compress_stage(hidden, LAYOUT, stage_of(preset), query=query, key=key)
    other = compress_stage(
        hidden.cuda(), LAYOUT, stage_of(preset), query=query.cuda(), key=key.cuda()
    )
    assert other.hidden_states.is_cuda
    assert torch.equal(one.assignment.slot, other.assignment.slot.cpu())
    torch.testing.assert_close(one.hidden_states, other.hidden_states.cpu(), atol=1e-4, rtol=1e-4)


@on_cuda
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("preset", PRESETS)
def test_low_precision_generation(preset, attention, dtype, device):
    model = tiny_llava(attention, dtype).cuda()
    ids = torch.tensor([[7, *[5] * 36, 8, 9], [0, 0, 0, *range(10, 46)]])
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    inputs = {
        "input_ids": ids.cuda(),
        "attention_mask": mask.cuda(),
        "pixel_values": torch.randn(1, 3, 48, 48).to(dtype).cuda(),
    }
    schedule = [{"after_layer": 2, "ratio": 0.5, "windows": 2}]
    with lightkv.compress(model, preset, schedule=schedule) as run:
        out = model.generate(
            **inputs,
            max_new_tokens=4,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            return_dict_in_generate=True,
            output_logits=True,
        )
    assert bool(torch.isfinite(torch.stack(out.logits)).all())
    assert run.last.samples[0].vision_tokens == (36, 36, 18, 18, 18, 18)
    held = [layer.keys.nbytes + layer.values.nbytes for layer in out.past_key_values.layers]
    steps = 3 * 2 * model.config.text_config.num_key_value_heads * 16 * dtype.itemsize * 2
    assert held == [size + steps for size in run.last.cache_bytes]
