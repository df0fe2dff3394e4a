"""Runs a model under strategies and takes down where every patch went."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from lightkv.core.assignment import Assignment
from lightkv.core.errors import ConfigError, SessionError
from lightkv.lab.pictures.data import DROPPED, IN_TEXT, FloatArray, Picture, ShownRun, ShownStage
from lightkv.lab.pictures.views import shown_views

if TYPE_CHECKING:
    from lightkv.checkpoints.answers import Answer
    from lightkv.core.pipeline.pipeline import PipelineSource
    from lightkv.core.run.report import RunReport
    from lightkv.core.stage.cache_entries import CachedLayer

MOST = 2
"""Prompts, and strategies, that one picture compares."""


def collect(
    model: Any,
    processor: Any,
    images: Sequence[Any],
    prompts: Sequence[str],
    strategies: Sequence[PipelineSource] = ("lightkv",),
    *,
    retention: float | None = None,
    max_new_tokens: int = 32,
    name: str | None = None,
    videos: Sequence[Any] = (),
) -> Picture:
    """Answer each prompt under each strategy and keep who was merged into whom.

    Args:
        model: an image-text model that an adapter serves.
        processor: its processor.
        images: pictures of the prompt, in order.
        prompts: one or two questions; each is asked about all pictures and clips.
        strategies: one or two presets, specs or pipeline files.
        retention: mean share of vision KV over all layers; the preset's own if None.
        max_new_tokens: of each answer.
        name: of the model, for captions.
        videos: clips `[F, H, W, 3]` of uint8, behind the pictures in the prompt.

    Raises:
        ConfigError: no picture and no clip, or more than two prompts or strategies.
        LightKVError: whatever a session refuses.
    """
    from lightkv.checkpoints.answers import generate
    from lightkv.checkpoints.prompts import build_inputs
    from lightkv.core.run.session import prepare

    check_counts([*images, *videos], prompts, strategies)
    sessions = [prepare(model, s, retention=retention, trace=True) for s in strategies]
    given = [build_inputs(processor, prompt, images, model, videos) for prompt in prompts]
    answers = [
        (prompt, generate(session, processor, inputs, max_new_tokens))
        for session in sessions
        for prompt, inputs in zip(prompts, given, strict=True)
    ]
    return drawn(answers, images, given[0], processor, model, name=name, videos=videos)


def drawn(
    answers: Sequence[tuple[str, Answer]],
    images: Sequence[Any],
    inputs: Any,
    processor: Any,
    model: Any,
    *,
    name: str | None = None,
    videos: Sequence[Any] = (),
) -> Picture:
    """Who was merged into whom in answers that are there already.

    Args:
        answers: prompts, and what sessions with `trace` gave; one run of the picture each.
        images, videos: pictures and clips of all of these prompts.
        inputs: what the processor made of one of them.
        processor, model: that answered.
        name: of the model, for captions.

    Raises:
        ConfigError: prompts without vision tokens, or of other pictures.
        SessionError: a session that kept no trace.
    """
    layout = answers[0][1].report.layout
    if layout is None or not any(layout.original_counts):
        raise ConfigError(
            "the prompt holds no vision tokens, so there is nothing to draw",
            field="images",
            value=len(images),
            remedy="give pictures to a model that takes them",
        )
    runs = [_run(prompt, answer.text, answer.report) for prompt, answer in answers]
    views = shown_views(layout, images, inputs, processor, model.config, videos)
    return Picture(name or type(model).__name__, views, tuple(runs), layout.original_counts[0])


def check_counts(seen: Sequence[Any], prompts: Sequence[str], strategies: Sequence[Any]) -> None:
    """Refuse what cannot be drawn, before a model is loaded.

    Args:
        seen: pictures and clips.
        prompts, strategies: as of `collect`.

    Raises:
        ConfigError: no picture, no prompt, or too many.
    """
    if not seen:
        raise ConfigError(
            "there is no picture to draw on",
            field="image",
            remedy="give at least one picture or clip",
        )
    for field, given in (("prompt", prompts), ("strategy", strategies)):
        several = isinstance(given, Sequence) and not isinstance(given, str)
        if not several or not 1 <= len(given) <= MOST:
            raise ConfigError(
                f"one or {MOST} can be compared in a picture",
                field=field,
                value=len(given) if several else given,
                remedy=f"give a list of one or {MOST}; more comparisons are more pictures",
            )


def _run(prompt: str, answer: str, report: RunReport) -> ShownRun:
    stages = stages_of(report)
    remark = "" if stages else "no stage removed anything"
    return ShownRun(
        prompt,
        answer,
        report.strategy,
        report.retention,
        report.samples[0].vision_tokens,
        tuple(stages),
        remark,
    )


def stages_of(report: RunReport) -> list[ShownStage]:
    """The stages of a report of one row, between layers and then on the cache.

    Raises:
        SessionError: the session kept no trace.
    """
    if report.trace is None or report.scores is None or report.after_layers is None:
        raise SessionError(
            "this session kept no assignments",
            field="trace",
            remedy="use lightkv.compress(model, …, trace=True)",
        )
    counts = (report.samples[0].original,)
    total = Assignment.identity(counts)
    reached = [(0, total)]  # layers that ran, and what was merged by then
    stages = []
    steps = zip(report.after_layers, report.trace, report.scores, strict=True)
    for after, step, score in steps:
        guidance = None if score is None else _spread(total, score)
        entered = total.slot_counts[0]
        total = total.then(_on_host(step))
        reached.append((after, total))
        home = _homes(total.slot, total.survivor)
        stages.append(
            ShownStage(
                f"after layer {after}" if after else "before the decoder",
                after,
                "layers",
                home,
                total.weight.double().numpy(),
                guidance,
                total.slot_counts[0],
                entered,
            )
        )
    for layer, done in enumerate(report.cache_trace or ()):
        if done is not None:
            before = next(t for after, t in reversed(reached) if after <= layer)
            stages.append(_cached(layer, done, before, report.samples[0].vision_tokens[layer]))
    return stages


def _on_host(step: Assignment) -> Assignment:
    return replace(
        step, slot=step.slot.cpu(), weight=step.weight.cpu(), survivor=step.survivor.cpu()
    )


def _spread(total: Assignment, score: torch.Tensor) -> FloatArray:
    """`[V₀]` what each original token's holder scored, NaN for dropped ones."""
    values = score.detach().double().cpu()
    alive = total.slot >= 0
    if not values.numel():
        return np.full(alive.numel(), np.nan)
    nan = torch.tensor(float("nan"), dtype=torch.float64)
    return torch.where(alive, values[total.slot.clamp(min=0)], nan).numpy()


