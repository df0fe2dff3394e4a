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

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightkv.core.assignment import Assignment
from lightkv.core.contracts import WindowSpec
from lightkv.core.errors import ConfigError, LightKVError
from lightkv.core.layout import VisionLayout
from lightkv.core.modality import MODALITIES
from lightkv.core.pipeline.pipeline import PipelineSpec, resolve_spec
from lightkv.core.stage.stage import Stage
from lightkv.core.stage.step import StageResult
from lightkv.testing.cases import (
    Case,
    Chain,
    SampleShape,
    cases,
    rows_of,
    stages_of,
    windowed_stages,
)
from lightkv.testing.laws import broken, check_row, check_same, check_step, require, vision_of

OTHER_WINDOWS = (
    "The suite chose the windows of the stages. If the partitioner takes others, name them in the class "
    "attribute `windows` of the suite, one entry for each stage, as a schedule has them: "
    "`windows = (4, 2, 1)`, or `(None,)` for none. `temporal = True` draws windows over time as well."
)
"""What the author of a test reads below an error about windows."""

NO_VALUES = (
    "The stage runs on the meta device here, where no tensor has a value. What failed is an operation "
    "that reads values, or whose shape depends on them: boolean-mask indexing, nonzero, unique, "
    ".item(), .tolist(). On a GPU it waits for the device. See the Rules of "
    "docs/writing-a-strategy.md for what is allowed; what torch advises above does not help."
)
"""What the author of a component reads below an error on the meta device."""


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
        stages: stages in a chain where windows are drawn; as many as the preset has components of
            their own for (`overrides`) if that is more.
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
        """A batch that suits the preset, with windows for every stage that has components of its own."""
        own = len(self.spec.overrides)
        count, windows = max(self.stages, own), self.windows
        if windows:
            windows = (*windows, *[windows[-1]] * (own - len(windows)))
        probes = stages_of(self.spec, (None,) * count, 0.0)
        return data.draw(
            cases(
                windows=windows,
                windowed=windowed_stages(self.spec, count),
                temporal=self.temporal,
                max_ratio=min(probe.matcher.max_ratio for probe in probes),
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
        stages, hidden, layout = self.stages_for(case), case.hidden().to("meta"), case.layout()
        real = Chain.run(stages, case.hidden(), layout)
        dynamic = next((n for n, s in enumerate(stages) if s.matcher.dynamic), None)
        if dynamic is not None:
            check_dynamic_is_refused(real, hidden, dynamic)
            return
        for one, other in zip(
            real.steps, without_values(stages, hidden, layout).steps, strict=True
        ):
            mine, theirs = one.result, other.result
            shapes = [(r.hidden_states.shape, r.size.shape, r.layout.key) for r in (mine, theirs)]
            what = f"on the meta device it gives shapes {shapes[1][:2]}"
            require(shapes[0] == shapes[1], one, None, what, f"{shapes[0][:2]}, and equal layouts")
            what = f"it gives tensors on {theirs.hidden_states.device} for those on meta"
            require(theirs.hidden_states.is_meta, one, "aggregator", what, "tensors on meta")

    @law
    def test_samples_do_not_see_each_other(self, data: st.DataObject) -> None:
        case = self.case(data)
        batch = self.chain(case)
        for row in range(len(case.shapes)):
            alone = Chain.run(self.stages_for(case), case.hidden(row), case.single(row))
            check_row(batch.steps, alone.steps, row, self.tolerance)

    @law
    def test_repeats_exactly_and_changes_no_input(self, data: st.DataObject) -> None:
        case = self.case(data)
        hidden, layout = case.hidden(), case.layout()
        before = hidden.clone(), layout.key
        torch.manual_seed(1)
        first = Chain.run(self.stages_for(case), hidden, layout)
        step = first.steps[0]
        what, wanted = (
            "the hidden states that went in were changed",
            "inputs are never changed in place",
        )
        require(torch.equal(hidden, before[0]), step, None, what, wanted)
        require(layout.key == before[1], step, None, "the layout was changed", wanted)
        torch.manual_seed(2)
        for pair in zip(first.steps, self.chain(case).steps, strict=True):
            check_same(*pair, "in a second run, after torch.manual_seed")

    @law
    def test_ratio_zero_is_the_identity(self, data: st.DataObject) -> None:
        case = self.case(data)
        hidden, layout = case.hidden(), case.layout()
        for step in Chain.run(stages_of(self.spec, case.windows, 0.0), hidden, layout).steps:
            counts, slot = step.result.layout.vision_counts, step.result.assignment.slot
            what = f"at ratio 0 rows keep {counts} tokens"
            require(
                counts == layout.vision_counts, step, "matcher", what, f"{layout.vision_counts}"
            )
            same = torch.equal(slot, torch.arange(slot.numel()))
            require(same, step, "matcher", "at ratio 0 tokens flow", "all stay where they are")
            same = torch.equal(step.result.hidden_states, hidden)
            require(same, step, "aggregator", "at ratio 0 tokens change", "all stay as they are")

    @law
    def test_provenance_composes(self, data: st.DataObject) -> None:
        chain = self.chain(self.case(data))
        first, end, last = chain.steps[0], chain.steps[-1], chain.steps[-1].result
        whole = reduce(Assignment.then, (step.result.assignment for step in chain.steps))
        counts = whole.token_counts, whole.slot_counts
        wanted = first.layout.vision_counts, last.layout.vision_counts
        require(counts == wanted, end, None, f"all stages lead from {counts}", f"{wanted}")
        origin = last.layout.token_index(whole.slot.device).origin
        what = f"all stages leave tokens {whole.survivor.tolist()}"
        require(torch.equal(whole.survivor, origin), end, "matcher", what, f"{origin.tolist()}")
        # Sizes count the tokens that a survivor holds; a dropped token leaves the count.
        sizes = whole.group_sizes()
        what = f"survivors hold {last.size.tolist()} tokens"
        require(torch.allclose(sizes, last.size), end, "matcher", what, f"{sizes.tolist()}")
        if all(step.stage.aggregator.convex for step in chain.steps):
            made = whole.merged(vision_of(first.hidden, first.layout))
            found = vision_of(last.hidden_states, last.layout).float()
            tolerance = self.tolerance * len(chain.steps)
            same = torch.allclose(made, found, atol=tolerance, rtol=tolerance)
            what = f"tokens are {_apart(made, found)} from the sums that all stages together say"
            require(same, end, "aggregator", what, f"at most {tolerance:g}, since `convex` is true")

    @law
    def test_half_precision_and_gradients(self, data: st.DataObject) -> None:
        case = self.case(data)
        for dtype in (torch.bfloat16, torch.float16):
            low = Chain.run(self.stages_for(case), case.hidden().to(dtype), case.layout())
            for step in low.steps:
                found = step.result.hidden_states
                require(found.dtype == dtype, step, None, f"tokens of {found.dtype}", f"{dtype}")
                finite = bool(torch.isfinite(found).all())
                require(finite, step, "aggregator", f"NaN or infinity in {dtype}", "finite tokens")
        hidden = case.hidden().requires_grad_()
        chain = Chain.run(self.stages_for(case), hidden, case.layout())
        torch.autograd.backward(chain.last.hidden_states.square().sum())
        end = chain.steps[-1]
        if hidden.grad is None:
            broken(end, "aggregator", "no gradient reaches the hidden states", "finite gradients")
        finite = bool(torch.isfinite(hidden.grad).all())
        require(finite, end, "aggregator", "gradients are NaN or infinite", "finite gradients")

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
        one = Chain.run(self.stages_for(case), hidden, layout)
        other = Chain.run(self.stages_for(case), shuffled, layout)
        wanted = "the same, since an OrderFreeSuite is for methods that choose by value alone"
        for mine, theirs in zip(one.steps, other.steps, strict=True):
            pairs = zip(_survivors(mine.result), _survivors(theirs.result), strict=True)
            for row, (first, second) in enumerate(pairs):
                same = first.shape == second.shape and torch.allclose(
                    first, second, atol=self.tolerance, rtol=self.tolerance
                )
                what = f"shuffling the tokens of each image changes who survives of row {row}"
                require(same, mine, "matcher", what, wanted)


def check_strategy(
    preset: PipelineSpec | str | dict[str, Any], case: Case, *, tolerance: float = 1e-5
) -> Chain:
    """Run a chain on one batch and check every law that needs no second run."""
    spec = resolve_spec(preset)
    chain = Chain.run(stages_of(spec, case.windows, case.ratio), case.hidden(), case.layout())
    for step in chain.steps:
        check_step(step, tolerance)
    return chain


def _apart(made: torch.Tensor, found: torch.Tensor) -> str:
    """The largest difference, for people."""
    return f"{float((made - found).abs().max()):.3g}" if made.numel() else "0"


# -- where no tensor has a value --------------------------------------------------------------


def without_values(stages: Sequence[Stage], hidden: torch.Tensor, layout: VisionLayout) -> Chain:
    """The chain on the meta device; what fails there has a note that says why."""
    try:
        return Chain.run(stages, hidden, layout)
    except LightKVError:
        raise
    except Exception as error:
        error.add_note(NO_VALUES)
        raise


def check_dynamic_is_refused(real: Chain, hidden: torch.Tensor, number: int) -> None:
    """On the meta device a dynamic budget raises `ConfigError`, if its stage has anything to do.

    Args:
        real: the chain on numbers.
        hidden: `[B, N, D]` of its beginning on the meta device.
        number: of the first stage with such a budget.
    """
    step = real.steps[number]
    if not step.stage.plan(step.layout).removes:
        return
    stages = [step.stage for step in real.steps[: number + 1]]
    try:
        without_values(stages, hidden, real.steps[0].layout)
    except ConfigError as error:
        what = f"on the meta device its dynamic budget fails with {error}"
        require("meta device" in str(error), step, "matcher", what, "an error of that device")
        return
    what = "its budget is dynamic, and it runs on the meta device"
    broken(step, "matcher", what, "a budget from values, which are not there")


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
