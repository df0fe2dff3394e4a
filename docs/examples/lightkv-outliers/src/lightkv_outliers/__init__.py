"""Keep what stands out: the outliers of each window survive, the rest becomes one token."""

import torch

from lightkv.plugin import Matcher, MatchInput, PipelineSpec, Recipe, hookimpl


class Outliers(Matcher):
    """The k − 1 tokens farthest from their window's mean survive as they are; all others flow
    into the one nearest to it, which stands for the background."""

    name = "outliers"
    source = "an example of the lightkv documentation"

    def match(self, inputs: MatchInput) -> torch.Tensor:
        tokens = inputs.tokens.float()  # [G, n, D]
        distance = (tokens - tokens.mean(dim=1, keepdim=True)).norm(dim=-1)
        order = torch.sort(distance, dim=-1, descending=True, stable=True).indices
        background = order[:, -1:].expand_as(order)
        outliers = order[:, : inputs.keep - 1]
        return background.scatter(1, outliers, outliers)


@hookimpl
def lightkv_components(register):
    register(Outliers)


@hookimpl
def lightkv_presets(register):
    mean = {"name": "weighted-mean", "weights": "size"}
    parts = {"partitioner": "windows", "matcher": "outliers", "aggregator": mean}
    register(PipelineSpec(name="outliers", **parts, schedule=Recipe(windows=(4, 2, 1), ratio=0.5)))
