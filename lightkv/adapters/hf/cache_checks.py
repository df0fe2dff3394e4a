"""Every refusal about caches: of models that cannot compress theirs, and of what a pass is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from lightkv.adapters.hf.cache_record import CacheRecord, text_since_images
from lightkv.adapters.hf.callers import called_by
from lightkv.adapters.hf.contact import GENERATE, cache_layers, keeps_otherwise, tells_length
from lightkv.core.cost.layers import Entry
from lightkv.core.errors import LayoutError, ModelError, SessionError
from lightkv.core.pipeline.pipeline import Pipeline

# -- of a model, or a call, whose caches cannot be compressed ---------------------------------------


def check_replaceable(model: nn.Module, config: Any, *, tuples: bool, windowed: bool) -> None:
    """Refuse a model with a stage on the cache whose entries cannot be replaced by fewer.

    Args:
        model: named in the error.
        config: of the decoder.
        tuples: whether its caches are tuples that its code hands on.
        windowed: whether any layer has a sliding window.

    Raises:
        ModelError: with the reason.
    """
    problem = None
    if tuples:
        problem = "this code keeps its cache in tuples that it hands from layer to layer itself"
    elif windowed:
        problem = "layers with a sliding window forget entries by their place, which would be wrong"
    elif getattr(config, "num_kv_shared_layers", 0):
        problem = "some layers read the keys and values of others, which must stay as they are"
    if problem is not None:
        raise ModelError(
            problem,
            field="schedule, site: cache",
            value=type(model).__name__,
            remedy="use stages between layers (after_layer)",
        )


def refuse_uncached(arguments: dict[str, Any], module: nn.Module) -> None:
    """Refuse a pass with images in which `generate` keeps no cache.

    Each of its steps would feed the whole sequence again, and compress it anew with the generated
    tokens as part of the prompt: other vision tokens might be kept at each step.

    Raises:
        SessionError: such a pass. A single pass without a cache is fine.
    """
    if arguments.get("use_cache") is False and called_by(GENERATE, module):
        raise SessionError(
            "without a cache `generate` feeds the whole sequence at each step, so each would be "
            "compressed anew, with the generated tokens as part of the prompt",
            field="use_cache",
            value=False,
            remedy="leave use_cache out (a cache is what compression makes smaller), or call the model "
            "itself for single passes without one",
        )


# -- of any cache that a pass is given --------------------------------------------------------------


def refuse_preallocated(cache: Any) -> None:
    """Raise for caches whose layers all have the same preallocated length."""
    if getattr(cache, "is_compileable", False):
        raise SessionError(
            f"{type(cache).__name__} allocates the same length in every layer, so compression "
            "would save nothing",
            field="past_key_values",
            remedy="use the default DynamicCache (leave cache_implementation unset)",
        )


def check_cache(pipeline: Pipeline, cache: Any, drafts: int) -> None:
    """Refuse caches whose entries the stage on the cache, if there is one, cannot replace by fewer.

    Args:
        pipeline: may have such a stage.
        cache: of the pass that begins.
        drafts: guesses at the end of the pass that the caller may take back.

    Raises:
        SessionError: quantised, offloaded or other special caches; drafts among the entries.
    """
    if pipeline.on_cache is None:
        return
    check_layers(cache)
    if pipeline.counts_text and drafts:
        raise SessionError(
            "drafts that are fed with the prompt may be taken back, but under scope: all they "
            "would be merged or evicted with it",
            field="schedule, scope",
            value="all",
            remedy="use scope: vision, or decode without an assistant",
        )


def check_layers(cache: Any) -> None:
    """Refuse a cache whose entries a stage on it cannot replace: quantised, offloaded, special ones.

    Raises:
        SessionError: with the class that is in the way.
    """
    strange = keeps_otherwise(cache)
    if strange is not None:
        raise SessionError(
            "a stage on the cache replaces the tensors of plain dynamic layers; this cache keeps "
            "its entries in another form",
            field="past_key_values",
            value=strange.__name__,
            remedy="use the default DynamicCache, or stages between layers",
        )
    if getattr(cache, "offloading", False):
        raise SessionError(
            "an offloaded cache moves entries away before they can be compressed",
            field="past_key_values",
            value=type(cache).__name__,
            remedy="use the default DynamicCache, or stages between layers",
        )


def check_tuples(past: Any, num_layers: int) -> None:
    """Refuse a cache that code with tuples of (key, value) cannot use.

    Raises:
        SessionError: an object instead of tuples, or another number of layers.
    """
    if not isinstance(past, tuple | list):
        raise SessionError(
            "this modelling code keeps a tuple of (key, value) for each layer and cannot use a "
            "cache object",
            field="past_key_values",
            value=type(past).__name__,
            remedy="leave past_key_values out of the first call and pass on what it returns",
        )
    if len(past) != num_layers:
        raise SessionError(
            f"the decoder has {num_layers} layers",
            field="past_key_values",
            value=len(past),
            remedy="pass on what the model returned",
        )


# -- of a cache that no session, or another one, made ------------------------------------------------


def check_made_here(cache: Any, batch: int, entries: Sequence[Entry], lengthless: int = 0) -> None:
    """Refuse a filled cache that this decoder cannot have made.

    Args:
        cache: never seen before by the session.
        batch: rows of this pass.
        entries: heads and width of the keys that each decoder layer caches; fewer heads are there
            where layers are split over devices.
        lengthless: how many of these layers have no entries.
    """
    layers = [each for each in enumerate(cache_layers(cache)) if tells_length(each[1])]
    held = {index: layer for index, layer in layers if layer.get_seq_length() > 0}
    wanted = len(entries) - lengthless
    if len(held) not in (0, wanted):
        raise SessionError(
            f"the cache has entries in {len(held)} layers, but this decoder has them in {wanted}",
            field="past_key_values",
            value=len(held),
            remedy="pass a cache that the same model filled, or none",
        )
    keys = {index: getattr(layer, "keys", None) for index, layer in held.items()}
    check_keys(keys, batch, entries)


def check_keys(
    keys: Mapping[int, torch.Tensor | None], batch: int, entries: Sequence[Entry]
) -> None:
    """The same for the keys of some layers; those that are no `[B, Hₖᵥ, K, d]` are left out."""
    for index, key in keys.items():
        if key is None or key.dim() != 4 or not key.numel():
            continue
        (rows, heads, _, size), own = key.shape, entries[index]
        if rows != batch or own.heads % heads or size != own.width:
            raise SessionError(
                f"the cache holds {rows} rows of {heads} heads of width {size} in layer {index}, but "
                f"this pass has {batch} rows of {own.heads} heads of width {own.width}",
                field="past_key_values",
                value=tuple(key.shape),
                remedy="pass a cache that the same model filled for the same rows, or none",
            )


def cache_padded_inside(row: int) -> LayoutError:
    """The error for a cache with padding between its tokens, made outside any session."""
    return LayoutError(
        "what is cached has padding between its tokens, and was made where no session could see "
        "which entries that are",
        field="attention_mask",
        value=f"row {row}",
        remedy="make all turns of the conversation inside one session, or begin a new cache",
    )


def refuse_uneven(lengths: Sequence[int]) -> None:
    """Refuse a cache that was compressed elsewhere (or copied): its masks are not known.

    Args:
        lengths: entries of each layer.
    """
    if len(set(lengths)) > 1:
        raise SessionError(
            "the layers of this cache hold different numbers of entries, and which tokens they "
            "are is known only to the session that made it",
            field="past_key_values",
            value=sorted(set(lengths)),
            remedy="continue the cache itself, not a copy, inside its own session",
        )


def compressed_elsewhere(*, copied: bool) -> SessionError:
    """The error for a cache that another session compressed, or a copy of one that any session did."""
    what = "is a copy of one that was compressed" if copied else "was compressed"
    return SessionError(
        f"this cache {what}, and which tokens its layers hold is known only to the session that made "
        "it, for the cache itself and while that session lasts",
        field="past_key_values",
        remedy="continue the cache itself inside that session (lightkv.attach keeps one open), or "
        "begin a new cache",
    )


# -- of a cache that this session knows -------------------------------------------------------------


def check_changes(record: CacheRecord, lengths: Sequence[int]) -> None:
    """Refuse what happened to a cache since its last pass, if the record cannot follow it.

    Args:
        record: of the cache, empty if the session sees it for the first time.
        lengths: entries of each layer now.

    Raises:
        SessionError: a compressed cache grew outside its session, or was cropped so that its
            layers no longer hold the same text.
    """
    if not any(record.segments):
        refuse_uneven(lengths)
    known = [record.length(layer) for layer in range(len(lengths))]
    _refuse_crop(record, [old - new for old, new in zip(known, lengths, strict=True)], any(lengths))
    for layer, (old, new) in enumerate(zip(known, lengths, strict=True)):
        if new > old and record.segments[layer]:
            raise SessionError(
                f"the cache of layer {layer} grew from {old} to {new} entries outside the session",
                field="past_key_values",
                remedy="continue a compressed cache inside the session that made it",
            )


def _refuse_crop(record: CacheRecord, cuts: Sequence[int], anything_left: bool) -> None:
    """Refuse crops after which the layers hold different parts of the sequence."""
    if max(cuts) <= 0 or not anything_left or not any(record.compressed):
        return
    if len(set(cuts)) > 1:
        raise SessionError(
            "the layers of this cache lost different numbers of entries: it was cropped layer "
            "by layer, or a forward pass on it was interrupted",
            field="past_key_values",
            value=sorted(set(cuts)),
            remedy="crop all layers at once (cache.crop(-n)), or begin a new sequence",
        )
    tails = [tail for tail in map(text_since_images, record.segments) if tail is not None]
    if tails and cuts[0] > min(tails):
        raise SessionError(
            f"a crop of {cuts[0]} entries reaches into an image, of which the layers hold "
            "different numbers of tokens",
            field="past_key_values",
            value=cuts[0],
            remedy=f"crop at most the {min(tails)} entries of text after it, or begin a new "
            "sequence",
        )


def rows_changed_places() -> SessionError:
    """The error for tuples whose rows were reordered among those of other prompts."""
    return SessionError(
        "the rows of this cache changed places, and what is known of each row cannot follow "
        "tensors that were made anew",
        field="past_key_values",
        remedy="keep the rows where they are, and reorder prompts before the prefill",
    )


def check_padding(record: CacheRecord, mask: Any, queries: int, vision: bool) -> None:
    """Refuse a later turn whose mask hides other cached entries than the turns before it did.

    Layers that were not compressed follow the caller's mask, the others the record; they must agree.

    Args:
        record: of the cache, before this pass.
        mask: `attention_mask` of the pass, looked at where it is `[B, cached + queries]`.
        queries: new positions.
        vision: whether any layer is compressed, or will be in this pass.

    Raises:
        LayoutError: with the first row that differs.
    """
    first = record.first
    past = record.length(first)
    whole = isinstance(mask, torch.Tensor) and mask.dim() == 2 and mask.shape[1] == past + queries
    if not vision or not whole or not past or record.compressed[first]:
        return
    given = mask[:, :past].detach().cpu().bool()
    known = record.valid(first, torch.device("cpu"))
    differs = ~given if known is None else given != known
    if bool(differs.any()):
        raise LayoutError(
            "this mask hides other entries of the cache than the turns before it did, so layers would "
            "see different ones",
            field="attention_mask",
            value=f"row {int(differs.any(dim=1).long().argmax())}",
            remedy="append the mask of the new turn to the masks of the turns before it, each with its "
            "own padding on the left. What was fed to rows that ended early (generate pads them) stays "
            "visible, or begin a new cache",
        )


def refuse_other_rows(record: CacheRecord | None, batch: int) -> None:
    """Raise if a compressed cache goes on with another number of rows."""
    if record is not None and any(record.compressed):
        raise SessionError(
            f"the cache was made for {len(record.removed[0])} rows, not {batch}",
            field="past_key_values",
            remedy="expand the inputs before the prefill (num_return_sequences, num_beams)",
        )


def refuse_after_first(first: int, new_turn: bool, lacks_positions: bool) -> None:
    """Raise for what a cache cannot go on with if the layer that tells its length is compressed.

    Args:
        first: that layer, the first one with entries: 0, or the one behind recurrent layers.
        new_turn: whether the pass brings several new tokens.
        lacks_positions: whether the caller left it to the model to count positions.
    """
    if lacks_positions:
        raise SessionError(
            f"layer {first} is compressed, so the model cannot tell from the cache where the next "
            "token stands",
            field="position_ids",
            remedy=f"use after_layer >= {first + 1}, or, if the model takes them, pass position_ids "
            "that count the whole prompt (generate does)",
        )
    if new_turn:
        raise SessionError(
            f"layer {first} is compressed, so transformers cannot tell which tokens of a new turn "
            "are cached already",
            field="schedule[0].after_layer",
            value=first,
            remedy=f"use after_layer >= {first + 1} to continue a chat on the same cache",
        )


def refuse_padded_state() -> None:
    """Raise for padding between what recurrent layers have seen and what they are to see next.

    Raises:
        SessionError: it would move and fade their states, which attention's masks cannot undo.
    """
    raise SessionError(
        "rows of this batch keep different numbers of vision tokens, and on a filled cache that leaves "
        "padding behind tokens that recurrent layers have seen already; their states would fade in it",
        field="batch",
        remedy="give the images of later turns in batches of one row, or of rows with equal pictures, "
        "or begin a new cache",
    )
