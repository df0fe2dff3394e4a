"""What contracts of dynamic grids leave out on older releases is wrong there in the plain model."""

import pytest
import torch
from releases import before
from test_exaone4_5 import Exaone45
from test_paddleocr_vl import TestPaddleOcrVl as PaddleOcrVl


@pytest.mark.parametrize("family", [Exaone45, PaddleOcrVl])
def test_beams_have_the_scores_of_the_forward_pass(family):
    suite = family()
    model, prompts = suite.make_model(), suite.beam_prompts
    inputs = suite.make_inputs(model, prompts)
    out = suite.generate(model, inputs, num_beams=3, output_scores=True)
    tokens, length = suite.new_tokens(out), inputs["input_ids"].shape[1]
    with torch.no_grad():
        whole = suite.call(model, suite.extended(model, inputs, tokens[:, :-1]), use_cache=False)
    chosen = whole.logits[:, length - 1 :].log_softmax(-1).gather(2, tokens[..., None])
    gap = (chosen[..., 0].mean(dim=1) - out.sequences_scores).abs().max()
    assert (gap > 1e-3) == before("5.24")
