"""Every name that lightkv reads of transformers' shared machinery, and what it must answer.

Releases 5.19 to 5.24 were looked at. What a release calls otherwise is a line in `CONTACTS`; the rest
of the adapters reads through the functions below. A name that is missing, or that answers otherwise,
ends in a `CompatibilityError` that says which: when a session is attached, or (`selfcheck.py`) in the
first passes that it sees. Fields of one family's config are part of its checkpoint format and stand in
the file of that family.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AttentionInterface
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicLayer,
    LinearAttentionCacheLayerMixin,
    LinearAttentionLayer,
)
from transformers.image_processing_utils import select_best_resolution as select_best_resolution
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.auto import configuration_auto, modeling_auto

from lightkv.core.errors import CompatibilityError

TESTED = ("5.19", "5.24")
"""The oldest and the newest release that `make compat` was run with."""


@dataclass(frozen=True)
class Contact:
    """One thing of transformers that lightkv reads by name.

    Attributes:
        where: what has the name.
        names: what it is called, newest first.
        answers: what it must hold or do.
    """

    where: str
    names: tuple[str, ...]
    answers: str


LAYER, DECODER, OUTER = (
    "argument of decoder layers",
    "argument of the decoder",
    "argument of the model",
)
GENERATION = "method of the model"
CACHE, CACHE_LAYER, CACHE_STATE = (
    "cache",
    "layer of a cache",
    "layer of a cache with a constant state",
)
CONFIG, ATTENTION, MODULE = "config of the decoder", "attention module", "modelling file"

CACHE_NAMES = ("cache", "past_key_values")

CONTACTS = (
    Contact(LAYER, ("hidden_states",), "`[B, N, D]`, by place or by name"),
    Contact(LAYER, ("attention_mask",), "None, `[B, 1, Q, K]` or `[B, K]`, by name"),
    Contact(LAYER, ("position_embeddings",), "(cos, sin), each `[B or 1, N, d]`, by name"),
    Contact(LAYER, CACHE_NAMES, "the cache, by name; `cache` from 5.24 on"),
    Contact(ATTENTION, ("config",), "names the attention function that is called"),
    Contact(DECODER, ("inputs_embeds",), "`[B, N, D]`"),
    Contact(DECODER, ("position_ids",), "`[A, B, N]` or `[B, N]`, or None"),
    Contact(OUTER, ("input_ids",), "`[B, N]`, or None"),
    Contact(OUTER, ("attention_mask",), "`[B, N]` of the whole sequence, or None"),
    Contact(OUTER, ("mm_encoder_outputs",), "features that `generate` made, by modality"),
    Contact(CACHE, ("layers",), "a list of layers"),
    Contact(CACHE, ("get_seq_length",), "entries of a layer"),
    Contact(CACHE, ("update",), "adds entries to a layer"),
    Contact(CACHE, ("reorder_cache",), "takes rows by index"),
    Contact(CACHE, ("batch_select_indices",), "takes rows by index"),
    Contact(CACHE, ("batch_repeat_interleave",), "repeats each row"),
    Contact(CACHE, ("is_compileable",), "whether all layers are of one allocated length"),
    Contact(CACHE_LAYER, ("get_seq_length",), "entries, those that slid away included"),
    Contact(CACHE_LAYER, ("keys",), "`[B, H, K, d]`"),
    Contact(CACHE_LAYER, ("values",), "`[B, H, K, d]`"),
    Contact(CACHE_LAYER, ("is_sliding",), "whether it forgets what lies outside a window"),
    Contact(CACHE_STATE, ("conv_states",), "by number, a tensor with a row for each of the batch"),
    Contact(CACHE_STATE, ("recurrent_states",), "by number, such a tensor or None"),
    Contact(
        GENERATION, ("generate",), "the loop around passes, found by its name among the callers"
    ),
    Contact(
        GENERATION, ("_assisted_decoding",), "the loop that has drafts checked, found likewise"
    ),
    Contact(CONFIG, ("_attn_implementation",), "name of the attention function"),
    Contact(MODULE, ("eager_attention_forward",), "the eager attention function"),
)

LAYER_ARGUMENTS = {
    *("hidden_states", "attention_mask", "position_embeddings", "position_ids"),
    *("shared_kv_states", "past_key_value", *CACHE_NAMES),
}
"""Arguments of decoder layers that are no arguments of tokens, or that are replaced elsewhere."""
TOKEN_ARGUMENTS = {"per_layer_input": 1, "moe_mm_token_type_ids": 1}
"""Others that are known, where layers take them → dimension of tokens. More are found by shape."""

ROWS = ("reorder_cache", "batch_select_indices", "batch_repeat_interleave")
"""Methods of a cache that move, pick or repeat its rows."""

RECURRENT = frozenset({"linear_attention", "conv", "mamba"})
"""Kinds of decoder layers (`layer_types` of a config) whose cache is a state of constant size."""
STATE_METHODS = (
    "update_conv_state",
    "update_recurrent_state",
    "get_conv_state",
    "has_previous_state",
)
"""Methods of a cache by which such layers ask for their state, or set it, in one release or another.

