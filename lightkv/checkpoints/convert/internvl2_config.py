"""The config of an InternVL2 checkpoint, read field by field, as that of the native class.

A field either is mapped, or is known to change nothing, or is refused by name: what a config says and
nobody reads could be what the answers hang on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightkv.checkpoints.convert.internvl2_names import INTERNLM2_NAMES, KEPT_NAMES, Names
from lightkv.core.errors import ModelError, file_errors

DECODERS = {
    "InternLM2ForCausalLM": "llama",
    "LlamaForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
}
"""Class of the decoder in the checkpoint → `model_type` of its text config in the native one."""

_ROTARY = {"linear", "dynamic"}
_INTERNLM2 = {
    "rope_theta": 10000,
    "rms_norm_eps": 1e-6,
    "bias": True,
    "max_position_embeddings": 2048,
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
"""Fields of InternLM2 and what its own config class takes where they are not written."""
_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
_HEADS = ("num_attention_heads", "num_key_value_heads")
_TEXT = (
    *_SIZES,
    *_HEADS,
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "rope_theta",
    "rope_scaling",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "tie_word_embeddings",
    "use_cache",
)
_LLAMA = ("attention_bias", "mlp_bias")
_QWEN2 = ("use_sliding_window", "sliding_window", "max_window_layers")

_VISION = {
    "hidden_size": ("hidden_size", 3200),
    "intermediate_size": ("intermediate_size", 12800),
    "num_hidden_layers": ("num_hidden_layers", 48),
    "num_attention_heads": ("num_attention_heads", 25),
    "num_channels": ("num_channels", 3),
    "image_size": ("image_size", 224),
    "patch_size": ("patch_size", 14),
    "hidden_act": ("hidden_act", "gelu"),
    "norm_type": ("norm_type", "rms_norm"),
    "layer_norm_eps": ("layer_norm_eps", 1e-6),
    "qk_normalization": ("use_qk_norm", True),
    "qkv_bias": ("attention_bias", False),
    "dropout": ("hidden_dropout_prob", 0.0),
    "attention_dropout": ("attention_dropout", 0.0),
    "initializer_range": ("initializer_range", 0.02),
    "initializer_factor": ("layer_scale_init_value", 0.1),
}
"""Field of the tower → name in the native class, and the default of its own config class."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Written by transformers 4 into every config, whatever the model: defaults of `generate`, labels of
# classifiers, where a file came from, how attention is computed. None changes what is computed.
_INERT = _words(
    """_attn_implementation_autoset _commit_hash _name_or_path add_cross_attention architectures
    attn_implementation auto_map bad_words_ids begin_suppress_tokens bos_token_id
    chunk_size_feed_forward cross_attention_hidden_size decoder_start_token_id diversity_penalty
    do_sample dtype early_stopping encoder_no_repeat_ngram_size eos_token_id
    exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    id2label is_decoder is_encoder_decoder keys_to_ignore_at_inference label2id length_penalty
    max_length min_length model_type no_repeat_ngram_size num_beam_groups num_beams
    num_return_sequences output_attentions output_hidden_states output_scores pad_token_id prefix
    pretraining_tp problem_type remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params temperature
    tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p torch_dtype torchscript
    transformers_version typical_p use_bfloat16 use_cache use_fa3 use_flash_attn"""
)
# Of a mixture of experts that the published towers can be trained with: read only with `use_moe`.
_EXPERTS = _words(
    """capacity_factor eval_capacity_factor laux_allreduce moe_coeff_ratio moe_intermediate_size
    moe_output_scale noisy_gate_policy num_experts num_routed_experts num_shared_experts
    shared_expert_intermediate_size use_residual use_rts use_weighted_residual"""
)
# Regularisation in training: `drop_path_rate` is nothing when a model answers.
_TRAINING = frozenset({"drop_path_rate", "initializer_factor", "rope_pos_id_stride"})
_OUTER = _words(
    """downsample_ratio dynamic_image_size force_image_size hidden_size llm_config max_dynamic_patch
    min_dynamic_patch ps_version select_layer template tie_word_embeddings use_thumbnail
    vision_config system_message"""
)
_MUST = {
    "pad2square": (False, "pictures are padded to squares before they are cut"),
    "use_backbone_lora": (0, "weights of LoRA in the tower are not merged"),
    "use_llm_lora": (0, "weights of LoRA in the decoder are not merged"),
    "use_moe": (False, "the tower is a mixture of experts"),
    "rope_pos_id_version": ("default", "vision tokens take positions of fractions (V2PE)"),
    "quantization_config": (None, "the weights are quantised"),
    "pruned_heads": ({}, "heads were pruned"),
}
"""Field → the only value that the native class can do, and what another one means."""


