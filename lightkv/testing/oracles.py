"""What a compressed model is compared with: the model under masks, on fewer tokens, and before."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from lightkv.core.needs import Needs, Source, needs_from
from lightkv.core.plugins import get_preset
from lightkv.core.run.report import RunReport
from lightkv.core.stage.cache_entries import CachedLayer
from lightkv.core.stage.stage import Stage

Kwargs = dict[str, Any]
_with_kwargs: Callable[..., Any] = partial(nn.Module.register_forward_pre_hook, with_kwargs=True)


def stored_by_layer(
    vision: torch.Tensor, valid: torch.Tensor, report: RunReport
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Per layer `[B, N]` which positions of a prompt the layer saw, and which it stored.

    Args:
        vision: `[B, N]` true at the vision tokens.
        valid: `[B, N]` false at padding.
        report: of the traced prefill.
    """
    assert report.trace is not None
    assert report.after_layers is not None
    assert report.cache_trace is not None
    stages = dict(zip(report.after_layers, report.trace, strict=True))
    places = torch.nonzero(vision.flatten()).flatten()
    alive, seen, stored = torch.ones_like(vision), [], []
    for layer, done in enumerate(report.cache_trace):
        if layer in stages:
            places = places[stages[layer].survivor.to(places.device)]
            alive = ~vision
            alive.view(-1)[places] = True
        seen.append(alive)
        stored.append(alive if done is None else _left(alive & valid, done))
    return seen, stored


def _left(seen: torch.Tensor, done: CachedLayer) -> torch.Tensor:
    """`[B, N]` which of the positions that a layer saw are left in its cache."""
    left = torch.zeros_like(seen)
    real, kept = done.layout.valid_mask(), done.kept.to(seen.device)
    for row in range(seen.shape[0]):
        # The layer's own sequence lists what it saw in order, behind its padding.
        places = torch.nonzero(seen[row]).flatten()
        left[row, places[kept[row][real[row]] - done.before.pads[row]]] = True
    return left