From 5.23 on a layer gets it and may change it in place; before, it asks whether there is one."""

PIXELS = {"image": "pixel_values", "video": "pixel_values_videos", "audio": "input_features"}
"""Modality → argument of the outer forward with its pixels, of audio with the features of its frames."""
ENCODED = "mm_encoder_outputs"
"""Argument with features that `generate` made before the pass, by modality."""
OLDER_PIXELS = {"image_patches": "pixel_values", "pixel_values_images": "pixel_values"}
"""What Fuyu and Video-LLaVA call pixels before 5.21 → their name of today."""
OTHER_PIXELS = {
    "image_pixel_values": "pixel_values",
    "audio_input_features": "input_features",
    "input_values": "input_features",
}
"""What some models call them to this day → the name that others have."""
VISION_ARGUMENTS = (*PIXELS.values(), ENCODED)
FEATURE_METHODS = {
    "image": "get_image_features",
    "video": "get_video_features",
    "audio": "get_audio_features",
}
ENCODED_BEFORE = ("image", "video")
"""Modalities whose features `generate` makes before the pass; those of audio are made inside."""
GENERATE = "generate"
ASSISTED = "_assisted_decoding"
"""The loop of `generate` that has drafts checked."""
GATED_QUERIES = ("Qwen3_5Attention", "Qwen3_5MoeAttention", "Qwen3NextAttention")
"""Attention classes whose `q_proj` gives the query of each head and, behind it, its gate."""
FEATURES_BEHIND, FEATURES_BEFORE = "deepstack_visual_embeds", "deepstack_features"
"""Arguments of decoders: features of the tower to add behind layers 0, 1, … in a list, or before the
layers that a mapping names."""
VISION_TOWERS = ("vision_tower", "visual", "vision_model")
"""What the module that makes features of pixels is called."""
AUDIO_TOWERS = ("audio_tower",)
"""What the module that makes features of sound is called."""
ROTARY_FUNCTION = "apply_rotary_pos_emb"
INPUT_NORM = "input_layernorm"

RUNS_HOOKS_AGAIN = "__call__" in vars(GradientCheckpointingLayer)
"""Before 5.23 a layer's whole call is checkpointed, hooks included; since then its forward."""


def unexpected(what: str, *, field: str, value: object = None) -> CompatibilityError:
    """The error for something of transformers that is not as `CONTACTS` says.

    Args:
        what: what was found, one sentence without a full stop.
        field: the name that was read.
        value: what it answered.
    """
    return CompatibilityError(
        f"transformers {transformers.__version__} does not behave as lightkv knows it: {what}",
        field=field,
        value=value,
        remedy=f"use a release from {TESTED[0]} to {TESTED[1]}, for which lightkv was tested, or a "
        "newer lightkv; without one of them leave the session, the model itself is not affected",
    )


def read(thing: Any, name: str, where: str) -> Any:
    """`thing.name`.

    Raises:
        CompatibilityError: it has no such attribute.
    """
    try:
        return getattr(thing, name)
    except AttributeError:
        raise unexpected(f"{where} {type(thing).__name__} has no {name!r}", field=name) from None


def names_of(where: str) -> tuple[tuple[str, ...], ...]:
    """What each contact of a place is called, newest name first."""
    return tuple(contact.names for contact in CONTACTS if contact.where == where)


# -- arguments -------------------------------------------------------------------------------------


