"""The second model's processor: what it makes of clips is what transformers' own would make."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lightkv.checkpoints.clip_processor import load_processor, make_processor
from lightkv.demo.clips import make_clip
from lightkv.demo.compare import VANILLA
from lightkv.demo.native import make_pair
from training.video.architecture import make_model, make_pictures, make_tokenizer, save_processor
from training.video.evaluate import evaluate
from training.video.tower import patches

PROMPT = "user : <|vision_start|><|video_pad|><|vision_end|> what digit came last ? assistant :"


@pytest.fixture(scope="module")
def processor():
    return make_processor(make_pictures(), make_tokenizer())


def transformers_patches(frames, patch=4, merge=2, pair=2):
    """The order of values of `Qwen2VLVideoProcessor.patchify`, written as loops."""
    values = frames.astype(np.float32) / 127.5 - 1
    out = []
    for step in range(len(frames) // pair):
        for row in range(0, frames.shape[1], patch * merge):
            for col in range(0, frames.shape[2], patch * merge):
                for down in range(merge):
                    for right in range(merge):
                        top, left = row + down * patch, col + right * patch
                        cut = values[pair * step : pair * step + pair]
                        cut = cut[:, top : top + patch, left : left + patch]
                        out.append(cut.transpose(3, 0, 1, 2).ravel())
    return np.stack(out)


def test_clips_become_the_patches_that_transformers_makes(processor):
    clip = make_clip(np.random.default_rng(2))
    out = processor(text=[PROMPT], videos=[clip.frames], return_tensors="pt")
    rows, cols = (side // 4 for side in clip.frames.shape[1:3])
    assert out["video_grid_thw"].tolist() == [[clip.steps, rows, cols]]
    expected = torch.from_numpy(transformers_patches(clip.frames))
    torch.testing.assert_close(out["pixel_values_videos"], expected, atol=1e-6, rtol=0)
    pairs = clip.frames.reshape(clip.steps, 2, *clip.frames.shape[1:])
    torch.testing.assert_close(patches(pairs).flatten(0, 1), expected, atol=1e-6, rtol=0)
    tokens = clip.steps * rows * cols // 4
    assert int((out["input_ids"] == processor.video_token_id).sum()) == tokens
    assert out["mm_token_type_ids"].sum() == 2 * tokens
    assert out["second_per_grid_ts"] == pytest.approx(1 / 12)


@pytest.mark.parametrize("count", [1, 3])
def test_an_odd_number_of_frames_repeats_the_last(processor, count):
    frames = make_clip(np.random.default_rng(3)).frames[:count]
    odd = processor(text=[PROMPT], videos=[frames], return_tensors="pt")
    even = processor(text=[PROMPT], videos=[[*frames, frames[-1]]], return_tensors="pt")
    assert torch.equal(odd["pixel_values_videos"], even["pixel_values_videos"])
    assert odd["video_grid_thw"][0, 0] == (count + 1) // 2


def test_several_clips_and_pairs_in_a_batch(processor):
    rng = np.random.default_rng(4)
    one, two = make_clip(rng).frames, make_clip(rng).frames
    both = processor(text=[PROMPT] * 2, videos=[[one], [two]], padding=True, return_tensors="pt")
    assert len(both["video_grid_thw"]) == len(both["second_per_grid_ts"]) == 2
    pair = make_pair(rng)
    content = [
        {"type": "image"},
        {"type": "image"},
        {"type": "text", "text": "what digit is in both ?"},
    ]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    out = processor(
        text=[text], images=[[pair.first.image, pair.second.image]], return_tensors="pt"
    )
    sizes = [(1, s.image.height // 4, s.image.width // 4) for s in (pair.first, pair.second)]
    assert [tuple(grid) for grid in out["image_grid_thw"].tolist()] == sizes
    assert processor.tokenizer.unk_token_id not in out["input_ids"]


def test_the_saved_files_load_and_name_the_classes_of_transformers(processor, tmp_path):
    save_processor(tmp_path)
    clip = make_clip(np.random.default_rng(5)).frames
    before, after = (
        p(text=[PROMPT], videos=[clip], return_tensors="pt")
        for p in (processor, load_processor(tmp_path))
    )
    assert all(torch.equal(before[key], after[key]) for key in before)
    video = json.loads((tmp_path / "video_preprocessor_config.json").read_text())
    assert video["video_processor_type"] == "Qwen2VLVideoProcessor"
    whole = json.loads((tmp_path / "processor_config.json").read_text())
    assert whole["processor_class"] == "Qwen2_5_VLProcessor"


def test_held_out_samples_of_all_groups_are_asked_plain_and_compressed(processor):
    torch.manual_seed(0)
    found = evaluate(make_model(4).eval(), processor, 1, 1, ["random"], 0.5)
    kinds = {*found[VANILLA]}
    assert {kind.split("/")[0] for kind in kinds} == {"picture", "pair", "clip"}
    assert kinds == {*found["random"]}
    assert found[VANILLA]["clip/count"].questions == 1