def causal_mask(length: int) -> torch.Tensor:
    """`[N, N]` true where a row may see a column."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def windowed(mask: torch.Tensor, window: int | None) -> torch.Tensor:
    """A mask `[…, N, N]` without the columns that lie `window` or more before the row."""
    if window is None:
        return mask
    places = torch.arange(mask.shape[-1])
    return mask & (places[:, None] - places[None] < window)


@contextmanager
def masked_layers(
    layers: Sequence[nn.Module], masks: Sequence[torch.Tensor], valid: torch.Tensor, *, eager: bool
) -> Iterator[None]:
    """Hide key columns from attention in each layer; nothing is removed.

    Args:
        layers: the decoder layers.
        masks: per layer `[B or 1, N, N]` true where a row may see a column.
        valid: `[B, N]` false at padding.
        eager: whether attention takes float masks.
    """
    itself = torch.eye(valid.shape[1], dtype=torch.bool)

    def replace(mask: torch.Tensor, module: nn.Module, args: Any, kwargs: Kwargs) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        given = mask
        if eager:
            lowest = torch.finfo(hidden.dtype).min
            given = torch.zeros(mask.shape, dtype=hidden.dtype).masked_fill(~mask, lowest)
        return args, {**kwargs, "attention_mask": given.to(hidden.device)}

    with ExitStack() as stack:
        for layer, seen in zip(layers, masks, strict=True):
            # Rows of dropped tokens see themselves, or their softmax would be over nothing.
            mask = (seen[:, None] & valid[:, None, None, :]) | itself
            handle = _with_kwargs(layer, partial(replace, mask))
            stack.callback(handle.remove)
        yield


@contextmanager
def shortened_layers(
    layers: Sequence[nn.Module],
    masks: Sequence[torch.Tensor],
    alive: Sequence[torch.Tensor],
    *,
    eager: bool,
    recurrent: Collection[int] = (),
) -> Iterator[None]:
    """Run each layer on the tokens that are left there, as if the others had never been.

    For a pass of one row without padding and without a cache.

    Args:
        layers: the decoder layers.
        masks: per layer `[1, N, N]` true where a row may see a column.
        alive: per layer `[N]` true at the tokens that it sees; what is gone stays gone.
        eager: whether attention takes float masks.
        recurrent: layers that take no such masks.
    """

    def replace(number: int, module: nn.Module, args: Any, kwargs: Kwargs) -> Any:
        hidden = args[0] if args else kwargs["hidden_states"]
        here = alive[number]
        before = alive[number - 1] if number else torch.ones_like(here)
        assert bool((before | ~here).all()), "a token came back"
        given, places = dict(kwargs), torch.nonzero(here).flatten()
        given["attention_mask"] = None
        if number not in recurrent:
            given["attention_mask"] = _cut(masks[number], places, hidden.dtype, eager=eager)
        given["position_ids"] = None
        # The decoder hands tables of all tokens to each of its layers, or none.
        tables = kwargs["position_embeddings"]
        given["position_embeddings"] = tables and tuple(table[:, places] for table in tables)
        hidden = hidden[:, here[before]]
        if args:
            return (hidden, *args[1:]), given
        return args, {**given, "hidden_states": hidden}

    with ExitStack() as stack:
        for number, layer in enumerate(layers):
            stack.callback(_with_kwargs(layer, partial(replace, number)).remove)
        yield


def _cut(
    mask: torch.Tensor, places: torch.Tensor, dtype: torch.dtype, *, eager: bool
) -> torch.Tensor | None:
    """`[1, 1, n, n]` rows and columns of `[1, N, N]`, None where attention makes the same itself."""
    seen = mask[:, places][:, :, places][:, None]
    if eager:
        lowest = torch.finfo(dtype).min
        return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, lowest)
    return None if torch.equal(seen[0, 0], causal_mask(len(places))) else seen


@dataclass
class Recorder:
    """Positions that reach the decoder and rotary tables that reach one layer, pass by pass."""

    position_ids: list[torch.Tensor] = field(default_factory=list)
    rotary: list[tuple[torch.Tensor, ...]] = field(default_factory=list)

    @classmethod
    @contextmanager
    def on(cls, decoder: nn.Module, layer: nn.Module) -> Iterator[Recorder]:
        """Record while the block runs. Open it inside a session to see what compression made."""
        recorder = cls()

        def ids(module: nn.Module, args: Any, kwargs: Kwargs) -> None:
            given = kwargs.get("position_ids")
            if given is None and (tokens := kwargs.get("inputs_embeds")) is not None:
                # The decoder counts what it was fed, padding included.
                fed = sum(each.shape[-1] for each in recorder.position_ids)
                given = torch.arange(fed, fed + tokens.shape[1], device=tokens.device)[None]
            if given is not None:
                recorder.position_ids.append(given.clone())

        def tables(module: nn.Module, args: Any, kwargs: Kwargs) -> None:
            given = kwargs["position_embeddings"]
            given = (given,) if isinstance(given, torch.Tensor) else given
            recorder.rotary.append(tuple(table.clone() for table in given or ()))

        handles = [_with_kwargs(decoder, ids), _with_kwargs(layer, tables)]
        try:
            yield recorder
        finally:
            for handle in handles:
                handle.remove()

    def all_position_ids(self, batch: int) -> torch.Tensor:
        """`[…, B, N + steps]` of all passes in a row."""
        parts = [ids.expand(*ids.shape[:-2], batch, -1) for ids in self.position_ids]
        return torch.cat(parts, dim=-1)


def reaching(layer: nn.Module, run: Callable[[], Any]) -> torch.Tensor:
    """`[B, N, D]` what reaches a layer while `run` runs, after the hooks that are there already."""
    seen: list[torch.Tensor] = []

    def look(module: nn.Module, args: Any, kwargs: Kwargs) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"]).detach().clone())

    handle = _with_kwargs(layer, look)
    try:
        with torch.no_grad():
            run()
    finally:
        handle.remove()
    return seen[0]


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything that a session may change in a model and must put back."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    state: dict[str, Any] = {}
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        state[name] = (
            [len(value) for key, value in vars(module).items() if key.endswith("_hooks")],
            sorted(vars(module)),
            getattr(vars(module).get("forward"), "__qualname__", None),
            id(config),
            getattr(config, "_attn_implementation", None),
            sorted(vars(config)) if config is not None else None,
        )
    names = list(ALL_ATTENTION_FUNCTIONS.valid_keys())
    state["attention functions"] = {name: id(ALL_ATTENTION_FUNCTIONS[name]) for name in names}
    return state


def encoder_needs(pipeline: str) -> Needs:
    """What a preset reads of the vision encoder."""
    return needs_from(Stage.preset(pipeline, ratio=0.0, windows=2).needs, Source.ENCODER)


def reads_next_layer(pipeline: str) -> bool:
    """Whether a preset reads the attention of the layer after the stage."""
    needs = Stage.preset(pipeline, ratio=0.0, windows=2).needs
    return bool(needs_from(needs, Source.NEXT_LAYER))


def on_cache(pipeline: str) -> bool:
    """Whether a preset has a stage on the cache."""
    schedule = get_preset(pipeline).schedule
    if isinstance(schedule, tuple):
        return any(stage.site == "cache" for stage in schedule)
    return schedule.site == "cache"


def joined(first: torch.Tensor, later: torch.Tensor, axis: int) -> torch.Tensor:
    """Concatenation along an axis; the other axes are filled up with zeros where they differ."""
    sizes = [max(pair) for pair in zip(first.shape, later.shape, strict=True)]
    parts = []
    for tensor in (first, later):
        want = [
            own if n == axis else size
            for n, (own, size) in enumerate(zip(tensor.shape, sizes, strict=True))
        ]
        filled = tensor.new_zeros(want)
        filled[tuple(slice(size) for size in tensor.shape)] = tensor
        parts.append(filled)
    return torch.cat(parts, dim=axis)