def taken_by(module: nn.Module) -> Mapping[str, Any]:
    """Arguments of a module's forward, read of its class: accelerate puts its own over an instance."""
    return _parameters(type(module).forward)


@functools.lru_cache(maxsize=256)
def _parameters(forward: Callable[..., Any]) -> Mapping[str, Any]:
    """Arguments of a forward: every touched layer asks in every pass, and to read them takes long."""
    return inspect.signature(forward).parameters


def needs_positions(attention: nn.Module) -> bool:
    """Whether an attention module cannot do without position ids: it scales queries by them."""
    taken = taken_by(attention).get("position_ids")
    return taken is not None and taken.default is taken.empty


def place_scale(attention: nn.Module) -> tuple[float, float] | None:
    """How an attention module without rotary positions scales queries by the places that it counts.

    Returns:
        Tokens in a step, and the weight of the logarithm of steps; None where it does no such thing.
    """
    if not getattr(attention, "attn_temperature_tuning", False):
        return None
    if read(attention, "use_rope", ATTENTION):
        return None
    step, weight = (read(attention, name, ATTENTION) for name in ("floor_scale", "attn_scale"))
    return float(step), float(weight)


def check_layer(layer: nn.Module) -> None:
    """Refuse a decoder layer whose forward does not take what a session replaces or reads.

    Raises:
        CompatibilityError: with the name of the argument.
    """
    taken = taken_by(layer)
    known = any(name in taken for names in names_of(LAYER) for name in names)
    if not known and any(p.kind is p.VAR_KEYWORD for p in taken.values()):
        return  # something stands around the layer and hands its arguments on; passes are checked
    for names in names_of(LAYER):
        if not any(name in taken for name in names):
            raise unexpected(
                f"the forward of {type(layer).__name__} takes no {names[0]!r}, but "
                f"{', '.join(taken)}",
                field=names[0],
            )


def check_arguments(module: nn.Module, names: Sequence[str]) -> None:
    """Refuse a module whose forward lacks one of the arguments that are read of it.

    Raises:
        CompatibilityError: with the name of the argument.
    """
    taken = taken_by(module)
    for name in names:
        if name not in taken:
            raise unexpected(
                f"the forward of {type(module).__name__} takes no {name!r}, but {', '.join(taken)}",
                field=name,
            )


def check_inputs(module: nn.Module) -> None:
    """Refuse a multimodal forward that takes pictures or audio under no name that is known.

    Raises:
        CompatibilityError: without pixels it would be taken for text, and nothing compressed.
    """
    check_arguments(module, ("input_ids", "attention_mask"))
    taken = taken_by(module)
    if not any(name in taken for name in (*PIXELS.values(), *OLDER_PIXELS, *OTHER_PIXELS)):
        raise unexpected(
            f"the forward of {type(module).__name__} takes pictures or audio by no name that lightkv "
            f"knows ({', '.join(PIXELS.values())}), but {', '.join(taken)}",
            field=PIXELS["image"],
        )
    makers = [FEATURE_METHODS[modality] for modality in ENCODED_BEFORE]
    if any(hasattr(module, name) for name in makers) and ENCODED not in taken:
        raise unexpected(
            f"{type(module).__name__} makes features, but its forward takes none as {ENCODED!r}",
            field=ENCODED,
        )


def check_generation(model: nn.Module) -> None:
    """Refuse a model that generates in loops of other names: callers are told apart by them.

    Raises:
        CompatibilityError: with the name.
    """
    if not callable(getattr(model, GENERATE, None)) and not hasattr(model, "generation_config"):
        return
    for (name,) in names_of(GENERATION):
        method = inspect.unwrap(read(type(model), name, "the model class"))
        if method.__code__.co_name != name:
            raise unexpected(f"{name!r} runs under another name", field=name, value=str(method))


def layer_argument(arguments: Mapping[str, Any], name: str) -> Any:
    """An argument that every call of a decoder layer has.

    Raises:
        CompatibilityError: it has not.
    """
    if name not in arguments:
        given = ", ".join(arguments)
        raise unexpected(f"decoder layers are called without {name!r}, but {given}", field=name)
    return arguments[name]


