"""What the contracts of older transformers leave out is wrong there without lightkv, and right after."""

import pytest
import torch
from hybrids import Qwen35
from releases import before
from test_gemma3 import SUITE as GEMMA3
from test_glm4v import TestImages as Glm4v
from test_llava_next_video import TestVideos as NextVideo
from test_qwen3_vl import TestQwen3VL as Qwen3VL
from test_qwen_vl import TestQwen25VL as Qwen25VL

from lightkv.testing import Prompt

NEXT_VIDEO = NextVideo()
SUITES = {"Gemma3": GEMMA3, "Glm4v": Glm4v(), "Qwen25VL": Qwen25VL(), "Qwen3VL": Qwen3VL()}
del Glm4v, NextVideo, Qwen25VL, Qwen3VL  # or their tests would run here, too


@pytest.mark.parametrize("family", SUITES)
def test_two_turns_are_one_prompt_to_the_plain_model(family):
    suite = SUITES[family]
    model, prompts = suite.make_model(), suite.pair[:1]
    turns = [suite.make_inputs(model, [prompt]) for prompt in (*prompts, Prompt(2, 1, 3, seed=7))]
    first = suite.generate(model, turns[0])
    whole = suite.joined(suite.extended(model, turns[0], suite.new_tokens(first)), turns[1])
    call = suite.later_call(model, whole, turns[1])
    second = suite.generate(model, call, past_key_values=first.past_key_values)
    gap = (torch.stack(second.logits) - torch.stack(suite.generate(model, whole).logits)).abs()
    assert (gap.max() > 100 * suite.exact) == before("5.23")


def test_beams_over_videos_run_in_the_plain_model():
    suite = NEXT_VIDEO
    model = suite.make_model()
    inputs = suite.make_inputs(model, suite.beam_prompts)
    if before("5.21"):
        with pytest.raises(ValueError, match="non-empty list"):
            suite.generate(model, inputs, num_beams=3)
        return
    assert suite.generate(model, inputs, num_beams=3).sequences.shape[0] == len(suite.beam_prompts)


def test_beams_of_recurrent_layers_score_as_one_prompt_to_the_plain_model():
    suite = Qwen35()
    model, prompts = suite.make_model(), suite.pair[:1]
    inputs = suite.make_inputs(model, prompts)
    out = suite.generate(model, inputs, num_beams=3, output_scores=True)
    tokens = suite.new_tokens(out)
    logits = model(**suite.extended(model, inputs, tokens[:, :-1]), use_cache=False).logits
    chosen = logits[:, -suite.steps :].log_softmax(-1).gather(2, tokens[..., None])
    gap = (chosen.mean() - out.sequences_scores[0]).abs()
    assert (gap > 100 * suite.exact) == before("5.21")
