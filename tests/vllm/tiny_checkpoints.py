"""A tiny random checkpoint of each mapped family, in a folder that transformers and vLLM both load.

Weights are larger than those of a fresh model, so that answers differ with what is asked and shown
and are far from ties. No answer ends early: the checkpoints name no token that ends one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from lightkv.integrations.vllm.families import CLIP_RENAMES

LAYERS = 10
"""Decoder layers: room for three stages, also behind the three deep layers of Qwen3-VL."""
WORDS = 240
TEXT: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # the smallest that vLLM's attention on CPU takes
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
VISION: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 96}
PICTURE, SIDE = 64, 8
"""Pixels and patches along the side of a square picture of LLaVA."""


def tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """Words `w0`, `w1`, … between spaces, and the special tokens of a family."""
    words = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(WORDS))]
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=special,
    )


def text(words: PreTrainedTokenizerFast, **changes: Any) -> dict[str, Any]:
    return {**TEXT, "vocab_size": len(words), **changes}


def clip() -> transformers.CLIPVisionConfig:
    return transformers.CLIPVisionConfig(
        **VISION,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=PICTURE,
        patch_size=PICTURE // SIDE,
        projection_dim=64,
    )


def llava(folder: Path) -> None:
    words = tokenizer(image_token="<image>")
    config = transformers.LlavaConfig(
        vision_config=clip(),
        text_config=transformers.LlamaConfig(**text(words)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_seq_length=SIDE * SIDE,
        tie_word_embeddings=False,
    )
    square = {"height": PICTURE, "width": PICTURE}
    images = transformers.CLIPImageProcessor(size={"shortest_edge": PICTURE}, crop_size=square)
    processor = transformers.LlavaProcessor(
        images,
        words,
        patch_size=PICTURE // SIDE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )
    save(folder, transformers.LlavaForConditionalGeneration(config), processor)


def llava_next(folder: Path) -> None:
    words = tokenizer(image_token="<image>")
    tiles = [[64, 128], [128, 64], [128, 128], [64, 192], [192, 64]]
    config = transformers.LlavaNextConfig(
        vision_config=clip(),
        text_config=transformers.LlamaConfig(**text(words)),
        image_token_id=words.convert_tokens_to_ids("<image>"),
        image_seq_length=SIDE * SIDE,
        image_grid_pinpoints=tiles,
        tie_word_embeddings=False,
    )
    square = {"height": PICTURE, "width": PICTURE}
    images = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": PICTURE}, crop_size=square, image_grid_pinpoints=tiles
    )
    processor = transformers.LlavaNextProcessor(
        images,
        words,
        patch_size=PICTURE // SIDE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
    )
    save(folder, transformers.LlavaNextForConditionalGeneration(config), processor)


QWEN_TOKENS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
}
QWEN_PATCHES: dict[str, Any] = {
    "patch_size": 8,
    "merge_size": 2,
    "temporal_patch_size": 2,
    "size": {"shortest_edge": 64 * 64, "longest_edge": 256 * 256},
    # vLLM normalises videos as it does images.
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}


def qwen_ids(words: PreTrainedTokenizerFast) -> dict[str, int]:
    return {f"{name}_id": words.convert_tokens_to_ids(token) for name, token in QWEN_TOKENS.items()}


def rope(*section: int, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(section), **more}


def qwen_processor(words: PreTrainedTokenizerFast, kind: Any, videos: Any) -> Any:
    """A processor of the Qwen VL kinds, which share how they read images."""
    images = transformers.Qwen2VLImageProcessor(**QWEN_PATCHES)
    return kind(images, words, videos(**QWEN_PATCHES), chat_template="{{ messages }}")


def qwen2_vl(folder: Path) -> None:
    words = tokenizer(**QWEN_TOKENS)
    vision = {"depth": 2, "embed_dim": 64, "hidden_size": 128, "num_heads": 2, "mlp_ratio": 2}
    config = transformers.Qwen2VLConfig(
        vision_config={**vision, "patch_size": 8, "spatial_merge_size": 2},
        text_config=text(words, rope_parameters=rope(4, 6, 6)),
        tie_word_embeddings=False,
        **qwen_ids(words),
    )
    processor = qwen_processor(
        words, transformers.Qwen2VLProcessor, transformers.Qwen2VLVideoProcessor
    )
    save(folder, transformers.Qwen2VLForConditionalGeneration(config), processor)


def qwen2_5_vl(folder: Path) -> None:
    words = tokenizer(**QWEN_TOKENS)
    vision = {
        **VISION,
        "depth": 2,
        "num_heads": 2,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "window_size": 32,
        # Behind a video that lasts longer than it is wide, transformers 5.19 and vLLM number text
        # differently; here the clips of the tests are wider.
        "tokens_per_second": 1,
        "out_hidden_size": 128,
        "fullatt_block_indexes": [1],
    }
    config = transformers.Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text(words, rope_parameters=rope(4, 6, 6)),
        tie_word_embeddings=False,
        **qwen_ids(words),
    )
    processor = qwen_processor(
        words, transformers.Qwen2_5_VLProcessor, transformers.Qwen2VLVideoProcessor
    )
    save(folder, transformers.Qwen2_5_VLForConditionalGeneration(config), processor)


def qwen3_vl(folder: Path) -> None:
    words = tokenizer(**QWEN_TOKENS)
    vision = {
        **VISION,
        "depth": 3,
        "num_heads": 2,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "out_hidden_size": 128,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1, 2],
    }
    config = transformers.Qwen3VLConfig(
        vision_config=vision,
        text_config=text(words, rope_parameters=rope(8, 4, 4, mrope_interleaved=True)),
        tie_word_embeddings=False,
        **qwen_ids(words),
    )
    processor = qwen_processor(
        words, transformers.Qwen3VLProcessor, transformers.Qwen3VLVideoProcessor
    )
    save(folder, transformers.Qwen3VLForConditionalGeneration(config), processor)


def internvl(folder: Path) -> None:
    words = tokenizer(
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    vision = transformers.InternVLVisionConfig(
        **VISION,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=[128, 128],
        patch_size=[8, 8],
    )
    config = transformers.InternVLConfig(
        vision_config=vision,
        text_config=transformers.Qwen2Config(**text(words)),
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=64,
        tie_word_embeddings=False,
    )
    size = {"height": 128, "width": 128}
    processor = transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=4),
        words,
        transformers.InternVLVideoProcessor(size=size),
        image_seq_length=64,
        chat_template="{{ messages }}",
    )
    save(folder, transformers.InternVLForConditionalGeneration(config), processor, seed=2)


FAMILIES: dict[str, Callable[[Path], None]] = {
    "llava": llava,
    "llava_next": llava_next,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "internvl": internvl,
    "qwen3_vl": qwen3_vl,
}
PLACEHOLDER = {
    "llava": "<image>",
    "llava_next": "<image>",
    "qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "internvl": "<IMG_CONTEXT>",
    "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>",
}
"""What a prompt says where a picture stands."""
CLIP = "<|vision_start|><|video_pad|><|vision_end|>"
"""The same for a clip."""


def save(folder: Path, model: torch.nn.Module, processor: Any, seed: int = 0) -> None:
    """The checkpoint of a model with new weights, and its processor.

    The seed is another where the first one gives answers that hold a near tie.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            draw(name, parameter, generator)
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def draw(name: str, parameter: torch.Tensor, generator: torch.Generator) -> None:
    """New values of one parameter: norms stay near one, matrices keep the variance of their input.

    Queries and keys are larger, so that attention looks at some tokens more than at others.
    """
    noise = torch.randn(parameter.shape, generator=generator)
    if "embed" in name and parameter.dim() <= 2:
        parameter.copy_(noise)
    elif parameter.dim() < 2:
        parameter.copy_(parameter + 0.05 * noise)
    else:
        sharp = 1.5 if "q_proj" in name or "k_proj" in name else 1.0
        parameter.copy_(sharp * noise * parameter[0].numel() ** -0.5)


def for_plain_vllm(folder: Path, new: Path) -> Path:
    """A checkpoint by the names that vLLM's own classes know."""
    shutil.copytree(folder, new)
    renames = CLIP_RENAMES if "clip_vision_model" in (new / "config.json").read_text() else {}
    weights = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        for old, ours in renames.items():
            name = re.sub(old, ours, name)
        weights[name] = weight
    save_file(weights, new / "model.safetensors", {"format": "pt"})
    return new