def cache_of(arguments: Mapping[str, Any]) -> Any:
    """The cache among the arguments of a layer, None where there is none.

    Raises:
        CompatibilityError: there is one, but under a name that is not known.
    """
    for name in CACHE_NAMES:
        cache = arguments.get(name)
        if cache is not None:
            return cache
    for name, value in arguments.items():
        if isinstance(value, Cache):
            raise unexpected(
                f"decoder layers are given their cache as {name!r}",
                field=CACHE_NAMES[0],
                value=name,
            )
    return None


def returned_cache(output: Any) -> Any:
    """The cache that a decoder returned, found by its type; None where there is none."""
    values = output.values() if isinstance(output, Mapping) else output
    if not isinstance(output, Mapping | tuple | list):
        return None
    return next((value for value in values if isinstance(value, Cache)), None)


# -- model types -----------------------------------------------------------------------------------

MULTIMODAL = ("MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES")
"""What transformers calls its tables of model types that take pictures or sound and give text."""


def multimodal_types() -> dict[str, str]:
    """Model type → name of its class, for all that take pictures or sound and give text.

    Raises:
        CompatibilityError: the tables have other names.
    """
    found: dict[str, str] = {}
    for name in reversed(MULTIMODAL):
        found.update(read(modeling_auto, name, "the module"))
    return dict(sorted(found.items()))


def has_class(name: str) -> bool:
    """Whether the installed transformers has a class of that name."""
    return hasattr(transformers, name)


def empty_model(model_type: str) -> nn.Module:
    """A model of a type with the sizes of its default config, on the meta device: without weights.

    Raises:
        Exception: whatever transformers raises where a default config makes no model, or where a
            package is missing.
    """
    names = read(configuration_auto, "CONFIG_MAPPING_NAMES", "the module")
    return model_of(getattr(transformers, names[model_type])())


def model_of(config: Any) -> nn.Module:
    """The model of a multimodal config, on the meta device.

    Raises:
        Exception: whatever transformers raises where the config makes no model.
    """
    with torch.device("meta"):
        model: nn.Module = getattr(transformers, multimodal_types()[config.model_type])(config)
    return model


# -- caches ----------------------------------------------------------------------------------------


def check_cache(cache: Any) -> None:
    """Refuse a cache of transformers that lacks what a session reads of it.

    Raises:
        CompatibilityError: with the name of the attribute.
    """
    if not isinstance(cache, Cache):
        return
    for names in names_of(CACHE):
        read(cache, names[0], "the cache")
    for layer in cache_layers(cache):
        # What is neither stands for a layer that reads the entries of another.
        where = CACHE_LAYER if tells_length(layer) else CACHE_STATE if keeps_state(layer) else None
        for names in () if where is None else names_of(where):
            read(layer, names[0], "the cache layer")


def cache_layers(cache: Any) -> Sequence[Any]:
    """The layers of a cache, none where it is no object of transformers (a tuple's stand-in)."""
    if isinstance(cache, Cache):
        return read(cache, "layers", "the cache")  # type: ignore[no-any-return]
    return getattr(cache, "layers", ())


def tells_length(layer: Any) -> bool:
    """Whether a layer of a cache has entries, and says how many."""
    return isinstance(layer, CacheLayerMixin)


def keeps_state(layer: Any) -> bool:
    """Whether a layer of a cache has a state of constant size instead of entries."""
    return isinstance(layer, LinearAttentionCacheLayerMixin) and not tells_length(layer)


def slides(layer: Any) -> bool:
    """Whether a layer of a cache forgets what lies outside a window."""
    return tells_length(layer) and bool(read(layer, "is_sliding", "the cache layer"))


def plain_layer(layer: Any) -> bool:
    """Whether a layer of a cache keeps its entries as plain growing tensors, or has no entries."""
    return type(layer) in (DynamicLayer, LinearAttentionLayer)


def keeps_otherwise(cache: Any) -> Any:
    """A layer, or the class of layers to come, that keeps entries in another form; else None."""
    strange = next((layer for layer in cache_layers(cache) if not plain_layer(layer)), None)
    if strange is not None:
        return type(strange)
    lazy = getattr(cache, "layer_class_to_replicate", None)
    return lazy if lazy is not None and lazy is not DynamicLayer else None


