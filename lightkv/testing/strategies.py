"""The laws that every compression method obeys, as a pytest class for any preset.

    class TestMine(StrategySuite):
        preset = "mine"            # a registered name, a PipelineSpec or plain data
        temporal = True            # also draw windows over time

Each test draws batches with several images, videos and recordings, strips of one row, separators, rows
without images, shares of some modalities only, prompts that end in their image and left padding, and
runs a chain of stages on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce, wraps
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightkv.core.assignment import Assignment
from lightkv.core.contracts import PROTECTED, WindowSpec
from lightkv.core.errors import ConfigError
from lightkv.core.layout import VisionLayout
from lightkv.core.modality import MODALITIES, removed
from lightkv.core.pipeline.pipeline import PipelineSpec, resolve_spec
from lightkv.core.stage.partitions import partition_of
from lightkv.core.stage.stage import Stage
from lightkv.core.stage.step import StageResult
from lightkv.testing.cases import (
    Case,
    Chain,
    SampleShape,
    Step,
    cases,
    rows_of,
    stages_of,
    takes_windows,
)

OTHER_WINDOWS = (
    "The suite chose the windows of the stages. If the partitioner takes others, name them in the class "
    "attribute `windows` of the suite, one entry for each stage, as a schedule has them: "
    "`windows = (4, 2, 1)`, or `(None,)` for none. `temporal = True` draws windows over time as well."
)
"""What the author of a test reads below an error about windows."""


def law(test: Callable[..., None]) -> Callable[..., None]:
    """A test of many drawn batches that suites inherit.

    A batch has many windows: two in five of as many as the profile says are drawn, but eight at least.
    """

    @wraps(test)
    def told(self: StrategySuite, data: st.DataObject) -> None:
        try:
            test(self, data)
        except ConfigError as error:
            if "windows" in f"{error.field} {error.message}":
                error.add_note(OTHER_WINDOWS)
            raise

    checks = [HealthCheck.differing_executors, HealthCheck.too_slow]
    count = max(8, settings().max_examples * 2 // 5)
    rule = settings(max_examples=count, deadline=None, suppress_health_check=checks)
    return rule(given(data=st.data())(told))


class StrategySuite:
    """Properties of a preset or composition.

    Class attributes:
        preset: what is tested.
        windows: `windows` entry of each stage; None draws ones that fit the grids.
        temporal: whether the partitioner takes `{space: …, time: …}`.
        stages: stages in a chain where windows are drawn.
        modalities: what it compresses; prompts and ratios are drawn of these.
        tolerance: largest difference where order of summation may differ.
    """

    preset: ClassVar[PipelineSpec | str | dict[str, Any]]
    windows: ClassVar[Sequence[WindowSpec] | None] = None
    temporal: ClassVar[bool] = False
    stages: ClassVar[int] = 2
    modalities: ClassVar[tuple[str, ...]] = MODALITIES
    tolerance: ClassVar[float] = 1e-5

    # -- what the tests are made of ------------------------------------------------------------

    @property
    def spec(self) -> PipelineSpec:
        return resolve_spec(self.preset)

    def case(self, data: st.DataObject) -> Case:
        """A batch that suits the preset."""
        probe = stages_of(self.spec, [1], 0.0)[0]
        return data.draw(
            cases(
                windows=self.windows,
                windowed=takes_windows(self.spec),
                temporal=self.temporal,
                max_ratio=probe.matcher.max_ratio,
                stages=self.stages,
                modalities=self.modalities,
            )
        )

    def stages_for(self, case: Case) -> tuple[Stage, ...]:
        return stages_of(self.spec, case.windows, case.ratio)

    def chain(self, case: Case) -> Chain:
        return Chain.run(self.stages_for(case), case.hidden(), case.layout())

    # -- the laws ------------------------------------------------------------------------------

    @law
    def test_every_step_obeys_the_laws(self, data: st.DataObject) -> None:
        """Budgets of windows, conservation, untouched text and last position, order, true layouts."""
        for step in self.chain(self.case(data)).steps:
            check_step(step, self.tolerance)

    @law
    def test_shapes_follow_from_layouts(self, data: st.DataObject) -> None:
        """The chain runs on the meta device, where no tensor has a value, and gives the same shapes.

        A budget that follows from values cannot, and says so. An operation takes many times as long
        there as on numbers, so two rows of the batch must do.
        """
        case = self.case(data)
        case = replace(case, shapes=case.shapes[:2])
        if any(stage.matcher.dynamic for stage in self.stages_for(case)):
            check_dynamic_is_refused(self.stages_for(case), case)
            return
        real = self.chain(case)
        ghost = Chain.run(self.stages_for(case), case.hidden().to("meta"), case.layout())
        for one, other in zip(real.steps, ghost.steps, strict=True):
            assert other.result.hidden_states.is_meta
            assert one.result.hidden_states.shape == other.result.hidden_states.shape
            assert one.result.layout.key == other.result.layout.key
            assert one.result.size.shape == other.result.size.shape

    @law
    def test_samples_do_not_see_each_other(self, data: st.DataObject) -> None:
        case = self.case(data)
        batch = self.chain(case).last
        for row, shape in enumerate(case.shapes):
            alone = Chain.run(self.stages_for(case), case.hidden(row), case.single(row)).last
            mine = batch.hidden_states[row, batch.layout.pads[row] :]
            assert alone.hidden_states.shape[1] == mine.shape[0], shape
            torch.testing.assert_close(
                mine, alone.hidden_states[0], atol=self.tolerance, rtol=self.tolerance
            )
            chosen = batch.layout.token_index(mine.device).origin
            first = sum(batch.layout.original_counts[:row])
            here = rows_of(batch.layout.vision_counts) == row
            own = alone.layout.token_index(mine.device).origin
            assert torch.equal(chosen[torch.from_numpy(here)] - first, own)

    @law
    def test_repeats_exactly_and_changes_no_input(self, data: st.DataObject) -> None:
        case = self.case(data)
        hidden, layout = case.hidden(), case.layout()
        before = hidden.clone(), layout.key
        torch.manual_seed(1)
        first = Chain.run(self.stages_for(case), hidden, layout).last
        assert torch.equal(hidden, before[0])
        assert layout.key == before[1]
        torch.manual_seed(2)
        second = self.chain(case).last
        assert torch.equal(first.hidden_states, second.hidden_states)
        assert torch.equal(first.assignment.slot, second.assignment.slot)

    @law
    def test_ratio_zero_is_the_identity(self, data: st.DataObject) -> None:
        case = self.case(data)
        hidden, layout = case.hidden(), case.layout()
        last = Chain.run(stages_of(self.spec, case.windows, 0.0), hidden, layout).last
        assert torch.equal(last.hidden_states, hidden)
        assert last.layout.vision_counts == layout.vision_counts
        assert torch.equal(last.assignment.slot, torch.arange(last.assignment.slot.numel()))

    @law
    def test_provenance_composes(self, data: st.DataObject) -> None:
        chain = self.chain(self.case(data))
        first, last = chain.steps[0], chain.steps[-1].result
        whole = reduce(Assignment.then, (step.result.assignment for step in chain.steps))
        assert whole.token_counts == first.layout.vision_counts
        assert whole.slot_counts == last.layout.vision_counts
        index = last.layout.token_index(whole.slot.device)
        assert torch.equal(whole.survivor, index.origin)
        # Sizes count the tokens that a survivor holds; a dropped token leaves the count.
        torch.testing.assert_close(whole.group_sizes(), last.size)
        if all(step.stage.aggregator.convex for step in chain.steps):
            made = whole.merged(_vision(first.hidden, first.layout))
            found = _vision(last.hidden_states, last.layout).float()
            tolerance = self.tolerance * len(chain.steps)
            torch.testing.assert_close(made, found, atol=tolerance, rtol=tolerance)

    @law
    def test_half_precision_and_gradients(self, data: st.DataObject) -> None:
        case = self.case(data)
        for dtype in (torch.bfloat16, torch.float16):
            low = Chain.run(self.stages_for(case), case.hidden().to(dtype), case.layout()).last
            assert low.hidden_states.dtype == dtype
            assert bool(torch.isfinite(low.hidden_states).all())
        hidden = case.hidden().requires_grad_()
        last = Chain.run(self.stages_for(case), hidden, case.layout()).last
        torch.autograd.backward(last.hidden_states.square().sum())
        assert hidden.grad is not None
        assert bool(torch.isfinite(hidden.grad).all())

    def test_yaml_reproduces_it(self) -> None:
        spec = self.spec
        assert PipelineSpec.from_yaml(spec.to_yaml()) == spec


class OrderFreeSuite(StrategySuite):
    """`StrategySuite` for methods that choose by value alone: top-k by a score, cover by distance.

    Shuffling the tokens of every image must shuffle nothing but the survivors' places. Methods that
    look at the place in the raster (windows, alternating sides, strided samples) are no such methods.
    """

    @law
    def test_order_within_an_image_does_not_matter(self, data: st.DataObject) -> None:
        case = shuffled_freely(self.case(data))
        hidden, layout = case.hidden(), case.layout()
        shuffled = shuffle(hidden, layout, data.draw(st.integers(0, 1000)))
        one = Chain.run(self.stages_for(case), hidden, layout).last
        other = Chain.run(self.stages_for(case), shuffled, layout).last
        assert one.layout.vision_counts == other.layout.vision_counts
        for first, second in zip(_survivors(one), _survivors(other), strict=True):
            torch.testing.assert_close(first, second, atol=self.tolerance, rtol=self.tolerance)


def check_strategy(
    preset: PipelineSpec | str | dict[str, Any], case: Case, *, tolerance: float = 1e-5
) -> Chain:
    """Run a chain on one batch and check every law that needs no second run."""
    spec = resolve_spec(preset)
    chain = Chain.run(stages_of(spec, case.windows, case.ratio), case.hidden(), case.layout())
    for step in chain.steps:
        check_step(step, tolerance)
    return chain


# -- one step at a time -----------------------------------------------------------------------


def check_step(step: Step, tolerance: float = 1e-5) -> None:
    """Every law that a step can be held against by itself."""
    check_budget(step)
    check_assignment(step)
    if step.stage.aggregator.convex:
        check_convexity(step, tolerance)
    check_text(step)
    check_last(step)
    check_order(step)
    check_layout(step)


def _vision(hidden: torch.Tensor, layout: Any) -> torch.Tensor:
    flat = layout.token_index(hidden.device).flat
    return hidden.reshape(-1, hidden.shape[-1])[flat]


def check_dynamic_is_refused(stages: Sequence[Stage], case: Case) -> None:
    """On the meta device a dynamic budget raises `ConfigError`, if a stage has anything to do."""
    if not any(stage.plan(case.layout()).removes for stage in stages[:1]):
        return
    with pytest.raises(ConfigError, match="meta device"):
        Chain.run(stages, case.hidden().to("meta"), case.layout())


def window_labels(step: Step) -> list[np.ndarray[Any, np.dtype[np.int64]]]:
    """Window of each current token of each row, from the partitioner and the tokens' origins."""
    out, origin = [], step.layout.token_index(torch.device("cpu")).origin.numpy()
    rows = rows_of(step.layout.vision_counts)
    first = np.concatenate([[0], np.cumsum(step.layout.original_counts)])
    for row in range(step.layout.batch_size):
        stage = step.stage
        part = partition_of(step.layout, row, stage.partitioner, stage.windows, stage.ratio)
        own = origin[rows == row] - first[row]
        out.append(part.label if part.by == "rank" else part.label[own])
    return out


