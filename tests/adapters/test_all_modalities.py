"""Picture, video and sound in one prompt, in the thinkers of Qwen2.5-Omni and Qwen3-Omni."""

import re

import pytest
import torch
from audio import AUDIO
from rows import left_padded
from test_qwen_omni import (
    END,
    IDS,
    IMAGE,
    MODELS,
    SOUND_END,
    SOUND_START,
    START,
    VIDEO,
    everything,
    tiny_omni,
)
from test_qwen_omni import TestQwenOmni as QwenOmniSuite

import lightkv
from lightkv.core.errors import ConfigError, ModelError
from lightkv.testing import Prompt


@pytest.fixture(scope="module")
def model():
    return tiny_omni()


@pytest.mark.parametrize(("make", "adapter", "tokens"), MODELS)
@pytest.mark.parametrize("pipeline", ["lightkv", "fastv"])
def test_each_modality_has_its_own_retention(make, adapter, tokens, pipeline):
    """Video is not named, so all of it stays; and what is dropped is what a mask would hide."""
    model, inputs = make(), everything(tokens)
    # Few windows, so that whole tokens come near the share.
    wanted = {"retention": {"image": 0.6, "audio": 0.8}, "windows": [1]}
    with lightkv.compress(model, pipeline, schedule=wanted) as run:
        model.generate(**inputs, max_new_tokens=3, suppress_tokens=list(IDS.values()))
    found = run.last.retentions
    assert found["video"] == 1.0
    assert found["image"] == pytest.approx(0.6, abs=0.05)
    assert found["audio"] == pytest.approx(0.8, abs=0.08)
    sample = run.last.samples[0]
    assert sample.originals == {"image": 96, "video": 48, "audio": tokens(80)}
    totals = [sum(each) for each in zip(*sample.by_modality.values(), strict=True)]
    assert totals == list(sample.vision_tokens)


def test_drop_equals_mask_with_a_share_for_each_modality(model):
    suite = Everything()
    ratios = ({"image": 0.5, "audio": 0.25}, {"image": 0.25, "video": 0.5})
    schedule = [
        {"after_layer": 2 + 2 * number, "ratio": ratio, "windows": 2}
        for number, ratio in enumerate(ratios)
    ]
    found, wanted = suite.drop_and_mask(
        model, [Prompt()], "fastv", eager=False, schedule=schedule, partitioner="windows"
    )
    suite.check_close(found, wanted)


class Everything(QwenOmniSuite):
    """The prompt of all modalities, as the suite's only prompt."""

    __test__ = False

    def make_inputs(self, model, prompts):
        return everything()

    def vision_mask(self, model, inputs, prompts):
        return torch.isin(inputs["input_ids"], torch.tensor([IMAGE, VIDEO, AUDIO]))


@pytest.mark.parametrize("preset", sorted(lightkv.core.plugins.registry().presets))
def test_every_preset_on_all_modalities(model, preset):
    """It runs, or says which modality it cannot do, or that the encoder has no class token."""
    inputs = everything()
    refused, known = None, r"audio has no rows|class token|vision encoder|enters the projector"
    try:
        with lightkv.compress(model, preset) as run:
            model.generate(**inputs, max_new_tokens=2)
    except (ConfigError, ModelError) as error:
        refused = str(error)
    assert run.last.retention < 1.0 if refused is None else re.search(known, refused)


def test_the_sound_of_a_video_between_its_frames_has_a_view_of_its_own(model):
    inputs = everything()
    one, other = [VIDEO] * 24, [AUDIO] * 10
    ids = [20, START, SOUND_START, *one, *other, *one, *other, SOUND_END, END, 21, 22]
    del inputs["pixel_values"], inputs["image_grid_thw"]
    inputs = {**inputs, **left_padded([torch.tensor(ids)]), "use_audio_in_video": True}
    retention = {"video": 0.7, "audio": 0.5}
    schedule = {"retention": retention, "windows": [1]}
    with lightkv.compress(model, "lightkv", schedule=schedule, trace=True) as run:
        model.generate(**inputs, max_new_tokens=2, suppress_tokens=list(IDS.values()))
    video, sound = run.last.layout.samples[0].views
    assert video.positions.tolist() == [*range(3, 27), *range(37, 61)]
    assert sound.positions.tolist() == [*range(27, 37), *range(61, 71)]
    assert (sound.grid, video.grid) == ((20, 1, 1), (2, 6, 4))
    assert run.last.retentions == pytest.approx(retention, abs=0.1)
    plain = lightkv.compress(model, "lightkv-release", retention={"video": 0.7})
    with plain, pytest.raises(ConfigError, match="video and audio take turns"):
        model.generate(**inputs, max_new_tokens=2)


def test_a_prompt_without_any_named_modality_is_refused(model):
    inputs = everything()
    ids = inputs["input_ids"]
    ids[(ids == AUDIO) | (ids == SOUND_START)] = 9
    pictures = {name: inputs[name] for name in inputs if "feature" not in name}
    with (
        lightkv.compress(model, "fastv", retention={"audio": 0.5}),
        pytest.raises(ConfigError, match=r"tokens of image and video only.*'image': 0\.5"),
    ):
        model.generate(**pictures, max_new_tokens=2)