def held_bytes(layer: Any) -> int:
    """Bytes of all tensors in which a layer of a cache holds its entries or its state, quantised too."""
    held = [vars(layer).get(name) for name in ("keys", "values", *QUANTISED, *STATES)]
    return sum(_bytes(each) for each in held)


def held_entries(layer: Any) -> int:
    """Entries whose tensors a layer of a cache holds; what slid out of its window is none of them.

    0 where it holds a state of constant size.
    """
    if not tells_length(layer):
        return 0
    keys = read(layer, "keys", "the cache layer")
    if slides(layer):
        return 0 if keys is None else int(keys.shape[-2])
    return int(read(layer, "get_seq_length", "the cache layer")())


QUANTISED = ("_quantized_keys", "_quantized_values")
STATES = ("conv_states", "recurrent_states")


def _bytes(held: Any) -> int:
    if isinstance(held, torch.Tensor):
        if hasattr(held, "__tensor_flatten__"):  # a tensor that is made of others
            return sum(_bytes(getattr(held, name)) for name in held.__tensor_flatten__()[0])
        return held.nbytes
    if isinstance(held, Mapping):
        return sum(map(_bytes, held.values()))
    return sum(map(_bytes, held)) if isinstance(held, tuple | list) else 0


# -- experts ---------------------------------------------------------------------------------------


def run_experts_by_shape(model: nn.Module) -> None:
    """Let experts, if a model has any, compute in shapes that are known without the router's choice.

    Each token's experts are then products of their own, which torch counts; grouped ones it does not.
    """
    choose = getattr(model, "set_experts_implementation", None)
    if choose is None:
        return
    try:
        choose("batched_mm")
    except ValueError:
        return  # none of its classes can choose


# -- attention -------------------------------------------------------------------------------------


def attention_implementation(config: Any) -> str | None:
    """Name of the attention implementation that a decoder uses.

    Raises:
        CompatibilityError: its config does not say.
    """
    return read(config, "_attn_implementation", "the config")  # type: ignore[no-any-return]


def config_with(config: Any, implementation: str) -> Any:
    """A shallow copy of a config that names another attention function."""
    other = copy.copy(config)
    # Not through the property: its setter would also reach the sub-configs of a shared object.
    other._attn_implementation_internal = implementation
    if attention_implementation(other) != implementation:
        raise unexpected(
            "a config that is told to use another attention function does not",
            field="_attn_implementation_internal",
            value=attention_implementation(other),
        )
    return other


def register_attention(name: str, function: Callable[..., Any]) -> None:
    """Make an attention function known by name. Once, for the whole process."""
    AttentionInterface.register(name, function)


def attention_function(module: nn.Module, implementation: str) -> Callable[..., Any]:
    """The function that a module with that implementation calls."""
    files = (sys.modules.get(kind.__module__) for kind in type(module).__mro__)
    eager = next((f for f in map(_eager, files) if f is not None), None)
    if eager is None and implementation == "eager":
        raise unexpected(
            f"no file that defines {type(module).__name__} has an {EAGER!r}", field=EAGER
        )
    return ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager)  # type: ignore[no-any-return]


EAGER = "eager_attention_forward"


def _eager(file: Any) -> Any:
    return getattr(file, EAGER, None)


def mask_function(implementation: str) -> Any:
    """What makes the masks of an attention implementation, None where nothing is registered."""
    made: Any = ALL_MASK_ATTENTION_FUNCTIONS
    return made.get(implementation)


def rotary_function(attention: nn.Module) -> Callable[..., Any] | None:
    """The rotary function of the file that defines an attention class, None where there is none."""
    return getattr(_file_of(attention), ROTARY_FUNCTION, None)


SLIDING_TURNS = ("cohere2",)
"""Decoders that are given rotary tables in all layers, and use them in sliding ones only."""


def turns_queries(attention: nn.Module) -> bool:
    """Whether an attention module uses the rotary tables that it is given."""
    kind = getattr(getattr(attention, "config", None), "model_type", None)
    slides = getattr(attention, "sliding_window", None) is not None
    return bool(getattr(attention, "use_rope", True)) and (kind not in SLIDING_TURNS or slides)


def _file_of(module: nn.Module) -> Any:
    return sys.modules[type(module).__module__]
