"""Prompts and pictures of a converted checkpoint: chat template, processor and where answers end.

The conversation is that of the checkpoint's `template`, written as a chat template: the same text that
its own `chat` makes. Pictures are cut by the processor that transformers uses for this family, with the
numbers of tiles of the checkpoint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lightkv.checkpoints.convert.internvl2_config import Plan
from lightkv.checkpoints.convert.tokenizer import CONTEXT
from lightkv.core.errors import ModelError

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's pictures: what the published code normalises with."""
_BICUBIC = 3
END = "<|im_end|>"


@dataclass(frozen=True)
class Conversation:
    """How a template writes turns.

    Attributes:
        system: what the model is told first, unless the user says otherwise.
        after: what follows the end of a turn.
    """

    system: str
    after: str


_OF_2 = (
    "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "
    "是一个有用无害的人工智能助手。"
)
_OF_2_5 = (
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的"
    "多模态大语言模型。"
)
CONVERSATIONS = {
    "Hermes-2": Conversation(_OF_2, ""),
    "internlm2-chat": Conversation(_OF_2, ""),
    "internvl2_5": Conversation(_OF_2_5, "\n"),
}


def chat_template(plan: Plan) -> str:
    """The chat template of a checkpoint.

    Raises:
        ModelError: a template that no published checkpoint with a decoder of these kinds names.
    """
    if plan.template not in CONVERSATIONS:
        raise ModelError(
            "the conversation of this checkpoint has a template that is not known",
            field="config.template",
            value=plan.template,
            remedy="give the chat template yourself: --chat-template FILE (Jinja, one message after "
            "the other, <IMG_CONTEXT> for a picture)",
        )
    conversation = CONVERSATIONS[plan.template]
    system = plan.system_message or conversation.system
    return (
        _TEMPLATE.replace("SYSTEM", _quoted(system))
        .replace("AFTER", _quoted(END + conversation.after))
        .replace("PICTURE", _quoted(CONTEXT + "\n"))
    )


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"


_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\n' + SYSTEM + AFTER }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- if message['content'] is string %}{{ message['content'] }}{% else %}
{%- for part in message['content'] %}
{%- if part['type'] == 'image' %}{{ PICTURE }}
{%- elif part['type'] == 'video' %}{{ '<video>\\n' }}
{%- elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}
{%- endfor %}
{%- endif %}
{{- AFTER }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""


def processor_config(plan: Plan) -> dict[str, Any]:
    """What `InternVLProcessor` is built of, by `AutoProcessor`."""
    size = {"height": plan.tile, "width": plan.tile}
    pictures = {
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(_MEAN),
        "image_std": list(_STD),
        "resample": _BICUBIC,
        "rescale_factor": 1 / 255,
        "size": size,
    }
    smallest, largest = plan.tiles
    return {
        "processor_class": "InternVLProcessor",
        "image_seq_length": plan.native["image_seq_length"],
        "image_processor": {
            "image_processor_type": "GotOcr2ImageProcessor",
            # One tile is what a picture is then resized to.
            "crop_to_patches": True,
            "min_patches": smallest,
            "max_patches": largest,
            **pictures,
        },
        "video_processor": {
            "video_processor_type": "InternVLVideoProcessor",
            "do_sample_frames": False,
            "initial_shift": True,
            "return_metadata": False,
            **pictures,
        },
    }


def generation_config(plan: Plan, tokenizer: Any) -> dict[str, Any]:
    """Where answers end: at the end of a turn, or at the end of a text."""
    vocabulary = tokenizer.get_vocab()
    ends = [
        vocabulary.get(END),
        tokenizer.eos_token_id,
        plan.native["text_config"].get("eos_token_id"),
    ]
    unique = list(dict.fromkeys(end for end in ends if isinstance(end, int)))
    out: dict[str, Any] = {"eos_token_id": unique}
    for name in ("bos_token_id", "pad_token_id"):
        id = getattr(tokenizer, name)
        if id is not None:
            out[name] = id
    return out