def modality_of_tokens(step: Step) -> np.ndarray[Any, np.dtype[np.int64]]:
    """`[V]` place in `MODALITIES` of each current token, from its origin."""
    origin = step.layout.token_index(torch.device("cpu")).origin.numpy()
    table = [np.zeros(0, np.int64), *(s.tokens.modality for s in step.layout.samples)]
    found: np.ndarray[Any, np.dtype[np.int64]] = np.concatenate(table)[origin]
    return found


def check_budget(step: Step) -> None:
    """Every window keeps what `Matcher.keep` says, or at most that under a dynamic budget.

    Protected tokens all stay, and no window holds tokens of two modalities.
    """
    survivor = step.result.assignment.survivor.cpu().numpy()
    shown = modality_of_tokens(step)
    rows = rows_of(step.layout.vision_counts)
    starts = np.concatenate([[0], np.cumsum(step.layout.vision_counts)])
    for row, label in enumerate(window_labels(step)):
        alive = label[survivor[rows[survivor] == row] - starts[row]]
        kinds = shown[starts[row] : starts[row + 1]]
        for window in np.unique(label):
            population, kept = int((label == window).sum()), int((alive == window).sum())
            if window == PROTECTED:
                assert kept == population, f"row {row}: a protected token went"
                continue
            (kind,) = set(kinds[label == window].tolist())
            share = removed(step.stage.ratio, MODALITIES[kind])
            budget = step.stage.matcher.keep(population, share)
            wanted = min(kept, budget) if step.stage.matcher.dynamic else budget
            assert kept == wanted, f"row {row}, window {window}: {kept} of {population}"


