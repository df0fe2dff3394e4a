"""A LLaVA of any size without weights: config, tokenizer and processor, made here from nothing.

`--load-format dummy` of vLLM fills the weights in. The decoder is a Llama of 24 layers; the tower is one
narrow layer, so that what is measured is the decoder.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from lightkv.core.cost.flops import DecoderShape

PATCH = 14
LAYERS, HEADS, HEAD_DIM = 24, 8, 64
HIDDEN, INTERMEDIATE = HEADS * HEAD_DIM, 1376
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>")
WORDS = 1000
# The content is text here, so that vLLM puts the picture before it, as LLaVA has it.
TEMPLATE = "{% for message in messages %}user : {{ message['content'] }}{% endfor %} assistant :"


def shape(bytes_per_value: int) -> DecoderShape:
    """The decoder's sizes, for what is counted."""
    return DecoderShape(
        num_layers=LAYERS,
        hidden_size=HIDDEN,
        num_heads=HEADS,
        num_kv_heads=HEADS,
        head_dim=HEAD_DIM,
        intermediate_size=INTERMEDIATE,
        vocab_size=_vocabulary_size(),
        bytes_per_value=bytes_per_value,
    )


def write_model(folder: Path, side: int, positions: int, dtype: str) -> None:
    """A model whose pictures are side x side vision tokens, in `folder`.

    Args:
        side: of the grid; a picture has 14 times as many pixels.
        positions: the longest sequence.
        dtype: as the config names it.
    """
    tokenizer = _tokenizer(positions)
    pixels = side * PATCH
    tokens = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    text = LlamaConfig(
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD_DIM,
        vocab_size=len(tokenizer),
        max_position_embeddings=positions,
        **tokens,
    )
    vision = CLIPVisionConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=pixels,
        patch_size=PATCH,
        projection_dim=64,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=SPECIAL.index("<image>"),
        image_seq_length=side * side,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        architectures=["LlavaForConditionalGeneration"],
        dtype=dtype,
        tie_word_embeddings=False,
        **tokens,
    )
    config.save_pretrained(folder)
    LlavaProcessor(
        CLIPImageProcessor(
            size={"shortest_edge": pixels}, crop_size={"height": pixels, "width": pixels}
        ),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token="<image>",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    Path(folder, "generation_config.json").write_text(json.dumps(tokens))


def _vocabulary_size() -> int:
    return len(_vocabulary())


def _vocabulary() -> dict[str, int]:
    words = [*SPECIAL, "user", "assistant", ":", *(f"w{number}" for number in range(WORDS))]
    return {word: number for number, word in enumerate(words)}


def _tokenizer(positions: int) -> PreTrainedTokenizerFast:
    """Words between blanks; `<bos>` in front."""
    made = Tokenizer(models.WordLevel(_vocabulary(), unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=["<image>"],
        model_max_length=positions,
    )
