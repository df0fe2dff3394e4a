"""The law of methods that do not care where in its image a token stands."""

from __future__ import annotations

from dataclasses import replace

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightkv.core.layout import VisionLayout
from lightkv.core.stage.step import StageResult
from lightkv.testing.cases import Case, Chain, SampleShape, rows_of
from lightkv.testing.strategies import StrategySuite


class OrderFreeSuite(StrategySuite):
    """`StrategySuite` for methods that choose by value alone: top-k by a score, cover by distance.

    Shuffling the tokens of every image must shuffle nothing but the survivors' places. Methods that
    look at the place in the raster (windows, alternating sides, strided samples) are no such methods.
    """

    @settings(
        deadline=None,
        suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
    )
    @given(data=st.data())
    def test_order_within_an_image_does_not_matter(self, data: st.DataObject) -> None:
        case = shuffled_freely(self.case(data))
        hidden, layout = case.hidden(), case.layout()
        shuffled = shuffle(hidden, layout, data.draw(st.integers(0, 1000)))
        one = Chain.run(self.stages_for(case), hidden, layout).last
        other = Chain.run(self.stages_for(case), shuffled, layout).last
        assert one.layout.vision_counts == other.layout.vision_counts
        for first, second in zip(_survivors(one), _survivors(other), strict=True):
            torch.testing.assert_close(first, second, atol=self.tolerance, rtol=self.tolerance)


def shuffled_freely(case: Case) -> Case:
    """The case with plain grids and text at the end: separators and last positions stay in place.

    Without text behind the image a scorer that asks the text finds all tokens alike.
    """
    shapes = tuple(
        SampleShape(
            (*shape.texts[:-1], max(1, shape.texts[-1])),
            tuple((*grid[:3], False) for grid in shape.grids),
        )
        for shape in case.shapes
    )
    return replace(case, shapes=shapes)


def shuffle(hidden: torch.Tensor, layout: VisionLayout, seed: int) -> torch.Tensor:
    """`[B, N, D]` with the tokens of each view in another order."""
    generator = torch.Generator().manual_seed(seed)
    flat, start = layout.token_index(hidden.device).flat, 0
    rows = hidden.reshape(-1, hidden.shape[-1])
    out = rows.clone()
    for sample in layout.samples:
        for view in sample.views:
            places = flat[start : start + view.positions.size]
            out[places] = rows[places[torch.randperm(places.numel(), generator=generator)]]
            start += places.numel()
    return out.view_as(hidden)


def _survivors(result: StageResult) -> list[torch.Tensor]:
    """The vision tokens of each row, ordered by their values."""
    hidden, layout = result.hidden_states, result.layout
    index = layout.token_index(hidden.device)
    tokens = hidden.reshape(-1, hidden.shape[-1])[index.flat]
    owner = torch.from_numpy(rows_of(layout.vision_counts))
    found = [tokens[owner == row] for row in range(layout.batch_size)]
    # One coordinate may be saturated in many tokens; a mixture of all tells them apart.
    mixture = torch.linspace(0.3, 1.7, hidden.shape[-1])
    return [each[(each * mixture).sum(dim=1).argsort()] for each in found]