@dataclass(frozen=True)
class Plan:
    """What a config asks for.

    Attributes:
        native: the fields of the native config, without the id of the placeholder.
        names: of the checkpoint's tensors.
        tied: whether the output layer is the embedding, and not in the checkpoint.
        tile: side of a tile in pixels.
        tiles: smallest and largest number of tiles that a picture is cut into.
        template: name of the conversation's template.
        dtype: of the weights, as the config says.
    """

    native: dict[str, Any]
    names: Names
    tied: bool
    tile: int
    tiles: tuple[int, int]
    template: str | None
    dtype: str | None
    system_message: str | None = None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: there is no such file, or something else is in it.
    """
    if not path.is_file():
        raise ModelError(
            f"the checkpoint has no {path.name}",
            field="checkpoint",
            value=str(path.parent),
            remedy="download the whole repository of the model: hf download REPOSITORY --local-dir "
            "FOLDER",
        )
    errors = (OSError, ValueError)  # what is no JSON, and what is no text, are values
    with file_errors(
        ModelError, f"read {path.name}", "checkpoint", path, "get this file again", errors
    ):
        found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ModelError(
            f"{path.name} holds no object",
            field="checkpoint",
            value=str(path),
            remedy="get this file again",
        )
    return found


def plan_of(config: Mapping[str, Any], ignored: Sequence[str] = ()) -> Plan:
    """What the config of an InternVL2 checkpoint asks for, in the words of the native class.

    Args:
        config: of `config.json`.
        ignored: fields that the user knows to change nothing.

    Raises:
        ModelError: another model, or a field that the native class cannot do or that is not known.
    """
    _refuse_other_model(config)
    text, vision = config.get("llm_config") or {}, config.get("vision_config") or {}
    kind = (text.get("architectures") or [None])[0]
    if kind not in DECODERS:
        raise ModelError(
            f"its decoder is {kind}",
            field="config.llm_config.architectures",
            value=kind,
            remedy=f"convert a checkpoint with one of {', '.join(DECODERS)}",
        )
    of_text = (*_TEXT, *_LLAMA, *_QWEN2, "bias")
    _refuse_unknown("config", config, _OUTER, ignored)
    _refuse_unknown("config.llm_config", text, frozenset(of_text), ignored)
    _refuse_unknown("config.vision_config", vision, frozenset(_VISION) | _EXPERTS, ignored)
    _refuse_pixel_shuffle(config)
    decoder = _text_config(kind, text)
    tower = _vision_config(vision)
    tile = int(config.get("force_image_size") or tower["image_size"])
    ratio = float(config.get("downsample_ratio", 0.5))
    native = {
        "vision_config": tower,
        "text_config": decoder,
        "downsample_ratio": ratio,
        "image_seq_length": int((tile // tower["patch_size"]) ** 2 * ratio**2),
        "vision_feature_layer": int(config.get("select_layer", -1)),
        "vision_feature_select_strategy": "default",
        "projector_hidden_act": "gelu",
    }
    heads = decoder["num_attention_heads"]
    names = INTERNLM2_NAMES if kind == "InternLM2ForCausalLM" else KEPT_NAMES
    return Plan(
        native=native,
        names=Names(names, heads, decoder["num_key_value_heads"]),
        tied=bool(text.get("tie_word_embeddings", False)),
        tile=tile,
        tiles=_tiles(config),
        template=config.get("template"),
        dtype=config.get("torch_dtype") or config.get("dtype"),
        system_message=config.get("system_message"),
    )


def _refuse_other_model(config: Mapping[str, Any]) -> None:
    if "InternVLForConditionalGeneration" in (config.get("architectures") or ()):
        raise ModelError(
            "this checkpoint is in the native form already",
            field="config.architectures",
            value=config["architectures"],
            remedy="load it with transformers as it is",
        )
    if config.get("model_type") != "internvl_chat":
        raise ModelError(
            "this is no checkpoint of InternVLChatModel",
            field="config.model_type",
            value=config.get("model_type"),
            remedy="give the folder of an InternVL2 or InternVL2.5 checkpoint of OpenGVLab",
        )


def _refuse_unknown(
    where: str, config: Mapping[str, Any], known: frozenset[str], ignored: Sequence[str]
) -> None:
    for name, (wanted, meaning) in _MUST.items():
        if config.get(name, wanted) not in (wanted, None) and name not in ignored:
            raise ModelError(
                f"the native class cannot do this: {meaning}",
                field=f"{where}.{name}",
                value=config[name],
                remedy="convert a checkpoint without it"
                + (", or merge the weights first" if "lora" in name else ""),
            )
    others = set(config) - known - _INERT - _TRAINING - set(_MUST) - set(ignored)
    for name in sorted(others):
        if config[name]:  # None, 0, false and nothing in it: a switch that is off
            raise ModelError(
                "nobody knows whether this field of the config changes what is computed",
                field=f"{where}.{name}",
                value=config[name],
                remedy=f"if it does not, convert with --ignore-field {name}",
            )


def _refuse_pixel_shuffle(config: Mapping[str, Any]) -> None:
    version = config.get("ps_version", "v1")
    if version != "v2":
        raise ModelError(
            "pixel shuffle v1 leaves the rows and columns of each tile exchanged: its tokens come "
            "column by column, those of the native class row by row, and no weight says in which order "
            "tokens come",
            field="config.ps_version",
            value=version,
            remedy="run this checkpoint in its own code (adapter internvl_chat, docs/models.md)",
        )


def _text_config(kind: str, text: Mapping[str, Any]) -> dict[str, Any]:
    taken = {name: text[name] for name in _TEXT if text.get(name) is not None}
    for name in (*_SIZES, "num_attention_heads"):
        if name not in taken:
            raise ModelError(
                "the config does not say this size",
                field=f"config.llm_config.{name}",
                remedy="get config.json again",
            )
    if kind == "InternLM2ForCausalLM":
        taken = {**_INTERNLM2, **taken}
        taken["attention_bias"] = taken.pop("bias") if "bias" not in text else bool(text["bias"])
        taken.pop("bias", None)
    extra = {"LlamaForCausalLM": _LLAMA, "Qwen2ForCausalLM": _QWEN2}.get(kind, ())
    taken |= {name: text[name] for name in extra if text.get(name) is not None}
    heads = taken["num_attention_heads"]
    kv_heads = taken.setdefault("num_key_value_heads", heads)
    if heads % kv_heads or taken["hidden_size"] % heads:
        raise ModelError(
            f"{heads} query heads and {kv_heads} key heads of {taken['hidden_size']} channels do not "
            "go into one another",
            field="config.llm_config.num_attention_heads",
            value=heads,
            remedy="get config.json again",
        )
    taken["rope_parameters"] = _rotary(kind, taken.pop("rope_scaling", None), taken)
    taken["tie_word_embeddings"] = False
    return {"model_type": DECODERS[kind], **taken}


def _rotary(kind: str, scaling: Any, taken: dict[str, Any]) -> dict[str, Any]:
    """Rotary scaling as transformers 5 writes it; both have the same formulas."""
    theta = float(taken.pop("rope_theta", 10000.0))
    if scaling is None:
        return {"rope_type": "default", "rope_theta": theta}
    name = scaling.get("rope_type") or scaling.get("type")
    if kind == "InternLM2ForCausalLM" and name not in _ROTARY:
        raise ModelError(
            "InternLM2 knows no such rotary scaling",
            field="config.llm_config.rope_scaling",
            value=scaling,
            remedy=f"one of {', '.join(sorted(_ROTARY))} with a factor",
        )
    rest = {key: value for key, value in scaling.items() if key not in ("type", "rope_type")}
    return {"rope_type": name, "rope_theta": theta, **rest}


def _vision_config(vision: Mapping[str, Any]) -> dict[str, Any]:
    out = {}
    for name, (new, default) in _VISION.items():
        value = vision.get(name)
        out[new] = default if value is None else value
    if out["norm_type"] not in ("layer_norm", "rms_norm"):
        raise ModelError(
            "the native tower has no such norm",
            field="config.vision_config.norm_type",
            value=out["norm_type"],
            remedy="layer_norm and rms_norm are known",
        )
    if out["use_qk_norm"] and out["layer_norm_eps"] != 1e-6:
        raise ModelError(
            "the native tower normalises queries and keys with an epsilon of 1e-6",
            field="config.vision_config.layer_norm_eps",
            value=out["layer_norm_eps"],
            remedy="run this checkpoint in its own code (adapter internvl_chat, docs/models.md)",
        )
    return out


def _tiles(config: Mapping[str, Any]) -> tuple[int, int]:
    if not config.get("dynamic_image_size", False):
        return 1, 1
    if not config.get("use_thumbnail", False):
        raise ModelError(
            "the native processor adds a thumbnail wherever it cuts a picture, and this model has none",
            field="config.use_thumbnail",
            value=False,
            remedy="run this checkpoint in its own code with use_thumbnail, or set it in config.json "
            "and measure what it does to the answers",
        )
    return int(config.get("min_dynamic_patch", 1)), int(config.get("max_dynamic_patch", 6))
