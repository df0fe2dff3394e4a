"""A stage without a model: `compress_stage`."""

from __future__ import annotations

import torch

from lightkv.core.attention import AttentionView, QueryKeyView, TensorView
from lightkv.core.contracts import EmbeddingsInput, StageContext
from lightkv.core.encoder import VisionView
from lightkv.core.errors import ConfigError, LayoutError
from lightkv.core.layout import VisionLayout
from lightkv.core.needs import Need
from lightkv.core.numerics import check_finite as _check_finite
from lightkv.core.numerics import exact
from lightkv.core.prompt import prompt_index
from lightkv.core.stage.checks import Checks, blamed
from lightkv.core.stage.stage import Readings, Stage, reads_embeddings
from lightkv.core.stage.step import StageResult, run_stage


def compress_stage(
    hidden_states: torch.Tensor,
    layout: VisionLayout,
    stage: Stage,
    *,
    attention_logits: torch.Tensor | None = None,
    query: torch.Tensor | None = None,
    key: torch.Tensor | None = None,
    last_row: torch.Tensor | None = None,
    scaling: float | None = None,
    size: torch.Tensor | None = None,
    context: StageContext | None = None,
    vision: VisionView | None = None,
    embeddings: torch.Tensor | None = None,
    check_finite: bool = True,
) -> StageResult:
    """Compress the vision tokens of hidden states once, as a pure function.

    Args:
        hidden_states: `[B, N, D]`.
        layout: where the vision tokens are, such as `VisionLayout.from_spans([[(5, (1, 24, 24))]])`.
        stage: components and ratio, such as `Stage.preset("lightkv", windows=4, ratio=0.5)`.
        attention_logits: `[B, H, N, P]` scaled logits before the mask, all tokens as queries and the
            P non-vision tokens as keys, in sequence order (rows with fewer are padded at the end).
        query, key: `[B, H, N, d]` and `[B, Hₖᵥ, N, d]` after rotary embedding, instead.
        last_row: `[B, H, N]` attention probabilities of the last token, for scorers that need it.
        scaling: factor of the logits of query and key, d^−½ by default.
        size: `[V]` original tokens that each vision token holds already.
        context: number of run and stage, for seeded components.
        vision: the encoder's view of the tokens, for components that read it.
        embeddings: `[B, N, D]` what entered the decoder, for scorers that start there;
            `hidden_states` if None.
        check_finite: refuse NaN and infinity, in importances too (reads values on the host). With False
            they spread to the slots that they flow into and nowhere else. Then what components return is
            looked at on a CPU only: survivors that are too many or too few, importances below 0.

    Raises:
        LayoutError: spans that do not fit the sequence.
        ConfigError: attention that the stage needs was not given or has the wrong shape, or a component
            returned what its role does not allow.
        NumericError: NaN or infinite values, or importances below 0.
    """
    if hidden_states.dim() != 3 or hidden_states.shape[0] != layout.batch_size:
        raise LayoutError(
            f"hidden states [B, N, D] for {layout.batch_size} samples are needed",
            field="hidden_states",
            value=tuple(hidden_states.shape),
            remedy="the layout has one entry for each row of the batch",
        )
    layout = layout.with_length(hidden_states.shape[1])
    if check_finite:
        _check_finite("hidden_states", hidden_states)
        for name, tensor in (
            ("attention_logits", attention_logits),
            ("query", query),
            ("key", key),
            ("last_row", last_row),
        ):
            _check_finite(name, tensor)
    tokens = sum(layout.vision_counts)
    if size is not None and size.shape != (tokens,):
        raise ConfigError(
            f"the layout has {tokens} vision tokens",
            field="size",
            value=tuple(size.shape),
            remedy="give one number for each vision token, sample after sample",
        )
    view = _attention_view(layout, hidden_states, attention_logits, query, key, last_row, scaling)
    if stage.scorer is not None and reads_embeddings(stage.scorer):
        with exact(), blamed(stage.scorer, "read_embeddings"):
            view.from_embeddings = stage.scorer.read_embeddings(
                EmbeddingsInput.of(hidden_states if embeddings is None else embeddings, layout)
            )
    readings = Readings().with_call(stage, view).with_encoder(stage, vision)
    if check_finite:
        _check_finite("guidance", readings.scorer_attention)
        _check_finite("metric", readings.matcher_attention)
    plan = stage.plan(layout).to(hidden_states.device)
    return run_stage(
        hidden_states,
        layout,
        stage,
        plan,
        readings=readings,
        size=size,
        context=context,
        checks=Checks(waits=check_finite, finite=check_finite),
    )


def _attention_view(
    layout: VisionLayout,
    hidden_states: torch.Tensor,
    attention_logits: torch.Tensor | None,
    query: torch.Tensor | None,
    key: torch.Tensor | None,
    last_row: torch.Tensor | None,
    scaling: float | None,
) -> AttentionView:
    prompt = prompt_index(layout, hidden_states.device)
    batch, length = hidden_states.shape[:2]
    if query is not None and key is not None:
        for name, tensor in (("query", query), ("key", key)):
            _expect(name, tensor, (batch, None, length, None))
        if query.shape[1] % key.shape[1] or query.shape[-1] != key.shape[-1]:
            raise ConfigError(
                f"{query.shape[1]} query heads of width {query.shape[-1]} do not share key heads of "
                f"width {key.shape[-1]} evenly",
                field="key",
                value=tuple(key.shape),
                remedy="the number of query heads is a multiple of the number of key heads, and "
                "their widths are equal",
            )
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return QueryKeyView(query, key, scale, prompt)
    tensors = {}
    if attention_logits is not None:
        width = prompt.index.shape[1]
        _expect("attention_logits", attention_logits, (batch, None, length, width))
        tensors[Need.PROMPT_LOGITS] = attention_logits
    if last_row is not None:
        _expect("last_row", last_row, (batch, None, length))
        tensors[Need.LAST_ROW] = last_row
    if key is not None:
        _expect("key", key, (batch, None, length, None))
        tensors[Need.KEYS] = key
    return TensorView(prompt, tensors)


def _expect(name: str, tensor: torch.Tensor, shape: tuple[int | None, ...]) -> None:
    fits = tensor.dim() == len(shape) and all(
        want is None or have == want for have, want in zip(tensor.shape, shape, strict=False)
    )
    if not fits:
        wanted = ", ".join("?" if side is None else str(side) for side in shape)
        raise ConfigError(
            f"the layout asks for shape [{wanted}]",
            field=name,
            value=tuple(tensor.shape),
            remedy="P is the number of non-vision tokens of the longest row",
        )