def check_assignment(step: Step) -> None:
    """Each token is in one slot of its own window or dropped; each slot holds its survivor."""
    given = step.result.assignment
    slot, survivor = given.slot.cpu(), given.survivor.cpu()
    slots = survivor.numel()
    assert given.token_counts == step.layout.vision_counts
    assert given.slot_counts == step.result.layout.vision_counts
    assert sum(given.token_counts) == slot.numel()
    assert sum(given.slot_counts) == slots
    assert bool(((slot >= -1) & (slot < slots)).all())
    assert torch.equal(slot[survivor], torch.arange(slots))
    assert bool((given.weight >= 0).all())
    assert bool((given.weight[slot < 0] == 0).all())
    rows = torch.from_numpy(rows_of(given.token_counts))
    labels = torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *window_labels(step)]))
    held = slot >= 0
    into = survivor[slot[held]]
    assert torch.equal(rows[held], rows[into]), "a token flowed into another sample"
    assert torch.equal(labels[held], labels[into]), "a token flowed into another window"
    fixed = torch.nonzero(labels == PROTECTED).flatten()
    assert torch.equal(survivor[slot[fixed]], fixed), "a protected token was touched"
    assert int(given.group_sizes().sum()) + int((slot < 0).sum()) == slot.numel()


def check_convexity(step: Step, tolerance: float) -> None:
    """Survivors are the weighted sums that the assignment says, and weights of a slot add up to 1."""
    given = step.result.assignment
    total = given.pooled(given.weight)
    torch.testing.assert_close(total, torch.ones_like(total), atol=tolerance, rtol=0)
    found = _vision(step.result.hidden_states, step.result.layout).float()
    made = given.merged(_vision(step.hidden, step.layout))
    torch.testing.assert_close(found, made, atol=tolerance, rtol=tolerance)


