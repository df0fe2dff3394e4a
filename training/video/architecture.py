"""What the second bundled model is made of: vocabulary, configuration, files of its processor.

Only classes of transformers are used, so the saved checkpoint loads without this package.
"""

from __future__ import annotations

import json
from pathlib import Path

from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from lightkv.demo import clips, native
from lightkv.demo.scenes import COLOR_WORDS, DIGIT_WORDS, PATCH_SIZE
from training.words import BOS, EOS, GROUND_WORD, PAD, UNK, word_tokenizer

START, END = "<|vision_start|>", "<|vision_end|>"
IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
STILL_WORD = "still"
"""The word that digits without motion are taught to stand for; no question or answer has it."""
MOTION_WORDS = ("left", "right", "up", "down")
_TEXT = "user assistant : ? what digit is color there how many digits above of the list all"
_TIME = "moves came last was top when vanished in both only second"
VOCABULARY = [PAD, BOS, EOS, UNK, START, END, IMAGE, VIDEO, *_TEXT.split(), *_TIME.split()]
VOCABULARY += ["yes", "no", GROUND_WORD, STILL_WORD, *MOTION_WORDS, *DIGIT_WORDS, *COLOR_WORDS]
WORD_ID = {word: index for index, word in enumerate(VOCABULARY)}

WIDTH, TOWER_WIDTH = 128, 64
LAYERS = 12
"""Of the decoder."""
PATCH, MERGE, FRAMES = 4, 2, 2
"""Pixels along a patch, patches along a vision token, frames that a vision token spans."""
WINDOW = 4
"""Vision tokens along a window of the tower."""
MAX_LENGTH = 2048
SIZE = {
    "shortest_edge": (clips.MIN_SIDE * PATCH_SIZE) ** 2,
    "longest_edge": native.MAX_PATCHES * PATCH_SIZE**2,
}
"""Fewest and most pixels (so transformers calls them) that pass without a resize."""
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ ' ' if not loop.first }}{{ message['role'] }} :"
    "{% if message['content'] is string %} {{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    f"{{% if part['type'] == 'image' %}} {START}{IMAGE}{END}"
    f"{{% elif part['type'] == 'video' %}} {START}{VIDEO}{END}"
    "{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %} assistant :{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, with placeholders of pictures and clips."""
    return word_tokenizer(WORD_ID, [START, END, IMAGE, VIDEO], CHAT_TEMPLATE, MAX_LENGTH)


def make_config(layers: int = LAYERS) -> Qwen2_5_VLConfig:
    """A tower of three layers, the last with full attention, and a decoder 128 wide.

    The base of the rotary angles is small: positions are few, and neighbouring columns must differ.
    """
    vision = {
        "depth": 3,
        "hidden_size": TOWER_WIDTH,
        "intermediate_size": 3 * TOWER_WIDTH,
        "num_heads": 4,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": FRAMES,
        "window_size": WINDOW * MERGE * PATCH,
        "fullatt_block_indexes": [2],
        "out_hidden_size": WIDTH,
        "tokens_per_second": 12,
    }
    text = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": WIDTH,
        "intermediate_size": 384,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_LENGTH,
        "initializer_range": 0.05,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [6, 5, 5]},
        "bos_token_id": WORD_ID[BOS],
        "eos_token_id": WORD_ID[EOS],
        "pad_token_id": WORD_ID[PAD],
        "tie_word_embeddings": True,
    }
    return Qwen2_5_VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=WORD_ID[IMAGE],
        video_token_id=WORD_ID[VIDEO],
        vision_start_token_id=WORD_ID[START],
        vision_end_token_id=WORD_ID[END],
        tie_word_embeddings=True,
        initializer_range=0.05,
        bos_token_id=WORD_ID[BOS],
        eos_token_id=WORD_ID[EOS],
        pad_token_id=WORD_ID[PAD],
    )


def make_model(layers: int = LAYERS) -> Qwen2_5_VLForConditionalGeneration:
    """The untrained model; seed torch before."""
    return Qwen2_5_VLForConditionalGeneration(make_config(layers))


def make_pictures() -> Qwen2VLImageProcessorPil:
    """A picture processor that leaves pictures and frames of all sizes of the task as they are."""
    return Qwen2VLImageProcessorPil(
        patch_size=PATCH,
        merge_size=MERGE,
        temporal_patch_size=FRAMES,
        size=dict(SIZE),
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


def save_processor(folder: Path) -> None:
    """Write the files of a `Qwen2_5_VLProcessor`. That of its video processor is written by hand: the
    class cannot be made without torchvision, which reading it needs, too."""
    make_tokenizer().save_pretrained(folder)
    make_pictures().save_pretrained(folder)
    video = json.loads((folder / "preprocessor_config.json").read_text())
    del video["image_processor_type"]
    video |= {
        "video_processor_type": "Qwen2VLVideoProcessor",
        "do_sample_frames": False,
        "cap_pixels_per_frame": False,
    }
    for name, given in (
        ("video_preprocessor_config.json", video),
        ("processor_config.json", {"processor_class": "Qwen2_5_VLProcessor"}),
    ):
        (folder / name).write_text(json.dumps(given, indent=2) + "\n")
