"""The contract of Phi-4 multimodal: recordings, and pictures of crops, in one prompt."""

import pytest
import torch
from audio import BINS, AudioSuite
from rows import audio_rows, check_truth, left_padded
from tiny import TEXT, TOWER, seeded
from transformers import Phi4MultimodalConfig, Phi4MultimodalForCausalLM

import lightkv
from lightkv.adapters.families.phi4_multimodal import Phi4MultimodalAdapter
from lightkv.adapters.hf.inputs import read_inputs
from lightkv.testing import Prompt

IMAGE, AUDIO, CROP, SIDE = 6, 5, 56, 2


def sizes_of_tokens(inputs):
    """The model wants to know how many tokens each recording has, and masks of frames otherwise."""
    mask = inputs.pop("feature_mask", None)
    if mask is not None:
        inputs["audio_input_features"] = inputs.pop("input_features")
        inputs["audio_embed_sizes"] = (mask.sum(-1) + 3) // 4
    return inputs


class TestPhi4Multimodal(AudioSuite):
    cannot = {"next layer": "its attention has one projection for query, key and value"}

    def make_model(self, attn_implementation="sdpa", **options):
        sound = {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_blocks": 2,
            "num_attention_heads": 2,
            "ext_pw_out_channel": 32,
            "depthwise_separable_out_channel": 32,
            "nemo_conv_channels": 16,
            "input_size": BINS,
            "audio_token_id": AUDIO,
            "time_reduction": 4,
        }
        vision = {
            **TOWER,
            "num_hidden_layers": 3,
            "image_size": CROP,
            "crop_size": CROP,
            "patch_size": 14,
            "image_token_id": IMAGE,
            "feature_layer": -2,
        }
        config = Phi4MultimodalConfig(
            **TEXT,
            vision_config=vision,
            audio_config=sound,
            attn_implementation=attn_implementation,
        )
        return seeded(Phi4MultimodalForCausalLM, config, **options)

    def make_inputs(self, model, prompts):
        rows = audio_rows(
            model,
            prompts,
            lambda frames: (frames + 3) // 4,
            (80, 61),
            bins=BINS,
            mask="feature_mask",
            width=80,
            time=1,
        )
        return sizes_of_tokens(rows)

    def vision_mask(self, model, inputs, prompts):
        return torch.isin(inputs["input_ids"], torch.tensor([AUDIO, IMAGE]))


def both(rows=4, columns=3, seed=0):
    """A picture of 2 × 2 crops, of which `rows` × `columns` tokens are no padding, and 80 frames."""
    generator = torch.Generator().manual_seed(seed)
    shown = torch.zeros(2 * SIDE, 2 * SIDE, dtype=torch.bool)
    shown[:rows, :columns] = True
    # Of the stitched tokens, crop by crop, and each token of two by two patches.
    crops = shown.view(2, SIDE, 2, SIDE).transpose(1, 2).reshape(4, SIDE, SIDE)
    patches = crops.repeat_interleave(2, 1).repeat_interleave(2, 2)
    mask = torch.cat([torch.ones(1, 4, 4, dtype=torch.bool), patches])
    count = rows * (columns + 1) + 1 + SIDE * (SIDE + 1)
    ids = [20, *[IMAGE] * count, 21, *[AUDIO] * 20, 22, 23, 24]
    return {
        **left_padded([torch.tensor(ids)]),
        "image_pixel_values": torch.randn(1, 5, 3, CROP, CROP, generator=generator),
        "image_sizes": torch.tensor([[2 * CROP, 2 * CROP]]),
        "image_attention_mask": mask[None],
        "audio_input_features": torch.randn(1, 80, BINS, generator=generator),
        "audio_embed_sizes": torch.tensor([20]),
    }


class Both(TestPhi4Multimodal):
    """The prompt of both modalities, as the suite's only prompt."""

    __test__ = False

    def make_inputs(self, model, prompts):
        return both()


def test_layout_truth_of_pictures():
    model, inputs = TestPhi4Multimodal().make_model(), both()
    adapter = Phi4MultimodalAdapter()
    layout = adapter.layout(model, read_inputs(model.model, (), dict(inputs)))
    stitched, whole, sound = layout.samples[0].views
    assert (stitched.grid, whole.grid, sound.grid) == ((1, 4, 3), (1, SIDE, SIDE), (20, 1, 1))
    assert stitched.image == whole.image != sound.image
    for crop, y, x, view, cell in (
        (1, 0, 1, 0, (0, 1)),
        (3, 1, 0, 0, (3, 0)),
        (0, 1, 0, 1, (1, 0)),
    ):
        pixels = inputs["image_pixel_values"].clone()
        pixels[0, crop, :, y * 28 : y * 28 + 28, x * 28 : x * 28 + 28] += 3.0
        _, rows, columns = (stitched, whole)[view].grid
        point = (0, (cell[0] + 0.5) / rows, (cell[1] + 0.5) / columns)
        check_truth(adapter, model, inputs, {**inputs, "image_pixel_values": pixels}, {view: point})


def test_layout_truth_of_recordings():
    """The first frame of a token moves that token most."""
    suite = TestPhi4Multimodal()
    model = suite.make_model()
    inputs = suite.make_inputs(model, [Prompt(2, 1, 3)])
    for at in (0, 7, 19):
        features = inputs["audio_input_features"].clone()
        features[0, 4 * at : 4 * at + 1] += 4.0
        painted = {**inputs, "audio_input_features": features}
        check_truth(Phi4MultimodalAdapter(), model, inputs, painted, {0: (at, 0.0, 0.0)})


def test_drop_equals_mask_with_a_share_for_each_modality():
    suite = Both()
    ratios = ({"image": 0.5, "audio": 0.25}, {"audio": 0.5})
    schedule = [
        {"after_layer": 2 + 2 * number, "ratio": ratio, "windows": 2}
        for number, ratio in enumerate(ratios)
    ]
    found, wanted = suite.drop_and_mask(
        suite.make_model(), [Prompt()], "fastv", eager=False, schedule=schedule
    )
    suite.check_close(found, wanted)


@pytest.mark.parametrize("pipeline", ["lightkv", "divprune"])
def test_each_modality_has_its_own_retention(pipeline):
    model, inputs = TestPhi4Multimodal().make_model(), both()
    with lightkv.compress(model, pipeline, retention={"audio": 0.6}) as run:
        model.generate(**inputs, max_new_tokens=2)
    assert run.last.retentions["image"] == 1.0
    assert 0.5 < run.last.retentions["audio"] < 0.8
