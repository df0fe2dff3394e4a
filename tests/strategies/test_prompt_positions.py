"""What components that compare with the text take for text: no padding, and no drafts."""

import pytest
import torch

from lightkv import Stage, VisionLayout
from lightkv.core.contracts import ScoreInput, Scorer, StageContext
from lightkv.core.errors import ConfigError
from lightkv.functional import compress_stage
from lightkv.strategies.components.top_k import TopK


class FromTextMean(Scorer):
    """Distance of each vision token to the mean of the prompt of its row."""

    name = "from-text-mean"

    def score(self, inputs: ScoreInput) -> torch.Tensor:
        prompt, hidden = inputs.prompt, inputs.hidden_states
        text = hidden.gather(1, prompt.index[..., None].expand(-1, -1, hidden.shape[-1]))
        real = prompt.valid[..., None].to(hidden.dtype)
        mean = (text * real).sum(dim=1) / real.sum(dim=1)
        own = hidden.flatten(0, 1).index_select(0, inputs.vision)
        return (own - mean.index_select(0, inputs.sample)).norm(dim=-1)


def score_of(hidden, layout):
    return compress_stage(hidden, layout, Stage.preset("fastv", scorer=FromTextMean())).score


@pytest.mark.parametrize(
    ("pads", "drafts", "other"), [([3], 0, slice(0, 3)), ([0], 2, slice(-2, None))]
)
def test_scorers_take_neither_padding_nor_drafts_for_text(pads, drafts, other):
    torch.manual_seed(0)
    hidden = torch.randn(1, 20, 8)
    layout = VisionLayout.from_spans([[(5, (1, 3, 4))]], pads=pads).with_drafts(drafts)
    changed = hidden.clone()
    changed[:, other] = 100.0
    assert torch.equal(score_of(hidden, layout), score_of(changed, layout))


def test_matchers_take_no_drafts_for_text():
    """DART's pivots are chosen among the text around its windows."""
    prompts = []

    class Looking(TopK):
        name = "looking"
        needs_surroundings = True

        def match(self, inputs):
            prompts.append(inputs.around.prompt)
            return super().match(inputs)

    stage = Stage.preset("fastv", scorer="uniform", matcher=Looking())
    for drafts in (0, 2):
        layout = VisionLayout.from_spans([[(4, (1, 3, 4))]]).with_drafts(drafts)
        compress_stage(torch.randn(1, 20, 8), layout, stage)
    assert [int(prompt.valid.sum()) for prompt in prompts] == [8, 6]


def test_an_input_without_a_layout_has_no_prompt():
    vision = torch.arange(4)
    inputs = ScoreInput(torch.randn(1, 8, 4), vision, vision, torch.ones(4), None, StageContext())
    with pytest.raises(ConfigError, match="no layout"):
        FromTextMean().score(inputs)