def check_text(step: Step) -> None:
    """Text tokens are bitwise the same, in the same order, and none is lost."""
    after = step.result.layout
    assert after.text_counts == step.layout.text_counts
    before_text = step.layout.token_index(step.hidden.device).text
    after_text = after.token_index(step.hidden.device).text
    width = step.hidden.shape[-1]
    old = step.hidden.reshape(-1, width)[before_text]
    new = step.result.hidden_states.reshape(-1, width)[after_text]
    assert torch.equal(old, new)


def check_last(step: Step) -> None:
    """The last position of every row is bitwise the same, still last, and nothing flowed into it."""
    before, after = step.hidden, step.result.hidden_states
    assert torch.equal(after[:, -1], before[:, -1])
    assert bool((step.result.kept[:, -1] == before.shape[1] - 1).all())
    held = step.result.assignment.group_sizes().cpu()
    place = torch.from_numpy(np.cumsum(step.result.layout.vision_counts)) - 1
    for row, sample in enumerate(step.layout.samples):
        if step.layout.original_counts[row] and sample.positions[-1] == _original_end(step, row):
            assert held[place[row]] == 1, f"row {row}: its last token took others in"


def _original_end(step: Step, row: int) -> int:
    """The last position of a row before any stage: what is not vision now was none then."""
    layout = step.layout
    return layout.samples[row].pad + layout.text_counts[row] + layout.original_counts[row] - 1


def check_order(step: Step) -> None:
    """Survivors stay in raster order, and so does the whole sequence."""
    survivor, index = step.result.assignment.survivor, step.result.layout.token_index
    device = survivor.device
    assert bool((survivor.diff() > 0).all())
    assert bool((index(device).origin.diff() > 0).all())
    assert bool((index(device).flat.diff() > 0).all())
    valid = step.result.layout.valid_mask(device)
    for row in range(valid.shape[0]):
        kept = step.result.kept[row][valid[row]]
        assert bool((kept.diff() > 0).all())


def check_layout(step: Step) -> None:
    """Counts, padding, places and length of the new layout fit the tensor and each other."""
    result, after = step.result, step.result.layout
    batch, length, _ = result.hidden_states.shape
    assert (batch, length) == (after.batch_size, after.length)
    real = [t + v for t, v in zip(after.text_counts, after.vision_counts, strict=True)]
    assert length == max(real)
    assert after.pads == tuple(length - n for n in real)
    after_step = replace(step, layout=after)
    own = np.split(modality_of_tokens(after_step), np.cumsum(after.vision_counts)[:-1])
    for counts, kinds in zip(after.counts_by_modality, own, strict=True):
        assert all(n == (kinds == MODALITIES.index(m)).sum() for m, n in counts.items())
    mask = after.vision_mask(result.hidden_states.device)
    assert tuple(mask.sum(dim=1).tolist()) == after.vision_counts
    assert not bool((mask & ~after.valid_mask(mask.device)).any())
    index = after.token_index(mask.device)
    together = torch.cat([index.flat, index.text]).sort().values
    places = torch.nonzero(after.valid_mask(mask.device).flatten()).flatten()
    assert torch.equal(together, places)
    # `kept` leads back to where each token stood.
    old = step.layout.token_index(mask.device)
    offsets = torch.arange(batch, device=mask.device)[:, None] * step.layout.length
    came_from = (result.kept + offsets).flatten()
    assert torch.equal(came_from[index.text], old.text)
    assert torch.equal(came_from[index.flat], old.flat[result.assignment.survivor])


# -- places that do not matter ---------------------------------------------------------------


def shuffled_freely(case: Case) -> Case:
    """The case with plain grids and text at the end: separators and last positions stay in place.

    Without text behind the image a scorer that asks the text finds all tokens alike.
    """
    shapes = tuple(
        SampleShape(
            (*shape.texts[:-1], max(1, shape.texts[-1])),
            tuple((*grid[:3], False) for grid in shape.grids),
            shape.modalities,
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
