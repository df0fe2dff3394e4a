"""What the demo model is made of: vocabulary, processor and configuration.

Only classes of transformers are used, so the saved checkpoint loads without this package.
"""

from __future__ import annotations

from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from lightkv.demo.scenes import COLOR_WORDS, DIGIT_WORDS, GRID, IMAGE_SIZE, PATCH_SIZE
from training.words import BOS, EOS, GROUND_WORD, PAD, UNK, word_tokenizer

IMAGE = "<image>"
_TEXT = "user assistant : ? what digit is color there how many digits left above of the list all"
VOCABULARY = [PAD, BOS, EOS, UNK, IMAGE, *_TEXT.split(), "yes", "no", GROUND_WORD]
VOCABULARY += [*DIGIT_WORDS, *COLOR_WORDS]
WORD_ID = {word: index for index, word in enumerate(VOCABULARY)}

WIDTH = 128
"""Of tower and decoder."""
VISION_TOKENS = GRID * GRID
LAYERS = 12
"""Of the decoder."""
PREFIX = [BOS, "user", ":"]
"""Words before the picture."""
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ ' ' if not loop.first }}{{ message['role'] }} :"
    "{% if message['content'] is string %} {{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %} <image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, with the placeholder of a picture."""
    return word_tokenizer(WORD_ID, [IMAGE], CHAT_TEMPLATE, 512)


def make_processor() -> LlavaProcessor:
    """Tokenizer and a picture processor that needs no torchvision; 96 x 96 pictures pass as is."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return LlavaProcessor(  # type: ignore[no-untyped-call]
        image_processor=images,
        tokenizer=make_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )


def make_config(layers: int = LAYERS) -> LlavaConfig:
    """A CLIP tower of 3 layers and a Llama decoder, both 128 wide: 3.2 M parameters at 12 layers."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=WIDTH,
        intermediate_size=384,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        initializer_range=0.05,
        bos_token_id=WORD_ID[BOS],
        eos_token_id=WORD_ID[EOS],
        pad_token_id=WORD_ID[PAD],
        tie_word_embeddings=True,
    )
    return LlavaConfig(  # type: ignore[call-arg]
        vision_config=vision,
        text_config=text,
        image_token_id=WORD_ID[IMAGE],
        initializer_range=0.05,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=VISION_TOKENS,
        bos_token_id=WORD_ID[BOS],
        eos_token_id=WORD_ID[EOS],
        pad_token_id=WORD_ID[PAD],
        tie_word_embeddings=True,
    )


def make_model(layers: int = LAYERS) -> LlavaForConditionalGeneration:
    """The untrained model; seed torch before."""
    return LlavaForConditionalGeneration(make_config(layers))