def _homes(slot: torch.Tensor, survivor: torch.Tensor) -> Any:
    """`[V₀]` survivor of each token's slot; `DROPPED` stays."""
    if not survivor.numel():
        return np.full(slot.numel(), DROPPED, dtype=np.int64)
    return torch.where(slot >= 0, survivor[slot.clamp(min=0)], DROPPED).long().numpy()


def _cached(layer: int, done: CachedLayer, before: Assignment, left: int) -> ShownStage:
    """A layer's cache. Where text takes part, the entries of vision tokens are looked up in it."""
    step = _on_host(done.assignment)
    score = None if done.score is None else done.score.detach().cpu()
    index = done.before.token_index(torch.device("cpu"))
    if done.whole:
        entries = index.flat - done.before.pads[0]
        entry_home = torch.full((step.slot.numel(),), IN_TEXT, dtype=torch.long)
        entry_home[entries] = before.survivor
        survivor = entry_home[step.survivor]
        slot, weight = step.slot[entries], step.weight[entries]
        score = None if score is None else score[entries]
    else:
        survivor, slot, weight = before.survivor[step.survivor], step.slot, step.weight
    alive = before.slot >= 0
    at = before.slot.clamp(min=0)
    total = torch.where(alive, slot[at], DROPPED)
    share = torch.where(total >= 0, before.weight * weight[at], 0.0)
    return ShownStage(
        f"cache of layer {layer}",
        layer,
        "cache",
        _homes(total, survivor),
        share.double().numpy(),
        None if score is None else _spread(before, score),
        left,
        before.slot_counts[0],
    )
