"""Each mapped family in vLLM against transformers, token for token, on tiny random checkpoints.

All prompts of a family are one batch: one picture of several sizes, two pictures, none; and a clip
where clips are mapped.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
pytest.importorskip("vllm.config")

import tiny_checkpoints as tiny
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.video_utils import VideoMetadata

import lightkv
from lightkv.integrations.vllm import engine_args

NEW = 12
TIE = 1e-4
"""Logits of the best two tokens are further apart than this; float32 differs by some 1e-6."""
PIPELINES = {
    "lightkv": [
        {"after_layer": 3, "ratio": 0.5, "windows": 4},
        {"after_layer": 5, "ratio": 0.5, "windows": 2},
        {"after_layer": 7, "ratio": 0.5, "windows": 1},
    ],
    "tome": [
        {"after_layer": 3, "ratio": 0.5, "windows": 2},
        {"after_layer": 7, "ratio": 0.5, "windows": 1},
    ],
}


def picture(seed, width, height):
    """Large structures, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def clip(frames):
    """`[frames, 64, 96, 3]`, every three of them alike."""
    return np.stack([np.asarray(picture(50 + n // 3, 96, 64)) for n in range(frames)])


def prompts(family):
    """(text, pictures, clip or None) of one batch."""
    wide, small, tall, large = (
        picture(1, 128, 96),
        picture(2, 64, 64),
        picture(3, 100, 240),
        picture(4, 200, 140),
    )
    asked = [
        ("w1 w2 @ w3 w4 w5", [wide]),
        ("@ w9 w10 w11", [small]),
        ("w7 @ w3 w4 w5", [tall]),
        ("w7 @ w20 w21 w22", [large]),
        ("w1 @ w2 w3 @ w4 w5 w6", [wide, tall]),
        ("@ @ w50 w51", [small, small]),
        ("w1 w2 w3 w4 w5 w6 w7", []),
        ("w100 w3 w17", []),
    ]
    mark = f" {tiny.PLACEHOLDER[family]} "
    made = [(text.replace("@", mark), pictures, None) for text, pictures in asked]
    if with_clips(family):
        made.append((f"w1 {tiny.CLIP} w2 w3 w4", [], clip(8)))
        made.append((f"{tiny.CLIP} w9 w8", [], clip(6)))
    return made


def with_clips(family):
    return "qwen" in family


def seconds(frames):
    """What is told of a clip with two frames in a second."""
    return {
        "total_num_frames": len(frames),
        "fps": 2.0,
        "frames_indices": list(range(len(frames))),
        "duration": len(frames) / 2,
        "video_backend": "opencv",
    }


@pytest.fixture(scope="module", params=list(tiny.FAMILIES))
def family(request):
    return request.param


@pytest.fixture(scope="module")
def folder(family, tmp_path_factory):
    made = tmp_path_factory.mktemp(family) / "checkpoint"
    tiny.FAMILIES[family](made)
    return made


@pytest.fixture(scope="module")
def expected(family, folder):
    """`expected(pipeline)`: ids of prompt and answer by transformers, each prompt alone."""
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32)
    model.train(False)
    processor = AutoProcessor.from_pretrained(folder)

    def answers(pipeline=None):
        if pipeline is None:
            return [by_transformers(model, processor, *asked) for asked in prompts(family)]
        with lightkv.compress(model, pipeline, schedule=PIPELINES[pipeline]):
            return [by_transformers(model, processor, *asked) for asked in prompts(family)]

    return answers


def by_transformers(model, processor, text, pictures, frames):
    given = {"images": pictures} if pictures else {}
    if frames is not None:
        told = VideoMetadata(**seconds(frames))
        given = {"videos": [frames], "video_metadata": [told], "do_sample_frames": False}
    inputs = processor(text=[text], return_tensors="pt", **given)
    with torch.no_grad():
        made = model.generate(
            **inputs,
            max_new_tokens=NEW,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    best = torch.stack(made.logits).topk(2).values
    assert float((best[..., 0] - best[..., 1]).min()) > TIE
    asked = inputs["input_ids"][0].tolist()
    return asked, made.sequences[0, len(asked) :].tolist()


def by_vllm(family, **arguments):
    """The same by an engine that gets all prompts at once, and blocks that are left behind."""
    from vllm import LLM, SamplingParams
    from vllm.distributed import cleanup_dist_env_and_memory

    llm = LLM(
        dtype="float32",
        enforce_eager=True,
        block_size=32,
        max_model_len=1024,
        max_num_batched_tokens=4096,
        max_num_seqs=8,
        disable_log_stats=True,
        enable_chunked_prefill=False,
        limit_mm_per_prompt={"image": 2, **({"video": 1} if with_clips(family) else {})},
        **arguments,
    )
    asked = [for_vllm(*prompt) for prompt in prompts(family)]
    try:
        greedy = SamplingParams(temperature=0, max_tokens=NEW, ignore_eos=True)
        found = llm.generate(asked, greedy, use_tqdm=False)
        pool = llm.llm_engine.engine_core.engine_core.scheduler.kv_cache_manager.block_pool
        # One block is vLLM's own, for padding.
        left = pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()
    finally:
        llm.llm_engine.engine_core.shutdown()
        del llm
        cleanup_dist_env_and_memory()
    return [(list(o.prompt_token_ids), list(o.outputs[0].token_ids)) for o in found], left


def for_vllm(text, pictures, frames):
    given = {"prompt": text}
    if pictures:
        given["multi_modal_data"] = {"image": pictures}
    if frames is not None:
        told = {**seconds(frames), "do_sample_frames": False}
        given["multi_modal_data"] = {"video": (frames, told)}
        given["mm_processor_kwargs"] = {"do_sample_frames": False}
    return given


def test_vanilla_equals_transformers(family, folder, expected, tmp_path):
    """The base of everything below: the two load the same model and read prompts alike."""
    plain = tiny.for_plain_vllm(folder, tmp_path / "plain")
    found, _ = by_vllm(family, model=str(plain), enable_prefix_caching=False)
    assert found == expected()


@pytest.mark.parametrize("pipeline", list(PIPELINES))
def test_compressed_equals_transformers_compressed(family, folder, expected, pipeline):
    found, left = by_vllm(family, **engine_args(folder, pipeline, schedule=PIPELINES[pipeline]))
    wanted = expected(pipeline)
    assert found == wanted
    assert left == 0
    # Six prompts have pictures; where nothing changes, nothing was compressed.
    assert sum(ours != plain for ours, plain in zip(wanted, expected(), strict=True)) >= 2
