"""The beams that contracts leave out on older releases are wrong there in the plain model.

Those releases take the models for models of text: they repeat the pixels like rows, not the features.
"""

import pytest
import torch
from releases import before
from test_exaone4_5 import Exaone45
from test_latents import TestAria as Aria
from test_muse_glimmer import MuseGlimmer
from test_paddleocr_vl import TestPaddleOcrVl as PaddleOcrVl
from test_step3p7 import TestStep3p7 as Step3p7


@pytest.mark.parametrize("family", [Aria, Exaone45, MuseGlimmer, PaddleOcrVl, Step3p7])
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
    assert (gap > 1e-3) == before("5.21")
