"""The contract of VideoLLaMA 3: each picture says its merge, and frames lose tokens before the model."""

import pytest
import torch
from grids import IDS, VIDEO, Clips, Grids, siglip, text
from rows import check_truth
from transformers import Qwen2Config, VideoLlama3Config, VideoLlama3ForConditionalGeneration

from lightkv.adapters.families.video_llama_3 import VideoLlama3Adapter
from lightkv.core.errors import SessionError
from lightkv.testing import AdapterSuite, Prompt


class VideoLlama3(Grids):
    adapter, model = VideoLlama3Adapter, VideoLlama3ForConditionalGeneration
    typed, patch = False, (48,)
    cannot = {"assisted": "its forward takes no logits_to_keep, so drafts look like prompt (below)"}

    def config(self, **given):
        decoder = Qwen2Config(**text())
        return VideoLlama3Config(text_config=decoder, vision_config=siglip(), **IDS, **given)

    def make_inputs(self, model, prompts):
        inputs = super().make_inputs(model, prompts)
        if f"{self.kind}_grid_thw" in inputs:
            pictures = len(inputs[f"{self.kind}_grid_thw"])
            inputs[f"{self.kind}_merge_sizes"] = torch.tensor([self.merge] * pictures)
        return inputs


class TestVideoLlama3(VideoLlama3, AdapterSuite):
    pass


class TestClips(Clips, VideoLlama3):
    def test_left_out_tokens_leave_their_cells_empty(self):
        """Of the second frame half of the tokens are as they were in the first."""
        model, prompt = self.make_model(), Prompt(2, 1, 3, seed=1)
        inputs = self.make_inputs(model, [prompt])
        (frames, rows, columns), size = inputs["video_grid_thw"][0].tolist(), self.merge**2
        kept = torch.ones(frames, rows * columns // size, dtype=torch.bool)
        kept[1, ::2] = False
        places = inputs["input_ids"][0] == VIDEO
        left = places.clone()
        left[places] = kept.flatten()
        stay = ~places | left
        short = {name: inputs[name][:, stay] for name in ("input_ids", "attention_mask")}
        inputs = {**inputs, **short, "video_compression_mask": kept.flatten()}
        pixels = inputs["pixel_values_videos"].clone()
        cell = int(kept[0].numel()) + 7
        pixels[cell * size : (cell + 1) * size] += 3
        painted = {**inputs, "pixel_values_videos": pixels}
        point = (
            1,
            (7 // (columns // 2) + 0.5) / (rows // 2),
            (7 % (columns // 2) + 0.5) / (columns // 2),
        )
        sample = check_truth(self.adapter(), model, inputs, painted, {0: point})
        assert sample.views[0].cells.tolist() == kept.flatten().nonzero().flatten().tolist()
        with self.session(model, [prompt]) as run:
            self.generate(model, inputs)
        assert run.last.samples[0].original == int(kept.sum())


def test_drafts_are_refused():
    suite = TestVideoLlama3()
    model, prompts = suite.make_model(), suite.pair[:1]
    inputs = suite.make_inputs(model, prompts)
    with suite.session(model, prompts), pytest.raises(SessionError, match="drafts from the prompt"):
        suite.generate(model, inputs, prompt_lookup_num_tokens=2, max_matching_ngram_size=1)
